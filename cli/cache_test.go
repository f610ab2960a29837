package cli

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"firn/cache/simulate"
)

func TestCacheSimulate(t *testing.T) {
	s := newShell(t)
	var log strings.Builder
	for i := range 100 {
		fmt.Fprintf(&log, `{"time":"2026-01-01T%02d:%02d:00Z","key":"cam/%d","size":2000000}`+"\n", i/60, i%60, i%50)
	}
	write(t, "log", []byte(log.String()))
	out := s.ok("cache", "simulate", "--budget", "200MiB", "log")
	for _, want := range []string{"50 objects of 95.4 MiB together", "lru", "tinylfu", "s3fifo", "50.0 %"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	var rep simulate.Report
	if err := json.Unmarshal([]byte(s.ok("cache", "simulate", "--policy", "lru", "--json", "log")), &rep); err != nil {
		t.Fatal(err)
	}
	if len(rep.Results) != 2 || rep.Results[0].HitRatio != .5 || rep.Results[1].HitRatio < .9 {
		t.Errorf("%+v", rep.Results)
	}
	write(t, "bad", []byte("{\"key\":\"a\",\"size\":1}\nnonsense\n"))
	for _, args := range [][]string{{"bad"}, {"log", "--budget", "1"}, {"log", "--policy", "magic"}, {"log", "--rate", "x"}, {}} {
		if r := s.run(append([]string{"cache", "simulate"}, args...)...); r.code != exitUsage {
			t.Errorf("%v: %+v", args, r)
		}
	}
	if r := s.run("cache", "simulate", "bad"); !strings.Contains(r.err, "line 2") {
		t.Errorf("%+v", r)
	}
	if r := s.run("cache", "simulate", "missing"); r.code != exitFailed {
		t.Errorf("%+v", r)
	}
}
