package object

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"firn"
	"firn/object/envelope"
	"firn/object/record"
	"firn/vfs"
)

// exported is one version as a catalogue on a tier would keep it.
type exported struct {
	bucket, key, tier, tierKey string
	raw                        []byte
}

// exportAll exports every version and marker.
func (f *fixture) exportAll(buckets ...string) (list []exported) {
	f.t.Helper()
	for _, name := range buckets {
		for _, line := range f.versions(name, 1000) {
			p := strings.Split(line, " ")
			v, raw, err := f.Export(f.t.Context(), name, p[0], p[1])
			if err != nil {
				f.t.Fatal(err)
			}
			x := exported{bucket: name, key: p[0], raw: raw}
			if v.Location != nil {
				x.tier, x.tierKey = v.Location.Tier, v.Location.Key
			}
			list = append(list, x)
		}
	}
	return list
}

// TestRebuildFromTiers loses a site and makes it again from what its tiers and their catalogues hold.
func TestRebuildFromTiers(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	f, tiers := tiered(t, Options{})
	ctx := t.Context()
	f.put("bucket", "plain", "inline")
	f.put("bucket", "large", big(InlineMax+1))
	f.put("bucket", "empty", "")
	f.upload("multi", nil, fiveMiB(), "tail")
	f.putEncrypted("e-inline", "secret", envelope.Site)
	f.putEncrypted("e-large", strings.Repeat("secret ", 30_000), envelope.Site)
	f.bucket("unrelated", BucketOptions{})
	if err := f.DeleteBucket(ctx, "unrelated"); err != nil {
		t.Fatal(err)
	}
	f.put("bucket", "versions", "null")
	f.bucket("locked", BucketOptions{ObjectLock: true})
	f.versioning("bucket", record.VersioningEnabled)
	f.put("bucket", "versions", "second")
	f.now.advance(time.Second)
	f.delete("bucket", "versions", "")
	f.put("bucket", "versions", "third")
	f.put("bucket", "marked", "x")
	f.delete("bucket", "marked", "")
	f.versioning("bucket", record.VersioningSuspended)
	f.put("bucket", "versions", "null again")
	if _, err := f.Put(ctx, "locked", "k", strings.NewReader("kept"), PutOptions{
		Size: 4, Retention: record.Retention{Mode: record.RetentionCompliance, Until: f.now.now().Add(time.Hour)},
		Tags: []record.Field{{Name: "a", Value: "b"}}, Metadata: []record.Field{{Name: "m", Value: "n"}},
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Copy(ctx, CopySource{Bucket: "bucket", Key: "large"}, "bucket", "copy", PutOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"bucket", "locked"} {
		for _, line := range f.versions(name, 1000) {
			p := strings.Split(line, " ")
			if p[3] == "true" || p[0] == "copy" {
				continue
			}
			ref, blob, err := f.copyTo(tiers, name, p[0], p[1], "cold")
			if err == nil {
				_, err = f.Switch(ctx, ref, blob, MoveOptions{Class: "COLD"})
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	f.delete("bucket", "copy", "")
	if _, err := f.Copy(ctx, CopySource{Bucket: "bucket", Key: "large"}, "bucket", "copy", PutOptions{StorageClass: "COLD"}); err != nil {
		t.Fatal(err)
	}
	f.delete("bucket", "copy", record.NullID) // of the markers and versions of copy one stays in the catalogue
	list := f.exportAll("bucket", "locked")
	buckets := map[string][]byte{}
	for _, name := range []string{"bucket", "locked"} {
		raw, err := f.ExportBucket(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		buckets[name] = raw
	}
	state := func(f *fixture) string {
		t.Helper()
		return f.state("bucket") + f.state("locked") + fmt.Sprint(f.versions("bucket", 7), f.usage("bucket"), f.usage("locked"))
	}
	want := state(f)

	g := newFixture(t, vfs.NewMem(), Options{})
	g.tiers.blobs = tiers.blobs
	if _, err := g.Adopt(ctx, "bucket", "k", list[0].raw, "cold", "x"); !errors.Is(err, ErrNoSuchBucket) {
		t.Error(err)
	}
	for name, raw := range buckets {
		if err := g.AdoptBucket(ctx, name, raw); err != nil {
			t.Fatal(err)
		}
		for _, other := range []string{name, "other"} { // the name, and the id
			if err := g.AdoptBucket(ctx, other, raw); !errors.Is(err, ErrAdopted) {
				t.Errorf("again as %s: %v", other, err)
			}
		}
	}
	rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	for i, x := range list {
		if _, err := g.Adopt(ctx, x.bucket, x.key, x.raw, x.tier, x.tierKey); err != nil {
			t.Fatalf("%s/%s: %v", x.bucket, x.key, err)
		}
		if i%5 == 0 {
			g.check()
		}
		if _, err := g.Adopt(ctx, x.bucket, x.key, x.raw, x.tier, x.tierKey); !errors.Is(err, ErrAdopted) {
			t.Fatalf("%s/%s again: %v", x.bucket, x.key, err)
		}
	}
	if got := state(g); got != want {
		t.Fatalf("%s\nwant\n%s", got, want)
	}
	g.reopen()
	if got := state(g); got != want {
		t.Fatalf("after reopening: %s\nwant\n%s", got, want)
	}
	g.check()
	// Life goes on: newer versions are newer, what is locked is locked, a shared blob goes with the last that uses it.
	if v := g.put("bucket", "plain", "newer"); v.Clock <= f.ref("plain", "").Clock {
		t.Errorf("clock %d", v.Clock)
	}
	v, err := g.Head(ctx, "locked", "k", "")
	if err != nil || len(v.Tags) != 1 || len(v.Metadata) != 1 {
		t.Fatalf("%+v, %v", v, err)
	}
	if _, err := g.Delete(ctx, "locked", "k", v.ID, DeleteOptions{BypassGovernance: true}); !errors.Is(err, ErrLocked) {
		t.Error(err)
	}
	if b := g.bucket("fresh", BucketOptions{}); b.ID <= 3 {
		t.Errorf("bucket id %d was given before", b.ID)
	}
	if _, err := g.Recall(ctx, g.ref("multi", ""), RecallOptions{}); err != nil {
		t.Fatal(err)
	}
	g.sweep(g.tiers, "cold")
	g.want("bucket", "multi", "", fiveMiB()+"tail")
	for _, line := range g.versions("bucket", 1000) {
		p := strings.Split(line, " ")
		g.delete("bucket", p[0], p[1])
	}
	if left := g.sweep(g.tiers, "cold"); len(left) != 1 { // that of locked
		t.Errorf("left: %v", left)
	}
	g.check()
}

func TestAdoptRefusesWhatDoesNotFit(t *testing.T) {
	f, tiers := tiered(t, Options{})
	ctx := t.Context()
	f.put("bucket", "k", big(InlineMax+1))
	f.mustMove(tiers, "k", "cold", MoveOptions{})
	_, raw, err := f.Export(ctx, "bucket", "k", "")
	if err != nil {
		t.Fatal(err)
	}
	reserved, err := f.Reserve(ctx, "cold", "reserved")
	if err != nil {
		t.Fatal(err)
	}
	e, err := record.DecodeExport(raw)
	if err != nil {
		t.Fatal(err)
	}
	with := func(fn func(*record.Export)) []byte {
		c := *e
		c.Outboards = slices.Clone(e.Outboards)
		fn(&c)
		return c.Encode()
	}
	state := f.state("bucket")
	for name, tt := range map[string]struct {
		raw       []byte
		tier, key string
		kind      firn.Kind
	}{
		"no tier":           {raw, "", "", firn.Invalid},
		"no key":            {raw, "cold", "", firn.Invalid},
		"a reserved blob":   {raw, "cold", reserved[0].Key, firn.Exists},
		"no outboard":       {with(func(e *record.Export) { e.Outboards = nil }), "cold", "x", firn.Corrupt},
		"another outboard":  {with(func(e *record.Export) { e.Outboards[0] = []byte{2, 3} }), "cold", "x", firn.Corrupt},
		"one outboard more": {with(func(e *record.Export) { e.Outboards = append(e.Outboards, []byte{1}) }), "cold", "x", firn.Corrupt},
		"no record":         {with(func(e *record.Export) { e.Record = nil }), "cold", "x", firn.Corrupt},
		"a cut record":      {with(func(e *record.Export) { e.Record = e.Record[:len(e.Record)-1] }), "cold", "x", firn.Corrupt},
		"cut":               {raw[:len(raw)-1], "cold", "x", firn.Corrupt},
		"a later release's": {append([]byte{8, 9}, raw[2:]...), "cold", "x", firn.Unsupported},
		"nothing":           {nil, "cold", "x", firn.Unsupported},
	} {
		if _, err := f.Adopt(ctx, "bucket", "new", tt.raw, tt.tier, tt.key); firn.KindOf(err) != tt.kind {
			t.Errorf("%s: %v (%v)", name, err, firn.KindOf(err))
		}
	}
	if now := f.state("bucket"); now != state {
		t.Errorf("%s, was %s", now, state)
	}
	f.check()
}
