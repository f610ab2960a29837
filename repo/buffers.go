package repo

import "sync"

// buffer is the memory of one read: sealed chunks as they lie in a pack, and one of them opened.
type buffer struct{ read, plain []byte }

// buffers keeps some for the next ones.
type buffers struct{ pool sync.Pool }

func (b *buffers) get() *buffer {
	if p, ok := b.pool.Get().(*buffer); ok {
		return p
	}
	return &buffer{}
}

func (b *buffers) put(p *buffer) { b.pool.Put(p) }
