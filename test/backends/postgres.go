package backends

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Postgres is a PostgreSQL server that speaks TLS and wants a password.
type Postgres struct {
	*Process
	Addr, User, Password, Database string
	// CAFile is the authority of its certificate.
	CAFile string
	psql   []string
}

// PostgresServer starts PostgreSQL. settings, such as "fsync=off", come on top.
func PostgresServer(t testing.TB, settings ...string) *Postgres {
	t.Helper()
	bin := postgresPrograms(t)
	// Not the test's own directory: PostgreSQL does not run as root, and another user cannot get there.
	dir, err := os.MkdirTemp("", "firn-postgres-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p := &Postgres{Addr: fmt.Sprintf("127.0.0.1:%d", databasePort(t)), User: "app", Password: "test-password-0123456789", Database: "postgres"}
	cert := certificate(t, dir)
	p.CAFile = filepath.Join(t.TempDir(), "ca.pem")
	pem, err := os.ReadFile(cert.ca)
	if err != nil {
		t.Fatal(err)
	}
	write(t, p.CAFile, string(pem))
	write(t, filepath.Join(dir, "password"), p.Password)
	as := asPostgres(t, dir)
	data := filepath.Join(dir, "data")
	run(t, nil, append(as, filepath.Join(bin, "initdb"), "-D", data, "-U", p.User, "--pwfile="+filepath.Join(dir, "password"),
		"-A", "scram-sha-256", "-E", "UTF8", "--no-locale", "--no-sync")...)
	host, port, _ := net.SplitHostPort(p.Addr)
	argv := append(as, filepath.Join(bin, "postgres"), "-D", data)
	for _, s := range append([]string{
		"listen_addresses=" + host, "port=" + port, "unix_socket_directories=", "ssl=on",
		"ssl_cert_file=" + cert.cert, "ssl_key_file=" + cert.key, "shared_buffers=64MB", "max_connections=60",
	}, settings...) {
		argv = append(argv, "-c", s)
	}
	p.psql = []string{filepath.Join(bin, "psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", host, "-p", port, "-U", p.User, "-d", p.Database, "-c"}
	p.Process = start(t, "postgres", func() error {
		out, err := p.try("select 1")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}, nil, argv...)
	return p
}

func (p *Postgres) try(query string) (string, error) {
	cmd := exec.Command(p.psql[0], append(p.psql[1:len(p.psql):len(p.psql)], query)...)
	cmd.Env = append(environ(), "PGPASSWORD="+p.Password)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// SQL runs a statement with psql and returns what it printed.
func (p *Postgres) SQL(t testing.TB, query string) string {
	t.Helper()
	out, err := p.try(query)
	if err != nil {
		t.Fatalf("%s: %v\n%s", query, err, out)
	}
	return out
}

// postgresPrograms is the directory of the newest installed version.
func postgresPrograms(t testing.TB) string {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(found) == 0 {
		t.Fatal("PostgreSQL is not installed: run test/setup.sh")
	}
	best, version := "", -1
	for _, path := range found {
		if v, err := strconv.Atoi(strings.Split(path, "/")[4]); err == nil && v > version {
			best, version = filepath.Dir(path), v
		}
	}
	return best
}

// asPostgres is the beginning of a command line that runs as a user who is not root, to whom dir is given.
func asPostgres(t testing.TB, dir string) []string {
	t.Helper()
	if os.Getuid() != 0 {
		return nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		t.Fatalf("%v: run test/setup.sh", err)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	err = filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chown(path, uid, gid)
	})
	if err != nil {
		t.Fatal(err)
	}
	return []string{Program(t, "setpriv"), "--reuid=postgres", "--regid=postgres", "--init-groups", "--pdeathsig", "KILL"}
}
