package s3api

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"firn/object"
	"firn/object/record"
	"firn/s3api/classes"
	"firn/s3api/s3doc"
	"firn/s3api/s3err"
	"firn/s3api/sse"
)

const (
	defaultContentType = "binary/octet-stream"
	metaPrefix         = "X-Amz-Meta-"
	redirectHeader     = "X-Amz-Website-Redirect-Location"
	redirectField      = "Website-Redirect-Location"
)

// storedHeaders are the request headers kept with an object and sent back as they came.
var storedHeaders = [...]string{
	"Content-Type", "Cache-Control", "Content-Disposition", "Content-Encoding", "Content-Language", "Expires",
}

// responseOverrides are the query parameters of a GET that replace a header.
var responseOverrides = [...]struct{ param, header string }{
	{"response-cache-control", "Cache-Control"},
	{"response-content-disposition", "Content-Disposition"},
	{"response-content-encoding", "Content-Encoding"},
	{"response-content-language", "Content-Language"},
	{"response-content-type", "Content-Type"},
	{"response-expires", "Expires"},
}

// objectHeaders returns the standard headers to store with an object.
func objectHeaders(rq *request) ([]record.Field, error) {
	var buf [len(storedHeaders) + 1]record.Field
	fs := buf[:0]
	for _, k := range storedHeaders {
		v := rq.header(k)
		if k == "Content-Encoding" {
			v = withoutChunked(rq.r.Header[k])
		}
		if v != "" {
			fs = append(fs, record.Field{Name: k, Value: v})
		}
	}
	if v := rq.header(redirectHeader); v != "" {
		if !strings.HasPrefix(v, "/") && !strings.HasPrefix(v, "http://") && !strings.HasPrefix(v, "https://") {
			return nil, s3err.New("InvalidRedirectLocation")
		}
		fs = append(fs, record.Field{Name: redirectField, Value: v})
	}
	if len(fs) == 0 {
		return nil, nil
	}
	return slices.Clone(fs), nil
}

// withoutChunked joins a Content-Encoding without aws-chunked, which describes the transfer, not the object.
func withoutChunked(values []string) string {
	if len(values) == 0 {
		return ""
	}
	v := values[0]
	if len(values) > 1 {
		v = strings.Join(values, ",")
	}
	if !strings.Contains(strings.ToLower(v), "aws-chunked") {
		return v
	}
	var keep []string
	for e := range strings.SplitSeq(v, ",") {
		if e = strings.TrimSpace(e); e != "" && !strings.EqualFold(e, "aws-chunked") {
			keep = append(keep, e)
		}
	}
	return strings.Join(keep, ",")
}

// userMetadata returns the x-amz-meta- headers, sorted, names in lower case. Values are kept as they came, so
// that what a client encoded (RFC 2047 or plain UTF-8) comes back byte for byte.
func userMetadata(h http.Header) ([]record.Field, error) {
	var fs []record.Field
	size := 0
	for k, v := range h {
		name, ok := strings.CutPrefix(k, metaPrefix)
		if !ok {
			continue
		}
		f := record.Field{Name: strings.ToLower(name), Value: v[0]}
		if len(v) > 1 {
			f.Value = strings.Join(v, ",")
		}
		size += len(f.Name) + len(f.Value)
		fs = append(fs, f)
	}
	if size > object.MaxUserMeta {
		return nil, s3err.New("MetadataTooLarge").With("Size", strconv.Itoa(size)).
			With("MaxSizeAllowed", strconv.Itoa(object.MaxUserMeta))
	}
	if len(fs) > 1 {
		slices.SortFunc(fs, func(a, b record.Field) int { return strings.Compare(a.Name, b.Name) })
	}
	return fs, nil
}

// parseTagHeader parses x-amz-tagging: tags as a query string, in its order.
func parseTagHeader(v string) ([]record.Field, error) {
	if v == "" {
		return nil, nil
	}
	q, err := parseQuery(nil, v)
	if err != nil {
		return nil, s3err.InvalidArgument("x-amz-tagging", v, `The header 'x-amz-tagging' shall be encoded as UTF-8 `+
			`then URLEncoded URL query parameters without tag name duplicates.`)
	}
	if len(q) > object.MaxTags {
		return nil, s3err.New("BadRequest").Saying("Object tags cannot be greater than %d", object.MaxTags)
	}
	fs := make([]record.Field, 0, len(q))
	for _, p := range q {
		if slices.ContainsFunc(fs, func(f record.Field) bool { return f.Name == p.name }) {
			return nil, s3err.InvalidArgument("x-amz-tagging", v, `The header 'x-amz-tagging' shall be encoded as UTF-8 `+
				`then URLEncoded URL query parameters without tag name duplicates.`)
		}
		if err := s3doc.CheckTag(p.name, p.value); err != nil {
			return nil, err
		}
		fs = append(fs, record.Field{Name: p.name, Value: p.value})
	}
	return fs, nil
}

// objectLock reads the object lock headers of a write to b.
func objectLock(rq *request, b *record.Bucket) (record.Retention, bool, error) {
	mode, date := rq.header("X-Amz-Object-Lock-Mode"), rq.header("X-Amz-Object-Lock-Retain-Until-Date")
	hold := rq.header("X-Amz-Object-Lock-Legal-Hold")
	if mode == "" && date == "" && hold == "" {
		return record.Retention{}, false, nil
	}
	if !b.ObjectLock {
		return record.Retention{}, false, s3err.InvalidRequest("Bucket is missing Object Lock Configuration")
	}
	var r record.Retention
	if (mode == "") != (date == "") {
		return r, false, s3err.InvalidArgument("x-amz-object-lock-retain-until-date", date,
			"x-amz-object-lock-retain-until-date and x-amz-object-lock-mode must both be supplied")
	}
	if mode != "" {
		var err error
		if r, err = parseRetention(mode, date, rq.start); err != nil {
			return r, false, err
		}
	}
	switch hold {
	case "", "OFF":
		return r, false, nil
	case "ON":
		return r, true, nil
	}
	return r, false, s3err.InvalidArgument("x-amz-object-lock-legal-hold", hold, "Legal Hold must be either of 'ON' or 'OFF'")
}

// parseRetention reads a mode and a date in the future.
func parseRetention(mode, date string, now time.Time) (record.Retention, error) {
	var r record.Retention
	switch mode {
	case "GOVERNANCE":
		r.Mode = record.RetentionGovernance
	case "COMPLIANCE":
		r.Mode = record.RetentionCompliance
	default:
		return r, s3err.InvalidArgument("x-amz-object-lock-mode", mode, "Unknown wormMode directive.")
	}
	var err error
	if r.Until, err = time.Parse(time.RFC3339Nano, date); err != nil {
		return r, s3err.InvalidArgument("x-amz-object-lock-retain-until-date", date,
			"The retain until date must be provided in ISO 8601 format")
	}
	if !r.Until.After(now) {
		return r, s3err.InvalidArgument("x-amz-object-lock-retain-until-date", date,
			"The retain until date must be in the future!")
	}
	return r, nil
}

func retentionMode(m record.RetentionMode) string {
	switch m {
	case record.RetentionGovernance:
		return "GOVERNANCE"
	case record.RetentionCompliance:
		return "COMPLIANCE"
	}
	return ""
}

// newVersion reads all that a request says about an object it is about to make: what PutObject, CopyObject and
// CreateMultipartUpload have in common. tags is false where the tags come from elsewhere.
func (s *Server) newVersion(rq *request) (o object.PutOptions, err error) {
	o.Size = -1
	if o.Headers, err = objectHeaders(rq); err != nil {
		return o, err
	}
	if o.Metadata, err = userMetadata(rq.r.Header); err != nil {
		return o, err
	}
	if o.Tags, err = parseTagHeader(rq.header("X-Amz-Tagging")); err != nil {
		return o, err
	}
	if o.StorageClass, err = s.class.Parse(rq.header("X-Amz-Storage-Class")); err != nil {
		return o, err
	}
	if o.Retention, o.LegalHold, err = objectLock(rq, rq.bkt); err != nil {
		return o, err
	}
	if o.ACL, err = s.objectACL(rq); err != nil {
		return o, err
	}
	o.Owner = s.objectOwner(rq)
	if err = s.authorizeExtras(rq, &o); err != nil {
		return o, err
	}
	d := s.docsOf(rq.bkt)
	if d.err != nil {
		return o, d.err // it may ask for encryption
	}
	o.Encryption, o.DataKey, err = sse.New(rq.r, d.encryption, s.opt.Keys, rq.bucket, rq.key)
	return o, err
}

// authorizeExtras asks for the permissions that parts of a write need beyond s3:PutObject.
func (s *Server) authorizeExtras(rq *request, o *object.PutOptions) error {
	if len(o.Tags) > 0 {
		if err := s.authorize(rq, "s3:PutObjectTagging"); err != nil {
			return err
		}
	}
	if o.Retention.Mode != record.RetentionNone {
		if err := s.authorize(rq, "s3:PutObjectRetention"); err != nil {
			return err
		}
	}
	if o.LegalHold {
		if err := s.authorize(rq, "s3:PutObjectLegalHold"); err != nil {
			return err
		}
	}
	return nil
}

// setVersionHeaders sets the response headers that describe v, all but length, range and checksum.
func (rq *request) setVersionHeaders(v *record.Version) {
	rq.size = v.Size
	rq.set("Etag", quoteETag(v.ETag))
	rq.set("Last-Modified", httpTime(v.Modified))
	rq.set("Accept-Ranges", "bytes")
	typed := false
	for i := range v.Headers {
		f := &v.Headers[i]
		switch f.Name {
		case redirectField:
			rq.set(redirectHeader, f.Value)
			continue
		case "Content-Type":
			typed = true
		}
		rq.set(f.Name, f.Value)
	}
	if !typed {
		rq.set("Content-Type", defaultContentType)
	}
	for i := range v.Metadata {
		rq.set(metaKey(v.Metadata[i].Name), v.Metadata[i].Value)
	}
	rq.setVersionID(v.ID)
	if v.StorageClass != "" {
		rq.set("X-Amz-Storage-Class", v.StorageClass)
	}
	if r := classes.RestoreHeader(v, rq.start); r != "" {
		rq.set("X-Amz-Restore", r)
	}
	if len(v.Tags) > 0 {
		rq.set("X-Amz-Tagging-Count", strconv.Itoa(len(v.Tags)))
	}
	if v.Retention.Mode != record.RetentionNone {
		rq.set("X-Amz-Object-Lock-Mode", retentionMode(v.Retention.Mode))
		rq.set("X-Amz-Object-Lock-Retain-Until-Date", iso8601(v.Retention.Until))
	}
	if rq.bkt.ObjectLock && v.LegalHold {
		rq.set("X-Amz-Object-Lock-Legal-Hold", "ON")
	}
}

// setVersionID sets x-amz-version-id in buckets that have, or had, versioning.
func (rq *request) setVersionID(id string) {
	if rq.bkt.Versioning != record.VersioningOff && id != "" {
		rq.set("X-Amz-Version-Id", id)
	}
}

// setNewVersionID sets x-amz-version-id of a version just written: S3 names it only while versioning is enabled, not
// for the null version of a bucket where it is suspended.
func (rq *request) setNewVersionID(id string) {
	if rq.bkt.Versioning == record.VersioningEnabled {
		rq.set("X-Amz-Version-Id", id)
	}
}

// metaKey is the header of user metadata as it goes on the wire, in lower case: clients written for S3 take what
// follows the prefix as the name, and names are lower case there.
func metaKey(name string) string { return "x-amz-meta-" + name }

func quoteETag(e string) string { return `"` + e + `"` }

func unquoteETag(e string) string {
	e = strings.TrimSpace(e)
	e = strings.TrimPrefix(e, "W/")
	return strings.Trim(e, `"`)
}

// httpTime formats t as RFC 9110 wants it. It is time.Format(http.TimeFormat) by hand: that is a visible part of
// a small GET.
func httpTime(t time.Time) string {
	t = t.UTC()
	var a [29]byte
	b := a[:0]
	b = append(b, t.Weekday().String()[:3]...)
	b = append(b, ',', ' ')
	y, m, d := t.Date()
	b = appendTwo(b, d)
	b = append(b, ' ')
	b = append(b, m.String()[:3]...)
	b = append(b, ' ')
	b = appendTwo(b, y/100)
	b = appendTwo(b, y%100)
	b = append(b, ' ')
	h, mi, s := t.Clock()
	b = appendTwo(b, h)
	b = append(b, ':')
	b = appendTwo(b, mi)
	b = append(b, ':')
	b = appendTwo(b, s)
	b = append(b, " GMT"...)
	return string(b)
}

func appendTwo(b []byte, n int) []byte { return append(b, byte('0'+n/10%10), byte('0'+n%10)) }

// iso8601 writes t as S3's documents do.
func iso8601(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// appendISO8601 appends t as documents show times.
func appendISO8601(b []byte, t time.Time) []byte {
	t = t.UTC()
	y, m, d := t.Date()
	b = appendTwo(b, y/100)
	b = appendTwo(b, y%100)
	b = append(b, '-')
	b = appendTwo(b, int(m))
	b = append(b, '-')
	b = appendTwo(b, d)
	b = append(b, 'T')
	h, mi, s := t.Clock()
	b = appendTwo(b, h)
	b = append(b, ':')
	b = appendTwo(b, mi)
	b = append(b, ':')
	b = appendTwo(b, s)
	b = append(b, '.')
	ms := t.Nanosecond() / 1e6
	b = append(b, byte('0'+ms/100))
	b = appendTwo(b, ms)
	return append(b, 'Z')
}

// parseHTTPTime reads a date of a conditional header; ok is false for one that is to be ignored.
func parseHTTPTime(s string) (time.Time, bool) {
	if s == "" {
		return time.Time{}, false
	}
	if t, err := http.ParseTime(s); err == nil {
		return t, true
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, true
	}
	return time.Time{}, false
}

// copySource is the parsed x-amz-copy-source header.
type copySource struct{ bucket, key, version string }

// parseCopySource parses [/]BUCKET/KEY[?versionId=ID], URL-encoded.
func parseCopySource(v string) (copySource, error) {
	bad := func() (copySource, error) {
		return copySource{}, s3err.InvalidArgument("x-amz-copy-source", v,
			"Copy Source must mention the source bucket and key: sourcebucket/sourcekey")
	}
	var c copySource
	p := v
	if i := strings.Index(p, "?versionId="); i >= 0 {
		c.version = p[i+len("?versionId="):]
		p = p[:i]
		var err error
		if c.version, err = url.QueryUnescape(c.version); err != nil {
			return bad()
		}
		if c.version == "" {
			return copySource{}, s3err.InvalidArgument("versionId", "", "Version id cannot be the empty string")
		}
	}
	p, err := url.QueryUnescape(p)
	if err != nil {
		return bad()
	}
	p = strings.TrimPrefix(p, "/")
	c.bucket, c.key, _ = strings.Cut(p, "/")
	if c.bucket == "" || c.key == "" || !utf8.ValidString(c.key) {
		return bad()
	}
	return c, nil
}
