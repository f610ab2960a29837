package places

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/blob/drivertest"
)

// TestMirrorContract holds a mirror behind a cache to the contract of a driver.
func TestMirrorContract(t *testing.T) {
	drivertest.Run(t, func(t *testing.T) driver.Driver {
		o := Opener{Named: map[string]Place{
			"a": {URL: "file:" + t.TempDir()}, "b": {URL: "file:" + t.TempDir()},
			"both": {Mirror: []string{"a", "b"}, CacheDir: t.TempDir(), CacheSize: 8 << 20},
		}}
		s, err := o.Init(t.Context(), "place:both/below")
		if err != nil {
			t.Fatal(err)
		}
		return s.Driver()
	}, drivertest.Blobs(50), drivertest.Large(2<<20), drivertest.Rounds(5), drivertest.Expect(drivertest.Creator|drivertest.Measurer))
}

// TestMirrorLosesAPlace removes a directory, reads on, makes it again and repairs it.
func TestMirrorLosesAPlace(t *testing.T) {
	for _, lost := range []string{"a", "b"} {
		dir := t.TempDir()
		o := Opener{Named: map[string]Place{
			"a": {URL: "file:" + filepath.Join(dir, "a")}, "b": {URL: "file:" + filepath.Join(dir, "b")},
			"both": {Mirror: []string{"a", "b"}},
		}}
		ctx := t.Context()
		with := func(url string, create bool, fn func(*blob.Store)) {
			t.Helper()
			s, err := o.open(ctx, url, create)
			if err != nil {
				t.Fatal(err)
			}
			fn(s)
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
		with("place:both", true, func(s *blob.Store) {
			if err := s.PutBytes(ctx, "k", []byte("content")); err != nil {
				t.Fatal(err)
			}
		})
		with("place:both", true, func(*blob.Store) {}) // a second time changes nothing
		if err := os.RemoveAll(filepath.Join(dir, lost)); err != nil {
			t.Fatal(err)
		}
		with("place:both", false, func(s *blob.Store) {
			if p, err := s.ReadAll(ctx, "k", 10); string(p) != "content" || err != nil {
				t.Errorf("without %s: %q, %v", lost, p, err)
			}
			if err := s.PutBytes(ctx, "new", nil); firn.KindOf(err) != firn.Unavailable {
				t.Errorf("a put that %s misses: %v", lost, err)
			}
			if err := s.Create(ctx, "newer", blob.Bytes(nil)); firn.KindOf(err) != firn.Unavailable {
				t.Errorf("a creation that %s misses: %v", lost, err)
			}
			if _, status, err := Repair(ctx, s); err != nil || status[0].Away.IsZero() == status[1].Away.IsZero() {
				t.Errorf("%+v, %v", status, err)
			}
			// It comes back while the mirror is open.
			with("place:"+lost, true, func(*blob.Store) {})
		})
		with("place:both", false, func(s *blob.Store) {
			if r, status, err := Repair(ctx, s); err != nil || r.Left != 0 || r.Copied == 0 || status[0].Filling || status[1].Filling {
				t.Errorf("repair: %+v, %+v, %v", r, status, err)
			}
		})
		with("place:"+lost, false, func(s *blob.Store) {
			if p, err := s.ReadAll(ctx, "k", 10); string(p) != "content" || err != nil {
				t.Errorf("%s after its repair: %q, %v", lost, p, err)
			}
			if _, _, err := Repair(ctx, s); firn.KindOf(err) != firn.Unsupported {
				t.Errorf("repair of no mirror: %v", err)
			}
		})
	}
}

func TestMirrorOfItself(t *testing.T) {
	file := Place{URL: "file:" + t.TempDir()}
	o := Opener{Named: map[string]Place{
		"a": file, "self": {Mirror: []string{"a", "self"}}, "one": {Mirror: []string{"a", "two"}}, "two": {Mirror: []string{"one", "a"}},
		"none": {Mirror: []string{"a", "b"}},
	}}
	for name, want := range map[string]string{
		"self": "the mirror contains itself (self, self)", "one": "the mirror contains itself (one, two, one)", "none": "names the place b",
	} {
		if _, err := o.Init(t.Context(), "place:"+name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
	}
}
