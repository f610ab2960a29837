package schedule

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func mustParse(t *testing.T, s string) Times {
	t.Helper()
	v, err := Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestParse(t *testing.T) {
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.Local)
	for s, want := range map[string]time.Time{
		"every 90m":  at.Add(90 * time.Minute),
		"30 2 * * *": time.Date(2026, 3, 5, 2, 30, 0, 0, time.Local),
		"@hourly":    time.Date(2026, 3, 4, 6, 0, 0, 0, time.Local),
	} {
		if got := mustParse(t, s).Next(at); !got.Equal(want) {
			t.Errorf("%s: %v, want %v", s, got, want)
		}
	}
	for _, s := range []string{"", "every", "every 0s", "every -1h", "every x", "* * *", "99 * * * *"} {
		if _, err := Parse(s); err == nil {
			t.Errorf("%q is taken", s)
		}
	}
}

func TestDue(t *testing.T) {
	now := time.Date(2026, 3, 4, 12, 0, 0, 0, time.Local)
	j := Job{Name: "x", Times: mustParse(t, "0 3 * * *")}
	next := time.Date(2026, 3, 5, 3, 0, 0, 0, time.Local)
	for name, c := range map[string]struct{ last, want time.Time }{
		"never ran":            {time.Time{}, next},
		"ran today":            {now.Add(-8 * time.Hour), next},
		"missed last night":    {now.Add(-30 * time.Hour), now},
		"missed for weeks":     {now.Add(-900 * time.Hour), now},
		"a clock years ahead":  {now.Add(20000 * time.Hour), next},
		"a clock an hour fast": {now.Add(time.Hour), next},
	} {
		if got := j.Due(now, c.last); !got.Equal(c.want) {
			t.Errorf("%s: due %v, want %v", name, got, c.want)
		}
	}
	j.Jitter = time.Hour
	if got := j.Due(now, time.Time{}); got.Before(next) || !got.Before(next.Add(time.Hour)) || !got.Equal(j.Due(now, time.Time{})) {
		t.Errorf("with jitter: %v", got)
	}
}

// Two days with a process that stops and starts: runs happen when they should, missed ones once, one at a time in a
// group, and failures are seen until a success.
func TestRunner(t *testing.T) {
	file := filepath.Join(t.TempDir(), "state.json")
	synctest.Test(t, func(t *testing.T) {
		var runs, busy atomic.Int64
		fail := errors.New("no")
		var result atomic.Pointer[error]
		run := func(ctx context.Context) (int64, error) {
			if busy.Add(1) > 1 {
				t.Error("two jobs of a group at once")
			}
			defer busy.Add(-1)
			runs.Add(1)
			select {
			case <-time.After(10 * time.Minute):
			case <-ctx.Done():
				return 0, ctx.Err()
			}
			if e := result.Load(); e != nil {
				return 0, *e
			}
			return 42, nil
		}
		jobs := []Job{
			{Name: "a", Group: "g", Times: mustParse(t, "every 6h"), Run: run},
			{Name: "b", Group: "g", Times: mustParse(t, "every 6h"), Run: run},
		}
		process := func(d time.Duration) *Runner {
			r, err := New(jobs, file, nil)
			if err != nil {
				t.Fatal(err)
			}
			ctx, stop := context.WithTimeout(t.Context(), d)
			defer stop()
			if err := r.Run(ctx); err != nil {
				t.Fatal(err)
			}
			return r
		}
		r := process(25 * time.Hour)
		if n := runs.Load(); n != 8 {
			t.Errorf("%d runs in 25 hours, want 8", n)
		}
		if !r.Healthy() || r.Status()[0].Bytes != 42 {
			t.Errorf("%+v", r.Status())
		}
		time.Sleep(100 * time.Hour) // the process is down
		runs.Store(0)
		result.Store(&fail)
		r = process(time.Hour)
		if n := runs.Load(); n != 2 {
			t.Errorf("%d runs after a pause, want each once", n)
		}
		if s := r.Status(); r.Healthy() || s[0].Failures != 1 || s[0].Error != "no" || s[0].LastSuccess.IsZero() {
			t.Errorf("%+v", s)
		}
		// Stopped in the middle, a run is made up for.
		result.Store(nil)
		runs.Store(0)
		process(5*time.Hour + 5*time.Minute)
		r = process(30 * time.Minute)
		if n := runs.Load(); n < 3 || !r.Healthy() {
			t.Errorf("%d runs, %+v", n, r.Status())
		}
	})
	if err := os.WriteFile(file, []byte("{broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(nil, file, nil); err != nil {
		t.Errorf("a damaged state: %v", err)
	}
}
