package clients

import (
	"net/http"
	"regexp"
	"strings"
	"testing"

	"firn/test/server"
)

// mcSteps is the job of MinIO's client.
func mcSteps(t *testing.T, b *bench) []step {
	b.need(t, tool(t, "mc"))
	b.args = []string{"--config-dir", b.path("mc"), "--no-color", "--quiet"}
	b.env = []string{
		"MC_HOST_site=http://" + server.AccessKey + ":" + server.SecretKey + "@" + b.server.Addr(),
		"MC_DISABLE_PAGER=1",
	}
	// mc sends parts of 16 MiB.
	small, large := b.random(t, "small.bin", smallSize), b.random(t, "large.bin", 35<<20+4_321)
	bucket := "site/" + b.bucket("main")
	object := b.server.URL() + "/" + b.bucket("main") + "/dir/small.bin"
	versionID := regexp.MustCompile(`[^ ]+ v[0-9]+ PUT`)
	return []step{
		{"make bucket", func(t *testing.T) {
			b.run(t, "mb", bucket)
			contains(t, b.run(t, "ls", "site"), b.bucket("main"))
		}},
		{"small up and down", func(t *testing.T) {
			b.run(t, "cp", "--attr", "colour=blue", small, bucket+"/dir/small.bin")
			b.run(t, "cp", bucket+"/dir/small.bin", b.path("small.down"))
			same(t, small, b.path("small.down"))
			contains(t, b.run(t, "stat", bucket+"/dir/small.bin"), "small.bin", "blue")
		}},
		{"multipart up and down", func(t *testing.T) {
			b.run(t, "cp", large, bucket+"/large.bin")
			b.run(t, "cp", bucket+"/large.bin", b.path("large.down"))
			same(t, large, b.path("large.down"))
		}},
		{"stream of unknown length", func(t *testing.T) {
			pipe := *b
			pipe.bin, pipe.args = "/bin/sh", append([]string{"-c", `f="$1"; shift; cat "$f" | "$@"`, "sh", large, b.bin}, b.args...)
			pipe.run(t, "pipe", bucket+"/stream.bin")
			b.run(t, "cp", bucket+"/stream.bin", b.path("stream.down"))
			same(t, large, b.path("stream.down"))
		}},
		{"mirror a tree", func(t *testing.T) {
			b.run(t, "mirror", b.trees.big, bucket+"/tree")
			if out := b.run(t, "mirror", "--json", b.trees.big, bucket+"/tree"); strings.Contains(out, `"source"`) {
				t.Fatalf("the second mirror is no no-op: %.1000s", out)
			}
			b.run(t, "mirror", bucket+"/tree", b.path("tree"))
			sameTree(t, b.trees.big, b.path("tree"))
			if out := strings.TrimSpace(b.run(t, "diff", b.trees.big, bucket+"/tree")); out != "" {
				t.Fatalf("mc diff: %.1000s", out)
			}
		}},
		{"range", func(t *testing.T) {
			out := b.run(t, "cat", "--offset", "30000001", bucket+"/large.bin")
			sameBytes(t, []byte(read(t, large)[30000001:]), []byte(out))
		}},
		{"copy", func(t *testing.T) {
			b.run(t, "cp", bucket+"/dir/small.bin", bucket+"/copy/small.bin")
			b.run(t, "cp", bucket+"/large.bin", bucket+"/copy/large.bin")
			b.run(t, "mv", bucket+"/copy/small.bin", bucket+"/copy/moved.bin")
			b.run(t, "cp", "--recursive", bucket+"/copy/", b.path("copied")+"/")
			same(t, large, b.path("copied/large.bin"))
			same(t, small, b.path("copied/moved.bin"))
		}},
		{"presign", func(t *testing.T) {
			out := b.run(t, "share", "download", "--expire", "1h", bucket+"/dir/small.bin")
			_, signed, _ := strings.Cut(out, "Share: ")
			resp, body := request(t, http.MethodGet, strings.TrimSpace(signed), nil)
			wantStatus(t, resp, body, 200)
			sameBytes(t, []byte(read(t, small)), body)
		}},
		{"tags", func(t *testing.T) {
			b.run(t, "tag", "set", bucket+"/dir/small.bin", "colour=ice blue&depth=12")
			contains(t, b.run(t, "tag", "list", bucket+"/dir/small.bin"), "ice blue")
			b.run(t, "tag", "remove", bucket+"/dir/small.bin")
			b.run(t, "tag", "set", bucket, "site=shed")
			contains(t, b.run(t, "tag", "list", bucket), "shed")
		}},
		{"versioning", func(t *testing.T) {
			vb := "site/" + b.bucket("versions")
			b.run(t, "mb", "--with-versioning", vb)
			contains(t, b.run(t, "version", "info", vb), "enabled")
			first, second := b.file(t, "v1", "first version"), b.file(t, "v2", "second version")
			b.run(t, "cp", first, vb+"/doc")
			b.run(t, "cp", second, vb+"/doc")
			list := b.run(t, "ls", "--versions", vb+"/doc")
			found := versionID.FindAllString(list, -1)
			if len(found) != 2 {
				t.Fatalf("versions listed: %s", list)
			}
			old := strings.Fields(found[1])[0]
			sameBytes(t, []byte("first version"), []byte(b.run(t, "cat", "--version-id", old, vb+"/doc")))
			b.run(t, "rm", vb+"/doc")
			contains(t, b.run(t, "ls", "--versions", vb+"/doc"), "DEL")
			b.refused(t, "does not exist", "cat", vb+"/doc")
			b.run(t, "undo", vb+"/doc")
			sameBytes(t, []byte("second version"), []byte(b.run(t, "cat", vb+"/doc")))
			b.run(t, "cp", "--version-id", old, vb+"/doc", vb+"/doc")
			sameBytes(t, []byte("first version"), []byte(b.run(t, "cat", vb+"/doc")))
			b.run(t, "rb", "--force", vb)
		}},
		{"object lock", func(t *testing.T) {
			lb := "site/" + b.bucket("lock")
			b.run(t, "mb", "--with-lock", lb)
			b.run(t, "retention", "set", "--default", "governance", "1d", lb)
			contains(t, b.run(t, "retention", "info", "--default", lb), "1DAYS")
			b.run(t, "cp", small, lb+"/kept")
			contains(t, strings.ToUpper(b.run(t, "retention", "info", lb+"/kept")), "GOVERNANCE")
			b.run(t, "legalhold", "set", lb+"/kept")
			contains(t, b.run(t, "legalhold", "info", lb+"/kept"), "ON")
			b.run(t, "legalhold", "clear", lb+"/kept")
			b.run(t, "rm", "--recursive", "--force", "--versions", "--bypass", lb)
			b.run(t, "rb", lb)
		}},
		{"lifecycle", func(t *testing.T) {
			b.run(t, "ilm", "rule", "add", "--prefix", "logs/", "--expire-days", "30", bucket)
			contains(t, b.run(t, "ilm", "rule", "export", bucket), `"Days":30`, "logs/")
			b.run(t, "ilm", "rule", "rm", "--all", "--force", bucket)
		}},
		{"policy", func(t *testing.T) {
			b.run(t, "anonymous", "set", "download", bucket)
			contains(t, b.run(t, "anonymous", "get", bucket), "download")
			resp, body := request(t, http.MethodGet, object, nil)
			wantStatus(t, resp, body, 200)
			sameBytes(t, []byte(read(t, small)), body)
			b.run(t, "anonymous", "set", "private", bucket)
			resp, body = request(t, http.MethodGet, object, nil)
			wantStatus(t, resp, body, 403)
		}},
		{"CORS", func(t *testing.T) {
			b.run(t, "cors", "set", bucket, b.file(t, "cors.xml", corsXML))
			contains(t, b.run(t, "cors", "get", bucket), goodOrigin)
			if !preflight(t, object, goodOrigin) || preflight(t, object, badOrigin) {
				t.Fatal("the preflight does not follow the rules")
			}
			b.run(t, "cors", "remove", bucket)
		}},
		{"find and du", func(t *testing.T) {
			contains(t, b.run(t, "find", bucket, "--name", "large.bin"), "/large.bin", "/copy/large.bin")
			contains(t, b.run(t, "du", bucket+"/dir"), "12KiB")
		}},
		{"delete all", func(t *testing.T) {
			b.refused(t, "not empty", "rb", bucket)
			b.run(t, "rm", "--recursive", "--force", bucket)
			if out := strings.TrimSpace(b.run(t, "ls", "--recursive", bucket)); out != "" {
				t.Fatalf("left: %.1000s", out)
			}
			b.run(t, "rb", bucket)
		}},
	}
}
