// Package edge runs the edge cache of the real binary before a real nginx: ranges, a herd on a cold content, an origin that
// is killed and comes back, Chromium that plays a film from a cold tier. With -compare it holds it against nginx's proxy_cache on the same contents.
package edge

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"firn/test/backends"
	"firn/test/server"
)

// process is a server of these tests.
type process struct {
	cmd  *exec.Cmd
	log  string
	addr string
}

func (p *process) url(path string) string { return "http://" + p.addr + path }

func start(t *testing.T, addr, probe, log string, env []string, argv ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(argv[0], argv[1:]...), addr: addr, log: log}
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.Env = append(os.Environ(), env...)
	// nginx has a worker: both go.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	eventually(t, argv[0]+" answers", func() bool {
		resp, err := http.Get(probe)
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode < 500
	})
	return p
}

func (p *process) kill() {
	if p.cmd != nil {
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		_ = p.cmd.Wait()
		p.cmd = nil
	}
}

func eventually(t *testing.T, what string, yes func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(30 * time.Second); !yes(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("it does not come that %s", what)
		}
	}
}

func address(t *testing.T) string {
	return "127.0.0.1:" + strconv.Itoa(backends.FreePort(t))
}

// nginx starts one that serves the files of dir, with a log of its requests.
func nginx(t *testing.T, dir, addr string) *process {
	t.Helper()
	home := t.TempDir()
	conf := filepath.Join(home, "nginx.conf")
	text := `daemon off; pid $D/pid; error_log $D/error.log; worker_processes 1; user root;
events { worker_connections 4096; }
http {
  access_log $D/access.log; client_body_temp_path $D/b; proxy_temp_path $D/p; fastcgi_temp_path $D/f; uwsgi_temp_path $D/u; scgi_temp_path $D/s;
  keepalive_requests 1000000;
  server { listen $ADDR backlog=4096; root $ROOT; }
}`
	text = strings.NewReplacer("$D", home, "$ADDR", addr, "$ROOT", dir).Replace(text)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return start(t, addr, "http://"+addr+"/", filepath.Join(home, "access.log"), nil, backends.Program(t, "nginx"), "-p", home, "-c", conf)
}

// firn starts a site with an edge cache whose rules are given.
func firn(t *testing.T, rules, keys string) *process {
	t.Helper()
	home, addr := t.TempDir(), address(t)
	conf := filepath.Join(home, "firn.yaml")
	text := fmt.Sprintf("data: %s/data\nlisten: %s\nadmin_listen: %s\nedge:\n  listen: %s\n  node: edge-1\n%sedge_rules:\n%s", home, address(t), address(t), addr, keys, rules)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return start(t, addr, "http://"+addr+"/nothing", filepath.Join(home, "log"), nil, server.Binary(t), "serve", "--config", conf)
}

func content(n int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 3))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func write(t *testing.T, dir, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name+".new"), b, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, name+".new"), filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

// want fetches and compares status, X-Cache-Status (one of those in cached) and content.
func want(t *testing.T, url string, status int, cached string, b []byte, header ...string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Errorf("%s %q: %v", url, header, err)
	}
	if is := resp.Header.Get("X-Cache-Status"); resp.StatusCode != status || !strings.Contains(" "+cached+" ", " "+is+" ") {
		t.Errorf("%s %q: %d %s, want %d %s", url, header, resp.StatusCode, is, status, cached)
	}
	if b != nil && !bytes.Equal(got, b) {
		t.Errorf("%s %q: %d bytes that are not the %d wanted", url, header, len(got), len(b))
	}
}

func TestBeforeNginx(t *testing.T) {
	root := t.TempDir()
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	addr := address(t)
	origin := nginx(t, root, addr)
	one, two := content(3<<20+12345, 1), content(3<<20+54321, 2)
	write(t, root, "video.mp4", one)
	write(t, root, "cold.mp4", one)
	write(t, root, "never.mp4", one)
	edge := firn(t, "  all:\n    prefix: /\n    origins: ['http://"+addr+"']\n    ttl: [200=2s, 404=1m]\n", "")
	video := edge.url("/video.mp4")
	want(t, video, 206, "MISS", one[2<<20:2<<20+100], fmt.Sprintf("Range: bytes=%d-%d", 2<<20, 2<<20+99))
	want(t, video, 200, "MISS HIT EXPIRED REVALIDATED", one)
	want(t, video, 206, "HIT REVALIDATED", one[1<<20-5:1<<20+5], fmt.Sprintf("Range: bytes=%d-%d", 1<<20-5, 1<<20+4))
	want(t, edge.url("/none"), 404, "MISS", nil)
	want(t, edge.url("/none"), 404, "HIT", nil)

	// A herd on a cold content: each slice is asked for once.
	var wg sync.WaitGroup
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1000}}
	for range 1000 {
		wg.Go(func() {
			resp, err := client.Get(edge.url("/cold.mp4"))
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			if b, err := io.ReadAll(resp.Body); err != nil || !bytes.Equal(b, one) {
				t.Errorf("%d bytes, %v", len(b), err)
			}
		})
	}
	wg.Wait()
	client.CloseIdleConnections()
	log, err := os.ReadFile(origin.log)
	if err != nil {
		t.Fatal(err)
	}
	asked := map[string]int{}
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, "GET /cold.mp4") && strings.Contains(line, `" 206 `) {
			asked[strings.Fields(line)[9]]++
		}
	}
	total := 0
	for _, n := range asked {
		total += n
	}
	if total != 4 { // 3 MiB and a bit
		t.Errorf("a thousand asked for 4 slices, and nginx was asked %d times: %v", total, asked)
	}

	// The origin is killed: what is here is served, fresh or not; what is not, is not.
	origin.kill()
	eventually(t, "it is stale", func() bool {
		resp, err := http.Get(video)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil || !bytes.Equal(b, one) {
			t.Fatalf("%d bytes, %v", len(b), err)
		}
		return resp.Header.Get("X-Cache-Status") == "STALE"
	})
	want(t, video, 206, "STALE UPDATING", one[5:10], "Range: bytes=5-9")
	want(t, edge.url("/never.mp4"), 502, "MISS", nil)
	// It comes back, with another content.
	write(t, root, "video.mp4", two)
	nginx(t, root, addr)
	eventually(t, "the new content", func() bool {
		resp, err := http.Get(video)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil || !bytes.Equal(b, one) && !bytes.Equal(b, two) {
			t.Fatalf("%d bytes, %v, and neither content", len(b), err)
		}
		return bytes.Equal(b, two)
	})
	want(t, edge.url("/never.mp4"), 200, "MISS", one)
}
