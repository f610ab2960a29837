package seal

import (
	"bytes"
	"encoding/hex"
	"testing"

	"firn"
)

func TestDeriveIsFixed(t *testing.T) {
	k := Key{1, 2, 3}
	d := k.Derive("packs", []byte("salt"))
	// Whatever is derived differently opens nothing that was stored before.
	const want = "45f7bf90336bbe5de56151def4f8cbb2ac9740cfabe6715d6633d7264eaecdcf"
	if got := hex.EncodeToString(d[:]); got != want {
		t.Errorf("derived %s instead of %s", got, want)
	}
	if k.Derive("packs", []byte("sal")) == d || k.Derive("pack", []byte("salt")) == d {
		t.Error("other purposes have the same key")
	}
}

func TestBox(t *testing.T) {
	k := NewKey()
	box := k.Box([]byte("head"), "config", []byte("content"))[4:]
	if len(box) != len("content")+BoxOverhead {
		t.Errorf("%d bytes", len(box))
	}
	if p, err := k.Unbox("config", bytes.Clone(box)); err != nil || string(p) != "content" {
		t.Errorf("%q, %v", p, err)
	}
	if _, err := k.Unbox("other", bytes.Clone(box)); firn.KindOf(err) != firn.Corrupt {
		t.Errorf("another context: %v", err)
	}
	for i := range box {
		p := bytes.Clone(box)
		p[i] ^= 1
		if _, err := k.Unbox("config", p); err == nil {
			t.Errorf("byte %d changed, and it opens", i)
		}
		if _, err := k.Unbox("config", bytes.Clone(box)[:i]); firn.KindOf(err) != firn.Corrupt {
			t.Errorf("cut at %d: %v", i, err)
		}
	}
	later := bytes.Clone(box)
	later[8] = 2
	if _, err := k.Unbox("config", later); firn.KindOf(err) != firn.Unsupported {
		t.Errorf("a later version: %v", err)
	}
}

func TestPassword(t *testing.T) {
	cost := Cost{Memory: 8 << 10, Time: 1, Threads: 1}
	salt := NewSalt()
	w, err := Wrap([]byte("pw"), []byte("secret"), salt, cost, "ctx")
	if err != nil {
		t.Fatal(err)
	}
	if p, err := Unwrap([]byte("pw"), w, salt, cost, "ctx"); err != nil || string(p) != "secret" {
		t.Errorf("%q, %v", p, err)
	}
	if _, err := Unwrap([]byte("no"), w, salt, cost, "ctx"); firn.KindOf(err) != firn.Denied {
		t.Errorf("another password: %v", err)
	}
	if _, err := Unwrap([]byte("pw"), w, salt, cost, "other"); firn.KindOf(err) != firn.Denied {
		t.Errorf("another context: %v", err)
	}
	for _, c := range []Cost{{}, {Memory: 1, Time: 1, Threads: 1}, {Memory: 1 << 30, Time: 1, Threads: 1}, {Memory: 8 << 10, Time: 1000, Threads: 1}} {
		if _, err := Unwrap([]byte("pw"), w, salt, c, "ctx"); firn.KindOf(err) != firn.Invalid {
			t.Errorf("cost %+v: %v", c, err)
		}
	}
}

func FuzzUnbox(f *testing.F) {
	k := Key{7}
	f.Add(k.Box(nil, "c", []byte("content")))
	f.Fuzz(func(t *testing.T, p []byte) {
		was := bytes.Clone(p)
		if out, err := k.Unbox("c", p); err == nil && !bytes.HasPrefix(was, []byte(boxMagic)) {
			t.Errorf("opened %q", out)
		}
	})
}

func BenchmarkPassword(b *testing.B) {
	salt := NewSalt()
	for b.Loop() {
		if _, err := Wrap([]byte("pw"), []byte("secret"), salt, DefaultCost(), ""); err != nil {
			b.Fatal(err)
		}
	}
}
