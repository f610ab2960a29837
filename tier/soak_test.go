package tier

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	pebblevfs "github.com/cockroachdb/pebble/v2/vfs"

	"firn"
	"firn/blob"
	"firn/kv/pebblekv"
	"firn/object"
	"firn/object/check"
	"firn/object/listing"
	"firn/object/record"
	"firn/tier/packed"
	"firn/tier/plain"
	"firn/vfs"
)

var (
	soakSeeds   = flag.String("seeds", "1-3", "seeds of TestSoak")
	soakObjects = flag.Int("objects", 150, "objects that TestSoak begins with")
	soakSteps   = flag.Int("steps", 500, "steps of TestSoak")
)

// truth is what a site must hold.
type truth map[string][]known // by bucket and key, newest last

type known struct {
	id      string
	marker  bool
	content string
	held    bool // by a legal hold
}

func (o truth) clone() truth {
	c := maps.Clone(o)
	for k := range c {
		c[k] = slices.Clone(c[k])
	}
	return c
}

// moment is all there is at some moment.
type moment struct {
	fs    *vfs.MemFS
	tiers []*unruly
	truth truth
}

// soak is a site with two tiers on which anything happens.
type soak struct {
	t     *testing.T
	r     *rand.Rand
	step  int
	now   time.Time
	mem   *vfs.MemFS
	tiers []*unruly
	truth truth
	keys  []string
	seq   int

	set   *Set
	db    *pebblekv.DB
	ns    *object.Store
	mover *Mover

	warned strings.Builder // what the mover logged
	busy   bool            // within something that a tier called back from
	calls  int             // of tiers, until the next thing happens within one
	// packed: the first tier is in the layout repository, which calls its place from several goroutines.
	packed   bool
	contents []*packed.Store
	crashed  *moment // taken within a call

	moved, recalled, restored, cold, expired, refused, crashes, away, changed int
}

func (s *soak) fail(format string, args ...any) {
	s.t.Helper()
	s.t.Fatalf("step %d: %s", s.step, fmt.Sprintf(format, args...))
}

func (s *soak) open() {
	s.t.Helper()
	clock := func() time.Time { return s.now }
	var places []Place
	for _, u := range s.tiers {
		u.before = s.within
		p := Place{Name: u.name, Class: strings.ToUpper(u.name), Store: blob.New(u, "mem:"+u.name)}
		if s.packed && u == s.tiers[0] {
			p.Store = blob.New(&serial{Driver: u}, "mem:"+u.name)
			content := newPacked(p.Store, clock)
			s.contents = []*packed.Store{content}
			p.Content = content
		}
		places = append(places, p)
	}
	var err error
	if s.set, err = NewSet(places, clock); err != nil {
		s.t.Fatal(err)
	}
	if s.db, err = pebblekv.Open(s.mem, "data/kv", pebblekv.Options{}); err != nil {
		s.t.Fatal(err)
	}
	s.ns, err = object.Open(s.t.Context(), s.mem, "data", s.db, object.Options{Now: clock, ReserveBytes: -1, Remote: s.set, InlineMax: 1000})
	if err != nil {
		s.t.Fatal(err)
	}
	s.warned.Reset()
	s.mover = NewMover(s.ns, s.set, Options{Site: "site-1", Parallel: 1, ResumeAbove: 2000, Log: slog.New(slog.NewTextHandler(&s.warned, nil))})
}

func (s *soak) close() {
	if s.ns != nil {
		s.ns.Close() // what matters was synced
		s.db.Close()
		s.ns = nil
		for _, c := range s.contents {
			c.Close() // it only stops
		}
	}
}

// within is called by each call of a tier: now and then something else happens at that very moment.
func (s *soak) within(string, string) {
	if s.busy || s.calls == 0 {
		return
	}
	if s.calls--; s.calls > 0 {
		return
	}
	s.busy = true
	defer func() { s.busy = false }()
	if s.packed || s.r.IntN(3) == 0 {
		s.crashed = s.moment()
		return
	}
	s.changed++
	for range 1 + s.r.IntN(3) {
		s.client()
	}
}

// moment takes what a power loss would leave now.
func (s *soak) moment() *moment {
	percent := []int{0, 50, 100}[s.r.IntN(3)]
	c := s.mem.MemFS.CrashClone(pebblevfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rand.New(rand.NewPCG(s.r.Uint64(), 1))})
	m := &moment{fs: &vfs.MemFS{MemFS: c}, truth: s.truth.clone()}
	for _, u := range s.tiers {
		m.tiers = append(m.tiers, u.clone(s.t))
	}
	return m
}

func (s *soak) restart(m *moment) {
	s.close()
	s.mem, s.tiers, s.truth = m.fs, m.tiers, m.truth
	s.open()
	s.crashes++
}

func (s *soak) random() (bucket, key string) {
	bucket, key, _ = strings.Cut(s.keys[s.r.IntN(len(s.keys))], "/")
	return bucket, key
}

// pick is a version that is there.
func (s *soak) pick() (bucket, key string, v known, ok bool) {
	for range 20 {
		bucket, key = s.random()
		if l := s.truth[bucket+"/"+key]; len(l) > 0 {
			if v = l[s.r.IntN(len(l))]; !v.marker {
				return bucket, key, v, true
			}
		}
	}
	return "", "", v, false
}

// pickMoved is a version on a tier, if a few looks find one: one without a local copy where cold.
func (s *soak) pickMoved(cold bool) (*record.Version, known) {
	for range 50 {
		bucket, key, k, ok := s.pick()
		if !ok {
			break
		}
		v, err := s.ns.Head(s.t.Context(), bucket, key, k.id)
		if err != nil {
			s.fail("head: %v", err)
		}
		if v.Location != nil && !(cold && v.Local()) {
			return v, k
		}
	}
	return nil, known{}
}

func (s *soak) content() string {
	s.seq++
	one := fmt.Sprintf("%d %x. ", s.seq, s.r.Uint64())
	sizes := []int{0, 1, 40, 900, 1001, 5000, 70_000, 140_000}
	if len(s.keys) > 1000 { // all of them are in memory, and several times
		sizes = sizes[:6]
	}
	size := sizes[s.r.IntN(len(sizes))]
	return strings.Repeat(one, size/len(one)+1)[:size]
}

func (s *soak) add(bucket, key string, v known) {
	k := bucket + "/" + key
	if bucket == "plain" {
		s.truth[k] = []known{v}
		return
	}
	s.truth[k] = append(s.truth[k], v)
}

func (s *soak) put(bucket, key string) {
	c, o := s.content(), object.PutOptions{}
	o.Size = int64(len(c))
	o.LegalHold = bucket == "locked" && s.r.IntN(4) == 0
	v, err := s.ns.Put(s.t.Context(), bucket, key, strings.NewReader(c), o)
	if err != nil {
		s.fail("put %s/%s: %v", bucket, key, err)
	}
	s.add(bucket, key, known{id: v.ID, content: c, held: o.LegalHold})
}

// client is what a client does.
func (s *soak) client() {
	ctx := s.t.Context()
	s.now = s.now.Add(time.Millisecond)
	switch s.r.IntN(14) {
	case 0, 1, 2:
		s.put(s.random())
	case 3: // delete, or lay a marker
		bucket, key := s.random()
		res, err := s.ns.Delete(ctx, bucket, key, "", object.DeleteOptions{})
		if err != nil {
			s.fail("delete %s/%s: %v", bucket, key, err)
		}
		if bucket == "plain" {
			delete(s.truth, bucket+"/"+key)
		} else {
			s.add(bucket, key, known{id: res.VersionID, marker: true})
		}
	case 4: // delete a version
		bucket, key, v, ok := s.pick()
		if !ok {
			return
		}
		_, err := s.ns.Delete(ctx, bucket, key, v.id, object.DeleteOptions{})
		if v.held {
			if !errors.Is(err, object.ErrLocked) {
				s.fail("delete of a held version of %s/%s: %v", bucket, key, err)
			}
			return
		}
		if err != nil {
			s.fail("delete %s/%s %s: %v", bucket, key, v.id, err)
		}
		k := bucket + "/" + key
		s.truth[k] = slices.DeleteFunc(slices.Clone(s.truth[k]), func(o known) bool { return o.id == v.id })
	case 5: // lock, unlock, tag
		bucket, key, v, ok := s.pick()
		if !ok {
			return
		}
		hold := bucket == "locked" && !v.held
		_, err := s.ns.UpdateVersion(ctx, bucket, key, v.id, false, func(r *record.Version) error {
			r.LegalHold = hold
			r.Tags = []record.Field{{Name: "step", Value: fmt.Sprint(s.step)}}
			return nil
		})
		if err != nil {
			s.fail("update %s/%s %s: %v", bucket, key, v.id, err)
		}
		for i, o := range s.truth[bucket+"/"+key] {
			if o.id == v.id {
				s.truth[bucket+"/"+key][i].held = hold
			}
		}
	case 6: // copy, to the class that the source has or another
		bucket, key, v, ok := s.pick()
		if !ok {
			return
		}
		to, toKey := s.random()
		n, err := s.ns.Copy(ctx, object.CopySource{Bucket: bucket, Key: key, VersionID: v.id}, to, toKey,
			object.PutOptions{StorageClass: []string{"", "COLD", "WARM"}[s.r.IntN(3)]})
		if err != nil {
			s.trouble("copy", err)
			return
		}
		s.add(to, toKey, known{id: n.ID, content: v.content})
	case 7: // ask for a local copy
		bucket, key, v, ok := s.pick()
		if !ok {
			return
		}
		s.want(bucket, key, v)
	case 8, 9: // the same of what has none
		if v, k := s.pickMoved(true); v != nil {
			s.want(v.Bucket, v.Key, k)
		}
	case 10, 11: // read what is on a tier alone
		if v, k := s.pickMoved(true); v != nil {
			s.read(v.Bucket, v.Key, k)
		}
	default:
		if bucket, key, v, ok := s.pick(); ok {
			s.read(bucket, key, v)
		}
	}
}

func (s *soak) want(bucket, key string, v known) {
	_, err := s.ns.WantLocal(s.t.Context(), bucket, key, v.id, s.now.Add(time.Duration(s.r.IntN(300))*time.Minute))
	if err != nil && !errors.Is(err, object.ErrNotOnTier) {
		s.fail("want %s/%s: %v", bucket, key, err)
	}
}

// trouble holds that an error is one that tells which tier it is, on a day on which tiers make trouble.
func (s *soak) trouble(op string, err error) {
	s.t.Helper()
	s.refused++
	bad := 0
	for _, u := range s.tiers {
		bad += u.wrong
	}
	if bad == 0 {
		s.fail("%s: no tier made trouble, and: %v", op, err)
	}
	// A mark that is read wrong may be that of another site, or of a later version.
	if k := firn.KindOf(err); k != firn.Unavailable && k != firn.Corrupt && !strings.Contains(err.Error(), "open tier") {
		s.fail("%s: %v (%v)", op, err, k)
	}
	if !strings.Contains(err.Error(), "tier cold") && !strings.Contains(err.Error(), "tier warm") {
		s.fail("%s: the error does not name the tier: %v", op, err)
	}
}

// read reads all or a range of a version: it gives the right bytes, or an error that names the tier.
func (s *soak) read(bucket, key string, v known) {
	s.t.Helper()
	ctx := s.t.Context()
	o, err := s.ns.Open(ctx, bucket, key, v.id)
	if err != nil {
		s.fail("open %s/%s %s: %v", bucket, key, v.id, err)
	}
	defer o.Close()
	from, to := 0, len(v.content)
	if s.r.IntN(2) == 0 && to > 0 {
		from = s.r.IntN(to)
		to = from + s.r.IntN(to-from)
	}
	var b strings.Builder
	_, err = o.WriteRange(ctx, &b, int64(from), int64(to-from))
	switch {
	case err != nil:
		s.trouble(fmt.Sprintf("read %s/%s %s", bucket, key, v.id), err)
		if !strings.HasPrefix(v.content[from:], b.String()) {
			s.fail("read %s/%s %s: wrong bytes before the error", bucket, key, v.id)
		}
	case b.String() != v.content[from:to]:
		s.fail("read %s/%s %s: %d wrong bytes of %d", bucket, key, v.id, b.Len(), to-from)
	case !o.Version.Local():
		s.cold++
	}
}

// keeper is what the site does by itself.
func (s *soak) keeper() {
	ctx := s.t.Context()
	if s.r.IntN(3) == 0 {
		s.calls = 1 + s.r.IntN(12)
	}
	defer func() { s.calls = 0 }()
	switch s.r.IntN(14) {
	case 0, 1, 2, 3:
		var list []record.Version
		for range 1 + s.r.IntN(12) {
			bucket, key, k, ok := s.pick()
			if !ok {
				continue
			}
			v, err := s.ns.Head(ctx, bucket, key, k.id)
			if err != nil {
				s.fail("head %s/%s %s: %v", bucket, key, k.id, err)
			}
			if !slices.ContainsFunc(list, func(o record.Version) bool { return object.RefOf(&o) == object.RefOf(v) }) {
				list = append(list, *v)
			}
		}
		var o object.MoveOptions
		if s.r.IntN(3) == 0 {
			o.LocalUntil = s.now.Add(time.Duration(s.r.IntN(300)) * time.Minute)
		}
		for _, err := range s.mover.Move(ctx, s.tiers[s.r.IntN(2)].name, list, o) {
			switch {
			case err == nil:
				s.moved++
			case !errors.Is(err, object.ErrMoved):
				s.trouble("move", err)
			}
		}
	case 4, 8, 9, 10, 11, 12:
		v, _ := s.pickMoved(s.r.IntN(4) > 0)
		if v == nil {
			return
		}
		var o object.RecallOptions
		recall := s.mover.Recall
		switch wanted := v.Location.Wanted; {
		case wanted.After(s.now): // as whoever grants wishes does
			o.Until = wanted
		case s.r.IntN(2) == 0:
			o.Until = s.now.Add(time.Duration(s.r.IntN(300)) * time.Minute)
		default:
			recall = s.mover.Promote
		}
		switch _, err := recall(ctx, object.RefOf(v), o); {
		case err == nil && o.Until.IsZero():
			s.recalled++
		case err == nil:
			s.restored++
		case !errors.Is(err, object.ErrNotOnTier) && !errors.Is(err, object.ErrMoved):
			s.trouble("recall", err)
		}
	case 5:
		v, _ := s.pickMoved(false)
		if v == nil {
			return
		}
		if err := s.ns.DropLocal(ctx, object.RefOf(v)); err != nil && !errors.Is(err, object.ErrNotOnTier) && !errors.Is(err, object.ErrMoved) {
			s.trouble("drop local", err)
		}
	case 6:
		s.now = s.now.Add(time.Duration(s.r.IntN(100)) * time.Minute)
		n, err := s.ns.ExpireLocal(ctx)
		if err != nil {
			s.fail("expire: %v", err)
		}
		s.expired += n
	case 7:
		s.now = s.now.Add(time.Duration(s.r.IntN(100)) * time.Minute)
		_, err := s.mover.Collect(ctx)
		if err == nil {
			err = s.mover.Sweep(ctx)
		}
		if err == nil {
			_, err = s.ns.Collect(ctx)
		}
		if err != nil {
			s.fail("collect: %v", err)
		}
	default:
		if err := s.mover.Follow(ctx); err != nil {
			s.fail("follow: %v", err)
		}
		s.told()
	}
}

// told holds that catalogues that are up to date tell of what is on their tiers, and of no more.
func (s *soak) told() {
	s.t.Helper()
	if s.crashed != nil {
		return
	}
	s.calls = 0 // nothing changes while it is looked at
	for _, u := range s.tiers {
		p := s.set.names[u.name]
		if p.catalogue == nil || p.stale || len(p.doubts) > 0 || p.catalogue.Damaged() || p.catalogue.Journal() != s.ns.JournalTail() {
			continue
		}
		latest := map[change]bool{}
		bad, away := u.bad, u.away
		u.bad, u.away = 0, false
		store, err := p.content.Catalogue(s.t.Context(), false)
		if err != nil {
			s.fail("%v", err)
		}
		err = plain.ReadCatalogue(s.t.Context(), store, func(e plain.Entry) error {
			latest[change{e.Bucket, e.Key, e.Version}] = !e.Removed && e.Blob != ""
			return nil
		})
		u.bad, u.away = bad, away
		if err != nil {
			s.fail("%v", err)
		}
		var told, there []string
		for c, ok := range latest {
			if ok {
				told = append(told, fmt.Sprint(c))
			}
		}
		for k, list := range s.truth {
			bucket, key, _ := strings.Cut(k, "/")
			for _, v := range list {
				id := v.id
				if id == "" {
					id = record.NullID
				}
				if r, err := s.ns.Head(s.t.Context(), bucket, key, id); err == nil && r.Location != nil && r.Location.Tier == u.name {
					there = append(there, fmt.Sprint(change{bucket, key, id}))
				}
			}
		}
		slices.Sort(told)
		slices.Sort(there)
		if !slices.Equal(told, there) {
			s.fail("the catalogue of %s: %s", u.name, diff(told, there))
		}
	}
}

// weather lets tiers be good, bad or away from now on.
func (s *soak) weather() {
	for _, u := range s.tiers {
		u.bad, u.away = 0, false
		switch s.r.IntN(6) {
		case 0:
			u.bad = 0.1
		case 1:
			u.bad = 0.4
		case 2:
			u.away = true
			s.away++
		}
	}
}

func (s *soak) fair() {
	for _, u := range s.tiers {
		u.bad, u.away, u.wrong = 0, false, 0
	}
}

// whole holds that all there must be is there, and looks at each copy from outside.
func (s *soak) whole() {
	s.t.Helper()
	ctx := s.t.Context()
	bad, away := [2]float64{}, [2]bool{}
	for i, u := range s.tiers {
		bad[i], away[i] = u.bad, u.away
		u.bad, u.away = 0, false
	}
	for _, k := range slices.Sorted(maps.Keys(s.truth)) {
		bucket, key, _ := strings.Cut(k, "/")
		for _, want := range s.truth[k] {
			if want.marker {
				continue
			}
			v, err := s.ns.Head(ctx, bucket, key, want.id)
			if err != nil {
				s.fail("head %s %s: %v", k, want.id, err)
			}
			if v.Local() {
				for _, u := range s.tiers {
					u.away = true
				}
			} else if l := v.Location; s.onTier(l) != want.content {
				s.fail("%s %s: its only copy, %s on tier %s, is another one", k, want.id, l.Key, l.Tier)
			}
			o, err := s.ns.Open(ctx, bucket, key, want.id)
			if err != nil {
				s.fail("open %s %s: %v", k, want.id, err)
			}
			var b strings.Builder
			if _, err := o.WriteRange(ctx, &b, 0, o.Version.Size); err != nil || b.String() != want.content {
				s.fail("%s %s, local %v: %d bytes of %d, %v", k, want.id, v.Local(), b.Len(), len(want.content), err)
			}
			o.Close()
			for _, u := range s.tiers {
				u.away = false
			}
		}
	}
	for i, u := range s.tiers {
		u.bad, u.away = bad[i], away[i]
	}
}

// onTier is what a tier has of a version: in the layout plain right from its place.
func (s *soak) onTier(l *record.Location) string {
	u := s.tier(l.Tier)
	if !s.packed || u != s.tiers[0] {
		return string(u.content(l.Key))
	}
	r, err := s.set.Open(s.t.Context(), l.Tier, l.Key, 0, -1)
	if err != nil {
		s.fail("%s: %v", l.Key, err)
	}
	defer r.Close()
	p, err := io.ReadAll(r)
	if err != nil {
		s.fail("%s: %v", l.Key, err)
	}
	return string(p)
}

func (s *soak) tier(name string) *unruly {
	return s.tiers[slices.IndexFunc(s.tiers, func(u *unruly) bool { return u.name == name })]
}

// listed holds that the versions and markers are those there must be, in their order.
func (s *soak) listed() {
	s.t.Helper()
	var got, want []string
	for _, b := range soakBuckets {
		lo := listing.Options{Limit: object.MaxList}
		for {
			l, err := s.ns.ListVersions(s.t.Context(), b, lo)
			if err != nil {
				s.fail("list: %v", err)
			}
			for _, v := range l.Versions {
				got = append(got, fmt.Sprint(b, "/", v.Key, " ", v.ID, " ", v.DeleteMarker, " ", v.Size))
			}
			if !l.Truncated {
				break
			}
			lo.After, lo.VersionAfter = l.NextKey, l.NextVersion
		}
	}
	for _, k := range slices.Sorted(maps.Keys(s.truth)) {
		for _, v := range slices.Backward(s.truth[k]) {
			id := v.id
			if id == "" {
				id = record.NullID
			}
			want = append(want, fmt.Sprint(k, " ", id, " ", v.marker, " ", len(v.content)))
		}
	}
	if !slices.Equal(got, want) {
		s.fail("%s", diff(got, want))
	}
}

func diff(got, want []string) string {
	without := func(a, b []string) string {
		return strings.Join(slices.DeleteFunc(slices.Clone(a), func(l string) bool { return slices.Contains(b, l) }), "\n")
	}
	return fmt.Sprintf("too much:\n%s\nmissing:\n%s\nelse in another order", without(got, want), without(want, got))
}

var soakBuckets = []string{"locked", "plain", "versions"}

// end holds that all work is done once tiers are good, that nothing is left on them, and that a lost site comes back.
func (s *soak) end() {
	s.t.Helper()
	ctx := s.t.Context()
	s.fair()
	s.restart(s.moment())
	s.whole()
	s.listed()
	for range 5 { // in three days nobody asks for what was begun, and what that frees goes after that
		s.now = s.now.Add(24 * time.Hour)
		if _, err := s.ns.ExpireLocal(ctx); err != nil {
			s.fail("expire: %v", err)
		}
		if err := s.mover.Follow(ctx); err != nil {
			s.fail("follow: %v", err)
		}
		if _, err := s.mover.Collect(ctx); err != nil {
			s.fail("collect: %v", err)
		}
		if err := s.mover.Sweep(ctx); err != nil {
			s.fail("sweep: %v", err)
		}
	}
	if _, err := s.ns.Collect(ctx); err != nil {
		s.fail("collect: %v", err)
	}
	if s.warned.Len() > 0 {
		s.fail("in good weather: %s", s.warned.String())
	}
	s.whole()
	sum, err := s.ns.Check(ctx, check.Options{Read: true, Tiers: true}, func(p check.Problem) error { s.fail("check: %+v", p); return nil })
	if err != nil || sum.Problems > 0 {
		s.fail("check: %+v, %v", sum, err)
	}
	for _, u := range s.tiers {
		var have, want []string
		for info, err := range blob.New(u, "mem:").List(ctx, "objects/") {
			if err != nil {
				s.t.Fatal(err)
			}
			have = append(have, info.Key)
		}
		if s.packed && u == s.tiers[0] {
			have = packedNames(s.t, blob.New(&serial{Driver: u}, "mem:"))
		}
		for after := ""; ; {
			list, err := s.ns.TierBlobs(ctx, u.name, after)
			if err != nil {
				s.t.Fatal(err)
			}
			if len(list) == 0 {
				break
			}
			for _, b := range list {
				if b.State != record.TierUsed {
					s.fail("%s on %s is left in state %v", b.Key, u.name, b.State)
				}
				want = append(want, b.Key)
				after = b.Key
			}
		}
		if !slices.Equal(have, want) {
			s.fail("tier %s: %s", u.name, diff(have, want))
		}
		if len(u.kept) > 0 {
			s.fail("tier %s: unfinished: %q", u.name, slices.Sorted(maps.Keys(u.kept)))
		}
	}
	if b := s.mover.Backlog(); b[0].Entries+b[1].Entries != 0 || b[0].Begun != (Begun{}) || b[1].Begun != (Begun{}) || b[0].Moves != (Waiting{}) || b[1].Recalls != (Waiting{}) {
		s.fail("at the end something waits: %+v", b)
	}
	s.rebuild()
}

// rebuild makes the site again from its tiers, and compares.
func (s *soak) rebuild() {
	s.t.Helper()
	ctx := s.t.Context()
	n := &soak{t: s.t, r: s.r, packed: s.packed, step: s.step, now: s.now.Add(time.Hour), mem: vfs.NewCrashableMem(), truth: truth{}}
	for _, u := range s.tiers {
		n.tiers = append(n.tiers, u.clone(s.t))
	}
	n.open()
	defer n.close()
	for _, u := range n.tiers {
		if _, err := n.mover.Rebuild(ctx, u.name, RebuildOptions{Failed: func(bucket, key, version string, err error) {
			s.fail("rebuild %s/%s %s: %v", bucket, key, version, err)
		}}); err != nil {
			s.fail("rebuild: %v", err)
		}
	}
	// What had its bytes here and nowhere else is lost with the site.
	for k, list := range s.truth {
		bucket, key, _ := strings.Cut(k, "/")
		for _, v := range list {
			if !v.marker {
				was, err := s.ns.Head(ctx, bucket, key, v.id)
				if err != nil {
					s.t.Fatal(err)
				}
				if was.Location == nil {
					continue
				}
				now, err := n.ns.Head(ctx, bucket, key, v.id)
				if err != nil || fmt.Sprint(now.Tags, now.LegalHold, now.ETag, now.Modified) != fmt.Sprint(was.Tags, was.LegalHold, was.ETag, was.Modified) {
					s.fail("rebuilt %s %s: %+v, %v; was %+v", k, v.id, now, err, was)
				}
			}
			n.truth[k] = append(n.truth[k], v)
		}
	}
	n.listed()
	n.whole()
}

// TestSoak does anything to a site and lets anything happen to it and to its tiers, which changes nothing of what it holds.
// A seed that failed does it again; long runs are made with
//
//	go test ./tier -run TestSoak -seeds 100-110 -objects 10000 -steps 40000 -timeout 4h
func TestSoak(t *testing.T) {
	var first, last uint64
	if _, err := fmt.Sscanf(*soakSeeds, "%d-%d", &first, &last); err != nil {
		t.Fatalf("-seeds %s: want a range such as 4-300: %v", *soakSeeds, err)
	}
	layouts(t, func(t *testing.T, layout string) {
		step := uint64(1)
		if layout == "repository" {
			step = 3 // it takes longer
		}
		for seed := first; seed <= last; seed += step {
			t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) { runSoak(t, seed, layout == "repository") })
		}
	})
}

func runSoak(t *testing.T, seed uint64, packed bool) {
	r := rand.New(rand.NewPCG(seed, 5))
	s := &soak{
		t: t, r: r, now: time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC), mem: vfs.NewCrashableMem(), truth: truth{},
		tiers: []*unruly{newUnruly("cold", r), newUnruly("warm", r)}, packed: packed,
	}
	if packed {
		s.tiers[0].r = rand.New(rand.NewPCG(seed, 6)) // it is called from several goroutines, and is its own
	}
	s.open()
	defer func() { s.close() }()
	for _, b := range soakBuckets {
		_, err := s.ns.CreateBucket(t.Context(), b, object.BucketOptions{ObjectLock: b == "locked"})
		if err == nil && b == "versions" {
			_, err = s.ns.UpdateBucket(t.Context(), b, func(b *record.Bucket) error { b.Versioning = record.VersioningEnabled; return nil })
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range *soakObjects {
		s.now = s.now.Add(time.Millisecond)
		bucket, key := soakBuckets[r.IntN(3)], fmt.Sprintf("%s%d", []string{"", "dir/", "é/%~"}[i%3], i)
		s.keys = append(s.keys, bucket+"/"+key)
		s.put(bucket, key)
	}
	for s.step = 1; s.step <= *soakSteps; s.step++ {
		if r.IntN(40) == 0 {
			s.weather()
		}
		if r.IntN(2) == 0 {
			s.client()
		} else {
			s.keeper()
		}
		switch {
		case s.crashed != nil:
			s.restart(s.crashed)
			s.crashed = nil
			s.listed()
		case r.IntN(200) == 0:
			s.restart(s.moment())
		}
		if r.IntN(max(60, *soakSteps/200)) == 0 {
			s.whole()
			s.listed()
		}
	}
	s.end()
	t.Logf("seed %d: %d moves, %d copies that went on, %d recalls for good, %d for a time, %d copies were over, %d reads of tiers, %d refused, %d crashes, %d times away, %d times changed meanwhile",
		seed, s.moved, s.tiers[0].wentOn+s.tiers[1].wentOn, s.recalled, s.restored, s.expired, s.cold, s.refused, s.crashes, s.away, s.changed)
}
