package hostile

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"firn/test/wire"
)

// raw sends bytes and returns the answers to them.
func (s *site) raw(t *testing.T, text string) []*http.Response {
	t.Helper()
	conn, err := net.Dial("tcp", s.server.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	sent := make(chan struct{})
	go func() { // the server may close before it has read all
		defer close(sent)
		io.WriteString(conn, text)
		conn.(*net.TCPConn).CloseWrite()
	}()
	var answers []*http.Response
	for r := bufio.NewReader(conn); ; {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			break
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		resp.Body = io.NopCloser(bytes.NewReader(b))
		answers = append(answers, resp)
		if err != nil {
			break
		}
	}
	conn.Close()
	<-sent
	return answers
}

// alive fails the test where the site does not serve any more.
func (s *site) alive(t *testing.T) {
	t.Helper()
	if resp, err := s.client.Put(t.Context(), bucket, "alive", []byte("x"), nil); err != nil || resp.Status != 200 {
		t.Errorf("the site does not serve: %v, %v", resp, err)
	}
}

// resident returns the server's resident memory in bytes.
func (s *site) resident(t *testing.T) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.server.PID()))
	if err != nil {
		t.Fatal(err)
	}
	_, v, _ := strings.Cut(string(b), "VmRSS:")
	v, _, _ = strings.Cut(v, "kB")
	kib, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

// TestSmuggling sends messages that two parsers may understand differently. One request is answered at most, and it is
// refused.
func TestSmuggling(t *testing.T) {
	s := start(t)
	second := "GET /" + bucket + "/" + mark + " HTTP/1.1\r\nHost: x\r\n\r\n"
	for name, head := range map[string]string{
		"two lengths":                "POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: 60\r\n\r\n",
		"two lengths in one":         "POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 0, 60\r\n\r\n",
		"a signed length":            "POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: +0\r\n\r\n",
		"a hexadecimal length":       "POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 0x0\r\n\r\n",
		"an unknown coding":          "POST /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
		"two codings":                "POST /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
		"a coding with a tab":        "POST /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\tchunked, chunked\r\n\r\n0\r\n\r\n",
		"a blank before the colon":   "POST /b HTTP/1.1\r\nHost: x\r\nContent-Length : 0\r\n\r\n",
		"two hosts":                  "GET /b HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
		"no host":                    "GET /b HTTP/1.1\r\n\r\n",
		"a NUL":                      "GET /b HTTP/1.1\r\nHost: x\r\nX-A: \x00\r\n\r\n",
		"a bare carriage return":     "GET /b HTTP/1.1\r\nHost: x\r\nX-A: b\rX-B: c\r\n\r\n",
		"a chunk size with a sign":   "POST /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n+0\r\n\r\n",
		"an endless chunk extension": "POST /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0;" + strings.Repeat("a", 1<<20) + "\r\n\r\n",
		"another protocol":           "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"no protocol":                "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
	} {
		t.Run(name, func(t *testing.T) {
			answers := s.raw(t, head+second)
			for i, a := range answers {
				b, _ := io.ReadAll(a.Body) // bytes in memory
				if a.StatusCode < 400 || a.StatusCode > 599 || bytes.Contains(b, []byte(mark)) {
					t.Errorf("answer %d: %s %.200q", i, a.Status, b)
				}
			}
			if len(answers) > 1 {
				t.Errorf("%d answers", len(answers))
			}
		})
	}
	// A folded line belongs to the header before it: what looks like a length there is none.
	if answers := s.raw(t, "POST /b HTTP/1.1\r\nHost: x\r\nX-A: b\r\n Content-Length: 60\r\n\r\n"+second); len(answers) != 2 {
		t.Errorf("%d answers to two requests, the first with a folded header", len(answers))
	}
	// Both a length and a coding: RFC 9112 lets a server take the coding and must then close; the rest is not a request.
	answers := s.raw(t, "POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"+second)
	if len(answers) != 1 && len(answers) != 2 {
		t.Errorf("%d answers", len(answers))
	}
	for _, a := range answers {
		if a.StatusCode < 400 || a.StatusCode > 499 {
			t.Error(a.Status)
		}
	}
	s.alive(t)
	s.unharmed(t)
}

// TestGigantic sends headers, paths, queries and documents far beyond any bound.
func TestGigantic(t *testing.T) {
	s := start(t)
	mib := strings.Repeat("a", 1<<20)
	before := s.resident(t)
	for name, text := range map[string]string{
		"a header":          "GET / HTTP/1.1\r\nHost: x\r\nX-Big: " + strings.Repeat(mib, 64) + "\r\n\r\n",
		"a million headers": "GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("A: b\r\n", 1_000_000) + "\r\n",
		"a path":            "GET /" + strings.Repeat(mib, 16) + " HTTP/1.1\r\nHost: x\r\n\r\n",
		"a query":           "GET /?" + strings.Repeat("a&", 8<<20) + " HTTP/1.1\r\nHost: x\r\n\r\n",
		"a method":          mib + " / HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			for _, a := range s.raw(t, text) {
				if a.StatusCode < 400 || a.StatusCode > 499 {
					t.Error(a.Status)
				}
			}
		})
	}
	if resp, err := s.client.Do(t.Context(), wire.Request{
		Method: "GET", Bucket: bucket, Query: wire.Query("list-type", "2", "prefix", strings.Repeat("a", 20_000)),
	}); err != nil || resp.Status >= 500 {
		t.Errorf("a long prefix: %v, %v", resp, err)
	}
	if grown := s.resident(t) - before; grown > 96<<20 {
		t.Errorf("resident memory grew by %d MiB", grown>>20)
	} else {
		t.Logf("resident memory grew by %d MiB", grown>>20)
	}
	s.alive(t)
	s.unharmed(t)
}

// TestDocuments sends XML and JSON made to expand, to nest or to reach for files.
func TestDocuments(t *testing.T) {
	s := start(t)
	bomb := `<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY lol "lol">`
	for i := range 9 {
		prev := "lol"
		if i > 0 {
			prev = fmt.Sprint("lol", i)
		}
		bomb += fmt.Sprintf(`<!ENTITY lol%d "%s">`, i+1, strings.Repeat("&"+prev+";", 10))
	}
	bomb += `]>`
	external := `<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>`
	entity := func(ref string) string {
		return `<Tagging><TagSet><Tag><Key>k</Key><Value>` + ref + `</Value></Tag></TagSet></Tagging>`
	}
	deep := strings.Repeat("<a>", 300_000) + strings.Repeat("</a>", 300_000)
	before := s.resident(t)
	docs := map[string]string{
		"entities that expand": bomb + entity("&lol9;"), "an external entity": external + entity("&e;"),
		"an entity nobody declared": entity("&nosuch;"), "depth": deep,
		"depth in a document":    entity(deep),
		"attributes":             "<Tagging " + strings.Repeat(`a="b" `, 200_000) + "></Tagging>",
		"many tags":              "<Tagging><TagSet>" + strings.Repeat("<Tag><Key>k</Key><Value>v</Value></Tag>", 50_000) + "</TagSet></Tagging>",
		"never closed":           "<Tagging><TagSet>" + strings.Repeat("<Tag>", 100_000),
		"another character set":  `<?xml version="1.0" encoding="UTF-7"?><Tagging/>`,
		"UTF-16":                 "\xff\xfe<\x00T\x00",
		"a comment without end":  "<!--" + strings.Repeat("-", 1<<20),
		"a JSON policy, nested":  strings.Repeat(`{"Statement":[`, 100_000),
		"a JSON policy of lists": `{"Version":"2012-10-17","Statement":` + strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000) + "}",
	}
	targets := []wire.Request{
		{Method: "PUT", Bucket: bucket, Query: wire.Query("tagging", "")},
		{Method: "PUT", Bucket: bucket, Query: wire.Query("lifecycle", "")},
		{Method: "PUT", Bucket: bucket, Query: wire.Query("cors", "")},
		{Method: "PUT", Bucket: bucket, Query: wire.Query("acl", "")},
		{Method: "PUT", Bucket: bucket, Query: wire.Query("policy", "")},
		{Method: "PUT", Bucket: bucket, Query: wire.Query("notification", "")},
		{Method: "POST", Bucket: bucket, Query: wire.Query("delete", "")},
		{Method: "PUT", Bucket: "other-" + bucket},
		{Method: "POST", Bucket: bucket, Key: "k", Query: wire.Query("uploadId", "x")},
	}
	for name, doc := range docs {
		for _, r := range targets {
			r.Body = []byte(doc)
			resp, err := s.client.Do(t.Context(), r)
			// A server may answer and close before it has read a document that is too long.
			if err != nil && len(doc) < 256<<10 {
				t.Errorf("%s to %s?%s: %v", name, r.Method, r.Query.Encode(), err)
			}
			if resp != nil && (resp.Status < 400 || resp.Status > 499 || bytes.Contains(resp.Body, []byte("root:"))) {
				t.Errorf("%s to %s?%s: %v", name, r.Method, r.Query.Encode(), resp)
			}
		}
	}
	// Nothing is decompressed on the way in: a bomb is stored as the bytes it is.
	small := []byte("\x1f\x8b\x08\x00not really gzip")
	if resp, err := s.client.Put(t.Context(), bucket, "zip", small, wire.Header("Content-Encoding", "gzip")); err != nil || resp.Status != 200 {
		t.Error(resp, err)
	}
	if resp, err := s.client.Get(t.Context(), bucket, "zip", ""); err != nil || !bytes.Equal(resp.Body, small) {
		t.Error(resp, err)
	}
	if grown := s.resident(t) - before; grown > 96<<20 {
		t.Errorf("resident memory grew by %d MiB", grown>>20)
	} else {
		t.Logf("resident memory grew by %d MiB", grown>>20)
	}
	s.alive(t)
	s.unharmed(t)
}

// TestSlowClients: who sends a header or a body byte by byte is cut off, and does not keep others out meanwhile.
func TestSlowClients(t *testing.T) {
	s := start(t, "--limits-header-timeout", "1s", "--limits-stall-timeout", "1s", "--limits-idle-timeout", "1s", "--limits-min-rate", "64KiB/s")
	body := "PUT /" + bucket + "/slow HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n"
	r := s.request(t, "PUT", "/"+bucket+"/slow", "")
	honest().header(r)
	for _, h := range []string{"Authorization", "X-Amz-Date", "X-Amz-Content-Sha256"} {
		body += h + ": " + r.Header.Get(h) + "\r\n"
	}
	body = strings.Replace(body, "Host: x", "Host: "+s.server.Addr(), 1) + "\r\n"
	for name, c := range map[string]struct{ first, drip string }{
		"header":          {"GET / HTTP/1.1\r\nHost: x\r\n", "X-A: b\r\n"},
		"request line":    {"", "G"},
		"body":            {body, "x"},
		"idle connection": {"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := net.Dial("tcp", s.server.Addr())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			io.WriteString(conn, c.first)
			stop, stopped := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(stopped)
				tick := time.NewTicker(50 * time.Millisecond)
				defer tick.Stop()
				for {
					select {
					case <-stop:
						return
					case <-tick.C:
						io.WriteString(conn, c.drip)
					}
				}
			}()
			if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(conn) // to the end the server makes
			close(stop)
			<-stopped
			if e, ok := err.(net.Error); ok && e.Timeout() {
				t.Fatalf("still connected; got %.200q", b)
			}
			if name == "body" && !bytes.Contains(b, []byte("RequestTimeout")) {
				t.Errorf("got %.300q", b)
			}
			if bytes.Contains(b, []byte("200 OK")) {
				t.Errorf("served: %.200q", b)
			}
		})
	}
	s.alive(t)
}

// TestIdleConnections opens ten thousand connections that do nothing. Others are served, and memory stays bounded.
func TestIdleConnections(t *testing.T) {
	const n = 10_000
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Cur < n+200 {
		t.Fatalf("the limit of open files is %d, %v: raise it above %d (ulimit -n)", limit.Cur, err, n+200)
	}
	s := start(t, "--limits-connections", strconv.Itoa(n+100), "--limits-header-timeout", "5m", "--limits-idle-timeout", "5m")
	s.alive(t)
	before := s.resident(t)
	conns := make([]net.Conn, 0, n)
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for range n {
		c, err := net.Dial("tcp", s.server.Addr())
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	for range 20 {
		s.client.CloseIdle()
		s.alive(t)
	}
	grown := s.resident(t) - before
	t.Logf("%d connections: %d MiB, %d KiB each", n, grown>>20, grown>>10/n)
	if grown > 256<<20 {
		t.Errorf("resident memory grew by %d MiB", grown>>20)
	}
}
