// Package doctor looks at a machine and says what endangers a site on it: its volume's encryption, file system and
// mount options, free space, the clock, limits, the modes of files that hold secrets, where the keys are, who can reach
// its endpoints and how long its certificates last.
//
// It promises to change nothing and to need no privilege: what it cannot see it says it could not see. It must never
// import another package of this module but the vocabulary.
package doctor

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"firn"
)

// Level says how bad a finding is.
type Level string

// The levels.
const (
	OK   Level = "ok"
	Note Level = "note" // worth knowing
	Warn Level = "warn" // a risk
	Bad  Level = "bad"  // data or secrets are in danger
)

// Finding is the result of one check.
type Finding struct {
	Check string `json:"check"`
	Level Level  `json:"level"`
	What  string `json:"what"`
	Do    string `json:"do,omitempty"` // what to do about it
}

// Options say where to look.
type Options struct {
	Data    string    // data directory
	Root    string    // where proc and sys are; "" is /
	Reserve int64     // bytes the site keeps free
	Memory  int64     // bytes the site aims to stay below
	Now     time.Time // the zero time is now
	Site    Site      // settings of the site
}

// Run makes all checks. The error is of a directory that cannot be looked at.
func Run(o Options) ([]Finding, error) {
	const op = "look at"
	if o.Root == "" {
		o.Root = "/"
	}
	if o.Now.IsZero() {
		o.Now = time.Now()
	}
	abs, err := filepath.Abs(o.Data)
	if err != nil {
		return nil, firn.E(op, o.Data, err)
	}
	if o.Data, err = filepath.EvalSymlinks(abs); err != nil {
		return nil, &firn.Error{Kind: firn.NotFound, Op: op, Subject: abs, Err: errors.New("no such directory: name the site's with --data")}
	}
	fi, err := os.Stat(o.Data)
	if err != nil {
		return nil, firn.E(op, o.Data, err)
	}
	d := doctor{Options: o}
	m, err := mountOf(o.Root, o.Data)
	if err != nil {
		d.add("file system", Note, "which it is cannot be seen: "+err.Error(), "")
		d.add("encryption", Note, "whether the volume is encrypted cannot be seen", "")
	} else {
		d.fileSystem(m)
		d.encryption(m)
	}
	d.space()
	d.secrets(fi)
	d.clock()
	d.openFiles()
	d.memory()
	d.site(o.Site)
	return d.found, nil
}

// Worst returns the highest level of findings.
func Worst(found []Finding) Level {
	worst := OK
	rank := map[Level]int{OK: 0, Note: 1, Warn: 2, Bad: 3}
	for _, f := range found {
		if rank[f.Level] > rank[worst] {
			worst = f.Level
		}
	}
	return worst
}

type doctor struct {
	Options
	found []Finding
}

func (d *doctor) add(check string, l Level, what, do string) {
	d.found = append(d.found, Finding{check, l, what, do})
}

// mount is one line of /proc/self/mountinfo.
type mount struct {
	device  string // MAJOR:MINOR
	point   string
	kind    string
	source  string
	options []string // of the mount and of the file system
}

func (m mount) has(option string) bool {
	for _, o := range m.options {
		if o == option || strings.HasPrefix(o, option+"=") {
			return true
		}
	}
	return false
}

// maxProc bounds what is read of a file of proc or sys.
const maxProc = 4 << 20

func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxProc))
}

// mountOf returns the mount that path, absolute and without links, lies on.
func mountOf(root, path string) (mount, error) {
	b, err := readSmall(filepath.Join(root, "proc/self/mountinfo"))
	if err != nil {
		return mount{}, err
	}
	var best mount
	for _, m := range parseMounts(b) {
		below := m.point == "/" || path == m.point || strings.HasPrefix(path, m.point+"/")
		if below && len(m.point) >= len(best.point) { // of two on one point the later counts
			best = m
		}
	}
	if best.point == "" {
		return best, errors.New("no mount in /proc/self/mountinfo holds it")
	}
	return best, nil
}

// parseMounts reads mountinfo (proc_pid_mountinfo(5)). Lines it does not understand are left out.
func parseMounts(b []byte) []mount {
	var out []mount
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		own, fsys, ok := strings.Cut(s.Text(), " - ")
		f, g := strings.Fields(own), strings.Fields(fsys)
		if !ok || len(f) < 6 || len(g) < 3 {
			continue
		}
		out = append(out, mount{
			device: f[2], point: unescape(f[4]), kind: g[0], source: unescape(g[1]),
			options: append(strings.Split(f[5], ","), strings.Split(g[2], ",")...),
		})
	}
	return out
}

// unescape undoes the octal escapes of blanks in mountinfo.
func unescape(s string) string {
	for i := 0; i+3 < len(s); i++ {
		if s[i] != '\\' {
			continue
		}
		if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
			s = s[:i] + string([]byte{byte(n)}) + s[i+4:]
		}
	}
	return s
}

func (d *doctor) fileSystem(m mount) {
	const check = "file system"
	name := m.kind + " at " + m.point
	before := len(d.found)
	switch m.kind {
	case "tmpfs", "ramfs", "hugetlbfs":
		d.add(check, Bad, name+" is memory: everything is gone after a restart of the machine", "use a directory on a disk")
	case "overlay", "aufs":
		d.add(check, Bad, name+" is the changing layer of a container: it goes with the container", "mount a volume for the data directory")
	case "nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "ceph", "fuse.glusterfs", "afs":
		d.add(check, Warn, name+" is a file system of the network: locks and fsync hold as far as its server and its mount options do, and a lost server stops the site",
			"prefer a local disk")
	case "vfat", "exfat", "msdos", "ntfs", "ntfs3", "fuseblk":
		d.add(check, Bad, name+" has no file modes or no journal: secrets are open to all users and a power loss may damage it", "use ext4 or xfs")
	case "ext2":
		d.add(check, Warn, name+" has no journal: a power loss may damage it", "use ext4 or xfs")
	}
	if m.kind == "ext4" && m.has("data=writeback") {
		d.add(check, Note, name+" orders data after metadata (data=writeback); what firn syncs is safe, its checks find the rest", "")
	}
	if journal, seen := d.journal(m); m.kind == "ext4" && seen && !journal {
		d.add(check, Warn, name+" was made without a journal: a power loss may damage it", "tune2fs -O has_journal on the unmounted device")
	}
	for _, o := range []string{"nobarrier", "barrier=0"} {
		if m.has(o) {
			d.add(check, Bad, name+" is mounted with "+o+": a power loss takes back what was acknowledged, unless the drive's cache has a battery",
				"mount it without "+o)
		}
	}
	if m.has("ro") {
		d.add(check, Bad, name+" is mounted read-only", "see the kernel's log: an error may have made it so")
	}
	if len(d.found) == before {
		d.add(check, OK, name, "")
	}
}

// journal reports whether an ext4 file system has a journal, as far as the kernel tells.
func (d *doctor) journal(m mount) (has, seen bool) {
	dev, err := filepath.EvalSymlinks(filepath.Join(d.Root, "sys/dev/block", m.device))
	if err != nil {
		return false, false
	}
	// jbd2 shows a directory for each journal, named after the device.
	entries, err := os.ReadDir(filepath.Join(d.Root, "proc/fs/jbd2"))
	if err != nil {
		return false, false
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), filepath.Base(dev)+"-") {
			return true, true
		}
	}
	return false, true
}

// maxDepth bounds how many devices below each other are looked through.
const maxDepth = 16

func (d *doctor) encryption(m mount) {
	const check = "encryption"
	const how = "put it on LUKS (docs/luks.md), or have firn encrypt all it stores"
	switch m.kind {
	case "ecryptfs", "fuse.gocryptfs", "fuse.encfs":
		d.add(check, OK, "the data directory lies on "+m.kind, "")
		return
	case "zfs":
		d.add(check, Note, "the data directory lies on ZFS, whose encryption cannot be seen from here", "zfs get encryption "+m.source)
		return
	}
	device := m.device
	if major, _, _ := strings.Cut(device, ":"); major == "0" {
		// btrfs and others have numbers of their own: the source names the device.
		if device = d.numberOf(m.source); device == "" {
			d.add(check, Warn, "the data directory lies on "+m.kind+", of which no device can be seen: it is taken as not encrypted", how)
			return
		}
	}
	encrypted, plain := d.layers(device, 0)
	switch {
	case encrypted != "" && !plain:
		d.add(check, OK, "the data directory lies on an encrypted volume ("+encrypted+")", "")
	case encrypted != "":
		d.add(check, Warn, "only a part of the volume's devices is encrypted ("+encrypted+")", how)
	default:
		d.add(check, Warn, "the data directory lies on a volume that is not encrypted: who takes the disk reads what is on it", how)
	}
	d.swap()
}

// numberOf returns the number of a device by its path, "" where it has none.
func (d *doctor) numberOf(source string) string {
	base := filepath.Base(source)
	if link, err := filepath.EvalSymlinks(filepath.Join(d.Root, source)); err == nil {
		base = filepath.Base(link)
	}
	b, err := readSmall(filepath.Join(d.Root, "sys/class/block", base, "dev"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// layers looks through a device and those it is made of: which kind of encryption is there, and whether some way down
// to a disk has none.
func (d *doctor) layers(device string, depth int) (encrypted string, plain bool) {
	dir, err := filepath.EvalSymlinks(filepath.Join(d.Root, "sys/dev/block", device))
	if err != nil || depth > maxDepth {
		return "", true
	}
	if uuid, err := readSmall(filepath.Join(dir, "dm/uuid")); err == nil {
		// cryptsetup writes CRYPT-LUKS2-..., CRYPT-PLAIN-..., CRYPT-INTEGRITY-... (which only checks).
		if kind, ok := strings.CutPrefix(string(uuid), "CRYPT-"); ok && !strings.HasPrefix(kind, "INTEGRITY") && !strings.HasPrefix(kind, "VERITY") {
			kind, _, _ = strings.Cut(strings.TrimSpace(kind), "-")
			return kind, false
		}
	}
	slaves, err := os.ReadDir(filepath.Join(dir, "slaves"))
	if err != nil || len(slaves) == 0 {
		// A partition has no slaves of its own, and its disk none either: the end.
		return "", true
	}
	for _, s := range slaves {
		b, err := readSmall(filepath.Join(dir, "slaves", s.Name(), "dev"))
		if err != nil {
			plain = true
			continue
		}
		e, p := d.layers(strings.TrimSpace(string(b)), depth+1)
		plain = plain || p
		if e != "" {
			encrypted = e
		}
	}
	return encrypted, plain
}

// swap says where memory may be written to, in plain.
func (d *doctor) swap() {
	b, err := readSmall(filepath.Join(d.Root, "proc/swaps"))
	if err != nil {
		return
	}
	for i, line := range strings.Split(strings.TrimSpace(string(b)), "\n") {
		f := strings.Fields(line)
		if i == 0 || len(f) < 2 || strings.Contains(f[0], "zram") {
			continue
		}
		device := ""
		if f[1] == "partition" {
			device = d.numberOf(unescape(f[0]))
		} else if m, err := mountOf(d.Root, unescape(f[0])); err == nil {
			device = m.device
		}
		if e, plain := d.layers(device, 0); e == "" || plain {
			d.add("swap", Warn, "memory may be swapped to "+unescape(f[0])+", which is not encrypted: keys in it can be read from the disk",
				"encrypt the swap (crypttab: swap /dev/... /dev/urandom swap), or use none")
		}
	}
}

func (d *doctor) space() {
	var st unix.Statfs_t
	if err := unix.Statfs(d.Data, &st); err != nil {
		d.add("space", Note, "free space cannot be seen: "+err.Error(), "")
		return
	}
	free, total := int64(st.Bavail)*st.Bsize, int64(st.Blocks)*st.Bsize
	what := fmt.Sprintf("%d MiB of %d MiB free", free>>20, total>>20)
	switch {
	case free <= d.Reserve:
		d.add("space", Bad, fmt.Sprintf("%s, no more than the reserve of %d MiB: writes are refused", what, d.Reserve>>20), "free some, or set reserve lower")
	case total > 0 && free < total/20:
		d.add("space", Warn, what, "free some")
	default:
		d.add("space", OK, what, "")
	}
	if st.Files > 0 && st.Ffree < st.Files/50 {
		d.add("inodes", Warn, fmt.Sprintf("%d of %d are free", st.Ffree, st.Files), "each object above 64 KiB takes one")
	}
}

// secretNames are the names that hold secrets, below the data directory.
var secretNames = [...]string{"credentials.json", "admin.token", "site.key", "tls", "audit", "kv", "keyring.json", "keys"}

func (d *doctor) secrets(dir fs.FileInfo) {
	const check = "permissions"
	before := len(d.found)
	look := func(path string, fi fs.FileInfo) {
		if p := fi.Mode().Perm(); p&0o077 != 0 {
			d.add(check, Bad, fmt.Sprintf("%s has mode %04o: other users of the machine can get at it", path, p), "chmod go= "+path)
		}
	}
	look(d.Data, dir)
	for _, name := range secretNames {
		path := filepath.Join(d.Data, name)
		if fi, err := os.Lstat(path); err == nil {
			look(path, fi)
		}
	}
	if len(d.found) == before {
		d.add(check, OK, "the data directory and its secrets are closed to other users", "")
	}
}

func (d *doctor) clock() {
	// Signatures are refused 15 minutes off.
	if d.Now.Year() < 2025 {
		d.add("clock", Bad, "it says "+d.Now.UTC().Format(time.RFC3339)+": signatures will be refused", "set it, and run a time service")
		return
	}
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	switch {
	case err != nil:
		d.add("clock", Note, "whether it is kept by a time service cannot be seen: "+err.Error(), "")
	case state == unix.TIME_ERROR || t.Status&unix.STA_UNSYNC != 0:
		d.add("clock", Warn, "no time service keeps it: signatures are refused when it is 15 minutes off", "run chrony or systemd-timesyncd, on the host where this is a container")
	default:
		d.add("clock", OK, "it is kept by a time service", "")
	}
}

// leastFiles is what the default of 8192 connections needs, with files of the store.
const leastFiles = 16384

func (d *doctor) openFiles() {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		d.add("open files", Note, "the limit cannot be seen: "+err.Error(), "")
		return
	}
	if l.Max < leastFiles {
		d.add("open files", Warn, fmt.Sprintf("at most %d: fewer connections than limits.connections allows", l.Max), "raise it: LimitNOFILE in systemd, --ulimit nofile in docker")
		return
	}
	d.add("open files", OK, fmt.Sprintf("at most %d", l.Max), "")
}

func (d *doctor) memory() {
	const check = "memory"
	limit, from := int64(0), ""
	for _, name := range []string{"sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		b, err := readSmall(filepath.Join(d.Root, name))
		if err != nil {
			continue
		}
		if n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil && n < 1<<50 {
			limit, from = n, "the control group"
		}
		break
	}
	if limit == 0 {
		b, err := readSmall(filepath.Join(d.Root, "proc/meminfo"))
		if err == nil {
			_, v, _ := strings.Cut(string(b), "MemTotal:")
			f := strings.Fields(v)
			if len(f) > 0 {
				if n, err := strconv.ParseInt(f[0], 10, 64); err == nil {
					limit, from = n<<10, "the machine"
				}
			}
		}
	}
	switch {
	case limit == 0:
		d.add(check, Note, "how much there is cannot be seen", "")
	case limit < d.Memory+d.Memory/2:
		d.add(check, Warn, fmt.Sprintf("%s has %d MiB, less than memory_limit (%d MiB) and half as much again: the kernel may end the site", from, limit>>20, d.Memory>>20),
			"set memory_limit lower, or give it more")
	default:
		d.add(check, OK, fmt.Sprintf("%s has %d MiB", from, limit>>20), "")
	}
}
