package disk

import (
	"cmp"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"firn/test/server"
)

var (
	seed  = flag.Uint64("seed", 0, "seed of the flipped bits; 0 draws one")
	flips = flag.Int("flips", 16, "bits flipped in each kind of file, one at a time")
)

// TestFlippedBits flips one bit at a time in the files of a stopped site. A read then gives the right bytes or an
// error, never others, and the check names the object.
func TestFlippedBits(t *testing.T) {
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	t.Logf("replay with: go test ./test/disk -run TestFlippedBits -args -seed %d -flips %d", *seed, *flips)
	s := start(t, filepath.Join(t.TempDir(), "data"))
	for i := range 70 {
		size := []int{100, 5_000, 40_000, 120_000, 140_000, 400_000, 1 << 20}[i%7] + i
		if resp := s.put(t, fmt.Sprintf("dir/key%03d", i), size); resp.Status != 200 {
			t.Fatal(resp)
		}
	}
	s.server.MustStop(t)
	pristine := filepath.Join(t.TempDir(), "pristine")
	replace(t, pristine, s.server.Data())
	for _, kind := range []struct {
		name string
		in   func(path string) bool
		// sure says that any bit of such a file is content, so that each flip must be found.
		sure bool
	}{
		{"part files", func(p string) bool { return strings.Contains(p, "/blobs/") }, true},
		// After a clean stop nothing may hang on the metadata store's log: its reader takes damage for the end.
		{"log", func(p string) bool { return strings.HasSuffix(p, ".log") }, false},
		{"metadata store", func(p string) bool { return strings.Contains(p, "/kv/") }, false},
	} {
		t.Run(kind.name, func(t *testing.T) {
			if kind.name == "metadata store" {
				// A start moves what is in the log to tables.
				s.client.CloseIdle()
				s.server.Start(t)
				s.server.MustStop(t)
				replace(t, pristine, s.server.Data())
			}
			rng := rand.New(rand.NewPCG(*seed, 1))
			found, refused, harmless := 0, 0, 0
			for range *flips {
				var files []string
				for _, f := range dataFiles(t, s.server.Data()) {
					if kind.in(f) && !strings.HasSuffix(f, "/LOCK") {
						files = append(files, f)
					}
				}
				path := largerFirst(t, files)[min(rng.IntN(len(files)), rng.IntN(len(files)))]
				whole, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				bit := rng.IntN(len(whole) * 8)
				broken := append([]byte(nil), whole...)
				broken[bit/8] ^= 1 << (bit % 8)
				if err := os.WriteFile(path, broken, 0o600); err != nil {
					t.Fatal(err)
				}
				where := fmt.Sprintf("bit %d of byte %d of %d of %s", bit%8, bit/8, len(whole), path[len(s.server.Data()):])
				switch bad := s.flipped(t, where); {
				case bad == nil:
					refused++
				case len(bad) > 0:
					found++
				default:
					harmless++
					if kind.sure {
						t.Errorf("%s: not found", where)
					}
				}
				replace(t, s.server.Data(), pristine)
			}
			t.Logf("%d flips: %d found by reads and the check, %d keep the site from starting, %d changed no answer",
				*flips, found, refused, harmless)
		})
	}
	// All is as it was.
	s.client.CloseIdle()
	s.server.Start(t)
	s.readAll(t)
	s.server.MustStop(t)
	checkClean(t, s.server.Data())
}

// flipped starts the site, reads everything, and returns the keys that answer an error; nil where the site does not
// start. It fails the test for wrong bytes, for an object that seems not to exist, and for a check that does not name
// an object that cannot be read.
func (s *site) flipped(t *testing.T, where string) []string {
	t.Helper()
	defer s.server.Kill()
	s.client.CloseIdle()
	if err := s.server.TryStart(t.Context()); err != nil {
		if s.server.Tail(1) == "" {
			t.Errorf("%s: the site does not start and does not say why: %v", where, err)
		}
		return nil
	}
	bad := []string{}
	for key, want := range s.want {
		resp, err := s.client.Get(t.Context(), bucket, key, "")
		switch {
		case err != nil:
			// The connection was broken after the header: nobody takes that for the whole object.
			if resp != nil && !strings.HasPrefix(string(want), string(resp.Body)) {
				t.Errorf("%s: get %s gives wrong bytes before it breaks off", where, key)
			}
			bad = append(bad, key)
		case resp.Status >= 500:
			bad = append(bad, key)
		case resp.Status != 200:
			t.Errorf("%s: get %s: %v", where, key, resp)
		case string(resp.Body) != string(want):
			t.Errorf("%s: get %s gives wrong bytes", where, key)
		}
	}
	s.server.MustStop(t)
	out, err := server.Run(t.Context(), t, "check", "--offline", "--read", "--data", s.server.Data())
	for _, key := range bad {
		if err == nil || !strings.Contains(out, bucket+"/"+key) {
			t.Errorf("%s: firn check does not name %s/%s: %v\n%.2000s", where, bucket, key, err, out)
		}
	}
	return bad
}

// largerFirst orders files by size, so that most flips hit stored data and some the small files around it.
func largerFirst(t *testing.T, files []string) []string {
	t.Helper()
	size := map[string]int64{}
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		size[f] = info.Size()
	}
	slices.SortFunc(files, func(a, b string) int { return cmp.Compare(size[b], size[a]) })
	return files
}

// replace makes a directory the copy of another.
func replace(t *testing.T, dir, with string) {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(dir, os.DirFS(with)); err != nil {
		t.Fatal(err)
	}
}
