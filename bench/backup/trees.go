package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// writeTree makes the Go distribution's tree, random content and text below dir.
func writeTree(dir string, random, text int64) error {
	goroot, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return err
	}
	if err := copyTree(filepath.Join(dir, "goroot"), strings.TrimSpace(string(goroot))); err != nil {
		return err
	}
	const files = 8
	for i := range files {
		if err := writeFile(filepath.Join(dir, fmt.Sprintf("random-%d", i)), random/files, newRandom(uint64(i))); err != nil {
			return err
		}
		if err := writeFile(filepath.Join(dir, fmt.Sprintf("text-%d", i)), text/files, newText(uint64(i))); err != nil {
			return err
		}
	}
	return nil
}

func newRandom(seed uint64) io.Reader {
	return rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 1})
}

// text gives lines of a log: what a service writes, with times, ids and numbers that differ from line to line.
type text struct {
	rng   *rand.Rand
	zipf  *rand.Zipf
	words []string
	ms    int64
	line  []byte
}

func newText(seed uint64) io.Reader {
	rng := rand.New(rand.NewPCG(seed, 7))
	t := &text{rng: rng, zipf: rand.NewZipf(rng, 1.2, 8, 1999), ms: 1_700_000_000_000 + int64(seed)*1e7}
	vocabulary := rand.New(rand.NewPCG(1, 1))
	for range 2000 {
		w := make([]byte, 2+vocabulary.IntN(9))
		for i := range w {
			w[i] = "etaoinshrdlucmfwypvbgkjqxz"[min(vocabulary.IntN(26), vocabulary.IntN(26))]
		}
		t.words = append(t.words, string(w))
	}
	return t
}

func (t *text) Read(p []byte) (n int, err error) {
	for n < len(p) {
		if len(t.line) == 0 {
			t.ms += t.rng.Int64N(40)
			levels := [...]string{"INFO", "INFO", "INFO", "DEBUG", "WARN"}
			t.line = time.UnixMilli(t.ms).UTC().AppendFormat(t.line, "2006-01-02T15:04:05.000Z ")
			t.line = fmt.Appendf(t.line, "level=%s host=node-%d component=%s request=%08x ", levels[t.rng.IntN(len(levels))],
				t.rng.IntN(12), t.words[t.rng.IntN(24)], t.rng.Uint32())
			for range 2 + t.rng.IntN(6) {
				t.line = append(append(t.line, t.words[t.zipf.Uint64()]...), ' ')
			}
			t.line = fmt.Appendf(t.line, "bytes=%d took=%dms\n", t.rng.IntN(1<<20), t.rng.IntN(500))
		}
		k := copy(p[n:], t.line)
		t.line = t.line[k:]
		n += k
	}
	return n, nil
}

func writeFile(path string, size int64, r io.Reader) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := bufio.NewWriterSize(f, 1<<20)
	if _, err := io.CopyN(w, r, size); err != nil {
		return err
	}
	return w.Flush()
}

// copyTree copies directories, files and links.
func copyTree(to, from string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		target := filepath.Join(to, strings.TrimPrefix(path, from))
		switch {
		case d.IsDir():
			return os.MkdirAll(target, 0o755)
		case d.Type()&fs.ModeSymlink != 0:
			link, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(link, target)
		case d.Type().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return os.WriteFile(target, b, 0o644)
		}
		return nil
	})
}

// changeTree changes one file in a hundred of the small ones, and one byte in a hundred of each large one, in one place.
func changeTree(dir string, round int) error {
	rng := rand.New(rand.NewPCG(uint64(round), 3))
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		n := int64(64)
		if info.Size() > 16<<20 {
			n = info.Size() / 100
		} else if rng.IntN(100) > 0 || info.Size() == 0 {
			return nil
		}
		p := make([]byte, min(n, info.Size()))
		if _, err := io.ReadFull(newRandom(rng.Uint64()), p); err != nil {
			return err
		}
		return writeAt(path, p, rng.Int64N(info.Size()-int64(len(p))+1))
	})
}

func writeAt(path string, p []byte, offset int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(p, offset)
	return errors.Join(err, f.Close())
}

// writeSmall makes n files of 100 to 4,000 bytes, a thousand in a directory.
func writeSmall(dir string, n int) error {
	rng := rand.New(rand.NewPCG(5, 5))
	words := newText(9)
	buf := make([]byte, 4000)
	for i := range n {
		d := filepath.Join(dir, fmt.Sprintf("%03d", i/1_000_000), fmt.Sprintf("%03d", i/1000%1000))
		if i%1000 == 0 {
			if err := os.MkdirAll(d, 0o755); err != nil {
				return err
			}
		}
		p := buf[:100+rng.IntN(3900)]
		if _, err := io.ReadFull(words, p); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(d, fmt.Sprintf("%06d.txt", i)), p, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// writeLarge makes one file, half random, half text, in turns of 16 MiB.
func writeLarge(path string, size int64) error {
	const turn = 16 << 20
	random, words := newRandom(77), newText(78)
	var turns []io.Reader
	for n := size; n > 0; n -= 2 * turn {
		turns = append(turns, io.LimitReader(random, turn), io.LimitReader(words, turn))
	}
	return writeFile(path, size, io.MultiReader(turns...))
}

// insert puts a few bytes into the file at ten places, which moves all that follows.
func insert(path string) (err error) {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	rng := rand.New(rand.NewPCG(11, 11))
	var at []int64
	for range 10 {
		at = append(at, rng.Int64N(info.Size()))
	}
	slices.Sort(at)
	var parts []io.Reader
	last := int64(0)
	for _, x := range at {
		parts = append(parts, io.NewSectionReader(in, last, x-last), strings.NewReader("inserted bytes "))
		last = x
	}
	parts = append(parts, io.NewSectionReader(in, last, info.Size()-last))
	next := path + ".next"
	if err := writeFile(next, info.Size()+int64(len(at)*len("inserted bytes ")), io.MultiReader(parts...)); err != nil {
		return err
	}
	return os.Rename(next, path)
}

// same compares two trees: names, kinds and contents.
func same(a, b string) error {
	n := 0
	err := filepath.WalkDir(a, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		n++
		other := filepath.Join(b, strings.TrimPrefix(path, a))
		info, err := os.Lstat(other)
		if err != nil {
			return err
		}
		if info.Mode().Type() != d.Type() {
			return fmt.Errorf("%s is %v in the restored tree", path, info.Mode())
		}
		if !d.Type().IsRegular() {
			return nil
		}
		return sameFile(path, other)
	})
	if err == nil && n < 2 {
		err = fmt.Errorf("%s is empty", a)
	}
	return err
}

func sameFile(a, b string) (err error) {
	x, err := os.Open(a)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, x.Close()) }()
	y, err := os.Open(b)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, y.Close()) }()
	p, q := make([]byte, 1<<20), make([]byte, 1<<20)
	for {
		n, errX := io.ReadFull(x, p)
		m, errY := io.ReadFull(y, q)
		if n != m || string(p[:n]) != string(q[:m]) {
			return fmt.Errorf("%s was restored with another content", a)
		}
		if errX != nil || errY != nil {
			if errors.Is(errX, io.EOF) || errors.Is(errX, io.ErrUnexpectedEOF) {
				return nil
			}
			return errors.Join(errX, errY)
		}
	}
}
