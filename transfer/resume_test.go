package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/minio/minio-go/v7"

	"firn"
)

// TestUploadResumes cuts an upload off after some parts: the next run sends only the others.
func TestUploadResumes(t *testing.T) {
	s := startSite(t)
	s.bucket("resume")
	src := filepath.Join(t.TempDir(), "src")
	data := noise(33*mib, 1) // 7 parts
	writeFile(t, src, data)
	o := smallParts(CopyOptions{StateDir: t.TempDir()})
	c, err := NewClient(s.profile, ClientOptions{Parallel: 1, Attempts: 1})
	if err != nil {
		t.Fatal(err)
	}
	cut := func(at string) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		s.hook = func(_ http.ResponseWriter, r *http.Request) bool {
			if r.URL.Query().Get("partNumber") == at {
				cancel()
				panic(http.ErrAbortHandler)
			}
			return false
		}
		if _, _, err := copyAll(ctx, t, c, o, src, "s3://resume/big"); !errors.Is(err, context.Canceled) {
			t.Fatalf("error %v", err)
		}
		s.hook = nil
	}
	cut("4")
	if n := s.uploads("resume"); n != 1 {
		t.Fatalf("%d uploads", n)
	}
	s.requests()
	_, evs, err := copyAll(t.Context(), t, c, o, src, "s3://resume/big")
	if err != nil || evs[0].Resumed != 15*mib {
		t.Fatalf("%+v, %v", evs, err)
	}
	if got := s.requests("PUT", "partNumber"); len(got) != 4 {
		t.Errorf("parts sent: %q", got)
	}
	if !bytes.Equal(s.get(loc(t, "s3://resume/big")), data) || s.uploads("resume") != 0 {
		t.Error("content differs or an upload is left")
	}
	if left := tree(t, o.StateDir); len(left) != 0 {
		t.Errorf("state left: %v", left)
	}

	t.Run("a changed file starts anew", func(t *testing.T) {
		cut("3")
		data = noise(33*mib, 2)
		writeFile(t, src, data)
		_, evs, err := copyAll(t.Context(), t, c, o, src, "s3://resume/big")
		if err != nil || evs[0].Resumed != 0 {
			t.Fatalf("%+v, %v", evs, err)
		}
		if !bytes.Equal(s.get(loc(t, "s3://resume/big")), data) {
			t.Error("content differs")
		}
	})
	t.Run("a part that is not the file's is sent again", func(t *testing.T) {
		if _, err := c.Remove(t.Context(), loc(t, "s3://resume"), RemoveOptions{Uploads: true}); err != nil {
			t.Fatal(err)
		}
		cut("4")
		var id string
		err := c.List(t.Context(), loc(t, "s3://resume"), ListOptions{Uploads: true}, func(e Entry) error { id = e.UploadID; return nil })
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.core.PutObjectPart(t.Context(), "resume", "big", id, 2, bytes.NewReader(noise(5*mib, 77)), 5*mib, minio.PutObjectPartOptions{}); err != nil {
			t.Fatal(err)
		}
		_, evs, err := copyAll(t.Context(), t, c, o, src, "s3://resume/big")
		if err != nil || evs[0].Resumed != 10*mib {
			t.Fatalf("%+v, %v", evs, err)
		}
		if !bytes.Equal(s.get(loc(t, "s3://resume/big")), data) {
			t.Error("content differs")
		}
	})
	t.Run("an upload that is gone starts anew", func(t *testing.T) {
		cut("4")
		if _, err := c.Remove(t.Context(), loc(t, "s3://resume"), RemoveOptions{Uploads: true}); err != nil {
			t.Fatal(err)
		}
		_, evs, err := copyAll(t.Context(), t, c, o, src, "s3://resume/big")
		if err != nil || evs[0].Resumed != 0 {
			t.Fatalf("%+v, %v", evs, err)
		}
	})
	t.Run("a lost answer to the completion", func(t *testing.T) {
		var once atomic.Bool
		s.body = func(r *http.Request, resp *http.Response) {
			if r.Method == http.MethodPost && r.URL.Query().Has("uploadId") && once.CompareAndSwap(false, true) {
				resp.Body = io.NopCloser(iotest.ErrReader(errors.New("cut")))
				resp.ContentLength = 1000
				resp.Header.Set("Content-Length", "1000")
			}
		}
		defer func() { s.body = nil }()
		if _, _, err := copyAll(t.Context(), t, s.client(), o, src, "s3://resume/lost"); err != nil {
			t.Fatal(err)
		}
		if !once.Load() || !bytes.Equal(s.get(loc(t, "s3://resume/lost")), data) {
			t.Error("content differs")
		}
	})
}

func TestUploadOfAFileThatChanges(t *testing.T) {
	s := startSite(t)
	s.bucket("change")
	src := filepath.Join(t.TempDir(), "src")
	for _, size := range []int{mib, 20 * mib} {
		writeFile(t, src, noise(size, 1))
		var once atomic.Bool
		s.hook = func(_ http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPut && once.CompareAndSwap(false, true) {
				writeFile(t, src, noise(size, 2))
			}
			return false
		}
		_, _, err := copyAll(t.Context(), t, s.client(), smallParts(CopyOptions{StateDir: t.TempDir()}), src, "s3://change/x")
		s.hook = nil
		if err == nil { // a small file may have been sent whole before it changed
			if size > mib || !bytes.Equal(s.get(loc(t, "s3://change/x")), noise(size, 1)) {
				t.Errorf("%d bytes: mixed content was stored", size)
			}
			continue
		}
		if size > mib && s.uploads("change") != 0 {
			t.Error("the upload is left")
		}
	}
}

// TestDownloadResumes cuts a download off: the next run asks only for the rest, and starts anew where the
// object was replaced.
func TestDownloadResumes(t *testing.T) {
	s := startSite(t)
	b := s.bucket("resume")
	data := noise(7*testRange-5, 3)
	s.put(b.join("big"), data)
	c, err := NewClient(s.profile, ClientOptions{Parallel: 1, Attempts: 1})
	if err != nil {
		t.Fatal(err)
	}
	c.ranges = testRange
	dir := t.TempDir()
	dst := filepath.Join(dir, "out")
	cut := func() {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		s.hook = func(_ http.ResponseWriter, r *http.Request) bool {
			if strings.HasPrefix(r.Header.Get("Range"), fmt.Sprintf("bytes=%d-", 3*testRange)) {
				cancel()
				panic(http.ErrAbortHandler)
			}
			return false
		}
		if _, _, err := copyAll(ctx, t, c, CopyOptions{}, "s3://resume/big", dst); !errors.Is(err, context.Canceled) {
			t.Fatalf("error %v", err)
		}
		s.hook = nil
		if _, err := os.Stat(dst); !errors.Is(err, os.ErrNotExist) {
			t.Fatal("the unfinished file has its name")
		}
	}
	cut()
	s.requests()
	_, evs, err := copyAll(t.Context(), t, c, CopyOptions{}, "s3://resume/big", dst)
	if err != nil || evs[0].Resumed != 3*testRange {
		t.Fatalf("%+v, %v", evs, err)
	}
	if got := s.requests("GET /resume/big"); len(got) != 4 {
		t.Errorf("ranges: %q", got)
	}
	got, err := os.ReadFile(dst)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("content differs, %v", err)
	}
	if left := tree(t, dir); len(left) != 1 {
		t.Errorf("%d files left", len(left))
	}

	t.Run("damaged rest is found", func(t *testing.T) {
		if err := os.Remove(dst); err != nil {
			t.Fatal(err)
		}
		cut()
		part := filepath.Join(dir, target{name: "out"}.partName())
		f, err := os.OpenFile(part, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("damage"), testRange); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		// The second try of the same run starts from nothing.
		if _, _, err := copyAll(t.Context(), t, c, CopyOptions{}, "s3://resume/big", dst); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(dst)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("content differs, %v", err)
		}
	})
	t.Run("a replaced object starts anew", func(t *testing.T) {
		if err := os.Remove(dst); err != nil {
			t.Fatal(err)
		}
		cut()
		data = noise(7*testRange-5, 4)
		s.put(b.join("big"), data)
		_, evs, err := copyAll(t.Context(), t, c, CopyOptions{}, "s3://resume/big", dst)
		if err != nil || evs[0].Resumed != 0 {
			t.Fatalf("%+v, %v", evs, err)
		}
		got, err := os.ReadFile(dst)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("content differs, %v", err)
		}
	})
	t.Run("replaced while it is read", func(t *testing.T) {
		var once atomic.Bool
		s.hook = func(_ http.ResponseWriter, r *http.Request) bool {
			if strings.HasPrefix(r.Header.Get("Range"), fmt.Sprintf("bytes=%d-", 2*testRange)) && once.CompareAndSwap(false, true) {
				s.put(b.join("big"), noise(7*testRange-5, 5))
			}
			return false
		}
		defer func() { s.hook = nil }()
		_, evs, err := copyAll(t.Context(), t, c, CopyOptions{}, "s3://resume/big", filepath.Join(dir, "other"))
		if err == nil || firn.KindOf(evs[0].Err) != firn.Precondition {
			t.Errorf("%v, %+v", err, evs)
		}
	})
}

// TestDamagedOnTheWay flips a byte of an answer: the file must not appear unless a second try is right.
func TestDamagedOnTheWay(t *testing.T) {
	s := startSite(t)
	b := s.bucket("damage")
	c := s.client()
	for _, size := range []int{1000, 3 * testRange} {
		data := noise(size, 6)
		s.put(b.join("x"), data)
		for _, times := range []int64{1, 1 << 40} {
			dir := t.TempDir()
			var n atomic.Int64
			s.body = func(r *http.Request, resp *http.Response) {
				if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/x") && n.Add(1) <= times {
					resp.Body = struct {
						io.Reader
						io.Closer
					}{&flipper{r: resp.Body}, resp.Body}
				}
			}
			_, evs, err := copyAll(t.Context(), t, c, CopyOptions{}, "s3://damage/x", filepath.Join(dir, "out"))
			s.body = nil
			if times == 1 {
				if err != nil || tree(t, dir)["out"] != string(data) {
					t.Errorf("%d bytes: %v", size, err)
				}
				continue
			}
			if err == nil || firn.KindOf(evs[0].Err) != firn.Corrupt || len(tree(t, dir)) != 0 {
				t.Errorf("%d bytes: %v, %+v, %d files", size, err, evs, len(tree(t, dir)))
			}
		}
	}
}

// flipper damages the first byte it reads.
type flipper struct {
	r    io.Reader
	done bool
}

func (f *flipper) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if n > 0 && !f.done {
		p[0], f.done = p[0]^1, true
	}
	return n, err
}

// TestBrokenConnections cuts bodies short in both directions; the transfer goes on where it can.
func TestBrokenConnections(t *testing.T) {
	s := startSite(t)
	b := s.bucket("broken")
	c := s.client()
	c.ranges = 4 * mib // one stream
	data := noise(3*mib, 7)
	s.put(b.join("x"), data)

	var n atomic.Int64
	s.body = func(r *http.Request, resp *http.Response) {
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/x") && n.Add(1) <= 3 {
			body := resp.Body
			resp.Body = struct {
				io.Reader
				io.Closer
			}{io.MultiReader(io.LimitReader(body, mib-100), iotest.ErrReader(errors.New("cut"))), body}
		}
	}
	s.requests()
	dst := filepath.Join(t.TempDir(), "x")
	_, _, err := copyAll(t.Context(), t, c, CopyOptions{}, "s3://broken/x", dst)
	s.body = nil
	got, rerr := os.ReadFile(dst)
	if err != nil || rerr != nil || !bytes.Equal(got, data) {
		t.Errorf("%v, %v", err, rerr)
	}
	if got := s.requests("GET /broken/x", "bytes="); len(got) != 3 || !strings.HasSuffix(got[0], fmt.Sprintf("bytes=%d-%d", mib-100, 3*mib-1)) {
		t.Errorf("ranges: %q", got)
	}

	n.Store(0)
	s.hook = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPut && n.Add(1) <= 2 {
			if _, err := io.CopyN(io.Discard, r.Body, 1000); err != nil {
				t.Error(err)
			}
			hijack(t, w)
			return true
		}
		return false
	}
	var p Progress
	_, _, err = copyAll(t.Context(), t, c, CopyOptions{Progress: &p}, dst, "s3://broken/y")
	s.hook = nil
	if err != nil || !bytes.Equal(s.get(b.join("y")), data) {
		t.Errorf("%v", err)
	}
	if p.BytesDone.Load() != 3*mib || p.Bytes.Load() != 3*mib || p.FilesDone.Load() != 1 || !p.Listed.Load() {
		t.Errorf("progress counts what was sent twice: %d of %d", p.BytesDone.Load(), p.Bytes.Load())
	}
}

func TestStalledConnection(t *testing.T) {
	s := startSite(t)
	b := s.bucket("stall")
	data := noise(3*mib, 8)
	s.put(b.join("x"), data)
	c, err := NewClient(s.profile, ClientOptions{Attempts: 3, Stall: 50 * time.Millisecond, Backoff: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	var once atomic.Bool
	s.body = func(r *http.Request, resp *http.Response) {
		if r.Method == http.MethodGet && once.CompareAndSwap(false, true) {
			body := resp.Body
			resp.Body = struct {
				io.Reader
				io.Closer
			}{io.MultiReader(io.LimitReader(body, 100), blocked{r.Context()}), body}
		}
	}
	var out bytes.Buffer
	n, err := c.Cat(t.Context(), b.join("x"), &out, CatOptions{Length: -1})
	if err != nil || n != 3*mib || !bytes.Equal(out.Bytes(), data) {
		t.Errorf("%d, %v", n, err)
	}
}

// blocked never yields a byte.
type blocked struct{ ctx context.Context }

func (b blocked) Read([]byte) (int, error) {
	<-b.ctx.Done()
	return 0, b.ctx.Err()
}

func TestRetries(t *testing.T) {
	s := startSite(t)
	b := s.bucket("retry")
	s.put(b.join("x"), []byte("x"))
	for name, tt := range map[string]struct {
		status int
		code   string
		fails  int64
		tries  int64
		kind   firn.Kind // of the error; Internal: none
	}{
		"slow down":       {503, "SlowDown", 2, 3, firn.Internal},
		"internal error":  {500, "InternalError", 1, 2, firn.Internal},
		"for ever":        {503, "SlowDown", 1 << 40, 4, firn.Unavailable},
		"denied":          {403, "AccessDenied", 1 << 40, 1, firn.Denied},
		"not implemented": {501, "NotImplemented", 1 << 40, 1, firn.Unsupported},
		"full":            {507, "InsufficientStorage", 1 << 40, 1, firn.NoSpace},
		"invalid":         {400, "InvalidArgument", 1 << 40, 1, firn.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			var n atomic.Int64
			s.hook = func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodPut {
					return false
				}
				fail := n.Add(1) <= tt.fails
				if fail {
					w.WriteHeader(tt.status)
					fmt.Fprintf(w, "<Error><Code>%s</Code><Message>m</Message></Error>", tt.code)
				}
				return fail
			}
			defer func() { s.hook = nil }()
			src := filepath.Join(t.TempDir(), "src")
			writeFile(t, src, []byte("data"))
			_, evs, err := copyAll(t.Context(), t, s.client(), CopyOptions{}, src, "s3://retry/y")
			if n.Load() != tt.tries {
				t.Errorf("%d tries, want %d", n.Load(), tt.tries)
			}
			if tt.kind == firn.Internal {
				if err != nil {
					t.Error(err)
				}
			} else if err == nil || firn.KindOf(evs[0].Err) != tt.kind {
				t.Errorf("%v, %+v", err, evs)
			}
		})
	}
}
