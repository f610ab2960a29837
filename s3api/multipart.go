package s3api

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"firn/object"
	"firn/object/record"
	"firn/s3api/s3doc"
	"firn/s3api/s3err"
	"firn/s3api/sse"
)

// maxCompleteBody bounds the document of a completion: 10,000 parts with checksums need about 2.5 MB.
const maxCompleteBody = 8 << 20

// createUpload answers CreateMultipartUpload.
func createUpload(s *Server, rq *request) error {
	o, err := s.newVersion(rq)
	if err != nil {
		return err
	}
	if o.Checksum, err = uploadChecksum(rq.r.Header); err != nil {
		return err
	}
	id, err := s.store.CreateUpload(rq.ctx, rq.bucket, rq.key, o)
	if err != nil {
		return err
	}
	sse.TellNew(rq.h, o.Encryption, rq.r)
	if o.Checksum != nil {
		rq.set("X-Amz-Checksum-Algorithm", algorithms[o.Checksum.Algorithm].name)
		rq.set("X-Amz-Checksum-Type", checksumType(o.Checksum.Type))
	}
	b := append(rq.buf[:0], xmlHeader...)
	b = append(b, `<InitiateMultipartUploadResult xmlns="`+xmlNamespace+`">`...)
	b = appendElement(b, "Bucket", rq.bucket)
	b = appendElement(b, "Key", rq.key)
	b = appendElement(b, "UploadId", id)
	rq.buf = append(b, "</InitiateMultipartUploadResult>"...)
	return rq.writeBody(http.StatusOK, xmlContentType, rq.buf)
}

// uploadID returns the uploadId parameter, which must not be empty.
func (rq *request) uploadID() (string, error) {
	id := rq.query.Get("uploadId")
	if id == "" {
		return "", s3err.New("NoSuchUpload").With("UploadId", "")
	}
	return id, nil
}

// target reads what addresses a part and loads the upload it belongs to.
func (s *Server) target(rq *request) (up *object.UploadInfo, number int, err error) {
	id, err := rq.uploadID()
	if err != nil {
		return nil, 0, err
	}
	if number, err = rq.partNumber(); err != nil {
		return nil, 0, err
	}
	up, err = s.store.Upload(rq.ctx, rq.bucket, rq.key, id)
	return up, number, err
}

// putPart answers UploadPart.
func putPart(s *Server, rq *request) error {
	up, number, err := s.target(rq)
	if err != nil {
		return err
	}
	var o object.PutOptions
	var own *sse.Customer
	if o.DataKey, own, err = sse.OpenUpload(rq.r, s.opt.Keys, up.Options.Encryption, up.Bucket, up.Key); err != nil {
		return err
	}
	if o.Size, err = rq.bodySize(); err != nil {
		return err
	}
	if o.ContentMD5, err = contentMD5(rq); err != nil {
		return err
	}
	if o.Checksum, err = rq.checksumRequest(); err != nil {
		return err
	}
	if want := up.Options.Checksum; want != nil {
		switch {
		case o.Checksum == nil:
			o.Checksum = &object.ChecksumRequest{Algorithm: want.Algorithm}
		case o.Checksum.Algorithm != want.Algorithm:
			return s3err.InvalidRequest("Checksum Type mismatch occurred, expected checksum Type: %s, actual checksum Type: %s",
				strings.ToLower(algorithms[want.Algorithm].name), strings.ToLower(algorithms[o.Checksum.Algorithm].name))
		}
	}
	p, err := s.store.PutPart(rq.ctx, rq.bucket, rq.key, up.ID, number, rq.body, o)
	if err != nil {
		return err
	}
	rq.set("Etag", quoteETag(hex.EncodeToString(p.MD5[:])))
	sse.Tell(rq.h, up.Options.Encryption, own)
	if o.Checksum != nil && len(p.Checksum) == algorithms[o.Checksum.Algorithm].size {
		rq.set(algorithms[o.Checksum.Algorithm].header, base64.StdEncoding.EncodeToString(p.Checksum))
	}
	return rq.noContent(http.StatusOK)
}

// copyPart answers UploadPartCopy.
func copyPart(s *Server, rq *request) error {
	up, number, err := s.target(rq)
	if err != nil {
		return err
	}
	key, own, err := sse.OpenUpload(rq.r, s.opt.Keys, up.Options.Encryption, up.Bucket, up.Key)
	if err != nil {
		return err
	}
	for try := 1; ; try++ {
		src, err := s.findSource(rq)
		if err != nil {
			return err
		}
		offset, length := int64(0), int64(-1)
		if v := rq.header("X-Amz-Copy-Source-Range"); v != "" {
			if offset, length, err = copyRange(v, src.v.Size); err != nil {
				return err
			}
		}
		if n := max(length, src.v.Size-offset); length < 0 && n > object.MaxPut {
			return s3err.InvalidRequest("The specified copy source is larger than the maximum allowable size for a copy "+
				"source: %d", object.MaxPut)
		}
		p, v, err := s.store.CopyPart(rq.ctx, src.pinned(), offset, length, rq.bucket, rq.key, up.ID, number, key)
		if errors.Is(err, errSourceChanged) {
			if try < copyTries {
				continue
			}
			return s3err.New("OperationAborted")
		}
		if err != nil {
			return err
		}
		if v != nil && src.bkt.Versioning != record.VersioningOff {
			rq.set("X-Amz-Copy-Source-Version-Id", v.ID)
		}
		sse.Tell(rq.h, up.Options.Encryption, own)
		sum := record.Checksum{Value: p.Checksum}
		if up.Options.Checksum != nil {
			sum.Algorithm = up.Options.Checksum.Algorithm
		}
		return rq.writePartResult(p, &sum)
	}
}

func (rq *request) writePartResult(p *record.Part, c *record.Checksum) error {
	b := append(rq.buf[:0], xmlHeader...)
	b = append(b, `<CopyPartResult xmlns="`+xmlNamespace+`"><LastModified>`...)
	b = appendISO8601(b, p.Modified)
	b = append(b, "</LastModified>"...)
	b = appendElement(b, "ETag", quoteETag(hex.EncodeToString(p.MD5[:])))
	b = appendPartChecksum(b, c.Algorithm, c.Value)
	rq.buf = append(b, "</CopyPartResult>"...)
	return rq.writeBody(http.StatusOK, xmlContentType, rq.buf)
}

// completeUpload answers CompleteMultipartUpload. Completion copies no byte and takes one commit, so the
// response needs no white space to keep the connection alive while it runs.
func completeUpload(s *Server, rq *request) error {
	id, err := rq.uploadID()
	if err != nil {
		return err
	}
	doc, err := rq.readBody(maxCompleteBody)
	if err != nil {
		return err
	}
	if len(doc) == 0 {
		return s3err.New("MalformedXML")
	}
	// The checksum headers of this request speak of the object, not of the document.
	parts, err := parseComplete(doc)
	if err != nil {
		return err
	}
	o := object.CompleteOptions{Precondition: writePrecondition(rq), Size: -1}
	if t := rq.header("X-Amz-Mp-Object-Size"); t != "" {
		n, ok := parseCount(t)
		if !ok {
			return s3err.InvalidRequest("Value for x-amz-mp-object-size header is invalid.")
		}
		o.Size = n
	}
	up, err := s.store.Upload(rq.ctx, rq.bucket, rq.key, id)
	if err != nil && !errors.Is(err, object.ErrNoSuchUpload) {
		return err
	}
	if up != nil {
		// Clients need not send their own key again, and common ones do not; one that is sent must be right.
		if err := sse.CheckSent(rq.r, up.Options.Encryption, up.Bucket, up.Key); err != nil {
			return err
		}
	}
	if up != nil && up.Options.Checksum == nil {
		// Checksums of parts were checked when those came; the upload keeps none to compare with.
		for i := range parts {
			parts[i].Checksum = nil
		}
	}
	if o.Checksum, err = objectChecksum(rq, up, len(parts)); err != nil {
		return err
	}
	v, err := s.store.CompleteUpload(rq.ctx, rq.bucket, rq.key, id, parts, o)
	if err != nil {
		return err
	}
	rq.setNewVersionID(v.ID)
	sse.Tell(rq.h, v.Encryption, nil)
	b := append(rq.buf[:0], xmlHeader...)
	b = append(b, `<CompleteMultipartUploadResult xmlns="`+xmlNamespace+`">`...)
	b = appendElement(b, "Location", rq.location())
	b = appendElement(b, "Bucket", rq.bucket)
	b = appendElement(b, "Key", rq.key)
	rq.size = v.Size
	b = appendElement(b, "ETag", quoteETag(v.ETag))
	b = appendChecksum(b, &v.Checksum)
	rq.buf = append(b, "</CompleteMultipartUploadResult>"...)
	return rq.writeBody(http.StatusOK, xmlContentType, rq.buf)
}

// objectChecksum reads the checksum of the whole object a completion may carry. up is nil where the upload is
// gone, which a completion sent again finds.
func objectChecksum(rq *request, up *object.UploadInfo, parts int) ([]byte, error) {
	var a record.ChecksumAlgorithm
	var text string
	for i := record.ChecksumCRC32; int(i) < len(algorithms); i++ {
		if v := rq.header(algorithms[i].header); v != "" {
			if a != record.ChecksumNone {
				return nil, s3err.InvalidRequest("Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.")
			}
			a, text = i, v
		}
	}
	var want *object.ChecksumRequest
	if up != nil {
		want = up.Options.Checksum
	}
	if t := rq.header("X-Amz-Checksum-Type"); t != "" && want != nil && t != checksumType(want.Type) {
		return nil, s3err.InvalidRequest("The upload was created using the %s checksum mode. The complete request must use "+
			"the same checksum mode.", checksumType(want.Type))
	}
	if a == record.ChecksumNone {
		return nil, nil
	}
	if want != nil && want.Algorithm != a {
		return nil, s3err.InvalidRequest("Checksum Type mismatch occurred, expected checksum Type: %s, actual checksum Type: %s",
			strings.ToLower(algorithms[want.Algorithm].name), strings.ToLower(algorithms[a].name))
	}
	if value, n, ok := strings.Cut(text, "-"); ok {
		if n != strconv.Itoa(parts) {
			return nil, errChecksum(a)
		}
		text = value
	}
	return decodeChecksum(a, text)
}

// location is the address of the object a completion or a POST made.
func (rq *request) location() string {
	scheme := "http://"
	if rq.r.TLS != nil {
		scheme = "https://"
	}
	b := append([]byte(scheme), rq.r.Host...)
	b = append(b, '/')
	if !rq.vhost {
		b = append(b, rq.bucket...)
		b = append(b, '/')
	}
	return string(appendURLEncoded(b, rq.key))
}

// parseComplete reads a CompleteMultipartUpload document.
func parseComplete(doc []byte) ([]object.CompletePart, error) {
	p := s3doc.NewScanner(doc)
	if name, ok := p.Root(); !ok || name != "CompleteMultipartUpload" {
		return nil, s3err.New("MalformedXML")
	}
	var parts []object.CompletePart
	for {
		name, ok := p.Child()
		if !ok {
			break
		}
		if name != "Part" {
			p.Skip()
			continue
		}
		if len(parts) == object.MaxPart {
			return nil, s3err.New("MalformedXML")
		}
		c, err := parseCompletePart(&p)
		if err != nil {
			return nil, err
		}
		parts = append(parts, c)
	}
	if !p.End() || len(parts) == 0 {
		return nil, s3err.New("MalformedXML")
	}
	// A part listed again right behind itself replaces the line before: the Ceph suite does so after it sent a
	// part twice, and peers allow it.
	out := parts[:1]
	for _, c := range parts[1:] {
		switch last := &out[len(out)-1]; {
		case c.Number > last.Number:
			out = append(out, c)
		case c.Number == last.Number:
			*last = c
		default:
			return nil, s3err.New("InvalidPartOrder")
		}
	}
	return out, nil
}

func parseCompletePart(p *s3doc.Scanner) (object.CompletePart, error) {
	var c object.CompletePart
	for {
		name, ok := p.Child()
		if !ok {
			break
		}
		switch name {
		case "PartNumber":
			n, ok := parseCount(strings.TrimSpace(p.Text()))
			if !ok || n < 1 || n > object.MaxPart {
				return c, s3err.InvalidArgument("partNumber", strconv.FormatInt(n, 10),
					"PartNumber must be an integer between 1 and 10000, inclusive")
			}
			c.Number = int(n)
		case "ETag":
			c.ETag = strings.ToLower(unquoteETag(p.Text()))
		default:
			a := record.ChecksumNone
			if suffix, ok := strings.CutPrefix(name, "Checksum"); ok {
				a = parseAlgorithm(suffix)
			}
			if a == record.ChecksumNone {
				p.Skip()
				continue
			}
			b, err := base64.StdEncoding.DecodeString(p.Text())
			if err != nil || len(b) != algorithms[a].size {
				return c, s3err.New("InvalidPart")
			}
			c.Checksum = b
		}
	}
	if p.Bad() || c.Number == 0 || c.ETag == "" {
		return c, s3err.New("MalformedXML")
	}
	return c, nil
}

// abortUpload answers AbortMultipartUpload.
func abortUpload(s *Server, rq *request) error {
	id, err := rq.uploadID()
	if err != nil {
		return err
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
	if err := s.store.AbortUpload(rq.ctx, rq.bucket, rq.key, id); err != nil {
		return err
	}
	return rq.noContent(http.StatusNoContent)
}
