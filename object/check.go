package object

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"firn"
	"firn/kv"
	"firn/object/check"
	"firn/object/record"
)

// Check walks all records and files, reads content and asks tiers as o says, and calls report for each problem found;
// report's error ends it. It runs beside normal work, or on a store where nothing else runs.
func (s *Store) Check(ctx context.Context, o check.Options, report func(check.Problem) error) (check.Summary, error) {
	sum, err := s.check(ctx, &o, check.MaxTracked, report)
	return sum, firn.E("check", s.dir, err)
}

func (s *Store) check(ctx context.Context, o *check.Options, tracked int, report func(check.Problem) error) (check.Summary, error) {
	sum, err := check.Records(ctx, s.db, s.blobs, checked{s}, o.Repair, tracked, report)
	c := deepCheck{s: s, report: report, sum: &sum}
	if err == nil && o.Tiers {
		err = c.askTiers(ctx)
	}
	if err == nil && o.Read {
		err = c.readAll(ctx)
	}
	return sum, err
}

// checked is a Store as a check sees it.
type checked struct{ *Store }

// Frozen implements check.Namespace.
func (s checked) Frozen(fn func(memory map[record.Counter]record.Usage) error) error {
	list, err := s.Buckets(context.Background())
	if err != nil {
		return err
	}
	memory := make(map[record.Counter]record.Usage, len(list))
	// In the order of names, so that two checks cannot wait for each other.
	for _, rec := range list {
		b, err := s.bucket(rec.Name)
		if err != nil {
			continue // removed meanwhile
		}
		b.gate.Lock()
		defer b.gate.Unlock()
		if !b.gone {
			id := b.rec.Load().ID
			memory[record.Counter{Bucket: id}] = b.usage()
			for class, n := range b.byClass() {
				memory[record.Counter{Bucket: id, Class: class}] = n
			}
		}
	}
	return fn(memory)
}

// AdjustUsage implements check.Namespace.
func (s checked) AdjustUsage(ctx context.Context, name string, c record.Counter, memory, stored record.Usage) error {
	err := s.db.Update(ctx, func(tx kv.Tx) error { return addUsage(tx, c, stored) }, record.UsageSeqKey())
	if err != nil {
		return err
	}
	if b, err := s.bucket(name); err == nil && b.rec.Load().ID == c.Bucket {
		b.count(c.Class, memory)
	}
	return nil
}

// AdjustReferences implements check.Namespace.
func (s checked) AdjustReferences(ctx context.Context, id record.BlobID, by int) error {
	return s.db.Update(ctx, func(tx kv.Tx) error {
		t := txn{s: s.Store, tx: tx}
		t.reference(id, by)
		return t.finish()
	})
}

// DropPart implements check.Namespace.
func (s checked) DropPart(ctx context.Context, k []byte, p *record.Part) error {
	return s.db.Update(ctx, func(tx kv.Tx) error {
		tx.Delete(k)
		t := txn{s: s.Store, tx: tx}
		t.release(p.Blob, p.Shared)
		return t.finish()
	}, record.UploadLock([record.UploadIDLen]byte(k[1:])))
}

// UseTierBlob implements check.Namespace.
func (s checked) UseTierBlob(ctx context.Context, bucket, key, versionID string, l *record.Location) error {
	b, err := s.bucket(bucket)
	if errors.Is(err, ErrNoSuchBucket) {
		return nil // and its versions with it
	}
	ck := record.CurrentKey(b.rec.Load().ID, key)
	blob := record.TierBlob{ID: l.ID, Tier: l.Tier, Key: l.Key, State: record.TierUsed, Clock: uint64(s.clock.Now())}
	return s.db.Update(ctx, func(tx kv.Tx) error {
		v, _, err := s.find(tx, b.rec.Load(), key, versionID, ck)
		if err != nil || v == nil || v.Location == nil || v.Location.ID != l.ID {
			return err
		}
		was, err := kv.Find(tx, nil, blob.RegisterKey())
		if err != nil {
			return err
		}
		if was != nil {
			old, err := record.DecodeTierBlob(blob.RegisterKey(), was)
			if err != nil || old.ID != l.ID {
				return err // another blob's: nothing can be said of this one
			}
			tx.Delete(old.QueueKey())
		}
		tx.Set(blob.RegisterKey(), blob.Append(nil))
		return nil
	}, ck, blob.RegisterKey())
}

// FreeTierBlob implements check.Namespace.
func (s checked) FreeTierBlob(ctx context.Context, b record.TierBlob) error {
	return s.db.Update(ctx, func(tx kv.Tx) error {
		err := registered(tx, &b, b.State)
		if errors.Is(err, ErrNotReserved) {
			return nil // changed meanwhile
		}
		t := txn{s: s.Store, tx: tx}
		t.freeTier(&record.Location{ID: b.ID, Tier: b.Tier, Key: b.Key})
		return err
	}, b.RegisterKey())
}

// deepCheck looks beyond records and names of files.
type deepCheck struct {
	s      *Store
	report func(check.Problem) error
	sum    *check.Summary
}

func (c *deepCheck) found(p check.Problem) error {
	c.sum.Problems++
	return c.report(p)
}

// readAll reads the content of every version and uploaded part.
func (c *deepCheck) readAll(ctx context.Context) error {
	before := c.s.stats.scrubbedBytes.Load()
	for from := []byte{record.TagCurrent}; from != nil; {
		items, next, err := c.s.walkItems(ctx, from, scrubBatch)
		if err != nil {
			return err
		}
		names := c.s.bucketNames()
		for _, it := range items {
			name := names[it.bucketID]
			if name == "" {
				continue
			}
			err := c.s.verify(ctx, name, it.key, it.versionID, nil)
			switch {
			case err == nil:
			case firn.KindOf(err) == firn.Corrupt:
				if err := c.found(check.Problem{Kind: "content", Bucket: name, Key: it.key, VersionID: it.versionID, Detail: err.Error()}); err != nil {
					return err
				}
			default:
				return err
			}
		}
		from = next
	}
	c.sum.Bytes += c.s.stats.scrubbedBytes.Load() - before
	return c.s.readParts(ctx, nil, func(key []byte, part *record.Part, err error) error {
		if err == nil {
			c.sum.Bytes += part.Size
			return nil
		}
		return c.found(check.Problem{
			Kind: "content", Blob: part.Blob.String(),
			Detail: fmt.Sprintf("part %d of upload %x: %v", part.Number, key[1:1+record.UploadIDLen], err),
		})
	})
}

// askTiers asks the tier of each version that is on one for the size of its blob.
func (c *deepCheck) askTiers(ctx context.Context) error {
	for _, tag := range []byte{record.TagCurrent, record.TagOld} {
		for from := []byte{tag}; from != nil; {
			var found []*record.Version
			var at [][]byte
			next := []byte(nil)
			err := c.s.db.View(ctx, func(r kv.Reader) error {
				found, at, next = nil, nil, nil
				return unlessStopped(kv.Scan(r, from, []byte{tag + 1}, func(k, v []byte) error {
					if len(found) == scrubBatch {
						next = bytes.Clone(k)
						return errStop
					}
					var rec record.Record
					if record.Decode(&rec, v) != nil || rec.Location == nil {
						return nil // what cannot be decoded was reported before
					}
					found, at = append(found, &rec.Version), append(at, bytes.Clone(k))
					return nil
				}))
			})
			if err != nil {
				return err
			}
			names := c.s.bucketNames()
			for i, v := range found {
				_, key, err := record.ParseVersionKey(at[i])
				if err != nil {
					continue
				}
				err = c.s.checkTier(ctx, v)
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if err == nil {
					continue
				}
				name := names[binary.BigEndian.Uint64(at[i][1:])]
				v.Bucket, v.Key = name, key
				o, oerr := c.s.openRef(ctx, RefOf(v))
				if errors.Is(oerr, ErrMoved) || firn.KindOf(oerr) == firn.NotFound {
					continue // removed or moved meanwhile
				}
				if oerr != nil {
					return oerr
				}
				_ = o.Close() // always nil
				if err := c.found(check.Problem{
					Kind: "tier", Bucket: name, Key: key, VersionID: v.ID, Blob: v.Location.ID.String(), Detail: err.Error(),
				}); err != nil {
					return err
				}
			}
			from = next
		}
	}
	return nil
}
