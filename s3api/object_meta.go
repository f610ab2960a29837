package s3api

import (
	"encoding/xml"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"firn"
	"firn/object"
	"firn/object/record"
	"firn/s3api/classes"
	"firn/s3api/s3doc"
	"firn/s3api/s3err"
	"firn/s3api/sse"
)

// maxMetaDoc bounds the small documents about one object.
const maxMetaDoc = 64 << 10

// head looks the addressed version up for an operation on its metadata and asks for permission.
func (s *Server) head(rq *request, action, versionAction string) (*record.Version, error) {
	id, err := rq.versionID()
	if err != nil {
		return nil, err
	}
	v, err := s.store.Head(rq.ctx, rq.bucket, rq.key, id)
	if err != nil {
		if errors.Is(err, object.ErrDeleteMarker) && v != nil {
			rq.set("X-Amz-Delete-Marker", "true")
			rq.setVersionID(v.ID)
			if aerr := s.authorizeList(rq, rq.key); aerr != nil {
				return nil, aerr
			}
			if id != "" {
				return nil, s3err.New("MethodNotAllowed").With("Method", rq.r.Method).With("ResourceType", "DeleteMarker")
			}
			return nil, errNoSuchKey(rq.key)
		}
		if firn.KindOf(err) == firn.NotFound {
			if aerr := s.authorizeList(rq, rq.key); aerr != nil {
				return nil, aerr
			}
		}
		return nil, err
	}
	return v, s.authorizeOn(rq, versioned(action, versionAction, id), rq.bkt, rq.key, v)
}

// update changes the addressed version, found and permitted by head.
func (s *Server) update(rq *request, bypass bool, fn func(*record.Version) error) (*record.Version, error) {
	v, err := s.store.UpdateVersion(rq.ctx, rq.bucket, rq.key, rq.query.Get("versionId"), bypass, fn)
	if err == nil {
		rq.setVersionID(v.ID)
	}
	return v, err
}

func getObjectTagging(s *Server, rq *request) error {
	v, err := s.head(rq, "s3:GetObjectTagging", "s3:GetObjectVersionTagging")
	if err != nil {
		return err
	}
	rq.setVersionID(v.ID)
	b := append(rq.buf[:0], xmlHeader...)
	b = append(b, `<Tagging xmlns="`+xmlNamespace+`"><TagSet>`...)
	// In the order of their keys, as S3 has them, whatever order they were sent and are kept in; a version itself must
	// not be changed.
	tags := slices.SortedFunc(slices.Values(v.Tags), func(a, b record.Field) int { return strings.Compare(a.Name, b.Name) })
	for _, t := range tags {
		b = append(b, "<Tag>"...)
		b = appendElement(b, "Key", t.Name)
		b = appendElement(b, "Value", t.Value)
		b = append(b, "</Tag>"...)
	}
	rq.buf = append(b, "</TagSet></Tagging>"...)
	return rq.writeBody(http.StatusOK, xmlContentType, rq.buf)
}

func putObjectTagging(s *Server, rq *request) error {
	doc, err := rq.readDocument(maxMetaDoc)
	if err != nil {
		return err
	}
	sent, err := s3doc.ParseTagging(doc, object.MaxTags, "Object tags")
	if err != nil {
		return err
	}
	tags := make([]record.Field, 0, len(sent))
	for _, t := range sent {
		tags = append(tags, record.Field(t))
	}
	rq.newTags = tags
	if _, err := s.head(rq, "s3:PutObjectTagging", "s3:PutObjectVersionTagging"); err != nil {
		return err
	}
	if _, err := s.update(rq, false, func(v *record.Version) error {
		v.Tags = tags
		return nil
	}); err != nil {
		return err
	}
	return rq.noContent(http.StatusOK)
}

func deleteObjectTagging(s *Server, rq *request) error {
	if _, err := s.head(rq, "s3:DeleteObjectTagging", "s3:DeleteObjectVersionTagging"); err != nil {
		return err
	}
	if _, err := s.update(rq, false, func(v *record.Version) error {
		v.Tags = nil
		return nil
	}); err != nil {
		return err
	}
	return rq.noContent(http.StatusNoContent)
}

// lockable is head for lock operations, which a bucket without object lock refuses; those who may not ask are not told.
func (s *Server) lockable(rq *request, action string) (*record.Version, error) {
	v, err := s.head(rq, action, action)
	if err == nil && !rq.bkt.ObjectLock {
		err = s3err.InvalidRequest("Bucket is missing Object Lock Configuration")
	}
	return v, err
}

func getObjectRetention(s *Server, rq *request) error {
	v, err := s.lockable(rq, "s3:GetObjectRetention")
	if err != nil {
		return err
	}
	if v.Retention.Mode == record.RetentionNone {
		return s3err.New("NoSuchObjectLockConfiguration")
	}
	b := append(rq.buf[:0], xmlHeader...)
	b = append(b, `<Retention xmlns="`+xmlNamespace+`">`...)
	b = appendElement(b, "Mode", retentionMode(v.Retention.Mode))
	b = appendElement(b, "RetainUntilDate", iso8601(v.Retention.Until))
	rq.buf = append(b, "</Retention>"...)
	return rq.writeBody(http.StatusOK, xmlContentType, rq.buf)
}

func putObjectRetention(s *Server, rq *request) error {
	if _, err := s.lockable(rq, "s3:PutObjectRetention"); err != nil {
		return err
	}
	var doc struct {
		XMLName xml.Name `xml:"Retention"`
		Mode    string
		Date    string `xml:"RetainUntilDate"`
	}
	if err := rq.readXML(&doc, maxMetaDoc); err != nil {
		return err
	}
	var r record.Retention
	switch {
	case doc.Mode == "" && doc.Date == "": // an empty document removes a governance retention
	case doc.Mode == "" || doc.Date == "", doc.Mode != "GOVERNANCE" && doc.Mode != "COMPLIANCE":
		return s3err.New("MalformedXML")
	default:
		if _, err := time.Parse(time.RFC3339Nano, doc.Date); err != nil {
			return s3err.New("MalformedXML")
		}
		var err error
		if r, err = parseRetention(doc.Mode, doc.Date, rq.start); err != nil {
			return err
		}
	}
	bypass, err := s.bypass(rq)
	if err != nil {
		return err
	}
	if _, err := s.update(rq, bypass, func(v *record.Version) error {
		v.Retention = r
		return nil
	}); err != nil {
		return err
	}
	return rq.noContent(http.StatusOK)
}

func getObjectLegalHold(s *Server, rq *request) error {
	v, err := s.lockable(rq, "s3:GetObjectLegalHold")
	if err != nil {
		return err
	}
	status := "OFF"
	if v.LegalHold {
		status = "ON"
	}
	b := append(rq.buf[:0], xmlHeader...)
	b = append(b, `<LegalHold xmlns="`+xmlNamespace+`">`...)
	b = appendElement(b, "Status", status)
	rq.buf = append(b, "</LegalHold>"...)
	return rq.writeBody(http.StatusOK, xmlContentType, rq.buf)
}

func putObjectLegalHold(s *Server, rq *request) error {
	if _, err := s.lockable(rq, "s3:PutObjectLegalHold"); err != nil {
		return err
	}
	var doc struct {
		XMLName xml.Name `xml:"LegalHold"`
		Status  string
	}
	if err := rq.readXML(&doc, maxMetaDoc); err != nil {
		return err
	}
	if doc.Status != "ON" && doc.Status != "OFF" {
		return s3err.New("MalformedXML")
	}
	if _, err := s.update(rq, false, func(v *record.Version) error {
		v.LegalHold = doc.Status == "ON"
		return nil
	}); err != nil {
		return err
	}
	return rq.noContent(http.StatusOK)
}

// restoreObject answers RestoreObject: 202 where the content is to come from its tier, 200 where it is here, and then stays
// so long.
func restoreObject(s *Server, rq *request) error {
	var doc classes.RestoreRequest
	if err := rq.readXML(&doc, maxMetaDoc); err != nil {
		return err
	}
	until, err := doc.Until(rq.start)
	if err != nil {
		return err
	}
	v, err := s.head(rq, "s3:RestoreObject", "s3:RestoreObject")
	if err != nil {
		return err
	}
	if err := classes.CheckRestore(v, rq.start); err != nil {
		return err
	}
	v, err = s.store.WantLocal(rq.ctx, rq.bucket, rq.key, rq.query.Get("versionId"), until)
	switch {
	case errors.Is(err, object.ErrNotOnTier):
		return classes.ErrNotRestorable()
	case err != nil:
		return err
	case v.Local():
		return rq.noContent(http.StatusOK)
	}
	return rq.noContent(http.StatusAccepted)
}

// getObjectAttributes answers GetObjectAttributes.
func getObjectAttributes(s *Server, rq *request) error {
	key, err := sse.ReadForRead(rq.r)
	if err != nil {
		return err
	}
	want, err := attributes(rq.r.Header["X-Amz-Object-Attributes"])
	if err != nil {
		return err
	}
	v, err := s.head(rq, "s3:GetObject", "s3:GetObjectVersion")
	if err != nil {
		return err
	}
	if err := s.authorizeOn(rq, versioned("s3:GetObjectAttributes", "s3:GetObjectVersionAttributes",
		rq.query.Get("versionId")), rq.bkt, rq.key, v); err != nil {
		return err
	}
	if err := sse.Check(v.Encryption, v.Bucket, v.Key, key); err != nil {
		return err
	}
	rq.setVersionID(v.ID)
	rq.set("Last-Modified", httpTime(v.Modified))
	b := append(rq.buf[:0], xmlHeader...)
	b = append(b, `<GetObjectAttributesResponse xmlns="`+xmlNamespace+`">`...)
	if want["ETag"] {
		b = appendElement(b, "ETag", v.ETag)
	}
	if want["Checksum"] && v.Checksum.Algorithm != record.ChecksumNone && len(v.Checksum.Value) > 0 {
		b = append(b, "<Checksum>"...)
		b = appendChecksum(b, &v.Checksum)
		b = append(b, "</Checksum>"...)
	}
	if want["ObjectParts"] && v.Multipart {
		if b, err = appendObjectParts(rq, b, v); err != nil {
			return err
		}
	}
	if want["StorageClass"] {
		b = appendClass(b, v.StorageClass)
	}
	if want["ObjectSize"] {
		b = append(b, "<ObjectSize>"...)
		b = strconv.AppendInt(b, v.Size, 10)
		b = append(b, "</ObjectSize>"...)
	}
	rq.buf = append(b, "</GetObjectAttributesResponse>"...)
	return rq.writeBody(http.StatusOK, xmlContentType, rq.buf)
}

// attributes reads x-amz-object-attributes.
func attributes(values []string) (map[string]bool, error) {
	want := make(map[string]bool)
	for _, v := range values {
		for a := range strings.SplitSeq(v, ",") {
			switch a = strings.TrimSpace(a); a {
			case "ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize":
				want[a] = true
			case "":
			default:
				return nil, s3err.InvalidArgument("x-amz-object-attributes", a, "Invalid attribute name specified.")
			}
		}
	}
	if len(want) == 0 {
		return nil, s3err.InvalidArgument("x-amz-object-attributes", "",
			"The x-amz-object-attributes header specifying the attributes to be retrieved is either missing or empty")
	}
	return want, nil
}

// appendObjectParts appends a page of the parts of a multipart object.
func appendObjectParts(rq *request, b []byte, v *record.Version) ([]byte, error) {
	limit, marker := object.MaxList, 0
	if t := rq.header("X-Amz-Max-Parts"); t != "" {
		n, ok := parseCount(t)
		if !ok {
			return b, s3err.InvalidArgument("x-amz-max-parts", t, "")
		}
		limit = int(min(n, object.MaxList))
	}
	if t := rq.header("X-Amz-Part-Number-Marker"); t != "" {
		n, ok := parseCount(t)
		if !ok {
			return b, s3err.InvalidArgument("x-amz-part-number-marker", t, "")
		}
		marker = int(min(n, object.MaxPart))
	}
	page := v.Parts[min(marker, len(v.Parts)):]
	truncated := len(page) > limit
	page = page[:min(limit, len(page))]
	b = append(b, "<ObjectParts>"...)
	b = appendInt(b, "PartsCount", len(v.Parts))
	b = appendInt(b, "PartNumberMarker", marker)
	b = appendInt(b, "NextPartNumberMarker", marker+len(page))
	b = appendInt(b, "MaxParts", limit)
	b = appendElement(b, "IsTruncated", strconv.FormatBool(truncated))
	for i := range page {
		b = append(b, "<Part>"...)
		b = appendInt(b, "PartNumber", marker+i+1)
		b = append(b, "<Size>"...)
		b = strconv.AppendInt(b, page[i].Size, 10)
		b = append(b, "</Size>"...)
		b = appendPartChecksum(b, v.Checksum.Algorithm, page[i].Checksum)
		b = append(b, "</Part>"...)
	}
	return append(b, "</ObjectParts>"...), nil
}

// appendPartChecksum appends the checksum of a part, if it has one.
func appendPartChecksum(b []byte, a record.ChecksumAlgorithm, sum []byte) []byte {
	if a == record.ChecksumNone || len(sum) == 0 {
		return b
	}
	return appendElement(b, algorithms[a].element, checksumText(&record.Checksum{Value: sum}))
}

func appendInt(b []byte, name string, n int) []byte {
	b = append(b, '<')
	b = append(b, name...)
	b = append(b, '>')
	b = strconv.AppendInt(b, int64(n), 10)
	b = append(b, '<', '/')
	b = append(b, name...)
	return append(b, '>')
}
