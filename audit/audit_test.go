package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"firn"
	"firn/seal"
)

func open(t *testing.T, o Options) *Log {
	t.Helper()
	l, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// during runs fn while l runs, and stops l.
func during(t *testing.T, l *Log, fn func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- l.Run(ctx) }()
	fn()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func event(i int) Event {
	return Event{Kind: "s3", Op: "PutObject", User: "anna", Bucket: "b", Key: fmt.Sprintf("key <%d> \n", i), Status: 200, In: int64(i)}
}

func verify(t *testing.T, dir string) Head {
	t.Helper()
	h, err := Verify(dir, "", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestChain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	o := Options{Dir: dir, MaxFile: 4 << 10}
	l := open(t, o)
	var wg sync.WaitGroup
	during(t, l, func() {
		for g := range 4 {
			wg.Go(func() {
				for i := range 25 {
					l.Record(event(100*g + i))
				}
			})
		}
		wg.Wait()
	})
	h := verify(t, dir)
	// Each file begins with a line of its own, and the record ends with one.
	if want := int64(100 + h.Files + 1); h.Lines != want || h.Files < 5 || h.First != 1 || h.Lost != 0 {
		t.Fatalf("%+v, want %d lines", h, want)
	}
	// A restart goes on with the same chain.
	l = open(t, o)
	during(t, l, func() { l.Record(event(1)) })
	after := verify(t, dir)
	if after.Lines <= h.Lines+2 {
		t.Errorf("%+v after a restart", after)
	}
	if _, err := Verify(dir, h.Hash, nil, nil); err != nil {
		t.Errorf("a hash noted before: %v", err)
	}
	if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v, %v", fi.Mode(), err)
	}
	files, err := list(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if fi, err := os.Stat(filepath.Join(dir, f)); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", f, fi.Mode(), err)
		}
	}
	// What goes in comes out.
	b, err := os.ReadFile(filepath.Join(dir, files[0]))
	if err != nil {
		t.Fatal(err)
	}
	var got line
	if err := json.Unmarshal(bytes.SplitN(b, []byte("\n"), 3)[1], &got); err != nil || got.User != "anna" || got.Op != "PutObject" || got.Seq != 2 {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestTampering changes the record in every way it promises to show.
func TestTampering(t *testing.T) {
	dir := t.TempDir()
	l := open(t, Options{Dir: dir, MaxFile: 2 << 10})
	during(t, l, func() {
		for i := range 30 {
			l.Record(event(i))
		}
	})
	whole := verify(t, dir)
	files, err := list(dir)
	if err != nil || len(files) < 4 {
		t.Fatalf("%v, %v", files, err)
	}
	original := map[string][]byte{}
	for _, f := range files {
		if original[f], err = os.ReadFile(filepath.Join(dir, f)); err != nil {
			t.Fatal(err)
		}
	}
	lines := func(f string) [][]byte { return bytes.SplitAfter(original[f], []byte("\n")) }
	join := func(l ...[]byte) []byte { return bytes.Join(l, nil) }
	mid, last := files[1], files[len(files)-1]
	m := lines(mid)
	end := lines(last)
	for name, change := range map[string]map[string][]byte{
		"a word":                   {mid: bytes.Replace(original[mid], []byte("anna"), []byte("otto"), 1)},
		"a word in the first file": {files[0]: bytes.Replace(original[files[0]], []byte("anna"), []byte("otto"), 1)},
		"a line removed":           {mid: join(append([][]byte{m[0]}, m[2:]...)...)},
		"two lines swapped":        {mid: join(append([][]byte{m[0], m[2], m[1]}, m[3:]...)...)},
		"a line twice":             {mid: join(append([][]byte{m[0], m[1]}, m[1:]...)...)},
		"the end of a file":        {mid: join(m[:len(m)-2]...)},
		"a torn line inside":       {mid: original[mid][:len(original[mid])-9]},
		"a file emptied":           {mid: nil},
		"a file removed":           {mid: []byte("remove")},
		"no JSON":                  {mid: append([]byte("{]\n"), original[mid]...)},
	} {
		t.Run(name, func(t *testing.T) {
			for f, b := range change {
				path := filepath.Join(dir, f)
				var err error
				if string(b) == "remove" {
					err = os.Remove(path)
				} else {
					err = os.WriteFile(path, b, 0o600)
				}
				if err != nil {
					t.Fatal(err)
				}
				defer os.WriteFile(path, original[f], 0o600)
			}
			if h, err := Verify(dir, "", nil, nil); firn.KindOf(err) != firn.Corrupt || !strings.Contains(err.Error(), "line ") {
				t.Errorf("%+v, %v", h, err)
			}
		})
	}
	// The end cut off is a shorter chain: only a hash kept elsewhere tells.
	if err := os.WriteFile(filepath.Join(dir, last), join(end[:len(end)-2]...), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(dir, "", nil, nil); err != nil {
		t.Error(err)
	}
	if _, err := Verify(dir, whole.Hash, nil, nil); firn.KindOf(err) != firn.Corrupt {
		t.Errorf("the end is gone: %v", err)
	}
	if _, err := Verify(t.TempDir(), "", nil, nil); firn.KindOf(err) != firn.NotFound {
		t.Error(err)
	}
}

// TestCrash leaves the record as a crash does, at every byte of its last line.
func TestCrash(t *testing.T) {
	dir := t.TempDir()
	l := open(t, Options{Dir: dir})
	during(t, l, func() { l.Record(event(1)) })
	path := filepath.Join(dir, l.name)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := 0; cut <= len(whole); cut += 7 {
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		l := open(t, Options{Dir: dir})
		during(t, l, func() { l.Record(event(2)) })
		h := verify(t, dir)
		if h.Torn || h.Lines < 3 {
			t.Fatalf("cut at %d: %+v", cut, h)
		}
	}
}

// TestFullDisk: a record that cannot be written refuses or counts, as asked, and goes on by itself.
func TestFullDisk(t *testing.T) {
	for _, p := range []Policy{Refuse, Drop} {
		t.Run([]string{"refuse", "drop"}[p], func(t *testing.T) {
			dir := t.TempDir()
			l := open(t, Options{Dir: dir, OnFailure: p})
			full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := l.file.Close(); err != nil {
				t.Fatal(err)
			}
			l.file = full
			gone, cancel := context.WithCancel(t.Context())
			cancel() // so that write gives up instead of waiting
			l.write(gone, event(1))
			if err := l.Ready(); (err != nil) != (p == Refuse) {
				t.Errorf("ready: %v", err)
			}
			if s := l.Stats(); s.Dropped != 1 {
				t.Errorf("%+v", s)
			}
			l.tidy() // the next tick
			if err := l.Ready(); err != nil {
				t.Errorf("after there was room again: %v", err)
			}
			during(t, l, func() { l.Record(event(2)) })
			if h := verify(t, dir); h.Lost != 1 || h.Files != 2 {
				t.Errorf("%+v", h)
			}
		})
	}
}

func TestQueueIsBounded(t *testing.T) {
	l := open(t, Options{Dir: t.TempDir(), OnFailure: Drop, Queue: 10})
	for i := range 25 { // nobody writes
		l.Record(event(i))
	}
	if s := l.Stats(); s.Dropped != 15 {
		t.Errorf("%+v", s)
	}
	during(t, l, func() {})
	if h := verify(t, l.o.Dir); h.Lost != 15 || h.Lines != 1+1+10+1 {
		t.Errorf("%+v", h)
	}
	// With Refuse, recording waits for room.
	l = open(t, Options{Dir: t.TempDir(), Queue: 1})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 50 {
			l.Record(event(i))
		}
	}()
	during(t, l, func() { <-done })
	if h := verify(t, l.o.Dir); h.Lines != 52 {
		t.Errorf("%+v", h)
	}
}

func TestAgeAndExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		l := open(t, Options{Dir: dir, MaxAge: time.Hour, Keep: 100 * 365 * 24 * time.Hour, KeepSize: 1500})
		during(t, l, func() {
			for i := range 8 {
				l.Record(event(i))
				time.Sleep(time.Hour)
			}
		})
		files, err := list(dir)
		if err != nil || len(files) < 2 || len(files) > 5 {
			t.Errorf("%v, %v", files, err)
		}
		if h := verify(t, dir); h.First == 1 {
			t.Errorf("%+v: old files are still there", h)
		}
	})
}

func TestWebhook(t *testing.T) {
	var got struct {
		sync.Mutex
		seqs  []uint64
		posts int
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got.Lock()
		defer got.Unlock()
		got.posts++
		if r.Header.Get("Authorization") != "Bearer token" || r.Header.Get("Content-Type") != "application/x-ndjson" {
			t.Errorf("header %v", r.Header)
		}
		if got.posts%2 == 1 { // every other POST fails
			http.Error(w, "not now", http.StatusServiceUnavailable)
			return
		}
		d := json.NewDecoder(r.Body)
		for {
			var l line
			if err := d.Decode(&l); err == io.EOF {
				return
			} else if err != nil {
				t.Error(err)
				return
			}
			got.seqs = append(got.seqs, l.Seq)
		}
	}))
	defer srv.Close()
	dir := t.TempDir()
	total := 0
	for round := range 2 { // the second goes on where the first stopped
		l := open(t, Options{Dir: dir, MaxFile: 2 << 10})
		w, err := NewWebhook(l, WebhookOptions{URL: srv.URL, Token: "token"})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		during(t, l, func() {
			go func() { done <- w.Run(ctx) }()
			for i := range 20 {
				l.Record(event(i))
			}
		})
		total = int(verify(t, dir).Lines)
		deadline := time.Now().Add(15 * time.Second)
		for {
			got.Lock()
			n := len(got.seqs)
			got.Unlock()
			if n >= total {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("round %d: %d of %d lines arrived", round, n, total)
			}
			<-time.After(5 * time.Millisecond)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	for i, seq := range got.seqs {
		if seq != uint64(i+1) {
			t.Fatalf("line %d has number %d: %v", i, seq, got.seqs)
		}
	}
}

func FuzzVerify(f *testing.F) {
	f.Add([]byte(`{"seq":1,"prev":"00","time":"2026-01-01T00:00:00Z","kind":"open"}` + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "audit-0000000000000001.jsonl"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Verify(dir, "", nil, nil)
		if l, oerr := Open(Options{Dir: dir}); oerr == nil {
			if err := l.file.Close(); err != nil {
				t.Error(err)
			}
			if _, after := Verify(dir, "", nil, nil); err == nil && after != nil {
				t.Errorf("whole before it was opened, then %v", after)
			}
		}
	})
}

func BenchmarkRecord(b *testing.B) {
	l, err := Open(Options{Dir: b.TempDir(), MaxFile: 1 << 40})
	if err != nil {
		b.Fatal(err)
	}
	e := event(1)
	for b.Loop() {
		if err := l.append(e); err != nil {
			b.Fatal(err)
		}
	}
}

// TestSealed seals a record: it holds, in the clear and for who has the key, what it would without; it cannot be read,
// made up or changed without the key; and the webhook is told in the clear.
func TestSealed(t *testing.T) {
	var mu sync.Mutex
	var told bytes.Buffer
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		_, _ = told.ReadFrom(r.Body)
	}))
	defer receiver.Close()
	dir := t.TempDir()
	during(t, open(t, Options{Dir: dir}), func() {})
	before := verify(t, dir)
	key := seal.NewKey()
	o := Options{Dir: dir, MaxFile: 4 << 10, Seal: &key}
	for range 2 {
		l := open(t, o)
		w, err := NewWebhook(l, WebhookOptions{URL: receiver.URL})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- w.Run(ctx) }()
		during(t, l, func() {
			for i := range 20 {
				l.Record(event(i))
			}
		})
		for deadline := time.Now().Add(10 * time.Second); ; runtime.Gosched() {
			var p position
			b, err := os.ReadFile(filepath.Join(dir, positionName))
			if err == nil && json.Unmarshal(b, &p) == nil && p.Sent == l.seq {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d of %d lines were sent", p.Sent, l.seq)
			}
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	var lines bytes.Buffer
	h, err := Verify(dir, before.Hash, &key, func(l []byte) error {
		lines.Write(append(bytes.Clone(l), '\n'))
		return nil
	})
	if err != nil || h.Plain != before.Lines || h.Lines < 40 || h.Files < 3 {
		t.Fatalf("%+v, %v", h, err)
	}
	mu.Lock()
	if !bytes.Equal(told.Bytes(), lines.Bytes()) {
		t.Errorf("the webhook was told other lines:\n%s\nwant\n%s", told.Bytes(), lines.Bytes())
	}
	mu.Unlock()
	files, err := list(dir)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, files[len(files)-1])
	stored, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(stored, []byte("anna")) || bytes.Contains(stored, []byte("{")) {
		t.Errorf("in the clear: %s", stored)
	}
	other := seal.NewKey()
	if _, err := Verify(dir, "", &other, nil); firn.KindOf(err) != firn.Corrupt {
		t.Errorf("another key: %v", err)
	}
	if _, err := Verify(dir, "", nil, nil); firn.KindOf(err) != firn.Denied {
		t.Errorf("no key: %v", err)
	}
	if _, err := Open(Options{Dir: dir}); firn.KindOf(err) != firn.Denied {
		t.Errorf("going on without the key: %v", err)
	}
	next, err := json.Marshal(line{Seq: h.Last + 1, Prev: h.Hash, Event: event(1)})
	if err != nil {
		t.Fatal(err)
	}
	change := bytes.Clone(stored)
	change[60] ^= 1
	for name, b := range map[string][]byte{
		"a line made up with the right hash": append(append(bytes.Clone(stored), next...), '\n'),
		"one sealed with another key":        append(encode(bytes.Clone(stored), next, &other), '\n'),
		"a bit":                              change,
		"a line of no sense":                 append(bytes.Clone(stored), "AAAA\n"...),
		"a line that is no base64":           append(bytes.Clone(stored), "****\n"...),
		"a whole chain computed anew, plain": append(append([]byte(nil), next...), '\n'),
		"an empty line":                      append(bytes.Clone(stored), '\n'),
	} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if h, err := Verify(dir, "", &key, nil); firn.KindOf(err) != firn.Corrupt {
			t.Errorf("%s: %+v, %v", name, h, err)
		}
	}
}
