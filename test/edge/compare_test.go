package edge

import (
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"firn/test/backends"
)

var (
	compare = flag.Duration("compare", 0, "hold the edge cache against nginx's proxy_cache, each round for this long; 0 looks only whether both answer")
	rounds  = flag.Int("rounds", 3, "rounds of -compare")
)

// cpu is the time that a process group's leader and its children have used, in seconds.
func cpu(t *testing.T, pid int) float64 {
	t.Helper()
	total := 0.0
	pids := []string{strconv.Itoa(pid)}
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid)); err == nil {
		pids = append(pids, strings.Fields(string(b))...)
	}
	for _, p := range pids {
		b, err := os.ReadFile("/proc/" + p + "/stat")
		if err != nil {
			t.Fatal(err)
		}
		f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+2:]))
		for _, i := range []int{11, 12} { // utime, stime
			n, err := strconv.ParseFloat(f[i], 64)
			if err != nil {
				t.Fatal(err)
			}
			total += n / 100
		}
	}
	return total
}

// cachingNginx starts an nginx with one worker whose proxy_cache is before an origin.
func cachingNginx(t *testing.T, origin string) *process {
	t.Helper()
	home, addr := t.TempDir(), address(t)
	if err := os.Chmod(home, 0o755); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(home, "nginx.conf")
	text := strings.NewReplacer("$D", home, "$ADDR", addr, "$ORIGIN", origin).Replace(`daemon off; pid $D/pid; error_log $D/error.log; worker_processes 1; user root;
events { worker_connections 4096; }
http {
  access_log off; sendfile on; tcp_nopush on; client_body_temp_path $D/b; proxy_temp_path $D/p; fastcgi_temp_path $D/f; uwsgi_temp_path $D/u; scgi_temp_path $D/s;
  keepalive_requests 1000000000; keepalive_timeout 300s;
  proxy_cache_path $D/cache levels=1:2 keys_zone=edge:100m max_size=10g inactive=7d use_temp_path=off;
  server {
    listen $ADDR backlog=4096;
    location / {
      proxy_pass http://$ORIGIN; proxy_cache edge; proxy_cache_valid 200 7d; proxy_cache_lock on;
      add_header X-Cache-Status $upstream_cache_status; add_header X-Edge-Node nginx;
    }
  }
}`)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return start(t, addr, "http://"+addr+"/small-0", filepath.Join(home, "log"), nil, backends.Program(t, "nginx"), "-p", home, "-c", conf)
}

// TestAgainstNginx prints, for hits, requests and requests by second of the server's own CPU time.
func TestAgainstNginx(t *testing.T) {
	root := t.TempDir()
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	addr := address(t)
	nginx(t, root, addr)
	for i := range 20 {
		write(t, root, fmt.Sprint("small-", i), content(4<<10, uint64(i)))
		write(t, root, fmt.Sprint("large-", i), content(1<<20, uint64(i)))
	}
	servers := []struct {
		name string
		p    *process
	}{
		{"nginx", cachingNginx(t, addr)},
		{"firn", firn(t, "  all:\n    prefix: /\n    origins: ['http://"+addr+"']\n", "cache:\n  memory: 128MiB\n  disk: 1GiB\n")},
	}
	for _, c := range []struct {
		what, path, rng string
	}{
		{"4 KiB", "/small-", ""},
		{"1 MiB", "/large-", ""},
		{"64 KiB of 1 MiB", "/large-", "bytes=100000-165535"},
	} {
		for range *rounds {
			for _, s := range servers {
				for i := range 20 { // warm
					want(t, s.p.url(c.path+strconv.Itoa(i)), 200, "MISS HIT", nil)
				}
				want(t, s.p.url(c.path+"0"), 200, "HIT", nil)
				if *compare == 0 {
					continue
				}
				begin, used := time.Now(), cpu(t, s.p.cmd.Process.Pid)
				n, bytes := hammer(t, s.p, c.path, c.rng, *compare)
				took, spent := time.Since(begin).Seconds(), cpu(t, s.p.cmd.Process.Pid)-used
				t.Logf("%-16s %-6s %8.0f requests/s %8.1f MiB/s; %8.0f requests/s of CPU", c.what, s.name, float64(n)/took, float64(bytes)/took/(1<<20), float64(n)/spent)
			}
		}
	}
}

// hammer asks 16 at a time.
func hammer(t *testing.T, p *process, path, rng string, d time.Duration) (requests, bytes int64) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16, ReadBufferSize: 64 << 10}}
	defer client.CloseIdleConnections()
	var n, total atomic.Int64
	var wg sync.WaitGroup
	end := time.Now().Add(d)
	for w := range 16 {
		wg.Go(func() {
			for i := w; time.Now().Before(end); i++ {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.url(path+strconv.Itoa(i%20)), nil)
				if err != nil {
					t.Error(err)
					return
				}
				if rng != "" {
					req.Header.Set("Range", rng)
				}
				resp, err := client.Do(req)
				if err != nil {
					t.Error(err)
					return
				}
				k, err := io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode >= 300 {
					t.Errorf("%d, %v", resp.StatusCode, err)
					return
				}
				n.Add(1)
				total.Add(k)
			}
		})
	}
	wg.Wait()
	return n.Load(), total.Load()
}
