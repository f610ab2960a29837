package block

import (
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"syscall"

	"github.com/zeebo/blake3"

	"firn"
	"firn/seal"
	"firn/vfs"
)

// writeSize is the number of bytes a Writer gathers before it writes, a multiple of vfs.DirectAlign. Larger slices go
// to the file directly.
const writeSize = 256 << 10

// syncEvery is the distance in bytes between the points where the system is told to start writing dirty pages, where
// the file does not take direct I/O, so that the final sync finds little left to do.
const syncEvery = 8 << 20

// WriterOptions are the settings of a Writer.
type WriterOptions struct {
	// BlockSize is the number of plain bytes a checksum covers: a power of two from MinBlockSize to MaxBlockSize.
	// 0 means DefaultBlockSize.
	BlockSize int
	// Label is kept in the file for rebuilding the namespace from the files alone. At most MaxLabel bytes.
	Label []byte
	// Sum, where set, returns the BLAKE3 of the content and is called once, in Finish. The Writer then does not
	// compute it: for callers that hash on another goroutine or know the sum already.
	Sum func() [32]byte
	// Key, where set, seals the content. It must have sealed nothing before and seal nothing else: its nonces are the
	// numbers of the blocks.
	Key *seal.Key
}

// Writer writes one part file. It is used by one goroutine. After an error every call returns that error: bytes whose
// write or sync failed are in an unknown state, and the file is to be removed, never written again.
type Writer struct {
	f      vfs.File
	o      WriterOptions
	buf    []byte // gathered bytes, a pooled slice of capacity writeSize
	pooled *writeBuffer
	hash   *blake3.Hasher
	aead   cipher.AEAD // under o.Key
	codec  Codec
	direct bool // f takes direct I/O: whole, aligned pieces only

	size    int64 // plain bytes taken
	written int64 // bytes in the file
	synced  int64 // SyncTo was called up to here

	index   []byte // finished entries
	sum     uint32 // of the open block
	inBlock int    // bytes of the open block

	err  error
	done bool
}

var errFinished = firn.NewError(firn.Invalid, "the part file is finished")

// NewWriter returns a Writer of a part file to f, which is empty and stays the caller's: the caller closes it, and
// removes it where Finish did not return nil. The Writer holds a pooled buffer until Finish or Abort.
func NewWriter(f vfs.File, o WriterOptions) (*Writer, error) {
	if o.BlockSize == 0 {
		o.BlockSize = DefaultBlockSize
	}
	if o.BlockSize < MinBlockSize || o.BlockSize > MaxBlockSize || o.BlockSize&(o.BlockSize-1) != 0 {
		return nil, firn.NewError(firn.Invalid, "block size is not a power of two between 4 KiB and 256 KiB")
	}
	if len(o.Label) > MaxLabel {
		return nil, firn.NewError(firn.Invalid, "label is longer than 64 KiB")
	}
	w := &Writer{f: f, o: o, direct: vfs.SetDirect(f)}
	if o.Key != nil {
		w.codec, w.aead = CodecAESGCM, o.Key.AEAD()
	}
	if o.Sum == nil {
		w.hash = hashers.get()
	}
	return w, nil
}

// Write adds bytes to the content. It does not keep p. Slices of 256 KiB and more are written without a copy.
func (w *Writer) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	if w.done {
		return 0, errFinished
	}
	if w.size+int64(len(p)) > w.codec.maxSize(w.o.BlockSize) {
		return 0, w.fail(errPartSize)
	}
	if w.aead == nil {
		w.checksum(p)
	}
	if w.hash != nil {
		// The hasher's Write does not fail.
		_, _ = w.hash.Write(p)
	}
	w.size += int64(len(p))
	n := len(p)
	for len(p) > 0 {
		if w.aead == nil && len(w.buf) == 0 && len(p) >= writeSize && (!w.direct || vfs.DirectAligned(p)) {
			// Whole multiples keep the file offset of every write aligned.
			direct := len(p) / writeSize * writeSize
			if err := w.write(p[:direct]); err != nil {
				return 0, err
			}
			p = p[direct:]
			continue
		}
		if len(w.buf) == writeSize {
			// Sealed blocks wait in a full buffer until there is more, because the last of all is sealed as such.
			w.sealBuffer(false)
			if err := w.flush(); err != nil {
				return 0, err
			}
		}
		k := min(len(p), writeSize-len(w.buf))
		if err := w.gather(p[:k]); err != nil {
			return 0, err
		}
		p = p[k:]
	}
	return n, nil
}

var errPartSize = firn.NewError(firn.Invalid, "the part is larger than its index can be")

// sealBuffer seals the blocks in the buffer, in place. last says that no more follow.
func (w *Writer) sealBuffer(last bool) {
	var nonce [12]byte
	for start := 0; start < len(w.buf); start += w.o.BlockSize {
		end := min(start+w.o.BlockSize, len(w.buf))
		p, after := w.pooled[start:end], w.pooled[end:end+seal.Overhead]
		saved := [seal.Overhead]byte(after) // where Seal puts the tag
		at := int64(len(w.index) / w.codec.entry())
		w.aead.Seal(p[:0], blockNonce(&nonce, at, last && end == len(w.buf)), p, nil)
		w.index = binary.LittleEndian.AppendUint32(w.index, checksum(p))
		w.index = append(w.index, after...)
		copy(after, saved[:])
	}
}

// gather adds p, which fits, to the buffer and writes the buffer when it is full.
func (w *Writer) gather(p []byte) error {
	if w.pooled == nil {
		w.pooled = writeBuffers.get()
		w.buf = w.pooled[:0]
	}
	w.buf = append(w.buf, p...)
	if len(w.buf) == writeSize && w.aead == nil {
		return w.flush()
	}
	return nil
}

// ReadFrom implements io.ReaderFrom: it reads into the write buffer, which saves one copy.
func (w *Writer) ReadFrom(r io.Reader) (int64, error) {
	if w.err != nil {
		return 0, w.err
	}
	if w.done {
		return 0, errFinished
	}
	if w.aead != nil {
		// A full buffer waits for what follows, and nothing can be read into it.
		buf := readBuffers.get()
		defer readBuffers.put(buf)
		return io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, buf.data[:readSize])
	}
	if w.pooled == nil {
		w.pooled = writeBuffers.get()
		w.buf = w.pooled[:0]
	}
	var total int64
	for {
		p := w.pooled[len(w.buf):writeSize]
		n, err := r.Read(p)
		if n > 0 {
			if w.size+int64(n) > w.codec.maxSize(w.o.BlockSize) {
				return total, w.fail(errPartSize)
			}
			w.checksum(p[:n])
			if w.hash != nil {
				_, _ = w.hash.Write(p[:n])
			}
			w.size += int64(n)
			total += int64(n)
			w.buf = w.pooled[:len(w.buf)+n]
			if len(w.buf) == writeSize {
				if err := w.flush(); err != nil {
					return total, err
				}
			}
		}
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			// Not the file's error: the caller may go on or abort.
			return total, err
		}
	}
}

// checksum feeds p to the block checksums.
func (w *Writer) checksum(p []byte) {
	table := castagnoli()
	for len(p) > 0 {
		k := min(len(p), w.o.BlockSize-w.inBlock)
		w.sum = crc32.Update(w.sum, table, p[:k])
		w.inBlock += k
		p = p[k:]
		if w.inBlock == w.o.BlockSize {
			w.closeBlock()
		}
	}
}

func (w *Writer) closeBlock() {
	w.index = binary.LittleEndian.AppendUint32(w.index, w.sum)
	w.sum, w.inBlock = 0, 0
}

func (w *Writer) fail(err error) error {
	w.err = err
	w.release()
	return err
}

func (w *Writer) write(p []byte) error {
	n, err := w.f.Write(p)
	if w.direct && n == 0 && errors.Is(err, syscall.EINVAL) && vfs.ClearDirect(w.f) {
		// The file system took the switch to direct I/O and refuses it now. Nothing was written, so this is not
		// an error of the disk, and the only one that is tried again.
		w.direct = false
		n, err = w.f.Write(p)
	}
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return w.fail(storageError("write part", err))
	}
	w.written += int64(n)
	if !w.direct && w.written-w.synced >= syncEvery {
		// The last bytes are left out: their pages are still being filled.
		w.synced = w.written - writeSize
		if _, err := w.f.SyncTo(w.synced); err != nil {
			return w.fail(storageError("sync part", err))
		}
	}
	return nil
}

func (w *Writer) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	err := w.write(w.buf)
	if w.pooled != nil {
		w.buf = w.pooled[:0]
	}
	return err
}

// Size returns the plain bytes written so far.
func (w *Writer) Size() int64 { return w.size }

// Finish writes index, label and trailer and makes the file's content durable with one sync. Its name becomes durable
// with the sync of its directory, which is the caller's. It may be called once.
func (w *Writer) Finish() (Info, error) {
	if w.err != nil {
		return Info{}, w.err
	}
	if w.done {
		return Info{}, errFinished
	}
	w.done = true
	if w.inBlock > 0 {
		w.closeBlock()
	}
	if w.aead != nil {
		w.sealBuffer(true)
		w.aead = nil // what follows is not content
		if len(w.buf) == writeSize {
			if err := w.flush(); err != nil {
				return Info{}, err
			}
		}
	}
	t := trailer{
		info:     Info{Codec: w.codec, BlockSize: w.o.BlockSize, Blocks: int64(len(w.index) / w.codec.entry()), Size: w.size},
		indexOff: w.size,
		indexLen: len(w.index),
		labelLen: len(w.o.Label),
		indexCRC: checksum(w.index),
	}
	t.info.Stored = w.size + int64(len(w.index)) + int64(len(w.o.Label)) + trailerLen
	if odd := int(t.info.Stored % vfs.DirectAlign); odd > 0 {
		t.padding = vfs.DirectAlign - odd
		t.info.Stored += int64(t.padding)
	}
	if w.hash != nil {
		w.hash.Sum(t.info.BLAKE3[:0])
	} else {
		t.info.BLAKE3 = w.o.Sum()
	}
	if w.o.Key != nil {
		t.info.BLAKE3 = contentSum(w.o.Key, t.info.BLAKE3)
	}
	footer := append(w.index, w.o.Label...)
	footer = append(footer, make([]byte, t.padding)...)
	t.labelCRC = checksum(footer[t.indexLen:])
	footer = t.append(footer)
	for len(footer) > 0 {
		k := min(len(footer), writeSize-len(w.buf))
		if err := w.gather(footer[:k]); err != nil {
			return Info{}, err
		}
		footer = footer[k:]
	}
	if err := w.flush(); err != nil {
		return Info{}, err
	}
	// SyncData suffices: fdatasync writes the file's size when it changed, because the data could not be read back
	// without it. Times may be lost, nothing here reads them.
	if err := w.f.SyncData(); err != nil {
		return Info{}, w.fail(storageError("sync part", err))
	}
	w.release()
	return t.info, nil
}

// Abort gives the pooled buffers back. It is a no-op after Finish; deferring it is the way to use it.
func (w *Writer) Abort() {
	if w.err == nil && !w.done {
		w.err = errFinished
	}
	w.release()
}

func (w *Writer) release() {
	if w.pooled != nil {
		writeBuffers.put(w.pooled)
		w.pooled, w.buf = nil, nil
	}
	if w.hash != nil {
		hashers.put(w.hash)
		w.hash = nil
	}
}

// storageError gives an error of the file system its kind.
func storageError(op string, err error) error {
	kind := firn.KindOf(err)
	if vfs.IsNoSpace(err) {
		kind = firn.NoSpace
	}
	return &firn.Error{Kind: kind, Op: op, Err: err}
}
