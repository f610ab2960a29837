package repo

import (
	"bufio"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
)

// spill keeps records of one length in files, parted by number, so that what belongs together is handled together and
// the rest needs no memory.
type spill struct {
	dir   string
	name  string
	size  int // of a record
	parts []spillPart
}

type spillPart struct {
	f *os.File
	w *bufio.Writer
	n int // records
}

// spillBuffer is the memory of each part while it is written.
const spillBuffer = 16 << 10

func newSpill(dir, name string, size, parts int) *spill {
	return &spill{dir: dir, name: name, size: size, parts: make([]spillPart, parts)}
}

// part is the number of the part that an id belongs to.
func (s *spill) part(id ID) int { return int(id[0]) * len(s.parts) >> 8 }

func (s *spill) add(part int, record []byte) error {
	p := &s.parts[part]
	if p.f == nil {
		f, err := os.OpenFile(filepath.Join(s.dir, s.name+"."+strconv.Itoa(part)), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return err
		}
		p.f, p.w = f, bufio.NewWriterSize(f, spillBuffer)
	}
	p.n++
	_, err := p.w.Write(record)
	return err
}

// each calls fn for the records of a part in the order they were added. The record is valid during the call.
func (s *spill) each(part int, fn func(record []byte) error) error {
	p := &s.parts[part]
	if p.f == nil {
		return nil
	}
	if err := p.w.Flush(); err != nil {
		return err
	}
	r := bufio.NewReaderSize(io.NewSectionReader(p.f, 0, int64(p.n)*int64(s.size)), 256<<10)
	record := make([]byte, s.size)
	for range p.n {
		if _, err := io.ReadFull(r, record); err != nil {
			return err
		}
		if err := fn(record); err != nil {
			return err
		}
	}
	return nil
}

// clear drops all records.
func (s *spill) clear() error {
	var errs []error
	for i := range s.parts {
		if f := s.parts[i].f; f != nil {
			errs = append(errs, f.Close(), os.Remove(f.Name()))
		}
		s.parts[i] = spillPart{}
	}
	return errors.Join(errs...)
}
