package s3api

import (
	"net/http"

	"firn/auth"
	"firn/object/record"
	"firn/s3api/s3doc"
)

func getObjectACL(s *Server, rq *request) error {
	v, err := s.head(rq, "s3:GetObjectAcl", "s3:GetObjectVersionAcl")
	if err != nil {
		return err
	}
	d := s.docsOf(rq.bkt)
	if d.err != nil {
		return d.err
	}
	rq.setVersionID(v.ID)
	if !d.ownership.ACLs() {
		// Every object is the bucket owner's, whatever was stored before the setting was made.
		return rq.writeDoc(s3doc.ACLDoc(nil, rq.bkt.Owner, s.displayName))
	}
	a, err := auth.DecodeACL(v.ACL)
	if err != nil {
		return err
	}
	return rq.writeDoc(s3doc.ACLDoc(a, v.Owner, s.displayName))
}

func putObjectACL(s *Server, rq *request) error {
	v, err := s.head(rq, "s3:PutObjectAcl", "s3:PutObjectVersionAcl")
	if err != nil {
		return err
	}
	d := s.docsOf(rq.bkt)
	if d.err != nil {
		return d.err
	}
	if !d.ownership.ACLs() && rq.header(headerACL) == cannedOwnerFull {
		return rq.noContent(http.StatusOK)
	}
	a, err := s.sentACL(rq, v.Owner, rq.bkt.Owner)
	if err != nil {
		return err
	}
	if err := allowACL(rq.bkt, a); err != nil {
		return err
	}
	if _, err := s.update(rq, false, func(v *record.Version) error {
		v.ACL = encodeACL(a)
		return nil
	}); err != nil {
		return err
	}
	return rq.noContent(http.StatusOK)
}

// objectACL returns the ACL document of an object that is being written to rq.bkt, from the x-amz-acl and x-amz-grant-*
// headers; nil is private. It refuses ACLs the bucket's settings forbid.
func (s *Server) objectACL(rq *request) ([]byte, error) {
	a, _, err := s.writtenACL(rq)
	if err != nil {
		return nil, err
	}
	return encodeACL(a), nil
}

// objectOwner returns the canonical id of the owner of a new object in rq.bkt. It is called after objectACL, which
// refuses what cannot be read.
func (s *Server) objectOwner(rq *request) string {
	_, owner, err := s.writtenACL(rq)
	if err != nil {
		return rq.bkt.Owner
	}
	return owner
}
