package davblob

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/blob/layout"
)

const (
	// placeTries bounds how often a name is tried that somebody else keeps changing.
	placeTries = 8
	// cleanWithin bounds the removal of a temporary file after a put that failed, whose context may be over.
	cleanWithin = 10 * time.Second
	// A reader looks so often, and so far apart, for a blob that is just being replaced.
	looks   = 50
	between = 20 * time.Millisecond
)

// Init makes a place of a directory that is missing or empty. It does nothing where one is already.
func Init(ctx context.Context, opt Options) error {
	p, err := open(ctx, opt)
	if err != nil {
		return err
	}
	defer p.Close()
	// Asked for by name: some servers do not list names that begin with a dot.
	if _, err := p.stat(ctx, layout.Marker); firn.KindOf(err) != firn.NotFound {
		if err != nil {
			return err
		}
		return p.there(ctx)
	}
	_, within, err := p.look(ctx, "", "1")
	if firn.KindOf(err) == firn.NotFound {
		if err := p.makeRoot(ctx); err != nil {
			return err
		}
		_, within, err = p.look(ctx, "", "1")
	}
	if err != nil {
		return err
	}
	for _, e := range within {
		switch e.Name {
		case layout.Temp, "lost+found":
		default:
			return firn.NewError(firn.Conflict, fmt.Sprintf(
				"the directory is no place and not empty (it holds %q): choose an empty one", e.Name))
		}
	}
	if err := p.mkcol(ctx, layout.Temp); err != nil {
		return err
	}
	// The marker is small and never replaced: it needs no temporary name.
	_, err = p.simple(ctx, p.putRequest(ctx, layout.Marker, blob.Bytes([]byte(layout.Version))))
	return err
}

// makeRoot makes the root and the directories above it.
func (p *place) makeRoot(ctx context.Context) error {
	up := place{http: p.http, user: p.user, pass: p.pass, ctx: p.ctx}
	parts := strings.Split(strings.Trim(p.root.Path, "/"), "/")
	for i := range parts {
		root := *p.root
		root.Path = "/" + strings.Join(parts[:i], "/")
		root.Path = strings.TrimSuffix(root.Path, "/") + "/"
		up.root = &root
		if err := up.mkcol(ctx, parts[i]); err != nil {
			return err
		}
	}
	return nil
}

// mkcol makes a directory, whose parent is there, unless it is there.
func (p *place) mkcol(ctx context.Context, rel string) error {
	_, err := p.simple(ctx, request{method: "MKCOL", path: rel + "/"})
	if err == nil {
		return nil
	}
	self, _, e := p.look(ctx, rel, "0")
	switch {
	case e == nil && self.Dir:
		return nil
	case e == nil:
		return conflict()
	case firn.KindOf(e) != firn.NotFound:
		return e
	}
	return err
}

func conflict() error {
	return firn.NewError(firn.Conflict, "a file and a directory cannot have one name: another key stands against this one")
}

// there fails where the root is no place: not mounted at the server, removed, or never made.
func (p *place) there(ctx context.Context) error {
	resp, err := p.do(ctx, request{method: http.MethodGet, path: layout.Marker})
	if err != nil {
		return err
	}
	defer discard(resp)
	if resp.StatusCode == http.StatusNotFound {
		return firn.NewError(firn.Unavailable, fmt.Sprintf("the directory on the server is not a place: it has no file %s. "+
			"Is its file system mounted? A new place is made by `firn blob init`", layout.Marker))
	}
	if resp.StatusCode != http.StatusOK {
		return refused(resp)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, 100))
	switch {
	case err != nil:
		return p.lost(ctx, err)
	case string(text) == layout.Version:
		return nil
	case strings.HasPrefix(string(text), "firn place "):
		return firn.NewError(firn.Unsupported, "the place was made by a later version of firn: use that")
	}
	return firn.NewError(firn.Corrupt, fmt.Sprintf("%s is damaged: it must hold %q", layout.Marker, layout.Version))
}

// dot begins the name of a file for a part of a key that begins with a dot: nginx lists no file whose name does.
const dot = "%2E"

// fileName is the path of a key's file: the layout's, but for the first dots.
func fileName(key string) string { return hide(layout.EncodeKey(key)) }

// hide is the path of a file as this driver has it.
func hide(file string) string {
	parts := strings.Split(file, "/")
	for i, part := range parts {
		if rest, ok := strings.CutPrefix(part, "."); ok {
			parts[i] = dot + rest
		}
	}
	return strings.Join(parts, "/")
}

// shown are the entries as layout.Walk knows them. Names with a dot, which not every server lists, are nobody's.
func shown(within []layout.Entry) []layout.Entry {
	n := 0
	for _, e := range within {
		if strings.HasPrefix(e.Name, ".") {
			continue
		}
		if rest, ok := strings.CutPrefix(e.Name, dot); ok {
			if _, _, ok := layout.DecodeName(e.Name); !ok {
				e.Name = "." + rest
			}
		}
		within[n] = e
		n++
	}
	return within[:n]
}

// replacing is how the temporary names of puts of a file begin.
func replacing(file string) string {
	sum := sha256.Sum256([]byte(file))
	return hex.EncodeToString(sum[:16]) + "-"
}

// again runs fn, which looks for a file, and once more for as long as the file is not there but is being replaced: some
// servers remove the old one first.
func (p *place) again(ctx context.Context, file string, fn func() error) error {
	for try := 0; ; try++ {
		err := fn()
		if firn.KindOf(err) != firn.NotFound {
			return err
		}
		_, temps, e := p.look(ctx, layout.Temp, "1")
		if firn.KindOf(e) == firn.NotFound {
			return errors.Join(p.there(ctx), err)
		}
		if e != nil {
			return e
		}
		busy := false
		for _, t := range temps {
			busy = busy || strings.HasPrefix(t.Name, replacing(file))
		}
		if try > 0 && !busy || try == looks {
			return err
		}
		if busy && !pause(ctx, between) {
			return p.lost(ctx, ctx.Err())
		}
	}
}

// putRequest sends src to a path. The source is checked to be as long as it says.
func (p *place) putRequest(ctx context.Context, rel string, src driver.Source) request {
	return request{
		method: http.MethodPut, path: rel, size: src.Size(),
		header: map[string]string{"Content-Type": "application/octet-stream"},
		open:   func() (io.ReadCloser, error) { return blob.OpenExact(ctx, src) },
	}
}

// Put sends the blob under a temporary name and moves it to its own.
func (p *place) Put(ctx context.Context, key string, src driver.Source) error {
	ctx, cancel := p.call(ctx)
	defer cancel()
	// First: a server that remembers directories may put the content where the place was.
	if err := p.there(ctx); err != nil {
		return err
	}
	file := fileName(key)
	temp := layout.Temp + "/" + replacing(file) + strings.ToLower(rand.Text())
	status, err := p.simple(ctx, p.putRequest(ctx, temp, src))
	if err != nil && (status == http.StatusNotFound || status == http.StatusConflict) {
		// The directory of temporary files may be removed by hand.
		if err := p.mkcol(ctx, layout.Temp); err != nil {
			return err
		}
		_, err = p.simple(ctx, p.putRequest(ctx, temp, src))
	}
	if err == nil {
		err = p.settle(ctx, temp, file)
	}
	if err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanWithin)
		defer cancel()
		_, _ = p.simple(ctx, request{method: http.MethodDelete, path: temp}) // the first error says more
	}
	return err
}

// settle gives the complete file its name.
func (p *place) settle(ctx context.Context, temp, file string) error {
	overwrite := "F" // or some servers replace a whole directory
	var err error
	for range placeTries {
		var status int
		status, err = p.simple(ctx, request{method: "MOVE", path: temp, header: map[string]string{
			"Destination": p.url(file), "Overwrite": overwrite,
		}})
		if err == nil {
			return nil
		}
		if status == 0 || status >= 500 && status != http.StatusInternalServerError || status == http.StatusLocked {
			return err
		}
		self, _, e := p.look(ctx, file, "0")
		switch kind := firn.KindOf(e); {
		case e == nil && self.Dir:
			overwrite = "F"
			if e := p.removeEmpty(ctx, file); e != nil {
				return e
			}
		case e == nil && overwrite == "F":
			overwrite = "T"
		case e == nil:
			return err
		case kind == firn.NotFound || kind == firn.Conflict || kind == firn.Invalid:
			overwrite = "F"
			if e := p.makeDir(ctx, path.Dir(file)); e != nil {
				return e
			}
		default:
			return e
		}
	}
	return &firn.Error{Kind: firn.Unavailable, Err: err}
}

// makeDir makes a directory below the root and those above it.
func (p *place) makeDir(ctx context.Context, dir string) error {
	if dir == "." {
		return p.there(ctx)
	}
	self, _, err := p.look(ctx, dir, "0")
	if err == nil {
		if self.Dir {
			return nil
		}
		return conflict()
	}
	if err := p.makeDir(ctx, path.Dir(dir)); err != nil {
		return err
	}
	return p.mkcol(ctx, dir)
}

// removeEmpty removes a directory in which there are only directories, as deletes leave them.
func (p *place) removeEmpty(ctx context.Context, dir string) error {
	_, within, err := p.look(ctx, dir, "1")
	if err != nil {
		return err
	}
	for _, e := range within {
		if !e.Dir {
			return conflict()
		}
		if err := p.removeEmpty(ctx, layout.Join(dir, e.Name)); err != nil {
			return err
		}
	}
	_, err = p.simple(ctx, request{method: http.MethodDelete, path: dir + "/"})
	if firn.KindOf(err) == firn.NotFound {
		err = nil
	}
	return err
}

// Get opens the range with one request.
func (p *place) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if length == 0 {
		if _, err := p.Stat(ctx, key); err != nil {
			return nil, err
		}
		return http.NoBody, nil
	}
	ctx, cancel := p.call(ctx)
	var r *reader
	file := fileName(key)
	err := p.again(ctx, file, func() (err error) {
		r, err = p.get(ctx, file, offset, length)
		return err
	})
	if err != nil {
		cancel()
		return nil, err
	}
	r.cancel = cancel
	return r, nil
}

func (p *place) get(ctx context.Context, file string, offset, length int64) (*reader, error) {
	req := request{method: http.MethodGet, path: file, header: map[string]string{"Accept-Encoding": "identity"}}
	switch {
	case length > 0 && offset+length > 0:
		req.header["Range"] = fmt.Sprintf("bytes=%d-%d", offset, offset+length-1)
	case offset > 0:
		req.header["Range"] = fmt.Sprintf("bytes=%d-", offset)
	}
	resp, err := p.do(ctx, req)
	if err != nil {
		return nil, err
	}
	r := &reader{p: p, ctx: ctx, body: resp.Body}
	switch resp.StatusCode {
	case http.StatusPartialContent:
		r.left, err = span(resp.Header.Get("Content-Range"), offset)
	case http.StatusOK:
		// The whole of it, from a server that does not know ranges or found this one not worth it.
		r.left = resp.ContentLength
		if r.left < 0 {
			err = firn.NewError(firn.Unsupported, "the server does not say how long its answer is")
		} else if skip := min(offset, r.left); skip > 0 {
			_, err = io.CopyN(io.Discard, r, skip)
		}
		if length > 0 {
			r.left = min(r.left, length)
		}
	case http.StatusRequestedRangeNotSatisfiable:
		discard(resp)
		r.body = http.NoBody
		return r, nil
	default:
		err = refused(resp)
	}
	if err != nil {
		discard(resp)
		// A directory: servers have many words for it.
		if self, _, e := p.look(ctx, file, "0"); resp.StatusCode != http.StatusNotFound && e == nil && self.Dir {
			err = &firn.Error{Kind: firn.NotFound}
		} else if e != nil && firn.KindOf(e) == firn.NotFound {
			err = e
		}
		return nil, err
	}
	return r, nil
}

// span is how many bytes from offset on a Content-Range has. A proxy must not pass off other bytes.
func span(text string, offset int64) (int64, error) {
	s, _, _ := strings.Cut(strings.TrimPrefix(text, "bytes "), "/")
	from, to, _ := strings.Cut(s, "-")
	first, err := strconv.ParseInt(from, 10, 64)
	last, err2 := strconv.ParseInt(to, 10, 64)
	if err != nil || err2 != nil || first != offset || last < first {
		return 0, firn.NewError(firn.Unavailable, fmt.Sprintf("the server answered a range from %d with %q", offset, text))
	}
	return last - first + 1, nil
}

// reader reads the body of one answer, which is of one file that the server has open.
type reader struct {
	p      *place
	ctx    context.Context //nolint:containedctx // the call's: reading is part of it
	cancel context.CancelFunc
	body   io.ReadCloser
	left   int64
	err    error
	once   sync.Once
}

func (r *reader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if r.left == 0 {
		return 0, io.EOF
	}
	n, err := r.body.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	if errors.Is(err, io.EOF) && r.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	if err != nil && r.left > 0 {
		r.err = r.p.lost(r.ctx, err)
	}
	return n, r.err
}

func (r *reader) Close() error {
	r.once.Do(func() {
		r.body.Close()
		r.cancel()
		r.err = errors.New("read after close")
	})
	return nil
}

// Stat describes the file.
func (p *place) Stat(ctx context.Context, key string) (driver.Info, error) {
	ctx, cancel := p.call(ctx)
	defer cancel()
	file := fileName(key)
	var self resource
	err := p.again(ctx, file, func() (err error) {
		self, err = p.stat(ctx, file)
		return err
	})
	if err != nil {
		return driver.Info{}, err
	}
	return driver.Info{Key: key, Size: self.Size, Modified: self.Modified}, nil
}

// stat describes a file; a directory is none.
func (p *place) stat(ctx context.Context, file string) (resource, error) {
	self, _, err := p.look(ctx, file, "0")
	if err == nil && self.Dir {
		err = &firn.Error{Kind: firn.NotFound}
	}
	return self, err
}

// Delete removes the file; directories that become empty stay.
func (p *place) Delete(ctx context.Context, key string) error {
	ctx, cancel := p.call(ctx)
	defer cancel()
	file := fileName(key)
	// Looked at first: the delete of a directory would take all that is in it.
	_, err := p.stat(ctx, file)
	if firn.KindOf(err) == firn.NotFound {
		return p.there(ctx)
	}
	if err != nil {
		return err
	}
	_, err = p.simple(ctx, request{method: http.MethodDelete, path: file})
	if firn.KindOf(err) == firn.NotFound {
		err = nil
	}
	return err
}

// List reads directory after directory.
func (p *place) List(ctx context.Context, prefix string, fn func(driver.Info) error) error {
	ctx, cancel := p.call(ctx)
	defer cancel()
	// First and last: what is unmounted half-way must not look like the end.
	if err := p.there(ctx); err != nil {
		return err
	}
	err := layout.Walk(ctx, prefix, func(ctx context.Context, rel string) ([]layout.Entry, error) {
		self, within, err := p.look(ctx, hide(rel), "1")
		if firn.KindOf(err) == firn.NotFound || err == nil && !self.Dir {
			return nil, nil // deleted meanwhile
		}
		return shown(within), err
	}, fn)
	if err != nil {
		return err
	}
	return p.there(ctx)
}

// Space asks for the quota (RFC 4331), which not every server tells.
func (p *place) Space(ctx context.Context) (driver.Space, error) {
	ctx, cancel := p.call(ctx)
	defer cancel()
	if err := p.there(ctx); err != nil {
		return driver.Space{}, err
	}
	self, _, err := p.look(ctx, "", "0")
	if err != nil {
		return driver.Space{}, err
	}
	space := driver.Space{Total: -1, Free: self.free}
	if self.free >= 0 && self.used >= 0 {
		space.Total = self.used + self.free
	}
	return space, nil
}
