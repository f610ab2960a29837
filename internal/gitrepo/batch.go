package gitrepo

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"

	"firn"
)

// Batch reads blobs one after another from one git.
type Batch struct {
	r      *Repo
	ctx    context.Context
	cancel context.CancelFunc
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	noise  limited
}

// NewBatch starts a reader for one goroutine. Close ends it.
func (r *Repo) NewBatch(ctx context.Context) (*Batch, error) {
	own, cancel := context.WithCancel(ctx)
	b := &Batch{r: r, ctx: ctx, cancel: cancel, noise: limited{max: maxNoise}}
	b.cmd = r.command(own, "cat-file", "--batch")
	b.cmd.Stderr = &b.noise
	var err error
	var out io.ReadCloser
	if b.in, err = b.cmd.StdinPipe(); err == nil {
		out, err = b.cmd.StdoutPipe()
	}
	if err == nil {
		err = b.cmd.Start()
	}
	if err != nil {
		cancel()
		return nil, r.failure("cat-file", err, "", "")
	}
	b.out = bufio.NewReaderSize(out, 128<<10)
	return b, nil
}

// Copy writes the content to w, and fails with firn.Corrupt after it if it does not match its name.
func (b *Batch) Copy(w io.Writer, id ID) error { return b.copy(w, id, -1) }

// Bytes returns content of at most limit bytes.
func (b *Batch) Bytes(id ID, limit int64) ([]byte, error) {
	var p bytes.Buffer
	err := b.copy(&p, id, limit)
	return p.Bytes(), err
}

func (b *Batch) copy(w io.Writer, id ID, limit int64) error {
	if _, err := io.WriteString(b.in, string(id)+"\n"); err != nil {
		return b.failed(err)
	}
	head, err := b.out.ReadString('\n')
	if err != nil {
		return b.failed(err)
	}
	f := strings.Fields(head)
	if len(f) != 3 || f[1] != "blob" {
		return kind(firn.Corrupt, "the repository has no blob %s", id)
	}
	size, err := strconv.ParseInt(f[2], 10, 64)
	if err != nil || size < 0 {
		return kind(firn.Corrupt, "git says that the blob %s has %q bytes", id, f[2])
	}
	if limit >= 0 && size > limit {
		return kind(firn.Invalid, "the blob %s has %d bytes; at most %d were expected", id, size, limit)
	}
	sum := NewSum(len(id), size)
	n, err := io.CopyN(io.MultiWriter(sum, w), b.out, size)
	if err != nil {
		if n < size && err == io.EOF {
			return b.failed(err)
		}
		return err
	}
	if c, err := b.out.ReadByte(); err != nil || c != '\n' {
		return b.failed(fmt.Errorf("the output of git cat-file is out of step: %w", io.ErrUnexpectedEOF))
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != string(id) {
		return kind(firn.Corrupt, "the content of the blob %s does not match its name", id)
	}
	return nil
}

func (b *Batch) failed(err error) error {
	if b.ctx.Err() != nil {
		return b.ctx.Err()
	}
	return &firn.Error{Kind: firn.Corrupt, Err: fmt.Errorf("git cat-file ended early: %s: %w", b.r.clean(b.noise.String()), err)}
}

// Close ends the process.
func (b *Batch) Close() {
	b.cancel()
	_ = b.cmd.Wait() // it is ended, not finished
}
