package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"firn"
	"firn/archive/tree"
	"firn/repo"
)

// Stream is one file of a snapshot whose content is read from somewhere else.
type Stream struct {
	// Name is the path of the file in the snapshot, without a leading slash.
	Name string
	// Open starts it. Close reports whether what was read is whole: an error there fails the snapshot.
	Open func(ctx context.Context) (io.ReadCloser, error)
}

// BackupStream makes a snapshot of streams. o.Paths are not looked at: the names are what the snapshot is of. A stream
// that fails fails the whole: half a dump is worse than none.
func BackupStream(ctx context.Context, r *repo.Repo, o BackupOptions, streams ...Stream) (BackupResult, error) {
	o.Paths = nil
	dirs := map[string]bool{}
	nodes := map[string]*Stream{}
	var order []string
	for i, s := range streams {
		if !tree.ValidPath(s.Name) || nodes[s.Name] != nil {
			return BackupResult{}, firn.E("back up", s.Name, firn.NewError(firn.Invalid, "not a name that a file can have here"))
		}
		nodes[s.Name] = &streams[i]
		order = append(order, s.Name)
		o.Paths = append(o.Paths, "/"+s.Name)
		for i, c := range s.Name {
			if c == '/' && !dirs[s.Name[:i]] {
				dirs[s.Name[:i]] = true
				order = append(order, s.Name[:i])
			}
		}
	}
	slices.SortFunc(order, tree.Compare)
	for _, d := range order {
		if dirs[d] && nodes[d] != nil {
			return BackupResult{}, firn.E("back up", d, firn.NewError(firn.Invalid, "it cannot be a file and a directory"))
		}
	}
	o.ReadAll = true
	return o.run(ctx, r, func(b *backup) error {
		now := time.Now()
		at := tree.Time{Sec: now.Unix(), Nsec: uint32(now.Nanosecond())}
		for _, name := range order {
			n := tree.Node{
				Path: name, Type: tree.Dir, Mode: 0o700, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()), Mtime: at, Ctime: at, Links: 1,
			}
			n.User, n.Group = b.userName(n.UID), b.groupName(n.GID)
			if s := nodes[name]; s != nil {
				n.Type, n.Mode = tree.File, 0o600
				if err := b.streamed(&n, s); err != nil {
					return firn.E("back up", "/"+name, err)
				}
			}
			if err := b.give(n); err != nil {
				return err
			}
		}
		return nil
	})
}

func (b *backup) streamed(n *tree.Node, s *Stream) error {
	path := "/" + n.Path
	b.o.Progress.current.Store(&path)
	rd, err := s.Open(b.ctx)
	if err != nil {
		return err
	}
	var counted int64
	n.Content, err = b.stream(&countingReader{rd, func(k int) { b.count(k, &counted) }})
	n.Size = counted
	// Close first tells how a command ended, which explains why it gave nothing.
	return errors.Join(rd.Close(), err)
}

type countingReader struct {
	r    io.Reader
	read func(int)
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.read(n)
	return n, err
}

// give adds a node that is made already.
func (b *backup) give(n tree.Node) error {
	if b.cur == nil {
		b.cur = &batch{items: make([]item, 0, batchItems)}
	}
	b.cur.items = append(b.cur.items, item{node: n})
	if len(b.cur.items) == batchItems {
		return b.flush()
	}
	return nil
}

// Command returns a stream of the standard output of a shell command. It is whole only if the command ends with exit
// code 0; what it says on its error output is part of the error otherwise.
func Command(name, command string, env []string) Stream {
	return Stream{Name: name, Open: func(ctx context.Context) (io.ReadCloser, error) {
		c := exec.CommandContext(ctx, "/bin/sh", "-c", command)
		c.WaitDelay = 10 * time.Second
		c.Env = env
		p := &commandOutput{cmd: c}
		c.Stderr = &p.said
		var err error
		if p.ReadCloser, err = c.StdoutPipe(); err != nil {
			return nil, err
		}
		return p, c.Start()
	}}
}

type commandOutput struct {
	io.ReadCloser
	cmd  *exec.Cmd
	said tail
}

func (c *commandOutput) Close() error {
	// A command that is not read to its end gets SIGPIPE, or waits for ever if it does not write: Wait ends the latter
	// only with its context, so the pipe is closed first.
	_ = c.ReadCloser.Close()
	err := c.cmd.Wait()
	if err == nil {
		return nil
	}
	if s := strings.TrimSpace(string(c.said.b)); s != "" {
		return fmt.Errorf("the command failed: %w: %s", err, s)
	}
	return fmt.Errorf("the command failed: %w", err)
}

// tail keeps the end of what is written to it.
type tail struct{ b []byte }

const maxTail = 2 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if n := len(t.b) - maxTail; n > 0 {
		t.b = append(t.b[:0], t.b[n:]...)
	}
	return len(p), nil
}

// RunHook runs a shell command before or after a backup and returns what it said where it fails.
func RunHook(ctx context.Context, command string, env []string) error {
	c := exec.CommandContext(ctx, "/bin/sh", "-c", command)
	c.WaitDelay = 10 * time.Second
	c.Env = env
	var said tail
	c.Stdout, c.Stderr = &said, &said
	if err := c.Run(); err != nil {
		return fmt.Errorf("hook %q failed: %w: %s", command, err, strings.TrimSpace(string(said.b)))
	}
	return nil
}
