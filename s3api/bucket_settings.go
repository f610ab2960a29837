package s3api

import (
	"net/http"

	"firn"
	"firn/auth"
	"firn/object"
	"firn/s3api/s3err"
)

// settings are the bucket's small documents that bear on who may do what.
type settings struct {
	ownership    auth.Ownership
	publicAccess auth.PublicAccessBlock
}

// errStored says that a document of the bucket cannot be read back. It is never taken for an absent one, which would
// allow what it forbids.
var errStored = firn.NewError(firn.Corrupt, "a stored bucket document is not readable")

// parseSettings reads a bucket's ownership controls and public access block.
func parseSettings(b *object.Bucket) (settings, error) {
	var d settings
	var err error
	if doc := b.Config[confOwnership]; doc != nil {
		if d.ownership, err = parseOwnership(doc); err != nil {
			return d, firn.E("read ownership controls", b.Name, errStored)
		}
	}
	if doc := b.Config[confPublicAccess]; doc != nil {
		if d.publicAccess, err = parsePublicAccess(doc); err != nil {
			return d, firn.E("read public access block", b.Name, errStored)
		}
	}
	return d, nil
}

// bucketACL reads a bucket's ACL, nil where it is private.
func bucketACL(b *object.Bucket) (*auth.ACL, error) {
	a, err := auth.DecodeACL(b.Config[confACL])
	return a, firn.E("read ACL", b.Name, err)
}

// bucketCORS reads a bucket's CORS rules.
func bucketCORS(b *object.Bucket) ([]corsRule, error) {
	doc := b.Config[confCORS]
	if doc == nil {
		return nil, nil
	}
	rules, _, err := parseCORS(doc)
	if err != nil {
		return nil, firn.E("read CORS configuration", b.Name, errStored)
	}
	return rules, nil
}

// parseOwnership reads an OwnershipControls document.
func parseOwnership(body []byte) (auth.Ownership, error) {
	doc, err := parseDoc(body, "OwnershipControls")
	if err != nil {
		return "", err
	}
	if err := doc.only("Rule"); err != nil {
		return "", err
	}
	r, err := doc.need("Rule")
	if err != nil {
		return "", err
	}
	if err := r.only("ObjectOwnership"); err != nil {
		return "", err
	}
	s, err := r.enum("ObjectOwnership", string(auth.BucketOwnerEnforced), string(auth.BucketOwnerPreferred),
		string(auth.ObjectWriter))
	if err != nil || s == "" {
		return "", errXML
	}
	return auth.Ownership(s), nil
}

// ownershipDoc is the stored form of the setting.
func ownershipDoc(o auth.Ownership) []byte {
	r := (&xmlNode{name: "Rule"}).add("ObjectOwnership", string(o))
	return (&xmlNode{name: "OwnershipControls", kids: []*xmlNode{r}}).render()
}

// parsePublicAccess reads a PublicAccessBlockConfiguration. What it does not name is off.
func parsePublicAccess(body []byte) (auth.PublicAccessBlock, error) {
	var p auth.PublicAccessBlock
	doc, err := parseDoc(body, "PublicAccessBlockConfiguration")
	if err != nil {
		return p, err
	}
	flags := []struct {
		name string
		to   *bool
	}{
		{"BlockPublicAcls", &p.BlockPublicAcls}, {"IgnorePublicAcls", &p.IgnorePublicAcls},
		{"BlockPublicPolicy", &p.BlockPublicPolicy}, {"RestrictPublicBuckets", &p.RestrictPublicBuckets},
	}
	if err := doc.only(flags[0].name, flags[1].name, flags[2].name, flags[3].name); err != nil {
		return p, err
	}
	for _, f := range flags {
		if *f.to, _, err = doc.flag(f.name); err != nil {
			return auth.PublicAccessBlock{}, err
		}
	}
	return p, nil
}

// publicAccessDoc validates a PublicAccessBlockConfiguration and returns it with all four settings in it.
func publicAccessDoc(body []byte) ([]byte, error) {
	p, err := parsePublicAccess(body)
	if err != nil {
		return nil, err
	}
	n := &xmlNode{name: "PublicAccessBlockConfiguration"}
	n.addBool("BlockPublicAcls", p.BlockPublicAcls)
	n.addBool("IgnorePublicAcls", p.IgnorePublicAcls)
	n.addBool("BlockPublicPolicy", p.BlockPublicPolicy)
	n.addBool("RestrictPublicBuckets", p.RestrictPublicBuckets)
	return n.render(), nil
}

func putOwnership(s *Server, rq *request) error {
	body, err := rq.readDocument(maxSmallDoc)
	if err != nil {
		return err
	}
	o, err := parseOwnership(body)
	if err != nil {
		return err
	}
	_, err = s.store.UpdateBucket(rq.ctx, rq.bucket, func(b *object.Bucket) error {
		if !o.ACLs() {
			a, err := bucketACL(b)
			if err != nil {
				return err
			}
			// A list that grants something to others would silently stop to count.
			if !a.Private() {
				return s3err.New("InvalidBucketAclWithObjectOwnership")
			}
		}
		putConfig(b, confOwnership, ownershipDoc(o))
		return nil
	})
	if err != nil {
		return err
	}
	return rq.noContent(http.StatusOK)
}

// newBucketConfig returns the configuration documents of a bucket that is being created, from the request's
// ownership and ACL headers. Nil is none.
func (s *Server) newBucketConfig(rq *request) (map[string][]byte, error) {
	conf := make(map[string][]byte)
	var o auth.Ownership
	if rq.hasHeader(headerOwnership) {
		var err error
		if o, err = auth.ParseOwnership(rq.header(headerOwnership)); err != nil {
			return nil, s3err.InvalidArgument("x-amz-object-ownership", rq.header(headerOwnership),
				"Invalid x-amz-object-ownership header: %s", rq.header(headerOwnership))
		}
		conf[confOwnership] = ownershipDoc(o)
	}
	a, err := s.headerList(rq, rq.who.Canonical, "")
	if err != nil {
		return nil, err
	}
	if !a.Private() {
		if !o.ACLs() {
			return nil, s3err.New("InvalidBucketAclWithObjectOwnership")
		}
		conf[confACL] = encodeACL(a)
	}
	return conf, nil
}

// applyCORS adds the CORS headers a bucket's configuration grants to a request that carries an Origin. rq.bkt is set.
func (s *Server) applyCORS(rq *request) {
	answerCORS(rq.h, rq.r, s.docsOf(rq.bkt).cors)
}

// answerPreflight answers an OPTIONS request, whoever sends it.
func answerPreflight(s *Server, rq *request) error {
	b, err := s.store.Bucket(rq.ctx, rq.bucket)
	found := err == nil
	if err != nil && firn.KindOf(err) != firn.NotFound && firn.KindOf(err) != firn.Invalid {
		return err
	}
	var rules []corsRule
	if found {
		rules = s.docsOf(b).cors
	}
	if err := preflight(rq.h, rq.r.Header, rules, found); err != nil {
		return err
	}
	return rq.noContent(http.StatusOK)
}
