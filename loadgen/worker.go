package loadgen

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"html"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"time"

	hdr "github.com/HdrHistogram/hdrhistogram-go"
)

// errMismatch is a GET whose bytes are not those that were put.
var errMismatch = errors.New("content differs from what was put")

// streamChunk is the size of an aws-chunked chunk, as the AWS SDKs choose it.
const streamChunk = 64 << 10

// worker is one closed loop with its own connection, signer and results. Only its
// connection's interrupt may be called from another goroutine.
type worker struct {
	r    *run
	id   int
	rnd  *rand.Rand
	sign *signer
	host string

	c                     *conn
	key, path, query, buf []byte
	listAfter             string
	made, removed         int64

	hist       *hdr.Histogram
	ops        int64
	bytes      int64
	keys       int64
	mismatches int64
	errs       map[string]int64
}

func (r *run) newWorker(id int) *worker {
	w := &worker{
		r: r, id: id, rnd: newRand(id), sign: newSigner(r.t), host: r.url.Host,
		hist: hdr.New(1, maxLatency.Microseconds(), 3), errs: map[string]int64{},
	}
	w.c = newConn(r.url, r.t.Insecure, r.o.Timeout)
	return w
}

func (w *worker) close() { w.c.close() }

// request is what differs between operations. query is canonical: sorted, escaped, "name=" without value.
type request struct {
	method string
	key    []byte // escaped already or of unreserved bytes; nil for the bucket
	query  []byte
	body   *body
	plain  []byte // a small document as body, always signed
	sink   func(p []byte) error
}

func (w *worker) do(ctx context.Context, q request) (response, error) {
	if err := w.c.begin(ctx); err != nil {
		return response{}, err
	}
	now := time.Now()
	date := w.sign.date(now)

	p := append(w.path[:0], '/')
	p = append(p, w.r.o.Bucket...)
	if q.key != nil {
		p = append(p, '/')
		p = append(p, q.key...)
	}
	w.path = p

	sum, length := emptySHA256, int64(0)
	var extra []header
	var crc [8]byte
	switch {
	case q.plain != nil:
		b := body{size: int64(len(q.plain)), chunk: q.plain}
		sum, _ = b.hash()
		length = b.size
	case q.body != nil:
		length = q.body.size
		switch w.r.o.Signing {
		case SignPayload:
			sum = q.body.sum
		case SignUnsigned:
			sum = "UNSIGNED-PAYLOAD"
		case SignStream:
			sum = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
			extra = []header{{"x-amz-decoded-content-length", strconv.FormatInt(q.body.size, 10)}}
			length = chunkedSize(q.body.size, len(";chunk-signature=")+64, 0)
		case SignTrailer:
			sum = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
			extra = []header{
				{"x-amz-decoded-content-length", strconv.FormatInt(q.body.size, 10)},
				{"x-amz-trailer", "x-amz-checksum-crc32"},
			}
			var raw [4]byte
			binary.BigEndian.PutUint32(raw[:], q.body.crc)
			base64.StdEncoding.Encode(crc[:], raw[:])
			length = chunkedSize(q.body.size, 0, len("x-amz-checksum-crc32:")+8+2)
		}
	}

	chunked := len(extra) > 0
	if w.r.o.Encrypt && q.body != nil && len(q.query) == 0 {
		// Signed headers are in the order of their names: before x-amz-trailer, behind x-amz-decoded-content-length.
		extra = slices.Insert(extra, min(1, len(extra)), header{"x-amz-server-side-encryption", "AES256"})
	}

	h := append(w.buf[:0], q.method...)
	h = append(h, ' ')
	h = append(h, p...)
	if len(q.query) > 0 {
		h = append(h, '?')
		h = append(h, q.query...)
	}
	h = append(h, " HTTP/1.1\r\nHost: "...)
	h = append(h, w.host...)
	h = append(h, "\r\nX-Amz-Content-Sha256: "...)
	h = append(h, sum...)
	h = append(h, "\r\nX-Amz-Date: "...)
	h = append(h, date...)
	for _, e := range extra {
		h = append(h, "\r\n"...)
		h = append(h, e.name...)
		h = append(h, ": "...)
		h = append(h, e.value...)
	}
	if chunked {
		h = append(h, "\r\nContent-Encoding: aws-chunked"...)
	}
	if q.plain != nil {
		m := md5.Sum(q.plain)
		h = append(h, "\r\nContent-MD5: "...)
		h = base64.StdEncoding.AppendEncode(h, m[:])
	}
	h = append(h, "\r\nAuthorization: "...)
	h, sig := w.sign.authorization(h, q.method, p, q.query, w.host, sum, extra)
	if q.method == http.MethodPut || q.method == http.MethodPost {
		h = append(h, "\r\nContent-Length: "...)
		h = strconv.AppendInt(h, length, 10)
	}
	h = append(h, "\r\n\r\n"...)

	var write bodyWriter
	switch {
	case q.plain != nil:
		h = append(h, q.plain...)
	case q.body != nil && chunked:
		write = func(dst io.Writer) error { return w.writeChunked(dst, q.body, sig, crc[:]) }
	case q.body != nil && q.body.size <= streamChunk: // one system call for all
		_ = q.body.each(func(p []byte) error { h = append(h, p...); return nil })
	case q.body != nil:
		write = func(dst io.Writer) error {
			return q.body.each(func(p []byte) error { _, err := dst.Write(p); return err })
		}
	}
	w.buf = h
	return w.c.roundTrip(h, write, q.method == http.MethodHead, q.sink)
}

// chunkedSize is the length of n bytes in aws-chunked coding with ext bytes of extension on each chunk line.
func chunkedSize(n int64, ext, trailer int) int64 {
	line := func(size int64) int64 { return int64(len(strconv.FormatInt(size, 16)) + ext + 4) }
	total := n/streamChunk*(line(streamChunk)+streamChunk) + int64(trailer)
	if rest := n % streamChunk; rest > 0 {
		total += line(rest) + rest
	}
	if ext > 0 || trailer == 0 {
		return total + line(0)
	}
	return total + int64(len("0\r\n")) + int64(len("\r\n"))
}

// writeChunked sends b in aws-chunked coding: signed chunks after seed, or unsigned with a CRC32 trailer.
func (w *worker) writeChunked(dst io.Writer, b *body, seed [64]byte, crc []byte) error {
	signed := w.r.o.Signing == SignStream
	buf := make([]byte, 0, streamChunk+256)
	prev := seed
	piece := make([]byte, 0, streamChunk)
	flush := func() error {
		buf = strconv.AppendInt(buf[:0], int64(len(piece)), 16)
		if signed {
			prev = w.sign.chunk(prev, piece)
			buf = append(buf, ";chunk-signature="...)
			buf = append(buf, prev[:]...)
		}
		buf = append(buf, "\r\n"...)
		buf = append(buf, piece...)
		switch {
		case len(piece) > 0 || signed:
			buf = append(buf, "\r\n"...)
		default:
			buf = append(buf, "x-amz-checksum-crc32:"...)
			buf = append(buf, crc...)
			buf = append(buf, "\r\n\r\n"...)
		}
		piece = piece[:0]
		_, err := dst.Write(buf)
		return err
	}
	err := b.each(func(p []byte) error {
		for len(p) > 0 {
			n := min(len(p), streamChunk-len(piece))
			piece = append(piece, p[:n]...)
			p = p[n:]
			if len(piece) == streamChunk {
				if err := flush(); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(piece) > 0 {
		if err := flush(); err != nil {
			return err
		}
	}
	return flush()
}

func (w *worker) hashed() bool {
	return w.r.o.Signing == SignPayload || w.r.o.Signing == SignTrailer
}

func (w *worker) put(ctx context.Context, key []byte) error {
	b := w.r.bodies.of(key, w.hashed())
	_, err := w.do(ctx, request{method: http.MethodPut, key: key, body: &b})
	if err == nil {
		w.bytes += b.size
	}
	return err
}

func (w *worker) get(ctx context.Context, key []byte) error {
	b := w.r.bodies.of(key, false)
	at := int64(0)
	same := true
	verify := w.r.o.Verify
	_, err := w.do(ctx, request{method: http.MethodGet, key: key, sink: func(p []byte) error {
		if verify && same {
			same = b.equal(at, p)
		}
		at += int64(len(p))
		return nil
	}})
	if err != nil {
		return err
	}
	w.bytes += at
	if at != b.size || !same {
		w.mismatches++
		return fmt.Errorf("%w: %s", errMismatch, key)
	}
	return nil
}

func (w *worker) head(ctx context.Context, key []byte) error {
	r, err := w.do(ctx, request{method: http.MethodHead, key: key})
	if err == nil && r.length != w.r.bodies.size {
		w.mismatches++
		return fmt.Errorf("%w: %s", errMismatch, key)
	}
	return err
}

func (w *worker) delete(ctx context.Context, key []byte) error {
	_, err := w.do(ctx, request{method: http.MethodDelete, key: key})
	return err
}

// deleteKeys deletes up to 1000 keys in one request.
func (w *worker) deleteKeys(ctx context.Context, keys []string) error {
	doc := []byte(`<Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Quiet>true</Quiet>`)
	for _, k := range keys {
		doc = append(doc, "<Object><Key>"...)
		doc = append(doc, html.EscapeString(k)...)
		doc = append(doc, "</Key></Object>"...)
	}
	doc = append(doc, "</Delete>"...)
	answer, err := w.document(ctx, request{method: http.MethodPost, query: []byte("delete="), plain: doc})
	if err == nil && bytes.Contains(answer, []byte("<Error>")) {
		return newStatusError(http.StatusOK, answer)
	}
	return err
}

// document does q and returns the body of the answer, which is bounded.
func (w *worker) document(ctx context.Context, q request) ([]byte, error) {
	var doc []byte
	q.sink = func(p []byte) error {
		if len(doc)+len(p) > maxResponse {
			return errMalformed
		}
		doc = append(doc, p...)
		return nil
	}
	_, err := w.do(ctx, q)
	return doc, err
}

// listQuery appends the canonical query of one page.
func (w *worker) listQuery(token, after string, page int) []byte {
	q := w.query[:0]
	if token != "" {
		q = append(q, "continuation-token="...)
		q = appendEscaped(q, token)
		q = append(q, '&')
	}
	q = append(q, "list-type=2&max-keys="...)
	q = strconv.AppendInt(q, int64(page), 10)
	q = append(q, "&prefix="...)
	q = appendEscaped(q, w.r.o.Prefix)
	if after != "" {
		q = append(q, "&start-after="...)
		q = appendEscaped(q, after)
	}
	w.query = q
	return q
}

// listPage reads one page: the one after the last page this worker read, or one at a random place.
func (w *worker) listPage(ctx context.Context) error {
	token, after := w.listAfter, ""
	if w.r.o.ListRandom {
		token, after = "", string(w.randomKey())
	}
	doc, err := w.document(ctx, request{method: http.MethodGet, query: w.listQuery(token, after, w.r.o.Page)})
	if err != nil {
		w.listAfter = ""
		return err
	}
	n := int64(bytes.Count(doc, []byte("<Key>")))
	w.keys += n
	w.bytes += int64(len(doc))
	w.listAfter = html.UnescapeString(element(doc, "NextContinuationToken"))
	if element(doc, "IsTruncated") == "true" && (w.listAfter == "" || n == 0) {
		w.listAfter = ""
		return errMalformed
	}
	// Some servers say that more follows where nothing does: an empty page after others is their end.
	if n == 0 && token == "" && after == "" {
		w.mismatches++
		return fmt.Errorf("%w: empty page", errMismatch)
	}
	return nil
}

// listKeys returns a page of the run's keys after a key.
func (w *worker) listKeys(ctx context.Context, after string) ([]string, error) {
	doc, err := w.document(ctx, request{method: http.MethodGet, query: w.listQuery("", after, 1000)})
	if err != nil {
		return nil, err
	}
	var keys []string
	for {
		_, rest, ok := bytes.Cut(doc, []byte("<Key>"))
		if !ok {
			return keys, nil
		}
		k, rest, ok := bytes.Cut(rest, []byte("</Key>"))
		if !ok {
			return nil, errMalformed
		}
		keys = append(keys, html.UnescapeString(string(k)))
		doc = rest
	}
}

// multipart uploads one object of Options.Size in parts.
func (w *worker) multipart(ctx context.Context, key []byte) (err error) {
	o := &w.r.o
	doc, err := w.document(ctx, request{method: http.MethodPost, key: key, query: []byte("uploads=")})
	if err != nil {
		return err
	}
	id := html.UnescapeString(element(doc, "UploadId"))
	if id == "" {
		return errMalformed
	}
	defer func() {
		if err != nil && ctx.Err() == nil {
			_, aerr := w.do(ctx, request{method: http.MethodDelete, key: key, query: appendEscaped([]byte("uploadId="), id)})
			err = errors.Join(err, aerr)
		}
	}()
	full := w.r.bodies.of(key, w.hashed())
	list := []byte("<CompleteMultipartUpload>")
	for n, at := 1, int64(0); at < o.Size || n == 1; n++ {
		b := full
		if rest := o.Size - at; rest < b.size {
			b = full.prefix(rest)
		}
		q := strconv.AppendInt([]byte("partNumber="), int64(n), 10)
		q = append(q, "&uploadId="...)
		q = appendEscaped(q, id)
		r, err := w.do(ctx, request{method: http.MethodPut, key: key, query: q, body: &b})
		if err != nil {
			return err
		}
		list = append(list, "<Part><PartNumber>"...)
		list = strconv.AppendInt(list, int64(n), 10)
		list = append(list, "</PartNumber><ETag>"...)
		list = append(list, html.EscapeString(string(r.etag))...)
		list = append(list, "</ETag></Part>"...)
		at += b.size
	}
	list = append(list, "</CompleteMultipartUpload>"...)
	doc, err = w.document(ctx, request{
		method: http.MethodPost, key: key, query: appendEscaped([]byte("uploadId="), id), plain: list,
	})
	if err != nil {
		return err
	}
	if bytes.Contains(doc, []byte("<Error>")) { // S3 may fail after it has said 200
		return newStatusError(http.StatusOK, doc)
	}
	w.bytes += o.Size
	return nil
}

// makeBucket makes the bucket and reports whether it was not there.
func (w *worker) makeBucket(ctx context.Context) (made bool, err error) {
	err = w.retry(ctx, func() error {
		_, err := w.do(ctx, request{method: http.MethodHead})
		var se *statusError
		if !errors.As(err, &se) || se.status != http.StatusNotFound {
			return err
		}
		_, err = w.do(ctx, request{method: http.MethodPut})
		made = err == nil
		return err
	})
	return made, wrapEndpoint(w.r.t.Endpoint, err)
}

func (w *worker) removeBucket(ctx context.Context) error {
	return w.retry(ctx, func() error {
		_, err := w.do(ctx, request{method: http.MethodDelete})
		return err
	})
}

func wrapEndpoint(endpoint string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("bench %s: %w", endpoint, err)
}

// abortUploads removes the multipart uploads that a run cut short left under its prefix.
func (w *worker) abortUploads(ctx context.Context) error {
	for {
		doc, err := w.document(ctx, request{
			method: http.MethodGet, query: append(appendEscaped([]byte("prefix="), w.r.o.Prefix), "&uploads="...),
		})
		if err != nil {
			return err
		}
		found := false
		for {
			_, rest, ok := bytes.Cut(doc, []byte("<Upload>"))
			if !ok {
				break
			}
			doc = rest
			key, id := html.UnescapeString(element(rest, "Key")), html.UnescapeString(element(rest, "UploadId"))
			_, err := w.do(ctx, request{
				method: http.MethodDelete, key: []byte(key), query: appendEscaped([]byte("uploadId="), id),
			})
			var se *statusError
			if err != nil && (!errors.As(err, &se) || se.status != http.StatusNotFound) {
				return err
			}
			found = true
		}
		if !found {
			return nil
		}
	}
}
