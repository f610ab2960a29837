package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestBlobCommands(t *testing.T) {
	s := newShell(t)
	place := "file:" + filepath.Join(t.TempDir(), "place")
	if r := s.run("blob", "ls", place); r.code != exitFailed || !strings.Contains(r.err, "firn blob init") {
		t.Errorf("a place that is not there: %+v", r)
	}
	s.ok("blob", "init", place)
	s.ok("blob", "init", place)
	write(t, "small", []byte("content"))
	write(t, "large", bytes.Repeat([]byte("0123456789"), 100_000))
	s.ok("blob", "put", place, "dir/a b", "small")
	s.ok("blob", "put", place, "dir/large", "large")
	s.ok("blob", "put", place, "other", "-")
	if r := s.run("blob", "put", "--create", place, "dir/a b", "large"); r.code != exitFailed || !strings.Contains(r.err, "create dir/a b in file:") {
		t.Errorf("create of what is there: %+v", r)
	}
	if got := s.ok("blob", "get", place, "dir/a b"); got != "content" {
		t.Errorf("get: %q", got)
	}
	if got := s.ok("blob", "get", "--offset", "3", "--length", "2", place, "dir/a b"); got != "te" {
		t.Errorf("get a range: %q", got)
	}
	s.ok("blob", "get", place, "dir/large", "copy")
	a, _ := os.ReadFile("large")
	if b, err := os.ReadFile("copy"); err != nil || !bytes.Equal(a, b) {
		t.Errorf("get to a file: %d bytes, %v", len(b), err)
	}
	if out := s.ok("blob", "ls", "--sum", place); strings.Count(out, "\n") != 4 || !strings.Contains(out, "1000007 in 3 blobs") {
		t.Errorf("ls: %s", out)
	}
	var doc struct {
		Key  string
		Size int64
	}
	if err := json.Unmarshal([]byte(s.ok("--json", "blob", "ls", place, "dir/a")), &doc); err != nil || doc.Key != "dir/a b" || doc.Size != 7 {
		t.Errorf("ls --json: %+v, %v", doc, err)
	}
	if r := s.run("blob", "get", place, "none"); r.code != exitFailed || !strings.Contains(r.err, "not found") {
		t.Errorf("get what is not there: %+v", r)
	}
	if r := s.run("blob", "rm", "-r", place, ""); r.code != exitUsage || !strings.Contains(r.err, "--force") {
		t.Errorf("rm of all: %+v", r)
	}
	if out := s.ok("blob", "rm", "-r", "--dry-run", place, ""); strings.Count(out, "\n") != 3 {
		t.Errorf("rm --dry-run: %s", out)
	}
	s.ok("blob", "rm", place, "other", "none")
	if out := s.ok("blob", "rm", "-r", place, "dir/"); out != "removed 2 blobs\n" {
		t.Errorf("rm -r: %s", out)
	}
	if out := s.ok("blob", "ls", place); out != "" {
		t.Errorf("what is left: %s", out)
	}
}

func TestBlobCheck(t *testing.T) {
	s := newShell(t)
	for _, place := range []string{"file:" + t.TempDir(), "mem:"} {
		s.ok("blob", "init", place)
		if out := s.ok("blob", "check", place); !strings.Contains(out, " works\n") || !strings.Contains(out, "can create") || !strings.Contains(out, "clock") {
			t.Errorf("%s", out)
		}
		var doc blobCheck
		if err := json.Unmarshal([]byte(s.ok("--json", "blob", "check", place)), &doc); err != nil || !doc.Abilities["create"] || doc.Clock == nil {
			t.Errorf("%+v, %v", doc, err)
		}
		if out := s.ok("blob", "ls", place); out != "" {
			t.Errorf("check left %s", out)
		}
	}
}

func TestBlobURLs(t *testing.T) {
	s := newShell(t)
	dir := t.TempDir()
	r := s.run("blob", "ls", "sftp://user:hush@host/x")
	if r.code != exitUsage || strings.Contains(r.out+r.err, "hush") || !strings.Contains(r.err, "docs/places.md") {
		t.Errorf("a password in a URL: %+v", r)
	}
	write(t, "firn.yaml", []byte("places:\n  disk:\n    url: file:"+dir+"\n    credentials: creds\n    encrypt: true\n"))
	if r := s.run("blob", "ls", "place:disk"); r.code != exitFailed || !strings.Contains(r.err, "creds") {
		t.Errorf("no credentials file: %+v", r)
	}
	write(t, "creds", []byte("encryption_password = hush hush\n"))
	write(t, "f", []byte("plain text"))
	s.ok("blob", "init", "place:disk")
	s.ok("blob", "put", "place:disk/below", "key", "f")
	if got := s.ok("blob", "get", "place:disk", "below/key"); got != "plain text" {
		t.Errorf("%q", got)
	}
	if raw, err := os.ReadFile(filepath.Join(dir, "below/key")); err != nil || bytes.Contains(raw, []byte("plain")) {
		t.Errorf("on the disk is %q, %v", raw, err)
	}
	if r := s.run("blob", "ls", "place:tape"); r.code != exitFailed || !strings.Contains(r.err, "the configuration has disk") {
		t.Errorf("an unknown place: %+v", r)
	}
}

func TestBlobCopy(t *testing.T) {
	s := newShell(t)
	from, to := "file:"+t.TempDir(), "file:"+t.TempDir()
	s.ok("blob", "init", from)
	s.ok("blob", "init", to)
	for i, key := range []string{"packs/a", "packs/b", "packs/c/d", "index"} {
		write(t, "f", bytes.Repeat([]byte{byte(i)}, i*300_000))
		s.ok("blob", "put", from, key, "f")
	}
	if out := s.ok("blob", "cp", "--dry-run", from, to); strings.Count(out, "would copy ") != 5 || s.ok("blob", "ls", to) != "" {
		t.Errorf("cp --dry-run: %s", out)
	}
	if out := s.ok("blob", "cp", "--prefix", "packs/", "--to-prefix", "old/", from, to); !strings.HasPrefix(out, "copied 3,") {
		t.Errorf("cp: %s", out)
	}
	if out := s.ok("blob", "cp", from, to); !strings.HasPrefix(out, "copied 4,") {
		t.Errorf("cp: %s", out)
	}
	if out := s.ok("blob", "cp", "--missing", from, to); !strings.HasPrefix(out, "copied 0,") || !strings.Contains(out, "left 4, failed 0") {
		t.Errorf("cp --missing: %s", out)
	}
	if out := s.ok("blob", "ls", "--sum", to); !strings.Contains(out, "in 7 blobs") || !strings.Contains(out, " old/c/d\n") {
		t.Errorf("ls: %s", out)
	}
	if s.ok("blob", "get", from, "packs/c/d") != s.ok("blob", "get", to, "old/c/d") {
		t.Error("the copy is another")
	}
	// One that cannot be copied does not stop the rest.
	write(t, "f", []byte("x"))
	s.ok("blob", "rm", "-r", "-f", to, "")
	s.ok("blob", "put", to, "packs/c", "f")
	r := s.run("--json", "blob", "cp", from, to)
	if r.code != exitFailed || strings.Count(r.out, `"status":"copied"`) != 3 || strings.Count(r.out, `"status":"failed"`) != 1 ||
		!strings.Contains(r.err, "1 of 4 blobs were not copied") {
		t.Errorf("cp with one failure: %+v", r)
	}
	// Interrupted.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var errs strings.Builder
	if code := s.runContext(ctx, io.Discard, &errs, "blob", "cp", from, to); code != exitFailed {
		t.Errorf("interrupted: %d, %s", code, &errs)
	}
}
