package s3api

import (
	"errors"
	"net/http"
	"strconv"
	"strings"

	"firn/auth/policy"
	"firn/object/record"
	"firn/s3api/s3doc"
	"firn/s3api/s3err"
)

// errPolicyDoc words what is wrong with a policy.
func errPolicyDoc(err error) error {
	var pe *policy.Error
	if !errors.As(err, &pe) {
		return err
	}
	return s3err.New("MalformedPolicy").Saying("%s", pe.Error())
}

func getPolicy(_ *Server, rq *request) error {
	doc := rq.bkt.Config[confPolicy]
	if doc == nil {
		return s3err.New("NoSuchBucketPolicy").With("BucketName", rq.bucket)
	}
	return rq.writeBody(http.StatusOK, "application/json", doc)
}

// putPolicy stores a policy as it was sent. A policy that would keep its sender from changing it again is refused
// unless the request confirms that; root and the bucket's owner cannot be kept from it.
func putPolicy(s *Server, rq *request) error {
	body, err := rq.readDocument(maxPolicyDoc)
	if err != nil {
		if codeOfError(err) == "MaxMessageLengthExceeded" {
			return s3err.New("MalformedPolicy").Saying("The policy is larger than %d bytes.", maxPolicyDoc)
		}
		return err
	}
	p, err := policy.ParseBucket(body, rq.bucket)
	if err != nil {
		return errPolicyDoc(err)
	}
	confirmed := strings.EqualFold(rq.header("X-Amz-Confirm-Remove-Self-Bucket-Access"), "true")
	if !confirmed && !rq.who.Root && rq.who.Canonical != rq.bkt.Owner {
		said := p.Evaluate(&policy.Request{
			Principal: rq.who.Principal(),
			Action:    "s3:PutBucketPolicy", Bucket: rq.bucket,
		})
		if said.Effect == policy.Deny {
			return s3err.New("AccessDenied").Saying("The policy would keep you from changing it again. Send " +
				"x-amz-confirm-remove-self-bucket-access: true to confirm that.")
		}
	}
	_, err = s.store.UpdateBucket(rq.ctx, rq.bucket, func(b *record.Bucket) error {
		d, err := parseSettings(b)
		if err != nil {
			return err
		}
		if d.publicAccess.BlockPublicPolicy && p.IsPublic() {
			return s3err.New("AccessDenied").Saying("User is not authorized to set a public policy because public policies " +
				"are prevented by the BlockPublicPolicy setting in S3 Block Public Access.")
		}
		putConfig(b, confPolicy, body)
		return nil
	})
	if err != nil {
		return err
	}
	return rq.noContent(http.StatusNoContent)
}

// getPolicyStatus tells whether anybody is let in. Unlike AWS it answers for a bucket without a policy too, and
// counts a public ACL, as the question deserves.
func getPolicyStatus(s *Server, rq *request) error {
	d := s.docsOf(rq.bkt)
	if d.err != nil {
		return d.err
	}
	public := d.policy.IsPublic() || d.ownership.ACLs() && !d.public.IgnorePublicAcls && d.acl.Public()
	return rq.writeDoc(s3doc.Flat("PolicyStatus", s3doc.Field{Name: "IsPublic", Value: strconv.FormatBool(public)}))
}

// codeOfError is the S3 code err carries, "" where it carries none.
func codeOfError(err error) string {
	var e *s3err.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}
