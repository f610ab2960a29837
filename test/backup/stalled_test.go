package backup

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"firn/test/backends"
	"firn/test/server"
)

// stalledLimit is how long a command may go on after the first signal: the time for cleaning up, 8 seconds, and some for a
// machine that is busy.
const stalledLimit = 20 * time.Second

// The first signal ends a command within seconds though its place has stopped to answer, and a second one at once.
func TestInterruptedWhereThePlaceHangs(t *testing.T) {
	binary := server.Binary(t)
	s3 := backends.Firn(t)
	line := backends.NewRelay(t, strings.TrimPrefix(s3.Endpoint, "http://"))
	place := func(addr string) string {
		return "s3://stalled/repo?endpoint=http://" + addr + "&region=us-east-1&style=path"
	}
	direct := place(strings.TrimPrefix(s3.Endpoint, "http://"))
	dir := t.TempDir()
	command := func(url string, args ...string) *exec.Cmd {
		c := exec.Command(binary, args...)
		c.Env = append(os.Environ(), "FIRN_REPO="+url, "FIRN_REPO_PASSWORD=secret", "FIRN_CACHE_DIR=none",
			"AWS_ACCESS_KEY_ID="+s3.Access, "AWS_SECRET_ACCESS_KEY="+s3.Secret)
		return c
	}
	run := func(args ...string) string {
		t.Helper()
		out, err := command(direct, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("firn %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	run("blob", "init", direct)
	run("repo", "init")
	sessions := func() int { return strings.Count(run("blob", "ls", direct, "sessions/"), "\n") }
	wait := func(what string, yes func() bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); !yes(); {
			if time.Now().After(end) {
				t.Fatalf("%s did not come", what)
			}
		}
	}
	for _, c := range []struct {
		name   string
		second bool // a second signal
		args   func(started string) []string
	}{
		{"backup", false, func(started string) []string {
			return []string{"backup", "--as", "data", "--command", "head -c 40000000 /dev/urandom; touch " + started + "; sleep 600"}
		}},
		{"prune", false, func(string) []string { return []string{"repo", "prune"} }}, // it waits for what the backup left
		{"twice", true, func(string) []string { return []string{"repo", "prune"} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			started := filepath.Join(dir, c.name)
			before := sessions()
			cmd := command(place(line.Addr), c.args(started)...)
			var said bytes.Buffer
			cmd.Stdout, cmd.Stderr = &said, &said
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			defer func() { _ = cmd.Process.Kill() }() // it has ended, or the test has failed
			if c.name == "backup" {
				wait("the backup's data", func() bool { _, err := os.Stat(started); return err == nil })
			}
			wait("its session", func() bool { return sessions() > before })
			line.Stall()
			defer line.Resume()
			limit := time.NewTimer(stalledLimit)
			defer limit.Stop()
			again := time.NewTicker(100 * time.Millisecond)
			defer again.Stop()
			for signals, over := 0, false; !over; {
				if signals == 0 || c.second {
					signals++
					_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
				}
				select {
				case <-ended:
					over = true
				case <-again.C:
				case <-limit.C:
					t.Fatalf("it still runs %v after the signal:\n%s", stalledLimit, &said)
				}
			}
			if c.second {
				if s := cmd.ProcessState.Sys().(syscall.WaitStatus); !s.Signaled() {
					t.Errorf("the second signal did not end it: %v\n%s", cmd.ProcessState, &said)
				}
				return
			}
			if cmd.ProcessState.ExitCode() != 1 || !strings.Contains(said.String(), "interrupted, and the place did not answer in time") {
				t.Errorf("%v\n%s", cmd.ProcessState, &said)
			}
		})
	}
}
