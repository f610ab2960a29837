package mirror

import (
	"context"
	"fmt"
	"io"
	"time"

	"firn"
	"firn/blob/driver"
)

// Report says what Repair did.
type Report struct {
	Copied  int // blobs written to a member that lacked them or had them wrong
	Deleted int // blobs removed from a member that had missed their deletion
	Left    int // debts that could not be paid: their member, or every right copy, is away
}

// Repair pays debts, settles doubts that reads and listings left, and fills members that have not got everything. With
// all it compares the members' whole listings, by name and size. It works beside readers and writers. Debts that cannot
// be paid now are no error.
func (m *Mirror) Repair(ctx context.Context, all bool) (Report, error) {
	m.refresh(ctx)
	var r Report
	var filling []*member
	for _, b := range m.there() {
		if !m.isTrusted(b) {
			filling = append(filling, b)
		}
	}
	if all || len(filling) > 0 {
		complete := true
		err := m.list(ctx, "", func(driver.Info) error { return nil }, func(key string) error {
			ok, err := m.examine(ctx, key, 0, &r)
			complete = complete && ok
			return err
		})
		if err != nil {
			return r, err
		}
		for _, b := range filling {
			if !complete || m.away(b) != nil {
				continue
			}
			if err := m.writeIdentity(ctx, b, m.set(), false); err != nil {
				return r, firn.E("mirror", b.Name, err)
			}
			m.mu.Lock()
			b.trusted = true
			m.mu.Unlock()
		}
	}
	m.mu.Lock()
	doubts := m.mu.doubts
	m.mu.doubts = map[string]int{}
	owed := map[string]bool{}
	for _, b := range m.members {
		for _, key := range b.owed {
			owed[key] = true
		}
	}
	m.mu.Unlock()
	for key := range owed {
		if _, ok := doubts[key]; !ok {
			doubts[key] = 0
		}
	}
	for key, damaged := range doubts {
		ok, err := m.examine(ctx, key, damaged, &r)
		if err != nil {
			return r, err
		}
		if !ok && !owed[key] {
			m.doubt(key, damaged)
		}
	}
	for _, s := range m.Status() {
		r.Left += s.Owed
	}
	return r, nil
}

// Run repairs at every interval until ctx ends, and compares everything at every hundredth.
func (m *Mirror) Run(ctx context.Context, interval time.Duration) error {
	t := time.NewTicker(interval)
	defer t.Stop()
	for i := 1; ; i++ {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
		// What fails now is tried at the next interval; Status tells what is left.
		if _, err := m.Repair(ctx, i%100 == 0); err != nil && ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// examine makes the copies of one blob the same, while no change of it runs in this process. It reports whether they are.
func (m *Mirror) examine(ctx context.Context, key string, damaged int, r *Report) (bool, error) {
	unlock, err := m.lock(ctx, key)
	if err != nil {
		return false, err
	}
	defer unlock()
	there := m.there()
	infos := make([]driver.Info, len(m.members))
	errs := make([]error, len(m.members))
	right := -1 // the member whose copy is right
	gone := false
	complete := len(there) == len(m.members)
	for _, b := range there {
		infos[b.index], errs[b.index] = b.Driver.Stat(ctx, key)
		err := errs[b.index]
		if e := ctx.Err(); e != nil {
			return false, e
		}
		m.failed(ctx, b, err)
		believed := !m.isOwed(b, key) && damaged&(1<<b.index) == 0
		switch {
		case err == nil && believed && right < 0:
			right = b.index
		case firn.KindOf(err) == firn.NotFound && believed && m.isTrusted(b):
			gone = true
		}
	}
	if right < 0 && !gone {
		return false, nil // nobody there knows
	}
	for _, b := range there {
		err := errs[b.index]
		kind := firn.KindOf(err)
		if b.index == right || err != nil && kind != firn.NotFound && kind != firn.Corrupt {
			complete = complete && b.index == right
			continue
		}
		owed := m.isOwed(b, key)
		switch {
		case right >= 0 && (err != nil || owed || damaged&(1<<b.index) != 0 || infos[b.index].Size != infos[right].Size):
			err = b.Driver.Put(ctx, key, copied{ctx, m.members[right].Driver, key, infos[right].Size})
			if err == nil {
				r.Copied++
			} else if firn.KindOf(err) == firn.Corrupt {
				m.doubt(key, 1<<right) // the source was no good; another may be
			}
		case right < 0 && owed:
			err = b.Driver.Delete(ctx, key)
			if err == nil {
				r.Deleted++
			}
		case right < 0 && kind == firn.NotFound:
			err = nil
		case right < 0:
			err = firn.NewError(firn.Corrupt, "its copy is damaged, and no other is left")
		default:
			err = nil
		}
		if e := ctx.Err(); e != nil {
			return false, e
		}
		m.failed(ctx, b, err)
		switch {
		case err != nil:
			complete = false
		case owed:
			m.forget(ctx, b, key)
		}
	}
	return complete, nil
}

// copied is a member's blob as a source.
type copied struct {
	ctx  context.Context
	from driver.Driver
	key  string
	size int64
}

func (c copied) Size() int64 { return c.size }

func (c copied) Open() (io.ReadCloser, error) {
	rc, err := c.from.Get(c.ctx, c.key, 0, -1)
	if err != nil {
		return nil, fmt.Errorf("copy from another member: %w", err)
	}
	return rc, nil
}
