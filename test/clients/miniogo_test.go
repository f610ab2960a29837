package clients

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/cors"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/lifecycle"
	"github.com/minio/minio-go/v7/pkg/tags"

	"firn/test/server"
)

// minioGo is the job of the Go client library, by trailing checksums and signed chunks over plain HTTP.
type minioGo struct {
	b      *bench
	c      *minio.Client
	bucket string
	small  []byte
	large  []byte
}

func minioGoSteps(t *testing.T, b *bench) []step {
	c, err := minio.New(b.server.Addr(), &minio.Options{
		Creds: credentials.NewStaticV4(server.AccessKey, server.SecretKey, ""), Region: "us-east-1",
		TrailingHeaders: true, MaxRetries: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	m := &minioGo{b: b, c: c, bucket: b.bucket("main")}
	m.small = []byte(read(t, b.random(t, "small.bin", smallSize)))
	m.large = []byte(read(t, b.random(t, "large.bin", largeSize)))
	return []step{
		{"make bucket", func(t *testing.T) { must(t, c.MakeBucket(t.Context(), m.bucket, minio.MakeBucketOptions{})) }},
		{"small up and down", m.smallObject},
		{"multipart up and down", m.multipart},
		{"tree up and down", m.tree},
		{"range", m.ranges},
		{"copy", m.copies},
		{"conditions", m.conditions},
		{"presigned", m.presigned},
		{"tags", m.tags},
		{"versioning", m.versioning},
		{"object lock", m.objectLock},
		{"lifecycle", m.lifecycle},
		{"policy", m.policy},
		{"CORS", m.cors},
		{"delete all", m.deleteAll},
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantCode fails the test unless err is the S3 error.
func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	if got := minio.ToErrorResponse(err).Code; err == nil || got != code {
		t.Fatalf("error %q (%v), want %s", got, err, code)
	}
}

func (m *minioGo) put(t *testing.T, bucket, key string, body []byte, o minio.PutObjectOptions) minio.UploadInfo {
	t.Helper()
	info, err := m.c.PutObject(t.Context(), bucket, key, bytes.NewReader(body), int64(len(body)), o)
	must(t, err)
	return info
}

// want reads an object and compares it.
func (m *minioGo) want(t *testing.T, bucket, key string, want []byte, o minio.GetObjectOptions) {
	t.Helper()
	object, err := m.c.GetObject(t.Context(), bucket, key, o)
	must(t, err)
	defer object.Close()
	got, err := io.ReadAll(object)
	must(t, err)
	sameBytes(t, want, got)
}

func (m *minioGo) smallObject(t *testing.T) {
	info := m.put(t, m.bucket, "dir/small.bin", m.small, minio.PutObjectOptions{
		ContentType: "application/x-ice", UserMetadata: map[string]string{"colour": "ice blue"},
	})
	m.want(t, m.bucket, "dir/small.bin", m.small, minio.GetObjectOptions{})
	stat, err := m.c.StatObject(t.Context(), m.bucket, "dir/small.bin", minio.StatObjectOptions{})
	must(t, err)
	if stat.ETag != info.ETag || stat.Size != smallSize || stat.ContentType != "application/x-ice" ||
		stat.UserMetadata["Colour"] != "ice blue" {
		t.Fatalf("stat: %+v", stat)
	}
	m.put(t, m.bucket, "with checksum", m.small, minio.PutObjectOptions{Checksum: minio.ChecksumCRC64NVME})
	m.want(t, m.bucket, "with checksum", m.small, minio.GetObjectOptions{Checksum: true})
}

func (m *minioGo) multipart(t *testing.T) {
	info := m.put(t, m.bucket, "large.bin", m.large, minio.PutObjectOptions{PartSize: 5 << 20})
	if !strings.HasSuffix(info.ETag, "-4") {
		t.Fatalf("ETag %s is not that of 4 parts", info.ETag)
	}
	m.want(t, m.bucket, "large.bin", m.large, minio.GetObjectOptions{})
	// Of unknown length.
	_, err := m.c.PutObject(t.Context(), m.bucket, "stream.bin", io.LimitReader(bytes.NewReader(m.large), largeSize), -1,
		minio.PutObjectOptions{PartSize: 5 << 20})
	must(t, err)
	m.want(t, m.bucket, "stream.bin", m.large, minio.GetObjectOptions{})
	for upload := range m.c.ListIncompleteUploads(t.Context(), m.bucket, "", true) {
		t.Fatalf("upload left: %+v", upload)
	}
}

// tree puts the tree up with eight uploads at a time, holds the listing against it, and reads all of it.
func (m *minioGo) tree(t *testing.T) {
	var names []string
	must(t, filepath.WalkDir(m.b.trees.big, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, path)
		}
		return err
	}))
	each := func(do func(key, path string) error) {
		t.Helper()
		errs := make(chan error, len(names))
		limit := make(chan struct{}, 8)
		var wg sync.WaitGroup
		for _, path := range names {
			rel, err := filepath.Rel(m.b.trees.big, path)
			must(t, err)
			limit <- struct{}{}
			wg.Go(func() {
				defer func() { <-limit }()
				if err := do("tree/"+rel, path); err != nil {
					errs <- err
				}
			})
		}
		wg.Wait()
		close(errs)
		for err := range errs {
			t.Fatal(err)
		}
	}
	each(func(key, path string) error {
		_, err := m.c.FPutObject(t.Context(), m.bucket, key, path, minio.PutObjectOptions{})
		return err
	})
	listed := map[string]int64{}
	for o := range m.c.ListObjects(t.Context(), m.bucket, minio.ListObjectsOptions{Prefix: "tree/", Recursive: true}) {
		must(t, o.Err)
		listed[o.Key] = o.Size
	}
	if len(listed) != len(names) {
		t.Fatalf("%d objects listed, want %d", len(listed), len(names))
	}
	each(func(key, path string) error {
		want, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		object, err := m.c.GetObject(t.Context(), m.bucket, key, minio.GetObjectOptions{})
		if err != nil {
			return err
		}
		defer object.Close()
		got, err := io.ReadAll(object)
		if err != nil {
			return err
		}
		if !bytes.Equal(want, got) {
			return errors.New(key + " differs")
		}
		return nil
	})
}

func (m *minioGo) ranges(t *testing.T) {
	var o minio.GetObjectOptions
	must(t, o.SetRange(6_000_001, 6_012_345))
	m.want(t, m.bucket, "large.bin", m.large[6_000_001:6_012_346], o)
	object, err := m.c.GetObject(t.Context(), m.bucket, "large.bin", minio.GetObjectOptions{})
	must(t, err)
	defer object.Close()
	got := make([]byte, 4096)
	for _, at := range []int64{0, 5<<20 - 2048, largeSize - 4096} {
		_, err := object.ReadAt(got, at)
		if err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		sameBytes(t, m.large[at:at+4096], got)
	}
}

func (m *minioGo) copies(t *testing.T) {
	_, err := m.c.CopyObject(t.Context(), minio.CopyDestOptions{Bucket: m.bucket, Object: "copy/small.bin"},
		minio.CopySrcOptions{Bucket: m.bucket, Object: "dir/small.bin"})
	must(t, err)
	m.want(t, m.bucket, "copy/small.bin", m.small, minio.GetObjectOptions{})
	// Joined on the server from two ranges, which is copying by parts.
	_, err = m.c.ComposeObject(t.Context(), minio.CopyDestOptions{Bucket: m.bucket, Object: "copy/joined.bin"},
		minio.CopySrcOptions{Bucket: m.bucket, Object: "large.bin", MatchRange: true, Start: 0, End: 6<<20 - 1},
		minio.CopySrcOptions{Bucket: m.bucket, Object: "dir/small.bin"})
	must(t, err)
	m.want(t, m.bucket, "copy/joined.bin", append(bytes.Clone(m.large[:6<<20]), m.small...), minio.GetObjectOptions{})
}

func (m *minioGo) conditions(t *testing.T) {
	var absent minio.PutObjectOptions
	absent.SetMatchETagExcept("*")
	_, err := m.c.PutObject(t.Context(), m.bucket, "dir/small.bin", strings.NewReader("x"), 1, absent)
	wantCode(t, err, minio.PreconditionFailed)
	info := m.put(t, m.bucket, "once", []byte("x"), absent)
	var match minio.PutObjectOptions
	match.SetMatchETag(info.ETag)
	m.put(t, m.bucket, "once", []byte("y"), match)
	_, err = m.c.PutObject(t.Context(), m.bucket, "once", strings.NewReader("z"), 1, match)
	wantCode(t, err, minio.PreconditionFailed)
	m.want(t, m.bucket, "once", []byte("y"), minio.GetObjectOptions{})
}

func (m *minioGo) presigned(t *testing.T) {
	u, err := m.c.PresignedGetObject(t.Context(), m.bucket, "dir/small.bin", time.Minute,
		url.Values{"response-content-type": {"text/x-ice"}})
	must(t, err)
	resp, body := request(t, http.MethodGet, u.String(), nil)
	wantStatus(t, resp, body, 200)
	sameBytes(t, m.small, body)
	if got := resp.Header.Get("Content-Type"); got != "text/x-ice" {
		t.Fatalf("Content-Type %q", got)
	}
	u, err = m.c.PresignedPutObject(t.Context(), m.bucket, "odd name +%é", time.Minute)
	must(t, err)
	resp, body = request(t, http.MethodPut, u.String(), m.small)
	wantStatus(t, resp, body, 200)
	m.want(t, m.bucket, "odd name +%é", m.small, minio.GetObjectOptions{})
	resp, body = request(t, http.MethodPut, strings.Replace(u.String(), "odd", "other", 1), m.small)
	wantStatus(t, resp, body, 403)
}

func (m *minioGo) tags(t *testing.T) {
	set, err := tags.MapToObjectTags(map[string]string{"colour": "ice blue", "depth": "12"})
	must(t, err)
	must(t, m.c.PutObjectTagging(t.Context(), m.bucket, "dir/small.bin", set, minio.PutObjectTaggingOptions{}))
	got, err := m.c.GetObjectTagging(t.Context(), m.bucket, "dir/small.bin", minio.GetObjectTaggingOptions{})
	must(t, err)
	if got.ToMap()["colour"] != "ice blue" || len(got.ToMap()) != 2 {
		t.Fatalf("tags %v", got)
	}
	must(t, m.c.RemoveObjectTagging(t.Context(), m.bucket, "dir/small.bin", minio.RemoveObjectTaggingOptions{}))
}

func (m *minioGo) versioning(t *testing.T) {
	bucket := m.b.bucket("versions")
	ctx := t.Context()
	must(t, m.c.MakeBucket(ctx, bucket, minio.MakeBucketOptions{}))
	must(t, m.c.EnableVersioning(ctx, bucket))
	one := m.put(t, bucket, "doc", []byte("one"), minio.PutObjectOptions{}).VersionID
	two := m.put(t, bucket, "doc", []byte("two"), minio.PutObjectOptions{}).VersionID
	if one == "" || one == two {
		t.Fatalf("version ids %q and %q", one, two)
	}
	m.want(t, bucket, "doc", []byte("one"), minio.GetObjectOptions{VersionID: one})
	_, err := m.c.CopyObject(ctx, minio.CopyDestOptions{Bucket: bucket, Object: "doc"},
		minio.CopySrcOptions{Bucket: bucket, Object: "doc", VersionID: one})
	must(t, err)
	m.want(t, bucket, "doc", []byte("one"), minio.GetObjectOptions{})
	must(t, m.c.RemoveObject(ctx, bucket, "doc", minio.RemoveObjectOptions{}))
	_, err = m.c.StatObject(ctx, bucket, "doc", minio.StatObjectOptions{})
	wantCode(t, err, minio.NoSuchKey)
	marker, count := "", 0
	for o := range m.c.ListObjects(ctx, bucket, minio.ListObjectsOptions{WithVersions: true}) {
		must(t, o.Err)
		count++
		if o.IsDeleteMarker {
			marker = o.VersionID
		}
	}
	if count != 4 || marker == "" {
		t.Fatalf("%d versions with marker %q, want 4", count, marker)
	}
	must(t, m.c.RemoveObject(ctx, bucket, "doc", minio.RemoveObjectOptions{VersionID: marker}))
	m.want(t, bucket, "doc", []byte("one"), minio.GetObjectOptions{})
}

func (m *minioGo) objectLock(t *testing.T) {
	bucket := m.b.bucket("lock")
	ctx := t.Context()
	must(t, m.c.MakeBucket(ctx, bucket, minio.MakeBucketOptions{ObjectLocking: true}))
	info := m.put(t, bucket, "kept", m.small, minio.PutObjectOptions{
		Mode: minio.Governance, RetainUntilDate: time.Now().Add(time.Hour).UTC(),
	})
	err := m.c.RemoveObject(ctx, bucket, "kept", minio.RemoveObjectOptions{VersionID: info.VersionID})
	wantCode(t, err, minio.AccessDenied)
	hold := minio.LegalHoldEnabled
	must(t, m.c.PutObjectLegalHold(ctx, bucket, "kept", minio.PutObjectLegalHoldOptions{Status: &hold}))
	force := minio.RemoveObjectOptions{VersionID: info.VersionID, GovernanceBypass: true}
	wantCode(t, m.c.RemoveObject(ctx, bucket, "kept", force), minio.AccessDenied)
	hold = minio.LegalHoldDisabled
	must(t, m.c.PutObjectLegalHold(ctx, bucket, "kept", minio.PutObjectLegalHoldOptions{Status: &hold}))
	must(t, m.c.RemoveObject(ctx, bucket, "kept", force))
	must(t, m.c.RemoveBucket(ctx, bucket))
}

func (m *minioGo) lifecycle(t *testing.T) {
	config := lifecycle.NewConfiguration()
	config.Rules = []lifecycle.Rule{{
		ID: "logs", Status: "Enabled", RuleFilter: lifecycle.Filter{Prefix: "logs/"},
		Expiration: lifecycle.Expiration{Days: 30},
	}}
	must(t, m.c.SetBucketLifecycle(t.Context(), m.bucket, config))
	got, err := m.c.GetBucketLifecycle(t.Context(), m.bucket)
	must(t, err)
	if len(got.Rules) != 1 || got.Rules[0].Expiration.Days != 30 || got.Rules[0].RuleFilter.Prefix != "logs/" {
		t.Fatalf("lifecycle %+v", got.Rules)
	}
	must(t, m.c.SetBucketLifecycle(t.Context(), m.bucket, lifecycle.NewConfiguration()))
}

func (m *minioGo) policy(t *testing.T) {
	object := m.b.server.URL() + "/" + m.bucket + "/dir/small.bin"
	must(t, m.c.SetBucketPolicy(t.Context(), m.bucket, policy(m.bucket)))
	resp, body := request(t, http.MethodGet, object, nil)
	wantStatus(t, resp, body, 200)
	sameBytes(t, m.small, body)
	must(t, m.c.SetBucketPolicy(t.Context(), m.bucket, ""))
	resp, body = request(t, http.MethodGet, object, nil)
	wantStatus(t, resp, body, 403)
}

func (m *minioGo) cors(t *testing.T) {
	object := m.b.server.URL() + "/" + m.bucket + "/dir/small.bin"
	must(t, m.c.SetBucketCors(t.Context(), m.bucket, cors.NewConfig([]cors.Rule{{
		AllowedOrigin: []string{goodOrigin}, AllowedMethod: []string{"GET", "PUT"}, AllowedHeader: []string{"*"},
	}})))
	got, err := m.c.GetBucketCors(t.Context(), m.bucket)
	must(t, err)
	if len(got.CORSRules) != 1 || got.CORSRules[0].AllowedOrigin[0] != goodOrigin {
		t.Fatalf("CORS %+v", got)
	}
	if !preflight(t, object, goodOrigin) || preflight(t, object, badOrigin) {
		t.Fatal("the preflight does not follow the rules")
	}
	must(t, m.c.SetBucketCors(t.Context(), m.bucket, nil))
}

func (m *minioGo) deleteAll(t *testing.T) {
	ctx := t.Context()
	for _, bucket := range []string{m.bucket, m.b.bucket("versions")} {
		objects := m.c.ListObjects(ctx, bucket, minio.ListObjectsOptions{Recursive: true, WithVersions: true})
		for result := range m.c.RemoveObjects(ctx, bucket, objects, minio.RemoveObjectsOptions{}) {
			t.Fatalf("remove %s: %v", result.ObjectName, result.Err)
		}
		must(t, m.c.RemoveBucket(ctx, bucket))
	}
}
