// Package kv is the ordered, transactional map under the namespace, with the log that every
// mutation appends to.
//
// It owns the interface and its contract; engines live in sub-packages (pebblekv) and all pass
// kvtest. It must never know what its keys mean.
package kv

import (
	"context"

	"firn"
)

// ErrNotFound is returned by Get for a key that is not there.
var ErrNotFound = firn.NewError(firn.NotFound, "key not found")

// ErrClosed is returned by every call after Close, and by every call after the engine met an I/O
// error it cannot go on from: a store whose fsync failed is never written again in this process.
var ErrClosed = firn.NewError(firn.Unavailable, "the metadata store is closed")

// MaxKey is the longest key in bytes. A key's first byte must not be 0xFF: those are the engine's own.
const MaxKey = 8 << 10

// Reader reads committed state.
type Reader interface {
	// Get appends the value of key to dst and returns the result, or ErrNotFound. The result is the
	// caller's. In an Update it does not see the transaction's own writes.
	Get(dst, key []byte) ([]byte, error)
	// Iter returns an iterator over lower <= key < upper, one consistent snapshot, positioned before
	// the first key. The caller closes it, before the View or Update it came from returns.
	Iter(lower, upper []byte) (Iterator, error)
}

// Iterator walks keys in byte order. It is used by one goroutine. Key and Value are valid until the
// next positioning call. After a positioning call returned false, Err tells an error from the end.
type Iterator interface {
	First() bool
	Last() bool
	SeekGE(key []byte) bool
	SeekLT(key []byte) bool
	Next() bool
	Prev() bool
	Key() []byte
	Value() ([]byte, error)
	Err() error
	Close() error
}

// Tx collects the writes of one Update. It is used by one goroutine and not after fn returned.
// Keys and values are copied.
type Tx interface {
	Reader
	Set(key, value []byte)
	// SetSplit is Set with the value given in pieces, to save the caller a copy.
	SetSplit(key []byte, value ...[]byte)
	Delete(key []byte)
	// DeleteRange deletes lower <= key < upper.
	DeleteRange(lower, upper []byte)
	// Log appends one entry to the log in the same commit, with the next sequence number. Entries of
	// one transaction keep their order; numbers follow the order of commits, without gaps.
	Log(entry []byte)
	// Exclusive waits until no other transaction that called Exclusive is between that call and its
	// commit being visible. Calling it again in one transaction does nothing. It is taken after the
	// locks named to Update, so it cannot deadlock with them.
	Exclusive()
}

// LogEntry is one entry of the log.
type LogEntry struct {
	Seq  uint64 // from 1, in commit order
	Data []byte // valid until the callback returns
}

// DB is an ordered, transactional map with a log. All methods may be called concurrently.
type DB interface {
	// View calls fn to read. fn sees at least all that was committed before View was called; separate
	// reads are not one snapshot, an Iterator is. When View returns nil, all that fn read under the
	// given locks is durable: a crash cannot take back what a reader was told. With no locks, all that
	// was visible to fn is durable. The same holds when View returns fn's own error, which tells something
	// too. View does not wait for a running Update of the same lock, only for the fsync of a visible one.
	View(ctx context.Context, fn func(Reader) error, locks ...[]byte) error
	// Update calls fn once, while no other Update that names one of the same locks runs, and commits
	// what fn wrote atomically unless fn returns an error, which Update then returns. When Update
	// returns nil the commit is on stable storage (in relaxed mode: it will be shortly). When fn wrote
	// nothing or failed, Update returns once what fn saw under its locks is durable, as View does. Locks
	// are names; the engine may share one lock between several names. Concurrent commits share fsyncs.
	// The locks are released when the commit is visible, before the fsync. ctx ends the wait for locks;
	// a commit under way is waited for.
	// An error from the commit itself means the outcome is not known until the store is reopened.
	Update(ctx context.Context, fn func(Tx) error, locks ...[]byte) error

	// LogTail returns the last sequence number that is durable, 0 for an empty log.
	LogTail() uint64
	// ReadLog calls fn for the durable entries from <= seq in order until fn returns an error or the
	// tail is reached; that error is returned. ErrTrimmed if from is older than the oldest kept entry.
	ReadLog(ctx context.Context, from uint64, fn func(LogEntry) error) error
	// WaitLog returns when LogTail() > after, or with ctx's error.
	WaitLog(ctx context.Context, after uint64) error
	// TrimLog forgets entries with seq < before. The newest entry is always kept.
	TrimLog(ctx context.Context, before uint64) error
	// LogStart returns the sequence number of the oldest kept entry, or LogTail()+1 for an empty log.
	LogStart() (uint64, error)

	// Close waits for running calls and closes the engine.
	Close() error
}

// ErrTrimmed is returned by ReadLog when entries asked for are no longer kept.
var ErrTrimmed = firn.NewError(firn.NotFound, "log entries were trimmed")
