// Package wire is a bare S3 client for the tests below test/: one HTTP request a call, signed by its own few lines
// of Signature Version 4, never sent twice.
//
// It promises that an answer is the server's answer to exactly one request, and that a path goes out with the bytes
// the test gave it. It must never import a package of the product: its signature is a second opinion on auth/sigv4.
package wire

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

const region = "us-east-1"

// Client talks to one S3 endpoint. Its methods may be called concurrently.
type Client struct {
	addr      string
	access    string
	secret    string
	transport *http.Transport
}

// New returns a client of the server at addr (host:port), plain HTTP.
func New(addr, accessKey, secretKey string) *Client {
	return &Client{addr: addr, access: accessKey, secret: secretKey, transport: &http.Transport{
		MaxIdleConnsPerHost: 128, DisableCompression: true, IdleConnTimeout: time.Minute,
	}}
}

// Anonymous returns a client that shares c's connections and does not sign.
func (c *Client) Anonymous() *Client {
	return &Client{addr: c.addr, transport: c.transport}
}

// CloseIdle closes the idle connections, as after a restart of the server.
func (c *Client) CloseIdle() { c.transport.CloseIdleConnections() }

// Request is one request.
type Request struct {
	Method string
	Bucket string
	Key    string
	// RawPath is sent as the path in place of the encoded bucket and key.
	RawPath string
	Query   url.Values
	Header  http.Header
	Body    []byte
}

// Response is an answer, read to its end.
type Response struct {
	Status int
	Header http.Header
	Body   []byte
}

// ETag returns the ETag without its quotes.
func (r *Response) ETag() string { return strings.Trim(r.Header.Get("ETag"), `"`) }

// VersionID returns x-amz-version-id, "" where none was sent.
func (r *Response) VersionID() string { return r.Header.Get("X-Amz-Version-Id") }

// Code returns the error code of an S3 error body, "" where the body is none.
func (r *Response) Code() string {
	var e struct {
		XMLName xml.Name `xml:"Error"`
		Code    string
	}
	if xml.Unmarshal(r.Body, &e) != nil {
		return ""
	}
	return e.Code
}

// String describes the answer for a failure message.
func (r *Response) String() string {
	return fmt.Sprintf("%d %s %.300q", r.Status, r.Code(), r.Body)
}

// Do sends one request. The error is not nil where no whole answer came; a Response with the part of the body that
// arrived comes with it where at least the header did.
func (c *Client) Do(ctx context.Context, r Request) (*Response, error) {
	raw := r.RawPath
	if raw == "" {
		raw = "/" + r.Bucket
		if r.Key != "" {
			raw += "/" + Escape(r.Key)
		}
	}
	path, err := url.PathUnescape(raw)
	if err != nil {
		return nil, err
	}
	u := &url.URL{Scheme: "http", Host: c.addr, Path: path, RawPath: raw, RawQuery: canonicalQuery(r.Query)}
	req, err := http.NewRequestWithContext(ctx, r.Method, "http://"+c.addr+"/", bytes.NewReader(r.Body))
	if err != nil {
		return nil, err
	}
	req.URL = u
	if r.Header != nil {
		req.Header = r.Header.Clone()
	}
	if c.access != "" {
		c.sign(req, path, r.Body, time.Now())
	}
	resp, err := c.transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return &Response{Status: resp.StatusCode, Header: resp.Header, Body: body}, err
}

// sign adds Signature Version 4 in the Authorization header. path is the decoded path.
func (c *Client) sign(req *http.Request, path string, body []byte, now time.Time) {
	sum := sha256.Sum256(body)
	payload := hex.EncodeToString(sum[:])
	stamp := now.UTC().Format("20060102T150405Z")
	req.Header.Set("X-Amz-Date", stamp)
	req.Header.Set("X-Amz-Content-Sha256", payload)
	names := []string{"host"}
	for name := range req.Header {
		if lower := strings.ToLower(name); strings.HasPrefix(lower, "x-amz-") || lower == "content-md5" {
			names = append(names, lower)
		}
	}
	slices.Sort(names)
	var headers strings.Builder
	for _, name := range names {
		value := c.addr
		if name != "host" {
			value = strings.Join(req.Header.Values(name), ",")
		}
		fmt.Fprintf(&headers, "%s:%s\n", name, strings.TrimSpace(value))
	}
	signed := strings.Join(names, ";")
	canonical := strings.Join([]string{
		req.Method, Escape(path), req.URL.RawQuery, headers.String(), signed, payload,
	}, "\n")
	hashed := sha256.Sum256([]byte(canonical))
	scope := stamp[:8] + "/" + region + "/s3/aws4_request"
	text := "AWS4-HMAC-SHA256\n" + stamp + "\n" + scope + "\n" + hex.EncodeToString(hashed[:])
	key := []byte("AWS4" + c.secret)
	for _, s := range []string{stamp[:8], region, "s3", "aws4_request"} {
		key = mac(key, s)
	}
	req.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential="+c.access+"/"+scope+
		",SignedHeaders="+signed+",Signature="+hex.EncodeToString(mac(key, text)))
}

func mac(key []byte, s string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(s))
	return h.Sum(nil)
}

// Escape encodes a path as SigV4 and S3 do: every byte but the unreserved ones and the slash.
func Escape(s string) string { return escape(s, true) }

func escape(s string, slash bool) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9',
			c == '-', c == '_', c == '.', c == '~', c == '/' && slash:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

func canonicalQuery(q url.Values) string {
	names := make([]string, 0, len(q))
	for name := range q {
		names = append(names, name)
	}
	slices.Sort(names)
	var b strings.Builder
	for _, name := range names {
		for _, value := range slices.Sorted(slices.Values(q[name])) {
			if b.Len() > 0 {
				b.WriteByte('&')
			}
			b.WriteString(escape(name, false) + "=" + escape(value, false))
		}
	}
	return b.String()
}

// Header makes a header of names and values in turn.
func Header(pairs ...string) http.Header {
	h := http.Header{}
	for i := 0; i+1 < len(pairs); i += 2 {
		h.Add(pairs[i], pairs[i+1])
	}
	return h
}

// Query makes query values of names and values in turn.
func Query(pairs ...string) url.Values {
	q := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		q.Add(pairs[i], pairs[i+1])
	}
	return q
}

// Put stores an object.
func (c *Client) Put(ctx context.Context, bucket, key string, body []byte, h http.Header) (*Response, error) {
	return c.Do(ctx, Request{Method: http.MethodPut, Bucket: bucket, Key: key, Body: body, Header: h})
}

// Get reads an object; version "" is the current one.
func (c *Client) Get(ctx context.Context, bucket, key, version string) (*Response, error) {
	return c.Do(ctx, Request{Method: http.MethodGet, Bucket: bucket, Key: key, Query: versionQuery(version)})
}

// Head reads an object's header; version "" is the current one.
func (c *Client) Head(ctx context.Context, bucket, key, version string) (*Response, error) {
	return c.Do(ctx, Request{Method: http.MethodHead, Bucket: bucket, Key: key, Query: versionQuery(version)})
}

// Delete deletes an object; version "" lays a delete marker in a versioned bucket.
func (c *Client) Delete(ctx context.Context, bucket, key, version string) (*Response, error) {
	return c.Do(ctx, Request{Method: http.MethodDelete, Bucket: bucket, Key: key, Query: versionQuery(version)})
}

func versionQuery(version string) url.Values {
	if version == "" {
		return nil
	}
	return Query("versionId", version)
}

// Copy copies the current version of bucket/source to bucket/key.
func (c *Client) Copy(ctx context.Context, bucket, source, key string, h http.Header) (*Response, error) {
	if h == nil {
		h = http.Header{}
	}
	h.Set("X-Amz-Copy-Source", "/"+bucket+"/"+Escape(source))
	return c.Do(ctx, Request{Method: http.MethodPut, Bucket: bucket, Key: key, Header: h})
}

// DeleteMany deletes the current objects of keys by one request.
func (c *Client) DeleteMany(ctx context.Context, bucket string, keys []string) (*Response, error) {
	type object struct{ Key string }
	var doc struct {
		XMLName xml.Name `xml:"Delete"`
		Object  []object
		Quiet   bool
	}
	doc.Quiet = true
	for _, key := range keys {
		doc.Object = append(doc.Object, object{key})
	}
	body, err := xml.Marshal(doc)
	if err != nil {
		return nil, err
	}
	sum := md5.Sum(body)
	return c.Do(ctx, Request{
		Method: http.MethodPost, Bucket: bucket, Query: Query("delete", ""), Body: body,
		Header: Header("Content-MD5", base64.StdEncoding.EncodeToString(sum[:])),
	})
}

// CreateBucket makes a bucket.
func (c *Client) CreateBucket(ctx context.Context, bucket string) (*Response, error) {
	return c.Do(ctx, Request{Method: http.MethodPut, Bucket: bucket})
}

// EnableVersioning switches a bucket's versioning on.
func (c *Client) EnableVersioning(ctx context.Context, bucket string) (*Response, error) {
	return c.Do(ctx, Request{
		Method: http.MethodPut, Bucket: bucket, Query: Query("versioning", ""),
		Body: []byte(`<VersioningConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/">` +
			`<Status>Enabled</Status></VersioningConfiguration>`),
	})
}

// CreateUpload starts a multipart upload and returns its id.
func (c *Client) CreateUpload(ctx context.Context, bucket, key string, h http.Header) (string, *Response, error) {
	resp, err := c.Do(ctx, Request{
		Method: http.MethodPost, Bucket: bucket, Key: key, Query: Query("uploads", ""), Header: h,
	})
	if err != nil || resp.Status != http.StatusOK {
		return "", resp, err
	}
	var doc struct{ UploadId string }
	if err := xml.Unmarshal(resp.Body, &doc); err != nil {
		return "", resp, err
	}
	return doc.UploadId, resp, nil
}

// PutPart uploads a part.
func (c *Client) PutPart(ctx context.Context, bucket, key, upload string, number int, body []byte) (*Response, error) {
	return c.Do(ctx, Request{
		Method: http.MethodPut, Bucket: bucket, Key: key, Body: body,
		Query: Query("uploadId", upload, "partNumber", strconv.Itoa(number)),
	})
}

// CompleteUpload makes the object of parts 1, 2, ... with the given ETags. S3 may answer 200 and an error in the body;
// such an answer comes back with status 500.
func (c *Client) CompleteUpload(ctx context.Context, bucket, key, upload string, etags []string) (*Response, error) {
	var body strings.Builder
	body.WriteString("<CompleteMultipartUpload>")
	for i, etag := range etags {
		fmt.Fprintf(&body, "<Part><PartNumber>%d</PartNumber><ETag>%s</ETag></Part>", i+1, etag)
	}
	body.WriteString("</CompleteMultipartUpload>")
	resp, err := c.Do(ctx, Request{
		Method: http.MethodPost, Bucket: bucket, Key: key, Body: []byte(body.String()), Query: Query("uploadId", upload),
	})
	if err == nil && resp.Status == http.StatusOK && resp.Code() != "" {
		resp.Status = http.StatusInternalServerError
	}
	return resp, err
}

// AbortUpload aborts a multipart upload.
func (c *Client) AbortUpload(ctx context.Context, bucket, key, upload string) (*Response, error) {
	return c.Do(ctx, Request{Method: http.MethodDelete, Bucket: bucket, Key: key, Query: Query("uploadId", upload)})
}

// Item is one line of a listing.
type Item struct {
	Key          string
	VersionID    string // of version listings only
	ETag         string // without quotes
	Size         int64
	Latest       bool
	DeleteMarker bool
}

// List returns all current objects of a bucket below prefix, by pages of the server's default size.
func (c *Client) List(ctx context.Context, bucket, prefix string) ([]Item, error) {
	var items []Item
	token := ""
	for {
		q := Query("list-type", "2", "prefix", prefix, "encoding-type", "url")
		if token != "" {
			q.Set("continuation-token", token)
		}
		var page struct {
			IsTruncated           bool
			NextContinuationToken string
			Contents              []struct {
				Key, ETag string
				Size      int64
			}
		}
		if err := c.page(ctx, bucket, q, &page); err != nil {
			return nil, err
		}
		for _, o := range page.Contents {
			key, err := url.QueryUnescape(o.Key)
			if err != nil {
				return nil, fmt.Errorf("list %s: %w", bucket, err)
			}
			items = append(items, Item{Key: key, ETag: strings.Trim(o.ETag, `"`), Size: o.Size, Latest: true})
		}
		if !page.IsTruncated {
			return items, nil
		}
		if page.NextContinuationToken == "" || page.NextContinuationToken == token {
			return nil, fmt.Errorf("list %s: truncated page without a new token", bucket)
		}
		token = page.NextContinuationToken
	}
}

// ListVersions returns all versions and delete markers of a bucket below prefix in the order of the listing.
func (c *Client) ListVersions(ctx context.Context, bucket, prefix string) ([]Item, error) {
	var items []Item
	key, version := "", ""
	for {
		q := Query("versions", "", "prefix", prefix, "encoding-type", "url")
		if key != "" {
			q.Set("key-marker", key)
			q.Set("version-id-marker", version)
		}
		var page struct {
			IsTruncated         bool
			NextKeyMarker       string
			NextVersionIdMarker string
			Entries             []struct {
				XMLName              xml.Name
				Key, VersionId, ETag string
				Size                 int64
				IsLatest             bool
			} `xml:",any"`
		}
		if err := c.page(ctx, bucket, q, &page); err != nil {
			return nil, err
		}
		for _, e := range page.Entries {
			if e.XMLName.Local != "Version" && e.XMLName.Local != "DeleteMarker" {
				continue
			}
			k, err := url.QueryUnescape(e.Key)
			if err != nil {
				return nil, fmt.Errorf("list versions %s: %w", bucket, err)
			}
			items = append(items, Item{
				Key: k, VersionID: e.VersionId, ETag: strings.Trim(e.ETag, `"`), Size: e.Size, Latest: e.IsLatest,
				DeleteMarker: e.XMLName.Local == "DeleteMarker",
			})
		}
		if !page.IsTruncated {
			return items, nil
		}
		k, err := url.QueryUnescape(page.NextKeyMarker)
		if err != nil {
			return nil, fmt.Errorf("list versions %s: %w", bucket, err)
		}
		if k == key && page.NextVersionIdMarker == version {
			return nil, fmt.Errorf("list versions %s: truncated page without a new marker", bucket)
		}
		key, version = k, page.NextVersionIdMarker
	}
}

func (c *Client) page(ctx context.Context, bucket string, q url.Values, into any) error {
	resp, err := c.Do(ctx, Request{Method: http.MethodGet, Bucket: bucket, Query: q})
	if err != nil {
		return fmt.Errorf("list %s: %w", bucket, err)
	}
	if resp.Status != http.StatusOK {
		return fmt.Errorf("list %s: %v", bucket, resp)
	}
	if err := xml.Unmarshal(resp.Body, into); err != nil {
		return fmt.Errorf("list %s: %w", bucket, err)
	}
	return nil
}
