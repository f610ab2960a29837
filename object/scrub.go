package object

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"time"

	"golang.org/x/time/rate"

	"firn"
	"firn/kv"
	"firn/object/blobs"
	"firn/object/record"
)

const (
	scrubInterval = time.Minute    // between looks whether a round is due or was cut off
	scrubRound    = 24 * time.Hour // from the start of one round to the next, where one takes less
	scrubBatch    = 256            // versions between two notes of the progress
	scrubKey      = "scrub"        // clock of the round's start, then the key up to which it came; no key: done
	scrubBurst    = 1 << 20
)

// item is a version found by a walk over the records.
type item struct {
	bucketID  uint64
	key       string
	versionID string
	at        []byte // the key of its record
}

// walkItems collects up to n versions from the records at or after the key from, current ones first. next is
// nil at the end.
func (s *Store) walkItems(ctx context.Context, from []byte, n int) (items []item, next []byte, err error) {
	err = s.db.View(ctx, func(r kv.Reader) error {
		items, next = nil, nil
		for _, tag := range []byte{record.TagCurrent, record.TagOld} {
			lower := []byte{tag}
			if bytes.Compare(from, lower) > 0 {
				lower = from
			}
			if lower[0] != tag {
				continue
			}
			err := kv.Scan(r, lower, []byte{tag + 1}, func(k, v []byte) error {
				if len(items) == n {
					next = bytes.Clone(k)
					return errStop
				}
				it := item{at: bytes.Clone(k)}
				var err error
				it.bucketID, it.key, it.versionID, err = record.VersionAt(k, v)
				items = append(items, it)
				return err
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if errors.Is(err, errStop) {
		err = nil
	}
	return items, next, err
}

// bucketNames returns the names of all buckets by id.
func (s *Store) bucketNames() map[uint64]string {
	s.buckets.RLock()
	defer s.buckets.RUnlock()
	names := make(map[uint64]string, len(s.buckets.m))
	for name, b := range s.buckets.m {
		names[b.rec.Load().ID] = name
	}
	return names
}

// scrub reads all content once a round at the bounded rate, goes on where it was cut off, and returns when the
// round is done.
func (s *Store) scrub(ctx context.Context) error {
	k := record.MetaKey(scrubKey)
	var began time.Time
	var from []byte
	err := s.db.View(ctx, func(r kv.Reader) error {
		v, err := kv.Find(r, nil, k)
		if err == nil && len(v) >= 8 {
			began = time.UnixMilli(int64(binary.BigEndian.Uint64(v)))
			from = v[8:]
		}
		return err
	}, k)
	if err != nil {
		return err
	}
	if len(from) == 0 {
		if s.o.Now().Sub(began) < scrubRound {
			return nil
		}
		began, from = s.o.Now(), []byte{record.TagCurrent}
	}
	lim := rate.NewLimiter(rate.Limit(s.o.ScrubBytesPerSecond), scrubBurst)
	for from != nil {
		items, next, err := s.walkItems(ctx, from, scrubBatch)
		if err != nil {
			return err
		}
		names := s.bucketNames()
		for _, it := range items {
			if name := names[it.bucketID]; name != "" {
				if err := s.verify(ctx, name, it.key, it.versionID, lim); err != nil && firn.KindOf(err) != firn.Corrupt {
					return err
				}
			}
		}
		from = next
		pos := binary.BigEndian.AppendUint64(nil, uint64(began.UnixMilli()))
		if err := s.db.Update(ctx, func(tx kv.Tx) error {
			tx.SetSplit(k, pos, from)
			return nil
		}, k); err != nil {
			return err
		}
	}
	err = s.readParts(ctx, lim, func(key []byte, p *record.Part, err error) error {
		if err != nil {
			s.log.Error("content does not match its checksum", "upload", formatUploadID([record.UploadIDLen]byte(key[1:])), "part", p.Number, "error", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.stats.scrubRounds.Add(1)
	return nil
}

// verify reads the content of one version against its checksums. A version that is gone is no error; what is
// corrupt is counted, logged and returned.
func (s *Store) verify(ctx context.Context, bucket, key, versionID string, lim *rate.Limiter) error {
	o, err := s.openObject(ctx, bucket, key, versionID)
	switch {
	case err == nil:
	case firn.KindOf(err) == firn.NotFound:
		return nil
	default:
		return err
	}
	defer o.Close()
	s.stats.scrubbedItems.Add(1)
	if n := len(o.inline) + len(o.sealed); n > 0 {
		s.stats.scrubbedBytes.Add(int64(n))
		return wait(ctx, lim, n)
	}
	for i := range o.Version.Parts {
		if o.Version.Parts[i].Blob == (record.BlobID{}) {
			continue
		}
		err := o.verifyPart(ctx, i, lim)
		if firn.KindOf(err) == firn.Corrupt {
			o.report(err)
		}
		if err != nil {
			return err
		}
		s.stats.scrubbedBytes.Add(o.Version.Parts[i].Size)
	}
	return nil
}

func (o *Object) verifyPart(ctx context.Context, i int, lim *rate.Limiter) error {
	r, err := o.openPart(ctx, i)
	if err != nil {
		return err
	}
	defer r.close()
	if lim == nil {
		return r.local.Verify(ctx, nil)
	}
	return r.local.Verify(ctx, lim)
}

// wait paces small reads; lim may be nil.
func wait(ctx context.Context, lim *rate.Limiter, n int) error {
	if lim == nil {
		return ctx.Err()
	}
	for n > 0 {
		k := min(n, scrubBurst)
		if err := lim.WaitN(ctx, k); err != nil {
			return err
		}
		n -= k
	}
	return nil
}

// verifyBlob reads one blob file, which the caller has pinned, against its checksums.
func (s *Store) verifyBlob(ctx context.Context, p *record.Part, lim *rate.Limiter) error {
	o := &Object{s: s, Version: &record.Version{Parts: []record.Part{*p}}}
	err := o.verifyPart(ctx, 0, lim)
	s.stats.scrubbedItems.Add(1)
	if firn.KindOf(err) == firn.Corrupt {
		s.stats.corrupt.Add(1)
	}
	if err == nil {
		s.stats.scrubbedBytes.Add(p.Size)
	}
	return err
}

// readParts reads the parts of uploads in progress against their checksums and calls done for each, with an
// error of kind Corrupt where one does not match.
func (s *Store) readParts(ctx context.Context, lim *rate.Limiter, done func(key []byte, p *record.Part, err error) error) error {
	from := []byte{record.TagPart}
	for {
		var parts []record.Part
		var keys [][]byte
		epoch := s.grace.Enter()
		err := s.db.View(ctx, func(r kv.Reader) error {
			parts, keys = nil, nil
			err := kv.Scan(r, from, []byte{record.TagPart + 1}, func(k, v []byte) error {
				if len(parts) == scrubBatch {
					return errStop
				}
				var p record.Part
				if record.DecodePart(&p, v) == nil { // a record that cannot be decoded was reported before
					parts = append(parts, p)
					keys = append(keys, bytes.Clone(k))
				}
				return nil
			})
			if errors.Is(err, errStop) {
				err = nil
			}
			return err
		})
		for i := range parts {
			s.blobs.Pin(blobs.ID(parts[i].Blob))
		}
		s.grace.Leave(epoch)
		for i := range parts {
			if err == nil {
				err = s.verifyBlob(ctx, &parts[i], lim)
				if err == nil || firn.KindOf(err) == firn.Corrupt {
					err = done(keys[i], &parts[i], err)
				}
			}
			s.blobs.Unpin(blobs.ID(parts[i].Blob))
		}
		if err != nil || len(parts) == 0 {
			return err
		}
		from = append(keys[len(keys)-1], 0)
	}
}
