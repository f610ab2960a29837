package s3blob

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/blob/httpbody"
)

const (
	// maxPartName is the longest part of a key on a server that keeps objects in files.
	maxPartName = 255

	maxParts  = 10_000
	maxSingle = 5 << 30 // bytes of one request, by AWS's rules
	// askFirst is the size from which Create asks whether the blob is there before it sends it: a server that refuses
	// before it has read the content cuts the connection, and its answer is lost.
	askFirst = 64 << 10
	// partsAtOnce are uploaded side by side where the source can be read at any offset.
	partsAtOnce = 4
	// abortWithin bounds the abort of an upload that failed, whose context may be over.
	abortWithin = 10 * time.Second
)

// Put stores the blob in one request, or in parts where it is large.
func (b *bucket) Put(ctx context.Context, key string, src driver.Source) error {
	ctx, cancel := b.call(ctx)
	defer cancel()
	if err := b.room(ctx, key); err != nil {
		return b.fail(ctx, err)
	}
	if src.Size() > 2*b.part {
		return b.fail(ctx, tooLong(key, b.putParts(ctx, key, src)))
	}
	return b.fail(ctx, tooLong(key, b.putOne(ctx, key, src, minio.PutObjectOptions{})))
}

// Create stores the blob in one request on condition that there is none.
func (b *bucket) Create(ctx context.Context, key string, src driver.Source) error {
	ctx, cancel := b.call(ctx)
	defer cancel()
	if src.Size() > maxSingle {
		return invalid(fmt.Sprintf("a blob of more than %d bytes cannot be created only if it is not there", int64(maxSingle)))
	}
	if err := b.room(ctx, key); err != nil {
		return b.fail(ctx, err)
	}
	honoured, err := b.honoursCreate(ctx)
	if err != nil {
		return b.fail(ctx, err)
	}
	if !honoured {
		return firn.NewError(firn.Unsupported,
			"this S3 server does not honour If-None-Match: it cannot create an object only if it is not there")
	}
	if src.Size() > askFirst {
		if _, err := b.Stat(ctx, key); err == nil {
			return exists(minio.ErrorResponse{Code: "PreconditionFailed"})
		}
	}
	return b.fail(ctx, tooLong(key, exists(b.putOne(ctx, key, src, onlyNew()))))
}

// tooLong says what the matter is where a server that keeps objects in files refuses a key because one of its parts is
// no file's name: the server's own words are of a directory in the way, or of a character.
func tooLong(key string, err error) error {
	if code := answered(err).StatusCode; code < 400 || code >= 500 || code == http.StatusForbidden {
		return err
	}
	for part := range strings.SplitSeq(key, "/") {
		if len(part) > maxPartName {
			return invalid(fmt.Sprintf("this server takes no key with a part of more than %d bytes", maxPartName))
		}
	}
	return err
}

func onlyNew() minio.PutObjectOptions {
	var opt minio.PutObjectOptions
	opt.SetMatchETagExcept("*")
	return opt
}

// exists is the error of a conditional put as Create's contract has it.
func exists(err error) error {
	if answered(err).Code == "PreconditionFailed" {
		return firn.NewError(firn.Exists, "it is there already")
	}
	return err
}

// honoursCreate tries once per driver whether the server refuses a conditional put of an object that is there. Servers
// that know nothing of the condition ignore it, and a lock would have two holders.
func (b *bucket) honoursCreate(ctx context.Context) (bool, error) {
	b.creates.mu.Lock()
	known, honoured := b.creates.mu.known, b.creates.mu.honoured
	b.creates.mu.Unlock()
	if known {
		return honoured, nil
	}
	probe := "firn-probe-" + rand.Text()
	put := func() error { return b.putOne(ctx, probe, blob.Bytes([]byte("probe")), onlyNew()) }
	err := put()
	if err == nil {
		err = put()
		honoured = answered(err).Code == "PreconditionFailed"
		if err == nil || honoured {
			err = b.core.RemoveObject(ctx, b.name, b.key(probe), minio.RemoveObjectOptions{})
		}
	}
	if kind := firn.KindOf(b.fail(ctx, err)); err != nil && kind == firn.Unsupported {
		honoured, err = false, nil
	}
	if err != nil {
		return false, err
	}
	b.creates.mu.Lock()
	defer b.creates.mu.Unlock()
	b.creates.mu.known, b.creates.mu.honoured = true, honoured
	return honoured, nil
}

func (b *bucket) putOne(ctx context.Context, key string, src driver.Source, opt minio.PutObjectOptions) error {
	r, err := blob.OpenExact(ctx, src)
	if err != nil {
		return err
	}
	body := httpbody.New(r, src.Size())
	err = b.send(body, src.Size(), func(sum string) error {
		opt.DisableContentSha256 = sum != ""
		_, err := b.core.PutObject(ctx, b.name, b.key(key), body, src.Size(), "", sum, opt)
		return err
	})
	return errors.Join(err, body.End())
}

// send runs request, which sends body. An empty one is read here, to find that it is: the library sends none.
func (b *bucket) send(body *httpbody.Body, size int64, request func(sum string) error) error {
	sum := ""
	if size == 0 {
		if _, err := io.Copy(io.Discard, body); err != nil {
			return err
		}
		empty := sha256.Sum256(nil)
		sum = hex.EncodeToString(empty[:])
	}
	if err := request(sum); err != nil {
		// What the source failed with says more than what the connection made of it.
		if e := body.Err(); e != nil {
			return e
		}
		return err
	}
	return nil
}

// putParts uploads in parts and puts them together at the end.
func (b *bucket) putParts(ctx context.Context, key string, src driver.Source) (err error) {
	size := src.Size()
	part := partSize(size, b.part)
	if part > maxSingle {
		return tooLarge(size)
	}
	name := b.key(key)
	id, err := b.core.NewMultipartUpload(ctx, b.name, name, minio.PutObjectOptions{})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			b.abort(ctx, name, id)
		}
	}()

	parts := make([]minio.CompletePart, (size+part-1)/part)
	upload := func(ctx context.Context, i int, r io.Reader) error {
		var err error
		parts[i], err = b.putPart(ctx, name, id, i+1, r, min(part, size-int64(i)*part))
		return err
	}
	if err := eachPart(ctx, src, part, len(parts), upload); err != nil {
		return err
	}
	_, err = b.core.CompleteMultipartUpload(ctx, b.name, name, id, parts, minio.PutObjectOptions{})
	return err
}

// putPart uploads one part, which is what r has.
func (b *bucket) putPart(ctx context.Context, name, id string, number int, r io.Reader, length int64) (minio.CompletePart, error) {
	body := httpbody.New(io.NopCloser(r), length)
	part := minio.CompletePart{PartNumber: number}
	err := b.send(body, length, func(string) error {
		p, err := b.core.PutObjectPart(ctx, b.name, name, id, number, body, length, minio.PutObjectPartOptions{})
		part.ETag = p.ETag
		return err
	})
	return part, errors.Join(err, body.End())
}

// eachPart uploads n parts of src: side by side where it can be read at any offset, else one after the other, so that
// no part has to be kept in memory.
func eachPart(ctx context.Context, src driver.Source, part int64, n int,
	upload func(context.Context, int, io.Reader) error,
) (err error) {
	r, err := src.Open()
	if err != nil {
		return err
	}
	at, ok := r.(io.ReaderAt)
	if !ok {
		if err := r.Close(); err != nil {
			return err
		}
		if r, err = blob.OpenExact(ctx, src); err != nil {
			return err
		}
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if !ok {
		for i := range n {
			if err := upload(ctx, i, io.LimitReader(r, part)); err != nil {
				return err
			}
		}
		return nil
	}
	if k, _ := at.ReadAt(make([]byte, 1), src.Size()); k > 0 {
		return invalid("the source has more bytes than it said")
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(partsAtOnce)
	for i := range n {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			offset := int64(i) * part
			length := min(part, src.Size()-offset)
			return upload(ctx, i, &section{r: io.NewSectionReader(at, offset, length), left: length})
		})
	}
	return g.Wait()
}

// section is a part of a source, which fails where the source ends within it.
type section struct {
	r    io.Reader
	left int64
}

func (s *section) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.left -= int64(n)
	if errors.Is(err, io.EOF) && s.left > 0 {
		err = invalid("the source has fewer bytes than it said")
	}
	return n, err
}

func tooLarge(size int64) error { return invalid(fmt.Sprintf("S3 takes no blob of %d bytes", size)) }

// partSize is the least size from least on, in whole MiB, with which size bytes are at most 10,000 parts.
func partSize(size, least int64) int64 {
	need := (size + maxParts - 1) / maxParts
	need = (need + 1<<20 - 1) >> 20 << 20
	return max(least, need)
}
