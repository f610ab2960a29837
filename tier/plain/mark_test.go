package plain

import (
	"context"
	"io"
	"testing"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/blob/memblob"
)

func TestClaim(t *testing.T) {
	ctx := t.Context()
	fresh := func() *blob.Store { return blob.New(memblob.New(memblob.Options{}), "mem:") }
	store := fresh()
	for range 2 {
		if err := Claim(ctx, store, "plain", "site-1", "cold"); err != nil {
			t.Fatal(err)
		}
	}
	if m, err := ReadMark(ctx, store, "plain"); err != nil || m.Site != "site-1" || m.Tier != "cold" || m.Created.IsZero() {
		t.Errorf("%+v, %v", m, err)
	}
	for _, other := range [][2]string{{"site-1", "warm"}, {"site-2", "cold"}} {
		if err := Claim(ctx, store, "plain", other[0], other[1]); firn.KindOf(err) != firn.Conflict {
			t.Errorf("%v: %v", other, err)
		}
	}
	foreign := fresh()
	put(ctx, t, foreign, "photos/1.jpg", []byte("x"))
	if err := Claim(ctx, foreign, "plain", "site-1", "cold"); firn.KindOf(err) != firn.Conflict {
		t.Errorf("a place with blobs: %v", err)
	}
	for p, want := range map[string]firn.Kind{
		"{":  firn.Corrupt,
		"{}": firn.Corrupt,
		`{"format":"firn tier, plain","version":9,"site":"site-1","tier":"cold"}`: firn.Unsupported,
	} {
		damaged := fresh()
		put(ctx, t, damaged, markKey, []byte(p))
		put(ctx, t, damaged, "objects/b/k", []byte("x"))
		if err := Claim(ctx, damaged, "plain", "site-1", "cold"); firn.KindOf(err) != want {
			t.Errorf("mark %s: %v", p, err)
		}
	}
	// A damaged one that is alone is nobody's.
	alone := fresh()
	put(ctx, t, alone, markKey, []byte("{"))
	if err := Claim(ctx, alone, "plain", "site-1", "cold"); err != nil {
		t.Error(err)
	}
	if m, err := ReadMark(ctx, alone, "plain"); err != nil || m.Site != "site-1" {
		t.Errorf("%+v, %v", m, err)
	}
	if err := TakeOver(ctx, alone, "plain", "site-2", "cold"); err != nil {
		t.Error(err)
	}
	if err := Claim(ctx, alone, "plain", "site-2", "cold"); err != nil {
		t.Error(err)
	}
}

// hidden is a place that lists a blob and says that it has none.
type hidden struct{ driver.Driver }

func (h hidden) Get(context.Context, string, int64, int64) (io.ReadCloser, error) {
	return nil, firn.NewError(firn.NotFound, "no such blob")
}

// TestHiddenMark: a place whose mark cannot be read now is none that may be taken, nor one with a blob missing.
func TestHiddenMark(t *testing.T) {
	mem := memblob.New(memblob.Options{})
	place := blob.New(hidden{mem}, "mem:")
	for range 2 { // while it is written, and later
		if err := Claim(t.Context(), place, "plain", "site-1", "cold"); firn.KindOf(err) != firn.Unavailable {
			t.Errorf("%v (%v)", err, firn.KindOf(err))
		}
	}
	put(t.Context(), t, place, "objects/b/k", []byte("x"))
	if err := Claim(t.Context(), place, "plain", "site-2", "cold"); firn.KindOf(err) != firn.Unavailable {
		t.Errorf("%v (%v)", err, firn.KindOf(err))
	}
	if m, err := ReadMark(t.Context(), blob.New(mem, "mem:"), "plain"); err != nil || m.Site != "site-1" {
		t.Errorf("%+v, %v", m, err)
	}
}
