// Package keys gives out the data keys that content is sealed with, and wraps and opens them with named keys that it,
// or a key service elsewhere, keeps.
//
// It owns the keyring file (docs/format/keyring.md) and the clients of HashiCorp Vault and OpenBao (transit engine)
// and of MinIO KES. It promises that a wrapped data key opens only with the name and the context it was wrapped with;
// that a service that is away is firn.Unavailable, with what to do; that a key that was disabled or destroyed is said
// to be; that what it keeps in memory is bounded and forgotten after a stated time; and that no secret is in an error.
// It must never know objects, buckets or protocols of doors.
package keys

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"firn"
	"firn/seal"
)

// Errors about named keys.
var (
	ErrNoKey     = firn.NewError(firn.NotFound, "the key does not exist in the key service")
	ErrDisabled  = firn.NewError(firn.Denied, "the key is disabled: enable it to use what it protects")
	ErrDestroyed = firn.NewError(firn.NotFound, "the key was destroyed: what it protected cannot be read any more")
	ErrKeyExists = firn.NewError(firn.Exists, "the key exists already")
	ErrName      = firn.NewError(firn.Invalid,
		"the name of a key must have 1 to 80 letters, digits, dots, underscores or hyphens and begin with a letter or digit")
	// ErrNotOpened: damaged, or wrapped with another key, name or context.
	ErrNotOpened = firn.NewError(firn.Corrupt, "the data key does not open: it was changed, or belongs to something else")
)

// DataKey is a new data key.
type DataKey struct {
	Plain   seal.Key
	Wrapped []byte
}

// Service keeps named keys and never lets them out. Its methods may be called concurrently, and their context bytes
// are authenticated, not stored. Errors are of this package, or firn.Unavailable where the service cannot be reached.
type Service interface {
	// Kind is one letter that tells wrapped keys of this service from others'. It is stored.
	Kind() byte
	// String names the service for people, without secrets.
	String() string
	// Wrap wraps plain with the newest version of a key.
	Wrap(ctx context.Context, name string, plain seal.Key, context []byte) ([]byte, error)
	// Unwrap opens what Wrap returned.
	Unwrap(ctx context.Context, name string, wrapped, context []byte) (seal.Key, error)
	// Newest reports whether wrapped is under the newest version of its key.
	Newest(ctx context.Context, name string, wrapped []byte) (bool, error)

	// List returns all keys, ordered by name.
	List(ctx context.Context) ([]Info, error)
	// Create makes a key. ErrKeyExists.
	Create(ctx context.Context, name string) error
	// Rotate gives a key a new version, which is used from now on; older ones open what they wrapped.
	Rotate(ctx context.Context, name string) error
	// Enable and Disable say whether a key may be used. firn.Unsupported where the service cannot.
	Enable(ctx context.Context, name string) error
	Disable(ctx context.Context, name string) error
	// Destroy removes a key for good: nothing that it protected can be read any more.
	Destroy(ctx context.Context, name string) error
}

// State says whether a key can be used.
type State string

// The states of a key.
const (
	Enabled   State = "enabled"
	Disabled  State = "disabled"
	Destroyed State = "destroyed"
)

// Info describes a named key.
type Info struct {
	Name    string    `json:"name"`
	State   State     `json:"state"`
	Version int       `json:"version"` // the newest; 0 where the service does not tell
	Created time.Time `json:"created,omitzero"`
	Rotated time.Time `json:"rotated,omitzero"` // when the newest version was made
}

// Options are the settings of Keys. Zero values mean the defaults named here.
type Options struct {
	// Default is the key used where none is named, made at its first use. Default "default".
	Default string
	// CacheSize is the number of opened data keys kept. Default 4096.
	CacheSize int
	// CacheFor is how long an opened data key is kept. Default 5 minutes. So long may a key that was disabled or
	// destroyed elsewhere still open what was read lately; Forget ends it.
	CacheFor time.Duration
	// ReuseFor is how long a new data key is given out again for the same name and context, at most reuses times.
	// Default 1 minute.
	ReuseFor time.Duration
	// Now is the clock. Default time.Now.
	Now func() time.Time
}

// reuses bounds how often a data key is given out.
const reuses = 10_000

// Keys gives out data keys. All methods may be called concurrently.
type Keys struct {
	o    Options
	main Service
	all  map[byte]Service
	mu   struct {
		sync.Mutex
		opened *simplelru.LRU[cacheKey, opened]
		fresh  *simplelru.LRU[cacheKey, fresh]
	}
}

type cacheKey [32]byte

type opened struct {
	key   seal.Key
	until time.Time
}

type fresh struct {
	key   DataKey
	until time.Time
	left  int
}

// New returns Keys that wraps with main, and opens what main or one of others wrapped.
func New(main Service, o Options, others ...Service) (*Keys, error) {
	if o.Default == "" {
		o.Default = "default"
	}
	if err := CheckName(o.Default); err != nil {
		return nil, err
	}
	if o.CacheSize <= 0 {
		o.CacheSize = 4096
	}
	if o.CacheFor <= 0 {
		o.CacheFor = 5 * time.Minute
	}
	if o.ReuseFor <= 0 {
		o.ReuseFor = time.Minute
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	k := &Keys{o: o, main: main, all: map[byte]Service{main.Kind(): main}}
	for _, s := range others {
		if k.all[s.Kind()] == nil {
			k.all[s.Kind()] = s
		}
	}
	var err error
	if k.mu.opened, err = simplelru.NewLRU[cacheKey, opened](o.CacheSize, nil); err == nil {
		k.mu.fresh, err = simplelru.NewLRU[cacheKey, fresh](o.CacheSize, nil)
	}
	return k, err
}

// Service returns the service that new data keys are wrapped by.
func (k *Keys) Service() Service { return k.main }

// Default returns the name of the key used where none is named.
func (k *Keys) Default() string { return k.o.Default }

// CheckName refuses a name that no service would take. ErrName.
func CheckName(name string) error {
	if name == "" || len(name) > 80 {
		return ErrName
	}
	for i, c := range []byte(name) {
		alnum := c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !alnum && (i == 0 || c != '-' && c != '_' && c != '.') {
			return ErrName
		}
	}
	return nil
}

// keyName turns what a client calls a key into its name: ARNs and aliases end in it.
func (k *Keys) keyName(id string) (string, error) {
	if id == "" {
		return k.o.Default, nil
	}
	if strings.HasPrefix(id, "arn:") {
		id = id[strings.LastIndexByte(id, ':')+1:]
		id = strings.TrimPrefix(id, "key/")
	}
	id = strings.TrimPrefix(id, "alias/")
	if CheckName(id) != nil {
		return "", ErrNoKey // a name that cannot be, is not there
	}
	return id, nil
}

// hash names something in a cache. The parts are secret enough not to be kept as they are.
func hash(parts ...[]byte) cacheKey {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:", len(p))
		h.Write(p)
	}
	return cacheKey(h.Sum(nil))
}

// Generate returns a data key for the named key, "" being the default one, which opens again with Unwrap, the name and
// the same context. A data key is given out several times: who needs keys that differ derives them.
func (k *Keys) Generate(ctx context.Context, id string, context []byte) (DataKey, error) {
	name, err := k.keyName(id)
	if err != nil {
		return DataKey{}, firn.E("new data key", id, err)
	}
	at := hash([]byte(name), context)
	if d, ok := k.reuse(at); ok {
		return d, nil
	}
	d := DataKey{Plain: seal.NewKey()}
	w, err := k.main.Wrap(ctx, name, d.Plain, context)
	if errors.Is(err, ErrNoKey) && name == k.o.Default {
		if err = k.main.Create(ctx, name); err == nil || errors.Is(err, ErrKeyExists) {
			w, err = k.main.Wrap(ctx, name, d.Plain, context)
		}
	}
	if err != nil {
		return DataKey{}, firn.E("new data key", name, err)
	}
	d.Wrapped = append([]byte{k.main.Kind()}, w...)
	k.mu.Lock()
	k.mu.fresh.Add(at, fresh{key: d, until: k.o.Now().Add(k.o.ReuseFor), left: reuses})
	k.mu.Unlock()
	return d, nil
}

func (k *Keys) reuse(at cacheKey) (DataKey, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	f, ok := k.mu.fresh.Get(at)
	if !ok {
		return DataKey{}, false
	}
	if f.left == 0 || !k.o.Now().Before(f.until) {
		k.mu.fresh.Remove(at)
		return DataKey{}, false
	}
	f.left--
	k.mu.fresh.Add(at, f)
	return f.key, true
}

// Unwrap opens a data key that Generate made.
func (k *Keys) Unwrap(ctx context.Context, id string, wrapped, context []byte) (seal.Key, error) {
	name, s, err := k.find(id, wrapped)
	if err != nil {
		return seal.Key{}, firn.E("open data key", id, err)
	}
	at := hash([]byte(name), wrapped, context)
	k.mu.Lock()
	o, ok := k.mu.opened.Get(at)
	if ok && !k.o.Now().Before(o.until) {
		k.mu.opened.Remove(at)
		ok = false
	}
	k.mu.Unlock()
	if ok {
		return o.key, nil
	}
	key, err := s.Unwrap(ctx, name, wrapped[1:], context)
	if err != nil {
		return key, firn.E("open data key", name, err)
	}
	k.mu.Lock()
	k.mu.opened.Add(at, opened{key: key, until: k.o.Now().Add(k.o.CacheFor)})
	k.mu.Unlock()
	return key, nil
}

// find returns the service that wrapped a data key.
func (k *Keys) find(id string, wrapped []byte) (string, Service, error) {
	name, err := k.keyName(id)
	if err != nil {
		return "", nil, err
	}
	if len(wrapped) < 2 {
		return "", nil, ErrNotOpened
	}
	s := k.all[wrapped[0]]
	if s == nil {
		return "", nil, firn.NewError(firn.Unavailable, fmt.Sprintf(
			"the data key was wrapped by a key service of kind %q, which is not configured: configure it beside the one in use",
			wrapped[0]))
	}
	return name, s, nil
}

// Rewrap returns a data key wrapped with the newest version of its key by the service in use, nil where it is already.
func (k *Keys) Rewrap(ctx context.Context, id string, wrapped, context []byte) ([]byte, error) {
	name, s, err := k.find(id, wrapped)
	if err != nil {
		return nil, firn.E("rewrap data key", id, err)
	}
	if s == k.main {
		newest, err := s.Newest(ctx, name, wrapped[1:])
		if err != nil || newest {
			return nil, firn.E("rewrap data key", name, err)
		}
	}
	plain, err := s.Unwrap(ctx, name, wrapped[1:], context)
	if err != nil {
		return nil, firn.E("rewrap data key", name, err)
	}
	w, err := k.main.Wrap(ctx, name, plain, context)
	if err != nil {
		return nil, firn.E("rewrap data key", name, err)
	}
	return append([]byte{k.main.Kind()}, w...), nil
}

// Forget drops what is kept of data keys, so that a change of a key counts at once here.
func (k *Keys) Forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mu.opened.Purge()
	k.mu.fresh.Purge()
}
