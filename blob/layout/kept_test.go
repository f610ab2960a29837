package layout

import (
	"strings"
	"testing"
	"time"
)

func TestKept(t *testing.T) {
	const step = KeptStep
	for _, c := range []struct{ length, size, want int64 }{
		{0, 0, 0},
		{0, 10, 0},
		{10, 10, 0},
		{step - 1, 5 * step, 0},
		{step, 5 * step, 0},
		{step + 1, 5 * step, step},
		{2 * step, 5 * step, step},
		{2*step + 1, 5 * step, 2 * step},
		{5 * step, 5 * step, 4 * step},
		{5*step + 1, 5 * step, 0},
	} {
		if got := Kept(c.length, c.size); got != c.want {
			t.Errorf("of a file of %d bytes of %d, %d are kept, want %d", c.length, c.size, got, c.want)
		}
	}
}

func TestStale(t *testing.T) {
	kept := strings.TrimPrefix(KeptPath("key"), Temp+"/")
	for name, limit := range map[string]time.Duration{kept: KeptFor, "0123456789abcdef": StaleAfter} {
		if Stale(name, limit) || !Stale(name, limit+time.Second) {
			t.Errorf("%s is not removed after %v", name, limit)
		}
	}
	if KeptPath("key") == KeptPath("key2") {
		t.Error("two keys have one file")
	}
}
