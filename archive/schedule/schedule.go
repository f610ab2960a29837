// Package schedule runs jobs at their times: backups, restore drills, prunes.
//
// It promises that a run that was missed, since the machine or the process was down, is made up for once; that jobs of
// one group, a repository, run one at a time; that a job that fails is tried again at its next time and said to be
// failing until it succeeds; and that what it knows survives a restart. It knows nothing of what jobs do and must never
// import another package of this module besides the vocabulary at the root.
package schedule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/robfig/cron/v3"

	"firn"
)

// Times says when a job runs.
type Times interface {
	// Next returns the first time after t.
	Next(t time.Time) time.Time
}

type interval time.Duration

func (i interval) Next(t time.Time) time.Time { return t.Add(time.Duration(i)) }

// Parse reads "every 6h" (an interval since the last run began) or the five fields of cron, or @hourly, @daily, @weekly,
// @monthly, @yearly, in local time.
func Parse(s string) (Times, error) {
	if rest, ok := strings.CutPrefix(s, "every "); ok {
		d, err := time.ParseDuration(strings.TrimSpace(rest))
		if err != nil || d < time.Second {
			return nil, firn.NewError(firn.Invalid, fmt.Sprintf("schedule %q: want an interval of a second or more, such as every 6h", s))
		}
		return interval(d), nil
	}
	t, err := cron.ParseStandard(s)
	if err != nil {
		return nil, firn.NewError(firn.Invalid, fmt.Sprintf("schedule %q: want \"every 6h\", @daily, or minute, hour, day, month and weekday as of cron: %v", s, err))
	}
	return t, nil
}

// Job is something to do again and again.
type Job struct {
	// Name is unique and stays the same over restarts.
	Name string
	// Group: jobs of one group do not run at the same time.
	Group string
	Times Times
	// Jitter moves each run back by up to that much, the same for one job always, so that many sites do not begin
	// together.
	Jitter time.Duration
	// Run does it and returns how many bytes it stored or read, for metrics.
	Run func(ctx context.Context) (bytes int64, err error)
}

// Due returns when the job runs next: since is when the runner began, last when the job ran last, zero if never. A time
// that was missed is due at once.
func (j *Job) Due(since, last time.Time) time.Time {
	if last.IsZero() || last.After(since) && last.Sub(since) > 366*24*time.Hour {
		// Never, or by a clock that was far ahead.
		last = since
	}
	at := j.Times.Next(last)
	if at.IsZero() {
		return at
	}
	at = at.Add(j.jitter())
	if at.Before(since) {
		return since.Add(min(j.jitter(), time.Minute))
	}
	return at
}

func (j *Job) jitter() time.Duration {
	if j.Jitter <= 0 {
		return 0
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(j.Name)) // never fails
	return time.Duration(h.Sum64() % uint64(j.Jitter))
}

// Status is what is known of a job.
type Status struct {
	Name        string        `json:"name"`
	Group       string        `json:"group"`
	Running     bool          `json:"running"`
	Next        time.Time     `json:"next"`
	LastStart   time.Time     `json:"last_start,omitzero"`
	LastSuccess time.Time     `json:"last_success,omitzero"`
	Duration    time.Duration `json:"duration_ns"` // of the last run
	Bytes       int64         `json:"bytes"`       // of the last run that succeeded
	Failures    int64         `json:"failures"`    // in a row
	Error       string        `json:"error,omitempty"`
}

// Runner runs jobs.
type Runner struct {
	jobs  []Job
	file  string
	log   *slog.Logger
	since time.Time
	mu    struct {
		sync.Mutex
		status []Status
	}
}

// maxState bounds the file of what is known.
const maxState = 4 << 20

// New returns a runner that keeps what it knows in file, or nowhere where file is "". A file that is damaged is set aside: then each
// job runs at its next time.
func New(jobs []Job, file string, log *slog.Logger) (*Runner, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	r := &Runner{jobs: jobs, file: file, log: log, since: time.Now()}
	known, err := r.load()
	if err != nil {
		return nil, err
	}
	for _, j := range jobs {
		s := Status{Name: j.Name}
		for _, k := range known {
			if k.Name == j.Name {
				s = k
			}
		}
		s.Group, s.Running = j.Group, false
		r.mu.status = append(r.mu.status, s)
	}
	return r, nil
}

func (r *Runner) load() ([]Status, error) {
	if r.file == "" {
		return nil, nil
	}
	st, err := os.Stat(r.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var b []byte
	if err == nil && st.Size() <= maxState {
		b, err = os.ReadFile(r.file)
	}
	if err != nil {
		return nil, firn.E("read schedule state", "", err)
	}
	var known []Status
	if err := json.Unmarshal(b, &known); err != nil {
		r.log.Warn("what is known of earlier runs is damaged and set aside", "file", r.file, "error", err)
		return nil, os.Rename(r.file, r.file+".damaged")
	}
	return known, nil
}

// save keeps what is known. A crash leaves the old file or the new one.
func (r *Runner) save() error {
	if r.file == "" {
		return nil
	}
	b, err := json.MarshalIndent(r.Status(), "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(r.file), ".schedule-")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), r.file)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // the first error counts
	}
	return err
}

// Status returns what is known of each job.
func (r *Runner) Status() []Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.mu.status)
}

// Healthy reports whether no job has failed in its last run.
func (r *Runner) Healthy() bool {
	for _, s := range r.Status() {
		if s.Failures > 0 {
			return false
		}
	}
	return true
}

// Run runs the jobs until ctx ends, and waits for those under way: they end with ctx too.
func (r *Runner) Run(ctx context.Context) error {
	groups := map[string]chan struct{}{}
	for _, j := range r.jobs {
		if groups[j.Group] == nil {
			groups[j.Group] = make(chan struct{}, 1)
		}
	}
	var wg sync.WaitGroup
	for i := range r.jobs {
		wg.Go(func() { r.loop(ctx, i, groups[r.jobs[i].Group]) })
	}
	wg.Wait()
	return nil
}

// loop runs one job again and again.
func (r *Runner) loop(ctx context.Context, i int, group chan struct{}) {
	j := &r.jobs[i]
	since := r.since
	for {
		at := j.Due(since, r.Status()[i].LastStart)
		if at.IsZero() {
			r.log.Warn("this job never runs: its schedule has no time", "job", j.Name)
			return
		}
		r.update(i, func(s *Status) { s.Next = at })
		// The clock may be set while it is waited for: it is looked at now and then.
		for wait := time.Until(at); wait > 0; wait = time.Until(at) {
			t := time.NewTimer(min(wait, time.Minute))
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
				return
			}
		}
		select {
		case group <- struct{}{}:
		case <-ctx.Done():
			return
		}
		r.once(ctx, i)
		<-group
		since = time.Now()
	}
}

func (r *Runner) update(i int, fn func(*Status)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fn(&r.mu.status[i])
}

// once runs a job.
func (r *Runner) once(ctx context.Context, i int) {
	j := &r.jobs[i]
	begin := time.Now()
	r.update(i, func(s *Status) { s.Running = true })
	r.log.Info("job begins", "job", j.Name)
	bytes, err := j.Run(ctx)
	took := time.Since(begin)
	stopped := err != nil && ctx.Err() != nil
	r.update(i, func(s *Status) {
		s.Running = false
		switch {
		case stopped: // by the end of the process: the next one makes up for it
			return
		case err != nil:
			s.Failures++
			s.Error = err.Error()
		default:
			s.Failures, s.Error, s.LastSuccess, s.Bytes = 0, "", time.Now(), bytes
		}
		s.LastStart, s.Duration = begin, took
	})
	switch {
	case stopped:
		r.log.Warn("job was stopped: it begins anew at the next start", "job", j.Name)
	case err != nil:
		r.log.Error("job failed", "job", j.Name, "took", took, "error", err)
	default:
		r.log.Info("job done", "job", j.Name, "took", took, "bytes", bytes)
	}
	if err := r.save(); err != nil {
		r.log.Error("what is known of runs could not be kept: after a restart they may be repeated", "file", r.file, "error", err)
	}
}
