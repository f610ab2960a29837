package tier

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"time"

	"firn"
	"firn/blob"
	"firn/kv"
	"firn/object"
	"firn/object/listing"
	"firn/object/record"
	"firn/tier/plain"
	"firn/tier/turns"
)

const (
	followBatch   = 2000 // entries of the journal that one segment of the catalogue tells of at most
	rewriteAfter  = 500  // segments after which the catalogue is written anew
	rebuildAtOnce = 1 << 20
	progressEvery = 1000
)

// change is what the journal says happened to a bucket or version.
type change struct{ bucket, key, version string }

// Follow brings the catalogues of all tiers up to date with the journal and returns. A tier that is away is left for later.
func (m *Mover) Follow(ctx context.Context) error {
	for _, t := range m.set.list {
		err := m.ready(ctx, t)
		if err == nil {
			err = m.follow(ctx, t)
		}
		if err != nil {
			if ctx.Err() != nil {
				return err
			}
			m.complain(t, err)
		}
	}
	return nil
}

func (m *Mover) follow(ctx context.Context, t *place) error {
	turn, err := m.turns.Begin(ctx, t.Name, turns.Follow)
	if err != nil {
		return err
	}
	defer turn.End()
	t.writing.Lock()
	defer t.writing.Unlock()
	c := t.catalogue
	for {
		if err := m.settle(ctx, t); err != nil {
			return err
		}
		if c.Segments() == 0 || c.Segments() >= rewriteAfter {
			return m.rewrite(ctx, t, c)
		}
		if c.Journal() >= m.ns.JournalTail() {
			return nil
		}
		to, entries, err := m.changed(ctx, t, c.Journal()+1)
		if errors.Is(err, kv.ErrTrimmed) {
			return m.rewrite(ctx, t, c)
		}
		if err == nil {
			err = t.saw(m.set.now(), c.Append(ctx, to, entries))
		}
		if err != nil {
			return err
		}
	}
}

var errEnough = errors.New("enough")

// changed returns what the next entries of the journal are about, as it is now.
func (m *Mover) changed(ctx context.Context, t *place, from uint64) (to uint64, entries []plain.Entry, err error) {
	seen := map[change]bool{}
	n := 0
	err = m.ns.Journal(ctx, from, func(e record.Entry) error {
		to = e.Seq
		if n++; n == followBatch {
			err = errEnough
		}
		// A new version whose bytes are here is no business of the tier's, but for what it replaced. A copy of one on a
		// tier is there, too, and has its storage class.
		if e.Op == record.OpPut && e.VersionID != record.NullID && len(e.Classes) == 0 {
			return err
		}
		seen[change{e.Bucket, e.Key, e.VersionID}] = true
		return err
	})
	if err != nil && !errors.Is(err, errEnough) {
		return 0, nil, err
	}
	for _, c := range slices.SortedFunc(maps.Keys(seen), compareChanges) {
		e, err := m.entryOf(ctx, t, c)
		if m.broken(t, c, err) {
			continue // what was told of it before is told still
		}
		if err != nil {
			return 0, nil, err
		}
		entries = append(entries, e)
	}
	return to, entries, nil
}

// broken reports whether an error says that a version is damaged here: it must not keep all others out of the catalogue.
func (m *Mover) broken(t *place, c change, err error) bool {
	if firn.KindOf(err) != firn.Corrupt {
		return false
	}
	m.opt.Log.Error("a version is damaged here, and the catalogue of its tier does not tell of it as it is",
		"tier", t.Name, "bucket", c.bucket, "key", c.key, "version", c.version, "error", err)
	return true
}

func compareChanges(a, b change) int {
	return slices.Compare([]string{a.bucket, a.key, a.version}, []string{b.bucket, b.key, b.version})
}

// entryOf returns what the catalogue of t has to say of a bucket or version now.
func (m *Mover) entryOf(ctx context.Context, t *place, c change) (plain.Entry, error) {
	removed := plain.Entry{Bucket: c.bucket, Key: c.key, Version: c.version, Removed: true}
	if c.key == "" {
		raw, err := m.ns.ExportBucket(ctx, c.bucket)
		if firn.KindOf(err) == firn.NotFound {
			return plain.Entry{Bucket: c.bucket, Removed: true}, nil
		}
		return plain.Entry{Bucket: c.bucket, Record: raw}, err
	}
	here := func(v *record.Version) bool { return v.Location != nil && v.Location.Tier == t.Name }
	if v, err := m.ns.Head(ctx, c.bucket, c.key, c.version); err == nil && !here(v) {
		return removed, nil // its bytes are elsewhere: here, or on another tier whose catalogue has it
	}
	v, raw, err := m.ns.Export(ctx, c.bucket, c.key, c.version)
	if firn.KindOf(err) == firn.NotFound {
		return removed, nil
	}
	if err != nil {
		return removed, err
	}
	on := here(v)
	if !on && !v.DeleteMarker {
		return removed, nil // since a moment
	}
	e := entry(v, raw)
	e.Version = c.version
	if on {
		e.Blob = v.Location.Key
	}
	return e, nil
}

// withClass gives the version in an export the storage class that it is about to have.
func withClass(export []byte, class string) ([]byte, error) {
	e, err := record.DecodeExport(export)
	if err != nil {
		return nil, err
	}
	r := &record.Record{}
	if err := record.Decode(r, e.Record); err != nil {
		return nil, err
	}
	if r.StorageClass = class; class == object.StandardClass {
		r.StorageClass = ""
	}
	e.Record = record.Append(nil, r)
	return e.Encode(), nil
}

// rewrite writes the whole catalogue: the buckets, the versions on the tier, and the delete markers.
func (m *Mover) rewrite(ctx context.Context, t *place, c *plain.Catalogue) error {
	tail := m.ns.JournalTail() // what happens meanwhile is told of again
	err := c.Rewrite(ctx, tail, func(add func(plain.Entry) error) error {
		buckets, err := m.ns.Buckets(ctx)
		if err != nil {
			return err
		}
		for _, b := range buckets {
			if err := m.rewriteBucket(ctx, t, b.Name, add); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		t.stale = false
	}
	return t.saw(m.set.now(), err)
}

func (m *Mover) rewriteBucket(ctx context.Context, t *place, bucket string, add func(plain.Entry) error) error {
	one := func(c change) error {
		e, err := m.entryOf(ctx, t, c)
		if m.broken(t, c, err) {
			return nil
		}
		if err == nil && !e.Removed {
			err = add(e)
		}
		return err
	}
	if err := one(change{bucket: bucket}); err != nil {
		return err
	}
	var failed error // which is no bucket's
	err := m.ns.VersionPages(ctx, bucket, listing.Options{Limit: object.MaxList}, func(page []record.Version) error {
		for i := range page {
			v := &page[i]
			if v.StorageClass == "" && !v.DeleteMarker {
				continue // STANDARD: its bytes are here
			}
			if failed = one(change{bucket, v.Key, v.ID}); failed != nil {
				return failed
			}
		}
		return nil
	})
	if failed == nil && firn.KindOf(err) == firn.NotFound {
		return nil // removed meanwhile
	}
	return err
}

// Rebuilt is what Rebuild made.
type Rebuilt struct {
	Buckets, Versions, Markers int64
	Bytes                      int64 // of the versions, on the tier
	Present                    int64 // buckets and versions that were there already
	Failed                     int64
}

// RebuildOptions are those of a Rebuild.
type RebuildOptions struct {
	// From is the id of the lost site whose tier it is; "" for a tier of this site.
	From string
	// Failed is called for each bucket or version that cannot be made; nil is nobody.
	Failed func(bucket, key, version string, err error)
	// Progress is called now and then; nil is nobody.
	Progress func(Rebuilt)
}

// Rebuild makes the buckets and versions of a lost site again from the catalogue on a tier; their bytes stay on it. It can
// be done again, and after it from another tier of the same site: what is there stays as it is.
//
// Where all could be made the tier is this site's from then on. Otherwise it stays as it is: its versions can be read, and
// nothing is moved to it or removed from it.
//
// Its memory is bounded: a catalogue of more than a million entries is read several times. firn.Conflict where the tier is
// another site's than From says.
func (m *Mover) Rebuild(ctx context.Context, tier string, o RebuildOptions) (r Rebuilt, err error) {
	t, err := m.set.place(tier)
	if err != nil {
		return r, err
	}
	mark, err := plain.ReadMark(ctx, t.Store, t.content.Layout())
	if err == nil && mark.Site != m.opt.Site && mark.Site != o.From {
		err = firn.NewError(firn.Conflict, fmt.Sprintf("it is tier %s of site %s, since %s: if that site is lost, say so by its id (--from)",
			mark.Tier, mark.Site, mark.Created.Format("2006-01-02")))
	}
	if err == nil && o.From != "" && mark.Site != o.From {
		err = firn.NewError(firn.Conflict, fmt.Sprintf("it is not a tier of site %s, but this site's", o.From))
	}
	if err = t.saw(m.set.now(), err); err != nil {
		return r, firn.E("rebuild", tier, err)
	}
	own := mark.Site == m.opt.Site
	if own { // what was removed here must not come back
		if err = m.ready(ctx, t); err == nil {
			err = m.follow(ctx, t)
		}
		if err != nil && !errors.Is(err, errBehind) {
			return r, firn.E("rebuild", tier, err)
		}
	}
	if err := m.adoptAll(ctx, t, &o, &r); err != nil || r.Failed > 0 {
		return r, err
	}
	if own {
		t.rebuilt.Store(true)
	} else if err := t.saw(m.set.now(), plain.TakeOver(ctx, t.Store, t.content.Layout(), m.opt.Site, t.Name)); err != nil {
		return r, firn.E("rebuild", tier, err)
	}
	if err = m.ready(ctx, t); err == nil {
		err = m.follow(ctx, t)
	}
	return r, firn.E("rebuild", tier, err)
}

// adoptAll makes what the catalogue of t tells of.
func (m *Mover) adoptAll(ctx context.Context, t *place, o *RebuildOptions, r *Rebuilt) error {
	tier := t.Name
	lines := 0
	seed := maphash.MakeSeed()
	store, err := t.content.Catalogue(ctx, false)
	if err == nil {
		err = plain.ReadCatalogue(ctx, store, func(plain.Entry) error { lines++; return ctx.Err() })
	}
	if err != nil {
		return firn.E("rebuild", tier, err)
	}
	done := 0
	parts := uint64(lines/rebuildAtOnce + 1)
	for part := range parts {
		latest := map[change]plain.Entry{}
		var order []change // buckets first, then as they come
		err := plain.ReadCatalogue(ctx, store, func(e plain.Entry) error {
			c := change{e.Bucket, e.Key, e.Version}
			if e.Key != "" && maphash.String(seed, e.Bucket+"/"+e.Key)%parts != part {
				return nil
			}
			if _, ok := latest[c]; !ok {
				order = append(order, c)
			}
			latest[c] = e
			return ctx.Err()
		})
		if err != nil {
			return firn.E("rebuild", tier, err)
		}
		slices.SortStableFunc(order, func(a, b change) int {
			return min(1, len(a.key)) - min(1, len(b.key))
		})
		for _, c := range order {
			if err := ctx.Err(); err != nil {
				return err
			}
			e := latest[c]
			if e.Removed {
				continue
			}
			if err := m.adopt(ctx, t, store, &e, r); err != nil {
				r.Failed++
				if o.Failed != nil {
					o.Failed(c.bucket, c.key, c.version, err)
				}
			}
			if done++; done%progressEvery == 0 && o.Progress != nil {
				o.Progress(*r)
			}
		}
	}
	return nil
}

func (m *Mover) adopt(ctx context.Context, t *place, store *blob.Store, e *plain.Entry, r *Rebuilt) error {
	export, err := plain.LoadRecord(ctx, store, e)
	if err = t.saw(m.set.now(), err); err != nil {
		return err
	}
	if e.Key == "" {
		err := m.ns.AdoptBucket(ctx, e.Bucket, export)
		switch {
		case errors.Is(err, object.ErrAdopted):
			r.Present++
			return nil
		case err == nil:
			r.Buckets++
		}
		return err
	}
	v, err := m.ns.Adopt(ctx, e.Bucket, e.Key, export, t.Name, e.Blob)
	switch {
	case errors.Is(err, object.ErrAdopted):
		// A version without an id may be in the place of a later one.
		if have, _, herr := m.ns.Export(ctx, e.Bucket, e.Key, e.Version); herr == nil && have.Modified.Before(e.Modified) {
			return firn.NewError(firn.Conflict, fmt.Sprintf("the site has one of %s, the tier one of %s: remove that of the site, and rebuild again",
				have.Modified.UTC().Format(time.RFC3339), e.Modified.Format(time.RFC3339)))
		}
		r.Present++
		return nil
	case err != nil:
		return err
	case v.DeleteMarker:
		r.Markers++
	default:
		r.Versions++
		r.Bytes += v.Size
	}
	return nil
}
