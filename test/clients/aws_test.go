package clients

import (
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"testing"

	"firn/test/server"
)

// awsSteps is the job of the AWS command line client.
func awsSteps(t *testing.T, b *bench) []step {
	b.need(t, "/usr/bin/aws", "aws")
	config := b.file(t, "config/aws", "[default]\nregion = us-east-1\ns3 =\n"+
		"  multipart_threshold = 6MB\n  multipart_chunksize = 5MB\n  addressing_style = path\n")
	b.env = []string{
		"AWS_ACCESS_KEY_ID=" + server.AccessKey, "AWS_SECRET_ACCESS_KEY=" + server.SecretKey,
		"AWS_CONFIG_FILE=" + config, "AWS_SHARED_CREDENTIALS_FILE=/dev/null", "AWS_EC2_METADATA_DISABLED=true",
		"AWS_PAGER=",
	}
	b.args = []string{"--endpoint-url", b.server.URL(), "--output", "json"}
	small, large := b.random(t, "small.bin", smallSize), b.random(t, "large.bin", largeSize)
	bucket := b.bucket("main")
	url := "s3://" + bucket + "/"
	api := func(t *testing.T, args ...string) map[string]any {
		t.Helper()
		out := b.run(t, append([]string{"s3api"}, args...)...)
		m := map[string]any{}
		if strings.TrimSpace(out) != "" {
			if err := json.Unmarshal([]byte(out), &m); err != nil {
				t.Fatalf("%v: %v\n%s", args, err, out)
			}
		}
		return m
	}
	return []step{
		{"make bucket", func(t *testing.T) {
			b.run(t, "s3", "mb", "s3://"+bucket)
			contains(t, b.run(t, "s3", "ls"), bucket)
		}},
		{"small up and down", func(t *testing.T) {
			b.run(t, "s3", "cp", small, url+"dir/small.bin")
			b.run(t, "s3", "cp", url+"dir/small.bin", "small.down")
			same(t, small, b.path("small.down"))
			contains(t, b.run(t, "s3", "ls", url+"dir/"), "12345 small.bin")
		}},
		{"multipart up and down", func(t *testing.T) {
			b.run(t, "s3", "cp", large, url+"large.bin")
			b.run(t, "s3", "cp", url+"large.bin", "large.down")
			same(t, large, b.path("large.down"))
			head := api(t, "head-object", "--bucket", bucket, "--key", "large.bin")
			if etag, _ := head["ETag"].(string); !strings.HasSuffix(etag, `-4"`) {
				t.Fatalf("ETag %q is not that of 4 parts", etag)
			}
		}},
		{"multipart by hand", func(t *testing.T) {
			part := b.random(t, "part.bin", 5<<20)
			up := api(t, "create-multipart-upload", "--bucket", bucket, "--key", "hand.bin")
			id, _ := up["UploadId"].(string)
			common := []string{"--bucket", bucket, "--key", "hand.bin", "--upload-id", id}
			var parts []map[string]any
			for i, body := range []string{part, small} {
				number := []string{"1", "2"}[i]
				r := api(t, append([]string{"upload-part", "--part-number", number, "--body", body}, common...)...)
				parts = append(parts, map[string]any{"PartNumber": i + 1, "ETag": r["ETag"]})
			}
			contains(t, b.run(t, "s3api", "list-multipart-uploads", "--bucket", bucket), id)
			contains(t, b.run(t, append([]string{"s3api", "list-parts"}, common...)...), `"Size": 12345`)
			doc, err := json.Marshal(map[string]any{"Parts": parts})
			if err != nil {
				t.Fatal(err)
			}
			api(t, append([]string{"complete-multipart-upload", "--multipart-upload", string(doc)}, common...)...)
			api(t, "get-object", "--bucket", bucket, "--key", "hand.bin", b.path("hand.down"))
			joined := b.file(t, "hand.bin", read(t, part)+read(t, small))
			same(t, joined, b.path("hand.down"))
		}},
		{"sync a tree", func(t *testing.T) {
			b.run(t, "s3", "sync", "--only-show-errors", b.trees.small, url+"tree")
			if out := b.run(t, "s3", "sync", b.trees.small, url+"tree"); strings.TrimSpace(out) != "" {
				t.Fatalf("the second sync is no no-op: %.1000s", out)
			}
			b.run(t, "s3", "sync", "--only-show-errors", url+"tree", b.path("tree"))
			sameTree(t, b.trees.small, b.path("tree"))
			if out := b.run(t, "s3", "sync", url+"tree", b.path("tree")); strings.TrimSpace(out) != "" {
				t.Fatalf("the second sync down is no no-op: %.1000s", out)
			}
		}},
		{"range", func(t *testing.T) {
			api(t, "get-object", "--bucket", bucket, "--key", "large.bin", "--range", "bytes=6000001-6012345",
				b.path("range.down"))
			sameBytes(t, []byte(read(t, large)[6000001:6012346]), []byte(read(t, b.path("range.down"))))
		}},
		{"copy", func(t *testing.T) {
			b.run(t, "s3", "cp", url+"dir/small.bin", url+"copy/small.bin")
			b.run(t, "s3", "cp", url+"large.bin", url+"copy/large.bin") // by parts
			b.run(t, "s3", "mv", url+"copy/small.bin", url+"copy/moved.bin")
			b.run(t, "s3", "cp", "--recursive", url+"copy/", b.path("copied"))
			same(t, large, b.path("copied/large.bin"))
			same(t, small, b.path("copied/moved.bin"))
		}},
		{"presign", func(t *testing.T) {
			resp, body := request(t, http.MethodGet, strings.TrimSpace(b.run(t, "s3", "presign", url+"dir/small.bin")), nil)
			wantStatus(t, resp, body, 200)
			sameBytes(t, []byte(read(t, small)), body)
		}},
		{"tags", func(t *testing.T) {
			at := []string{"--bucket", bucket, "--key", "dir/small.bin"}
			api(t, append([]string{"put-object-tagging", "--tagging", "TagSet=[{Key=colour,Value=ice blue}]"}, at...)...)
			contains(t, b.run(t, append([]string{"s3api", "get-object-tagging"}, at...)...), "ice blue")
			api(t, append([]string{"delete-object-tagging"}, at...)...)
			if out := b.run(t, append([]string{"s3api", "get-object-tagging"}, at...)...); strings.Contains(out, "ice") {
				t.Fatalf("tags are still there: %s", out)
			}
		}},
		{"versioning", func(t *testing.T) { awsVersioning(t, b, api) }},
		{"object lock", func(t *testing.T) { awsLock(t, b, api, small) }},
		{"lifecycle", func(t *testing.T) {
			api(t, "put-bucket-lifecycle-configuration", "--bucket", bucket, "--lifecycle-configuration", lifecycleJSON)
			out := b.run(t, "s3api", "get-bucket-lifecycle-configuration", "--bucket", bucket)
			contains(t, out, `"Days": 30`, `"Prefix": "logs/"`, `"DaysAfterInitiation": 3`)
			api(t, "delete-bucket-lifecycle", "--bucket", bucket)
			b.refused(t, "NoSuchLifecycleConfiguration", "s3api", "get-bucket-lifecycle-configuration", "--bucket", bucket)
		}},
		{"policy", func(t *testing.T) {
			object := b.server.URL() + "/" + bucket + "/dir/small.bin"
			resp, body := request(t, http.MethodGet, object, nil)
			wantStatus(t, resp, body, 403)
			api(t, "put-bucket-policy", "--bucket", bucket, "--policy", policy(bucket))
			contains(t, b.run(t, "s3api", "get-bucket-policy", "--bucket", bucket), "s3:GetObject")
			resp, body = request(t, http.MethodGet, object, nil)
			wantStatus(t, resp, body, 200)
			sameBytes(t, []byte(read(t, small)), body)
			resp, body = request(t, http.MethodPut, object, []byte("x"))
			wantStatus(t, resp, body, 403)
			api(t, "delete-bucket-policy", "--bucket", bucket)
			resp, body = request(t, http.MethodGet, object, nil)
			wantStatus(t, resp, body, 403)
		}},
		{"CORS", func(t *testing.T) {
			api(t, "put-bucket-cors", "--bucket", bucket, "--cors-configuration", corsJSON)
			contains(t, b.run(t, "s3api", "get-bucket-cors", "--bucket", bucket), goodOrigin, `"MaxAgeSeconds": 600`)
			object := b.server.URL() + "/" + bucket + "/dir/small.bin"
			if !preflight(t, object, goodOrigin) || preflight(t, object, badOrigin) {
				t.Fatal("the preflight does not follow the rules")
			}
			api(t, "delete-bucket-cors", "--bucket", bucket)
			if preflight(t, object, goodOrigin) {
				t.Fatal("the rules hold after they were deleted")
			}
		}},
		{"delete all", func(t *testing.T) {
			b.refused(t, "BucketNotEmpty", "s3", "rb", "s3://"+bucket)
			b.run(t, "s3", "rm", "--only-show-errors", "--recursive", url)
			if out := b.run(t, "s3", "ls", "--recursive", url[:len(url)-1]+"/"); strings.TrimSpace(out) != "" {
				t.Fatalf("left: %.1000s", out)
			}
			b.run(t, "s3", "rb", "s3://"+bucket)
		}},
	}
}

func awsVersioning(t *testing.T, b *bench, api func(*testing.T, ...string) map[string]any) {
	bucket := b.bucket("versions")
	b.run(t, "s3", "mb", "s3://"+bucket)
	api(t, "put-bucket-versioning", "--bucket", bucket, "--versioning-configuration", "Status=Enabled")
	contains(t, b.run(t, "s3api", "get-bucket-versioning", "--bucket", bucket), "Enabled")
	first, second := b.file(t, "v1", "first version"), b.file(t, "v2", "second version")
	at := []string{"--bucket", bucket, "--key", "doc"}
	put := func(body string) string {
		id, _ := api(t, append([]string{"put-object", "--body", body}, at...)...)["VersionId"].(string)
		if id == "" {
			t.Fatal("no version id")
		}
		return id
	}
	one, two := put(first), put(second)
	contains(t, b.run(t, "s3api", "list-object-versions", "--bucket", bucket), one, two)
	api(t, append([]string{"get-object", "--version-id", one, b.path("v.down")}, at...)...)
	same(t, first, b.path("v.down"))
	// Restore the old version by copying it over the new one.
	api(t, append([]string{"copy-object", "--copy-source", bucket + "/doc?versionId=" + one}, at...)...)
	api(t, append([]string{"get-object", b.path("v.down")}, at...)...)
	same(t, first, b.path("v.down"))
	marker, _ := api(t, append([]string{"delete-object"}, at...)...)["VersionId"].(string)
	contains(t, b.run(t, "s3api", "list-object-versions", "--bucket", bucket), "DeleteMarkers", marker)
	b.refused(t, "NoSuchKey", append([]string{"s3api", "get-object", b.path("v.down")}, at...)...)
	api(t, append([]string{"delete-object", "--version-id", marker}, at...)...)
	api(t, append([]string{"get-object", b.path("v.down")}, at...)...)
	same(t, first, b.path("v.down"))
}

func awsLock(t *testing.T, b *bench, api func(*testing.T, ...string) map[string]any, small string) {
	bucket := b.bucket("lock")
	api(t, "create-bucket", "--bucket", bucket, "--object-lock-enabled-for-bucket")
	at := []string{"--bucket", bucket, "--key", "kept"}
	put := api(t, append([]string{
		"put-object", "--body", small, "--object-lock-mode", "GOVERNANCE",
		"--object-lock-retain-until-date", "2099-01-01T00:00:00Z",
	}, at...)...)
	id, _ := put["VersionId"].(string)
	version := append([]string{"--version-id", id}, at...)
	contains(t, b.run(t, append([]string{"s3api", "get-object-retention"}, version...)...), "GOVERNANCE", "2099-01-01")
	b.refused(t, "AccessDenied", append([]string{"s3api", "delete-object"}, version...)...)
	api(t, append([]string{"put-object-legal-hold", "--legal-hold", "Status=ON"}, version...)...)
	b.refused(t, "AccessDenied", append([]string{"s3api", "delete-object", "--bypass-governance-retention"}, version...)...)
	api(t, append([]string{"put-object-legal-hold", "--legal-hold", "Status=OFF"}, version...)...)
	api(t, append([]string{"delete-object", "--bypass-governance-retention"}, version...)...)
	b.run(t, "s3", "rb", "s3://"+bucket)
}

// read returns a file's content.
func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}
