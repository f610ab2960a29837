package repo

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"firn/blob"
	"firn/blob/memblob"
)

// TestVersion1 opens a repository that was stored by the first release and is kept here byte for byte: every later one
// must read it, and add to it.
func TestVersion1(t *testing.T) {
	ctx := t.Context()
	store := blob.New(memblob.New(memblob.Options{}), "mem:v1")
	root := filepath.Join("testdata", "v1")
	if err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		p, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		key, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		return store.PutBytes(ctx, filepath.ToSlash(key), p)
	}); err != nil {
		t.Fatal(err)
	}
	r := openRepo(t, store)
	if r.ID().String() != "2a64c239ef698c1b3be4e3e2814192ce98ddc630c611117329d9f287f104f4b1" {
		t.Errorf("id %s", r.ID())
	}
	all, err := r.Snapshots(ctx)
	if err != nil || len(all) != 1 || all[0].Host != "golden" || !slices.Equal(all[0].Paths, []string{"/data"}) {
		t.Fatalf("%+v, %v", all, err)
	}
	if err := restore(ctx, r, all[0].ID, upTo(6)); err != nil {
		t.Error(err)
	}
	s, err := r.NewSession(ctx, SessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	id, stored, err := s.Save(ctx, Data, content(3))
	if err != nil || stored != 0 {
		t.Errorf("a chunk that is there was stored again: %s, %d bytes, %v", id, stored, err)
	}
	if err := s.Abort(ctx); err != nil {
		t.Error(err)
	}
	if _, err := backup(ctx, r, upTo(8)); err != nil {
		t.Error(err)
	}
	if all := problems(t, r, 1); len(all) > 0 {
		t.Errorf("%v", all)
	}
}
