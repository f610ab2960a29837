package object

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"firn"
	"firn/kv"
	"firn/object/check"
	"firn/object/envelope"
	"firn/object/record"
	"firn/object/remote"
	"firn/vfs"
)

// TestTierReadsEveryShape moves content of every shape and reads it back from the tier, whole and in ranges.
func TestTierReadsEveryShape(t *testing.T) {
	f, tiers := tiered(t, Options{})
	ctx := t.Context()
	enc := func() *envelope.Encryption { return encrypted(envelope.Site).Encryption }
	contents := map[string]string{
		"empty": "", "inline": "small", "file": big(3 * InlineMax), "multi": fiveMiB() + big(700), "tail": fiveMiB(), "e-empty": "",
		"e-inline": "a secret", "e-file": strings.Repeat("a secret ", 30_000), "e-multi": fiveMiB() + "a secret",
	}
	for _, key := range []string{"empty", "inline", "file"} {
		f.put("bucket", key, contents[key])
		f.putEncrypted("e-"+key, contents["e-"+key], envelope.Site)
	}
	f.upload("multi", nil, fiveMiB(), big(700))
	f.upload("tail", nil, fiveMiB(), "")
	f.upload("e-multi", enc(), fiveMiB(), "a secret")
	before := map[string]*record.Version{}
	usage := f.usage("bucket")
	for key := range contents {
		v, err := f.Head(ctx, "bucket", key, "")
		if err != nil {
			t.Fatal(err)
		}
		before[key] = v
		moved := f.mustMove(tiers, key, "cold", MoveOptions{Class: "COLD"})
		if moved.Local() || moved.StorageClass != "COLD" || moved.ID != v.ID || moved.ETag != v.ETag {
			t.Errorf("%s: %+v", key, moved)
		}
	}
	if _, err := f.Collect(ctx); err != nil {
		t.Fatal(err)
	}
	if s := f.check(); s.Blobs != 0 || s.TierBlobs != int64(len(contents)) {
		t.Errorf("%+v", s)
	}
	for name, p := range tiers.blobs {
		if bytes.Contains(p, []byte("secret")) {
			t.Errorf("%s holds content in the clear", name)
		}
		if key := strings.TrimPrefix(strings.Split(name, "@")[0], "cold/"); !strings.HasPrefix(key, "e-") && string(p) != contents[key] {
			t.Errorf("%s is not the content", name)
		}
	}
	read := func() {
		t.Helper()
		for key, c := range contents {
			f.want("bucket", key, "", c)
			o, err := f.Open(ctx, "bucket", key, "")
			if err != nil {
				t.Fatal(err)
			}
			if o.Version.Encryption != nil {
				if err := o.Unlock(dataKey()); err != nil {
					t.Fatal(err)
				}
			}
			for _, r := range [][2]int{{0, min(1, len(c))}, {len(c) / 2, len(c) / 3}, {max(0, len(c)-5), min(5, len(c))}} {
				var b bytes.Buffer
				if _, err := o.WriteRange(ctx, &b, int64(r[0]), int64(r[1])); err != nil || b.String() != c[r[0]:r[0]+r[1]] {
					t.Errorf("%s, range %v: %v", key, r, err)
				}
			}
			o.Close()
		}
	}
	read()
	f.reopen()
	read()
	if u := f.usage("bucket"); u != usage {
		t.Errorf("usage %+v, was %+v", u, usage)
	}
	byClass, err := f.UsageByClass(ctx, "bucket")
	if err != nil || byClass["COLD"] != (record.Usage{Versions: usage.Versions, Bytes: usage.Bytes}) || byClass[StandardClass] != (record.Usage{}) {
		t.Errorf("by class: %+v, %v", byClass, err)
	}
	// And back.
	for key := range contents {
		v, err := f.Recall(ctx, f.ref(key, ""), RecallOptions{})
		if err != nil {
			t.Fatalf("%s: %v", key, err)
		}
		if v.Location != nil || v.StorageClass != "" {
			t.Errorf("%s: %+v", key, v)
		}
	}
	if left := f.sweep(tiers, "cold"); len(left) > 0 {
		t.Errorf("left on the tier: %v", left)
	}
	tiers.opens = 0
	read()
	if tiers.opens != 0 {
		t.Error("the tier is read after the recall")
	}
	for key, was := range before {
		v, err := f.Head(ctx, "bucket", key, "")
		if err != nil {
			t.Fatal(err)
		}
		if v.ETag != was.ETag || v.BLAKE3 != was.BLAKE3 || len(v.Parts) != len(was.Parts) || v.Modified != was.Modified {
			t.Errorf("%s: %+v, was %+v", key, v, was)
		}
	}
	sum, err := f.Check(ctx, check.Options{Read: true, Tiers: true}, func(p check.Problem) error { return fmt.Errorf("%+v", p) })
	if err != nil || sum.TierBlobs != 0 {
		t.Errorf("%+v, %v", sum, err)
	}
	if byClass, err := f.UsageByClass(ctx, "bucket"); err != nil || len(byClass) != 1 || byClass[StandardClass].Bytes != usage.Bytes {
		t.Errorf("by class: %+v, %v", byClass, err)
	}
	if n := f.count(record.TagTierBlob) + f.count(record.TagTierGarbage) + f.count(record.TagOutboard) + f.count(record.TagExpiry); n != 0 {
		t.Errorf("%d keys of tiers are left", n)
	}
}

// count returns the number of keys under a tag.
func (f *fixture) count(tag byte) (n int) {
	f.t.Helper()
	if err := f.db.View(context.Background(), func(r kv.Reader) error {
		n = 0
		return kv.Scan(r, []byte{tag}, []byte{tag + 1}, func(_, _ []byte) error { n++; return nil })
	}); err != nil {
		f.t.Fatal(err)
	}
	return n
}

// TestTierRangeReadsFewBytes: a range asks the tier for its blocks and no more.
func TestTierRangeReadsFewBytes(t *testing.T) {
	f, tiers := tiered(t, Options{})
	f.put("bucket", "k", big(8<<20))
	f.mustMove(tiers, "k", "cold", MoveOptions{})
	o, err := f.Open(t.Context(), "bucket", "k", "")
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	tiers.opens, tiers.bytes = 0, 0
	if _, err := o.WriteRange(t.Context(), io.Discard, 5<<20, 1000); err != nil {
		t.Fatal(err)
	}
	if tiers.opens != 1 || tiers.bytes > 128<<10 {
		t.Errorf("%d requests for %d bytes", tiers.opens, tiers.bytes)
	}
	tiers.opens = 0
	if _, err := o.WriteRange(t.Context(), io.Discard, 0, 8<<20); err != nil || tiers.opens != 1 {
		t.Errorf("%d requests for the whole, %v", tiers.opens, err)
	}
}

// TestTierWrongBytes: what a tier gives that is not the content does not get out, nor into a local copy.
func TestTierWrongBytes(t *testing.T) {
	f, tiers := tiered(t, Options{})
	ctx := t.Context()
	contents := map[string]string{"inline": "small", "file": big(3 * InlineMax)}
	for key, c := range contents {
		f.put("bucket", key, c)
		f.mustMove(tiers, key, "cold", MoveOptions{})
	}
	for name, spoil := range map[string]func([]byte) []byte{
		"a bit flipped": func(p []byte) []byte { p[len(p)/2] ^= 8; return p },
		"cut":           func(p []byte) []byte { return p[:len(p)-1] },
		"empty":         func([]byte) []byte { return nil },
		"other content": func(p []byte) []byte { return make([]byte, len(p)) },
	} {
		tiers.spoil = spoil
		for key, c := range contents {
			got, err := f.get("bucket", key, "")
			if !errors.Is(err, ErrCorrupt) || !strings.HasPrefix(c, got) {
				t.Errorf("%s, %s: %d bytes, %v", name, key, len(got), err)
			}
			if !strings.Contains(fmt.Sprint(err), "cold") {
				t.Errorf("%s, %s: the error does not name the tier: %v", name, key, err)
			}
			if _, err := f.Recall(ctx, f.ref(key, ""), RecallOptions{}); !errors.Is(err, ErrCorrupt) {
				t.Errorf("%s, %s: recall: %v", name, key, err)
			}
		}
	}
	tiers.spoil = nil
	for key, c := range contents {
		f.want("bucket", key, "", c)
	}
	f.check()
	clear(tiers.blobs)
	for key := range contents {
		if _, err := f.get("bucket", key, ""); !errors.Is(err, ErrCorrupt) || firn.KindOf(err) != firn.Corrupt {
			t.Errorf("%s: a blob that is gone: %v", key, err)
		}
	}
	sum, err := f.Check(ctx, check.Options{Tiers: true}, func(p check.Problem) error {
		if p.Kind != "tier" || contents[p.Key] == "" {
			t.Errorf("%+v", p)
		}
		return nil
	})
	if err != nil || sum.Problems != 2 {
		t.Errorf("%+v, %v", sum, err)
	}
}

func TestTierAway(t *testing.T) {
	f, tiers := tiered(t, Options{})
	ctx := t.Context()
	f.put("bucket", "k", big(InlineMax+1))
	f.put("bucket", "both", big(InlineMax+2))
	f.mustMove(tiers, "k", "cold", MoveOptions{})
	f.mustMove(tiers, "both", "cold", MoveOptions{LocalUntil: f.now.now().Add(time.Hour)})
	tiers.away["cold"] = true
	_, err := f.get("bucket", "k", "")
	if !errors.Is(err, ErrTierAway) || firn.KindOf(err) != firn.Unavailable || !strings.Contains(err.Error(), "cold since 2026-01-02T03:04:05Z") {
		t.Errorf("%v", err)
	}
	if _, err := f.Recall(ctx, f.ref("k", ""), RecallOptions{}); !errors.Is(err, ErrTierAway) {
		t.Errorf("recall: %v", err)
	}
	f.want("bucket", "both", "", big(InlineMax+2))
	if v, err := f.Head(ctx, "bucket", "k", ""); err != nil || v.Location.Tier != "cold" {
		t.Errorf("%+v, %v", v, err)
	}
	// The local copy stays past its time: nobody knows whether the tier has it.
	f.now.advance(2 * time.Hour)
	if n, err := f.ExpireLocal(ctx); n != 0 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if err := f.DropLocal(ctx, f.ref("both", "")); !errors.Is(err, ErrTierAway) {
		t.Error(err)
	}
	f.want("bucket", "both", "", big(InlineMax+2))
	f.delete("bucket", "k", "")
	tiers.away["cold"] = false
	if left := f.sweep(tiers, "cold"); len(left) != 1 {
		t.Errorf("on the tier: %v", left)
	}
	for name := range tiers.blobs {
		tiers.blobs[name] = tiers.blobs[name][1:]
	}
	if n, err := f.ExpireLocal(ctx); n != 0 || err != nil {
		t.Errorf("with a blob that is cut: %d, %v", n, err)
	}
	f.want("bucket", "both", "", big(InlineMax+2))
	// A site without tiers says so.
	g := f.o
	g.Remote = remote.None{}
	f.Store.o = g
	f.put("bucket", "x", "x")
	if err := f.DropLocal(ctx, f.ref("both", "")); !errors.Is(err, ErrTierAway) {
		t.Error(err)
	}
}

// TestTierSwitchOnlyWhatWasCopied: whatever happens to a version while it is copied, the switch notices, and what was
// copied is garbage.
func TestTierSwitchOnlyWhatWasCopied(t *testing.T) {
	for name, change := range map[string]func(f *fixture, tiers *fakeTiers){
		"overwritten": func(f *fixture, _ *fakeTiers) { f.put("bucket", "k", "other") },
		"deleted":     func(f *fixture, _ *fakeTiers) { f.delete("bucket", "k", "") },
		"written again": func(f *fixture, _ *fakeTiers) {
			f.delete("bucket", "k", "")
			f.put("bucket", "k", big(InlineMax+1))
		},
		"moved by another": func(f *fixture, tiers *fakeTiers) { f.mustMove(tiers, "k", "cold", MoveOptions{}) },
	} {
		f, tiers := tiered(t, Options{})
		f.put("bucket", "k", big(InlineMax+1))
		ref, blob, err := f.copyTo(tiers, "bucket", "k", "", "cold")
		if err != nil {
			t.Fatal(err)
		}
		change(f, tiers)
		state := f.state("bucket")
		if _, err := f.Switch(t.Context(), ref, blob, MoveOptions{Class: "COLD"}); !errors.Is(err, ErrMoved) {
			t.Fatalf("%s: %v", name, err)
		}
		if now := f.state("bucket"); now != state {
			t.Errorf("%s: %s, was %s", name, now, state)
		}
		f.check()
		left := len(tiers.names())
		if err := f.Free(t.Context(), blob); err != nil {
			t.Fatal(err)
		}
		if err := f.Free(t.Context(), blob); !errors.Is(err, ErrNotReserved) {
			t.Errorf("%s: freed again: %v", name, err)
		}
		if now := f.sweep(tiers, "cold"); len(now) != left-1 {
			t.Errorf("%s: left on the tier: %v", name, now)
		}
		f.state("bucket")
	}
	// What does not touch the bytes does not stop a move, and is kept.
	f, tiers := tiered(t, Options{})
	f.put("bucket", "k", big(InlineMax+1))
	ref, blob, err := f.copyTo(tiers, "bucket", "k", "", "cold")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.UpdateVersion(t.Context(), "bucket", "k", "", false, func(v *record.Version) error {
		v.Tags = []record.Field{{Name: "a", Value: "b"}}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if v, err := f.Switch(t.Context(), ref, blob, MoveOptions{}); err != nil || len(v.Tags) != 1 {
		t.Errorf("%+v, %v", v, err)
	}
	if _, err := f.Switch(t.Context(), f.ref("k", ""), blob, MoveOptions{}); !errors.Is(err, ErrNotReserved) {
		t.Errorf("to a blob that is in use: %v", err)
	}
	if err := f.Free(t.Context(), blob); !errors.Is(err, ErrNotReserved) {
		t.Errorf("freeing a blob that is in use: %v", err)
	}
	if err := f.Forget(t.Context(), blob); err != nil {
		t.Fatal(err)
	}
	f.want("bucket", "k", "", big(InlineMax+1))
	f.check()
}

// TestTierChangesAtTheLastMoment: a version that changes between the last look at it and the transaction keeps the change.
func TestTierChangesAtTheLastMoment(t *testing.T) {
	tap := vfs.NewTap(vfs.NewMem())
	f := newFixture(t, tap, Options{})
	f.bucket("bucket", BucketOptions{})
	ctx := t.Context()
	f.put("bucket", "k", big(InlineMax+1))
	ref, blob, err := f.copyTo(f.tiers, "bucket", "k", "", "cold")
	if err != nil {
		t.Fatal(err)
	}
	changed := false
	tap.OnRead = func(op vfs.Op, _ []byte) {
		if strings.Contains(op.Path, "blobs") && !changed {
			changed = true
			f.put("bucket", "k", "other")
		}
	}
	if _, err := f.Switch(ctx, ref, blob, MoveOptions{}); !errors.Is(err, ErrMoved) || !changed {
		t.Errorf("switch: %v, changed %v", err, changed)
	}
	tap.OnRead = nil
	f.want("bucket", "k", "", "other")

	f.put("bucket", "k", big(InlineMax+1))
	f.mustMove(f.tiers, "k", "cold", MoveOptions{})
	f.tiers.hook = func() { f.put("bucket", "k", "other") }
	if _, err := f.Recall(ctx, f.ref("k", ""), RecallOptions{}); !errors.Is(err, ErrMoved) {
		t.Errorf("recall: %v", err)
	}
	f.want("bucket", "k", "", "other")

	f.put("bucket", "k", big(InlineMax+1))
	f.mustMove(f.tiers, "k", "cold", MoveOptions{LocalUntil: f.now.now().Add(time.Hour)})
	f.tiers.hook = func() {
		if _, err := f.Recall(ctx, f.ref("k", ""), RecallOptions{}); err != nil {
			t.Error(err)
		}
	}
	if err := f.DropLocal(ctx, f.ref("k", "")); !errors.Is(err, ErrMoved) {
		t.Errorf("drop: %v", err)
	}
	f.sweep(f.tiers, "cold")
	f.want("bucket", "k", "", big(InlineMax+1))

	f.mustMove(f.tiers, "k", "cold", MoveOptions{LocalUntil: f.now.now().Add(time.Hour)})
	f.now.advance(2 * time.Hour)
	f.tiers.hook = func() {
		if _, err := f.WantLocal(ctx, "bucket", "k", "", f.now.now().Add(time.Hour)); err != nil {
			t.Error(err)
		}
	}
	if n, err := f.ExpireLocal(ctx); err != nil || n != 0 {
		t.Errorf("%d copies went although one was to stay, %v", n, err)
	}
	if v, err := f.Head(ctx, "bucket", "k", ""); err != nil || !v.Local() {
		t.Errorf("%+v, %v", v, err)
	}
	f.now.advance(2 * time.Hour)
	if n, err := f.ExpireLocal(ctx); err != nil || n != 1 {
		t.Errorf("%d copies went, %v", n, err)
	}
	f.check()
	if _, err := f.Collect(ctx); err != nil {
		t.Fatal(err)
	}
	f.reopen()
	if s := f.check(); int(s.Blobs) != len(f.files()) {
		t.Errorf("%d files for %d blobs", len(f.files()), s.Blobs)
	}
}

// TestTierKeysAreNotGivenTwice: neither in use, nor reserved, nor before what lies there was removed.
// TestReservedFor: what a blob was reserved for is known for as long as it is reserved, and no longer.
func TestReservedFor(t *testing.T) {
	f, _ := tiered(t, Options{})
	ctx := t.Context()
	f.put("bucket", "k", "content")
	var list []record.TierBlob
	for _, key := range []string{"a", "b", "c"} {
		b, err := f.ReserveFor(ctx, "cold", key, "for "+key)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, b)
	}
	if _, err := f.ReserveFor(ctx, "cold", "a", ""); !errors.Is(err, ErrTierKey) {
		t.Errorf("%v", err)
	}
	f.reopen()
	if _, err := f.Switch(ctx, f.ref("k", ""), list[1], MoveOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := f.Free(ctx, list[2]); err != nil {
		t.Fatal(err)
	}
	all, err := f.TierBlobs(ctx, "cold", "")
	if err != nil || len(all) != 3 || all[0] != list[0] || all[1].Note != "" || all[2].Note != "" {
		t.Errorf("%+v, %v", all, err)
	}
}

func TestTierKeysAreNotGivenTwice(t *testing.T) {
	f, _ := tiered(t, Options{})
	ctx := t.Context()
	if have, _ := f.formatOf(); have != formatFirst {
		t.Errorf("a namespace without tiers has format %d", have)
	}
	list, err := f.Reserve(ctx, "cold", "a", "b")
	if err != nil {
		t.Fatal(err)
	}
	if have, _ := f.formatOf(); have != formatTiers {
		t.Errorf("a namespace with tiers has format %d", have)
	}
	taken := func(tier, key string, want error) {
		t.Helper()
		if _, err := f.Reserve(ctx, tier, "fresh", key); !errors.Is(err, want) {
			t.Errorf("%s/%s: %v", tier, key, err)
		}
	}
	taken("cold", "a", ErrTierKey)
	f.put("bucket", "k", "content")
	if _, err := f.Switch(ctx, f.ref("k", ""), list[0], MoveOptions{}); err != nil {
		t.Fatal(err)
	}
	taken("cold", "a", ErrTierKey)
	f.delete("bucket", "k", "")
	taken("cold", "a", ErrTierKey)
	f.reopen()
	taken("cold", "a", ErrTierKey)
	garbage, err := f.TierGarbage(ctx, "cold", f.now.now().Add(time.Hour))
	if err != nil || len(garbage) != 1 || garbage[0].Key != "a" {
		t.Fatalf("%+v, %v", garbage, err)
	}
	if young, err := f.TierGarbage(ctx, "cold", f.now.now().Add(-time.Hour)); err != nil || len(young) != 0 {
		t.Errorf("freed just now: %+v, %v", young, err)
	}
	if other, err := f.TierGarbage(ctx, "warm", f.now.now().Add(time.Hour)); err != nil || len(other) != 0 {
		t.Errorf("of another tier: %+v, %v", other, err)
	}
	counted := map[string]record.TierQueue{"cold": {Blobs: 1, Oldest: garbage[0].Clock}}
	for range 2 {
		count, more, err := f.CountTierGarbage(ctx)
		if err != nil || more || !maps.Equal(count, counted) {
			t.Errorf("%+v, %v, %v", count, more, err)
		}
		if err := f.Forget(ctx, garbage...); err != nil {
			t.Fatal(err)
		}
		clear(counted)
	}
	all, err := f.TierBlobs(ctx, "cold", "")
	if err != nil || len(all) != 1 || all[0].Key != "b" || all[0].State != record.TierReserved || all[0].ID != list[1].ID {
		t.Errorf("%+v, %v", all, err)
	}
	if after, err := f.TierBlobs(ctx, "cold", "b"); err != nil || len(after) != 0 {
		t.Errorf("%+v, %v", after, err)
	}
	taken("cold", "a", nil) // which reserves "fresh" as well
	taken("warm", "a", nil)
	if _, err := f.Reserve(ctx, "cold", "same", "same"); !errors.Is(err, ErrTierKey) {
		t.Errorf("%v", err)
	}
	if _, err := f.Reserve(ctx, "cold", ""); firn.KindOf(err) != firn.Invalid {
		t.Errorf("%v", err)
	}
}

func (f *fixture) formatOf() (n uint64, err error) {
	err = f.db.View(context.Background(), func(r kv.Reader) (err error) {
		n, err = getUint(r, record.MetaKey("format"))
		return err
	})
	return n, err
}

// TestTierCopies: copies on a tier share the blob, which goes with the last of them.
func TestTierCopies(t *testing.T) {
	f, tiers := tiered(t, Options{})
	ctx := t.Context()
	contents := map[string]string{"inline": "small", "file": big(InlineMax + 1), "multi": fiveMiB() + "tail", "e": strings.Repeat("secret", 100_000), "e-inline": "secret"}
	f.put("bucket", "inline", contents["inline"])
	f.put("bucket", "file", contents["file"])
	f.upload("multi", nil, fiveMiB(), "tail")
	f.putEncrypted("e", contents["e"], envelope.Site)
	f.putEncrypted("e-inline", contents["e-inline"], envelope.Site)
	cp := func(from, to, class string) *record.Version {
		t.Helper()
		o := PutOptions{StorageClass: class}
		src := CopySource{Bucket: "bucket", Key: from}
		if strings.HasPrefix(from, "e") || strings.HasPrefix(from, "shared e") {
			o.Encryption, o.DataKey, src.DataKey = encrypted(envelope.Site).Encryption, dataKey(), dataKey()
		}
		v, err := f.Copy(ctx, src, "bucket", to, o)
		if err != nil {
			t.Fatalf("%s to %s: %v", from, to, err)
		}
		return v
	}
	for key, c := range contents {
		f.mustMove(tiers, key, "cold", MoveOptions{Class: "COLD"})
		n, opens := len(tiers.names()), tiers.opens
		v := cp(key, "shared "+key, "COLD")
		if v.Local() || len(tiers.names()) != n || tiers.opens != opens {
			t.Errorf("%s: the copy in the same class does not share: %+v", key, v.Location)
		}
		local := cp(key, "local "+key, "")
		if !local.Local() || local.Location != nil {
			t.Errorf("%s: the copy in STANDARD is not local", key)
		}
		cp("shared "+key, "shared "+key, "COLD") // onto itself
		for _, k := range []string{key, "shared " + key, "local " + key} {
			f.want("bucket", k, "", c)
		}
		f.check()
		f.delete("bucket", key, "")
		f.sweep(tiers, "cold")
		f.want("bucket", "shared "+key, "", c)
		// A shared blob is not freed by the recall of one of its versions.
		cp("shared "+key, "second "+key, "COLD")
		if _, err := f.Recall(ctx, f.ref("second "+key, ""), RecallOptions{}); err != nil {
			t.Fatal(err)
		}
		f.sweep(tiers, "cold")
		f.want("bucket", "shared "+key, "", c)
		f.want("bucket", "second "+key, "", c)
		f.check()
		f.delete("bucket", "shared "+key, "")
		if left := f.sweep(tiers, "cold"); len(left) != 0 {
			t.Errorf("%s: left on the tier: %v", key, left)
		}
	}
	// A part of another object from a tier.
	f.put("bucket", "source", fiveMiB())
	f.mustMove(tiers, "source", "cold", MoveOptions{})
	id, err := f.CreateUpload(ctx, "bucket", "m", PutOptions{})
	if err != nil {
		t.Fatal(err)
	}
	tiers.opens = 0
	p, _, err := f.CopyPart(ctx, CopySource{Bucket: "bucket", Key: "source"}, 0, -1, "bucket", "m", id, 1, nil)
	if err != nil || tiers.opens != 1 {
		t.Fatalf("%v, %d requests", err, tiers.opens)
	}
	if _, err := f.CompleteUpload(ctx, "bucket", "m", id, listed1(p), CompleteOptions{Size: -1}); err != nil {
		t.Fatal(err)
	}
	f.want("bucket", "m", "", fiveMiB())
	f.check()
}

// TestTierGarbageIsNotCollectedEarly: what an open Object reads stays on the tier.
func TestTierGarbageIsNotCollectedEarly(t *testing.T) {
	f, tiers := tiered(t, Options{})
	f.put("bucket", "k", big(InlineMax+1))
	f.put("bucket", "small", "inline")
	f.mustMove(tiers, "k", "cold", MoveOptions{})
	f.mustMove(tiers, "small", "cold", MoveOptions{})
	var open []*Object
	for _, key := range []string{"k", "small"} {
		o, err := f.Open(t.Context(), "bucket", key, "")
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, o)
	}
	f.put("bucket", "k", "overwritten")
	f.delete("bucket", "small", "")
	// Who looks a version up may have found its old record, and not pinned the blob yet.
	epoch := f.grace.Enter()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	open[0].Close()
	if list, err := f.TierGarbage(ctx, "cold", f.now.now().Add(time.Hour)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, %v while a look-up is under way", list, err)
	}
	f.grace.Leave(epoch)
	open = open[1:]
	if left := f.sweep(tiers, "cold"); len(left) != 1 {
		t.Fatalf("left on the tier: %v", left)
	}
	for i, want := range []string{"inline"} {
		var b bytes.Buffer
		if _, err := open[i].WriteRange(t.Context(), &b, 0, int64(len(want))); err != nil || b.String() != want {
			t.Errorf("%d bytes, %v", b.Len(), err)
		}
		open[i].Close()
	}
	if left := f.sweep(tiers, "cold"); len(left) != 0 {
		t.Errorf("left on the tier: %v", left)
	}
	f.check()
}

// TestTierReadersOutliveMoves: who has a version open reads it to the end, wherever its bytes go.
func TestTierReadersOutliveMoves(t *testing.T) {
	f, tiers := tiered(t, Options{})
	ctx := t.Context()
	f.put("bucket", "k", big(3*InlineMax))
	read := func(o *Object) {
		t.Helper()
		var b bytes.Buffer
		if _, err := o.WriteRange(ctx, &b, 0, o.Version.Size); err != nil || b.String() != big(3*InlineMax) {
			t.Errorf("%d bytes, %v", b.Len(), err)
		}
		o.Close()
	}
	open := func() *Object {
		t.Helper()
		o, err := f.Open(ctx, "bucket", "k", "")
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	clean := func() {
		t.Helper()
		if _, err := f.Collect(ctx); err != nil {
			t.Fatal(err)
		}
		f.sweep(tiers, "cold", "warm")
	}
	local := open()
	f.mustMove(tiers, "k", "warm", MoveOptions{})
	clean()
	warm := open()
	f.mustMove(tiers, "k", "cold", MoveOptions{}) // from tier to tier
	clean()
	cold := open()
	if _, err := f.Recall(ctx, f.ref("k", ""), RecallOptions{}); err != nil {
		t.Fatal(err)
	}
	clean()
	if got := len(tiers.names()); got != 2 {
		t.Errorf("%d blobs, of which two are read", got)
	}
	read(local)
	read(warm)
	read(cold)
	clean()
	if got := tiers.names(); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
	if s := f.check(); s.Blobs != 1 || len(f.files()) != 1+batchLeft(f) {
		t.Errorf("%+v, %d files", s, len(f.files()))
	}
}

// batchLeft is the number of files made ahead.
func batchLeft(f *fixture) int { return f.count(record.TagOpening) }

// TestTierLocalCopies: a copy that stays for a time, and comes back for one.
func TestTierLocalCopies(t *testing.T) {
	f, tiers := tiered(t, Options{})
	ctx := t.Context()
	contents := map[string]string{"inline": "small", "file": big(InlineMax + 1), "multi": fiveMiB() + "tail"}
	f.put("bucket", "inline", contents["inline"])
	f.put("bucket", "file", contents["file"])
	f.upload("multi", nil, fiveMiB(), "tail")
	day := 24 * time.Hour
	start := f.now.now()
	for key, c := range contents {
		v := f.mustMove(tiers, key, "cold", MoveOptions{Class: "COLD", LocalUntil: start.Add(7 * day)})
		if !v.Local() || v.StorageClass != "COLD" || !v.Location.LocalUntil.Equal(start.Add(7*day)) {
			t.Errorf("%s: %+v", key, v.Location)
		}
		tiers.opens = 0
		f.want("bucket", key, "", c)
		if tiers.opens != 0 {
			t.Errorf("%s: read from the tier although there is a local copy", key)
		}
	}
	f.check()
	expire := func(want int) {
		t.Helper()
		if n, err := f.ExpireLocal(ctx); err != nil || n != want {
			t.Errorf("%d expired, %v; want %d", n, err, want)
		}
		f.check()
	}
	f.now.advance(7*day - time.Second)
	expire(0)
	f.now.advance(2 * time.Second)
	f.reopen()
	expire(3)
	expire(0)
	for key, c := range contents {
		v, err := f.Head(ctx, "bucket", key, "")
		if err != nil || v.Local() {
			t.Errorf("%s: %+v, %v", key, v, err)
		}
		tiers.opens = 0
		f.want("bucket", key, "", c)
		if tiers.opens == 0 {
			t.Errorf("%s: not read from the tier", key)
		}
	}
	// A restore: wished, there, longer, over.
	until := f.now.now().Add(day)
	for key, c := range contents {
		v, err := f.WantLocal(ctx, "bucket", key, "", until)
		if err != nil || !v.Location.Wanted.Equal(until.Truncate(time.Millisecond)) || v.Local() {
			t.Errorf("%s: %+v, %v", key, v, err)
		}
		v, err = f.Recall(ctx, f.ref(key, ""), RecallOptions{Until: v.Location.Wanted})
		if err != nil || !v.Location.Wanted.IsZero() || !v.Local() || v.StorageClass != "COLD" {
			t.Errorf("%s: %+v, %v", key, v, err)
		}
		tiers.opens = 0
		f.want("bucket", key, "", c)
		if tiers.opens != 0 {
			t.Errorf("%s: read from the tier although it was restored", key)
		}
		if v, err = f.WantLocal(ctx, "bucket", key, "", until.Add(day)); err != nil || !v.Location.LocalUntil.Equal(until.Add(day).Truncate(time.Millisecond)) {
			t.Errorf("%s: %+v, %v", key, v, err)
		}
	}
	f.now.advance(day + time.Second)
	expire(0)
	if err := f.DropLocal(ctx, f.ref("file", "")); err != nil {
		t.Fatal(err)
	}
	f.delete("bucket", "inline", "")
	f.now.advance(day)
	expire(1) // of one the copy went before, one is deleted
	if n := f.count(record.TagExpiry); n != 0 {
		t.Errorf("%d notes are left", n)
	}
	for _, key := range []string{"file", "multi"} {
		f.want("bucket", key, "", contents[key])
	}
	if _, err := f.WantLocal(ctx, "bucket", f.put("bucket", "here", "x").Key, "", until); !errors.Is(err, ErrNotOnTier) {
		t.Error(err)
	}
	if _, err := f.Recall(ctx, f.ref("here", ""), RecallOptions{}); !errors.Is(err, ErrNotOnTier) {
		t.Error(err)
	}
	// A copy that is there is kept by a recall for good, without a request.
	f.put("bucket", "k", big(InlineMax+5))
	f.mustMove(tiers, "k", "cold", MoveOptions{LocalUntil: f.now.now().Add(day)})
	tiers.opens = 0
	if v, err := f.Recall(ctx, f.ref("k", ""), RecallOptions{}); err != nil || v.Location != nil || tiers.opens != 0 {
		t.Errorf("%+v, %v", v, err)
	}
	f.want("bucket", "k", "", big(InlineMax+5))
	f.check()
}

// TestTierBadLocalCopy: where the local copy is damaged, the rest of a read comes from the tier.
func TestTierBadLocalCopy(t *testing.T) {
	mem := vfs.NewMem()
	tap := vfs.NewTap(mem)
	f := newFixture(t, tap, Options{})
	f.bucket("bucket", BucketOptions{})
	f.put("bucket", "k", big(1<<20))
	f.putEncrypted("e", big(1<<20), envelope.Site)
	f.put("bucket", "alone", big(1<<20))
	for _, key := range []string{"k", "e"} {
		f.mustMove(f.tiers, key, "cold", MoveOptions{LocalUntil: f.now.now().Add(time.Hour)})
	}
	tap.OnRead = func(op vfs.Op, p []byte) {
		if strings.Contains(op.Path, "blobs") && op.Offset <= 600<<10 && op.Offset+int64(len(p)) > 600<<10 {
			p[600<<10-op.Offset] ^= 1
		}
	}
	f.want("bucket", "k", "", big(1<<20))
	f.want("bucket", "e", "", big(1<<20))
	if n := f.Stats().CorruptFound; n != 2 {
		t.Errorf("%d counted", n)
	}
	f.wantErr("bucket", "alone", "", ErrCorrupt)
	f.tiers.away["cold"] = true
	f.wantErr("bucket", "k", "", ErrTierAway)
}

// TestTierLockedVersions move, and are not deleted.
func TestTierLockedVersions(t *testing.T) {
	f := newFixture(t, vfs.NewMem(), Options{})
	tiers := f.tiers
	ctx := t.Context()
	f.bucket("bucket", BucketOptions{ObjectLock: true})
	v, err := f.Put(ctx, "bucket", "k", strings.NewReader("locked"), PutOptions{Size: 6, LegalHold: true})
	if err != nil {
		t.Fatal(err)
	}
	f.mustMove(tiers, "k", "warm", MoveOptions{Class: "WARM"})
	f.put("bucket", "k", "newer")
	if _, err := f.move(tiers, "k", v.ID, "cold", MoveOptions{Class: "COLD"}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Delete(ctx, "bucket", "k", v.ID, DeleteOptions{}); !errors.Is(err, ErrLocked) {
		t.Error(err)
	}
	if left := f.sweep(tiers, "cold", "warm"); len(left) != 1 {
		t.Errorf("on tiers: %v", left)
	}
	f.want("bucket", "k", v.ID, "locked")
	if h, err := f.Head(ctx, "bucket", "k", v.ID); err != nil || !h.LegalHold || h.StorageClass != "COLD" {
		t.Errorf("%+v, %v", h, err)
	}
	f.delete("bucket", "k", "") // a marker
	f.want("bucket", "k", v.ID, "locked")
	f.check()
}

// TestTierJournal: a move is in the journal, with what it changed.
func TestTierJournal(t *testing.T) {
	f, tiers := tiered(t, Options{})
	ctx := t.Context()
	f.put("bucket", "k", "content")
	f.mustMove(tiers, "k", "cold", MoveOptions{Class: "COLD"})
	if _, err := f.WantLocal(ctx, "bucket", "k", "", f.now.now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Recall(ctx, f.ref("k", ""), RecallOptions{Class: StandardClass}); err != nil {
		t.Fatal(err)
	}
	var got []string
	if err := f.Journal(ctx, 3, func(e record.Entry) error {
		got = append(got, fmt.Sprint(e.Op, " ", e.Key, " ", e.VersionID, " ", e.Tier, " ", e.Classes, " ", e.Delta))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"move k null cold [{COLD {0 1 7}}] {0 0 0}", "recall k null cold [] {0 0 0}", "move k null  [{COLD {0 -1 -7}}] {0 0 0}",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestCheckFindsBrokenTiers(t *testing.T) {
	f, tiers := tiered(t, Options{})
	ctx := t.Context()
	for _, key := range []string{"a", "b", "c"} {
		f.put("bucket", key, big(InlineMax+1))
		f.mustMove(tiers, key, "cold", MoveOptions{})
	}
	lost, err := f.Reserve(ctx, "cold", "lost")
	if err != nil {
		t.Fatal(err)
	}
	lost[0].State = record.TierUsed
	a, b := f.ref("a", ""), f.ref("b", "")
	all, err := f.TierBlobs(ctx, "cold", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.db.Update(ctx, func(tx kv.Tx) error {
		tx.Delete(all[slices.IndexFunc(all, func(x record.TierBlob) bool { return x.ID == a.Blob })].RegisterKey())
		tx.Delete(record.OutboardKey(b.Blob, 0))
		tx.Set(lost[0].RegisterKey(), lost[0].Append(nil))
		tx.Set(record.OutboardKey(record.BlobID{9}, 0), []byte{1})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	f.buckets.m["bucket"].count("COLD", record.Usage{Bytes: 5})
	run := func(repair bool) string {
		t.Helper()
		got := map[string]int{}
		if _, err := f.Check(ctx, check.Options{Repair: repair}, func(p check.Problem) error { got[p.Kind]++; t.Logf("%+v", p); return nil }); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(got)
	}
	want := fmt.Sprint(map[string]int{"tier": 2, "missing": 1, "orphan-content": 1, "counters": 1})
	if got := run(false); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	run(true)
	if got, want := run(false), fmt.Sprint(map[string]int{"missing": 1}); got != want {
		t.Errorf("after repairs: %s, want %s", got, want)
	}
	f.want("bucket", "a", "", big(InlineMax+1))
	f.want("bucket", "c", "", big(InlineMax+1))
	if garbage, err := f.TierGarbage(ctx, "cold", f.now.now().Add(time.Hour)); err != nil || len(garbage) != 1 || garbage[0].Key != "lost" {
		t.Errorf("%+v, %v", garbage, err)
	}
}

// TestTierReadersAgainstMovers: while a version goes to tiers and back and is overwritten, and what was freed is removed at
// once, every read is right.
func TestTierReadersAgainstMovers(t *testing.T) {
	f, tiers := tiered(t, Options{Now: time.Now})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const keys, rounds = 3, 60
	content := func(k, n int) string { return fmt.Sprintf("%d:", k) + big(InlineMax-200+n%2*400) }
	for k := range keys {
		f.put("bucket", fmt.Sprint(k), content(k, 0))
	}
	var movers, others sync.WaitGroup
	for k := range keys {
		movers.Go(func() {
			key := fmt.Sprint(k)
			for n := range rounds {
				var err error
				switch n % 5 {
				case 0, 3:
					_, err = f.move(tiers, key, "", []string{"cold", "warm"}[n%2], MoveOptions{})
				case 1:
					_, err = f.Recall(ctx, f.ref(key, ""), RecallOptions{Until: time.Now().Add(time.Hour)})
				case 2:
					err = f.DropLocal(ctx, f.ref(key, ""))
				case 4:
					c := content(k, n/5)
					_, err = f.Put(ctx, "bucket", key, strings.NewReader(c), PutOptions{Size: int64(len(c))})
				}
				if err != nil {
					t.Errorf("round %d of %s: %v", n, key, err)
					return
				}
			}
		})
	}
	for range 3 {
		others.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				k := n % keys
				got, err := f.get("bucket", fmt.Sprint(k), "")
				if ctx.Err() == nil && (err != nil || got != content(k, 0) && got != content(k, 1)) {
					t.Errorf("read of %d: %d bytes, %v", k, len(got), err)
					return
				}
			}
		})
	}
	others.Go(func() {
		for ctx.Err() == nil {
			for _, tier := range []string{"cold", "warm"} {
				list, err := f.TierGarbage(ctx, tier, time.Now().Add(time.Hour))
				for _, b := range list {
					if err := tiers.remove(b.Tier, b.Key); err != nil {
						t.Error(err)
					}
				}
				if err == nil {
					err = f.Forget(ctx, list...)
				}
				if _, cerr := f.Collect(ctx); err == nil {
					err = cerr
				}
				if err != nil && ctx.Err() == nil {
					t.Error(err)
				}
			}
		}
	})
	movers.Wait()
	cancel()
	others.Wait()
	f.check()
}
