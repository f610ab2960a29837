package object

import (
	"sync"

	"firn"
)

// ErrQuota is returned by writes that would bring a bucket above its quota.
var ErrQuota = firn.NewError(firn.Denied, "the bucket's quota is used up")

// Quota bounds what a bucket holds; 0 is no bound. Nothing is removed when a quota is set below what is there: writes
// that add are refused until enough was removed.
type Quota struct {
	Bytes    int64 // of all versions
	Versions int64 // delete markers included, whose making is never refused
}

// quotaState holds what transactions under way will add, so that those at the same time cannot exceed a quota
// together. What they free counts once it is freed.
type quotaState struct {
	mu      sync.Mutex
	pending Usage
}

// reserve charges d, which a transaction is about to add, to the bucket. Where ok, it is given back by settle.
func (b *bucket) reserve(q Quota, d Usage) (ok bool) {
	b.quota.mu.Lock()
	defer b.quota.mu.Unlock()
	u := b.usage().plus(b.quota.pending, 1)
	if q.Bytes > 0 && d.Bytes > 0 && u.Bytes+d.Bytes > q.Bytes || q.Versions > 0 && d.Versions > 0 && u.Versions+d.Versions > q.Versions {
		return false
	}
	b.quota.pending = b.quota.pending.plus(d.added(), 1)
	return true
}

// settle ends a reservation of d, and counts d where it was committed.
func (b *bucket) settle(d Usage, committed bool) {
	b.quota.mu.Lock()
	defer b.quota.mu.Unlock()
	b.quota.pending = b.quota.pending.plus(d.added(), -1)
	if committed {
		b.add(d)
	}
}

// added is what of u is more.
func (u Usage) added() Usage {
	return Usage{Objects: max(0, u.Objects), Versions: max(0, u.Versions), Bytes: max(0, u.Bytes)}
}

// tooLarge reports whether content of a size that a client announced cannot fit, whatever it replaces.
func (q Quota) tooLarge(size int64) bool { return q.Bytes > 0 && size > q.Bytes }
