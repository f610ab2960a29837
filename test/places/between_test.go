package places

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"firn/test/backends"
)

// A place that the configuration compresses and encrypts keeps a repository as any other, and what is in it is neither
// readable nor as large as what was stored.
func TestCompressedAndEncrypted(t *testing.T) {
	t.Parallel()
	s := backends.MinIO(t)
	raw := s3Place(s)
	p := configured(t, raw.url, []string{"compress: true", "encrypt: true"},
		"access_key = "+s.Access, "secret_key = "+s.Secret, "encryption_password = of the place")
	life(t, p)

	u := newUser(t, p)
	text := strings.Repeat("the quick brown fox\n", 20_000)
	path := filepath.Join(u.dir, "text")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	u.run(t, 0, "blob", "put", p.url, "notes/text", path)
	if got := u.run(t, 0, "blob", "get", p.url, "notes/text"); got != text {
		t.Errorf("%d bytes came back, want %d", len(got), len(text))
	}
	u.p = raw
	if stored := u.run(t, 0, "blob", "get", raw.url, "notes/text"); len(stored) > len(text)/10 || strings.Contains(stored, "brown fox") {
		t.Errorf("%d bytes are stored of %d, beginning with %q", len(stored), len(text), stored[:min(len(stored), 40)])
	}
	// The repository behind it is not seen without the configuration.
	says(t, u.run(t, 1, "snapshots"), "firn: ")
}

// A repository that was copied blob by blob to a place of another kind is one.
func TestCopyBetweenSchemes(t *testing.T) {
	t.Parallel()
	from, to := s3Place(backends.MinIO(t)), sftpPlace(t)
	u := newUser(t, from)
	u.run(t, 0, "repo", "init")
	u.write(t, 1)
	want := content(t, u.src())
	u.run(t, 0, "backup", "--tag", "first", "src")
	u.run(t, 0, "blob", "init", to.url)
	says(t, u.run(t, 0, "blob", "cp", from.url, to.url), "left 0, failed 0")
	says(t, u.run(t, 0, "blob", "cp", "--missing", from.url, to.url), "copied 0, ")
	var lists [2]string
	for i, p := range []place{from, to} {
		for doc := range strings.Lines(u.run(t, 0, "blob", "ls", "--json", p.url)) {
			b := parse[struct {
				Key  string
				Size int64
			}](t, doc)
			lists[i] += fmt.Sprintln(b.Key, b.Size)
		}
	}
	if lists[0] != lists[1] || lists[0] == "" {
		t.Errorf("there is\n%sand was copied\n%s", lists[0], lists[1])
	}
	u.p = to
	u.run(t, 0, "repo", "check", "--read-data")
	u.restored(t, "latest", want)
	// And goes on as one.
	u.write(t, 2)
	want = content(t, u.src())
	u.run(t, 0, "backup", "--tag", "second", "src")
	u.restored(t, "latest", want)
}
