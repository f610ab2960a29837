package runner

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"firn"
	"firn/lifecycle"
	"firn/object"
	"firn/object/record"
)

// maxRelief bounds the versions that one call of Relieve chooses among the coldest, and what it remembers of them to some
// 10 MiB.
const maxRelief = 20_000

// RelieveOptions are the settings of Relieve.
type RelieveOptions struct {
	Need int64  // bytes that are to be freed
	Why  string // in words
	// Class is where versions go that are nowhere else, by Move, which is as that of Options. A full disk waits for no window.
	Class string
	Move  func(ctx context.Context, class string, versions []record.Version, o object.MoveOptions) []error
	// Keep is, by storage class, for how long local copies stay that a move leaves behind: such copies may go earlier. Those
	// that stay longer were asked for, and stay.
	Keep map[string]time.Duration
	// Report gets each version that goes.
	Report func(Item)
}

// Relieve moves the versions that were not used for the longest time to a tier, and drops local copies of those that are
// on one, until so many bytes went. Versions that are pinned stay, as do those of up to object.InlineMax bytes, whose room
// comes back only when the metadata store is compacted. missing is what could not be chosen. It looks at all versions.
func (r *Runner) Relieve(ctx context.Context, o RelieveOptions) (res Result, missing int64, err error) {
	res = Result{Began: r.opt.Now(), Waiting: map[string]Backlog{}}
	defer func() { res.Took = r.opt.Now().Sub(res.Began) }()
	select {
	case <-r.running:
		defer func() { r.running <- struct{}{} }()
	case <-ctx.Done():
		return res, o.Need, ctx.Err()
	}
	if o.Report == nil {
		o.Report = func(Item) {}
	}
	po := PassOptions{Report: o.Report}
	m := r.newMoves(ctx, &po, &res)
	m.move = o.Move
	defer m.end()
	buckets, err := r.ns.Buckets(ctx)
	if err != nil {
		return res, o.Need, err
	}
	relief := lifecycle.NewRelief(o.Need, maxRelief, 0, res.Began)
	byName := map[string]*pass{}
	for _, b := range buckets {
		plan, err := r.plan(b)
		if err != nil {
			plan = lifecycle.NewPlan(lifecycle.New(nil, lifecycle.Options{}), r.opt.Placements, b.Name)
		}
		p := &pass{Runner: r, o: &po, moves: m, bucket: b, plan: plan, now: res.Began, counted: true}
		byName[b.Name] = p
		res.Buckets++
		if err := p.offer(ctx, relief, &o); err != nil && firn.KindOf(err) != firn.NotFound {
			return res, o.Need, err
		}
	}
	chosen, missing := relief.Picked()
	for i := range chosen {
		bucket, key, _ := strings.Cut(chosen[i].Key, "/")
		if err := byName[bucket].relieve(ctx, key, &chosen[i], &o); err != nil {
			return res, missing, err
		}
	}
	m.end()
	return res, missing, ctx.Err()
}

// offer tells relief of the versions of a bucket that take room on the disk.
func (p *pass) offer(ctx context.Context, relief *lifecycle.Relief, o *RelieveOptions) error {
	return p.each(ctx, "", "", func(s *seen) error {
		v := &s.v
		p.moves.scanned()
		if v.DeleteMarker || v.Size <= object.InlineMax || v.StorageClass == o.Class && o.Keep[o.Class] == 0 {
			return nil
		}
		onTier := s.view.Class != object.StandardClass
		if onTier && o.Keep[v.StorageClass] == 0 {
			return nil
		}
		if onTier || p.plan.ByTags(v.Key) {
			switch err := p.complete(ctx, s); {
			case errors.Is(err, errChanged) || firn.KindOf(err) == firn.NotFound:
				return nil
			case err != nil:
				return err
			}
		}
		x := p.plan.Placement(&s.view)
		if x != nil && x.Pinned && x.PinnedAt == lifecycle.Hot || onTier && !p.spare(v, o) {
			return nil
		}
		relief.Add(lifecycle.Candidate{
			Key: p.bucket.Name + "/" + strings.Clone(v.Key), Version: strings.Clone(v.ID), Size: v.Size, Written: v.Modified, Use: s.view.Use,
		})
		return nil
	})
}

// spare reports whether v is on a tier and has a local copy that nobody asked for.
func (p *pass) spare(v *record.Version, o *RelieveOptions) bool {
	l := v.Location
	return l != nil && v.Local() && !l.LocalUntil.After(l.Since.Add(o.Keep[v.StorageClass]+time.Second))
}

// relieve moves one version, or drops its local copy.
func (p *pass) relieve(ctx context.Context, key string, c *lifecycle.Chosen, o *RelieveOptions) error {
	v, err := p.ns.Head(ctx, p.bucket.Name, key, c.Version)
	if err != nil || v.Size != c.Size || !v.Modified.Equal(c.Written) || !v.Local() {
		p.moves.changed()
		return ctx.Err()
	}
	it := Item{Bucket: p.bucket.Name, Key: key, VersionID: v.ID, Size: v.Size, Decision: lifecycle.Decision{
		Action: lifecycle.Move, Class: o.Class, Rule: RoomRule, Due: p.now, Reason: fmt.Sprintf("move to %s: %s (%s)", o.Class, c.Reason, o.Why),
	}}
	switch {
	case v.Location == nil:
		p.moves.add(v, it)
	case p.spare(v, o):
		it.Decision.Action, it.Decision.Class = lifecycle.Free, v.StorageClass
		it.Decision.Reason = fmt.Sprintf("free the local copy, %s has it: %s (%s)", v.StorageClass, c.Reason, o.Why)
		it.Err = p.ns.DropLocal(ctx, object.RefOf(v))
		p.moves.done(it)
	default:
		p.moves.changed()
	}
	return ctx.Err()
}

// RoomRule is the rule of what goes to make room, in reports.
const RoomRule = "room"
