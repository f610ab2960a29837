package backends

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Cluster is a Ceph cluster of one monitor and one store in memory.
type Cluster struct {
	// Conf is its ceph.conf, which names the keyring of client.admin too.
	Conf     string
	Mon, OSD *Process
}

// Ceph starts a cluster without pools.
func Ceph(t testing.TB) *Cluster {
	t.Helper()
	// Not t.TempDir: the path of a Unix socket has at most 107 bytes.
	d, err := os.MkdirTemp("", "firn-ceph")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(d); err != nil {
			t.Error(err)
		}
	})
	for _, name := range []string{"mon", "osd", "log", "run"} {
		if err := os.Mkdir(filepath.Join(d, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	v2, v1 := FreePort(t), FreePort(t)
	mon := fmt.Sprintf("[v2:127.0.0.1:%d,v1:127.0.0.1:%d]", v2, v1)
	id, osd := uuid(), uuid()
	conf := filepath.Join(d, "ceph.conf")
	write(t, conf, strings.NewReplacer("$D", d, "$FSID", id, "$MON", mon).Replace(cephConf))
	keyring, monmap := filepath.Join(d, "keyring"), filepath.Join(d, "monmap")
	store := filepath.Join(d, "osd", "keyring")

	tool := Program(t, "ceph-authtool")
	all := []string{"--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mds", "allow *", "--cap", "mgr", "allow *"}
	run(t, nil, tool, "--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
	run(t, nil, append([]string{tool, keyring, "--gen-key", "-n", "client.admin"}, all...)...)
	run(t, nil, tool, keyring, "--gen-key", "-n", "client.rgw", "--cap", "mon", "allow rw", "--cap", "osd", "allow rwx")
	run(t, nil, Program(t, "monmaptool"), "--create", "--fsid", id, "--addv", "a", mon, monmap)
	run(t, nil, Program(t, "ceph-mon"), "-c", conf, "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", keyring)

	c := &Cluster{Conf: conf}
	c.Mon = start(t, "ceph-mon", listens(v2), nil, Program(t, "ceph-mon"), "-c", conf, "-i", "a", "-f")
	c.Command(t, "osd", "new", osd)
	run(t, nil, tool, "--create-keyring", store, "--gen-key", "-n", "osd.0")
	c.Command(t, "auth", "add", "osd.0", "-i", store, "mon", "allow profile osd", "osd", "allow *", "mgr", "allow profile osd")
	run(t, nil, Program(t, "ceph-osd"), "-c", conf, "-i", "0", "--mkfs", "--osd-uuid", osd, "--keyring", store, "--no-mon-config")
	c.OSD = start(t, "ceph-osd", func() error { return nil }, nil,
		Program(t, "ceph-osd"), "-c", conf, "-i", "0", "--keyring", store, "-f")
	if !poll(startWithin, func() bool { return strings.Contains(c.Command(t, "osd", "stat"), "1 up") }) {
		t.Fatal("the object store of Ceph did not come up")
	}
	return c
}

// Command runs ceph with args against the cluster and returns its output.
func (c *Cluster) Command(t testing.TB, args ...string) string {
	t.Helper()
	return run(t, nil, append([]string{Program(t, "timeout"), "30", Program(t, "ceph"), "-c", c.Conf}, args...)...)
}

// RGW starts a cluster and its S3 gateway.
func RGW(t testing.TB) *S3 {
	t.Helper()
	c := Ceph(t)
	addr := freeAddr(t)
	keyring := filepath.Join(filepath.Dir(c.Conf), "keyring")
	p := start(t, "radosgw", answers("http://"+addr+"/", 0), nil, Program(t, "radosgw"),
		"-c", c.Conf, "-f", "-n", "client.rgw", "-k", keyring, "--rgw-frontends", "beast endpoint="+addr)
	run(t, nil, Program(t, "timeout"), "60", Program(t, "radosgw-admin"), "-c", c.Conf, "-n", "client.rgw", "user", "create",
		"--uid=test", "--display-name=test", "--access-key="+AccessKey, "--secret-key="+SecretKey)
	return &S3{p, "http://" + addr, AccessKey, SecretKey, ""}
}

func uuid() string {
	b := make([]byte, 16)
	rand.Read(b) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// cephConf is a cluster on loopback that one small machine carries: one replica, one store, in memory.
const cephConf = `[global]
fsid = $FSID
mon_host = $MON
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
ms_bind_port_min = 21150
ms_bind_port_max = 21199
auth_cluster_required = cephx
auth_service_required = cephx
auth_client_required = cephx
keyring = $D/keyring
run_dir = $D/run
admin_socket = $D/run/$name.$pid.asok
log_file = $D/log/$name.log
pid_file = $D/run/$name.pid
crash_dir = $D/run
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 4
osd_pool_default_pgp_num = 4
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_allow_pool_delete = true
mon_warn_on_pool_no_redundancy = false
mon_max_pg_per_osd = 500
auth_allow_insecure_global_id_reclaim = false
paxos_propose_interval = 0.05
paxos_min_wait = 0.01
[mon.a]
mon_data = $D/mon
mon_cluster_log_file = $D/log/cluster.log
mon_data_avail_crit = 1
mon_data_avail_warn = 2
[osd.0]
osd_data = $D/osd
osd_objectstore = memstore
osd_fast_shutdown = false
memstore_device_bytes = 2147483648
osd_memory_target = 939524096
osd_class_update_on_start = false
[client.rgw]
rgw_thread_pool_size = 32
`

// listens is a readiness check: a connection to the port is accepted.
func listens(port int) func() error {
	return func() error { return dial(fmt.Sprintf("127.0.0.1:%d", port), time.Second) }
}
