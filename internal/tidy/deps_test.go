package tidy

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/dependencies.md anew")

// licences are the ones this project takes, each with words that only its text has.
var licences = []struct{ name, words string }{
	{"Apache-2.0", "Apache License"},
	{"MPL-2.0", "Mozilla Public License"},
	{"BSD-3-Clause", "may be used to endorse or promote products"},
	{"BSD-2-Clause", "Redistributions in binary form must reproduce"},
	{"ISC", "Permission to use, copy, modify, and/or distribute this software for any"},
	{"ISC", "Permission to use, copy, modify, and distribute this software for any"},
	{"MIT", "Permission is hereby granted, free of charge"},
	{"CC0-1.0", "CC0 1.0 Universal"},
	{"Unlicense", "This is free and unencumbered software"},
}

func licenceOf(dir string) string {
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		return ""
	}
	var found []string
	for _, path := range names {
		base := strings.ToUpper(filepath.Base(path))
		if !strings.HasPrefix(base, "LICEN") && !strings.HasPrefix(base, "COPYING") && !strings.HasPrefix(base, "UNLICENSE") {
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		text := strings.Join(strings.Fields(string(b)), " ")
		for _, l := range licences {
			if strings.Contains(text, l.words) {
				if !slices.Contains(found, l.name) {
					found = append(found, l.name)
				}
				break
			}
		}
	}
	return strings.Join(found, ", ")
}

// TestDependenciesPage: docs/dependencies.md lists what is linked into the binary, each under a licence we take.
func TestDependenciesPage(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}", "firn/cmd/firn")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	modules := strings.Split(strings.TrimSpace(string(out)), "\n")
	slices.Sort(modules)
	var b strings.Builder
	b.WriteString("# Dependencies\n\n<!-- Made from the build: go test ./internal/tidy -run DependenciesPage -update -->\n\n" +
		"What is linked into the binary beside Go's own library, for linux/amd64. `make vuln` holds it against the Go\n" +
		"vulnerability database, where that can be reached.\n\n| module | version | licence |\n|---|---|---|\n")
	for _, m := range slices.Compact(modules) {
		f := strings.Fields(m)
		if len(f) != 3 {
			continue
		}
		l := licenceOf(f[2])
		if l == "" {
			t.Errorf("%s %s: no licence known here is in %s", f[0], f[1], f[2])
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", f[0], f[1], l)
	}
	path := filepath.Join("..", "..", "docs", "dependencies.md")
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(path)
	if err != nil || string(have) != b.String() {
		t.Errorf("docs/dependencies.md is not what is built (%v): go test ./internal/tidy -run DependenciesPage -update", err)
	}
}
