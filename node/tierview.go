package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"firn"
	"firn/adminapi"
	"firn/config"
	"firn/object"
	"firn/object/listing"
	"firn/object/record"
	"firn/tier"
	"firn/tier/wish"
)

// tierView is the tiers as the admin endpoint sees them.
type tierView struct{ *tiers }

// Tiers implements adminapi.TierSite.
func (v tierView) Tiers(ctx context.Context) (adminapi.Tiers, error) {
	out := adminapi.Tiers{Site: v.site, Tiers: []adminapi.Tier{}}
	if at, open := v.mover.Opens(); !open {
		out.Opens = at
	}
	backlog := map[string]tier.Backlog{}
	for _, b := range v.mover.Backlog() {
		backlog[b.Tier] = b
	}
	moves, recalls := v.wishes.Waiting()
	garbage := v.waitingGarbage()
	for i, st := range v.set.Status() {
		c := &v.n.cfg.Tiers[i]
		used, err := v.mover.Used(ctx, st.Class)
		if err != nil {
			return out, err
		}
		b := backlog[st.Name]
		t := adminapi.Tier{
			Name: st.Name, Class: st.Class, URL: st.URL, Layout: c.Layout, Archive: c.Archive, KeepLocal: c.KeepLocal.Std().Seconds(),
			MaxBytes: int64(c.MaxBytes), Cost: c.Cost, Versions: used.Versions, Bytes: used.Bytes, CostMonth: costMonth(c, used.Bytes),
			Ready: st.Ready, AwaySince: st.Away, Moves: waits(b.Moves, moves[st.Name]), Recalls: waits(b.Recalls, recalls[st.Name]),
			Garbage: garbage[st.Name], Begun: adminapi.Begun(b.Begun), Journal: b.Entries,
			Moved: st.Done.Moved, MovedBytes: st.Done.MovedBytes, ResumedBytes: st.Done.ResumedBytes,
			Recalled: st.Done.Recalled, RecalledBytes: st.Done.RecalledBytes, Removed: st.Done.Removed, Errors: st.Done.Errors,
		}
		if st.Err != nil {
			t.Error = st.Err.Error()
		}
		out.Tiers = append(out.Tiers, t)
	}
	return out, nil
}

func costMonth(c *config.Tier, bytes int64) float64 { return c.PerTBMonth() * float64(bytes) / 1e12 }

// waits is what the mover has begun or rules gave it, with what is still to be given to it. What is wished and under way
// counts once, in both.
func waits(b tier.Waiting, w wish.Waiting) adminapi.Backlog {
	out := adminapi.Backlog{Objects: max(b.Objects, w.Objects), Bytes: max(b.Bytes, w.Bytes), Oldest: b.Oldest, More: w.More}
	if out.Oldest.IsZero() || !w.Oldest.IsZero() && w.Oldest.Before(out.Oldest) {
		out.Oldest = w.Oldest
	}
	return out
}

// Explain implements adminapi.TierSite.
func (v tierView) Explain(ctx context.Context, bucket, key, versionID string) (adminapi.TierExplain, error) {
	ver, err := v.n.engine.store.Head(ctx, bucket, key, versionID)
	if err != nil {
		return adminapi.TierExplain{}, err
	}
	e := adminapi.TierExplain{
		Bucket: bucket, Key: key, VersionID: cmp.Or(ver.ID, record.NullID), Size: ver.Size, Class: cmp.Or(ver.StorageClass, object.StandardClass),
		Local: ver.Local(),
	}
	if l := ver.Location; l != nil {
		e.LocalUntil, e.Tier, e.TierKey, e.Since, e.Wanted = l.LocalUntil, l.Tier, l.Key, l.Since, l.Wanted
		for _, st := range v.set.Status() {
			if st.Name == l.Tier {
				e.TierURL = st.URL
			}
		}
	}
	e.Says = v.says(ver, &e, time.Now())
	return e, nil
}

const minute = "2006-01-02 15:04 MST"

// says tells in words where the bytes of a version are, and what a read of it would do.
func (v tierView) says(ver *record.Version, e *adminapi.TierExplain, now time.Time) (lines []string) {
	say := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	at := func(t time.Time) string { return t.UTC().Format(minute) }
	what := fmt.Sprintf("all %d bytes", ver.Size)
	switch of := v.set.OfClass(ver.StorageClass); {
	case e.Tier == "" && of != "":
		say("%s are in the data directory, and are to go to tier %s, which has its storage class, %s", what, of, e.Class)
	case e.Tier == "":
		say("%s are in the data directory, and nowhere else", what)
	case e.TierURL == "":
		say("%s are on tier %s since %s, as %s; the configuration has no such tier", what, e.Tier, at(e.Since), e.TierKey)
	default:
		say("%s are on tier %s (%s) since %s, as %s", what, e.Tier, e.TierURL, at(e.Since), e.TierKey)
	}
	for tier, done := range v.mover.BegunOf(ver) {
		say("a copy to tier %s was begun: %s", tier, howFar(done))
	}
	switch {
	case e.Tier == "":
	case e.Local && e.LocalUntil.After(now):
		say("a copy is in the data directory until %s", at(e.LocalUntil))
	case e.Local:
		say("a copy is in the data directory; its time was over on %s, and it goes once the tier said that it has the bytes", at(e.LocalUntil))
	case e.Wanted.After(now):
		say("a copy in the data directory was asked for, until %s, and is not there yet", at(e.Wanted))
	}
	if !ver.KeepUntil.IsZero() {
		say("when it goes to the tier a copy stays until %s", at(ver.KeepUntil))
	}
	for _, l := range ver.Parts {
		if l.Sealed != nil {
			say("the bytes are encrypted, on the tier too")
			break
		}
	}
	say("a read of it now %s", v.reads(ver, e))
	return lines
}

func howFar(done int64) string {
	if done == 0 {
		return "how much of it is there is known once it goes on"
	}
	return fmt.Sprintf("about %d bytes are there", done)
}

// reads says what a read would do.
func (v tierView) reads(ver *record.Version, e *adminapi.TierExplain) string {
	if e.Local {
		return "is answered from the data directory"
	}
	if slices.Contains(v.archives(), ver.StorageClass) {
		return "is refused (InvalidObjectState), since its class is an archive: ask for a copy with RestoreObject or firn tier recall --for"
	}
	for _, st := range v.set.Status() {
		switch {
		case st.Name != e.Tier:
		case !st.Away.IsZero():
			return fmt.Sprintf("is answered 503, but for what the cache has: the tier is away since %s: %v", st.Away.UTC().Format(minute), st.Err)
		default:
			return "is answered from the tier, each block compared with the checksum that is kept here"
		}
	}
	return "is answered 503: add the tier to the configuration again"
}

// versions calls fn with the versions that w is about, in batches.
func (v tierView) versions(ctx context.Context, w *adminapi.TierWork, fn func([]record.Version) error) error {
	store := v.n.engine.store
	if w.Key != "" && !w.Versions {
		ver, err := store.Head(ctx, w.Bucket, w.Key, w.Version)
		if err != nil {
			return err
		}
		return fn([]record.Version{*ver})
	}
	o := listing.Options{Prefix: w.Prefix, Limit: moveBatch}
	if w.Key != "" {
		o.Prefix = w.Key
	}
	return store.VersionPages(ctx, w.Bucket, o, func(page []record.Version) error {
		var list []record.Version
		for i := range page {
			ver := &page[i]
			if ver.DeleteMarker || !ver.Latest && !w.Versions || w.Key != "" && ver.Key != w.Key {
				continue
			}
			full, err := store.Head(ctx, w.Bucket, ver.Key, cmp.Or(ver.ID, record.NullID))
			if firn.KindOf(err) == firn.NotFound {
				continue // removed meanwhile
			}
			if err != nil {
				return err
			}
			list = append(list, *full)
		}
		if len(list) == 0 {
			return nil
		}
		return fn(list)
	})
}

// moveBatch is how many versions a command moves together.
const moveBatch = 256

// each counts and reports what became of versions.
type each struct {
	adminapi.TierReport
	fn func(adminapi.TierItem) error
}

func (e *each) one(ver *record.Version, already bool, err error) error {
	it := adminapi.TierItem{Bucket: ver.Bucket, Key: ver.Key, VersionID: cmp.Or(ver.ID, record.NullID), Size: ver.Size}
	switch {
	case already:
		e.Already++
		return nil
	case errors.Is(err, object.ErrMoved):
		e.Changed++
		return nil
	case err != nil:
		e.Failed++
		it.Error = err.Error()
	default:
		e.Objects++
		e.Bytes += ver.Size
	}
	return e.fn(it)
}

// Move implements adminapi.TierSite.
func (v tierView) Move(ctx context.Context, w adminapi.TierWork, fn func(adminapi.TierItem) error) (adminapi.TierReport, error) {
	if w.Class == object.StandardClass {
		w.For = 0
		return v.Recall(ctx, w, fn)
	}
	e, began := each{fn: fn}, time.Now()
	name := v.set.OfClass(w.Class)
	if name == "" {
		return e.TierReport, firn.NewError(firn.NotFound, fmt.Sprintf("no tier has the storage class %q: the site has %v", w.Class, v.set.Classes()))
	}
	err := v.versions(ctx, &w, func(list []record.Version) error {
		list = slices.DeleteFunc(list, func(ver record.Version) bool {
			there := ver.Location != nil && ver.Location.Tier == name
			if there {
				_ = e.one(&ver, true, nil) // is no failure
			}
			return there
		})
		for i, err := range v.mover.MoveNow(ctx, name, list, object.MoveOptions{}) {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err := e.one(&list[i], false, err); err != nil {
				return err
			}
		}
		return nil
	})
	e.Seconds = time.Since(began).Seconds()
	return e.TierReport, err
}

// Recall implements adminapi.TierSite.
func (v tierView) Recall(ctx context.Context, w adminapi.TierWork, fn func(adminapi.TierItem) error) (adminapi.TierReport, error) {
	e, began := each{fn: fn}, time.Now()
	var o object.RecallOptions
	if w.For > 0 {
		o.Until = began.Add(time.Duration(w.For * float64(time.Second)))
	}
	err := v.versions(ctx, &w, func(list []record.Version) error {
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(max(1, v.n.cfg.Moves.Parallel))
		var mu sync.Mutex
		for i := range list {
			ver := &list[i]
			g.Go(func() error {
				already := ver.Location == nil
				var err error
				if !already {
					_, err = v.mover.Recall(gctx, object.RefOf(ver), o)
				}
				if gctx.Err() != nil {
					return gctx.Err()
				}
				mu.Lock()
				defer mu.Unlock()
				return e.one(ver, already, err)
			})
		}
		return g.Wait()
	})
	e.Seconds = time.Since(began).Seconds()
	return e.TierReport, err
}

// Rebuild implements adminapi.TierSite.
func (v tierView) Rebuild(
	ctx context.Context, o adminapi.TierRebuild, failed func(adminapi.TierItem) error, so func(adminapi.TierRebuilt) error,
) (adminapi.TierRebuilt, error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	tell := func(err error) {
		if err != nil {
			stop(err) // nobody listens any more
		}
	}
	r, err := v.mover.Rebuild(ctx, o.Tier, tier.RebuildOptions{
		From: o.From,
		Failed: func(bucket, key, version string, err error) {
			tell(failed(adminapi.TierItem{Bucket: bucket, Key: key, VersionID: version, Error: err.Error()}))
		},
		Progress: func(r tier.Rebuilt) { tell(so(adminapi.TierRebuilt(r))) },
	})
	return adminapi.TierRebuilt(r), err
}
