package gitrepo

import (
	"bufio"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// Import is one git fast-import: it takes content and one commit and writes a pack.
type Import struct {
	r     *Repo
	ctx   context.Context
	cmd   *exec.Cmd
	in    io.WriteCloser
	w     *bufio.Writer
	out   limited
	noise limited
	marks int
}

// Import starts to make a commit. End it with Commit and Close, or with Abort.
func (r *Repo) Import(ctx context.Context) (*Import, error) {
	i := &Import{r: r, ctx: ctx, out: limited{max: maxNoise}, noise: limited{max: maxNoise}}
	i.cmd = r.command(ctx, "fast-import", "--quiet", "--force", "--done")
	i.cmd.Stdout, i.cmd.Stderr = &i.out, &i.noise
	var err error
	if i.in, err = i.cmd.StdinPipe(); err == nil {
		err = i.cmd.Start()
	}
	if err != nil {
		return nil, r.failure("fast-import", err, "", "")
	}
	i.w = bufio.NewWriterSize(i.in, 128<<10)
	return i, nil
}

// Blob stores content and returns what Modify calls it. An error is kept for Close.
func (i *Import) Blob(p []byte) ID {
	i.marks++
	fmt.Fprintf(i.w, "blob\nmark :%d\ndata %d\n", i.marks, len(p))
	i.w.Write(p)
	i.w.WriteByte('\n')
	return ID(":" + strconv.Itoa(i.marks))
}

// Commit begins the commit on parent, "" for none, whose tree it starts with. Modify, Delete and DeleteAll follow.
func (i *Import) Commit(parent ID, at time.Time, message string) {
	i.marks++
	fmt.Fprintf(i.w, "commit %s\nmark :%d\ncommitter Firn <firn@localhost> %d +0000\ndata %d\n%s\n",
		i.r.next, i.marks, at.Unix(), len(message), message)
	if parent != "" {
		fmt.Fprintf(i.w, "from %s\n", parent)
	}
}

// Mode is the mode of an entry of a tree.
type Mode string

// The modes used here.
const (
	File       Mode = "100644"
	Executable Mode = "100755"
	Symlink    Mode = "120000"
)

// Modify sets the entry at path.
func (i *Import) Modify(mode Mode, content ID, path string) {
	fmt.Fprintf(i.w, "M %s %s %s\n", mode, content, quotePath(path))
}

// Delete removes the file or directory at path, if there is one.
func (i *Import) Delete(path string) { fmt.Fprintf(i.w, "D %s\n", quotePath(path)) }

// DeleteAll empties the tree.
func (i *Import) DeleteAll() { i.w.WriteString("deleteall\n") }

// Close ends the commit and returns its name. It and all it refers to are stored, and nothing points to it yet.
func (i *Import) Close() (ID, error) {
	fmt.Fprintf(i.w, "\nget-mark :%d\ndone\n", i.marks)
	err := i.w.Flush()
	if e := i.in.Close(); err == nil {
		err = e
	}
	if e := i.cmd.Wait(); e != nil {
		err = e // says more than the broken pipe
	}
	if i.ctx.Err() != nil {
		return "", i.ctx.Err()
	}
	if err != nil {
		return "", i.r.failure("fast-import", err, i.noise.String(), "")
	}
	return ID(strings.TrimSpace(i.out.String())), nil
}

// Abort ends the process without a commit.
func (i *Import) Abort() {
	i.in.Close()
	_ = i.cmd.Wait() // it fails: the stream was not finished
}

// quotePath writes a path so that fast-import reads any bytes.
func quotePath(path string) string {
	plain := path != "" && path[0] != '"'
	for j := 0; plain && j < len(path); j++ {
		plain = path[j] > ' ' && path[j] != '\\' && path[j] < 0x7f
	}
	if plain {
		return path
	}
	var b strings.Builder
	b.WriteByte('"')
	for j := 0; j < len(path); j++ {
		if c := path[j]; c > ' ' && c != '"' && c != '\\' && c < 0x7f {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "\\%03o", c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// BlobID is the name that git gives to content.
func (r *Repo) BlobID(content []byte) ID {
	sum := NewSum(r.idLen, int64(len(content)))
	sum.Write(content)
	return ID(hex.EncodeToString(sum.Sum(nil)))
}

// NewSum returns the hash whose sum is the name of a blob of that size, in a repository whose names have idLen digits.
func NewSum(idLen int, size int64) hash.Hash {
	h := sha1.New()
	if idLen == 2*sha256.Size {
		h = sha256.New()
	}
	fmt.Fprintf(h, "blob %d\x00", size)
	return h
}

// HashBlob stores content of at most a few tens of MiB, which git holds in memory, and returns its name.
func (r *Repo) HashBlob(ctx context.Context, content io.Reader) (ID, error) {
	out, err := r.run(ctx, content, "hash-object", "-w", "--stdin")
	return ID(strings.TrimSpace(string(out))), err
}

// Entry is a file of a tree, with its path from the root.
type Entry struct {
	Mode Mode
	ID   ID
	Size int64
	Path string
}

// Tree calls fn for the files of a commit's tree and its subtrees, in the order of git.
func (r *Repo) Tree(ctx context.Context, commit ID, fn func(Entry) error) error {
	out, err := r.Output(ctx, "ls-tree", "-r", "-l", "-z", "--full-tree", "--end-of-options", string(commit))
	if err != nil {
		return err
	}
	defer out.Close()
	in := bufio.NewReaderSize(out, 64<<10)
	for {
		line, err := in.ReadString(0)
		if err == io.EOF && line == "" {
			return nil
		}
		if err != nil {
			return err
		}
		e, ok := parseEntry(line[:len(line)-1])
		if !ok {
			continue // a submodule
		}
		if err := fn(e); err != nil {
			return err
		}
	}
}

// parseEntry reads "mode SP type SP name SP+ size TAB path", and tells whether it is a file.
func parseEntry(line string) (Entry, bool) {
	head, path, ok := strings.Cut(line, "\t")
	f := strings.Fields(head)
	if !ok || path == "" || len(f) != 4 || f[1] != "blob" {
		return Entry{}, false
	}
	size, err := strconv.ParseInt(f[3], 10, 64)
	return Entry{Mode: Mode(f[0]), ID: ID(f[2]), Size: size, Path: path}, err == nil && size >= 0
}
