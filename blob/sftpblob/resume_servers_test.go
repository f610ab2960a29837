//go:build servers

package sftpblob

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"firn/blob"
	"firn/blob/layout"
	"firn/test/backends"
)

// begun is a source that remembers from where it was opened, and may break.
type begun struct {
	p    []byte
	from int64
	fail int64 // it breaks there; 0 is nowhere
}

var errBroken = errors.New("it broke")

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errBroken }

func (b *begun) Size() int64                  { return int64(len(b.p)) }
func (b *begun) Open() (io.ReadCloser, error) { return b.OpenAt(0) }
func (b *begun) OpenAt(at int64) (io.ReadCloser, error) {
	b.from = at
	if b.fail > 0 {
		return io.NopCloser(io.MultiReader(bytes.NewReader(b.p[at:b.fail]), broken{})), nil
	}
	return io.NopCloser(bytes.NewReader(b.p[at:])), nil
}

// TestKeptIsWhatWasSynced: bytes after the last sync count for nothing, whatever they are.
func TestKeptIsWhatWasSynced(t *testing.T) {
	t.Parallel()
	s := backends.SSHD(t)
	p := fresh(t, options(t, s, s.Addr, s.Root))
	content := make([]byte, layout.KeptStep+3<<20)
	rand.Read(content) // never fails
	for name, c := range map[string]struct {
		spoil func(path string) error
		from  int64
	}{
		"zeros": {func(path string) error {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt(make([]byte, 2<<20), layout.KeptStep)
			return errors.Join(err, f.Close())
		}, layout.KeptStep},
		"not one byte more": {func(path string) error { return os.Truncate(path, layout.KeptStep) }, 0},
		"too long":          {func(path string) error { return os.Truncate(path, int64(len(content))+1) }, 0},
		"gone":              {func(path string) error { return os.RemoveAll(filepath.Dir(path)) }, 0},
	} {
		key := "dir/" + name
		if err := p.Resume(t.Context(), key, &begun{p: content, fail: int64(len(content)) - 10}); !errors.Is(err, errBroken) {
			t.Fatal(err)
		}
		if err := c.spoil(filepath.Join(p.opt.Root, layout.KeptPath(key))); err != nil {
			t.Fatal(err)
		}
		src := &begun{p: content, from: -1}
		if err := p.Resume(t.Context(), key, src); err != nil || src.from != c.from {
			t.Errorf("%s: it went on after %d, want %d: %v", name, src.from, c.from, err)
		}
		if got, err := blob.New(p, "").ReadAll(t.Context(), key, 1<<30); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s: %d bytes, or other ones, %v", name, len(got), err)
		}
		if left, err := os.ReadDir(filepath.Join(p.opt.Root, layout.Temp)); err != nil || len(left) > 0 {
			t.Errorf("%s: left behind: %v, %v", name, left, err)
		}
	}
}
