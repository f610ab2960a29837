package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
)

const edgeRulesSection = "edge_rules"

// edgeRules applies the section edge_rules: one section a name, each with the keys of EdgeRuleKeys.
func (w *walker) edgeRules(n ast.Node) {
	w.e.EdgeRules = named(w, n, edgeRulesSection, EdgeRuleKeys(), DefaultEdgeRule, w.checkEdgeRule)
}

func (w *walker) checkEdgeRule(m *ast.MappingValueNode, full string, r EdgeRule) {
	switch {
	case !strings.HasPrefix(r.Prefix, "/"):
		w.bad(m.Key, full, "has no prefix: give what its paths begin with, such as / or /videos/")
	case len(r.Origins) == 0:
		w.bad(m.Key, full, "has no origins: give URLs, or bucket:NAME")
	case r.Inactive <= 0 || r.StaleIfError < 0 || r.StaleWhileRevalidate < 0:
		w.bad(m.Key, full, "durations must not be negative, and inactive not 0")
	}
	if _, err := r.TTLs(); err != nil {
		w.bad(m.Key, full+".ttl", err.Error())
	}
	for _, o := range r.Origins {
		if err := checkOrigin(o, r.Credentials); err != nil {
			w.bad(m.Key, full+".origins", err.Error())
		}
	}
}

// TTLs are the times by status.
func (r *EdgeRule) TTLs() (map[int]time.Duration, error) {
	all := map[int]time.Duration{}
	for _, s := range r.TTL {
		code, text, ok := strings.Cut(s, "=")
		status, err := strconv.Atoi(strings.TrimSpace(code))
		d, derr := ParseDuration(strings.TrimSpace(text))
		if !ok || err != nil || derr != nil || status < 200 || status > 599 || status == 206 || status == 304 || d < 0 {
			return nil, fmt.Errorf("want statuses with times, such as 200=7d, not %q", s)
		}
		all[status] = d.Std()
	}
	return all, nil
}

func checkOrigin(o, credentials string) error {
	if name, ok := strings.CutPrefix(o, "bucket:"); ok {
		if name == "" || strings.Contains(name, "/") {
			return fmt.Errorf("want bucket:NAME, not %q", o)
		}
		return nil
	}
	u, err := url.Parse(o)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "s3":
		return fmt.Errorf("want an http, https or s3 URL, or bucket:NAME, not %q", o)
	case u.User != nil:
		return fmt.Errorf("credentials do not belong in the URL of %s", u.Host)
	case u.Scheme != "s3":
		return nil
	case credentials == "":
		return fmt.Errorf("%s needs credentials: name a file", o)
	}
	e, err := url.Parse(u.Query().Get("endpoint"))
	if err != nil || e.Host == "" || e.Scheme != "http" && e.Scheme != "https" || e.User != nil {
		return fmt.Errorf("want s3://BUCKET?endpoint=https://HOST, not %q", o)
	}
	return nil
}

func (e *Effective) validateEdge(bad complain, addr func(key, value string)) {
	c := &e.Edge
	if c.Listen == "" {
		if len(e.EdgeRules) > 0 {
			bad("edge.listen", "is not set, and there are edge_rules: give an address such as :8080")
		}
		return
	}
	addr("edge.listen", c.Listen)
	if (c.Listen == e.Listen || c.Listen == e.AdminListen) && !strings.HasSuffix(c.Listen, ":0") {
		bad("edge.listen", "is another endpoint's address too: choose another port")
	}
	if len(e.EdgeRules) == 0 {
		bad("edge.listen", "is set without edge_rules: say in the file where contents come from")
	}
	prefixes := map[string]string{}
	for name, r := range e.EdgeRules {
		if other, twice := prefixes[r.Prefix]; twice {
			bad("edge.listen", "the rules %s and %s have the same prefix", min(name, other), max(name, other))
		}
		prefixes[r.Prefix] = name
	}
	if c.Slice < 4*kib || c.Slice > 8*mib {
		bad("edge.slice", "want 4KiB to 8MiB, not %s", c.Slice)
	}
	if c.Timeout < Duration(1e9) {
		bad("edge.timeout", "want 1s or more, not %s", c.Timeout)
	}
	if strings.ContainsFunc(c.Node, notInAccessKey) {
		bad("edge.node", "want letters, digits or ._@+-, not %q", c.Node)
	}
	for _, p := range c.PurgeFrom {
		if _, err := netip.ParsePrefix(p); err != nil && net.ParseIP(p) == nil {
			bad("edge.purge_from", "want addresses and networks such as 10.0.0.0/8, not %q", p)
		}
	}
}
