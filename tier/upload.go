package tier

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"firn"
	"firn/object"
	"firn/object/record"
	"firn/tier/plain"
	"firn/tier/turns"
)

// A copy of a large version that is cut off stays where it is, and the next one of the same version goes on there, after a
// restart too: its blob stays reserved, with a note that says of which version it is. Nobody but the mover tells the place to
// let go of it, and the blob is freed only after that: so what is freed has nothing unfinished on the place.

const (
	// resumeAbove is the size in bytes above which a copy goes on where it was cut off.
	resumeAbove = 64 << 20
	// keepUpload is how long what was copied stays where nobody asks for the version to be moved any more.
	keepUpload = 48 * time.Hour
)

// owner is a version whose bytes are copied.
type owner struct {
	Bucket  string `json:"bucket"`
	Key     string `json:"key"`
	Version string `json:"version"`
	Clock   uint64 `json:"clock"`
	Site    uint32 `json:"site"`
	Size    int64  `json:"size"`
}

func ownerOf(v *record.Version) owner {
	o := owner{Bucket: v.Bucket, Key: v.Key, Version: v.ID, Clock: v.Clock, Site: v.Site, Size: v.Size}
	if o.Version == "" {
		o.Version = record.NullID
	}
	return o
}

func (o *owner) change() change { return change{o.Bucket, o.Key, o.Version} }

// note is what the register keeps with the reservation.
func (o *owner) note() string {
	p, _ := json.Marshal(o) // never fails
	return string(p)
}

// noted reads a note; ok is false for a blob that was not reserved for a copy that can go on.
func noted(b record.TierBlob) (o owner, ok bool) {
	return o, b.Note != "" && json.Unmarshal([]byte(b.Note), &o) == nil
}

// upload is a copy of a large version. Its fields are guarded by the place's mu, but those of a busy one by its holder.
type upload struct {
	of     owner
	blob   record.TierBlob // zero before it is reserved
	busy   bool            // somebody is at it
	lost   bool            // to be dropped
	asked  time.Time       // when somebody wanted it last
	at     atomic.Int64    // bytes of it that were read to be copied, as far as this process knows
	prefix prefixHash
}

// remember takes up the copies that an earlier process began. The caller holds t.mu.
func (t *place) remember(list []doubt, now time.Time) {
	for i := range list {
		if of, ok := noted(list[i].blob); ok {
			list[i].change = of.change()
			t.uploads[of] = &upload{of: of, blob: list[i].blob, asked: now}
		}
	}
}

// wanted notes that somebody asks for versions to be moved.
func (t *place) wanted(versions []record.Version, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.uploads) == 0 {
		return
	}
	for i := range versions {
		if u := t.uploads[ownerOf(&versions[i])]; u != nil {
			u.asked = now
		}
	}
}

// take returns the upload of a version for its copy to be made, which is the caller's until it is parked, dropped or
// finished; nil where somebody else is at it, or where it cannot be resumed.
func (m *Mover) take(t *place, v *record.Version) *upload {
	if c, ok := t.content.(resumer); !ok || v.Size <= m.opt.ResumeAbove || !c.CanResume() {
		return nil
	}
	of := ownerOf(v)
	t.mu.Lock()
	defer t.mu.Unlock()
	u := t.uploads[of]
	if u == nil {
		u = &upload{of: of}
		t.uploads[of] = u
	}
	if u.busy || u.lost {
		return nil
	}
	u.busy, u.asked = true, m.set.now()
	return u
}

// park lets go of an upload that is to go on later.
func (t *place) park(u *upload) {
	t.mu.Lock()
	defer t.mu.Unlock()
	u.busy = false
}

// finish forgets an upload whose blob is in use, or in doubt, or was never reserved.
func (t *place) finish(u *upload) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.uploads[u.of] == u {
		delete(t.uploads, u.of)
	}
}

// drop gives up what was copied. Where the place does not let go of it now, it is told again by tidyUploads.
func (m *Mover) drop(ctx context.Context, t *place, u *upload) {
	if c, ok := t.content.(resumer); ok {
		if err := t.saw(m.set.now(), c.Abandon(ctx, u.blob.Key)); err != nil {
			t.mu.Lock()
			defer t.mu.Unlock()
			u.busy, u.lost = false, true
			return
		}
	}
	t.finish(u)
	// The catalogue may tell of it: an earlier try, or process, may have come so far.
	t.writing.Lock()
	defer t.writing.Unlock()
	t.doubts = append(t.doubts, doubt{u.of.change(), u.blob})
}

// failed ends a copy that did not come to its switch.
func (m *Mover) failed(ctx context.Context, t *place, u *upload, err error) {
	if !cutOff(ctx, err) {
		m.drop(ctx, t, u)
		return
	}
	m.opt.Log.Info("a copy to a tier was cut off, and goes on there later", "tier", t.Name, "key", u.blob.Key,
		"read", u.at.Load(), "size", u.of.Size, "error", err)
	t.park(u)
}

// cutOff reports whether a copy that failed is to go on later: by then the place, or whoever stopped it, may let it.
func cutOff(ctx context.Context, err error) bool {
	return ctx.Err() != nil || firn.KindOf(err) == firn.Unavailable || firn.KindOf(err) == firn.Denied
}

// keeps reports whether the copy in a blob may go on.
func (t *place) keeps(b record.TierBlob) bool {
	of, ok := noted(b)
	if !ok {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	u := t.uploads[of]
	return u != nil && u.blob.ID == b.ID
}

// resume is write for an upload that was taken: it goes on with it, or begins it under the first name that is free and that
// the place takes. After an error the upload is not the caller's any more.
func (m *Mover) resume(ctx context.Context, t *place, v *record.Version, u *upload, src *stored) error {
	if u.blob.Key != "" {
		return m.goOn(ctx, t, u, src, false)
	}
	err := errTaken
	for _, name := range plain.Names(v.Bucket, v.Key, u.of.Version, v.Clock, m.set.now()) {
		b, rerr := m.ns.ReserveFor(ctx, t.Name, name, u.of.note())
		if errors.Is(rerr, object.ErrTierKey) {
			continue
		}
		if rerr != nil {
			t.finish(u)
			return rerr
		}
		t.mu.Lock()
		u.blob = b
		t.mu.Unlock()
		err = m.goOn(ctx, t, u, src, true)
		if kind := firn.KindOf(err); err == nil || kind != firn.Conflict && kind != firn.Invalid || !t.again(u) {
			return err
		}
	}
	t.finish(u)
	return err
}

// again takes an upload that was dropped to begin it under another name, unless somebody else began one.
func (t *place) again(u *upload) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if u.lost || t.uploads[u.of] != nil {
		return false
	}
	u.blob = record.TierBlob{}
	t.uploads[u.of] = u
	return true
}

// goOn copies what is missing under the name that the upload has.
func (m *Mover) goOn(ctx context.Context, t *place, u *upload, src *stored, fresh bool) (err error) {
	c := t.content.(resumer) // as take saw
	if fresh {
		// What another site, or this one before its data directory was restored, left under the name is of other content.
		if err := t.saw(m.set.now(), c.Abandon(ctx, u.blob.Key)); err != nil {
			t.finish(u) // nothing was copied, nor told
			m.giveUp(ctx, u.blob)
			return err
		}
	}
	// A window that closes says nothing of the tier.
	if err = c.Resume(ctx, u.blob.Key, src); !errors.Is(err, turns.ErrClosed) {
		err = t.saw(m.set.now(), err)
	}
	switch {
	case src.opened:
		t.counts.resumedBytes.Add(src.from)
	case err == nil:
		t.counts.resumedBytes.Add(u.of.Size) // all of it was there
	}
	if err != nil {
		m.failed(ctx, t, u, err)
	}
	return err
}

// tidyUploads drops what was copied of versions that are gone, were moved otherwise, or are not to be moved any more.
func (m *Mover) tidyUploads(ctx context.Context, t *place) {
	t.mu.Lock()
	list := slices.Collect(maps.Values(t.uploads))
	t.mu.Unlock()
	for _, u := range list {
		gone := m.gone(ctx, t, &u.of)
		t.mu.Lock()
		drop := !u.busy && t.uploads[u.of] == u && (gone || u.lost || m.set.now().Sub(u.asked) > keepUpload)
		u.busy = u.busy || drop
		t.mu.Unlock()
		if drop {
			m.drop(ctx, t, u)
		}
	}
}

// gone reports whether a version is not any more what was to be copied.
func (m *Mover) gone(ctx context.Context, t *place, of *owner) bool {
	v, err := m.ns.Head(ctx, of.Bucket, of.Key, of.Version)
	if err != nil {
		return firn.KindOf(err) == firn.NotFound || errors.Is(err, object.ErrDeleteMarker)
	}
	return ownerOf(v) != *of || v.Location != nil && v.Location.Tier == t.Name
}

// Begun is what was begun of the copies of large versions to a tier.
type Begun struct {
	Objects int64
	Bytes   int64 // of the versions
	// Done is how many of the bytes were copied, as far as this process knows: of a copy that an earlier one began nothing is
	// known before it goes on.
	Done int64
}

// BegunOf returns how many bytes of a version were copied to the tiers to which a copy of it was begun, as Begun has it.
func (m *Mover) BegunOf(v *record.Version) map[string]int64 {
	out := map[string]int64{}
	for _, t := range m.set.list {
		t.mu.Lock()
		if u := t.uploads[ownerOf(v)]; u != nil {
			out[t.Name] = u.at.Load()
		}
		t.mu.Unlock()
	}
	return out
}

func (t *place) begun() (b Begun) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for of, u := range t.uploads {
		b.Objects++
		b.Bytes += of.Size
		b.Done += u.at.Load()
	}
	return b
}
