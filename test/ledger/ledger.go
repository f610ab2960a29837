// Package ledger loads an S3 server with writers that note every acknowledged operation, and after a fault holds the
// server to those notes.
//
// It owns the rule the crash and power loss tests share: what was acknowledged is there, byte for byte; what was in
// flight is there wholly or not at all; a listing says what the reads say; a deleted object stays deleted. Each key
// has one writer, so that the state expected after a fault is exact; concurrency on one key is test/linear's matter.
// It must never import a package of the product.
package ledger

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"firn/test/wire"
)

// Options size the load.
type Options struct {
	Seed    uint64
	Workers int // concurrent writers
	Keys    int // keys of each writer in each of the two buckets
	// Large allows contents of several MiB and multipart uploads with full parts.
	Large bool
	// Retry sends completions again whose answer was lost, and wants success whether or not they had happened.
	// S3 promises it; some servers do not.
	Retry bool
}

// Stats count what a ledger has seen.
type Stats struct {
	Acked      int64 // mutations the server acknowledged
	Unknown    int64 // mutations cut off by a fault
	UnknownNew int64 // of those, found done afterwards
	Reads      int64 // objects read and compared
}

// Ledger is the load and its notes. Round and Verify are called by one goroutine, in turn.
type Ledger struct {
	client    *wire.Client
	opts      Options
	plain     string // bucket without versions
	versioned string // bucket with versions
	workers   []*worker
	round     int
	nextID    atomic.Uint64 // content ids
	stats     struct{ acked, unknown, unknownNew, reads atomic.Int64 }
}

// New returns a ledger of writers that use client. The buckets are made by Setup.
func New(client *wire.Client, opts Options) *Ledger {
	l := &Ledger{client: client, opts: opts, plain: "ledger-plain", versioned: "ledger-versioned"}
	for i := range opts.Workers {
		w := &worker{l: l, n: i}
		for k := range opts.Keys {
			// Keys of neighbouring writers interleave in the order of the listing, and some have a delimiter.
			name := fmt.Sprintf("k%03d/w%02d", k, i)
			w.plain = append(w.plain, &object{key: name})
			if k < opts.Keys/4 {
				w.versions = append(w.versions, &history{key: name})
			}
		}
		l.workers = append(l.workers, w)
	}
	return l
}

// Setup makes the two buckets.
func (l *Ledger) Setup(ctx context.Context) error {
	for _, bucket := range []string{l.plain, l.versioned} {
		if resp, err := l.client.CreateBucket(ctx, bucket); err != nil {
			return fmt.Errorf("create bucket: %w", err)
		} else if resp.Status != 200 {
			return fmt.Errorf("create bucket: %v", resp)
		}
	}
	resp, err := l.client.EnableVersioning(ctx, l.versioned)
	if err != nil {
		return fmt.Errorf("enable versioning: %w", err)
	}
	if resp.Status != 200 {
		return fmt.Errorf("enable versioning: %v", resp)
	}
	return nil
}

// Stats returns the counts so far.
func (l *Ledger) Stats() Stats {
	return Stats{
		Acked: l.stats.acked.Load(), Unknown: l.stats.unknown.Load(),
		UnknownNew: l.stats.unknownNew.Load(), Reads: l.stats.reads.Load(),
	}
}

// Round runs all writers. After the given number of acknowledged mutations it calls fault, which makes the server
// fail for good, and returns when every writer has met the failure. An error before the fault, or an answer that
// contradicts the notes at any time, is returned.
func (l *Ledger) Round(ctx context.Context, after int64, fault func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l.round++
	r := &round{ctx: ctx, after: after, due: make(chan struct{})}
	errs := make([]error, len(l.workers))
	var wg sync.WaitGroup
	for i, w := range l.workers {
		w.rng = rand.New(rand.NewPCG(l.opts.Seed, uint64(l.round)<<16|uint64(i)))
		wg.Go(func() {
			errs[i] = w.run(r)
			if errs[i] != nil {
				r.trigger() // nothing more to learn from this round
			}
		})
	}
	select {
	case <-r.due:
	case <-ctx.Done():
	}
	r.faulted.Store(true)
	fault()
	wg.Wait()
	return errors.Join(errs...)
}

// round is the state the writers of one Round share.
type round struct {
	ctx     context.Context
	after   int64
	acked   atomic.Int64
	faulted atomic.Bool
	once    sync.Once
	due     chan struct{}
}

func (r *round) trigger() { r.once.Do(func() { close(r.due) }) }

// errCut tells a writer that the outcome of its operation is not known because of the fault.
var errCut = errors.New("cut off by the fault")

// worker is one writer with its own keys.
type worker struct {
	l        *Ledger
	n        int
	rng      *rand.Rand
	plain    []*object
	versions []*history
	uploads  []*upload // begun and not completed
}

// content names bytes that can be made again from the seed and the id.
type content struct {
	id   uint64
	size int
	etag string // "" where the server has not told it yet
}

func (c *content) String() string {
	if c == nil {
		return "absent"
	}
	return fmt.Sprintf("content %d of %d bytes", c.id, c.size)
}

// bytes returns the content.
func (l *Ledger) bytes(c *content) []byte {
	var seed [32]byte
	copy(seed[:], fmt.Sprintf("%016x%016x", l.opts.Seed, c.id))
	b := make([]byte, c.size)
	if _, err := rand.NewChaCha8(seed).Read(b); err != nil {
		panic(err) // documented never to fail
	}
	return b
}

// sizes are the borders that storage formats have: nothing, one byte, pages, blocks, the inline limit.
var sizes = [...]int{
	0, 1, 100, 4095, 4096, 4097, 32<<10 - 1, 32 << 10, 64<<10 - 1, 64 << 10, 64<<10 + 1,
	128<<10 - 1, 128 << 10, 128<<10 + 1, 256 << 10, 300 << 10,
}

func (w *worker) size() int {
	switch n := w.rng.IntN(100); {
	case n < 55:
		return 1 + w.rng.IntN(8<<10)
	case n < 80 || !w.l.opts.Large && n >= 98:
		return sizes[w.rng.IntN(len(sizes))]
	case n < 98:
		return 1 + w.rng.IntN(300<<10)
	default:
		return 1<<20 + w.rng.IntN(5<<20)
	}
}

// newContent returns a new content and its bytes; its ETag is the one of a single put.
func (w *worker) newContent(size int) (*content, []byte) {
	c := &content{id: w.l.nextID.Add(1), size: size}
	b := w.l.bytes(c)
	sum := md5.Sum(b)
	c.etag = hex.EncodeToString(sum[:])
	return c, b
}

const idHeader = "X-Amz-Meta-Ledger-Id"

func header(c *content, pairs ...string) map[string][]string {
	return wire.Header(append(pairs, idHeader, strconv.FormatUint(c.id, 10))...)
}

// run sends operations until one is cut off.
func (w *worker) run(r *round) error {
	for r.ctx.Err() == nil {
		var err error
		if w.rng.IntN(4) == 0 {
			err = w.versionedOp(r)
		} else {
			err = w.plainOp(r)
		}
		if errors.Is(err, errCut) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("round %d writer %d: %w", w.l.round, w.n, err)
		}
	}
	return nil
}

// outcome judges the answer to a request. It returns nil where the status is one of want, errCut where the fault
// explains that there is no answer or a server error, and an error for everything else.
func (r *round) outcome(what string, resp *wire.Response, err error, want ...int) error {
	if err != nil {
		if r.faulted.Load() {
			return errCut
		}
		return fmt.Errorf("%s: no answer from a healthy server: %w", what, err)
	}
	for _, status := range want {
		if resp.Status == status {
			return nil
		}
	}
	if resp.Status >= 500 && r.faulted.Load() {
		return errCut
	}
	return fmt.Errorf("%s: answer %v, want status %v", what, resp, want)
}

// ack counts an acknowledged mutation and calls for the fault when enough were.
func (w *worker) ack(r *round) {
	w.l.stats.acked.Add(1)
	if r.acked.Add(1) == r.after {
		r.trigger()
	}
}

// trail is the recent past of a key, for failure messages.
type trail struct{ lines []string }

const trailMax = 12

func (t *trail) note(round int, format string, args ...any) {
	t.lines = append(t.lines, fmt.Sprintf("round %d: ", round)+fmt.Sprintf(format, args...))
	if len(t.lines) > trailMax {
		t.lines = t.lines[len(t.lines)-trailMax:]
	}
}

func (t *trail) String() string { return "\n  " + strings.Join(t.lines, "\n  ") }
