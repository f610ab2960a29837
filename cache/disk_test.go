package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"firn"
	"firn/vfs"
)

const testSegment = 64 << 10

func openDisk(t *testing.T, fsys vfs.FS, opt DiskOptions) *Disk {
	t.Helper()
	if opt.Dir == "" {
		opt.Dir = "cache"
	}
	if opt.Budget == 0 {
		opt.Budget = minDisk
	}
	if opt.segment == 0 {
		opt.segment = testSegment
	}
	d, err := OpenDisk(fsys, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func put(t *testing.T, d *Disk, k Key, v Value) {
	t.Helper()
	d.Put(k, v)
	flush(t, d)
}

func flush(t *testing.T, d *Disk) {
	t.Helper()
	if err := d.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T, d *Disk, k Key, data []byte) {
	t.Helper()
	if v, ok := d.Get(t.Context(), k); !ok || !bytes.Equal(v.Data, data) {
		t.Errorf("%v: found %v, %d bytes", k, ok, len(v.Data))
	}
}

func wantMiss(t *testing.T, d *Disk, k Key) {
	t.Helper()
	if _, ok := d.Get(t.Context(), k); ok {
		t.Errorf("%v is there", k)
	}
}

// onDisk returns the bytes of all files of the cache but its lock.

func onDisk(t *testing.T, fsys vfs.FS, dir string) int64 {
	t.Helper()
	names, err := fsys.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	var sum int64
	for _, n := range names {
		if fi, err := fsys.Stat(fsys.PathJoin(dir, n)); err == nil && n != vfs.LockName {
			sum += fi.Size()
		}
	}
	return sum
}

func TestDiskKeepsBlocksOverARestart(t *testing.T) {
	for name, fsys := range map[string]vfs.FS{"os": vfs.OS(), "memory": vfs.NewMem()} {
		t.Run(name, func(t *testing.T) {
			opt := DiskOptions{Dir: fsys.PathJoin(t.TempDir(), "a", "b")}
			d := openDisk(t, fsys, opt)
			values := map[Key]Value{
				{"b/k", "v1", 0}:     {Data: block(10_000, 1), Meta: []byte("type: text")},
				{"b/k", "v1", 7}:     {Data: block(20_000, 2)},
				{"b/k", "v2", 0}:     {Data: block(20_000, 3), Expires: time.Now().Add(time.Hour).Truncate(time.Millisecond)},
				{"b/empty", "v1", 0}: {},
				{"", "", 0}:          {Data: []byte("nameless")},
			}
			check := func(d *Disk) {
				t.Helper()
				for k, want := range values {
					v, ok := d.Get(t.Context(), k)
					if ok != (k.Object != "") || ok && (!bytes.Equal(v.Data, want.Data) || !bytes.Equal(v.Meta, want.Meta) || !v.Expires.Equal(want.Expires)) {
						t.Errorf("%v: %v %d bytes, %q, %v", k, ok, len(v.Data), v.Meta, v.Expires)
					}
				}
				wantMiss(t, d, Key{"b/k", "v1", 1})
				if s := d.Status(); s.Blocks != 4 || s.Bytes != onDisk(t, fsys, opt.Dir) {
					t.Errorf("status %+v, on disk %d", s, onDisk(t, fsys, opt.Dir))
				}
			}
			for k, v := range values {
				d.Put(k, v)
			}
			flush(t, d)
			check(d)
			if _, err := OpenDisk(fsys, DiskOptions{Dir: opt.Dir, Budget: minDisk}); firn.KindOf(err) != firn.Conflict {
				t.Errorf("opened twice: %v", err)
			}
			for range 3 {
				if err := d.Close(); err != nil {
					t.Fatal(err)
				}
				d = openDisk(t, fsys, opt)
				check(d)
			}
			put(t, d, Key{"b/k", "v1", 0}, Value{Data: []byte("new")})
			want(t, d, Key{"b/k", "v1", 0}, []byte("new"))
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			d = openDisk(t, fsys, opt)
			want(t, d, Key{"b/k", "v1", 0}, []byte("new"))
		})
	}
}

func TestDiskOptions(t *testing.T) {
	for _, o := range []DiskOptions{
		{Budget: minDisk},
		{Dir: "x", Budget: minDisk - 1},
		{Dir: "x", Budget: minDisk, Memory: 1},
		{Dir: "x", Budget: minDisk, TTL: -1},
		{Dir: "x", Budget: minDisk, Queue: -1},
	} {
		if _, err := OpenDisk(vfs.NewMem(), o); firn.KindOf(err) != firn.Invalid {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

// TestDiskBudgetUnderTenTimesTheWorkingSet looks at the files after every single change of the file system.

func TestDiskBudgetUnderTenTimesTheWorkingSet(t *testing.T) {
	const budget = minDisk
	mem := vfs.NewMem()
	var most, mostMemory atomic.Int64
	tap := vfs.NewTap(mem)
	tap.After = func(op vfs.Op, _ error) {
		if !op.Kind.Mutates() {
			return
		}
		var sum int64
		names, _ := mem.List("cache")
		for _, n := range names {
			if fi, err := mem.Stat("cache/" + n); err == nil {
				sum += fi.Size()
			}
		}
		if sum > most.Load() {
			most.Store(sum)
		}
	}
	opt := DiskOptions{Budget: budget, Memory: minIndex}
	d := openDisk(t, tap, opt)
	c := New(Options{}, d)
	if err := d.Pin(Match{Object: "b/1", Prefix: true}); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for g := range 3 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 9))
			for range 1500 {
				n := r.Int64N(4000) // 4000 blocks of 1..20 KiB: 40 MiB
				k := key(fmt.Sprintf("b/%d", n), 0)
				v, _, err := c.Get(t.Context(), k, func(context.Context) (Value, error) {
					return Value{Data: block(1000+int(n)*5, uint64(n))}, nil
				})
				if err != nil || len(v.Data) != 1000+int(n)*5 {
					t.Error(err)
				}
				if r.IntN(50) == 0 {
					if err := d.Flush(t.Context()); err != nil {
						t.Error(err)
					}
				}
				if m := d.Status().Memory; m > mostMemory.Load() {
					mostMemory.Store(m)
				}
			}
		})
	}
	wg.Wait()
	s := d.Status()
	t.Logf("most %d of %d bytes, %d of %d memory; %+v", most.Load(), budget, mostMemory.Load(), opt.Memory, s)
	if most.Load() > budget || mostMemory.Load() > opt.Memory {
		t.Errorf("%d bytes on disk, %d in memory", most.Load(), mostMemory.Load())
	}
	if s.Evicted == 0 || s.Hits == 0 || s.Bytes < budget*7/10 || s.Pinned == 0 || s.Pinned > budget/2 {
		t.Errorf("status %+v", s)
	}
	if got := onDisk(t, mem, "cache"); got > budget {
		t.Errorf("%d bytes on disk", got)
	}
}

// TestDiskMemoryIsBounded: many small blocks fill the index before the disk.

func TestDiskMemoryIsBounded(t *testing.T) {
	d := openDisk(t, vfs.NewMem(), DiskOptions{Memory: minIndex, Queue: 1 << 30})
	for i := range 20_000 {
		d.Put(key(fmt.Sprintf("bucket/%d", i), 0), Value{Data: []byte{1}})
	}
	flush(t, d)
	s := d.Status()
	if s.Memory > minIndex || s.Blocks < 1500 || s.Evicted == 0 {
		t.Errorf("status %+v", s)
	}
	want(t, d, key("bucket/19999", 0), []byte{1})
	wantMiss(t, d, key("bucket/0", 0))
	if err := d.Remove(t.Context(), Match{Prefix: true}); err != nil {
		t.Fatal(err)
	}
	for range 8 {
		put(t, d, key("x", 0), Value{Data: make([]byte, testSegment/2)})
	}
}

// TestIndexMemory holds the charges to what the heap says.

// TestIndexAgainstAMap changes the index and a plain map alike.

// TestDiskEviction: what is read stays when a scan passes, what is pinned stays too, the rest goes, the oldest first.

func TestDiskEviction(t *testing.T) {
	d := openDisk(t, vfs.NewMem(), DiskOptions{Queue: 1 << 30})
	data := block(4000, 1)
	if err := d.Pin(Match{Object: "pinned/", Prefix: true}); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		for _, kind := range []string{"read", "pinned", "idle"} {
			d.Put(key(fmt.Sprintf("%s/%d", kind, i), 0), Value{Data: data})
		}
	}
	flush(t, d)
	for round := range 12 {
		for i := range 200 {
			d.Put(key(fmt.Sprintf("scan/%d/%d", round, i), 0), Value{Data: data})
		}
		flush(t, d)
		for i := range 20 {
			want(t, d, key(fmt.Sprintf("read/%d", i), 0), data)
		}
	}
	for i := range 20 {
		want(t, d, key(fmt.Sprintf("pinned/%d", i), 0), data)
		wantMiss(t, d, key(fmt.Sprintf("idle/%d", i), 0))
	}
	want(t, d, key("scan/11/199", 0), data)
	wantMiss(t, d, key("scan/0/0", 0))
	if err := d.Unpin(Match{Object: "pinned/", Prefix: true}); err != nil {
		t.Fatal(err)
	}
	if err := d.Unpin(Match{Object: "pinned/", Prefix: true}); firn.KindOf(err) != firn.NotFound {
		t.Error(err)
	}
	if s := d.Status(); s.Pinned != 0 {
		t.Errorf("status %+v", s)
	}
	for i := range 2400 {
		d.Put(key(fmt.Sprintf("scan/12/%d", i), 0), Value{Data: data})
	}
	flush(t, d)
	for round := range 3 { // what was read above goes on with half of its hits
		for i := range 1000 {
			d.Put(key(fmt.Sprintf("more/%d/%d", round, i), 0), Value{Data: data})
		}
	}
	flush(t, d)
	for i := range 20 {
		wantMiss(t, d, key(fmt.Sprintf("pinned/%d", i), 0))
	}
}

func TestPinsSurviveARestart(t *testing.T) {
	fsys := vfs.NewCrashableMem()
	d := openDisk(t, fsys, DiskOptions{})
	for _, m := range []Match{{Object: "a/", Prefix: true}, {Object: "b", Version: "ignored"}, {Object: "c"}} {
		if err := d.Pin(m); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Unpin(Match{Object: "c"}); err != nil {
		t.Fatal(err)
	}
	clone := vfs.CrashClone(fsys)
	e := openDisk(t, clone, DiskOptions{})
	pins := []Match{{Object: "a/", Prefix: true}, {Object: "b"}}
	if !slices.Equal(e.Pins(), pins) {
		t.Errorf("pins %+v", e.Pins())
	}
	put(t, e, key("a/x", 0), Value{Data: []byte("1")})
	if e.Status().Pinned == 0 {
		t.Error("what comes under a pin is not pinned")
	}
	var err error
	for i := 0; err == nil && i < 10_000; i++ {
		err = e.Pin(Match{Object: fmt.Sprintf("%04d", i) + strings.Repeat("x", 1000)})
	}
	if firn.KindOf(err) != firn.NoSpace {
		t.Errorf("pins without end: %v", err)
	}
	if err := e.Pin(Match{}); firn.KindOf(err) != firn.Invalid {
		t.Error(err)
	}
}

// TestPinsAreBounded: pins over half of the budget do not stop the cache.

func TestPinsAreBounded(t *testing.T) {
	d := openDisk(t, vfs.NewMem(), DiskOptions{Queue: 1 << 30})
	if err := d.Pin(Match{Prefix: true}); err != nil {
		t.Fatal(err)
	}
	data := block(4000, 1)
	for i := range 4000 {
		d.Put(key(fmt.Sprint("b/", i), 0), Value{Data: data})
	}
	flush(t, d)
	s := d.Status()
	if s.Pinned > s.Budget/2 || s.Pinned < s.Budget/3 || s.Bytes > s.Budget || s.Refused != 0 {
		t.Errorf("status %+v", s)
	}
	want(t, d, key("b/0", 0), data)
	want(t, d, key("b/3999", 0), data)
}

// TestDamageIsAMiss flips one bit of each byte position's read in turn.

func TestDamageIsAMiss(t *testing.T) {
	tap := vfs.NewTap(vfs.NewMem())
	var flip atomic.Int64
	flip.Store(-1)
	tap.OnRead = func(op vfs.Op, p []byte) {
		if n := flip.Load(); n >= 0 && n < int64(len(p)) && op.Kind == vfs.OpReadAt {
			p[n] ^= 1 << (n % 8)
		}
	}
	d := openDisk(t, tap, DiskOptions{})
	data := block(50, 1)
	k := key("b/k", 3)
	size := int64(recordHead + 3 + 2 + 4 + 50)
	for n := range size {
		flip.Store(-1)
		put(t, d, k, Value{Data: data, Meta: []byte("meta")})
		want(t, d, k, data)
		flip.Store(n)
		wantMiss(t, d, k)
		flip.Store(-1)
		wantMiss(t, d, k) // it is gone, not only hidden
	}
	if s := d.Status(); s.Damaged != uint64(size) || s.Blocks != 0 {
		t.Errorf("status %+v of %d", s, size)
	}
}

// TestMisplacedBytesAreAMiss: the right record of another block, or of this one in another segment, is not taken.

// TestCrashAtEachStep takes a crash clone after every change of the file system: what is found in it has the right

// bytes, and what a purge was acknowledged for is not found.

// TestKilledProcess: all that was written is found when nothing was sealed, and purges hold.

// TestDiskErrors: a disk that fails or is full costs hits, never a read, and the cache goes on when it is well again.

func TestDiskErrors(t *testing.T) {
	for name, c := range map[string]struct {
		kind vfs.OpKind
		err  error
		part int
	}{
		"write": {vfs.OpWrite, syscall.EIO, 0}, "torn write": {vfs.OpWrite, syscall.EIO, 100}, "full": {vfs.OpWrite, syscall.ENOSPC, 10},
		"create": {vfs.OpCreate, syscall.EIO, 0}, "no room for a file": {vfs.OpCreate, syscall.ENOSPC, 0},
		"open": {vfs.OpOpen, syscall.EMFILE, 0}, "read": {vfs.OpReadAt, syscall.EIO, 0}, "remove": {vfs.OpRemove, syscall.EIO, 0},
		"sync": {vfs.OpSyncData, syscall.EIO, 0}, "dir sync": {vfs.OpSyncDir, syscall.EIO, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				mem := vfs.NewMem()
				tap := vfs.NewTap(mem)
				var broken atomic.Bool
				var count atomic.Int64
				tap.Before = func(op vfs.Op) vfs.Fault {
					if broken.Load() && op.Kind == c.kind && count.Add(1)%2 == 0 {
						return vfs.Fault{Err: c.err, Short: c.part}
					}
					return vfs.Fault{}
				}
				d := openDisk(t, tap, DiskOptions{Queue: 1 << 30})
				data := block(4000, 1)
				work := func(from, to int) {
					for i := from; i < to; i++ {
						k := key(fmt.Sprint("b/", i), 0)
						d.Put(k, Value{Data: data})
						if i%10 == 0 {
							_ = d.Remove(t.Context(), Match{Object: k.Object})
							if _, ok := d.Get(t.Context(), k); ok {
								t.Errorf("%v is there after its removal", k)
							}
						}
						if i%3 == 0 {
							flush(t, d)
							if v, ok := d.Get(t.Context(), k); ok && !bytes.Equal(v.Data, data) {
								t.Errorf("%v: other bytes", k)
							}
						}
						if i%100 == 0 {
							time.Sleep(retryAfter)
						}
						if n := onDisk(t, mem, "cache"); n > minDisk {
							t.Fatalf("%d bytes on disk", n)
						}
					}
				}
				work(0, 50)
				broken.Store(true)
				work(50, 1500)
				broken.Store(false)
				time.Sleep(retryAfter)
				if d.Status().Errors == 0 {
					t.Error("no error was counted")
				}
				if name == "remove" {
					return // the bytes stay counted until the next start
				}
				put(t, d, key("well", 0), Value{Data: data})
				want(t, d, key("well", 0), data)
			})
		})
	}
}

// TestAPurgeThatIsNotDurableSaysSo and is in force until the restart.

func TestAPurgeThatIsNotDurableSaysSo(t *testing.T) {
	tap := vfs.NewTap(vfs.NewMem())
	var broken atomic.Bool
	tap.Before = func(op vfs.Op) vfs.Fault {
		if broken.Load() && op.Kind == vfs.OpSyncData {
			return vfs.Fault{Err: syscall.EIO}
		}
		return vfs.Fault{}
	}
	d := openDisk(t, tap, DiskOptions{})
	put(t, d, key("a", 0), Value{Data: []byte("1")})
	broken.Store(true)
	err := New(Options{}, d).Purge(t.Context(), Match{Object: "a"})
	if firn.KindOf(err) != firn.Unavailable || !strings.Contains(err.Error(), "repeat the purge") {
		t.Error(err)
	}
	wantMiss(t, d, key("a", 0))
	broken.Store(false)
	if err := d.Remove(t.Context(), Match{Object: "a"}); err != nil {
		t.Error(err)
	}
}

func TestDiskExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := vfs.NewMem()
		opt := DiskOptions{TTL: time.Hour}
		d := openDisk(t, mem, opt)
		put(t, d, key("ttl", 0), Value{Data: []byte("1")})
		put(t, d, key("soon", 0), Value{Data: []byte("1"), Expires: time.Now().Add(time.Minute)})
		put(t, d, key("late", 0), Value{Data: []byte("1"), Expires: time.Now().Add(24 * time.Hour)})
		put(t, d, key("over", 0), Value{Data: []byte("1"), Expires: time.Now()})
		wantMiss(t, d, key("over", 0))
		v, ok := d.Get(t.Context(), key("ttl", 0))
		if !ok || !v.Expires.Equal(time.Now().Add(time.Hour)) {
			t.Errorf("expires %v", v.Expires) // a nearer level must not keep it longer
		}
		time.Sleep(time.Minute)
		wantMiss(t, d, key("soon", 0))
		want(t, d, key("late", 0), []byte("1"))
		if s := d.Status(); s.Oldest != time.Minute || s.Expired != 1 {
			t.Errorf("status %+v", s)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(58 * time.Minute)
		d = openDisk(t, mem, opt)
		want(t, d, key("ttl", 0), []byte("1"))
		time.Sleep(time.Minute)
		wantMiss(t, d, key("ttl", 0))
		wantMiss(t, d, key("late", 0))
		if s := d.Status(); s.Blocks != 0 {
			t.Errorf("status %+v", s)
		}
	})
}

func TestDiskWithASmallerBudget(t *testing.T) {
	mem := vfs.NewMem()
	d := openDisk(t, mem, DiskOptions{Budget: 4 * minDisk, Queue: 1 << 30})
	data := block(4000, 1)
	for i := range 4000 {
		d.Put(key(fmt.Sprint("b/", i), 0), Value{Data: data})
	}
	flush(t, d)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if n := onDisk(t, mem, "cache"); n < 3*minDisk {
		t.Fatalf("%d bytes", n)
	}
	d = openDisk(t, mem, DiskOptions{Budget: minDisk})
	if n := onDisk(t, mem, "cache"); n > minDisk {
		t.Errorf("%d bytes", n)
	}
	want(t, d, key("b/3999", 0), data)
	wantMiss(t, d, key("b/0", 0))
}

// TestRemoveAgainstWritesUnderWay: once Remove returned, nothing that was Put before is found, whatever the writer was at.

func TestRemoveAgainstWritesUnderWay(t *testing.T) {
	d := openDisk(t, vfs.NewMem(), DiskOptions{Queue: 1 << 30})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { // keeps segments moving
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				d.Put(key(fmt.Sprint("noise/", i%500), 0), Value{Data: make([]byte, 3000)})
				d.Get(t.Context(), key(fmt.Sprint("noise/", (i-50)%500), 0))
				if i%64 == 0 {
					_ = d.Flush(t.Context())
				}
			}
		}
	})
	k := key("b/k", 0)
	for i := range 500 {
		d.Put(k, Value{Data: []byte(fmt.Sprint(i))})
		if i%3 == 0 {
			d.Get(t.Context(), k)
		}
		if err := d.Remove(t.Context(), Match{Object: "b/", Prefix: i%2 == 0, Version: ""}); err != nil {
			t.Fatal(err)
		}
		if i%2 == 1 { // "b/" is no object: only the prefix removes
			continue
		}
		if v, ok := d.Get(t.Context(), k); ok {
			t.Fatalf("%s is there after the removal number %d", v.Data, i)
		}
	}
	close(stop)
	wg.Wait()
}

// TestRemoveWhileABlockIsWritten holds the writer in the middle of a write, of a new block and of one that is written

// again, and removes the block meanwhile.

func TestRemoveWhileABlockIsWritten(t *testing.T) {
	tap := vfs.NewTap(vfs.NewMem())
	var armed atomic.Int64 // length of the write to stop at
	stopped, goOn := make(chan struct{}), make(chan struct{})
	tap.Before = func(op vfs.Op) vfs.Fault {
		if n := armed.Load(); op.Kind == vfs.OpWrite && op.Len == n && armed.CompareAndSwap(n, 0) {
			stopped <- struct{}{}
			<-goOn
		}
		return vfs.Fault{}
	}
	d := openDisk(t, tap, DiskOptions{Queue: 1 << 30})
	k := key("b/k", 0)
	data := block(4321, 1)
	during := func() {
		t.Helper()
		<-stopped
		removed := make(chan error)
		go func() { removed <- d.Remove(t.Context(), Match{Object: "b/k"}) }()
		for waiting := 0; waiting == 0; {
			d.queue.mu.Lock()
			for _, o := range d.queue.mu.ops {
				if o.remove {
					waiting++
				}
			}
			d.queue.mu.Unlock()
			runtime.Gosched()
		}
		d.mu.RLock()
		e := d.mu.index.find(k)
		d.mu.RUnlock()
		for e != nil { // Remove takes it out of the index before it waits
			d.mu.RLock()
			e = d.mu.index.find(k)
			d.mu.RUnlock()
			runtime.Gosched()
		}
		goOn <- struct{}{}
		if err := <-removed; err != nil {
			t.Fatal(err)
		}
		wantMiss(t, d, k)
	}
	size := int64(recordHead + len("b/kv1") + len(data))
	armed.Store(size)
	d.Put(k, Value{Data: data})
	during()
	put(t, d, k, Value{Data: data})
	want(t, d, k, data)
	armed.Store(size)
	for i := range 1000 {
		d.Put(key(fmt.Sprint("scan/", i), 0), Value{Data: data[:4000]})
	}
	during()
	flush(t, d)
	d.mu.RLock()
	var blocks int64
	for _, c := range d.mu.index.contents {
		for ; c != nil; c = c.next {
			blocks += int64(len(c.blocks))
		}
	}
	counted := d.mu.index.blocks
	d.mu.RUnlock()
	for i := range 3000 { // until the segment it was written to again has gone
		d.Put(key(fmt.Sprint("more/", i), 0), Value{Data: data[:4000]})
	}
	flush(t, d)
	if s := d.Status(); blocks != counted || s.Blocks < 500 || s.Memory < s.Blocks*entryCharge {
		t.Errorf("%d blocks, %d counted; status %+v", blocks, counted, s)
	}
	if err := d.Remove(t.Context(), Match{Prefix: true}); err != nil {
		t.Fatal(err)
	}
	if s := d.Status(); s.Blocks != 0 {
		t.Errorf("%d blocks counted of none", s.Blocks)
	}
}

// TestAllIsRead: when every block is read, eviction still wins half of the room it goes through.

func TestAllIsRead(t *testing.T) {
	tap := vfs.NewTap(vfs.NewMem())
	var written atomic.Int64
	tap.After = func(op vfs.Op, _ error) {
		if op.Kind == vfs.OpWrite {
			written.Add(op.Len)
		}
	}
	d := openDisk(t, tap, DiskOptions{Queue: 1 << 30})
	data := block(4000, 1)
	const blocks = 4000
	for i := range blocks {
		put(t, d, key(fmt.Sprint("b/", i), 0), Value{Data: data})
		for range maxHits + 1 {
			want(t, d, key(fmt.Sprint("b/", i), 0), data)
		}
	}
	if s := d.Status(); s.Refused != 0 || written.Load() > 5*blocks*4000/2 {
		t.Errorf("written %d bytes of %d; status %+v", written.Load(), blocks*4000, s)
	}
}

func TestQueueIsBounded(t *testing.T) {
	tap := vfs.NewTap(vfs.NewMem())
	hold := make(chan struct{})
	var held atomic.Bool
	tap.Before = func(op vfs.Op) vfs.Fault {
		if held.Load() && op.Kind == vfs.OpWrite {
			<-hold
		}
		return vfs.Fault{}
	}
	d := openDisk(t, tap, DiskOptions{Queue: 100 << 10})
	held.Store(true)
	for i := range 50 {
		d.Put(key(fmt.Sprint("b/", i), 0), Value{Data: make([]byte, 10<<10)})
		d.queue.mu.Lock()
		if d.queue.mu.bytes > 100<<10 {
			t.Errorf("%d bytes wait", d.queue.mu.bytes)
		}
		d.queue.mu.Unlock()
	}
	held.Store(false)
	close(hold)
	flush(t, d)
	s := d.Status()
	if s.Refused < 39 || s.Blocks < 9 || s.Refused+uint64(s.Blocks) != 50 {
		t.Errorf("status %+v", s)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := d.Remove(t.Context(), Match{Object: "a"}); !errors.Is(err, errClosed) {
		t.Error(err)
	}
	d.Put(key("late", 0), Value{})
}

// TestTwoLevels: a block on disk comes back to memory, and a purge reaches both.

func TestTwoLevels(t *testing.T) {
	mem := vfs.NewMem()
	d := openDisk(t, mem, DiskOptions{})
	c := New(Options{}, newMemory(t, 4<<20, 0), d)
	for i := range 10 {
		if _, _, err := c.Get(t.Context(), key("b/k", int64(i)), given(block(1000, uint64(i)))); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	d = openDisk(t, mem, DiskOptions{})
	c = newCache(t, newMemory(t, 4<<20, 0), d)
	for _, want := range []string{"disk", "memory"} {
		for i := range 10 {
			v, level, err := c.Get(t.Context(), key("b/k", int64(i)), never(t))
			if err != nil || level != want || !bytes.Equal(v.Data, block(1000, uint64(i))) {
				t.Errorf("block %d from %q: %v", i, level, err)
			}
		}
	}
	if err := c.Purge(t.Context(), Match{Object: "b/k"}); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		if _, level, ok := c.Lookup(t.Context(), key("b/k", int64(i))); ok {
			t.Errorf("block %d in %s after the purge", i, level)
		}
	}
	if c.Pinner() == nil || len(c.Status()) != 2 {
		t.Error("no level can pin")
	}
}

func BenchmarkGet(b *testing.B) {
	for _, size := range []int{4 << 10, 1 << 20} {
		m, err := NewMemory(MemoryOptions{Budget: 256 << 20})
		if err != nil {
			b.Fatal(err)
		}
		d, err := OpenDisk(vfs.OS(), DiskOptions{Dir: b.TempDir(), Budget: 512 << 20, Queue: 256 << 20})
		if err != nil {
			b.Fatal(err)
		}
		defer d.Close()
		const n = 64
		for i := range n {
			v := Value{Data: make([]byte, size)}
			m.Put(key("b/k", int64(i)), v)
			d.Put(key("b/k", int64(i)), v)
		}
		if err := d.Flush(b.Context()); err != nil {
			b.Fatal(err)
		}
		for _, l := range []Level{m, d} {
			b.Run(fmt.Sprintf("%s/%dKiB", l.Name(), size>>10), func(b *testing.B) {
				b.SetBytes(int64(size))
				b.ReportAllocs()
				b.RunParallel(func(pb *testing.PB) {
					var i int64
					for pb.Next() {
						i++
						if _, ok := l.Get(b.Context(), key("b/k", i%n)); !ok {
							b.Error("missed")
						}
					}
				})
			})
		}
	}
}

func BenchmarkDiskOpen(b *testing.B) {
	dir := b.TempDir()
	opt := DiskOptions{Dir: dir, Budget: 1 << 30, Queue: 1 << 30, segment: 16 << 20}
	d, err := OpenDisk(vfs.OS(), opt)
	if err != nil {
		b.Fatal(err)
	}
	const n = 100_000
	for i := range n {
		d.Put(key(fmt.Sprint("bucket/some/name/", i), 0), Value{Data: make([]byte, 1<<10)})
	}
	if err := d.Close(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		d, err := OpenDisk(vfs.OS(), opt)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(d.Status().Blocks), "blocks")
		if err := d.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
