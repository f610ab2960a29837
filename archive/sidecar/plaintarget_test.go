package sidecar

import (
	"database/sql"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	_ "modernc.org/sqlite"

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

// sqlTarget is a plain target in a database.
func sqlTarget(t *testing.T, rules Rules) *PlainTarget {
	t.Helper()
	u := &url.URL{Scheme: "sqlite", Path: filepath.Join(t.TempDir(), "db")}
	tree, err := sqltree.Open(t.Context(), sqltree.Options{URL: u, Keep: 10, Create: true})
	if err != nil {
		t.Fatal(err)
	}
	target := NewSQLTarget(tree, "sqlite", "main", blob.New(memblob.New(memblob.Options{}), "mem:"), rules, nil)
	t.Cleanup(func() { _ = target.Close() })
	return target
}

// A plain target tells whether a directory is still what a version holds, and a restore puts it back: what is left out
// stays, what the version does not have goes, and what an earlier restore left half done is no part of it.
func TestPlainRestore(t *testing.T) {
	target := sqlTarget(t, Rules{Exclude: []string{"*.log"}})
	dir := t.TempDir()
	put(t, dir, "data", "one")
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	put(t, dir, "sub/data", "two")
	v, _, err := target.Backup(t.Context(), dir, Version{Mark: "m", Lease: 1, Seq: 1})
	if err != nil {
		t.Fatal(err)
	}
	changed := func() bool {
		t.Helper()
		c, err := target.Changed(t.Context(), v, dir)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	put(t, dir, "x.log", "noise")
	put(t, dir, StateFile, "own")
	if changed() {
		t.Error("what is left out is a change")
	}
	put(t, dir, "sub/data", "TWO")
	if !changed() {
		t.Error("a change of content was not seen")
	}
	put(t, dir, "more", "x")
	if err := os.MkdirAll(filepath.Join(dir, stateTemp+".restore", "data"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := target.Restore(t.Context(), v, dir); err != nil {
		t.Fatal(err)
	}
	if changed() {
		t.Error("after the restore it is not what the version holds")
	}
	if got := content(t, dir, "x.log") + content(t, dir, StateFile); got != "noiseown" {
		t.Errorf("what is left out is %q", got)
	}
	if _, err := os.Stat(filepath.Join(dir, stateTemp+".restore")); err == nil {
		t.Error("the restore left something behind")
	}
}

// A plain restore takes nothing away before it has all of what it puts there.
func TestPlainRestoreThatFails(t *testing.T) {
	target := sqlTarget(t, Rules{})
	dir := t.TempDir()
	put(t, dir, "data", "one")
	v, _, err := target.Backup(t.Context(), dir, Version{Mark: "m", Lease: 1, Seq: 1})
	if err != nil {
		t.Fatal(err)
	}
	put(t, dir, "data", "two")
	v.ID = "77"
	if err := target.Restore(t.Context(), v, dir); err == nil {
		t.Error("a version was restored that is not there")
	}
	if got := content(t, dir, "data"); got != "two" {
		t.Errorf("data: %q", got)
	}
}

// A database is copied through SQLite: what is still in its log is in the copy, which is one file.
func TestPlainDatabases(t *testing.T) {
	target := sqlTarget(t, Rules{})
	dir := t.TempDir()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "app.db")+"?_pragma=journal_mode(wal)&_pragma=wal_autocheckpoint(0)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, q := range []string{"create table rows (n integer)", "insert into rows values (1), (2), (3)"} {
		if _, err := db.Exec(q); err != nil {
			t.Fatal(err)
		}
	}
	v, problems, err := target.Backup(t.Context(), dir, Version{Mark: "m", Lease: 1, Seq: 1})
	if err != nil || problems != 0 {
		t.Fatal(problems, err)
	}
	fresh := t.TempDir()
	if err := target.Restore(t.Context(), v, fresh); err != nil {
		t.Fatal(err)
	}
	for _, log := range []string{"app.db-wal", "app.db-shm"} {
		if _, err := os.Stat(filepath.Join(fresh, log)); err == nil {
			t.Errorf("%s was backed up", log)
		}
	}
	copied, err := sql.Open("sqlite", "file:"+filepath.Join(fresh, "app.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer copied.Close()
	var n int
	if err := copied.QueryRow("select count(*) from rows").Scan(&n); err != nil || n != 3 {
		t.Errorf("%d rows, %v", n, err)
	}
}
