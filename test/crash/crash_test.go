// Package crash kills the real binary with kill -9 under load, again and again, and holds it to the notes of what it
// acknowledged (test/ledger).
package crash

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"firn/test/ledger"
	"firn/test/server"
	"firn/test/wire"
)

var (
	rounds = flag.Int("rounds", 200, "kills under load")
	seed   = flag.Uint64("seed", 0, "seed of the load and of the kills; 0 draws one")
)

func TestKillUnderLoad(t *testing.T) {
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	replay := fmt.Sprintf("replay with: go test ./test/crash -args -seed %d -rounds %d", *seed, *rounds)
	t.Log(replay)
	rng := rand.New(rand.NewPCG(*seed, 0))

	s := server.Start(t)
	client := wire.New(s.Addr(), server.AccessKey, server.SecretKey)
	l := ledger.New(client, ledger.Options{
		Seed: *seed, Workers: 16, Keys: 24, Large: true, Retry: s.Name() == "firn",
	})
	if err := l.Setup(t.Context()); err != nil {
		t.Fatal(err)
	}
	var load, restart, verify time.Duration
	for round := range *rounds {
		began := time.Now()
		// From a handful of operations, so that kills fall into start-up work too, to some hundred.
		if err := l.Round(t.Context(), 1+rng.Int64N(600), s.Kill); err != nil {
			t.Fatalf("%v\n%s", err, replay)
		}
		killed := time.Now()
		client.CloseIdle()
		s.Start(t)
		ready := time.Now()
		if err := l.Verify(t.Context(), round%25 == 24 || round == *rounds-1); err != nil {
			t.Fatalf("%v\n%s", err, replay)
		}
		load, restart, verify = load+killed.Sub(began), restart+ready.Sub(killed), verify+time.Since(ready)
	}
	n := time.Duration(max(*rounds, 1))
	t.Logf("%d kills: %+v; a round: %v load, %v restart, %v verification",
		*rounds, l.Stats(), load/n, restart/n, verify/n)
	s.MustStop(t)
	if s.Name() != "firn" {
		return
	}
	// What the kills left behind was collected at the starts since, or is now; nothing that is stored is damaged.
	if out, err := server.Run(t.Context(), t, "check", "--offline", "--read", "--data", s.Data()); err != nil {
		t.Errorf("firn check: %v\n%.5000s\n%s", err, out, replay)
	} else {
		t.Logf("firn check: %s", strings.TrimSpace(out))
	}
}
