package edgehttp

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"firn/cache"
)

// nothing is a client that throws all away.
type nothing struct{ h http.Header }

func (n *nothing) Header() http.Header         { return n.h }
func (n *nothing) WriteHeader(int)             {}
func (n *nothing) Write(p []byte) (int, error) { return len(p), nil }

func BenchmarkHit(b *testing.B) {
	o := &source{}
	o.set("/small", text(4<<10, 1), `"1"`)
	o.set("/large", text(1<<20, 1), `"1"`)
	m, err := cache.NewMemory(cache.MemoryOptions{Budget: 64 << 20})
	if err != nil {
		b.Fatal(err)
	}
	c := cache.New(cache.Options{}, m)
	defer c.Close()
	s, err := New(c, Options{Rules: []Rule{{Prefix: "/", Origins: []Origin{o}}}})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	for _, c := range []struct{ name, path, rng string }{{"4KiB", "/small", ""}, {"1MiB", "/large", ""}, {"range", "/large", "bytes=100000-165535"}} {
		b.Run(c.name, func(b *testing.B) {
			r := httptest.NewRequest(http.MethodGet, c.path, nil)
			if c.rng != "" {
				r.Header.Set("Range", c.rng)
			}
			ask(s, http.MethodGet, c.path)
			b.ReportAllocs()
			for b.Loop() {
				s.ServeHTTP(&nothing{http.Header{}}, r)
			}
		})
	}
}
