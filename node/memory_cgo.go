//go:build cgo

package node

// engineOffHeap: built with C, Pebble allocates its cache and memtables with malloc.
const engineOffHeap = true
