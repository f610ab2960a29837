package node

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"

	"firn"
	"firn/auth"
	"firn/config"
	"firn/kv/pebblekv"
	"firn/object"
	"firn/vfs"
)

// engine is what keeps a site's state: the metadata store, the namespace over it, and the users.
type engine struct {
	db    *pebblekv.DB
	store *object.Store
	users *auth.Users
}

// open opens the engine in the data directory.
func (n *Node) open(ctx context.Context) (_ *engine, err error) {
	relaxed := n.cfg.Durability == config.DurabilityRelaxed
	fsys := vfs.OS()
	e := &engine{}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.Close())
		}
	}()
	e.db, err = pebblekv.Open(fsys, n.dir.file(kvName), pebblekv.Options{
		CacheBytes: n.memory.Cache, MemTableBytes: n.memory.MemTable, Relaxed: relaxed,
		Logger: n.log.With("part", "kv"), OnFatal: n.fail,
	})
	if err != nil {
		return nil, firn.E("open metadata store", n.dir.file(kvName), err)
	}
	e.store, err = object.Open(ctx, fsys, n.dir.Path, e.db, object.Options{
		ReserveBytes: orNone(int64(n.cfg.Reserve)), ScrubBytesPerSecond: orNone(int64(n.cfg.ScrubRate)),
		UploadMaxAge: n.cfg.UploadMaxAge.Std(), JournalKeepAge: n.cfg.Journal.Keep.Std(),
		JournalKeepEntries: n.cfg.Journal.KeepEntries, Relaxed: relaxed, Logger: n.log.With("part", "store"),
	})
	if err != nil {
		return nil, err
	}
	e.users, err = auth.OpenUsers(ctx, e.db, n.root, auth.UsersOptions{})
	return e, err
}

// orNone turns the 0 by which the configuration says "none" into the negative number by which options do.
func orNone(v int64) int64 {
	if v == 0 {
		return -1
	}
	return v
}

// Run does the background work of the engine until ctx ends.
func (e *engine) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return e.store.Run(ctx) })
	return g.Wait()
}

// Close closes what is open, the namespace before the store under it.
func (e *engine) Close() error {
	var errs []error
	if e.store != nil {
		errs = append(errs, e.store.Close())
	}
	if e.db != nil {
		errs = append(errs, e.db.Close())
	}
	return errors.Join(errs...)
}
