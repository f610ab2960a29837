package hlc

import (
	"errors"
	"sync"
	"testing"
	"time"
)

func TestReadingsGrowWhenTheWallClockStandsOrRunsBack(t *testing.T) {
	wall := time.UnixMilli(1_700_000_000_000)
	c := New(func() time.Time { return wall })
	last := c.Now()
	for i := range 200_000 { // more than 16 bits of counter: the carry moves into the milliseconds
		if i == 1000 {
			wall = wall.Add(-time.Hour)
		}
		n := c.Now()
		if n <= last {
			t.Fatalf("reading %d after %d", n, last)
		}
		last = n
	}
	if d := last.Wall().Sub(time.UnixMilli(1_700_000_000_000)); d > 10*time.Millisecond {
		t.Fatalf("clock ran ahead by %v", d)
	}
}

func TestWallFollowsTheWallClock(t *testing.T) {
	wall := time.UnixMilli(1_700_000_000_123)
	c := New(func() time.Time { return wall })
	if got := c.Now().Wall(); !got.Equal(wall) {
		t.Fatalf("got %v", got)
	}
	if FromWall(time.UnixMilli(-5)) != 0 {
		t.Fatal("a time before 1970 is not 0")
	}
}

func TestObserve(t *testing.T) {
	wall := time.UnixMilli(1_700_000_000_000)
	c := New(func() time.Time { return wall })
	near := FromWall(wall.Add(time.Second))
	if err := c.Observe(near, time.Minute); err != nil {
		t.Fatal(err)
	}
	if n := c.Now(); n <= near {
		t.Fatalf("reading %d is not after %d", n, near)
	}
	if err := c.Observe(FromWall(wall.Add(time.Hour)), time.Minute); !errors.Is(err, ErrDrift) {
		t.Fatalf("got %v", err)
	}
	c.Seed(FromWall(wall.Add(time.Hour)))
	if c.Now().Wall().Before(wall.Add(time.Hour)) {
		t.Fatal("seed was not taken")
	}
}

func TestConcurrentReadingsAreUnique(t *testing.T) {
	c := New(time.Now)
	const n, each = 8, 2000
	got := make([][]Time, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			for range each {
				got[i] = append(got[i], c.Now())
			}
		})
	}
	wg.Wait()
	seen := map[Time]bool{}
	for _, l := range got {
		for _, x := range l {
			if seen[x] {
				t.Fatalf("%d twice", x)
			}
			seen[x] = true
		}
	}
	if c.Last() == 0 {
		t.Fatal("Last is 0")
	}
}
