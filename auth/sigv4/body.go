package sigv4

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

const (
	streamSigned          = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
	streamSignedTrailer   = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
	streamUnsignedTrailer = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
	unsignedPayload       = "UNSIGNED-PAYLOAD"
)

// setPayload reads the value of x-amz-content-sha256.
func (r *Result) setPayload(value string) error {
	switch value {
	case unsignedPayload:
		r.Payload = PayloadUnsigned
	case streamSigned:
		r.Payload = PayloadChunked
	case streamSignedTrailer:
		r.Payload = PayloadChunkedTrailer
	case streamUnsignedTrailer:
		r.Payload = PayloadUnsignedTrailer
	default:
		if strings.HasPrefix(value, "STREAMING-AWS4-ECDSA-P256-SHA256-") {
			return errMechanism()
		}
		if !decodeHex(r.SHA256[:], value) {
			return errContentSHA256(value)
		}
		r.Payload = PayloadSigned
	}
	return nil
}

// headerPayload reads the payload mode of a request signed in its header and returns what the canonical
// request has for the payload.
func (r *Result) headerPayload(h http.Header) (string, error) {
	x := h["X-Amz-Content-Sha256"]
	if len(x) == 0 || x[0] == "" {
		return "", invalidRequest("Missing required header for this request: x-amz-content-sha256")
	}
	return x[0], r.setPayload(x[0])
}

// queryPayload does the same for a presigned request, whose payload is unsigned unless it says otherwise.
func (r *Result) queryPayload(h http.Header, q presigned) (string, error) {
	hash := unsignedPayload
	if q.sha256 != "" {
		hash = q.sha256
	}
	if x := h["X-Amz-Content-Sha256"]; len(x) > 0 && x[0] != "" {
		for name := range strings.SplitSeq(q.signedHeaders, ";") {
			if name == "x-amz-content-sha256" {
				hash = x[0]
			}
		}
		if q.sha256 != "" && q.sha256 != x[0] {
			return "", errContentSHA256(x[0])
		}
		if err := r.setPayload(x[0]); err != nil {
			return "", err
		}
	} else if err := r.setPayload(hash); err != nil {
		return "", err
	}
	if r.Payload == PayloadChunked || r.Payload == PayloadChunkedTrailer {
		if hash != streamSigned && hash != streamSignedTrailer {
			return "", errContentSHA256(hash)
		}
	}
	return hash, nil
}

// anonymousPayload reads the payload mode of a request without credentials: a hash is still checked and
// aws-chunked still decoded, but nothing can carry a signature.
func (r *Result) anonymousPayload(req *http.Request) error {
	if x := req.Header["X-Amz-Content-Sha256"]; len(x) > 0 && x[0] != "" {
		if err := r.setPayload(x[0]); err != nil {
			return err
		}
		if r.Payload == PayloadChunked || r.Payload == PayloadChunkedTrailer {
			return errContentSHA256(x[0])
		}
		return nil
	}
	if len(req.Header["X-Amz-Decoded-Content-Length"]) > 0 && isAWSChunked(req.Header) {
		r.Payload = PayloadUnsignedTrailer
	}
	return nil
}

func isAWSChunked(h http.Header) bool {
	for _, v := range h["Content-Encoding"] {
		for e := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(e), "aws-chunked") {
				return true
			}
		}
	}
	return false
}

// Body is a request's payload, decoded and checked as it is read. It is used by one goroutine.
//
// What the client signed or declared is checked before the last byte is handed out, so that a reader who
// stops after Length bytes is as safe as one who reads to io.EOF; only what has been read earlier may yet
// turn out wrong. Errors for the client are *Error.
type Body struct {
	src    io.ReadCloser
	length int64 // decoded bytes, -1 where unknown
	left   int64 // decoded bytes still to come; counts down from -1 where unknown
	err    error // sticky; io.EOF after a good end
	hash   hash.Hash
	want   *[32]byte // declared SHA-256 of a signed payload
	chunks *decoder  // nil for a plain body
}

// Body wraps the body of the request that r was verified for. A body without content is checked at once.
// Close must be called; it closes the request's body too.
func (r *Result) Body(req *http.Request) (*Body, error) {
	src := req.Body
	if src == nil {
		src = http.NoBody
	}
	b := &Body{src: src, length: req.ContentLength}
	if !r.Payload.Streaming() {
		b.left = b.length
		if r.Payload == PayloadSigned {
			b.hash, b.want = getHash(), &r.SHA256
		}
	} else {
		n, err := decodedLength(req.Header)
		if err != nil {
			return nil, err
		}
		b.length, b.left = n, n
		b.chunks = newDecoder(r, req.Header)
		if r.Payload != PayloadUnsignedTrailer {
			b.hash = getHash()
		}
	}
	if b.length == 0 {
		if b.finish(); b.err != io.EOF {
			err := b.err
			b.release()
			return nil, err
		}
	}
	return b, nil
}

func decodedLength(h http.Header) (int64, error) {
	x := h["X-Amz-Decoded-Content-Length"]
	if len(x) == 0 {
		return 0, errNoLength()
	}
	n, err := strconv.ParseInt(x[0], 10, 64)
	if err != nil || n < 0 || len(x) > 1 {
		return 0, invalidArgument("The x-amz-decoded-content-length header is invalid.", "x-amz-decoded-content-length", x[0])
	}
	return n, nil
}

// Length returns the payload's size in bytes, -1 where the client did not say.
func (b *Body) Length() int64 { return b.length }

// Trailer returns the trailing headers, by canonical name, after the last byte was read. It is nil where
// there are none.
func (b *Body) Trailer() http.Header {
	if b.chunks == nil || b.err != io.EOF {
		return nil
	}
	return b.chunks.trailer
}

// Read reads the payload.
func (b *Body) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	if b.length >= 0 && int64(len(p)) > b.left {
		p = p[:b.left]
	}
	var n int
	var err error
	if b.chunks != nil {
		n, err = b.chunks.read(b, p)
	} else {
		n, err = b.src.Read(p)
		if b.hash != nil {
			b.hash.Write(p[:n])
		}
	}
	b.left -= int64(n)
	switch {
	case b.length >= 0 && b.left == 0:
		// net/http reports the end with the last bytes or after them; either way all of them are here.
		if err == nil || err == io.EOF {
			b.finish()
		} else {
			b.fail(err)
		}
	case err == io.EOF && b.length < 0:
		b.finish()
	case err != nil:
		b.fail(err)
	}
	if b.err != nil && b.err != io.EOF {
		return 0, b.err
	}
	return n, b.err
}

// finish checks what can only be checked at the end and sets b.err, io.EOF where all is well.
func (b *Body) finish() {
	if b.chunks != nil {
		if err := b.chunks.finish(b); err != nil {
			b.fail(err)
			return
		}
	} else if b.hash != nil {
		var sum [32]byte
		if b.hash.Sum(sum[:0]); sum != *b.want {
			b.err = errPayloadMismatch(hex.EncodeToString(b.want[:]), hex.EncodeToString(sum[:]))
			b.release()
			return
		}
	}
	b.err = io.EOF
	b.release()
}

func (b *Body) fail(err error) {
	if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errShort()
	}
	b.err = err
	b.release()
}

// release gives buffers back. It may be called again.
func (b *Body) release() {
	if b.hash != nil {
		hashPool.Put(b.hash)
		b.hash = nil
	}
	if b.chunks != nil {
		b.chunks.release()
	}
}

// errClosed is what Read returns after Close.
var errClosed = errors.New("request body is closed")

// Close closes the request's body.
func (b *Body) Close() error {
	if b.err == nil {
		b.err = errClosed
	}
	b.release()
	return b.src.Close()
}

var hashPool = sync.Pool{New: func() any { return sha256.New() }}

func getHash() hash.Hash {
	h := hashPool.Get().(hash.Hash)
	h.Reset()
	return h
}
