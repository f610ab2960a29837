// Package powerloss runs the real binary on a file system that forgets what was not synced (test/lossyfs), takes the
// power away under load, again and again, and holds the server to the notes of what it acknowledged (test/ledger).
package powerloss

import (
	"flag"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"firn/test/ledger"
	"firn/test/lossyfs"
	"firn/test/server"
	"firn/test/wire"
)

var (
	losses     = flag.Int("losses", 24, "power losses under load")
	seed       = flag.Uint64("seed", 0, "seed of the load and of the losses; 0 draws one")
	syncDelay  = flag.Duration("sync-delay", 2*time.Millisecond, "how long a sync takes")
	journalled = flag.Bool("journalled", false, "any sync commits all directory changes so far, as ext4 and xfs do")
	census     = flag.Bool("census", false, "count what each loss takes, on a new disk each time; for comparing peers")
)

// site is a server on a disk that forgets, with the writers that load it.
type site struct {
	disk   *lossyfs.FS
	dir    string
	server *server.Server
	client *wire.Client
	ledger *ledger.Ledger
}

func newSite(t *testing.T, seed uint64) *site {
	t.Helper()
	disk := lossyfs.New(lossyfs.Options{SyncDelay: *syncDelay, Journalled: *journalled})
	dir := t.TempDir()
	if err := disk.Mount(dir); err != nil {
		t.Fatalf("%v (this test needs root and /dev/fuse)", err)
	}
	t.Cleanup(func() {
		if err := disk.Unmount(); err != nil {
			t.Error(err)
		}
	})
	s := server.New(t, server.Under(t), filepath.Join(dir, "data"))
	s.Start(t)
	client := wire.New(s.Addr(), server.AccessKey, server.SecretKey)
	l := ledger.New(client, ledger.Options{
		Seed: seed, Workers: 32, Keys: 24, Large: true, Retry: s.Name() == "firn",
	})
	if err := l.Setup(t.Context()); err != nil {
		t.Fatal(err)
	}
	return &site{disk: disk, dir: dir, server: s, client: client, ledger: l}
}

// lose loads the server, takes the power away after some acknowledged mutations, and starts the server again on what
// is left.
func (s *site) lose(t *testing.T, after int64, torn *rand.Rand) {
	t.Helper()
	err := s.ledger.Round(t.Context(), after, func() {
		s.disk.PowerOff()
		s.server.Kill()
	})
	if err != nil {
		t.Fatal(err)
	}
	s.client.CloseIdle()
	if err := s.disk.Unmount(); err != nil {
		t.Fatal(err)
	}
	s.disk.Forget(torn)
	if err := s.disk.Mount(s.dir); err != nil {
		t.Fatal(err)
	}
	s.server.Start(t)
}

// TestPowerLossUnderLoad alternates between losses that take all that was not synced and losses that leave a random
// part of it. It needs root and /dev/fuse.
func TestPowerLossUnderLoad(t *testing.T) {
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	t.Logf("replay with: go test ./test/powerloss -args -seed %d -losses %d", *seed, *losses)
	rng := rand.New(rand.NewPCG(*seed, 0))
	if *census {
		count(t, rng)
		return
	}
	s := newSite(t, *seed)
	for loss := range *losses {
		var torn *rand.Rand
		if loss%2 == 1 {
			torn = rng
		}
		s.lose(t, 1+rng.Int64N(1500), torn)
		if err := s.ledger.Verify(t.Context(), true); err != nil {
			t.Fatalf("power loss %d (torn: %v): %v", loss+1, torn != nil, err)
		}
	}
	t.Logf("%d power losses: %+v, %d syncs", *losses, s.ledger.Stats(), s.disk.Syncs())
	s.server.MustStop(t)
	if s.server.Name() != "firn" {
		return
	}
	if out, err := server.Run(t.Context(), t, "check", "--offline", "--read", "--data", s.server.Data()); err != nil {
		t.Errorf("firn check: %v\n%.5000s", err, out)
	} else {
		t.Logf("firn check: %s", strings.TrimSpace(out))
	}
}

// count is the census: it fails for nothing, it tells how much is lost.
func count(t *testing.T, rng *rand.Rand) {
	var objects, lost int
	for range *losses {
		t.Run("loss", func(t *testing.T) {
			s := newSite(t, rng.Uint64())
			s.lose(t, 500+rng.Int64N(1000), nil)
			o, l := s.ledger.Census(t.Context())
			objects, lost = objects+o, lost+l
		})
	}
	t.Logf("%d power losses: %d of %d acknowledged objects lost", *losses, lost, objects)
}
