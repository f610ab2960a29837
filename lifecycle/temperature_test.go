package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"firn"
)

func readAt(times ...time.Time) Use {
	var u Use
	for _, t := range times {
		u.Read(1, t)
	}
	return u
}

// TestClassify holds the defaults to the document: age < 3 d hot; read in the last 7 d warm; > 100 reads and age < 30 d
// warm; else cold.
func TestClassify(t *testing.T) {
	now := at("2026-06-30 12:00")
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	often := func(n uint64, last time.Time) (u Use) {
		u.Read(n, last)
		return u
	}
	for _, c := range []struct {
		age  time.Duration
		use  Use
		want Temperature
		why  string
	}{
		{0, Use{}, Hot, "less than 3 days"},
		{3*Day - time.Second, Use{}, Hot, "written 2 days ago"},
		{3 * Day, Use{}, Cold, "never read"},
		{3 * Day, readAt(ago(time.Hour)), Warm, "read 1 h ago"},
		{400 * Day, readAt(ago(7*Day - time.Second)), Warm, "less than 7 days"},
		{400 * Day, readAt(ago(7 * Day)), Cold, "last read 7 days ago"},
		{29 * Day, often(101, ago(8*Day)), Warm, "read 101 times, which is more than 100"},
		{29 * Day, often(100, ago(8*Day)), Cold, "read 100 times"},
		{30 * Day, often(101, ago(8*Day)), Cold, "written 30 days ago"},
	} {
		got, why := DefaultTemperatureRules().Classify(ago(c.age), c.use, now)
		if got != c.want || !strings.Contains(why, c.why) || !strings.HasPrefix(why, got.String()) {
			t.Errorf("%v %+v: %v, %s", c.age, c.use, got, why)
		}
	}
}

func TestTemperatureDecide(t *testing.T) {
	now := at("2026-06-30 12:00")
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	for _, c := range []struct {
		name string
		s    Subject
		want Temperature
		why  string
	}{
		{"stays", Subject{Written: ago(Day)}, Hot, "stays: hot"},
		{"down", Subject{Written: ago(4 * Day)}, Cold, "down to cold"},
		{"down one", Subject{Written: ago(4 * Day), Use: readAt(ago(Day))}, Warm, "down to warm"},
		{"not yet down", Subject{Written: ago(40 * Day), At: Warm, Moved: ago(23 * time.Hour)}, Warm, "came 23 h ago and stays at least 1 day"},
		{"down after its stay", Subject{Written: ago(40 * Day), At: Warm, Moved: ago(Day)}, Cold, "down"},
		{"one read", Subject{Written: ago(40 * Day), At: Cold, Use: readAt(ago(time.Hour))}, Cold, "1 reads within 2 days, and 3 bring it back"},
		{"reads long ago", Subject{Written: ago(40 * Day), At: Cold, Use: readAt(ago(6*Day), ago(5*Day), ago(4*Day), ago(time.Hour))}, Cold, "1 reads"},
		{"three reads", Subject{Written: ago(40 * Day), At: Cold, Use: readAt(ago(3*time.Hour), ago(2*time.Hour), ago(time.Hour))}, Warm, "up to warm"},
		{"up too soon", Subject{Written: ago(40 * Day), At: Cold, Moved: ago(time.Hour), Use: readAt(ago(3*time.Hour), ago(2*time.Hour), ago(time.Hour))}, Cold, "came 1 h ago"},
		{"pinned", Subject{Written: ago(400 * Day), Pinned: true}, Hot, "stays: pinned to hot"},
		{"pinned to warm", Subject{Written: ago(400 * Day), Pinned: true, PinnedAt: Warm}, Warm, "down to pinned to warm"},
		{"pinned is brought back", Subject{Written: ago(400 * Day), At: Cold, Moved: ago(time.Minute), Pinned: true, PinnedAt: Warm}, Warm, "up, pinned"},
		{"young is not held by its pin", Subject{Written: ago(Day), Pinned: true, PinnedAt: Warm}, Hot, "stays: hot"},
	} {
		if got, why := DefaultTemperatureRules().Decide(c.s, now); got != c.want || !strings.Contains(why, c.why) {
			t.Errorf("%s: %v, %s", c.name, got, why)
		}
	}
	if err := DefaultTemperatureRules().Check(); err != nil {
		t.Error(err)
	}
	for _, fn := range []func(*TemperatureRules){
		func(r *TemperatureRules) { r.HotAge = -1 },
		func(r *TemperatureRules) { r.PromoteReads = 1 },
		func(r *TemperatureRules) { r.PromoteWindow = (Buckets + 1) * Day },
	} {
		r := DefaultTemperatureRules()
		fn(&r)
		if firn.KindOf(r.Check()) != firn.Invalid {
			t.Errorf("%+v is accepted", r)
		}
	}
}

// TestNoPingPong: whatever the reads, what moves stays for MinStay, so that no object moves more than once a day.
func TestNoPingPong(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	rules := DefaultTemperatureRules()
	for range 200 {
		s := Subject{Written: at("2026-01-01 00:00")}
		now := s.Written
		for range 500 {
			now = now.Add(time.Duration(r.IntN(12)) * time.Hour)
			for range r.IntN(4) * r.IntN(2) {
				s.Use.Read(1, now)
			}
			to, why := rules.Decide(s, now)
			if to == s.At {
				continue
			}
			if !s.Moved.IsZero() && now.Sub(s.Moved) < rules.MinStay {
				t.Fatalf("moved again after %v: %s", now.Sub(s.Moved), why)
			}
			if to < s.At && s.Use.Within(rules.PromoteWindow, now) < rules.PromoteReads {
				t.Fatalf("up without reads: %s", why)
			}
			s.At, s.Moved = to, now
		}
	}
}

func TestWatermarks(t *testing.T) {
	w := DefaultWatermarks()
	for _, c := range []struct {
		used      int64
		relieving bool
		want      int64
	}{
		{849, false, 0},
		{850, false, 100},
		{1000, false, 250},
		{800, false, 0},
		{800, true, 50},
		{750, true, 0},
		{100, true, 0},
	} {
		if got, why := w.Need(c.used, 1000, c.relieving); got != c.want || why == "" {
			t.Errorf("%+v: %d, %s", c, got, why)
		}
	}
	if n, _ := w.Need(1<<40, 0, true); n != 0 {
		t.Error("an unknown capacity is full")
	}
	for _, w := range []Watermarks{{}, {High: .5, Low: .5}, {High: 1.1, Low: .5}, {High: .5, Low: -1}} {
		if firn.KindOf(w.Check()) != firn.Invalid {
			t.Errorf("%+v is accepted", w)
		}
	}
}

func TestRelief(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	now := at("2026-06-30 12:00")
	for range 2000 {
		var all, may []Candidate
		for i := range r.IntN(60) {
			c := Candidate{
				Key: fmt.Sprint(r.IntN(30)), Version: fmt.Sprint(i), Size: int64(r.IntN(100)),
				Written: now.Add(-time.Duration(r.IntN(40)) * Day), Pinned: r.IntN(8) == 0,
			}
			if r.IntN(2) == 0 {
				c.Use.Read(1, now.Add(-time.Duration(r.IntN(40))*Day))
			}
			if r.IntN(3) == 0 {
				c.Moved = now.Add(-time.Duration(r.IntN(48)) * time.Hour)
			}
			all = append(all, c)
			if !c.Pinned && c.Size > 0 && (c.Moved.IsZero() || now.Sub(c.Moved) >= Day) {
				may = append(may, c)
			}
		}
		need, limit := int64(r.IntN(1500)), 1+r.IntN(40)
		relief := NewRelief(need, limit, Day, now)
		for _, c := range all {
			relief.Add(c)
		}
		got, missing := relief.Picked()
		// The oracle: all in order, from the coldest, until it is enough.
		slices.SortFunc(may, func(a, b Candidate) int {
			if a.colder(&b) {
				return -1
			}
			return 1
		})
		var want []Candidate
		var sum int64
		for _, c := range may {
			if sum >= need || len(want) == limit {
				break
			}
			want = append(want, c)
			sum += c.Size
		}
		if len(got) != len(want) || missing != max(need-sum, 0) {
			t.Fatalf("picked %d, missing %d; want %d, %d", len(got), missing, len(want), max(need-sum, 0))
		}
		for i := range got {
			if got[i].Version != want[i].Version || !strings.Contains(got[i].Reason, "make room") {
				t.Fatalf("number %d is %+v, want %+v", i, got[i], want[i])
			}
		}
	}
}

// TestUseAgainstAList counts by hand from the list of all reads.
func TestUseAgainstAList(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 500 {
		var u, other Use
		var reads []time.Time
		var newest time.Time
		for range r.IntN(60) {
			x := at("2026-01-01 00:00").Add(time.Duration(r.IntN(20*24*3600)) * time.Second)
			if r.IntN(2) == 0 {
				u.Read(1, x)
			} else {
				other.Read(1, x)
			}
			reads = append(reads, x)
			if x.After(newest) {
				newest = x
			}
		}
		u.Add(other)
		p, _ := u.MarshalBinary()
		var back Use
		if err := back.UnmarshalBinary(p); err != nil || !back.Last.Equal(u.Last) {
			t.Fatalf("%v: %+v, written %+v", err, back, u)
		}
		back.Last = u.Last
		if back != u {
			t.Fatalf("%+v, written %+v", back, u)
		}
		if u.Reads != uint64(len(reads)) || !u.Last.Equal(newest) {
			t.Fatalf("%+v of %d reads until %v", u, len(reads), newest)
		}
		for days := range 7 {
			window := time.Duration(days) * Day
			var least, most uint64
			for _, x := range reads {
				if !x.Before(newest.Add(-window)) {
					least++
				}
				if !x.Before(newest.Add(-window).Truncate(Day)) {
					most++
				}
			}
			if n := u.Within(window, newest); n < least || n > most {
				t.Fatalf("%d within %v, of %d to %d", n, window, least, most)
			}
		}
	}
}

func FuzzUse(f *testing.F) {
	u := readAt(at("2026-01-01 00:00"), at("2026-01-03 00:00"))
	p, _ := u.MarshalBinary()
	f.Add(p)
	f.Add([]byte{})
	f.Add([]byte{1, 2, 3})
	f.Fuzz(func(t *testing.T, p []byte) {
		var u Use
		if err := u.UnmarshalBinary(p); err != nil {
			if firn.KindOf(err) != firn.Corrupt || u != (Use{}) {
				t.Fatal(err, u)
			}
			return
		}
		q, _ := u.MarshalBinary()
		var v Use
		if err := v.UnmarshalBinary(q); err != nil || v != u {
			t.Fatalf("%+v read back as %+v: %v", u, v, err)
		}
		u.Read(1, at("2026-01-01 00:00"))
		u.Within(Day, at("2026-01-01 00:00"))
		v.Add(u)
	})
}

// fakeStore keeps uses; fail breaks a transaction before it is applied.
type fakeStore struct {
	mu   sync.Mutex
	fail error
	uses map[string]Use
	txs  int
}

func (s *fakeStore) AddUses(_ context.Context, uses map[string]Use) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return s.fail
	}
	s.txs++
	for id, u := range uses {
		x := s.uses[id]
		x.Add(u)
		s.uses[id] = x
	}
	return nil
}

func (s *fakeStore) state() (txs, objects int, seventh uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.txs, len(s.uses), s.uses["bucket/7"].Reads
}

func (s *fakeStore) broken(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = err
}

// TestTracker: a million reads cost a write a minute, a crash loses what came after the last one, a failing store
// loses nothing.
func TestTracker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeStore{uses: map[string]Use{}}
		tr, err := NewTracker(s, TrackerOptions{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var failures atomic.Int64
		done := make(chan error)
		go func() { done <- tr.Run(ctx, func(error) { failures.Add(1) }) }()
		reads := func(n int) {
			for i := range n {
				tr.Read(fmt.Sprint("bucket/", i%100), 1, time.Now())
			}
		}
		reads(10_000)
		if tr.Waiting("bucket/7").Reads != 100 {
			t.Errorf("waiting: %+v", tr.Waiting("bucket/7"))
		}
		time.Sleep(time.Minute + time.Second)
		if txs, _, n := s.state(); txs != 1 || n != 100 || tr.Stats().Waiting != 0 {
			t.Errorf("%d transactions, %d reads, %+v", txs, n, tr.Stats())
		}
		time.Sleep(time.Hour)
		if txs, _, _ := s.state(); txs != 1 {
			t.Error("nothing was written")
		}
		s.broken(errors.New("the disk is away"))
		reads(1000)
		time.Sleep(2 * time.Minute)
		if failures.Load() == 0 || tr.Stats().Failed == 0 {
			t.Error("the failure was not told")
		}
		s.broken(nil)
		reads(1000)
		time.Sleep(time.Minute)
		if _, _, got := s.state(); got != 120 {
			t.Errorf("%d reads after a store that failed", got)
		}
		reads(100)
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if _, _, got := s.state(); got != 121 {
			t.Errorf("%d reads after the end", got)
		}
	})
}

func TestTrackerIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeStore{uses: map[string]Use{}, fail: errors.New("away")}
		tr, err := NewTracker(s, TrackerOptions{Objects: 100})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- tr.Run(ctx, nil) }()
		for i := range 1000 {
			tr.Read(fmt.Sprint(i), 1, time.Now())
			synctest.Wait()
			if n := tr.Stats().Waiting; n > 100 {
				t.Fatalf("%d objects wait", n)
			}
		}
		st := tr.Stats()
		if st.Reads != 100 || st.Missed != 900 {
			t.Errorf("%+v", st)
		}
		if st.Failed > 2 {
			t.Errorf("a store that fails was tried %d times", st.Failed)
		}
		s.broken(nil)
		time.Sleep(2 * time.Minute)
		if _, n, _ := s.state(); n != 100 {
			t.Errorf("%d objects written", n)
		}
		// With room half taken it does not wait for the interval.
		for i := range 60 {
			tr.Read(fmt.Sprint("n", i), 1, time.Now())
		}
		synctest.Wait()
		if _, n, _ := s.state(); n < 150 {
			t.Errorf("%d objects written", n)
		}
		cancel()
		<-done
	})
}

func TestTally(t *testing.T) {
	var y Tally
	y.Add("b", Decision{}, 1)
	y.Add("b", Decision{Action: Remove, Rule: "r"}, 10)
	y.Add("b", Decision{Action: Remove, Rule: "r"}, 5)
	y.Add("b", Decision{Action: Hide, Rule: "r"}, 7)
	y.Add("c", Decision{Action: Move, Rule: "r"}, 3)
	if !maps.Equal(y, Tally{{"b", "r", Remove}: {2, 15}, {"b", "r", Hide}: {1, 0}, {"c", "r", Move}: {1, 3}}) {
		t.Errorf("%+v", y)
	}
}

func BenchmarkTrackerRead(b *testing.B) {
	tr, err := NewTracker(&fakeStore{}, TrackerOptions{})
	if err != nil {
		b.Fatal(err)
	}
	ids := make([]string, 1000)
	for i := range ids {
		ids[i] = fmt.Sprint("bucket/key", i)
	}
	now := time.Now()
	b.ReportAllocs()
	var n int
	for b.Loop() {
		n++
		tr.Read(ids[n%len(ids)], 1, now)
	}
}
