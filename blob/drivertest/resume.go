package drivertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"firn"
	"firn/blob"
	"firn/blob/driver"
)

// keptAfter is after how many bytes every driver keeps something of what is cut off.
const keptAfter = 18 << 20

// anywhere is a source that can be read from any offset on, and remembers from where it was.
type anywhere struct {
	*source
	from []int64
}

func (a *anywhere) OpenAt(offset int64) (io.ReadCloser, error) {
	a.from = append(a.from, offset)
	r, err := a.Open()
	if err != nil {
		return nil, err
	}
	r.(*sourceReader).at = int(offset)
	return r, nil
}

func (s *suite) resume(t *testing.T) {
	d := s.fresh(t)
	r, ok := blob.As[driver.Resumer](d)
	if !ok {
		return
	}
	var keys []string
	for i, size := range []int64{0, 10, 1 << 20, s.large + 17} {
		key, p := fmt.Sprintf("dir/%d", i), version(1, size)
		keys = append(keys, key)
		for n := range 2 { // the second one finds it there
			src := newSource(p)
			if err := errors.Join(r.Resume(t.Context(), key, src), src.done()); err != nil {
				t.Fatalf("resume of %d bytes: %v", size, err)
			}
			want(t, d, key, p)
			if size > s.large && n == 1 && src.opened.Load() > 0 {
				t.Errorf("resume of %d bytes that are there opened its source", size)
			}
		}
		if err := r.Abandon(t.Context(), key); err != nil {
			t.Errorf("abandon of what is complete: %v", err)
		}
		want(t, d, key, p)
	}
	wantKeys(t, d, "", keys...)
	if err := r.Abandon(t.Context(), "dir/none"); err != nil {
		t.Errorf("abandon of what was never begun: %v", err)
	}
	for _, src := range []*source{
		{p: version(2, s.large), size: s.large + 1, fail: -1},
		{p: version(2, s.large), size: s.large - 1, fail: -1},
	} {
		if err := r.Resume(t.Context(), "wrong", src); firn.KindOf(err) != firn.Invalid {
			t.Errorf("resume from a wrong source: %v, want firn.Invalid", err)
		}
		if err := errors.Join(src.done(), r.Abandon(t.Context(), "wrong")); err != nil {
			t.Error(err)
		}
	}
	wantKeys(t, d, "", keys...)
}

// resumeCutOff: what was stored before a put was cut off is not read again, by another client either; nobody sees any of
// it; and what was abandoned never comes up in another content.
func (s *suite) resumeCutOff(t *testing.T) {
	d := s.fresh(t)
	if _, ok := blob.As[driver.Resumer](d); !ok {
		return
	}
	cut := func(key string, p []byte, at int64, byContext bool) (from int64) {
		t.Helper()
		c := s.other(t, d)
		r, _ := blob.As[driver.Resumer](c)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		src := &anywhere{source: newSource(p)}
		expected := errBroken
		if src.fail = int(at); byContext {
			src.fail, expected = -1, context.Canceled
			src.gate = func(n int) {
				if int64(n) >= at {
					cancel()
				}
			}
		}
		if err := r.Resume(ctx, key, src); !errors.Is(err, expected) {
			t.Fatalf("resume that is cut off: %v, want %v", err, expected)
		}
		if err := src.done(); err != nil {
			t.Error(err)
		}
		return src.from[0] // later ones are of a wrapper that tries again
	}
	finish := func(key string, p []byte) (from int64) {
		t.Helper()
		c := s.other(t, d)
		r, _ := blob.As[driver.Resumer](c)
		src := &anywhere{source: newSource(p)}
		if err := errors.Join(r.Resume(t.Context(), key, src), src.done()); err != nil {
			t.Fatalf("resume: %v", err)
		}
		want(t, d, key, p)
		return src.from[0] // later ones are of a wrapper that tries again
	}
	p := version(1, s.large)
	for _, byContext := range []bool{false, true} {
		key := fmt.Sprint("dir/", byContext)
		if from := cut(key, p, s.large*9/10, byContext); from != 0 {
			t.Errorf("the first call began at %d", from)
		}
		wantNone(t, d, key)
		wantKeys(t, d, key)
		from := finish(key, p)
		if from <= 0 && s.large*9/10 >= keptAfter || from > s.large*9/10 {
			t.Errorf("of %d bytes, of which nine in ten had come, it went on after %d", s.large, from)
		}
		t.Logf("of %d bytes, cut off at %d, %d were kept", s.large, s.large*9/10, from)
	}

	// Step by step, over an old blob that stays as it is until then.
	old := version(2, 1000)
	put(t, d, "old", old)
	last := int64(0)
	for i := range int64(3) {
		from := cut("old", p, s.large*(85+i*5)/100, i%2 == 0)
		if from < last {
			t.Errorf("it went on after %d bytes, and had %d", from, last)
		}
		last = from
		want(t, d, "old", old)
	}
	if from := finish("old", p); from < last {
		t.Errorf("it went on after %d bytes, and had %d", from, last)
	}

	// Another content, after the first was abandoned; and a source that is read from its beginning.
	cut("again", p, s.large*9/10, false)
	r, _ := blob.As[driver.Resumer](d)
	if err := r.Abandon(t.Context(), "again"); err != nil {
		t.Fatal(err)
	}
	other := version(3, s.large)
	cut("again", other, s.large*9/10, false)
	wantNone(t, d, "again")
	src := newSource(bytes.Clone(other))
	if err := errors.Join(r.Resume(t.Context(), "again", src), src.done()); err != nil {
		t.Fatal(err)
	}
	want(t, d, "again", other)
	wantKeys(t, d, "", "again", "dir/false", "dir/true", "old")
}
