package audit

import (
	"bufio"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"firn"
)

// maxLine bounds a stored line, in bytes: keys and user agents are bounded by the doors.
const maxLine = 512 << 10

// lineContext is what a sealed line is bound to; the chain binds it to its place.
const lineContext = "audit line"

// encode appends a line as it is stored.
func encode(dst, plain []byte, s Sealer) []byte {
	if s == nil {
		return append(dst, plain...)
	}
	return base64.StdEncoding.AppendEncode(dst, s.Box(nil, lineContext, plain))
}

// decode returns a stored line, without its line feed, in the clear, and whether it was sealed. The result may share
// the memory of b.
func decode(b []byte, s Sealer) (plain []byte, sealed bool, err error) {
	if len(b) == 0 || b[0] == '{' {
		return b, false, nil
	}
	if s == nil {
		return nil, true, errSealed
	}
	box, err := base64.StdEncoding.AppendDecode(nil, b)
	if err == nil {
		plain, err = s.Unbox(lineContext, box)
	}
	return plain, true, err
}

// errSealed is the error of a sealed line for whom there is no key.
var errSealed = firn.NewError(firn.Denied, "its lines are sealed, as the site encrypts what it stores: the key of its data directory is needed")

// list returns the names of the record's files in order.
func list(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		if _, ok := number(e.Name()); ok {
			files = append(files, e.Name())
		}
	}
	slices.Sort(files)
	return files, nil
}

// number returns the number of the first line of a file, from its name.
func number(name string) (uint64, bool) {
	s, ok := strings.CutPrefix(name, "audit-")
	s, ok2 := strings.CutSuffix(s, ".jsonl")
	if !ok || !ok2 || len(s) != 16 {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 10, 64)
	return n, err == nil
}

// fileEnd is where a file ends.
type fileEnd struct {
	lines int
	seq   uint64
	hash  string    // of the last line
	began time.Time // time of the first line
	size  int64     // of whole lines
	torn  int64     // bytes after them
}

// tail reads a file to its end.
func tail(path string, s Sealer) (fileEnd, error) {
	var end fileEnd
	f, err := os.Open(path)
	if err != nil {
		return end, err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, maxLine)
	for {
		b, err := r.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			end.torn = int64(len(b))
			return end, nil
		}
		if err != nil {
			return end, corrupt(path, end.lines+1, "is longer than any that this program writes")
		}
		plain, _, err := decode(b[:len(b)-1], s)
		if err != nil {
			return end, unopened(path, end.lines+1, err)
		}
		var l line
		if err := json.Unmarshal(plain, &l); err != nil {
			return end, corrupt(path, end.lines+1, "is not JSON")
		}
		if end.lines == 0 {
			end.began = l.Time
		}
		end.lines++
		end.seq, end.hash = l.Seq, hashOf(plain)
		end.size += int64(len(b))
	}
}

func hashOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// unopened is the error of a line that decode cannot open.
func unopened(path string, n int, err error) error {
	if errors.Is(err, errSealed) {
		return firn.E("open", path, err)
	}
	return corrupt(path, n, "does not open with the site's key, or is not one")
}

func corrupt(path string, n int, what string) error {
	return &firn.Error{Kind: firn.Corrupt, Subject: path, Err: fmt.Errorf("line %d %s", n, what)}
}

// Head is what a verified record ends with.
type Head struct {
	Files int       `json:"files"`
	Lines int64     `json:"lines"`
	First uint64    `json:"first"` // number of the first line; more than 1 where old files were removed
	Last  uint64    `json:"last"`
	Hash  string    `json:"hash"` // of the last line
	From  time.Time `json:"from"`
	To    time.Time `json:"to"`
	Lost  int64     `json:"lost"` // events that the record itself says were not recorded
	// Plain is how many lines, all before the first sealed one, are in the clear.
	Plain int64 `json:"plain,omitempty"`
	// Torn is set where the last line is incomplete, as a running or crashed site leaves it.
	Torn bool `json:"torn,omitempty"`
}

// Verify reads the record in dir from its oldest file to its end, which must be one chain. The error of a break says
// file and line. What it cannot find is that lines are missing from the end: known, where not "", is a hash noted
// before which a line must have. s opens sealed lines; firn.Denied where it is nil and there are some. each, where not
// nil, is called with each line in the clear once it was found to follow, without its line feed; its error ends Verify.
func Verify(dir, known string, s Sealer, each func(line []byte) error) (Head, error) {
	const op = "verify audit log"
	files, err := list(dir)
	if err != nil {
		return Head{}, firn.E(op, dir, err)
	}
	if len(files) == 0 {
		return Head{}, &firn.Error{Kind: firn.NotFound, Op: op, Subject: dir, Err: errors.New("no file of an audit log is there")}
	}
	v := verifier{known: known, seal: s, each: each}
	for i, name := range files {
		if err := v.file(filepath.Join(dir, name), i == len(files)-1); err != nil {
			return v.head, firn.E(op, "", err)
		}
	}
	if known != "" && !v.seen {
		return v.head, &firn.Error{
			Kind: firn.Corrupt, Op: op, Subject: dir,
			Err: errors.New("no line has the given hash: lines were removed from the end, or files from the beginning"),
		}
	}
	return v.head, nil
}

type verifier struct {
	head  Head
	known string
	seen  bool
	seal  Sealer
	each  func([]byte) error // may be nil
}

func (v *verifier) file(path string, last bool) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	v.head.Files++
	want, _ := number(filepath.Base(path))
	r := bufio.NewReaderSize(f, maxLine)
	for n := 1; ; n++ {
		b, err := r.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF) && len(b) == 0:
			if n == 1 && !last {
				return corrupt(path, n, "is missing: the file is empty")
			}
			return nil
		case errors.Is(err, io.EOF) && last:
			v.head.Torn = true
			return nil
		case err != nil:
			return corrupt(path, n, "is incomplete or too long")
		}
		if err := v.line(path, n, want, b[:len(b)-1]); err != nil {
			return err
		}
	}
}

func (v *verifier) line(path string, n int, want uint64, b []byte) error {
	b, sealed, err := decode(b, v.seal)
	if err != nil {
		return unopened(path, n, err)
	}
	var l line
	if err := json.Unmarshal(b, &l); err != nil {
		return corrupt(path, n, "is not JSON")
	}
	h := &v.head
	switch {
	case !sealed && h.Lines > h.Plain:
		return corrupt(path, n, "is not sealed, and those before it are")
	case n == 1 && l.Seq != want:
		return corrupt(path, n, fmt.Sprintf("has number %d, the file's name says %d", l.Seq, want))
	case h.Lines > 0 && l.Seq != h.Last+1:
		return corrupt(path, n, fmt.Sprintf("has number %d after %d: lines are missing or were put in", l.Seq, h.Last))
	case h.Lines > 0 && l.Prev != h.Hash:
		return corrupt(path, n, "does not follow from the one before: one of the two was changed")
	case l.Seq == 1 && strings.Trim(l.Prev, "0") != "":
		return corrupt(path, n, "is the first and names one before it")
	}
	if h.Lines == 0 {
		h.First, h.From = l.Seq, l.Time
	}
	h.Lines++
	if !sealed {
		h.Plain++
	}
	h.Last, h.Hash, h.To = l.Seq, hashOf(b), l.Time
	if l.Kind == "dropped" {
		h.Lost += l.Count
	}
	v.seen = v.seen || h.Hash == v.known
	if v.each != nil {
		return v.each(b)
	}
	return nil
}
