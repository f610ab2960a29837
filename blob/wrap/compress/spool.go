package compress

import (
	"bytes"
	"context"
	"encoding/binary"
	"hash/crc32"
	"io"
	"os"

	"firn/blob"
	"firn/blob/driver"
)

// spool keeps a compressed blob until it is stored: its exact size must be known before. It is a driver.Source.
type spool struct {
	head   []byte
	memory []byte
	file   *os.File // what is beyond memory; nil where nothing is
	onDisk int64
	tail   []byte
}

// budget is how much memory one call may still use for spools.
type budget struct {
	memory int
	dir    string
}

// spool compresses src.
func (c *compressed) spool(ctx context.Context, src driver.Source, b *budget) (s *spool, err error) {
	rc, err := blob.OpenExact(ctx, src)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	s = &spool{}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	t := &table{size: src.Size()}
	if frameCount(t.size) > maxFrames {
		return nil, errTooLarge
	}
	plain := make([]byte, min(t.size, frameLen))
	var frame []byte
	for i := 0; ; i++ {
		n := max(t.plain(i), 0)
		if _, err := io.ReadFull(rc, plain[:n]); err != nil {
			return nil, err
		}
		if n == 0 {
			break
		}
		frame = c.enc.EncodeAll(plain[:n], frame[:0])
		// What saves less than a thirty-second is not worth unpacking, and a raw blob's size can be told from its length.
		if raw := rawFrameLen(n); len(frame) > raw-raw/32 {
			frame = rawFrame(frame[:0], plain[:n])
		}
		t.frames = append(t.frames, entry{len(frame), crc32.Checksum(frame, castagnoli())})
		if err := s.write(frame, b); err != nil {
			return nil, err
		}
	}
	// The end of the source, where it is told apart from one that goes on.
	if _, err := rc.Read(make([]byte, 1)); err != io.EOF {
		return nil, err
	}
	s.head = t.encode()
	if bare, padded := t.stored(); padded > bare {
		s.tail = binary.LittleEndian.AppendUint32(nil, paddingMagic)
		s.tail = binary.LittleEndian.AppendUint32(s.tail, uint32(padded-bare-skipLen))
		s.tail = append(s.tail, make([]byte, padded-bare-skipLen)...)
	}
	return s, nil
}

func (s *spool) write(p []byte, b *budget) error {
	if s.file == nil && len(p) <= b.memory {
		s.memory = append(s.memory, p...)
		b.memory -= len(p)
		return nil
	}
	if s.file == nil {
		f, err := os.CreateTemp(b.dir, "firn-compress-*")
		if err != nil {
			return blob.FileError(err)
		}
		s.file = f
		// Without a name it goes when it is closed, whatever happens to the process.
		if err := os.Remove(f.Name()); err != nil {
			return blob.FileError(err)
		}
	}
	n, err := s.file.Write(p)
	s.onDisk += int64(n)
	if err != nil {
		return blob.FileError(err)
	}
	return nil
}

func (s *spool) Size() int64 {
	return int64(len(s.head)) + int64(len(s.memory)) + s.onDisk + int64(len(s.tail))
}

func (s *spool) Open() (io.ReadCloser, error) {
	readers := []io.Reader{bytes.NewReader(s.head), bytes.NewReader(s.memory)}
	if s.file != nil {
		readers = append(readers, io.NewSectionReader(s.file, 0, s.onDisk))
	}
	return io.NopCloser(io.MultiReader(append(readers, bytes.NewReader(s.tail))...)), nil
}

func (s *spool) close() {
	if s != nil && s.file != nil {
		_ = s.file.Close() // it has no name any more; nothing can be lost
	}
}
