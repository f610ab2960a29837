// Package encrypt is a wrapper that keeps only ciphertext in the place behind it: contents, not names.
//
// It promises that no byte is handed out that was not authenticated, that a blob under another blob's key, a changed, a
// cut or a reordered one fails with firn.Corrupt, and that a range is decrypted alone. It must never import a concrete
// driver. The format is described in docs/format/blob-encrypt.md.
package encrypt

import (
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/minio/sio"

	"firn"
	"firn/blob/driver"
	"firn/blob/wrap"
)

// Secret opens a place: a password, or the 32 bytes of a key file.
type Secret struct {
	Password []byte
	Key      []byte
}

// Cost is what deriving a key from a password takes: Argon2id's passes, and its memory in KiB. By default 3 passes over
// 64 MiB (RFC 9106, section 4, second recommendation, on one thread).
type Cost struct{ Time, Memory uint32 }

// Options are the settings.
type Options struct {
	Secret Secret
	// Init makes an empty place an encrypted one.
	Init bool
	// Cost is for a place that is made now.
	Cost Cost
}

func (o *Options) check() error {
	switch {
	case o.Secret.Key != nil && o.Secret.Password != nil:
		return firn.NewError(firn.Invalid, "both a password and a key file are given: give one")
	case o.Secret.Key != nil && len(o.Secret.Key) != keyLen:
		return firn.NewError(firn.Invalid, fmt.Sprintf("the key file has %d bytes: it must have %d", len(o.Secret.Key), keyLen))
	case o.Secret.Key == nil && len(o.Secret.Password) == 0:
		return firn.NewError(firn.Invalid, "the password is empty")
	}
	if o.Cost.Time == 0 {
		o.Cost.Time = 3
	}
	if o.Cost.Memory == 0 {
		o.Cost.Memory = 64 << 10
	}
	if o.Cost.Time > maxTime || o.Cost.Memory < 8 || o.Cost.Memory > maxMemory {
		return firn.NewError(firn.Invalid, "the cost of the password is out of bounds")
	}
	return nil
}

// The plain stream of a blob is one byte for the version and the content. It is cut into packages of 64 KiB, each with
// 32 bytes more when sealed (DARE 2.0). The version's byte makes an empty blob one package: nothing is no blob.
const (
	lead       = 1
	plainPack  = 64 << 10
	sealedPack = plainPack + 32
	// maxSize is the most that a place keeps in one blob: DARE counts packages with 32 bits.
	maxSize = 1<<48 - lead
)

var errCorrupt = firn.NewError(firn.Corrupt,
	"the content is not what was encrypted under this key: changed, cut, or another blob's; restore it from another copy")

type encrypted struct {
	inner driver.Driver
	can   wrap.Abilities
	key   []byte
}

// Open returns inner with its contents encrypted. It fails with firn.Denied for a wrong secret.
func Open(ctx context.Context, inner driver.Driver, opt Options) (driver.Driver, error) {
	if err := opt.check(); err != nil {
		return nil, err
	}
	key, err := load(ctx, inner, opt)
	if err != nil {
		return nil, err
	}
	e := &encrypted{inner: inner, can: wrap.Of(inner), key: key}
	return wrap.Narrow(e, e.can), nil
}

// config is that of one blob. Its key is made of its name, so that it opens under no other.
func (e *encrypted) config(key string) (sio.Config, error) {
	k, err := hkdf.Key(sha256.New, e.key, nil, "firn-encrypt blob "+key, keyLen)
	return sio.Config{MinVersion: sio.Version20, CipherSuites: []byte{sio.AES_256_GCM}, Key: k}, err
}

// hidden fails for the one key that is the wrapper's own.
func hidden(key string) error {
	if key == HeaderKey {
		return firn.NewError(firn.Invalid, "this key is the encryption's own")
	}
	return nil
}

// plainSize is the size of the content of a stored blob of n bytes.
func plainSize(n int64) (int64, error) {
	p, err := sio.DecryptedSize(uint64(n))
	if err != nil || n < 0 || p < lead {
		return 0, errCorrupt
	}
	return int64(p) - lead, nil
}

// source returns src encrypted under key. The nonce is made once, so that a backend that reads the source again gets
// the same bytes.
func (e *encrypted) source(ctx context.Context, key string, src driver.Source) (*wrap.Source, error) {
	if err := hidden(key); err != nil {
		return nil, err
	}
	if src.Size() < 0 || src.Size() > maxSize {
		return nil, firn.NewError(firn.Invalid, fmt.Sprintf("a blob of %d bytes cannot be encrypted", src.Size()))
	}
	config, err := e.config(key)
	if err != nil {
		return nil, err
	}
	var nonce [12]byte
	_, _ = rand.Read(nonce[:]) // never fails
	config.Nonce = &nonce
	size, err := sio.EncryptedSize(uint64(src.Size()) + lead)
	if err != nil {
		return nil, err
	}
	return wrap.NewSource(ctx, src, int64(size), func(r io.Reader) (io.Reader, error) {
		return sio.EncryptReader(io.MultiReader(bytes.NewReader([]byte{version}), r), config)
	}), nil
}

func (e *encrypted) Put(ctx context.Context, key string, src driver.Source) error {
	s, err := e.source(ctx, key, src)
	if err != nil {
		return err
	}
	return s.Err(e.inner.Put(ctx, key, s))
}

func (e *encrypted) Create(ctx context.Context, key string, src driver.Source) error {
	s, err := e.source(ctx, key, src)
	if err != nil {
		return err
	}
	return s.Err(e.can.Creator.Create(ctx, key, s))
}

func (e *encrypted) Apply(ctx context.Context, changes []driver.Change) error {
	return wrap.Apply(ctx, e.can.Batcher, changes, func(key string, src driver.Source) (*wrap.Source, error) {
		if src == nil {
			return nil, hidden(key)
		}
		return e.source(ctx, key, src)
	})
}

func (e *encrypted) Delete(ctx context.Context, key string) error {
	if err := hidden(key); err != nil {
		return err
	}
	return e.inner.Delete(ctx, key)
}

func (e *encrypted) DeleteAll(ctx context.Context, keys []string) error {
	for _, key := range keys {
		if err := hidden(key); err != nil {
			return err
		}
	}
	return e.can.Bulk.DeleteAll(ctx, keys)
}

func (e *encrypted) Stat(ctx context.Context, key string) (driver.Info, error) {
	if hidden(key) != nil {
		return driver.Info{}, firn.NewError(firn.NotFound, "not found")
	}
	info, err := e.inner.Stat(ctx, key)
	if err != nil {
		return info, err
	}
	info.Size, err = plainSize(info.Size)
	return info, err
}

// List shows a blob whose size no encrypted blob can have with size 0: Stat and Get say that it is damaged, and the
// others stay in reach.
func (e *encrypted) List(ctx context.Context, prefix string, fn func(driver.Info) error) error {
	return e.inner.List(ctx, prefix, func(info driver.Info) error {
		if info.Key == HeaderKey {
			return nil
		}
		info.Size, _ = plainSize(info.Size)
		return fn(info)
	})
}

func (e *encrypted) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if hidden(key) != nil {
		return nil, firn.NewError(firn.NotFound, "not found")
	}
	if offset > maxSize || length == 0 {
		if _, err := e.Stat(ctx, key); err != nil {
			return nil, err
		}
		return io.NopCloser(bytes.NewReader(nil)), nil
	}
	config, err := e.config(key)
	if err != nil {
		return nil, err
	}
	start := offset + lead
	first := start / plainPack
	sealed := int64(-1)
	if length > 0 && length <= maxSize-offset {
		sealed = ((start+length-1)/plainPack - first + 1) * sealedPack
	} else {
		length = -1
	}
	rc, err := e.inner.Get(ctx, key, first*sealedPack, sealed)
	if err != nil {
		return nil, err
	}
	config.SequenceNumber = uint32(first)
	r := &reader{e: e, ctx: ctx, key: key, inner: &source{ReadCloser: rc}, skip: start - first*plainPack, left: length, first: first}
	if r.plain, err = sio.DecryptReader(r.inner, config); err != nil {
		rc.Close()
		return nil, err
	}
	return r, nil
}

// source remembers the backend's own error, which the decryption would take for a cut blob, and whether anything came.
type source struct {
	io.ReadCloser
	some bool
	err  error
}

func (s *source) Read(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.ReadCloser.Read(p)
	s.some = s.some || n > 0
	s.err = err
	return n, err
}

type reader struct {
	e     *encrypted
	ctx   context.Context
	key   string
	inner *source
	plain io.Reader
	first int64 // package
	skip  int64 // bytes of the first package before the range
	left  int64 // of the range; -1 is to the end
	err   error
}

func (r *reader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err := r.read(p)
	r.err = err
	return n, err
}

func (r *reader) read(p []byte) (int, error) {
	if r.skip > 0 {
		head := make([]byte, r.skip)
		n, err := io.ReadFull(r.plain, head)
		if n > 0 && r.first == 0 && head[0] != version {
			return 0, firn.NewError(firn.Unsupported, fmt.Sprintf("the blob has version %d, this release knows %d", head[0], version))
		}
		if err != nil {
			return 0, r.end(err)
		}
		r.skip = 0
	}
	if r.left == 0 {
		return 0, io.EOF
	}
	if r.left > 0 {
		p = p[:min(int64(len(p)), r.left)]
	}
	n, err := r.plain.Read(p)
	if r.left > 0 {
		r.left -= int64(n)
	}
	if err != nil {
		err = r.end(err)
	}
	return n, err
}

// end says why there is no more.
func (r *reader) end(err error) error {
	if e := r.inner.err; e != nil && e != io.EOF {
		return e
	}
	if !r.inner.some {
		// The range lies beyond the end, or the end was cut off.
		return r.atEnd()
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return io.EOF // the skipped part was all there is
	}
	if err == io.EOF {
		return err
	}
	return errCorrupt
}

// atEnd returns io.EOF if the last package there is says that it is the last.
func (r *reader) atEnd() error {
	info, err := r.e.inner.Stat(r.ctx, r.key)
	if err != nil {
		return err
	}
	size, err := plainSize(info.Size)
	if err != nil {
		return err
	}
	if size == 0 {
		size = 1
	}
	rc, err := r.e.Get(r.ctx, r.key, size-1, -1)
	if err != nil {
		return err
	}
	defer rc.Close()
	if rc.(*reader).first >= r.first {
		return errCorrupt // it grew meanwhile: another blob
	}
	if _, err := io.Copy(io.Discard, rc); err != nil {
		return err
	}
	return io.EOF
}

func (r *reader) Close() error { return r.inner.Close() }

func (e *encrypted) Space(ctx context.Context) (driver.Space, error) {
	return e.can.Measurer.Space(ctx)
}

func (e *encrypted) Close() error { return e.inner.Close() }

// Inner is not transparent: contents behind it are others.
func (e *encrypted) Inner() (driver.Driver, bool) { return e.inner, false }
