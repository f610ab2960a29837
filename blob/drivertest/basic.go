package drivertest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"firn"
	"firn/blob"
	"firn/blob/driver"
)

func (s *suite) content(t *testing.T) {
	d := s.fresh(t)
	wantKeys(t, d, "")
	// The last is put over the larger ones before it, the first over nothing.
	for i, size := range []int64{1, 0, 1, 4095, 4096, 4097, 1<<20 + 1, 100, 0} {
		p := version(uint64(i), size)
		put(t, d, "dir/blob", p)
		want(t, d, "dir/blob", p)
	}
	info, err := d.Stat(t.Context(), "dir/blob")
	if err != nil {
		t.Fatal(err)
	}
	near(t, info)
	wantKeys(t, d, "", "dir/blob")
	if err := d.Delete(t.Context(), "dir/blob"); err != nil {
		t.Fatalf("delete: %v", err)
	}
	wantNone(t, d, "dir/blob")
	wantKeys(t, d, "")
	put(t, d, "dir/blob", []byte("again"))
	want(t, d, "dir/blob", []byte("again"))
}

func (s *suite) notThere(t *testing.T) {
	d := s.fresh(t)
	put(t, d, "there/is", nil)
	for _, key := range []string{"none", "none/at/all", "there/none", "there/is0", "there/i"} {
		wantNone(t, d, key)
		for _, r := range [][2]int64{{0, 10}, {5, 10}, {5, -1}, {0, 0}} {
			if p, err := read(t.Context(), d, key, r[0], r[1]); firn.KindOf(err) != firn.NotFound {
				t.Errorf("get %q from %d, %d bytes: %s, %v, want not found", key, r[0], r[1], show(p), err)
			}
		}
		for range 2 {
			if err := d.Delete(t.Context(), key); err != nil {
				t.Errorf("delete %q, which is not there: %v", key, err)
			}
		}
		wantKeys(t, d, key+"/")
	}
	// What is a part of a key only is no key.
	if _, err := d.Stat(t.Context(), "there"); firn.KindOf(err) != firn.NotFound {
		t.Errorf(`stat "there" beside "there/is": %v, want not found`, err)
	}
	if _, err := read(t.Context(), d, "there", 0, -1); firn.KindOf(err) != firn.NotFound {
		t.Errorf(`get "there" beside "there/is": %v, want not found`, err)
	}
	if err := d.Delete(t.Context(), "there"); err != nil {
		t.Errorf(`delete "there" beside "there/is": %v`, err)
	}
	if _, err := d.Stat(t.Context(), "there/is/not"); firn.KindOf(err) != firn.NotFound {
		t.Errorf(`stat "there/is/not" beside "there/is": %v, want not found`, err)
	}
	if err := d.Delete(t.Context(), "there/is/not"); err != nil {
		t.Errorf(`delete "there/is/not" beside "there/is": %v`, err)
	}
	want(t, d, "there/is", nil)
}

func (s *suite) ranges(t *testing.T) {
	d := s.fresh(t)
	const size = 300_001
	p := version(1, size)
	put(t, d, "blob", p)
	put(t, d, "empty", nil)
	for _, offset := range []int64{0, 1, 4096, 65536, size - 1, size, size + 1, size + 1<<20, 1 << 40} {
		for _, length := range []int64{-1, 0, 1, 100, 4096, 262144, size, size + 5, 1 << 40} {
			got, err := read(t.Context(), d, "blob", offset, length)
			if err != nil {
				t.Errorf("get %d bytes from %d: %v", length, offset, err)
				continue
			}
			w := p[min(offset, size):]
			if length >= 0 {
				w = w[:min(length, int64(len(w)))]
			}
			if !bytes.Equal(got, w) {
				t.Errorf("get %d bytes from %d: %s, want %d bytes", length, offset, show(got), len(w))
			}
			if offset > 1 || length > 1 {
				continue
			}
			if got, err = read(t.Context(), d, "empty", offset, length); err != nil || len(got) != 0 {
				t.Errorf("get %d bytes from %d of an empty blob: %s, %v", length, offset, show(got), err)
			}
		}
	}
	// A reader that is closed early, or never read.
	for _, n := range []int{0, 10} {
		r, err := d.Get(t.Context(), "blob", 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		if n > 0 {
			if _, err := r.Read(make([]byte, n)); err != nil {
				t.Errorf("read %d bytes: %v", n, err)
			}
		}
		if err := r.Close(); err != nil {
			t.Errorf("close after %d bytes: %v", n, err)
		}
	}
}

// sources are those that announce a wrong size, or break.
func (s *suite) sources(t *testing.T) {
	d := s.fresh(t)
	creator, creates := blob.As[driver.Creator](d)
	batcher, batches := blob.As[driver.Batcher](d)
	puts := map[string]func(key string, src driver.Source) error{
		"put": func(key string, src driver.Source) error { return d.Put(t.Context(), key, src) },
	}
	if creates {
		puts["create"] = func(key string, src driver.Source) error { return creator.Create(t.Context(), key, src) }
	}
	if batches {
		puts["apply"] = func(key string, src driver.Source) error {
			return batcher.Apply(t.Context(), []driver.Change{{Key: key, Put: src}})
		}
	}
	for name, fn := range puts {
		for _, size := range []int{0, 1, 1000, 3 << 20} {
			for fault, src := range map[string]*source{
				"is one byte short":      {p: version(2, int64(size)), size: int64(size) + 1, fail: -1},
				"is one byte long":       {p: version(2, int64(size)+1), size: int64(size), fail: -1},
				"is empty":               {size: int64(size) + 5, fail: -1},
				"is much longer":         {p: version(2, int64(size)+200_000), size: int64(size), fail: -1},
				"breaks at once":         {p: version(2, int64(size)+1), size: int64(size) + 1, fail: 0},
				"breaks half-way":        {p: version(2, int64(size)+2), size: int64(size) + 2, fail: size/2 + 1},
				"breaks after its bytes": {p: version(2, int64(size)), size: int64(size), fail: size},
				"cannot be opened":       {size: int64(size), fail: -1, openErr: errBroken},
			} {
				what := fmt.Sprintf("%s of %d bytes from a source that %s", name, src.size, fault)
				err := fn("new/blob", src)
				switch broken := src.fail >= 0 || src.openErr != nil; {
				case err == nil:
					t.Errorf("%s succeeded", what)
				case broken && !errors.Is(err, errBroken):
					t.Errorf("%s: %v, want an error that wraps the source's", what, err)
				case !broken && firn.KindOf(err) != firn.Invalid:
					t.Errorf("%s: %v (%v), want firn.Invalid", what, err, firn.KindOf(err))
				}
				if err := src.done(); err != nil {
					t.Errorf("%s: %v", what, err)
				}
			}
		}
		wantNone(t, d, "new/blob")
		wantKeys(t, d, "new")
		if name == "create" {
			continue
		}
		old := version(1, 5000)
		put(t, d, "old", old)
		for _, src := range []*source{
			{p: version(2, 100_000), size: 100_001, fail: -1},
			{p: version(2, 100_001), size: 100_000, fail: -1},
			{p: version(2, 100_000), size: 100_000, fail: 99_999},
		} {
			if err := fn("old", src); err == nil {
				t.Errorf("%s from a wrong source succeeded", name)
			}
			want(t, d, "old", old)
		}
		wantKeys(t, d, "", "old")
	}
	// A right one, in uneven pieces, is read to its end and closed.
	src := newSource(version(3, 1<<20))
	if err := d.Put(t.Context(), "right", src); err != nil {
		t.Fatal(err)
	}
	if err := src.done(); err != nil {
		t.Error(err)
	}
	want(t, d, "right", src.p)
}

// oddKeys are valid keys that some encoding, escaping or quoting gets wrong.
func oddKeys() []string {
	keys := []string{
		"plain", "with blank", " leading", "trailing ", "two  blanks", "a+b", "100%", "%2F", "%", "%zz", "a%20b",
		"a&b=c", "q?x=y", "frag#ment", "semi;colon", "co:lon", "com,ma", "at@sign", "ex!cl", "do$llar", "do$$llar",
		"star*", "a[b]c", "{brace}", "par(en)", "<angle>", "pi|pe", "back\\slash", "quo'te", "dou\"ble", "back`tick",
		"til~de", "~", "-dash", "--", "_", "car^et", "dot.", ".hidden", "..twodots", "a..b", "...",
		"UPPER", "upper", "Upper", "umläut", "umla\u0308ut", "日本語", "ключ/значение", "🏔/❄️", "ß", "İi", "\u200b",
		"a\u00a0b", "\ufeffbom", "\U0010ffff", "nul", "CON", "aux.txt", "x.tmp", ".tmp", "tmp", ".nfs000000000001", ".git/config",
		"refs/heads/main", "HEAD", ".lock", "a.lock", "index", "0", "-1", "null", "true", "a/b/c/d/e/f/g/h/i/j/k/l",
		"packs/ab/abcdef.pack", "https:/x", "s3:/bucket/x", "%00", "\\0", "_%like_", "{hash}tag", "{}",
		strings.Repeat("p", 255), strings.Repeat("q", 256), strings.Repeat("long/", 179) + "end..", strings.Repeat("k", blob.MaxKey),
		strings.Repeat("雪", 300), "deep/" + strings.Repeat("é", 400) + "/x",
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

func (s *suite) keys(t *testing.T) {
	d := s.fresh(t)
	keys := slices.DeleteFunc(oddKeys(), func(key string) bool {
		long := s.part > 0 && slices.ContainsFunc(strings.Split(key, "/"), func(part string) bool { return len(part) > s.part })
		if long {
			if err := d.Put(t.Context(), key, blob.Bytes(nil)); firn.KindOf(err) != firn.Invalid {
				t.Errorf("put %q, which has too long a part: %v, want firn.Invalid", short(key), err)
			}
		}
		return long
	})
	var stored []string
	for _, key := range keys {
		if err := blob.CheckKey(key); err != nil {
			t.Fatalf("the suite's own key %q: %v", key, err)
		}
		put(t, d, key, text("content of %s", key))
	}
	for _, key := range keys {
		want(t, d, key, text("content of %s", key))
		stored = append(stored, key)
	}
	wantKeys(t, d, "", stored...)
	for _, key := range keys {
		var with []string
		for _, k := range keys {
			if strings.HasPrefix(k, key) {
				with = append(with, k)
			}
		}
		if len(key) < 40 { // the long ones differ from others in their first bytes
			wantKeys(t, d, key, with...)
		}
	}
	for i, key := range keys {
		if err := d.Delete(t.Context(), key); err != nil {
			t.Errorf("delete %q: %v", short(key), err)
		}
		if i%8 == 0 {
			wantNone(t, d, key)
		}
	}
	wantKeys(t, d, "")
}

// nestedKeys: "a" beside "a/b" works or is a conflict, and never harms what is there.
func (s *suite) nestedKeys(t *testing.T) {
	for _, pair := range [][2]string{{"a", "a/b"}, {"a/b", "a"}, {"x/y/z", "x"}, {"x/y", "x/y/z/w"}} {
		d := s.fresh(t)
		first, second := pair[0], pair[1]
		put(t, d, first, []byte("first"))
		err := d.Put(t.Context(), second, blob.Bytes([]byte("second")))
		want(t, d, first, []byte("first"))
		both := []string{first, second}
		slices.Sort(both)
		switch {
		case err == nil:
			want(t, d, second, []byte("second"))
			wantKeys(t, d, "", both...)
		case firn.KindOf(err) == firn.Conflict:
			wantNone(t, d, second)
			wantKeys(t, d, "", first)
		default:
			t.Errorf("put %q beside %q: %v (%v), want success or firn.Conflict", second, first, err, firn.KindOf(err))
		}
		// Once the first has gone, nothing it left behind is in the way.
		if err := d.Delete(t.Context(), first); err != nil {
			t.Errorf("delete %q: %v", first, err)
		}
		put(t, d, second, []byte("second again"))
		want(t, d, second, []byte("second again"))
		wantKeys(t, d, "", second)
	}
}
