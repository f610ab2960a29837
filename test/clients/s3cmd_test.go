package clients

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"firn/test/server"
)

// s3cmdSteps is the job of s3cmd. Versions are not its business.
func s3cmdSteps(t *testing.T, b *bench) []step {
	b.need(t, "s3cmd")
	config := b.file(t, "s3cmd.conf", strings.Join([]string{
		"[default]", "access_key = " + server.AccessKey, "secret_key = " + server.SecretKey,
		"host_base = " + b.server.Addr(), "host_bucket = " + b.server.Addr(), "use_https = False",
		"bucket_location = us-east-1", "multipart_chunk_size_mb = 5", "progress_meter = False", "",
	}, "\n"))
	b.args = []string{"-c", config}
	small, large := b.random(t, "small.bin", smallSize), b.random(t, "large.bin", largeSize)
	bucket := b.bucket("main")
	url := "s3://" + bucket + "/"
	// transfers counts the files a sync moved.
	transfers := func(t *testing.T, args ...string) int {
		t.Helper()
		out := b.run(t, args...)
		return strings.Count(out, "upload: ") + strings.Count(out, "download: ")
	}
	return []step{
		{"make bucket", func(t *testing.T) {
			b.run(t, "mb", "s3://"+bucket)
			contains(t, b.run(t, "ls"), "s3://"+bucket)
		}},
		{"small up and down", func(t *testing.T) {
			b.run(t, "put", "--add-header=x-amz-meta-colour: blue", small, url+"dir/small.bin")
			b.run(t, "get", url+"dir/small.bin", "small.down")
			same(t, small, b.path("small.down"))
			contains(t, b.run(t, "info", url+"dir/small.bin"), "12345", "x-amz-meta-colour: blue")
		}},
		{"multipart up and down", func(t *testing.T) {
			b.run(t, "put", large, url+"large.bin")
			b.run(t, "get", url+"large.bin", "large.down")
			same(t, large, b.path("large.down"))
		}},
		{"sync a tree", func(t *testing.T) {
			tree, down := filepath.Join(b.trees.small)+"/", b.path("tree")+"/"
			b.file(t, "tree/keep-me", "") // s3cmd wants the directory to exist
			b.run(t, "sync", tree, url+"tree/")
			if n := transfers(t, "sync", tree, url+"tree/"); n != 0 {
				t.Fatalf("the second sync moved %d files", n)
			}
			b.run(t, "sync", "--delete-removed", url+"tree/", down)
			sameTree(t, b.trees.small, b.path("tree"))
			if n := transfers(t, "sync", url+"tree/", down); n != 0 {
				t.Fatalf("the second sync down moved %d files", n)
			}
		}},
		{"range: a download goes on", func(t *testing.T) {
			b.file(t, "half.down", read(t, large)[:6_000_001])
			b.run(t, "get", "--continue", url+"large.bin", "half.down")
			same(t, large, b.path("half.down"))
		}},
		{"copy", func(t *testing.T) {
			b.run(t, "cp", url+"dir/small.bin", url+"copy/small.bin")
			b.run(t, "cp", url+"large.bin", url+"copy/large.bin") // by parts
			b.run(t, "mv", url+"copy/small.bin", url+"copy/moved.bin")
			b.run(t, "get", url+"copy/large.bin", "copied.large")
			b.run(t, "get", url+"copy/moved.bin", "copied.small")
			same(t, large, b.path("copied.large"))
			same(t, small, b.path("copied.small"))
		}},
		{"presign: Signature Version 2 is refused", func(t *testing.T) {
			// s3cmd signs URLs by Signature Version 2 only, which AWS no longer takes for new buckets.
			signed := strings.TrimSpace(b.run(t, "signurl", url+"dir/small.bin", "+60"))
			resp, body := request(t, http.MethodGet, signed, nil)
			wantStatus(t, resp, body, 400)
			contains(t, string(body), "AWS4-HMAC-SHA256")
		}},
		{"lifecycle", func(t *testing.T) {
			b.run(t, "setlifecycle", b.file(t, "lifecycle.xml", lifecycleXML), "s3://"+bucket)
			contains(t, b.run(t, "getlifecycle", "s3://"+bucket), "<Days>30</Days>", "logs/")
			b.run(t, "dellifecycle", "s3://"+bucket)
			b.refused(t, "NoSuchLifecycleConfiguration", "getlifecycle", "s3://"+bucket)
		}},
		{"policy", func(t *testing.T) {
			object := b.server.URL() + "/" + bucket + "/dir/small.bin"
			b.run(t, "setpolicy", b.file(t, "policy.json", policy(bucket)), "s3://"+bucket)
			resp, body := request(t, http.MethodGet, object, nil)
			wantStatus(t, resp, body, 200)
			sameBytes(t, []byte(read(t, small)), body)
			b.run(t, "delpolicy", "s3://"+bucket)
			resp, body = request(t, http.MethodGet, object, nil)
			wantStatus(t, resp, body, 403)
		}},
		{"CORS", func(t *testing.T) {
			object := b.server.URL() + "/" + bucket + "/dir/small.bin"
			b.run(t, "setcors", b.file(t, "cors.xml", corsXML), "s3://"+bucket)
			contains(t, b.run(t, "info", "s3://"+bucket), goodOrigin)
			if !preflight(t, object, goodOrigin) || preflight(t, object, badOrigin) {
				t.Fatal("the preflight does not follow the rules")
			}
			b.run(t, "delcors", "s3://"+bucket)
			if preflight(t, object, goodOrigin) {
				t.Fatal("the rules hold after they were deleted")
			}
		}},
		{"multipart uploads are listed and aborted", func(t *testing.T) {
			if out := b.run(t, "multipart", "s3://"+bucket); strings.Contains(out, "large.bin") {
				t.Fatalf("uploads left: %s", out)
			}
		}},
		{"delete all", func(t *testing.T) {
			b.run(t, "del", "--recursive", "--force", url)
			if out := b.run(t, "ls", "--recursive", url); strings.TrimSpace(out) != "" {
				t.Fatalf("left: %.1000s", out)
			}
			b.run(t, "rb", "s3://"+bucket)
		}},
	}
}
