package linear

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"firn/test/server"
	"firn/test/wire"
)

var (
	seed      = flag.Uint64("seed", 0, "seed of the operations; 0 draws one")
	histories = flag.Int("histories", 6, "histories to record and check")
)

const (
	bucket  = "linear"
	keys    = 5
	clients = 12
	// opsPerEpoch bounds a history between two restarts, so that checking takes seconds.
	opsPerEpoch = 1200
)

// TestHistories records histories with a kill -9 or a restart between epochs, and checks each.
func TestHistories(t *testing.T) {
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	t.Logf("replay with: go test ./test/linear -args -seed %d", *seed)
	s := server.Start(t)
	client := wire.New(s.Addr(), server.AccessKey, server.SecretKey)
	if resp, err := client.CreateBucket(t.Context(), bucket); err != nil || resp.Status != 200 {
		t.Fatalf("create bucket: %v, %v", resp, err)
	}
	for n := range *histories {
		r := &recorder{client: client, prefix: fmt.Sprintf("h%d/", n), start: time.Now()}
		ends := []func() error{
			func() error { s.Kill(); return nil },
			s.Stop,
			func() error { s.Kill(); return nil },
			nil, // the last clients finish
		}
		for epoch, end := range ends {
			if err := r.epoch(t.Context(), *seed+uint64(n*len(ends)+epoch), end); err != nil {
				t.Fatal(err)
			}
			if end != nil {
				client.CloseIdle()
				s.Start(t)
			}
		}
		began := time.Now()
		result, info := porcupine.CheckOperationsVerbose(model(), r.mu.history, time.Minute)
		unknown := 0
		for _, op := range r.mu.history {
			if op.Output.(output).unknown {
				unknown++
			}
		}
		t.Logf("history %d: %d operations, %d unknown, %s in %v", n, len(r.mu.history), unknown, result,
			time.Since(began).Round(time.Millisecond))
		if result != porcupine.Ok {
			path := filepath.Join(t.ArtifactDir(), fmt.Sprintf("history-%d.html", n))
			if err := porcupine.VisualizePath(model(), info, path); err != nil {
				t.Error(err)
			}
			t.Errorf("history %d is %s (run with -artifacts to keep its picture, %s)", n, result, path)
		}
	}
	s.MustStop(t)
}

// recorder records one history.
type recorder struct {
	client *wire.Client
	prefix string
	start  time.Time
	values atomic.Int64
	mu     struct {
		sync.Mutex
		history []porcupine.Operation
	}
}

func (r *recorder) now() int64 { return int64(time.Since(r.start)) }

// body returns the content of a number: the number, padded to a size that depends on it so that some contents are in
// the metadata store and some are files.
func body(value int) []byte {
	size := 20
	if value%16 == 0 {
		size = 200 << 10
	}
	return []byte(fmt.Sprintf("%d %s", value, strings.Repeat("x", size)))
}

func etag(value int) string {
	sum := md5.Sum(body(value))
	return hex.EncodeToString(sum[:])
}

// epoch lets all clients send operations. In the middle of them it calls end, which ends the server; with end nil
// they finish.
func (r *recorder) epoch(ctx context.Context, seed uint64, end func() error) error {
	var sent atomic.Int64
	var ended atomic.Bool
	var wg sync.WaitGroup
	errs := make(chan error, clients)
	cut := make([]*porcupine.Operation, clients)
	half := make(chan struct{})
	for c := range clients {
		rng := rand.New(rand.NewPCG(seed, uint64(c)))
		wg.Go(func() {
			last := map[string]int{} // content last seen of a key, for putIfMatch
			for {
				n := sent.Add(1)
				if n == opsPerEpoch/2 {
					close(half)
				}
				if n > opsPerEpoch && end == nil {
					return
				}
				in := r.draw(rng, last)
				call := r.now()
				out, err := r.do(ctx, in)
				op := porcupine.Operation{ClientId: c, Input: in, Call: call, Output: out, Return: r.now()}
				if errors.Is(err, errNoAnswer) && ended.Load() {
					cut[c] = &op
					return
				}
				if err != nil {
					errs <- fmt.Errorf("client %d: %v: %w", c, in, err)
					return
				}
				switch {
				case in.kind == get:
					last[in.key] = out.value
				case !out.refused && in.kind != remove:
					last[in.key] = in.value
				}
				r.mu.Lock()
				r.mu.history = append(r.mu.history, op)
				r.mu.Unlock()
			}
		})
	}
	var endErr error
	if end != nil {
		select {
		case <-half:
		case err := <-errs:
			endErr = err
		}
		ended.Store(true)
		endErr = errors.Join(endErr, end())
	}
	died := r.now()
	wg.Wait()
	for _, op := range cut {
		// What was sent to nobody did not happen.
		if op != nil && op.Call <= died {
			op.Output, op.Return = output{unknown: true}, died
			r.mu.history = append(r.mu.history, *op)
		}
	}
	select {
	case err := <-errs:
		return errors.Join(endErr, err)
	default:
		return endErr
	}
}

// errNoAnswer is the lack of an answer, or the answer that the server failed: what happened is not known.
var errNoAnswer = errors.New("no answer")

// draw makes an operation. Each content is written once, so that a read tells which write it saw.
func (r *recorder) draw(rng *rand.Rand, last map[string]int) input {
	in := input{key: r.prefix + strconv.Itoa(rng.IntN(keys))}
	switch n := rng.IntN(100); {
	case n < 40:
		in.kind = get
	case n < 60:
		in.kind = put
	case n < 75:
		in.kind = putIfAbsent
	case n < 85 && last[in.key] != 0:
		in.kind, in.match = putIfMatch, last[in.key]
	default:
		in.kind = remove
	}
	if in.kind != get && in.kind != remove {
		in.value = int(r.values.Add(1))
	}
	return in
}

// do sends an operation. It returns errNoAnswer, or another error for an answer that cannot be right.
func (r *recorder) do(ctx context.Context, in input) (output, error) {
	var resp *wire.Response
	var err error
	switch in.kind {
	case get:
		resp, err = r.client.Get(ctx, bucket, in.key, "")
	case put:
		resp, err = r.client.Put(ctx, bucket, in.key, body(in.value), nil)
	case putIfAbsent:
		resp, err = r.client.Put(ctx, bucket, in.key, body(in.value), wire.Header("If-None-Match", "*"))
	case putIfMatch:
		resp, err = r.client.Put(ctx, bucket, in.key, body(in.value),
			wire.Header("If-Match", `"`+etag(in.match)+`"`))
	case remove:
		resp, err = r.client.Delete(ctx, bucket, in.key, "")
	}
	if err != nil {
		return output{}, fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	switch {
	case resp.Status >= 500:
		return output{}, fmt.Errorf("%w: %v", errNoAnswer, resp)
	case in.kind == get && resp.Status == 404, in.kind == remove && resp.Status == 204:
		return output{}, nil
	case in.kind == get && resp.Status == 200:
		number, _, _ := strings.Cut(string(resp.Body), " ")
		value, err := strconv.Atoi(number)
		if err != nil || string(body(value)) != string(resp.Body) || resp.ETag() != etag(value) {
			return output{}, fmt.Errorf("torn: %.60q with ETag %s", resp.Body, resp.ETag())
		}
		return output{value: value}, nil
	case in.kind != get && in.kind != remove && resp.Status == 200:
		return output{}, nil
	case in.kind == putIfAbsent && resp.Status == 412, in.kind == putIfMatch && (resp.Status == 412 || resp.Status == 404):
		return output{refused: true}, nil
	}
	return output{}, fmt.Errorf("answer %v", resp)
}
