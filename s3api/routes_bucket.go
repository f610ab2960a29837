package s3api

// bucketRoutes are the operations on a bucket's sub-resources, on ACLs and the POST form.
func bucketRoutes() []route {
	return nil
}

// applyCORS adds the CORS headers a bucket's configuration grants to a request that carries an Origin.
// rq.bkt is set.
func (s *Server) applyCORS(rq *request) {}

// newBucketConfig returns the configuration documents of a bucket that is being created, from the request's
// ownership and ACL headers. Nil is none.
func (s *Server) newBucketConfig(rq *request) (map[string][]byte, error) { return nil, nil }

// objectACL returns the ACL document of an object that is being written to rq.bkt, from the x-amz-acl and
// x-amz-grant-* headers; nil is private. It refuses ACLs the bucket's settings forbid.
func (s *Server) objectACL(rq *request) ([]byte, error) { return nil, nil }

// objectOwner returns the canonical id of the owner of a new object in rq.bkt: the bucket's owner where the
// bucket owner is enforced, else the caller.
func (s *Server) objectOwner(rq *request) string {
	if rq.who.Anonymous() {
		return rq.bkt.Owner
	}
	return rq.who.Canonical
}
