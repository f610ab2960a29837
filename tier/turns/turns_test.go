package turns

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"firn"
)

func TestWindows(t *testing.T) {
	for _, bad := range []string{"", "22:00", "22:00-22:00", "25:00-26:00", "22-06", "24:00-06:00", "a-b"} {
		if w, err := ParseWindows([]string{bad}); firn.KindOf(err) != firn.Invalid {
			t.Errorf("%q: %v, %v", bad, w, err)
		}
	}
	ws, err := ParseWindows([]string{"22:30-06:00", " 12:00 - 13:00"})
	if err != nil || fmt.Sprint(ws) != "[22:30-06:00 12:00-13:00]" {
		t.Fatal(ws, err)
	}
	for at, opens := range map[string]string{
		"00:00": "1 00:00", "05:59": "1 05:59", "06:00": "1 12:00", "11:59": "1 12:00", "12:00": "1 12:00", "13:00": "1 22:30",
		"22:29": "1 22:30", "22:30": "1 22:30", "23:59": "1 23:59",
	} {
		now, _ := time.Parse("2006-01-02 15:04", "2026-01-01 "+at)
		if got := ws.Opens(now).Format("2 15:04"); got != opens || ws.Open(now) != strings.HasSuffix(opens, at) {
			t.Errorf("%s: opens %s, want %s; open %v", at, got, opens, ws.Open(now))
		}
	}
	late, _ := ParseWindows([]string{"01:00-24:00"})
	if now := time.Date(2026, 1, 31, 0, 10, 0, 0, time.UTC); !late.Opens(now).Equal(now.Add(50*time.Minute)) || !late.Open(now.Add(23*time.Hour+49*time.Minute)) {
		t.Error(late.Opens(now))
	}
	if !Windows(nil).Open(time.Now()) {
		t.Error("no windows are always open")
	}
}

// TestOrder: who is more urgent goes first, whoever came first.
func TestOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := New(Options{Parallel: 2})
		ctx := t.Context()
		first, _ := turns.Begin(ctx, "cold", Move)
		second, _ := turns.Begin(ctx, "cold", Move)
		var mu sync.Mutex
		var order []Urgency
		var wg sync.WaitGroup
		for _, u := range []Urgency{Follow, Move, Promote, Asked, Move, Recall} {
			wg.Go(func() {
				turn, err := turns.Begin(ctx, "cold", u)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				order = append(order, u)
				mu.Unlock()
				time.Sleep(time.Second)
				turn.End()
			})
			synctest.Wait()
		}
		gone, cancel := context.WithCancel(ctx)
		wg.Go(func() {
			if _, err := turns.Begin(gone, "cold", Recall); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		synctest.Wait()
		cancel()
		synctest.Wait()
		if other, err := turns.Begin(ctx, "warm", Follow); err != nil { // which waits for nobody
			t.Error(err)
		} else {
			other.End()
		}
		first.End()
		wg.Wait()
		second.End()
		if want := []Urgency{Recall, Asked, Promote, Move, Move, Follow}; !slices.Equal(order, want) {
			t.Errorf("%v, want %v", order, want)
		}
		if turns.slots["cold"].free != 2 {
			t.Errorf("%d places are free", turns.slots["cold"].free)
		}
	})
}

// TestRate: all together stay within the rate, and a recall gets half of it beside any number of moves.
func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := New(Options{Parallel: 8, BytesPerSecond: 1 << 20})
		start := time.Now()
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				turn, _ := turns.Begin(t.Context(), "cold", Move)
				defer turn.End()
				for range 64 {
					if err := turn.Take(t.Context(), 1<<20); err != nil {
						t.Error(err)
					}
				}
			})
		}
		time.Sleep(10 * time.Second)
		turn, _ := turns.Begin(t.Context(), "cold", Recall)
		asked := time.Now()
		if err := turn.Take(t.Context(), 4<<20); err != nil {
			t.Error(err)
		}
		if took := time.Since(asked); took < 3*time.Second || took > 8*time.Second+500*time.Millisecond {
			t.Errorf("a recall of 4 MiB at half of 1 MiB/s took %v beside 4 moves", took)
		}
		turn.End()
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := turn.Take(short, 100<<20); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		wg.Wait()
		if took := time.Since(start); took < 259*time.Second || took > 262*time.Second {
			t.Errorf("260 MiB at 1 MiB/s took %v", took)
		}
		var none *Turn
		if none.Take(t.Context(), 1) != nil || From(t.Context()) != nil || From(With(t.Context(), turn)) != turn {
			t.Error("a turn in a context")
		}
		none.End()
	})
}

// TestClosed: moves begin in their windows only, all else at any time.
func TestClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ws, _ := ParseWindows([]string{"22:00-06:00"})
		turns := New(Options{Parallel: 1, Windows: ws, Now: func() time.Time { return time.Now().UTC() }})
		ctx := t.Context()
		time.Sleep(time.Until(time.Date(2030, 1, 1, 21, 59, 0, 0, time.UTC)))
		_, err := turns.Begin(ctx, "cold", Move)
		if !errors.Is(err, ErrClosed) || !strings.Contains(err.Error(), "2030-01-01 22:00 UTC") {
			t.Error(err)
		}
		for _, u := range []Urgency{Recall, Asked, Promote, Follow} {
			turn, err := turns.Begin(ctx, "cold", u)
			if err != nil {
				t.Error(u, err)
			}
			turn.End()
		}
		time.Sleep(time.Minute)
		turn, err := turns.Begin(ctx, "cold", Move)
		if err != nil {
			t.Fatal(err)
		}
		// One that waits until the window is closed does not begin.
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := turns.Begin(ctx, "cold", Move); !errors.Is(err, ErrClosed) {
				t.Error(err)
			}
		})
		time.Sleep(9 * time.Hour)
		turn.End()
		wg.Wait()
		if turn, err := turns.Begin(ctx, "cold", Recall); err != nil {
			t.Error(err)
		} else {
			turn.End()
		}
	})
}

// TestRest: who waits for something else lets others work, and has its turn again after that.
func TestRest(t *testing.T) {
	turns := New(Options{Parallel: 1})
	ctx := t.Context()
	mine, err := turns.Begin(ctx, "cold", Asked)
	if err != nil {
		t.Fatal(err)
	}
	if err := mine.Rest(ctx, func() error {
		other, err := turns.Begin(ctx, "cold", Move)
		if err != nil {
			return err
		}
		other.End()
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	mine.End()
	// One that cannot have it again has ended.
	if mine, err = turns.Begin(ctx, "cold", Asked); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithCancel(ctx)
	if err := mine.Rest(short, func() error { cancel(); return nil }); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	mine.End()
	if mine, err = turns.Begin(ctx, "cold", Asked); err != nil {
		t.Fatal(err)
	}
	mine.End()
	var none *Turn
	if err := none.Rest(ctx, func() error { return nil }); err != nil {
		t.Error(err)
	}
}
