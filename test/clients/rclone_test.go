package clients

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"firn/test/server"
)

// rcloneSteps is the job of rclone. It knows no tags, policies, locks, lifecycle or CORS.
func rcloneSteps(t *testing.T, b *bench) []step {
	b.need(t, "rclone")
	b.env = []string{
		"RCLONE_CONFIG=" + b.file(t, "rclone.conf", ""), "RCLONE_CONFIG_SITE_TYPE=s3", "RCLONE_CONFIG_SITE_PROVIDER=Other",
		"RCLONE_CONFIG_SITE_ACCESS_KEY_ID=" + server.AccessKey,
		"RCLONE_CONFIG_SITE_SECRET_ACCESS_KEY=" + server.SecretKey,
		"RCLONE_CONFIG_SITE_ENDPOINT=" + b.server.URL(), "RCLONE_CONFIG_SITE_REGION=us-east-1",
		"RCLONE_S3_UPLOAD_CUTOFF=6M", "RCLONE_S3_CHUNK_SIZE=5M", "RCLONE_S3_COPY_CUTOFF=6M",
		"RCLONE_TRANSFERS=8", "RCLONE_CHECKERS=16",
	}
	small, large := b.random(t, "small.bin", smallSize), b.random(t, "large.bin", largeSize)
	remote := "site:" + b.bucket("main")
	// noop runs a sync again and fails the test where it moves anything.
	noop := func(t *testing.T, args ...string) {
		t.Helper()
		_, stderr, err := b.try(t, append([]string{"-v"}, args...)...)
		if err != nil || !strings.Contains(stderr, "There was nothing to transfer") {
			t.Fatalf("the second sync is no no-op: %v\n%.2000s", err, stderr)
		}
	}
	return []step{
		{"make bucket", func(t *testing.T) {
			b.run(t, "mkdir", remote)
			contains(t, b.run(t, "lsd", "site:"), b.bucket("main"))
		}},
		{"small up and down", func(t *testing.T) {
			b.run(t, "copyto", small, remote+"/dir/small.bin")
			b.run(t, "copyto", remote+"/dir/small.bin", "small.down")
			same(t, small, b.path("small.down"))
		}},
		{"multipart up and down", func(t *testing.T) {
			b.run(t, "copyto", large, remote+"/large.bin")
			b.run(t, "copyto", remote+"/large.bin", "large.down")
			same(t, large, b.path("large.down"))
			b.run(t, "check", "--download", "--one-way", "--include", "/large.bin", b.dir, remote)
		}},
		{"stream of unknown length", func(t *testing.T) {
			// rcat gets a pipe, so that the client has to send parts without knowing the size.
			rcat := *b
			rcat.bin, rcat.args = "/bin/sh", []string{"-c", `cat "$1" | "$2" rcat "$3"`, "sh", large, b.bin}
			rcat.run(t, remote+"/stream.bin")
			b.run(t, "copyto", remote+"/stream.bin", "stream.down")
			same(t, large, b.path("stream.down"))
		}},
		{"sync a tree", func(t *testing.T) {
			b.run(t, "sync", b.trees.big, remote+"/tree")
			noop(t, "sync", b.trees.big, remote+"/tree")
			b.run(t, "sync", remote+"/tree", b.path("tree"))
			sameTree(t, b.trees.big, b.path("tree"))
			noop(t, "sync", remote+"/tree", b.path("tree"))
		}},
		{"sync removes what is gone", func(t *testing.T) {
			b.run(t, "sync", filepath.Join(b.trees.big, "net"), remote+"/tree")
			b.run(t, "check", "--download", filepath.Join(b.trees.big, "net"), remote+"/tree")
		}},
		{"range", func(t *testing.T) {
			out := b.run(t, "cat", "--offset", "6000001", "--count", "12345", remote+"/large.bin")
			sameBytes(t, []byte(read(t, large)[6000001:6000001+12345]), []byte(out))
		}},
		{"copy", func(t *testing.T) {
			b.run(t, "copyto", remote+"/dir/small.bin", remote+"/copy/small.bin")
			b.run(t, "copyto", remote+"/large.bin", remote+"/copy/large.bin") // by parts
			b.run(t, "moveto", remote+"/copy/small.bin", remote+"/copy/moved.bin")
			b.run(t, "copy", remote+"/copy", b.path("copied"))
			same(t, large, b.path("copied/large.bin"))
			same(t, small, b.path("copied/moved.bin"))
		}},
		{"presign", func(t *testing.T) {
			resp, body := request(t, http.MethodGet, strings.TrimSpace(b.run(t, "link", remote+"/dir/small.bin")), nil)
			wantStatus(t, resp, body, 200)
			sameBytes(t, []byte(read(t, small)), body)
		}},
		{"checksums", func(t *testing.T) {
			out := b.run(t, "md5sum", remote+"/dir")
			md5 := b.run(t, "md5sum", small)
			contains(t, out, strings.Fields(md5)[0])
		}},
		{"modification time", func(t *testing.T) {
			b.run(t, "touch", "--timestamp", "2001-02-03T04:05:06", remote+"/dir/small.bin")
			contains(t, b.run(t, "lsl", remote+"/dir"), "2001-02-03 04:05:06")
		}},
		{"delete all", func(t *testing.T) {
			b.run(t, "deletefile", remote+"/large.bin")
			b.run(t, "delete", remote+"/tree")
			b.run(t, "purge", remote)
			if out := b.run(t, "lsf", "site:"); strings.Contains(out, b.bucket("main")) {
				t.Fatalf("the bucket is still there: %s", out)
			}
		}},
	}
}
