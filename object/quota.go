package object

import (
	"sync"

	"firn"
	"firn/object/record"
)

// ErrQuota is returned by writes that would bring a bucket above its quota.
var ErrQuota = firn.NewError(firn.Denied, "the bucket's quota is used up")

// quotaState holds what transactions under way will add, so that those at the same time cannot exceed a quota
// together. What they free counts once it is freed.
type quotaState struct {
	mu      sync.Mutex
	pending record.Usage
}

// reserve charges d, which a transaction is about to add, to the bucket. Where ok, it is given back by settle.
func (b *bucket) reserve(q record.Quota, d record.Usage) (ok bool) {
	b.quota.mu.Lock()
	defer b.quota.mu.Unlock()
	u := b.usage().Plus(b.quota.pending, 1)
	if q.Bytes > 0 && d.Bytes > 0 && u.Bytes+d.Bytes > q.Bytes || q.Versions > 0 && d.Versions > 0 && u.Versions+d.Versions > q.Versions {
		return false
	}
	b.quota.pending = b.quota.pending.Plus(d.Added(), 1)
	return true
}

// settle ends a reservation of d, and counts d where it was committed.
func (b *bucket) settle(d record.Usage, committed bool) {
	b.quota.mu.Lock()
	defer b.quota.mu.Unlock()
	b.quota.pending = b.quota.pending.Plus(d.Added(), -1)
	if committed {
		b.add(d)
	}
}
