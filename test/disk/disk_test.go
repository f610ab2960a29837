// Package disk runs the real binary on disks that misbehave: full ones and ones whose bits flip, and with two
// processes after one data directory.
package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"firn/test/server"
	"firn/test/wire"
)

const bucket = "disk"

// tmpfs mounts a file system of the given size until the end of the test. It needs root.
func tmpfs(t *testing.T, size int) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Fatalf("mount a tmpfs: %v (this test needs root)", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

// site is a server with its client and the objects it should have.
type site struct {
	server *server.Server
	client *wire.Client
	want   map[string][]byte
	rng    *rand.ChaCha8
}

func start(t *testing.T, data string, args ...string) *site {
	t.Helper()
	s := &site{server: server.New(t, server.Firn(server.Binary(t)), data, args...), want: map[string][]byte{}}
	s.rng = rand.NewChaCha8([32]byte{7})
	s.server.Start(t)
	s.client = wire.New(s.server.Addr(), server.AccessKey, server.SecretKey)
	if resp, err := s.client.CreateBucket(t.Context(), bucket); err != nil || resp.Status != 200 {
		t.Fatalf("create bucket: %v, %v", resp, err)
	}
	return s
}

// put stores an object of random bytes; a refusal is not noted.
func (s *site) put(t *testing.T, key string, size int) *wire.Response {
	t.Helper()
	body := make([]byte, size)
	s.rng.Read(body)
	resp, err := s.client.Put(t.Context(), bucket, key, body, nil)
	if err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
	if resp.Status == 200 {
		s.want[key] = body
	}
	return resp
}

// readAll fails the test where an object is not what it should be.
func (s *site) readAll(t *testing.T) {
	t.Helper()
	for key, want := range s.want {
		resp, err := s.client.Get(t.Context(), bucket, key, "")
		if err != nil || resp.Status != 200 || string(resp.Body) != string(want) {
			t.Fatalf("get %s of %d bytes: %v, %v", key, len(want), resp, err)
		}
	}
}

// eventually calls do until it returns true, and fails the test after a while.
func eventually(t *testing.T, what string, do func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !do() {
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not within 90 s", what)
		case <-tick.C:
		}
	}
}

// fill puts objects until one is refused, and returns the refusal.
func (s *site) fill(t *testing.T, prefix string, size, most int) *wire.Response {
	t.Helper()
	for i := range most {
		if resp := s.put(t, fmt.Sprintf("%s%05d", prefix, i), size); resp.Status != 200 {
			return resp
		}
	}
	t.Fatalf("%d objects of %d bytes fit, more than the disk holds", most, size)
	return nil
}

// TestFullDisk fills the disk with objects in files, and in another run with objects that live in the metadata store.
func TestFullDisk(t *testing.T) {
	const disk, reserve = 256 << 20, 64 << 20
	for _, tc := range []struct {
		name string
		size int
	}{
		{"files", 1<<20 + 7},
		{"inline", 64<<10 + 7},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := start(t, filepath.Join(tmpfs(t, disk), "data"), "--reserve", fmt.Sprintf("%dMiB", reserve>>20))
			refusal := s.fill(t, "k", tc.size, disk/tc.size)
			if refusal.Status != 507 {
				t.Errorf("a full disk answers %v, want 507", refusal)
			}
			if len(s.want) < 10 {
				t.Fatalf("only %d objects fit", len(s.want))
			}
			t.Logf("%d objects fit; then %v", len(s.want), refusal)
			// Said once and clearly, where an operator looks.
			eventually(t, "the log says that the disk is nearly full", func() bool {
				return strings.Contains(s.server.Log(), "nearly full")
			})
			s.readAll(t)
			if items, err := s.client.List(t.Context(), bucket, ""); err != nil || len(items) != len(s.want) {
				t.Errorf("%d listed, want %d: %v", len(items), len(s.want), err)
			}
			// It stays so over a restart.
			s.server.Kill()
			s.client.CloseIdle()
			s.server.Start(t)
			s.readAll(t)
			// Deletes go through and make room.
			for i := range len(s.want) {
				key := fmt.Sprintf("k%05d", i)
				if i%4 == 0 {
					continue
				}
				if resp, err := s.client.Delete(t.Context(), bucket, key, ""); err != nil || resp.Status != 204 {
					t.Fatalf("delete on a full disk: %v, %v", resp, err)
				}
				delete(s.want, key)
			}
			eventually(t, "writes after deletes", func() bool { return s.put(t, "again", tc.size).Status == 200 })
			s.readAll(t)
			s.server.MustStop(t)
		})
	}
}

// TestDiskFilledBySomebodyElse takes the reserve away too: a write may fail in any way but a false success, and when
// the space is back a restart brings back all that was acknowledged.
func TestDiskFilledBySomebodyElse(t *testing.T) {
	dir := tmpfs(t, 192<<20)
	s := start(t, filepath.Join(dir, "data"), "--reserve", "16MiB")
	for i := range 40 {
		if resp := s.put(t, fmt.Sprintf("a%05d", i), 100<<10+i*20_000); resp.Status != 200 {
			t.Fatal(resp)
		}
	}
	hog := filepath.Join(dir, "hog")
	f, err := os.Create(hog)
	if err != nil {
		t.Fatal(err)
	}
	block := make([]byte, 1<<20)
	for {
		if _, err := f.Write(block); err != nil {
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatal(err)
			}
			if len(block) == 1 {
				break
			}
			block = block[:len(block)/2]
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	refused := 0
	for i := range 200 {
		body := make([]byte, 10_000+i*1000)
		s.rng.Read(body)
		key := fmt.Sprintf("b%05d", i)
		resp, err := s.client.Put(t.Context(), bucket, key, body, nil)
		if err == nil && resp.Status == 200 {
			s.want[key] = body // it found room; then it has to keep it
			continue
		}
		refused++
		if err == nil && resp.Status != 507 && resp.Status != 503 && resp.Status != 500 {
			t.Errorf("a write to a disk without space answers %v", resp)
		}
	}
	if refused == 0 {
		t.Fatal("no write was refused")
	}
	if s.server.Running() {
		s.readAll(t)
	}
	// Started on a disk without a byte left, it serves, or ends and says why; it does not fill the log instead.
	s.server.Kill()
	s.client.CloseIdle()
	before := len(s.server.Log())
	if err := s.server.TryStart(t.Context()); err != nil {
		if log := s.server.Log()[before:]; errors.Is(err, context.DeadlineExceeded) || !strings.Contains(log, "no space left") {
			t.Errorf("start on a full disk: %v; the log ends\n%s", err, s.server.Tail(3))
		}
	} else {
		s.readAll(t)
	}
	if said := len(s.server.Log()) - before; said > 64<<10 {
		t.Errorf("start on a full disk: %d bytes of log", said)
	}
	if err := os.Remove(hog); err != nil {
		t.Fatal(err)
	}
	s.server.Kill()
	s.client.CloseIdle()
	s.server.Start(t)
	s.readAll(t)
	eventually(t, "writes with space again", func() bool { return s.put(t, "again", 300<<10).Status == 200 })
	s.server.MustStop(t)
	checkClean(t, s.server.Data())
}

// checkClean runs the offline check and fails the test where it finds anything.
func checkClean(t *testing.T, data string) {
	t.Helper()
	if out, err := server.Run(t.Context(), t, "check", "--offline", "--read", "--data", data); err != nil {
		t.Errorf("firn check: %v\n%s", err, out)
	}
}

func TestSecondProcessIsRefused(t *testing.T) {
	s := start(t, filepath.Join(t.TempDir(), "data"))
	if resp := s.put(t, "a", 1000); resp.Status != 200 {
		t.Fatal(resp)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	out, err := server.Run(ctx, t, "serve", "--data", s.server.Data(), "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || !exit.Exited() {
		t.Fatalf("a second process on the data directory: %v, want an exit status\n%s", err, out)
	}
	if !strings.Contains(out, "in use by another process") || !strings.Contains(out, s.server.Data()) {
		t.Errorf("the refusal does not say why: %s", out)
	}
	out, err = server.Run(ctx, t, "check", "--offline", "--data", s.server.Data())
	if err == nil || !strings.Contains(out, "in use by another process") {
		t.Errorf("an offline check beside a running site: %v\n%s", err, out)
	}
	// The first one is none the worse for it.
	s.readAll(t)
	s.server.MustStop(t)
	s.server.Start(t)
	s.readAll(t)
}

// dataFiles returns the regular files below dir that hold bytes.
func dataFiles(t *testing.T, dir string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Size() > 0 {
			files = append(files, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
