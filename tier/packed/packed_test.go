package packed

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/blob/memblob"
	"firn/chunk"
	"firn/repo"
	"firn/seal"
)

func testOptions(password string) Options {
	return Options{
		Password: func(context.Context) ([]byte, error) { return []byte(password), nil },
		Init: repo.InitOptions{
			Sizes: chunk.Sizes{Min: 1 << 10, Mean: 5 << 10, Max: 16 << 10}, PackSize: 512 << 10, Reserve: -1,
			Cost: seal.Cost{Memory: 8 << 10, Time: 1, Threads: 1},
		},
	}
}

func newStore(t *testing.T, d driver.Driver) *Store {
	t.Helper()
	s := New(blob.New(d, "mem:"), testOptions("secret"))
	t.Cleanup(func() { s.Close() })
	if _, err := s.Catalogue(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	return s
}

func random(seed uint64, n int) []byte {
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	p := make([]byte, n)
	_, _ = r.Read(p)
	return p
}

// put stores p and returns its full name.
func (s *Store) put(t *testing.T, name string, p []byte) string {
	t.Helper()
	full := ""
	if err := s.Put(t.Context(), name, blob.Bytes(p), func(n string) error { full = n; return nil }); err != nil {
		t.Fatal(err)
	}
	return full
}

func (s *Store) read(ctx context.Context, name string, offset, length int64) ([]byte, error) {
	r, err := s.Open(ctx, name, offset, length)
	if err != nil {
		return nil, err
	}
	p, err := io.ReadAll(r)
	return p, errors.Join(err, r.Close())
}

func (s *Store) want(t *testing.T, name string, p []byte) {
	t.Helper()
	got, err := s.read(t.Context(), name, 0, -1)
	if err != nil || !bytes.Equal(got, p) {
		t.Errorf("%s: %d bytes, %v; want %d", name, len(got), err, len(p))
	}
}

// used is the number of bytes on the place below a prefix.
func used(t *testing.T, d driver.Driver, prefix string) (n int64) {
	t.Helper()
	if err := d.List(t.Context(), prefix, func(i driver.Info) error { n += i.Size; return nil }); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestContents(t *testing.T) {
	mem := memblob.New(memblob.Options{})
	s := newStore(t, mem)
	large := random(1, 3<<20)
	contents := map[string][]byte{"objects/b/empty": {}, "objects/b/small": []byte("x"), "objects/b/large": large}
	names := map[string]string{}
	for name, p := range contents {
		names[name] = s.put(t, name, p)
		if !strings.HasPrefix(names[name], name+"%@") {
			t.Errorf("%s became %s", name, names[name])
		}
	}
	before := used(t, mem, "repo/packs/")
	again := s.put(t, "objects/b/other", append(bytes.Clone(large), "and more"...))
	if more := used(t, mem, "repo/packs/") - before; more > 100<<10 {
		t.Errorf("like content took %d bytes", more)
	}
	for range 2 { // and by another process
		for name, p := range contents {
			s.want(t, names[name], p)
			if n, err := s.Size(t.Context(), names[name]); n != int64(len(p)) || err != nil {
				t.Errorf("%s has %d bytes, %v", name, n, err)
			}
		}
		r := rand.New(rand.NewPCG(1, 2))
		for range 200 {
			off, n := r.Int64N(4<<20), r.Int64N(1<<20)
			p, err := s.read(t.Context(), names["objects/b/large"], off, n)
			from := min(off, int64(len(large)))
			if want := large[from:min(from+n, int64(len(large)))]; err != nil || !bytes.Equal(p, want) {
				t.Fatalf("%d from %d: %d bytes, %v, want %d", n, off, len(p), err, len(want))
			}
		}
		s.Close()
		s = New(blob.New(mem, "mem:"), testOptions("secret"))
	}
	t.Cleanup(func() { s.Close() })
	if p, err := s.read(t.Context(), again, int64(len(large)), -1); string(p) != "and more" || err != nil {
		t.Errorf("%q, %v", p, err)
	}
	for _, name := range []string{"objects/b/small", "objects/b/small%@12", fullName("objects/b/x", repo.ID{1})} {
		if _, err := s.read(t.Context(), name, 0, -1); firn.KindOf(err) != firn.NotFound && firn.KindOf(err) != firn.Corrupt {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestLists holds that contents of several levels of lists are read right: with a list of few entries they are many.
func TestLists(t *testing.T) {
	mem := memblob.New(memblob.Options{})
	s := newStore(t, mem)
	r, err := s.open(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	session, err := r.NewSession(t.Context(), repo.SessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	id, _, err := session.Save(t.Context(), repo.Data, []byte("ab"))
	if err != nil {
		t.Fatal(err)
	}
	b := builder{ctx: t.Context(), to: session}
	const n = 2*fanout + 7
	for range n {
		if err := b.add(0, id, 2); err != nil {
			t.Fatal(err)
		}
	}
	root, err := b.finish()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := session.Commit(t.Context(), repo.Snapshot{Root: root}); err != nil {
		t.Fatal(err)
	}
	name := fullName("x", root)
	s.want(t, name, []byte(strings.Repeat("ab", n)))
	for _, off := range []int64{0, 1, 2*fanout - 1, 2 * fanout, 4*fanout + 3, 2*n - 1, 2 * n} {
		p, err := s.read(t.Context(), name, off, 5)
		if want := strings.Repeat("ab", n)[off:min(off+5, 2*n)]; err != nil || string(p) != want {
			t.Errorf("at %d: %q, %v, want %q", off, p, err, want)
		}
	}
	if n, err := s.Size(t.Context(), name); n != 2*(2*fanout+7) || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}

// TestTogether holds that what is put at once shares snapshots.
func TestTogether(t *testing.T) {
	mem := memblob.New(memblob.Options{})
	s := newStore(t, mem)
	var wg sync.WaitGroup
	reserved := make(chan struct{})
	const n = 8
	var mu sync.Mutex
	full := map[string]int{}
	for i := range n {
		wg.Go(func() {
			err := s.Put(t.Context(), "o", blob.Bytes(random(uint64(i), 40_000)), func(name string) error {
				mu.Lock()
				full[name] = i
				last := len(full) == n
				mu.Unlock()
				if last {
					close(reserved)
				}
				<-reserved // nobody leaves before all are in
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for name, i := range full {
		s.want(t, name, random(uint64(i), 40_000))
	}
	r, err := s.open(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	if l, err := r.Snapshots(t.Context()); len(l) != 1 || err != nil {
		t.Errorf("%d snapshots, %v", len(l), err)
	}
	// What is not wanted after all is in none.
	no := errors.New("no")
	if err := s.Put(t.Context(), "o", blob.Bytes([]byte("x")), func(string) error { return no }); !errors.Is(err, no) {
		t.Error(err)
	}
	if l, err := r.Snapshots(t.Context()); len(l) != 1 || err != nil {
		t.Errorf("%d snapshots, %v", len(l), err)
	}
}

// TestReadBack: what is read to be compared comes from the place, whatever was read before.
func TestReadBack(t *testing.T) {
	mem := memblob.New(memblob.Options{})
	s := newStore(t, mem)
	p := random(1, 200_000)
	name := s.put(t, "objects/b/k", p)
	if got, err := s.read(t.Context(), name, 100, 50); err != nil || !bytes.Equal(got, p[100:150]) { // the list is in memory now
		t.Fatal(err)
	}
	var packs []string
	if err := mem.List(t.Context(), "repo/packs/", func(i driver.Info) error { packs = append(packs, i.Key); return nil }); err != nil {
		t.Fatal(err)
	}
	r, err := s.open(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	root, err := rootOf(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range packs {
		keep, err := blob.New(mem, "mem:").ReadAll(t.Context(), k, 1<<30)
		if err == nil {
			err = mem.Delete(t.Context(), k)
		}
		if err != nil {
			t.Fatal(err)
		}
		if got, err := s.read(t.Context(), name, 0, -1); err == nil && r.Present(t.Context(), []repo.ID{root}) != nil {
			t.Errorf("%d bytes of a content whose list is gone", len(got))
		}
		if err := mem.Put(t.Context(), k, blob.Bytes(keep)); err != nil {
			t.Fatal(err)
		}
	}
	s.want(t, name, p)
}

// liar is a place that keeps something else than it was given of some blobs.
type liar struct {
	driver.Driver
	of string // what their keys begin with; "" for none
}

func (l *liar) Put(ctx context.Context, key string, src driver.Source) error {
	if l.of != "" && strings.HasPrefix(key, l.of) {
		src = blob.Bytes(random(3, int(src.Size())))
	}
	return l.Driver.Put(ctx, key, src)
}

// TestLies: nothing counts as put where the place keeps something else, and nothing of it stays in the way.
func TestLies(t *testing.T) {
	for _, of := range []string{"repo/index/", "repo/pending/", "repo/snapshots/", "repo/sessions/", "sealed/deleted/"} {
		t.Run(of, func(t *testing.T) {
			l := &liar{Driver: memblob.New(memblob.Options{})}
			s := newStore(t, l)
			first := s.put(t, "objects/b/first", random(1, 50_000))
			l.of = of
			put := s.Put(t.Context(), "objects/b/second", blob.Bytes(random(2, 50_000)), func(string) error { return nil })
			noted := s.Delete(t.Context(), first)
			if of == "sealed/deleted/" {
				put, noted = noted, put
			}
			if firn.KindOf(put) != firn.Corrupt || noted != nil {
				t.Errorf("%v, %v", put, noted)
			}
			l.of = ""
			s.Close()
			late := reopened(t, l, 1)
			late.want(t, first, random(1, 50_000))
			late.want(t, late.put(t, "objects/b/second", random(2, 50_000)), random(2, 50_000))
		})
	}
}
