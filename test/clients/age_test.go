package clients

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"firn/test/server"
)

// ageBench runs firn and the age tool in one directory.
type ageBench struct {
	*bench
	firn string
}

// do runs a program to its end, with the password in the environment of firn, and returns what it said and its peak of
// resident memory in KiB.
func (b *ageBench) do(t *testing.T, stdin, program string, args ...string) (out string, peak int64, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.Stdin = b.dir, strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), "FIRN_ENCRYPT_PASSWORD=correct horse")
	p, err := cmd.CombinedOutput()
	if cmd.ProcessState != nil {
		if u, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
			peak = u.Maxrss
		}
	}
	return string(p), peak, err
}

func (b *ageBench) must(t *testing.T, program string, args ...string) (peak int64) {
	t.Helper()
	out, peak, err := b.do(t, "", program, args...)
	if err != nil {
		t.Fatalf("%s %v: %v: %s", filepath.Base(program), args, err, out)
	}
	return peak
}

// TestAge has the age tool open what firn encrypted, and firn what the age tool did: for keys, for SSH keys, with a
// password, as text; and a large file in little memory.
func TestAge(t *testing.T) {
	b := &ageBench{&bench{name: "age", dir: t.TempDir()}, server.Binary(t)}
	ageTool, keygen := tool(t, "age"), tool(t, "age-keygen")
	b.need(t, keygen)
	b.need(t, ageTool)
	b.must(t, keygen, "-o", "key")
	key, err := os.ReadFile(b.path("key"))
	if err != nil {
		t.Fatal(err)
	}
	_, to, _ := strings.Cut(string(key), "public key: ")
	to, _, _ = strings.Cut(to, "\n")
	b.must(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "ssh")
	sshTo, err := os.ReadFile(b.path("ssh.pub"))
	if err != nil {
		t.Fatal(err)
	}
	plain := b.file(t, "plain", strings.Repeat("content of more than a few chunks ", 10_000))

	for _, how := range []struct {
		name              string
		encrypt, identity string
	}{{"an age key", to, "key"}, {"an SSH key", strings.TrimSpace(string(sshTo)), "ssh"}} {
		t.Run(how.name, func(t *testing.T) {
			b.must(t, b.firn, "encrypt", "--recipient", how.encrypt, "plain", "by-firn")
			b.must(t, ageTool, "-d", "-i", how.identity, "-o", "out", "by-firn")
			same(t, plain, b.path("out"))
			b.must(t, b.firn, "encrypt", "--armor", "--recipient", how.encrypt, "plain", "text-by-firn")
			b.must(t, ageTool, "-d", "-i", how.identity, "-o", "out", "text-by-firn")
			same(t, plain, b.path("out"))
			for _, flags := range [][]string{nil, {"-a"}} {
				b.must(t, ageTool, append(flags, "-r", how.encrypt, "-o", "by-age", "plain")...)
				b.must(t, b.firn, "decrypt", "--identity", how.identity, "by-age", "back")
				same(t, plain, b.path("back"))
			}
		})
	}
	t.Run("a password", func(t *testing.T) {
		b.must(t, b.firn, "encrypt", "plain", "by-firn")
		// age asks at a terminal only, which script (of bsdutils, on every Debian) is for it.
		if out, _, err := b.do(t, "correct horse\n", "script", "-qec", ageTool+" -d -o out by-firn", "/dev/null"); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		same(t, plain, b.path("out"))
		twice := "correct horse\ncorrect horse\n"
		if out, _, err := b.do(t, twice, "script", "-qec", ageTool+" -p -o by-age plain", "/dev/null"); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		b.must(t, b.firn, "decrypt", "by-age", "back")
		same(t, plain, b.path("back"))
	})
	t.Run("a large file", func(t *testing.T) {
		const size, most = 300 << 20, 100 << 10 // bytes, KiB
		large, err := os.Create(b.path("large"))
		if err != nil {
			t.Fatal(err)
		}
		if err := large.Truncate(size); err != nil { // zeros, which take no place
			t.Fatal(err)
		}
		if err := large.Close(); err != nil {
			t.Fatal(err)
		}
		if peak := b.must(t, b.firn, "encrypt", "--recipient", to, "large", "large.age"); peak > most {
			t.Errorf("encrypt took %d MiB of memory", peak>>10)
		}
		if peak := b.must(t, b.firn, "decrypt", "--identity", "key", "large.age", "large.out"); peak > most {
			t.Errorf("decrypt took %d MiB of memory", peak>>10)
		}
		fi, err := os.Stat(b.path("large.out"))
		if err != nil || fi.Size() != size {
			t.Errorf("%v, %v", fi, err)
		}
	})
}
