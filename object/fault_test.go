package object

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	pebblevfs "github.com/cockroachdb/pebble/v2/vfs"

	"firn"
	"firn/kv"
	"firn/object/blobs"
	"firn/object/check"
	"firn/object/record"
	"firn/vfs"
)

func TestFaultsOfBlobFilesLeaveNothing(t *testing.T) {
	for _, tt := range []struct {
		name  string
		kind  vfs.OpKind
		fault vfs.Fault
		want  error
	}{
		{"full at the first write", vfs.OpWrite, vfs.Fault{Err: syscall.ENOSPC}, ErrNoSpace},
		{"full within a write", vfs.OpWrite, vfs.Fault{Err: syscall.ENOSPC, Short: 100}, ErrNoSpace},
		{"failing sync", vfs.OpSyncData, vfs.Fault{Err: syscall.EIO}, syscall.EIO},
		{"failing sync that was done", vfs.OpSyncData, vfs.Fault{Err: syscall.EIO, Applied: true}, syscall.EIO},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tap := vfs.NewTap(vfs.NewMem())
			var armed atomic.Bool
			tap.Before = func(op vfs.Op) vfs.Fault {
				if armed.Load() && op.Kind == tt.kind && strings.Contains(op.Path, "blobs/") {
					return tt.fault
				}
				return vfs.Fault{}
			}
			f := newFixture(t, tap, Options{})
			f.bucket("bucket", BucketOptions{})
			f.put("bucket", "k", "before")
			f.put("bucket", "large", big(InlineMax+1))
			armed.Store(true)
			if _, err := f.Put(t.Context(), "bucket", "k", strings.NewReader(big(InlineMax+1)), PutOptions{Size: -1}); !errors.Is(err, tt.want) {
				t.Fatalf("%v, want %v", err, tt.want)
			}
			f.want("bucket", "k", "", "before")
			f.put("bucket", "small", "goes on")
			armed.Store(false)
			f.put("bucket", "k", big(InlineMax+2))
			f.reopen()
			f.want("bucket", "k", "", big(InlineMax+2))
			if s := f.check(); int(s.Blobs) != len(f.files()) {
				t.Fatalf("%d files for %d blobs", len(f.files()), s.Blobs)
			}
		})
	}
}

// fullDisk is a file system whose free space a test sets.
type fullDisk struct {
	vfs.FS
	free  atomic.Uint64
	asked atomic.Int64
}

func (d *fullDisk) GetDiskUsage(string) (pebblevfs.DiskUsage, error) {
	d.asked.Add(1)
	return pebblevfs.DiskUsage{AvailBytes: d.free.Load(), TotalBytes: 1 << 40}, nil
}

func TestWritesAreRefusedBeforeTheDiskIsFull(t *testing.T) {
	disk := &fullDisk{FS: vfs.NewMem()}
	disk.free.Store(10 << 20)
	f := newFixture(t, disk, Options{ReserveBytes: 1 << 20})
	ctx := t.Context()
	f.bucket("bucket", BucketOptions{})
	f.put("bucket", "k", "content")
	id, err := f.CreateUpload(ctx, "bucket", "m", PutOptions{})
	if err != nil {
		t.Fatal(err)
	}
	read := &countingReader{}
	if _, err := f.Put(ctx, "bucket", "big", read, PutOptions{Size: 10 << 20}); !errors.Is(err, ErrNoSpace) || read.n != 0 {
		t.Fatalf("%v after %d bytes", err, read.n)
	}
	// Content of unknown size is stopped on the way.
	disk.free.Store(2 << 20)
	f.now.advance(2 * time.Second)
	if _, err := f.Put(ctx, "bucket", "big", io.LimitReader(&countingReader{fill: true, hook: func(n int64) {
		if n > 1<<20 {
			disk.free.Store(1 << 20)
			f.now.advance(2 * time.Second)
		}
	}}, 4<<20), PutOptions{Size: -1}); !errors.Is(err, ErrNoSpace) {
		t.Fatal(err)
	}
	disk.free.Store(1000)
	f.now.advance(2 * time.Second)
	for name, err := range map[string]error{
		"put":    func() error { _, err := f.Put(ctx, "bucket", "x", read, PutOptions{Size: 1}); return err }(),
		"part":   func() error { _, err := f.PutPart(ctx, "bucket", "m", id, 1, read, PutOptions{Size: 1}); return err }(),
		"upload": func() error { _, err := f.CreateUpload(ctx, "bucket", "x", PutOptions{}); return err }(),
		"copy": func() error {
			_, err := f.Copy(ctx, CopySource{Bucket: "bucket", Key: "k"}, "bucket", "x", PutOptions{})
			return err
		}(),
	} {
		if !errors.Is(err, ErrNoSpace) || firn.KindOf(err) != firn.NoSpace {
			t.Errorf("%s: %v", name, err)
		}
	}
	if read.n != 0 {
		t.Errorf("%d bytes were read of refused bodies", read.n)
	}
	f.want("bucket", "k", "", "content")
	f.delete("bucket", "k", "")
	if err := f.AbortUpload(ctx, "bucket", "m", id); err != nil {
		t.Fatal(err)
	}
	asked := disk.asked.Load()
	for range 100 {
		_ = f.space.Headroom()
	}
	if n := disk.asked.Load() - asked; n > 1 {
		t.Errorf("the file system was asked %d times within a second", n)
	}
	disk.free.Store(10 << 20)
	f.now.advance(2 * time.Second)
	f.put("bucket", "k", "room again")
	if f.Stats().RefusedForSpace == 0 {
		t.Error("refusals were not counted")
	}
}

type countingReader struct {
	n    int64
	fill bool
	hook func(int64)
}

func (r *countingReader) Read(p []byte) (int, error) {
	r.n += int64(len(p))
	if r.hook != nil {
		r.hook(r.n)
	}
	return len(p), nil
}

func TestFlippedBitsAreFound(t *testing.T) {
	tap := vfs.NewTap(vfs.NewMem())
	var flip atomic.Bool
	tap.OnRead = func(op vfs.Op, p []byte) {
		if flip.Load() && strings.Contains(op.Path, "blobs/") && op.Offset == 0 {
			p[len(p)/2] ^= 4
		}
	}
	f := newFixture(t, tap, Options{ScrubBytesPerSecond: 1 << 40})
	ctx := t.Context()
	f.bucket("bucket", BucketOptions{})
	f.put("bucket", "good", "good")
	f.put("bucket", "large", big(1<<20))
	f.put("bucket", "small", "content")
	id, err := f.CreateUpload(ctx, "bucket", "m", PutOptions{})
	if err != nil {
		t.Fatal(err)
	}
	f.part("m", id, 1, big(200<<10))
	// A flipped bit in the stored inline value.
	var keys [][]byte
	if err := f.db.Update(ctx, func(tx kv.Tx) error {
		return kv.Scan(tx, []byte{record.TagData}, []byte{record.TagData + 1}, func(k, v []byte) error {
			if bytes.HasSuffix(v, []byte("content")) {
				v = bytes.Clone(v)
				v[len(v)-1] ^= 1
				tx.Set(k, v)
				keys = append(keys, bytes.Clone(k))
			}
			return nil
		})
	}); err != nil || len(keys) != 1 {
		t.Fatal(len(keys), err)
	}
	flip.Store(true)
	f.wantErr("bucket", "small", "", ErrCorrupt)
	o, err := f.Open(ctx, "bucket", "large", "")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if _, err := o.WriteRange(ctx, &out, 0, 1<<20); !errors.Is(err, ErrCorrupt) || !strings.HasPrefix(big(1<<20), out.String()) {
		t.Fatalf("%v after %d bytes", err, out.Len())
	}
	o.Close()
	kinds := func(o check.Options) (got []string) {
		t.Helper()
		if _, err := f.Check(ctx, o, func(p check.Problem) error {
			got = append(got, strings.TrimSpace(fmt.Sprint(p.Kind, " ", p.Key)))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := kinds(check.Options{}); len(got) != 0 {
		t.Fatalf("%q", got)
	}
	if got := kinds(check.Options{Read: true}); len(got) != 3 || got[0] != "content large" || got[1] != "content small" || got[2] != "content" {
		t.Fatalf("%q", got)
	}
	before := f.Stats().CorruptFound
	if err := f.scrub(ctx); err != nil {
		t.Fatal(err)
	}
	if s := f.Stats(); s.CorruptFound != before+3 || s.ScrubRounds != 1 || s.ScrubbedItems == 0 {
		t.Fatalf("%+v", s)
	}
	if err := f.scrub(ctx); err != nil || f.Stats().ScrubRounds != 1 {
		t.Fatal("a second round within a day", err)
	}
	f.now.advance(25 * time.Hour)
	flip.Store(false)
	before = f.Stats().CorruptFound
	if err := f.scrub(ctx); err != nil || f.Stats().CorruptFound != before+1 || f.Stats().ScrubRounds != 2 {
		t.Fatalf("%+v, %v", f.Stats(), err)
	}
	f.want("bucket", "good", "", "good")
}

func TestCheckFindsAndRepairs(t *testing.T) {
	f := newFixture(t, vfs.NewMem(), Options{})
	ctx := t.Context()
	f.bucket("bucket", BucketOptions{})
	f.put("bucket", "a", big(InlineMax+1))
	f.put("bucket", "gone", big(InlineMax+2))
	f.put("bucket", "inline", "x")
	if _, err := f.Copy(ctx, CopySource{Bucket: "bucket", Key: "a"}, "bucket", "b", PutOptions{}); err != nil {
		t.Fatal(err)
	}
	v, err := f.Head(ctx, "bucket", "gone", "")
	if err != nil {
		t.Fatal(err)
	}
	shared, err := f.Head(ctx, "bucket", "a", "")
	if err != nil {
		t.Fatal(err)
	}
	inline, err := f.Open(ctx, "bucket", "inline", "")
	if err != nil {
		t.Fatal(err)
	}
	dataID := inline.rec.Data
	inline.Close()
	if err := f.blobs.Remove(blobs.ID(v.Parts[0].Blob)); err != nil {
		t.Fatal(err)
	}
	orphan := record.BlobID{1, 2, 3}
	for _, name := range []string{f.blobs.Path(blobs.ID(orphan)), "data/blobs/00/README"} {
		file, err := f.fs.Create(name, vfs.CategoryPart)
		if err != nil {
			t.Fatal(err)
		}
		file.Close()
	}
	if err := f.db.Update(ctx, func(tx kv.Tx) error {
		tx.Set(record.BlobKey(record.TagRef, shared.Parts[0].Blob), []byte{9})
		tx.Set(record.IDKey(record.TagData, 12345), []byte("no version"))
		tx.Set(record.IDKey(record.TagParts, 12346), []byte("no version"))
		tx.Set(record.PartKey([record.UploadIDLen]byte{9}, 1), record.AppendPart(nil, &record.Part{Number: 1}))
		tx.Set(record.NullKey(record.CurrentKey(1, "nothing")), make([]byte, record.OrderLen))
		tx.Set(record.CurrentKey(1, "bad"), []byte{0xFF})
		tx.Set(record.CurrentKey(77, "k"), record.Append(nil, &record.Record{Version: record.Version{Clock: 1, Site: 1}}))
		tx.Set(record.OldKey(1, "lonely", record.Order{1}), record.Append(nil, &record.Record{Version: record.Version{Clock: 1, Site: 1}, Null: true}))
		tx.Delete(record.IDKey(record.TagData, dataID))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	f.buckets.m["bucket"].add(record.Usage{Bytes: 1000})
	run := func(repair bool) map[string]int {
		t.Helper()
		got := map[string]int{}
		sum, err := f.Check(ctx, check.Options{Repair: repair}, func(p check.Problem) error {
			got[p.Kind]++
			t.Logf("%+v", p)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, k := range got {
			n += k
		}
		if int(sum.Problems) != n {
			t.Fatalf("%+v, %d reported", sum, n)
		}
		return got
	}
	want := map[string]int{
		"missing": 2, "orphan-file": 1, "stray-file": 1, "references": 1, "orphan-content": 2, "orphan-part": 1,
		"pointer": 2, "record": 2, "bucket": 1, "counters": 1,
	}
	if got := run(false); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("%v, want %v", got, want)
	}
	if got := run(true); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("%v, want %v", got, want)
	}
	for _, k := range []string{"orphan-file", "references", "orphan-content", "orphan-part", "counters", "pointer"} {
		delete(want, k)
	}
	want["record"] = 1
	want["missing"] = 2
	if got := run(false); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("after repairs: %v, want %v", got, want)
	}
	f.want("bucket", "a", "", big(InlineMax+1))
	f.delete("bucket", "a", "")
	f.want("bucket", "b", "", big(InlineMax+1))
	f.wantErr("bucket", "inline", "", ErrCorrupt)
	f.reopen()
	if got := run(false); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("after reopening: %v, want %v", got, want)
	}
}

func TestCheckInSeveralPasses(t *testing.T) {
	f := newFixture(t, vfs.NewMem(), Options{InlineMax: 10})
	ctx := t.Context()
	f.bucket("bucket", BucketOptions{})
	for i := range 60 {
		f.put("bucket", fmt.Sprint("inline", i), "x")
		f.put("bucket", fmt.Sprint("file", i), "more than ten bytes")
	}
	id, err := f.CreateUpload(ctx, "bucket", "m", PutOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.CompleteUpload(ctx, "bucket", "m", id, listed1(f.part("m", id, 1, "part")), CompleteOptions{Size: -1}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Copy(ctx, CopySource{Bucket: "bucket", Key: "m"}, "bucket", "m2", PutOptions{}); err != nil {
		t.Fatal(err)
	}
	// An orphan of each kind, to be found once whatever the number of passes.
	file, err := f.fs.Create(f.blobs.Path(blobs.ID{0xFF}), vfs.CategoryPart)
	if err != nil {
		t.Fatal(err)
	}
	file.Close()
	if err := f.db.Update(ctx, func(tx kv.Tx) error {
		tx.Set(record.IDKey(record.TagData, 7), nil)
		tx.Set(record.BlobKey(record.TagRef, record.BlobID{0x80}), []byte{2})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	var want check.Summary
	for _, limit := range []int{check.MaxTracked, 70, 20} {
		got := map[string]int{}
		sum, err := f.Store.check(ctx, &check.Options{}, limit, func(p check.Problem) error {
			got[p.Kind]++
			return nil
		})
		if err != nil {
			t.Fatalf("limit %d: %v", limit, err)
		}
		if limit == check.MaxTracked {
			want = sum
		}
		if sum != want || sum.Blobs != 61 || sum.Versions != 122 {
			t.Fatalf("limit %d: %+v, want %+v", limit, sum, want)
		}
		if len(got) != 3 || got["orphan-file"] != 1 || got["orphan-content"] != 1 || got["references"] != 1 {
			t.Fatalf("limit %d: %v", limit, got)
		}
	}
}

func TestRunWorksAndEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, vfs.NewMem(), Options{Now: time.Now, ScrubBytesPerSecond: 1 << 30})
		f.bucket("bucket", BucketOptions{})
		f.put("bucket", "k", big(InlineMax+1))
		id, err := f.CreateUpload(t.Context(), "bucket", "old", PutOptions{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- f.Run(ctx) }()
		time.Sleep(time.Second) // the first scrub is over: a part that it reads is removed at the next round only
		synctest.Wait()
		f.delete("bucket", "k", "")
		time.Sleep(time.Second)
		synctest.Wait()
		if n := f.Stats().BlobsRemoved; n != 1 {
			t.Errorf("%d blobs removed", n)
		}
		time.Sleep(UploadMaxAge + time.Hour)
		synctest.Wait()
		if _, err := f.Upload(t.Context(), "bucket", "old", id); !errors.Is(err, ErrNoSuchUpload) {
			t.Error(err)
		}
		if s := f.Stats(); s.UploadsExpired != 1 || s.ScrubRounds < 7 {
			t.Errorf("%+v", s)
		}
		if seq := f.usageSeq.Load(); seq != f.JournalTail() {
			t.Errorf("counters stored as of %d, tail %d", seq, f.JournalTail())
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		f.close()
	})
}

func TestFormatAndSiteAreChecked(t *testing.T) {
	f := newFixture(t, vfs.NewMem(), Options{Site: 5})
	if _, err := Open(t.Context(), f.fs, "data", f.db, Options{Site: 6}); firn.KindOf(err) != firn.Conflict {
		t.Fatal(err)
	}
	if err := f.db.Update(t.Context(), func(tx kv.Tx) error {
		tx.Set(record.MetaKey("format"), record.IDKey(0, formatVersion+1)[1:])
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), f.fs, "data", f.db, Options{Site: 5}); firn.KindOf(err) != firn.Unsupported {
		t.Fatal(err)
	}
}

// handOver is an engine whose commits end before or after they are handed over.
type handOver struct {
	kv.DB
	refuse func() error // called where a commit of the namespace would be handed over; nil: it goes on
}

func (h *handOver) Update(ctx context.Context, fn func(kv.Tx) error, locks ...[]byte) error {
	if h.refuse == nil || len(locks) == 0 {
		return h.DB.Update(ctx, fn, locks...)
	}
	var refused error
	err := h.DB.Update(ctx, func(tx kv.Tx) error {
		if err := fn(tx); err != nil {
			return err
		}
		refused = h.refuse()
		return refused
	}, locks...)
	if refused != nil {
		return refused
	}
	return err
}

func TestRefusedCommitLeavesItsFileOnlyWhereItsOutcomeIsOpen(t *testing.T) {
	for _, tt := range []struct {
		name  string
		open  bool
		error error
	}{
		{"the context ended before the hand-over", false, context.Canceled},
		{"the engine failed", true, kv.ErrClosed},
		{"the engine failed with a context's error of its own", true, context.DeadlineExceeded},
	} {
		for what, put := range map[string]func(context.Context, *fixture, string) error{
			"object": func(ctx context.Context, f *fixture, _ string) error {
				_, err := f.Put(ctx, "bucket", "k", strings.NewReader(big(InlineMax+1)), PutOptions{Size: InlineMax + 1})
				return err
			},
			"part": func(ctx context.Context, f *fixture, id string) error {
				_, err := f.PutPart(ctx, "bucket", "m", id, 1, strings.NewReader("part"), PutOptions{Size: 4})
				return err
			},
		} {
			t.Run(tt.name+"/"+what, func(t *testing.T) {
				f := newFixture(t, vfs.NewMem(), Options{})
				f.bucket("bucket", BucketOptions{})
				id, err := f.CreateUpload(t.Context(), "bucket", "m", PutOptions{})
				if err != nil {
					t.Fatal(err)
				}
				f.put("bucket", "k", big(InlineMax+2)) // the pool of ready files is full
				before := len(f.files())
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				f.Store.db = &handOver{DB: f.db, refuse: func() error { cancel(); return tt.error }}
				if err := put(ctx, f, id); !errors.Is(err, tt.error) {
					t.Fatalf("%v, want %v", err, tt.error)
				}
				// The file came from the pool of ready ones.
				if gone := before - len(f.files()); (gone == 0) != tt.open {
					t.Errorf("%d files fewer", gone)
				}
				f.Store.db = f.db
				f.want("bucket", "k", "", big(InlineMax+2))
				f.reopen()
				if s := f.check(); int(s.Blobs) != len(f.files()) {
					t.Errorf("%d files for %d blobs", len(f.files()), s.Blobs)
				}
			})
		}
	}
}
