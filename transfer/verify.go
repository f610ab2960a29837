package transfer

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/minio/crc64nvme"
	"github.com/minio/minio-go/v7"

	"firn"
)

// errDiffers is content that is not what the server's checksum or ETag stands for.
var errDiffers = firn.NewError(firn.Corrupt, "the content does not match its checksum")

// remoteObject is what is known of an object to be read. The sums are those the server sent.
type remoteObject struct {
	Location
	VersionID string
	Size      int64
	ETag      string // without quotes
	header    http.Header
	info      minio.ObjectInfo
}

// head asks for an object's metadata, with its checksum where it has one.
func (c *Client) head(ctx context.Context, l Location, version string) (remoteObject, error) {
	var o remoteObject
	err := c.do(ctx, "stat", l.String(), func(ctx context.Context, _ *pulse) error {
		info, err := c.core.StatObject(ctx, l.Bucket, l.Key, minio.StatObjectOptions{VersionID: version, Checksum: true})
		if err != nil {
			return err
		}
		o = newRemoteObject(l, version, info)
		return nil
	})
	return o, err
}

func newRemoteObject(l Location, version string, info minio.ObjectInfo) remoteObject {
	return remoteObject{
		Location: l, VersionID: version, Size: info.Size, ETag: strings.Trim(info.ETag, `"`),
		header: info.Headers, info: info,
	}
}

// encrypted reports whether the ETag is not an MD5 because of encryption with keys.
func (o *remoteObject) encrypted() bool {
	return o.header.Get("x-amz-server-side-encryption-customer-algorithm") != "" ||
		strings.HasPrefix(o.header.Get("x-amz-server-side-encryption"), "aws:kms")
}

// partsOf splits an ETag of the form MD5-N. n is 0 where it is a plain MD5, -1 where it is neither.
func partsOf(etag string) (sum []byte, n int) {
	head, count, multi := strings.Cut(etag, "-")
	sum, err := hex.DecodeString(head)
	if err != nil || len(sum) != md5.Size {
		return nil, -1
	}
	if !multi {
		return sum, 0
	}
	n, err = strconv.Atoi(count)
	if err != nil || n < 1 || n > maxParts {
		return nil, -1
	}
	return sum, n
}

// verifier compares a whole object's bytes, written to it in order, with what the server says of them.
type verifier struct {
	method string // "sha256", "md5", "etag" (MD5 of parts), ... or "size"
	want   []byte
	h      hash.Hash
	size   int64 // expected
	n      int64 // seen
}

// newVerifier chooses the best sum that the server sent: a full-object checksum, the MD5 in the ETag, or the
// MD5 of the parts' MD5s, for which it asks for the parts' sizes. Where there is none only the size is
// checked.
func (c *Client) newVerifier(ctx context.Context, o *remoteObject) (*verifier, error) {
	v := &verifier{method: "size", size: o.Size}
	full := !strings.EqualFold(o.header.Get("x-amz-checksum-type"), "COMPOSITE")
	for _, k := range []struct {
		name string
		h    func() hash.Hash
	}{
		{"sha256", sha256.New},
		{"crc64nvme", func() hash.Hash { return crc64nvme.New() }},
		{"sha1", sha1.New},
		{"crc32c", func() hash.Hash { return crc32.New(crc32.MakeTable(crc32.Castagnoli)) }},
		{"crc32", func() hash.Hash { return crc32.NewIEEE() }},
	} {
		h := k.h()
		want, err := base64.StdEncoding.DecodeString(o.header.Get("x-amz-checksum-" + k.name))
		if full && err == nil && len(want) == h.Size() {
			v.method, v.want, v.h = k.name, want, h
			return v, nil
		}
	}
	sum, parts := partsOf(o.ETag)
	switch {
	case o.encrypted() || parts < 0:
	case parts == 0:
		v.method, v.want, v.h = "md5", sum, md5.New()
	default:
		sizes, err := c.partSizes(ctx, o, parts)
		if err != nil {
			return nil, err
		}
		if sizes != nil {
			v.method, v.want, v.h = "etag", sum, newPartsHash(sizes)
		}
	}
	return v, nil
}

func (v *verifier) Write(p []byte) (int, error) {
	v.n += int64(len(p))
	if v.h != nil {
		return v.h.Write(p)
	}
	return len(p), nil
}

// check is called after the last byte. It returns how the content was verified.
func (v *verifier) check() (string, error) {
	if v.n != v.size {
		return "", fmt.Errorf("%w: %d bytes instead of %d", errDiffers, v.n, v.size)
	}
	if v.h != nil && !bytes.Equal(v.h.Sum(nil), v.want) {
		return "", fmt.Errorf("%w: %s is %x instead of %x", errDiffers, v.method, v.h.Sum(nil), v.want)
	}
	return v.method, nil
}

// partSizes returns the sizes of a multipart object's parts, nil where the server does not tell. It asks for
// the first part only and takes the others as equally large where that adds up; S3 clients upload so.
func (c *Client) partSizes(ctx context.Context, o *remoteObject, parts int) ([]int64, error) {
	if parts == 1 {
		return []int64{o.Size}, nil
	}
	first, err := c.partSize(ctx, o, 1)
	if err != nil || first <= 0 {
		return nil, err
	}
	sizes := make([]int64, parts)
	if int64(parts) == (o.Size+first-1)/first {
		for i := range sizes {
			sizes[i] = min(first, o.Size-int64(i)*first)
		}
		if second, err := c.partSize(ctx, o, 2); err != nil || second == sizes[1] {
			return sizes, err
		}
	}
	var total int64
	for i := range sizes {
		if sizes[i], err = c.partSize(ctx, o, i+1); err != nil || sizes[i] <= 0 {
			return nil, err
		}
		total += sizes[i]
	}
	if total != o.Size {
		return nil, nil
	}
	return sizes, nil
}

// partSize returns the size of one part, 0 where the server does not say.
func (c *Client) partSize(ctx context.Context, o *remoteObject, n int) (size int64, err error) {
	err = c.do(ctx, "stat part of", o.String(), func(ctx context.Context, _ *pulse) error {
		so := minio.StatObjectOptions{VersionID: o.VersionID, PartNumber: n}
		if err := so.SetMatchETag(o.ETag); err != nil {
			return err
		}
		info, err := c.core.StatObject(ctx, o.Bucket, o.Key, so)
		if err != nil {
			return err
		}
		size = info.Size
		if info.Headers.Get("x-amz-mp-parts-count") == "" && size == o.Size {
			size = 0 // the server does not know the parameter and told of the whole object
		}
		return nil
	})
	if k := firn.KindOf(err); err != nil && (k == firn.Invalid || k == firn.Unsupported) {
		return 0, nil
	}
	return size, err
}

// partsHash is the MD5 of the MD5s of parts of given sizes.
type partsHash struct {
	sizes []int64
	left  int64 // of the current part
	cur   hash.Hash
	outer hash.Hash
}

func newPartsHash(sizes []int64) *partsHash {
	p := &partsHash{sizes: sizes, cur: md5.New(), outer: md5.New()}
	p.next()
	return p
}

func (p *partsHash) next() {
	if len(p.sizes) > 0 {
		p.left, p.sizes = p.sizes[0], p.sizes[1:]
	}
}

func (p *partsHash) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		if p.left == 0 { // more bytes than parts: the size check tells
			return n, nil
		}
		k := min(int64(len(b)), p.left)
		p.cur.Write(b[:k])
		b, p.left = b[k:], p.left-k
		if p.left == 0 {
			p.outer.Write(p.cur.Sum(nil))
			p.cur.Reset()
			p.next()
		}
	}
	return n, nil
}

func (p *partsHash) Sum(b []byte) []byte { return p.outer.Sum(b) }
func (p *partsHash) Reset()              {}
func (p *partsHash) Size() int           { return md5.Size }
func (p *partsHash) BlockSize() int      { return md5.BlockSize }

// compositeETag is the ETag of a multipart object from its parts' MD5s.
func compositeETag(parts [][md5.Size]byte) string {
	h := md5.New()
	for _, p := range parts {
		h.Write(p[:])
	}
	return hex.EncodeToString(h.Sum(nil)) + "-" + strconv.Itoa(len(parts))
}

// sums are the digests that an upload sends and compares.
type sums struct {
	md5    [md5.Size]byte
	sha256 string // hex; "" where the transport is encrypted and protects the body itself
}

// sumOf reads r once and returns its digests.
func (c *Client) sumOf(ctx context.Context, r io.Reader) (s sums, n int64, err error) {
	m := md5.New()
	w := io.Writer(m)
	sh := sha256.New()
	if !c.secure {
		w = io.MultiWriter(m, sh)
	}
	n, err = io.Copy(w, &ctxReader{ctx, r})
	if err != nil {
		return s, n, err
	}
	m.Sum(s.md5[:0])
	if !c.secure {
		s.sha256 = hex.EncodeToString(sh.Sum(nil))
	}
	return s, n, nil
}

func (s sums) base64() string { return base64.StdEncoding.EncodeToString(s.md5[:]) }
func (s sums) etag() string   { return hex.EncodeToString(s.md5[:]) }

// ctxReader fails when its context ends, so that hashing a large file can be stopped.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}

// sameContent reports whether the bytes of r are the object's.
func (c *Client) sameContent(ctx context.Context, r io.Reader, o *remoteObject) (bool, error) {
	v, err := c.newVerifier(ctx, o)
	if err != nil {
		return false, err
	}
	if v.h == nil {
		return false, nil // nothing to compare with: not known to be the same
	}
	if _, err := io.Copy(v, &ctxReader{ctx, r}); err != nil {
		return false, err
	}
	_, err = v.check()
	return err == nil, nil
}
