package block

import (
	"sync"

	"github.com/zeebo/blake3"

	"firn/seal"
)

// writeBuffer has room for the tag of the block at its end.
type writeBuffer [writeSize + seal.Overhead]byte

// pool is a typed sync.Pool.
type pool[T any] struct{ p sync.Pool }

func (p *pool[T]) get() *T {
	if v, ok := p.p.Get().(*T); ok {
		return v
	}
	return new(T)
}

func (p *pool[T]) put(v *T) { p.p.Put(v) }

// hasherPool keeps BLAKE3 hashers, which are several KiB each.
type hasherPool struct{ p sync.Pool }

func (p *hasherPool) get() *blake3.Hasher {
	if h, ok := p.p.Get().(*blake3.Hasher); ok {
		h.Reset()
		return h
	}
	return blake3.New()
}

func (p *hasherPool) put(h *blake3.Hasher) { p.p.Put(h) }

// Free lists of buffers, filled and drained by the garbage collector's rules. They hold no state of any reader or
// writer, which is why they are the one exception to "no package-level variables that change".
var (
	writeBuffers pool[writeBuffer]
	readBuffers  pool[readBuffer]
	tailBuffers  pool[[tailSize]byte]
	hashers      hasherPool
)
