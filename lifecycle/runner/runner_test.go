package runner

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"firn"
	"firn/kv"
	"firn/kv/pebblekv"
	"firn/lifecycle"
	"firn/object"
	"firn/object/listing"
	"firn/object/record"
	"firn/object/remote"
	"firn/vfs"
)

// site is a namespace with a clock of its own.
type site struct {
	*object.Store
	t   *testing.T
	db  kv.DB
	now time.Time
	ids map[string]string // version ids by "key content"
}

func newSite(t *testing.T) *site {
	t.Helper()
	return newSiteOn(t, nil)
}

// newSiteOn makes a site whose tiers are what remote, which may be nil, makes of its clock.
func newSiteOn(t *testing.T, tiers func(now func() time.Time) remote.Tiers) *site {
	t.Helper()
	s := &site{t: t, now: time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC), ids: map[string]string{}}
	fsys := vfs.NewMem()
	db, err := pebblekv.Open(fsys, "data/kv", pebblekv.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s.db = db
	clock := func() time.Time { return s.now }
	o := object.Options{Now: clock, ReserveBytes: -1}
	if tiers != nil {
		o.Remote = tiers(clock)
	}
	s.Store, err = object.Open(t.Context(), fsys, "data", db, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { err := errors.Join(s.Store.Close(), db.Close()); _ = err })
	return s
}

func (s *site) bucket(name, rules string, v record.Versioning) {
	s.t.Helper()
	_, err := s.CreateBucket(s.t.Context(), name, object.BucketOptions{})
	if err == nil {
		_, err = s.UpdateBucket(s.t.Context(), name, func(b *record.Bucket) error {
			b.Versioning = v
			b.Config = map[string][]byte{
				confRules:   []byte("<LifecycleConfiguration>" + rules + "</LifecycleConfiguration>"),
				confMinimum: []byte(lifecycle.MinimumNone),
			}
			return nil
		})
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) put(bucket, key, content string, o object.PutOptions) {
	s.t.Helper()
	o.Size = int64(len(content))
	v, err := s.Put(s.t.Context(), bucket, key, strings.NewReader(content), o)
	if err != nil {
		s.t.Fatal(err)
	}
	s.ids[key+" "+content] = v.ID
}

// listed returns "key size", and "key marker", newest first within a key.
func (s *site) listed(bucket string) (all []string) {
	s.t.Helper()
	l, err := s.ListVersions(s.t.Context(), bucket, listing.Options{Limit: 1000})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, v := range l.Versions {
		what := fmt.Sprint(v.Size)
		if v.DeleteMarker {
			what = "marker"
		}
		all = append(all, v.Key+" "+what)
	}
	return all
}

func (s *site) want(bucket string, want ...string) {
	s.t.Helper()
	if got := s.listed(bucket); !slices.Equal(got, want) {
		s.t.Errorf("at %s: %q, want %q", s.now.Format(time.DateTime), got, want)
	}
}

func (s *site) runner(o Options) *Runner {
	o.Now = func() time.Time { return s.now }
	return New(s.Store, o)
}

func (s *site) pass(r *Runner, o PassOptions) Result {
	s.t.Helper()
	res, err := r.Pass(s.t.Context(), o)
	if err != nil {
		s.t.Fatal(err)
	}
	return res
}

const expireLogs = `<Rule><ID>logs</ID><Status>Enabled</Status><Filter><Prefix>logs/</Prefix></Filter><Expiration><Days>3</Days></Expiration></Rule>`

func TestExpiration(t *testing.T) {
	s := newSite(t)
	s.bucket("plain", expireLogs, record.VersioningOff)
	s.bucket("versions", expireLogs+`<Rule><ID>old</ID><Status>Enabled</Status><Filter/>
		<NoncurrentVersionExpiration><NoncurrentDays>2</NoncurrentDays><NewerNoncurrentVersions>1</NewerNoncurrentVersions></NoncurrentVersionExpiration>
		<Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration></Rule>`, record.VersioningEnabled)
	s.bucket("none", "", record.VersioningOff)
	for _, b := range []string{"plain", "versions", "none"} {
		s.put(b, "logs/a", "1", object.PutOptions{})
		s.put(b, "kept", "12", object.PutOptions{})
	}
	s.put("versions", "kept", "123", object.PutOptions{})
	s.put("versions", "kept", "1234", object.PutOptions{})
	r := s.runner(Options{})

	s.now = s.now.Add(3 * 24 * time.Hour) // by S3's rounding it is due at the next midnight
	if res := s.pass(r, PassOptions{}); res.Buckets != 2 || res.Tally[tallied("plain", "logs", lifecycle.Remove)].Objects != 0 {
		t.Errorf("too early: %+v", res)
	}
	s.want("plain", "kept 2", "logs/a 1")
	// The noncurrent ones were due: all but the newest of them.
	s.want("versions", "kept 4", "kept 3", "logs/a 1")

	s.now = s.now.Add(24 * time.Hour)
	var dry []Item
	res := s.pass(r, PassOptions{DryRun: true, Report: func(it Item) { dry = append(dry, it) }})
	if len(dry) != 2 || res.Tally[tallied("plain", "logs", lifecycle.Remove)].Bytes != 1 || dry[0].Decision.Reason == "" || dry[0].Err != nil {
		t.Errorf("dry run: %+v, %+v", dry, res)
	}
	s.want("plain", "kept 2", "logs/a 1")
	if res = s.pass(r, PassOptions{}); res.Failed != 0 || res.Tally[tallied("plain", "logs", lifecycle.Remove)].Objects != 1 ||
		res.Tally[tallied("versions", "logs", lifecycle.Hide)].Objects != 1 {
		t.Errorf("%+v", res)
	}
	s.want("plain", "kept 2")
	s.want("versions", "kept 4", "kept 3", "logs/a marker", "logs/a 1")
	s.want("none", "kept 2", "logs/a 1")

	// What is hidden goes by the rule for noncurrent versions, which keeps the newest one; then the marker.
	if _, err := s.Delete(t.Context(), "versions", "logs/a", s.ids["logs/a 1"], object.DeleteOptions{}); err == nil {
		s.now = s.now.Add(5 * 24 * time.Hour)
	}
	l, err := s.ListVersions(t.Context(), "versions", listing.Options{Prefix: "logs/a", Limit: 10})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range l.Versions[1:] {
		if _, err := s.Delete(t.Context(), "versions", v.Key, v.ID, object.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if res = s.pass(r, PassOptions{Bucket: "versions"}); res.Tally[tallied("versions", "old", lifecycle.RemoveMarker)].Objects != 1 {
		t.Errorf("%+v", res)
	}
	s.want("versions", "kept 4", "kept 3")

	if _, err := r.Pass(t.Context(), PassOptions{Bucket: "gone"}); !errors.Is(err, object.ErrNoSuchBucket) {
		t.Errorf("a bucket that is not there: %v", err)
	}
}

// TestDecidedAnew holds that what was replaced after the decision stays, and what is locked or tagged otherwise.
func TestDecidedAnew(t *testing.T) {
	s := newSite(t)
	s.bucket("bkt", `<Rule><ID>tmp</ID><Status>Enabled</Status><Filter><Tag><Key>tmp</Key><Value>yes</Value></Tag></Filter><Expiration><Days>1</Days></Expiration></Rule>`,
		record.VersioningOff)
	tagged := object.PutOptions{Tags: []record.Field{{Name: "tmp", Value: "yes"}}}
	s.put("bkt", "goes", "1", tagged)
	s.put("bkt", "stays", "1", object.PutOptions{})
	s.put("bkt", "written", "1", tagged)
	s.now = s.now.Add(72 * time.Hour)
	r := s.runner(Options{})

	// Between the decision and the delete it is written anew.
	o, res := &PassOptions{Report: func(Item) {}}, &Result{}
	p := &pass{Runner: r, o: o, moves: r.newMoves(t.Context(), o, res), now: s.now}
	for _, b := range must(s.Buckets(t.Context())) {
		p.bucket = b
	}
	p.plan = must(r.plan(p.bucket))
	if err := p.each(t.Context(), "", "", func(at *seen) error {
		v := &at.v
		if err := p.complete(t.Context(), at); err != nil {
			return err
		}
		d := p.plan.Decide(&at.view, p.now)
		if (d.Action == lifecycle.Remove) != (v.Key != "stays") {
			t.Errorf("%s: %+v", v.Key, d)
		}
		if d.Action == lifecycle.Keep {
			return nil
		}
		return p.act(t.Context(), v, Item{Bucket: "bkt", Key: v.Key, Decision: d})
	}); err != nil {
		t.Fatal(err)
	}
	s.put("bkt", "written", "22", tagged)
	if err := p.flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if res.Changed != 1 || res.Failed != 0 {
		t.Errorf("%+v", res)
	}
	s.want("bkt", "stays 1", "written 2")
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestLockIsStronger(t *testing.T) {
	s := newSite(t)
	if _, err := s.CreateBucket(t.Context(), "locked", object.BucketOptions{ObjectLock: true, Config: map[string][]byte{
		confRules: []byte(`<LifecycleConfiguration><Rule><ID>old</ID><Status>Enabled</Status><Filter/>
			<NoncurrentVersionExpiration><NoncurrentDays>1</NoncurrentDays></NoncurrentVersionExpiration></Rule></LifecycleConfiguration>`),
	}}); err != nil {
		t.Fatal(err)
	}
	until := s.now.Add(10 * 24 * time.Hour)
	s.put("locked", "k", "1", object.PutOptions{Retention: record.Retention{Mode: record.RetentionCompliance, Until: until}})
	s.put("locked", "k", "22", object.PutOptions{LegalHold: true})
	s.put("locked", "k", "333", object.PutOptions{})
	r := s.runner(Options{})
	s.now = s.now.Add(5 * 24 * time.Hour)
	if res := s.pass(r, PassOptions{}); res.Failed != 0 || len(res.Tally) != 0 {
		t.Errorf("locked: %+v", res)
	}
	s.now = until.Add(24 * time.Hour)
	s.pass(r, PassOptions{})
	s.want("locked", "k 3", "k 2") // the legal hold has no end
	d, err := r.Explain(t.Context(), "locked", "k", s.ids["k 22"], time.Time{})
	if err != nil || d.Action != lifecycle.Keep || !strings.Contains(d.Reason, "legal hold") {
		t.Errorf("%+v, %v", d, err)
	}
}

func TestUploadsAndMoves(t *testing.T) {
	s := newSite(t)
	s.bucket("bkt", `<Rule><ID>abort</ID><Status>Enabled</Status><Filter/><AbortIncompleteMultipartUpload><DaysAfterInitiation>2</DaysAfterInitiation></AbortIncompleteMultipartUpload></Rule>
		<Rule><ID>cool</ID><Status>Enabled</Status><Filter/><Transition><Days>1</Days><StorageClass>COLD</StorageClass></Transition></Rule>`, record.VersioningOff)
	s.put("bkt", "k", "123", object.PutOptions{})
	if _, err := s.CreateUpload(t.Context(), "bkt", "half", object.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	classes := []string{"STANDARD", "COLD"}
	s.now = s.now.Add(5 * 24 * time.Hour)
	d, err := s.runner(Options{Classes: classes}).Explain(t.Context(), "bkt", "k", "", s.now.Add(-5*24*time.Hour))
	if err != nil || d.Action != lifecycle.Keep || d.Due.IsZero() {
		t.Errorf("before it is due: %+v, %v", d, err)
	}
	if _, err := s.runner(Options{}).Explain(t.Context(), "bkt", "absent", "", time.Time{}); firn.KindOf(err) != firn.NotFound {
		t.Errorf("an absent key: %v", err)
	}
	cool := tallied("bkt", "cool", lifecycle.Move)
	if res := s.pass(s.runner(Options{Classes: classes}), PassOptions{DryRun: true}); res.Waiting["COLD"].Objects != 1 ||
		res.Tally[tallied("bkt", "abort", lifecycle.Abort)].Objects != 1 {
		t.Errorf("without a tier: %+v", res)
	}
	var moved []string
	var fails error
	r := s.runner(Options{Classes: classes, Move: func(_ context.Context, class string, list []record.Version, _ object.MoveOptions) []error {
		moved = append(moved, list[0].Key+" "+class)
		return []error{fails}
	}})
	fails = firn.NewError(firn.Unavailable, "away")
	since := s.now
	due := time.Date(2026, 1, 3, 0, 0, 0, 0, time.UTC)
	res := s.pass(r, PassOptions{})
	if w := res.Waiting["COLD"]; w.Objects != 1 || w.Bytes != 3 || !w.Oldest.Equal(due) || !w.Since.Equal(since) || w.Why != "away" || res.Failed != 0 {
		t.Errorf("a tier that is away: %+v", res)
	}
	s.now = s.now.Add(time.Hour)
	if w := s.pass(r, PassOptions{}).Waiting["COLD"]; !w.Since.Equal(since) || w.Objects != 1 {
		t.Errorf("still away: %+v", w)
	}
	fails = object.ErrMoved
	if res := s.pass(r, PassOptions{}); res.Failed != 0 || res.Changed != 1 || res.Tally != nil {
		t.Errorf("replaced meanwhile: %+v", res)
	}
	fails = firn.NewError(firn.Corrupt, "not what was sent")
	if res := s.pass(r, PassOptions{}); res.Failed != 1 || len(res.Waiting) != 0 {
		t.Errorf("a tier that loses bytes: %+v", res)
	}
	fails = nil
	if res := s.pass(r, PassOptions{}); res.Failed != 0 || res.Tally[cool].Bytes != 3 {
		t.Errorf("%+v", res)
	}
	if len(moved) != 5 || moved[4] != "k COLD" {
		t.Errorf("moved %q", moved)
	}
}

func tallied(bucket, rule string, a lifecycle.Action) lifecycle.TallyKey {
	return lifecycle.TallyKey{Bucket: bucket, Rule: rule, Action: a}
}

// TestMovesInBatches: small versions go together, to two tiers at once, and each one's outcome is its own.
func TestMovesInBatches(t *testing.T) {
	s := newSite(t)
	rules := ""
	for _, class := range []string{"WARM", "COLD"} {
		rules += `<Rule><ID>` + class + `</ID><Status>Enabled</Status><Filter><Tag><Key>to</Key><Value>` + class +
			`</Value></Tag></Filter><Transition><Days>1</Days><StorageClass>` + class + `</StorageClass></Transition></Rule>`
	}
	s.bucket("bkt", rules, record.VersioningOff)
	for i := range 2*moveObjects + 10 {
		for _, class := range []string{"WARM", "COLD"} {
			s.put("bkt", fmt.Sprintf("%04d %s", i, class), "x", object.PutOptions{Tags: []record.Field{{Name: "to", Value: class}}})
		}
	}
	s.now = s.now.Add(5 * 24 * time.Hour)
	both := make(chan struct{}, 2) // both tiers have a batch before one goes on
	release := make(chan struct{})
	go func() {
		<-both
		<-both
		close(release)
	}()
	var mu sync.Mutex
	batches := map[string][]int{}
	r := s.runner(Options{Classes: []string{"STANDARD", "WARM", "COLD"}, Move: func(ctx context.Context, class string, list []record.Version, o object.MoveOptions) []error {
		select {
		case both <- struct{}{}:
		case <-release:
		}
		select {
		case <-release:
		case <-ctx.Done():
		}
		mu.Lock()
		defer mu.Unlock()
		batches[class] = append(batches[class], len(list))
		errs := make([]error, len(list))
		for i := range list {
			switch {
			case !strings.HasSuffix(list[i].Key, class) || o.Class != class:
				errs[i] = errors.New("of another tier")
			case strings.HasPrefix(list[i].Key, "0007"):
				errs[i] = object.ErrMoved
			case strings.HasPrefix(list[i].Key, "0300"):
				errs[i] = firn.NewError(firn.Corrupt, "not what was sent")
			}
		}
		return errs
	}})
	res := s.pass(r, PassOptions{})
	for _, class := range []string{"WARM", "COLD"} {
		if got := batches[class]; !slices.Equal(got, []int{moveObjects, moveObjects, 10}) {
			t.Errorf("%s: batches of %d", class, got)
		}
		if n := res.Tally[tallied("bkt", class, lifecycle.Move)].Objects; n != 2*moveObjects+8 {
			t.Errorf("%s: %d moved", class, n)
		}
	}
	if res.Changed != 2 || res.Failed != 2 || len(res.Waiting) != 0 {
		t.Errorf("%+v", res)
	}
}
