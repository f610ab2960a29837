// Package loadgen drives an S3 endpoint with load and measures what comes back: operations and bytes a
// second, latency quantiles, errors by code, and the processor time both sides spent.
//
// It promises to cost little, because it often shares its cores with the server it measures: one connection
// a worker, its own HTTP/1.1 writer and reader, signatures with a cached key, bodies made once. It promises
// to be bounded in memory and time, to stop when its context ends, and to remove only what it made.
// It must never import a package that serves (object, s3api, node), so that it measures every server alike.
package loadgen

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	hdr "github.com/HdrHistogram/hdrhistogram-go"

	"firn"
)

// Op names what a run does again and again.
type Op string

// The operations of a run.
const (
	OpPut         Op = "put"          // one PUT of a new key
	OpGet         Op = "get"          // one whole GET of a preloaded key
	OpHead        Op = "head"         // one HEAD of a preloaded key
	OpList        Op = "list"         // one page of ListObjectsV2
	OpDelete      Op = "delete"       // one DELETE of a preloaded key
	OpMultiDelete Op = "multi-delete" // one batch delete of preloaded keys
	OpMixed       Op = "mixed"        // get, head, put and delete by ratio
	OpMultipart   Op = "multipart"    // create, all parts, complete
)

// Ops returns all operations.
func Ops() []Op {
	return []Op{OpPut, OpGet, OpHead, OpList, OpDelete, OpMultiDelete, OpMixed, OpMultipart}
}

// Signing names how the body of an upload is covered by the signature.
type Signing string

// The signing modes.
const (
	SignPayload  Signing = "signed"           // x-amz-content-sha256 is the body's SHA-256
	SignStream   Signing = "streaming"        // aws-chunked, each chunk signed
	SignUnsigned Signing = "unsigned"         // UNSIGNED-PAYLOAD
	SignTrailer  Signing = "unsigned-trailer" // aws-chunked, not signed, CRC32 trailer (what boto3 sends over TLS)
)

// Target is the server under load.
type Target struct {
	Endpoint  string // http://host:port or https://host[:port]
	AccessKey string
	SecretKey string
	Region    string // "" is us-east-1
	Insecure  bool   // accept any certificate
}

// Mix gives the shares of a mixed run; they need not sum to anything.
type Mix struct{ Get, Head, Put, Delete int }

// Options describe one run. The zero value of a field takes the default named with it.
type Options struct {
	Bucket      string        // "firn-bench"; made where it does not exist, and then removed at the end
	Prefix      string        // "bench/"; every key of the run starts with it, and only such keys are ever removed
	Op          Op            // OpPut
	Size        int64         // bytes of an object, 0 is allowed
	PartSize    int64         // bytes of a part in OpMultipart: 16 MiB
	Concurrency int           // workers, each with one connection: 8
	Duration    time.Duration // of the measured part: 10 s where Requests is 0
	Requests    int64         // end after so many operations (0: only Duration ends the run)
	Objects     int           // objects loaded before get, head, list, delete, multi-delete, mixed: 1000
	Batch       int           // keys in one OpMultiDelete: 1000
	Page        int           // keys in one page of OpList: 1000
	ListRandom  bool          // each page starts after a random preloaded key instead of going on where the last ended
	Signing     Signing       // SignPayload
	Unique      bool          // every body differs and is hashed anew, instead of a few bodies hashed once
	Encrypt     bool          // ask for server-side encryption (SSE-S3) of what is put in one request
	Verify      bool          // compare every byte of every GET
	Keep        bool          // leave objects and bucket behind
	Preloaded   bool          // a run with Keep, same Bucket, Prefix, Size, Objects and Unique left the objects there
	Mix         Mix           // 45, 30, 15, 10
	ServerPID   int           // process whose CPU and memory are reported (Linux); 0 for none
	Timeout     time.Duration // of one request: 2 min
}

// Limits of a run.
const (
	maxConcurrency = 4096
	maxObjects     = 100_000_000
	maxErrorKinds  = 64
	giveUpAfter    = 200 // consecutive failures of one worker that end the run
	maxLatency     = time.Hour
)

func (o *Options) setDefaults() error {
	def := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	if o.Bucket == "" {
		o.Bucket = "firn-bench"
	}
	if o.Prefix == "" {
		o.Prefix = "bench/"
	}
	if o.Op == "" {
		o.Op = OpPut
	}
	if o.Signing == "" {
		o.Signing = SignPayload
	}
	if o.PartSize == 0 {
		o.PartSize = 16 << 20
	}
	def(&o.Concurrency, 8)
	def(&o.Objects, 1000)
	def(&o.Batch, 1000)
	def(&o.Page, 1000)
	if o.Duration == 0 && o.Requests == 0 {
		o.Duration = 10 * time.Second
	}
	if o.Duration == 0 {
		o.Duration = 24 * time.Hour
	}
	if o.Timeout == 0 {
		o.Timeout = 2 * time.Minute
	}
	if o.Mix == (Mix{}) {
		o.Mix = Mix{Get: 45, Head: 30, Put: 15, Delete: 10}
	}
	bad := func(format string, a ...any) error {
		return &firn.Error{Kind: firn.Invalid, Op: "bench", Err: fmt.Errorf(format, a...)}
	}
	known := false
	for _, op := range Ops() {
		known = known || op == o.Op
	}
	switch {
	case !known:
		return bad("unknown operation %q", o.Op)
	case o.Size < 0 || o.Size > 5<<40:
		return bad("size %d is out of range", o.Size)
	case o.PartSize < 1 || o.PartSize > 5<<30:
		return bad("part size %d is out of range", o.PartSize)
	case o.Concurrency < 1 || o.Concurrency > maxConcurrency:
		return bad("concurrency must be 1 to %d", maxConcurrency)
	case o.Objects < 1 || o.Objects > maxObjects:
		return bad("objects must be 1 to %d", maxObjects)
	case o.Batch < 1 || o.Batch > 1000:
		return bad("batch must be 1 to 1000")
	case o.Page < 1 || o.Page > 1000:
		return bad("page must be 1 to 1000")
	case o.Requests < 0 || o.Duration < 0 || o.Timeout < 0:
		return bad("requests, duration and timeout must not be negative")
	case o.Mix.Get < 0 || o.Mix.Head < 0 || o.Mix.Put < 0 || o.Mix.Delete < 0:
		return bad("shares of a mix must not be negative")
	}
	switch o.Signing {
	case SignPayload, SignStream, SignUnsigned, SignTrailer:
	default:
		return bad("unknown signing mode %q", o.Signing)
	}
	for _, c := range []byte(o.Bucket + o.Prefix) {
		if !unreserved(c) && c != '/' {
			return bad("bucket and prefix may hold letters, digits and -._~/ only")
		}
	}
	return nil
}

// Run loads what the operation needs, measures, cleans up, and returns what it measured. When ctx ends
// during the measured part the result so far is returned with ctx's error. Cleaning up goes on for at most
// a minute after that.
func Run(ctx context.Context, t Target, o Options) (res *Result, err error) {
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	u, err := url.Parse(t.Endpoint)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || strings.Trim(u.Path, "/") != "" {
		return nil, &firn.Error{
			Kind: firn.Invalid, Op: "bench", Subject: t.Endpoint,
			Err: errors.New("endpoint must be http://host:port or https://host:port"),
		}
	}
	if t.Region == "" {
		t.Region = "us-east-1"
	}
	r := &run{o: o, t: t, url: u}
	r.bodies, err = newBodies(r.bodySize(), o.Unique)
	if err != nil {
		return nil, err
	}

	admin := r.newWorker(-1)
	defer admin.close()
	made, err := admin.makeBucket(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if o.Keep {
			return
		}
		cctx := ctx
		if ctx.Err() != nil {
			var cancel context.CancelFunc
			cctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
			defer cancel()
		}
		if cerr := r.cleanup(cctx, made); cerr != nil && err == nil {
			err = cerr
		}
	}()
	if r.needsObjects() && !o.Preloaded {
		if err := r.preload(ctx); err != nil {
			return nil, err
		}
	}
	return r.measure(ctx)
}

// run is the shared state of one Run. Workers touch only the atomics.
type run struct {
	o      Options
	t      Target
	url    *url.URL
	bodies *bodies

	issued    atomic.Int64 // operations handed out, against Options.Requests
	nextObj   atomic.Int64 // preloaded objects taken by deletes
	exhausted atomic.Bool  // deletes ran out of objects
}

func (r *run) bodySize() int64 {
	if r.o.Op == OpMultipart {
		return min(r.o.Size, r.o.PartSize)
	}
	return r.o.Size
}

func (r *run) needsObjects() bool { return r.o.Op != OpPut && r.o.Op != OpMultipart }

// objectKey names preloaded object i. Keys spread over 16 prefixes and do not arrive in order, as real ones.
func (r *run) objectKey(dst []byte, i int64) []byte {
	dst = append(dst, r.o.Prefix...)
	dst = append(dst, 'p')
	dst = appendHex(dst, uint64(i&15), 2)
	dst = append(dst, '/')
	return appendHex(dst, mix64(uint64(i)), 16)
}

// newKey names the n-th object that worker w puts.
func (r *run) newKey(dst []byte, w int, n int64) []byte {
	dst = append(dst, r.o.Prefix...)
	dst = append(dst, 'w')
	dst = strconv.AppendInt(dst, int64(w), 10)
	dst = append(dst, '/')
	return appendHex(dst, mix64(uint64(w)<<40|uint64(n)), 16)
}

// each runs fn in Concurrency workers and returns the first error.
func (r *run) each(ctx context.Context, fn func(ctx context.Context, w *worker) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for i := range r.o.Concurrency {
		wg.Go(func() {
			w := r.newWorker(i)
			defer w.close()
			if err := fn(ctx, w); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

func (r *run) preload(ctx context.Context) error {
	var next atomic.Int64
	err := r.each(ctx, func(ctx context.Context, w *worker) error {
		for {
			i := next.Add(1) - 1
			if i >= int64(r.o.Objects) {
				return nil
			}
			w.key = r.objectKey(w.key[:0], i)
			if err := w.retry(ctx, func() error { return w.put(ctx, w.key) }); err != nil {
				return err
			}
		}
	})
	return firn.E("bench: load objects", r.o.Bucket, err)
}

// cleanup removes the keys under Prefix, and the bucket where this run made it.
func (r *run) cleanup(ctx context.Context, made bool) error {
	w := r.newWorker(-1)
	defer w.close()
	batches := make(chan []string, 2*r.o.Concurrency)
	err := func() error {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		var wg sync.WaitGroup
		for range min(r.o.Concurrency, 8) {
			wg.Go(func() {
				dw := r.newWorker(-1)
				defer dw.close()
				for keys := range batches {
					if err := dw.retry(ctx, func() error { return dw.deleteKeys(ctx, keys) }); err != nil {
						cancel(err)
						return
					}
				}
			})
		}
		defer wg.Wait()
		defer close(batches)
		after := ""
		for {
			var keys []string
			if err := w.retry(ctx, func() (err error) { keys, err = w.listKeys(ctx, after); return err }); err != nil {
				return err
			}
			if len(keys) == 0 {
				return nil
			}
			after = keys[len(keys)-1]
			select {
			case batches <- keys:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}()
	if err == nil && r.o.Op == OpMultipart {
		err = w.abortUploads(ctx)
	}
	if err == nil && made {
		err = w.removeBucket(ctx)
	}
	return firn.E("bench: clean up", r.o.Bucket, err)
}

func (r *run) measure(ctx context.Context) (*Result, error) {
	res := &Result{
		Endpoint: r.t.Endpoint, Op: r.o.Op, Size: r.o.Size, Concurrency: r.o.Concurrency,
		Signing: r.o.Signing, Errors: map[string]int64{},
	}
	if r.needsObjects() {
		res.Objects = r.o.Objects
	}
	total := hdr.New(1, maxLatency.Microseconds(), 3)
	var mu sync.Mutex

	before, err := readUsage(r.o.ServerPID)
	if err != nil {
		return nil, firn.E("bench: read server process", strconv.Itoa(r.o.ServerPID), err)
	}
	start := time.Now()
	deadline := start.Add(r.o.Duration)
	err = r.each(ctx, func(ctx context.Context, w *worker) error {
		err := w.loop(ctx, deadline)
		mu.Lock()
		defer mu.Unlock()
		total.Merge(w.hist)
		res.Ops += w.ops
		res.Bytes += w.bytes
		res.Keys += w.keys
		res.VerifyFailures += w.mismatches
		for k, n := range w.errs {
			res.addError(k, n)
		}
		return err
	})
	res.Seconds = time.Since(start).Seconds()
	after, uerr := readUsage(r.o.ServerPID)
	res.fill(total, before, after, r.o.ServerPID != 0 && uerr == nil)
	res.Exhausted = r.exhausted.Load()
	if err == nil && uerr != nil {
		err = firn.E("bench: read server process", strconv.Itoa(r.o.ServerPID), uerr)
	}
	return res, err
}

// loop repeats the run's operation until the deadline, the request count, the objects or ctx end.
func (w *worker) loop(ctx context.Context, deadline time.Time) error {
	stop := context.AfterFunc(ctx, w.c.interrupt)
	defer stop()
	op := w.operation()
	failures := 0
	now := time.Now()
	for now.Before(deadline) && ctx.Err() == nil {
		if w.r.o.Requests > 0 && w.r.issued.Add(1) > w.r.o.Requests {
			return nil
		}
		begin := now
		err := op(ctx)
		now = time.Now()
		switch {
		case err == nil:
			failures = 0
			w.ops++
			if err := w.hist.RecordValue(max(1, now.Sub(begin).Microseconds())); err != nil {
				return err
			}
		case errors.Is(err, errExhausted):
			w.r.exhausted.Store(true)
			return nil
		case ctx.Err() != nil:
			return nil // the operation was cut off by the end of the run: it is no result
		default:
			w.countError(err)
			if failures++; failures >= giveUpAfter {
				return fmt.Errorf("gave up after %d failures in a row: %w", failures, err)
			}
			if !sleep(ctx, min(time.Duration(failures)*5*time.Millisecond, 500*time.Millisecond)) {
				return nil
			}
			now = time.Now()
		}
	}
	return nil
}

var errExhausted = errors.New("no objects left to delete")

func (w *worker) operation() func(context.Context) error {
	r := w.r
	switch r.o.Op {
	case OpGet:
		return func(ctx context.Context) error { return w.get(ctx, w.randomKey()) }
	case OpHead:
		return func(ctx context.Context) error { return w.head(ctx, w.randomKey()) }
	case OpList:
		return w.listPage
	case OpDelete:
		return func(ctx context.Context) error {
			i := r.nextObj.Add(1) - 1
			if i >= int64(r.o.Objects) {
				return errExhausted
			}
			w.key = r.objectKey(w.key[:0], i)
			return w.delete(ctx, w.key)
		}
	case OpMultiDelete:
		return func(ctx context.Context) error {
			from := r.nextObj.Add(int64(r.o.Batch)) - int64(r.o.Batch)
			to := min(from+int64(r.o.Batch), int64(r.o.Objects))
			if from >= to {
				return errExhausted
			}
			keys := make([]string, 0, to-from)
			for i := from; i < to; i++ {
				w.key = r.objectKey(w.key[:0], i)
				keys = append(keys, string(w.key))
			}
			w.keys += to - from
			return w.deleteKeys(ctx, keys)
		}
	case OpMixed:
		return w.mixed
	case OpMultipart:
		return func(ctx context.Context) error { return w.multipart(ctx, w.freshKey()) }
	default:
		return func(ctx context.Context) error { return w.put(ctx, w.freshKey()) }
	}
}

func (w *worker) randomKey() []byte {
	w.key = w.r.objectKey(w.key[:0], w.rnd.Int64N(int64(w.r.o.Objects)))
	return w.key
}

func (w *worker) freshKey() []byte {
	w.key = w.r.newKey(w.key[:0], w.id, w.made)
	w.made++
	return w.key
}

// mixed reads preloaded objects and deletes only what this worker put, so that no read races a delete.
func (w *worker) mixed(ctx context.Context) error {
	m := w.r.o.Mix
	n := w.rnd.IntN(max(1, m.Get+m.Head+m.Put+m.Delete))
	switch {
	case n < m.Get:
		return w.get(ctx, w.randomKey())
	case n < m.Get+m.Head:
		return w.head(ctx, w.randomKey())
	case n >= m.Get+m.Head+m.Put && w.removed < w.made:
		w.key = w.r.newKey(w.key[:0], w.id, w.removed)
		w.removed++
		return w.delete(ctx, w.key)
	default:
		return w.put(ctx, w.freshKey())
	}
}

func (w *worker) countError(err error) {
	k := errorName(err)
	if _, ok := w.errs[k]; !ok && len(w.errs) >= maxErrorKinds {
		k = "other"
	}
	w.errs[k]++
}

// retry is for loading and cleaning up, where a failure of one request should not end the run.
func (w *worker) retry(ctx context.Context, fn func() error) error {
	stop := context.AfterFunc(ctx, w.c.interrupt)
	defer stop()
	for n := 0; ; n++ {
		err := fn()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var se *statusError
		var ce *tls.CertificateVerificationError
		if errors.As(err, &se) && se.status < 500 && se.status != 429 || errors.As(err, &ce) || n >= 8 {
			return err
		}
		if !sleep(ctx, 20*time.Millisecond<<n) {
			return context.Cause(ctx)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func newRand(id int) *rand.Rand { return rand.New(rand.NewPCG(uint64(id)+1, 0x6669726e)) }

func mix64(x uint64) uint64 { // splitmix64 finaliser: a bijection, so keys never collide
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func appendHex(dst []byte, v uint64, digits int) []byte {
	for i := digits - 1; i >= 0; i-- {
		dst = append(dst, "0123456789abcdef"[v>>(4*i)&15])
	}
	return dst
}
