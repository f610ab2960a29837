package places

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"firn/test/backends"
)

func TestSchemes(t *testing.T) {
	for name, open := range map[string]func(*testing.T) place{
		"file":          filePlace,
		"s3 minio":      func(t *testing.T) place { return s3Place(backends.MinIO(t)) },
		"s3 versitygw":  func(t *testing.T) place { return s3Place(backends.VersityGW(t)) },
		"s3 ceph":       func(t *testing.T) place { return s3Place(backends.RGW(t)) },
		"s3 firn":       func(t *testing.T) place { return s3Place(backends.Firn(t)) },
		"sftp":          sftpPlace,
		"webdav nginx":  func(t *testing.T) place { return davPlace(t, backends.WebDAV(t)) },
		"webdav rclone": func(t *testing.T) place { return davPlace(t, backends.RcloneDAV(t)) },
		"redis": func(t *testing.T) place {
			return place{url: "redis://" + backends.RedisServer(t).Addr + "/0?prefix=app"}
		},
		"redis cluster": redisCluster,
		"postgres":      postgresPlace,
		"sqlite":        func(t *testing.T) place { return place{url: "sqlite:" + filepath.Join(t.TempDir(), "blobs.db")} },
		"git local":     func(t *testing.T) place { return place{url: "git+file://" + filepath.Join(t.TempDir(), "app.git")} },
		"git ssh":       gitSSHPlace,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			life(t, open(t))
		})
	}
}

func filePlace(t *testing.T) place {
	t.Helper()
	return place{url: "file:" + filepath.Join(t.TempDir(), "repository")}
}

func s3Place(s *backends.S3) place {
	return place{
		url: "s3://backups/app?style=path&endpoint=" + s.Endpoint,
		env: []string{"AWS_ACCESS_KEY_ID=" + s.Access, "AWS_SECRET_ACCESS_KEY=" + s.Secret},
	}
}

func sftpPlace(t *testing.T) place {
	t.Helper()
	s := backends.SSHD(t)
	q := url.Values{"key": {s.KeyFile}, "known_hosts": {s.KnownHosts}}
	return place{url: fmt.Sprintf("sftp://%s@%s%s/backups?%s", s.User, s.Addr, s.Root, q.Encode())}
}

// davPlace is one of a configuration: a password of WebDAV comes from nowhere else.
func davPlace(t *testing.T, s *backends.DAV) place {
	t.Helper()
	return configured(t, "webdav"+strings.TrimPrefix(s.URL, "http")+"backups", nil, "username = "+s.User, "password = "+s.Password)
}

// configured is a place that has a name in a configuration, with settings in it and a file of credentials.
func configured(t *testing.T, url string, settings []string, credentials ...string) place {
	t.Helper()
	dir := t.TempDir()
	secrets, config := filepath.Join(dir, "credentials"), filepath.Join(dir, "firn.yaml")
	section := "places:\n  far:"
	for _, s := range append([]string{"url: " + url, "credentials: " + secrets}, settings...) {
		section += "\n    " + s
	}
	for path, text := range map[string]string{secrets: strings.Join(credentials, "\n"), config: section} {
		if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return place{url: "place:far", env: []string{"FIRN_CONFIG=" + config}}
}

func redisCluster(t *testing.T) place {
	t.Helper()
	var nodes []string
	for _, n := range backends.RedisCluster(t)[:2] {
		nodes = append(nodes, n.Addr)
	}
	return place{url: "redis+cluster://" + strings.Join(nodes, ",") + "/?prefix=app"}
}

func postgresPlace(t *testing.T) place {
	t.Helper()
	p := backends.PostgresServer(t)
	return place{
		url: fmt.Sprintf("postgres://%s@%s/%s?sslmode=verify-ca&sslrootcert=%s", p.User, p.Addr, p.Database, url.QueryEscape(p.CAFile)),
		env: []string{"PGPASSWORD=" + p.Password},
	}
}

func gitSSHPlace(t *testing.T) place {
	t.Helper()
	g := backends.GitSSH(t)
	q := url.Values{"key": {g.KeyFile}, "known-hosts": {g.KnownHosts}}
	return place{url: "git+" + g.Repository(t, "app.git") + "?" + q.Encode()}
}
