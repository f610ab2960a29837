package loadgen

import (
	"cmp"
	"context"
	"crypto/md5"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"firn/auth"
	"firn/auth/sigv4"
)

// fakeS3 is a small S3 server in memory that verifies every signature with the server's own verifier.
type fakeS3 struct {
	t        *testing.T
	verifier *sigv4.Verifier
	hook     func(w http.ResponseWriter, r *http.Request) bool // true: it has answered
	mu       struct {
		sync.Mutex
		bucket  bool
		objects map[string][]byte
		uploads map[string]map[int][]byte
		methods map[string]int
		payload map[sigv4.Payload]int
	}
}

const (
	testAccess = "AKTEST"
	testSecret = "secret/with+signs"
)

func newFake(t *testing.T) (*fakeS3, Target) {
	t.Helper()
	f := &fakeS3{t: t}
	f.mu.objects = map[string][]byte{}
	f.mu.uploads = map[string]map[int][]byte{}
	f.mu.methods = map[string]int{}
	f.mu.payload = map[sigv4.Payload]int{}
	f.verifier = sigv4.New(func(_ context.Context, key string) (string, *auth.Identity, error) {
		if key != testAccess {
			return "", nil, auth.ErrNoSuchKey
		}
		return testSecret, &auth.Identity{Name: "root", AccessKey: key, Canonical: strings.Repeat("a", 64), Root: true}, nil
	}, sigv4.Options{Region: sigv4.DefaultRegion})
	srv := httptest.NewServer(f)
	t.Cleanup(srv.Close)
	return f, Target{Endpoint: srv.URL, AccessKey: testAccess, SecretKey: testSecret}
}

func (f *fakeS3) fail(w http.ResponseWriter, status int, code string) {
	w.WriteHeader(status)
	fmt.Fprintf(w, "<Error><Code>%s</Code><Message>no</Message></Error>", code)
}

func (f *fakeS3) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	res, err := f.verifier.Verify(r)
	if err != nil || res.Type != sigv4.Header {
		f.t.Errorf("%s %s: %v, %v", r.Method, r.URL, res, err)
		f.fail(w, 403, "SignatureDoesNotMatch")
		return
	}
	rc, err := res.Body(r)
	if err != nil {
		f.t.Errorf("%s %s: %v", r.Method, r.URL, err)
		f.fail(w, 400, "BadRequest")
		return
	}
	data, err := io.ReadAll(rc)
	if err != nil {
		f.t.Errorf("%s %s: body: %v", r.Method, r.URL, err)
		f.fail(w, 400, "BadRequest")
		return
	}
	if f.hook != nil && f.hook(w, r) {
		return
	}
	bucket, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	q := r.URL.Query()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.methods[r.Method]++
	if bucket != "firn-bench" {
		f.t.Errorf("bucket %q", bucket)
	}
	if !f.mu.bucket && (key != "" || r.Method != http.MethodPut) {
		f.fail(w, 404, "NoSuchBucket")
		return
	}
	switch id := q.Get("uploadId"); {
	case key == "" && r.Method == http.MethodPut:
		f.mu.bucket = true
	case key == "" && r.Method == http.MethodDelete:
		if len(f.mu.objects)+len(f.mu.uploads) > 0 {
			f.fail(w, 409, "BucketNotEmpty")
			return
		}
		f.mu.bucket = false
		w.WriteHeader(204)
	case key == "" && q.Has("delete"):
		var doc struct{ Object []struct{ Key string } }
		if err := xml.Unmarshal(data, &doc); err != nil {
			f.t.Error(err)
		}
		for _, o := range doc.Object {
			delete(f.mu.objects, o.Key)
		}
		fmt.Fprint(w, "<DeleteResult></DeleteResult>")
	case key == "" && q.Has("uploads"):
		fmt.Fprint(w, "<ListMultipartUploadsResult>")
		for id := range f.mu.uploads {
			fmt.Fprintf(w, "<Upload><Key>%s</Key><UploadId>%s</UploadId></Upload>", strings.Split(id, "&")[0], xmlText(id))
		}
	case key == "" && r.Method == http.MethodHead:
	case key == "":
		f.list(w, r)
	case r.Method == http.MethodPost && q.Has("uploads"):
		id := key + "&" + strconv.Itoa(f.mu.methods[r.Method])
		f.mu.uploads[id] = map[int][]byte{}
		fmt.Fprintf(w, "<R><UploadId>%s</UploadId></R>", xmlText(id))
	case id != "" && f.mu.uploads[id] == nil:
		f.fail(w, 404, "NoSuchUpload")
	case id != "" && r.Method == http.MethodPut:
		n, err := strconv.Atoi(q.Get("partNumber"))
		if err != nil {
			f.t.Error(err)
		}
		f.mu.uploads[id][n] = data
		w.Header().Set("ETag", etag(data))
	case id != "" && r.Method == http.MethodPost:
		var doc struct {
			Part []struct {
				PartNumber int
				ETag       string
			}
		}
		if err := xml.Unmarshal(data, &doc); err != nil {
			f.t.Error(err)
		}
		var whole []byte
		for _, p := range doc.Part {
			part := f.mu.uploads[id][p.PartNumber]
			if p.ETag != etag(part) {
				f.t.Errorf("part %d: etag %s", p.PartNumber, p.ETag)
			}
			whole = append(whole, part...)
		}
		f.mu.objects[key] = whole
		delete(f.mu.uploads, id)
	case id != "":
		delete(f.mu.uploads, id)
		w.WriteHeader(204)
	case r.Method == http.MethodPut:
		f.mu.payload[res.Payload]++
		f.mu.objects[key] = data
		w.Header().Set("ETag", etag(data))
	case r.Method == http.MethodDelete:
		delete(f.mu.objects, key)
		w.WriteHeader(204)
	default:
		data, ok := f.mu.objects[key]
		if !ok {
			f.fail(w, 404, "NoSuchKey")
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		if r.Method == http.MethodGet {
			if _, err := w.Write(data); err != nil {
				f.t.Error(err)
			}
		}
	}
}

func (f *fakeS3) list(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	after := cmp.Or(q.Get("continuation-token"), q.Get("start-after"))
	limit, err := strconv.Atoi(q.Get("max-keys"))
	if err != nil {
		f.t.Error(err)
	}
	var keys []string
	for k := range f.mu.objects {
		if strings.HasPrefix(k, q.Get("prefix")) && k > after {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	more := len(keys) > limit
	keys = keys[:min(len(keys), limit)]
	fmt.Fprintf(w, "<ListBucketResult><IsTruncated>%v</IsTruncated>", more)
	if more {
		fmt.Fprintf(w, "<NextContinuationToken>%s</NextContinuationToken>", xmlText(keys[len(keys)-1]))
	}
	for _, k := range keys {
		fmt.Fprintf(w, "<Contents><Key>%s</Key></Contents>", xmlText(k))
	}
}

func xmlText(s string) string {
	var b strings.Builder
	if err := xml.EscapeText(&b, []byte(s)); err != nil {
		return err.Error()
	}
	return b.String()
}

func etag(p []byte) string {
	sum := md5.Sum(p)
	return `"` + hex.EncodeToString(sum[:]) + `"`
}

func newTLSFake(t *testing.T) Target {
	t.Helper()
	f, target := newFake(t)
	srv := httptest.NewTLSServer(f)
	t.Cleanup(srv.Close)
	target.Endpoint = srv.URL
	return target
}
