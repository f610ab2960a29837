package doctor

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"firn"
)

// machine is a made-up proc and sys.
type machine struct {
	t    *testing.T
	root string
	data string
}

func newMachine(t *testing.T) *machine {
	m := &machine{t: t, root: t.TempDir(), data: filepath.Join(t.TempDir(), "data")}
	if err := os.Mkdir(m.data, 0o700); err != nil {
		t.Fatal(err)
	}
	m.write("proc/meminfo", "MemTotal:       16000000 kB\n")
	return m
}

func (m *machine) write(name, text string) {
	m.t.Helper()
	path := filepath.Join(m.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

// mount puts the data directory on a file system.
func (m *machine) mount(device, kind, source, options string) {
	m.write("proc/self/mountinfo", fmt.Sprintf("21 1 254:9 / / rw - ext4 /dev/root rw\n36 21 %s / %s rw,noatime shared:1 - %s %s %s\n",
		device, strings.ReplaceAll(m.data, " ", `\040`), kind, source, options))
}

// device makes a block device; uuid is device mapper's, "" for a plain one.
func (m *machine) device(number, name, uuid string, slaves ...string) {
	m.t.Helper()
	dir := "sys/devices/virtual/block/" + name
	m.write(dir+"/dev", number+"\n")
	if uuid != "" {
		m.write(dir+"/dm/uuid", uuid+"\n")
	}
	link := func(at, to string) {
		at = filepath.Join(m.root, at)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			m.t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join(m.root, to), at); err != nil {
			m.t.Fatal(err)
		}
	}
	link("sys/dev/block/"+number, dir)
	link("sys/class/block/"+name, dir)
	for _, s := range slaves {
		link(dir+"/slaves/"+s, "sys/devices/virtual/block/"+s)
	}
}

func (m *machine) run(o Options) map[string]Finding {
	m.t.Helper()
	o.Root, o.Data = m.root, m.data
	found, err := Run(o)
	if err != nil {
		m.t.Fatal(err)
	}
	by := map[string]Finding{}
	for _, f := range found {
		if f.What == "" || (f.Level == Bad || f.Level == Warn && f.Check != "inodes") && f.Do == "" {
			m.t.Errorf("%+v", f)
		}
		by[f.Check] = f
	}
	return by
}

func TestEncryption(t *testing.T) {
	const luks = "CRYPT-LUKS2-0123456789abcdef-data"
	for _, c := range []struct {
		name  string
		setup func(m *machine)
		want  Level
		says  string
	}{
		{"plain disk", func(m *machine) { m.device("8:1", "sda1", ""); m.mount("8:1", "ext4", "/dev/sda1", "rw") }, Warn, "not encrypted"},
		{"LUKS", func(m *machine) {
			m.device("8:1", "sda1", "")
			m.device("253:0", "dm-0", luks, "sda1")
			m.mount("253:0", "xfs", "/dev/mapper/data", "rw")
		}, OK, "LUKS2"},
		{"LVM on LUKS", func(m *machine) {
			m.device("8:1", "sda1", "")
			m.device("253:0", "dm-0", luks, "sda1")
			m.device("253:1", "dm-1", "LVM-abc", "dm-0")
			m.mount("253:1", "ext4", "/dev/vg/lv", "rw")
		}, OK, "LUKS2"},
		{"LVM without", func(m *machine) {
			m.device("8:1", "sda1", "")
			m.device("253:1", "dm-1", "LVM-abc", "sda1")
			m.mount("253:1", "ext4", "/dev/vg/lv", "rw")
		}, Warn, "not encrypted"},
		{"a mirror of which half is encrypted", func(m *machine) {
			m.device("8:1", "sda1", "")
			m.device("8:17", "sdb1", "")
			m.device("253:0", "dm-0", luks, "sda1")
			m.device("9:0", "md0", "", "dm-0", "sdb1")
			m.mount("9:0", "ext4", "/dev/md0", "rw")
		}, Warn, "only a part"},
		{"integrity only checks", func(m *machine) {
			m.device("8:1", "sda1", "")
			m.device("253:0", "dm-0", "CRYPT-INTEGRITY-data", "sda1")
			m.mount("253:0", "ext4", "/dev/mapper/data", "rw")
		}, Warn, "not encrypted"},
		{"btrfs on LUKS", func(m *machine) {
			m.device("8:1", "sda1", "")
			m.device("253:0", "dm-0", luks, "sda1")
			m.mount("0:42", "btrfs", "/dev/dm-0", "rw")
		}, OK, "LUKS2"},
		{"a device that cannot be seen", func(m *machine) { m.mount("8:99", "ext4", "/dev/sdz", "rw") }, Warn, "not encrypted"},
		{"a device made of itself", func(m *machine) {
			m.device("9:0", "md0", "", "md0")
			m.mount("9:0", "ext4", "/dev/md0", "rw")
		}, Warn, "not encrypted"},
		{"nothing can be seen", func(*machine) {}, Note, "cannot be seen"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t)
			c.setup(m)
			if f := m.run(Options{})["encryption"]; f.Level != c.want || !strings.Contains(f.What, c.says) {
				t.Errorf("%+v, want %s: %s", f, c.want, c.says)
			}
		})
	}
}

func TestSwap(t *testing.T) {
	m := newMachine(t)
	m.device("8:1", "sda1", "")
	m.device("8:2", "sda2", "")
	m.device("253:0", "dm-0", "CRYPT-LUKS1-x", "sda1")
	m.mount("253:0", "ext4", "/dev/dm-0", "rw")
	m.write("proc/swaps", "Filename Type Size Used Priority\n/dev/sda2 partition 1 0 -2\n")
	if f := m.run(Options{})["swap"]; f.Level != Warn {
		t.Errorf("%+v", f)
	}
	m.write("proc/swaps", "Filename Type Size Used Priority\n/dev/dm-0 partition 1 0 -2\n/dev/zram0 partition 1 0 -2\n")
	if f, ok := m.run(Options{})["swap"]; ok {
		t.Errorf("%+v", f)
	}
}

func TestFileSystem(t *testing.T) {
	for _, c := range []struct {
		kind, options string
		want          Level
	}{
		{"ext4", "rw", OK},
		{"xfs", "rw", OK},
		{"tmpfs", "rw", Bad},
		{"overlay", "rw", Bad},
		{"nfs4", "rw", Warn},
		{"vfat", "rw", Bad},
		{"ext2", "rw", Warn},
		{"ext4", "rw,nobarrier", Bad},
		{"ext4", "rw,barrier=0", Bad},
		{"xfs", "ro", Bad},
		{"ext4", "rw,data=writeback", Note},
	} {
		m := newMachine(t)
		m.device("8:1", "sda1", "")
		m.mount("8:1", c.kind, "/dev/sda1", c.options)
		if f := m.run(Options{})["file system"]; f.Level != c.want {
			t.Errorf("%s %s: %+v, want %s", c.kind, c.options, f, c.want)
		}
	}
	m := newMachine(t)
	m.device("8:1", "sda1", "")
	m.mount("8:1", "ext4", "/dev/sda1", "rw")
	m.write("proc/fs/jbd2/sdb1-8/info", "")
	if f := m.run(Options{})["file system"]; f.Level != Warn || !strings.Contains(f.What, "journal") {
		t.Errorf("%+v", f)
	}
	m.write("proc/fs/jbd2/sda1-8/info", "")
	if f := m.run(Options{})["file system"]; f.Level != OK {
		t.Errorf("%+v", f)
	}
}

func TestTheRest(t *testing.T) {
	m := newMachine(t)
	by := m.run(Options{Reserve: 1, Memory: 1 << 30})
	for _, check := range []string{"space", "permissions", "memory"} {
		if f := by[check]; f.Level != OK && check != "space" {
			t.Errorf("%+v", f)
		}
	}
	m.write("sys/fs/cgroup/memory.max", "268435456\n")
	if err := os.WriteFile(filepath.Join(m.data, "admin.token"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	by = m.run(Options{Reserve: 1 << 62, Memory: 256 << 20, Now: time.Unix(0, 0)})
	for check, want := range map[string]Level{"space": Bad, "permissions": Bad, "memory": Warn, "clock": Bad} {
		if by[check].Level != want {
			t.Errorf("%+v, want %s", by[check], want)
		}
	}
	if w := Worst([]Finding{{Level: OK}, {Level: Warn}, {Level: Note}}); w != Warn {
		t.Error(w)
	}
	if _, err := Run(Options{Data: filepath.Join(t.TempDir(), "none")}); firn.KindOf(err) != firn.NotFound {
		t.Error(err)
	}
}

func FuzzMounts(f *testing.F) {
	f.Add([]byte("36 21 8:1 / /mnt/a\\040b rw shared:1 - ext4 /dev/sda1 rw\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, m := range parseMounts(b) {
			if m.kind == "" {
				t.Errorf("%+v", m)
			}
		}
	})
}

// certificate writes a certificate that ends at a time.
func certificate(t *testing.T, path string, from, to time.Time) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: from, NotAfter: to}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestCertificates(t *testing.T) {
	now := time.Now()
	const day = 24 * time.Hour
	m := newMachine(t)
	path := filepath.Join(t.TempDir(), "site.pem")
	look := func() Finding {
		return m.run(Options{Now: now, Site: Site{Certificates: []string{path}}})["certificate"]
	}
	if f := look(); f.Level != "" {
		t.Errorf("none is there: %+v", f)
	}
	for _, c := range []struct {
		from, to time.Time
		want     Level
		says     string
	}{
		{now.Add(-day), now.Add(90 * day), OK, "valid until"},
		{now.Add(-day), now.Add(15 * day), OK, "valid until"},
		{now.Add(-day), now.Add(13 * day), Warn, "in 12 days"},
		{now.Add(-2 * day), now.Add(-day), Bad, "ended"},
		{now.Add(day), now.Add(90 * day), Bad, "not valid before"},
	} {
		certificate(t, path, c.from, c.to)
		if f := look(); f.Level != c.want || !strings.Contains(f.What, c.says) {
			t.Errorf("%+v, want %s: %s", f, c.want, c.says)
		}
	}
	for _, text := range []string{"", "nothing of the kind", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if f := look(); f.Level != Bad {
			t.Errorf("%q: %+v", text, f)
		}
	}
}

func TestEndpoints(t *testing.T) {
	m := newMachine(t)
	for _, c := range []struct {
		site      Site
		admin, s3 Level
	}{
		{Site{Admin: "127.0.0.1:9001", Listen: "127.0.0.1:9000"}, OK, OK},
		{Site{Admin: "[::1]:9001", Listen: "localhost:9000"}, OK, OK},
		{Site{Admin: ":9001", Listen: ":9000"}, Warn, Note},
		{Site{Admin: "0.0.0.0:9001", Listen: "10.0.0.1:9000"}, Warn, Note},
		{Site{Admin: "10.0.0.1:9001", Listen: ":9000", TLS: true}, Note, OK},
		{Site{Admin: "nonsense", Listen: ""}, Bad, ""},
		{Site{}, "", ""},
	} {
		by := m.run(Options{Site: c.site})
		if a, s := by["admin endpoint"], by["S3 endpoint"]; a.Level != c.admin || s.Level != c.s3 {
			t.Errorf("%+v: %+v and %+v, want %q and %q", c.site, a, s, c.admin, c.s3)
		}
	}
	if f := m.run(Options{Site: Site{Relaxed: true}})["durability"]; f.Level != Warn {
		t.Errorf("%+v", f)
	}
}

// TestKeys puts the keyring and what opens it beside the data, on its volume and on another. /dev/shm is another volume
// than a temporary directory wherever tests run.
func TestKeys(t *testing.T) {
	m := newMachine(t)
	beside := t.TempDir()
	other, err := os.MkdirTemp("/dev/shm", "firn-doctor-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(other) })
	if sameVolume(other, m.data) {
		t.Fatal("temporary directories are in /dev/shm: set TMPDIR to one on a disk")
	}
	file := func(dir, name string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	inside, insideKey := file(m.data, "keyring.json", 0o600), file(m.data, "keyring.key", 0o600)
	outside, outsideKey := file(beside, "keyring.json", 0o600), file(beside, "keyring.key", 0o600)
	far, open := file(other, "secret", 0o600), file(other, "open", 0o644)
	link := filepath.Join(beside, "link")
	if err := os.Symlink(insideKey, link); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		site Site
		want Level
		says string
	}{
		"no keyring":                         {Site{Keyring: filepath.Join(beside, "none"), KeyFile: insideKey}, "", ""},
		"as it comes":                        {Site{Keyring: inside, KeyFile: insideKey}, Warn, "in the data directory"},
		"both beside":                        {Site{Keyring: outside, KeyFile: outsideKey}, Warn, "on the volume of the data"},
		"keyring inside, key on the volume":  {Site{Keyring: inside, KeyFile: outsideKey}, Warn, "on the volume of the data"},
		"a link into the data directory":     {Site{Keyring: inside, KeyFile: link}, Warn, "on the volume of the data"},
		"passphrase in the configuration":    {Site{Keyring: inside, PassphraseFile: outsideKey}, Warn, "on the volume of the data"},
		"key elsewhere":                      {Site{Keyring: inside, KeyFile: far}, OK, "not on the volume"},
		"a passphrase, or a command":         {Site{Keyring: inside}, OK, "not on the volume"},
		"key that is missing":                {Site{Keyring: inside, KeyFile: filepath.Join(other, "none")}, Bad, "not there"},
		"key elsewhere that is open to all":  {Site{Keyring: inside, KeyFile: open}, "", ""},
		"keyring elsewhere, its key with it": {Site{Keyring: file(other, "keyring.json", 0o600), KeyFile: far}, OK, "not on the volume"},
	} {
		by := m.run(Options{Site: c.site})
		if f := by["keys"]; f.Level != c.want || !strings.Contains(f.What, c.says) {
			t.Errorf("%s: %+v, want %q: %s", name, f, c.want, c.says)
		}
		if f := by["permissions"]; (f.Level == Bad) != (c.site.KeyFile == open) {
			t.Errorf("%s: %+v", name, f)
		}
	}
}
