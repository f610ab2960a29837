package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"firn"
	"firn/blob/places"
	"firn/cache"
	"firn/config"
	"firn/edgehttp"
	"firn/kv"
	"firn/object"
	"firn/object/record"
	"firn/proxied"
	"firn/telemetry"
)

// edge is the HTTP edge cache of a site.
type edge struct {
	listener net.Listener
	srv      *http.Server
	server   *edgehttp.Server
	// inner serves the site's own S3 door to the cache, over pipe.
	inner *http.Server
	pipe  *pipe
	// prefixes are, by bucket, those of the rules that serve it, with what their origins are asked for.
	prefixes map[string][]bucketRule
}

type bucketRule struct {
	prefix string
	strip  bool
}

// openEdge builds the edge cache. n.door must be there.
func (n *Node) openEdge(l net.Listener) (*edge, error) {
	c := &n.cfg.Edge
	e := &edge{listener: l, pipe: newPipe(), prefixes: map[string][]bucketRule{}}
	e.inner = &http.Server{Handler: n.door, ErrorLog: stdLog(n.log, "edge cache to s3")}
	n.door.ConfigureHTTP(e.inner)
	o := edgehttp.Options{Node: c.Node, Slice: int64(c.Slice), Timeout: c.Timeout.Std(), Log: n.log.With("door", "edge"), Purge: n.contents.purge}
	var err error
	if o.Node == "" {
		if o.Node, err = os.Hostname(); err != nil {
			return nil, firn.E("edge.node", "", err)
		}
	}
	purgers, err := proxied.Parse(c.PurgeFrom)
	if err != nil {
		return nil, firn.E("edge.purge_from", "", err)
	}
	o.Purgers = purgers
	for name, r := range n.cfg.EdgeRules {
		rule, err := n.edgeRule(e, &r)
		if err != nil {
			return nil, firn.E("edge_rules."+name, "", err)
		}
		o.Rules = append(o.Rules, rule)
	}
	if e.server, err = edgehttp.New(n.contents.cache, o); err != nil {
		return nil, firn.E("edge", "", err)
	}
	n.onClose(func() error { e.server.Close(); return nil })
	proxies, err := proxied.Parse(n.cfg.TrustedProxies)
	if err != nil {
		return nil, err
	}
	e.srv = &http.Server{
		Handler: proxies.Handler(e.server), ErrorLog: stdLog(n.log, "edge connection"),
		ReadHeaderTimeout: n.cfg.Limits.HeaderTimeout.Std(), ReadTimeout: n.cfg.Limits.HeaderTimeout.Std(),
		IdleTimeout: n.cfg.Limits.IdleTimeout.Std(), MaxHeaderBytes: 32 << 10,
	}
	return e, n.registerEdge(e)
}

func (n *Node) edgeRule(e *edge, r *config.EdgeRule) (edgehttp.Rule, error) {
	rule := edgehttp.Rule{
		Prefix: r.Prefix, Strip: r.Strip, Override: r.Override, Inactive: r.Inactive.Std(), StaleIfError: r.StaleIfError.Std(),
		StaleWhileRevalidate: r.StaleWhileRevalidate.Std(), IgnoreQuery: r.IgnoreQuery, Pass: r.Pass, Bypass: r.Bypass,
	}
	var err error
	if rule.TTL, err = r.TTLs(); err != nil {
		return rule, err
	}
	var secrets places.Secrets
	if r.Credentials != "" {
		if secrets, err = places.ReadSecrets(r.Credentials); err != nil {
			return rule, err
		}
	}
	for _, text := range r.Origins {
		var o edgehttp.HTTPOptions
		if bucket, ok := strings.CutPrefix(text, "bucket:"); ok {
			// By the door, as the root user: what it does with encrypted objects and the like is done once.
			o = edgehttp.HTTPOptions{
				URL: &url.URL{Scheme: "http", Host: "site", Path: "/" + bucket}, Region: n.cfg.Region,
				AccessKey: n.root.AccessKey, SecretKey: n.root.SecretKey,
				Client: &http.Client{
					Transport:     &http.Transport{DialContext: e.pipe.dial, DisableCompression: true, MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute},
					CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
				},
			}
			e.prefixes[bucket] = append(e.prefixes[bucket], bucketRule{r.Prefix, r.Strip})
			rule.IgnoreQuery = true
		} else {
			u, err := url.Parse(text)
			if err != nil {
				return rule, err
			}
			o.URL = u
			if u.Scheme == "s3" {
				if o.URL, err = url.Parse(u.Query().Get("endpoint")); err != nil {
					return rule, err
				}
				o.URL = o.URL.JoinPath(u.Host, u.Path)
				o.AccessKey, o.SecretKey, o.SessionToken, o.Region = secrets.Username, secrets.Password, secrets.SessionToken, u.Query().Get("region")
				if o.AccessKey == "" {
					return rule, firn.NewError(firn.Invalid, fmt.Sprintf("%s has no access_key", filepath.Base(r.Credentials)))
				}
				rule.IgnoreQuery = true
			}
		}
		origin, err := edgehttp.NewHTTP(o)
		if err != nil {
			return rule, err
		}
		rule.Origins = append(rule.Origins, origin)
	}
	return rule, nil
}

// follow purges what changes in buckets that are served, until ctx ends. What changed while the site was down is found
// by its entity tag once it is not fresh any more.
func (e *edge) follow(ctx context.Context, k *contents, s *object.Store, log *slog.Logger) error {
	if len(e.prefixes) == 0 {
		return nil
	}
	for seq := s.JournalTail(); ; {
		if err := s.WaitJournal(ctx, seq); err != nil {
			return nil // with ctx; a store that cannot go on ends the site by itself
		}
		err := s.Journal(ctx, seq+1, func(j record.Entry) error {
			seq = j.Seq
			for _, r := range e.prefixes[j.Bucket] {
				key := j.Key
				if !r.strip && !strings.HasPrefix("/"+key, r.prefix) {
					continue
				}
				name := edgehttp.Name("/" + key)
				if r.strip {
					name = edgehttp.Name(r.prefix + strings.TrimPrefix(key, "/"))
				}
				// A bucket's own entries are of all of it.
				if err := k.changed(ctx, cache.Match{Object: name, Prefix: key == ""}); err != nil {
					log.Warn("the edge cache may serve what was replaced after a restart", "bucket", j.Bucket, "error", err)
				}
			}
			return nil
		})
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, kv.ErrTrimmed):
			seq = s.JournalTail()
			err = k.changed(ctx, cache.Match{Object: "/", Prefix: true})
		}
		if err != nil {
			return err
		}
	}
}

func (n *Node) registerEdge(e *edge) error {
	return n.metrics.Collect(func() [][]telemetry.Sample {
		st := e.server.Status()
		var requests []telemetry.Sample
		for name, count := range st.Requests {
			requests = append(requests, telemetry.Sample{Label: strings.ToLower(name), Value: float64(count)})
		}
		return [][]telemetry.Sample{requests, {{Value: float64(st.Bytes)}}, {{Value: float64(st.Fetching)}}}
	},
		telemetry.Desc{Name: "firn_edge_requests_total", Help: "Requests to the edge cache, by what X-Cache-Status said.", Kind: telemetry.Counter, Label: "status"},
		counter("firn_edge_sent_bytes_total", "Bytes of contents that the edge cache sent."),
		gauge("firn_edge_fetching", "Contents that the edge cache asks origins for just now."),
	)
}

// pipe is a listener that only this process reaches.
type pipe struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipe() *pipe { return &pipe{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipe) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case p.conns <- there:
		return here, nil
	case <-p.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Accept implements net.Listener.
func (p *pipe) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (p *pipe) Close() error { p.once.Do(func() { close(p.closed) }); return nil }

// Addr implements net.Listener.
func (p *pipe) Addr() net.Addr { return &net.UnixAddr{Name: "edge cache", Net: "pipe"} }
