package object

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	pebblevfs "github.com/cockroachdb/pebble/v2/vfs"

	"firn/object/envelope"
	"firn/object/record"
	"firn/seal"
	"firn/vfs"
	"firn/vfs/cryptfs"
)

// state is everything a bucket shows: every version with its content.
func (f *fixture) state(bucket string) string {
	f.t.Helper()
	var b strings.Builder
	if _, err := f.Bucket(f.t.Context(), bucket); err != nil {
		return "no bucket"
	}
	for _, line := range f.versions(bucket, 1000) {
		b.WriteString(line)
		if p := strings.Fields(line); p[3] == "false" {
			c, err := f.get(bucket, p[0], p[1])
			v, herr := f.Head(f.t.Context(), bucket, p[0], p[1])
			if herr != nil {
				f.t.Fatal(herr)
			}
			fmt.Fprintf(&b, " %d %x %v %s", v.Clock, sha256.Sum256([]byte(c)), err, v.StorageClass)
			if l := v.Location; l != nil {
				fmt.Fprintf(&b, " on %s, local %v, wanted %v", l.Tier, !l.LocalUntil.IsZero(), !l.Wanted.IsZero())
			}
		}
		b.WriteByte('\n')
	}
	l, err := f.ListUploads(f.t.Context(), bucket, UploadListOptions{Limit: 1000})
	if err != nil {
		f.t.Fatal(err)
	}
	for _, u := range l.Uploads {
		parts, _, err := f.ListParts(f.t.Context(), bucket, u.Key, u.ID, 0, 1000)
		fmt.Fprintf(&b, "upload %s %v", u.Key, err)
		for _, p := range parts {
			fmt.Fprintf(&b, " %d:%x", p.Number, p.MD5)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// scenario is one operation to be interrupted everywhere.
type scenario struct {
	name  string
	setup func(f *fixture)
	run   func(f *fixture) error
}

func scenarios() []scenario {
	small, large, other := big(1000), big(InlineMax+1), big(InlineMax+2)
	put := func(key, c string) func(*fixture) error {
		return func(f *fixture) error {
			_, err := f.Put(context.Background(), "bucket", key, strings.NewReader(c), PutOptions{Size: int64(len(c))})
			return err
		}
	}
	must := func(list ...func(*fixture) error) func(*fixture) {
		return func(f *fixture) {
			f.t.Helper()
			for _, fn := range list {
				if err := fn(f); err != nil {
					f.t.Fatal(err)
				}
			}
		}
	}
	move := func(key, tier string, o MoveOptions) func(*fixture) error {
		return func(f *fixture) error {
			_, err := f.move(f.tiers, key, "", tier, o)
			return err
		}
	}
	recall := func(key string, o RecallOptions) func(*fixture) error {
		return func(f *fixture) error {
			_, err := f.Recall(context.Background(), f.ref(key, ""), o)
			return err
		}
	}
	del := func(key, version string) func(*fixture) error {
		return func(f *fixture) error {
			_, err := f.Delete(context.Background(), "bucket", key, version, DeleteOptions{})
			return err
		}
	}
	cp := func(from, to string) func(*fixture) error {
		return func(f *fixture) error {
			_, err := f.Copy(context.Background(), CopySource{Bucket: "bucket", Key: from}, "bucket", to, PutOptions{})
			return err
		}
	}
	putEncrypted := func(key, c string) func(*fixture) error {
		return func(f *fixture) error {
			_, err := f.Put(context.Background(), "bucket", key, strings.NewReader(c), encrypted(envelope.Site))
			return err
		}
	}
	copyEncrypted := func(f *fixture) error {
		src := CopySource{Bucket: "bucket", Key: "k", DataKey: dataKey()}
		_, err := f.Copy(context.Background(), src, "bucket", "l", encrypted(envelope.Site))
		return err
	}
	versioned := func(f *fixture) error { f.versioning("bucket", record.VersioningEnabled); return nil }
	sweep := func(f *fixture) error { f.sweep(f.tiers, "cold", "warm"); return nil }
	cold := MoveOptions{Class: "COLD"}
	later := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	collect := func(f *fixture) error { _, err := f.Collect(context.Background()); return err }
	var id string
	upload := func(f *fixture) error {
		ctx := context.Background()
		var err error
		if id, err = f.CreateUpload(ctx, "bucket", "m", PutOptions{}); err != nil {
			return err
		}
		for n, c := range []string{large, small} {
			if _, err := f.PutPart(ctx, "bucket", "m", id, n+1, strings.NewReader(c), PutOptions{Size: -1}); err != nil {
				return err
			}
		}
		return nil
	}
	complete := func(f *fixture) error {
		_, err := f.CompleteUpload(context.Background(), "bucket", "m", id, []CompletePart{{Number: 2, ETag: etag(small)}}, CompleteOptions{Size: -1})
		return err
	}
	return []scenario{
		{"put inline", must(), put("k", small)},
		{"put large", must(), put("k", large)},
		{"put large with files ready", must(put("x", large)), put("k", other)},
		{"overwrite inline by inline", must(put("k", small)), put("k", small+"x")},
		{"overwrite large by large", must(put("k", large)), put("k", other)},
		{"overwrite large by inline and collect", must(put("k", large)), func(f *fixture) error { return errors.Join(put("k", small)(f), collect(f)) }},
		{"new version", must(versioned, put("k", large)), put("k", other)},
		{"put inline, encrypted", must(), putEncrypted("k", small)},
		{"put large, encrypted", must(putEncrypted("k", small)), putEncrypted("k", large)},
		{"copy large, encrypted", must(putEncrypted("k", large)), copyEncrypted},
		{"delete inline", must(put("k", small)), del("k", "")},
		{"delete marker", must(versioned, put("k", small)), del("k", "")},
		{"delete large and collect", must(put("k", large)), func(f *fixture) error { return errors.Join(del("k", "")(f), collect(f)) }},
		{"promote", must(put("k", large), versioned, put("k", other)), func(f *fixture) error {
			v, err := f.Head(context.Background(), "bucket", "k", "")
			if err != nil {
				return err
			}
			return del("k", v.ID)(f)
		}},
		{"copy inline", must(put("k", small)), cp("k", "l")},
		{"copy large", must(put("k", large)), cp("k", "l")},
		{"copy large onto itself", must(put("k", large)), cp("k", "k")},
		{"delete first of two references", must(put("k", large), cp("k", "l")), del("k", "")},
		{"delete last reference and collect", must(put("k", large), cp("k", "l"), del("k", "")), func(f *fixture) error { return errors.Join(del("l", "")(f), collect(f)) }},
		{"put part", must(upload), func(f *fixture) error {
			_, err := f.PutPart(context.Background(), "bucket", "m", id, 3, strings.NewReader(large), PutOptions{Size: -1})
			return err
		}},
		{"replace part", must(upload), func(f *fixture) error {
			_, err := f.PutPart(context.Background(), "bucket", "m", id, 1, strings.NewReader(other), PutOptions{Size: -1})
			return err
		}},
		{"share part", must(put("k", large), upload), func(f *fixture) error {
			_, _, err := f.CopyPart(context.Background(), CopySource{Bucket: "bucket", Key: "k"}, 0, -1, "bucket", "m", id, 3, nil)
			return err
		}},
		{"complete over a large object", must(put("m", other), upload), complete},
		{"complete and collect", must(upload), func(f *fixture) error { return errors.Join(complete(f), collect(f)) }},
		{"abort", must(upload), func(f *fixture) error { return f.AbortUpload(context.Background(), "bucket", "m", id) }},
		{"delete many", must(put("a", small), put("b", large), put("c", small)), func(f *fixture) error {
			_, err := f.DeleteMany(context.Background(), "bucket", []DeleteItem{{Key: "a"}, {Key: "b"}, {Key: "c"}})
			return err
		}},
		{"move inline to a tier", must(put("k", small)), move("k", "cold", cold)},
		{"move large to a tier and collect", must(put("k", large)), func(f *fixture) error { return errors.Join(move("k", "cold", cold)(f), collect(f)) }},
		{"move multipart to a tier and collect", must(upload, complete), func(f *fixture) error { return errors.Join(move("m", "cold", cold)(f), collect(f)) }},
		{"move encrypted to a tier", must(putEncrypted("k", large)), move("k", "cold", cold)},
		{"move to a tier and stay", must(put("k", large)), move("k", "cold", MoveOptions{Class: "COLD", LocalUntil: later})},
		{"move from tier to tier and sweep", must(put("k", large), move("k", "warm", cold)), func(f *fixture) error { return errors.Join(move("k", "cold", cold)(f), sweep(f)) }},
		{"overwrite on a tier and sweep", must(put("k", large), move("k", "cold", cold)), func(f *fixture) error { return errors.Join(put("k", small)(f), sweep(f)) }},
		{"copy on a tier", must(put("k", large), move("k", "cold", cold)), func(f *fixture) error {
			_, err := f.Copy(context.Background(), CopySource{Bucket: "bucket", Key: "k"}, "bucket", "l", PutOptions{StorageClass: "COLD"})
			return err
		}},
		{"copy from a tier", must(put("k", large), move("k", "cold", cold)), cp("k", "l")},
		{"recall inline and sweep", must(put("k", small), move("k", "cold", cold)), func(f *fixture) error { return errors.Join(recall("k", RecallOptions{})(f), sweep(f)) }},
		{"recall large and sweep", must(put("k", large), move("k", "cold", cold)), func(f *fixture) error { return errors.Join(recall("k", RecallOptions{})(f), sweep(f)) }},
		{"recall multipart for a time", must(upload, complete, move("m", "cold", cold)), recall("m", RecallOptions{Until: later})},
		{"free a local copy and collect", must(put("k", large), move("k", "cold", MoveOptions{LocalUntil: later})), func(f *fixture) error {
			return errors.Join(f.DropLocal(context.Background(), f.ref("k", "")), collect(f))
		}},
		{"delete bucket", must(), func(f *fixture) error { return f.DeleteBucket(context.Background(), "bucket") }},
	}
}

// clone is what a power loss would have left at some moment.
type clone struct {
	fs    *vfs.MemFS
	after string // the operation it was taken after
	acked bool
	tiers *fakeTiers
}

func TestPowerLossAfterEveryOperation(t *testing.T) {
	seed := rand.Uint64()
	for _, percent := range []int{0, 50} {
		for _, sc := range scenarios() {
			t.Run(fmt.Sprintf("%s, %d%% of unsynced data kept, seed %d", sc.name, percent, seed), func(t *testing.T) {
				crashEverywhere(t, sc, percent, seed, func(fsys vfs.FS) vfs.FS { return fsys })
			})
		}
	}
}

// TestPowerLossEncrypted does the same on an encrypted file system.
func TestPowerLossEncrypted(t *testing.T) {
	seed := rand.Uint64()
	key := seal.NewKey()
	for _, percent := range []int{0, 50} {
		for _, sc := range scenarios() {
			t.Run(fmt.Sprintf("%s, %d%% of unsynced data kept, seed %d", sc.name, percent, seed), func(t *testing.T) {
				crashEverywhere(t, sc, percent, seed, func(fsys vfs.FS) vfs.FS { return cryptfs.New(fsys, key) })
			})
		}
	}
}

// crashEverywhere interrupts a scenario on the file system that over puts over the one that crashes.
func crashEverywhere(t *testing.T, sc scenario, percent int, seed uint64, over func(vfs.FS) vfs.FS) {
	mem := vfs.NewCrashableMem()
	tap := vfs.NewTap(mem)
	var mu sync.Mutex
	var clones []clone
	armed := false
	rng := rand.New(rand.NewPCG(seed, uint64(percent)))
	var f *fixture
	take := func(after string, acked bool) {
		mu.Lock()
		defer mu.Unlock()
		if armed {
			c := mem.MemFS.CrashClone(pebblevfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng})
			clones = append(clones, clone{&vfs.MemFS{MemFS: c}, after, acked, f.tiers.clone()})
		}
	}
	tap.After = func(op vfs.Op, _ error) {
		if op.Kind.Mutates() {
			take(op.String(), false)
		}
	}
	f = newFixture(t, over(tap), Options{})
	f.bucket("bucket", BucketOptions{})
	sc.setup(f)
	before := f.state("bucket")
	mu.Lock()
	armed = true
	mu.Unlock()
	take("nothing", false)
	if err := sc.run(f); err != nil {
		t.Fatal(err)
	}
	take("acknowledgement", true)
	mu.Lock()
	armed = false
	mu.Unlock()
	after := f.state("bucket")
	if before == after {
		t.Fatal("the operation changed nothing")
	}
	if len(clones) < 4 {
		t.Fatalf("only %d moments", len(clones))
	}
	for i, c := range clones {
		g := newFixture(t, over(c.fs), Options{})
		g.tiers.blobs = c.tiers.blobs
		got := g.state("bucket")
		switch {
		case got == after:
		case got == before && !c.acked:
		default:
			t.Fatalf("moment %d, after %s, acknowledged %v:\n%s\nbefore:\n%s\nafter:\n%s", i, c.after, c.acked, got, before, after)
		}
		if _, err := g.Collect(t.Context()); err != nil {
			t.Fatal(err)
		}
		s := g.check()
		if n := len(g.files()); int64(n) != s.Blobs {
			t.Fatalf("moment %d, after %s: %d files for %d blobs", i, c.after, n, s.Blobs)
		}
		// Moves that were cut off are given up: then the tiers hold what versions use and no more.
		g.giveUp("cold", "warm")
		if left := g.sweep(g.tiers, "cold", "warm"); int64(len(left)) != s.TierBlobs || g.state("bucket") != got {
			t.Fatalf("moment %d, after %s: %v on tiers for %d blobs:\n%s\nwas:\n%s", i, c.after, left, s.TierBlobs, g.state("bucket"), got)
		}
		if t.Failed() {
			t.Fatalf("moment %d, after %s", i, c.after)
		}
		if i%4 == 0 && got != "no bucket" { // and life goes on
			g.put("bucket", "later", big(InlineMax+7))
			g.reopen()
			g.want("bucket", "later", "", big(InlineMax+7))
		}
		g.close()
	}
}

var (
	blobName = regexp.MustCompile(`blobs/[0-9a-f]{2}(/[0-9a-f]{32})?`)
	logName  = regexp.MustCompile(`kv/[0-9]+\.log`) // which log it is, the engine decides
)

// TestSyncOrder compares the order of writes and syncs with the reviewed file testdata/sync-order.golden.
// FIRN_GOLDEN=write writes it anew.
func TestSyncOrder(t *testing.T) {
	var out strings.Builder
	for _, sc := range scenarios() {
		fmt.Fprintf(&out, "# %s\n", sc.name)
		tap := vfs.NewTap(vfs.NewMem())
		var mu sync.Mutex
		var ops []string
		armed := false
		tap.After = func(op vfs.Op, err error) {
			if !op.Kind.Mutates() || err != nil {
				return
			}
			line := blobName.ReplaceAllStringFunc(op.Kind.String()+" "+op.Path, func(s string) string {
				if len(s) > 8 {
					return "blobs/XX/ID"
				}
				return "blobs/XX"
			})
			line = logName.ReplaceAllString(line, "kv/LOG")
			mu.Lock()
			defer mu.Unlock()
			// How many writes a file gets before its sync is not of interest.
			if armed && (len(ops) == 0 || ops[len(ops)-1] != line) {
				ops = append(ops, line)
			}
		}
		f := newFixture(t, tap, Options{})
		f.bucket("bucket", BucketOptions{})
		if sc.name != "put large" { // that one shows how files are made ahead
			f.put("bucket", "warm up", big(InlineMax+1))
			f.delete("bucket", "warm up", "")
			if _, err := f.Collect(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		sc.setup(f)
		mu.Lock()
		armed = true
		mu.Unlock()
		if err := sc.run(f); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		armed = false
		mu.Unlock()
		for _, op := range ops {
			fmt.Fprintf(&out, "%s\n", op)
		}
		f.close()
	}
	const name = "testdata/sync-order.golden"
	if os.Getenv("FIRN_GOLDEN") == "write" {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if got := out.String(); got != string(want) {
		g, w := strings.Split(got, "\n"), strings.Split(string(want), "\n")
		for i := range g {
			if i >= len(w) || g[i] != w[i] {
				t.Fatalf("line %d: %q, reviewed %q\nall:\n%s", i+1, g[i], slices.Concat(w, []string{""})[min(i, len(w))], got)
			}
		}
		t.Fatal("the reviewed order goes on")
	}
}
