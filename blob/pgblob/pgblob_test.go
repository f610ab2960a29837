package pgblob

import (
	"net/url"
	"strings"
	"testing"

	"firn"
)

func parse(t *testing.T, text string) (Options, error) {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return FromURL(u)
}

func TestFromURL(t *testing.T) {
	for text, want := range map[string]Options{
		"postgres://me@host:5433/db": {URL: "postgres://me@host:5433/db", Namespace: "firn"},
		"postgresql://host/db?sslmode=require&namespace=a_1&durable=any": {
			URL: "postgresql://host/db?sslmode=require", Namespace: "a_1", Durable: "any",
		},
		"postgres:///db?host=/run/postgresql": {URL: "postgres:///db?host=%2Frun%2Fpostgresql", Namespace: "firn"},
	} {
		if got, err := parse(t, text); err != nil || got != want {
			t.Errorf("%s: %+v, %v, want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{
		"http://host/db", "postgres://u:sesame@host/db", "postgres://host/db?password=sesame", "postgres://host/db?namespace=A",
		"postgres://host/db?namespace=0", "postgres://host/db?namespace=" + strings.Repeat("a", 41), "postgres://host/db?durable=no",
		"postgres://host/db?sslmode=sesame", "postgres://host/db?sslrootcert=/none", "postgres://host/db?pool_max_conns=1",
		"postgres://host/db?pool_max_conns=sesame", "postgres://host/db?namespace=a&namespace=b",
	} {
		if got, err := parse(t, text); firn.KindOf(err) != firn.Invalid || strings.Contains(err.Error(), "://") {
			t.Errorf("%s: %+v, %v, want an invalid one", text, got, err)
		}
	}
}

func TestKindOfCode(t *testing.T) {
	for code, want := range map[string]firn.Kind{
		"28P01": firn.Denied, "42501": firn.Denied, "53100": firn.NoSpace, "53300": firn.Unavailable, "57P01": firn.Unavailable,
		"40P01": firn.Unavailable, "XX001": firn.Corrupt, "22021": firn.Invalid, "3D000": firn.Invalid, "XX000": firn.Internal,
		"42601": firn.Invalid, "08006": firn.Unavailable,
	} {
		if got := kindOfCode(code); got != want {
			t.Errorf("%s is %v, want %v", code, got, want)
		}
	}
}
