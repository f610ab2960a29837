//go:build servers

package redisblob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/blob/drivertest"
	"firn/test/backends"
)

// spaces opens namespaces of a server, each of its own.
type spaces struct {
	opt Options
	n   atomic.Int64
}

func (s *spaces) open(t *testing.T) driver.Driver {
	t.Helper()
	opt := s.opt
	opt.Prefix = fmt.Sprintf("app:%d", s.n.Add(1))
	return initAndOpen(t, opt)
}

func initAndOpen(t *testing.T, opt Options) driver.Driver {
	t.Helper()
	if err := Init(t.Context(), opt); err != nil {
		t.Fatalf("init: %v", err)
	}
	return reopen(t, opt)
}

func reopen(t *testing.T, opt Options) driver.Driver {
	t.Helper()
	d, err := New(t.Context(), opt)
	if err != nil {
		t.Fatalf("new: %v", err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func storeOf(d driver.Driver) *store {
	if w, ok := d.(whole); ok {
		return w.store
	}
	return d.(*store)
}

func (s *spaces) second(t *testing.T, d driver.Driver) driver.Driver {
	opt := s.opt
	opt.Prefix = storeOf(d).prefix
	return reopen(t, opt)
}

func gone(t *testing.T, d driver.Driver) {
	t.Helper()
	s := storeOf(d)
	for _, sh := range s.shards {
		if err := s.client.Del(t.Context(), sh.meta).Err(); err != nil {
			t.Fatal(err)
		}
		if err := s.client.Del(t.Context(), sh.index).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

const abilities = drivertest.Creator | drivertest.BulkDeleter | drivertest.Measurer

func conform(t *testing.T, opt Options, has drivertest.Abilities) {
	s := &spaces{opt: opt}
	drivertest.Run(t, s.open, drivertest.Expect(has), drivertest.Second(s.second), drivertest.Gone(gone))
}

func options(r *backends.Redis) Options { return Options{Addrs: []string{r.Addr}} }

func TestServer(t *testing.T) {
	conform(t, options(backends.RedisServer(t)), abilities|drivertest.Batcher)
}

func TestTLSAndACL(t *testing.T) {
	r := backends.RedisTLS(t)
	opt := options(r)
	opt.TLS, opt.CAFile, opt.Username, opt.Password, opt.Durable = true, r.CAFile, r.User, r.Password, DurableSaved
	conform(t, opt, abilities|drivertest.Batcher)

	bad := opt
	bad.Prefix, bad.Password = "app:1", "sesame-open"
	if _, err := New(t.Context(), bad); firn.KindOf(err) != firn.Denied || strings.Contains(err.Error(), "sesame") {
		t.Errorf("a wrong password: %v (%v), want denied", err, firn.KindOf(err))
	}
	bad = opt
	bad.Prefix = "other"
	if err := Init(t.Context(), bad); firn.KindOf(err) != firn.Denied {
		t.Errorf("a prefix that the user may not use: %v (%v), want denied", err, firn.KindOf(err))
	}
	bad = opt
	bad.CAFile = ""
	if _, err := New(t.Context(), bad); firn.KindOf(err) != firn.Denied {
		t.Errorf("an unknown authority: %v (%v), want denied", err, firn.KindOf(err))
	}
	bad = opt
	bad.Prefix = "app:never"
	if _, err := New(t.Context(), bad); firn.KindOf(err) != firn.Invalid {
		t.Errorf("a namespace that nobody made: %v (%v), want invalid", err, firn.KindOf(err))
	}
	// A user who may not ask how the server is set has to say that anything will do.
	r.CLI(t, "acl", "whoami")
}

func TestCluster(t *testing.T) {
	nodes := backends.RedisCluster(t)
	opt := Options{Addrs: []string{nodes[0].Addr, nodes[1].Addr}, Cluster: true}
	conform(t, opt, abilities)

	opt.Prefix = "failover"
	d := initAndOpen(t, opt)
	content := strings.Repeat("firn", 600<<10) // five pieces
	for i := range 40 {
		if err := d.Put(t.Context(), fmt.Sprintf("blob/%d", i), blob.Bytes([]byte(content))); err != nil {
			t.Fatal(err)
		}
	}
	// A primary is killed: its part is away for some seconds, then its replica has everything that was acknowledged.
	var primary *backends.Redis
	for _, n := range nodes {
		if strings.Contains(n.CLI(t, "info", "replication"), "role:master") {
			primary = n
		}
	}
	primary.Kill()
	count := func() error {
		for i := range 40 {
			p, err := read(t, d, fmt.Sprintf("blob/%d", i))
			if err != nil && firn.KindOf(err) != firn.Unavailable {
				t.Fatalf("while a primary is away: %v (%v), want unavailable", err, firn.KindOf(err))
			}
			if err != nil {
				return err
			}
			if string(p) != content {
				t.Fatalf("blob %d has other content", i)
			}
		}
		return d.Put(t.Context(), "after", blob.Bytes(nil))
	}
	eventually(t, 60*time.Second, count)
	for i := range 40 {
		if err := d.Put(t.Context(), fmt.Sprintf("blob/%d", i), blob.Bytes([]byte("new"))); err != nil {
			t.Fatalf("put after failover: %v", err)
		}
	}
	primary.Start(t)
	eventually(t, 30*time.Second, func() error {
		n := 0
		return errors.Join(d.List(t.Context(), "blob/", func(i driver.Info) error { n++; return nil }), wantN(n, 40))
	})
}

func wantN(got, want int) error {
	if got != want {
		return fmt.Errorf("got %d, want %d", got, want)
	}
	return nil
}

func read(t *testing.T, d driver.Driver, key string) ([]byte, error) {
	r, err := d.Get(t.Context(), key, 0, -1)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// eventually asks until there is no error.
func eventually(t *testing.T, within time.Duration, fn func() error) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var err error
	for end := time.Now().Add(within); time.Now().Before(end); <-tick.C {
		if err = fn(); err == nil {
			return
		}
	}
	t.Fatal(err)
}

func TestServersThatForget(t *testing.T) {
	for _, tt := range []struct {
		settings []string
		durable  string
		remedy   string // nothing: it is accepted
	}{
		{[]string{"--appendonly", "no"}, "", "durable=any"},
		{[]string{"--appendonly", "no"}, DurableAny, ""},
		{[]string{"--appendonly", "no", "--save", "60 1"}, "", ""},
		{[]string{"--appendonly", "no", "--save", "60 1"}, DurableFsync, "appendonly"},
		{[]string{"--appendfsync", "everysec"}, "", ""},
		{[]string{"--appendfsync", "everysec"}, DurableFsync, "appendfsync"},
		{nil, DurableFsync, ""},
		{[]string{"--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru"}, "", "maxmemory-policy"},
		{[]string{"--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru"}, DurableAny, "maxmemory-policy"},
		{[]string{"--maxmemory", "50mb", "--maxmemory-policy", "volatile-lru"}, "", ""},
	} {
		opt := options(backends.RedisServer(t, tt.settings...))
		opt.Durable = tt.durable
		err := Init(t.Context(), opt)
		if tt.remedy == "" && err != nil || tt.remedy != "" && (firn.KindOf(err) != firn.Invalid || !strings.Contains(err.Error(), tt.remedy)) {
			t.Errorf("%v, durable %q: %v, want an error with %q", tt.settings, tt.durable, err, tt.remedy)
		}
	}
}

func TestOutOfMemory(t *testing.T) {
	r := backends.RedisServer(t, "--maxmemory", "30mb", "--maxmemory-policy", "noeviction")
	d := initAndOpen(t, options(r))
	content := make([]byte, 3<<20)
	var err error
	n := 0
	for ; n < 20 && err == nil; n++ {
		err = d.Put(t.Context(), fmt.Sprint("blob/", n), blob.Bytes(content))
	}
	if firn.KindOf(err) != firn.NoSpace {
		t.Fatalf("put %d: %v (%v), want no space", n, err, firn.KindOf(err))
	}
	space, err := d.(driver.Measurer).Space(t.Context())
	if err != nil || space.Total != 30<<20 || space.Free > 10<<20 {
		t.Errorf("space: %+v, %v", space, err)
	}
	// A batch that does not fit does nothing; what only frees works in a full server.
	r.CLI(t, "config", "set", "maxmemory", "5mb")
	small := driver.Change{Key: "small", Put: blob.Bytes([]byte("x"))}
	if err := d.(driver.Batcher).Apply(t.Context(), []driver.Change{{Key: "blob/0"}, small}); firn.KindOf(err) != firn.NoSpace {
		t.Errorf("a batch in a full server: %v (%v), want no space", err, firn.KindOf(err))
	}
	if _, err := d.Stat(t.Context(), "blob/0"); err != nil {
		t.Errorf("a batch that failed deleted: %v", err)
	}
	for i := range n {
		if err := d.Delete(t.Context(), fmt.Sprint("blob/", i)); err != nil {
			t.Errorf("delete in a full server: %v", err)
		}
	}
	if err := d.Put(t.Context(), "blob", blob.Bytes(content[:1<<20])); err != nil {
		t.Errorf("put after the deletes: %v", err)
	}
	wantPieces(t, d, 2)
}

// wantPieces fails the test unless there are so many pieces at the server, of visible blobs and of others.
func wantPieces(t *testing.T, d driver.Driver, want int) {
	t.Helper()
	s := storeOf(d)
	keys, err := s.client.Keys(t.Context(), s.prefix+":{*}:p:*").Result()
	if err != nil || len(keys) != want {
		t.Errorf("%d pieces are at the server, %v, want %d", len(keys), err, want)
	}
}

// TestServerKilled kills the server in the middle of a put and of a get.
func TestServerKilled(t *testing.T) {
	r := backends.RedisServer(t)
	d := initAndOpen(t, options(r))
	old := strings.Repeat("old.", 1<<20)
	if err := d.Put(t.Context(), "blob", blob.Bytes([]byte(old))); err != nil {
		t.Fatal(err)
	}
	src := &drivertest.Gate{Source: drivertest.Zeros(8 << 20), At: 4 << 20, Then: r.Kill}
	if err := d.Put(t.Context(), "blob", src); firn.KindOf(err) != firn.Unavailable {
		t.Errorf("put: %v (%v), want unavailable", err, firn.KindOf(err))
	}
	if err := d.List(t.Context(), "", func(driver.Info) error { return nil }); firn.KindOf(err) != firn.Unavailable {
		t.Errorf("list: %v (%v), want unavailable", err, firn.KindOf(err))
	}
	r.Start(t)
	eventually(t, 20*time.Second, func() error { // the client takes a second to try again
		p, err := read(t, d, "blob")
		if err == nil && string(p) != old {
			t.Fatalf("after the restart: %d bytes", len(p))
		}
		return err
	})
	get, err := d.Get(t.Context(), "blob", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	r.Kill()
	if p, err := io.ReadAll(get); firn.KindOf(err) != firn.Unavailable || !strings.HasPrefix(old, string(p)) {
		t.Errorf("get: %d bytes, %v (%v), want unavailable", len(p), err, firn.KindOf(err))
	}
	r.Start(t)
	eventually(t, 20*time.Second, func() error { return d.Put(t.Context(), "blob", drivertest.Zeros(3<<20)) })
}

// TestMain is also the client that kills itself.
func TestMain(m *testing.M) {
	if addr := os.Getenv("FIRN_TEST_KILLED_CLIENT"); addr != "" {
		d, err := New(context.Background(), Options{Addrs: []string{addr}})
		if err == nil {
			err = d.Put(context.Background(), os.Getenv("FIRN_TEST_KEY"), &drivertest.Gate{Source: drivertest.Zeros(8 << 20), At: 6 << 20, Then: func() {
				syscall.Kill(os.Getpid(), syscall.SIGKILL)
			}})
		}
		fmt.Println("not killed:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// TestClientKilled kills the client in the middle of a put: nothing of it is visible, and later nothing is left.
func TestClientKilled(t *testing.T) {
	r := backends.RedisServer(t)
	d := initAndOpen(t, options(r))
	if err := d.Put(t.Context(), "there", blob.Bytes([]byte("old"))); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"there", "new"} {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "FIRN_TEST_KILLED_CLIENT="+r.Addr, "FIRN_TEST_KEY="+key)
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("the client was to kill itself: %v, %s", err, out)
		}
	}
	if p, err := read(t, d, "there"); err != nil || string(p) != "old" {
		t.Errorf("after the kill: %q, %v", p, err)
	}
	if _, err := d.Stat(t.Context(), "new"); firn.KindOf(err) != firn.NotFound {
		t.Errorf("a put that was killed is there: %v", err)
	}
	s := storeOf(d)
	sh := s.shards[0]
	if n := s.client.ZCard(t.Context(), sh.pending).Val(); n != 2 {
		t.Fatalf("%d puts are noted as unfinished, want 2", n)
	}
	reopen(t, options(r)) // too early to sweep
	if n := s.client.ZCard(t.Context(), sh.pending).Val(); n != 2 {
		t.Errorf("%d puts are noted as unfinished, want 2: what may be under way was swept", n)
	}
	// Both are as old as if their clients had been killed an hour ago, and one more that still runs.
	age := func() {
		notes := s.client.ZRange(t.Context(), sh.pending, -1, -1).Val()
		eventually(t, 10*time.Second, func() error { // its pieces may be on their way
			gen, _, _ := strings.Cut(notes[0], " ")
			return wantN(len(s.client.Keys(t.Context(), sh.piece+gen+":*").Val()), 2)
		})
		for _, note := range s.client.ZRange(t.Context(), sh.pending, 0, -1).Val() {
			s.client.ZIncrBy(t.Context(), sh.pending, -3_600_000, note)
		}
	}
	err := d.Put(t.Context(), "slow", &drivertest.Gate{Source: drivertest.Zeros(2 << 20), At: 1 << 20, Then: func() { age(); reopen(t, options(r)) }})
	if firn.KindOf(err) != firn.Unavailable {
		t.Errorf("a put that was swept meanwhile: %v (%v), want unavailable", err, firn.KindOf(err))
	}
	wantPieces(t, d, 1)
	if n := s.client.ZCard(t.Context(), sh.pending).Val(); n != 0 {
		t.Errorf("%d puts are noted as unfinished, want none", n)
	}
}

// TestCommitSentTwice: an answer that is lost makes the client send a script again.
func TestCommitSentTwice(t *testing.T) {
	d := initAndOpen(t, options(backends.RedisServer(t)))
	s := storeOf(d)
	sh := s.shards[0]
	args := []any{sh.piece, "new", "put", "key", newGeneration(), 1, 3, pieceSize, "abc"}
	for range 2 {
		if err := s.commit(t.Context(), sh, args); err != nil {
			t.Fatal(err)
		}
	}
	if p, err := read(t, d, "key"); err != nil || string(p) != "abc" {
		t.Errorf("%q, %v", p, err)
	}
	wantPieces(t, d, 1)
}

// TestPieceLost: content that is missing is an error, never a short blob.
func TestPieceLost(t *testing.T) {
	d := initAndOpen(t, options(backends.RedisServer(t)))
	if err := d.Put(t.Context(), "blob", drivertest.Zeros(3<<20)); err != nil {
		t.Fatal(err)
	}
	s := storeOf(d)
	for _, key := range s.client.Keys(t.Context(), s.shards[0].piece+"*:4").Val() {
		s.client.Del(t.Context(), key)
	}
	if p, err := read(t, d, "blob"); firn.KindOf(err) != firn.Corrupt {
		t.Errorf("%d bytes, %v (%v), want corrupt", len(p), err, firn.KindOf(err))
	}
}

// TestNodeThatForgot: a shard whose node came back empty is noticed.
func TestShardLost(t *testing.T) {
	opt := options(backends.RedisServer(t))
	opt.Shards = 8
	d := initAndOpen(t, opt)
	s := storeOf(d)
	if err := s.client.Del(t.Context(), s.shards[5].meta).Err(); err != nil {
		t.Fatal(err)
	}
	if err := d.List(t.Context(), "", func(driver.Info) error { return nil }); err == nil || firn.KindOf(err) == firn.NotFound {
		t.Errorf("list: %v, want a failure", err)
	}
	if _, err := New(t.Context(), opt); firn.KindOf(err) != firn.Corrupt {
		t.Errorf("new: %v (%v), want corrupt", err, firn.KindOf(err))
	}
	d = initAndOpen(t, Options{Addrs: opt.Addrs, Prefix: "other", Shards: 8})
	for i := range 20 {
		if err := d.Put(t.Context(), fmt.Sprint(i), blob.Bytes(nil)); err != nil {
			t.Fatal(err)
		}
	}
	s = storeOf(d)
	s.client.Del(t.Context(), s.shards[0].meta)
	if err := Init(t.Context(), Options{Addrs: opt.Addrs, Prefix: "other", Shards: 8}); firn.KindOf(err) != firn.Corrupt {
		t.Errorf("init over what is left: %v (%v), want corrupt", err, firn.KindOf(err))
	}
}
