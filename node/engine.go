package node

import (
	"context"
	"errors"
	"log/slog"

	"golang.org/x/sync/errgroup"

	"firn"
	"firn/config"
	"firn/kv/pebblekv"
	"firn/object"
	"firn/object/remote"
)

// engine is what keeps a site's state: the metadata store and the namespace over it.
type engine struct {
	db    *pebblekv.DB
	store *object.Store
}

// openEngine opens the engine in a data directory, whose tiers are read by tiers. fatal is told of an error the engine cannot go on from.
func openEngine(
	ctx context.Context, dir *DataDir, cfg *config.Config, mem Memory, tiers remote.Tiers, log *slog.Logger, fatal func(error),
) (_ *engine, err error) {
	relaxed := cfg.Durability == config.DurabilityRelaxed
	fsys := dir.fs
	e := &engine{}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.Close())
		}
	}()
	e.db, err = pebblekv.Open(fsys, dir.file(kvName), pebblekv.Options{
		CacheBytes: mem.Cache, MemTableBytes: mem.MemTable, QueueBytes: mem.Queue,
		Relaxed: relaxed, Logger: log.With("part", "kv"), OnFatal: fatal,
	})
	if err != nil {
		return nil, firn.E("open metadata store", dir.file(kvName), err)
	}
	e.store, err = object.Open(ctx, fsys, dir.Path, e.db, object.Options{
		ReserveBytes: orNone(int64(cfg.Reserve)), ScrubBytesPerSecond: orNone(int64(cfg.ScrubRate)),
		UploadMaxAge: cfg.UploadMaxAge.Std(), JournalKeepAge: cfg.Journal.Keep.Std(),
		JournalKeepEntries: cfg.Journal.KeepEntries, Relaxed: relaxed, Remote: tiers, Logger: log.With("part", "store"),
	})
	if err != nil {
		return nil, err
	}
	return e, nil
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
