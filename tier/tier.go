// Package tier moves the stored bytes of versions between a site's disk and its tiers, and reads them from there.
//
// It owns the order of a move: reserve, copy, read back and compare, catalogue, switch, free. It promises that at each
// moment of it, whatever fails or crashes, a complete copy exists that somebody compared with the original, and that the
// catalogue on a tier knows a version before its local bytes go. It must never decide what is to be moved, and never touch
// the namespace's own files.
package tier

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"firn"
	"firn/blob"
	"firn/object"
	"firn/object/record"
	"firn/tier/plain"
	"firn/tier/turns"
)

// Place is a tier as it is configured.
type Place struct {
	Name  string // for good: versions on the tier name it
	Class string // storage class of the versions on it
	Store *blob.Store
	// Content is its layout on that place; nil is plain.
	Content Content
	// KeepLocal is how long a local copy stays after a move that does not say for how long.
	KeepLocal time.Duration
	// MaxBytes bounds the bytes of the versions on it; 0 is no bound.
	MaxBytes int64
}

// Set is the tiers of a site. It is the object.Remote of its namespace. Its methods may be called concurrently.
type Set struct {
	list  []*place
	names map[string]*place
	now   func() time.Time
}

type place struct {
	Place
	content Content

	mu     sync.Mutex // guards all below
	since  time.Time  // when it was first found away; zero: it answers
	err    error      // why it was, or the last it could not take
	warned string     // what was logged last
	// refused is why it is not this site's to write to; nil where that is not so, or not known.
	refused error
	// catalogue is nil before the tier was claimed.
	catalogue *plain.Catalogue
	coming    int64 // bytes that are being moved to it, where MaxBytes is set
	// uploads are the copies of large versions that were begun.
	uploads map[owner]*upload

	rebuilt atomic.Bool // the namespace has all that the catalogue tells of
	counts  counts

	// writing is held by the one who writes to the catalogue, and guards all below.
	writing sync.Mutex
	// doubts are blobs that are reserved, that no version uses, and of which the catalogue may tell. They are freed once it
	// tells what is so: a catalogue that a lost site is made from must name no blob that is gone.
	doubts []doubt
	// stale: it is not known what the catalogue tells of the doubts, so it is to be written anew.
	stale bool
	// buckets are, by name, the hashes of their records as moves told of them.
	buckets map[string][32]byte
}

// doubt is a blob and the version that it was to be for.
type doubt struct {
	change
	blob record.TierBlob
}

// Status is what is known of a tier without asking it.
type Status struct {
	Name, Class, URL string
	// Ready: it was found to be this site's.
	Ready bool
	// Away is since when it does not answer; zero where it does.
	Away time.Time
	Err  error // why it is away, or not ready
	Done Done  // since the start
}

// Done counts what was done on a tier.
type Done struct {
	Moved, MovedBytes       int64 // versions that went to it
	ResumedBytes            int64 // of these, bytes that were there already when a copy that was cut off went on
	Recalled, RecalledBytes int64 // versions whose bytes came back, for a time or for good
	Removed                 int64 // blobs that nobody needed any more
	Errors                  int64 // calls that failed, but for blobs that are not there
}

type counts struct{ moved, movedBytes, resumedBytes, recalled, recalledBytes, removed, errors atomic.Int64 }

func (c *counts) done() Done {
	return Done{
		Moved: c.moved.Load(), MovedBytes: c.movedBytes.Load(), ResumedBytes: c.resumedBytes.Load(), Recalled: c.recalled.Load(), RecalledBytes: c.recalledBytes.Load(),
		Removed: c.removed.Load(), Errors: c.errors.Load(),
	}
}

// NewSet returns the tiers. now is nil for time.Now. Names and classes must differ: firn.Invalid.
func NewSet(list []Place, now func() time.Time) (*Set, error) {
	if now == nil {
		now = time.Now
	}
	s := &Set{names: map[string]*place{}, now: now}
	classes := map[string]string{}
	for _, p := range list {
		switch {
		case p.Name == "" || p.Class == "" || p.Class == object.StandardClass:
			return nil, firn.NewError(firn.Invalid, fmt.Sprintf("tier %q: a name and a storage class other than %s are needed", p.Name, object.StandardClass))
		case s.names[p.Name] != nil:
			return nil, firn.NewError(firn.Invalid, fmt.Sprintf("two tiers are called %s", p.Name))
		case classes[p.Class] != "":
			return nil, firn.NewError(firn.Invalid, fmt.Sprintf("tiers %s and %s have one storage class, %s", classes[p.Class], p.Name, p.Class))
		}
		t := &place{Place: p, content: p.Content, buckets: map[string][32]byte{}, uploads: map[owner]*upload{}}
		if t.content == nil {
			t.content = plainContent{p.Store}
		}
		s.list, s.names[p.Name], classes[p.Class] = append(s.list, t), t, p.Name
	}
	return s, nil
}

// Status returns the state of all tiers, in the order given.
func (s *Set) Status() []Status {
	list := make([]Status, 0, len(s.list))
	for _, t := range s.list {
		t.mu.Lock()
		st := Status{Name: t.Name, Class: t.Class, URL: t.Store.Name(), Ready: t.catalogue != nil, Away: t.since, Err: t.err, Done: t.counts.done()}
		if st.Err == nil && !st.Ready {
			st.Err = t.refused
		}
		list = append(list, st)
		t.mu.Unlock()
	}
	return list
}

func (s *Set) place(name string) (*place, error) {
	if t := s.names[name]; t != nil {
		return t, nil
	}
	return nil, firn.NewError(firn.NotFound, fmt.Sprintf("tier %s is not configured", name))
}

// opened returns the catalogue of a tier that was found to be this site's.
func (t *place) opened() *plain.Catalogue {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.catalogue
}

func (t *place) awaySince() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.since
}

// reachable is place for reading: what is on a tier that is not configured is not gone.
func (s *Set) reachable(name string) (*place, error) {
	t, err := s.place(name)
	if err != nil {
		err = &firn.Error{Kind: firn.Unavailable, Err: err}
	}
	return t, err
}

// saw notes how a call ended, and adds to the error since when the tier has been away.
func (t *place) saw(now time.Time, err error) error {
	if errors.Is(err, context.Canceled) {
		return err // that was the caller
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil {
		t.since, t.err = time.Time{}, nil
		return nil
	}
	if firn.KindOf(err) != firn.NotFound {
		t.counts.errors.Add(1)
	}
	switch firn.KindOf(err) {
	case firn.Unavailable, firn.Denied:
	case firn.NoSpace:
		t.err = err // it can still be read
		return err
	default: // it has answered
		t.since = time.Time{}
		return err
	}
	if t.err = err; t.since.IsZero() {
		t.since = now
	}
	return &awayError{err, t.Name, t.since}
}

// awayError adds since when its tier has been away to an error of it.
type awayError struct {
	error
	tier  string
	since time.Time
}

func (e *awayError) Error() string {
	return fmt.Sprintf("%s (tier %s is away since %s)", e.error, e.tier, e.since.UTC().Format("2006-01-02 15:04:05 MST"))
}

// Unwrap returns the tier's own error.
func (e *awayError) Unwrap() error { return e.error }

// AwaySince is for object/remote.
func (e *awayError) AwaySince() time.Time { return e.since }

// Open implements object.Remote.
func (s *Set) Open(ctx context.Context, tier, key string, offset, length int64) (io.ReadCloser, error) {
	t, err := s.reachable(tier)
	if err != nil {
		return nil, err
	}
	r, err := t.content.Open(ctx, key, offset, length)
	if err = t.saw(s.now(), err); err != nil {
		return nil, err
	}
	return &watched{r, s, t, ctx}, nil
}

// watched notes a connection that breaks, and takes its bytes from the turn of a move or recall.
type watched struct {
	io.ReadCloser
	s   *Set
	t   *place
	ctx context.Context
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.ReadCloser.Read(p)
	if e := turns.From(w.ctx).Take(w.ctx, n); e != nil {
		return 0, e
	}
	if err != nil && err != io.EOF {
		err = w.t.saw(w.s.now(), err)
	}
	return n, err
}

// Size implements object.Remote.
func (s *Set) Size(ctx context.Context, tier, key string) (int64, error) {
	t, err := s.reachable(tier)
	if err != nil {
		return 0, err
	}
	size, err := t.content.Size(ctx, key)
	return size, t.saw(s.now(), err)
}

// Classes returns the storage classes of the site, STANDARD first and then in the order of the tiers.
func (s *Set) Classes() []string {
	list := []string{object.StandardClass}
	for _, t := range s.list {
		list = append(list, t.Class)
	}
	return list
}

// OfClass returns the name of the tier with a storage class, "" where there is none.
func (s *Set) OfClass(class string) string {
	i := slices.IndexFunc(s.list, func(t *place) bool { return t.Class == class })
	if i < 0 {
		return ""
	}
	return s.list[i].Name
}

// entry is what the catalogue says of a version. raw is its export.
func entry(v *record.Version, raw []byte) plain.Entry {
	e := plain.Entry{
		Bucket: v.Bucket, Key: v.Key, Version: v.ID, Size: v.Size, Modified: v.Modified.UTC(), ETag: v.ETag, Record: raw,
	}
	if e.Version == "" {
		e.Version = record.NullID
	}
	return e
}
