//go:build servers

package pgblob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/blob/drivertest"
	"firn/test/backends"
)

func options(p *backends.Postgres) Options {
	return Options{
		URL:      fmt.Sprintf("postgres://%s@%s/%s?sslmode=verify-full&sslrootcert=%s", p.User, p.Addr, p.Database, p.CAFile),
		Password: p.Password,
	}
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

func TestConformance(t *testing.T) {
	p := backends.PostgresServer(t)
	var n atomic.Int64
	drivertest.Run(t, func(t *testing.T) driver.Driver {
		opt := options(p)
		opt.Namespace = fmt.Sprintf("n%d", n.Add(1))
		return initAndOpen(t, opt)
	}, drivertest.Expect(drivertest.Creator|drivertest.Batcher|drivertest.BulkDeleter|drivertest.Measurer),
		drivertest.Second(func(t *testing.T, d driver.Driver) driver.Driver {
			opt := options(p)
			opt.Namespace = d.(*store).tables
			return reopen(t, opt)
		}),
		drivertest.Gone(func(t *testing.T, d driver.Driver) {
			ns := d.(*store).tables
			p.SQL(t, fmt.Sprintf("drop table %s_blobs, %s_pieces, %s_format", ns, ns, ns))
		}))
}

func read(t *testing.T, d driver.Driver, key string) ([]byte, error) {
	r, err := d.Get(t.Context(), key, 0, -1)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// wantPieces fails the test unless there are so many pieces at the server, of visible blobs and of others.
func wantPieces(t *testing.T, p *backends.Postgres, want string) {
	t.Helper()
	if got := p.SQL(t, "select count(*) from firn_pieces"); got != want {
		t.Errorf("%s pieces are at the server, want %s", got, want)
	}
}

func TestPlace(t *testing.T) {
	p := backends.PostgresServer(t)
	opt := options(p)
	if _, err := New(t.Context(), opt); firn.KindOf(err) != firn.Invalid {
		t.Errorf("tables that nobody made: %v (%v), want invalid", err, firn.KindOf(err))
	}
	// Several at once make them once.
	g, ctx := errgroup.WithContext(t.Context())
	for range 4 {
		g.Go(func() error { return Init(ctx, opt) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	bad := opt
	bad.Password = "sesame-open"
	if _, err := New(t.Context(), bad); firn.KindOf(err) != firn.Denied || strings.Contains(err.Error(), "sesame") {
		t.Errorf("a wrong password: %v (%v), want denied", err, firn.KindOf(err))
	}
	bad = opt
	bad.URL = strings.Replace(opt.URL, "/postgres?", "/none?", 1)
	if _, err := New(t.Context(), bad); firn.KindOf(err) != firn.Invalid {
		t.Errorf("a database that is not there: %v (%v), want invalid", err, firn.KindOf(err))
	}
	bad = opt
	bad.URL = opt.URL[:strings.Index(opt.URL, "&sslrootcert")]
	if _, err := New(t.Context(), bad); firn.KindOf(err) != firn.Denied {
		t.Errorf("an unknown authority: %v (%v), want denied", err, firn.KindOf(err))
	}
	// The password from a file, as libpq reads it.
	bad = opt
	bad.Password = ""
	pass := filepath.Join(t.TempDir(), "pass")
	if err := os.WriteFile(pass, []byte("*:*:*:"+p.User+":"+p.Password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PGPASSFILE", pass)
	d := reopen(t, bad)
	var commit string
	if err := d.(*store).pool.QueryRow(t.Context(), "show synchronous_commit").Scan(&commit); err != nil || commit != "on" {
		t.Errorf("synchronous_commit is %s, %v", commit, err)
	}
	// A user who may use the tables, and make none; one who may not use them.
	p.SQL(t, "create user limited password 'limited'; grant select, insert, update, delete on firn_blobs, firn_pieces, firn_format to limited;"+
		"create user stranger password 'stranger'; revoke create on schema public from public; alter user limited set synchronous_commit = off")
	as := func(user string) Options {
		o := opt
		o.URL, o.Password = strings.Replace(opt.URL, p.User+"@", user+"@", 1), user
		return o
	}
	limited := initAndOpen(t, as("limited"))
	if err := limited.Put(t.Context(), "a", blob.Bytes([]byte("x"))); err != nil {
		t.Error(err)
	}
	if err := limited.(*store).pool.QueryRow(t.Context(), "show synchronous_commit").Scan(&commit); err != nil || commit != "on" {
		t.Errorf("synchronous_commit of a user who has it off is %s, %v", commit, err)
	}
	if _, err := New(t.Context(), as("stranger")); firn.KindOf(err) != firn.Denied {
		t.Errorf("a user without rights: %v (%v), want denied", err, firn.KindOf(err))
	}
	p.SQL(t, "update firn_format set version = 2")
	if _, err := New(t.Context(), opt); firn.KindOf(err) != firn.Unsupported {
		t.Errorf("a later format: %v (%v), want unsupported", err, firn.KindOf(err))
	}
}

func TestServerWithoutFsync(t *testing.T) {
	opt := options(backends.PostgresServer(t, "fsync=off"))
	if err := Init(t.Context(), opt); firn.KindOf(err) != firn.Invalid || !strings.Contains(err.Error(), "durable=any") {
		t.Errorf("%v (%v), want invalid", err, firn.KindOf(err))
	}
	opt.Durable = DurableAny
	initAndOpen(t, opt)
}

// TestManyLargePuts that read from the database what they write leave it a connection to read by.
func TestManyLargePuts(t *testing.T) {
	p := backends.PostgresServer(t)
	opt := options(p)
	opt.Conns = 3
	d := initAndOpen(t, opt)
	content := strings.Repeat("firn", 1<<20)
	if err := d.Put(t.Context(), "from", blob.Bytes([]byte(content))); err != nil {
		t.Fatal(err)
	}
	g, ctx := errgroup.WithContext(t.Context())
	for i := range 8 {
		g.Go(func() error { return d.Put(ctx, fmt.Sprint("to/", i%2), copying{ctx, d, int64(len(content))}) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		if got, err := read(t, d, fmt.Sprint("to/", i)); err != nil || string(got) != content {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	}
	wantPieces(t, p, "24") // none of those that were replaced
}

// copying is a source that reads blob "from".
type copying struct {
	ctx  context.Context
	d    driver.Driver
	size int64
}

func (c copying) Size() int64                  { return c.size }
func (c copying) Open() (io.ReadCloser, error) { return c.d.Get(c.ctx, "from", 0, -1) }

// TestServerKilled kills the server in the middle of a put and of a get.
func TestServerKilled(t *testing.T) {
	p := backends.PostgresServer(t)
	d := initAndOpen(t, options(p))
	old := strings.Repeat("old.", 1<<20)
	if err := d.Put(t.Context(), "blob", blob.Bytes([]byte(old))); err != nil {
		t.Fatal(err)
	}
	src := &drivertest.Gate{Source: drivertest.Zeros(8 << 20), At: 4 << 20, Then: p.Kill}
	if err := d.Put(t.Context(), "blob", src); firn.KindOf(err) != firn.Unavailable {
		t.Errorf("put: %v (%v), want unavailable", err, firn.KindOf(err))
	}
	if err := d.List(t.Context(), "", func(driver.Info) error { return nil }); firn.KindOf(err) != firn.Unavailable {
		t.Errorf("list: %v (%v), want unavailable", err, firn.KindOf(err))
	}
	p.Start(t)
	if got, err := read(t, d, "blob"); err != nil || string(got) != old {
		t.Errorf("after the restart: %d bytes, %v", len(got), err)
	}
	get, err := d.Get(t.Context(), "blob", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	p.Kill()
	if got, err := io.ReadAll(get); firn.KindOf(err) != firn.Unavailable || !strings.HasPrefix(old, string(got)) {
		t.Errorf("get: %d bytes, %v (%v), want unavailable", len(got), err, firn.KindOf(err))
	}
	p.Start(t)
	var put error
	for range 5 { // a connection that was cut is noticed when it is used
		if put = d.Put(t.Context(), "blob", drivertest.Zeros(3<<20)); put == nil {
			break
		}
	}
	if put != nil {
		t.Errorf("put after the restart: %v", put)
	}
	wantPieces(t, p, "6")
}

// TestMain is also the client that kills itself.
func TestMain(m *testing.M) {
	if at := os.Getenv("FIRN_TEST_KILLED_CLIENT"); at != "" {
		d, err := New(context.Background(), Options{URL: at})
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

// TestClientKilled kills the client in the middle of a put: nothing of it is left.
func TestClientKilled(t *testing.T) {
	p := backends.PostgresServer(t)
	opt := options(p)
	d := initAndOpen(t, opt)
	if err := d.Put(t.Context(), "there", blob.Bytes([]byte("old"))); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"there", "new"} {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "FIRN_TEST_KILLED_CLIENT="+opt.URL, "FIRN_TEST_KEY="+key, "PGPASSWORD="+p.Password)
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("the client was to kill itself: %v, %s", err, out)
		}
	}
	if got, err := read(t, d, "there"); err != nil || string(got) != "old" {
		t.Errorf("after the kill: %q, %v", got, err)
	}
	if _, err := d.Stat(t.Context(), "new"); firn.KindOf(err) != firn.NotFound {
		t.Errorf("a put that was killed is there: %v", err)
	}
	wantPieces(t, p, "1")
}

// TestReplacedAtOnce: no put leaves pieces that nothing names.
func TestReplacedAtOnce(t *testing.T) {
	p := backends.PostgresServer(t)
	d := initAndOpen(t, options(p))
	g, ctx := errgroup.WithContext(t.Context())
	for w := range 6 {
		g.Go(func() error {
			for i := range 10 {
				key := fmt.Sprint("blob/", i%2)
				if err := d.Put(ctx, key, blob.Bytes(make([]byte, 600<<10+w))); err != nil {
					return err
				}
				if w == 0 {
					if err := d.Delete(ctx, key); err != nil {
						return err
					}
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.Put(t.Context(), "blob/0", blob.Bytes(nil)), d.Delete(t.Context(), "blob/1")); err != nil {
		t.Fatal(err)
	}
	wantPieces(t, p, "0")
}

// TestPieceLost: content that is missing is an error, never a short blob.
func TestPieceLost(t *testing.T) {
	p := backends.PostgresServer(t)
	d := initAndOpen(t, options(p))
	if err := d.Put(t.Context(), "blob", drivertest.Zeros(4<<20)); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{6, 1} {
		p.SQL(t, fmt.Sprint("delete from firn_pieces where n = ", n))
		if got, err := read(t, d, "blob"); firn.KindOf(err) != firn.Corrupt {
			t.Errorf("without piece %d: %d bytes, %v (%v), want corrupt", n, len(got), err, firn.KindOf(err))
		}
	}
	if r, err := d.Get(t.Context(), "blob", 600<<10, 10); firn.KindOf(err) != firn.Corrupt {
		t.Errorf("a range without its piece: %v, %v, want corrupt", r, err)
	}
}

// TestServerHangs: a cancelled call ends although nothing answers.
func TestServerHangs(t *testing.T) {
	p := backends.PostgresServer(t)
	d := initAndOpen(t, options(p))
	p.Signal(t, syscall.SIGSTOP)
	defer p.Signal(t, syscall.SIGCONT)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := d.Stat(ctx, "blob"); !errors.Is(err, context.DeadlineExceeded) || firn.KindOf(err) != firn.Unavailable {
		t.Errorf("%v (%v), want unavailable", err, firn.KindOf(err))
	}
}
