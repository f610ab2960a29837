package main

import (
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"firn/loadgen"
)

var errNotFound = errors.New("not found")

// Credentials of every server under test; they live as long as a run.
const (
	accessKey = "benchaccess"
	secretKey = "benchsecret1"
)

// server is a kind of server that can be started.
type server struct {
	name    string
	binary  string
	version string
	sync    string // what is on stable storage when a PUT has answered
	args    func(dir string, port, other int) []string
	env     []string
}

// kinds lists the servers this program knows, with the module that builds each.
func kinds() []struct {
	server
	module string
} {
	addr := func(port int) string { return "127.0.0.1:" + strconv.Itoa(port) }
	return []struct {
		server
		module string
	}{
		{server{
			name: "firn", sync: "data, metadata and journal synced before the answer (durability: fsync)",
			args: func(dir string, port, other int) []string {
				return []string{"serve", "--data", dir, "--listen", addr(port), "--admin-listen", addr(other)}
			},
			env: []string{"FIRN_ACCESS_KEY=" + accessKey, "FIRN_SECRET_KEY=" + secretKey},
		}, ""},
		{server{
			name: "minio", sync: "file data synced, directories not (its default)",
			args: func(dir string, port, other int) []string {
				return []string{"server", dir, "--quiet", "--address", addr(port), "--console-address", addr(other)}
			},
			env: []string{"MINIO_ROOT_USER=" + accessKey, "MINIO_ROOT_PASSWORD=" + secretKey, "MINIO_UPDATE=off"},
		}, "github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c"},
		{server{
			name: "versitygw", sync: "nothing synced (its only mode)",
			args: func(dir string, port, _ int) []string {
				return []string{"--quiet", "--keep-alive", "--port", addr(port), "posix", dir}
			},
			env: []string{"ROOT_ACCESS_KEY=" + accessKey, "ROOT_SECRET_KEY=" + secretKey},
		}, "github.com/versity/versitygw/cmd/versitygw@v1.8.0"},
	}
}

// findServer returns the named server with its binary: Firn is built, a peer is looked for in BENCH_PEERS,
// on PATH and in the cache, and then installed. errNotFound where that is not possible.
func findServer(ctx context.Context, name string, o options) (server, error) {
	for _, k := range kinds() {
		if k.name != name {
			continue
		}
		s := k.server
		if name == "firn" {
			s.binary = o.firn
			if s.binary == "" {
				s.binary = filepath.Join(o.cache, "bin", "firn")
				if err := goCommand(ctx, nil, "build", "-o", s.binary, "./cmd/firn"); err != nil {
					return s, err
				}
			}
			s.version = versionOf(s.binary)
			return s, nil
		}
		bin := filepath.Join(o.cache, "bin")
		for _, dir := range append(filepath.SplitList(os.Getenv("BENCH_PEERS")), bin) {
			if p := filepath.Join(dir, name); isExecutable(p) {
				s.binary = p
				break
			}
		}
		if s.binary == "" {
			if p, err := exec.LookPath(name); err == nil {
				s.binary = p
			}
		}
		if s.binary == "" {
			if !o.install {
				return s, fmt.Errorf("%s: %w", name, errNotFound)
			}
			fmt.Fprintf(os.Stderr, "bench: installing %s into %s\n", k.module, bin)
			if err := goCommand(ctx, []string{"GOBIN=" + bin, "CGO_ENABLED=0"}, "install", k.module); err != nil {
				return s, fmt.Errorf("%s: %w (%w)", name, errNotFound, err)
			}
			s.binary = filepath.Join(bin, name)
		}
		s.version = versionOf(s.binary)
		return s, nil
	}
	return server{}, fmt.Errorf("unknown server %q", name)
}

func isExecutable(p string) bool {
	fi, err := os.Stat(p)
	return err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0
}

func goCommand(ctx context.Context, env []string, args ...string) error {
	c := exec.CommandContext(ctx, "go", args...)
	c.Env = append(os.Environ(), env...)
	c.Stderr = os.Stderr
	if err := c.Run(); err != nil {
		return fmt.Errorf("go %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// versionOf returns the module version a Go binary was built from, "" where it does not say.
func versionOf(binary string) string {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return ""
	}
	if v := info.Main.Version; v != "(devel)" {
		return v
	}
	return "built from source"
}

// process is a running server.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{}
	url    string
	log    string
	took   time.Duration // from the start of the process to its first answer
}

// stopTimeout bounds how long a server may take to stop before it is killed.
const stopTimeout = 40 * time.Second

// startTimeout bounds how long a server may take to answer.
const startTimeout = 5 * time.Minute

// freePorts returns two ports on loopback that nobody listens on.
func freePorts() (a, b int, err error) {
	var ports [2]int
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return 0, 0, err
		}
		defer l.Close() // both are held until both are known
		ports[i] = l.Addr().(*net.TCPAddr).Port
	}
	return ports[0], ports[1], nil
}

// start runs s on dir and returns when it answers. The caller must stop it.
func (s server) start(ctx context.Context, dir, logPath string) (p *process, err error) {
	port, other, err := freePorts()
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, log.Close()) }() // the process has its own descriptor
	c := exec.Command(s.binary, s.args(dir, port, other)...)
	c.Env = append(os.Environ(), s.env...)
	c.Stdout, c.Stderr = log, log
	// Its own group, so that an interrupt from the terminal reaches only this program, which then stops it.
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	begin := time.Now()
	if err := c.Start(); err != nil {
		return nil, err
	}
	p = &process{cmd: c, exited: make(chan struct{}), url: "http://127.0.0.1:" + strconv.Itoa(port), log: logPath}
	go func() {
		_ = c.Wait() // how it ended is in its log; that it ended is what counts here
		close(p.exited)
	}()
	if err := p.ready(ctx); err != nil {
		p.stop(syscall.SIGTERM)
		return nil, err
	}
	p.took = time.Since(begin)
	return p, nil
}

// ready waits until the endpoint answers anything but a server error.
func (p *process) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+"/", nil)
		if err != nil {
			return err
		}
		if resp, err := client.Do(req); err == nil {
			if err := resp.Body.Close(); err == nil && resp.StatusCode < 500 {
				select {
				case <-p.exited: // then it was another server that answered
					return fmt.Errorf("server ended at start\n%s", p.tail())
				default:
					return nil
				}
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("server does not answer: %w\n%s", ctx.Err(), p.tail())
		case <-p.exited:
			return fmt.Errorf("server ended at start\n%s", p.tail())
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// tail returns the end of the server's log.
func (p *process) tail() string {
	data, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(data[max(0, len(data)-2000):])
}

// stop sends sig and waits; a server that does not end in time is killed.
func (p *process) stop(sig syscall.Signal) {
	_ = p.cmd.Process.Signal(sig) // fails only where it has ended
	select {
	case <-p.exited:
		return
	case <-time.After(stopTimeout):
	}
	_ = p.cmd.Process.Kill()
	<-p.exited
}

func (p *process) target() loadgen.Target {
	return loadgen.Target{Endpoint: p.url, AccessKey: accessKey, SecretKey: secretKey}
}

// memory returns the resident and the peak resident size in MiB, zero where the system does not say.
func (p *process) memory() (rss, peak float64) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(p.cmd.Process.Pid) + "/status")
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		n, err := strconv.ParseFloat(f[1], 64)
		if err != nil {
			continue
		}
		switch f[0] {
		case "VmRSS:":
			rss = n / 1024
		case "VmHWM:":
			peak = n / 1024
		}
	}
	return rss, peak
}
