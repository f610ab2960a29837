package sidecar

import (
	"fmt"
	"net/url"
	"path/filepath"
	"testing"

	"firn/test/backends"
)

// TestSchemes runs each scheme, with a service that is written to: the order of a start, a stop, the move to another node, a crash, and
// the move after it. What the service has there is what the last backup acknowledged, or more.
func TestSchemes(t *testing.T) {
	for _, c := range []struct {
		name  string
		world func(*testing.T) world
		redis bool
	}{
		{"local", local, false},
		{"redis", redisPlace, false},
		{"s3, of a Redis server", s3Place, true},
		{"git", gitPlace, false},
		{"sftp, of a Redis server", sftpPlace, true},
		{"postgres", postgresPlace, false},
		{"sqlite", func(t *testing.T) world { return world{url: "plain+sqlite:" + filepath.Join(t.TempDir(), "files.db")} }, false},
		{"postgres, packs, of a Redis server", postgresPacks, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := c.world(t)
			var s service = &sqliteApp{}
			if c.redis {
				r := &redisService{port: port(t)}
				w.args = append(w.args, "--pre", "redis-cli -p "+r.port+" save || true")
				s = r
			}
			life(t, w, s)
		})
	}
}

func life(t *testing.T, w world, s service) {
	first, second, third := t.TempDir(), t.TempDir(), t.TempDir()
	// The first run.
	p := w.sidecar(t, first, "--init")
	p.ready(t)
	s.start(t, first)
	s.add(t, 20)
	p.must(t, "sidecar", "backup")
	s.add(t, 20)
	// The pod is deleted: the service ends, then the sidecar, with its last backup.
	s.stop(t)
	if code := p.stop(t); code != 0 {
		t.Fatalf("the sidecar ended with %d", code)
	}
	// Another node, with an empty disk.
	p = w.sidecar(t, second)
	p.ready(t)
	s.start(t, second)
	if n := s.count(t); n != 40 {
		t.Fatalf("%d after the move, 40 before", n)
	}
	s.add(t, 10)
	p.must(t, "sidecar", "backup")
	s.add(t, 10)
	// The node is lost.
	p.kill()
	s.kill()
	p = w.sidecar(t, third)
	p.ready(t)
	s.start(t, third)
	if n := s.count(t); n < 50 {
		t.Fatalf("%d after the crash, 50 were acknowledged", n)
	}
	s.stop(t)
	if code := p.stop(t); code != 0 {
		t.Errorf("the sidecar ended with %d", code)
	}
	// The same container again, with its disk.
	p = w.sidecar(t, third)
	p.ready(t)
	s.start(t, third)
	if n := s.count(t); n < 50 {
		t.Errorf("%d after a restart in place", n)
	}
	s.kill()
}

func redisPlace(t *testing.T) world {
	return world{url: "redis://" + backends.RedisServer(t).Addr + "/0?prefix=app"}
}

func s3Place(t *testing.T) world {
	s := backends.MinIO(t)
	return world{
		url: "s3://backups/app?style=path&endpoint=" + s.Endpoint,
		env: []string{"AWS_ACCESS_KEY_ID=" + s.Access, "AWS_SECRET_ACCESS_KEY=" + s.Secret},
	}
}

func gitPlace(t *testing.T) world {
	g := backends.GitSSH(t)
	q := url.Values{"key": {g.KeyFile}, "known-hosts": {g.KnownHosts}, "mirror": {filepath.Join(t.TempDir(), "mirror.git")}}
	return world{url: "plain+git+" + g.Repository(t, "app.git") + "?" + q.Encode(), args: []string{"--lease-ttl", "8s"}}
}

func sftpPlace(t *testing.T) world {
	s := backends.SSHD(t)
	q := url.Values{"key": {s.KeyFile}, "known_hosts": {s.KnownHosts}}
	return world{url: fmt.Sprintf("sftp://%s@%s%s/backups?%s", s.User, s.Addr, s.Root, q.Encode())}
}

func postgresWorld(t *testing.T, prefix string) world {
	p := backends.PostgresServer(t)
	return world{
		url: fmt.Sprintf("%spostgres://%s@%s/%s?sslmode=verify-ca&sslrootcert=%s", prefix, p.User, p.Addr, p.Database, url.QueryEscape(p.CAFile)),
		env: []string{"PGPASSWORD=" + p.Password},
	}
}

func postgresPlace(t *testing.T) world { return postgresWorld(t, "plain+") }
func postgresPacks(t *testing.T) world { return postgresWorld(t, "") }
