package s3api

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"firn/object"
	"firn/object/record"
	"firn/s3api/s3doc"
	"firn/s3api/s3err"
)

// deleteCondition is what a delete asks of the version it removes.
type deleteCondition struct {
	etag     string
	modified time.Time
	size     int64 // -1 where not asked
}

// precondition returns the condition as the store wants it, nil for none. What is not there cannot be deleted
// wrongly, so a condition on it holds.
func (c deleteCondition) precondition() object.Precondition {
	if c.etag == "" && c.modified.IsZero() && c.size < 0 {
		return nil
	}
	return func(v *record.Version) error {
		if v == nil {
			return nil
		}
		if c.etag != "" && !etagListed(c.etag, v.ETag) {
			return errCondition("If-Match")
		}
		if !c.modified.IsZero() && !v.Modified.Truncate(time.Second).Equal(c.modified.Truncate(time.Second)) {
			return errCondition("x-amz-if-match-last-modified-time")
		}
		if c.size >= 0 && (v.DeleteMarker || v.Size != c.size) {
			return errCondition("x-amz-if-match-size")
		}
		return nil
	}
}

// bypass reports whether the request asks to bypass governance retention and may.
func (s *Server) bypass(rq *request) (bool, error) {
	if !strings.EqualFold(rq.header("X-Amz-Bypass-Governance-Retention"), "true") {
		return false, nil
	}
	return true, s.authorize(rq, "s3:BypassGovernanceRetention")
}

// deleteObject answers DeleteObject.
func deleteObject(s *Server, rq *request) error {
	id, err := rq.versionID()
	if err != nil {
		return err
	}
	if err := s.authorize(rq, versioned("s3:DeleteObject", "s3:DeleteObjectVersion", id)); err != nil {
		return err
	}
	c := deleteCondition{etag: rq.header("If-Match"), size: -1}
	if v := rq.header("X-Amz-If-Match-Last-Modified-Time"); v != "" {
		var ok bool
		if c.modified, ok = parseHTTPTime(v); !ok {
			return s3err.InvalidArgument("x-amz-if-match-last-modified-time", v, "")
		}
	}
	if v := rq.header("X-Amz-If-Match-Size"); v != "" {
		if c.size, err = strconv.ParseInt(v, 10, 64); err != nil || c.size < 0 {
			return s3err.InvalidArgument("x-amz-if-match-size", v, "")
		}
	}
	o := object.DeleteOptions{Precondition: c.precondition()}
	if o.BypassGovernance, err = s.bypass(rq); err != nil {
		return err
	}
	r, err := s.store.Delete(rq.ctx, rq.bucket, rq.key, id, o)
	if err != nil {
		return err
	}
	if r.VersionID != "" {
		rq.setVersionID(r.VersionID)
	} else {
		rq.setVersionID(id)
	}
	if r.DeleteMarker {
		rq.set("X-Amz-Delete-Marker", "true")
	}
	return rq.noContent(http.StatusNoContent)
}

// maxDelete is how many keys one DeleteObjects may name; maxDeleteBody bounds its document: a key of 1024 bytes
// may need six times as many when escaped.
const (
	maxDelete     = 1000
	maxDeleteBody = 8 << 20
)

// deleteObjects answers DeleteObjects.
func deleteObjects(s *Server, rq *request) error {
	doc, err := rq.readBody(maxDeleteBody)
	if err != nil {
		return err
	}
	sent, err := rq.checkDocument(doc)
	if err != nil {
		return err
	}
	if !sent {
		return s3err.InvalidRequest("Missing required header for this request: Content-MD5")
	}
	items, quiet, err := parseDelete(doc)
	if err != nil {
		return err
	}
	bypass := strings.EqualFold(rq.header("X-Amz-Bypass-Governance-Retention"), "true")
	// Items the caller may not delete are left out of the batch and answered by themselves.
	run := make([]object.DeleteItem, 0, len(items))
	results := make([]object.DeleteResult, len(items))
	at := make([]int, 0, len(items))
	for i := range items {
		it := &items[i]
		err := s.authorizeOn(rq, versioned("s3:DeleteObject", "s3:DeleteObjectVersion", it.VersionID), rq.bkt, it.Key, nil)
		if err == nil && bypass {
			it.BypassGovernance = true
			err = s.authorizeOn(rq, "s3:BypassGovernanceRetention", rq.bkt, it.Key, nil)
		}
		if err == nil && len(it.Key) > object.MaxKey {
			err = object.ErrKeyTooLong
		}
		if err != nil {
			results[i].Err = err
			continue
		}
		run, at = append(run, *it), append(at, i)
	}
	if len(run) > 0 {
		rs, err := s.store.DeleteMany(rq.ctx, rq.bucket, run)
		if err != nil {
			return err
		}
		for j, r := range rs {
			results[at[j]] = r
		}
	}
	b := append(rq.page(len(items)), xmlHeader...)
	b = append(b, `<DeleteResult xmlns="`+xmlNamespace+`">`...)
	for i := range items {
		b = appendDeleted(rq, b, &items[i], &results[i], quiet)
	}
	if Logs(rq.bkt) {
		rq.also = alsoDeleted(rq, items, results)
	}
	rq.buf = append(b, "</DeleteResult>"...)
	return rq.writeBody(http.StatusOK, xmlContentType, rq.buf)
}

// alsoDeleted tells access logs of the items.
func alsoDeleted(rq *request, items []object.DeleteItem, results []object.DeleteResult) []Also {
	out := make([]Also, len(items))
	for i := range items {
		a := Also{
			Op: rq.op, Bucket: rq.bkt, Key: items[i].Key, VersionID: items[i].VersionID, Size: -1, Status: http.StatusNoContent,
		}
		if err := results[i].Err; err != nil {
			e := toError(rq, err)
			a.Status, a.Code = e.Status, e.Code
		}
		out[i] = a
	}
	return out
}

// appendDeleted appends the outcome of one item.
func appendDeleted(rq *request, b []byte, it *object.DeleteItem, r *object.DeleteResult, quiet bool) []byte {
	if r.Err != nil {
		e := toError(rq, r.Err)
		b = append(b, "<Error>"...)
		b = appendElement(b, "Key", it.Key)
		if it.VersionID != "" {
			b = appendElement(b, "VersionId", it.VersionID)
		}
		b = appendElement(b, "Code", e.Code)
		b = appendElement(b, "Message", e.Message)
		return append(b, "</Error>"...)
	}
	if quiet {
		return b
	}
	b = append(b, "<Deleted>"...)
	b = appendElement(b, "Key", it.Key)
	if it.VersionID != "" {
		b = appendElement(b, "VersionId", it.VersionID)
	}
	if r.DeleteMarker {
		b = append(b, "<DeleteMarker>true</DeleteMarker>"...)
		b = appendElement(b, "DeleteMarkerVersionId", r.VersionID)
	}
	return append(b, "</Deleted>"...)
}

// parseDelete reads a Delete document.
func parseDelete(doc []byte) (items []object.DeleteItem, quiet bool, err error) {
	malformed := func() ([]object.DeleteItem, bool, error) { return nil, false, s3err.New("MalformedXML") }
	p := s3doc.NewScanner(doc)
	if name, ok := p.Root(); !ok || name != "Delete" {
		return malformed()
	}
	for {
		name, ok := p.Child()
		if !ok {
			break
		}
		switch name {
		case "Quiet":
			quiet = strings.EqualFold(strings.TrimSpace(p.Text()), "true")
		case "Object":
			if len(items) == maxDelete {
				return malformed()
			}
			if items == nil {
				items = make([]object.DeleteItem, 0, 64)
			}
			it, err := parseDeleteItem(&p)
			if err != nil {
				return nil, false, err
			}
			items = append(items, it)
		default:
			p.Skip()
		}
	}
	if !p.End() || len(items) == 0 {
		return malformed()
	}
	return slices.Clip(items), quiet, nil
}

func parseDeleteItem(p *s3doc.Scanner) (object.DeleteItem, error) {
	var it object.DeleteItem
	c := deleteCondition{size: -1}
	for {
		name, ok := p.Child()
		if !ok {
			break
		}
		switch name {
		case "Key":
			it.Key = p.Text()
		case "VersionId":
			it.VersionID = p.Text()
		case "ETag":
			c.etag = p.Text()
		case "LastModifiedTime":
			if c.modified, ok = parseHTTPTime(p.Text()); !ok {
				return it, s3err.New("MalformedXML")
			}
		case "Size":
			n, ok := parseCount(p.Text())
			if !ok {
				return it, s3err.New("MalformedXML")
			}
			c.size = n
		default:
			p.Skip()
		}
	}
	if p.Bad() || it.Key == "" {
		return it, s3err.New("MalformedXML")
	}
	it.Precondition = c.precondition()
	return it, nil
}
