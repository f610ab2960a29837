package sidecar

import (
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"firn/archive/sqltree"
	"firn/blob"
	"firn/blob/memblob"
)

func TestNote(t *testing.T) {
	v := Version{Mark: "m", Lease: 3, Seq: 4, Files: 5, Bytes: 6, Held: true}
	got, ok := ParseNote(note(v, "backup") + "\nA etc/app.conf\n")
	if !ok || got != v {
		t.Errorf("%+v became %+v, %v", v, got, ok)
	}
	if _, ok := ParseNote("fix the configuration\n"); ok {
		t.Error("a note of people was taken for a sidecar's")
	}
}

func FuzzParseNote(f *testing.F) {
	f.Add("backup: 1 file\n\n" + note(Version{Mark: "m"}, "backup"))
	f.Fuzz(func(t *testing.T, text string) {
		if v, ok := ParseNote(text); ok {
			if w, ok := ParseNote(note(v, "backup")); !ok || !w.Time.Equal(v.Time) || w.Mark != v.Mark {
				t.Errorf("%+v became %+v", v, w)
			}
		}
	})
}

// A database forgets old revisions by itself: a directory that stays damaged must not push the good ones out.
func TestHeldVersionsDoNotPushGoodOnesOut(t *testing.T) {
	u := &url.URL{Scheme: "sqlite", Path: filepath.Join(t.TempDir(), "db")}
	tree, err := sqltree.Open(t.Context(), sqltree.Options{URL: u, Keep: 3, Create: true})
	if err != nil {
		t.Fatal(err)
	}
	target := NewSQLTarget(tree, "sqlite", "main", blob.New(memblob.New(memblob.Options{}), "mem:"), Rules{}, nil)
	defer target.Close()
	dir := t.TempDir()
	for i := range 10 {
		if err := os.WriteFile(filepath.Join(dir, "file"), []byte{byte(i)}, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := target.Backup(t.Context(), dir, Version{Mark: string(rune('a' + i)), Lease: 1, Seq: uint64(i), Held: i > 0}); err != nil {
			t.Fatal(err)
		}
	}
	versions, _, err := target.Versions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(versions) != 2 || versions[0].Held || !versions[1].Held {
		t.Errorf("%+v", versions)
	}
}
