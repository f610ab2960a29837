// Package hlc is the hybrid logical clock that orders writes across sites: wall time where it can be,
// a counter where it must be.
//
// It promises readings that grow strictly within one Clock, whatever the wall clock does, and never fall
// behind a reading observed from elsewhere. It owns no storage: the caller seeds it with the newest reading
// it finds on disk. It must never import another package of this module.
//
// Source: Kulkarni et al., "Logical Physical Clocks", 2014, in the 64-bit layout of 48 bits of milliseconds
// and 16 bits of counter.
package hlc

import (
	"errors"
	"sync/atomic"
	"time"
)

// Time is one reading: milliseconds since 1970 in the upper 48 bits, a counter in the lower 16.
type Time uint64

const counterBits = 16

// FromWall returns the earliest reading of t's millisecond. Times before 1970 give 0.
func FromWall(t time.Time) Time {
	ms := t.UnixMilli()
	if ms < 0 {
		return 0
	}
	return Time(uint64(ms) << counterBits)
}

// Wall returns the wall part, in UTC, to the millisecond.
func (t Time) Wall() time.Time { return time.UnixMilli(t.Milli()).UTC() }

// Milli returns the wall part in milliseconds since 1970.
func (t Time) Milli() int64 { return int64(t >> counterBits) }

// ErrDrift is returned by Observe for a reading too far ahead of the local wall clock to be believed.
var ErrDrift = errors.New("hlc: a remote clock is too far ahead")

// Clock hands out readings. The zero value is not usable.
type Clock struct {
	last atomic.Uint64
	now  func() time.Time
}

// New returns a clock over the wall clock now.
func New(now func() time.Time) *Clock { return &Clock{now: now} }

// Now returns a reading greater than every one returned or observed before.
func (c *Clock) Now() Time {
	for {
		last := c.last.Load()
		next := uint64(FromWall(c.now()))
		if next <= last {
			next = last + 1
		}
		if c.last.CompareAndSwap(last, next) {
			return Time(next)
		}
	}
}

// Last returns the newest reading handed out or observed, 0 where there is none.
func (c *Clock) Last() Time { return Time(c.last.Load()) }

// Seed makes all later readings greater than t, without asking whether t is plausible. It is for readings
// found in this site's own storage, which may not be taken back even if the wall clock was wrong then.
func (c *Clock) Seed(t Time) {
	for {
		last := c.last.Load()
		if uint64(t) <= last || c.last.CompareAndSwap(last, uint64(t)) {
			return
		}
	}
}

// Observe makes all later readings greater than t, a reading of another site. ErrDrift where t is more than
// maxDrift ahead of the wall clock: one site with a broken clock must not drag all others along.
func (c *Clock) Observe(t Time, maxDrift time.Duration) error {
	if t.Wall().Sub(c.now()) > maxDrift {
		return ErrDrift
	}
	c.Seed(t)
	return nil
}
