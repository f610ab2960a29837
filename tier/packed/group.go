package packed

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"strconv"
	"time"

	"firn"
	"firn/repo"
)

// What is put shares snapshots: a repository has one session at a time, and a snapshot costs some ten requests. A group is
// open to puts until none of its puts is storing any more, or until it is large; then its snapshot is committed.
const (
	groupBlobs = 1000
	groupWaits = 256 // puts that wait for it: each has its version open
	groupBytes = 4 << 30
	groupTime  = 5 * time.Minute

	// snapshotBlobs bounds what a snapshot names.
	snapshotBlobs = 10_000

	snapshotTag    = "firn-tier"
	rosterVersion  = 1
	blobsInSummary = "blobs"
)

// entry is a content in a snapshot: its name, without what fullName adds, and its list.
type entry struct {
	name string
	root repo.ID
}

type group struct {
	began   time.Time
	ready   chan struct{} // closed once session is there, or err says why not
	idle    chan struct{} // closed once nobody stores any more, nor will
	done    chan struct{} // closed once the snapshot is there, or err says why not
	repo    *repo.Repo
	session *repo.Session
	err     error // set before ready or done is closed

	// Guarded by Store.mu:
	storing int // puts that may add to it
	closed  bool
	entries []entry
	bytes   int64
}

// join makes the caller one of those who store. It must leave again.
func (s *Store) join(ctx context.Context) (*group, error) {
	for {
		s.mu.Lock()
		if s.ctx.Err() != nil {
			s.mu.Unlock()
			return nil, s.fail(firn.Unavailable, "it is closed")
		}
		g := s.mu.group
		if g == nil {
			g = &group{began: time.Now(), ready: make(chan struct{}), idle: make(chan struct{}), done: make(chan struct{})}
			s.mu.group = g
			s.running.Go(func() { s.run(g) })
		}
		g.closed = g.closed || len(g.entries) >= groupBlobs || g.bytes >= groupBytes || time.Since(g.began) > groupTime
		if !g.closed {
			g.storing++
			s.mu.Unlock()
			return g, nil
		}
		s.mu.Unlock()
		select {
		case <-g.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// begin opens the session of a group.
func (s *Store) begin(g *group) {
	defer close(g.ready)
	select {
	case s.writing <- struct{}{}:
	case <-s.ctx.Done():
		g.err = s.ctx.Err()
		return
	}
	if g.repo, g.err = s.open(s.ctx, false); g.err == nil {
		g.session, g.err = g.repo.NewSession(s.ctx, repo.SessionOptions{Purpose: "tier"})
	}
	if g.err == nil {
		g.err = s.distrust(s.ctx, g.repo)
	}
	if g.err != nil {
		if g.session != nil {
			_ = s.abort(g.session) // what is left of it makes a prune wait
			g.session = nil
		}
		<-s.writing
	}
}

// distrust keeps those chunks from being relied on that were found damaged and are.
func (s *Store) distrust(ctx context.Context, r *repo.Repo) error {
	s.mu.Lock()
	var ids []repo.ID
	for id := range s.mu.bad {
		ids = append(ids, id)
	}
	s.mu.Unlock()
	var bad []repo.ID
	for _, id := range ids {
		_, err := r.Load(ctx, id, nil)
		switch firn.KindOf(err) {
		case firn.Corrupt, firn.NotFound:
			bad = append(bad, id)
		default:
			if err != nil {
				return err
			}
		}
	}
	if len(bad) > 0 {
		s.opt.Log.Warn("chunks on a tier are damaged or missing; whatever has them is stored anew", "tier", s.place.Name(), "chunks", len(bad))
		if err := r.Distrust(ctx, bad...); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		delete(s.mu.bad, id)
	}
	return nil
}

// leave is the end of join. After the last one the snapshot is made.
func (s *Store) leave(g *group) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g.storing--; g.storing == 0 {
		g.closed = true
		close(g.idle)
	}
}

// run is the life of a group.
func (s *Store) run(g *group) {
	s.begin(g)
	<-g.idle
	if g.session != nil {
		g.err = s.commit(g)
		<-s.writing
	}
	s.mu.Lock()
	s.mu.group = nil
	s.mu.Unlock()
	close(g.done)
}

// commit makes the snapshot of a group.
func (s *Store) commit(g *group) error {
	if len(g.entries) == 0 {
		return s.abort(g.session)
	}
	if err := s.snapshot(s.ctx, g.repo, g.session, g.entries); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.due.snapshots++
	return nil
}

// abort ends a session without a snapshot, also where the store is being closed: what was stored is found again by the next
// one.
func (s *Store) abort(session *repo.Session) error {
	closing, release := repo.Closing(s.ctx)
	defer release()
	return session.Abort(closing)
}

// snapshot ends a session with a snapshot of the entries, and reads back the roster that names them.
func (s *Store) snapshot(ctx context.Context, r *repo.Repo, session *repo.Session, entries []entry) error {
	p := encodeRoster(entries)
	root, _, err := session.Save(ctx, repo.Tree, p)
	if err != nil {
		_ = s.abort(session) // the first error says what is wrong
		return err
	}
	snap, err := session.Commit(ctx, repo.Snapshot{
		Root: root, Tags: []string{snapshotTag}, Program: "firn", Summary: map[string]int64{blobsInSummary: int64(len(entries))},
		Meta: map[string]string{snapshotTag: strconv.Itoa(rosterVersion)},
	})
	if err != nil {
		return err
	}
	back, err := r.Load(ctx, root, nil)
	if err == nil && !bytes.Equal(back, p) {
		err = errRoster
	}
	if err = s.suspect(root, err); err != nil { // a prune needs every roster
		return firn.E("read back snapshot", snap.ID.Short(), errors.Join(err, r.Forget(ctx, snap.ID)))
	}
	return nil
}

// ours reports whether a snapshot is one of a tier's contents.
func ours(s *repo.Snapshot) bool { return s.Meta[snapshotTag] == strconv.Itoa(rosterVersion) }

// A roster is the root of a snapshot: it refers to the lists of contents, and has their names in the same order.
var errRoster = firn.NewError(firn.Corrupt, "it is no roster of contents")

func encodeRoster(entries []entry) []byte {
	t := repo.TreeChunk{Payload: []byte{rosterVersion}}
	for _, e := range entries {
		t.Trees = append(t.Trees, e.root)
		t.Payload = binary.AppendUvarint(t.Payload, uint64(len(e.name)))
		t.Payload = append(t.Payload, e.name...)
	}
	return repo.EncodeTree(nil, t)
}

func parseRoster(p []byte) ([]entry, error) {
	t, err := repo.ParseTree(p)
	if err != nil {
		return nil, err
	}
	p = t.Payload
	if len(p) == 0 || p[0] == 0 || len(t.Data) > 0 {
		return nil, errRoster
	}
	if p[0] != rosterVersion {
		return nil, firn.NewError(firn.Unsupported, "a roster of a later version of firn: update this one")
	}
	p = p[1:]
	entries := make([]entry, 0, len(t.Trees))
	for _, id := range t.Trees {
		n, k := binary.Uvarint(p)
		if k <= 0 || n > uint64(len(p)-k) {
			return nil, errRoster
		}
		p = p[k:]
		entries = append(entries, entry{string(p[:n]), id})
		p = p[n:]
	}
	if len(p) > 0 {
		return nil, errRoster
	}
	return entries, nil
}
