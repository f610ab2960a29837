package s3doc

import (
	"firn/auth"
)

// ParseOwnership reads an OwnershipControls document.
func ParseOwnership(body []byte) (auth.Ownership, error) {
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

// OwnershipDoc is the stored form of the setting.
func OwnershipDoc(o auth.Ownership) []byte {
	r := (&node{name: "Rule"}).add("ObjectOwnership", string(o))
	return (&node{name: "OwnershipControls", kids: []*node{r}}).render()
}

// ParsePublicAccess reads a PublicAccessBlockConfiguration. What it does not name is off.
func ParsePublicAccess(body []byte) (auth.PublicAccessBlock, error) {
	var p auth.PublicAccessBlock
	doc, err := parseDoc(body, "PublicAccessBlockConfiguration")
	if err != nil {
		return p, err
	}
	flags := []struct {
		name string
		to   *bool
	}{
		{"BlockPublicAcls", &p.BlockPublicAcls},
		{"IgnorePublicAcls", &p.IgnorePublicAcls},
		{"BlockPublicPolicy", &p.BlockPublicPolicy},
		{"RestrictPublicBuckets", &p.RestrictPublicBuckets},
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

// CheckPublicAccess validates a PublicAccessBlockConfiguration and returns it with all four settings in it.
func CheckPublicAccess(body []byte) ([]byte, error) {
	p, err := ParsePublicAccess(body)
	if err != nil {
		return nil, err
	}
	n := &node{name: "PublicAccessBlockConfiguration"}
	n.addBool("BlockPublicAcls", p.BlockPublicAcls)
	n.addBool("IgnorePublicAcls", p.IgnorePublicAcls)
	n.addBool("BlockPublicPolicy", p.BlockPublicPolicy)
	n.addBool("RestrictPublicBuckets", p.RestrictPublicBuckets)
	return n.render(), nil
}
