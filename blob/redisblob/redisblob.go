// Package redisblob keeps blobs in Redis: one server, or a cluster.
//
// It owns the layout described in docs/format/blob-redis.md. All keys of a namespace live in one or several shards; what
// belongs to a blob (its entry in the ordered index, its pieces, the note of an unfinished put) is in one shard, which
// is one hash slot, so that one script changes all of it at once: the index is the head record, and they cannot differ.
// A place is named by
//
//	redis://user@host:6379/db?prefix=app        one server; rediss: with TLS
//	redis+cluster://user@h1:6379,h2:6379/?prefix=app   a cluster, by some of its nodes; rediss+cluster: with TLS
//
// with ca, cert and key (PEM files), durable, replicas and shards, which Options explains. The password never stands in
// the URL: it comes from Options or from REDISCLI_AUTH.
//
// It promises that a put that was killed leaves nothing visible and nothing for ever, that a server which would forget
// or evict blobs is refused when it is opened, and that memory does not grow with a blob's size. A blob replaced or
// deleted while it is read makes the reader fail with firn.Unavailable once it has gone past the bytes it holds. A call
// to a server that does not answer ends after at most timeout, also when its context ends sooner. It must never import
// another driver.
package redisblob

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"firn"
	"firn/blob/driver"
)

const (
	// pieceSize is what a value holds: large enough that a round trip is cheap beside it, small enough that a script
	// that takes one does not hold up a server's other clients.
	pieceSize = 512 << 10
	// window is what a reader asks for and holds at a time.
	window = 2 * pieceSize
	// parallel is how many pieces of a put are under way at once.
	parallel = 3
	// lease is how long after its last piece an unfinished put is left alone, by the server's clock.
	lease = 10 * time.Minute
	// timeout bounds each exchange with a server.
	timeout = 10 * time.Second
	// replicaWait bounds the wait for replicas after a change.
	replicaWait = 3 * time.Second
	// topologyAge is how old the client's knowledge of a cluster may be while it is in use.
	topologyAge = 2 * time.Second
	// page is how many entries of the index are asked for at once, over all shards.
	page = 2048

	clusterShards = 64
	maxShards     = 256
	maxReplicas   = 8
)

// What Options.Durable can be.
const (
	// DurableSaved wants a server that writes to its disk: an append-only file, or snapshots.
	DurableSaved = "saved"
	// DurableFsync wants each change on the server's disk before it is answered: appendonly yes, appendfsync always.
	DurableFsync = "fsync"
	// DurableAny takes a server as it is, also one that forgets everything when it ends.
	DurableAny = "any"
)

// Options say where the blobs are and who asks.
type Options struct {
	// Addrs are host:port of the server, or of some nodes of the cluster.
	Addrs []string
	// Cluster is set for Redis Cluster.
	Cluster bool
	// DB is the number of the database; a cluster has only 0.
	DB int
	// Prefix begins the name of every Redis key; "firn" by default. Two prefixes are two namespaces, unless one is
	// the other followed by a colon. It is 1 to 64 letters, digits, ".", "_", "-" and ":".
	Prefix string

	// Username is the ACL user; empty for the default one. Password is REDISCLI_AUTH where it is empty.
	Username, Password string

	// TLS is set for an encrypted connection; CAFile has further certificate authorities, CertFile and KeyFile a client
	// certificate, each in PEM.
	TLS                       bool
	CAFile, CertFile, KeyFile string

	// Durable is what the server must promise: DurableSaved (the default), DurableFsync or DurableAny.
	Durable string
	// Replicas is how many replicas must have a change before it succeeds. 0 means one in a cluster, as long as the
	// primary has any, and none at a single server.
	Replicas int
	// Shards is into how many hash slots Init divides a new namespace: 64 in a cluster and 1 at a single server by
	// default. With one shard changes can be applied together, but all blobs are at one node.
	Shards int
}

// FromURL reads a redis:, rediss:, redis+cluster: or rediss+cluster: URL.
func FromURL(u *url.URL) (Options, error) {
	var opt Options
	switch u.Scheme {
	case "redis", "rediss", "redis+cluster", "rediss+cluster":
	default:
		return opt, invalid("the URL must begin with redis:, rediss:, redis+cluster: or rediss+cluster:")
	}
	opt.TLS = strings.HasPrefix(u.Scheme, "rediss")
	opt.Cluster = strings.HasSuffix(u.Scheme, "+cluster")
	if u.User != nil {
		if _, ok := u.User.Password(); ok {
			return opt, invalid("the password does not belong in the URL: set REDISCLI_AUTH")
		}
		opt.Username = u.User.Username()
	}
	if u.Host == "" || u.Opaque != "" {
		return opt, invalid("the URL names no server: redis://host:port/db")
	}
	for addr := range strings.SplitSeq(u.Host, ",") {
		if host := strings.TrimSuffix(addr[strings.LastIndexByte(addr, ']')+1:], ":"); !strings.Contains(host, ":") {
			addr = strings.TrimSuffix(addr, ":") + ":6379"
		}
		opt.Addrs = append(opt.Addrs, addr)
	}
	if db := strings.Trim(u.Path, "/"); db != "" {
		n, err := strconv.ParseUint(db, 10, 16)
		if err != nil {
			return opt, invalid("the URL's path is the number of a database: redis://host:port/0")
		}
		opt.DB = int(n)
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return opt, invalid("the URL's query cannot be read")
	}
	texts := map[string]*string{
		"prefix": &opt.Prefix, "ca": &opt.CAFile, "cert": &opt.CertFile, "key": &opt.KeyFile, "durable": &opt.Durable,
	}
	numbers := map[string]*int{"replicas": &opt.Replicas, "shards": &opt.Shards}
	for name, values := range query {
		text, number := texts[name], numbers[name]
		switch {
		case len(values) == 1 && text != nil:
			*text = values[0]
		case len(values) == 1 && number != nil:
			if *number, err = strconv.Atoi(values[0]); err != nil {
				return opt, invalid(name + " must be a number")
			}
		default:
			return opt, invalid(fmt.Sprintf("%q: the URL takes prefix, ca, cert, key, durable, replicas and shards, each once", name))
		}
	}
	return opt, opt.complete()
}

// complete sets defaults and checks the rest.
func (o *Options) complete() error {
	if o.Prefix == "" {
		o.Prefix = "firn"
	}
	if o.Durable == "" {
		o.Durable = DurableSaved
	}
	if o.Shards == 0 {
		o.Shards = 1
		if o.Cluster {
			o.Shards = clusterShards
		}
	}
	bad := strings.Trim(o.Prefix, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-:")
	switch {
	case len(o.Addrs) == 0:
		return invalid("no server is named")
	case len(o.Addrs) > 1 && !o.Cluster:
		return invalid("several servers make sense for redis+cluster: only")
	case o.Cluster && o.DB != 0:
		return invalid("a cluster has only database 0")
	case bad != "" || len(o.Prefix) > 64:
		return invalid("prefix must be 1 to 64 letters, digits, \".\", \"_\", \"-\" or \":\"")
	case o.Durable != DurableSaved && o.Durable != DurableFsync && o.Durable != DurableAny:
		return invalid("durable must be saved, fsync or any")
	case o.Replicas < 0 || o.Replicas > maxReplicas:
		return invalid("replicas must be 0 to 8")
	case o.Shards < 1 || o.Shards > maxShards:
		return invalid("shards must be 1 to 256")
	case !o.TLS && o.CAFile+o.CertFile+o.KeyFile != "":
		return invalid("ca, cert and key need rediss: or rediss+cluster:")
	case (o.CertFile == "") != (o.KeyFile == ""):
		return invalid("cert and key belong together")
	}
	return nil
}

func (o *Options) tls() (*tls.Config, error) {
	if !o.TLS {
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, invalid("the certificate authorities cannot be read: " + err.Error())
		}
		if config.RootCAs, err = x509.SystemCertPool(); err != nil {
			config.RootCAs = x509.NewCertPool()
		}
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, invalid(o.CAFile + " has no certificate")
		}
	}
	if o.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
		if err != nil {
			return nil, invalid("the client certificate cannot be read: " + err.Error())
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

func invalid(text string) error { return firn.NewError(firn.Invalid, text) }

// store is the driver. It does everything but Apply.
type store struct {
	client   redis.UniversalClient
	prefix   string
	shards   []shard
	replicas int
	scripts  scripts
}

// whole is a store in one shard, where changes can be applied together.
type whole struct{ *store }

// shard is the part of a namespace in one hash slot, by the names of its Redis keys.
type shard struct {
	meta, index, pending string
	piece                string // followed by generation, colon, number
}

func newShard(prefix string, n int) shard {
	p := fmt.Sprintf("%s:{%d}:", prefix, n)
	return shard{meta: p + "meta", index: p + "index", pending: p + "pending", piece: p + "p:"}
}

func newShards(prefix string, n int) []shard {
	all := make([]shard, n)
	for i := range all {
		all[i] = newShard(prefix, i)
	}
	return all
}

func (s *store) shard(key string) shard {
	h := fnv.New32a()
	io.WriteString(h, key) //nolint:errcheck // a hash takes everything
	return s.shards[h.Sum32()%uint32(len(s.shards))]
}

func connect(opt *Options) (*store, error) {
	client, err := Connect(opt)
	if err != nil {
		return nil, err
	}
	return &store{client: client, prefix: opt.Prefix, replicas: opt.Replicas, scripts: newScripts()}, nil
}

// Connect returns a client for the server or cluster that opt names, for those who keep other things than blobs there. It
// does not wait for it.
func Connect(opt *Options) (redis.UniversalClient, error) {
	if err := opt.complete(); err != nil {
		return nil, err
	}
	config, err := opt.tls()
	if err != nil {
		return nil, err
	}
	if opt.Password == "" {
		opt.Password = os.Getenv("REDISCLI_AUTH")
	}
	universal := &redis.UniversalOptions{
		Addrs: opt.Addrs, DB: opt.DB, Username: opt.Username, Password: opt.Password, TLSConfig: config,
		ClientName: "firn", DisableIdentity: true, ContextTimeoutEnabled: true,
		DialTimeout: timeout / 2, ReadTimeout: timeout, WriteTimeout: timeout, PoolTimeout: timeout,
		DialerRetries: 1, PoolSize: 16,
	}
	if opt.Cluster {
		cluster := universal.Cluster()
		// A node that is gone tells nobody that another has taken over.
		cluster.ClusterStateReloadInterval = topologyAge
		return redis.NewClusterClient(cluster), nil
	}
	return redis.NewClient(universal.Simple()), nil
}

// New opens a namespace that Init made. It asks the server whether blobs are safe there: see Options.Durable. It also
// clears away what puts that were killed left behind.
func New(ctx context.Context, opt Options) (driver.Driver, error) {
	s, err := open(ctx, opt)
	if err != nil {
		return nil, err
	}
	if len(s.shards) == 1 {
		return whole{s}, nil
	}
	return s, nil
}

func open(ctx context.Context, opt Options) (_ *store, err error) {
	s, err := connect(&opt)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if err := s.checkServers(ctx, opt.Durable); err != nil {
		return nil, err
	}
	n, err := s.readMeta(ctx)
	if err != nil {
		return nil, err
	}
	s.shards = newShards(s.prefix, n)
	for _, sh := range s.shards {
		if err := s.sweep(ctx, sh); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Close ends all connections.
func (s *store) Close() error {
	if err := s.client.Close(); err != nil && !errors.Is(err, redis.ErrClosed) {
		return err
	}
	return nil
}
