package packed

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/blob/memblob"
	"firn/repo"
)

// stepped is a place each of whose calls goes through step, and that can be cloned between two of them.
type stepped struct {
	driver.Driver
	mu   sync.RWMutex
	step func(op, key string) (fail, applied bool)
}

func (s *stepped) call(op, key string, do func() error) error {
	fail, applied := false, true
	if s.step != nil {
		fail, applied = s.step(op, key)
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	var err error
	if !fail || applied {
		err = do()
	}
	if fail && err == nil {
		err = firn.NewError(firn.Unavailable, "the connection was lost")
	}
	return err
}

func (s *stepped) Put(ctx context.Context, key string, src driver.Source) error {
	return s.call("put", key, func() error { return s.Driver.Put(ctx, key, src) })
}

func (s *stepped) Get(ctx context.Context, key string, offset, length int64) (r io.ReadCloser, err error) {
	err = s.call("get", key, func() (err error) {
		r, err = s.Driver.Get(ctx, key, offset, length)
		return err
	})
	return r, err
}

func (s *stepped) Stat(ctx context.Context, key string) (i driver.Info, err error) {
	err = s.call("stat", key, func() (err error) {
		i, err = s.Driver.Stat(ctx, key)
		return err
	})
	return i, err
}

func (s *stepped) Delete(ctx context.Context, key string) error {
	return s.call("delete", key, func() error { return s.Driver.Delete(ctx, key) })
}

func (s *stepped) List(ctx context.Context, prefix string, fn func(driver.Info) error) error {
	var all []driver.Info
	if err := s.call("list", prefix, func() error {
		return s.Driver.List(ctx, prefix, func(i driver.Info) error { all = append(all, i); return nil })
	}); err != nil {
		return err
	}
	for _, i := range all { // what it calls may come back here
		if err := fn(i); err != nil {
			return err
		}
	}
	return nil
}

// clone is what a power loss of the site leaves on the place now. at is called at that moment.
func (s *stepped) clone(t *testing.T, at func()) driver.Driver {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	at()
	return s.Driver.(*memblob.Driver).Clone(memblob.Options{})
}

// register is what a site knows of names.
type register struct {
	mu    sync.Mutex
	names map[string]bool   // whether it is needed
	held  map[string][]byte // contents of those that were put
}

func newRegister() *register {
	return &register{names: map[string]bool{}, held: map[string][]byte{}}
}

func (r *register) each(_ context.Context, fn func(string, bool)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for n, needed := range r.names {
		fn(n, needed)
	}
	return nil
}

func (r *register) clone() *register {
	r.mu.Lock()
	defer r.mu.Unlock()
	return &register{names: maps.Clone(r.names), held: maps.Clone(r.held)}
}

func (r *register) put(t *testing.T, s *Store, name string, p []byte) error {
	full := ""
	err := s.Put(t.Context(), name, blob.Bytes(p), func(n string) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		if _, ok := r.names[n]; ok {
			return firn.NewError(firn.Exists, "taken")
		}
		full = n
		r.names[n] = true
		return nil
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err == nil:
		r.held[full] = p
	case full != "":
		r.names[full] = false
	}
	return err
}

// drop does what the mover does with what no version needs.
func (r *register) drop(t *testing.T, s *Store, names ...string) error {
	r.mu.Lock()
	for _, n := range names {
		delete(r.held, n)
		r.names[n] = false
	}
	r.mu.Unlock()
	if err := s.Delete(t.Context(), names...); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range names {
		delete(r.names, n)
	}
	return nil
}

// all holds that what is held can be read.
func (r *register) all(t *testing.T, s *Store) {
	t.Helper()
	for _, n := range slices.Sorted(maps.Keys(r.held)) {
		s.want(t, n, r.held[n])
	}
}

// rosters are the names in all snapshots of a tier.
func rosters(t *testing.T, s *Store) []string {
	t.Helper()
	r, err := s.open(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	list, err := r.Snapshots(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for i := range list {
		if ours(&list[i]) {
			entries, err := s.roster(t.Context(), r, &list[i])
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				names = append(names, fullName(e.name, e.root))
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// reopened is a store on a place that an earlier process left, days later.
func reopened(t *testing.T, d driver.Driver, days int) *Store {
	t.Helper()
	opt := testOptions("secret")
	opt.SessionTimeout = 20 * time.Millisecond
	opt.Now = func() time.Time { return time.Now().Add(time.Duration(days) * 25 * time.Hour) }
	s := New(blob.New(d, "mem:"), opt)
	t.Cleanup(func() { s.Close() })
	return s
}

// swept holds that a store comes to have what the register has, and no more.
func (r *register) swept(t *testing.T, s *Store) {
	t.Helper()
	r.all(t, s)
	var freed []string
	for n := range r.names {
		if r.held[n] == nil { // of a put that failed, or was cut off
			freed = append(freed, n)
		}
	}
	if err := r.drop(t, s, freed...); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if err := s.Sweep(t.Context(), r.each); err != nil {
			t.Fatal(err)
		}
		if used(t, s.place.Driver(), "sealed/deleted/") == 0 {
			break
		}
	}
	r.all(t, s)
	if got, want := rosters(t, s), slices.Sorted(maps.Keys(r.held)); !slices.Equal(got, want) {
		t.Errorf("in snapshots: %d contents, held are %d", len(got), len(want))
	}
	if n := used(t, s.place.Driver(), "sealed/deleted/"); n > 0 {
		t.Errorf("%d bytes of notes are left", n)
	}
}

// TestSweep: what was deleted is gone from the place, what is needed and what others keep in the repository stays.
func TestSweep(t *testing.T) {
	mem := memblob.New(memblob.Options{})
	s := newStore(t, mem)
	r := newRegister()
	shared := random(100, 100_000)
	for i := range 20 {
		p := random(uint64(i), 100_000)
		if i < 2 { // one that goes and one that stays
			p = append(p, shared...)
		}
		if err := r.put(t, s, fmt.Sprintf("objects/b/%d", i), p); err != nil {
			t.Fatal(err)
		}
	}
	re, err := s.open(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	session, err := re.NewSession(t.Context(), repo.SessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := session.Save(t.Context(), repo.Tree, repo.EncodeTree(nil, repo.TreeChunk{}))
	if err == nil {
		_, err = session.Commit(t.Context(), repo.Snapshot{Root: other, Host: "somebody else's"})
	}
	if err != nil {
		t.Fatal(err)
	}
	before := used(t, mem, "repo/packs/")
	var old []string
	for n := range r.held {
		var i int
		if _, err := fmt.Sscanf(n, "objects/b/%d%%@", &i); err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			old = append(old, n)
		}
	}
	if err := r.drop(t, s, old...); err != nil {
		t.Fatal(err)
	}
	if err := s.Sweep(t.Context(), r.each); err != nil {
		t.Fatal(err)
	}
	if now := used(t, mem, "repo/packs/"); now != before {
		t.Errorf("ten contents were not worth a sweep at once: %d bytes became %d", before, now)
	}
	s.Close()
	late := reopened(t, mem, 1)
	r.swept(t, late)
	if now := used(t, mem, "repo/packs/"); now > before*6/10 {
		t.Errorf("%d bytes became %d", before, now)
	}
	for _, n := range old {
		if p, err := late.read(t.Context(), n, 0, -1); firn.KindOf(err) != firn.Corrupt {
			t.Errorf("%s is still there: %d bytes, %v", n, len(p), err)
		}
	}
	re, err = late.open(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	if l, err := re.Snapshots(t.Context()); err != nil || !slices.ContainsFunc(l, func(s repo.Snapshot) bool { return s.Host == "somebody else's" }) {
		t.Errorf("%d snapshots, and not somebody else's, %v", len(l), err)
	}
	// What is deleted, and put again under the same name before the sweep, stays.
	again := slices.Sorted(maps.Keys(r.held))[0]
	p := r.held[again]
	if err := r.drop(t, late, again); err != nil {
		t.Fatal(err)
	}
	name, _, _ := cutLast(again, rootMark)
	if err := r.put(t, late, name, p); err != nil {
		t.Fatal(err)
	}
	r.swept(t, reopened(t, mem, 2))
}

// TestSmallSnapshots: many are put together, and their packs and index files with them.
func TestSmallSnapshots(t *testing.T) {
	mem := memblob.New(memblob.Options{})
	s := newStore(t, mem)
	r := newRegister()
	for i := range sweepSnapshots {
		if err := r.put(t, s, fmt.Sprintf("objects/b/%d", i), random(uint64(i), 10)); err != nil {
			t.Fatal(err)
		}
	}
	count := func(prefix string) (n int) {
		if err := mem.List(t.Context(), prefix, func(driver.Info) error { n++; return nil }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := count("repo/snapshots/"); n != sweepSnapshots {
		t.Fatalf("%d snapshots", n)
	}
	if err := s.Sweep(t.Context(), r.each); err != nil {
		t.Fatal(err)
	}
	if a, b, c := count("repo/snapshots/"), count("repo/packs/"), count("repo/index/"); a != 1 || b > 20 || c > 20 {
		t.Errorf("%d snapshots, %d packs, %d index files", a, b, c)
	}
	r.all(t, s)
	if due, err := s.isDue(t.Context()); due || err != nil {
		t.Errorf("due again: %v, %v", due, err)
	}
}

// TestSweepCutOff takes what a power loss leaves at moments of a sweep, with puts beside it, and goes on from there.
func TestSweepCutOff(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	type moment struct {
		place driver.Driver
		reg   *register
		after string
	}
	st := &stepped{Driver: memblob.New(memblob.Options{})}
	first := newStore(t, st)
	r := newRegister()
	like := func(i int) []byte { return append(random(uint64(i/2), 60_000), random(uint64(i+1000), 40_000)...) }
	for i := range 30 {
		if err := r.put(t, first, fmt.Sprintf("objects/b/%d", i), like(i)); err != nil {
			t.Fatal(err)
		}
	}
	var old []string
	for n := range r.held {
		if rng.IntN(2) == 0 {
			old = append(old, n)
		}
	}
	if err := r.drop(t, first, old...); err != nil {
		t.Fatal(err)
	}
	first.Close()
	s := reopened(t, st, 1)
	var mu sync.Mutex
	var cuts []moment
	st.step = func(op, key string) (bool, bool) {
		mu.Lock()
		defer mu.Unlock()
		if rng.IntN(12) == 0 && len(cuts) < 16 {
			m := moment{after: op + " " + key}
			m.place = st.clone(t, func() { m.reg = r.clone() })
			cuts = append(cuts, m)
		}
		return false, true
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { // contents like those that go, while they go
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			default:
			}
			// A prune that is as impatient as this one may take a session for dead, which is told.
			if err := r.put(t, s, fmt.Sprintf("objects/c/%d", i), like(i%30)); err != nil && firn.KindOf(err) != firn.Conflict {
				t.Error(err)
				return
			}
		}
	})
	err := s.Sweep(t.Context(), r.each)
	close(done)
	wg.Wait()
	st.step = nil
	if err != nil {
		t.Fatal(err)
	}
	r.swept(t, reopened(t, st, 2))
	for _, c := range cuts {
		c.reg.swept(t, reopened(t, c.place, 2))
		if t.Failed() {
			t.Fatalf("cut off before %s", c.after)
		}
	}
}

// TestSweepFails has calls of the place fail while it sweeps, before they happen and after.
func TestSweepFails(t *testing.T) {
	st := &stepped{Driver: memblob.New(memblob.Options{})}
	first := newStore(t, st)
	r := newRegister()
	for i := range 6 {
		if err := r.put(t, first, fmt.Sprintf("objects/b/%d", i), random(uint64(i), 50_000)); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.drop(t, first, slices.Sorted(maps.Keys(r.held))[:3]...); err != nil {
		t.Fatal(err)
	}
	first.Close()
	for n := rand.IntN(7); ; n += 7 { // each run takes others
		place := &stepped{Driver: st.clone(t, func() {})}
		s, reg := reopened(t, place, 1), r.clone()
		var mu sync.Mutex
		calls, failed := 0, ""
		place.step = func(op, key string) (bool, bool) {
			mu.Lock()
			defer mu.Unlock()
			if calls++; calls != n/2+1 {
				return false, true
			}
			failed = op + " " + key
			return true, n%2 == 1
		}
		err := s.Sweep(t.Context(), reg.each)
		place.step = nil
		if err != nil && firn.KindOf(err) != firn.Unavailable {
			t.Errorf("call %d, %s: %v", n, failed, err)
		}
		reg.swept(t, s)
		if t.Failed() {
			t.Fatalf("call %d: %s", n, failed)
		}
		if failed == "" {
			break
		}
	}
}

// TestDamage: what was found damaged or missing is not relied on by what is put after that.
func TestDamage(t *testing.T) {
	for _, damage := range []string{"spoiled", "gone"} {
		t.Run(damage, func(t *testing.T) {
			mem := memblob.New(memblob.Options{})
			s := newStore(t, mem)
			r := newRegister()
			p := random(1, 100_000)
			if err := r.put(t, s, "objects/b/a", p); err != nil {
				t.Fatal(err)
			}
			place := blob.New(mem, "mem:")
			for info, err := range place.List(t.Context(), "repo/packs/") {
				if err == nil && damage == "gone" {
					err = place.Delete(t.Context(), info.Key)
				} else if err == nil {
					err = place.PutBytes(t.Context(), info.Key, random(9, int(info.Size)))
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			name := slices.Collect(maps.Keys(r.held))[0]
			if got, err := s.read(t.Context(), name, 0, -1); firn.KindOf(err) != firn.Corrupt {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if damage == "gone" {
				if n, err := s.Size(t.Context(), name); firn.KindOf(err) != firn.Corrupt && firn.KindOf(err) != firn.NotFound {
					t.Errorf("%d, %v", n, err)
				}
			}
			if got, err := s.read(t.Context(), name, 70_000, 10); firn.KindOf(err) != firn.Corrupt {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			// A list tells nothing of its chunks before it is there again.
			for i := range 2 {
				if err := r.put(t, s, fmt.Sprintf("objects/b/b%d", i), p); err != nil {
					t.Fatal(err)
				}
				got, err := s.read(t.Context(), name, 0, -1)
				if err != nil && i > 0 {
					t.Errorf("%d bytes, %v", len(got), err)
				}
			}
			r.all(t, s) // the first one, too, which is the same content
			s.Close()
			late := reopened(t, mem, 1)
			r.all(t, late)
			if err := r.drop(t, late, name); err != nil {
				t.Fatal(err)
			}
			r.swept(t, reopened(t, mem, 2))
		})
	}
}

// TestSealed: the place has neither names nor contents, and opens with the password alone.
func TestSealed(t *testing.T) {
	mem := memblob.New(memblob.Options{})
	s := newStore(t, mem)
	secret := strings.Repeat("the plan is this, and nobody knows. ", 2000)
	name := s.put(t, "objects/bucket-of-secrets/secret-key", []byte(secret))
	sealed, err := s.Catalogue(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	const record = "catalogue-records/00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
	for _, key := range []string{"catalogue/1", record} {
		if err := sealed.PutBytes(t.Context(), key, []byte("of bucket-of-secrets")); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Delete(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	var listed []string
	for _, prefix := range []string{"catalogue-records/", "catalogue-records/00", "c", "x"} {
		for i, err := range sealed.List(t.Context(), prefix) {
			if err != nil {
				t.Fatal(err)
			}
			listed = append(listed, i.Key)
		}
	}
	if want := []string{record, record, record, "catalogue/1"}; !slices.Equal(listed, want) {
		t.Errorf("listed %q, want %q", listed, want)
	}
	place := blob.New(mem, "mem:")
	for info, err := range place.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		p, err := place.ReadAll(t.Context(), info.Key, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range []string{"secret-key", "bucket-of-secrets", "nobody knows", "0011223344556677"} {
			if strings.Contains(info.Key, word) || strings.Contains(string(p), word) {
				t.Errorf("%s has %q", info.Key, word)
			}
		}
	}
	for _, password := range []string{"other", ""} {
		other := New(place, testOptions(password))
		for range 2 {
			if _, err := other.read(t.Context(), name, 0, -1); firn.KindOf(err) != firn.Denied {
				t.Errorf("password %q: %v", password, err)
			}
		}
		other.Close()
	}
	none := testOptions("")
	none.Password = func(context.Context) ([]byte, error) { return nil, firn.NewError(firn.NotFound, "no such file") }
	other := New(place, none)
	defer other.Close()
	if _, err := other.Catalogue(t.Context(), true); firn.KindOf(err) != firn.Denied || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("no password: %v", err)
	}
	// The right one is tried again after a while.
	now := time.Now()
	opt := testOptions("other")
	opt.Now = func() time.Time { return now }
	mended := New(place, opt)
	defer mended.Close()
	if _, err := mended.read(t.Context(), name, 0, -1); firn.KindOf(err) != firn.Denied {
		t.Error(err)
	}
	mended.opt.Password = testOptions("secret").Password
	now = now.Add(2 * denied)
	mended.want(t, name, []byte(secret))
}

// TestHalfMade: a repository whose making was cut off is made again; one that lost its config is not.
func TestHalfMade(t *testing.T) {
	st := &stepped{Driver: memblob.New(memblob.Options{})}
	place := blob.New(st, "mem:")
	for n := 0; ; n++ {
		st.Driver = memblob.New(memblob.Options{})
		calls, failed := 0, false
		st.step = func(string, string) (bool, bool) {
			calls++
			failed = failed || calls == n/2+1
			return calls == n/2+1, n%2 == 1
		}
		s := New(place, testOptions("secret"))
		_, err := s.Catalogue(t.Context(), true)
		s.Close()
		st.step = nil
		if err != nil && firn.KindOf(err) != firn.Unavailable {
			t.Errorf("call %d: %v", n, err)
		}
		s = newStore(t, st)
		name := s.put(t, "objects/b/k", []byte("content"))
		s.want(t, name, []byte("content"))
		s.Close()
		reopened(t, st, 1).want(t, name, []byte("content"))
		if !failed {
			break
		}
	}
	if err := place.Delete(t.Context(), "repo/config"); err != nil {
		t.Fatal(err)
	}
	s := New(place, testOptions("secret"))
	defer s.Close()
	if _, err := s.Catalogue(t.Context(), true); firn.KindOf(err) != firn.Corrupt {
		t.Errorf("without a config: %v", err)
	}
	if _, err := s.read(t.Context(), fullName("x", repo.ID{1}), 0, -1); firn.KindOf(err) != firn.Unavailable {
		t.Errorf("without a config: %v", err)
	}
}

func FuzzLists(f *testing.F) {
	f.Add((&list{}).encode())
	f.Add((&list{level: 1, ids: []repo.ID{{1}, {2}}, sizes: []int64{5, 6}}).encode())
	f.Add(encodeRoster([]entry{{"objects/b/k", repo.ID{1}}}))
	f.Fuzz(func(t *testing.T, p []byte) {
		if l, err := parseList(p); err == nil {
			if n := l.total(); n < 0 || len(l.ids) != len(l.sizes) {
				t.Fatalf("%d bytes, %d ids, %d sizes", n, len(l.ids), len(l.sizes))
			}
		}
		if entries, err := parseRoster(p); err == nil {
			if back, err := parseRoster(encodeRoster(entries)); err != nil || !slices.Equal(back, entries) {
				t.Fatal(err)
			}
		}
	})
}

// full is a place that takes so many bytes.
type full struct {
	driver.Driver
	t     *testing.T
	limit int64
}

func (f *full) Put(ctx context.Context, key string, src driver.Source) error {
	if f.limit > 0 && used(f.t, f.Driver, "")+src.Size() > f.limit {
		return firn.NewError(firn.NoSpace, "the disk is full")
	}
	return f.Driver.Put(ctx, key, src)
}

// TestFull: what is deleted from a place that is full gives room again.
func TestFull(t *testing.T) {
	f := &full{Driver: memblob.New(memblob.Options{}), t: t}
	opt := testOptions("secret")
	opt.Init.Reserve = 64 << 10
	s := New(blob.New(f, "mem:"), opt)
	defer s.Close()
	if _, err := s.Catalogue(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	r := newRegister()
	for i := range 4 {
		if err := r.put(t, s, fmt.Sprintf("objects/b/%d", i), random(uint64(i), 100_000)); err != nil {
			t.Fatal(err)
		}
	}
	f.limit = used(t, f, "")
	if err := r.put(t, s, "objects/b/more", random(9, 100_000)); firn.KindOf(err) != firn.NoSpace {
		t.Errorf("a place that is full: %v", err)
	}
	if err := r.drop(t, s, slices.Sorted(maps.Keys(r.held))[0]); err != nil {
		t.Fatal(err)
	}
	if err := s.Sweep(t.Context(), r.each); err != nil { // at once
		t.Fatal(err)
	}
	if n := used(t, f, ""); n > f.limit-90_000 {
		t.Errorf("%d of %d bytes", n, f.limit)
	}
	r.all(t, s)
}
