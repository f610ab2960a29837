// Package proxied finds out who a request comes from where reverse proxies stand in front of the site.
//
// It promises that the headers in which a proxy names its client count only where the connection comes from a listed
// proxy, and only as far as listed proxies wrote them: whoever else sends such headers is who the connection says. It
// must never import another package of this module but the vocabulary.
package proxied

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"firn"
)

// Proxies are the networks of trusted proxies. The zero value trusts none.
type Proxies []netip.Prefix

// Parse reads addresses and networks such as 10.0.0.0/8.
func Parse(list []string) (Proxies, error) {
	var p Proxies
	for _, s := range list {
		n, err := netip.ParsePrefix(s)
		if err != nil {
			a, aerr := netip.ParseAddr(s)
			if aerr != nil {
				return nil, &firn.Error{Kind: firn.Invalid, Subject: s, Err: errors.New("want an address or a network such as 10.0.0.0/8")}
			}
			n = netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen())
		}
		p = append(p, n.Masked())
	}
	return p, nil
}

func (p Proxies) contain(a netip.Addr) bool {
	for _, n := range p {
		if n.Contains(a) {
			return true
		}
	}
	return false
}

// Handler returns next with each request's RemoteAddr and TLS saying what holds of the client: its address, with port
// 0, and whether it came over TLS, as far as trusted proxies tell. Without proxies it is next itself.
func (p Proxies) Handler(next http.Handler) http.Handler {
	if len(p) == 0 {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.apply(r)
		next.ServeHTTP(w, r)
	})
}

// apply changes r as Handler says.
func (p Proxies) apply(r *http.Request) {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return
	}
	from, err := netip.ParseAddr(host)
	if err != nil || !p.contain(from.Unmap()) {
		return
	}
	hops := hopsOf(r.Header)
	if len(hops) == 0 {
		return
	}
	// Each proxy appends whom it got the request from. Read from the end, the first that is no trusted proxy is the
	// client: what stands before it is what the client says.
	client, proto := from, ""
	for i := len(hops) - 1; i >= 0; i-- {
		if hops[i].proto != "" {
			proto = hops[i].proto
		}
		if !hops[i].addr.IsValid() {
			break // "unknown", or hidden: the proxy that wrote it is the best that is known
		}
		client = hops[i].addr
		if !p.contain(client) {
			break
		}
	}
	if client != from {
		r.RemoteAddr = netip.AddrPortFrom(client, 0).String()
	}
	switch {
	case proto == "https" && r.TLS == nil:
		r.TLS = &tls.ConnectionState{HandshakeComplete: true}
	case proto == "http":
		r.TLS = nil
	}
}

// hop is what one proxy says.
type hop struct {
	addr  netip.Addr // invalid where it does not tell
	proto string
}

// maxHops bounds what is read of a header.
const maxHops = 32

// hopsOf reads Forwarded (RFC 7239), else X-Forwarded-For and X-Forwarded-Proto.
func hopsOf(h http.Header) []hop {
	if v := h["Forwarded"]; len(v) > 0 {
		return forwarded(strings.Join(v, ","))
	}
	addrs := last(strings.Split(strings.Join(h["X-Forwarded-For"], ","), ","))
	protos := last(strings.Split(strings.Join(h["X-Forwarded-Proto"], ","), ","))
	hops := make([]hop, 0, len(addrs))
	for _, a := range addrs {
		if a = strings.TrimSpace(a); a != "" {
			hops = append(hops, hop{addr: parseNode(a)})
		}
	}
	// One value is the last proxy's; as many as addresses belong to them in order.
	switch {
	case len(hops) == 0:
		if p := strings.ToLower(strings.TrimSpace(protos[len(protos)-1])); p != "" {
			return []hop{{proto: p}}
		}
	case len(protos) == len(hops):
		for i := range hops {
			hops[i].proto = strings.ToLower(strings.TrimSpace(protos[i]))
		}
	default:
		hops[len(hops)-1].proto = strings.ToLower(strings.TrimSpace(protos[len(protos)-1]))
	}
	return hops
}

func last(s []string) []string { return s[max(0, len(s)-maxHops):] }

func forwarded(v string) []hop {
	var hops []hop
	for _, element := range last(strings.Split(v, ",")) {
		var h hop
		for _, pair := range strings.Split(element, ";") {
			name, value, _ := strings.Cut(pair, "=")
			value = strings.Trim(strings.TrimSpace(value), `"`)
			switch strings.ToLower(strings.TrimSpace(name)) {
			case "for":
				h.addr = parseNode(value)
			case "proto":
				h.proto = strings.ToLower(value)
			}
		}
		hops = append(hops, h)
	}
	return hops
}

// parseNode reads an address with or without brackets and port; what is none is invalid.
func parseNode(s string) netip.Addr {
	if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return a.Unmap().WithZone("")
	}
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr().Unmap().WithZone("")
	}
	return netip.Addr{}
}
