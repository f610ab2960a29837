package drivertest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
)

// record is the length of the unit that versions are made of: 8 bytes of the version, 8 of the position.
const record = 16

// version returns content of size bytes in which every 16 bytes tell the version and where they stand, so that any
// piece shows what it is a piece of.
func version(v uint64, size int64) []byte {
	p := make([]byte, 0, size+record)
	for at := uint64(0); int64(len(p)) < size; at += record {
		p = binary.BigEndian.AppendUint64(p, v*0x9e3779b97f4a7c15) // spread, so that nothing compresses to nothing
		p = binary.BigEndian.AppendUint64(p, at*0xc2b2ae3d27d4eb4f)
	}
	return p[:size]
}

// versions are contents by number, so that a reader can tell which one it got.
type versions struct {
	sizes []int64
	all   [][]byte
}

func newVersions(n int, sizes ...int64) *versions {
	v := &versions{sizes: sizes}
	for i := range n {
		v.all = append(v.all, version(uint64(i+1), sizes[i%len(sizes)]))
	}
	return v
}

// check fails unless p is one of the versions from offset on, whole or its first limit bytes.
func (v *versions) check(p []byte, offset, limit int64) error {
	for _, w := range v.all {
		w = w[min(offset, int64(len(w))):]
		if limit >= 0 {
			w = w[:min(limit, int64(len(w)))]
		}
		if bytes.Equal(p, w) {
			return nil
		}
	}
	return fmt.Errorf("%d bytes from %d on are no version that was put", len(p), offset)
}

var errBroken = errors.New("the source broke")

// source is a driver.Source that can misbehave and remembers how it was used.
type source struct {
	p        []byte
	size     int64 // announced
	fail     int   // fail with errBroken after so many bytes; -1 never
	openErr  error
	gate     func(at int) // called before each read
	open     atomic.Int64 // readers that are open
	opened   atomic.Int64
	problems struct {
		sync.Mutex
		all []string
	}
}

func newSource(p []byte) *source { return &source{p: p, size: int64(len(p)), fail: -1} }

func (s *source) Size() int64 { return s.size }

func (s *source) Open() (io.ReadCloser, error) {
	s.opened.Add(1)
	if s.openErr != nil {
		return nil, s.openErr
	}
	if s.open.Add(1) > 1 {
		s.problem("opened again before the earlier reader was closed")
	}
	return &sourceReader{s: s}, nil
}

func (s *source) problem(text string) {
	s.problems.Lock()
	s.problems.all = append(s.problems.all, text)
	s.problems.Unlock()
}

// done returns what was wrong with the use of the source.
func (s *source) done() error {
	s.problems.Lock()
	defer s.problems.Unlock()
	if n := s.open.Load(); n != 0 {
		return fmt.Errorf("%d readers of the source were not closed", n)
	}
	if len(s.problems.all) > 0 {
		return errors.New("the source was " + s.problems.all[0])
	}
	return nil
}

type sourceReader struct {
	s      *source
	at     int
	closed atomic.Bool
}

func (r *sourceReader) Read(p []byte) (int, error) {
	if r.closed.Load() {
		r.s.problem("read after it was closed")
		return 0, errors.New("closed")
	}
	if r.s.gate != nil {
		r.s.gate(r.at)
	}
	limit := len(r.s.p)
	if r.s.fail >= 0 {
		limit = min(limit, r.s.fail)
	}
	// Uneven pieces: nobody may rely on a full buffer.
	n := copy(p[:min(len(p), 1+(r.at*7+4093)%70001)], r.s.p[r.at:limit])
	r.at += n
	if r.at == limit && n == 0 && len(p) > 0 {
		if r.s.fail >= 0 {
			return 0, errBroken
		}
		return 0, io.EOF
	}
	return n, nil
}

func (r *sourceReader) Close() error {
	if !r.closed.Swap(true) {
		r.s.open.Add(-1)
	}
	return nil
}
