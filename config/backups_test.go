package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestBackups(t *testing.T) {
	load := func(text string) (*Effective, error) {
		t.Helper()
		path := filepath.Join(t.TempDir(), "firn.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return Load(Sources{File: path})
	}
	e, err := load(`backups:
  app:
    repository: file:/mnt/nas
    password_file: /etc/firn/password
    paths: [/srv/app, /etc]
    exclude: ["*.tmp", "/etc/x"]
    schedule: every 6h
    jitter: 10m
    keep_daily: 7
  db:
    repository: place:nas
    password_command: cat /etc/firn/password
    command: pg_dump app
    as: app.sql
    schedule: "@daily"
`)
	if err != nil {
		t.Fatal(err)
	}
	b := e.Backups["app"]
	if len(b.Paths) != 2 || len(b.Exclude) != 2 || b.Schedule != "every 6h" || time.Duration(b.Jitter) != 10*time.Minute || b.KeepDaily != 7 || b.DrillSample != "5%" {
		t.Errorf("%+v", b)
	}
	if e.Backups["db"].As != "app.sql" {
		t.Errorf("%+v", e.Backups["db"])
	}
	good := "repository: file:/r, password_file: /p, schedule: every 1h"
	for text, want := range map[string]string{
		"a: {}":                                         "has no repository",
		"a: {" + good + "}":                             "paths or command",
		"a: {" + good + ", paths: [x]}":                 "absolute",
		"a: {" + good + ", command: x}":                 "go together",
		"a: {" + good + ", path: [/x]}":                 "did you mean",
		"a: {repository: file:/r, paths: [/x]}":         "password_file",
		"a b: {" + good + ", paths: [/x]}":              "letters",
		"a: {" + good + ", paths: [/x], keep_last: -1}": "less than nothing",
	} {
		if _, err := load("backups:\n  " + text + "\n"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
