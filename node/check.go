package node

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"firn"
	"firn/adminapi"
	"firn/config"
	"firn/object"
	"firn/object/check"
	"firn/vfs"
)

// checkStore examines a store.
func checkStore(
	ctx context.Context, s *object.Store, o adminapi.CheckOptions, found func(adminapi.Problem) error,
) (adminapi.CheckSummary, error) {
	sum, err := s.Check(ctx, check.Options(o), func(p check.Problem) error {
		return found(adminapi.Problem{
			Kind: p.Kind, Bucket: p.Bucket, Key: p.Key, VersionID: p.VersionID, Blob: p.Blob, Detail: p.Detail,
			Repaired: p.Repaired,
		})
	})
	return adminapi.CheckSummary(sum), err
}

// CheckOffline checks a data directory that no site runs on. It opens the store as a site does, so that what an
// interrupted write left is cleared up first. enc opens the keys of an encrypted one.
func CheckOffline(
	ctx context.Context, path string, enc config.Encryption, o adminapi.CheckOptions, found func(adminapi.Problem) error,
) (sum adminapi.CheckSummary, err error) {
	const op = "check"
	if _, err := os.Stat(filepath.Join(path, formatName)); err != nil {
		return sum, &firn.Error{
			Kind: firn.NotFound, Op: op, Subject: path,
			Err: errors.New("not a data directory of firn: name one with --data"),
		}
	}
	dir, err := OpenDataDir(path)
	if err != nil {
		return sum, err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	dir.fs = vfs.OS()
	if _, err := dir.readKey(dataKeyName, dataKeyFormat); !errors.Is(err, fs.ErrNotExist) {
		k, err := openKeys(ctx, dir, &enc)
		if err == nil {
			err = dir.unseal(ctx, k, false)
		}
		if err != nil {
			return sum, err
		}
	}
	cfg := config.Default()
	cfg.ScrubRate = 0
	memory := PlanMemory(int64(cfg.MemoryLimit), engineOffHeap)
	e, err := openEngine(ctx, dir, &cfg, memory, nil, slog.New(slog.DiscardHandler), func(error) {})
	if err != nil {
		return sum, err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	return checkStore(ctx, e.store, o, found)
}
