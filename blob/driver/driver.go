// Package driver is what a backend or a wrapper of package blob implements: a flat map from keys to bytes.
//
// It owns the contract. Every implementation passes blob/drivertest, which holds it to this text. It must never
// import another package of this module besides the vocabulary at the root.
package driver

import (
	"context"
	"io"
	"time"
)

// Driver is one place that keeps blobs. Its methods may be called by many goroutines at once.
//
// Keys come validated (blob.CheckKey): 1 to 900 bytes of UTF-8, slash-separated parts that are neither empty, "." nor
// "..", no control characters. A driver need not be able to hold both "a" and "a/b"; one that cannot fails the second
// with firn.Conflict.
//
// Errors have a kind: firn.NotFound for a key that is not there, firn.Denied for wrong credentials or permissions,
// firn.NoSpace for a full backend, firn.Unavailable for what may pass when tried again (connection refused or lost,
// time-out, throttling, a stale NFS handle), firn.Corrupt for content that fails the backend's own check, firn.Invalid
// for what can never work. They never contain credentials. A cancelled context ends a call soon with an error that
// wraps ctx.Err().
type Driver interface {
	// Put stores the content of src under key and replaces what was there. A reader sees the old blob or the new one,
	// whole; never a mixture, a part, or nothing. After nil the blob is as durable as the backend can make it. After an
	// error the old blob, the new one, or (for a new key) nothing is there. The driver closes each reader it opens, and
	// fails with firn.Invalid, storing nothing, if src gives fewer or more bytes than src.Size.
	Put(ctx context.Context, key string, src Source) error

	// Get reads length bytes from offset; length -1 means to the end. A range that reaches beyond the end is cut at it;
	// an offset at or beyond the end gives an empty reader. The content is that of one Put throughout, or reading fails.
	// A connection lost while reading is an error of Read, never an early io.EOF.
	Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error)

	// Stat describes the blob.
	Stat(ctx context.Context, key string) (Info, error)

	// Delete removes the blob. A key that is not there is no error. It needs no free space where the backend allows.
	Delete(ctx context.Context, key string) error

	// List calls fn for the blobs whose key begins with prefix (any string, not only whole parts), in ascending byte
	// order of the keys, and stops with the error that fn returns. A blob there during the whole call is shown exactly
	// once; one put or deleted meanwhile may or may not be shown. Unfinished puts are never shown. A prefix that
	// nothing has is no error; a backend that cannot be reached, or a root that is not there though it was made by
	// Init, is one: nothing to list is never the answer to a question that could not be asked.
	List(ctx context.Context, prefix string, fn func(Info) error) error

	// Close releases connections. Calls after it fail.
	Close() error
}

// Source is content that can be read more than once, so that a put can be tried again. Open may be called again after
// the earlier reader was closed.
type Source interface {
	// Size is the exact number of bytes.
	Size() int64
	// Open starts at the first byte. The content is the same each time.
	Open() (io.ReadCloser, error)
}

// Info describes a blob.
type Info struct {
	Key  string
	Size int64
	// Modified is the time of the last put by the backend's clock; zero where the backend does not tell.
	Modified time.Time
}

// Creator is a driver that can create a blob only if its key is not there, atomically among all clients of the backend.
type Creator interface {
	// Create is Put for a key that must not be there: otherwise it fails with firn.Exists and changes nothing. A blob
	// appears whole. After firn.Unavailable the caller does not know whether it was created and reads to find out.
	Create(ctx context.Context, key string, src Source) error
}

// Stager is a driver that can take in the content of a blob long before it is durable, so that its caller can go on.
type Stager interface {
	// Stage takes in the content of src, which may change once it returns, and shows nothing of it. The blob appears by
	// commit, which does and returns what Put does otherwise, and is called once; given a context that has ended, it
	// drops the content.
	Stage(ctx context.Context, key string, src Source) (commit func(context.Context) error, err error)
}

// Resumer is a driver that can go on with a put that was cut off, in another process too.
type Resumer interface {
	// Resume is Put of content that is never another for the key. Where it fails it may keep what it stored, of which
	// nobody sees anything, and the next call with the key goes on after that: it reads src from there on, with OpenAt
	// where src is a SourceAt. Where a blob of src's size is there already, as after an answer that was lost, it stores
	// nothing. One call at a time for a key.
	//
	// What is kept is not compared with src: who relies on the content reads it back, and calls Abandon before it puts
	// another one.
	Resume(ctx context.Context, key string, src Source) error

	// Abandon removes what Resume keeps of an unfinished put, and leaves the blob of that key as it is. Where nothing is
	// kept that is no error.
	Abandon(ctx context.Context, key string) error
}

// SourceAt is a source that can be read from any offset on.
type SourceAt interface {
	Source
	// OpenAt starts at offset, which is at most Size; else it is as Open.
	OpenAt(offset int64) (io.ReadCloser, error)
}

// Batcher is a driver that can apply several changes as one: all of them happen, or none.
type Batcher interface {
	Apply(ctx context.Context, changes []Change) error
}

// Change is a put, or a delete where Put is nil.
type Change struct {
	Key string
	Put Source
}

// BulkDeleter is a driver that deletes many blobs faster than one by one. After an error some may be gone.
type BulkDeleter interface {
	DeleteAll(ctx context.Context, keys []string) error
}

// Measurer is a driver that knows how much space its backend has.
type Measurer interface {
	Space(ctx context.Context) (Space, error)
}

// Space is what a backend holds and can take, in bytes; -1 where it does not tell.
type Space struct {
	Total, Free int64
}

// Wrapper is a driver in front of another. Optional abilities are looked for from the outermost inwards only where the
// wrapper declares that passing it by is safe: a wrapper that changes keys or content implements the abilities itself.
type Wrapper interface {
	Driver
	// Inner is the driver behind, and whether calls may go to it directly.
	Inner() (d Driver, transparent bool)
}
