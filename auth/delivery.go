package auth

import "firn/auth/policy"

// LogService is the principal that puts access logs into buckets, as policies name it.
const LogService = "logging.s3.amazonaws.com"

// AuthorizeLog decides whether access logs may be put at r.Key of r.Bucket. r.Identity and r.Action are not looked at.
// A Deny of the bucket's policy decides against it; else an Allow of the policy for LogService is needed or, where ACLs
// count, the permission WRITE for the group LogDelivery. No identity has this right by itself, root and the bucket's
// owner included: the owner gives it by the policy or the ACL.
func AuthorizeLog(r *Request) Decision {
	res := r.Policy.Evaluate(&policy.Request{
		Principal: policy.Principal{Service: LogService}, Action: "s3:PutObject", Bucket: r.Bucket, Key: r.Key, Lookup: r.Lookup,
	})
	if res.Effect != policy.None {
		return byPolicy(r.Policy, res)
	}
	if r.Ownership.ACLs() && r.BucketACL != nil {
		for _, g := range r.BucketACL.Grants {
			if g.Group == LogDelivery && g.Permission&PermWrite != 0 {
				return Decision{Allowed: true, By: ByACL, acl: g}
			}
		}
	}
	return Decision{}
}
