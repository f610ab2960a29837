package tier

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/blob/memblob"
)

// unruly is a place in memory that does what places do on bad days, and remembers what was under each key before.
type unruly struct {
	driver.Driver
	name string
	r    *rand.Rand
	past map[string][][]byte // by key; content that was replaced or removed
	bad  float64             // how many of its calls go wrong
	away bool
	// spoiled are the keys that have something else than was put there. They are never read as they were before: a place
	// that keeps wrong bytes, and gives the right ones of an earlier copy, cannot be told from a good one.
	spoiled map[string]bool
	kept    map[string][]byte    // of puts that can be resumed
	wentOn  int                  // puts that were resumed
	wrong   int                  // calls that went wrong
	before  func(op, key string) // is called before each, if not nil
}

func newUnruly(name string, r *rand.Rand) *unruly {
	return &unruly{Driver: memblob.New(memblob.Options{}), name: name, r: r, past: map[string][][]byte{}, spoiled: map[string]bool{}, kept: map[string][]byte{}}
}

var errNoRoute = firn.NewError(firn.Unavailable, "no route to host")

// trouble reports whether a call goes wrong, and whether it happens all the same.
func (u *unruly) trouble(op, key string) (err error, applied bool) {
	if u.before != nil {
		u.before(op, key)
	}
	switch {
	case u.away:
		u.wrong++
		return errNoRoute, false
	case u.r.Float64() < u.bad:
		u.wrong++
		return errNoRoute, u.r.IntN(2) == 0
	}
	return nil, true
}

func (u *unruly) content(key string) []byte {
	r, err := u.Driver.Get(context.Background(), key, 0, -1)
	if err != nil {
		return nil
	}
	defer r.Close()
	p, err := io.ReadAll(r)
	if err != nil {
		return nil
	}
	return append(make([]byte, 0, len(p)+1), p...) // never nil
}

func (u *unruly) remember(key string) {
	if p := u.content(key); p != nil {
		u.past[key] = append(u.past[key], p)
	}
}

func (u *unruly) Put(ctx context.Context, key string, src driver.Source) error {
	err, applied := u.trouble("put", key)
	if !applied {
		return err
	}
	u.remember(key)
	delete(u.spoiled, key)
	if u.r.Float64() < u.bad && src.Size() > 0 && !trusted(key, true) { // it says that it has it, and has something else
		u.wrong++
		r, e := src.Open()
		if e != nil {
			return e
		}
		p, e := io.ReadAll(r)
		if e = errors.Join(e, r.Close()); e != nil {
			return e
		}
		u.spoiled[key] = true
		p[u.r.IntN(len(p))] ^= 16
		src = blob.Bytes(p[:len(p)-u.r.IntN(2)])
	}
	if e := u.Driver.Put(ctx, key, src); e != nil {
		return e
	}
	return err
}

// keptPiece is how many bytes are kept of a put at once.
const keptPiece = 4 << 10

// Resume keeps pieces, each of which may go wrong or be kept wrong.
func (u *unruly) Resume(ctx context.Context, key string, src driver.Source) error {
	if info, err := u.Stat(ctx, key); err == nil && info.Size == src.Size() {
		return nil
	} else if err != nil && firn.KindOf(err) != firn.NotFound {
		return err
	}
	if len(u.kept[key]) > 0 {
		u.wentOn++
	}
	r, err := blob.OpenExactAt(ctx, src, int64(len(u.kept[key])))
	if err != nil {
		return err
	}
	defer r.Close() // it was only read
	for err == nil {
		p := make([]byte, keptPiece)
		var n int
		if n, err = io.ReadFull(r, p); err != nil && err != io.EOF && !errors.Is(err, io.ErrUnexpectedEOF) {
			return err
		}
		if n == 0 {
			break
		}
		fault, applied := u.trouble("part", key)
		if applied {
			if u.r.Float64() < u.bad/10 {
				u.wrong++
				p[u.r.IntN(n)] ^= 16
			}
			u.kept[key] = append(slices.Clip(u.kept[key]), p[:n]...)
		}
		if fault != nil {
			return fault
		}
	}
	fault, applied := u.trouble("complete", key)
	if !applied {
		return fault
	}
	whole, err := blob.OpenExact(ctx, src)
	if err != nil {
		return err
	}
	defer whole.Close() // as above
	right, err := io.ReadAll(whole)
	if err != nil {
		return err
	}
	u.remember(key)
	u.spoiled[key] = !bytes.Equal(right, u.kept[key])
	if err := u.Driver.Put(ctx, key, blob.Bytes(u.kept[key])); err != nil {
		return err
	}
	delete(u.kept, key)
	return fault
}

func (u *unruly) Abandon(_ context.Context, key string) error {
	err, applied := u.trouble("abandon", key)
	if applied {
		delete(u.kept, key)
	}
	return err
}

func (u *unruly) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if err, _ := u.trouble("get", key); err != nil {
		return nil, err
	}
	r, err := u.Driver.Get(ctx, key, offset, length)
	if err != nil || u.r.Float64() >= u.bad || trusted(key, false) {
		return r, err
	}
	p, err := io.ReadAll(r)
	r.Close()
	if err != nil || len(p) == 0 {
		return io.NopCloser(bytes.NewReader(p)), err
	}
	u.wrong++
	switch u.r.IntN(4) {
	case 0:
		p[u.r.IntN(len(p))] ^= 1
	case 1:
		p = p[:u.r.IntN(len(p))] // it ends early, and says so to nobody
	case 2: // what was there before
		old := u.past[key]
		if len(old) == 0 || u.spoiled[key] || strings.Contains(key, "catalogue/") {
			return nil, firn.NewError(firn.NotFound, "no such blob")
		}
		p = old[u.r.IntN(len(old))]
		p = p[min(offset, int64(len(p))):]
		if length >= 0 {
			p = p[:min(length, int64(len(p)))]
		}
	default:
		return io.NopCloser(io.MultiReader(bytes.NewReader(p[:u.r.IntN(len(p))]), broken{})), nil
	}
	return io.NopCloser(bytes.NewReader(p)), nil
}

// trusted reports whether a blob of the layout repository is one that it cannot do without: of a key that is read wrong nobody
// can tell that from a wrong password, and an index file that is kept wrong, and not read back since the site was killed, is
// for firn repo repair. A mark that is kept wrong may be of another site.
func trusted(key string, put bool) bool {
	key, ok := strings.CutPrefix(key, "repo/")
	return put && key == "firn-tier.json" || strings.Contains(key, ".firn-encrypt") || ok && (key == "config" || strings.HasPrefix(key, "keys/") || put && !strings.HasPrefix(key, "packs/"))
}

type broken struct{}

func (broken) Read([]byte) (int, error) {
	return 0, firn.NewError(firn.Unavailable, "the connection was reset")
}

func (u *unruly) Stat(ctx context.Context, key string) (driver.Info, error) {
	if err, _ := u.trouble("stat", key); err != nil {
		return driver.Info{}, err
	}
	return u.Driver.Stat(ctx, key)
}

func (u *unruly) Delete(ctx context.Context, key string) error {
	return u.DeleteAll(ctx, []string{key})
}

func (u *unruly) DeleteAll(ctx context.Context, keys []string) error {
	for _, key := range keys {
		err, applied := u.trouble("delete", key)
		if applied {
			u.remember(key)
			if err := u.Driver.Delete(ctx, key); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (u *unruly) List(ctx context.Context, prefix string, fn func(driver.Info) error) error {
	if err, _ := u.trouble("list", prefix); err != nil {
		return err
	}
	return u.Driver.List(ctx, prefix, fn)
}

func (u *unruly) clone(t *testing.T) *unruly {
	c := *u
	c.Driver, c.past, c.spoiled, c.before = cloneOf(t, u.Driver), maps.Clone(u.past), maps.Clone(u.spoiled), nil
	c.kept = maps.Clone(u.kept)
	return &c
}
