//go:build servers && rados

package radosblob

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/blob/drivertest"
	"firn/test/backends"
)

func options(c *backends.Cluster, prefix string) Options {
	return Options{Pool: "data", ConfigFile: c.Conf, Prefix: prefix, PieceSize: 1 << 20, Timeout: 5 * time.Second}
}

func open(t *testing.T, opt Options) *pool {
	t.Helper()
	d, err := New(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	return d.(*pool)
}

func TestCeph(t *testing.T) {
	c := backends.Ceph(t)
	c.Command(t, "osd", "pool", "create", "data", "4")
	n := 0
	t.Run("suite", func(t *testing.T) {
		drivertest.Run(t, func(t *testing.T) driver.Driver {
			n++
			opt := options(c, fmt.Sprintf("place/%d", n))
			opt.Namespace = "firn"
			return open(t, opt)
		},
			drivertest.Expect(drivertest.Creator|drivertest.Measurer), drivertest.Large(10<<20+7),
			drivertest.Second(func(t *testing.T, d driver.Driver) driver.Driver { return open(t, d.(*pool).opt) }))
	})
	t.Run("pieces go", func(t *testing.T) { testPiecesGo(t, c) })
	t.Run("killed put", func(t *testing.T) { testKilledPut(t, c) })
	t.Run("slow put", func(t *testing.T) { testSlowPut(t, c) })
	t.Run("wrong key", func(t *testing.T) { testWrongKey(t, c) })
	t.Run("no pool", func(t *testing.T) { testNoPool(t, c) })
	t.Run("full", func(t *testing.T) { testFull(t, c) })
	t.Run("away", func(t *testing.T) { testAway(t, c) })
}

// objects are the names of the objects of a place.
func objects(t *testing.T, p *pool) []string {
	t.Helper()
	names, err := p.names(t.Context(), strings.TrimSuffix(p.heads, "k/"), 0)
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func mustPut(t *testing.T, d driver.Driver, key string, size int) {
	t.Helper()
	if err := d.Put(t.Context(), key, blob.Bytes(bytes.Repeat([]byte{7}, size))); err != nil {
		t.Fatal(err)
	}
}

func testPiecesGo(t *testing.T, c *backends.Cluster) {
	p := open(t, options(c, "pieces"))
	defer p.Close()
	mustPut(t, p, "a", 3<<20)
	mustPut(t, p, "a", 5<<20)
	if got := len(objects(t, p)); got != 1+1+5 {
		t.Errorf("a replaced blob of five pieces has %d objects: %q", got, objects(t, p))
	}
	mustPut(t, p, "a", 10)
	if got := len(objects(t, p)); got != 1+1 {
		t.Errorf("a replaced blob without pieces has %d objects: %q", got, objects(t, p))
	}
	if err := p.Delete(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if got := len(objects(t, p)); got != 1 {
		t.Errorf("a deleted blob has %d objects: %q", got, objects(t, p))
	}
}

// abandon does what a put does before its head is switched, and stops there, as one that was killed.
func abandon(t *testing.T, p *pool, key string, size int) head {
	t.Helper()
	h := head{size: int64(size), piece: p.opt.PieceSize, modified: time.Now(), gen: generation{9, byte(len(key))}}
	if err := p.note(t.Context(), h, key); err != nil {
		t.Fatal(err)
	}
	if err := p.putPieces(t.Context(), h, bytes.NewReader(make([]byte, size))); err != nil {
		t.Fatal(err)
	}
	return h
}

func testKilledPut(t *testing.T, c *backends.Cluster) {
	p := open(t, options(c, "killed"))
	defer p.Close()
	mustPut(t, p, "kept", 3<<20)
	abandon(t, p, "kept", 4<<20)
	abandon(t, p, "never", 2<<20)
	if err := p.sweep(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if got := len(objects(t, p)); got != 1+1+3 {
		t.Errorf("after the sweep there are %d objects: %q", got, objects(t, p))
	}
	r, err := p.Get(t.Context(), "kept", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if b, err := io.ReadAll(r); err != nil || len(b) != 3<<20 || b[0] != 7 || b[len(b)-1] != 7 {
		t.Errorf("the blob that stayed reads %d bytes, %v", len(b), err)
	}
}

// A put that is only slow is told when a sweep took its pieces, whichever side of the head's switch the sweep was on.
func testSlowPut(t *testing.T, c *backends.Cluster) {
	p := open(t, options(c, "slow"))
	defer p.Close()
	h := abandon(t, p, "a", 2<<20)
	if err := p.sweep(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if err := p.switchHead(t.Context(), "a", h, h.encode(), false); err != nil {
		t.Fatal(err)
	}
	if err := p.settle(t.Context(), h, "a"); firn.KindOf(err) != firn.Unavailable {
		t.Errorf("settling a put whose pieces were swept: %v, want unavailable", err)
	}
	h = abandon(t, p, "bb", 2<<20)
	if err := p.switchHead(t.Context(), "bb", h, h.encode(), false); err != nil {
		t.Fatal(err)
	}
	if err := p.sweep(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	r, err := p.Get(t.Context(), "bb", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if b, err := io.ReadAll(r); err != nil || len(b) != 2<<20 {
		t.Errorf("a sweep after the switch left %d bytes, %v", len(b), err)
	}
}

func testWrongKey(t *testing.T, c *backends.Cluster) {
	conf, err := os.ReadFile(c.Conf)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	keyring, other := filepath.Join(dir, "keyring"), filepath.Join(dir, "ceph.conf")
	key := "[client.admin]\n\tkey = AQBSdFhlAAAAABAAbGtvZmFrZWZha2VmYWtlZg==\n"
	if err := os.WriteFile(keyring, []byte(key), 0o600); err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(conf), filepath.Join(filepath.Dir(c.Conf), "keyring"), keyring, 1)
	if err := os.WriteFile(other, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	opt := options(c, "x")
	opt.ConfigFile = other
	if _, err := New(t.Context(), opt); firn.KindOf(err) != firn.Denied || strings.Contains(err.Error(), "AQBS") {
		t.Errorf("a wrong key: %v, want denied", err)
	}
	opt = options(c, "x")
	opt.User = "client.nobody"
	if _, err := New(t.Context(), opt); firn.KindOf(err) != firn.Denied {
		t.Errorf("a client without key: %v, want denied", err)
	}
}

func testNoPool(t *testing.T, c *backends.Cluster) {
	opt := options(c, "x")
	opt.Pool = "missing"
	if _, err := New(t.Context(), opt); firn.KindOf(err) != firn.Unavailable {
		t.Errorf("a pool that is not there: %v, want unavailable", err)
	}
	c.Command(t, "osd", "pool", "create", "going", "4")
	opt.Pool = "going"
	p := open(t, opt)
	defer p.Close()
	mustPut(t, p, "a", 10)
	c.Command(t, "osd", "pool", "delete", "going", "going", "--yes-i-really-really-mean-it")
	if _, err := p.Stat(t.Context(), "a"); err == nil || firn.KindOf(err) == firn.NotFound {
		t.Errorf("stat in a pool that has gone: %v", err)
	}
	if err := p.List(t.Context(), "", func(driver.Info) error { return nil }); err == nil {
		t.Error("a pool that has gone lists as empty")
	}
}

// A full cluster says so at once, keeps what it has, and can be emptied.
func testFull(t *testing.T, c *backends.Cluster) {
	p := open(t, options(c, "full"))
	defer p.Close()
	mustPut(t, p, "small", 10)
	mustPut(t, p, "large", 3<<20)
	c.Command(t, "tell", "osd.0", "injectfull", "full")
	deadline, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for n := 0; ; n++ { // until the store has told the monitor
		err := p.Put(deadline, fmt.Sprint("new", n), blob.Bytes(make([]byte, 100)))
		if firn.KindOf(err) == firn.NoSpace {
			break
		}
		if err != nil {
			t.Fatalf("put into a full cluster: %v (%v), want firn.NoSpace", err, firn.KindOf(err))
		}
	}
	for name, size := range map[string]int{"small": 100, "large": 4 << 20, "other": 2 << 20} {
		if err := p.Put(deadline, name, blob.Bytes(make([]byte, size))); firn.KindOf(err) != firn.NoSpace {
			t.Errorf("put of %s into a full cluster: %v (%v), want firn.NoSpace", name, err, firn.KindOf(err))
		}
	}
	if err := p.Create(deadline, "created", blob.Bytes([]byte("x"))); firn.KindOf(err) != firn.NoSpace {
		t.Errorf("create in a full cluster: %v (%v), want firn.NoSpace", err, firn.KindOf(err))
	}
	pieces := func() (n int) {
		for _, name := range objects(t, p) {
			if strings.HasPrefix(name, p.parts) {
				n++
			}
		}
		return n
	}
	if n := pieces(); n != 3 {
		t.Errorf("%d pieces are there, want the 3 of the large blob: puts that failed left some", n)
	}
	for name, size := range map[string]int{"small": 10, "large": 3 << 20} {
		if got, err := blob.New(p, "").ReadAll(deadline, name, 1<<30); err != nil || !bytes.Equal(got, bytes.Repeat([]byte{7}, size)) {
			t.Errorf("%s in a full cluster: %d bytes, %v", name, len(got), err)
		}
		if err := p.Delete(deadline, name); err != nil {
			t.Errorf("delete of %s in a full cluster: %v", name, err)
		}
		if _, err := p.Stat(deadline, name); firn.KindOf(err) != firn.NotFound {
			t.Errorf("%s is deleted: %v", name, err)
		}
	}
	if n := pieces(); n != 0 {
		t.Errorf("%d pieces of deleted blobs are left", n)
	}
	c.Command(t, "tell", "osd.0", "injectfull", "none")
	for {
		err := p.Put(deadline, "again", blob.Bytes(make([]byte, 2<<20)))
		if err == nil {
			return
		}
		if firn.KindOf(err) != firn.NoSpace {
			t.Fatalf("after there was room again: %v", err)
		}
	}
}

// The store hangs: calls end when the context does, or with the time-out, and go on once it is back.
func testAway(t *testing.T, c *backends.Cluster) {
	opt := options(c, "away")
	opt.Timeout = 2 * time.Second
	p := open(t, opt)
	defer p.Close()
	mustPut(t, p, "a", 10)
	c.OSD.Signal(t, syscall.SIGSTOP)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := p.Stat(ctx, "a"); err == nil || ctx.Err() == nil {
		t.Errorf("stat with a store that hangs: %v", err)
	}
	if _, err := p.Stat(t.Context(), "a"); firn.KindOf(err) != firn.Unavailable {
		t.Errorf("stat with a store that hangs: %v, want unavailable", err)
	}
	c.OSD.Signal(t, syscall.SIGCONT)
	deadline, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		_, err := p.Stat(deadline, "a")
		if err == nil {
			return
		}
		if firn.KindOf(err) != firn.Unavailable {
			t.Fatalf("after the store came back: %v", err)
		}
	}
}
