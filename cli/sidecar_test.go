package cli

import (
	"context"
	"errors"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"firn/archive/sidecar"
)

// What a sidecar's mirror goes through is among its metrics.
func TestSidecarShowsItsMirror(t *testing.T) {
	s := newShell(t)
	dir := t.TempDir()
	place := func(name string) string { return "  " + name + ":\n    url: file:" + filepath.Join(dir, name) + "\n" }
	write(t, "firn.yaml", []byte("places:\n"+place("a")+place("b")+place("c")+"  three:\n    mirror: [a, b, c]\n    mirror_writes: 2\n"))
	s.ok("blob", "init", "place:three")
	getenv := func(name string) (string, bool) {
		if name == "FIRN_REPO_PASSWORD" {
			return "password", true
		}
		return s.getenv(name)
	}
	env := &Env{Getenv: getenv, Environ: s.environ}
	flags := sidecarFlags{targets: targetFlags{repoFlags: newRepoFlags(env)}}
	f := pflag.NewFlagSet("sidecar", pflag.ContinueOnError)
	flags.register(f)
	err := f.Parse([]string{"--dir", filepath.Join(dir, "data"), "--repo", "place:three", "--init"})
	if err = errors.Join(err, flags.options(t.Context(), env, slog.New(slog.DiscardHandler))); err != nil {
		t.Fatal(err)
	}
	sc, err := sidecar.New(flags.o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := sc.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "b"), filepath.Join(dir, "away")); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := sc.Keep(ctx); err != nil { // makes the last backup
		t.Error(err)
	}
	w := httptest.NewRecorder()
	sc.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{`firn_mirror_place_away{mirror="three",place="b"} 1`, `firn_mirror_place_away{mirror="three",place="c"} 0`} {
		if !strings.Contains(w.Body.String(), want+"\n") {
			t.Errorf("no %s in\n%s", want, w.Body.String())
		}
	}
}
