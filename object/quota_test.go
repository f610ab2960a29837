package object

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"firn/object/record"
	"firn/vfs"
)

func (f *fixture) setQuota(q record.Quota) {
	f.t.Helper()
	if _, err := f.UpdateBucket(f.t.Context(), "bucket", func(b *record.Bucket) error { b.Quota = q; return nil }); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) tryPut(key string, size int) error {
	_, err := f.Put(f.t.Context(), "bucket", key, strings.NewReader(strings.Repeat("x", size)), PutOptions{Size: int64(size)})
	return err
}

// wantQuota fails the test unless err says that the quota is used up, or is nil where ok.
func wantQuota(t *testing.T, what string, err error, ok bool) {
	t.Helper()
	if ok != (err == nil) || !ok && !errors.Is(err, ErrQuota) {
		t.Errorf("%s: %v", what, err)
	}
}

func TestQuota(t *testing.T) {
	f := newFixture(t, vfs.NewMem(), Options{})
	ctx := t.Context()
	if _, err := f.CreateBucket(ctx, "bucket", BucketOptions{}); err != nil {
		t.Fatal(err)
	}
	f.setQuota(record.Quota{Bytes: 100_000})
	wantQuota(t, "fits", f.tryPut("a", 70_000), true)
	wantQuota(t, "one byte too many", f.tryPut("b", 30_001), false)
	wantQuota(t, "exactly full", f.tryPut("b", 30_000), true)
	wantQuota(t, "nothing takes no room", f.tryPut("empty", 0), true)
	wantQuota(t, "replaced by less", f.tryPut("a", 60_000), true)
	wantQuota(t, "replaced by more than is free", f.tryPut("b", 40_001), false)
	wantQuota(t, "replaced by what is free", f.tryPut("b", 40_000), true)
	wantQuota(t, "larger than the quota", f.tryPut("c", 200_000), false)
	_, err := f.Copy(ctx, CopySource{Bucket: "bucket", Key: "a"}, "bucket", "copy", PutOptions{Size: -1})
	wantQuota(t, "copied", err, false)
	if _, err := f.Delete(ctx, "bucket", "a", "", DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err = f.Copy(ctx, CopySource{Bucket: "bucket", Key: "b"}, "bucket", "copy", PutOptions{Size: -1})
	wantQuota(t, "copied after a delete", err, true)

	// A quota below what is there removes nothing and refuses more.
	f.setQuota(record.Quota{Bytes: 50_000})
	wantQuota(t, "above the quota already", f.tryPut("d", 1), false)
	wantQuota(t, "less than before", f.tryPut("b", 39_000), true)
	f.setQuota(record.Quota{})
	wantQuota(t, "none", f.tryPut("d", 300_000), true)

	// Versions count, delete markers do too, and making one is never refused.
	if _, err := f.UpdateBucket(ctx, "bucket", func(b *record.Bucket) error { b.Versioning = record.VersioningEnabled; return nil }); err != nil {
		t.Fatal(err)
	}
	u, err := f.Usage(ctx, "bucket")
	if err != nil {
		t.Fatal(err)
	}
	f.setQuota(record.Quota{Versions: u.Versions + 1})
	wantQuota(t, "a version", f.tryPut("d", 0), true)
	wantQuota(t, "one more of the same key", f.tryPut("d", 0), false)
	if _, err := f.Delete(ctx, "bucket", "d", "", DeleteOptions{}); err != nil {
		t.Errorf("a delete in a full bucket: %v", err)
	}
	// The quota outlives a restart.
	f.reopen()
	wantQuota(t, "after a restart", f.tryPut("e", 0), false)
}

// TestQuotaIsExact: writers at the same time fill a bucket to its last byte and no further, and so they do in what a
// crash left.
func TestQuotaIsExact(t *testing.T) {
	fs := vfs.NewCrashableMem()
	f := newFixture(t, fs, Options{})
	if _, err := f.CreateBucket(t.Context(), "bucket", BucketOptions{}); err != nil {
		t.Fatal(err)
	}
	const size, room = 1000, 50
	fill := func(f *fixture, name string, want int64) {
		t.Helper()
		var stored atomic.Int64
		var wg sync.WaitGroup
		for g := range 16 {
			wg.Go(func() {
				for i := range 10 {
					switch err := f.tryPut(fmt.Sprintf("%s/%d/%d", name, g, i), size); {
					case err == nil:
						stored.Add(1)
					case !errors.Is(err, ErrQuota):
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if stored.Load() != want {
			t.Errorf("%s: %d writes succeeded, want %d", name, stored.Load(), want)
		}
	}
	f.setQuota(record.Quota{Bytes: room*size + size - 1})
	fill(f, "first", room)
	f.setQuota(record.Quota{Bytes: 1 << 30, Versions: room + 20})
	fill(f, "second", 20)
	f.setQuota(record.Quota{Bytes: (room + 30) * size})

	crashed := newFixture(t, vfs.CrashClone(fs), Options{})
	fill(crashed, "after a crash", 10)
	u, err := crashed.Usage(t.Context(), "bucket")
	if err != nil || u.Bytes != (room+30)*size {
		t.Errorf("%+v, %v", u, err)
	}
}
