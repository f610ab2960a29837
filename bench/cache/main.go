// Command cache measures the cache of tiers with a site whose tier is another site behind a slow line: what memory and the
// disk hold while ten times as much is read as they may, and what prefetch does to a camera review and to other readers
// beside it. It prints the figures and, with -doc, writes samples and a picture of them.
//
// It promises to stop what it started and to remove what it made. It runs the program from outside: it must never import
// a package of Firn.
package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"golang.org/x/sync/errgroup"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "cache:", err)
		stop()
		os.Exit(1)
	}
}

const mib = 1 << 20

func run(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("cache", flag.ContinueOnError)
	firn := f.String("firn", "./firn", "the program")
	doc := f.String("doc", "", "directory for cache-budget.csv and cache-budget.svg")
	length := f.Duration("for", 40*time.Second, "how long the budget is held under load; 0 leaves it out")
	rounds := f.Int("rounds", 3, "rounds with and without prefetch; 0 leaves them out")
	if err := f.Parse(args); err != nil {
		return err
	}
	program, err := filepath.Abs(*firn)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "firn-bench-cache")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if *length > 0 {
		if err := budget(ctx, program, filepath.Join(dir, "budget"), *length, *doc); err != nil {
			return err
		}
	}
	if *rounds > 0 {
		return review(ctx, program, filepath.Join(dir, "review"), *rounds)
	}
	return nil
}

// site is a running firn.
type site struct {
	cmd         *exec.Cmd
	data        string
	s3, admin   string
	client      *minio.Client
	token, logs string
}

func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

var keys = []string{"AWS_ACCESS_KEY_ID=bench", "AWS_SECRET_ACCESS_KEY=benchbench", "AWS_REGION=us-east-1"}

// start runs a site with a configuration beside the usual.
func start(ctx context.Context, program, dir, more string) (*site, error) {
	s := &site{data: filepath.Join(dir, "data"), logs: filepath.Join(dir, "log")}
	var err error
	if s.s3, err = freeAddr(); err == nil {
		s.admin, err = freeAddr()
	}
	if err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		return nil, err
	}
	conf := filepath.Join(dir, "firn.yaml")
	text := fmt.Sprintf("data: %s\nlisten: %s\nadmin_listen: %s\naccess_key: bench\nsecret_key: benchbench\nreserve: 0\n%s", s.data, s.s3, s.admin, more)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return nil, err
	}
	out, err := os.Create(s.logs)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	s.cmd = exec.CommandContext(ctx, program, "serve", "--config", conf)
	s.cmd.Stdout, s.cmd.Stderr, s.cmd.Env = out, out, append(os.Environ(), keys...)
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	if s.client, err = minio.New(s.s3, &minio.Options{Creds: credentials.NewStaticV4("bench", "benchbench", "")}); err != nil {
		return s, err
	}
	err = wait(ctx, "the site is up", func() bool {
		resp, err := http.Get("http://" + s.admin + "/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	if err == nil {
		var b []byte
		b, err = os.ReadFile(filepath.Join(s.data, "admin.token"))
		s.token = strings.TrimSpace(string(b))
	}
	return s, err
}

func (s *site) stop() {
	if s == nil || s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	_ = s.cmd.Wait() // what it had to say is in its log
}

func wait(ctx context.Context, what string, yes func() bool) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	end := time.Now().Add(2 * time.Minute)
	for !yes() {
		if time.Now().After(end) {
			return fmt.Errorf("it does not come that %s", what)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// call asks the admin endpoint.
func (s *site) call(ctx context.Context, method, path, body string, to any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+s.admin+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+s.token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, b)
	}
	if err == nil && to != nil {
		err = json.Unmarshal(b, to)
	}
	return err
}

// status is what is used of GET /admin/v1/cache.
type status struct {
	Levels []struct {
		Name   string
		Bytes  int64
		Budget int64
	}
	Read     map[string]uint64
	Fetched  uint64
	Prefetch *struct{ Bytes int64 }
}

// resident returns the memory of the process in bytes.
func (s *site) resident() (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", s.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(strings.Fields(string(b))[1], 10, 64)
	return n * int64(os.Getpagesize()), err
}

func sizeOf(dir string) (n int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			if info, err := d.Info(); err == nil {
				n += info.Size()
			}
		}
		return nil // files come and go
	})
	return n
}

// fill puts n objects of the given size on the tier of s.
func (s *site) fill(ctx context.Context, n, size int, name func(int) string) error {
	if err := s.client.MakeBucket(ctx, "bench", minio.MakeBucketOptions{}); err != nil {
		return err
	}
	content := make([]byte, size)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range content {
		content[i] = byte(r.Uint32())
	}
	var mu sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for i := range n {
		g.Go(func() error {
			mu.Lock()
			p := bytes.Clone(content)
			mu.Unlock()
			copy(p, name(i)) // no two are the same
			_, err := s.client.PutObject(gctx, "bench", name(i), bytes.NewReader(p), int64(size), minio.PutObjectOptions{StorageClass: "COLD"})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return wait(ctx, "all is on the tier", func() bool {
		var tiers struct {
			Tiers []struct{ Moved int64 }
		}
		return s.call(ctx, http.MethodGet, "/admin/v1/tiers", "", &tiers) == nil && len(tiers.Tiers) == 1 && tiers.Tiers[0].Moved >= int64(n)
	})
}

// read reads a range and returns how long it took.
func (s *site) read(ctx context.Context, key string, off, n int64) (time.Duration, error) {
	began := time.Now()
	o := minio.GetObjectOptions{}
	if err := o.SetRange(off, off+n-1); err != nil {
		return 0, err
	}
	body, _, _, err := minio.Core{Client: s.client}.GetObject(ctx, "bench", key, o)
	if err != nil {
		return 0, err
	}
	defer body.Close()
	got, err := io.Copy(io.Discard, body)
	if err == nil && got != n {
		err = io.ErrUnexpectedEOF
	}
	return time.Since(began), err
}

// budget reads ten times what the cache holds, and samples what it holds.
func budget(ctx context.Context, program, dir string, length time.Duration, doc string) error {
	const memory, disk, object = 8 * mib, 64 * mib, mib
	const objects = 10 * disk / object
	place := "file:" + filepath.Join(dir, "cold")
	if out, err := exec.CommandContext(ctx, program, "blob", "init", place).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	s, err := start(ctx, program, filepath.Join(dir, "site"), fmt.Sprintf("tiers:\n  cold:\n    url: %s\ncache:\n  memory: %d\n  disk: %d\n", place, memory, disk))
	defer s.stop()
	if err != nil {
		return err
	}
	name := func(i int) string { return fmt.Sprintf("o/%d", i*7919%objects) }
	if err := s.fill(ctx, objects, object, name); err != nil {
		return err
	}
	ctx, stop := context.WithTimeout(ctx, length)
	defer stop()
	var readers sync.WaitGroup
	for n := range 4 {
		readers.Go(func() {
			r := rand.New(rand.NewPCG(uint64(n), 1))
			z := rand.NewZipf(r, 1.05, 8, objects-1)
			for ctx.Err() == nil {
				off := r.Int64N(object - 128<<10)
				if _, err := s.read(ctx, name(int(z.Uint64())), off, 128<<10); err != nil && ctx.Err() == nil {
					fmt.Fprintln(os.Stderr, "cache:", err)
				}
			}
		})
	}
	rows := [][]string{{"seconds", "memory_level", "disk_level", "cache_directory", "resident"}}
	var most [4]int64
	var last status
	began := time.Now()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
			continue
		}
		var st status
		if err := s.call(ctx, http.MethodGet, "/admin/v1/cache", "", &st); err != nil {
			if ctx.Err() != nil {
				break
			}
			return err
		}
		last = st
		resident, err := s.resident()
		if err != nil {
			return err
		}
		row := []string{fmt.Sprintf("%.2f", time.Since(began).Seconds())}
		for i, v := range []int64{st.Levels[0].Bytes, st.Levels[1].Bytes, sizeOf(filepath.Join(s.data, "cache")), resident} {
			most[i] = max(most[i], v)
			row = append(row, strconv.FormatInt(v, 10))
		}
		rows = append(rows, row)
	}
	readers.Wait()
	var total uint64
	for _, v := range last.Read {
		total += v
	}
	fmt.Printf("budget: %d MiB on the tier, %d samples in %v, %.1f GiB read\n", objects*object/mib, len(rows)-1, length, float64(total)/(1<<30))
	for i, what := range []string{"memory level", "disk level", "files of the cache", "resident memory"} {
		bound := ""
		switch i {
		case 0:
			bound = fmt.Sprintf(" of %d", memory/mib)
		case 1, 2:
			bound = fmt.Sprintf(" of %d", disk/mib)
		}
		fmt.Printf("  most of %s: %.1f%s MiB\n", what, float64(most[i])/mib, bound)
	}
	for _, l := range []string{"memory", "disk", "tier"} {
		fmt.Printf("  read from %s: %.1f %%\n", l, 100*float64(last.Read[l])/float64(max(1, total)))
	}
	if most[0] > memory || most[1] > disk || most[2] > disk {
		return errors.New("the budget was not held")
	}
	if doc == "" {
		return nil
	}
	var b bytes.Buffer
	if err := csv.NewWriter(&b).WriteAll(rows); err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(doc, "cache-budget.csv"), b.Bytes(), 0o644),
		os.WriteFile(filepath.Join(doc, "cache-budget.svg"), plot(rows, []limit{{"memory level, of 8 MiB", 1, memory}, {"files on disk, of 64 MiB", 3, disk}}), 0o644),
	)
}

// review has someone go through the films of a camera, in pieces and with pauses, beside others who read here and there,
// with and without prefetch, from a tier behind a line of 20 ms each way and 25 MB/s.
func review(ctx context.Context, program, dir string, rounds int) error {
	const films, size, piece = 24, 3 * mib / 2, 256 << 10
	const others = 200
	cold, err := start(ctx, program, filepath.Join(dir, "cold"), "")
	defer cold.stop()
	if err != nil {
		return err
	}
	way, err := newLine(ctx, cold.s3, 20*time.Millisecond, 25_000_000)
	if err != nil {
		return err
	}
	defer way.close()
	film := func(camera, i int) string {
		return fmt.Sprintf("cam-%d/2026/01/15/10-%02d-00.mp4", camera, i)
	}
	name := func(i int) string {
		if i < 3*films {
			return film(i/films, i%films)
		}
		return "other/" + fmt.Sprintf("%x", uint32(i)*2654435761)
	}
	// The content gets to the tier without the line.
	place := func(addr string) string { return "s3://cold?endpoint=http://" + addr + "&region=us-east-1&style=path" }
	conf := func(addr string, prefetch string) string {
		return fmt.Sprintf("tiers:\n  cold:\n    url: '%s'\ncache:\n  memory: 32MiB\n  disk: 512MiB\n  prefetch: %s\n", place(addr), prefetch)
	}
	init := exec.CommandContext(ctx, program, "blob", "init", place(cold.s3))
	init.Env = append(os.Environ(), keys...)
	if out, err := init.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	near, err := start(ctx, program, filepath.Join(dir, "near"), conf(cold.s3, "0"))
	if err == nil {
		err = near.fill(ctx, 3*films+others, size, name)
	}
	near.stop()
	if err != nil {
		return err
	}
	type outcome struct {
		review, other  []time.Duration
		fetched, ahead float64
	}
	results := map[string]*outcome{"0": {}, "64MiB/s": {}}
	for round := range rounds {
		for prefetch, out := range results {
			s, err := start(ctx, program, filepath.Join(dir, "near"), conf(way.addr, prefetch))
			if err == nil {
				err = s.call(ctx, http.MethodPost, "/admin/v1/cache/purge", `{"prefix":""}`, nil)
			}
			if err == nil {
				var mu sync.Mutex
				done := make(chan struct{})
				var g errgroup.Group
				g.Go(func() error { // the review: camera after camera
					defer close(done)
					for camera := range 3 {
						for i := range films {
							for off := int64(0); off < size; off += piece {
								d, err := s.read(ctx, film(camera, i), off, piece)
								if err != nil {
									return err
								}
								mu.Lock()
								out.review = append(out.review, d)
								mu.Unlock()
								pause(ctx, 60*time.Millisecond)
							}
						}
					}
					return nil
				})
				g.Go(func() error { // the others
					r := rand.New(rand.NewPCG(uint64(round), 9))
					for {
						d, err := s.read(ctx, name(3*films+r.IntN(others)), r.Int64N(size-piece), 64<<10)
						if err != nil {
							return err
						}
						mu.Lock()
						out.other = append(out.other, d)
						mu.Unlock()
						select {
						case <-done:
							return nil
						default:
						}
						pause(ctx, 400*time.Millisecond)
					}
				})
				err = g.Wait()
			}
			var st status
			if err == nil {
				err = s.call(ctx, http.MethodGet, "/admin/v1/cache", "", &st)
			}
			s.stop()
			if err != nil {
				return err
			}
			out.fetched += float64(st.Fetched) / mib / float64(rounds)
			if st.Prefetch != nil {
				out.ahead += float64(st.Prefetch.Bytes) / mib / float64(rounds)
			}
		}
	}
	for _, prefetch := range []string{"0", "64MiB/s"} {
		o := results[prefetch]
		fmt.Printf("prefetch %s: a piece of the review p50 %v, p99 %v; others p50 %v, p99 %v; %.0f MiB from the tier a round, %.0f of them ahead\n", prefetch,
			quantile(o.review, .5), quantile(o.review, .99), quantile(o.other, .5), quantile(o.other, .99), o.fetched, o.ahead)
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func quantile(list []time.Duration, q float64) time.Duration {
	list = slices.Sorted(slices.Values(list))
	if len(list) == 0 {
		return 0
	}
	return list[min(len(list)-1, int(q*float64(len(list))))].Round(100 * time.Microsecond)
}
