package repo

import (
	"fmt"

	"github.com/klauspost/compress"
	"github.com/klauspost/compress/zstd"

	"firn"
)

// zipper compresses chunks. Its methods may be called by as many goroutines at once as it was made for; more wait.
type zipper struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
	off bool
}

// Compression is how hard new chunks are compressed; reading does not depend on it.
type Compression string

// The levels of compression. Fastest takes half the time of the default for results that are about a twentieth larger,
// better twice the time for a thirtieth less. With off new chunks are stored as they are.
const (
	CompressionDefault Compression = ""
	CompressionFastest Compression = "fastest"
	CompressionBetter  Compression = "better"
	CompressionOff     Compression = "off"
)

var levels = map[Compression]zstd.EncoderLevel{
	CompressionDefault: zstd.SpeedDefault, "default": zstd.SpeedDefault, CompressionFastest: zstd.SpeedFastest,
	CompressionBetter: zstd.SpeedBetterCompression, CompressionOff: zstd.SpeedFastest,
}

// window is how far back a match may be: all of most chunks, since the encoder moves its history when it slides.
const window = 2 << 20

func newZipper(n int, c Compression) (*zipper, error) {
	level, ok := levels[c]
	if !ok {
		return nil, firn.NewError(firn.Invalid, fmt.Sprintf("compression %q: known are default, fastest, better and off", c))
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(n),
		zstd.WithEncoderCRC(false), zstd.WithAllLitEntropyCompression(true), zstd.WithWindowSize(window), zstd.WithLowerEncoderMem(true), zstd.WithZeroFrames(true))
	if err != nil {
		return nil, err
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(n), zstd.WithDecoderMaxMemory(2*MaxChunk),
		zstd.WithDecoderLowmem(true), zstd.IgnoreChecksum(true))
	if err != nil {
		return nil, err
	}
	return &zipper{enc: enc, dec: dec, off: c == CompressionOff}, nil
}

func (z *zipper) close() {
	_ = z.enc.Close()
	z.dec.Close()
}

// gains reports whether compression saves enough to be worth undoing it on every read: a 32nd, or anything of little.
func gains(plain, packed int) bool { return packed+plain/32 < plain || plain < 1024 && packed < plain }

// sampleFrom is the size from which on looking at a sample costs less than compressing in vain.
const sampleFrom = 32 << 10

// compress appends the compressed form of p to dst, which is empty, and reports whether it is smaller. dst must not
// grow for what compresses: cap(dst) >= len(p).
func (z *zipper) compress(dst, p []byte) ([]byte, bool) {
	if z.off || len(p) < 32 || len(p) >= sampleFrom && !z.promising(dst, p) {
		return dst[:0], false
	}
	dst = z.enc.EncodeAll(p, dst[:0])
	return dst, gains(len(p), len(dst))
}

// promising looks at stretches of p. Content that is compressed or encrypted already has bytes that are all alike in
// number; where a stretch looks so, compressing it says the rest.
func (z *zipper) promising(scratch, p []byte) bool {
	const stretches, size = 8, 4 << 10
	gap := (len(p) - size) / (stretches - 1)
	for i := range stretches {
		s := p[i*gap : i*gap+size]
		if compress.Estimate(s) > 0.1 {
			return true
		}
	}
	mid := p[len(p)/2-size : len(p)/2+size]
	return len(z.enc.EncodeAll(mid, scratch[:0])) < len(mid)*31/32
}

// decodeSlack is how many bytes beyond what it returns the decoder may write.
const decodeSlack = 64

// decompress appends the plain form of p, which has size bytes, to dst.
func (z *zipper) decompress(dst, p []byte, size int) ([]byte, error) {
	n := len(dst)
	// With room to write beyond the end the decoder takes its faster way.
	if cap(dst)-n < size+decodeSlack {
		dst = append(make([]byte, 0, n+size+decodeSlack), dst...)
	}
	out, err := z.dec.DecodeAll(p, dst)
	if err != nil || len(out)-n != size {
		return nil, firn.NewError(firn.Corrupt, fmt.Sprintf("compressed content does not open to %d bytes: %v", size, err))
	}
	return out, nil
}
