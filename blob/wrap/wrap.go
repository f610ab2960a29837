// Package wrap is what the wrappers of blobs share: showing exactly the abilities that the driver behind has, and
// sources whose content is changed on its way.
//
// It promises that a wrapper never claims an ability that would then fail as unsupported. It must never import a
// wrapper or a concrete driver.
package wrap

import (
	"context"
	"io"
	"sync"

	"firn/blob"
	"firn/blob/driver"
)

// Full is a wrapper that has a method for every ability.
type Full interface {
	driver.Wrapper
	driver.Creator
	driver.Batcher
	driver.BulkDeleter
	driver.Measurer
}

// Abilities are those of a driver; nil where it has not got one.
type Abilities struct {
	Creator  driver.Creator
	Batcher  driver.Batcher
	Bulk     driver.BulkDeleter
	Measurer driver.Measurer
	Resumer  driver.Resumer
}

// Of finds the abilities of d, through wrappers that say that passing them by is safe.
func Of(d driver.Driver) Abilities {
	return Abilities{
		Creator:  find[driver.Creator](d),
		Batcher:  find[driver.Batcher](d),
		Bulk:     find[driver.BulkDeleter](d),
		Measurer: find[driver.Measurer](d),
		Resumer:  find[driver.Resumer](d),
	}
}

func find[T any](d driver.Driver) T {
	t, _ := blob.As[T](d)
	return t
}

// Narrow returns w with those of its abilities that a has too, so that whoever asks whether the place can do a thing
// gets the answer of the place. A wrapper through which no put can be resumed has not got the methods for that.
func Narrow(w Full, a Abilities) driver.Driver {
	d := narrow(w, a)
	if r, ok := w.(driver.Resumer); ok && a.Resumer != nil {
		return resuming{d, r}
	}
	return d
}

// resuming is a driver that can resume puts besides.
type resuming struct {
	driver.Driver
	driver.Resumer
}

// Inner leads to the other abilities.
func (r resuming) Inner() (driver.Driver, bool) { return r.Driver, true }

func narrow(w Full, a Abilities) driver.Driver {
	type (
		d = driver.Wrapper
		c = driver.Creator
		b = driver.Batcher
		k = driver.BulkDeleter
		m = driver.Measurer
	)
	mask := 0
	for i, has := range []bool{a.Creator != nil, a.Batcher != nil, a.Bulk != nil, a.Measurer != nil} {
		if has {
			mask |= 1 << i
		}
	}
	switch mask {
	case 0b0001:
		return struct {
			d
			c
		}{w, w}
	case 0b0010:
		return struct {
			d
			b
		}{w, w}
	case 0b0011:
		return struct {
			d
			c
			b
		}{w, w, w}
	case 0b0100:
		return struct {
			d
			k
		}{w, w}
	case 0b0101:
		return struct {
			d
			c
			k
		}{w, w, w}
	case 0b0110:
		return struct {
			d
			b
			k
		}{w, w, w}
	case 0b0111:
		return struct {
			d
			c
			b
			k
		}{w, w, w, w}
	case 0b1000:
		return struct {
			d
			m
		}{w, w}
	case 0b1001:
		return struct {
			d
			c
			m
		}{w, w, w}
	case 0b1010:
		return struct {
			d
			b
			m
		}{w, w, w}
	case 0b1011:
		return struct {
			d
			c
			b
			m
		}{w, w, w, w}
	case 0b1100:
		return struct {
			d
			k
			m
		}{w, w, w}
	case 0b1101:
		return struct {
			d
			c
			k
			m
		}{w, w, w, w}
	case 0b1110:
		return struct {
			d
			b
			k
			m
		}{w, w, w, w}
	case 0b1111:
		return w
	}
	return struct{ d }{w}
}

// Source is a driver.Source made of another: its size, and its readers changed. It remembers the first error
// of what is behind, which is the caller's and not the backend's.
type Source struct {
	ctx  context.Context
	from driver.Source
	size int64
	wrap func(io.Reader) (io.Reader, error)
	mu   struct {
		sync.Mutex
		err error
	}
}

// NewSource returns src with its content changed by wrap into size bytes, for one call with ctx.
func NewSource(ctx context.Context, src driver.Source, size int64, wrap func(io.Reader) (io.Reader, error)) *Source {
	return &Source{ctx: ctx, from: src, size: size, wrap: wrap}
}

// Size is the number of bytes after the change.
func (s *Source) Size() int64 { return s.size }

// Open starts a reader of the changed content. Reading fails with firn.Invalid where src gives fewer or more bytes
// than its size.
func (s *Source) Open() (io.ReadCloser, error) { return s.OpenAt(0) }

// OpenAt is Open from offset on, for sources whose content is not changed.
func (s *Source) OpenAt(offset int64) (io.ReadCloser, error) {
	rc, err := blob.OpenExactAt(s.ctx, s.from, offset)
	if err != nil {
		return nil, s.failed(err)
	}
	r, err := s.wrap(sourceReader{rc, s})
	if err != nil {
		rc.Close()
		return nil, s.failed(err)
	}
	return struct {
		io.Reader
		io.Closer
	}{r, rc}, nil
}

func (s *Source) failed(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.err == nil {
		s.mu.err = err
	}
	return err
}

// Err returns the source's own error where it had one, else err: a backend may have hidden it behind another.
func (s *Source) Err(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil && s.mu.err != nil {
		return s.mu.err
	}
	return err
}

// Failed reports whether reading the source failed.
func (s *Source) Failed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.err != nil
}

type sourceReader struct {
	r io.Reader
	s *Source
}

func (r sourceReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil && err != io.EOF {
		err = r.s.failed(err)
	}
	return n, err
}

// Apply passes changes on with their sources changed. For a delete change is called with a nil source.
func Apply(ctx context.Context, to driver.Batcher, changes []driver.Change,
	change func(key string, src driver.Source) (*Source, error),
) error {
	out := make([]driver.Change, len(changes))
	var sources []*Source
	for i, c := range changes {
		s, err := change(c.Key, c.Put)
		if err != nil {
			return err
		}
		out[i].Key = c.Key
		if c.Put != nil {
			out[i].Put = s
			sources = append(sources, s)
		}
	}
	err := to.Apply(ctx, out)
	for _, s := range sources {
		err = s.Err(err)
	}
	return err
}
