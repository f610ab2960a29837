package s3api

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"
)

// TestClientJourney drives a client library through a whole life of objects.
func TestClientJourney(t *testing.T) {
	h := newHarness(t, Options{})
	c, ctx := h.client(), context.Background()
	if err := c.MakeBucket(ctx, "journey", minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	small := []byte("hello, firn")
	big := bytes.Repeat([]byte("0123456789abcdef"), 6<<20/16)
	for name, content := range map[string][]byte{"small": small, "dir/big": big, "empty": nil, "a b+c%/ü": small} {
		info, err := c.PutObject(ctx, "journey", name, bytes.NewReader(content), int64(len(content)), minio.PutObjectOptions{
			ContentType: "text/x-test", UserMetadata: map[string]string{"Colour": "blue"}, UserTags: map[string]string{"k": "v"},
			PartSize: 5 << 20,
		})
		if err != nil {
			t.Fatal(err)
		}
		o, err := c.GetObject(ctx, "journey", name, minio.GetObjectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(o)
		if err != nil || !bytes.Equal(got, content) {
			t.Fatalf("%s: %d bytes, %v", name, len(got), err)
		}
		st, err := c.StatObject(ctx, "journey", name, minio.StatObjectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if st.ETag != info.ETag || st.ContentType != "text/x-test" || st.UserMetadata["Colour"] != "blue" ||
			st.UserTagCount != 1 || st.Size != int64(len(content)) {
			t.Errorf("%s: %+v", name, st)
		}
	}
	var keys []string
	for o := range c.ListObjects(ctx, "journey", minio.ListObjectsOptions{Recursive: true}) {
		if o.Err != nil {
			t.Fatal(o.Err)
		}
		keys = append(keys, o.Key)
	}
	if got, want := strings.Join(keys, " "), "a b+c%/ü dir/big empty small"; got != want {
		t.Errorf("listed %q, want %q", got, want)
	}
	_, err := c.CopyObject(ctx, minio.CopyDestOptions{Bucket: "journey", Object: "copy"},
		minio.CopySrcOptions{Bucket: "journey", Object: "a b+c%/ü"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.ComposeObject(ctx, minio.CopyDestOptions{Bucket: "journey", Object: "composed"},
		minio.CopySrcOptions{Bucket: "journey", Object: "dir/big"}, minio.CopySrcOptions{Bucket: "journey", Object: "small"})
	if err != nil {
		t.Fatal(err)
	}
	o, err := c.GetObject(ctx, "journey", "composed", minio.GetObjectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(o); err != nil || !bytes.Equal(got, append(big[:len(big):len(big)], small...)) {
		t.Fatalf("composed: %d bytes, %v", len(got), err)
	}
	del := make(chan minio.ObjectInfo, 16)
	for o := range c.ListObjects(ctx, "journey", minio.ListObjectsOptions{Recursive: true}) {
		del <- o
	}
	close(del)
	for e := range c.RemoveObjects(ctx, "journey", del, minio.RemoveObjectsOptions{}) {
		t.Error(e)
	}
	if err := c.RemoveBucket(ctx, "journey"); err != nil {
		t.Fatal(err)
	}
}
