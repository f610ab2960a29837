package sidecar

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"firn/test/lossyfs"
)

// madeWith returns a world with one version that holds files, and the directory it was made of.
func madeWith(t *testing.T, files map[string]string) (world, string) {
	t.Helper()
	w, dir := local(t), t.TempDir()
	p := w.sidecar(t, dir, "--init")
	p.ready(t)
	write(t, dir, files)
	if code := p.stop(t); code != 0 {
		t.Fatalf("code %d", code)
	}
	return w, dir
}

// repository is the directory of a world that is local.
func (w world) repository() string { return strings.TrimPrefix(w.url, "file:") }

// Rule: repository unreachable: never start empty, never back up emptiness.
func TestUnreachableRepository(t *testing.T) {
	t.Parallel()
	w, _ := madeWith(t, some(3))
	if err := os.Rename(w.repository(), w.repository()+".away"); err != nil {
		t.Fatal(err)
	}
	dir, started := t.TempDir(), filepath.Join(t.TempDir(), "started")
	p := w.sidecar(t, dir, "--", "sh", "-c", "cp "+filepath.Join(dir, "filea")+" "+started)
	p.waits(t, "cannot be reached")
	if _, err := os.Stat(started); err == nil {
		t.Error("the service was started on an empty directory")
	}
	if err := os.Rename(w.repository()+".away", w.repository()); err != nil {
		t.Fatal(err)
	}
	if code := p.wait(t); code != 0 {
		t.Errorf("code %d", code)
	}
	if read(t, started) == "" {
		t.Error("the service was started before the restore")
	}
	if v := p.versions(t); v[len(v)-1].Files != 3 {
		t.Errorf("emptiness was backed up: %+v", v)
	}
}

// Rule: the first run is asked for.
func TestFirstRunIsAskedFor(t *testing.T) {
	t.Parallel()
	w, dir := local(t), t.TempDir()
	p := w.sidecar(t, dir, "--patience", "1s")
	if code := p.wait(t); code != 1 || !strings.Contains(p.log.String(), "firn blob init") {
		t.Errorf("code %d: %s", code, p.log.String())
	}
	p = w.sidecar(t, dir, "--init", "--name", "one")
	p.ready(t)
	write(t, dir, some(1))
	p.stop(t)
	// A name with a letter wrong finds no versions in a repository that has some.
	p = w.sidecar(t, t.TempDir(), "--name", "onr")
	p.waits(t, "correct the name")
	p.kill()
	// The directory came from this repository; another one, even asked for, is no place for it.
	other := local(t)
	p = other.sidecar(t, dir, "--init", "--name", "one")
	p.waits(t, "cannot be reached")
	if _, err := os.Stat(other.repository()); err == nil {
		t.Error("a repository was made for a directory that has one")
	}
}

// Rule: what is in no backup is not overwritten.
func TestUnknownDataIsNotOverwritten(t *testing.T) {
	t.Parallel()
	w, first := madeWith(t, map[string]string{"data": "of the backup"})
	dir := t.TempDir()
	write(t, dir, map[string]string{"data": "unknown"})
	p := w.sidecar(t, dir)
	p.waits(t, "--prefer")
	p.stop(t)
	if got := read(t, dir, "data"); got != "unknown" {
		t.Fatalf("data: %q", got)
	}
	// A node that was away while another one went on, and changed something itself.
	second := t.TempDir()
	p = w.sidecar(t, second)
	p.ready(t)
	write(t, second, map[string]string{"data": "newer", "more": "x"})
	p.stop(t)
	write(t, first, map[string]string{"data": "changed while away"})
	p = w.sidecar(t, first)
	p.waits(t, "changed since its version")
	p.stop(t)
	if got := read(t, first, "data"); got != "changed while away" {
		t.Fatalf("data: %q", got)
	}
	// A person decides: the directory. Then it is the newest version, and the other one is kept.
	p = w.sidecar(t, first, "--prefer", "directory")
	p.ready(t)
	p.must(t, "sidecar", "backup")
	p.stop(t)
	third := t.TempDir()
	p = w.sidecar(t, third)
	p.ready(t)
	p.stop(t)
	if got := read(t, third, "data"); got != "changed while away" {
		t.Errorf("data: %q", got)
	}
	// The second came from an older version and changed nothing since: it is brought forward.
	p = w.sidecar(t, second)
	p.ready(t)
	p.stop(t)
	if got := read(t, second, "data") + read(t, second, "more"); got != "changed while away" {
		t.Errorf("data: %q", got)
	}
}

// Rule: a place that does not say whether there are backups is not one without.
func TestRefusingPlace(t *testing.T) {
	t.Parallel()
	place := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }))
	defer place.Close()
	w := world{
		url: "s3://backups/app?style=path&endpoint=" + place.URL,
		env: []string{"AWS_ACCESS_KEY_ID=somebody", "AWS_SECRET_ACCESS_KEY=something"},
	}
	p := w.sidecar(t, t.TempDir())
	p.waits(t, "cannot be reached")
	if s := p.status(t); strings.Contains(s.Reason, "--init") {
		t.Errorf("it advises to make a new one: %s", s.Reason)
	}
}

// Rule: the exit code says whether the last backup holds all, whatever the service's is.
func TestLastBackupFails(t *testing.T) {
	t.Parallel()
	w, _ := madeWith(t, some(2))
	w.args = []string{"--grace", "1s"}
	dir := t.TempDir()
	p := w.sidecar(t, dir, "--", "sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.05; done")
	p.ready(t)
	if err := os.Rename(w.repository(), w.repository()+".away"); err != nil {
		t.Fatal(err)
	}
	write(t, dir, map[string]string{"last": "x"})
	if code := p.stop(t); code == 0 {
		t.Error("code 0, and the last backup was not made")
	}
}

// Rule: two sidecars on one target: the second waits, or fails.
func TestTwoSidecars(t *testing.T) {
	t.Parallel()
	w, dir := madeWith(t, some(2))
	first := w.sidecar(t, dir)
	first.ready(t)
	second := t.TempDir()
	p := w.sidecar(t, second, "--second", "fail")
	if code := p.wait(t); code != 1 || !strings.Contains(p.log.String(), "holds it") {
		t.Errorf("code %d: %s", code, p.log.String())
	}
	p = w.sidecar(t, second)
	p.waits(t, "another sidecar")
	write(t, dir, map[string]string{"late": "x"})
	if code := first.stop(t); code != 0 {
		t.Errorf("code %d", code)
	}
	p.ready(t)
	if read(t, second, "late") == "" {
		t.Error("the second did not get what the first backed up last")
	}
	// One directory is one sidecar's, too.
	if q := w.sidecar(t, second, "--name", "other", "--init"); q.wait(t) != 1 {
		t.Error("two sidecars in one directory")
	}
}

// Rule: fencing. A sidecar that stood still while another took over writes nothing more.
func TestFencing(t *testing.T) {
	t.Parallel()
	w, dir := madeWith(t, some(3))
	// Its service writes on meanwhile, and is ended with it.
	ended := filepath.Join(t.TempDir(), "ended")
	first := w.sidecar(t, dir, "--", "sh", "-c", "trap 'echo x >"+ended+"; exit 0' TERM; while :; do sleep 0.05; done")
	first.ready(t)
	if err := first.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	write(t, dir, map[string]string{"stale": "x"})
	second := t.TempDir()
	p := w.sidecar(t, second)
	p.ready(t)
	write(t, second, map[string]string{"fresh": "x"})
	p.must(t, "sidecar", "backup")
	if err := first.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if code := first.wait(t); code != 1 || !strings.Contains(first.log.String(), "taken it over") {
		t.Errorf("code %d: %s", code, first.log.String())
	}
	if read(t, ended) == "" {
		t.Error("the service of the superseded sidecar goes on")
	}
	write(t, second, map[string]string{"fresher": "x"})
	if code := p.stop(t); code != 0 {
		t.Errorf("code %d", code)
	}
	third := t.TempDir()
	p = w.sidecar(t, third)
	p.ready(t)
	if read(t, third, "stale") != "" || read(t, third, "fresh") == "" || read(t, third, "fresher") == "" {
		t.Error("the superseded sidecar's backup was restored")
	}
}

// Rule: a restore that was cut off is finished.
func TestInterruptedRestore(t *testing.T) {
	t.Parallel()
	files := map[string]string{}
	for i := range 3000 {
		files[fmt.Sprintf("d%d/file%d", i%50, i)] = strings.Repeat("x", i)
	}
	w, _ := madeWith(t, files)
	dir := t.TempDir()
	p := w.sidecar(t, dir)
	eventually(t, "the restore is under way", func() bool {
		all, err := os.ReadDir(dir)
		return err == nil && len(all) > 5 && strings.Contains(read(t, dir, ".firn-sidecar"), `"restoring"`)
	})
	p.kill()
	if !strings.Contains(read(t, dir, ".firn-sidecar"), `"restoring"`) {
		t.Fatal("the restore was faster than the test: nothing is shown")
	}
	p = w.sidecar(t, dir)
	p.ready(t)
	if !strings.Contains(p.log.String(), "cut off") {
		t.Error("the log does not tell that a restore was cut off")
	}
	for name, want := range files {
		if read(t, dir, name) != want {
			t.Fatalf("%s is not whole", name)
		}
	}
	if v := p.versions(t); v[len(v)-1].Files != 3000 {
		t.Errorf("the half restored directory was backed up: %+v", v)
	}
}

// Rule: where the directory came from is on stable storage before it is acknowledged. After a power loss the sidecar
// knows its own directory; it would have to ask a person otherwise.
func TestPowerLoss(t *testing.T) {
	t.Parallel()
	disk, dir := lossyfs.New(lossyfs.Options{}), t.TempDir()
	if err := disk.Mount(dir); err != nil {
		t.Fatalf("%v (this test needs root and /dev/fuse)", err)
	}
	t.Cleanup(func() {
		if err := disk.Unmount(); err != nil {
			t.Error(err)
		}
	})
	w := local(t)
	w.args = []string{"--init"} // the repository is there after the first round
	for round := range 3 {
		p := w.sidecar(t, dir)
		p.ready(t)
		write(t, dir, map[string]string{"data": strings.Repeat("x", round+1)})
		for _, name := range []string{"data", "."} { // as the service would
			f, err := os.Open(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(f.Sync(), f.Close()); err != nil {
				t.Fatal(err)
			}
		}
		p.must(t, "sidecar", "backup")
		disk.PowerOff()
		p.kill()
		if err := disk.Unmount(); err != nil {
			t.Fatal(err)
		}
		disk.Forget(nil)
		if err := disk.Mount(dir); err != nil {
			t.Fatal(err)
		}
	}
	p := w.sidecar(t, dir)
	p.ready(t)
	if !strings.Contains(p.log.String(), "that of the last version") || read(t, dir, "data") != "xxx" {
		t.Errorf("data: %q", read(t, dir, "data"))
	}
	p.kill() // it has files open there
}

// Rule: what is damaged in the repository is not half restored, and the service not started on it.
func TestDamagedBackup(t *testing.T) {
	t.Parallel()
	w, _ := madeWith(t, map[string]string{"small": "x", "large": strings.Repeat("0123456789abcdef", 1<<16)})
	var packs []string
	if err := filepath.WalkDir(filepath.Join(w.repository(), "packs"), func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			packs = append(packs, path)
		}
		return err
	}); err != nil || len(packs) == 0 {
		t.Fatalf("%d packs: %v", len(packs), err)
	}
	whole := map[string][]byte{}
	for _, p := range packs {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		whole[p] = b
		bad := slices.Clone(b)
		bad[len(bad)/8] ^= 1
		if err := errors.Join(os.Chmod(p, 0o600), os.WriteFile(p, bad, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	dir, started := t.TempDir(), filepath.Join(t.TempDir(), "started")
	p := w.sidecar(t, dir, "--", "cp", filepath.Join(dir, "large"), started)
	p.waits(t, "restore")
	p.kill()
	if _, err := os.Stat(started); err == nil {
		t.Fatal("the service was started")
	}
	// The same directory, with the backup whole again.
	for p, b := range whole {
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p = w.sidecar(t, dir, "--", "cp", filepath.Join(dir, "large"), started)
	if code := p.wait(t); code != 0 || len(read(t, started)) != 1<<20 {
		t.Errorf("code %d, %d bytes", code, len(read(t, started)))
	}
}

// Rule: a directory a part of which cannot be listed is not backed up: less than all must not look like all.
func TestUnreadableDirectory(t *testing.T) {
	t.Parallel()
	w, base := local(t), t.TempDir()
	dir := filepath.Join(base, "data")
	write(t, dir, map[string]string{"a": "x", "b": "x", "private/c": "x", "private/d": "x"})
	// Root reads everything: the sidecar is somebody else.
	if err := errors.Join(os.Chmod(base, 0o755), os.Chmod(filepath.Dir(base), 0o755), os.Mkdir(w.repository(), 0o755)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{w.repository(), filepath.Dir(w.repository()), dir, filepath.Join(dir, "a"), filepath.Join(dir, "b")} {
		if err := os.Chown(path, 65534, 65534); err != nil {
			t.Fatal(err)
		}
	}
	w.user = 65534
	p := w.sidecar(t, dir, "--init", "--no-watch")
	p.ready(t)
	p.must(t, "sidecar", "backup")
	before := p.versions(t)
	if err := os.Chmod(filepath.Join(dir, "private"), 0o700); err != nil {
		t.Fatal(err)
	}
	if out, code := p.command(t, "sidecar", "backup"); code == 0 || !strings.Contains(out, "cannot be looked at") {
		t.Errorf("code %d: %s", code, out)
	}
	if after := p.versions(t); len(after) != len(before) || after[len(after)-1].Files != 4 {
		t.Errorf("%+v after %+v", after, before)
	}
	if code := p.stop(t); code == 0 {
		t.Error("the last backup was not made, and the exit code does not say so")
	}
}

// Rule: a directory that suddenly lost much: the good versions are kept, and somebody is told.
func TestShrunkenDirectory(t *testing.T) {
	t.Parallel()
	w, dir := madeWith(t, some(10))
	p := w.sidecar(t, dir, "--keep", "2")
	p.ready(t)
	for i := range 9 {
		if err := os.Remove(filepath.Join(dir, "file"+string(rune('a'+i)))); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "it is held", func() bool { return p.status(t).Held })
	if out, code := p.command(t, "sidecar", "status"); code != 3 || !strings.Contains(out, "9 of 10 files are gone") {
		t.Errorf("code %d: %s", code, out)
	}
	if m := get(t, p, "/metrics"); !strings.Contains(m, "firn_sidecar_held 1") || !strings.Contains(m, `firn_sidecar_backups_total{result="held"}`) {
		t.Errorf("metrics:\n%s", m)
	}
	// Whatever goes on meanwhile costs no good version.
	for i := range 4 {
		write(t, dir, map[string]string{"filej": fmt.Sprint("changed ", i)})
		p.command(t, "sidecar", "backup")
	}
	good := 0
	for _, v := range p.versions(t) {
		if !v.Held && v.Files == 10 {
			good++
		}
	}
	if good == 0 {
		t.Errorf("the good versions went: %+v", p.versions(t))
	}
	p.kill()
	// Another node gets the good one.
	second := t.TempDir()
	q := w.sidecar(t, second, "--keep", "2")
	q.ready(t)
	if read(t, second, "filea") == "" {
		t.Error("a held version was restored")
	}
	if err := os.Remove(filepath.Join(second, "filea")); err != nil {
		t.Fatal(err)
	}
	q.must(t, "sidecar", "backup") // a tenth is no accident
	for name := range some(10) {
		if err := os.Remove(filepath.Join(second, name)); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	if _, code := q.command(t, "sidecar", "backup"); code == 0 {
		t.Error("emptiness was backed up as a good version")
	}
	q.must(t, "sidecar", "accept")
	if s := q.status(t); s.Held || s.Files != 0 {
		t.Errorf("after accept: %+v", s)
	}
	if code := q.stop(t); code != 0 {
		t.Errorf("code %d", code)
	}
}

// Rule: a directory that is not the one that was restored, such as one whose mount went away, is not backed up.
func TestDirectoryReplaced(t *testing.T) {
	t.Parallel()
	w, _ := madeWith(t, some(4))
	dir := filepath.Join(t.TempDir(), "data")
	p := w.sidecar(t, dir)
	p.ready(t)
	before := len(p.versions(t))
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, code := p.command(t, "sidecar", "backup"); code == 0 || !strings.Contains(out, "not the directory that was restored") {
		t.Errorf("code %d: %s", code, out)
	}
	if s := p.status(t); !s.Held {
		t.Errorf("%+v", s)
	}
	if n := len(p.versions(t)); n != before {
		t.Errorf("%d versions after %d", n, before)
	}
	if code := p.stop(t); code == 0 {
		t.Error("the last backup was not made, and the exit code does not say so")
	}
}

// Rule: no restore beneath a service that runs.
func TestLiveDirectory(t *testing.T) {
	t.Parallel()
	w, _ := madeWith(t, some(4))
	dir := t.TempDir()
	app := &sqliteApp{}
	app.start(t, dir)
	app.add(t, 3)
	p := w.sidecar(t, dir, "--prefer", "backup")
	p.waits(t, "in use by")
	if n := app.add(t, 1); n != 4 {
		t.Errorf("%d rows", n)
	}
	app.stop(t)
	p.ready(t)
	if read(t, dir, "filea") == "" || read(t, dir, "app.db") != "" {
		t.Error("it was not restored once the service had ended")
	}
}

// The service as the sidecar's child: started after the restore, signals, exit code, last backup.
func TestChild(t *testing.T) {
	t.Parallel()
	w, _ := madeWith(t, some(2))
	dir := t.TempDir()
	p := w.sidecar(t, dir, "--", "sh", "-c",
		`cat filea >/dev/null || exit 9; trap 'echo bye >last; exit 5' TERM; trap 'echo usr >usr' USR1; touch up; while :; do sleep 0.05; done`)
	_ = p
	t.Cleanup(p.kill)
	// The service runs where the sidecar was started.
	if code := p.wait(t); code != 9 {
		t.Fatalf("code %d, 9 is the service's", code)
	}
	script := fmt.Sprintf(`cd %s && cat filea >/dev/null || exit 9; trap 'echo bye >last; exit 5' TERM; trap 'echo usr >usr' USR1; touch up; while :; do sleep 0.05; done`, dir)
	p = w.sidecar(t, dir, "--", "sh", "-c", script)
	eventually(t, "the service is up", func() bool { _, err := os.Stat(filepath.Join(dir, "up")); return err == nil })
	if err := p.cmd.Process.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the service gets the signal", func() bool { return read(t, dir, "usr") != "" })
	if code := p.stop(t); code != 5 {
		t.Errorf("code %d, 5 is the service's", code)
	}
	other := t.TempDir()
	p = w.sidecar(t, other, "--restore-only")
	if code := p.wait(t); code != 0 {
		t.Errorf("code %d", code)
	}
	if read(t, other, "last") == "" {
		t.Error("what the service wrote last was not backed up")
	}
	// An init container restored; the sidecar beside the service takes the directory as it is.
	p = w.sidecar(t, other)
	p.ready(t)
	if !strings.Contains(p.log.String(), "that of the last version") {
		t.Error("it restored again")
	}
}

// Filters, keeping, and going back.
func TestFiltersAndRollback(t *testing.T) {
	t.Parallel()
	w, dir := local(t), t.TempDir()
	w.args = []string{"--keep", "3", "--exclude", "*.log", "--exclude", "/cache"}
	p := w.sidecar(t, dir, "--init")
	p.ready(t)
	for i := range 6 {
		write(t, dir, map[string]string{"data": fmt.Sprint(i), "app.log": "noise", "cache/x": "noise", "sub/cache": "data"})
		p.must(t, "sidecar", "backup")
	}
	v := p.versions(t)
	if len(v) != 3 || v[2].Files != 2 {
		t.Errorf("%+v", v)
	}
	p.must(t, "sidecar", "rollback", v[0].ID)
	write(t, dir, map[string]string{"data": "not to be kept"})
	if code := p.stop(t); code != 0 {
		t.Errorf("code %d", code)
	}
	p = w.sidecar(t, dir)
	p.ready(t)
	if got := read(t, dir, "data"); got != "3" {
		t.Errorf("data: %q, want the version before the last two", got)
	}
	if read(t, dir, "app.log") == "" || read(t, dir, "cache/x") == "" {
		t.Error("what is excluded was removed by the restore")
	}
	p.stop(t)
	// Without a sidecar.
	v = p.versions(t)
	p.must(t, "sidecar", "rollback", "--dir", dir, "--exclude", "*.log", "--exclude", "/cache", v[len(v)-2].ID)
	if got := read(t, dir, "data"); got != "5" {
		t.Errorf("data: %q, want what was there before", got)
	}
}

func get(t *testing.T, p *process, path string) string {
	t.Helper()
	res, err := http.Get("http://" + p.addr + path)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// What changes something is only for this machine's firn: no page in a browser may.
func TestProbes(t *testing.T) {
	t.Parallel()
	w, dir := madeWith(t, some(2))
	p := w.sidecar(t, dir)
	p.ready(t)
	if s := get(t, p, "/readyz") + get(t, p, "/healthz"); s != "ok\nok\n" {
		t.Error(s)
	}
	var s status
	if err := json.Unmarshal([]byte(get(t, p, "/status")), &s); err != nil || !s.Ready {
		t.Errorf("%+v, %v", s, err)
	}
	res, err := http.Post("http://"+p.addr+"/accept", "text/plain", nil)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusForbidden {
		t.Errorf("status %d", res.StatusCode)
	}
}
