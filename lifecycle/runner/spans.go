package runner

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"firn"
	"firn/kv"
	"firn/lifecycle"
	"firn/object/record"
)

// A bucket is remembered as spans of keys, each with when something in it is due next, as databases keep the bounds of
// ranges of blocks. A pass looks at the spans that are due and at those that the journal tells of, and at no others. They
// are in memory only: the first pass of a process looks at all.

const (
	// perSpan is how many versions a span holds at least, but for the last and those that shrank.
	perSpan = 1000
	// maxSpans bounds the spans of all buckets together, of which one takes a key and 40 bytes: two neighbours become one.
	maxSpans = 1 << 14
)

// span is the keys after the last one of the span before it, up to and with to.
type span struct {
	to  string    // "" in the last span: all that follow
	due time.Time // zero: nothing there will become due
}

// bucketSpans is what is remembered of a bucket.
type bucketSpans struct {
	rules []byte // those that the times are of
	list  []span
}

// at returns the place of the span that holds key.
func (b *bucketSpans) at(key string) int {
	i, _ := slices.BinarySearchFunc(b.list[:len(b.list)-1], key, func(s span, key string) int { return strings.Compare(s.to, key) })
	return i
}

// touch says that something may be due for a key at a time.
func (b *bucketSpans) touch(key string, at time.Time) {
	s := &b.list[b.at(key)]
	if s.due.IsZero() || at.Before(s.due) {
		s.due = at
	}
}

// merge makes one of each two neighbours until there are at most n.
func (b *bucketSpans) merge(n int) {
	for len(b.list) > max(n, 1) {
		out := b.list[:0]
		for i := 0; i < len(b.list); i += 2 {
			s := b.list[i]
			if i+1 < len(b.list) {
				s = span{b.list[i+1].to, lifecycle.Earlier(s.due, b.list[i+1].due)}
			}
			out = append(out, s)
		}
		b.list = out
	}
}

// follow notes in the spans what the journal tells since the last call. Where it was trimmed meanwhile all is forgotten.
func (r *Runner) follow(ctx context.Context) error {
	if len(r.spans) == 0 {
		r.seq = r.ns.JournalTail()
		return nil
	}
	now := r.opt.Now()
	err := r.ns.Journal(ctx, r.seq+1, func(e record.Entry) error {
		r.seq = e.Seq
		b := r.spans[e.BucketID]
		switch {
		case b == nil:
		case e.Op == record.OpDeleteBucket:
			delete(r.spans, e.BucketID)
		case e.Key != "":
			b.touch(e.Key, now)
		}
		return nil
	})
	if errors.Is(err, kv.ErrTrimmed) {
		clear(r.spans)
		r.seq = r.ns.JournalTail()
		return nil
	}
	return firn.E("follow the journal", "", err)
}

// Touch says that a version of a key is read so often that rules by temperature may want it elsewhere: the next pass
// looks at it. It does no I/O.
func (r *Runner) Touch(bucket uint64, key string) {
	r.touched.Lock()
	defer r.touched.Unlock()
	if len(r.touched.keys) < maxTouched {
		r.touched.keys[touched{bucket, key}] = struct{}{}
	}
}

// maxTouched bounds what Touch remembers. What is over goes with its next reads.
const maxTouched = 10_000

type touched struct {
	bucket uint64
	key    string
}

func (r *Runner) takeTouched() {
	r.touched.Lock()
	keys := r.touched.keys
	r.touched.keys = map[touched]struct{}{}
	r.touched.Unlock()
	now := r.opt.Now()
	for k := range keys {
		if b := r.spans[k.bucket]; b != nil {
			b.touch(k.key, now)
		}
	}
}

// known returns what is remembered of a bucket with these rules; nil where all of it is to be looked at.
func (r *Runner) known(b *record.Bucket) *bucketSpans {
	if s := r.spans[b.ID]; s != nil && bytes.Equal(s.rules, rulesOf(b)) {
		return s
	}
	return nil
}

// rulesOf is all of a bucket that decisions depend on.
func rulesOf(b *record.Bucket) []byte {
	return slices.Concat(b.Config[confRules], []byte{0, byte(b.Versioning), 0}, b.Config[confMinimum])
}
