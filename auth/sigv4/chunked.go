package sigv4

import (
	"bytes"
	"crypto/subtle"
	"io"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"sync"
)

// Limits of the aws-chunked encoding. AWS states none for the first and third; a chunk is bounded by what is
// left of x-amz-decoded-content-length.
const (
	maxChunkHeader = 256     // bytes of a chunk's header line
	maxTrailer     = 8 << 10 // bytes of all trailers
	maxTrailers    = 16      // trailing headers
	chunkBuffer    = 8 << 10 // bytes read ahead; at least maxTrailer
)

const trailerSignature = "x-amz-trailer-signature"

var crlf = []byte("\r\n")

// decoder takes the aws-chunked encoding off a body and follows its chain of signatures.
type decoder struct {
	*chunkSpace     // of the pool; nil when released
	r, w        int // unread bytes are buf[r:w]

	chunk int64    // bytes of the current chunk still to come
	began bool     // a chunk was begun: the next header follows a CRLF
	sig   [32]byte // signature the current chunk's header states

	signed   bool // chunks are signed
	trailers bool // trailers may follow
	key      *macKey
	date     string
	scope    string
	prev     [64]byte // the signature before, hex

	declared []string // x-amz-trailer, lower case
	trailer  http.Header
}

// chunkSpace is a decoder's working space.
type chunkSpace struct {
	buf [chunkBuffer]byte
	sts []byte // string to sign
	mac []byte // input of the HMAC
	sum [32]byte
}

var chunkPool = sync.Pool{New: func() any { return new(chunkSpace) }}

func newDecoder(r *Result, h http.Header) *decoder {
	d := &decoder{
		chunkSpace: chunkPool.Get().(*chunkSpace), signed: r.Payload != PayloadUnsignedTrailer,
		trailers: r.Payload != PayloadChunked, key: r.key, date: r.date, scope: r.scope, prev: r.seed,
	}
	if d.trailers {
		for _, v := range h["X-Amz-Trailer"] {
			for name := range strings.SplitSeq(v, ",") {
				if name = strings.ToLower(strings.TrimSpace(name)); name != "" {
					d.declared = append(d.declared, name)
				}
			}
		}
	}
	return d
}

func (d *decoder) release() {
	if d.chunkSpace != nil {
		chunkPool.Put(d.chunkSpace)
		d.chunkSpace = nil
	}
}

// read reads payload of the current or the next chunk; p is not longer than what is left of the payload.
func (d *decoder) read(b *Body, p []byte) (int, error) {
	if d.chunk == 0 {
		n, err := d.header(b)
		switch {
		case err != nil:
			return 0, err
		case n == 0, n > b.left:
			return 0, errDecodedLength()
		}
		d.chunk = n
	}
	if int64(len(p)) > d.chunk {
		p = p[:d.chunk]
	}
	var n int
	switch {
	case d.r < d.w:
		n = copy(p, d.buf[d.r:d.w])
		d.r += n
	default:
		var err error
		if n, err = b.src.Read(p); n == 0 && err != nil {
			return 0, err
		}
		// An error that came with bytes comes again on the next read.
	}
	if d.signed {
		b.hash.Write(p[:n])
	}
	if d.chunk -= int64(n); d.chunk == 0 && d.signed {
		return n, d.checkChunk(b)
	}
	return n, nil
}

// finish reads the last chunk and the trailers.
func (d *decoder) finish(b *Body) error {
	n, err := d.header(b)
	if err != nil {
		return err
	}
	if n != 0 {
		return errDecodedLength()
	}
	if d.signed {
		if err := d.checkChunk(b); err != nil {
			return err
		}
	}
	block, err := d.rest(b)
	if err != nil {
		return err
	}
	if !d.trailers {
		if !bytes.Equal(block, crlf) {
			return errChunk("bytes follow the last chunk")
		}
		return nil
	}
	return d.parseTrailer(block)
}

// header reads a chunk's header line and returns the chunk's size.
func (d *decoder) header(b *Body) (int64, error) {
	if d.began {
		line, err := d.line(b)
		if err != nil {
			return 0, err
		}
		if len(line) != 0 {
			return 0, errChunk("a chunk is longer than its size")
		}
	}
	d.began = true
	line, err := d.line(b)
	if err != nil {
		return 0, err
	}
	size, ext, _ := bytes.Cut(line, []byte(";"))
	n, ok := parseSize(size)
	if !ok {
		return 0, errChunk("invalid chunk size")
	}
	if !d.signed {
		if len(ext) != 0 || len(size) != len(line) {
			return 0, errChunk("an unsigned chunk has an extension")
		}
		return n, nil
	}
	sig, ok := bytes.CutPrefix(ext, []byte("chunk-signature="))
	if !ok || !decodeHex(d.sig[:], sig) {
		return 0, errChunk("a chunk has no valid chunk-signature")
	}
	b.hash.Reset()
	return n, nil
}

// parseSize parses 1 to 16 hex digits below 2^63.
func parseSize(s []byte) (int64, bool) {
	if len(s) == 0 || len(s) > 16 {
		return 0, false
	}
	var n uint64
	for _, c := range s {
		d := hexDigit(c)
		if d > 15 {
			return 0, false
		}
		n = n<<4 | uint64(d)
	}
	return int64(n), n < 1<<63
}

// line reads up to a CRLF and returns what was before, valid until the next read.
func (d *decoder) line(b *Body) ([]byte, error) {
	from := d.r
	for {
		if i := bytes.IndexByte(d.buf[from:d.w], '\n'); i >= 0 {
			end := from + i
			line := d.buf[d.r:end]
			d.r = end + 1
			line, ok := bytes.CutSuffix(line, []byte("\r"))
			if !ok || len(line) > maxChunkHeader {
				return nil, errChunk("invalid chunk header")
			}
			return line, nil
		}
		if d.w-d.r > maxChunkHeader {
			return nil, errChunk("chunk header too long")
		}
		unread := d.w - d.r
		if err := d.fill(b); err != nil {
			return nil, err
		}
		from = d.r + unread
	}
}

// fill reads more into the buffer, which has room. io.EOF at the end of the source.
func (d *decoder) fill(b *Body) error {
	if d.r > 0 {
		d.w = copy(d.buf[:], d.buf[d.r:d.w])
		d.r = 0
	}
	for range 100 {
		n, err := b.src.Read(d.buf[d.w:])
		d.w += n
		if n > 0 {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}

// rest reads to the end of the body, which is the trailers' end.
func (d *decoder) rest(b *Body) ([]byte, error) {
	for {
		if d.w-d.r > maxTrailer-1 {
			return nil, errTrailer()
		}
		if err := d.fill(b); err == io.EOF {
			return d.buf[d.r:d.w], nil
		} else if err != nil {
			return nil, err
		}
	}
}

// checkChunk verifies the chunk whose payload went through b.hash.
func (d *decoder) checkChunk(b *Body) error {
	b.hash.Sum(d.sum[:0])
	s := d.begin("AWS4-HMAC-SHA256-PAYLOAD")
	s = append(s, emptySHA256...)
	s = append(s, '\n')
	d.sts = appendHex(s, d.sum[:])
	return d.checkLink(d.sig)
}

// begin starts a string to sign, up to and with the signature before.
func (d *decoder) begin(name string) []byte {
	s := append(d.sts[:0], name...)
	s = append(s, '\n')
	s = append(s, d.date...)
	s = append(s, '\n')
	s = append(s, d.scope...)
	s = append(s, '\n')
	s = append(s, d.prev[:]...)
	return append(s, '\n')
}

// checkLink compares the signature of d.sts with want and makes it the one before.
func (d *decoder) checkLink(want [32]byte) error {
	got := d.key.sum(&d.mac, d.sts)
	if subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
		return errSignature("", string(appendHex(nil, want[:])), string(d.sts), "")
	}
	appendHex(d.prev[:0], got[:])
	return nil
}

// parseTrailer reads the trailing headers. Some clients end them with a line feed before the CRLF, as the
// documentation's example does, so lines are taken apart by line feeds and empty ones skipped.
func (d *decoder) parseTrailer(block []byte) error {
	if !bytes.HasSuffix(block, crlf) {
		return errTrailer()
	}
	var canonical []byte
	var sig [32]byte
	signed := false
	for line := range bytes.SplitSeq(block, []byte("\n")) {
		line = bytes.TrimSuffix(line, []byte("\r"))
		if len(line) == 0 {
			continue
		}
		n, v, ok := bytes.Cut(line, []byte(":"))
		if !ok || signed || len(d.trailer) == maxTrailers {
			return errTrailer()
		}
		name, value := strings.ToLower(string(n)), strings.Trim(string(v), " \t")
		if name == trailerSignature {
			if !d.signed || !decodeHex(sig[:], value) {
				return errTrailer()
			}
			signed = true
			continue
		}
		if !slices.Contains(d.declared, name) || !validValue(value) {
			return errTrailer()
		}
		key := textproto.CanonicalMIMEHeaderKey(name)
		if d.trailer == nil {
			d.trailer = make(http.Header, 1)
		}
		if _, twice := d.trailer[key]; twice {
			return errTrailer()
		}
		d.trailer[key] = []string{value}
		canonical = append(canonical, name...)
		canonical = append(canonical, ':')
		canonical = append(canonical, value...)
		canonical = append(canonical, '\n')
	}
	if len(d.trailer) != len(d.declared) || signed != d.signed {
		return errTrailer()
	}
	if !d.signed {
		return nil
	}
	h := getHash()
	defer hashPool.Put(h)
	h.Write(canonical)
	h.Sum(d.sum[:0])
	d.sts = appendHex(d.begin("AWS4-HMAC-SHA256-TRAILER"), d.sum[:])
	return d.checkLink(sig)
}

// validValue reports whether a trailer's value is printable ASCII.
func validValue(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
