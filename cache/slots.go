package cache

import (
	"context"
	"slices"
	"sync"
)

// share is how many times the slots that are free an origin may hold: alone two thirds of all. What is free shrinks with
// each origin that is slow and never to nothing, so that one which is not finds a slot. It is how switches share a buffer
// among their ports (Choudhury and Hahne, Dynamic Queue Length Thresholds for Shared-Memory Packet Switches, 1998).
const share = 2

// slots bound what is fetched at one time, of all origins together and of each.
type slots struct {
	mu      sync.Mutex // guards all below
	free    int
	held    map[string]int
	waiting map[string][]chan struct{} // by origin, who came first first; no empty ones
}

func newSlots(n int) *slots {
	return &slots{free: n, held: map[string]int{}, waiting: map[string][]chan struct{}{}}
}

// may reports whether an origin may have a slot. The caller holds mu.
func (s *slots) may(origin string) bool { return s.free > 0 && s.held[origin] < share*s.free }

func (s *slots) give(origin string) {
	s.free--
	s.held[origin]++
}

// enter waits for a slot, which leave gives back. The error is the context's.
func (s *slots) enter(ctx context.Context, origin string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	if s.may(origin) && len(s.waiting[origin]) == 0 {
		s.give(origin)
		s.mu.Unlock()
		return nil
	}
	mine := make(chan struct{})
	s.waiting[origin] = append(s.waiting[origin], mine)
	s.mu.Unlock()
	select {
	case <-mine:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.waiting[origin], mine); i >= 0 {
		s.drop(origin, i)
	} else {
		s.back(origin) // it was let in at the same moment
	}
	return ctx.Err()
}

func (s *slots) leave(origin string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.back(origin)
}

// back takes a slot back and gives those that are free to who may have them, the origin that holds the fewest first. The
// caller holds mu.
func (s *slots) back(origin string) {
	s.free++
	if s.held[origin]--; s.held[origin] == 0 {
		delete(s.held, origin)
	}
	for {
		next, found := "", false
		for o := range s.waiting {
			if s.may(o) && (!found || s.held[o] < s.held[next]) {
				next, found = o, true
			}
		}
		if !found {
			return
		}
		s.give(next)
		close(s.waiting[next][0])
		s.drop(next, 0)
	}
}

func (s *slots) drop(origin string, i int) {
	if list := slices.Delete(s.waiting[origin], i, i+1); len(list) > 0 {
		s.waiting[origin] = list
	} else {
		delete(s.waiting, origin)
	}
}

// running returns how many slots are held.
func (s *slots) running() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, held := range s.held {
		n += held
	}
	return n
}
