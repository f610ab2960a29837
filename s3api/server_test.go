package s3api

import (
	"bytes"
	"context"
	"encoding/xml"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"firn/object"
	"firn/s3api/s3err"
)

func TestErrorDocument(t *testing.T) {
	h := newHarness(t, Options{})
	r := h.refused(404, "NoSuchBucket", "GET", "/nosuch/a%26b", "")
	var e struct {
		XMLName    xml.Name `xml:"Error"`
		Code       string
		Message    string
		BucketName string
		Resource   string
		RequestID  string `xml:"RequestId"`
		HostID     string `xml:"HostId"`
	}
	r.parse(t, &e)
	if e.Message != "The specified bucket does not exist" || e.BucketName != "nosuch" || e.Resource != "/nosuch/a&b" ||
		e.RequestID == "" || e.RequestID != r.header.Get("X-Amz-Request-Id") || e.HostID != r.header.Get("X-Amz-Id-2") {
		t.Errorf("%+v %v", e, r.header)
	}
	if r.header.Get("Content-Type") != "application/xml" || r.header.Get("Server") != "Firn" || r.header.Get("Date") == "" {
		t.Errorf("%v", r.header)
	}
	if again := h.do("GET", "/nosuch/k", ""); again.header.Get("X-Amz-Request-Id") == e.RequestID {
		t.Error("request id used twice")
	}
}

func TestRouting(t *testing.T) {
	h := newHarness(t, Options{})
	h.must("PUT", "/bkt", "")
	h.must("PUT", "/bkt/k", "x")
	tests := []struct {
		method, target string
		status         int
		code           string
	}{
		{"GET", "/bkt?website", 404, "NoSuchWebsiteConfiguration"},
		{"PUT", "/bkt?website", 501, "NotImplemented"},
		{"PUT", "/bkt?replication", 501, "NotImplemented"},
		{"PUT", "/bkt?inventory&id=1", 501, "NotImplemented"},
		{"POST", "/bkt/k?select&select-type=2", 501, "NotImplemented"},
		{"GET", "/bkt/k?torrent", 501, "NotImplemented"},
		{"POST", "/bkt/k", 405, "MethodNotAllowed"},
		{"PATCH", "/bkt/k", 405, "MethodNotAllowed"},
		{"DELETE", "/", 405, "MethodNotAllowed"},
		{"GET", "/bkt/k?unknown-parameter=1", 200, ""},
		{"GET", "/bkt/k?x-id=GetObject", 200, ""},
		{"DELETE", "/bkt?newthing", 501, "NotImplemented"},
		{"DELETE", "/bkt/k?newthing=", 501, "NotImplemented"},
		{"PUT", "/bkt/k?renameObject", 501, "NotImplemented"},
		{"PUT", "/bkt/k?versionId=1", 400, "InvalidArgument"},
		{"PUT", "/bkt/k?partNumber=1", 400, "InvalidArgument"},
		{"GET", "/bkt?prefix&delimiter=", 200, ""},
		{"GET", "/bkt?list-type=2&prefix=k", 200, ""},
		{"GET", "/bkt/", 200, ""},
		{"GET", "/bkt/?location", 200, ""},
		{"GET", "//k", 400, "InvalidBucketName"},
		{"GET", "//", 200, ""},
	}
	for _, tt := range tests {
		if r := h.do(tt.method, tt.target, ""); r.status != tt.status || r.code() != tt.code {
			t.Errorf("%s %s: %d %q, want %d %q", tt.method, tt.target, r.status, r.code(), tt.status, tt.code)
		}
	}
}

func TestVirtualHosts(t *testing.T) {
	h := newHarness(t, Options{Domains: []string{"S3.example.test", "other.test"}})
	h.must("PUT", "/bkt", "")
	h.must("PUT", "/bkt/dir/k", "content")
	for _, host := range []string{"bkt.s3.example.test", "BKT.other.test:9000"} {
		req, err := http.NewRequest("GET", h.http.URL+"/dir/k", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		h.sign(req)
		if r := h.send(req); r.body != "content" {
			t.Errorf("%s: %d %s", host, r.status, r.body)
		}
	}
	tests := []struct{ host, bucket string }{
		{"s3.example.test", ""},
		{"a.s3.example.test", "a"},
		{"a.b.s3.example.test.", "a.b"},
		{"s3.example.test:80", ""},
		{"as3.example.test", ""},
		{"[::1]:9000", ""},
		{"", ""},
	}
	for _, tt := range tests {
		if got := bucketFromHost(tt.host, []string{"s3.example.test"}); got != tt.bucket {
			t.Errorf("bucketFromHost(%q) = %q, want %q", tt.host, got, tt.bucket)
		}
	}
}

func TestStalledBody(t *testing.T) {
	h := newHarness(t, Options{StallTimeout: 50 * time.Millisecond})
	h.must("PUT", "/bkt", "", "x-amz-acl: public-read-write")
	_, r := h.raw("PUT /bkt/k HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nsome")
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(res.Body)
	if res.StatusCode != 400 || !strings.Contains(string(b), "<Code>RequestTimeout</Code>") {
		t.Errorf("%d %s", res.StatusCode, b)
	}
	if _, err := r.ReadByte(); err == nil {
		t.Error("the connection goes on")
	}
	h.refused(404, "NoSuchKey", "GET", "/bkt/k", "")
}

func TestTooManyAtOnce(t *testing.T) {
	h := newHarness(t, Options{MaxConcurrent: 1})
	h.must("PUT", "/bkt", "")
	in, let := make(chan struct{}), make(chan struct{})
	h.s.routes.by[atBucket][""]["HEAD"].handle = func(_ *Server, rq *request) error {
		close(in)
		<-let
		return rq.noContent(http.StatusOK)
	}
	done := make(chan int)
	go func() {
		// The PUT's count goes down after its response is out, so the first try may come too early.
		status := 503
		for status == 503 {
			status = h.do("HEAD", "/bkt", "").status
		}
		done <- status
	}()
	<-in
	r := h.do("GET", "/bkt", "")
	close(let)
	if first := <-done; first != 200 {
		t.Errorf("the first: %d", first)
	}
	if r.status != 503 || r.code() != "SlowDown" {
		t.Errorf("the second: %d %s", r.status, r.body)
	}
	for r = h.do("GET", "/bkt", ""); r.status == 503; r = h.do("GET", "/bkt", "") {
	}
	if r.status != 200 {
		t.Errorf("afterwards: %d %s", r.status, r.body)
	}
}

// TestPanic: a handler that panics is answered with 500 and logged, and the server goes on.
func TestPanic(t *testing.T) {
	var log bytes.Buffer
	h := newHarness(t, Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	h.s.routes.by[atService][""]["GET"].handle = func(*Server, *request) error { panic("boom") }
	w := httptest.NewRecorder()
	req := httptest.NewRequest("GET", "/", http.NoBody)
	h.s.ServeHTTP(w, req)
	if w.Code != 500 || !strings.Contains(w.Body.String(), "<Code>InternalError</Code>") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if !strings.Contains(log.String(), "boom") || !strings.Contains(log.String(), w.Header().Get("X-Amz-Request-Id")) {
		t.Errorf("log: %s", log.String())
	}
	h.s.routes.by[atService][""]["GET"].handle = func(_ *Server, rq *request) error {
		rq.writeHeader(200)
		_, _ = rq.w.Write([]byte("half"))
		panic("boom")
	}
	func() {
		defer func() {
			if p := recover(); p != http.ErrAbortHandler {
				t.Errorf("a half-sent response ended with %v", p)
			}
		}()
		h.s.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", http.NoBody))
	}()
	h.must("PUT", "/bkt", "")
}

func TestObserve(t *testing.T) {
	type seen struct {
		op      string
		status  int
		in, out int64
	}
	var mu sync.Mutex
	var got []seen
	var log bytes.Buffer
	h := newHarness(t, Options{
		Observe: func(op string, status int, in, out int64, _ time.Duration) {
			mu.Lock()
			got = append(got, seen{op, status, in, out})
			mu.Unlock()
		},
		Log: slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	h.must("PUT", "/bkt", "")
	h.must("PUT", "/bkt/k", "12345")
	h.must("GET", "/bkt/k", "")
	h.do("HEAD", "/bkt/nosuch", "")
	h.http.Close() // the last handlers have ended
	want := []seen{{"CreateBucket", 200, 0, 0}, {"PutObject", 200, 5, 0}, {"GetObject", 200, 0, 5}, {"HeadObject", 404, 0, 0}}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if !strings.Contains(log.String(), `"op":"PutObject","method":"PUT","bucket":"bkt","key":"k","user":"alice","status":200`) {
		t.Errorf("access log: %s", log.String())
	}
}

func TestErrorMapping(t *testing.T) {
	rq := &request{key: "k", bucket: "b"}
	tests := []struct {
		err    error
		status int
		code   string
	}{
		{object.ErrNoSpace, 507, "InsufficientStorage"},
		{object.ErrCorrupt, 500, "InternalError"},
		{fmt.Errorf("wrapped: %w", object.ErrLocked), 403, "AccessDenied"},
		{object.ErrTooLarge, 400, "EntityTooLarge"},
		{object.ErrInvalidBucketName, 400, "InvalidBucketName"},
		{context.Canceled, 499, "RequestTimeout"},
		{&clientGone{io.ErrClosedPipe}, 499, "RequestTimeout"},
		{io.ErrUnexpectedEOF, 500, "InternalError"},
		{s3err.New("NoSuchCode"), 500, "InternalError"},
	}
	for _, tt := range tests {
		if e := toError(rq, tt.err); e.Status != tt.status || e.Code != tt.code {
			t.Errorf("%v: %d %s, want %d %s", tt.err, e.Status, e.Code, tt.status, tt.code)
		}
	}
}

func FuzzParseTarget(f *testing.F) {
	f.Add("/bucket/key", "versionId=1&x", "bucket.example.test")
	f.Add("//", "&&=&a=%41+b", "")
	s := &Server{opt: Options{Domains: []string{"example.test"}}}
	f.Fuzz(func(t *testing.T, path, query, host string) {
		req := &http.Request{Method: "GET", Host: host, Header: http.Header{}}
		u := httptest.NewRequest("GET", "/", http.NoBody).URL
		u.Path, u.RawQuery = path, query
		req.URL = u
		rq := &request{s: s, r: req}
		if err := rq.parseTarget(); err == nil && rq.key != "" && (rq.bucket == "" || !utf8.ValidString(rq.key)) {
			t.Errorf("bucket %q, key %q", rq.bucket, rq.key)
		}
	})
}
