package lifecycle

import (
	"encoding/binary"
	"slices"
	"time"

	"firn"
)

// Buckets is how many days reads are counted by day.
const Buckets = 8

// Use is how a version was read. The zero Use was never read.
type Use struct {
	Last  time.Time // to the second; zero is never
	Reads uint64    // since reads are counted
	// recent are the reads of the days today, today-1, ... in UTC, today being a day's number since 1970.
	recent [Buckets]uint32
	today  int64
}

func dayNumber(t time.Time) int64 { return t.Unix() / int64(Day/time.Second) }

// Read counts n reads, the last of them at t. Reads may be counted in any order. With n 0 it notes the time alone.
func (u *Use) Read(n uint64, t time.Time) {
	d := dayNumber(t)
	if d > u.today {
		if by := d - u.today; by >= Buckets {
			u.recent = [Buckets]uint32{}
		} else {
			copy(u.recent[by:], u.recent[:Buckets-by])
			clear(u.recent[:by])
		}
		u.today = d
	}
	if ago := u.today - d; ago < Buckets {
		u.recent[ago] = uint32(min(uint64(u.recent[ago])+n, 1<<32-1))
	}
	if u.Reads += n; u.Reads < n {
		u.Reads = 1<<64 - 1
	}
	if t = t.Truncate(time.Second); t.After(u.Last) {
		u.Last = t
	}
}

// Add counts what o counted, too.
func (u *Use) Add(o Use) {
	known := uint64(0)
	for ago := Buckets - 1; ago >= 0; ago-- {
		if n := uint64(o.recent[ago]); n > 0 {
			u.Read(n, time.Unix((o.today-int64(ago))*int64(Day/time.Second), 0))
			known += n
		}
	}
	if rest := o.Reads - min(known, o.Reads); u.Reads+rest >= u.Reads {
		u.Reads += rest
	} else {
		u.Reads = 1<<64 - 1
	}
	if o.Last.After(u.Last) {
		u.Last = o.Last
	}
}

// Within returns how many reads were counted on the UTC days that the time window before now touches: up to one day
// more than the window, never less.
func (u *Use) Within(window time.Duration, now time.Time) uint64 {
	var n uint64
	from := dayNumber(now.Add(-window))
	for ago, c := range u.recent {
		if u.today-int64(ago) >= from {
			n += uint64(c)
		}
	}
	return n
}

const (
	useVersion = 1
	farDay     = 100_000_000 // days, beyond which seconds and dates stop being exact
)

// MarshalBinary writes u in the format of docs/format/use.md. It never fails.
func (u Use) MarshalBinary() ([]byte, error) {
	p := []byte{useVersion}
	last := int64(0)
	if !u.Last.IsZero() {
		last = u.Last.Unix()
	}
	p = binary.AppendVarint(p, last)
	p = binary.AppendUvarint(p, u.Reads)
	p = binary.AppendVarint(p, u.today)
	n := Buckets
	for n > 0 && u.recent[n-1] == 0 {
		n--
	}
	for _, c := range u.recent[:n] {
		p = binary.AppendUvarint(p, uint64(c))
	}
	return p, nil
}

// UnmarshalBinary reads what MarshalBinary wrote. firn.Corrupt is anything else.
func (u *Use) UnmarshalBinary(p []byte) error {
	bad := firn.NewError(firn.Corrupt, "the record of an object's reads is damaged or of a later version")
	if len(p) == 0 || p[0] != useVersion {
		return bad
	}
	p = p[1:]
	ok := true
	signed := func() int64 {
		v, n := binary.Varint(p)
		if ok = ok && n > 0; ok {
			p = p[n:]
		}
		return v
	}
	unsigned := func() uint64 {
		v, n := binary.Uvarint(p)
		if ok = ok && n > 0; ok {
			p = p[n:]
		}
		return v
	}
	var r Use
	if last := signed(); last != 0 {
		r.Last = time.Unix(last, 0)
	}
	r.Reads, r.today = unsigned(), signed()
	if r.today < -farDay || r.today > farDay {
		return bad
	}
	for i := 0; ok && len(p) > 0; i++ {
		c := unsigned()
		if i >= Buckets || c > 1<<32-1 {
			return bad
		}
		r.recent[i] = uint32(c)
	}
	if !ok {
		return bad
	}
	*u = r
	return nil
}

// Recent returns the reads by day, the newest of the days first, and that day.
func (u *Use) Recent() (counts []uint32, newest time.Time) {
	return slices.Clone(u.recent[:]), time.Unix(u.today*int64(Day/time.Second), 0).UTC()
}
