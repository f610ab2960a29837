package clients

import (
	"encoding/base64"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"firn/test/server"
)

// TestEncryption has stock clients put and get objects with keys of their own (SSE-C), with a named key (SSE-KMS) and
// with the site's (SSE-S3), small and in parts, and finds none of it in the data directory. rclone sends keys of its own
// over TLS alone.
func TestEncryption(t *testing.T) {
	s := server.Start(t)
	if out, err := server.Run(t.Context(), t, "kms", "create", "clients-key", "--data", s.Data()); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	newBench := func(name string) *bench {
		b := &bench{name: name, server: s, dir: t.TempDir()}
		b.rng = rand.New(rand.NewPCG(11, uint64(len(name))))
		return b
	}
	const marker = "a line that must not be on the disk in the clear\n"
	key := strings.Repeat("k", 32)
	text := func(b *bench, n int) string { return b.file(t, "up", strings.Repeat(marker, n/len(marker))) }
	sizes := []int{20_000, 13 << 20}

	t.Run("aws", func(t *testing.T) {
		b := newBench("aws")
		awsSteps(t, b)
		url := "s3://" + b.bucket("sse") + "/k"
		b.run(t, "s3", "mb", "s3://"+b.bucket("sse"))
		raw := b.file(t, "key", key)
		for _, size := range sizes {
			up := text(b, size)
			for _, how := range [][]string{
				{"--sse-c", "AES256", "--sse-c-key", "fileb://" + raw}, {"--sse", "aws:kms", "--sse-kms-key-id", "clients-key"}, {"--sse", "AES256"},
			} {
				read := how
				if how[0] == "--sse" {
					read = nil
				}
				b.run(t, append([]string{"s3", "cp", up, url}, how...)...)
				b.run(t, append([]string{"s3", "cp", url, "down"}, read...)...)
				same(t, up, b.path("down"))
				if read != nil {
					b.refused(t, "400", "s3", "cp", url, "other")
				}
			}
		}
		contains(t, b.run(t, "s3api", "head-object", "--bucket", b.bucket("sse"), "--key", "k"), `"ServerSideEncryption": "AES256"`)
	})
	t.Run("rclone", func(t *testing.T) {
		b := newBench("rclone")
		rcloneSteps(t, b)
		remote := "site:" + b.bucket("sse")
		b.run(t, "mkdir", remote)
		for _, size := range sizes {
			up := text(b, size)
			for _, how := range [][]string{
				{"--s3-server-side-encryption", "aws:kms", "--s3-sse-kms-key-id", "clients-key"},
				{"--s3-server-side-encryption", "AES256"},
			} {
				b.run(t, append([]string{"copyto", up, remote + "/k"}, how...)...)
				if err := os.RemoveAll(b.path("down")); err != nil {
					t.Fatal(err)
				}
				b.run(t, "copyto", remote+"/k", "down")
				same(t, up, b.path("down"))
			}
		}
	})
	t.Run("mc", func(t *testing.T) {
		b := newBench("mc")
		mcSteps(t, b)
		bucket := "site/" + b.bucket("sse")
		b.run(t, "mb", bucket)
		for _, size := range sizes {
			up := text(b, size)
			for _, how := range [][]string{{"--enc-kms", bucket + "=clients-key"}, {"--enc-s3", bucket}} {
				b.run(t, append([]string{"cp", up, bucket + "/k"}, how...)...)
				b.run(t, "cp", bucket+"/k", b.path("down"))
				same(t, up, b.path("down"))
			}
		}
		own := bucket + "=" + base64.RawStdEncoding.EncodeToString([]byte(key))
		b.run(t, "cp", b.path("up"), bucket+"/c", "--enc-c", own)
		b.run(t, "cp", bucket+"/c", b.path("down"), "--enc-c", own)
		same(t, b.path("up"), b.path("down"))
	})
	err := filepath.WalkDir(s.Data(), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		p, err := os.ReadFile(path)
		if strings.Contains(string(p), marker) {
			t.Errorf("%s holds content in the clear", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
