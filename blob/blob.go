// Package blob is the caller's side of a place that keeps blobs: a Store in front of a driver.
//
// It owns what all drivers share: which keys are valid, the wording of errors (operation, key and place once, the kind
// kept), limits on reads, and what to do where a driver lacks an ability. It promises what package driver promises and
// adds no state, cache or retry: those are wrappers, drivers in front of a driver. It must never import a concrete
// driver or wrapper.
//
// A driver returns errors that name neither the operation nor the key: a kind and a cause, and Store says the rest.
package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"

	"firn"
	"firn/blob/driver"
)

// MaxKey is the length of the longest key in bytes.
const MaxKey = 900

// deleters is how many deletes run at once where the driver takes one key at a time.
const deleters = 8

// Store is one place. Its methods may be called by many goroutines at once.
type Store struct {
	d    driver.Driver
	name string
}

// New returns the store on d. The name is what errors and logs call it: its URL without credentials.
func New(d driver.Driver, name string) *Store { return &Store{d, strings.TrimRight(name, "/")} }

// Name returns the URL without credentials.
func (s *Store) Name() string { return s.name }

// Driver returns the driver, as it was given to New.
func (s *Store) Driver() driver.Driver { return s.d }

// Close releases what the driver holds. Calls after it fail.
func (s *Store) Close() error { return firn.E("close", s.name, s.d.Close()) }

// wrap names the operation and the blob, once.
func (s *Store) wrap(op, key string, err error) error {
	if err == nil {
		return nil
	}
	subject := s.name
	if key != "" {
		subject = key + " in " + s.name
	}
	return firn.E(op, subject, err)
}

// Put stores the content of src under key and replaces what was there, atomically and durably.
func (s *Store) Put(ctx context.Context, key string, src driver.Source) error {
	err := CheckKey(key)
	if err == nil {
		err = s.d.Put(ctx, key, src)
	}
	return s.wrap("put", key, err)
}

// PutBytes is Put of p, which must not change until it returns.
func (s *Store) PutBytes(ctx context.Context, key string, p []byte) error {
	return s.Put(ctx, key, Bytes(p))
}

// Stage takes in the content of src, which may change once it returns; the blob appears, and is durable, by commit, which
// is called once. Where the driver cannot do that, Stage is Put.
func (s *Store) Stage(ctx context.Context, key string, src driver.Source) (commit func(context.Context) error, err error) {
	d, ok := As[driver.Stager](s.d)
	if !ok {
		return func(context.Context) error { return nil }, s.Put(ctx, key, src)
	}
	err = CheckKey(key)
	var inner func(context.Context) error
	if err == nil {
		inner, err = d.Stage(ctx, key, src)
	}
	if err != nil {
		return nil, s.wrap("put", key, err)
	}
	return func(ctx context.Context) error { return s.wrap("put", key, inner(ctx)) }, nil
}

// CanResume reports whether Resume goes on where it was cut off.
func (s *Store) CanResume() bool {
	_, ok := As[driver.Resumer](s.d)
	return ok
}

// Resume is Put of content that is never another for the key. Where the driver can (CanResume), a call after one that was
// cut off goes on after what that one stored; see driver.Resumer.
func (s *Store) Resume(ctx context.Context, key string, src driver.Source) error {
	d, ok := As[driver.Resumer](s.d)
	if !ok {
		return s.Put(ctx, key, src)
	}
	err := CheckKey(key)
	if err == nil {
		err = d.Resume(ctx, key, src)
	}
	return s.wrap("put", key, err)
}

// Abandon removes what calls of Resume that were cut off stored. The blob of the key stays as it is.
func (s *Store) Abandon(ctx context.Context, key string) error {
	err := CheckKey(key)
	if d, ok := As[driver.Resumer](s.d); ok && err == nil {
		err = d.Abandon(ctx, key)
	}
	return s.wrap("abandon a put", key, err)
}

// Create is Put for a key that must not be there: otherwise it fails with firn.Exists. It fails with firn.Unsupported
// where the driver cannot do that atomically. After firn.Unavailable the blob may have been created.
func (s *Store) Create(ctx context.Context, key string, src driver.Source) error {
	err := CheckKey(key)
	if err == nil {
		if c, ok := As[driver.Creator](s.d); ok {
			err = c.Create(ctx, key, src)
		} else {
			err = firn.NewError(firn.Unsupported, "this kind of place cannot create a blob only if it is not there")
		}
	}
	return s.wrap("create", key, err)
}

// Get reads length bytes from offset; length -1 means to the end. A range that reaches beyond the end is cut at it. The
// caller closes the reader.
func (s *Store) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	err := CheckKey(key)
	if err == nil && (offset < 0 || length < -1) {
		err = firn.NewError(firn.Invalid, fmt.Sprintf("no range: %d bytes from %d", length, offset))
	}
	if err != nil {
		return nil, s.wrap("get", key, err)
	}
	r, err := s.d.Get(ctx, key, offset, length)
	if err != nil {
		return nil, s.wrap("get", key, err)
	}
	return &reader{r, s, key}, nil
}

// reader names the blob in errors that come while reading.
type reader struct {
	io.ReadCloser
	s   *Store
	key string
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = r.s.wrap("get", r.key, err)
	}
	return n, err
}

func (r *reader) Close() error { return r.s.wrap("get", r.key, r.ReadCloser.Close()) }

// ReadAll returns the whole blob. It fails with firn.Invalid where that is more than limit bytes.
func (s *Store) ReadAll(ctx context.Context, key string, limit int64) (p []byte, err error) {
	r, err := s.Get(ctx, key, 0, limit+1)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if p, err = io.ReadAll(r); err != nil {
		return nil, err
	}
	if int64(len(p)) > limit {
		return nil, s.wrap("get", key, firn.NewError(firn.Invalid, fmt.Sprintf("it is larger than %d bytes", limit)))
	}
	return p, nil
}

// ReadAt fills p from offset on. Where the blob ends first it returns the bytes there are and io.EOF.
func (s *Store) ReadAt(ctx context.Context, key string, p []byte, offset int64) (n int, err error) {
	r, err := s.Get(ctx, key, offset, int64(len(p)))
	if err != nil {
		return 0, err
	}
	n, err = io.ReadFull(r, p)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	if e := r.Close(); e != nil && (err == nil || err == io.EOF) {
		err = e
	}
	return n, err
}

// Stat describes the blob.
func (s *Store) Stat(ctx context.Context, key string) (driver.Info, error) {
	err := CheckKey(key)
	if err != nil {
		return driver.Info{}, s.wrap("stat", key, err)
	}
	info, err := s.d.Stat(ctx, key)
	return info, s.wrap("stat", key, err)
}

// Exists reports whether the blob is there.
func (s *Store) Exists(ctx context.Context, key string) (bool, error) {
	_, err := s.Stat(ctx, key)
	if firn.KindOf(err) == firn.NotFound {
		return false, nil
	}
	return err == nil, err
}

// Delete removes blobs. A key that is not there is no error. After an error some may be gone.
func (s *Store) Delete(ctx context.Context, keys ...string) error {
	for _, key := range keys {
		if err := CheckKey(key); err != nil {
			return s.wrap("delete", key, err)
		}
	}
	if len(keys) > 1 {
		if b, ok := As[driver.BulkDeleter](s.d); ok {
			return s.wrap("delete", fmt.Sprintf("%d blobs", len(keys)), b.DeleteAll(ctx, keys))
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(deleters)
	for _, key := range keys {
		g.Go(func() error { return s.wrap("delete", key, s.d.Delete(ctx, key)) })
	}
	return g.Wait()
}

// Apply makes several changes as one where the driver can (driver.Batcher). Elsewhere it puts in the order given and
// then deletes: after an error some changes may have been made, but no delete before every put. A key may come once.
func (s *Store) Apply(ctx context.Context, changes []driver.Change) error {
	seen := make(map[string]bool, len(changes))
	var deletes []string
	for _, c := range changes {
		err := CheckKey(c.Key)
		if err == nil && seen[c.Key] {
			err = firn.NewError(firn.Invalid, "one batch changes it twice")
		}
		if err != nil {
			return s.wrap("change", c.Key, err)
		}
		seen[c.Key] = true
		if c.Put == nil {
			deletes = append(deletes, c.Key)
		}
	}
	if b, ok := As[driver.Batcher](s.d); ok {
		return s.wrap("change", fmt.Sprintf("%d blobs", len(changes)), b.Apply(ctx, changes))
	}
	for _, c := range changes {
		if c.Put == nil {
			continue
		}
		if err := s.Put(ctx, c.Key, c.Put); err != nil {
			return err
		}
	}
	return s.Delete(ctx, deletes...)
}

// errStop ends a listing that its caller no longer wants.
var errStop = errors.New("the caller stopped the listing")

// List yields the blobs whose key begins with prefix, in ascending byte order. An error is yielded last. What the
// backend holds under names that are no valid keys is left out. The loop's body may use the store.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[driver.Info, error] {
	return func(yield func(driver.Info, error) bool) {
		last, stopped := "", false
		err := s.d.List(ctx, prefix, func(info driver.Info) error {
			if CheckKey(info.Key) != nil {
				return nil
			}
			// Callers merge listings; a driver that breaks its promise must not make them delete or keep the wrong thing.
			if info.Key <= last || !strings.HasPrefix(info.Key, prefix) {
				return firn.NewError(firn.Internal, fmt.Sprintf("the backend listed %q after %q", info.Key, last))
			}
			last = info.Key
			if !yield(info, nil) {
				stopped = true
				return errStop
			}
			return nil
		})
		// The driver may have come to another error since: that of a context that ended, which is why the caller stopped.
		if err != nil && !stopped {
			yield(driver.Info{}, s.wrap("list", prefix, err))
		}
	}
}

// Space says what the backend holds and can take, in bytes; -1 where that is not known.
func (s *Store) Space(ctx context.Context) (driver.Space, error) {
	m, ok := As[driver.Measurer](s.d)
	if !ok {
		return driver.Space{Total: -1, Free: -1}, nil
	}
	space, err := m.Space(ctx)
	return space, s.wrap("measure", "", err)
}

// As finds an optional ability of d: its own, or that of a driver behind transparent wrappers.
func As[T any](d driver.Driver) (T, bool) {
	for {
		if t, ok := d.(T); ok {
			return t, true
		}
		w, ok := d.(driver.Wrapper)
		if !ok {
			break
		}
		inner, transparent := w.Inner()
		if !transparent {
			break
		}
		d = inner
	}
	var none T
	return none, false
}

// CheckKey fails with firn.Invalid for what is no key: see driver.Driver.
func CheckKey(key string) error {
	problem := ""
	switch {
	case key == "":
		problem = "the key is empty"
	case len(key) > MaxKey:
		problem = fmt.Sprintf("the key has %d bytes; %d are the most", len(key), MaxKey)
	case !utf8.ValidString(key):
		problem = "the key is not UTF-8"
	case strings.ContainsFunc(key, control):
		problem = "the key has control characters"
	default:
		for part := range strings.SplitSeq(key, "/") {
			if part == "" || part == "." || part == ".." {
				problem = fmt.Sprintf("a part of the key is %q", part)
			}
		}
	}
	if problem == "" {
		return nil
	}
	return firn.NewError(firn.Invalid, problem)
}

func control(r rune) bool { return r < 0x20 || r >= 0x7f && r < 0xa0 }
