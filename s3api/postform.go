package s3api

import (
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"

	"firn/auth"
	"firn/object"
	"firn/object/record"
	"firn/s3api/postform"
	"firn/s3api/s3doc"
	"firn/s3api/s3err"
	"firn/s3api/sse"
)

// formHeaders are the fields of a POST form that carry what a PUT carries in a header of the same name, beside the
// x-amz- ones.
var formHeaders = []string{
	"cache-control", "content-type", "content-disposition", "content-encoding", "content-language", "expires",
}

const headerTagging = "X-Amz-Tagging"

// headersOfForm turns a form into the headers of the PUT that would do the same, so that both are read by the same
// code. Fields that are about the form itself are left out.
func headersOfForm(r http.Header, f postform.Fields) (http.Header, error) {
	h := make(http.Header)
	for k, v := range r {
		// What the browser said about itself stays, for policies that ask for it and for CORS.
		if !strings.HasPrefix(k, "X-Amz-") && k != "Authorization" && !slices.Contains(formHeaders, strings.ToLower(k)) {
			h[k] = v
		}
	}
	// They are about the form's body, not about the file.
	for _, k := range []string{"Content-Length", "Content-Md5", "If-Match", "If-None-Match"} {
		h.Del(k)
	}
	for _, twice := range [][2]string{{"acl", "x-amz-acl"}, {"tagging", "x-amz-tagging"}} {
		if _, a := f[twice[0]]; a {
			if _, b := f[twice[1]]; b {
				return nil, s3err.InvalidArgument(twice[1], "", "The form says the same with %s and %s.", twice[0], twice[1])
			}
		}
	}
	for name, value := range f {
		key := textproto.CanonicalMIMEHeaderKey(name)
		switch {
		case name == "acl":
			key = headerACL
		case name == "tagging":
			q, err := tagQuery(value)
			if err != nil {
				return nil, err
			}
			key, value = headerTagging, q
		case !strings.HasPrefix(name, "x-amz-") && !slices.Contains(formHeaders, name):
			continue
		}
		if !s3doc.IsToken(name) || strings.ContainsAny(value, "\r\n\x00") {
			return nil, s3err.InvalidArgument("", "", "A form field has characters that a header cannot have.")
		}
		h[key] = []string{value}
	}
	return h, nil
}

// tagQuery turns a Tagging document into what the tagging header has.
func tagQuery(doc string) (string, error) {
	tags, err := s3doc.ParseTagging([]byte(doc), object.MaxTags, "Object tags")
	if err != nil {
		return "", err
	}
	q := make([]string, 0, len(tags))
	for _, t := range tags {
		q = append(q, url.QueryEscape(t.Name)+"="+url.QueryEscape(t.Value))
	}
	return strings.Join(q, "&"), nil
}

// postObject answers a browser's POST form: the fields say what is to be stored, the signed policy among them what
// may be, and the file is streamed into the store.
func postObject(s *Server, rq *request) error {
	form, err := postform.Read(rq.header("Content-Type"), rq.r.Body)
	if err != nil {
		return err
	}
	f := form.Fields
	if rq.sig, err = s.verifier.VerifyForm(rq.ctx, func(name string) string { return f[name] }); err != nil {
		return err
	}
	rq.who = rq.sig.Identity
	if b, sent := f["bucket"]; sent && b != rq.bucket {
		return s3err.New("AccessDenied").Saying("Invalid according to Policy: the form is for bucket %s.", b)
	}
	// The bucket counts as a field, so that a policy must say which bucket it is for.
	f["bucket"] = rq.bucket
	if f["key"] == "" {
		return s3err.InvalidArgument("key", "", "Bucket POST must contain a field named 'key'.  If it is specified, please "+
			"check the order of the fields.")
	}
	// Conditions hold for the key the object gets.
	f["key"] = strings.ReplaceAll(f["key"], "${filename}", form.Filename)
	least, most := int64(0), int64(object.MaxPut)
	if encoded, signed := f["policy"]; signed {
		p, err := postform.ParsePolicy(encoded, object.MaxPut)
		if err != nil {
			return err
		}
		if err := p.Check(f, rq.start); err != nil {
			return err
		}
		least, most = p.Min, p.Max
	}
	if rq.key = f["key"]; rq.key == "" {
		return s3err.InvalidArgument("key", "", "The file has no name to make a key of.")
	}
	if rq.r.Header, err = headersOfForm(rq.r.Header, f); err != nil {
		return err
	}
	if err := s.authorize(rq, rq.action); err != nil {
		return err
	}
	o, err := s.formVersion(rq)
	if err != nil {
		return err
	}
	if o.Checksum, err = rq.checksumRequest(); err != nil {
		return err
	}
	o.Size = -1
	v, err := s.store.Put(rq.ctx, rq.bucket, rq.key, postform.Sized(form.File, least, most), o)
	if err != nil {
		return err
	}
	return rq.answerForm(v, f)
}

// formVersion is newVersion, but that who may write by the bucket's ACL may also tag what it writes, as its owner.
func (s *Server) formVersion(rq *request) (object.PutOptions, error) {
	tags, err := parseTagHeader(rq.header(headerTagging))
	if err != nil {
		return object.PutOptions{}, err
	}
	rq.newTags = tags
	rq.r.Header.Del(headerTagging)
	o, err := s.newVersion(rq)
	if err != nil {
		return o, err
	}
	if o.Tags = tags; len(tags) > 0 && rq.decision.By != auth.ByACL {
		return o, s.authorize(rq, "s3:PutObjectTagging")
	}
	return o, nil
}

// answerForm tells the browser that its object is stored, in the way the form asks for.
func (rq *request) answerForm(v *record.Version, f postform.Fields) error {
	rq.size = v.Size
	etag := quoteETag(v.ETag)
	rq.set("Etag", etag)
	rq.setChecksum(&v.Checksum)
	rq.setNewVersionID(v.ID)
	sse.TellNew(rq.h, v.Encryption, rq.r)
	redirect := f["success_action_redirect"]
	if redirect == "" {
		redirect = f["redirect"]
	}
	// As on S3, a URL that cannot be read is as good as none.
	if u, err := url.Parse(redirect); err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" {
		q := "bucket=" + url.QueryEscape(v.Bucket) + "&key=" + url.QueryEscape(v.Key) + "&etag=" + url.QueryEscape(etag)
		if u.RawQuery != "" {
			q = u.RawQuery + "&" + q
		}
		u.RawQuery = q
		rq.set("Location", u.String())
		return rq.noContent(http.StatusSeeOther)
	}
	location := rq.objectURL(v)
	rq.set("Location", location)
	switch f["success_action_status"] {
	case "200":
		return rq.noContent(http.StatusOK)
	case "201":
		// The one document of S3 without a namespace.
		b := append(rq.buf[:0], xmlHeader+"<PostResponse>"...)
		b = appendElement(b, "Location", location)
		b = appendElement(b, "Bucket", v.Bucket)
		b = appendElement(b, "Key", v.Key)
		b = appendElement(b, "ETag", etag)
		rq.buf = append(b, "</PostResponse>"...)
		return rq.writeBody(http.StatusCreated, xmlContentType, rq.buf)
	}
	return rq.noContent(http.StatusNoContent)
}

// objectURL is the address of an object, in the style the request was made in.
func (rq *request) objectURL(v *record.Version) string {
	u := url.URL{Scheme: "http", Host: rq.r.Host, Path: "/" + v.Bucket + "/" + v.Key}
	if rq.r.TLS != nil {
		u.Scheme = "https"
	}
	if rq.vhost {
		u.Path = "/" + v.Key
	}
	return u.String()
}
