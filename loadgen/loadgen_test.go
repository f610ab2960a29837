package loadgen

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"firn"
	"firn/auth/sigv4"
)

func TestEveryOperation(t *testing.T) {
	tests := map[string]struct {
		o    Options
		ops  int64
		keys int64
	}{
		"put":             {Options{Op: OpPut, Size: 4096, Requests: 50}, 50, 0},
		"get":             {Options{Op: OpGet, Size: 70000, Requests: 50, Objects: 20, Verify: true}, 50, 0},
		"get unique":      {Options{Op: OpGet, Size: 70000, Requests: 50, Objects: 20, Verify: true, Unique: true}, 50, 0},
		"get empty":       {Options{Op: OpGet, Size: 0, Requests: 10, Objects: 5, Verify: true}, 10, 0},
		"head":            {Options{Op: OpHead, Size: 10, Requests: 50, Objects: 20}, 50, 0},
		"list":            {Options{Op: OpList, Size: 1, Requests: 10, Objects: 45, Page: 10, Concurrency: 1}, 10, 90},
		"list random":     {Options{Op: OpList, Size: 1, Requests: 10, Objects: 45, Page: 10, ListRandom: true}, 10, -1},
		"delete":          {Options{Op: OpDelete, Size: 1, Requests: 50, Objects: 50}, 50, 0},
		"multi-delete":    {Options{Op: OpMultiDelete, Size: 1, Requests: 5, Objects: 45, Batch: 10}, 5, 45},
		"mixed":           {Options{Op: OpMixed, Size: 100, Requests: 200, Objects: 20, Verify: true}, 200, 0},
		"multipart":       {Options{Op: OpMultipart, Size: 250, PartSize: 100, Requests: 5}, 5, 0},
		"multipart empty": {Options{Op: OpMultipart, Size: 0, PartSize: 100, Requests: 2}, 2, 0},
		"multipart signed stream": {
			Options{Op: OpMultipart, Size: 250_000, PartSize: 100_000, Requests: 3, Signing: SignStream}, 3, 0,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f, target := newFake(t)
			res, err := Run(t.Context(), target, tt.o)
			if err != nil {
				t.Fatal(err)
			}
			if res.Ops != tt.ops || res.Failed() != 0 || res.VerifyFailures != 0 {
				t.Errorf("ops %d (want %d), errors %v, verify failures %d", res.Ops, tt.ops, res.Errors, res.VerifyFailures)
			}
			if tt.keys >= 0 && res.Keys != tt.keys {
				t.Errorf("keys %d, want %d", res.Keys, tt.keys)
			}
			if res.P50Ms <= 0 || res.P99Ms < res.P50Ms || res.MaxMs < res.P99Ms || res.OpsPerSec <= 0 {
				t.Errorf("implausible: %+v", res)
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			if len(f.mu.objects) != 0 || len(f.mu.uploads) != 0 || f.mu.bucket {
				t.Errorf("left behind: %d objects, %d uploads, bucket %v", len(f.mu.objects), len(f.mu.uploads), f.mu.bucket)
			}
		})
	}
}

// TestSigning sends every signing mode at sizes around the chunk boundary; the fake verifies each.
func TestSigning(t *testing.T) {
	modes := map[Signing]sigv4.Payload{
		SignPayload: sigv4.PayloadSigned, SignStream: sigv4.PayloadChunked,
		SignUnsigned: sigv4.PayloadUnsigned, SignTrailer: sigv4.PayloadUnsignedTrailer,
	}
	for mode, want := range modes {
		for _, size := range []int64{0, 1, streamChunk - 1, streamChunk, streamChunk + 1, 3*streamChunk + 7} {
			for _, unique := range []bool{false, true} {
				t.Run(string(mode)+"/"+strconv.FormatInt(size, 10), func(t *testing.T) {
					f, target := newFake(t)
					res, err := Run(t.Context(), target, Options{
						Op: OpGet, Size: size, Objects: 3, Requests: 6, Concurrency: 2, Signing: mode, Verify: true, Unique: unique,
					})
					if err != nil || res.Ops != 6 || res.VerifyFailures != 0 {
						t.Fatalf("%+v, %v", res, err)
					}
					if diff := cmp.Diff(map[sigv4.Payload]int{want: 3}, f.mu.payload); diff != "" {
						t.Error(diff)
					}
				})
			}
		}
	}
}

func TestTLS(t *testing.T) {
	target := newTLSFake(t)
	if _, err := Run(t.Context(), target, Options{Op: OpPut, Size: 10, Requests: 1}); err == nil {
		t.Error("a certificate nobody signed was accepted")
	}
	target.Insecure = true
	res, err := Run(t.Context(), target, Options{Op: OpMixed, Size: 100_000, Objects: 5, Requests: 20, Verify: true})
	if err != nil || res.Ops != 20 {
		t.Errorf("%+v, %v", res, err)
	}
}

func TestVerifyFindsWrongBytes(t *testing.T) {
	for name, spoil := range map[string]func([]byte) []byte{
		"flipped": func(p []byte) []byte { p[len(p)-1] ^= 1; return p },
		"short":   func(p []byte) []byte { return p[:len(p)-1] },
		"long":    func(p []byte) []byte { return append(p, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			f, target := newFake(t)
			var once atomic.Bool
			f.hook = func(_ http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodGet && !r.URL.Query().Has("list-type") && once.CompareAndSwap(false, true) {
					f.mu.Lock()
					defer f.mu.Unlock()
					for k, v := range f.mu.objects {
						f.mu.objects[k] = spoil(bytes.Clone(v))
					}
				}
				return false
			}
			res, err := Run(t.Context(), target, Options{Op: OpGet, Size: 1000, Objects: 2, Requests: 4, Concurrency: 1, Verify: true})
			if err != nil {
				t.Fatal(err)
			}
			if res.VerifyFailures != 4 || res.Errors["content differs"] != 4 || res.Ops != 0 {
				t.Errorf("%+v", res)
			}
		})
	}
}

func TestErrorsAreCountedByCode(t *testing.T) {
	f, target := newFake(t)
	var n atomic.Int64
	f.hook = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPut || strings.Count(r.URL.Path, "/") < 2 {
			return false
		}
		switch n.Add(1) % 4 {
		case 0:
			f.fail(w, 503, "SlowDown")
			return true
		case 1:
			w.WriteHeader(418)
			return true
		case 2:
			panic(http.ErrAbortHandler)
		}
		return false
	}
	res, err := Run(t.Context(), target, Options{Op: OpPut, Size: 10, Requests: 40, Concurrency: 1})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]int64{"503 SlowDown": 10, "418": 10, "connection closed": 10}
	if diff := cmp.Diff(want, res.Errors); diff != "" || res.Ops != 10 {
		t.Errorf("ops %d, errors %s", res.Ops, diff)
	}
}

func TestGivesUpWhereEverythingFails(t *testing.T) {
	f, target := newFake(t)
	f.hook = func(w http.ResponseWriter, r *http.Request) bool {
		refuse := r.Method == http.MethodPut && strings.Count(r.URL.Path, "/") >= 2
		if refuse {
			f.fail(w, 507, "InsufficientStorage")
		}
		return refuse
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	res, err := Run(ctx, target, Options{Op: OpPut, Size: 10, Duration: 300 * time.Millisecond, Concurrency: 1})
	if err != nil || res.Ops != 0 || res.Errors["507 InsufficientStorage"] == 0 {
		t.Errorf("%+v, %v", res, err)
	}
}

func TestCancelStopsAtOnceAndCleansUp(t *testing.T) {
	f, target := newFake(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	block := make(chan struct{})
	defer close(block)
	var n atomic.Int64
	f.hook = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPut && r.URL.Query().Has("partNumber") && n.Add(1) == 3 {
			cancel()
			select { // this answer never comes: only the interruption ends the request
			case <-r.Context().Done():
			case <-block:
			}
			return true
		}
		return false
	}
	_, err := Run(ctx, target, Options{Op: OpMultipart, Size: 300, PartSize: 100, Concurrency: 1, Duration: time.Hour, Timeout: time.Hour})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mu.bucket || len(f.mu.uploads) > 0 {
		t.Errorf("left behind: bucket %v, %d uploads", f.mu.bucket, len(f.mu.uploads))
	}
}

func TestRemovesOnlyItsOwn(t *testing.T) {
	f, target := newFake(t)
	f.mu.bucket = true
	f.mu.objects["precious"] = []byte("x")
	f.mu.objects["bench"] = []byte("x")
	f.mu.objects["bench0"] = []byte("x")
	if _, err := Run(t.Context(), target, Options{Op: OpMixed, Size: 10, Objects: 10, Requests: 50}); err != nil {
		t.Fatal(err)
	}
	want := map[string][]byte{"precious": []byte("x"), "bench": []byte("x"), "bench0": []byte("x")}
	if diff := cmp.Diff(want, f.mu.objects); diff != "" || !f.mu.bucket {
		t.Error(diff)
	}
}

func TestKeepAndPreloaded(t *testing.T) {
	f, target := newFake(t)
	o := Options{Op: OpGet, Size: 10, Objects: 10, Requests: 5, Keep: true, Verify: true}
	if _, err := Run(t.Context(), target, o); err != nil {
		t.Fatal(err)
	}
	puts := f.mu.methods[http.MethodPut]
	o.Keep, o.Preloaded = false, true
	res, err := Run(t.Context(), target, o)
	if err != nil || res.Ops != 5 {
		t.Fatalf("%+v, %v", res, err)
	}
	if f.mu.methods[http.MethodPut] != puts || len(f.mu.objects) != 0 {
		t.Errorf("%d puts, %d objects left", f.mu.methods[http.MethodPut]-puts, len(f.mu.objects))
	}
}

func TestDeleteEndsWithoutObjects(t *testing.T) {
	for _, op := range []Op{OpDelete, OpMultiDelete} {
		_, target := newFake(t)
		res, err := Run(t.Context(), target, Options{Op: op, Objects: 25, Batch: 10, Duration: time.Hour})
		if err != nil || !res.Exhausted {
			t.Errorf("%s: %+v, %v", op, res, err)
		}
	}
}

func TestServerThatClosesEveryConnection(t *testing.T) {
	f, target := newFake(t)
	f.hook = func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Connection", "close")
		return false
	}
	res, err := Run(t.Context(), target, Options{Op: OpMixed, Size: 1000, Objects: 5, Requests: 50, Verify: true})
	if err != nil || res.Ops != 50 || res.Failed() != 0 {
		t.Errorf("%+v, %v", res, err)
	}
}

func TestBadOptions(t *testing.T) {
	good := Target{Endpoint: "http://127.0.0.1:1"}
	for name, tt := range map[string]struct {
		t Target
		o Options
	}{
		"operation":   {good, Options{Op: "dance"}},
		"signing":     {good, Options{Signing: "seal"}},
		"size":        {good, Options{Size: -1}},
		"concurrency": {good, Options{Concurrency: -1}},
		"batch":       {good, Options{Batch: 1001}},
		"prefix":      {good, Options{Prefix: "a b"}},
		"mix":         {good, Options{Mix: Mix{Get: -1, Put: 2}}},
		"scheme":      {Target{Endpoint: "ftp://h"}, Options{}},
		"path":        {Target{Endpoint: "http://h/x"}, Options{}},
		"host":        {Target{Endpoint: "http://"}, Options{}},
	} {
		if _, err := Run(t.Context(), tt.t, tt.o); firn.KindOf(err) != firn.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestText(t *testing.T) {
	r := Result{
		Op: OpGet, Size: 4096, Concurrency: 16, Objects: 10, Signing: SignPayload, Ops: 3, Keys: 4,
		Errors: map[string]int64{"b": 1, "a": 2}, Exhausted: true, Server: &ServerUsage{CPUMsPerOp: 0.5},
	}
	var b bytes.Buffer
	if err := r.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"size 4 KiB", "errors   3   a: 2   b: 1", "0.5000 CPU-ms/op", "no object was left"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is not in:\n%s", want, b.String())
		}
	}
}

// FuzzResponse feeds bytes of a server to the reader: it must end, and never hand out more than was stated.
func FuzzResponse(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nETag: \"x\"\r\n\r\nabc"))
	f.Add([]byte("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"))
	f.Add([]byte("HTTP/1.0 404 Not Found\r\n\r\n<Error><Code>NoSuchKey</Code></Error>"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\nabc"))
	f.Fuzz(func(t *testing.T, in []byte) {
		c := &conn{br: bufio.NewReader(bytes.NewReader(in))}
		r, err := c.readHead()
		if err != nil {
			return
		}
		var got int64
		err = c.readBody(&r, false, func(p []byte) error { got += int64(len(p)); return nil })
		if got > int64(len(in)) || r.length >= 0 && !r.chunked && got > r.length {
			t.Errorf("%d bytes out of %d, length %d", got, len(in), r.length)
		}
		if err == nil && r.length >= 0 && !r.chunked && r.status != 204 && r.status != 304 && got != r.length {
			t.Errorf("%d bytes without an error, length %d", got, r.length)
		}
		_ = element(in, "Code")
	})
}
