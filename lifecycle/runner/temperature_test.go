package runner

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/blob/memblob"
	"firn/lifecycle"
	"firn/lifecycle/usekv"
	"firn/object"
	"firn/object/envelope"
	"firn/object/listing"
	"firn/object/record"
	"firn/object/remote"
	"firn/seal"
	"firn/tier"
)

const hour = time.Hour

// away is a place that can be away.
type away struct {
	driver.Driver
	gone bool
	get  func(ctx context.Context) error // called first where it is set
}

func (a *away) Put(ctx context.Context, key string, src driver.Source) error {
	if a.gone {
		return firn.NewError(firn.Unavailable, "no route to host")
	}
	return a.Driver.Put(ctx, key, src)
}

func (a *away) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if a.gone {
		return nil, firn.NewError(firn.Unavailable, "no route to host")
	}
	if a.get != nil {
		if err := a.get(ctx); err != nil {
			return nil, err
		}
	}
	return a.Driver.Get(ctx, key, offset, length)
}

// tiered is a site with the tiers WARM and COLD.
type tiered struct {
	*site
	set    *tier.Set
	mover  *tier.Mover
	uses   *usekv.Store
	cold   *away
	before func(class string, v *record.Version) // called for each version before it moves
	mu     sync.Mutex                            // guards moves: different tiers move side by side
	moves  []string
}

func (x *tiered) moved(key, class string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.moves = append(x.moves, key+" "+class)
}

func newTiered(t *testing.T) *tiered {
	x := &tiered{cold: &away{Driver: memblob.New(memblob.Options{})}}
	x.site = newSiteOn(t, func(now func() time.Time) remote.Tiers {
		var err error
		x.set, err = tier.NewSet([]tier.Place{
			{Name: "warm", Class: "WARM", Store: blob.New(memblob.New(memblob.Options{}), "mem:warm"), KeepLocal: 0},
			{Name: "cold", Class: "COLD", Store: blob.New(x.cold, "mem:cold")},
		}, now)
		if err != nil {
			t.Fatal(err)
		}
		return x.set
	})
	x.mover = tier.NewMover(x.Store, x.set, tier.Options{Site: "here"})
	x.uses = usekv.New(x.db)
	return x
}

func (x *tiered) runner(placements ...lifecycle.Placement) *Runner {
	return x.site.runner(Options{
		Classes: x.set.Classes(), Placements: placements, Uses: x.uses,
		Recall: func(ctx context.Context, ref object.Ref, o object.RecallOptions) (*record.Version, error) {
			v, err := x.mover.Recall(ctx, ref, o)
			if err == nil {
				x.moved(ref.Key, object.StandardClass)
			}
			return v, err
		},
		Move: func(ctx context.Context, class string, list []record.Version, o object.MoveOptions) []error {
			if x.before != nil {
				for i := range list {
					x.before(class, &list[i])
				}
			}
			errs := x.mover.Move(ctx, x.set.OfClass(class), list, o)
			for i, err := range errs {
				if err == nil {
					x.moved(list[i].Key, class)
				}
			}
			return errs
		},
	})
}

// read reads an object n times, and checks its bytes.
func (x *tiered) read(r *Runner, bucket, key, content string, n uint64) {
	x.t.Helper()
	o, err := x.Open(x.t.Context(), bucket, key, "")
	if err != nil {
		x.t.Fatal(err)
	}
	defer o.Close()
	var b bytes.Buffer
	if _, err := o.WriteRange(x.t.Context(), &b, 0, o.Version.Size); err != nil || b.String() != content {
		x.t.Fatalf("%s: %q, %v", key, b.String(), err)
	}
	v := o.Version
	list, err := x.Buckets(x.t.Context())
	if err != nil {
		x.t.Fatal(err)
	}
	i := slices.IndexFunc(list, func(b *record.Bucket) bool { return b.Name == bucket })
	var u lifecycle.Use
	u.Read(n, x.now)
	uses := map[string]lifecycle.Use{usekv.ID(list[i].ID, key, record.MakeOrder(v.Clock, v.Site)): u}
	if err := x.uses.Add(x.t.Context(), uses, func(bucket uint64, key string, sum lifecycle.Use) {
		if sum.Within(2*lifecycle.Day, x.now) >= 3 {
			r.Touch(bucket, key)
		}
	}); err != nil {
		x.t.Fatal(err)
	}
}

func (x *tiered) class(bucket, key string) string {
	x.t.Helper()
	v, err := x.Head(x.t.Context(), bucket, key, "")
	if err != nil {
		x.t.Fatal(err)
	}
	where := "STANDARD"
	if v.Location != nil {
		where = strings.ToUpper(v.Location.Tier)
	}
	if v.StorageClass != strings.TrimPrefix(where, "STANDARD") {
		x.t.Errorf("%s has class %q and is in %s", key, v.StorageClass, where)
	}
	return where
}

func placement(warm, cold string) lifecycle.Placement {
	return lifecycle.Placement{Name: "t", Rules: lifecycle.DefaultTemperatureRules(), Warm: warm, Cold: cold}
}

// TestDownAndBack: over three months objects walk down three tiers by their age and use, and up again when they are read
// repeatedly; nothing moves twice within its minimum stay, and each read gives the right bytes all along.
func TestDownAndBack(t *testing.T) {
	x := newTiered(t)
	x.bucket("bkt", "", record.VersioningOff)
	content := map[string]string{}
	for _, key := range []string{"daily", "never", "weekly"} {
		content[key] = strings.Repeat(key+" ", 100)
		x.put("bkt", key, content[key], object.PutOptions{})
	}
	r := x.runner(placement("WARM", "COLD"))
	begin := x.now
	last := map[string]time.Time{} // of each key's moves
	var all []string
	scanned := int64(0)
	for at := time.Duration(0); at < 90*lifecycle.Day; at += 6 * hour {
		x.now = begin.Add(at)
		day := int(at / lifecycle.Day)
		if at%lifecycle.Day == 12*hour {
			switch {
			case day < 20:
				x.read(r, "bkt", "daily", content["daily"], 1)
			case day == 60:
				x.read(r, "bkt", "daily", content["daily"], 3)
				x.read(r, "bkt", "never", content["never"], 1) // once is not enough
			}
			if day%7 == 0 && day < 30 {
				x.read(r, "bkt", "weekly", content["weekly"], 1)
			}
		}
		res := x.pass(r, PassOptions{Due: true})
		if res.Failed+res.Changed != 0 || len(res.Waiting) != 0 {
			t.Fatalf("day %d: %+v", day, res)
		}
		scanned += res.Scanned
		for _, m := range x.moves {
			key, _, _ := strings.Cut(m, " ")
			if since := x.now.Sub(last[key]); !last[key].IsZero() && since < lifecycle.Day {
				t.Errorf("%s on day %d, %s after it moved", m, day, since)
			}
			last[key] = x.now
			all = append(all, fmt.Sprintf("%d %s", day, m))
		}
		x.moves = nil
	}
	want := []string{
		"3 never COLD", "3 daily WARM", "3 weekly WARM",
		"26 daily COLD", "35 weekly COLD", "60 daily WARM", "67 daily COLD",
	}
	slices.Sort(all)
	slices.Sort(want)
	if !slices.Equal(all, want) {
		t.Errorf("moves %q", all)
	}
	// A walk over everything at each of 360 passes would have looked at 1080.
	if scanned > 200 {
		t.Errorf("looked at %d versions", scanned)
	}
	for key := range content {
		x.read(r, "bkt", key, content[key], 1)
	}
}

// TestComesHome: with one tier below the disk what is read again comes back to the disk, and a pin brings all back.
func TestComesHome(t *testing.T) {
	x := newTiered(t)
	x.bucket("bkt", "", record.VersioningOff)
	x.put("bkt", "k", "content", object.PutOptions{})
	r := x.runner(placement("", "COLD"))
	step := func(d time.Duration, want string) {
		t.Helper()
		x.now = x.now.Add(d)
		x.pass(r, PassOptions{Due: true})
		if got := x.class("bkt", "k"); got != want {
			t.Fatalf("%s later it is in %s, want %s", d, got, want)
		}
	}
	step(2*lifecycle.Day, "STANDARD")
	step(lifecycle.Day, "COLD")
	x.read(r, "bkt", "k", "content", 3)
	step(hour, "COLD") // its minimum stay
	step(lifecycle.Day, "STANDARD")
	step(5*lifecycle.Day, "STANDARD") // it was read within 7 days
	step(lifecycle.Day, "COLD")
	d, err := r.Explain(t.Context(), "bkt", "k", "", time.Time{})
	if err != nil || d.Action != lifecycle.Keep || !strings.Contains(d.Reason, `temperature rule "t": stays: cold: written 10 days ago`) {
		t.Errorf("%+v, %v", d, err)
	}
	pin := placement("", "COLD")
	pin.Pinned = true
	r = x.runner(pin)
	step(0, "STANDARD")
	x.read(r, "bkt", "k", "content", 1)
}

// TestRecallsSideBySide: as many versions come back from a tier at once as were set and no more, whatever another tier does.
func TestRecallsSideBySide(t *testing.T) {
	const parallel, n = 4, 10
	x := newTiered(t)
	x.bucket("bkt", "", record.VersioningOff)
	big := strings.Repeat("x", object.InlineMax+1)
	r := x.runner(placement("", "COLD"))
	for i := range n {
		x.put("bkt", fmt.Sprint(i), big, object.PutOptions{})
	}
	x.now = x.now.Add(10 * lifecycle.Day)
	x.pass(r, PassOptions{Due: true})
	pin := placement("", "COLD")
	pin.Pinned = true
	r = x.runner(pin)
	r.opt.Parallel = parallel
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var mu sync.Mutex
	var inside, most int
	full := make(chan struct{})
	x.cold.get = func(context.Context) error {
		mu.Lock()
		if inside++; inside == parallel && most < parallel {
			close(full)
		}
		most = max(most, inside)
		mu.Unlock()
		defer func() {
			mu.Lock()
			inside--
			mu.Unlock()
		}()
		select { // nobody goes before as many came as may
		case <-full:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	res, err := r.Pass(ctx, PassOptions{Due: true})
	if err != nil || res.Failed+res.Changed != 0 || most != parallel {
		t.Errorf("%d at once, %+v, %v", most, res, err)
	}
	for i := range n {
		if got := x.class("bkt", fmt.Sprint(i)); got != "STANDARD" {
			t.Errorf("%d is in %s", i, got)
		}
	}

	// A tier that is away is not asked for each version.
	x.now = x.now.Add(10 * lifecycle.Day)
	r = x.runner(placement("", "COLD"))
	x.pass(r, PassOptions{Due: true})
	asked := 0
	x.cold.get = func(context.Context) error {
		mu.Lock()
		asked++
		mu.Unlock()
		return firn.NewError(firn.Unavailable, "no route to host")
	}
	r = x.runner(pin)
	r.opt.Parallel = parallel
	if res, err = r.Pass(ctx, PassOptions{Due: true}); err != nil || res.Waiting["STANDARD"].Objects != n || asked > parallel {
		t.Errorf("asked %d times; %+v, %v", asked, res, err)
	}
}

// TestBatches: a batch ends with its bytes, but holds as many versions as are copied at once.
func TestBatches(t *testing.T) {
	x := newTiered(t)
	r := x.runner()
	var sizes []int
	m := r.newMoves(t.Context(), &PassOptions{Report: func(Item) {}}, &Result{Began: x.now, Waiting: map[string]Backlog{}})
	m.move = func(_ context.Context, _ string, list []record.Version, _ object.MoveOptions) []error {
		sizes = append(sizes, len(list))
		return make([]error, len(list))
	}
	add := func(n int, size int64) {
		for range n {
			m.add(&record.Version{Size: size}, Item{Decision: lifecycle.Decision{Action: lifecycle.Move, Class: "COLD"}})
		}
	}
	add(6, 1<<30)
	add(moveObjects, 1)
	add(10, moveBytes/8)
	m.end()
	if want := []int{4, 2 + 2, moveObjects, 8}; !slices.Equal(sizes, want) {
		t.Errorf("batches of %v, want %v", sizes, want)
	}
}

// TestPinByTag: a tag brings an object back and holds it, and lets go of it when it is taken off.
func TestPinByTag(t *testing.T) {
	x := newTiered(t)
	x.bucket("bkt", "", record.VersioningOff)
	x.put("bkt", "k", "content", object.PutOptions{})
	x.put("bkt", "other", "content", object.PutOptions{})
	pin := placement("", "COLD")
	pin.Name, pin.Pinned, pin.Filter.Tags = "pin", true, []lifecycle.Tag{{Name: "keep", Value: "local"}}
	r := x.runner(placement("", "COLD"), pin)
	for i, c := range []struct {
		tags []record.Field
		want string
	}{
		{nil, "COLD"},
		{[]record.Field{{Name: "keep", Value: "local"}}, "STANDARD"},
		{[]record.Field{{Name: "keep", Value: "not"}}, "COLD"},
	} {
		if _, err := x.UpdateVersion(t.Context(), "bkt", "k", "", false, func(v *record.Version) error {
			v.Tags = c.tags
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		x.now = x.now.Add(4 * lifecycle.Day)
		x.pass(r, PassOptions{Due: true})
		if got := x.class("bkt", "k"); got != c.want {
			t.Errorf("%d: it is in %s, want %s", i, got, c.want)
		}
		if got := x.class("bkt", "other"); got != "COLD" {
			t.Errorf("%d: the other one is in %s", i, got)
		}
	}
}

// TestTransitions carries S3's transitions out on real tiers: of current and noncurrent versions, by tags and sizes, of
// locked ones too, of encrypted or not, and of what is replaced while it is copied.
func TestTransitions(t *testing.T) {
	x := newTiered(t)
	rule := func(id, filter, what string) string {
		return "<Rule><ID>" + id + "</ID><Status>Enabled</Status><Filter>" + filter + "</Filter>" + what + "</Rule>"
	}
	transition := func(days int, class string) string {
		return fmt.Sprintf("<Transition><Days>%d</Days><StorageClass>%s</StorageClass></Transition>", days, class)
	}
	rules := rule("cool", "<Prefix>cool/</Prefix>", transition(5, "WARM")+transition(30, "COLD")) +
		rule("tag", "<Tag><Key>to</Key><Value>cold</Value></Tag>", transition(1, "COLD")) +
		rule("size", "<And><Prefix>size/</Prefix><ObjectSizeGreaterThan>10</ObjectSizeGreaterThan></And>", transition(1, "COLD")) +
		rule("date", "<Prefix>date/</Prefix>", "<Transition><Date>2026-02-01T00:00:00Z</Date><StorageClass>WARM</StorageClass></Transition>") +
		rule("old", "<Prefix>old/</Prefix>", `<NoncurrentVersionTransition><NoncurrentDays>3</NoncurrentDays>
			<NewerNoncurrentVersions>1</NewerNoncurrentVersions><StorageClass>COLD</StorageClass></NoncurrentVersionTransition>
			<NoncurrentVersionExpiration><NoncurrentDays>60</NoncurrentDays></NoncurrentVersionExpiration>`)
	if _, err := x.CreateBucket(t.Context(), "bkt", object.BucketOptions{ObjectLock: true, Config: map[string][]byte{
		confRules: []byte("<LifecycleConfiguration>" + rules + "</LifecycleConfiguration>"), confMinimum: []byte(lifecycle.MinimumNone),
	}}); err != nil {
		t.Fatal(err)
	}
	until := x.now.Add(365 * lifecycle.Day)
	x.put("bkt", "cool/a", "content of a", object.PutOptions{})
	x.put("bkt", "cool/locked", "content of locked", object.PutOptions{Retention: record.Retention{Mode: record.RetentionCompliance, Until: until}, LegalHold: true})
	x.put("bkt", "tag", "tagged", object.PutOptions{Tags: []record.Field{{Name: "to", Value: "cold"}}})
	x.put("bkt", "untagged", "not tagged", object.PutOptions{Tags: []record.Field{{Name: "to", Value: "warm"}}})
	x.put("bkt", "size/small", "small", object.PutOptions{})
	x.put("bkt", "size/large", strings.Repeat("large", 20_000), object.PutOptions{})
	x.put("bkt", "date/a", "dated", object.PutOptions{})
	key := &seal.Key{1, 2, 3}
	x.put("bkt", "size/sealed", strings.Repeat("sealed", 20_000), object.PutOptions{
		DataKey: key, Encryption: envelope.New(envelope.Encryption{Method: envelope.Customer, Wrapped: []byte("wrapped")}),
	})
	for i := range 3 {
		x.put("bkt", "old/a", strings.Repeat("x", i+1), object.PutOptions{})
		x.now = x.now.Add(time.Minute)
	}
	if _, err := x.Delete(t.Context(), "bkt", "old/a", "", object.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	r := x.runner()
	begin := x.now
	on := func(days int, want ...string) {
		t.Helper()
		x.now = begin.Add(time.Duration(days) * lifecycle.Day)
		x.moves = nil
		res := x.pass(r, PassOptions{Due: true})
		if res.Failed+res.Changed != 0 {
			t.Errorf("day %d: %+v", days, res)
		}
		slices.Sort(x.moves)
		if !slices.Equal(x.moves, want) {
			t.Errorf("day %d: moved %q, want %q", days, x.moves, want)
		}
	}
	on(0)
	on(2, "size/large COLD", "size/sealed COLD", "tag COLD")
	o, err := x.Open(t.Context(), "bkt", "size/sealed", "")
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	var b bytes.Buffer
	if err := o.Unlock(key); err != nil {
		t.Fatal(err)
	}
	if _, err := o.WriteRange(t.Context(), &b, 0, o.Version.Size); err != nil || b.String() != strings.Repeat("sealed", 20_000) {
		t.Errorf("%d bytes of what is encrypted, %v", b.Len(), err)
	}
	on(4, "old/a COLD", "old/a COLD") // the newest noncurrent one stays
	on(6, "cool/a WARM", "cool/locked WARM")
	on(30)
	on(31, "cool/a COLD", "cool/locked COLD", "date/a WARM")
	for key, want := range map[string]string{"cool/locked": "content of locked", "size/large": strings.Repeat("large", 20_000), "date/a": "dated"} {
		x.read(r, "bkt", key, want, 1)
	}
	if _, err := x.Delete(t.Context(), "bkt", "cool/locked", x.ids["cool/locked content of locked"], object.DeleteOptions{BypassGovernance: true}); !errors.Is(err, object.ErrLocked) {
		t.Errorf("a locked version on a tier: %v", err)
	}
	l, err := x.ListVersions(t.Context(), "bkt", listing.Options{Prefix: "old/a", Limit: 10})
	if err != nil || len(l.Versions) != 4 {
		t.Fatalf("%+v, %v", l, err)
	}
	on(62)
	if got := x.listed("bkt"); slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, "old/a ") && s != "old/a marker" }) {
		t.Errorf("listed %q", got)
	}
}

// TestReplacedWhileMoving: what is written or removed while an old version is copied is not touched.
func TestReplacedWhileMoving(t *testing.T) {
	x := newTiered(t)
	x.bucket("bkt", `<Rule><ID>cool</ID><Status>Enabled</Status><Filter/><Transition><Days>1</Days><StorageClass>COLD</StorageClass></Transition></Rule>`, record.VersioningOff)
	for _, key := range []string{"removed", "replaced", "stays"} {
		x.put("bkt", key, "old", object.PutOptions{})
	}
	x.before = func(_ string, v *record.Version) {
		switch v.Key {
		case "replaced":
			x.put("bkt", "replaced", "newer", object.PutOptions{})
		case "removed":
			if _, err := x.Delete(t.Context(), "bkt", "removed", "", object.DeleteOptions{}); err != nil {
				t.Error(err)
			}
		}
	}
	x.now = x.now.Add(3 * lifecycle.Day)
	r := x.runner()
	if res := x.pass(r, PassOptions{Due: true}); res.Changed != 2 || res.Failed != 0 || len(res.Tally) != 1 {
		t.Errorf("%+v", res)
	}
	x.before = nil
	x.read(r, "bkt", "replaced", "newer", 1)
	x.read(r, "bkt", "stays", "old", 1)
	if x.class("bkt", "replaced") != "STANDARD" || x.class("bkt", "stays") != "COLD" {
		t.Error("the wrong one moved")
	}
	if res := x.pass(r, PassOptions{Due: true}); res.Failed+res.Changed != 0 || res.Tally != nil {
		t.Errorf("%+v", res)
	}
	x.now = x.now.Add(3 * lifecycle.Day)
	x.pass(r, PassOptions{Due: true})
	if x.class("bkt", "replaced") != "COLD" {
		t.Error("the newer one did not follow")
	}
}

// TestBacklogOfATierAway: what waits is counted with its age, is not tried one by one, and goes once the tier is back.
func TestBacklogOfATierAway(t *testing.T) {
	x := newTiered(t)
	x.bucket("bkt", "", record.VersioningOff)
	for i := range 3 * moveObjects {
		x.put("bkt", fmt.Sprintf("%04d", i), "x", object.PutOptions{})
	}
	p := placement("", "COLD")
	r := x.runner(p)
	x.pass(r, PassOptions{Due: true})
	due := x.now.Add(p.Rules.HotAge).Truncate(time.Millisecond)
	x.cold.gone = true
	batches := 0
	x.before = func(_ string, v *record.Version) {
		if v.Key == "0000" || v.Key == fmt.Sprintf("%04d", moveObjects) {
			batches++
		}
	}
	x.now = x.now.Add(4 * lifecycle.Day)
	since := x.now
	for range 2 {
		res := x.pass(r, PassOptions{Due: true})
		w := res.Waiting["COLD"]
		if w.Objects != 3*moveObjects || w.Bytes != 3*moveObjects || w.Oldest.Sub(due).Abs() > time.Second || !w.Since.Equal(since) ||
			!strings.Contains(w.Why, "no route") {
			t.Errorf("%+v, due %s", res, due)
		}
		x.now = x.now.Add(hour)
	}
	if batches != 2 {
		t.Errorf("a tier that is away was tried with %d batches in 2 passes", batches)
	}
	x.cold.gone = false
	if res := x.pass(r, PassOptions{Due: true}); len(res.Waiting) != 0 || res.Tally[tallied("bkt", "t", lifecycle.Move)].Objects != 3*moveObjects {
		t.Errorf("%+v", res)
	}
	x.cold.gone = true
	x.put("bkt", "later", "x", object.PutOptions{})
	x.now = x.now.Add(4 * lifecycle.Day)
	if w := x.pass(r, PassOptions{Due: true}).Waiting["COLD"]; w.Objects != 1 || !w.Since.Equal(x.now) {
		t.Errorf("away anew: %+v", w)
	}
}

// TestSlowTier: a backlog on a slow tier does not keep a pass, and goes on with the next.
func TestSlowTier(t *testing.T) {
	x := newTiered(t)
	x.bucket("bkt", expireLogs, record.VersioningOff)
	const n = 4*moveObjects + 1
	for i := range n {
		x.put("bkt", fmt.Sprintf("%04d", i), "x", object.PutOptions{})
	}
	x.put("bkt", "logs/a", "x", object.PutOptions{})
	x.now = x.now.Add(5 * lifecycle.Day)
	r := x.runner(placement("", "COLD"))
	move := r.opt.Move
	var mu sync.Mutex // the clock is read by the walk while a batch goes on
	late := 0 * time.Second
	r.opt.Now = func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		return x.now.Add(late)
	}
	r.opt.Move = func(ctx context.Context, class string, list []record.Version, o object.MoveOptions) []error {
		mu.Lock()
		late += 4 * time.Minute
		mu.Unlock()
		return move(ctx, class, list, o)
	}
	moved := int64(0)
	for pass := 0; ; pass++ {
		mu.Lock()
		x.now, late = x.now.Add(late), 0
		mu.Unlock()
		res := x.pass(r, PassOptions{Due: true})
		moved += res.Tally[tallied("bkt", "t", lifecycle.Move)].Objects
		if pass == 0 && (res.Tally[tallied("bkt", "logs", lifecycle.Remove)].Objects != 1 || !res.More) {
			t.Errorf("%+v", res)
		}
		if w := res.Waiting["COLD"]; w.Objects != n-moved || (w.Objects > 0) != res.More || res.Failed+res.Changed > 0 {
			t.Errorf("pass %d: %+v, %d moved", pass, res, moved)
		}
		if !res.More {
			break
		}
		if pass > 4 {
			t.Fatal("it does not end")
		}
	}
	if moved != n {
		t.Errorf("%d moved", moved)
	}
}

// TestDueSeesAll: over random weeks of writes, deletes, tags and reads passes over what is due do what passes over all
// versions do, and look at far fewer.
func TestDueSeesAll(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	x := newTiered(t)
	rules := `<Rule><ID>end</ID><Status>Enabled</Status><Filter><Prefix>02</Prefix></Filter><Expiration><Days>9</Days></Expiration></Rule>
		<Rule><ID>old</ID><Status>Enabled</Status><Filter/><NoncurrentVersionExpiration><NoncurrentDays>2</NoncurrentDays></NoncurrentVersionExpiration></Rule>
		<Rule><ID>tag</ID><Status>Enabled</Status><Filter><Tag><Key>t</Key><Value>1</Value></Tag></Filter><Expiration><Days>4</Days></Expiration></Rule>`
	x.bucket("bkt", rules, record.VersioningEnabled)
	r := x.runner(placement("WARM", "COLD"))
	r.perSpan = 25
	for i := range 1000 {
		x.put("bkt", fmt.Sprintf("%04d", i), "x", object.PutOptions{})
	}
	begin := x.now
	var looked, all int64
	for at := time.Duration(0); at < 16*lifecycle.Day; at += 12 * hour {
		x.now = begin.Add(at)
		for range rnd.IntN(5) {
			key := fmt.Sprintf("%04d", rnd.IntN(1000))
			switch v, err := x.Head(t.Context(), "bkt", key, ""); {
			case rnd.IntN(3) == 0 || err != nil:
				x.put("bkt", key, "y", object.PutOptions{})
			case rnd.IntN(4) == 0:
				if _, err := x.Delete(t.Context(), "bkt", key, "", object.DeleteOptions{}); err != nil {
					t.Fatal(err)
				}
			case rnd.IntN(2) == 0:
				if _, err := x.UpdateVersion(t.Context(), "bkt", key, "", false, func(v *record.Version) error {
					v.Tags = []record.Field{{Name: "t", Value: "1"}}
					return nil
				}); err != nil {
					t.Fatal(err)
				}
			default:
				content := "x"
				if v.Size == 1 && v.ETag != "9dd4e461268c8034f5c8564e155c67a6" {
					content = "y"
				}
				x.read(r, "bkt", key, content, 3)
			}
		}
		for range 2 { // what one hid is a version that is not current to the next
			looked += x.pass(r, PassOptions{Due: true}).Scanned
		}
		res := x.pass(r, PassOptions{DryRun: true, Report: func(it Item) {
			t.Errorf("at %s %s %s was left: %s", at, it.Key, it.VersionID, it.Decision.Reason)
		}})
		if all += res.Scanned; t.Failed() {
			t.Fatalf("%+v", res)
		}
	}
	t.Logf("looked at %d of %d", looked, all)
	if looked*2 > all {
		t.Errorf("looked at %d of %d", looked, all)
	}
	// Other rules are seen at once.
	if _, err := x.UpdateBucket(t.Context(), "bkt", func(b *record.Bucket) error {
		b.Config = map[string][]byte{confRules: []byte("<LifecycleConfiguration>" + strings.Replace(rules, "<Prefix>02", "<Prefix>01", 1) + "</LifecycleConfiguration>")}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if n := x.pass(r, PassOptions{Due: true}).Tally[tallied("bkt", "end", lifecycle.Hide)].Objects; n < 90 {
		t.Errorf("%d hidden by a rule that was changed", n)
	}
}

// TestReadsOfWhatIsGone: counts of versions that are gone go too, those of neighbours and of a page's ends do not.
func TestReadsOfWhatIsGone(t *testing.T) {
	x := newTiered(t)
	x.bucket("bkt", "", record.VersioningOff)
	r := x.runner(placement("WARM", "COLD"))
	keys := []string{"a", "b", "c", "d"}
	for _, key := range keys {
		x.put("bkt", key, "x", object.PutOptions{})
		x.read(r, "bkt", key, "x", 1)
	}
	if _, err := x.Delete(t.Context(), "bkt", "b", "", object.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	b := must(x.Buckets(t.Context()))[0]
	left := func() int { return len(must(x.uses.Range(t.Context(), b.ID, "", "\xff"))) }
	x.pass(r, PassOptions{Due: true})
	if n := left(); n != 4 { // it may be of a version that came after the look
		t.Errorf("%d left at once", n)
	}
	x.now = x.now.Add(4 * lifecycle.Day)
	x.pass(r, PassOptions{DryRun: true})
	if n := left(); n != 4 {
		t.Errorf("%d left after a dry run", n)
	}
	x.pass(r, PassOptions{Due: true})
	if n := left(); n != 3 {
		t.Errorf("%d left", n)
	}
}

func TestSpans(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	b := &bucketSpans{list: []span{{"b", now}, {"d", time.Time{}}, {"f", now.Add(hour)}, {"", time.Time{}}}}
	for key, want := range map[string]int{"a": 0, "b": 0, "b\x00": 1, "c": 1, "d": 1, "e": 2, "f": 2, "g": 3} {
		if got := b.at(key); got != want {
			t.Errorf("%q is in span %d", key, got)
		}
	}
	b.touch("g", now)
	b.touch("e", now.Add(2*hour))
	if !b.list[3].due.Equal(now) || !b.list[2].due.Equal(now.Add(hour)) {
		t.Errorf("%+v", b.list)
	}
	b.merge(3)
	if want := []span{{"d", now}, {"", now}}; !slices.Equal(b.list, want) {
		t.Errorf("%+v", b.list)
	}
	if b.merge(0); len(b.list) != 1 || b.list[0].to != "" {
		t.Errorf("%+v", b.list)
	}
}

// TestRelieve: the longest unused go first, copies of what is on a tier as well, what was asked for and what is pinned
// stays, and so does everything where nothing has to go.
func TestRelieve(t *testing.T) {
	x := newTiered(t)
	x.bucket("bkt", "", record.VersioningOff)
	x.bucket("pins", "", record.VersioningOff)
	big := strings.Repeat("x", object.InlineMax+1)
	pin := lifecycle.Placement{Name: "pin", Bucket: "pins", Rules: lifecycle.DefaultTemperatureRules(), Cold: "COLD", Pinned: true}
	byTag := pin
	byTag.Name, byTag.Bucket, byTag.Filter.Tags = "tag", "", []lifecycle.Tag{{Name: "keep", Value: "local"}}
	r := x.runner(pin, byTag)
	put := func(bucket, key string) {
		x.put(bucket, key, big, object.PutOptions{})
		x.now = x.now.Add(hour)
	}
	put("pins", "pinned")
	x.put("bkt", "0 tagged", big, object.PutOptions{Tags: []record.Field{{Name: "keep", Value: "local"}}})
	put("bkt", "1 unused")
	put("bkt", "2 archived")
	put("bkt", "3 restored")
	put("bkt", "4 read")
	put("bkt", "5 newest")
	x.put("bkt", "0 small", "x", object.PutOptions{})
	keep := 7 * lifecycle.Day
	for _, key := range []string{"2 archived", "3 restored"} {
		v, err := x.Head(t.Context(), "bkt", key, "")
		if err != nil {
			t.Fatal(err)
		}
		if errs := x.mover.Move(t.Context(), "warm", []record.Version{*v}, object.MoveOptions{LocalUntil: x.now.Add(keep)}); errs[0] != nil {
			t.Fatal(errs[0])
		}
	}
	if _, err := x.WantLocal(t.Context(), "bkt", "3 restored", "", x.now.Add(30*lifecycle.Day)); err != nil {
		t.Fatal(err)
	}
	x.read(r, "bkt", "4 read", big, 1)
	local := func() (list []string) {
		for _, key := range []string{"1 unused", "2 archived", "3 restored", "4 read", "5 newest", "0 small"} {
			if v, err := x.Head(t.Context(), "bkt", key, ""); err != nil {
				t.Fatal(err)
			} else if v.Local() {
				list = append(list, key)
			}
		}
		return list
	}
	var reasons []string
	o := RelieveOptions{
		Need: 2 * int64(len(big)), Why: "91.0 % full", Class: "COLD", Move: r.opt.Move, Keep: map[string]time.Duration{"WARM": keep},
		Report: func(it Item) { reasons = append(reasons, it.Key+": "+it.Decision.Reason) },
	}
	res, missing, err := r.Relieve(t.Context(), o)
	if err != nil || missing != 0 || res.Failed != 0 {
		t.Fatalf("%+v, %d, %v", res, missing, err)
	}
	if got, want := local(), []string{"3 restored", "4 read", "5 newest", "0 small"}; !slices.Equal(got, want) {
		t.Errorf("local: %q", got)
	}
	slices.Sort(reasons)
	if len(reasons) != 2 || !strings.Contains(reasons[0], "1 unused: move to COLD: goes to make room: never read, written") ||
		!strings.Contains(reasons[1], "2 archived: free the local copy, WARM has it") || !strings.Contains(reasons[0], "(91.0 % full)") {
		t.Errorf("%q", reasons)
	}
	o.Need *= 10
	if _, missing, err = r.Relieve(t.Context(), o); err != nil || missing != 18*int64(len(big)) {
		t.Errorf("missing %d, %v", missing, err)
	}
	if got, want := local(), []string{"3 restored", "0 small"}; !slices.Equal(got, want) {
		t.Errorf("local: %q", got)
	}
	if x.class("pins", "pinned") != "STANDARD" || x.class("bkt", "0 tagged") != "STANDARD" {
		t.Error("what is pinned moved")
	}
	for _, key := range []string{"1 unused", "2 archived", "4 read"} {
		x.read(r, "bkt", key, big, 1)
	}
}
