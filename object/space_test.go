package object

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pebblevfs "github.com/cockroachdb/pebble/v2/vfs"

	"firn/vfs"
)

// smallDisk is a file system of a size: what is written to it takes space.
type smallDisk struct {
	*vfs.Tap
	size    int64
	written atomic.Int64
	asked   atomic.Int64
}

func newSmallDisk(size int64) *smallDisk {
	d := &smallDisk{Tap: vfs.NewTap(vfs.NewMem()), size: size}
	d.Before = func(op vfs.Op) vfs.Fault {
		if op.Kind == vfs.OpWrite {
			d.written.Add(int64(op.Len))
		}
		return vfs.Fault{}
	}
	return d
}

func (d *smallDisk) GetDiskUsage(string) (pebblevfs.DiskUsage, error) {
	d.asked.Add(1)
	return pebblevfs.DiskUsage{AvailBytes: uint64(max(0, d.size-d.written.Load())), TotalBytes: uint64(d.size)}, nil
}

// TestReserveIsKept fills a disk at once, with the clock standing still, from several goroutines.
func TestReserveIsKept(t *testing.T) {
	const size, reserve = 32 << 20, 8 << 20
	for _, tt := range []struct {
		name    string
		content int
		known   bool
		least   int64 // bytes that stay free
	}{
		{"files", 1<<20 + 7, true, reserve},
		{"files of unknown size", 1<<20 + 7, false, reserve},
		// The flush of the last four memtables comes later and lives on the reserve.
		{"inline", 64<<10 + 7, true, reserve - 4<<20},
		{"inline of unknown size", 64<<10 + 7, false, reserve - 4<<20},
	} {
		t.Run(tt.name, func(t *testing.T) {
			disk := newSmallDisk(size)
			f := newFixture(t, disk, Options{ReserveBytes: reserve})
			f.bucket("bucket", BucketOptions{})
			content := big(tt.content)
			var stored atomic.Int64
			var wg sync.WaitGroup
			for g := range 4 {
				wg.Go(func() {
					for i := range size / tt.content {
						o := PutOptions{Size: -1}
						if tt.known {
							o.Size = int64(tt.content)
						}
						_, err := f.Put(t.Context(), "bucket", fmt.Sprintf("%d/%d", g, i), strings.NewReader(content), o)
						if errors.Is(err, ErrNoSpace) {
							return
						}
						if err != nil {
							t.Error(err)
							return
						}
						stored.Add(int64(tt.content))
					}
					t.Error("all fits")
				})
			}
			wg.Wait()
			if free := size - disk.written.Load(); free < tt.least {
				t.Errorf("%d bytes are free, want %d", free, tt.least)
			}
			// A refused body of unknown size has taken its part of the space, too.
			if got := stored.Load(); got < (size-reserve)/2 {
				t.Errorf("only %d bytes fit into %d", got, size-reserve)
			}
			if n := f.space.InFlight(); n != 0 {
				t.Errorf("%d bytes in flight", n)
			}
		})
	}
}

// TestFirstWritesFindTheSample starts a store and writes from many goroutines at once.
func TestFirstWritesFindTheSample(t *testing.T) {
	disk := newSmallDisk(1 << 30)
	f := newFixture(t, disk, Options{ReserveBytes: 1 << 20})
	if disk.asked.Load() == 0 || f.Stats().FreeBytes <= 0 {
		t.Fatalf("no sample after Open: %d free", f.Stats().FreeBytes)
	}
	f.bucket("bucket", BucketOptions{})
	f.reopen()
	f.now.advance(time.Hour)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			if _, err := f.Put(t.Context(), "bucket", fmt.Sprint(i), strings.NewReader("x"), PutOptions{Size: 1}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestFullDiskIsSaidOnce(t *testing.T) {
	disk := &fullDisk{FS: vfs.NewMem()}
	disk.free.Store(64 << 20)
	var out bytes.Buffer
	f := newFixture(t, disk, Options{ReserveBytes: 16 << 20, Logger: slog.New(slog.NewTextHandler(&out, nil))})
	f.bucket("bucket", BucketOptions{})
	lines := func() (full, again int) {
		return strings.Count(out.String(), "nearly full"), strings.Count(out.String(), "has space again")
	}
	want := func(full, again int) {
		t.Helper()
		if gf, ga := lines(); gf != full || ga != again {
			t.Fatalf("%d and %d lines, want %d and %d:\n%s", gf, ga, full, again, out.String())
		}
	}
	put := func(want error) {
		t.Helper()
		if _, err := f.Put(t.Context(), "bucket", "k", io.LimitReader(&countingReader{}, 100), PutOptions{Size: 100}); !errors.Is(err, want) {
			t.Fatalf("%v, want %v", err, want)
		}
	}
	put(nil)
	want(0, 0)
	disk.free.Store(16 << 20)
	f.now.advance(2 * time.Second)
	for range 1000 {
		put(ErrNoSpace)
	}
	want(1, 0)
	f.now.advance(time.Minute)
	for range 1000 {
		put(ErrNoSpace)
	}
	want(2, 0)
	if !strings.Contains(out.String(), "refused=1000") {
		t.Errorf("the refusals are not counted:\n%s", out.String())
	}
	// Barely room: a write goes through, the state stays.
	disk.free.Store(16<<20 + 100<<10)
	f.now.advance(2 * time.Second)
	put(nil)
	want(2, 0)
	disk.free.Store(32 << 20)
	f.now.advance(2 * time.Second)
	put(nil)
	put(nil)
	want(2, 1)
	if n := f.Stats().RefusedForSpace; n != 2000 {
		t.Errorf("%d refusals", n)
	}
	disk.free.Store(1 << 20)
	f.reopen()
	want(3, 1)
}
