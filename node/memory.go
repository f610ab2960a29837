package node

// Memory is how a memory limit is shared out, in bytes.
type Memory struct {
	Go       int64 // soft limit of the Go runtime
	Cache    int64 // block cache of the metadata store
	MemTable int64 // one memtable of the metadata store, of which up to four may exist
}

// PlanMemory shares out limit. What is not named here is stacks, buffers of requests in flight and what the
// garbage collector has not collected yet.
func PlanMemory(limit int64) Memory {
	const mib = 1 << 20
	return Memory{
		// The runtime counts neither the binary's own pages nor what the kernel holds for sockets.
		Go:       limit - max(limit/10, 16*mib),
		Cache:    min(max(limit/8, 8*mib), 4<<30),
		MemTable: min(max(limit/16, 4*mib), 64*mib),
	}
}
