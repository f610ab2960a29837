package backends

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Redis is a Redis server.
type Redis struct {
	*Process
	Addr string
	// CAFile is the authority of its certificate where it speaks TLS; User and Password are set where it wants them.
	CAFile, User, Password string

	cli []string
}

// CLI runs redis-cli and returns what it printed.
func (r *Redis) CLI(t testing.TB, args ...string) string {
	t.Helper()
	return strings.TrimSpace(run(t, r.env(), append(r.cli[:len(r.cli):len(r.cli)], args...)...))
}

func (r *Redis) env() []string {
	if r.Password == "" {
		return nil // redis-cli would complain
	}
	return []string{"REDISCLI_AUTH=" + r.Password}
}

// RedisServer starts one server that keeps an append-only file and syncs each change. settings, such as "--maxmemory",
// "20mb", come on top.
func RedisServer(t testing.TB, settings ...string) *Redis {
	t.Helper()
	return redisServer(t, t.TempDir(), databasePort(t), settings...)
}

func redisServer(t testing.TB, dir string, port int, settings ...string) *Redis {
	t.Helper()
	r := &Redis{Addr: fmt.Sprintf("127.0.0.1:%d", port), cli: []string{Program(t, "redis-cli"), "-p", strconv.Itoa(port)}}
	argv := append([]string{
		Program(t, "redis-server"), "--bind", "127.0.0.1", "--port", strconv.Itoa(port), "--dir", dir, "--save", "",
		"--appendonly", "yes", "--appendfsync", "always",
	}, settings...)
	r.Process = start(t, "redis-server", r.ready(), nil, argv...)
	return r
}

// ready asks with redis-cli, which knows TLS; it is the server's word that it has loaded its data.
func (r *Redis) ready() func() error {
	return func() error {
		conn, err := net.Dial("tcp", r.Addr)
		if err != nil {
			return err
		}
		conn.Close()
		cmd := exec.Command(r.cli[0], append(r.cli[1:len(r.cli):len(r.cli)], "ping")...)
		cmd.Env = append(environ(), r.env()...)
		if out, err := cmd.CombinedOutput(); strings.TrimSpace(string(out)) != "PONG" {
			return fmt.Errorf("ping: %s, %v", out, err)
		}
		return nil
	}
}

// RedisTLS starts a server that speaks only TLS and lets in only one ACL user, who may use the keys below "app:" and,
// of the dangerous commands, those that tell how the server is set.
func RedisTLS(t testing.TB) *Redis {
	t.Helper()
	dir, port := t.TempDir(), databasePort(t)
	cert := certificate(t, dir)
	const user, password = "app", "test-password-0123456789"
	write(t, filepath.Join(dir, "redis.conf"), strings.NewReplacer("$D", dir, "$PORT", strconv.Itoa(port), "$CERT", cert.cert,
		"$KEY", cert.key, "$CA", cert.ca).Replace(`bind 127.0.0.1
port 0
tls-port $PORT
tls-cert-file $CERT
tls-key-file $KEY
tls-ca-cert-file $CA
tls-auth-clients no
dir $D
save ""
appendonly yes
user default off
user app on >`+password+` ~app:* &* +@all -@dangerous +info +config|get
`))
	r := &Redis{
		Addr: fmt.Sprintf("127.0.0.1:%d", port), CAFile: cert.ca, User: user, Password: password,
		cli: []string{Program(t, "redis-cli"), "-p", strconv.Itoa(port), "--tls", "--cacert", cert.ca, "--user", user, "--no-auth-warning"},
	}
	r.Process = start(t, "redis-server", r.ready(), nil, Program(t, "redis-server"), filepath.Join(dir, "redis.conf"))
	return r
}

// RedisCluster starts three primaries with a replica each, and waits until all of them follow.
func RedisCluster(t testing.TB) []*Redis {
	t.Helper()
	var nodes []*Redis
	create := []string{"--cluster", "create"}
	for range 6 {
		dir := t.TempDir()
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		n := redisServer(t, dir, databasePort(t), "--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf",
			"--cluster-node-timeout", "2000", "--repl-diskless-sync-delay", "0", "--appendfsync", "everysec")
		nodes = append(nodes, n)
		create = append(create, n.Addr)
	}
	nodes[0].CLI(t, append(create, "--cluster-replicas", "1", "--cluster-yes")...)
	for _, n := range nodes {
		if !poll(startWithin, func() bool {
			replication := n.CLI(t, "info", "replication")
			return strings.Contains(n.CLI(t, "cluster", "info"), "cluster_state:ok") &&
				(strings.Contains(replication, "role:master") && strings.Contains(replication, "state=online") ||
					strings.Contains(replication, "master_link_status:up"))
		}) {
			t.Fatalf("the cluster is not ready: %s\n%s", n.CLI(t, "cluster", "info"), n.CLI(t, "info", "replication"))
		}
	}
	return nodes
}

// databasePort is FreePort for Redis and PostgreSQL; the port 10,000 above, which a cluster's nodes use among
// themselves, is free, too.
func databasePort(t testing.TB) int {
	t.Helper()
	for range 500 {
		port := 21200 + rand.IntN(200)
		if free(port) && free(port+10_000) {
			return port
		}
	}
	t.Fatal("no free port was found")
	return 0
}

func free(port int) bool {
	l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
	if err == nil {
		l.Close()
	}
	return err == nil
}
