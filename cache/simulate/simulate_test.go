package simulate

import (
	"bytes"
	"encoding/json"
	"fmt"
	"iter"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"firn"
)

// review is a log of people who look through recordings of cameras: a few minutes of one camera in order, sometimes the
// same minutes of the next one, each file in parts.
func review(t testing.TB, people int) []byte {
	t.Helper()
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	r := rand.New(rand.NewPCG(7, 7))
	now := time.Date(2026, 1, 20, 8, 0, 0, 0, time.UTC)
	const size, part = 8 << 20, 1 << 20
	for range people {
		camera := 1 + r.IntN(40)
		at := time.Date(2026, 1, 1+r.IntN(18), r.IntN(24), 5*r.IntN(12), 0, 0, time.UTC)
		files := 3 + r.IntN(15)
		for c := range 1 + r.IntN(2) {
			for i := range files {
				key := fmt.Sprintf("video/camera%d/%s.mp4", camera+c, at.Add(time.Duration(i)*5*time.Minute).Format("2006/01/02/15-04-05"))
				for off := int64(0); off < size; off += part {
					if err := enc.Encode(Access{Time: now, Key: key, Size: size, Offset: off, Length: part}); err != nil {
						t.Fatal(err)
					}
					now = now.Add(2 * time.Second)
				}
			}
		}
		now = now.Add(time.Duration(r.IntN(600)) * time.Second)
	}
	return b.Bytes()
}

func simulate(t testing.TB, log []byte, opt Options) *Report {
	t.Helper()
	rep, err := Run(t.Context(), bytes.NewReader(log), opt)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rep.Results {
		if r.Held > opt.Budget || r.BlockHits > r.Blocks || r.Used > r.Prefetched {
			t.Errorf("%+v", r)
		}
	}
	return rep
}

// pairs are the results of each policy without prefetch and with it, which are printed.
func pairs(t *testing.T, rep *Report) iter.Seq2[Result, Result] {
	t.Helper()
	var b strings.Builder
	if err := rep.Print(&b); err != nil {
		t.Fatal(err)
	}
	t.Logf("\n%s", &b)
	return func(yield func(without, with Result) bool) {
		for i := 0; i < len(rep.Results); i += 2 {
			without, with := rep.Results[i], rep.Results[i+1]
			if without.Prefetch || !with.Prefetch || without.Policy != with.Policy {
				t.Fatalf("%+v %+v", without, with)
			}
			if !yield(without, with) {
				return
			}
		}
	}
}

// TestPrefetchGain: on a review of cameras the learned patterns save most fetches that a reader waits for.
func TestPrefetchGain(t *testing.T) {
	rep := simulate(t, review(t, 60), Options{Budget: 256 << 20})
	for without, with := range pairs(t, rep) {
		if with.HitRatio < without.HitRatio+.5 {
			t.Errorf("%s: %.2f with prefetch, %.2f without", with.Policy, with.HitRatio, without.HitRatio)
		}
		if with.OriginBytes > without.OriginBytes*17/10 || float64(with.Used) < .6*float64(with.Prefetched) {
			t.Errorf("%s: %d bytes fetched, %d without; %d of %d used", with.Policy, with.OriginBytes, without.OriginBytes, with.Used, with.Prefetched)
		}
	}
}

// cases is a log of people who look at cases again and again: each is a directory of files whose names tell nothing, and
// each time most of them are read, in no order.
func cases(t testing.TB, looks int) []byte {
	t.Helper()
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	r := rand.New(rand.NewPCG(9, 9))
	now := time.Date(2026, 1, 20, 8, 0, 0, 0, time.UTC)
	word := func(n int) string {
		p := make([]byte, 12)
		w := rand.New(rand.NewPCG(uint64(n), 1))
		for i := range p {
			p[i] = "abcdefghijklmnopqrstuvwxyz"[w.IntN(26)]
		}
		return string(p)
	}
	for range looks {
		c := r.IntN(160)
		files := 20 + c%40
		for _, f := range r.Perm(files)[:files*9/10] {
			key := fmt.Sprintf("cases/%s/%s.jpg", word(c), word(1000*c+f))
			if err := enc.Encode(Access{Time: now, Key: key, Size: 1 << 20}); err != nil {
				t.Fatal(err)
			}
			now = now.Add(2 * time.Second)
		}
		now = now.Add(time.Duration(r.IntN(3600)) * time.Second)
	}
	return b.Bytes()
}

// TestGainOfSets: of what is read again as a whole, and went cold meanwhile, most is there before it is asked for.
func TestGainOfSets(t *testing.T) {
	rep := simulate(t, cases(t, 480), Options{Budget: 512 << 20})
	for without, with := range pairs(t, rep) {
		if with.HitRatio < without.HitRatio+.2 || with.OriginBytes > without.OriginBytes*13/10 {
			t.Errorf("%s: %.2f with prefetch, %.2f without; %d bytes fetched, %d without", with.Policy, with.HitRatio, without.HitRatio,
				with.OriginBytes, without.OriginBytes)
		}
	}
}

// TestPolicies holds the policies to what they are known for: LRU to a count by hand, the others to resisting a scan.
func TestPolicies(t *testing.T) {
	var log bytes.Buffer
	enc := json.NewEncoder(&log)
	scan := 0
	add := func(key string) {
		if err := enc.Encode(Access{Key: key, Size: 1000}); err != nil {
			t.Fatal(err)
		}
	}
	for range 200 {
		for h := range 20 {
			add(fmt.Sprintf("hot-%c", 'a'+h))
			add(fmt.Sprintf("hot-%c", 'a'+h))
		}
		for range 60 { // each read once, and never again
			add(fmt.Sprint("scan", strings.Repeat("x", scan%7), "-", scan*7919%100_003))
			scan++
		}
	}
	rep := simulate(t, log.Bytes(), Options{Budget: 50 << 10, Block: 1 << 10})
	ratios := map[string]float64{}
	for _, r := range rep.Results {
		if !r.Prefetch {
			ratios[r.Policy] = r.HitRatio
		}
	}
	t.Logf("%v", ratios)
	// 100 reads a round: with LRU the second of each pair hits, and nothing else.
	if got := ratios["lru"]; got != .2 {
		t.Errorf("lru %v", got)
	}
	for _, p := range []string{"tinylfu", "s3fifo"} {
		if ratios[p] < .35 {
			t.Errorf("%s %v: the scan took the place of what is used", p, ratios[p])
		}
	}
}

func TestReadRefuses(t *testing.T) {
	for _, log := range []string{
		"{", `{"size":1}`, `{"key":"a","size":-1}`, `{"key":"a","size":1,"offset":2}`, `{"key":"a","size":10,"offset":5,"length":6}`,
		`{"key":"a","size":9223372036854775807,"offset":1,"length":9223372036854775807}`, `{"key":"a","size":9223372036854775807}`,
		strings.Repeat("x", maxLine+1),
	} {
		if _, err := Run(t.Context(), strings.NewReader(log), Options{Budget: 1 << 20}); firn.KindOf(err) != firn.Invalid {
			t.Errorf("%.60s: %v", log, err)
		}
	}
	for _, o := range []Options{{}, {Budget: 1}, {Budget: 1 << 20, Block: 1}, {Budget: 1 << 20, Policies: []string{"magic"}}, {Budget: 1 << 20, Rate: -1}} {
		if _, err := Run(t.Context(), strings.NewReader(""), o); firn.KindOf(err) != firn.Invalid {
			t.Errorf("%+v: %v", o, err)
		}
	}
	if rep := simulate(t, []byte("\n{\"key\":\"empty\"}\n"), Options{Budget: 1 << 20}); rep.Objects != 1 || rep.Results[0].Reads != 1 {
		t.Errorf("%+v", rep)
	}
}

func FuzzRun(f *testing.F) {
	f.Add([]byte(`{"time":"2026-01-01T00:00:00Z","key":"a/1","size":3000000,"offset":5,"length":7}` + "\n" + `{"key":"a/2","size":10}`))
	f.Fuzz(func(t *testing.T, log []byte) {
		rep, err := Run(t.Context(), bytes.NewReader(log), Options{Budget: 8 << 20})
		if err != nil && firn.KindOf(err) != firn.Invalid {
			t.Fatal(err)
		}
		if err == nil {
			for _, r := range rep.Results {
				if r.Held > rep.Budget {
					t.Fatalf("%+v", r)
				}
			}
		}
	})
}
