//go:build !cgo

package node

// engineOffHeap: built without C, Pebble allocates its cache and memtables on Go's heap.
const engineOffHeap = false
