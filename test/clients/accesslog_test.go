package clients

import (
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"firn/test/server"
)

// TestAccessLog has the AWS command line client switch a bucket's log on, and reads in the target what was delivered:
// while the site runs, and at its end.
func TestAccessLog(t *testing.T) {
	s := server.Start(t, "--access-log-interval", "1s")
	b := &bench{name: "aws-log", server: s, dir: t.TempDir(), rng: rand.New(rand.NewPCG(7, 7))}
	b.need(t, "/usr/bin/aws", "aws")
	b.env = []string{
		"AWS_ACCESS_KEY_ID=" + server.AccessKey, "AWS_SECRET_ACCESS_KEY=" + server.SecretKey, "AWS_DEFAULT_REGION=us-east-1",
		"AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null", "AWS_EC2_METADATA_DISABLED=true", "AWS_PAGER=",
	}
	b.args = []string{"--endpoint-url", s.URL(), "--output", "text"}
	photos, logs := b.bucket("photos"), b.bucket("logs")
	b.run(t, "s3api", "create-bucket", "--bucket", photos)
	b.run(t, "s3api", "create-bucket", "--bucket", logs)
	policy := b.file(t, "policy.json", `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"logging.s3.amazonaws.com"},
		"Action":"s3:PutObject","Resource":"arn:aws:s3:::`+logs+`/photos/*","Condition":{"ArnLike":{"aws:SourceArn":"arn:aws:s3:::`+photos+`"}}}]}`)
	on := `{"LoggingEnabled":{"TargetBucket":"` + logs + `","TargetPrefix":"photos/"}}`
	b.run(t, "s3api", "put-bucket-policy", "--bucket", logs, "--policy", "file://"+policy)
	b.run(t, "s3api", "put-bucket-logging", "--bucket", photos, "--bucket-logging-status", on)
	contains(t, b.run(t, "s3api", "get-bucket-logging", "--bucket", photos), logs)

	object := b.random(t, "object.bin", smallSize)
	b.run(t, "s3api", "put-object", "--bucket", photos, "--key", "a b", "--body", object)
	for deadline := time.Now().Add(20 * time.Second); ; {
		if strings.Contains(b.delivered(t, logs), "REST.PUT.OBJECT a%20b ") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("nothing was delivered; the site says\n%s", s.Tail(20))
		}
	}
	// What came last is delivered at the stop.
	b.run(t, "s3api", "delete-object", "--bucket", photos, "--key", "a b")
	s.MustStop(t)
	s.Start(t)
	b.args[1] = s.URL()
	if got := b.delivered(t, logs); strings.Count(got, "REST.DELETE.OBJECT a%20b ") != 1 || strings.Count(got, "REST.PUT.OBJECT a%20b ") != 1 {
		t.Errorf("after a stop:\n%s", got)
	}
}

// delivered returns the content of all log objects.
func (b *bench) delivered(t *testing.T, bucket string) string {
	t.Helper()
	dir := filepath.Join(b.dir, "got")
	b.run(t, "s3", "sync", "--quiet", "s3://"+bucket, dir)
	var all strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		all.Write(content)
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return all.String()
}
