// Package packed is the layout of a tier whose place is not trusted: contents in a repository, cut into chunks, each stored
// once, compressed and encrypted, and a catalogue that is encrypted, too.
//
// It owns what is on the place besides the mark, docs/format/tier-repository.md. It promises that the place learns neither
// contents nor names, that what Put returned for is in a snapshot, so that no prune takes it away, and that a sweep removes
// nothing but what Delete was told of. It must never import the namespace, nor a concrete driver.
package packed

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/blob/wrap/encrypt"
	"firn/blob/wrap/prefix"
	"firn/repo"
	"firn/tier/turns"
)

const (
	repoPrefix   = "repo"
	sealedPrefix = "sealed"

	// memory bounds the buffers of the repository in bytes; its index comes on top, some 64 bytes a chunk.
	memory = 64 << 20
	// denied is how long a password that was refused is not tried again: each try costs 19 MiB and some 50 ms.
	denied = 5 * time.Second

	rootMark = "%@" // between a name and the id of its content's list; names have no such thing in them
)

// Options are the settings of a Store.
type Options struct {
	// Password returns the password of the repository. It is called for each try to open it.
	Password func(context.Context) ([]byte, error)
	Log      *slog.Logger // nil discards
	// Init are the settings of a repository that is made. The zero value is good.
	Init repo.InitOptions
	// SessionTimeout is that of repo.PruneOptions.
	SessionTimeout time.Duration
	// Now is nil for time.Now.
	Now func() time.Time
}

// Store is the content of one tier. It opens its place when it is first used; Close ends it. It implements tier.Content.
type Store struct {
	place   *blob.Store
	opt     Options
	ctx     context.Context // of what goes on when its caller has gone
	stop    context.CancelFunc
	running sync.WaitGroup
	opening chan struct{} // capacity 1; taken by the one who opens
	writing chan struct{} // capacity 1; taken by the one who has a session: the repository has one at a time

	mu struct {
		sync.Mutex
		repo   *repo.Repo       // nil before it was opened
		sealed *blob.Store      // nil before it was opened
		failed error            // why the password was refused
		until  time.Time        // and until when it is not tried again
		group  *group           // the puts that share the next snapshot; nil for none
		bad    map[repo.ID]bool // chunks that were found damaged or missing
		lists  lists
		due    due
	}
}

// New returns the content of the tier on a place, which is not asked yet.
func New(place *blob.Store, opt Options) *Store {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	s := &Store{place: place, opt: opt, opening: make(chan struct{}, 1), writing: make(chan struct{}, 1)}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.mu.bad = map[repo.ID]bool{}
	return s
}

// Close ends what is under way. The place stays open: it is the caller's.
func (s *Store) Close() error {
	s.mu.Lock()
	s.stop() // no group begins after that
	s.mu.Unlock()
	s.running.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.repo == nil {
		return nil
	}
	return s.mu.repo.Close()
}

// Layout implements tier.Content.
func (s *Store) Layout() string { return "repository" }

func (s *Store) fail(kind firn.Kind, format string, args ...any) error {
	return &firn.Error{Kind: kind, Op: "open tier", Subject: s.place.Name(), Err: fmt.Errorf(format, args...)}
}

// known returns the repository, where it is open, or why its password is not tried again yet.
func (s *Store) known() (*repo.Repo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.failed != nil && s.opt.Now().Before(s.mu.until) {
		return nil, s.mu.failed
	}
	return s.mu.repo, nil
}

// open returns the repository; where create is set it makes one in a place that has none.
func (s *Store) open(ctx context.Context, create bool) (*repo.Repo, error) {
	if r, err := s.known(); r != nil || err != nil {
		return r, err
	}
	select {
	case s.opening <- struct{}{}:
		defer func() { <-s.opening }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if r, err := s.known(); r != nil || err != nil { // who was before did it
		return r, err
	}
	r, err := s.load(ctx, create, false)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.failed = nil
	if firn.KindOf(err) == firn.Denied {
		s.mu.failed, s.mu.until = err, s.opt.Now().Add(denied)
	}
	s.mu.repo = r
	return r, err
}

// load opens the repository. Of one that verifies all is read back that is written to it; the other one leaves packs out,
// since who puts contents reads them back by themselves.
func (s *Store) load(ctx context.Context, create, verify bool) (*repo.Repo, error) {
	password, err := s.opt.Password(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		return nil, s.fail(firn.Denied, "the password of its repository: %w", err)
	}
	there, err := s.place.Exists(ctx, repoPrefix+"/config")
	if err != nil {
		return nil, err
	}
	inner, err := prefix.New(s.place.Driver(), repoPrefix)
	if err != nil {
		return nil, err
	}
	store := blob.New(newChecked(inner, verify), s.place.Name()+"/"+repoPrefix)
	opt := repo.Options{Memory: memory}
	if there {
		return repo.Open(ctx, store, password, opt)
	}
	if !create {
		return nil, s.fail(firn.Unavailable, "there is no repository in it")
	}
	// What an earlier try left is a key, or the reserve. Where there is more there was a repository.
	var left []string
	for info, err := range store.List(ctx, "") {
		if err != nil {
			return nil, err
		}
		if info.Key != "reserve" && !strings.HasPrefix(info.Key, "keys/") {
			return nil, s.fail(firn.Corrupt, "its repository has no config: put %s/config back from a copy", repoPrefix)
		}
		left = append(left, info.Key)
	}
	if err := store.Delete(ctx, left...); err != nil {
		return nil, err
	}
	init := s.opt.Init
	init.Options, init.Label = opt, "tier"
	return repo.Init(ctx, store, password, init)
}

// Catalogue implements tier.Content: it is encrypted with a key that the repository's own gives.
func (s *Store) Catalogue(ctx context.Context, create bool) (*blob.Store, error) {
	r, err := s.open(ctx, create)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	sealed := s.mu.sealed
	s.mu.Unlock()
	if sealed != nil {
		return sealed, nil
	}
	inner, err := prefix.New(s.place.Driver(), sealedPrefix)
	if err != nil {
		return nil, err
	}
	key, names := r.Derive("tier contents"), r.Derive("tier names")
	d, err := encrypt.Open(ctx, inner, encrypt.Options{Secret: encrypt.Secret{Key: key[:]}, Init: create})
	if err != nil {
		return nil, firn.E("open tier", s.place.Name()+"/"+sealedPrefix, err)
	}
	d, err = newVeiled(d, names)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.sealed == nil {
		s.mu.sealed = blob.New(d, s.place.Name()+"/"+sealedPrefix)
	}
	return s.mu.sealed, nil
}

// rootOf returns the id of the list of the content that name is of.
func rootOf(name string) (repo.ID, error) {
	_, id, ok := cutLast(name, rootMark)
	if !ok {
		return repo.ID{}, firn.E("read", name, firn.NewError(firn.NotFound, "it is no name of this layout"))
	}
	root, err := repo.ParseID(id)
	if err != nil {
		return repo.ID{}, firn.E("read", name, firn.NewError(firn.NotFound, "it is no name of this layout"))
	}
	return root, nil
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

func fullName(name string, root repo.ID) string { return name + rootMark + hex.EncodeToString(root[:]) }

// Put implements tier.Content. What is put at about the same time shares one snapshot.
func (s *Store) Put(ctx context.Context, name string, src driver.Source, reserve func(string) error) error {
	g, err := s.join(ctx)
	if err != nil {
		return err
	}
	err = s.putIn(ctx, g, name, src, reserve)
	s.leave(g)
	if err != nil {
		return err
	}
	return turns.From(ctx).Rest(ctx, func() error {
		select {
		case <-g.done:
			return g.err
		case <-ctx.Done():
			return ctx.Err()
		}
	})
}

// Together implements tier.Gatherer.
func (s *Store) Together() int { return groupWaits }

func (s *Store) putIn(ctx context.Context, g *group, name string, src driver.Source, reserve func(string) error) error {
	select {
	case <-g.ready:
	case <-ctx.Done():
		return ctx.Err()
	}
	if g.session == nil {
		return g.err
	}
	root, err := save(ctx, g.repo, g.session, src)
	if err != nil {
		return err
	}
	full := fullName(name, root)
	if err := reserve(full); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	g.entries = append(g.entries, entry{name, root})
	g.bytes += src.Size()
	return nil
}

// Open implements tier.Content. Of a range it reads the chunks that it touches.
func (s *Store) Open(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	root, err := rootOf(name)
	if err != nil {
		return nil, err
	}
	r, err := s.open(ctx, false)
	if err != nil {
		return nil, err
	}
	// Whoever reads all of it may compare it with what was put: nothing of it comes from memory.
	fresh := offset == 0 && length < 0
	c := &cursor{ctx: ctx, s: s, r: r, fresh: fresh}
	total, err := c.seek(root, offset)
	if err != nil {
		return nil, s.suspect(root, err)
	}
	left := max(0, total-offset)
	if length >= 0 {
		left = min(left, length)
	}
	rd := &reader{c: c, left: left}
	if left > 0 { // whether the place answers shows here, though the list was in memory
		if err := rd.fill(); err != nil {
			return nil, err
		}
	}
	return rd, nil
}

// Size implements tier.Content. It asks the place whether it has the packs that the content is in.
func (s *Store) Size(ctx context.Context, name string) (int64, error) {
	root, err := rootOf(name)
	if err != nil {
		return 0, err
	}
	r, err := s.open(ctx, false)
	if err != nil {
		return 0, err
	}
	c := &cursor{ctx: ctx, s: s, r: r, fresh: true}
	total, err := c.seek(root, 0)
	if err != nil {
		return 0, s.suspect(root, err)
	}
	ids := []repo.ID{root}
	for {
		id, _, err := c.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, err
		}
		if ids = append(ids, id); len(ids) == fanout {
			if err := r.Present(ctx, ids); err != nil {
				return 0, err
			}
			ids = ids[:0]
		}
	}
	return total, r.Present(ctx, ids)
}
