// Package clients holds the stock S3 clients to the real binary: each does its whole job, and every byte that went up
// is compared when it comes down.
//
// Each client has a table of steps, so that a failure names the client and the step. A client that is not installed
// fails the test: test/setup.sh installs all of them.
package clients

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"firn/test/server"
)

// TestClients runs all clients against one server, each in buckets of its own.
func TestClients(t *testing.T) { runClients(t, server.Start(t)) }

func runClients(t *testing.T, s *server.Server) {
	trees := makeTrees(t)
	for _, c := range []struct {
		name  string
		steps func(t *testing.T, b *bench) []step
	}{
		{"aws", awsSteps},
		{"aws-iam", awsIAMSteps},
		{"boto3", boto3Steps},
		{"boto3-crc", boto3NewSteps},
		{"rclone", rcloneSteps},
		{"s3cmd", s3cmdSteps},
		{"mc", mcSteps},
		{"minio-go", minioGoSteps},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := &bench{name: c.name, server: s, trees: trees, dir: t.TempDir()}
			b.rng = rand.New(rand.NewPCG(7, uint64(len(c.name)))) // contents need no new seed each time
			for _, step := range c.steps(t, b) {
				began := time.Now()
				t.Run(step.name, step.do)
				t.Logf("%-40s %v", step.name, time.Since(began).Round(10*time.Millisecond))
			}
		})
	}
}

// step is one part of a client's job. Steps run in order and build on one another.
type step struct {
	name string
	do   func(t *testing.T)
}

// bench is what a client works with.
type bench struct {
	name   string
	server *server.Server
	trees  trees
	dir    string // for the client's files
	env    []string
	bin    string
	args   []string // before every call's own
	rng    *rand.Rand
}

// bucket returns the name of one of the client's buckets.
func (b *bench) bucket(what string) string { return b.name + "-" + what }

// path returns a path below the client's directory.
func (b *bench) path(elem ...string) string {
	return filepath.Join(append([]string{b.dir}, elem...)...)
}

// need sets the client's program: the first of candidates that exists, absolute paths or names on PATH.
func (b *bench) need(t *testing.T, candidates ...string) {
	t.Helper()
	for _, c := range candidates {
		if path, err := exec.LookPath(c); err == nil {
			b.bin = path
			return
		}
	}
	t.Fatalf("%s is not installed: run test/setup.sh", candidates[0])
}

// tool returns the path of a program that test/setup.sh installs for this user.
func tool(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv("FIRN_TEST_TOOLS")
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join(cache, "firn-test", "tools")
	}
	return filepath.Join(dir, name)
}

// try runs the client and returns its output streams and its error.
func (b *bench) try(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, b.bin, slices.Concat(b.args, args)...)
	// A client must not find settings of whoever runs the test: other keys, a proxy, another store of certificates.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		name := strings.ToUpper(v[:strings.IndexByte(v, '=')])
		return strings.HasPrefix(name, "AWS_") || strings.HasSuffix(name, "_PROXY") ||
			strings.HasPrefix(name, "RCLONE_") || strings.HasPrefix(name, "MC_") || strings.HasPrefix(name, "PYTHON")
	})
	cmd.Env = append(cmd.Env, b.env...)
	cmd.Dir = b.dir
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	err = cmd.Run()
	return o.String(), e.String(), err
}

// run runs the client, fails the test on an error, and returns its standard output.
func (b *bench) run(t *testing.T, args ...string) string {
	t.Helper()
	stdout, stderr, err := b.try(t, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%.3000s\n%.3000s", b.name, strings.Join(args, " "), err, stdout, stderr)
	}
	return stdout
}

// refused runs the client and fails the test unless it ends with an error whose output holds want.
func (b *bench) refused(t *testing.T, want string, args ...string) {
	t.Helper()
	stdout, stderr, err := b.try(t, args...)
	if err == nil || !strings.Contains(stdout+stderr, want) {
		t.Fatalf("%s %s: %v, want an error with %q\n%.2000s\n%.2000s",
			b.name, strings.Join(args, " "), err, want, stdout, stderr)
	}
}

// random makes a file of size random bytes and returns its path.
func (b *bench) random(t *testing.T, name string, size int) string {
	t.Helper()
	content := make([]byte, size)
	var seed [32]byte
	for i := range seed {
		seed[i] = byte(b.rng.Uint32())
	}
	rand.NewChaCha8(seed).Read(content)
	return b.file(t, name, string(content))
}

// file makes a file and returns its path.
func (b *bench) file(t *testing.T, name, content string) string {
	t.Helper()
	path := b.path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// same compares two files.
func same(t *testing.T, want, got string) {
	t.Helper()
	w, err := os.ReadFile(want)
	if err != nil {
		t.Fatal(err)
	}
	g, err := os.ReadFile(got)
	if err != nil {
		t.Fatal(err)
	}
	sameBytes(t, w, g)
}

func sameBytes(t *testing.T, want, got []byte) {
	t.Helper()
	if !bytes.Equal(want, got) {
		t.Fatalf("%d bytes with SHA-256 %x, want %d bytes with %x", len(got), sha256.Sum256(got), len(want), sha256.Sum256(want))
	}
}

// contains fails the test unless s holds every one of want.
func contains(t *testing.T, s string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(s, w) {
			t.Fatalf("%q is not in %.2000q", w, s)
		}
	}
}

// http sends a plain request, not signed beyond what the URL holds.
func request(t *testing.T, method, url string, body []byte, headers ...string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, b
}

// wantStatus fails the test on another status.
func wantStatus(t *testing.T, resp *http.Response, body []byte, want int) {
	t.Helper()
	if resp.StatusCode != want {
		t.Fatalf("%s %s: %s, want %d\n%.1000s", resp.Request.Method, resp.Request.URL, resp.Status, want, body)
	}
}

// preflight asks as a browser does before a PUT from origin, and returns whether it is allowed.
func preflight(t *testing.T, url, origin string) bool {
	t.Helper()
	resp, body := request(t, http.MethodOptions, url, nil,
		"Origin", origin, "Access-Control-Request-Method", "PUT", "Access-Control-Request-Headers", "content-type")
	switch resp.StatusCode {
	case http.StatusOK, http.StatusNoContent:
		allowed := resp.Header.Get("Access-Control-Allow-Origin")
		return (allowed == origin || allowed == "*") &&
			strings.Contains(resp.Header.Get("Access-Control-Allow-Methods"), "PUT")
	case http.StatusForbidden:
		return false
	}
	wantStatus(t, resp, body, http.StatusOK)
	return false
}

// policy is a bucket policy by which anybody reads objects.
func policy(bucket string) string {
	return fmt.Sprintf(`{"Version":"2012-10-17","Statement":[{"Sid":"read","Effect":"Allow","Principal":{"AWS":["*"]},`+
		`"Action":["s3:GetObject"],"Resource":["arn:aws:s3:::%s/*"]}]}`, bucket)
}

// Settings that several clients set, in the clients' own formats.
const (
	corsJSON = `{"CORSRules":[{"AllowedOrigins":["https://firn.example"],"AllowedMethods":["GET","PUT"],` +
		`"AllowedHeaders":["*"],"ExposeHeaders":["ETag"],"MaxAgeSeconds":600}]}`
	corsXML = `<CORSConfiguration><CORSRule><AllowedOrigin>https://firn.example</AllowedOrigin>` +
		`<AllowedMethod>GET</AllowedMethod><AllowedMethod>PUT</AllowedMethod><AllowedHeader>*</AllowedHeader>` +
		`<ExposeHeader>ETag</ExposeHeader><MaxAgeSeconds>600</MaxAgeSeconds></CORSRule></CORSConfiguration>`
	lifecycleJSON = `{"Rules":[{"ID":"logs","Filter":{"Prefix":"logs/"},"Status":"Enabled",` +
		`"Expiration":{"Days":30},"AbortIncompleteMultipartUpload":{"DaysAfterInitiation":3}}]}`
	lifecycleXML = `<LifecycleConfiguration><Rule><ID>logs</ID><Filter><Prefix>logs/</Prefix></Filter>` +
		`<Status>Enabled</Status><Expiration><Days>30</Days></Expiration></Rule></LifecycleConfiguration>`
)

// Origins the CORS settings allow and do not.
const goodOrigin, badOrigin = "https://firn.example", "https://evil.example"

// Sizes of the files that go up and down: one by a single request, one by several parts of 5 MiB or more, odd to the byte.
const (
	smallSize = 12_345
	largeSize = 17<<20 + 4_321
)

// trees are directories to synchronise.
type trees struct {
	big   string // a few thousand files of the Go source, and odd names
	small string // a few hundred of them, for clients that start slowly for each
}

// oddNames are legal object keys that clients or servers got wrong before.
var oddNames = []string{
	"with space.txt", "two  spaces.txt", "plus+plus.txt", "percent%41.txt", "percent%2Fslash.txt", "100%.txt",
	"ünïcödé/größe.txt", "日本語/氷河.txt", "emoji-🧊.txt", "combining-e\u0301.txt", "composed-\u00e9.txt",
	"quote'single.txt", "amp&ersand.txt", "semi;colon.txt", "hash#tag.txt", "question?mark.txt", "comma,equals=.txt",
	"tilde~.txt", "at@dollar$.txt", "paren(1).txt", "brace{a,b}.txt", "bracket[1].txt", "caret^.txt", "bang!.txt",
	"dots/..hidden/...txt", "-dash.txt", ".dotfile", "UPPER/lower.TXT", "upper/LOWER.txt", "deep/a/b/c/d/e/f/g/h.txt",
	"empty.txt",
}

// makeTrees copies parts of the Go source, which every machine that runs this test has, and adds odd names.
func makeTrees(t *testing.T) trees {
	t.Helper()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(strings.TrimSpace(string(out)), "src")
	base := t.TempDir()
	tr := trees{big: filepath.Join(base, "big"), small: filepath.Join(base, "small")}
	big := 0
	for _, dir := range []string{
		"cmd/go", "cmd/compile", "net", "crypto", "encoding", "go", "os", "text", "image", "internal", "runtime",
	} {
		big += copyTree(t, filepath.Join(root, dir), filepath.Join(tr.big, dir))
	}
	small := 0
	for _, dir := range []string{"net/http", "encoding", "text", "go/types"} {
		small += copyTree(t, filepath.Join(root, dir), filepath.Join(tr.small, dir))
	}
	for _, dir := range []string{tr.big, tr.small} {
		for _, name := range oddNames {
			path := filepath.Join(dir, "odd names", name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			content := "content of " + name
			if name == "empty.txt" {
				content = ""
			}
			if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	if big < 2000 || small < 200 {
		t.Fatalf("the trees have %d and %d files, too few to prove anything (%s %s)", big, small, root, runtime.Version())
	}
	t.Logf("trees of %d and %d files", big+len(oddNames), small+len(oddNames))
	return tr
}

// copyTree copies the regular files below from, without those that clients leave out or test data that is huge.
func copyTree(t *testing.T, from, to string) int {
	t.Helper()
	n := 0
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		if !d.Type().IsRegular() {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		n++
		return os.WriteFile(filepath.Join(to, rel), b, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// sameTree compares all files below two directories. Directories without files count for nothing: S3 has none.
func sameTree(t *testing.T, want, got string) {
	t.Helper()
	w, g := sums(t, want), sums(t, got)
	var wrong []string
	for name, sum := range w {
		if g[name] != sum {
			wrong = append(wrong, fmt.Sprintf("%q", name))
		}
	}
	for name := range g {
		if w[name] == "" {
			wrong = append(wrong, fmt.Sprintf("%q (too much)", name))
		}
	}
	if len(wrong) > 0 {
		slices.Sort(wrong)
		t.Fatalf("%d of %d files differ: %.1500s", len(wrong), len(w), strings.Join(wrong, " "))
	}
}

func sums(t *testing.T, dir string) map[string]string {
	t.Helper()
	m := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		m[rel] = fmt.Sprintf("%x", sha256.Sum256(b))
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return m
}
