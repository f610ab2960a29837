package check

import (
	"context"
	"fmt"

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
		where.Kind, where.Repaired = "tier", p.repair
		where.Detail = fmt.Sprintf("the register says %v of the blob on tier %s that holds the content", b.State, u.tier.Tier)
		if p.repair {
			p.repairs = append(p.repairs, func(ctx context.Context) error {
				return p.ns.UseTierBlob(ctx, u.user.Bucket, u.user.Key, u.user.VersionID, u.tier)
			})
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
				Kind: "tier", Blob: id.String(), Repaired: p.repair,
				Detail: fmt.Sprintf("the register says %v of %q on tier %s, which no version uses and no queue has", b.State, b.Key, b.Tier),
			}
			if p.repair {
				p.repairs = append(p.repairs, func(ctx context.Context) error { return p.ns.FreeTierBlob(ctx, b) })
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
		if p.repair {
			p.repairs = append(p.repairs, func(ctx context.Context) error {
				return p.db.Update(ctx, func(tx kv.Tx) error {
					lower := record.BlobKey(record.TagOutboard, id)
					tx.DeleteRange(lower, record.Successor(lower))
					return nil
				})
			})
		}
		if err := p.found(Problem{
			Kind: "orphan-content", Blob: id.String(), Repaired: p.repair,
			Detail: fmt.Sprintf("what was kept of %d parts of a blob that is on no tier", n),
		}); err != nil {
			return err
		}
	}
	return nil
}
