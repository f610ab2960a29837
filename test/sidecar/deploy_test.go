package sidecar

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// The examples in deploy are commands that this binary understands.
func TestDeployExamples(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../deploy/kubernetes/sidecar-*.yaml")
	if err != nil || len(files) != 5 {
		t.Fatalf("%d files, one for each scheme is wanted: %v", len(files), err)
	}
	files = append(files, "../../deploy/docker/compose-sidecar.yaml", "../../deploy/kubernetes/backup-cronjob.yaml")
	p := &process{w: world{url: "mem:"}, addr: "127.0.0.1:1"}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		commands := 0
		for d := yaml.NewDecoder(bytes.NewReader(b)); ; {
			var doc any
			if err := d.Decode(&doc); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			for _, args := range firnArgs(doc) {
				commands++
				// An unknown level is found once all else was understood.
				if slices.Contains(args, "sidecar") && !slices.Contains(args, "status") {
					out, code := p.command(t, append(args, "--log-level", "none")...)
					if code != 2 || !strings.Contains(out, "--log-level") {
						t.Errorf("%s: firn %s: code %d, %s", file, strings.Join(args, " "), code, out)
					}
				} else if out, code := p.command(t, append(args, "--help")...); code != 0 {
					t.Errorf("%s: firn %s: code %d, %s", file, strings.Join(args, " "), code, out)
				}
			}
		}
		if commands < 2 {
			t.Errorf("%s has %d commands of firn", file, commands)
		}
	}
}

// firnArgs finds what is given to firn: args and command of containers with its image, and probes.
func firnArgs(v any) (all [][]string) {
	switch v := v.(type) {
	case map[string]any:
		image, _ := v["image"].(string)
		for key, x := range v {
			list := words(x)
			switch {
			case len(list) > 0 && strings.HasPrefix(image, "firn") && (key == "args" || key == "command"):
				all = append(all, list)
			case len(list) > 0 && (list[0] == "/firn" || len(list) > 1 && list[1] == "/firn"):
				all = append(all, list[slices.Index(list, "/firn")+1:])
			default:
				all = append(all, firnArgs(x)...)
			}
		}
	case []any:
		for _, x := range v {
			all = append(all, firnArgs(x)...)
		}
	}
	return all
}

func words(v any) (list []string) {
	items, _ := v.([]any)
	for _, x := range items {
		s, ok := x.(string)
		if !ok {
			return nil
		}
		list = append(list, s)
	}
	return list
}
