// Package simulate replays a recorded access log against cache policies and says what share of it each would have
// served.
//
// It owns the format of the log, which docs/cache-simulate.md describes, and the policies as they are simulated: which blocks
// are held, not their bytes. It promises bounded memory but for one size an object, and the same result for the same log, but
// for tinylfu, which hashes differently in each run. It must never import a level of the real cache.
package simulate

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/cespare/xxhash/v2"

	"firn"
	"firn/prefetch"
)

// Access is one line of a log.
type Access struct {
	Time   time.Time `json:"time"`
	Key    string    `json:"key"`
	Size   int64     `json:"size"`             // of the object in bytes
	Offset int64     `json:"offset,omitempty"` // where the read begins
	Length int64     `json:"length,omitempty"` // 0 is to the end of the object
}

// Options are the settings.
type Options struct {
	// Budget is the bytes a cache holds.
	Budget int64
	// Block is how many bytes are fetched and held together: 1 MiB by default.
	Block int64
	// Rate is the bytes a second of the link that prefetched blocks come over, which have it when no fetch of a read
	// does: 12,500,000 by default, that is 100 Mbit/s.
	Rate int64
	// Ahead is the most bytes of an object that are fetched before it is read: 64 MiB by default.
	Ahead int64
	// Policies are "lru", "tinylfu" and "s3fifo"; nil is all.
	Policies []string
}

// Result is what one policy did with a log.
type Result struct {
	Policy       string  `json:"policy"`
	Prefetch     bool    `json:"prefetch"`
	Reads        int64   `json:"reads"`
	ReadHits     int64   `json:"readHits"` // reads of which every block was there
	Blocks       int64   `json:"blocks"`
	BlockHits    int64   `json:"blockHits"`
	Bytes        int64   `json:"bytes"`
	ByteHits     int64   `json:"byteHits"`
	HitRatio     float64 `json:"hitRatio"`     // of blocks
	ByteHitRatio float64 `json:"byteHitRatio"` // of bytes
	Prefetched   int64   `json:"prefetched"`   // blocks
	Used         int64   `json:"used"`         // of them, that were read before they were evicted
	OriginBytes  int64   `json:"originBytes"`  // fetched, prefetched ones included
	Held         int64   `json:"held"`         // the most bytes held at one time
}

// Report is what came out.
type Report struct {
	Budget   int64     `json:"budget"`
	Block    int64     `json:"block"`
	Objects  int       `json:"objects"`
	Distinct int64     `json:"distinct"` // bytes of all objects together
	From     time.Time `json:"from"`
	To       time.Time `json:"to"`
	Results  []Result  `json:"results"`
}

const (
	maxLine    = 64 << 10
	maxObjects = 20_000_000
	maxBlocks  = 1 << 20 // of one read
)

func invalid(format string, args ...any) error {
	return &firn.Error{Kind: firn.Invalid, Op: "read", Subject: "access log", Err: fmt.Errorf(format, args...)}
}

// Read calls fn for each access of a log, in the order of its lines. firn.Invalid names the line that is none.
func Read(ctx context.Context, r io.Reader, fn func(Access) error) error {
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 4096), maxLine)
	for n := 1; sc.Scan(); n++ {
		if n%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		line := bytes.TrimSpace(sc.Bytes())
		if len(line) == 0 {
			continue
		}
		var a Access
		if err := json.Unmarshal(line, &a); err != nil {
			return invalid("line %d: %w", n, err)
		}
		if a.Length == 0 && a.Offset >= 0 && a.Offset < a.Size {
			a.Length = a.Size - a.Offset
		}
		if a.Key == "" || a.Size < 0 || a.Offset < 0 || a.Length < 0 || a.Offset > a.Size || a.Length > a.Size-a.Offset {
			return invalid("line %d: it needs a key, and a part that is within the size", n)
		}
		if err := fn(a); err != nil {
			return err
		}
	}
	if err := sc.Err(); err != nil {
		if errors.Is(err, bufio.ErrTooLong) {
			return invalid("a line is longer than %d bytes", maxLine)
		}
		return firn.E("read", "access log", err)
	}
	return nil
}

// blockID is one block of one object.
type blockID struct {
	object uint64
	block  int64
}

// policy holds blocks up to a budget.
type policy interface {
	// get reports whether a block is held, and counts as a use of it.
	get(id blockID) bool
	// has is get without the use.
	has(id blockID) bool
	// add takes a block of size bytes in, or decides not to.
	add(id blockID, size int64)
	held() int64
}

// Run replays a log, which it reads twice: once for the sizes of objects, which a prefetch has to know.
func Run(ctx context.Context, log io.ReadSeeker, opt Options) (*Report, error) {
	if opt.Block == 0 {
		opt.Block = 1 << 20
	}
	if opt.Rate == 0 {
		opt.Rate = 12_500_000
	}
	if opt.Ahead == 0 {
		opt.Ahead = 64 << 20
	}
	if opt.Policies == nil {
		opt.Policies = []string{"lru", "tinylfu", "s3fifo"}
	}
	if opt.Block < 512 || opt.Budget < opt.Block || opt.Rate < 1 || opt.Ahead < 1 {
		return nil, firn.NewError(firn.Invalid, "a simulation needs blocks of 512 bytes or more, a budget of at least one block, and rates over 0")
	}
	rep := &Report{Budget: opt.Budget, Block: opt.Block}
	sizes := map[uint64]int64{}
	err := Read(ctx, log, func(a Access) error {
		id := xxhash.Sum64String(a.Key)
		if old, ok := sizes[id]; !ok || a.Size > old {
			rep.Distinct += a.Size - old
			sizes[id] = a.Size
		}
		if len(sizes) > maxObjects {
			return invalid("it has more than %d objects", maxObjects)
		}
		if rep.From.IsZero() {
			rep.From = a.Time
		}
		rep.To = a.Time
		return nil
	})
	if err != nil {
		return nil, err
	}
	rep.Objects = len(sizes)
	if _, err := log.Seek(0, io.SeekStart); err != nil {
		return nil, firn.E("rewind", "access log", err)
	}
	var runs []*run
	for _, name := range opt.Policies {
		for _, ahead := range []bool{false, true} {
			p, err := newPolicy(name, opt.Budget, opt.Block)
			if err != nil {
				return nil, err
			}
			runs = append(runs, &run{
				opt: opt, p: p, sizes: sizes, r: Result{Policy: name, Prefetch: ahead},
				ahead: map[blockID]struct{}{}, coming: map[blockID]struct{}{},
			})
		}
	}
	l, err := prefetch.New(prefetch.Options{})
	if err != nil {
		return nil, err
	}
	err = Read(ctx, log, func(a Access) error {
		if (a.Offset+a.Length-1)/opt.Block-a.Offset/opt.Block >= maxBlocks {
			return invalid("a read of %s has more than %d blocks: choose larger ones", a.Key, maxBlocks)
		}
		suggested := l.Observe(prefetch.Access{Time: a.Time, Object: a.Key, Size: a.Size, Offset: a.Offset, Length: a.Length})
		for _, r := range runs {
			r.read(&a)
			if r.r.Prefetch {
				for i := range suggested {
					r.suggest(&suggested[i], &a)
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, r := range runs {
		r.r.HitRatio, r.r.ByteHitRatio = ratio(r.r.BlockHits, r.r.Blocks), ratio(r.r.ByteHits, r.r.Bytes)
		rep.Results = append(rep.Results, r.r)
	}
	return rep, nil
}

func ratio(a, b int64) float64 {
	if b == 0 {
		return 0
	}
	return float64(a) / float64(b)
}

// run is one policy with one log.
type run struct {
	opt   Options
	p     policy
	sizes map[uint64]int64
	r     Result

	ahead  map[blockID]struct{} // prefetched and not read yet; those that were evicted are swept now and then
	queue  []coming             // in the order of their arrival
	coming map[blockID]struct{} // what is in queue
	free   time.Time            // when the link is free
}

type coming struct {
	id   blockID
	size int64
	at   time.Time
}

// maxQueue is the most blocks that are on their way at one time.
const maxQueue = 1024

func (r *run) sizeOf(object uint64, block int64) int64 {
	return min(r.opt.Block, r.sizes[object]-block*r.opt.Block)
}

func (r *run) read(a *Access) {
	r.arrive(a.Time)
	object := xxhash.Sum64String(a.Key)
	all := true
	r.r.Reads++
	for b := a.Offset / r.opt.Block; a.Length > 0 && b <= (a.Offset+a.Length-1)/r.opt.Block; b++ {
		id := blockID{object, b}
		from, to := max(a.Offset, b*r.opt.Block), min(a.Offset+a.Length, (b+1)*r.opt.Block)
		r.r.Blocks++
		r.r.Bytes += to - from
		_, early := r.ahead[id]
		if r.p.get(id) {
			r.r.BlockHits++
			r.r.ByteHits += to - from
			if early {
				r.r.Used++
			}
		} else {
			all = false
			size := r.sizeOf(object, b)
			r.r.OriginBytes += size
			r.p.add(id, size)
			// The link is the read's: what comes ahead comes later.
			late := r.over(size)
			for i := range r.queue {
				r.queue[i].at = r.queue[i].at.Add(late)
			}
			r.free = r.free.Add(late)
		}
		delete(r.ahead, id)
		r.r.Held = max(r.r.Held, r.p.held())
	}
	if all {
		r.r.ReadHits++
	}
}

func (r *run) over(size int64) time.Duration {
	return time.Duration(float64(size) / float64(r.opt.Rate) * float64(time.Second))
}

// arrive takes in what has come until now.
func (r *run) arrive(now time.Time) {
	n := 0
	for ; n < len(r.queue) && !r.queue[n].at.After(now); n++ {
		c := r.queue[n]
		delete(r.coming, c.id)
		r.r.Prefetched++
		r.r.OriginBytes += c.size
		if !r.p.has(c.id) {
			r.p.add(c.id, c.size)
			r.ahead[c.id] = struct{}{}
		}
	}
	r.queue = slices.Delete(r.queue, 0, n)
	if len(r.ahead) > 1<<16 {
		for id := range r.ahead {
			if !r.p.has(id) {
				delete(r.ahead, id)
			}
		}
	}
	r.r.Held = max(r.r.Held, r.p.held())
}

// suggest queues the blocks of a suggestion that are not there. An object that the log does not have is taken to exist
// and to be as large as the one just read: what is fetched in vain must not look free.
func (r *run) suggest(s *prefetch.Suggestion, after *Access) {
	object, now := xxhash.Sum64String(s.Object), after.Time
	size, known := r.sizes[object]
	if !known {
		size = after.Size
	}
	n := s.Length
	if n == 0 {
		n = min(size, r.opt.Ahead)
	}
	end := min(s.Offset+n, size)
	if r.free.Before(now) {
		r.free = now
	}
	for b := s.Offset / r.opt.Block; b*r.opt.Block < end && len(r.queue) < maxQueue; b++ {
		id := blockID{object, b}
		if _, there := r.coming[id]; there || r.p.has(id) {
			continue
		}
		n := min(r.opt.Block, size-b*r.opt.Block)
		r.free = r.free.Add(r.over(n))
		r.queue = append(r.queue, coming{id, n, r.free})
		r.coming[id] = struct{}{}
	}
}

// Print writes a report for people.
func (rep *Report) Print(w io.Writer) error {
	if _, err := fmt.Fprintf(w, "%d objects of %s together, from %s to %s; a cache of %s in blocks of %s\n\n", rep.Objects,
		size(rep.Distinct), rep.From.UTC().Format(time.DateTime), rep.To.UTC().Format(time.DateTime), size(rep.Budget), size(rep.Block)); err != nil {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "POLICY\tPREFETCH\tHITS\tHITS BY BYTES\tWHOLE READS\tFETCHED\tPREFETCHED AND USED") // kept until Flush
	for _, r := range rep.Results {
		ahead, used := "no", "-"
		if r.Prefetch {
			ahead, used = "yes", fmt.Sprintf("%.1f %% of %d blocks", 100*ratio(r.Used, r.Prefetched), r.Prefetched)
		}
		_, _ = fmt.Fprintf(t, "%s\t%s\t%.1f %%\t%.1f %%\t%.1f %%\t%s\t%s\n", r.Policy, ahead, 100*r.HitRatio,
			100*r.ByteHitRatio, 100*ratio(r.ReadHits, r.Reads), size(r.OriginBytes), used)
	}
	return t.Flush()
}

func size(n int64) string {
	f, u := float64(n), 0
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	for f >= 1024 && u < len(units)-1 {
		f /= 1024
		u++
	}
	if u == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", f, units[u])
}
