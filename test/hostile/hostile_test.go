// Package hostile sends the real binary names and requests made to do harm, and looks at what is on the disk and on
// the connection afterwards.
package hostile

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"firn/test/server"
	"firn/test/wire"
)

// mark is in every name sent, so that a file named after one is found.
const mark = "hostilemark"

// keys are object keys. Each is stored and read back, or refused; which of the two is the server's choice but for
// those that S3 allows.
var keys = []struct {
	key    string
	stored bool // must be stored
}{
	{mark, true},
	{mark + "/", true},
	{mark + "/below", true},
	{mark + "//below", true},
	{"/" + mark, true},
	{"//" + mark, true},
	{"/etc/" + mark, true},
	{"../" + mark, true},
	{"../../../../../../../../tmp/" + mark, true},
	{mark + "/../../../up", true},
	{mark + "/./here", true},
	{mark + "/..", true},
	{mark + "/.", true},
	{"..\\..\\" + mark, true},
	{"%2e%2e/" + mark, true},
	{"%2e%2e%2f%2e%2e%2f" + mark, true},
	{"..%c0%af" + mark, true},
	{".hidden" + mark, true},
	{"CON" + mark, true},
	{mark + " ", true},
	{" " + mark, true},
	{mark + ".", true},
	{mark + "\t", false},
	{mark + "\n", false},
	{mark + "\r\nX-Evil: 1", false},
	{mark + "\x00", false},
	{mark + "\x00/../../etc/passwd", false},
	{mark + "\x01\x02\x1f\x7f", false},
	{mark + "\xff\xfe", false},
	{mark + "\xed\xa0\x80", false},       // a surrogate in UTF-8
	{mark + "\xc0\xae\xc0\xae/x", false}, // dots in overlong UTF-8
	{mark + "\u202egnp.exe", true},
	{mark + "\ufffd", true},
	{mark + "?versionId=x#y&z=;", true},
	{mark + "<script>alert(1)</script>&amp;", true},
	{mark + "'; DROP TABLE objects; --", true},
	{mark + "${jndi:ldap://x}%n%s{{7*7}}", true},
	{mark + strings.Repeat("a", 1024-len(mark)), true},
	{mark + strings.Repeat("/", 1024-len(mark)), true},
	{mark + strings.Repeat("../", 337) + "x", true},
	{mark + strings.Repeat("氷", (1024-len(mark))/3), true},
	{mark + strings.Repeat("🧊", (1024-len(mark))/4), true},
	{mark + strings.Repeat("a", 1025-len(mark)), false},
	{mark + strings.Repeat("氷", 1024), false},
	{mark + strings.Repeat("a", 8000), false},
}

// tree is what lies below a directory: name → kind, size and content.
func tree(t *testing.T, dir, except string) map[string]string {
	t.Helper()
	m := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a file of the running server, gone since it was listed
		}
		if err != nil {
			return err
		}
		if path == except {
			return fs.SkipDir
		}
		if d.IsDir() {
			m[path] = "directory"
			return nil
		}
		b, err := os.ReadFile(path)
		m[path] = fmt.Sprintf("%d bytes %x", len(b), sha256.Sum256(b))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// site is a server whose data directory lies among files that must not change.
type site struct {
	server *server.Server
	client *wire.Client
	base   string
	before map[string]string
}

const bucket = "hostile"

func start(t *testing.T, args ...string) *site {
	t.Helper()
	base := t.TempDir()
	for _, name := range []string{"canary", "a/canary", "a/b/canary", "a/b/c/canary", "a/b/other/canary"} {
		path := filepath.Join(base, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("untouched"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s := server.New(t, server.Under(t), filepath.Join(base, "a/b/c/data"), args...)
	st := &site{server: s, base: base, client: wire.New(s.Addr(), server.AccessKey, server.SecretKey)}
	s.Start(t)
	st.before = tree(t, base, s.Data())
	if resp, err := st.client.CreateBucket(t.Context(), bucket); err != nil || resp.Status != 200 {
		t.Fatalf("create bucket: %v, %v", resp, err)
	}
	return st
}

// unharmed fails the test where a file outside the data directory changed or one inside has a name from a key.
func (s *site) unharmed(t *testing.T) {
	t.Helper()
	if after := tree(t, s.base, s.server.Data()); !maps.Equal(s.before, after) {
		t.Errorf("files beside the data directory changed:\nbefore %v\nafter  %v", s.before, after)
	}
	for path := range tree(t, s.server.Data(), "") {
		if strings.Contains(path, mark) && s.server.Name() == "firn" {
			t.Errorf("a file has its name from a key: %q", path)
		}
	}
}

func TestKeys(t *testing.T) {
	s := start(t)
	ctx := t.Context()
	stored := map[string]string{}
	for i, k := range keys {
		body := []byte(fmt.Sprintf("content %d of %q", i, k.key))
		resp, err := s.client.Put(ctx, bucket, k.key, body, nil)
		if err != nil {
			t.Errorf("put %.60q: %v", k.key, err)
			continue
		}
		switch {
		case resp.Status == 200:
			stored[k.key] = string(body)
		case resp.Status >= 400 && resp.Status < 500 && !k.stored:
			if resp, err := s.client.Get(ctx, bucket, k.key, ""); err != nil || resp.Status < 400 || resp.Status >= 500 {
				t.Errorf("get %.60q, which was refused: %v, %v", k.key, resp, err)
			}
		default:
			t.Errorf("put %.60q: %v", k.key, resp)
		}
	}
	// A key is what it is: none hides or replaces another.
	for key, want := range stored {
		resp, err := s.client.Get(ctx, bucket, key, "")
		if err != nil || resp.Status != 200 || string(resp.Body) != want {
			t.Errorf("get %.60q: %v, %v", key, resp, err)
		}
	}
	items, err := s.client.List(ctx, bucket, "")
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	for _, item := range items {
		listed = append(listed, item.Key)
	}
	if want := slices.Sorted(maps.Keys(stored)); !slices.Equal(listed, want) {
		t.Errorf("listed %.2000q\nwant %.2000q", listed, want)
	}
	s.unharmed(t)
	// They survive a restart and can be deleted.
	s.server.Kill()
	s.client.CloseIdle()
	s.server.Start(t)
	for key, want := range stored {
		resp, err := s.client.Get(ctx, bucket, key, "")
		if err != nil || resp.Status != 200 || string(resp.Body) != want {
			t.Errorf("get %.60q after a restart: %v, %v", key, resp, err)
		}
		if resp, err := s.client.Delete(ctx, bucket, key, ""); err != nil || resp.Status != 204 {
			t.Errorf("delete %.60q: %v, %v", key, resp, err)
		}
	}
	if items, err := s.client.List(ctx, bucket, ""); err != nil || len(items) != 0 {
		t.Errorf("left after all was deleted: %v, %v", items, err)
	}
	s.unharmed(t)
}

// TestPaths sends paths that a client library would never send. None may be answered with success, nor with a server
// error.
func TestPaths(t *testing.T) {
	s := start(t)
	for _, r := range []wire.Request{
		{Method: "PUT", RawPath: "/.."},
		{Method: "PUT", RawPath: "/../" + mark},
		{Method: "PUT", RawPath: "/%2e%2e"},
		{Method: "PUT", RawPath: "/%2e%2e/" + mark},
		{Method: "PUT", RawPath: "/..%2f..%2f" + mark},
		{Method: "PUT", RawPath: "/%00" + mark},
		{Method: "PUT", RawPath: "/" + mark + "%00"},
		{Method: "PUT", RawPath: "/" + mark + "%2f.."},
		{Method: "PUT", RawPath: "/" + strings.ToUpper(mark)},
		{Method: "PUT", RawPath: "/" + strings.Repeat("a", 300)},
		{Method: "PUT", RawPath: "/." + mark},
		{Method: "PUT", RawPath: "/" + mark + ".."},
		{Method: "PUT", RawPath: "/192.168.0.1"},
		{Method: "GET", RawPath: "/../../../../../../etc/passwd"},
		{Method: "GET", RawPath: "/" + bucket + "/../../../../../../etc/passwd"},
		{Method: "GET", RawPath: "/" + bucket + "/%2e%2e/%2e%2e/canary"},
		{Method: "PUT", Bucket: bucket, Key: "copy", Header: wire.Header("X-Amz-Copy-Source", "/../../etc/passwd")},
		{Method: "PUT", Bucket: bucket, Key: "copy", Header: wire.Header("X-Amz-Copy-Source", bucket+"/../../canary")},
		{Method: "PUT", Bucket: bucket, Key: "copy", Header: wire.Header("X-Amz-Copy-Source", bucket+"/%2e%2e/canary")},
		{Method: "PUT", Bucket: bucket, Key: "copy", Header: wire.Header("X-Amz-Copy-Source", "%00")},
		{Method: "PUT", Bucket: bucket, Key: "part", Query: wire.Query("uploadId", "../../"+mark, "partNumber", "1")},
		{Method: "PUT", Bucket: bucket, Key: "part", Query: wire.Query("uploadId", "\x00", "partNumber", "1")},
		{Method: "PUT", Bucket: bucket, Key: "part", Query: wire.Query("uploadId", strings.Repeat("a", 5000), "partNumber", "1")},
		{Method: "DELETE", Bucket: bucket, Key: "part", Query: wire.Query("uploadId", "../../../"+mark)},
		{Method: "GET", Bucket: bucket, Key: "x", Query: wire.Query("versionId", "../../"+mark)},
		{Method: "GET", Bucket: bucket, Key: "x", Query: wire.Query("versionId", strings.Repeat("f", 5000))},
		{Method: "GET", Bucket: bucket, Query: wire.Query("list-type", "2", "continuation-token", "../../"+mark)},
		{Method: "GET", Bucket: bucket, Query: wire.Query("list-type", "2", "max-keys", "-1")},
		{Method: "GET", Bucket: bucket, Query: wire.Query("list-type", "2", "max-keys", "99999999999999999999")},
	} {
		name := fmt.Sprintf("%s %s%s/%s?%.80s %v", r.Method, r.RawPath, r.Bucket, r.Key, r.Query.Encode(), r.Header)
		resp, err := s.client.Do(t.Context(), r)
		if err != nil {
			t.Errorf("%.120s: %v", name, err)
			continue
		}
		if resp.Status < 400 || resp.Status >= 500 || bytes.Contains(resp.Body, []byte("untouched")) {
			t.Errorf("%.120s: %v", name, resp)
		}
	}
	s.unharmed(t)
}

// TestEarlyAnswersLeaveNoBytes: a request that is refused before its body was read must not leave the body in the
// connection, where it would be taken for the next requests of whoever uses the connection.
func TestEarlyAnswersLeaveNoBytes(t *testing.T) {
	s := start(t)
	smuggled := "GET /" + mark + " HTTP/1.1\r\nHost: x\r\n\r\n"
	for _, size := range []int{0, 1, 4096, 256<<10 - 1, 256 << 10, 256<<10 + 1, 1 << 20, 8 << 20} {
		t.Run(strconv.Itoa(size), func(t *testing.T) {
			body := strings.Repeat(smuggled, size/len(smuggled)+1)[:size]
			conn, err := net.Dial("tcp", s.server.Addr())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
				t.Fatal(err)
			}
			sent := make(chan struct{})
			go func() {
				defer close(sent)
				// Nobody signed this, so the answer is 403, whatever the body is. The server may close the
				// connection while the rest is being sent; that is what an error here means.
				fmt.Fprintf(conn, "PUT /%s/x HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n", bucket, s.server.Addr(), size)
				io.WriteString(conn, body)
				fmt.Fprintf(conn, "GET /%s/second HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", bucket, s.server.Addr())
			}()
			var answers []string
			r := bufio.NewReader(conn)
			for {
				resp, err := http.ReadResponse(r, nil)
				if err != nil {
					break
				}
				b, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				answers = append(answers, fmt.Sprintf("%s %.200q", resp.Status, b))
				if resp.StatusCode != http.StatusForbidden || err != nil || bytes.Contains(b, []byte(mark)) {
					t.Errorf("answer %d: %s %.300q, %v; want 403 for each of the two requests", len(answers), resp.Status, b, err)
				}
			}
			conn.Close()
			<-sent
			// A connection may be closed after the first answer, and with a body as long as 8 MiB should be.
			if len(answers) < 1 || len(answers) > 2 {
				t.Errorf("%d answers to two requests: %.1000q", len(answers), answers)
			}
		})
	}
	s.unharmed(t)
}
