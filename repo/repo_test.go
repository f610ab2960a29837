package repo

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"firn"
	"firn/blob"
	"firn/blob/memblob"
	"firn/seal"
)

var testPassword = []byte("snow falls")

// cheap makes opening cost nothing: passwords are tested on their own.
func cheap() seal.Cost { return seal.Cost{Memory: 8 << 10, Time: 1, Threads: 1} }

func newStore(t testing.TB) *blob.Store {
	t.Helper()
	s := blob.New(memblob.New(memblob.Options{}), "mem:test")
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func initRepo(t testing.TB, store *blob.Store, opt InitOptions) *Repo {
	t.Helper()
	opt.Cost = cheap()
	r, err := Init(t.Context(), store, testPassword, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func openRepo(t testing.TB, store *blob.Store) *Repo {
	t.Helper()
	r, err := Open(t.Context(), store, testPassword, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

// again opens the repository that r is, without a password, through another store.
func again(t testing.TB, r *Repo, store *blob.Store, opt Options) *Repo {
	t.Helper()
	n, err := newRepo(store, r.cfg, r.master, opt)
	if err != nil {
		t.Fatal(err)
	}
	n.key = r.key
	t.Cleanup(func() { _ = n.Close() })
	return n
}

// noise returns n bytes that do not compress.
func noise(rng *rand.Rand, n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(rng.Uint32())
	}
	return p
}

// prose returns n bytes that do.
func prose(rng *rand.Rand, n int) []byte {
	words := []string{"snow ", "falls ", "at ", "the ", "edge, ", "settles ", "to ", "firn, ", "becomes ", "ice.\n"}
	var b []byte
	for len(b) < n {
		b = append(b, words[rng.IntN(len(words))]...)
	}
	return b[:n]
}

func TestSaveAndLoad(t *testing.T) {
	ctx := t.Context()
	store := newStore(t)
	r := initRepo(t, store, InitOptions{})
	rng := rand.New(rand.NewPCG(1, 2))
	chunks := map[ID][]byte{}
	var data []ID
	s, err := r.NewSession(ctx, SessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	sizes := []int{0, 1, 31, 32, 1000, 4096, 32 << 10, 100 << 10, 1 << 20, 3 << 20, MaxChunk}
	for _, n := range append(sizes, sizes...) {
		for _, p := range [][]byte{noise(rng, n), prose(rng, n)} {
			id, stored, err := s.Save(ctx, Data, p)
			if err != nil {
				t.Fatal(err)
			}
			if _, known := chunks[id]; known != (stored == 0) {
				t.Errorf("%d bytes: known %v, stored %d", n, known, stored)
			}
			chunks[id] = p
			data = append(data, id)
		}
	}
	if _, _, err := s.Save(ctx, Data, make([]byte, MaxChunk+1)); firn.KindOf(err) != firn.Invalid {
		t.Errorf("a chunk that is too large: %v", err)
	}
	root, _, err := s.Save(ctx, Tree, EncodeTree(nil, TreeChunk{Data: data, Payload: []byte("all")}))
	if err != nil {
		t.Fatal(err)
	}
	snap, err := s.Commit(ctx, Snapshot{Root: root, Host: "h", Tags: []string{"x"}})
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]*Repo{"same": r, "opened": openRepo(t, store)} {
		got, err := r.Snapshot(ctx, snap.ID.Short())
		if err != nil || got.Root != root || got.Host != "h" || !got.Time.Equal(snap.Time) {
			t.Fatalf("%s: snapshot %+v, %v", name, got, err)
		}
		p, err := r.Load(ctx, root, nil)
		if err != nil {
			t.Fatal(err)
		}
		tree, err := ParseTree(p)
		if err != nil || string(tree.Payload) != "all" || !slices.Equal(tree.Data, data) {
			t.Fatalf("%s: tree %v, %v", name, tree, err)
		}
		seen := make([]bool, len(data))
		var mu sync.Mutex
		if err := r.LoadMany(ctx, data, func(i int, p []byte) error {
			mu.Lock()
			defer mu.Unlock()
			if seen[i] || !bytes.Equal(p, chunks[data[i]]) {
				t.Errorf("%s: chunk %d is wrong, or came twice", name, i)
			}
			seen[i] = true
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if slices.Contains(seen, false) {
			t.Errorf("%s: not all chunks came: %v", name, seen)
		}
		if _, err := r.Load(ctx, ID{1}, nil); firn.KindOf(err) != firn.NotFound {
			t.Errorf("%s: a chunk that is not there: %v", name, err)
		}
	}
	for info, err := range store.List(ctx, sessionPrefix) {
		t.Errorf("left behind: %v, %v", info, err)
	}
}

func TestChunksOfAStreamAreFoundAgain(t *testing.T) {
	ctx := t.Context()
	r := initRepo(t, newStore(t), InitOptions{})
	rng := rand.New(rand.NewPCG(3, 4))
	stream := noise(rng, 20<<20)
	save := func(p []byte) (total int) {
		s, err := r.NewSession(ctx, SessionOptions{})
		if err != nil {
			t.Fatal(err)
		}
		c := r.NewChunker(bytes.NewReader(p))
		defer r.FreeChunker(c)
		var ids []ID
		for {
			p, err := c.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			id, n, err := s.Save(ctx, Data, p)
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, id)
			total += n
		}
		root, _, err := s.Save(ctx, Tree, EncodeTree(nil, TreeChunk{Data: ids}))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Commit(ctx, Snapshot{Root: root}); err != nil {
			t.Fatal(err)
		}
		return total
	}
	if n := save(stream); n < len(stream) || n > len(stream)+len(stream)/1000 {
		t.Errorf("%d bytes took %d", len(stream), n)
	}
	if n := save(stream); n != 0 {
		t.Errorf("the same again took %d", n)
	}
	if n := save(slices.Concat(stream[:9<<20], []byte("inserted"), stream[9<<20:])); n == 0 || n > 8<<20 {
		t.Errorf("8 bytes more took %d", n)
	}
}

func TestOpenErrors(t *testing.T) {
	ctx := t.Context()
	store := newStore(t)
	if _, err := Open(ctx, store, testPassword, Options{}); firn.KindOf(err) != firn.NotFound {
		t.Errorf("no repository: %v", err)
	}
	initRepo(t, store, InitOptions{})
	if _, err := Open(ctx, store, []byte("other"), Options{}); firn.KindOf(err) != firn.Denied {
		t.Errorf("wrong password: %v", err)
	}
	if _, err := Init(ctx, store, testPassword, InitOptions{}); firn.KindOf(err) != firn.Exists {
		t.Errorf("made twice: %v", err)
	}
}

func TestSessionsEnd(t *testing.T) {
	ctx := t.Context()
	r := initRepo(t, newStore(t), InitOptions{})
	s, err := r.NewSession(ctx, SessionOptions{Purpose: "test"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.NewSession(ctx, SessionOptions{}); firn.KindOf(err) != firn.Conflict {
		t.Errorf("a second session: %v", err)
	}
	if all, err := r.Sessions(ctx); err != nil || len(all) != 1 || all[0].Purpose != "test" {
		t.Errorf("sessions: %v, %v", all, err)
	}
	id, _, err := s.Save(ctx, Data, []byte("never stored"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Abort(ctx); err != nil {
		t.Fatal(err)
	}
	if r.Has(id) {
		t.Error("a chunk of an aborted session that was not stored counts as known")
	}
	if _, _, err := s.Save(ctx, Data, []byte("late")); err == nil {
		t.Error("saved to a session that was ended")
	}
	if all, err := r.Sessions(ctx); err != nil || len(all) != 0 {
		t.Errorf("sessions: %v, %v", all, err)
	}
	c, cancel := context.WithCancel(ctx)
	if s, err = r.NewSession(c, SessionOptions{}); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := s.Commit(ctx, Snapshot{Root: id}); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled session commits: %v", err)
	}
}

func TestTagKeepsTheID(t *testing.T) {
	ctx := t.Context()
	r := initRepo(t, newStore(t), InitOptions{})
	s, err := r.NewSession(ctx, SessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	root, _, err := s.Save(ctx, Tree, EncodeTree(nil, TreeChunk{}))
	if err != nil {
		t.Fatal(err)
	}
	snap, err := s.Commit(ctx, Snapshot{Root: root, Time: time.Unix(1, 0)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Tag(ctx, snap.ID, func(s *Snapshot) { s.Tags = append(s.Tags, "kept") }); err != nil {
		t.Fatal(err)
	}
	all, err := r.Snapshots(ctx)
	if err != nil || len(all) != 1 || all[0].ID != snap.ID || !slices.Equal(all[0].Tags, []string{"kept"}) {
		t.Errorf("%+v, %v", all, err)
	}
	if err := r.Forget(ctx, snap.ID); err != nil {
		t.Fatal(err)
	}
	if all, err = r.Snapshots(ctx); err != nil || len(all) != 0 {
		t.Errorf("%+v, %v", all, err)
	}
	if _, err := r.Tag(ctx, snap.ID, func(*Snapshot) {}); firn.KindOf(err) != firn.NotFound {
		t.Errorf("tagged what was forgotten: %v", err)
	}
}
