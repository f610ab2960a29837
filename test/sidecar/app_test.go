// Package sidecar runs the real binary beside real services as Kubernetes would: the sidecar first, the service once it
// is ready, SIGTERM to the service and then to the sidecar, SIGKILL, and another node with an empty disk.
package sidecar

import (
	"bufio"
	"database/sql"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	_ "modernc.org/sqlite"

	"firn/test/backends"
)

// appEnv makes the test's own binary the service: an SQLite application in the directory that it names.
const appEnv = "FIRN_TEST_APP"

func TestMain(m *testing.M) {
	if dir := os.Getenv(appEnv); dir != "" {
		if err := app(dir, os.Stdin, os.Stdout); err != nil {
			fmt.Println("failed:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// app keeps rows in a database in WAL mode, each in a transaction of its own, and writes noise all the time. It answers
// "add N" and "count" with the number of rows, which must be those from 1 on.
func app(dir string, in io.Reader, out io.Writer) error {
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "app.db")+"?_pragma=journal_mode(wal)&_pragma=busy_timeout(10000)&_txlock=immediate")
	if err != nil {
		return err
	}
	var ok string
	if err := db.QueryRow("pragma integrity_check").Scan(&ok); err != nil || ok != "ok" {
		return fmt.Errorf("integrity_check: %s, %w", ok, err)
	}
	for _, q := range []string{"create table if not exists rows (n integer primary key, text text)", "create table if not exists noise (n integer)"} {
		if _, err := db.Exec(q); err != nil {
			return err
		}
	}
	noise := make(chan error, 1)
	quit := make(chan struct{})
	go func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				noise <- nil
				return
			case <-tick.C:
			}
			if _, err := db.Exec("insert into noise values (?)", rand.Int64()); err != nil {
				noise <- err
				return
			}
		}
	}()
	count := func() (int, error) {
		var n, last int
		err := db.QueryRow("select count(*), coalesce(max(n), 0) from rows").Scan(&n, &last)
		if err == nil && n != last {
			err = fmt.Errorf("%d rows, and the last is %d", n, last)
		}
		return n, err
	}
	for lines := bufio.NewScanner(in); lines.Scan(); {
		n, err := count()
		if err != nil {
			return err
		}
		if s, ok := strings.CutPrefix(lines.Text(), "add "); ok {
			more, err := strconv.Atoi(s)
			if err != nil {
				return err
			}
			for range more {
				n++
				if _, err := db.Exec("insert into rows values (?, ?)", n, strings.Repeat("row ", n%50)); err != nil {
					return err
				}
			}
		}
		fmt.Fprintln(out, n)
	}
	close(quit)
	if err := <-noise; err != nil {
		return err
	}
	return db.Close()
}

// service is one that keeps numbered things in a directory.
type service interface {
	start(t *testing.T, dir string)
	add(t *testing.T, n int) int // returns how many there are
	count(t *testing.T) int
	stop(t *testing.T) // as SIGTERM would
	kill()
}

// sqliteApp is app as a process.
type sqliteApp struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func (a *sqliteApp) start(t *testing.T, dir string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	a.cmd = exec.Command(self)
	a.cmd.Env = append(os.Environ(), appEnv+"="+dir)
	a.cmd.Stderr = os.Stderr
	if a.in, err = a.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := a.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	a.out = bufio.NewReader(out)
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.kill)
}

func (a *sqliteApp) ask(t *testing.T, what string) int {
	t.Helper()
	if _, err := fmt.Fprintln(a.in, what); err != nil {
		t.Fatal(err)
	}
	line, err := a.out.ReadString('\n')
	n, nerr := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || nerr != nil {
		t.Fatalf("the application says %q: %v", line, err)
	}
	return n
}

func (a *sqliteApp) add(t *testing.T, n int) int { return a.ask(t, fmt.Sprint("add ", n)) }
func (a *sqliteApp) count(t *testing.T) int      { return a.ask(t, "count") }

func (a *sqliteApp) stop(t *testing.T) {
	t.Helper()
	if err := a.in.Close(); err != nil {
		t.Error(err)
	}
	if err := a.cmd.Wait(); err != nil {
		t.Error(err)
	}
	a.cmd = nil
}

func (a *sqliteApp) kill() {
	if a.cmd != nil {
		_ = a.cmd.Process.Kill()
		_ = a.cmd.Wait()
		a.cmd = nil
	}
}

// redisService is a Redis server that keeps its keys in a snapshot file.
type redisService struct {
	cmd  *exec.Cmd
	port string
}

func (r *redisService) cli(args ...string) (string, error) {
	out, err := exec.Command("redis-cli", append([]string{"-p", r.port}, args...)...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (r *redisService) start(t *testing.T, dir string) {
	t.Helper()
	r.cmd = exec.Command(backends.Program(t, "redis-server"), "--bind", "127.0.0.1", "--port", r.port, "--dir", dir, "--save", "3600 1")
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.kill)
	eventually(t, "redis answers", func() bool { out, err := r.cli("ping"); return err == nil && out == "PONG" })
}

func (r *redisService) add(t *testing.T, n int) int {
	t.Helper()
	for range n {
		if out, err := r.cli("incr", "count"); err != nil || strings.Contains(out, "ERR") {
			t.Fatal(out, err)
		}
	}
	return r.count(t)
}

func (r *redisService) count(t *testing.T) int {
	t.Helper()
	out, err := r.cli("get", "count")
	if err != nil {
		t.Fatal(out, err)
	}
	n, _ := strconv.Atoi(out) // "" is none
	return n
}

func (r *redisService) stop(t *testing.T) {
	t.Helper()
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if err := r.cmd.Wait(); err != nil {
		t.Error(err)
	}
	r.cmd = nil
}

func (r *redisService) kill() {
	if r.cmd != nil {
		_ = r.cmd.Process.Kill()
		_ = r.cmd.Wait()
		r.cmd = nil
	}
}

// port returns a free one of loopback, which is this test's until it ends.
func port(t *testing.T) string {
	t.Helper()
	return strconv.Itoa(backends.FreePort(t))
}
