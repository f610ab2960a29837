package config

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Size is a number of bytes, written as "256MiB".
type Size int64

// Rate is a number of bytes a second, written as "4MiB/s".
type Rate int64

// Duration is a time span, written as "90s", "24h" or "7d".
type Duration time.Duration

// Secret is text that is never shown.
type Secret string

// String hides the secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return hidden
}

// GoString hides the secret from %#v.
func (s Secret) GoString() string { return s.String() }

// Reveal returns the secret.
func (s Secret) Reveal() string { return string(s) }

const hidden = "(hidden)"

type unit struct {
	name  string
	bytes int64
}

// sizeUnits in the order in which String prefers them; decimal ones are read but never written.
var sizeUnits = []unit{
	{"TiB", 1 << 40},
	{"GiB", 1 << 30},
	{"MiB", 1 << 20},
	{"KiB", 1 << 10},
	{"TB", 1e12},
	{"GB", 1e9},
	{"MB", 1e6},
	{"KB", 1e3},
	{"kB", 1e3},
	{"B", 1},
}

var errSize = errors.New("want a size such as 512KiB, 256MiB or 1GiB")

// ParseSize reads a size: a number and one of B, KiB, MiB, GiB, TiB, KB, MB, GB, TB. A bare number is bytes.
func ParseSize(s string) (Size, error) {
	s = strings.TrimSpace(s)
	i := strings.IndexFunc(s, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
	num, name := s, "B"
	if i >= 0 {
		num, name = s[:i], strings.TrimSpace(s[i:])
	}
	mult := int64(0)
	for _, u := range sizeUnits {
		if u.name == name {
			mult = u.bytes
			break
		}
	}
	if mult == 0 {
		switch strings.ToUpper(name) {
		case "K", "M", "G", "T":
			return 0, fmt.Errorf("the unit %q can mean two things: write %siB or %sB", name,
				strings.ToUpper(name), strings.ToUpper(name))
		}
		return 0, errSize
	}
	if n, err := strconv.ParseInt(num, 10, 64); err == nil {
		if n > math.MaxInt64/mult {
			return 0, errors.New("the size is too large")
		}
		return Size(n * mult), nil
	}
	f, err := strconv.ParseFloat(num, 64)
	if err != nil {
		return 0, errSize
	}
	if f *= float64(mult); f >= math.MaxInt64 {
		return 0, errors.New("the size is too large")
	}
	return Size(f), nil
}

// String writes the size with the largest unit that needs no fraction.
func (s Size) String() string {
	if s == 0 {
		return "0"
	}
	for _, u := range sizeUnits {
		if strings.HasSuffix(u.name, "iB") && int64(s)%u.bytes == 0 {
			return strconv.FormatInt(int64(s)/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10) + "B"
}

// ParseRate reads a size a second. "/s" at the end may be left out.
func ParseRate(s string) (Rate, error) {
	n, err := ParseSize(strings.TrimSuffix(strings.TrimSpace(s), "/s"))
	if err != nil {
		if errors.Is(err, errSize) {
			err = errors.New("want a rate such as 4MiB/s, or 0")
		}
		return 0, err
	}
	return Rate(n), nil
}

func (r Rate) String() string {
	if r == 0 {
		return "0"
	}
	return Size(r).String() + "/s"
}

// ParseDuration reads a span as Go writes it ("1h30m", "500ms"), or a whole number of days ("7d").
func ParseDuration(s string) (Duration, error) {
	s = strings.TrimSpace(s)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			return Duration(n) * day, nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, errors.New("want a duration such as 500ms, 30s, 24h or 7d")
	}
	return Duration(d), nil
}

// String writes whole days as days, and leaves out units that are zero.
func (d Duration) String() string {
	if d >= day && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// Std returns the span as the standard library has it.
func (d Duration) Std() time.Duration { return time.Duration(d) }
