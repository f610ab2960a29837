package keys

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"firn"
)

func newTestKeys(t *testing.T, main Service, others ...Service) *Keys {
	t.Helper()
	k, err := New(main, Options{CacheSize: 8}, others...)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestKeys(t *testing.T) {
	ctx := t.Context()
	ring := openTestRing(t, filepath.Join(t.TempDir(), "k"), "secret secret")
	k := newTestKeys(t, ring)
	d, err := k.Generate(ctx, "", []byte("c"))
	if err != nil {
		t.Fatal(err)
	}
	e, err := k.Generate(ctx, "", []byte("d"))
	if err != nil || e.Plain == d.Plain {
		t.Errorf("the same key for another context, %v", err)
	}
	for _, id := range []string{"", "default", "arn:aws:kms:us-east-1:123456789012:key/default", "alias/default"} {
		if got, err := k.Unwrap(ctx, id, d.Wrapped, []byte("c")); err != nil || got != d.Plain {
			t.Errorf("%q: %v", id, err)
		}
	}
	for _, id := range []string{"none", "a/b", "arn:aws:kms:::key/none", "\x00"} {
		if _, err := k.Generate(ctx, id, nil); !errors.Is(err, ErrNoKey) {
			t.Errorf("%q: %v", id, err)
		}
	}
	if w, err := k.Rewrap(ctx, "", d.Wrapped, []byte("c")); w != nil || err != nil {
		t.Errorf("rewrapped with nothing to do: %v", err)
	}
	if err := ring.Rotate(ctx, "default"); err != nil {
		t.Fatal(err)
	}
	w, err := k.Rewrap(ctx, "", d.Wrapped, []byte("c"))
	if err != nil || w == nil {
		t.Fatalf("%v", err)
	}
	if got, err := k.Unwrap(ctx, "", w, []byte("c")); err != nil || got != d.Plain {
		t.Errorf("rewrapped: %v", err)
	}
	if _, err := k.Unwrap(ctx, "", []byte("v123"), nil); firn.KindOf(err) != firn.Unavailable {
		t.Errorf("a service that is not there: %v", err)
	}
	if _, err := k.Unwrap(ctx, "", nil, nil); !errors.Is(err, ErrNotOpened) {
		t.Errorf("nothing: %v", err)
	}

	// Another service takes over: what the first one wrapped opens, and moves with a rewrap.
	other := &away{Keyring: openTestRing(t, filepath.Join(t.TempDir(), "k"), "secret secret"), kind: 'x'}
	if err := other.Create(ctx, "default"); err != nil {
		t.Fatal(err)
	}
	k = newTestKeys(t, other, ring)
	if w, err = k.Rewrap(ctx, "", w, []byte("c")); err != nil || w[0] != 'x' {
		t.Fatalf("%v", err)
	}
	if got, err := newTestKeys(t, other).Unwrap(ctx, "", w, []byte("c")); err != nil || got != d.Plain {
		t.Errorf("moved: %v", err)
	}
}

func TestKeysCache(t *testing.T) {
	ring := openTestRing(t, filepath.Join(t.TempDir(), "k"), "secret secret")
	if err := ring.Create(t.Context(), "default"); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		s := &away{Keyring: ring, kind: 'x'}
		k := newTestKeys(t, s)
		first, err := k.Generate(ctx, "", []byte("c"))
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			if d, err := k.Generate(ctx, "", []byte("c")); err != nil || d.Plain != first.Plain {
				t.Errorf("not the same: %v", err)
			}
			if got, err := k.Unwrap(ctx, "", first.Wrapped, []byte("c")); err != nil || got != first.Plain {
				t.Error(err)
			}
		}
		if s.wraps != 1 || s.opens != 1 {
			t.Errorf("asked %d and %d times", s.wraps, s.opens)
		}
		if d, err := k.Generate(ctx, "", []byte("d")); err != nil || d.Plain == first.Plain {
			t.Errorf("another context has the same key: %v", err)
		}
		if _, err := k.Unwrap(ctx, "", first.Wrapped, []byte("d")); !errors.Is(err, ErrNotOpened) {
			t.Errorf("the cache opens for another context: %v", err)
		}
		s.down = true
		if _, err := k.Unwrap(ctx, "", first.Wrapped, []byte("c")); err != nil {
			t.Errorf("away, but kept: %v", err)
		}
		time.Sleep(5*time.Minute + time.Second)
		if _, err := k.Unwrap(ctx, "", first.Wrapped, []byte("c")); firn.KindOf(err) != firn.Unavailable {
			t.Errorf("away for long: %v", err)
		}
		if _, err := k.Generate(ctx, "", []byte("c")); firn.KindOf(err) != firn.Unavailable {
			t.Errorf("away for long: %v", err)
		}
		s.down = false
		if d, err := k.Generate(ctx, "", []byte("c")); err != nil || d.Plain == first.Plain {
			t.Errorf("given out for too long: %v", err)
		}
		for i := range 100 {
			d, err := k.Generate(ctx, "", fmt.Append(nil, i))
			if err == nil {
				_, err = k.Unwrap(ctx, "", d.Wrapped, fmt.Append(nil, i))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if k.mu.opened.Len() > 8 || k.mu.fresh.Len() > 8 {
			t.Error("the cache grows")
		}
		k.Forget()
		if k.mu.opened.Len()+k.mu.fresh.Len() != 0 {
			t.Error("not forgotten")
		}
	})
}
