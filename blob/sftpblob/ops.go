package sftpblob

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/pkg/sftp"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/blob/layout"
)

const (
	// inFlight is how many packets of a put are under way.
	inFlight = 32
	// placeTries bounds how often a name is tried that somebody else keeps changing.
	placeTries = 8
)

// call runs fn with a connection and gives its error a kind.
func (p *place) call(ctx context.Context, fn func(ctx context.Context, s *session) error) error {
	s, ctx, err := p.use(ctx)
	if err != nil {
		return err
	}
	defer s.stop()
	return p.fail(ctx, s, fn(ctx, s))
}

// fail gives an error of a call its kind. It returns nil for nil.
func (p *place) fail(ctx context.Context, s *session, err error) error {
	var known *firn.Error
	var status *sftp.StatusError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return p.over(ctx)
	case errors.As(err, &known):
		return err
	case errors.Is(err, fs.ErrNotExist):
		return &firn.Error{Kind: firn.NotFound, Err: err}
	case errors.Is(err, fs.ErrPermission):
		return &firn.Error{Kind: firn.Denied, Err: err}
	case errors.Is(err, sftp.ErrSSHFxConnectionLost), errors.Is(err, sftp.ErrSSHFxNoConnection),
		errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, os.ErrClosed):
		s.line.lost(s.conn)
		return &firn.Error{Kind: firn.Unavailable, Err: errors.New("the connection was lost")}
	case errors.As(err, &status):
		if status.FxCode() == sftp.ErrSSHFxOpUnsupported {
			return &firn.Error{Kind: firn.Unsupported, Err: err}
		}
		return &firn.Error{Kind: firn.Internal, Err: err}
	}
	// What is left is the network's.
	s.line.lost(s.conn)
	return &firn.Error{Kind: firn.Unavailable, Err: err}
}

// Init makes a place of a directory that is missing or empty. It does nothing where one is already.
func Init(ctx context.Context, opt Options) error {
	p, err := open(ctx, opt)
	if err != nil {
		return err
	}
	defer p.Close()
	return p.call(ctx, func(ctx context.Context, s *session) error {
		if err := s.MkdirAll(p.path("")); err != nil {
			return err
		}
		entries, err := s.ReadDirContext(ctx, p.path(""))
		if err != nil {
			return err
		}
		for _, e := range entries {
			switch e.Name() {
			case layout.Marker:
				return p.there(s)
			case layout.Temp, "lost+found":
			default:
				return firn.NewError(firn.Conflict, fmt.Sprintf(
					"the directory %s is no place and not empty (it holds %q): choose an empty one", p.opt.Root, e.Name()))
			}
		}
		if err := s.MkdirAll(p.path(layout.Temp)); err != nil {
			return err
		}
		temp, err := p.writeTemp(ctx, s, blob.Bytes([]byte(layout.Version)))
		if err != nil {
			return err
		}
		if err := s.Rename(temp, p.path(layout.Marker)); err != nil {
			return err
		}
		s.syncDir(p.path(""))
		return nil
	})
}

// there fails where the root is no place: not mounted on the server, removed, or never made.
func (p *place) there(s *session) error {
	f, err := s.Open(p.path(layout.Marker))
	if errors.Is(err, fs.ErrNotExist) {
		return firn.NewError(firn.Unavailable, fmt.Sprintf("%s on the server is not a place: it has no file %s. "+
			"Is its file system mounted? A new place is made by `firn blob init`", p.opt.Root, layout.Marker))
	}
	if err != nil {
		return err
	}
	defer f.Close() // it was only read
	text := make([]byte, 100)
	n, err := f.ReadAt(text, 0)
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		return err
	case string(text[:n]) == layout.Version:
		return nil
	case strings.HasPrefix(string(text[:n]), "firn place "):
		return firn.NewError(firn.Unsupported, p.opt.Root+" was made by a later version of firn: use that")
	}
	return firn.NewError(firn.Corrupt, fmt.Sprintf("%s/%s is damaged: it must hold %q", p.opt.Root, layout.Marker, layout.Version))
}

func (p *place) notFound(s *session) error {
	if err := p.there(s); err != nil {
		return err
	}
	return &firn.Error{Kind: firn.NotFound}
}

// Put writes a temporary file, syncs it and renames it into place.
func (p *place) Put(ctx context.Context, key string, src driver.Source) error {
	return p.put(ctx, key, src, false)
}

// Create makes a hard link to a complete file, which the server refuses where the name is taken.
func (p *place) Create(ctx context.Context, key string, src driver.Source) error {
	return p.put(ctx, key, src, true)
}

func (p *place) put(ctx context.Context, key string, src driver.Source, create bool) error {
	return p.call(ctx, func(ctx context.Context, s *session) error {
		if _, ok := s.HasExtension("hardlink@openssh.com"); create && !ok {
			return firn.NewError(firn.Unsupported, "the SFTP server makes no hard links, which creating a blob needs")
		}
		var temp string
		err := p.inTemp(s, func() (err error) {
			temp, err = p.writeTemp(ctx, s, src)
			return err
		})
		if err != nil {
			return err
		}
		p.sweep(ctx, s)
		target := p.path(layout.EncodeKey(key))
		err = p.settle(s, temp, target, create)
		if create || err != nil {
			_ = s.Remove(temp) // what stays is swept later
		}
		if err != nil {
			return err
		}
		s.syncDir(path.Dir(target))
		return ctx.Err()
	})
}

// inTemp runs fn, which makes a temporary file. The directory for them may be removed by hand; without the marker nothing is
// written.
func (p *place) inTemp(s *session, fn func() error) error {
	err := fn()
	if !errors.Is(err, fs.ErrNotExist) || firn.KindOf(err) != firn.Internal {
		return err
	}
	if err := p.there(s); err != nil {
		return err
	}
	if err := s.MkdirAll(p.path(layout.Temp)); err != nil {
		return err
	}
	return fn()
}

// writeTemp writes src to a new file and syncs it.
func (p *place) writeTemp(ctx context.Context, s *session, src driver.Source) (name string, err error) {
	r, err := blob.OpenExact(ctx, src)
	if err != nil {
		return "", source(err)
	}
	in := &input{r: r}
	defer func() {
		if e := r.Close(); err == nil && e != nil {
			err = source(e)
		}
	}()
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	name = p.path(layout.Temp + "/" + hex.EncodeToString(id[:]))
	f, err := s.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return "", err
	}
	if _, err = f.ReadFromWithConcurrency(in, inFlight); err == nil {
		err = s.sync(f)
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if in.err != nil {
		err = source(in.err)
	}
	if err != nil {
		err = p.full(ctx, s, src.Size(), err)
		_ = s.Remove(name) // what stays is swept later
		return "", err
	}
	return name, nil
}

// sync makes what was written durable where the server can.
func (s *session) sync(f *sftp.File) error {
	if _, ok := s.HasExtension("fsync@openssh.com"); !ok {
		return nil
	}
	return f.Sync()
}

// input remembers what the source failed with.
type input struct {
	r   io.Reader
	err error
}

func (i *input) Read(p []byte) (int, error) {
	n, err := i.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		i.err = err
	}
	return n, err
}

// source marks an error of the source, which may look like one of the server's.
func source(err error) error { return &firn.Error{Kind: firn.KindOf(err), Err: err} }

// full tells a full file system from other failures: SFTP has one code for all.
func (p *place) full(ctx context.Context, s *session, size int64, err error) error {
	var status *sftp.StatusError
	if ctx.Err() != nil || !errors.As(err, &status) || status.FxCode() != sftp.ErrSSHFxFailure {
		return err
	}
	if v, e := s.StatVFS(p.opt.Root); e == nil && v.Bavail*v.Frsize < uint64(size)+v.Frsize {
		return firn.NewError(firn.NoSpace, "the file system of the server is full")
	}
	return err
}

// settle gives the complete file its name.
func (p *place) settle(s *session, temp, target string, create bool) error {
	var err error
	for range placeTries {
		if create {
			err = s.Link(temp, target)
		} else {
			err = s.rename(temp, target)
		}
		if err == nil {
			return nil
		}
		var status *sftp.StatusError
		missing := errors.Is(err, fs.ErrNotExist)
		if !missing && !errors.As(err, &status) {
			return err
		}
		fi, e := s.Lstat(target)
		switch {
		case e == nil && fi.IsDir():
			if s.removeEmpty(target) != nil {
				return conflict()
			}
		case e == nil && create:
			return firn.NewError(firn.Exists, "it is there already")
		case missing || e != nil && errors.Is(e, fs.ErrNotExist):
			if _, e := s.Lstat(path.Dir(target)); e == nil && !missing {
				return p.full(context.Background(), s, 0, err)
			}
			if err := p.makeDir(s, path.Dir(target)); err != nil {
				return err
			}
		default:
			return err
		}
	}
	return &firn.Error{Kind: firn.Unavailable, Err: err}
}

// rename replaces the target, atomically where the server can.
func (s *session) rename(from, to string) error {
	if _, ok := s.HasExtension("posix-rename@openssh.com"); ok {
		return s.PosixRename(from, to)
	}
	err := s.Rename(from, to)
	if err == nil {
		return nil
	}
	if _, e := s.Lstat(to); e == nil {
		return firn.NewError(firn.Unsupported, "the SFTP server cannot replace a file in one step")
	}
	return err
}

func conflict() error {
	return firn.NewError(firn.Conflict, "a file and a directory cannot have one name: another key stands against this one")
}

// makeDir makes a directory below the root and those above it.
func (p *place) makeDir(s *session, dir string) error {
	if len(dir) <= len(p.opt.Root) {
		return p.there(s)
	}
	err := s.Mkdir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		if err := p.makeDir(s, path.Dir(dir)); err != nil {
			return err
		}
		err = s.Mkdir(dir)
	}
	if err == nil {
		s.syncDir(path.Dir(dir))
		return nil
	}
	// There already, or a file in the way.
	fi, e := s.Lstat(dir)
	switch {
	case e == nil && fi.IsDir():
		return nil
	case e == nil, errors.Is(e, fs.ErrNotExist):
		return conflict()
	}
	return err
}

// removeEmpty removes a directory in which there are only directories, as deletes leave them.
func (s *session) removeEmpty(dir string) error {
	entries, err := s.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() {
			return fs.ErrExist
		}
		if err := s.removeEmpty(path.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return s.RemoveDirectory(dir)
}

// syncDir makes names durable. SFTP knows no sync of a directory; OpenSSH on Linux opens one like a file and syncs that.
// Where that is not so, the server's file system decides when.
func (s *session) syncDir(dir string) {
	if _, ok := s.HasExtension("fsync@openssh.com"); !ok {
		return
	}
	f, err := s.Open(dir)
	if err != nil {
		return
	}
	_ = f.Sync()
	_ = f.Close()
}

// sweep removes the temporary files of writers that died, once a driver.
func (p *place) sweep(ctx context.Context, s *session) {
	p.mu.Lock()
	swept := p.swept
	p.swept = true
	p.mu.Unlock()
	if swept {
		return
	}
	entries, err := s.ReadDirContext(ctx, p.path(layout.Temp))
	if err != nil {
		return // the next driver sweeps
	}
	// The file just written tells the server's time.
	var now time.Time
	for _, e := range entries {
		if e.ModTime().After(now) {
			now = e.ModTime()
		}
	}
	for _, e := range entries {
		if layout.Stale(e.Name(), now.Sub(e.ModTime())) {
			_ = s.Remove(p.path(layout.Temp + "/" + e.Name()))
		}
	}
}

// Stat describes the file.
func (p *place) Stat(ctx context.Context, key string) (info driver.Info, err error) {
	err = p.call(ctx, func(_ context.Context, s *session) error {
		fi, err := s.Stat(p.path(layout.EncodeKey(key)))
		if errors.Is(err, fs.ErrNotExist) || err == nil && !fi.Mode().IsRegular() {
			return p.notFound(s)
		}
		if err != nil {
			return err
		}
		info = driver.Info{Key: key, Size: fi.Size(), Modified: fi.ModTime()}
		return nil
	})
	return info, err
}

// Delete removes the file; directories that become empty stay.
func (p *place) Delete(ctx context.Context, key string) error {
	return p.call(ctx, func(_ context.Context, s *session) error {
		target := p.path(layout.EncodeKey(key))
		fi, err := s.Lstat(target)
		if errors.Is(err, fs.ErrNotExist) {
			return p.there(s)
		}
		if err != nil || fi.IsDir() {
			return err
		}
		if err := s.Remove(target); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		s.syncDir(path.Dir(target))
		return nil
	})
}

// List reads directory after directory.
func (p *place) List(ctx context.Context, prefix string, fn func(driver.Info) error) error {
	// First and last: what is unmounted half-way must not look like the end.
	there := func() error { return p.call(ctx, func(_ context.Context, s *session) error { return p.there(s) }) }
	if err := there(); err != nil {
		return err
	}
	if err := layout.Walk(ctx, prefix, p.readDir, fn); err != nil {
		return err
	}
	return there()
}

func (p *place) readDir(ctx context.Context, rel string) (all []layout.Entry, err error) {
	err = p.call(ctx, func(ctx context.Context, s *session) error {
		entries, err := s.ReadDirContext(ctx, p.path(rel))
		if errors.Is(err, fs.ErrNotExist) {
			return nil // deleted meanwhile
		}
		if err != nil {
			return err
		}
		for _, e := range entries {
			if e.IsDir() || e.Mode().IsRegular() {
				all = append(all, layout.Entry{Name: e.Name(), Dir: e.IsDir(), Size: e.Size(), Modified: e.ModTime()})
			}
		}
		return nil
	})
	return all, err
}

// Space asks the server's file system.
func (p *place) Space(ctx context.Context) (space driver.Space, err error) {
	err = p.call(ctx, func(_ context.Context, s *session) error {
		if _, ok := s.HasExtension("statvfs@openssh.com"); !ok {
			space = driver.Space{Total: -1, Free: -1}
			return nil
		}
		if err := p.there(s); err != nil {
			return err
		}
		v, err := s.StatVFS(p.opt.Root)
		if err != nil {
			return err
		}
		space = driver.Space{Total: int64(v.Blocks * v.Frsize), Free: int64(v.Bavail * v.Frsize)}
		return nil
	})
	return space, err
}
