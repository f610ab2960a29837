// Package lease lets one process at a time be the writer of something, by records in a place that all of them reach.
//
// It owns the records: blobs PREFIX/NUMBER, the numbers ascending and never used twice (docs/format/lease.md). Whoever
// created the highest one is the holder, and its number is the fencing token: what was written under a lower one came
// from a holder that has been superseded. It promises never to compare the clocks of two machines: a holder counts up
// the content of its record, and a waiter takes it for dead only when it watched the content stand still for the
// time to live on its own clock. A holder that stood still meanwhile finds out by Check before it commits anything.
// It must never import a driver.
package lease

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"firn"
	"firn/blob"
)

// Record is the content of one lease.
type Record struct {
	Version int `json:"version"`
	// Holder tells one process from another; random.
	Holder string `json:"holder"`
	// Info says for people who it is.
	Info string `json:"info,omitempty"`
	// Count goes up while the holder lives.
	Count uint64 `json:"count"`
	// Released is set by a holder that ended well: the next one need not wait.
	Released bool `json:"released,omitempty"`
	// Moved is set where what the lease protects is now somewhere else, and is being moved there as long as Moving is
	// set. Such a lease never ends.
	Moved  string `json:"moved,omitempty"`
	Moving bool   `json:"moving,omitempty"`

	// Number is the number in the record's key.
	Number uint64 `json:"-"`
}

const (
	version = 1
	limit   = 64 << 10
	// attempts is how often a number that somebody else took meanwhile is followed by the next one.
	attempts = 100
)

// DefaultTTL is how long a record must stand still before its holder is taken for dead.
const DefaultTTL = 30 * time.Second

// Options are the settings of a holder. The zero value is good.
type Options struct {
	// TTL is how long a waiter watches a record that stands still; holders renew three times in it. DefaultTTL where 0.
	TTL time.Duration
	// Info says for people who holds it.
	Info string
	// Former is the Holder of a lease that is known to have ended, such as that of this machine's process before this
	// one: it is not waited for. "" for none.
	Former string
	// Fail returns firn.Locked instead of waiting for another holder.
	Fail bool
	// Seize takes the lease from a holder that lives. It finds out at its next Check.
	Seize bool
	// Moved makes the record one that says that what is protected is being moved to this URL, from the first moment on.
	Moved string
	// Above is a number that the lease's must be higher than, such as that of the place that something was moved from.
	Above uint64
	// Waiting is told, once for each holder, for whom the caller waits; may be nil.
	Waiting func(Record)
}

// ErrMoved is found in errors where what the lease protects is somewhere else now.
var ErrMoved = errors.New("it has been moved")

// Lease is one that is held.
type Lease struct {
	store  *blob.Store
	prefix string
	ttl    time.Duration

	writing sync.Mutex // held while the record is written
	mu      struct {
		sync.Mutex
		rec Record
	}
}

// Look returns the highest record, and firn.NotFound where there is none yet.
func Look(ctx context.Context, store *blob.Store, prefix string) (Record, error) {
	for range 3 {
		n, err := top(ctx, store, prefix)
		if err != nil {
			return Record{}, err
		}
		if n == 0 {
			return Record{}, &firn.Error{Kind: firn.NotFound, Op: "find", Subject: prefix + " in " + store.Name(), Err: errors.New("nobody ever held it")}
		}
		p, err := store.ReadAll(ctx, key(prefix, n), limit)
		if firn.KindOf(err) == firn.NotFound {
			continue // a later one is there, whose holder removed it
		}
		if err != nil {
			return Record{}, err
		}
		r, err := Parse(p)
		r.Number = n
		return r, firn.E("read", key(prefix, n)+" in "+store.Name(), err)
	}
	return Record{}, &firn.Error{Kind: firn.Unavailable, Op: "find", Subject: prefix + " in " + store.Name(), Err: errors.New("it changes hands all the time")}
}

// top returns the highest number, 0 for none.
func top(ctx context.Context, store *blob.Store, prefix string) (uint64, error) {
	var highest uint64
	for info, err := range store.List(ctx, prefix+"/") {
		if err != nil {
			return 0, err
		}
		if n, ok := number(prefix, info.Key); ok {
			highest = max(highest, n)
		}
	}
	return highest, nil
}

// Parse reads a record. It fails with firn.Corrupt, and with firn.Unsupported for one of a later version.
func Parse(p []byte) (Record, error) {
	var r Record
	if err := json.Unmarshal(p, &r); err != nil {
		return Record{}, &firn.Error{Kind: firn.Corrupt, Err: fmt.Errorf("this is no lease: %w", err)}
	}
	if r.Version != version {
		return Record{}, firn.NewError(firn.Unsupported, "a lease of a later version of firn: update this one")
	}
	return r, nil
}

func key(prefix string, n uint64) string { return fmt.Sprintf("%s/%020d", prefix, n) }

func number(prefix, key string) (uint64, bool) {
	s, ok := strings.CutPrefix(key, prefix+"/")
	n, err := strconv.ParseUint(s, 10, 64)
	return n, ok && err == nil && len(s) == 20 && n > 0
}

// Acquire makes the caller the holder, and waits for that as long as another one lives. It fails with firn.Unsupported
// where the place cannot create a blob only if it is not there, and with ErrMoved.
func Acquire(ctx context.Context, store *blob.Store, prefix string, o Options) (*Lease, error) {
	if o.TTL <= 0 {
		o.TTL = DefaultTTL
	}
	if err := blob.CheckKey(key(prefix, 1)); err != nil {
		return nil, err
	}
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	l := &Lease{store: store, prefix: prefix, ttl: o.TTL}
	l.mu.rec = Record{Version: version, Holder: hex.EncodeToString(id[:]), Info: o.Info, Count: 1, Moved: o.Moved, Moving: o.Moved != ""}
	var seen Record
	var since time.Time
	for range attempts {
		for {
			top, err := Look(ctx, store, prefix)
			if firn.KindOf(err) == firn.NotFound {
				top, err = Record{Released: true}, nil
			}
			if err != nil {
				return nil, err
			}
			now := time.Now()
			if seen.Number != top.Number || seen.Count != top.Count {
				if seen.Number != top.Number && o.Waiting != nil && !free(top, o) && !o.Fail && top.Moved == "" {
					o.Waiting(top)
				}
				seen, since = top, now
			}
			if top.Moved != "" {
				return nil, moved(l, top)
			}
			if free(top, o) || now.Sub(since) >= o.TTL {
				break
			}
			if o.Fail {
				return nil, &firn.Error{
					Kind: firn.Locked, Op: "lock", Subject: l.name(),
					Err: fmt.Errorf("%s holds it: two writers would undo each other's work", who(top)),
				}
			}
			if err := sleep(ctx, min(o.TTL/6, max(o.TTL-now.Sub(since), time.Millisecond))); err != nil {
				return nil, err
			}
		}
		ok, err := l.take(ctx, max(seen.Number, o.Above)+1)
		if err != nil {
			return nil, err
		}
		if ok {
			return l, nil
		}
	}
	return nil, &firn.Error{Kind: firn.Unavailable, Op: "lock", Subject: l.name(), Err: errors.New("others were faster each time")}
}

// free reports whether r need not be watched.
func free(r Record, o Options) bool {
	return r.Moved == "" && (r.Released || o.Seize || o.Former != "" && r.Holder == o.Former)
}

func moved(l *Lease, r Record) error {
	return &firn.Error{Kind: firn.Conflict, Op: "lock", Subject: l.name(), Err: fmt.Errorf("%w to %s: use that", ErrMoved, r.Moved)}
}

func who(r Record) string {
	if r.Info == "" {
		return "another process"
	}
	return r.Info
}

func (l *Lease) name() string { return l.prefix + " in " + l.store.Name() }

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// take creates the record n. ok is false where somebody else was faster.
func (l *Lease) take(ctx context.Context, n uint64) (ok bool, err error) {
	rec := l.Record()
	rec.Number = n
	p, err := json.Marshal(rec)
	if err != nil {
		return false, err
	}
	err = l.store.Create(ctx, key(l.prefix, n), blob.Bytes(p))
	switch firn.KindOf(err) {
	case firn.Exists, firn.Unavailable:
		// It may be ours: created, and the answer lost.
		q, rerr := l.store.ReadAll(ctx, key(l.prefix, n), limit)
		if firn.KindOf(rerr) == firn.NotFound && firn.KindOf(err) == firn.Exists {
			return false, nil
		}
		if rerr != nil {
			return false, errors.Join(err, rerr)
		}
		if r, perr := Parse(q); perr != nil || r.Holder != rec.Holder {
			return false, nil
		}
	default:
		if err != nil {
			return false, err
		}
	}
	// Whoever was slow may have created a number that was used and removed long ago: only the highest one counts.
	var old []string
	for info, err := range l.store.List(ctx, l.prefix+"/") {
		if err != nil {
			return false, err
		}
		if m, ok := number(l.prefix, info.Key); ok && m > n {
			return false, l.store.Delete(ctx, key(l.prefix, n))
		} else if ok && m < n {
			old = append(old, info.Key)
		}
	}
	l.mu.Lock()
	l.mu.rec.Number = n
	l.mu.Unlock()
	return true, l.store.Delete(ctx, old...)
}

// Record returns what the holder wrote last.
func (l *Lease) Record() Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.rec
}

// Number is the fencing token.
func (l *Lease) Number() uint64 { return l.Record().Number }

// Superseded is the error of Check where another holder has come; errors.As finds it.
type Superseded struct{ By Record }

func (s *Superseded) Error() string {
	if s.By.Moved != "" {
		return "it has been moved to " + s.By.Moved
	}
	return who(s.By) + " has taken it over"
}

// Is makes ErrMoved found in what has been moved.
func (s *Superseded) Is(target error) bool { return target == ErrMoved && s.By.Moved != "" }

// Check asks the place whether the lease is still held. It fails with firn.Conflict and a *Superseded where it is not:
// then nothing may be written any more.
func (l *Lease) Check(ctx context.Context) error {
	n := l.Number()
	newest, err := top(ctx, l.store, l.prefix)
	if err != nil || newest == n {
		return err
	}
	err = errors.New("its record is gone: somebody removed it")
	if newest > n {
		by, lerr := Look(ctx, l.store, l.prefix)
		if lerr != nil && firn.KindOf(lerr) != firn.NotFound {
			return lerr
		}
		err = &Superseded{by}
	}
	return &firn.Error{Kind: firn.Conflict, Op: "keep", Subject: l.name(), Err: err}
}

// Renew shows that the holder lives.
func (l *Lease) Renew(ctx context.Context) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	if err := l.Check(ctx); err != nil {
		return err
	}
	return l.put(ctx, func(r *Record) { r.Count++ })
}

// put changes the record. The caller holds writing.
func (l *Lease) put(ctx context.Context, change func(*Record)) error {
	rec := l.Record()
	change(&rec)
	p, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	if err := l.store.PutBytes(ctx, key(l.prefix, rec.Number), p); err != nil {
		return err
	}
	l.mu.Lock()
	l.mu.rec = rec
	l.mu.Unlock()
	return nil
}

// Run renews the lease until ctx ends, and returns nil then, or until it is superseded, which it returns. Failures of
// the place are given to report, which may be nil, and tried again.
func (l *Lease) Run(ctx context.Context, report func(error)) error {
	for {
		if sleep(ctx, l.ttl/3) != nil {
			return nil
		}
		attempt, cancel := context.WithTimeout(ctx, l.ttl)
		err := l.Renew(attempt)
		cancel()
		if firn.KindOf(err) == firn.Conflict {
			return err
		}
		if err != nil && ctx.Err() == nil && report != nil {
			report(err)
		}
	}
}

// Release lets the next holder take over at once. A lease that was superseded is released already.
func (l *Lease) Release(ctx context.Context) error {
	return l.end(ctx, func(r *Record) { r.Released = true })
}

// Move says that what the lease protects is being moved to a URL, or with done that it is there. From the first call on
// nobody can acquire it here.
func (l *Lease) Move(ctx context.Context, url string, done bool) error {
	return l.end(ctx, func(r *Record) {
		r.Count++
		r.Moved, r.Moving = url, !done
	})
}

// Stay takes a Move back that did not come to its end, and releases the lease.
func (l *Lease) Stay(ctx context.Context) error {
	return l.end(ctx, func(r *Record) { r.Moved, r.Moving, r.Released = "", false, true })
}

func (l *Lease) end(ctx context.Context, change func(*Record)) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	if err := l.Check(ctx); err != nil {
		return err
	}
	return l.put(ctx, change)
}

// TakeBack lets what a Move that was cut off began to move stay: r is the record that Look returned.
func TakeBack(ctx context.Context, store *blob.Store, prefix string, r Record) error {
	l := &Lease{store: store, prefix: prefix}
	l.mu.rec = r
	return l.Stay(ctx)
}
