package s3api

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"firn"
	"firn/object"
	"firn/object/record"
	"firn/s3api/s3err"
	"firn/s3api/sse"
)

// versionID returns the versionId parameter, "" where it was not sent.
func (rq *request) versionID() (string, error) {
	if len(rq.query) == 0 || !rq.query.Has("versionId") {
		return "", nil
	}
	id := rq.query.Get("versionId")
	if id == "" {
		return "", s3err.InvalidArgument("versionId", "", "Version id cannot be the empty string")
	}
	return id, nil
}

// versioned returns the permission for a version where one is named: S3 tells "s3:GetObject" from
// "s3:GetObjectVersion" and so on.
func versioned(action, version, id string) string {
	if id == "" {
		return action
	}
	return version
}

// missing turns the error of looking up an object into the response. Whether a key exists is told only to those
// who may list; others are denied.
func (s *Server) missing(rq *request, key, version string, v *record.Version, err error) error {
	if firn.KindOf(err) != firn.NotFound || errors.Is(err, object.ErrNoSuchBucket) {
		return err
	}
	if aerr := s.authorizeList(rq, key); aerr != nil {
		return aerr
	}
	if errors.Is(err, object.ErrDeleteMarker) {
		if v == nil {
			v, _ = s.store.Head(rq.ctx, rq.bucket, key, version)
		}
		rq.set("X-Amz-Delete-Marker", "true")
		if v != nil {
			rq.setVersionID(v.ID)
		}
		if version != "" {
			if v != nil {
				rq.set("Last-Modified", httpTime(v.Modified))
			}
			rq.set("Allow", "DELETE")
			return s3err.New("MethodNotAllowed").With("Method", rq.r.Method).With("ResourceType", "DeleteMarker")
		}
		return errNoSuchKey(key)
	}
	if errors.Is(err, object.ErrNoSuchVersion) {
		return errNoSuchVersion(key, version)
	}
	if rq.r.Method == http.MethodHead {
		rq.set("X-Amz-Delete-Marker", "false")
	}
	return errNoSuchKey(key)
}

// getObject answers GetObject.
func getObject(s *Server, rq *request) error {
	id, err := rq.versionID()
	if err != nil {
		return err
	}
	key, err := sse.ReadForRead(rq.r)
	if err != nil {
		return err
	}
	o, err := s.store.Open(rq.ctx, rq.bucket, rq.key, id)
	if err != nil {
		var v *record.Version
		if o != nil {
			v = o.Version
		}
		return s.missing(rq, rq.key, id, v, err)
	}
	defer o.Close()
	v := o.Version
	if err := s.authorizeOn(rq, versioned("s3:GetObject", "s3:GetObjectVersion", id), rq.bkt, rq.key, v); err != nil {
		return err
	}
	if err := partThere(rq, v); err != nil {
		return err
	}
	if err := s.class.Readable(v); err != nil {
		return err
	}
	dataKey, err := sse.Open(rq.ctx, s.opt.Keys, v.Encryption, v.Bucket, v.Key, key)
	if err != nil {
		return err
	}
	if err := o.Unlock(dataKey); err != nil {
		return err
	}
	sp, err := s.describe(rq, v)
	if err != nil {
		return err
	}
	sse.Tell(rq.h, v.Encryption, key)
	if s.opt.Read != nil {
		s.opt.Read(rq.bkt, v, sp.offset == 0)
	}
	if sp.length == 0 {
		rq.writeHeader(sp.status)
		return nil
	}
	rq.bw = bodyWriter{rq: rq, status: sp.status, left: sp.length}
	_, err = o.WriteRange(rq.ctx, &rq.bw, sp.offset, sp.length)
	if err != nil {
		return err
	}
	if rq.bw.left != 0 {
		return errors.New("content is shorter than its metadata says")
	}
	return nil
}

// headObject answers HeadObject.
func headObject(s *Server, rq *request) error {
	id, err := rq.versionID()
	if err != nil {
		return err
	}
	key, err := sse.ReadForRead(rq.r)
	if err != nil {
		return err
	}
	v, err := s.store.Head(rq.ctx, rq.bucket, rq.key, id)
	if err != nil {
		return s.missing(rq, rq.key, id, v, err)
	}
	if err := s.authorizeOn(rq, versioned("s3:GetObject", "s3:GetObjectVersion", id), rq.bkt, rq.key, v); err != nil {
		return err
	}
	if err := partThere(rq, v); err != nil {
		return err
	}
	if err := sse.Check(v.Encryption, v.Bucket, v.Key, key); err != nil {
		return err
	}
	sp, err := s.describe(rq, v)
	if err != nil {
		return err
	}
	sse.Tell(rq.h, v.Encryption, key)
	rq.writeHeader(sp.status)
	return nil
}

// span is the part of an object a response carries, and its status.
type span struct {
	offset, length int64
	status         int
}

// describe checks the conditions of a GET or HEAD, finds the bytes asked for and sets all response headers.
func (s *Server) describe(rq *request, v *record.Version) (span, error) {
	sp := span{length: v.Size, status: http.StatusOK}
	if err := readConditions(rq, v); err != nil {
		return sp, err
	}
	checksum := &v.Checksum
	var partSum record.Checksum
	rng := rq.header("Range")
	if len(rq.query) > 0 && rq.query.Has("partNumber") {
		if rng != "" {
			return sp, s3err.InvalidRequest("Cannot specify both Range header and partNumber query parameter")
		}
		part, err := selectPart(rq, v, &sp)
		if err != nil {
			return sp, err
		}
		if v.Multipart && part != nil {
			partSum = record.Checksum{Algorithm: v.Checksum.Algorithm, Type: v.Checksum.Type, Value: part.Checksum}
			checksum = &partSum
		}
	}
	if rng != "" && ifRange(rq, v) {
		ok, err := parseRange(rng, v.Size, &sp)
		if err != nil {
			rq.set("Content-Range", "bytes */"+strconv.FormatInt(v.Size, 10))
			return sp, err
		}
		if ok {
			checksum = nil
		}
	}
	rq.setVersionHeaders(v)
	if v.Retention.Mode != record.RetentionNone || v.LegalHold {
		s.hideLock(rq, v)
	}
	if len(rq.query) > 0 {
		if err := overrideHeaders(rq); err != nil {
			return sp, err
		}
	}
	if sp.status == http.StatusPartialContent {
		rq.set("Content-Range", contentRange(sp, v.Size))
	}
	rq.set("Content-Length", strconv.FormatInt(sp.length, 10))
	if checksum != nil && checksum.Algorithm != record.ChecksumNone &&
		strings.EqualFold(rq.header("X-Amz-Checksum-Mode"), "ENABLED") {
		rq.setChecksum(checksum)
	}
	return sp, nil
}

// hideLock removes the lock headers the caller may not see.
func (s *Server) hideLock(rq *request, v *record.Version) {
	if v.Retention.Mode != record.RetentionNone && s.authorizeOn(rq, "s3:GetObjectRetention", rq.bkt, rq.key, v) != nil {
		delete(rq.h, "X-Amz-Object-Lock-Mode")
		delete(rq.h, "X-Amz-Object-Lock-Retain-Until-Date")
	}
	if v.LegalHold && s.authorizeOn(rq, "s3:GetObjectLegalHold", rq.bkt, rq.key, v) != nil {
		delete(rq.h, "X-Amz-Object-Lock-Legal-Hold")
	}
}

func contentRange(sp span, size int64) string {
	b := make([]byte, 0, 64)
	b = append(b, "bytes "...)
	b = strconv.AppendInt(b, sp.offset, 10)
	b = append(b, '-')
	b = strconv.AppendInt(b, sp.offset+sp.length-1, 10)
	b = append(b, '/')
	b = strconv.AppendInt(b, size, 10)
	return string(b)
}

// overrideHeaders applies the response-* parameters.
func overrideHeaders(rq *request) error {
	for i := range rq.query {
		p := &rq.query[i]
		if !strings.HasPrefix(p.name, "response-") {
			continue
		}
		for _, o := range responseOverrides {
			if p.name != o.param {
				continue
			}
			if rq.who.Anonymous() {
				return s3err.InvalidRequest("Request specific response headers cannot be used for anonymous GET requests.")
			}
			rq.set(o.header, p.value)
		}
	}
	return nil
}

// partNumber reads the partNumber parameter.
func (rq *request) partNumber() (int, error) {
	t := rq.query.Get("partNumber")
	n, err := strconv.Atoi(t)
	if err != nil || n < 1 || n > object.MaxPart {
		return 0, s3err.InvalidArgument("partNumber", t, "Part number must be an integer between 1 and 10000, inclusive")
	}
	return n, nil
}

// partThere says whether the part asked for exists, whatever key came with the request: that is no secret.
func partThere(rq *request, v *record.Version) error {
	if len(rq.query) == 0 || !rq.query.Has("partNumber") {
		return nil
	}
	_, err := selectPart(rq, v, &span{})
	return err
}

// selectPart narrows sp to the part asked for. It returns nil for an object that was not a multipart upload.
func selectPart(rq *request, v *record.Version, sp *span) (*record.Part, error) {
	n, err := rq.partNumber()
	if err != nil {
		return nil, err
	}
	if !v.Multipart {
		if n != 1 {
			return nil, s3err.New("InvalidPart").With("PartNumberRequested", strconv.Itoa(n)).With("ActualPartCount", "1")
		}
		if v.Size > 0 {
			sp.status = http.StatusPartialContent
		}
		return nil, nil
	}
	// Parts are counted as they stand in the object: an upload of parts 3 and 7 has the parts 1 and 2.
	if n > len(v.Parts) {
		return nil, s3err.New("InvalidPart").With("PartNumberRequested", strconv.Itoa(n)).
			With("ActualPartCount", strconv.Itoa(len(v.Parts)))
	}
	for i := range n - 1 {
		sp.offset += v.Parts[i].Size
	}
	p := &v.Parts[n-1]
	sp.length = p.Size
	if sp.length > 0 {
		sp.status = http.StatusPartialContent
	}
	rq.set("X-Amz-Mp-Parts-Count", strconv.Itoa(len(v.Parts)))
	return p, nil
}

// parseRange applies a Range header to an object of size bytes. Forms S3 does not serve (several ranges, other
// units, nonsense) are ignored and leave the whole object, as RFC 9110 wants; a range past the end is an error.
func parseRange(v string, size int64, sp *span) (bool, error) {
	t, ok := strings.CutPrefix(v, "bytes=")
	if !ok || strings.IndexByte(t, ',') >= 0 {
		return false, nil
	}
	a, b, ok := strings.Cut(strings.TrimSpace(t), "-")
	if !ok {
		return false, nil
	}
	var from, to int64
	if a == "" {
		n, ok := parseCount(b)
		if !ok {
			return false, nil
		}
		if n == 0 || size == 0 {
			return false, errRange(v, size)
		}
		from, to = max(size-n, 0), size-1
	} else {
		if from, ok = parseCount(a); !ok {
			return false, nil
		}
		to = size - 1
		if b != "" {
			n, ok := parseCount(b)
			if !ok || n < from {
				return false, nil
			}
			to = min(n, to)
		}
		if from >= size {
			return false, errRange(v, size)
		}
	}
	sp.offset, sp.length, sp.status = from, to-from+1, http.StatusPartialContent
	return true, nil
}

func errRange(v string, size int64) *s3err.Error {
	return s3err.New("InvalidRange").With("RangeRequested", v).With("ActualObjectSize", strconv.FormatInt(size, 10))
}

// parseCount parses decimal digits. Numbers past int64 saturate: a range may end anywhere past the object.
func parseCount(s string) (int64, bool) {
	if s == "" {
		return 0, false
	}
	var n int64
	for i := range len(s) {
		c := s[i]
		if c < '0' || c > '9' {
			return 0, false
		}
		if n > (1<<63-1-9)/10 {
			n = (1<<63 - 1 - 9) / 10
			continue
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// ifRange reports whether a Range header counts in the light of If-Range.
func ifRange(rq *request, v *record.Version) bool {
	c := rq.header("If-Range")
	if c == "" {
		return true
	}
	if t, ok := parseHTTPTime(c); ok {
		return t.Equal(v.Modified.Truncate(time.Second))
	}
	return !strings.HasPrefix(c, "W/") && unquoteETag(c) == v.ETag
}

// etagListed reports whether a condition such as `"a", W/"b"` or `*` names etag.
func etagListed(list, etag string) bool {
	for e := range strings.SplitSeq(list, ",") {
		if e = unquoteETag(e); e == "*" || e == etag {
			return true
		}
	}
	return false
}

func errCondition(name string) *s3err.Error {
	return s3err.New("PreconditionFailed").With("Condition", name)
}

// readConditions checks the conditional headers of a read with the precedence of RFC 9110.
func readConditions(rq *request, v *record.Version) error {
	notModified := func() error {
		rq.set("Etag", quoteETag(v.ETag))
		rq.set("Last-Modified", httpTime(v.Modified))
		rq.setVersionID(v.ID)
		for _, f := range v.Headers {
			if f.Name == "Cache-Control" || f.Name == "Expires" {
				rq.set(f.Name, f.Value)
			}
		}
		return s3err.New("NotModified")
	}
	if m := rq.header("If-Match"); m != "" {
		if !etagListed(m, v.ETag) {
			return errCondition("If-Match")
		}
	} else if t, ok := parseHTTPTime(rq.header("If-Unmodified-Since")); ok {
		if v.Modified.Truncate(time.Second).After(t) {
			return errCondition("If-Unmodified-Since")
		}
	}
	if m := rq.header("If-None-Match"); m != "" {
		if etagListed(m, v.ETag) {
			return notModified()
		}
	} else if t, ok := parseHTTPTime(rq.header("If-Modified-Since")); ok {
		if !v.Modified.Truncate(time.Second).After(t) {
			return notModified()
		}
	}
	return nil
}
