package s3blob

import (
	"context"
	"crypto/rand"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/minio/minio-go/v7"

	"firn"
)

// MinIO takes an object "a/b" beside an object "a" and answers success, but then lists only "a": what was put looks
// deleted, or what was there does. So with MinIO a put first asks whether there is an object above or below its key, and
// fails with firn.Conflict, as the contract has it for backends that cannot hold both. Other servers hold both, or refuse
// by themselves. Two clients that put both at the same moment are not caught.

// maxFolders bounds the ancestors known to be no objects; then they are forgotten and learnt again.
const maxFolders = 4096

// nesting is what is known of the server and of the keys above others.
type nesting struct {
	seen    atomic.Bool // an answer showed MinIO
	mu      sync.Mutex
	known   bool
	hides   bool
	folders map[string]bool
}

// sniffer looks at the answers for a sign of MinIO: its name, or behind a proxy its own header.
type sniffer struct {
	http.RoundTripper
	minio *atomic.Bool
}

func (s sniffer) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := s.RoundTripper.RoundTrip(req)
	if err == nil && (resp.Header.Get("Server") == "MinIO" || resp.Header.Get("X-Minio-Error-Code") != "") {
		s.minio.Store(true)
	}
	return resp, err
}

// room fails with firn.Conflict where the server would hide a blob for the sake of this one.
func (b *bucket) room(ctx context.Context, key string) error {
	hides, err := b.hidesNested(ctx)
	if err != nil || !hides {
		return err
	}
	for i := range len(key) {
		if key[i] != '/' || b.folder(key[:i]) {
			continue
		}
		_, err := b.core.StatObject(ctx, b.name, b.key(key[:i]), minio.StatObjectOptions{})
		if err == nil {
			return firn.NewError(firn.Conflict, key[:i]+" is a blob: MinIO can hold none below it")
		}
		if answered(err).StatusCode != http.StatusNotFound {
			return err
		}
		b.noteFolder(key[:i])
	}
	for o := range b.core.ListObjectsIter(ctx, b.name, minio.ListObjectsOptions{
		Prefix: b.key(key) + "/", Recursive: true, MaxKeys: 1,
	}) {
		if o.Err != nil {
			return o.Err
		}
		return firn.NewError(firn.Conflict, "there are blobs below it: MinIO cannot hold one of that name too")
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	b.nesting.mu.Lock()
	defer b.nesting.mu.Unlock()
	delete(b.nesting.folders, key) // it is about to be an object
	return nil
}

// hidesNested asks once for an object that is not there, whose answer shows which server it is.
func (b *bucket) hidesNested(ctx context.Context) (bool, error) {
	b.nesting.mu.Lock()
	known, hides := b.nesting.known, b.nesting.hides
	b.nesting.mu.Unlock()
	if known {
		return hides, nil
	}
	_, err := b.core.StatObject(ctx, b.name, b.key("firn-probe-"+rand.Text()), minio.StatObjectOptions{})
	if err != nil && answered(err).StatusCode == 0 {
		return false, err
	}
	b.nesting.mu.Lock()
	defer b.nesting.mu.Unlock()
	b.nesting.known, b.nesting.hides = true, b.nesting.seen.Load()
	return b.nesting.hides, nil
}

// folder reports whether key is known to be no object.
func (b *bucket) folder(key string) bool {
	b.nesting.mu.Lock()
	defer b.nesting.mu.Unlock()
	return b.nesting.folders[key]
}

func (b *bucket) noteFolder(key string) {
	b.nesting.mu.Lock()
	defer b.nesting.mu.Unlock()
	if len(b.nesting.folders) >= maxFolders || b.nesting.folders == nil {
		b.nesting.folders = map[string]bool{}
	}
	b.nesting.folders[strings.Clone(key)] = true
}
