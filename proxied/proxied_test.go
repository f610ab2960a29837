package proxied

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"firn"
)

func TestClient(t *testing.T) {
	trusted, err := Parse([]string{"10.0.0.0/8", "192.0.2.7", "fd00::/8"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		remote string
		tls    bool
		header []string
		want   string
		secure bool
	}{
		{"no proxy", "203.0.113.9:4711", false, nil, "203.0.113.9:4711", false},
		{"a stranger lies", "203.0.113.9:4711", false, []string{"X-Forwarded-For: 10.0.0.1", "X-Forwarded-Proto: https"}, "203.0.113.9:4711", false},
		{"a stranger lies in RFC 7239", "203.0.113.9:4711", false, []string{"Forwarded: for=10.0.0.1;proto=https"}, "203.0.113.9:4711", false},
		{"one proxy", "10.1.2.3:80", false, []string{"X-Forwarded-For: 203.0.113.9", "X-Forwarded-Proto: https"}, "203.0.113.9:0", true},
		{"a proxy on an IPv4-mapped address", "[::ffff:10.1.2.3]:80", false, []string{"X-Forwarded-For: 203.0.113.9"}, "203.0.113.9:0", false},
		{"the client prepends", "10.1.2.3:80", false, []string{"X-Forwarded-For: 127.0.0.1, 10.9.9.9, 203.0.113.9"}, "203.0.113.9:0", false},
		{"the client prepends a header", "10.1.2.3:80", false, []string{"X-Forwarded-For: 127.0.0.1", "X-Forwarded-For: 203.0.113.9"}, "203.0.113.9:0", false},
		{"two proxies", "10.1.2.3:80", false, []string{"X-Forwarded-For: 1.1.1.1, 203.0.113.9, 192.0.2.7"}, "203.0.113.9:0", false},
		{"protos in order", "10.1.2.3:80", false, []string{"X-Forwarded-For: 203.0.113.9, 192.0.2.7", "X-Forwarded-Proto: https, http"}, "203.0.113.9:0", true},
		{"plain before a proxy that speaks TLS", "10.1.2.3:80", true, []string{"X-Forwarded-For: 203.0.113.9", "X-Forwarded-Proto: http"}, "203.0.113.9:0", false},
		{"only the protocol", "10.1.2.3:80", false, []string{"X-Forwarded-Proto: https"}, "10.1.2.3:80", true},
		{"garbage", "10.1.2.3:80", false, []string{"X-Forwarded-For: <script>"}, "10.1.2.3:80", false},
		{"hidden", "10.1.2.3:80", false, []string{"Forwarded: for=_secret;proto=https"}, "10.1.2.3:80", true},
		{"IPv6", "[fd00::1]:80", false, []string{`Forwarded: for="[2001:db8::9]:4711";proto=https;by=x`}, "[2001:db8::9]:0", true},
		{"with a port", "10.1.2.3:80", false, []string{"X-Forwarded-For: 203.0.113.9:55"}, "203.0.113.9:0", false},
		{"Forwarded counts alone", "10.1.2.3:80", false, []string{"Forwarded: for=203.0.113.9", "X-Forwarded-For: 1.1.1.1"}, "203.0.113.9:0", false},
		{"inner proxies only", "10.1.2.3:80", false, []string{"X-Forwarded-For: 10.0.0.5"}, "10.0.0.5:0", false},
		{"no address", "@", false, []string{"X-Forwarded-For: 10.0.0.5"}, "@", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequest("GET", "/", nil)
			r.RemoteAddr = c.remote
			if c.tls {
				r.TLS = &tls.ConnectionState{}
			}
			for _, h := range c.header {
				name, value, _ := strings.Cut(h, ": ")
				r.Header.Add(name, value)
			}
			called := false
			trusted.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				called = true
				if r.RemoteAddr != c.want || (r.TLS != nil) != c.secure {
					t.Errorf("from %s, TLS %v; want %s, %v", r.RemoteAddr, r.TLS != nil, c.want, c.secure)
				}
			})).ServeHTTP(httptest.NewRecorder(), r)
			if !called {
				t.Error("the handler was not called")
			}
		})
	}
}

func TestParse(t *testing.T) {
	for _, s := range []string{"", "10.0.0.0/33", "proxy.example", "10.0.0"} {
		if _, err := Parse([]string{s}); firn.KindOf(err) != firn.Invalid {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// FuzzHops: whatever a header holds, the client is an address, and never one that the header's own author chose past
// an untrusted hop.
func FuzzHops(f *testing.F) {
	f.Add("for=1.2.3.4;proto=https, for=\"[::1]:80\"", "1.2.3.4, 5.6.7.8", "https")
	trusted := Proxies{netip.MustParsePrefix("10.0.0.0/8")}
	f.Fuzz(func(t *testing.T, fwd, xff, proto string) {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = "10.0.0.1:1"
		if fwd != "" {
			r.Header["Forwarded"] = []string{fwd}
		}
		r.Header["X-Forwarded-For"] = []string{xff, "203.0.113.9"}
		r.Header["X-Forwarded-Proto"] = []string{proto}
		trusted.apply(r)
		if _, err := netip.ParseAddrPort(r.RemoteAddr); err != nil {
			t.Fatalf("%q: %v", r.RemoteAddr, err)
		}
		if fwd == "" && r.RemoteAddr != "203.0.113.9:0" {
			t.Fatalf("client is %q", r.RemoteAddr)
		}
	})
}
