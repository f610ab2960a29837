package node

import (
	"context"
	"os"
	"runtime/debug"
	"time"
)

// Memory is how a memory limit is shared out, in bytes.
type Memory struct {
	Go       int64 // soft limit of the Go runtime
	Cache    int64 // block cache of the metadata store, which also uses what memtables leave
	MemTable int64 // one memtable of the metadata store, of which up to four may exist
	Queue    int64 // contents of transactions of the metadata store on their way, which take up to four times as much
}

// PlanMemory shares out limit. What is not named in it is stacks, buffers of requests in flight and what the
// garbage collector has not collected yet. offHeap says that the cache and the memtables are outside of Go's heap.
func PlanMemory(limit int64, offHeap bool) Memory {
	const mib = 1 << 20
	m := Memory{
		// The runtime counts neither the pages of the binary nor what the kernel holds for sockets.
		Go:       limit - max(limit/10, 16*mib),
		MemTable: min(max(limit/20, 4*mib), 64*mib),
		Queue:    min(max(limit/32, 4*mib), 64*mib),
	}
	// A quarter goes to the metadata store.
	m.Cache = max(min(limit/4, 4<<30)-4*m.MemTable, 8*mib)
	if offHeap {
		m.Go -= m.Cache + 4*m.MemTable
	}
	return m
}

// gcPercent lets the heap grow to three times what lives before it is collected: most of what lives is a few
// large buffers, and the limit stands against more.
const gcPercent = 200

// apply sets the limits of the runtime, which are the process's, and returns what puts back the old ones. An
// operator's GOGC and GOMEMLIMIT win.
func (m Memory) apply() (restore func()) {
	limit, percent := debug.SetMemoryLimit(-1), 100
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(m.Go)
	}
	if os.Getenv("GOGC") == "" {
		percent = debug.SetGCPercent(gcPercent)
	}
	return func() {
		debug.SetMemoryLimit(limit)
		if os.Getenv("GOGC") == "" {
			debug.SetGCPercent(percent)
		}
	}
}

// idleAfter is how long no request may come before memory is given back.
const idleAfter = 30 * time.Second

// giveBack returns memory to the system once after each time that requests came and then none for idleAfter, until
// ctx ends: on a small machine others need it more. The runtime would do so too, in its own time.
func giveBack(ctx context.Context, requests func() uint64, free func()) {
	t := time.NewTicker(idleAfter)
	defer t.Stop()
	last, freed := requests(), requests()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		now := requests()
		if now == last && now != freed {
			free()
			freed = now
		}
		last = now
	}
}
