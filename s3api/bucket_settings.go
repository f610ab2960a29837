package s3api

import (
	"net/http"

	"firn"
	"firn/auth"
	"firn/object/record"
	"firn/s3api/s3doc"
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
func parseSettings(b *record.Bucket) (settings, error) {
	var d settings
	var err error
	if doc := b.Config[confOwnership]; doc != nil {
		if d.ownership, err = s3doc.ParseOwnership(doc); err != nil {
			return d, firn.E("read ownership controls", b.Name, errStored)
		}
	}
	if doc := b.Config[confPublicAccess]; doc != nil {
		if d.publicAccess, err = s3doc.ParsePublicAccess(doc); err != nil {
			return d, firn.E("read public access block", b.Name, errStored)
		}
	}
	return d, nil
}

// bucketACL reads a bucket's ACL, nil where it is private.
func bucketACL(b *record.Bucket) (*auth.ACL, error) {
	a, err := auth.DecodeACL(b.Config[confACL])
	return a, firn.E("read ACL", b.Name, err)
}

// bucketCORS reads a bucket's CORS rules.
func bucketCORS(b *record.Bucket) ([]s3doc.CORSRule, error) {
	doc := b.Config[confCORS]
	if doc == nil {
		return nil, nil
	}
	rules, err := s3doc.ParseCORS(doc)
	if err != nil {
		return nil, firn.E("read CORS configuration", b.Name, errStored)
	}
	return rules, nil
}

func putOwnership(s *Server, rq *request) error {
	body, err := rq.readDocument(maxSmallDoc)
	if err != nil {
		return err
	}
	o, err := s3doc.ParseOwnership(body)
	if err != nil {
		return err
	}
	_, err = s.store.UpdateBucket(rq.ctx, rq.bucket, func(b *record.Bucket) error {
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
		putConfig(b, confOwnership, s3doc.OwnershipDoc(o))
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
		conf[confOwnership] = s3doc.OwnershipDoc(o)
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
	var rules []s3doc.CORSRule
	if found {
		rules = s.docsOf(b).cors
	}
	if err := preflight(rq.h, rq.r.Header, rules, found); err != nil {
		return err
	}
	return rq.noContent(http.StatusOK)
}
