package object

import (
	"strings"
	"testing"
	"time"
)

// TestTierKeepUntil: a copy asked for before the move stays after it, and not for longer.
func TestTierKeepUntil(t *testing.T) {
	f, tiers := tiered(t, Options{})
	ctx := t.Context()
	until := f.now.now().Add(24 * time.Hour).Truncate(time.Millisecond)
	for _, key := range []string{"inline", "file"} {
		content := map[string]string{"inline": "small", "file": big(InlineMax + 1)}[key]
		if _, err := f.Put(ctx, "bucket", key, strings.NewReader(content), PutOptions{Size: -1, StorageClass: "COLD"}); err != nil {
			t.Fatal(err)
		}
		if v, err := f.WantLocal(ctx, "bucket", key, "", until); err != nil || !v.KeepUntil.Equal(until) || v.Location != nil {
			t.Fatalf("%+v, %v", v, err)
		}
		f.reopen()
		_, raw, err := f.Export(ctx, "bucket", key, "") // as it is told to the tier before the move
		if err != nil {
			t.Fatal(err)
		}
		other, _ := tiered(t, Options{})
		if v, err := other.Adopt(ctx, "bucket", key, raw, "cold", key); err != nil || !v.KeepUntil.IsZero() || v.Local() {
			t.Errorf("rebuilt: %+v, %v", v, err)
		}
		v := f.mustMove(tiers, key, "cold", MoveOptions{Class: "COLD", LocalUntil: f.now.now().Add(time.Hour)})
		if !v.Location.LocalUntil.Equal(until) || !v.KeepUntil.IsZero() {
			t.Errorf("%+v", v.Location)
		}
		f.want("bucket", key, "", content)
		f.check()
	}
	// It stays also where the version goes on to another tier.
	if v := f.mustMove(tiers, "file", "ice", MoveOptions{Class: "ICE"}); v.Location.Tier != "ice" || !v.Location.LocalUntil.Equal(until) {
		t.Errorf("%+v", v.Location)
	}
	f.check()
	f.now.advance(25 * time.Hour)
	if n, err := f.ExpireLocal(ctx); err != nil || n != 2 {
		t.Errorf("%d, %v", n, err)
	}
	// One whose time was past at the move stays for as long as the mover says.
	if _, err := f.Put(ctx, "bucket", "late", strings.NewReader("x"), PutOptions{Size: -1, StorageClass: "COLD"}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WantLocal(ctx, "bucket", "late", "", f.now.now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	f.now.advance(time.Hour)
	if v := f.mustMove(tiers, "late", "cold", MoveOptions{Class: "COLD"}); v.Local() {
		t.Errorf("%+v", v.Location)
	}
	f.check()
}
