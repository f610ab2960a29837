package clients

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"firn/test/server"
)

// boto3Steps is the job of Debian's boto3.
func boto3Steps(t *testing.T, b *bench) []step { return boto3Job(t, b, "") }

// boto3NewSteps is the same job with a boto3 that adds CRC checksums to requests unasked (1.36 and later).
func boto3NewSteps(t *testing.T, b *bench) []step { return boto3Job(t, b, boto3New(t)) }

// boto3New is where the newer boto3 is.
func boto3New(t *testing.T) (pythonPath string) {
	path := filepath.Join(tool(t, "boto3"), "usr/lib/python3/dist-packages")
	if _, err := os.Stat(filepath.Join(path, "boto3")); err != nil {
		t.Fatalf("the newer boto3 is not installed: run test/setup.sh (%v)", err)
	}
	return path
}

// boto3Env is the environment of a boto3 that knows nothing but the server's keys.
func boto3Env(pythonPath string) []string {
	return []string{
		"AWS_ACCESS_KEY_ID=" + server.AccessKey, "AWS_SECRET_ACCESS_KEY=" + server.SecretKey,
		"AWS_DEFAULT_REGION=us-east-1", "AWS_EC2_METADATA_DISABLED=true", "AWS_CONFIG_FILE=/dev/null",
		"AWS_SHARED_CREDENTIALS_FILE=/dev/null", "PYTHONPATH=" + pythonPath, "PYTHONDONTWRITEBYTECODE=1",
	}
}

// boto3Job runs testdata/boto3_job.py to its end and returns its steps with their results. It is one process because
// the modules take a second to load.
func boto3Job(t *testing.T, b *bench, pythonPath string) []step {
	b.need(t, "/usr/bin/python3", "python3")
	script, err := filepath.Abs("testdata/boto3_job.py")
	if err != nil {
		t.Fatal(err)
	}
	b.env = boto3Env(pythonPath)
	out, stderr, err := b.try(t, script, b.server.URL(), b.name, b.trees.small)
	var steps []step
	done := false
	for lines := bufio.NewScanner(strings.NewReader(out)); lines.Scan(); {
		var line struct{ Step, Error, Version string }
		if json.Unmarshal(lines.Bytes(), &line) != nil {
			continue
		}
		if line.Version != "" {
			t.Logf("boto3 %s", line.Version)
		}
		if line.Step == "" {
			continue
		}
		done = line.Step == "delete all"
		steps = append(steps, step{line.Step, func(t *testing.T) {
			if line.Error != "" {
				t.Error(line.Error)
			}
		}})
	}
	if err != nil || !done {
		t.Fatalf("the job did not run to its end: %v (Debian's python3-boto3 is installed by test/setup.sh)\n%s\n%s", err, out, stderr)
	}
	return steps
}
