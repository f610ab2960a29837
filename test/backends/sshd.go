package backends

import (
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"testing"
	"time"
)

// SSH is an OpenSSH server that serves SFTP to the user who runs the test.
type SSH struct {
	*Process
	Addr, User string
	// KeyFile is the user's private key, KnownHosts the file with the server's.
	KeyFile, KnownHosts string
	// Root is a directory for the test.
	Root string
}

// SSHD starts sshd. Root is a directory of the test unless one is given.
func SSHD(t testing.TB, root ...string) *SSH {
	t.Helper()
	s := sshd(t, "MaxSessions 100\nSubsystem sftp internal-sftp\nForceCommand internal-sftp")
	s.Root = filepath.Join(t.TempDir(), "root")
	if len(root) > 0 {
		s.Root = root[0]
	}
	if err := os.MkdirAll(s.Root, 0o755); err != nil {
		t.Fatal(err)
	}
	return s
}

// sshd starts sshd for the user who runs the test, by key, with more lines of sshd_config(5).
func sshd(t testing.TB, config string) *SSH {
	t.Helper()
	d := t.TempDir()
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	// Where root runs it, sshd separates its privileges in there.
	if os.Geteuid() == 0 {
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	host, key := filepath.Join(d, "host"), filepath.Join(d, "key")
	for _, path := range []string{host, key} {
		run(t, nil, Program(t, "ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", path)
	}
	public, err := os.ReadFile(host + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	port := FreePort(t)
	known, conf := filepath.Join(d, "known_hosts"), filepath.Join(d, "sshd_config")
	write(t, known, fmt.Sprintf("[127.0.0.1]:%d %s", port, public))
	write(t, conf, fmt.Sprintf(`Port %d
ListenAddress 127.0.0.1
HostKey %s
PidFile none
AuthorizedKeysFile %s.pub
StrictModes no
UsePAM no
KexAlgorithms curve25519-sha256
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
MaxStartups 100
%s
`, port, host, key, config))
	s := &SSH{Addr: fmt.Sprintf("127.0.0.1:%d", port), User: me.Username, KeyFile: key, KnownHosts: known}
	s.Process = start(t, "sshd", listens(port), nil, Program(t, "sshd"), "-D", "-e", "-f", conf)
	return s
}

func dial(addr string, within time.Duration) error {
	c, err := net.DialTimeout("tcp", addr, within)
	if err != nil {
		return err
	}
	return c.Close()
}
