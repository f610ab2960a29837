package s3api

import (
	"encoding/xml"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"

	"firn/object"
	"firn/s3api/s3err"
)

// coreRoutes are the operations on the service, buckets and objects.
func coreRoutes() []route {
	const (
		get, head, put, post, del = http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPost, http.MethodDelete
	)
	return []route{
		{atService, get, "", "ListBuckets", "s3:ListAllMyBuckets", listBuckets, lateAuth},

		{atBucket, put, "", "CreateBucket", "s3:CreateBucket", createBucket, noBucket},
		{atBucket, head, "", "HeadBucket", "s3:ListBucket", headBucket, 0},
		{atBucket, del, "", "DeleteBucket", "s3:DeleteBucket", deleteBucket, 0},
		{atBucket, get, "location", "GetBucketLocation", "s3:GetBucketLocation", getLocation, 0},
		{atBucket, get, "", "ListObjects", "s3:ListBucket", listObjects, 0},
		{atBucket, get, "versions", "ListObjectVersions", "s3:ListBucketVersions", listVersions, 0},
		{atBucket, get, "uploads", "ListMultipartUploads", "s3:ListBucketMultipartUploads", listUploads, 0},
		{atBucket, post, "delete", "DeleteObjects", "s3:DeleteObject", deleteObjects, lateAuth},

		{atObject, get, "", "GetObject", "s3:GetObject", getObject, lateAuth},
		{atObject, head, "", "HeadObject", "s3:GetObject", headObject, lateAuth},
		{atObject, put, "", "PutObject", "s3:PutObject", putObject, 0},
		{atObject, put, copySub, "CopyObject", "s3:PutObject", copyObject, 0},
		{atObject, del, "", "DeleteObject", "s3:DeleteObject", deleteObject, lateAuth},
		{atObject, get, "attributes", "GetObjectAttributes", "s3:GetObject", getObjectAttributes, lateAuth},
		{atObject, get, "tagging", "GetObjectTagging", "s3:GetObjectTagging", getObjectTagging, lateAuth},
		{atObject, put, "tagging", "PutObjectTagging", "s3:PutObjectTagging", putObjectTagging, lateAuth},
		{atObject, del, "tagging", "DeleteObjectTagging", "s3:DeleteObjectTagging", deleteObjectTagging, lateAuth},
		{atObject, get, "retention", "GetObjectRetention", "s3:GetObjectRetention", getObjectRetention, lateAuth},
		{atObject, put, "retention", "PutObjectRetention", "s3:PutObjectRetention", putObjectRetention, lateAuth},
		{atObject, get, "legal-hold", "GetObjectLegalHold", "s3:GetObjectLegalHold", getObjectLegalHold, lateAuth},
		{atObject, put, "legal-hold", "PutObjectLegalHold", "s3:PutObjectLegalHold", putObjectLegalHold, lateAuth},
		{atObject, post, "restore", "RestoreObject", "s3:RestoreObject", restoreObject, lateAuth},

		{atObject, post, "uploads", "CreateMultipartUpload", "s3:PutObject", createUpload, 0},
		{atObject, put, "uploadId", "UploadPart", "s3:PutObject", putPart, 0},
		{atObject, put, "uploadId" + copySub, "UploadPartCopy", "s3:PutObject", copyPart, 0},
		{atObject, get, "uploadId", "ListParts", "s3:ListMultipartUploadParts", listParts, lateAuth},
		{atObject, post, "uploadId", "CompleteMultipartUpload", "s3:PutObject", completeUpload, 0},
		{atObject, del, "uploadId", "AbortMultipartUpload", "s3:AbortMultipartUpload", abortUpload, lateAuth},
	}
}

// listBuckets answers ListBuckets with the buckets the caller owns or was granted; root sees all. Anonymous
// callers own none.
func listBuckets(s *Server, rq *request) error {
	if !rq.who.Anonymous() {
		if err := s.authorize(rq, rq.action); err != nil {
			return err
		}
	}
	limit, err := parseBuckets(rq)
	if err != nil {
		return err
	}
	prefix, token := rq.query.Get("prefix"), rq.query.Get("continuation-token")
	after := ""
	if token != "" {
		if after, err = parseToken(token); err != nil {
			return err
		}
	}
	if region := rq.query.Get("bucket-region"); region != "" && region != s.opt.Region {
		return s3err.InvalidArgument("bucket-region", region, "Argument value %s is not a valid AWS Region", region)
	}
	all, err := s.store.Buckets(rq.ctx)
	if err != nil {
		return err
	}
	b := append(rq.buf[:0], xmlHeader...)
	b = append(b, `<ListAllMyBucketsResult xmlns="`+xmlNamespace+`">`...)
	own := owners{s: s}
	b = own.appendOwner(b, "Owner", rq.who.Canonical)
	b = append(b, "<Buckets>"...)
	count, last, truncated := 0, "", false
	for _, bkt := range all {
		if bkt.Name <= after || !strings.HasPrefix(bkt.Name, prefix) || !rq.who.Sees(bkt.Name, bkt.Owner) {
			continue
		}
		if count == limit {
			truncated = true
			break
		}
		count, last = count+1, bkt.Name
		b = append(b, "<Bucket>"...)
		b = appendElement(b, "Name", bkt.Name)
		b = append(b, "<CreationDate>"...)
		b = appendISO8601(b, bkt.Created)
		b = append(b, "</CreationDate>"...)
		b = appendElement(b, "BucketRegion", s.opt.Region)
		b = append(b, "</Bucket>"...)
	}
	b = append(b, "</Buckets>"...)
	if prefix != "" {
		b = appendElement(b, "Prefix", prefix)
	}
	if truncated {
		b = appendElement(b, "ContinuationToken", makeToken(last))
	}
	rq.buf = append(b, "</ListAllMyBucketsResult>"...)
	return rq.writeBody(http.StatusOK, xmlContentType, rq.buf)
}

// maxBuckets is the largest page of ListBuckets, and the page where none is asked for.
const maxBuckets = 10000

func parseBuckets(rq *request) (int, error) {
	t := rq.query.Get("max-buckets")
	if t == "" {
		return maxBuckets, nil
	}
	n, ok := parseCount(t)
	if !ok || n < 1 || n > maxBuckets {
		return 0, s3err.InvalidArgument("max-buckets", t, "Argument max-buckets must be an integer between 1 and 10000")
	}
	return int(n), nil
}

// createBucket answers CreateBucket.
func createBucket(s *Server, rq *request) error {
	if rq.who.Anonymous() {
		return s3err.New("AccessDenied")
	}
	doc, err := rq.readDocument(maxMetaDoc)
	if err != nil {
		return err
	}
	if len(doc) > 0 {
		var c struct {
			XMLName  xml.Name `xml:"CreateBucketConfiguration"`
			Location string   `xml:"LocationConstraint"`
		}
		if err := parseXML(doc, &c); err != nil {
			return err
		}
		if c.Location != "" && c.Location != s.opt.Region {
			return s3err.New("InvalidLocationConstraint").With("LocationConstraint", c.Location)
		}
	}
	o := object.BucketOptions{Owner: rq.who.Canonical}
	switch v := rq.header("X-Amz-Bucket-Object-Lock-Enabled"); strings.ToLower(v) {
	case "", "false":
	case "true":
		o.ObjectLock = true
	default:
		return s3err.InvalidArgument("x-amz-bucket-object-lock-enabled", v, "")
	}
	if o.Config, err = s.newBucketConfig(rq); err != nil {
		return err
	}
	_, err = s.store.CreateBucket(rq.ctx, rq.bucket, o)
	if errors.Is(err, object.ErrBucketExists) {
		err = s.recreate(rq, o)
	}
	if err != nil {
		return err
	}
	rq.set("Location", "/"+rq.bucket)
	return rq.noContent(http.StatusOK)
}

// recreate answers the creation of a bucket that exists. The owner who sends the same creation again is told
// that all is well in us-east-1, as AWS does for old clients' sake, and BucketAlreadyOwnedByYou elsewhere; a
// creation with other settings would be ignored and is refused.
func (s *Server) recreate(rq *request, o object.BucketOptions) error {
	b, err := s.store.Bucket(rq.ctx, rq.bucket)
	if err != nil {
		return err
	}
	switch {
	case b.Owner != rq.who.Canonical:
		return object.ErrBucketExists
	case s.opt.Region != "us-east-1":
		return s3err.New("BucketAlreadyOwnedByYou").With("BucketName", rq.bucket)
	case b.ObjectLock != o.ObjectLock || !maps.EqualFunc(creationConfig(b.Config), creationConfig(o.Config), slices.Equal):
		return object.ErrBucketExists
	}
	return nil
}

// creationConfig returns the documents of c that a creation can set.
func creationConfig(c map[string][]byte) map[string][]byte {
	out := make(map[string][]byte, 2)
	for _, k := range [...]string{"acl", "ownershipControls"} {
		if v, ok := c[k]; ok {
			out[k] = v
		}
	}
	return out
}

func headBucket(s *Server, rq *request) error {
	rq.set("X-Amz-Bucket-Region", s.opt.Region)
	rq.set("X-Amz-Access-Point-Alias", "false")
	rq.set("Content-Type", xmlContentType)
	rq.writeHeader(http.StatusOK)
	return nil
}

func deleteBucket(s *Server, rq *request) error {
	if err := s.store.DeleteBucket(rq.ctx, rq.bucket); err != nil {
		return err
	}
	s.docs.m.Delete(rq.bkt.ID)
	return rq.noContent(http.StatusNoContent)
}

func getLocation(s *Server, rq *request) error {
	region := s.opt.Region
	if region == "us-east-1" {
		region = "" // the one region S3 has no name for here
	}
	b := append(rq.buf[:0], xmlHeader...)
	b = append(b, `<LocationConstraint xmlns="`+xmlNamespace+`">`...)
	b = appendEscaped(b, region)
	rq.buf = append(b, "</LocationConstraint>"...)
	return rq.writeBody(http.StatusOK, xmlContentType, rq.buf)
}
