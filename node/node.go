// Package node builds a site from its configuration, runs it and closes it: the data directory and its lock, the
// metadata store, the namespace, the users, the S3 and admin endpoints.
//
// It is the only package that knows every other one, and with cli the only one that imports concrete drivers and
// config. It promises that a site that was built is closed in the reverse order, whatever failed in between; that
// a stop waits for requests in flight within a bound; and that it never ends the process: an error that the site
// cannot go on from is returned by Run.
package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"

	"firn"
	"firn/accesslog"
	"firn/adminapi"
	"firn/audit"
	"firn/auth"
	"firn/blob/wrap/mirror"
	"firn/config"
	"firn/iamapi"
	"firn/pace"
	"firn/proxied"
	"firn/s3api"
	"firn/telemetry"
	"firn/tlsconf"
)

// Options are what a Node gets beside its configuration.
type Options struct {
	// Log gets what an operator should know; nil discards.
	Log *slog.Logger
	// Welcome gets the text that tells once how to reach a new site, with the keys; nil discards.
	Welcome io.Writer
	// Metrics are further sources of metrics, shown with the site's own.
	Metrics []prometheus.Collector
	// Mirrors returns what hears of a mirror that is opened for a tier; nil is nobody.
	Mirrors func(name string, members []string) mirror.Observer
}

// Node is one site in this process.
type Node struct {
	cfg     config.Config
	log     *slog.Logger
	started time.Time

	dir     *DataDir
	root    auth.Credentials
	metrics *telemetry.Metrics
	engine  *engine
	keys    *siteKeys
	users   *auth.Users
	s3      net.Listener
	admin   net.Listener
	s3srv   *http.Server
	admsrv  *http.Server
	tls     *tlsconf.Source // nil without
	audit   *audit.Log      // nil without
	webhook *audit.Webhook  // nil without

	door      *s3api.Server
	accessLog *accesslog.Log
	tiers     *tiers
	contents  *contents // nil without
	edge      *edge     // nil without
	lifecycle *rules

	fatal    chan error // capacity 1
	draining atomic.Bool
	serving  atomic.Bool
	closers  []func() error // in the order of opening
}

// Build opens everything a site needs. The caller calls Run, then Close; after an error nothing is open.
func Build(ctx context.Context, cfg config.Config, o Options) (_ *Node, err error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Welcome == nil {
		o.Welcome = io.Discard
	}
	n := &Node{cfg: cfg, log: o.Log, started: time.Now(), fatal: make(chan error, 1)}
	memory := PlanMemory(int64(cfg.MemoryLimit), engineOffHeap)
	if n.caches() {
		memory.Go += int64(cfg.Cache.Memory)
	}
	restore := memory.apply()
	n.onClose(func() error { restore(); return nil })
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()

	if n.dir, err = OpenDataDir(cfg.Data); err != nil {
		return nil, err
	}
	n.onClose(n.dir.Close)
	if n.keys, err = openKeys(ctx, n.dir, &cfg.Encryption); err != nil {
		return nil, err
	}
	if err := n.dir.unseal(ctx, n.keys, cfg.Encryption.All); err != nil {
		return nil, err
	}
	fresh, err := n.credentials()
	if err != nil {
		return nil, err
	}
	token, err := n.dir.AdminToken()
	if err != nil {
		return nil, err
	}
	proxies, err := proxied.Parse(cfg.TrustedProxies)
	if err != nil {
		return nil, err
	}
	if err := n.openTLS(); err != nil {
		return nil, err
	}
	if err := n.openAudit(); err != nil {
		return nil, err
	}
	// The ports are taken before the store is opened: a wrong address is told at once.
	if n.s3, err = n.bind("listen", cfg.Listen); err != nil {
		return nil, err
	}
	if n.admin, err = n.bind("admin_listen", cfg.AdminListen); err != nil {
		return nil, err
	}
	var edgeListener net.Listener
	if cfg.Edge.Listen != "" {
		if edgeListener, err = n.bind("edge.listen", cfg.Edge.Listen); err != nil {
			return nil, err
		}
	}

	n.metrics = telemetry.New(firn.Version, n.started)
	if n.tiers, err = n.openTiers(o.Mirrors); err != nil {
		return nil, err
	}
	n.onClose(n.tiers.Close)
	tiers, err := n.openCache(n.tiers.set)
	if err != nil {
		return nil, err
	}
	if n.engine, err = openEngine(ctx, n.dir, &n.cfg, memory, tiers, n.log, n.fail); err != nil {
		return nil, err
	}
	n.onClose(n.engine.Close)
	if err := errors.Join(n.tiers.attach(n.engine.store), n.contents.prefetch()); err != nil {
		return nil, err
	}
	secret, err := n.dir.SiteKey()
	if err != nil {
		return nil, err
	}
	n.users, err = auth.OpenUsers(ctx, n.engine.db, n.root, auth.UsersOptions{
		Sealer: &auth.KeySealer{Key: secret},
		Owned:  func(ctx context.Context, id string) ([]string, error) { return owned(ctx, n.engine.store, id) },
	})
	if err != nil {
		return nil, err
	}
	if err := errors.Join(n.register(), n.registerAudit(), n.openAccessLog(ctx), n.openLifecycle(), n.registerTiers()); err != nil {
		return nil, err
	}
	for _, c := range o.Metrics {
		if err := n.metrics.Register(c); err != nil {
			return nil, err
		}
	}

	options := s3api.Options{
		Domains: cfg.Domains, Region: cfg.Region, MaxConcurrent: cfg.Limits.Requests,
		HeaderTimeout: time.Duration(cfg.Limits.HeaderTimeout), StallTimeout: time.Duration(cfg.Limits.StallTimeout),
		IdleTimeout: time.Duration(cfg.Limits.IdleTimeout), Log: n.log.With("door", "s3"), Observe: n.metrics.Request,
		Keys: n.keys, StorageClasses: n.tiers.set.Classes(), ArchiveClasses: n.tiers.archives(),
		MinRate: int64(cfg.Limits.MinRate), Ready: n.ready, Logged: n.logged,
	}
	options.Pace = bounds{n.users, pace.New(pace.Limits{
		Requests: cfg.Limits.UserRequests, Concurrent: cfg.Limits.UserConcurrent, Bytes: int64(cfg.Limits.UserRate),
	}, 0, nil)}
	if n.audit != nil {
		options.Done = n.finished
	}
	if n.lifecycle.counts() {
		options.Read = n.lifecycle.read
	}
	n.door = s3api.New(n.engine.store, n.users, options)
	if edgeListener != nil {
		if n.edge, err = n.openEdge(edgeListener); err != nil {
			return nil, err
		}
	}
	iam := iamapi.New(n.users, nil)
	front := withIdentity(iam, n.users, n.door, n.log.With("door", "iam"), n.identityCall)
	n.s3srv = &http.Server{Handler: n.metrics.InFlight(proxies.Handler(front)), ErrorLog: stdLog(n.log, "s3 connection")}
	n.door.ConfigureHTTP(n.s3srv)
	var metrics http.Handler
	if cfg.Metrics.Enabled {
		metrics = n.metrics.Handler()
	}
	admin := adminapi.New(siteView{n}, n.users, metrics, token, n.log.With("door", "admin"))
	admin.ServeKMS(kms{n.keys, n.engine.store, n.dir})
	admin.ServeIdentity(identity{n.users, n.engine.store, n.door, iam})
	admin.ServeQuotas(siteView{n})
	admin.ServeTiers(tierView{n.tiers})
	admin.ServeLifecycle(lifecycleView{n.lifecycle})
	admin.ServeCache(cacheView{n})
	n.admsrv = &http.Server{
		Handler:           n.audited(admin),
		ErrorLog:          stdLog(n.log, "admin connection"),
		ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 32 << 10,
	}
	if fresh {
		if err := n.welcome(o.Welcome); err != nil {
			n.log.Warn("the new keys could not be printed; they are stored", "file", n.dir.file(credentialsName), "error", err)
		}
	}
	return n, nil
}

// credentials sets n.root and reports whether the pair was made just now.
func (n *Node) credentials() (fresh bool, err error) {
	if n.cfg.AccessKey != "" {
		n.root = auth.Credentials{AccessKey: n.cfg.AccessKey, SecretKey: n.cfg.SecretKey.Reveal()}
		return false, nil
	}
	n.root, fresh, err = n.dir.Credentials()
	return fresh, err
}

func (n *Node) bind(key, addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, &firn.Error{
			Kind: firn.Conflict, Op: "listen", Subject: addr,
			Err: fmt.Errorf("%w: set %s to an address that is free", unwrapOp(err), key),
		}
	}
	if key != "admin_listen" {
		l = netutil.LimitListener(l, n.cfg.Limits.Connections)
	}
	if n.encrypted(key, l) {
		l = tls.NewListener(l, n.tls.Config())
	}
	n.onClose(func() error {
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	return l, nil
}

// unwrapOp takes the cause out of a net.OpError, whose text repeats the address.
func unwrapOp(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

func (n *Node) onClose(fn func() error) { n.closers = append(n.closers, fn) }

// Addr returns the address of the S3 endpoint.
func (n *Node) Addr() net.Addr { return n.s3.Addr() }

// AdminAddr returns the address of the admin endpoint.
func (n *Node) AdminAddr() net.Addr { return n.admin.Addr() }

// Root returns the root credentials.
func (n *Node) Root() auth.Credentials { return n.root }

// Run serves until ctx ends, then lets requests in flight finish within the drain timeout. It returns nil after
// such a stop, and an error where the site cannot go on: then the process should end, so that a restart recovers.
func (n *Node) Run(ctx context.Context) error {
	n.serving.Store(true)
	if err := n.dir.WriteRunInfo(n.runInfo()); err != nil {
		// On a full disk reads and deletes must go on: they are how it becomes less full.
		n.log.Warn("commands will not find this site by its data directory", "data", n.dir.Path, "error", err)
	}
	n.onClose(n.dir.RemoveRunInfo)

	// Background work outlives the drain: requests in flight may need it.
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()
	var g errgroup.Group
	failed := make(chan error, 16) // more than there are, so that none waits for room
	run := func(what string, fn func() error) {
		g.Go(func() error {
			err := fn()
			if err != nil && !errors.Is(err, http.ErrServerClosed) {
				failed <- firn.E(what, "", err)
			}
			return nil
		})
	}
	run("serve s3", func() error { return n.s3srv.Serve(n.s3) })
	run("serve admin", func() error { return n.admsrv.Serve(n.admin) })
	if n.edge != nil {
		run("serve the edge cache", func() error { return n.edge.srv.Serve(n.edge.listener) })
		run("serve the edge cache's own requests", func() error { return n.edge.inner.Serve(n.edge.pipe) })
		run("purge the edge cache", func() error { return n.edge.follow(work, n.contents, n.engine.store, n.log) })
	}
	if n.contents != nil {
		run("fetch ahead", func() error { return n.contents.fetchAhead(work) })
		run("hear of purges", func() error { return n.contents.listen(work) })
	}
	if n.audit != nil {
		run("write the audit log", func() error { return n.audit.Run(work) })
	}
	if n.webhook != nil {
		run("send the audit log", func() error { return n.webhook.Run(work) })
	}
	if n.tls != nil {
		run("keep the certificate current", func() error { return n.tls.Run(work) })
	}
	run("background work", func() error { return n.engine.Run(work) })
	run("deliver access logs", func() error { return n.accessLog.Run(work) })
	run("keep tiers", func() error { return n.tiers.Run(work) })
	run("carry out lifecycle rules", func() error { return n.lifecycle.Run(work) })
	run("keep last uses of keys", func() error { return n.users.Run(work) })
	run("give memory back", func() error { giveBack(work, n.metrics.Begun, debug.FreeOSMemory); return nil })
	n.log.Info("site is up", "version", firn.Version, "listen", n.s3.Addr().String(), "tls", n.cfg.TLS.Mode, "admin", n.admin.Addr().String(),
		"data", n.dir.Path, "durability", n.cfg.Durability, "memory_limit", n.cfg.MemoryLimit.String(),
		"took", time.Since(n.started))
	n.warn()
	debug.FreeOSMemory() // what opening the store needed and serving does not

	var err error
	select {
	case <-ctx.Done():
		n.log.Info("stopping: finishing requests in flight", "within", n.cfg.Limits.DrainTimeout.String())
	case err = <-n.fatal:
		n.log.Error("the site cannot go on; a restart recovers what was acknowledged", "error", err)
	case err = <-failed:
		n.log.Error("the site cannot go on", "error", err)
	}
	n.draining.Store(true)
	n.stop(err == nil)
	stopWork()
	_ = g.Wait() // its errors went to failed
	return err
}

// stop closes the servers, after the requests in flight where drain is set.
func (n *Node) stop(drain bool) {
	timeout := time.Duration(n.cfg.Limits.DrainTimeout)
	if !drain {
		timeout = 0
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if n.edge != nil {
		if err := n.edge.srv.Shutdown(ctx); err != nil {
			_ = n.edge.srv.Close() // its listener's error was Shutdown's
		}
		_ = n.edge.inner.Close() // nobody is left who asks
	}
	if err := n.s3srv.Shutdown(ctx); err != nil {
		if drain {
			n.log.Warn("requests were cut off: they were not finished in time", "after", timeout)
		}
		_ = n.s3srv.Close() // its listener's error was Shutdown's
	}
	// Followers of the journal never finish by themselves.
	_ = n.admsrv.Close()
}

// warn tells what an operator should reconsider.
func (n *Node) warn() {
	if list, err := n.keys.ring.List(context.Background()); err == nil && len(list) > 0 && n.keys.beside {
		n.log.Warn("the keyring and what opens it lie beside what they encrypt: see encryption.keyring and encryption.secret_file",
			"keyring", n.dir.file(keyringName))
	}
	if n.cfg.Durability == config.DurabilityRelaxed {
		n.log.Warn("durability is relaxed: a power loss or a crash takes back the last acknowledged writes")
	}
	if host, _, err := net.SplitHostPort(n.admin.Addr().String()); err == nil {
		if ip := net.ParseIP(host); ip != nil && !ip.IsLoopback() && n.tls == nil {
			n.log.Warn("the admin endpoint is not on loopback: its token travels in plain text", "admin", n.admin.Addr().String())
		}
	}
}

// fail reports an error the site cannot go on from; the first one counts.
func (n *Node) fail(err error) {
	select {
	case n.fatal <- err:
	default:
	}
}

// Close closes what Build opened, in the reverse order. Run must have returned.
func (n *Node) Close() error {
	var errs []error
	for i := len(n.closers) - 1; i >= 0; i-- {
		errs = append(errs, n.closers[i]())
	}
	n.closers = nil
	return errors.Join(errs...)
}
