//go:build servers

package sqltree

import (
	"fmt"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"firn"
	"firn/test/backends"
)

func TestPostgres(t *testing.T) {
	p := backends.PostgresServer(t)
	var n atomic.Int64
	at := func(t *testing.T) Options {
		return Options{
			URL: &url.URL{
				Scheme: "postgres", User: url.User(p.User), Host: p.Addr, Path: "/" + p.Database,
				RawQuery: fmt.Sprintf("sslmode=verify-full&sslrootcert=%s&namespace=n%d", p.CAFile, n.Add(1)),
			},
			Password: p.Password, Create: true,
		}
	}
	suite(t, at)

	opt := at(t)
	opt.Password = "sesame-open"
	if _, err := Open(t.Context(), opt); firn.KindOf(err) != firn.Denied || strings.Contains(err.Error(), "sesame") {
		t.Errorf("a wrong password: %v (%v), want denied", err, firn.KindOf(err))
	}
	tree := open(t, at(t))
	p.Kill()
	if _, _, err := tree.Commit(t.Context(), t.TempDir(), CommitOptions{}); firn.KindOf(err) != firn.Unavailable {
		t.Errorf("a server that is away: %v (%v), want unavailable", err, firn.KindOf(err))
	}
	p.Start(t)
	tree.must(t, t.TempDir())
}
