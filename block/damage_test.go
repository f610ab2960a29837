package block_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"firn"
	"firn/block"
	"firn/vfs"
)

func readAll(t testing.TB, fsys vfs.FS, name string) []byte {
	t.Helper()
	p, err := vfs.ReadFile(fsys, name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// partBytes returns the bytes of a part file.
func partBytes(t testing.TB, content []byte, o block.WriterOptions) []byte {
	t.Helper()
	fsys := vfs.NewMem()
	writePart(t, fsys, "p", content, 1<<20, o)
	return readAll(t, fsys, "p")
}

// memFile returns an open file with the given bytes.
func memFile(t testing.TB, b []byte) vfs.File {
	t.Helper()
	fsys := vfs.NewMem()
	f := create(t, fsys, "p")
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := fsys.Open("p")
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestFlippedBit flips one bit of every byte of a part, one at a time: opening or verifying finds it, and whatever a
// read lets out is right.
func TestFlippedBit(t *testing.T) {
	content := pattern(9000)
	file := partBytes(t, content, block.WriterOptions{BlockSize: 4 << 10, Label: []byte("bucket/key")})
	for i := range file {
		bad := bytes.Clone(file)
		bad[i] ^= 1 << (i % 8)
		f := memFile(t, bad)
		r, err := block.Open(f, "p")
		if err != nil {
			if k := firn.KindOf(err); k != firn.Corrupt && k != firn.Unsupported {
				t.Errorf("byte %d: Open = %v of kind %v", i, err, k)
			}
			continue
		}
		var out bytes.Buffer
		n, err := r.WriteRange(t.Context(), &out, 0, r.Info().Size)
		if i < len(content) {
			var ce *block.CorruptError
			if !errors.As(err, &ce) || ce.Block != int64(i/4096) || firn.KindOf(err) != firn.Corrupt {
				t.Errorf("byte %d: WriteRange = %v", i, err)
			}
		}
		if n != int64(out.Len()) || !bytes.Equal(out.Bytes(), content[:out.Len()]) {
			t.Errorf("byte %d: wrong bytes came out", i)
		}
		if err := r.Verify(t.Context(), nil); firn.KindOf(err) != firn.Corrupt {
			t.Errorf("byte %d: Verify = %v", i, err)
		}
		// Blocks that are whole can still be read.
		if i < 4096 {
			p := make([]byte, 100)
			if _, err := r.ReadAt(p, 5000); err != nil || !bytes.Equal(p, content[5000:5100]) {
				t.Errorf("byte %d: read of another block: %v", i, err)
			}
		}
		f.Close()
	}
}

func TestCutOff(t *testing.T) {
	file := partBytes(t, pattern(5000), block.WriterOptions{BlockSize: 4 << 10, Label: []byte("l")})
	for n := range file {
		f := memFile(t, file[:n])
		if _, err := block.Open(f, "p"); !errors.Is(err, block.ErrNotPart) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
		f.Close()
	}
	f := memFile(t, append(file, 0))
	if _, err := block.Open(f, "p"); !errors.Is(err, block.ErrNotPart) {
		t.Errorf("a byte too many: %v", err)
	}
}

// TestReadFlippedOnDisk reads through a file system that flips a bit of one read.
func TestReadFlippedOnDisk(t *testing.T) {
	mem := vfs.NewMem()
	content := pattern(3 << 20)
	writePart(t, mem, "p", content, 1<<20, block.WriterOptions{})
	tap := vfs.NewTap(mem)
	r := openPart(t, tap, "p")
	tap.OnRead = func(op vfs.Op, p []byte) {
		if op.Offset <= 2<<20 && 2<<20 < op.Offset+int64(len(p)) {
			p[2<<20-op.Offset] ^= 4
		}
	}
	var out bytes.Buffer
	n, err := r.WriteRange(t.Context(), &out, 0, 3<<20)
	if firn.KindOf(err) != firn.Corrupt || n > 2<<20 || !bytes.Equal(out.Bytes(), content[:n]) {
		t.Errorf("WriteRange = %d, %v", n, err)
	}
	if !strings.Contains(err.Error(), "p: block 32 ") {
		t.Errorf("error does not name file and block: %v", err)
	}
}

// TestLargeIndex reads a part whose index is too large to keep.
func TestLargeIndex(t *testing.T) {
	const bs = 4 << 10
	content := bytes.Repeat(pattern(1<<20), 70)
	mem := vfs.NewMem()
	writePart(t, mem, "p", content, 1<<20, block.WriterOptions{BlockSize: bs, Label: []byte("label")})
	tap := vfs.NewTap(mem)
	r := openPart(t, tap, "p")
	if string(r.Label()) != "label" {
		t.Errorf("label %q", r.Label())
	}
	for _, off := range []int64{0, 1, bs, 1<<20 - 1, 33<<20 + 5, 70<<20 - 100} {
		n := min(int64(3<<20+7), int64(len(content))-off)
		var out bytes.Buffer
		if k, err := r.WriteRange(t.Context(), &out, off, n); err != nil || k != n ||
			!bytes.Equal(out.Bytes(), content[off:off+n]) {
			t.Errorf("WriteRange(%d, %d) = %d, %v", off, n, k, err)
		}
	}
	if err := r.Verify(t.Context(), nil); err != nil {
		t.Error(err)
	}
	// A damaged index fails reads and is named by Verify.
	indexAt := r.Info().Size + 5000
	tap.OnRead = func(op vfs.Op, p []byte) {
		if i := indexAt - op.Offset; i >= 0 && i < int64(len(p)) {
			p[i] ^= 1
		}
	}
	var ce *block.CorruptError
	if err := r.Verify(t.Context(), nil); !errors.As(err, &ce) || ce.What != "index" {
		t.Errorf("Verify with a damaged index = %v", err)
	}
	if _, err := r.ReadAt(make([]byte, 10), 1250*bs); firn.KindOf(err) != firn.Corrupt {
		t.Errorf("ReadAt of a block with a damaged checksum = %v", err)
	}
}

type budget struct{ left, calls int }

func (b *budget) WaitN(_ context.Context, n int) error {
	b.calls++
	if b.left -= n; b.left < 0 {
		return errBudget
	}
	return nil
}

var errBudget = errors.New("budget spent")

func TestVerifyIsPaced(t *testing.T) {
	mem := vfs.NewMem()
	writePart(t, mem, "p", pattern(3<<20), 1<<20, block.WriterOptions{})
	r := openPart(t, mem, "p")
	b := &budget{left: 3 << 20}
	if err := r.Verify(t.Context(), b); err != nil || b.left != 0 || b.calls < 3 {
		t.Errorf("Verify = %v, %d bytes of the budget left after %d calls", err, b.left, b.calls)
	}
	if err := r.Verify(t.Context(), &budget{left: 2 << 20}); !errors.Is(err, errBudget) {
		t.Errorf("Verify = %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Verify(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Verify = %v", err)
	}
	if _, err := r.WriteRange(ctx, &bytes.Buffer{}, 0, 10); !errors.Is(err, context.Canceled) {
		t.Errorf("WriteRange = %v", err)
	}
}

func TestRanges(t *testing.T) {
	mem := vfs.NewMem()
	writePart(t, mem, "p", pattern(100), 100, block.WriterOptions{})
	r := openPart(t, mem, "p")
	for _, c := range [][2]int64{{-1, 1}, {0, -1}, {0, 101}, {101, 0}, {100, 1}, {50, 1 << 62}} {
		if _, err := r.WriteRange(t.Context(), &bytes.Buffer{}, c[0], c[1]); firn.KindOf(err) != firn.Invalid {
			t.Errorf("WriteRange(%d, %d) = %v", c[0], c[1], err)
		}
	}
	boom := errors.New("boom")
	if n, err := r.WriteRange(t.Context(), failingWriter{boom}, 0, 100); !errors.Is(err, boom) || n != 3 {
		t.Errorf("WriteRange to a failing writer = %d, %v", n, err)
	}
}

type failingWriter struct{ err error }

func (w failingWriter) Write(p []byte) (int, error) { return 3, w.err }

func TestWriterOptions(t *testing.T) {
	for _, o := range []block.WriterOptions{
		{BlockSize: 1000},
		{BlockSize: 2 << 10},
		{BlockSize: 2 << 20},
		{BlockSize: -4096},
		{Label: make([]byte, block.MaxLabel+1)},
	} {
		if _, err := block.NewWriter(create(t, vfs.NewMem(), "p"), o); firn.KindOf(err) != firn.Invalid {
			t.Errorf("NewWriter(block %d, label of %d) = %v", o.BlockSize, len(o.Label), err)
		}
	}
	label := pattern(block.MaxLabel)
	mem := vfs.NewMem()
	writePart(t, mem, "p", pattern(10), 10, block.WriterOptions{Label: label})
	if r := openPart(t, mem, "p"); !bytes.Equal(r.Label(), label) {
		t.Error("longest label differs")
	}
}

// TestWriterPoison breaks one operation after another of a part: the Writer reports it, touches the file no more, and
// what is left is either no part or, where the operation was carried out all the same, the whole one.
func TestWriterPoison(t *testing.T) {
	boom := errors.New("boom")
	content := pattern(700 << 10)
	for at := int64(2); ; at++ {
		reached := false
		for _, applied := range []bool{false, true} {
			mem := vfs.NewMem()
			tap := vfs.NewTap(mem)
			var ops, opsAtFault int64
			tap.Before = func(op vfs.Op) vfs.Fault {
				ops = max(ops, op.Index)
				if op.Index == at {
					reached, opsAtFault = true, ops
					return vfs.Fault{Err: boom, Applied: applied, Short: 1000}
				}
				return vfs.Fault{}
			}
			f := create(t, tap, "p")
			w, err := block.NewWriter(f, block.WriterOptions{})
			if err != nil {
				t.Fatal(err)
			}
			var errs []error
			for i := 0; i < len(content); i += 100 << 10 {
				_, err := w.Write(content[i:min(len(content), i+100<<10)])
				errs = append(errs, err)
			}
			_, err = w.Finish()
			errs = append(errs, err)
			_, err = w.Finish()
			errs = append(errs, err)
			w.Abort()
			if !reached {
				return
			}
			failed := false
			for _, err := range errs {
				failed = failed || err != nil
				if failed && !errors.Is(err, boom) {
					t.Errorf("fault at %d: a later call returned %v", at, err)
				}
			}
			if !failed || ops != opsAtFault {
				t.Errorf("fault at %d: failed %v, %d operations, the fault was at %d", at, failed, ops, opsAtFault)
			}
			f.Close()
			f, err = mem.Open("p")
			if err != nil {
				t.Fatal(err)
			}
			r, err := block.Open(f, "p")
			if err == nil {
				err = r.Verify(t.Context(), nil)
			} else if errors.Is(err, block.ErrNotPart) {
				err = nil
			}
			if err != nil {
				t.Errorf("fault at %d: %v", at, err)
			}
			f.Close()
		}
	}
}

// TestDirectRefused writes to a real file whose file system takes the switch to direct I/O and refuses the writes.
func TestDirectRefused(t *testing.T) {
	name := filepath.Join(t.TempDir(), "p")
	tap := vfs.NewTap(vfs.OS())
	refused := 0
	content := pattern(1<<20 + 5)
	f := create(t, tap, name)
	direct := vfs.SetDirect(f)
	tap.Before = func(op vfs.Op) vfs.Fault {
		// Where the test's own disk has no direct I/O there is nothing to refuse.
		if op.Kind == vfs.OpWrite && direct && refused == 0 {
			refused++
			return vfs.Fault{Err: syscall.EINVAL}
		}
		return vfs.Fault{}
	}
	w, err := block.NewWriter(f, block.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// Slices of an odd address are fine once it is off.
	for _, p := range [][]byte{content[:300<<10], content[300<<10:]} {
		if _, err := w.Write(p); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Finish(); err != nil {
		t.Fatal(err)
	}
	f.Close()
	r := openPart(t, vfs.OS(), name)
	var out bytes.Buffer
	if _, err := r.WriteRange(t.Context(), &out, 0, r.Info().Size); err != nil || !bytes.Equal(out.Bytes(), content) {
		t.Errorf("content differs: %v", err)
	}
}

func TestNoSpace(t *testing.T) {
	tap := vfs.NewTap(vfs.NewMem())
	tap.Before = func(op vfs.Op) vfs.Fault {
		if op.Kind == vfs.OpWrite {
			return vfs.Fault{Err: errNoSpace}
		}
		return vfs.Fault{}
	}
	w, err := block.NewWriter(create(t, tap, "p"), block.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(pattern(1 << 20)); firn.KindOf(err) != firn.NoSpace {
		t.Errorf("Write = %v of kind %v", err, firn.KindOf(err))
	}
}

// TestCrash crashes after every operation of writing parts. A part whose Finish and directory sync returned is whole;
// a file without a trailer is not taken for one.
func TestCrash(t *testing.T) {
	mem := vfs.NewCrashableMem()
	tap := vfs.NewTap(mem)
	var finished []string
	contents := map[string][]byte{}
	crashes, parts := 0, 0
	check := func(what string) {
		crashes++
		clone := vfs.CrashClone(mem)
		names, err := clone.List("/")
		if err != nil {
			t.Fatal(err)
		}
		whole := map[string]bool{}
		for _, name := range names {
			f, err := clone.Open(name)
			if err != nil {
				t.Fatal(err)
			}
			r, err := block.Open(f, name)
			switch {
			case errors.Is(err, block.ErrNotPart):
			case err != nil:
				t.Errorf("after %s: %s: %v", what, name, err)
			default:
				parts++
				var out bytes.Buffer
				_, err := r.WriteRange(t.Context(), &out, 0, r.Info().Size)
				whole[name] = err == nil && bytes.Equal(out.Bytes(), contents[name])
				if !whole[name] || r.Verify(t.Context(), nil) != nil {
					t.Errorf("after %s: %s is torn: %v", what, name, err)
				}
			}
			f.Close()
		}
		for _, name := range finished {
			if !whole[name] {
				t.Errorf("after %s: %s is lost", what, name)
			}
		}
	}
	tap.After = func(op vfs.Op, err error) {
		if op.Kind.Mutates() {
			check(op.String())
		}
	}
	for i, size := range []int{0, 100, 64 << 10, 300 << 10, 9 << 20} {
		name := fmt.Sprint(i)
		contents[name] = pattern(size)
		writePart(t, tap, name, contents[name], 200<<10, block.WriterOptions{Label: []byte(name)})
		syncDir := func() {
			if err := vfs.SyncDir(tap, "/"); err != nil {
				t.Fatal(err)
			}
		}
		syncDir()
		finished = append(finished, name)
		check("the sync of the directory")
	}
	if crashes < 50 || parts < 50 {
		t.Errorf("only %d crashes, %d parts", crashes, parts)
	}
}

// TestGoldenOrder pins the operations of one part.
func TestGoldenOrder(t *testing.T) {
	tap := vfs.NewTap(vfs.NewMem())
	var ops []string
	tap.After = func(op vfs.Op, err error) {
		if op.Kind.Mutates() {
			ops = append(ops, op.String())
		}
	}
	for _, size := range []int{1 << 20, 9<<20 + 5} {
		ops = append(ops, fmt.Sprintf("# part of %d bytes, given 100 KiB at a time", size))
		writePart(t, tap, "part", pattern(size), 100<<10, block.WriterOptions{Label: []byte("bucket/key")})
	}
	const name = "testdata/part.golden"
	got := strings.Join(ops, "\n") + "\n"
	if os.Getenv("FIRN_UPDATE_GOLDEN") != "" {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got); FIRN_UPDATE_GOLDEN=1 accepts it:\n%s", name, diff)
	}
}
