// Package object is the namespace: buckets, keys, versions, multipart uploads, object lock, and the journal
// entry that every mutation appends in the same transaction.
//
// It promises that a nil error means bytes, metadata and journal entry are on stable storage, that reads are
// right or fail, and that no byte of a version is freed while a version or a reader needs it. It must never
// know a protocol: no HTTP, no XML, no signatures.
package object

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"firn"
	"firn/hlc"
	"firn/kv"
	"firn/object/blobs"
	"firn/object/digest"
	"firn/object/listing"
	"firn/object/record"
	"firn/object/space"
	"firn/vfs"
)

// Versions of the key space and its records; see docs/format/namespace.md.
const (
	formatFirst   = 1
	formatTiers   = 2 // versions may be on tiers; written when the first blob on one is reserved
	formatVersion = formatTiers
)

// Store is one site's namespace. All methods may be called concurrently.
type Store struct {
	o       Options
	fs      vfs.FS
	dir     string
	db      kv.DB
	clock   *hlc.Clock
	log     *slog.Logger
	blobs   *blobs.Dir
	digests *digest.Engine
	space   *space.Reserve
	grace   blobs.Grace
	stats   stats
	pages   listing.Pool

	buckets struct {
		sync.RWMutex
		m map[string]*bucket
	}
	usageSeq atomic.Uint64 // journal entries up to here are in the stored counters
	garbage  chan struct{} // wakes the collector; capacity 1
	// collecting is held by the one walk of the garbage queue that may run.
	collecting sync.Mutex
}

// Open opens the namespace kept in db and below dir, which the caller has locked. It removes what an
// interrupted write left, and replays what the stored counters lack. The caller closes db after the Store.
func Open(ctx context.Context, fsys vfs.FS, dir string, db kv.DB, o Options) (*Store, error) {
	o = o.withDefaults()
	s := &Store{
		o: o, fs: fsys, dir: dir, db: db, clock: o.Clock, log: o.Logger,
		garbage: make(chan struct{}, 1), digests: digest.NewEngine(),
		space: space.New(fsys, dir, o.ReserveBytes, o.Now, o.Logger),
	}
	s.buckets.m = map[string]*bucket{}
	if err := s.open(ctx); err != nil {
		s.closeParts()
		return nil, firn.E("open namespace", dir, err)
	}
	return s, nil
}

func (s *Store) open(ctx context.Context) (err error) {
	if err := s.checkFormat(ctx); err != nil {
		return err
	}
	if err := s.seedClock(ctx); err != nil {
		return err
	}
	if ahead := s.clock.Last().Wall().Sub(s.o.Now()); ahead > clockWarning {
		s.log.Warn("the wall clock is behind the newest entry: new versions keep the later time until it catches up",
			"ahead", ahead)
	}
	if s.blobs, err = blobs.Open(s.fs, s.fs.PathJoin(s.dir, "blobs"), ledger{s}); err != nil {
		return err
	}
	if err := s.dropOpening(ctx); err != nil {
		return err
	}
	if err := s.loadBuckets(ctx); err != nil {
		return err
	}
	return s.loadUsage(ctx)
}

// Close ends what the Store itself started. Run must have returned and no call may be under way.
func (s *Store) Close() error {
	err := s.saveUsage(context.Background())
	if errors.Is(err, kv.ErrClosed) {
		err = nil // the engine stopped after an I/O error, which was reported then; replay makes up for it
	}
	s.closeParts()
	return firn.E("close namespace", s.dir, err)
}

func (s *Store) closeParts() {
	if s.blobs != nil {
		s.blobs.Close()
	}
	s.digests.Close()
}

// checkFormat refuses a key space of a later release or of another site, and writes the marks of a new one.
func (s *Store) checkFormat(ctx context.Context) error {
	format, site := record.MetaKey("format"), record.MetaKey("site")
	return s.db.Update(ctx, func(tx kv.Tx) error {
		have, err := getUint(tx, format)
		switch {
		case err != nil:
			return err
		case have == 0:
			tx.Set(format, record.IDKey(0, formatFirst)[1:])
			tx.Set(site, record.IDKey(0, uint64(s.o.Site))[1:])
			return nil
		case have > formatVersion:
			return firn.NewError(firn.Unsupported, fmt.Sprintf("written by a later release (format %d, this one knows %d)", have, formatVersion))
		}
		was, err := getUint(tx, site)
		if err == nil && was != uint64(s.o.Site) {
			err = firn.NewError(firn.Conflict, fmt.Sprintf("belongs to site %d, not %d: a site's number must not change", was, s.o.Site))
		}
		return err
	}, format)
}

// getUint reads a number stored under key, 0 where it is not there.
func getUint(r kv.Reader, key []byte) (uint64, error) {
	v, err := r.Get(nil, key)
	if errors.Is(err, kv.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return record.ParseUint64(v)
}

// ledger keeps the list of blob files without a record in the o keys.
type ledger struct{ s *Store }

// Opening implements blobs.Ledger.
func (l ledger) Opening(ctx context.Context, ids, done []blobs.ID) error {
	return l.s.db.Update(ctx, func(tx kv.Tx) error {
		for _, id := range done {
			tx.Delete(record.BlobKey(record.TagOpening, record.BlobID(id)))
		}
		for _, id := range ids {
			tx.Set(record.BlobKey(record.TagOpening, record.BlobID(id)), nil)
		}
		return nil
	})
}

// dropOpening removes the blob files that were being written when the site stopped.
func (s *Store) dropOpening(ctx context.Context) error {
	var ids []blobs.ID
	err := s.db.View(ctx, func(r kv.Reader) error {
		ids = ids[:0]
		return kv.Scan(r, []byte{record.TagOpening}, []byte{record.TagOpening + 1}, func(k, _ []byte) error {
			if len(k) != 1+len(record.BlobID{}) {
				return record.ErrBroken
			}
			ids = append(ids, blobs.ID(k[1:]))
			return nil
		})
	})
	if err != nil || len(ids) == 0 {
		return err
	}
	for _, id := range ids {
		if err := s.blobs.Remove(id); err != nil {
			return err
		}
	}
	if err := s.blobs.SyncDirs(ids); err != nil {
		return err
	}
	return ledger{s}.Opening(ctx, nil, ids)
}

// subject names an object in errors.
func subject(bucket, key string) string { return bucket + "/" + key }

// fail names operation and subject of err and gives causes from below the sentinels that callers look for.
func fail(op, subject string, err error) error {
	if err == nil {
		return nil
	}
	switch {
	case errors.Is(err, ErrCorrupt), errors.Is(err, ErrNoSpace):
	case firn.KindOf(err) == firn.Corrupt:
		err = &firn.Error{Kind: firn.Corrupt, Err: wrapped{ErrCorrupt, err.Error()}}
	case firn.KindOf(err) == firn.NoSpace || vfs.IsNoSpace(err):
		err = &firn.Error{Kind: firn.NoSpace, Err: wrapped{ErrNoSpace, err.Error()}}
	}
	return firn.E(op, subject, err)
}
