// Package pace bounds what each user takes of a site: requests a second, requests at once, bytes a second.
//
// It promises that one user's bounds never depend on another's use, that a user within the bounds is never refused,
// and that its memory is bounded however many names it is asked about. It must never import another package of this
// module.
package pace

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Limits bound one user. Zero fields set no bound.
type Limits struct {
	Requests   int   // a second, with twice as many at once
	Concurrent int   // requests under way
	Bytes      int64 // a second, in and out together; at least MinBytes
}

// MinBytes is the least bound on bytes a second: less would let connections time out while they wait.
const MinBytes = 64 << 10

// DefaultUsers is how many users are remembered where New is not told.
const DefaultUsers = 10_000

// Users keeps the state of users under one set of limits. All methods may be called concurrently.
type Users struct {
	limits Limits
	max    int
	now    func() time.Time

	mu struct {
		sync.Mutex
		m map[string]*User
	}
}

// New returns Users that remember at most max names; 0 is DefaultUsers. now is the clock; nil is time.Now.
func New(limits Limits, max int, now func() time.Time) *Users {
	if max <= 0 {
		max = DefaultUsers
	}
	if now == nil {
		now = time.Now
	}
	u := &Users{limits: limits, max: max, now: now}
	u.mu.m = map[string]*User{}
	return u
}

// User is one user's state while one of the user's requests is under way.
type User struct {
	owner    *Users
	limits   Limits
	requests *rate.Limiter // nil without bound
	bytes    *rate.Limiter // nil without bound

	// Guarded by the owner's lock.
	active int
	used   time.Time
}

// None is a field of a user's own Limits that sets no bound whatever the bounds of all are.
const None = -1

// bounds returns the limits of a user with limits of its own, of which fields that are 0 leave those of all in force.
func (u *Users) bounds(own Limits) Limits {
	l := u.limits
	if own.Requests != 0 {
		l.Requests = own.Requests
	}
	if own.Concurrent != 0 {
		l.Concurrent = own.Concurrent
	}
	if own.Bytes != 0 {
		l.Bytes = own.Bytes
	}
	return Limits{max(0, l.Requests), max(0, l.Concurrent), max(0, l.Bytes)}
}

// Begin asks to begin a request of the user with the given name and limits of its own. Where ok, the caller calls End
// once the request is over, unless the user is nil, who is not bound. Where not, the request should be refused, and may
// be tried again after the given time.
func (u *Users) Begin(name string, own Limits) (user *User, after time.Duration, ok bool) {
	limits := u.bounds(own)
	if limits == (Limits{}) {
		return nil, 0, true
	}
	now := u.now()
	u.mu.Lock()
	defer u.mu.Unlock()
	user = u.mu.m[name]
	if user == nil {
		u.evict()
	}
	if user == nil || user.limits != limits {
		// Requests under way under limits that were changed go on under those, and are counted with them.
		user = newUser(u, limits)
		u.mu.m[name] = user
	}
	user.used = now
	if limits.Concurrent > 0 && user.active >= limits.Concurrent {
		return nil, time.Second, false
	}
	if user.requests != nil && !user.requests.AllowN(now, 1) {
		return nil, time.Duration(float64(time.Second) / float64(user.requests.Limit())), false
	}
	user.active++
	return user, 0, true
}

func newUser(owner *Users, l Limits) *User {
	user := &User{owner: owner, limits: l}
	if n := l.Requests; n > 0 {
		user.requests = rate.NewLimiter(rate.Limit(n), 2*n)
	}
	if n := max(l.Bytes, MinBytes); l.Bytes > 0 {
		user.bytes = rate.NewLimiter(rate.Limit(n), int(n))
	}
	return user
}

// looked is how many users are looked at to find one to forget.
const looked = 32

// evict makes room for one more: of some users without a request, the one not seen for longest is forgotten. Who is
// forgotten begins with full allowance; a name costs a signature, or an address, to make up.
func (u *Users) evict() {
	if len(u.mu.m) < u.max {
		return
	}
	var oldest string
	var at time.Time
	n := 0
	for name, user := range u.mu.m { // in random order
		if user.active == 0 && (at.IsZero() || user.used.Before(at)) {
			oldest, at = name, user.used
		}
		if n++; n >= looked && !at.IsZero() {
			break
		}
	}
	if !at.IsZero() {
		delete(u.mu.m, oldest)
	}
}

// Len returns how many users are remembered. It exceeds the bound only by users with requests under way, of whom
// there are no more than requests.
func (u *Users) Len() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.mu.m)
}

// End ends a request.
func (u *User) End() {
	u.owner.mu.Lock()
	u.active--
	u.owner.mu.Unlock()
}

// Wait takes n bytes of the user's allowance, and waits until they are there. The error is the context's.
func (u *User) Wait(ctx context.Context, n int) error {
	if u.bytes == nil {
		return nil
	}
	for n > 0 {
		step := min(n, u.bytes.Burst())
		if err := u.bytes.WaitN(ctx, step); err != nil {
			return err
		}
		n -= step
	}
	return nil
}
