package node

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"os"
	"time"

	"firn"
	"firn/adminapi"
	"firn/hlc"
	"firn/kv"
	"firn/object"
	"firn/object/record"
	"firn/telemetry"
	"firn/vfs"
)

// siteView is the node as the admin endpoint sees it.
type siteView struct{ n *Node }

// Ready implements adminapi.Site.
func (v siteView) Ready() error {
	switch {
	case v.n.draining.Load():
		return firn.NewError(firn.Unavailable, "the site is stopping")
	case len(v.n.fatal) > 0:
		return kv.ErrClosed
	case v.n.cfg.Reserve > 0:
		if u, err := vfs.OS().GetDiskUsage(v.n.dir.Path); err == nil && u.AvailBytes <= uint64(v.n.cfg.Reserve) {
			return object.ErrNoSpace
		}
	}
	return nil
}

// Status implements adminapi.Site.
func (v siteView) Status(ctx context.Context) (adminapi.Status, error) {
	n := v.n
	st := n.engine.store.Stats()
	s := adminapi.Status{
		Version: firn.Version, Started: n.started, UptimeSeconds: time.Since(n.started).Seconds(), PID: os.Getpid(),
		Data: n.dir.Path, Listen: n.s3.Addr().String(), Region: n.cfg.Region, Durability: n.cfg.Durability,
		Disk:   adminapi.Disk{Reserve: int64(n.cfg.Reserve)},
		Memory: adminapi.ProcessMemory{Limit: int64(n.cfg.MemoryLimit), Resident: resident()},
		Scrub: adminapi.ScrubStatus{
			Rate: int64(n.cfg.ScrubRate), Rounds: st.ScrubRounds, Items: st.ScrubbedItems, Bytes: st.ScrubbedBytes,
			Corrupt: st.CorruptFound,
		},
		Buckets: []adminapi.BucketStatus{},
	}
	if u, err := vfs.OS().GetDiskUsage(n.dir.Path); err == nil {
		s.Disk.Total, s.Disk.Free = u.TotalBytes, u.AvailBytes
	}
	for _, t := range n.tiers.set.Status() {
		switch {
		case !t.Away.IsZero():
			s.Tiers = append(s.Tiers, fmt.Sprintf("%s is away since %s", t.Name, t.Away.UTC().Format(minute)))
		case t.Err != nil:
			s.Tiers = append(s.Tiers, fmt.Sprintf("%s: %v", t.Name, t.Err))
		}
	}
	first, err := n.engine.store.JournalStart()
	if err != nil {
		return s, err
	}
	s.Journal = adminapi.JournalStatus{First: first, Last: n.engine.store.JournalTail()}
	buckets, err := n.engine.store.Buckets(ctx)
	if err != nil {
		return s, err
	}
	for _, b := range buckets {
		u, err := n.engine.store.Usage(ctx, b.Name)
		if errors.Is(err, object.ErrNoSuchBucket) {
			continue // removed meanwhile
		}
		if err != nil {
			return s, err
		}
		s.Buckets = append(s.Buckets, adminapi.BucketStatus{
			Name: b.Name, Created: b.Created, Objects: u.Objects, Versions: u.Versions, Bytes: u.Bytes,
			Versioning: versioningName(b.Versioning),
		})
	}
	return s, nil
}

func versioningName(v record.Versioning) string {
	switch v {
	case record.VersioningEnabled:
		return "enabled"
	case record.VersioningSuspended:
		return "suspended"
	}
	return "off"
}

// Journal implements adminapi.Site.
func (v siteView) Journal(ctx context.Context, from uint64, follow bool, fn func(adminapi.JournalEntry) error) error {
	store := v.n.engine.store
	if from == 0 {
		first, err := store.JournalStart()
		if err != nil {
			return err
		}
		from = first
	}
	for {
		err := store.Journal(ctx, from, func(e record.Entry) error {
			from = e.Seq + 1
			return fn(journalEntry(e))
		})
		if err != nil || !follow {
			return err
		}
		if err := store.WaitJournal(ctx, from-1); err != nil {
			return err
		}
	}
}

func journalEntry(e record.Entry) adminapi.JournalEntry {
	return adminapi.JournalEntry{
		Seq: e.Seq, Time: hlc.Time(e.Clock).Wall().UTC(), Op: e.Op.String(), Bucket: e.Bucket, Key: e.Key,
		VersionID: e.VersionID, Size: e.Size, ETag: e.ETag, Site: e.Site,
	}
}

// Check implements adminapi.Site.
func (v siteView) Check(
	ctx context.Context, o adminapi.CheckOptions, found func(adminapi.Problem) error,
) (adminapi.CheckSummary, error) {
	return checkStore(ctx, v.n.engine.store, o, found)
}

func stdLog(l *slog.Logger, msg string) *log.Logger { return log.New(telemetry.Slogger(l, msg), "", 0) }
