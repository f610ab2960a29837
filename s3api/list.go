package s3api

import (
	"encoding/base64"
	"encoding/hex"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"firn/object"
	"firn/object/listing"
	"firn/object/record"
	"firn/s3api/classes"
	"firn/s3api/s3err"
)

// listRequest is what the listings have in common.
type listRequest struct {
	prefix, delimiter string
	limit             int  // keys a page, at most object.MaxList
	urlEncoded        bool // encoding-type=url
	restores          bool // x-amz-optional-object-attributes: RestoreStatus
	now               time.Time
}

// parseList reads the common parameters; limitName is the parameter with the page size.
func parseList(rq *request, limitName string) (listRequest, error) {
	l := listRequest{
		prefix: rq.query.Get("prefix"), delimiter: rq.query.Get("delimiter"), limit: object.MaxList, now: rq.start,
	}
	switch e := rq.query.Get("encoding-type"); {
	case e == "":
	case strings.EqualFold(e, "url"):
		l.urlEncoded = true
	default:
		return l, s3err.InvalidArgument("encoding-type", e, "Invalid Encoding Method specified in Request")
	}
	var err error
	if l.restores, err = classes.WantsRestores(rq.r.Header["X-Amz-Optional-Object-Attributes"]); err != nil {
		return l, err
	}
	l.limit, err = parseLimit(rq, limitName)
	return l, err
}

// parseLimit reads a page size, at most object.MaxList.
func parseLimit(rq *request, name string) (int, error) {
	t := rq.query.Get(name)
	if t == "" {
		return object.MaxList, nil
	}
	n, err := strconv.ParseInt(t, 10, 64)
	if err != nil {
		return 0, s3err.InvalidArgument(name, t, "Provided %s not an integer or within integer range", name)
	}
	if n < 0 || n > math.MaxInt32 {
		return 0, s3err.InvalidArgument(name, t, "Argument %s must be an integer between 0 and 2147483647", camel(name))
	}
	return int(min(n, object.MaxList)), nil
}

// camel turns max-keys into maxKeys, as AWS names it in messages.
func camel(name string) string {
	a, b, ok := strings.Cut(name, "-")
	if !ok || b == "" {
		return name
	}
	return a + strings.ToUpper(b[:1]) + b[1:]
}

// name appends an element that holds a key, encoded as the client asked.
func (l *listRequest) name(b []byte, element, value string) []byte {
	if !l.urlEncoded {
		return appendElement(b, element, value)
	}
	b = append(b, '<')
	b = append(b, element...)
	b = append(b, '>')
	b = appendURLEncoded(b, value)
	b = append(b, '<', '/')
	b = append(b, element...)
	return append(b, '>')
}

func (l *listRequest) encodingType(b []byte) []byte {
	if l.urlEncoded {
		b = append(b, "<EncodingType>url</EncodingType>"...)
	}
	return b
}

// urlSafe are the bytes appendURLEncoded leaves alone.
var urlSafe = func() (t [256]bool) {
	for _, c := range "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.~/*" {
		t[c] = true
	}
	return t
}()

// appendURLEncoded appends s with all but unreserved characters and slashes percent-encoded.
func appendURLEncoded(b []byte, s string) []byte {
	for i := range len(s) {
		c := s[i]
		if urlSafe[c] {
			b = append(b, c)
			continue
		}
		b = append(b, '%', hexUpper[c>>4], hexUpper[c&15])
	}
	return b
}

// owners remembers the display name of the last owner seen: pages are mostly of one.
type owners struct {
	s        *Server
	id, name string
}

func (o *owners) appendOwner(b []byte, element, id string) []byte {
	if id != o.id || o.name == "" {
		o.id, o.name = id, o.s.displayName(id)
	}
	b = append(b, '<')
	b = append(b, element...)
	b = append(b, '>')
	b = appendElement(b, "ID", id)
	b = appendElement(b, "DisplayName", o.name)
	b = append(b, '<', '/')
	b = append(b, element...)
	return append(b, '>')
}

// appendContents appends one current object.
func (l *listRequest) appendContents(b []byte, v *record.Version, own *owners) []byte {
	b = append(b, "<Contents>"...)
	b = l.name(b, "Key", v.Key)
	b = append(b, "<LastModified>"...)
	b = appendISO8601(b, v.Modified)
	b = append(b, "</LastModified><ETag>&quot;"...)
	b = append(b, v.ETag...)
	b = append(b, "&quot;</ETag>"...)
	b = appendListChecksum(b, v)
	b = append(b, "<Size>"...)
	b = strconv.AppendInt(b, v.Size, 10)
	b = append(b, "</Size>"...)
	if own != nil {
		b = own.appendOwner(b, "Owner", v.Owner)
	}
	b = l.appendClass(b, v)
	return append(b, "</Contents>"...)
}

// appendClass appends the class of a version, and its restore where that was asked for.
func (l *listRequest) appendClass(b []byte, v *record.Version) []byte {
	b = appendClass(b, v.StorageClass)
	if l.restores {
		b = classes.AppendRestoreStatus(b, v, l.now)
	}
	return b
}

func appendClass(b []byte, class string) []byte {
	return appendElement(b, "StorageClass", classes.Name(class))
}

func appendListChecksum(b []byte, v *record.Version) []byte {
	if v.Checksum.Algorithm == record.ChecksumNone {
		return b
	}
	b = append(b, "<ChecksumAlgorithm>"...)
	b = append(b, algorithms[v.Checksum.Algorithm].name...)
	b = append(b, "</ChecksumAlgorithm><ChecksumType>"...)
	b = append(b, checksumType(v.Checksum.Type)...)
	return append(b, "</ChecksumType>"...)
}

func (l *listRequest) appendPrefixes(b []byte, prefixes []string) []byte {
	for _, p := range prefixes {
		b = append(b, "<CommonPrefixes>"...)
		b = l.name(b, "Prefix", p)
		b = append(b, "</CommonPrefixes>"...)
	}
	return b
}

// list asks the store for a page. A page of no keys is answered without it and is never truncated.
func (s *Server) list(rq *request, l *listRequest, after string) (*listing.Page, error) {
	if l.limit == 0 {
		return &listing.Page{}, nil
	}
	return s.store.List(rq.ctx, rq.bucket, listing.Options{
		Prefix: l.prefix, Delimiter: l.delimiter, After: after, Limit: l.limit,
		Restores: l.restores,
	})
}

// appendLimits appends what all three listings say about the page after their markers.
func (l *listRequest) appendLimits(b []byte, truncated bool) []byte {
	b = appendInt(b, "MaxKeys", l.limit)
	if l.delimiter != "" {
		b = l.name(b, "Delimiter", l.delimiter)
	}
	b = appendElement(b, "IsTruncated", strconv.FormatBool(truncated))
	return l.encodingType(b)
}

// listObjects answers ListObjects, version 1.
func listObjects(s *Server, rq *request) error {
	if rq.query.Get("list-type") == "2" {
		return listObjectsV2(s, rq)
	}
	l, err := parseList(rq, "max-keys")
	if err != nil {
		return err
	}
	marker := rq.query.Get("marker")
	page, err := s.list(rq, &l, marker)
	if err != nil {
		return err
	}
	defer s.store.Recycle(page)
	b := append(rq.page(len(page.Versions)), xmlHeader...)
	b = append(b, `<ListBucketResult xmlns="`+xmlNamespace+`">`...)
	b = appendElement(b, "Name", rq.bucket)
	if strings.ContainsAny(l.prefix, "%+") {
		b = l.name(b, "Prefix", l.prefix)
	} else {
		// boto3 asks for encoding on its own and decodes all names but this one. As it stands here it means the
		// same to clients that decode it and those that do not.
		b = appendElement(b, "Prefix", l.prefix)
	}
	b = l.name(b, "Marker", marker)
	if page.Truncated && l.delimiter != "" {
		b = l.name(b, "NextMarker", page.NextKey)
	}
	b = l.appendLimits(b, page.Truncated)
	own := owners{s: s}
	for i := range page.Versions {
		b = l.appendContents(b, &page.Versions[i], &own)
	}
	b = l.appendPrefixes(b, page.CommonPrefixes)
	rq.buf = append(b, "</ListBucketResult>"...)
	return rq.writeBody(http.StatusOK, xmlContentType, rq.buf)
}

// listObjectsV2 answers ListObjectsV2.
func listObjectsV2(s *Server, rq *request) error {
	rq.op = "ListObjectsV2"
	l, err := parseList(rq, "max-keys")
	if err != nil {
		return err
	}
	startAfter, token := rq.query.Get("start-after"), rq.query.Get("continuation-token")
	after := startAfter
	if token != "" {
		if after, err = parseToken(token); err != nil {
			return err
		}
	}
	page, err := s.list(rq, &l, after)
	if err != nil {
		return err
	}
	defer s.store.Recycle(page)
	b := append(rq.page(len(page.Versions)), xmlHeader...)
	b = append(b, `<ListBucketResult xmlns="`+xmlNamespace+`">`...)
	b = appendElement(b, "Name", rq.bucket)
	b = l.name(b, "Prefix", l.prefix)
	if rq.query.Has("start-after") {
		b = l.name(b, "StartAfter", startAfter)
	}
	if rq.query.Has("continuation-token") {
		b = appendElement(b, "ContinuationToken", token)
	}
	if page.Truncated {
		b = appendElement(b, "NextContinuationToken", makeToken(page.NextKey))
	}
	b = appendInt(b, "KeyCount", len(page.Versions)+len(page.CommonPrefixes))
	b = l.appendLimits(b, page.Truncated)
	var own *owners
	if rq.query.Get("fetch-owner") == "true" {
		own = &owners{s: s}
	}
	for i := range page.Versions {
		b = l.appendContents(b, &page.Versions[i], own)
	}
	b = l.appendPrefixes(b, page.CommonPrefixes)
	rq.buf = append(b, "</ListBucketResult>"...)
	return rq.writeBody(http.StatusOK, xmlContentType, rq.buf)
}

// tokenPrefix is the version of the continuation tokens: what follows is the key to go on after.
const tokenPrefix = "1"

// makeToken returns the opaque token of a key.
func makeToken(key string) string {
	return tokenPrefix + base64.RawURLEncoding.EncodeToString([]byte(key))
}

// parseToken returns the key of a token.
func parseToken(t string) (string, error) {
	if v, ok := strings.CutPrefix(t, tokenPrefix); ok && len(t) <= 2*object.MaxKey {
		if b, err := base64.RawURLEncoding.Strict().DecodeString(v); err == nil && len(b) > 0 && utf8.Valid(b) {
			return string(b), nil
		}
	}
	return "", s3err.InvalidArgument("continuation-token", t, "The continuation token provided is incorrect")
}

// listVersions answers ListObjectVersions.
func listVersions(s *Server, rq *request) error {
	l, err := parseList(rq, "max-keys")
	if err != nil {
		return err
	}
	keyMarker, versionMarker := rq.query.Get("key-marker"), rq.query.Get("version-id-marker")
	if versionMarker != "" && keyMarker == "" {
		return s3err.InvalidArgument("version-id-marker", versionMarker,
			"A version-id marker cannot be specified without a key marker.")
	}
	page := &listing.Page{}
	if l.limit > 0 {
		page, err = s.store.ListVersions(rq.ctx, rq.bucket, listing.Options{
			Prefix: l.prefix, Delimiter: l.delimiter, After: keyMarker, VersionAfter: versionMarker, Limit: l.limit,
			Restores: l.restores,
		})
		if err != nil {
			return err
		}
	}
	defer s.store.Recycle(page)
	b := append(rq.page(len(page.Versions)), xmlHeader...)
	b = append(b, `<ListVersionsResult xmlns="`+xmlNamespace+`">`...)
	b = appendElement(b, "Name", rq.bucket)
	b = l.name(b, "Prefix", l.prefix)
	b = l.name(b, "KeyMarker", keyMarker)
	b = appendElement(b, "VersionIdMarker", versionMarker)
	if page.Truncated {
		b = l.name(b, "NextKeyMarker", page.NextKey)
		if page.NextVersion != "" {
			b = appendElement(b, "NextVersionIdMarker", page.NextVersion)
		}
	}
	b = l.appendLimits(b, page.Truncated)
	own := owners{s: s}
	for i := range page.Versions {
		b = l.appendVersion(b, &page.Versions[i], &own)
	}
	b = l.appendPrefixes(b, page.CommonPrefixes)
	rq.buf = append(b, "</ListVersionsResult>"...)
	return rq.writeBody(http.StatusOK, xmlContentType, rq.buf)
}

// appendVersion appends one version or delete marker.
func (l *listRequest) appendVersion(b []byte, v *record.Version, own *owners) []byte {
	element := "Version"
	if v.DeleteMarker {
		element = "DeleteMarker"
	}
	b = append(b, '<')
	b = append(b, element...)
	b = append(b, '>')
	b = l.name(b, "Key", v.Key)
	b = appendElement(b, "VersionId", v.ID)
	b = appendElement(b, "IsLatest", strconv.FormatBool(v.Latest))
	b = append(b, "<LastModified>"...)
	b = appendISO8601(b, v.Modified)
	b = append(b, "</LastModified>"...)
	if !v.DeleteMarker {
		b = append(b, "<ETag>&quot;"...)
		b = append(b, v.ETag...)
		b = append(b, "&quot;</ETag>"...)
		b = appendListChecksum(b, v)
		b = append(b, "<Size>"...)
		b = strconv.AppendInt(b, v.Size, 10)
		b = append(b, "</Size>"...)
	}
	b = own.appendOwner(b, "Owner", v.Owner)
	if !v.DeleteMarker {
		b = l.appendClass(b, v)
	}
	b = append(b, '<', '/')
	b = append(b, element...)
	return append(b, '>')
}

// listUploads answers ListMultipartUploads.
func listUploads(s *Server, rq *request) error {
	l, err := parseList(rq, "max-uploads")
	if err != nil {
		return err
	}
	keyMarker, idMarker := rq.query.Get("key-marker"), rq.query.Get("upload-id-marker")
	if keyMarker == "" {
		idMarker = "" // S3 ignores it
	}
	page := &object.UploadListing{}
	if l.limit > 0 {
		page, err = s.store.ListUploads(rq.ctx, rq.bucket, object.UploadListOptions{
			Prefix: l.prefix, Delimiter: l.delimiter, KeyMarker: keyMarker, UploadIDMarker: idMarker, Limit: l.limit,
		})
		if err != nil {
			return err
		}
	}
	b := append(rq.page(len(page.Uploads)), xmlHeader...)
	b = append(b, `<ListMultipartUploadsResult xmlns="`+xmlNamespace+`">`...)
	b = appendElement(b, "Bucket", rq.bucket)
	b = l.name(b, "KeyMarker", keyMarker)
	b = appendElement(b, "UploadIdMarker", idMarker)
	if page.Truncated {
		b = l.name(b, "NextKeyMarker", page.NextKey)
		b = appendElement(b, "NextUploadIdMarker", page.NextUploadID)
	}
	b = l.name(b, "Prefix", l.prefix)
	if l.delimiter != "" {
		b = l.name(b, "Delimiter", l.delimiter)
	}
	b = appendInt(b, "MaxUploads", l.limit)
	b = appendElement(b, "IsTruncated", strconv.FormatBool(page.Truncated))
	b = l.encodingType(b)
	own := owners{s: s}
	for i := range page.Uploads {
		u := &page.Uploads[i]
		b = append(b, "<Upload>"...)
		b = l.name(b, "Key", u.Key)
		b = appendElement(b, "UploadId", u.ID)
		b = own.appendOwner(b, "Initiator", u.Options.Owner)
		b = own.appendOwner(b, "Owner", u.Options.Owner)
		b = appendClass(b, u.Options.StorageClass)
		b = append(b, "<Initiated>"...)
		b = appendISO8601(b, u.Initiated)
		b = append(b, "</Initiated>"...)
		if c := u.Options.Checksum; c != nil {
			b = appendElement(b, "ChecksumAlgorithm", algorithms[c.Algorithm].name)
			b = appendElement(b, "ChecksumType", checksumType(c.Type))
		}
		b = append(b, "</Upload>"...)
	}
	b = l.appendPrefixes(b, page.CommonPrefixes)
	rq.buf = append(b, "</ListMultipartUploadsResult>"...)
	return rq.writeBody(http.StatusOK, xmlContentType, rq.buf)
}

// listParts answers ListParts.
func listParts(s *Server, rq *request) error {
	id, err := rq.uploadID()
	if err != nil {
		return err
	}
	limit, err := parseLimit(rq, "max-parts")
	if err != nil {
		return err
	}
	marker := 0
	if t := rq.query.Get("part-number-marker"); t != "" {
		n, ok := parseCount(t)
		if !ok {
			return s3err.InvalidArgument("part-number-marker", t, "Argument part-number-marker must be an integer")
		}
		marker = int(min(n, object.MaxPart))
	}
	up, err := s.store.Upload(rq.ctx, rq.bucket, rq.key, id)
	if err != nil {
		if aerr := s.authorize(rq, rq.action); aerr != nil {
			return aerr
		}
		return err
	}
	if err := s.authorizeUpload(rq, rq.action, up.Options.Owner); err != nil {
		return err
	}
	var parts []record.Part
	truncated := false
	if limit > 0 {
		if parts, truncated, err = s.store.ListParts(rq.ctx, rq.bucket, rq.key, id, marker, limit); err != nil {
			return err
		}
	}
	next := marker
	if len(parts) > 0 {
		next = parts[len(parts)-1].Number
	}
	b := append(rq.page(len(parts)), xmlHeader...)
	b = append(b, `<ListPartsResult xmlns="`+xmlNamespace+`">`...)
	b = appendElement(b, "Bucket", rq.bucket)
	if strings.EqualFold(rq.query.Get("encoding-type"), "url") {
		b = append(b, "<Key>"...)
		b = appendURLEncoded(b, rq.key)
		b = append(b, "</Key><EncodingType>url</EncodingType>"...)
	} else {
		b = appendElement(b, "Key", rq.key)
	}
	b = appendElement(b, "UploadId", id)
	own := owners{s: s}
	b = own.appendOwner(b, "Initiator", up.Options.Owner)
	b = own.appendOwner(b, "Owner", up.Options.Owner)
	b = appendClass(b, up.Options.StorageClass)
	b = appendInt(b, "PartNumberMarker", marker)
	b = appendInt(b, "NextPartNumberMarker", next)
	b = appendInt(b, "MaxParts", limit)
	b = appendElement(b, "IsTruncated", strconv.FormatBool(truncated))
	var a record.ChecksumAlgorithm
	if c := up.Options.Checksum; c != nil {
		a = c.Algorithm
		b = appendElement(b, "ChecksumAlgorithm", algorithms[a].name)
		b = appendElement(b, "ChecksumType", checksumType(c.Type))
	}
	for i := range parts {
		p := &parts[i]
		b = append(b, "<Part>"...)
		b = appendInt(b, "PartNumber", p.Number)
		b = append(b, "<LastModified>"...)
		b = appendISO8601(b, p.Modified)
		b = append(b, "</LastModified>"...)
		b = appendElement(b, "ETag", quoteETag(hex.EncodeToString(p.MD5[:])))
		b = append(b, "<Size>"...)
		b = strconv.AppendInt(b, p.Size, 10)
		b = append(b, "</Size>"...)
		b = appendPartChecksum(b, a, p.Checksum)
		b = append(b, "</Part>"...)
	}
	rq.buf = append(b, "</ListPartsResult>"...)
	return rq.writeBody(http.StatusOK, xmlContentType, rq.buf)
}
