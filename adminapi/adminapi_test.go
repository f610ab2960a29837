package adminapi

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"firn"
	"firn/auth"
)

const token = "0123456789abcdef0123456789abcdef"

// fakeSite is a site with a fixed journal and one problem.
type fakeSite struct {
	notReady error
	entries  []JournalEntry
	more     chan JournalEntry // for followers
	checked  CheckOptions
	checkErr error
}

func (s *fakeSite) Ready() error { return s.notReady }

func (s *fakeSite) Status(context.Context) (Status, error) {
	return Status{Version: "v1", Buckets: []BucketStatus{}}, nil
}

func (s *fakeSite) Journal(ctx context.Context, from uint64, follow bool, fn func(JournalEntry) error) error {
	if from > 100 {
		return firn.NewError(firn.NotFound, "entries were trimmed")
	}
	for _, e := range s.entries {
		if e.Seq >= from {
			if err := fn(e); err != nil {
				return err
			}
		}
	}
	for follow {
		select {
		case e := <-s.more:
			if err := fn(e); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (s *fakeSite) Check(_ context.Context, o CheckOptions, found func(Problem) error) (CheckSummary, error) {
	s.checked = o
	if err := found(Problem{Kind: "missing", Bucket: "b", Key: "k", Detail: "gone"}); err != nil {
		return CheckSummary{}, err
	}
	return CheckSummary{Versions: 3, Problems: 1}, s.checkErr
}

// fakeUsers keeps users in memory, as strict as auth.Users about what exists.
type fakeUsers map[string]*auth.User

func (f fakeUsers) List() []auth.User {
	out := []auth.User{}
	for _, u := range f {
		out = append(out, *u)
	}
	return out
}

func (f fakeUsers) Get(name string) (auth.User, error) {
	if f[name] == nil {
		return auth.User{}, auth.ErrNoSuchUser
	}
	return *f[name], nil
}

func (f fakeUsers) Add(_ context.Context, name string, c auth.Credentials, g []auth.Grant) (auth.User, auth.Credentials, error) {
	if f[name] != nil {
		return auth.User{}, auth.Credentials{}, auth.ErrUserExists
	}
	if c == (auth.Credentials{}) {
		c = auth.Credentials{AccessKey: "made", SecretKey: "made-secret"}
	}
	f[name] = &auth.User{Name: name, Grants: g, Keys: []auth.KeyInfo{{AccessKey: c.AccessKey}}}
	return *f[name], c, nil
}

func (f fakeUsers) Remove(_ context.Context, name string) error {
	if f[name] == nil {
		return auth.ErrNoSuchUser
	}
	delete(f, name)
	return nil
}

func (f fakeUsers) SetGrants(_ context.Context, name string, g []auth.Grant) error {
	if f[name] == nil {
		return auth.ErrNoSuchUser
	}
	f[name].Grants = g
	return nil
}

func (f fakeUsers) SetLimits(_ context.Context, name string, l auth.Limits) error {
	if f[name] == nil {
		return auth.ErrNoSuchUser
	}
	f[name].Limits = l
	return nil
}

func (f fakeUsers) AddKey(_ context.Context, user string, c auth.Credentials, _ auth.KeyOptions) (auth.Credentials, error) {
	if f[user] == nil {
		return c, auth.ErrNoSuchUser
	}
	if c == (auth.Credentials{}) {
		c = auth.Credentials{AccessKey: "second", SecretKey: "second-secret"}
	}
	f[user].Keys = append(f[user].Keys, auth.KeyInfo{AccessKey: c.AccessKey})
	return c, nil
}

func (f fakeUsers) RotateKey(_ context.Context, key string, _ time.Duration) (auth.Credentials, error) {
	if key != "made" {
		return auth.Credentials{}, auth.ErrNoSuchKey
	}
	return auth.Credentials{AccessKey: "rotated", SecretKey: "rotated-secret"}, nil
}

func (f fakeUsers) RemoveKey(_ context.Context, key string) error {
	if key != "made" {
		return auth.ErrNoSuchKey
	}
	return nil
}

func newHandler(site Site, users Users) *Handler {
	metrics := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "metrics\n") })
	return New(site, users, metrics, token, slog.New(slog.DiscardHandler))
}

func request(method, path, body, bearer string) *http.Request {
	r := httptest.NewRequest(method, "http://127.0.0.1:9001"+path, strings.NewReader(body))
	r.RemoteAddr = "127.0.0.1:5000"
	if bearer != "" {
		r.Header.Set("Authorization", "Bearer "+bearer)
	}
	return r
}

func do(h http.Handler, r *http.Request) (int, string) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func TestWhoMayAskWhat(t *testing.T) {
	h := newHandler(&fakeSite{}, fakeUsers{})
	tests := []struct {
		name, method, path, remote, host, token string
		want                                    int
	}{
		{"a stranger, health", "GET", "/healthz", "10.0.0.9:1", "site", "", 200},
		{"a stranger, readiness", "GET", "/readyz", "10.0.0.9:1", "site", "", 200},
		{"a stranger, metrics", "GET", "/metrics", "10.0.0.9:1", "10.0.0.1:9001", "", 401},
		{"a scraper with the token", "GET", "/metrics", "10.0.0.9:1", "site:9001", token, 200},
		{"this machine, metrics", "GET", "/metrics", "127.0.0.1:1", "127.0.0.1:9001", "", 200},
		{"this machine by name", "GET", "/metrics", "[::1]:1", "localhost:9001", "", 200},
		{"this machine by IPv6", "GET", "/metrics", "[::1]:1", "[::1]:9001", "", 200},
		{"a web page that rebound its name", "GET", "/metrics", "127.0.0.1:1", "evil.example:9001", "", 401},
		{"this machine, profile", "GET", "/debug/pprof/", "127.0.0.1:1", "127.0.0.1:9001", "", 401},
		{"the token, profile", "GET", "/debug/pprof/", "127.0.0.1:1", "127.0.0.1:9001", token, 200},
		{"the token, heap", "GET", "/debug/pprof/heap", "127.0.0.1:1", "127.0.0.1:9001", token, 200},
		{"the token, command line", "GET", "/debug/pprof/cmdline", "127.0.0.1:1", "127.0.0.1:9001", token, 404},
		{"this machine, status", "GET", "/admin/v1/status", "127.0.0.1:1", "127.0.0.1:9001", "", 401},
		{"this machine, users", "GET", "/admin/v1/users", "127.0.0.1:1", "127.0.0.1:9001", "", 401},
		{"this machine, journal", "GET", "/admin/v1/journal", "127.0.0.1:1", "127.0.0.1:9001", "", 401},
		{"this machine, check", "POST", "/admin/v1/check", "127.0.0.1:1", "127.0.0.1:9001", "", 401},
		{"a wrong token", "GET", "/admin/v1/users", "127.0.0.1:1", "127.0.0.1:9001", token + "0", 401},
		{"a token cut short", "GET", "/admin/v1/users", "127.0.0.1:1", "127.0.0.1:9001", token[:31], 401},
		{"the token, users", "GET", "/admin/v1/users", "10.0.0.9:1", "site", token, 200},
		{"no such thing", "GET", "/admin/v1/nothing", "127.0.0.1:1", "127.0.0.1:9001", token, 404},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := request(tt.method, tt.path, "", tt.token)
			r.RemoteAddr, r.Host = tt.remote, tt.host
			if got, body := do(h, r); got != tt.want {
				t.Errorf("status %d, want %d: %s", got, tt.want, body)
			}
		})
	}
}

func TestEmptyTokenOpensNothing(t *testing.T) {
	r := request("GET", "/admin/v1/users", "", "")
	r.Header.Set("Authorization", "Bearer ")
	if got, _ := do(newHandler(&fakeSite{}, fakeUsers{}), r); got != 401 {
		t.Errorf("status %d", got)
	}
}

func TestReady(t *testing.T) {
	site := &fakeSite{notReady: firn.NewError(firn.NoSpace, "the disk is nearly full")}
	code, body := do(newHandler(site, fakeUsers{}), request("GET", "/readyz", "", ""))
	if code != 503 || body != "the disk is nearly full\n" {
		t.Errorf("%d %q", code, body)
	}
	code, body = do(newHandler(site, fakeUsers{}), request("GET", "/admin/v1/status", "", token))
	var s Status
	if err := json.Unmarshal([]byte(body), &s); err != nil || code != 200 || s.Ready || s.NotReady == "" {
		t.Errorf("%d %s", code, body)
	}
}

func TestUsers(t *testing.T) {
	h := newHandler(&fakeSite{}, fakeUsers{})
	steps := []struct {
		method, path, body string
		status             int
		want               string // part of the answer
	}{
		{"GET", "/admin/v1/users", "", 200, "[]"},
		{"POST", "/admin/v1/users", `{"name":"ada","grants":[{"role":"read","bucket":"b"}]}`, 200, `"secret_key":"made-secret"`},
		{"POST", "/admin/v1/users", `{"name":"ada"}`, 409, `"kind":"already exists"`},
		{"POST", "/admin/v1/users", `{"name":"bob","access_key":"x"}`, 400, "together"},
		{"POST", "/admin/v1/users", `{"name":"bob","secret":"x"}`, 400, `unknown field`},
		{"POST", "/admin/v1/users", `{"name":"bob"}{}`, 400, "more than one"},
		{"POST", "/admin/v1/users", `{"name":"` + strings.Repeat("x", MaxBody) + `"}`, 400, "too large"},
		{"GET", "/admin/v1/users", "", 200, `"name":"ada"`},
		{"PUT", "/admin/v1/users/ada/grants", `{"grants":[{"role":"owner"}]}`, 200, `"role":"owner"`},
		{"PUT", "/admin/v1/users/eve/grants", `{"grants":[]}`, 404, "does not exist"},
		{"POST", "/admin/v1/users/ada/keys", `{}`, 200, `"secret_key":"second-secret"`},
		{"POST", "/admin/v1/users/eve/keys", `{}`, 404, "does not exist"},
		{"DELETE", "/admin/v1/keys/made", "", 204, ""},
		{"DELETE", "/admin/v1/keys/none", "", 404, "does not exist"},
		{"DELETE", "/admin/v1/users/ada", "", 204, ""},
		{"DELETE", "/admin/v1/users/ada", "", 404, "does not exist"},
	}
	for _, s := range steps {
		code, body := do(h, request(s.method, s.path, s.body, token))
		if code != s.status || !strings.Contains(body, s.want) {
			t.Errorf("%s %s %.80s: %d %s, want %d %s", s.method, s.path, s.body, code, body, s.status, s.want)
		}
	}
}

func TestJournal(t *testing.T) {
	site := &fakeSite{entries: []JournalEntry{{Seq: 1, Op: "create-bucket", Bucket: "b"}, {Seq: 2, Op: "put", Bucket: "b", Key: "<k>"}}}
	h := newHandler(site, fakeUsers{})
	code, body := do(h, request("GET", "/admin/v1/journal", "", token))
	if n := strings.Count(body, "\n"); code != 200 || n != 2 {
		t.Errorf("%d, %d lines: %s", code, n, body)
	}
	_, body = do(h, request("GET", "/admin/v1/journal?from=2", "", token))
	var e JournalEntry
	if err := json.Unmarshal([]byte(body), &e); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(site.entries[1], e); diff != "" {
		t.Error(diff)
	}
	if code, body = do(h, request("GET", "/admin/v1/journal?from=x", "", token)); code != 400 {
		t.Errorf("%d %s", code, body)
	}
	if code, body = do(h, request("GET", "/admin/v1/journal?from=101", "", token)); code != 404 || !strings.Contains(body, "trimmed") {
		t.Errorf("%d %s", code, body)
	}
}

// TestFollow holds that a follower gets each entry when it comes, over a real connection, and that the handler
// ends when the follower goes.
func TestFollow(t *testing.T) {
	site := &fakeSite{entries: []JournalEntry{{Seq: 1}}, more: make(chan JournalEntry)}
	s := httptest.NewServer(newHandler(site, fakeUsers{}))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, "GET", s.URL+"/admin/v1/journal?follow=true", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(resp.Body)
	for seq := uint64(1); seq <= 3; seq++ {
		if seq > 1 {
			site.more <- JournalEntry{Seq: seq}
		}
		var e JournalEntry
		if err := d.Decode(&e); err != nil || e.Seq != seq {
			t.Fatalf("got %+v, %v, want entry %d", e, err, seq)
		}
	}
	cancel()
	if err := resp.Body.Close(); err != nil {
		t.Fatal(err)
	}
	s.Close() // waits for the handler
}

// deadlines records what a handler does to the deadlines of its connection.
type deadlines struct {
	*httptest.ResponseRecorder
	read  []time.Time
	write []time.Time
}

func (d *deadlines) SetReadDeadline(t time.Time) error  { d.read = append(d.read, t); return nil }
func (d *deadlines) SetWriteDeadline(t time.Time) error { d.write = append(d.write, t); return nil }

// TestStreamsOutliveTheServersTimeouts holds that a stream lifts the bound on reading the request, which would end
// it, and that it bounds each write but not the silence between two.
func TestStreamsOutliveTheServersTimeouts(t *testing.T) {
	site := &fakeSite{entries: []JournalEntry{{Seq: 1}}}
	for _, r := range []*http.Request{
		request("GET", "/admin/v1/journal?follow=true", "", token), request("POST", "/admin/v1/check", "{}", token),
	} {
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // following ends after what is there
		w := &deadlines{ResponseRecorder: httptest.NewRecorder()}
		newHandler(site, fakeUsers{}).ServeHTTP(w, r.WithContext(ctx))
		if len(w.read) != 1 || !w.read[0].IsZero() {
			t.Errorf("%s: read deadlines %v, want it lifted once", r.URL.Path, w.read)
		}
		if len(w.write) < 3 || !w.write[0].IsZero() || w.write[1].IsZero() || !w.write[2].IsZero() {
			t.Errorf("%s: write deadlines %v, want none, one for the line, none", r.URL.Path, w.write)
		}
	}
}

func TestCheck(t *testing.T) {
	site := &fakeSite{}
	code, body := do(newHandler(site, fakeUsers{}), request("POST", "/admin/v1/check", `{"read":true}`, token))
	want := `{"problem":{"kind":"missing","bucket":"b","key":"k","detail":"gone"}}
{"summary":{"buckets":0,"versions":3,"uploads":0,"blobs":0,"tier_blobs":0,"bytes":0,"problems":1,"repaired":0}}
`
	if code != 200 || !site.checked.Read || site.checked.Repair {
		t.Errorf("%d, options %+v", code, site.checked)
	}
	if diff := cmp.Diff(want, body); diff != "" {
		t.Error(diff)
	}
	site.checkErr = errors.New("broken off")
	_, body = do(newHandler(site, fakeUsers{}), request("POST", "/admin/v1/check", `{}`, token))
	if !strings.HasSuffix(body, `{"error":{"kind":"internal error","message":"broken off"}}`+"\n") {
		t.Errorf("a check that failed ends with %s", body)
	}
	if code, _ = do(newHandler(site, fakeUsers{}), request("POST", "/admin/v1/check", `{"deep":1}`, token)); code != 400 {
		t.Errorf("unknown option: %d", code)
	}
}

func TestMethodsAreChecked(t *testing.T) {
	h := newHandler(&fakeSite{}, fakeUsers{})
	for _, path := range []string{"/admin/v1/check", "/admin/v1/users/ada"} {
		if code, _ := do(h, request("GET", path, "", token)); code != http.StatusMethodNotAllowed {
			t.Errorf("GET %s: %d", path, code)
		}
	}
}
