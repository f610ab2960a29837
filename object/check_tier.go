package object

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"firn"
	"firn/kv"
	"firn/object/record"
)

// tierPass is what a pass of a check tracks of tiers: the register, the queue of freed blobs, and the outboards.
type tierPass struct {
	register  map[record.BlobID]record.TierBlob
	queued    map[record.BlobID]bool
	outboards map[record.BlobID]int // by blob
}

func newTierPass() tierPass {
	return tierPass{
		register: map[record.BlobID]record.TierBlob{}, queued: map[record.BlobID]bool{}, outboards: map[record.BlobID]int{},
	}
}

// noteTier takes down one use of a blob on a tier.
func (p *pass) noteTier(l *record.Location, r *record.Record, where Problem) {
	p.note(l.ID, r.Size, l.Shared, where, "")
	if u := p.uses[l.ID]; u != nil {
		u.tier = l
		if !r.Multipart && r.Size > 0 {
			u.parts = 1 // those of a multipart version are counted with its list
		}
	}
}

func (p *pass) tierBlob(k, v []byte) error {
	b, err := record.DecodeTierBlob(k, v)
	if err == nil && p.blobSlice(b.ID) {
		p.register[b.ID] = b
	}
	return err
}

func (p *pass) tierGarbage(k, v []byte) error {
	b, err := record.DecodeTierGarbage(k, v)
	if err == nil && p.blobSlice(b.ID) {
		p.queued[b.ID] = true
	}
	return err
}

func (p *pass) tierPart(k, _ []byte) error {
	if len(k) != 1+len(record.BlobID{})+2 {
		return record.ErrBroken
	}
	if id := record.BlobID(k[1:]); p.blobSlice(id) {
		p.outboards[id]++
	}
	return nil
}

// registered looks whether the register knows a blob on a tier that versions use.
func (p *pass) registered(id record.BlobID, u *use) error {
	where := u.user
	where.Blob = id.String()
	if b := p.register[id]; b.State != record.TierUsed || p.queued[id] {
		where.Kind, where.Repaired = "tier", p.o.Repair
		where.Detail = fmt.Sprintf("the register says %v of the blob on tier %s that holds the content", b.State, u.tier.Tier)
		if p.o.Repair {
			p.repairs = append(p.repairs, func(ctx context.Context) error { return p.s.register(ctx, u.tier, u.user) })
		}
		if err := p.found(where); err != nil {
			return err
		}
		where.Repaired = false
	}
	if p.outboards[id] < u.parts {
		return p.missing(where, fmt.Sprintf("what is kept to check the content on a tier: %d of %d parts", p.outboards[id], u.parts))
	}
	return nil
}

// tierLeftovers reports what the register and the outboards name and no version uses.
func (p *pass) tierLeftovers() error {
	for id, b := range p.register {
		if u := p.uses[id]; b.State == record.TierUsed && (u == nil || u.n == 0) || b.State == record.TierFreed && !p.queued[id] {
			where := Problem{
				Kind: "tier", Blob: id.String(), Repaired: p.o.Repair,
				Detail: fmt.Sprintf("the register says %v of %q on tier %s, which no version uses and no queue has", b.State, b.Key, b.Tier),
			}
			if p.o.Repair {
				p.repairs = append(p.repairs, func(ctx context.Context) error { return p.s.freeLost(ctx, b) })
			}
			if err := p.found(where); err != nil {
				return err
			}
		}
	}
	for id, n := range p.outboards {
		if _, ok := p.register[id]; ok || p.uses[id] != nil && p.uses[id].n > 0 {
			continue
		}
		if p.o.Repair {
			p.repairs = append(p.repairs, func(ctx context.Context) error {
				return p.s.db.Update(ctx, func(tx kv.Tx) error { return dropOutboards(tx, id) })
			})
		}
		if err := p.found(Problem{
			Kind: "orphan-content", Blob: id.String(), Repaired: p.o.Repair,
			Detail: fmt.Sprintf("what was kept of %d parts of a blob that is on no tier", n),
		}); err != nil {
			return err
		}
	}
	return nil
}

// register says that a version uses a blob on a tier, unless it has another place meanwhile.
func (s *Store) register(ctx context.Context, l *record.Location, user Problem) error {
	b, err := s.bucket(user.Bucket)
	if errors.Is(err, ErrNoSuchBucket) {
		return nil // and its versions with it
	}
	ck := record.CurrentKey(b.rec.Load().ID, user.Key)
	blob := record.TierBlob{ID: l.ID, Tier: l.Tier, Key: l.Key, State: record.TierUsed, Clock: uint64(s.clock.Now())}
	return s.db.Update(ctx, func(tx kv.Tx) error {
		v, _, err := s.find(tx, b.rec.Load(), user.Key, user.VersionID, ck)
		if err != nil || v == nil || v.Location == nil || v.Location.ID != l.ID {
			return err
		}
		was, err := get(tx, nil, blob.RegisterKey())
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

// freeLost hands a blob that no version uses over to TierGarbage.
func (s *Store) freeLost(ctx context.Context, b record.TierBlob) error {
	return s.db.Update(ctx, func(tx kv.Tx) error {
		err := registered(tx, &b, b.State)
		if errors.Is(err, ErrNotReserved) {
			return nil // changed meanwhile
		}
		t := txn{s: s, tx: tx}
		t.freeTier(&record.Location{ID: b.ID, Tier: b.Tier, Key: b.Key})
		return err
	}, b.RegisterKey())
}

// askTiers asks the tier of each version that is on one for the size of its blob.
func (c *checker) askTiers(ctx context.Context) error {
	for _, tag := range []byte{record.TagCurrent, record.TagOld} {
		for from := []byte{tag}; from != nil; {
			var found []*record.Version
			var at [][]byte
			next := []byte(nil)
			err := c.s.db.View(ctx, func(r kv.Reader) error {
				found, at, next = nil, nil, nil
				return unlessStopped(scan(r, from, []byte{tag + 1}, func(k, v []byte) error {
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
				if err := c.found(Problem{
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
