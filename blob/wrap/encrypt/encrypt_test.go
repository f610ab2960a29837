package encrypt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/blob/drivertest"
	"firn/blob/memblob"
)

func password(p string) Options {
	return Options{Secret: Secret{Password: []byte(p)}, Init: true, Cost: Cost{Time: 1, Memory: 8}}
}

func open(t *testing.T, inner driver.Driver, opt Options) driver.Driver {
	t.Helper()
	d, err := Open(t.Context(), inner, opt)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestConformance(t *testing.T) {
	drivertest.Run(t, func(t *testing.T) driver.Driver {
		return open(t, memblob.New(memblob.Options{}), password("secret"))
	}, drivertest.Expect(drivertest.Creator|drivertest.Batcher|drivertest.BulkDeleter|drivertest.Measurer))
}

func get(d driver.Driver, key string, offset, length int64) ([]byte, error) {
	rc, err := d.Get(context.Background(), key, offset, length)
	if err != nil {
		return nil, err
	}
	p, err := io.ReadAll(rc)
	return p, errors.Join(err, rc.Close())
}

func put(t *testing.T, d driver.Driver, key string, p []byte) {
	t.Helper()
	if err := d.Put(t.Context(), key, blob.Bytes(p)); err != nil {
		t.Fatal(err)
	}
}

func pattern(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i*7 + i>>9)
	}
	return p
}

func TestSecrets(t *testing.T) {
	key, other := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	for _, c := range []struct {
		name          string
		made, opened  Secret
		kind          firn.Kind
		opens, refuse bool
	}{
		{name: "same password", made: Secret{Password: []byte("a")}, opened: Secret{Password: []byte("a")}, opens: true},
		{name: "wrong password", made: Secret{Password: []byte("a")}, opened: Secret{Password: []byte("b")}, kind: firn.Denied},
		{name: "same key", made: Secret{Key: key}, opened: Secret{Key: key}, opens: true},
		{name: "wrong key", made: Secret{Key: key}, opened: Secret{Key: other}, kind: firn.Denied},
		{name: "key for password", made: Secret{Password: []byte("a")}, opened: Secret{Key: key}, kind: firn.Denied},
		{name: "password for key", made: Secret{Key: key}, opened: Secret{Password: key}, kind: firn.Denied},
		{name: "none", made: Secret{Key: key}, kind: firn.Invalid},
		{name: "both", made: Secret{Key: key}, opened: Secret{Key: key, Password: key}, kind: firn.Invalid},
		{name: "short key", made: Secret{Key: key}, opened: Secret{Key: key[:31]}, kind: firn.Invalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			mem := memblob.New(memblob.Options{})
			opt := password("")
			opt.Secret = c.made
			put(t, open(t, mem, opt), "k", []byte("content"))
			opt.Secret = c.opened
			d, err := Open(t.Context(), mem, opt)
			if !c.opens {
				if firn.KindOf(err) != c.kind {
					t.Errorf("%v (%v), want %v", err, firn.KindOf(err), c.kind)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if p, err := get(d, "k", 0, -1); err != nil || string(p) != "content" {
				t.Errorf("%q, %v", p, err)
			}
		})
	}
}

func TestRewrap(t *testing.T) {
	mem := memblob.New(memblob.Options{})
	put(t, open(t, mem, password("old")), "k", []byte("content"))
	secret := Secret{Password: []byte("new")}
	if err := Rewrap(t.Context(), mem, Secret{Password: []byte("wrong")}, secret, Cost{1, 8}); firn.KindOf(err) != firn.Denied {
		t.Errorf("rewrap with a wrong password: %v", err)
	}
	if err := Rewrap(t.Context(), mem, Secret{Password: []byte("old")}, secret, Cost{1, 8}); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), mem, password("old")); firn.KindOf(err) != firn.Denied {
		t.Errorf("the old password: %v", err)
	}
	if p, err := get(open(t, mem, password("new")), "k", 0, -1); err != nil || string(p) != "content" {
		t.Errorf("%q, %v", p, err)
	}
}

// TestPlaces holds that no place gets a key when it must not.
func TestPlaces(t *testing.T) {
	mem := memblob.New(memblob.Options{})
	opt := password("a")
	opt.Init = false
	if _, err := Open(t.Context(), mem, opt); firn.KindOf(err) != firn.NotFound {
		t.Errorf("an empty place without init: %v", err)
	}
	put(t, mem, "plain", []byte("x"))
	if _, err := Open(t.Context(), mem, password("a")); firn.KindOf(err) != firn.Corrupt {
		t.Errorf("a place with plain blobs: %v", err)
	}
	away := memblob.New(memblob.Options{Before: func(context.Context, memblob.Op) memblob.Fault {
		return memblob.Fault{Err: firn.NewError(firn.Unavailable, "away")}
	}})
	if _, err := Open(t.Context(), away, password("a")); firn.KindOf(err) != firn.Unavailable {
		t.Errorf("a place that is away: %v", err)
	}
	// The header is no blob of the caller's.
	d := open(t, memblob.New(memblob.Options{}), password("a"))
	if err := d.Put(t.Context(), HeaderKey, blob.Bytes(nil)); firn.KindOf(err) != firn.Invalid {
		t.Errorf("put: %v", err)
	}
	if err := d.Delete(t.Context(), HeaderKey); firn.KindOf(err) != firn.Invalid {
		t.Errorf("delete: %v", err)
	}
	if _, err := get(d, HeaderKey, 0, -1); firn.KindOf(err) != firn.NotFound {
		t.Errorf("get: %v", err)
	}
}

// TestDamage changes stored bytes in every way and wants firn.Corrupt from every read that touches them.
func TestDamage(t *testing.T) {
	const pack = sealedPack
	sizes := []int{0, 1, 1000, plainPack - 2, plainPack - 1, plainPack, 3*plainPack - 1, 3*plainPack + 500}
	for _, size := range sizes {
		mem := memblob.New(memblob.Options{})
		d := open(t, mem, password("a"))
		content := pattern(size)
		put(t, d, "k", content)
		put(t, d, "other", content)
		stored, err := get(mem, "k", 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		other, err := get(mem, "other", 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(stored, content) && size > 10 {
			t.Fatal("the content is stored as it is")
		}
		put(t, d, "k", content)
		earlier, err := get(mem, "k", 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		n := len(stored)
		damaged := map[string][]byte{
			"swapped with another blob": other,
			"emptied":                   {},
			"longer":                    append(bytes.Clone(stored), 0),
			"followed by itself":        append(bytes.Clone(stored), stored...),
		}
		for _, at := range []int{0, 1, 2, 4, 8, 15, 16, n / 2, n - 17, n - 1} {
			p := bytes.Clone(stored)
			p[at] ^= 0x10
			damaged[fmt.Sprintf("bit flipped at %d", at)] = p
		}
		for _, to := range []int{1, 16, 32, 33, n / 2, n - 32, n - 1, pack, 2 * pack, n - n%pack} {
			if to < n && to >= 0 {
				damaged[fmt.Sprintf("cut to %d", to)] = stored[:to]
			}
		}
		if n > 2*pack {
			damaged["reordered"] = bytes.Join([][]byte{stored[pack : 2*pack], stored[:pack], stored[2*pack:]}, nil)
			damaged["without its second package"] = bytes.Join([][]byte{stored[:pack], stored[2*pack:]}, nil)
			damaged["with a package of an earlier content"] = bytes.Join([][]byte{stored[:pack], earlier[pack : 2*pack], stored[2*pack:]}, nil)
		}
		for name, p := range damaged {
			if err := mem.Put(t.Context(), "k", blob.Bytes(p)); err != nil {
				t.Fatal(err)
			}
			got, err := get(d, "k", 0, -1)
			if firn.KindOf(err) != firn.Corrupt {
				t.Errorf("%d bytes %s: read %d bytes, %v", size, name, len(got), err)
			}
			if !bytes.HasPrefix(content, got) {
				t.Errorf("%d bytes %s: read others than were put", size, name)
			}
			// A range either is right or fails; never shorter than it should be, and the end is never believed.
			for _, r := range [][2]int64{{0, 10}, {int64(size) - 5, 10}, {int64(size), -1}, {int64(size) / 2, -1}, {plainPack, 100}, {int64(size), 5}} {
				if r[0] < 0 {
					continue
				}
				want := content[min(int64(size), r[0]):]
				if r[1] >= 0 {
					want = want[:min(int64(len(want)), r[1])]
				}
				got, err := get(d, "k", r[0], r[1])
				if err == nil && !bytes.Equal(got, want) {
					t.Errorf("%d bytes %s: range %v is %d bytes, want %d, and no error", size, name, r, len(got), len(want))
				}
				if err != nil && firn.KindOf(err) != firn.Corrupt {
					t.Errorf("%d bytes %s: range %v: %v", size, name, r, err)
				}
			}
		}
	}
}

// TestLostConnection holds that a broken read is not taken for a damaged blob.
func TestLostConnection(t *testing.T) {
	broken := false
	lost := firn.NewError(firn.Unavailable, "lost")
	mem := memblob.New(memblob.Options{Before: func(_ context.Context, op memblob.Op) memblob.Fault {
		if op.Name == "read" && broken {
			return memblob.Fault{Err: lost}
		}
		return memblob.Fault{}
	}})
	d := open(t, mem, password("a"))
	put(t, d, "k", pattern(300_000))
	rc, err := d.Get(t.Context(), "k", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	if _, err := io.ReadFull(rc, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	broken = true
	if _, err := io.ReadAll(rc); !errors.Is(err, lost) {
		t.Errorf("got %v", err)
	}
}

// TestNamesAndSizesAreClear says what the place shows: the documentation does too.
func TestNamesAndSizesAreClear(t *testing.T) {
	mem := memblob.New(memblob.Options{})
	d := open(t, mem, password("a"))
	put(t, d, "dir/name", pattern(70_000))
	info, err := mem.Stat(t.Context(), "dir/name")
	if err != nil || info.Size != 70_001+2*32 {
		t.Errorf("%+v, %v", info, err)
	}
}

// TestBackendMayReadTwice holds that the ciphertext of one put is the same each time it is read, and of two it is not.
func TestBackendMayReadTwice(t *testing.T) {
	e := &encrypted{key: make([]byte, keyLen)}
	var seen []string
	for range 2 {
		s, err := e.source(t.Context(), "k", blob.Bytes(pattern(100_000)))
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			r, err := s.Open()
			if err != nil {
				t.Fatal(err)
			}
			p, err := io.ReadAll(r)
			if err := errors.Join(err, r.Close()); err != nil || int64(len(p)) != s.Size() {
				t.Fatalf("%d bytes, %v", len(p), err)
			}
			seen = append(seen, string(p))
		}
	}
	if seen[0] != seen[1] || seen[2] != seen[3] || seen[0] == seen[2] {
		t.Error("the ciphertexts of one put differ, or those of two are the same")
	}
}

// TestReadsOldFormat reads a place that version 1 wrote: changing the format breaks this test first.
func TestReadsOldFormat(t *testing.T) {
	mem := memblob.New(memblob.Options{})
	put(t, mem, HeaderKey, []byte(goldenHeader))
	put(t, mem, "k", goldenBlob())
	opt := password("golden")
	opt.Init = false
	if p, err := get(open(t, mem, opt), "k", 0, -1); err != nil || string(p) != "golden content" {
		t.Errorf("%q, %v", p, err)
	}
}

func FuzzHeader(f *testing.F) {
	f.Add([]byte(goldenHeader))
	f.Add([]byte(strings.Repeat("\n", 3)))
	f.Fuzz(func(t *testing.T, p []byte) {
		h, err := parseHeader(p)
		if err != nil {
			if k := firn.KindOf(err); k != firn.Corrupt && k != firn.Unsupported {
				t.Errorf("%v has kind %v", err, k)
			}
			return
		}
		if h.Memory > maxMemory || h.Time > maxTime {
			t.Errorf("a cost out of bounds passed: %+v", h)
		}
	})
}
