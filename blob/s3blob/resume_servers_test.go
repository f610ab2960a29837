//go:build servers

package s3blob

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"testing"

	"github.com/minio/minio-go/v7"

	"firn/blob"
)

// opened is a source that remembers from where it was opened.
type opened struct {
	p    []byte
	from int64
}

func (o *opened) Size() int64                  { return int64(len(o.p)) }
func (o *opened) Open() (io.ReadCloser, error) { return o.OpenAt(0) }
func (o *opened) OpenAt(at int64) (io.ReadCloser, error) {
	o.from = at
	return io.NopCloser(bytes.NewReader(o.p[at:])), nil
}

// TestResumeFindsItsUpload: of several uploads of a key, as requests that come late leave them, the one that came farthest
// goes on; parts that do not fit are sent again; uploads of other keys are left alone; and none is left behind.
func TestResumeFindsItsUpload(t *testing.T) {
	t.Parallel()
	const part = 5 << 20
	content := make([]byte, 4*part+100)
	rand.Read(content) // never fails
	for name, start := range servers() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := fresh(t, options(start(t), ""))
			ctx := t.Context()
			begin := func(key string, sizes ...int) string {
				t.Helper()
				id, err := b.core.NewMultipartUpload(ctx, b.name, key, minio.PutObjectOptions{})
				if err != nil {
					t.Fatal(err)
				}
				for i, n := range sizes {
					if n < 0 {
						continue // there is no such part
					}
					p := content[i*part:][:n]
					if _, err := b.core.PutObjectPart(ctx, b.name, key, id, i+1, bytes.NewReader(p), int64(n), minio.PutObjectPartOptions{}); err != nil {
						t.Fatal(err)
					}
				}
				return id
			}
			for _, c := range []struct {
				name    string
				uploads [][]int
				from    int64
			}{
				{"none", nil, 0},
				{"one without parts", [][]int{{}}, 0},
				{"one", [][]int{{part, part}}, 2 * part},
				{"two", [][]int{{part}, {part, part, part}}, 3 * part},
				{"the last part", [][]int{{part, part, part, part, 100}}, 4*part + 100},
				{"a gap", [][]int{{part, -1, part}}, part},
				{"another size", [][]int{{part, part - 1, part}}, part},
				{"too long", [][]int{{part, part, part, part, 99}, {}}, 4 * part},
			} {
				for _, u := range c.uploads {
					begin("dir/key", u...)
				}
				other := begin("dir/key2", part)
				src := &opened{p: content, from: int64(len(content))}
				if err := b.Resume(ctx, "dir/key", src); err != nil {
					t.Fatalf("%s: %v", c.name, err)
				}
				if src.from != c.from {
					t.Errorf("%s: it went on at %d, want %d", c.name, src.from, c.from)
				}
				if got, err := blob.New(b, "").ReadAll(ctx, "dir/key", 1<<30); err != nil || !bytes.Equal(got, content) {
					t.Errorf("%s: %d bytes, or other ones, %v", c.name, len(got), err)
				}
				if left, err := b.uploads(ctx, "dir/key"); err != nil || len(left) > 0 {
					t.Errorf("%s: uploads are left: %q, %v", c.name, left, err)
				}
				if left, err := b.uploads(ctx, "dir/key2"); err != nil || len(left) != 1 || left[0] != other {
					t.Errorf("%s: the other key's upload: %q, %v", c.name, left, err)
				}
				if err := errors.Join(b.Abandon(ctx, "dir/key2"), b.Delete(ctx, "dir/key")); err != nil {
					t.Fatal(err)
				}
			}
			// What is abandoned is gone, all of it.
			begin("dir/key", part)
			begin("dir/key", part, part)
			if err := errors.Join(b.Abandon(ctx, "dir/key"), b.Abandon(ctx, "dir/key")); err != nil {
				t.Fatal(err)
			}
			if left, err := b.uploads(context.WithoutCancel(ctx), "dir/key"); err != nil || len(left) > 0 {
				t.Errorf("after it was abandoned: %q, %v", left, err)
			}
		})
	}
}
