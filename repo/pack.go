package repo

import (
	"context"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/zeebo/blake3"

	"firn"
	"firn/seal"
)

// A pack is a header, sealed chunks back to back, the sealed list of them, and a footer. Its name is the BLAKE3 of all
// its bytes.
const (
	packMagic   = "firnPACK"
	packVersion = 1
	packHeader  = 32
	packFooter  = 16
	footerMagic = "firnPEND"
	entrySize   = 40
	maxEntries  = 1 << 16

	codecRaw  = 0
	codecZstd = 1
)

// entry is a chunk in a pack. Where it begins follows from those before it.
type entry struct {
	id     ID
	stored uint32 // sealed bytes
	plain  uint32 // low 24 bits: plain bytes; above: codec
}

func (e entry) size() int   { return int(e.plain & 0xffffff) }
func (e entry) codec() byte { return byte(e.plain >> 24) }

func (e entry) check() bool {
	return e.stored >= seal.Overhead && e.stored <= MaxChunk+seal.Overhead && e.size() <= MaxChunk &&
		(e.codec() == codecZstd || e.codec() == codecRaw && e.stored == uint32(e.size())+seal.Overhead)
}

func appendEntry(dst []byte, e entry) []byte {
	dst = append(dst, e.id[:]...)
	dst = binary.LittleEndian.AppendUint32(dst, e.stored)
	return binary.LittleEndian.AppendUint32(dst, e.plain)
}

func readEntry(p []byte) entry {
	return entry{ID(p[:32]), binary.LittleEndian.Uint32(p[32:]), binary.LittleEndian.Uint32(p[36:])}
}

// packHead is what the header says.
type packHead struct {
	kind Kind
	salt [seal.SaltSize]byte
}

func (h packHead) encode() (p [packHeader]byte) {
	copy(p[:], packMagic)
	p[8], p[9] = packVersion, byte(h.kind)
	copy(p[16:], h.salt[:])
	return p
}

func parsePackHead(p []byte) (packHead, error) {
	if len(p) < packHeader || string(p[:8]) != packMagic {
		return packHead{}, firn.NewError(firn.Corrupt, "not a pack, or cut off")
	}
	if p[8] != packVersion || p[9] >= byte(kinds) || [6]byte(p[10:16]) != [6]byte{} {
		return packHead{}, firn.NewError(firn.Unsupported, "a pack of a later version of firn: update this one")
	}
	return packHead{Kind(p[9]), [seal.SaltSize]byte(p[16:32])}, nil
}

// trailerLength returns how many bytes before the footer are the list of a pack of size bytes.
func trailerLength(footer []byte, size int64) (int64, error) {
	if len(footer) != packFooter || string(footer[8:]) != footerMagic {
		return 0, firn.NewError(firn.Corrupt, "the pack is cut off: it does not end in a footer")
	}
	n := int64(binary.LittleEndian.Uint32(footer))
	if n < seal.Overhead || (n-seal.Overhead)%entrySize != 0 || (n-seal.Overhead)/entrySize > maxEntries ||
		packHeader+n+packFooter > size || binary.LittleEndian.Uint32(footer[4:]) != 0 {
		return 0, firn.NewError(firn.Corrupt, "the pack's footer is damaged")
	}
	return n, nil
}

// parseEntries reads a list whose chunks fill a pack from the header up to end. Nothing is believed: the caller may
// hold it to be sealed, but a repository can be shared with someone else.
func parseEntries(p []byte, end int64) ([]entry, error) {
	if len(p)%entrySize != 0 || len(p)/entrySize > maxEntries {
		return nil, firn.NewError(firn.Corrupt, "a list of chunks has a length that cannot be")
	}
	all := make([]entry, 0, len(p)/entrySize)
	at := int64(packHeader)
	for ; len(p) > 0; p = p[entrySize:] {
		e := readEntry(p)
		if !e.check() {
			return nil, firn.NewError(firn.Corrupt, "a list of chunks has sizes that cannot be")
		}
		at += int64(e.stored)
		all = append(all, e)
	}
	if at != end {
		return nil, firn.NewError(firn.Corrupt, "a list of chunks does not fit its pack")
	}
	return all, nil
}

// packAEAD seals and opens what is in the pack with the salt.
func (r *Repo) packAEAD(salt [seal.SaltSize]byte) cipher.AEAD {
	key := r.packs.Derive("pack", salt[:])
	return key.AEAD()
}

// chunkAAD is authenticated with a chunk: its kind and id.
func chunkAAD(p *[33]byte, kind Kind, id ID) []byte {
	p[0] = byte(kind)
	copy(p[1:], id[:])
	return p[:]
}

// openTrailer returns the chunks of a pack of size bytes. The sealed list is overwritten.
func openTrailer(aead cipher.AEAD, head packHead, sealed []byte, size int64) ([]entry, error) {
	var nonce [12]byte
	at := size - packFooter - int64(len(sealed))
	h := head.encode()
	plain, err := aead.Open(sealed[:0], seal.Nonce(&nonce, uint64(at)), sealed, h[:])
	if err != nil {
		return nil, firn.NewError(firn.Corrupt, "the pack's list of chunks does not open: damaged, or of another repository")
	}
	return parseEntries(plain, at)
}

// readTrailer reads the list of chunks of a pack of size bytes from the pack itself.
func (r *Repo) readTrailer(ctx context.Context, id ID, size int64) (packHead, []entry, error) {
	key := packKey(id)
	var h [packHeader]byte
	if size < packHeader+seal.Overhead+packFooter || size > maxPackSize {
		return packHead{}, nil, &firn.Error{Kind: firn.Corrupt, Op: "read", Subject: key, Err: fmt.Errorf("a pack cannot have %d bytes", size)}
	}
	if err := r.readAt(ctx, key, h[:], 0); err != nil {
		return packHead{}, nil, err
	}
	head, err := parsePackHead(h[:])
	if err != nil {
		return packHead{}, nil, firn.E("read", key, err)
	}
	// Most lists are short: the first read brings the list along.
	tail := make([]byte, min(size-packHeader, 16<<10))
	if err := r.readAt(ctx, key, tail, size-int64(len(tail))); err != nil {
		return head, nil, err
	}
	n, err := trailerLength(tail[len(tail)-packFooter:], size)
	if err != nil {
		return head, nil, firn.E("read", key, err)
	}
	if n+packFooter > int64(len(tail)) {
		tail = make([]byte, n+packFooter)
		if err := r.readAt(ctx, key, tail, size-int64(len(tail))); err != nil {
			return head, nil, err
		}
	}
	all, err := openTrailer(r.packAEAD(head.salt), head, tail[int64(len(tail))-packFooter-n:len(tail)-packFooter], size)
	return head, all, firn.E("read", key, err)
}

// readAt fills p. A blob that ends before that is damaged.
func (r *Repo) readAt(ctx context.Context, key string, p []byte, offset int64) error {
	_, err := r.store.ReadAt(ctx, key, p, offset)
	if errors.Is(err, io.EOF) {
		err = &firn.Error{Kind: firn.Corrupt, Op: "read", Subject: key, Err: errors.New("it is cut off")}
	}
	return err
}

// sum names content by its hash.
func sum(p []byte) ID { return blake3.Sum256(p) }

// packBuffer is the memory of a pack that is being filled: its bytes, and its list of entries.
type packBuffer struct{ buf, list []byte }

// packer is a pack that is being filled, in memory.
type packer struct {
	number uint32 // in the index
	head   packHead
	aead   cipher.AEAD
	packBuffer
	off     int
	sealing int // chunks that have a place and are not sealed yet, and one while the pack is open; guarded by Session.mu
}

// fits reports whether another chunk of n sealed bytes has room.
func (p *packer) fits(n int) bool {
	return p.off+n+len(p.list)+entrySize+seal.Overhead+packFooter <= len(p.buf) && len(p.list) < maxEntries*entrySize
}

// finish writes list and footer and returns the whole pack.
func (p *packer) finish() []byte {
	var nonce [12]byte
	h := p.head.encode()
	out := p.aead.Seal(p.buf[:p.off], seal.Nonce(&nonce, uint64(p.off)), p.list, h[:])
	out = binary.LittleEndian.AppendUint32(out, uint32(len(p.list)+seal.Overhead))
	out = binary.LittleEndian.AppendUint32(out, 0)
	return append(out, footerMagic...)
}
