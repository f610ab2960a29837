package object

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"time"

	"firn"
	"firn/kv"
	"firn/object/blobs"
	"firn/object/record"
	"firn/object/remote"
	"firn/object/space"
)

// The bytes of a version may be on a tier, which is a named place elsewhere. This file is the whole of what the one who
// moves them, the mover, needs of the namespace; docs/format/namespace.md describes the protocol. A move is:
//
//	blobs, _ := s.Reserve(ctx, "cold", key)      // nothing may be there that the register does not know
//	o, _ := s.Open(ctx, bucket, name, id)        // what is written to the tier comes from WriteStored,
//	ref := RefOf(o.Version)                      // and ref says of what version it was
//	...                                          // copy, and read back
//	s.Switch(ctx, ref, blobs[0], MoveOptions{Class: "COLD"})
//
// Where the move is given up, or Switch says ErrMoved, Free hands the blob over to TierGarbage. Everything that TierGarbage
// returns is removed from the tier first and then given to Forget.

var (
	// ErrMoved is returned where a version is not, or not where, a Ref says.
	ErrMoved = firn.NewError(firn.Conflict, "the version was replaced, removed or moved meanwhile")
	// ErrTierAway is wrapped by errors of reading a version whose tier cannot be read now.
	ErrTierAway = remote.ErrAway
	// ErrTierKey is returned for a key that is in the register of the tier already.
	ErrTierKey = firn.NewError(firn.Exists, "the key on the tier is taken")
	// ErrNotReserved is returned for a blob that is not, or no longer, in the state that a call needs.
	ErrNotReserved = firn.NewError(firn.Conflict, "the blob on the tier is in another state")
	// ErrNotOnTier is returned for a version whose bytes are local and nowhere else.
	ErrNotOnTier = firn.NewError(firn.Conflict, "the version is not on a tier")
)

// TierAway is wrapped by errors that wrap ErrTierAway and says which tier it is, and since when it is away.
type TierAway = remote.Away

// Ref names a version as it was when somebody looked: neither replaced since nor with its bytes elsewhere.
type Ref struct {
	Bucket, Key string
	Clock       uint64
	Site        uint32
	Blob        record.BlobID // on a tier; zero where the version was on none
}

// RefOf returns the Ref of a version that Head or Open returned.
func RefOf(v *record.Version) Ref {
	r := Ref{Bucket: v.Bucket, Key: v.Key, Clock: v.Clock, Site: v.Site}
	if v.Location != nil {
		r.Blob = v.Location.ID
	}
	return r
}

func (r *Ref) subject() string { return subject(r.Bucket, r.Key) }

// MoveOptions say what becomes of a version besides.
type MoveOptions struct {
	Class string // its storage class from then on; "" is STANDARD
	// LocalUntil is until when the local bytes stay as well; a time that is past: they go at once. A copy that was asked for
	// stays for its time.
	LocalUntil time.Time
}

// RecallOptions say how a version comes back.
type RecallOptions struct {
	// Until is until when the local copy stays, beside the blob on the tier. Zero: for good, and the blob is freed.
	Until time.Time
	Class string // where Until is zero: the version's storage class from then on; "" is STANDARD
}

// maxRegistered bounds the blobs of one call of Reserve and Forget, and of a page of TierBlobs and TierGarbage.
const maxRegistered = 1000

// Reserve notes durably that blobs with the given keys are about to be written to a tier, and names them. At most 1000.
// ErrTierKey where one is reserved, in use or not yet removed; then none is reserved.
func (s *Store) Reserve(ctx context.Context, tier string, keys ...string) ([]record.TierBlob, error) {
	list, err := s.reserve(ctx, tier, keys, "")
	return list, fail("reserve on tier", tier, err)
}

// ReserveFor is Reserve with a note, which TierBlobs returns with the blob while it is reserved.
func (s *Store) ReserveFor(ctx context.Context, tier, key, note string) (record.TierBlob, error) {
	list, err := s.reserve(ctx, tier, []string{key}, note)
	if err != nil {
		return record.TierBlob{}, fail("reserve on tier", tier, err)
	}
	return list[0], nil
}

func (s *Store) reserve(ctx context.Context, tier string, keys []string, note string) ([]record.TierBlob, error) {
	if tier == "" || len(keys) > maxRegistered {
		return nil, firn.NewError(firn.Invalid, "a tier's name, and at most 1000 keys")
	}
	list := make([]record.TierBlob, len(keys))
	locks := make([][]byte, len(keys), len(keys)+1)
	for i, key := range keys {
		if key == "" || len(key) > MaxTierKey {
			return nil, firn.NewError(firn.Invalid, "a key on a tier has 1 to 2048 bytes")
		}
		list[i] = record.TierBlob{Tier: tier, Key: key, State: record.TierReserved, Clock: uint64(s.clock.Now()), Note: note}
		if _, err := rand.Read(list[i].ID[:]); err != nil {
			return nil, err
		}
		locks[i] = list[i].RegisterKey()
	}
	format := record.MetaKey("format")
	err := s.db.Update(ctx, func(tx kv.Tx) error {
		if err := s.useTiers(tx); err != nil {
			return err
		}
		seen := make(map[string]bool, len(keys))
		for i := range list {
			v, err := kv.Find(tx, nil, locks[i])
			if err != nil {
				return err
			}
			if v != nil || seen[keys[i]] {
				return wrapped{ErrTierKey, keys[i]}
			}
			seen[keys[i]] = true
			tx.Set(locks[i], list[i].Append(nil))
		}
		return nil
	}, append(locks, format)...)
	if err != nil {
		return nil, err
	}
	return list, nil
}

// useTiers keeps releases that know nothing of tiers out from now on.
func (s *Store) useTiers(tx kv.Tx) error {
	format := record.MetaKey("format")
	have, err := getUint(tx, format)
	if err == nil && have < formatTiers {
		tx.Set(format, record.IDKey(0, formatTiers)[1:])
	}
	return err
}

// MaxTierKey is the longest key on a tier, in bytes.
const MaxTierKey = 2048

// registered reads a blob's entry in the register. ErrNotReserved where it is in another state or another blob's.
func registered(r kv.Reader, blob *record.TierBlob, state record.TierState) error {
	k := blob.RegisterKey()
	v, err := kv.Find(r, nil, k)
	if err != nil {
		return err
	}
	if v == nil {
		return ErrNotReserved
	}
	now, err := record.DecodeTierBlob(k, v)
	if err == nil && (now.ID != blob.ID || now.State != state) {
		err = ErrNotReserved
	}
	return err
}

// Free gives up a reserved blob, of which something may be on the tier: TierGarbage returns it from now on.
// ErrNotReserved.
func (s *Store) Free(ctx context.Context, blob record.TierBlob) error {
	err := s.db.Update(ctx, func(tx kv.Tx) error {
		if err := registered(tx, &blob, record.TierReserved); err != nil {
			return err
		}
		t := txn{s: s, tx: tx}
		t.freeTier(&record.Location{ID: blob.ID, Tier: blob.Tier, Key: blob.Key})
		return nil
	}, blob.RegisterKey())
	return fail("free on tier", blob.Tier, err)
}

// TierBlobs returns a page of the register of a tier: the blobs that may be on it, by key, after the given one. What the
// register does not know, nobody needs.
func (s *Store) TierBlobs(ctx context.Context, tier, after string) ([]record.TierBlob, error) {
	var list []record.TierBlob
	lower := record.RegisterPrefix(tier)
	upper := record.Successor(lower)
	if after != "" {
		lower = append(append(lower, after...), 0)
	}
	err := s.db.View(ctx, func(r kv.Reader) error {
		list = list[:0]
		return unlessStopped(kv.Scan(r, lower, upper, func(k, v []byte) error {
			if len(list) == maxRegistered {
				return errStop
			}
			b, err := record.DecodeTierBlob(k, v)
			list = append(list, b)
			return err
		}))
	})
	return list, fail("list tier", tier, err)
}

// TierGarbage returns up to 1000 blobs of a tier that were freed before the given time and that no open Object reads, the
// one freed first first. They may be removed from the tier.
func (s *Store) TierGarbage(ctx context.Context, tier string, before time.Time) ([]record.TierBlob, error) {
	s.collecting.Lock()
	defer s.collecting.Unlock()
	var list []record.TierBlob
	upper := record.IDKey(record.TagTierGarbage, uint64(max(0, before.UnixMilli()))<<16)
	err := s.db.View(ctx, func(r kv.Reader) error {
		list = list[:0]
		return unlessStopped(kv.Scan(r, []byte{record.TagTierGarbage}, upper, func(k, v []byte) error {
			b, err := record.DecodeTierGarbage(k, v)
			if err != nil {
				return err
			}
			if b.Tier == tier && !s.blobs.Pinned(blobs.ID(b.ID)) {
				list = append(list, b)
			}
			if len(list) == maxRegistered {
				return errStop
			}
			return nil
		}))
	})
	// As for blob files: who found an old record has pinned by the end of the grace period.
	if err == nil && len(list) > 0 {
		err = s.grace.Wait(ctx)
	}
	free := list[:0]
	for _, b := range list {
		if !s.blobs.Pinned(blobs.ID(b.ID)) {
			free = append(free, b)
		}
	}
	if err != nil {
		return nil, fail("collect on tier", tier, err)
	}
	return free, nil
}

// maxCounted bounds a count of what was freed.
const maxCounted = 1_000_000

// CountTierGarbage counts what was freed by tier, the first million freed of all tiers together; more says that there are others.
func (s *Store) CountTierGarbage(ctx context.Context) (count map[string]record.TierQueue, more bool, err error) {
	err = s.db.View(ctx, func(r kv.Reader) error {
		n := 0
		count = map[string]record.TierQueue{}
		return unlessStopped(kv.Scan(r, []byte{record.TagTierGarbage}, []byte{record.TagTierGarbage + 1}, func(k, v []byte) error {
			if more = n == maxCounted; more {
				return errStop
			}
			n++
			b, err := record.DecodeTierGarbage(k, v)
			q := count[b.Tier]
			if q.Blobs++; q.Oldest == 0 {
				q.Oldest = b.Clock
			}
			count[b.Tier] = q
			return err
		}))
	})
	return count, more, fail("count on tiers", "", err)
}

// Forget takes blobs that TierGarbage returned and that are no longer on their tiers out of the register. At most 1000.
// What was forgotten before is no error.
func (s *Store) Forget(ctx context.Context, list ...record.TierBlob) error {
	if len(list) > maxRegistered {
		return firn.NewError(firn.Invalid, "at most 1000 blobs")
	}
	locks := make([][]byte, len(list))
	for i := range list {
		locks[i] = list[i].RegisterKey()
	}
	err := s.db.Update(ctx, func(tx kv.Tx) error {
		for i := range list {
			err := registered(tx, &list[i], record.TierFreed)
			if errors.Is(err, ErrNotReserved) {
				continue
			}
			if err != nil {
				return err
			}
			tx.Delete(locks[i])
			tx.Delete(list[i].QueueKey())
			if err := dropOutboards(tx, list[i].ID); err != nil {
				return err
			}
		}
		return nil
	}, locks...)
	return fail("forget on tier", "", err)
}

// dropOutboards deletes what is kept of a blob's parts.
func dropOutboards(tx kv.Tx, id record.BlobID) error {
	lower := record.BlobKey(record.TagOutboard, id)
	upper := record.Successor(lower)
	n := 0
	err := kv.Scan(tx, lower, upper, func(k, _ []byte) error {
		if n++; n <= fewParts {
			tx.Delete(k)
		}
		return nil
	})
	if err == nil && n > fewParts {
		tx.DeleteRange(lower, upper)
	}
	return err
}

func unlessStopped(err error) error {
	if errors.Is(err, errStop) {
		return nil
	}
	return err
}

// openRef opens the version that ref names. ErrMoved.
func (s *Store) openRef(ctx context.Context, ref Ref) (*Object, error) {
	id := record.MakeOrder(ref.Clock, ref.Site)
	for _, versionID := range []string{id.String(), record.NullID} {
		o, err := s.openObject(ctx, ref.Bucket, ref.Key, versionID)
		if firn.KindOf(err) == firn.NotFound {
			continue
		}
		if err != nil {
			return nil, err
		}
		if RefOf(o.Version) == ref {
			return o, nil
		}
		_ = o.Close() // always nil
	}
	return nil, ErrMoved
}

// at reads the version that ref names and returns it with the key it is stored under. ErrMoved.
func (t *txn) at(ref *Ref, ck []byte) (*stored, []byte, error) {
	v, vk, err := t.s.version(t.tx, t.b, ref.Key, record.MakeOrder(ref.Clock, ref.Site), ck)
	if err == nil && (v == nil || v.DeleteMarker || RefOf(&v.Version) != *ref) {
		err = ErrMoved
	}
	return v, vk, err
}

// version reads the version of key with the given place among its versions; nil where it is not there.
func (s *Store) version(r kv.Reader, b *record.Bucket, key string, o record.Order, ck []byte) (*stored, []byte, error) {
	v, err := s.current(r, b.Name, key, ck)
	if err != nil || v == nil || v.Order() == o {
		return v, ck, err
	}
	vk := record.OldKey(b.ID, key, o)
	v, err = s.load(r, b.Name, key, vk, false)
	return v, vk, err
}

// rewrite stores a version whose place changed, and logs it.
func (t *txn) rewrite(v *stored, vk []byte, m *record.Mutation) {
	v.raw = record.Append(nil, &v.Record)
	t.tx.Set(vk, v.raw)
	m.Clock, m.Site, m.BucketID, m.Bucket, m.Key = uint64(t.s.clock.Now()), v.Site, t.b.ID, t.b.Name, v.Key
	m.Version, m.Null = v.Order(), v.Null
	if v.Location != nil {
		m.Tier = v.Location.Tier
	}
	t.log(m)
}

// reclass gives v another storage class.
func (t *txn) reclass(v *stored, class string, m *record.Mutation) {
	if class == StandardClass {
		class = ""
	}
	m.Count(v.StorageClass, -1, v.Size)
	m.Count(class, 1, v.Size)
	v.StorageClass = class
}

// Switch says that the bytes of the version ref are in blob now, which was reserved, and complete and verified there: from
// then on they are read from it. In the same transaction the local bytes are freed, or given until LocalUntil, and the
// blob where the version was before is freed.
//
// Errors: ErrMoved, ErrNotReserved; after the first the blob is still reserved. After another it may be in use or not: Free tells.
func (s *Store) Switch(ctx context.Context, ref Ref, blob record.TierBlob, o MoveOptions) (*record.Version, error) {
	v, err := s.switchTo(ctx, ref, blob, &o)
	return v, fail("move to tier", ref.subject(), err)
}

// outboardBatch bounds the bytes of outboards that one transaction writes.
const outboardBatch = 1 << 20

func (s *Store) switchTo(ctx context.Context, ref Ref, blob record.TierBlob, o *MoveOptions) (*record.Version, error) {
	from, err := s.openRef(ctx, ref)
	if err != nil {
		return nil, err
	}
	defer from.Close()
	b, err := s.bucket(ref.Bucket)
	if err != nil {
		return nil, err
	}
	type pair struct{ key, value []byte }
	var pending []pair
	size := 0
	for i := range from.Version.Parts {
		raw, err := from.outboard(ctx, i)
		if err != nil {
			return nil, err
		}
		if raw == nil {
			continue
		}
		if size += len(raw); size > outboardBatch {
			// More than goes into one transaction. Until the switch they belong to the reservation.
			if err := s.db.Update(ctx, func(tx kv.Tx) error {
				for _, p := range pending {
					tx.Set(p.key, p.value)
				}
				return nil
			}); err != nil {
				return nil, err
			}
			pending, size = pending[:0], len(raw)
		}
		pending = append(pending, pair{record.OutboardKey(blob.ID, i), raw})
	}
	ck := record.CurrentKey(b.rec.Load().ID, ref.Key)
	register := blob.RegisterKey()
	var out *record.Version
	_, err = s.change(ctx, b, func(t *txn) error {
		v, vk, err := t.at(&ref, ck)
		if err != nil {
			return err
		}
		if err := registered(t.tx, &blob, record.TierReserved); err != nil {
			return err
		}
		m := &record.Mutation{Op: record.OpMove}
		loc := &record.Location{ID: blob.ID, Tier: blob.Tier, Key: blob.Key, Since: t.now.UTC().Truncate(time.Millisecond)}
		until := o.LocalUntil
		if v.KeepUntil.After(until) {
			until = v.KeepUntil
		}
		if l := v.Location; l != nil && l.LocalUntil.After(until) {
			until = l.LocalUntil
		}
		v.KeepUntil = time.Time{}
		if until.After(t.now) && v.Local() {
			loc.LocalUntil = until
		} else if err := t.freeLocal(v); err != nil {
			return err
		}
		if v.Location != nil {
			t.setExpiry(v, time.Time{})
			t.releaseLocation(v.Location)
		}
		v.Location = loc
		t.setExpiry(v, loc.LocalUntil)
		t.reclass(v, o.Class, m)
		for _, p := range pending {
			t.tx.Set(p.key, p.value)
		}
		used := blob
		used.State, used.Clock, used.Note = record.TierUsed, uint64(s.clock.Now()), ""
		t.tx.Set(register, used.Append(nil))
		t.rewrite(v, vk, m)
		out = v.Finish()
		return nil
	}, ck, register)
	if err != nil {
		return nil, err
	}
	return out, nil
}

// setExpiry moves the note of when v's local copy may go to a time; zero: there is none any more.
func (t *txn) setExpiry(v *stored, at time.Time) {
	if v.Location == nil {
		return
	}
	at = at.UTC().Truncate(time.Millisecond)
	key := func(at time.Time) []byte { return record.ExpiryKey(at, t.b.ID, v.Key, v.Order()) }
	if was := v.Location.LocalUntil; !was.IsZero() && !was.Equal(at) {
		t.tx.Delete(key(was))
	}
	if v.Location.LocalUntil = at; !at.IsZero() {
		t.tx.Set(key(at), nil)
	}
}

// freeLocal frees v's local bytes. The part list goes under another id, so that a reader sees either all of one or all
// of the other.
func (t *txn) freeLocal(v *stored) error {
	parts, err := t.releaseLocal(&v.Record)
	if err != nil {
		return err
	}
	v.Blob, v.Shared, v.Data = record.BlobID{}, false, 0
	if v.Multipart {
		for i := range parts {
			parts[i].Blob, parts[i].Shared = record.BlobID{}, false
		}
		v.Data = uint64(t.s.clock.Now())
		t.tx.Set(record.IDKey(record.TagParts, v.Data), record.AppendPartList(nil, parts))
		v.Parts = parts
	}
	return nil
}

// releaseLocation gives up one use of a blob on a tier.
func (t *txn) releaseLocation(l *record.Location) {
	if l.Shared || t.refs[l.ID] > 0 {
		t.referenceLocation(l, -1)
		return
	}
	t.freeTier(l)
}

// referenceLocation changes the number of uses of a blob on a tier.
func (t *txn) referenceLocation(l *record.Location, n int) {
	if t.places == nil {
		t.places = map[record.BlobID]*record.Location{}
	}
	t.places[l.ID] = l
	t.reference(l.ID, n)
}

// freeTier hands a blob on a tier over to TierGarbage.
func (t *txn) freeTier(l *record.Location) {
	b := record.TierBlob{ID: l.ID, Tier: l.Tier, Key: l.Key, State: record.TierFreed, Clock: uint64(t.s.clock.Now())}
	t.tx.Set(b.RegisterKey(), b.Append(nil))
	t.tx.Set(b.QueueKey(), b.QueueValue())
}

// Recall brings the bytes of the version ref back from its tier: for good, or as a copy beside it for a time. Each block
// is verified before the version says that it has them. Where the bytes are local already, only the rest is done.
//
// Errors: ErrMoved, ErrNotOnTier, ErrTierAway, ErrCorrupt, ErrNoSpace.
func (s *Store) Recall(ctx context.Context, ref Ref, o RecallOptions) (*record.Version, error) {
	v, err := s.recall(ctx, ref, &o)
	return v, fail("recall", ref.subject(), err)
}

func (s *Store) recall(ctx context.Context, ref Ref, o *RecallOptions) (*record.Version, error) {
	if ref.Blob == (record.BlobID{}) {
		return nil, ErrNotOnTier
	}
	from, err := s.openRef(ctx, ref)
	if err != nil {
		return nil, err
	}
	defer from.Close()
	b, err := s.bucket(ref.Bucket)
	if err != nil {
		return nil, err
	}
	var st *staged
	if !from.Version.Local() {
		need := space.FileCost(from.Version.Size)
		if err := s.space.Admit(need); err != nil {
			return nil, err
		}
		defer s.space.Done(need)
		if st, err = s.stage(ctx, from); err != nil {
			return nil, err
		}
	}
	ck := record.CurrentKey(b.rec.Load().ID, ref.Key)
	var out *record.Version
	open, err := s.change(ctx, b, func(t *txn) error {
		v, vk, err := t.at(&ref, ck)
		if err != nil {
			return err
		}
		if v.Local() != (st == nil) {
			return ErrMoved
		}
		if st != nil {
			if err := t.setLocal(v, st); err != nil {
				return err
			}
		}
		m := &record.Mutation{Op: record.OpMove}
		t.setExpiry(v, o.Until)
		v.Location.Wanted = time.Time{}
		if o.Until.IsZero() {
			t.releaseLocation(v.Location)
			v.Location = nil
			t.reclass(v, o.Class, m)
		}
		t.rewrite(v, vk, m)
		out = v.Finish()
		return nil
	}, ck)
	if err != nil {
		st.abandon(s, open)
		return nil, err
	}
	return out, nil
}

// staged are local bytes that no version names yet.
type staged struct {
	files  []blobs.File // by part; ID zero for a part without a file
	inline []byte       // framed; of content that is no file
}

func (st *staged) abandon(s *Store, open bool) {
	if st == nil {
		return
	}
	for _, f := range st.files {
		if f.ID != (blobs.ID{}) {
			s.abandon(f, open)
		}
	}
}

// stage reads the bytes of an open version from its tier into local files, which are durable then.
func (s *Store) stage(ctx context.Context, from *Object) (*staged, error) {
	st := &staged{files: make([]blobs.File, len(from.Version.Parts))}
	for i := range from.Version.Parts {
		if err := s.stagePart(ctx, from, i, st); err != nil {
			st.abandon(s, false)
			return nil, err
		}
	}
	return st, nil
}

func (s *Store) stagePart(ctx context.Context, from *Object, i int, st *staged) error {
	r, err := from.openRemote(ctx, i)
	if err != nil {
		return err
	}
	if r == nil {
		return nil
	}
	if r.Inline() {
		st.inline, err = r.Fetch(ctx)
		return err
	}
	f, err := s.blobs.Create(ctx)
	if err != nil {
		return err
	}
	file := f.File
	if s.o.Relaxed {
		file = unsynced{file}
	}
	if err = r.Restore(ctx, file); err != nil {
		s.blobs.Discard(f)
		return err
	}
	err = f.Close()
	f.File = nil
	st.files[i] = f
	return err
}

// setLocal gives v, which has none, the local bytes st.
func (t *txn) setLocal(v *stored, st *staged) error {
	for _, f := range st.files {
		if f.ID != (blobs.ID{}) {
			t.tx.Delete(record.BlobKey(record.TagOpening, record.BlobID(f.ID)))
		}
	}
	switch {
	case v.Multipart:
		parts, err := t.s.parts(t.tx, &v.Record)
		if err != nil {
			return err
		}
		if len(parts) != len(st.files) {
			return ErrMoved
		}
		for i := range parts {
			parts[i].Blob = record.BlobID(st.files[i].ID)
		}
		t.tx.Delete(record.IDKey(record.TagParts, v.Data))
		v.Data, v.Parts = uint64(t.s.clock.Now()), parts
		t.tx.Set(record.IDKey(record.TagParts, v.Data), record.AppendPartList(nil, parts))
	case st.inline != nil:
		v.Data = uint64(t.s.clock.Now())
		t.tx.Set(record.IDKey(record.TagData, v.Data), st.inline)
	case len(st.files) > 0:
		v.Blob = record.BlobID(st.files[0].ID)
	}
	return nil
}

// WantLocal asks for a local copy of a version until a time. Where there is one already it stays until then, also where the
// version has still to go to the tier of its storage class. Else the wish is noted in the version and in the journal, for
// the mover to fulfil with Recall. ErrNotOnTier for a version of the class STANDARD whose bytes are local and nowhere else;
// else as UpdateVersion.
func (s *Store) WantLocal(ctx context.Context, bucket, key, versionID string, until time.Time) (*record.Version, error) {
	v, err := s.wantLocal(ctx, bucket, key, versionID, until)
	return v, fail("restore object", subject(bucket, key), err)
}

func (s *Store) wantLocal(ctx context.Context, bucket, key, versionID string, until time.Time) (*record.Version, error) {
	return s.editVersion(ctx, bucket, key, versionID, func(t *txn, v *stored, vk []byte) error {
		switch {
		case v.Location == nil && v.StorageClass == "":
			return ErrNotOnTier
		case v.Location == nil:
			v.KeepUntil = until.UTC().Truncate(time.Millisecond)
		case v.Local():
			t.setExpiry(v, until)
		default:
			v.Location.Wanted = until.UTC().Truncate(time.Millisecond)
		}
		t.rewrite(v, vk, &record.Mutation{Op: record.OpRecall})
		return nil
	})
}

// DropLocal frees the local bytes of a version that is on a tier as well, before their time. The tier is asked first
// whether it has the blob. ErrMoved, ErrNotOnTier, ErrTierAway, ErrCorrupt where the blob is gone or has another size.
func (s *Store) DropLocal(ctx context.Context, ref Ref) error {
	_, err := s.dropLocal(ctx, ref, time.Time{})
	return fail("free local copy", ref.subject(), err)
}

// dropLocal is DropLocal for a copy whose time is past by now, else it does nothing; now zero: whose time does not matter.
func (s *Store) dropLocal(ctx context.Context, ref Ref, now time.Time) (dropped bool, err error) {
	if ref.Blob == (record.BlobID{}) {
		return false, ErrNotOnTier
	}
	b, err := s.bucket(ref.Bucket)
	if err != nil {
		return false, err
	}
	from, err := s.openRef(ctx, ref)
	if err != nil {
		return false, err
	}
	defer from.Close()
	if err := s.checkTier(ctx, from.Version); err != nil {
		return false, err
	}
	ck := record.CurrentKey(b.rec.Load().ID, ref.Key)
	_, err = s.change(ctx, b, func(t *txn) error {
		v, vk, err := t.at(&ref, ck)
		if err != nil || !v.Local() || !now.IsZero() && v.Location.LocalUntil.After(now) {
			return err
		}
		dropped = true
		if err := t.freeLocal(v); err != nil {
			return err
		}
		t.setExpiry(v, time.Time{})
		t.rewrite(v, vk, &record.Mutation{Op: record.OpMove})
		return nil
	}, ck)
	return dropped && err == nil, err
}

// checkTier asks the tier of a version whether it has the blob, in its size.
func (s *Store) checkTier(ctx context.Context, v *record.Version) error {
	return remote.Check(ctx, s.o.Remote, v.Location, v.Size)
}

// ExpireLocal frees the local copies whose time is past and returns how many. A copy stays where its tier cannot be asked,
// or does not have the blob, and is looked at again by the next call. Run calls it from time to time.
func (s *Store) ExpireLocal(ctx context.Context) (int, error) {
	now := s.o.Now()
	done := 0
	away := map[string]bool{}
	from := []byte{record.TagExpiry}
	names := s.bucketNames()
	for {
		var keys [][]byte
		err := s.db.View(ctx, func(r kv.Reader) error {
			keys = nil
			upper := record.IDKey(record.TagExpiry, uint64(max(0, now.UnixMilli()))+1)
			return unlessStopped(kv.Scan(r, from, upper, func(k, _ []byte) error {
				keys = append(keys, bytes.Clone(k))
				if len(keys) == collectBatch {
					return errStop
				}
				return nil
			}))
		})
		if err != nil || len(keys) == 0 {
			return done, err
		}
		for _, k := range keys {
			ok, err := s.expire(ctx, k, names, now, away)
			if err != nil {
				return done, err
			}
			if ok {
				done++
			}
		}
		from = append(keys[len(keys)-1], 0)
	}
}

// expire frees one local copy, whose note is k; tiers that are away are not asked again.
func (s *Store) expire(ctx context.Context, k []byte, names map[uint64]string, now time.Time, away map[string]bool) (bool, error) {
	_, id, key, order, err := record.ParseExpiryKey(k)
	if err != nil {
		return false, err
	}
	b, err := s.bucket(names[id])
	if err != nil { // and with it all its versions
		return false, s.db.Update(ctx, func(tx kv.Tx) error {
			tx.Delete(k)
			return nil
		})
	}
	ck := record.CurrentKey(id, key)
	var v *stored
	err = s.db.Update(ctx, func(tx kv.Tx) (err error) {
		v, _, err = s.version(tx, b.rec.Load(), key, order, ck)
		if err != nil || v != nil && v.Location != nil && bytes.Equal(record.ExpiryKey(v.Location.LocalUntil, id, key, order), k) {
			return err
		}
		v = nil
		tx.Delete(k) // what it is about is gone, or has another time
		return nil
	}, ck)
	if err != nil || v == nil || away[v.Location.Tier] {
		return false, err
	}
	dropped, err := s.dropLocal(ctx, RefOf(&v.Version), now)
	switch {
	case err == nil:
		return dropped, nil
	case errors.Is(err, ErrMoved), firn.KindOf(err) == firn.NotFound:
		return false, nil // the note goes with what moved it, or with the next look
	case errors.Is(err, ErrTierAway):
		away[v.Location.Tier] = true
		return false, nil
	case firn.KindOf(err) == firn.Corrupt:
		s.log.Error("a local copy stays because the tier does not have the content",
			"bucket", v.Bucket, "key", key, "version", v.ID, "tier", v.Location.Tier, "error", err)
		return false, nil
	}
	return false, err
}
