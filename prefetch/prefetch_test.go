package prefetch

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"firn"
)

func newLearner(t testing.TB) *Learner {
	t.Helper()
	l, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func objects(s []Suggestion) string {
	var out []string
	for _, x := range s {
		out = append(out, x.Object)
	}
	return strings.Join(out, " ")
}

func whole(object string) Access { return Access{Object: object, Size: 100, Length: 100} }

// TestTimeSeries: from one file to the next, over the end of the hour, the day and the year.
func TestTimeSeries(t *testing.T) {
	for _, layout := range []string{
		"video:CAM:2006-01-02-15-04", "CAM/2006/01/02/15-04-05EXT", "CAM/20060102T150405.ts", "a/200601021504", "logs/2006/01/02/15/04.gz",
	} {
		l := newLearner(t)
		at := time.Date(2025, 12, 31, 22, 0, 0, 0, time.UTC)
		right, made := 0, 0
		named := func() string { // digits in a layout would be formatted too
			return strings.NewReplacer("CAM", "camera1", "EXT", ".mp4").Replace(at.Format(layout))
		}
		for range 100 {
			s := l.Observe(whole(named()))
			at = at.Add(5 * time.Minute)
			for _, x := range s {
				if made++; x.Object == named() {
					right++
				}
			}
			if len(s) > 0 && !strings.Contains(s[0].Why, "later") {
				t.Errorf("%s: %s", layout, s[0].Why)
			}
		}
		if right < 85 || made > 105 {
			t.Errorf("%s: %d of 100 foreseen, %d suggestions", layout, right, made)
		}
	}
}

func TestSiblings(t *testing.T) {
	l := newLearner(t)
	right := 0
	for i := range 30 {
		at := time.Date(2025, 10, 19, 10, 0, 0, 0, time.UTC).Add(time.Duration(i*i) * time.Hour) // no steps in time
		s := l.Observe(whole("camera1/" + at.Format("2006-01-02-15-04")))
		want := "camera2/" + at.Format("2006-01-02-15-04")
		if strings.Contains(" "+objects(s)+" ", " "+want+" ") {
			right++
		}
		l.Observe(whole(want))
	}
	if right < 22 {
		t.Errorf("%d of 30 foreseen", right)
	}
}

// file is a name that tells nothing of others in its directory.
func file(dir string, n int) string {
	r := rand.New(rand.NewPCG(uint64(n), 3))
	p := make([]byte, 10)
	for i := range p {
		p[i] = "abcdefghijklmnopqrstuvwxyz"[r.IntN(26)]
	}
	return dir + string(p)
}

// TestSets: a directory that is read again is foreseen from its fourth object on, once directories beside it were read twice.
func TestSets(t *testing.T) {
	l := newLearner(t)
	r := rand.New(rand.NewPCG(1, 1))
	now := time.Date(2026, 1, 20, 8, 0, 0, 0, time.UTC)
	look := func(dir string) (foreseen, made int) {
		hoped := map[string]bool{}
		for _, i := range r.Perm(40) {
			if hoped[file(dir, i)] {
				foreseen++
			}
			for _, s := range l.Observe(Access{Time: now, Object: file(dir, i), Size: 100, Length: 100}) {
				if !strings.HasPrefix(s.Object, dir) || !strings.Contains(s.Why, "read again") {
					t.Errorf("%+v", s)
				}
				hoped[s.Object] = true
				made++
			}
		}
		return foreseen, made
	}
	dirs := []string{"bkt/a/", "bkt/b/", "bkt/c/"}
	for round := range 3 {
		for i, dir := range dirs {
			foreseen, made := look(dir)
			switch {
			case round == 0:
				if made != 0 {
					t.Errorf("%s was never read before: %d suggestions", dir, made)
				}
			case round > 1 || i > 0:
				if foreseen < 25 || made > 40 {
					t.Errorf("%s, round %d: %d of 40 foreseen, %d suggestions", dir, round, foreseen, made)
				}
			}
		}
		for i := range 100 { // what comes between rounds
			l.Observe(whole(file(fmt.Sprintf("other/%c/", 'a'+i%26), 100*round+i)))
		}
	}
	for range 2 {
		now = now.Add(time.Hour) // as good as other reads between
		if foreseen, made := look(dirs[2]); foreseen < 25 || made > 40 {
			t.Errorf("an hour later: %d of 40 foreseen, %d suggestions", foreseen, made)
		}
	}
}

// TestSetsFall: of directories of which never the same is read again nothing is fetched for long.
func TestSetsFall(t *testing.T) {
	l := newLearner(t)
	r := rand.New(rand.NewPCG(1, 1))
	made := 0
	for range 300 {
		dir := fmt.Sprintf("bkt/%c/", 'a'+r.IntN(5))
		for range 12 {
			made += len(l.Observe(whole(file(dir, r.IntN(100)))))
		}
		for i := range 70 {
			l.Observe(whole(file("other", r.IntN(1e9)+i)))
		}
	}
	if made > 100 {
		t.Errorf("%d suggestions for 3600 reads at random", made)
	}
}

// TestRulesFall: when a pattern ends, its suggestions end.
func TestRulesFall(t *testing.T) {
	l := newLearner(t)
	for i := range 50 {
		l.Observe(whole(fmt.Sprintf("a/%d", i)))
	}
	if s := l.Observe(whole("a/50")); !strings.Contains(objects(s), "a/51") {
		t.Fatalf("not learned: %v", s)
	}
	r := rand.New(rand.NewPCG(1, 1))
	made := 0
	for i := range 2000 {
		s := l.Observe(whole(fmt.Sprintf("a/%d", r.Int64N(1e12))))
		if i >= 300 {
			made += len(s)
		}
	}
	if made > 20 {
		t.Errorf("%d suggestions for names at random", made)
	}
}

func TestReadAhead(t *testing.T) {
	l := newLearner(t)
	const size, part = 100 << 20, 1 << 20
	have, misses, ahead := int64(0), 0, int64(0)
	for off := int64(0); off < size; off += part {
		if off+part > have {
			misses++
		}
		for _, s := range l.Observe(Access{Object: "video", Size: size, Offset: off, Length: part}) {
			if s.Offset < off || s.Offset+s.Length > size || s.Length > 16<<20 {
				t.Fatalf("%+v", s)
			}
			have = max(have, s.Offset+s.Length)
			ahead = max(ahead, have-off)
		}
	}
	if misses > 2 {
		t.Errorf("%d of 100 parts were not read ahead", misses)
	}
	if ahead > 32<<20 {
		t.Errorf("%d bytes ahead", ahead)
	}
	// A seek begins anew.
	if s := l.Observe(Access{Object: "video", Size: size, Offset: 5, Length: part}); len(s) != 0 {
		t.Errorf("after a seek: %+v", s)
	}
}

func TestNames(t *testing.T) {
	for s, want := range map[string][]int64{
		"camera1":             {1},
		"camera01/a7":         {1, 7},
		"2025-10-19-10-00":    {time.Date(2025, 10, 19, 10, 0, 0, 0, time.UTC).Unix()},
		"x2025/10/19":         {time.Date(2025, 10, 19, 0, 0, 0, 0, time.UTC).Unix()},
		"2025-02-31":          {2025, 2, 31},
		"20251019_1005.mp4":   {time.Date(2025, 10, 19, 10, 5, 0, 0, time.UTC).Unix(), 4},
		"1234567890123456789": nil,
		"":                    nil,
		"text":                nil,
	} {
		n := parseName(s)
		if fmt.Sprint(n.at) != fmt.Sprint(want) {
			t.Errorf("%s: %v", s, n.at)
		}
	}
}

func FuzzName(f *testing.F) {
	for _, s := range []string{"camera1/2025-10-19-10-00", "20251019T100500", "a000b0", "99999999999999999999", "2025-10-19-10", "2199123123595999"} {
		f.Add(s, int64(300))
	}
	f.Fuzz(func(t *testing.T, s string, by int64) {
		n := parseName(s)
		if got, ok := n.with(n.at); !ok || got != s {
			t.Fatalf("%q became %q, %v", s, got, ok)
		}
		if len(n.at) == 0 {
			return
		}
		at := append([]int64(nil), n.at...)
		at[0] += by % 1e6
		if next, ok := n.with(at); ok {
			// What is suggested has the shape of what was read, or one with a digit more or less.
			if m := parseName(next); m.shape == n.shape && m.at[0] != at[0] {
				t.Fatalf("%q moved by %d is %q", s, by%1e6, next)
			}
		}
		l := newLearner(t)
		for range 3 {
			l.Observe(Access{Object: s, Offset: by, Length: by})
		}
	})
}

func TestMemoryIsBounded(t *testing.T) {
	l := newLearner(t)
	r := rand.New(rand.NewPCG(1, 1))
	for i := range 20_000 {
		l.Observe(whole(fmt.Sprintf("%c%c%d/%d", 'a'+i%26, 'a'+(i/26)%26, r.IntN(100), r.IntN(1000))))
		l.Observe(whole(strings.Repeat("x", i%50) + fmt.Sprint(i)))
	}
	if l.shapes.Len() > maxShapes || l.pending.Len() > maxPending || l.streams.Len() > maxObjects || len(l.recent) != 64 {
		t.Errorf("%d shapes, %d hopes, %d streams", l.shapes.Len(), l.pending.Len(), l.streams.Len())
	}
	for i := range 600 {
		for j := range 200 {
			l.Observe(whole(fmt.Sprintf("%s/%s", file("d", i), file("", j))))
		}
	}
	if l.sets.Len() > maxSets || l.setRules.Len() > maxShapes {
		t.Errorf("%d sets, %d rules of theirs", l.sets.Len(), l.setRules.Len())
	}
	for _, s := range l.sets.Values() {
		if len(s.members) > maxMembers || len(s.at) != len(s.members) {
			t.Errorf("%d members", len(s.members))
		}
	}
	for _, k := range l.shapes.Keys() {
		if sh, _ := l.shapes.Peek(k); len(sh.rules) > maxRules {
			t.Errorf("%d rules", len(sh.rules))
		}
	}
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{{Chance: 2}, {Chance: -1}, {Window: 1}, {Window: 5000}, {ReadAhead: 1}} {
		if _, err := New(o); firn.KindOf(err) != firn.Invalid {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

func BenchmarkObserve(b *testing.B) {
	l := newLearner(b)
	at := time.Date(2025, 12, 31, 22, 0, 0, 0, time.UTC)
	b.ReportAllocs()
	for b.Loop() {
		at = at.Add(5 * time.Minute)
		l.Observe(whole(at.Format("camera/2006/01/02/15-04-05")))
	}
}
