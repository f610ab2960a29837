package keys

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"firn"
	"firn/seal"
)

const (
	keyringFormat  = "firn keyring"
	keyringVersion = 1
	keyringContext = "firn keyring 1"
	// wrapVersion is the first byte of a data key wrapped by a keyring.
	wrapVersion = 1
	// maxKeyring bounds the file, in bytes, maxKeys the keys and maxVersions the versions of each.
	maxKeyring  = 16 << 20
	maxKeys     = 10_000
	maxVersions = 1_000
)

// Secret returns what seals a keyring: a passphrase, the content of a key file, or what a command prints; and what it
// is to cost to guess it.
type Secret func(ctx context.Context) ([]byte, seal.Cost, error)

// Keyring is the key service that keeps its keys in one sealed file.
type Keyring struct {
	path string
	now  func() time.Time
	head keyringFile
	key  seal.Key // seals the content

	change sync.Mutex // held by the one change under way
	mu     struct {
		sync.RWMutex
		keys map[string]*ringKey
	}
}

// keyringFile is the file as stored: the sealing key wrapped by the secret, and the keys in a box under that.
type keyringFile struct {
	Format  string    `json:"format"`
	Version int       `json:"version"`
	Salt    []byte    `json:"salt"`
	Cost    seal.Cost `json:"cost"`
	Key     []byte    `json:"key"`
	Content []byte    `json:"content"`
}

type keyringContent struct {
	Keys []*ringKey `json:"keys"`
}

// ringKey is a named key. It is not changed once it can be seen.
type ringKey struct {
	Name     string        `json:"name"`
	State    State         `json:"state"`
	Created  time.Time     `json:"created"`
	Versions []ringVersion `json:"versions,omitempty"` // ascending; none once destroyed
}

type ringVersion struct {
	Number  uint32    `json:"number"`
	Created time.Time `json:"created"`
	Key     seal.Key  `json:"key"`
}

// OpenKeyring opens the keyring at path with its secret, and makes it where there is none. firn.Denied for another
// secret than it was sealed with.
func OpenKeyring(ctx context.Context, path string, secret Secret) (*Keyring, error) {
	k, err := openKeyring(ctx, path, secret)
	if err != nil {
		return nil, firn.E("open keyring", path, err)
	}
	return k, nil
}

func openKeyring(ctx context.Context, path string, secret Secret) (*Keyring, error) {
	k := &Keyring{path: path, now: time.Now}
	k.mu.keys = map[string]*ringKey{}
	raw, err := readBounded(path, maxKeyring)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return nil, err
	}
	password, cost, err := secret(ctx)
	if err != nil {
		return nil, err
	}
	if missing {
		return k, k.create(password, cost)
	}
	if k.head, err = parseKeyring(raw); err != nil {
		return nil, err
	}
	key, err := seal.Unwrap(password, k.head.Key, [seal.SaltSize]byte(k.head.Salt), k.head.Cost, keyringContext)
	if firn.KindOf(err) == firn.Denied || err == nil && len(key) != len(k.key) {
		return nil, firn.NewError(firn.Denied,
			"it does not open with the passphrase, key file or command that is set: give the one it was sealed with")
	}
	if err != nil {
		return nil, err
	}
	k.key = seal.Key(key)
	plain, err := k.key.Unbox(keyringContext, k.head.Content)
	if err != nil {
		return nil, firn.NewError(firn.Corrupt, "its content is damaged: restore the file from a copy")
	}
	return k, k.load(plain)
}

// parseKeyring reads the outside of a keyring file.
func parseKeyring(raw []byte) (keyringFile, error) {
	var f keyringFile
	if err := json.Unmarshal(raw, &f); err != nil || f.Format != keyringFormat {
		return f, firn.NewError(firn.Corrupt, "not a keyring, or damaged: restore the file from a copy")
	}
	if f.Version != keyringVersion {
		return f, firn.NewError(firn.Unsupported, fmt.Sprintf("version %d was written by a later release", f.Version))
	}
	if len(f.Salt) != seal.SaltSize {
		return f, firn.NewError(firn.Corrupt, "not a keyring, or damaged: restore the file from a copy")
	}
	return f, f.Cost.Check()
}

func (k *Keyring) load(plain []byte) error {
	var c keyringContent
	if err := json.Unmarshal(plain, &c); err != nil {
		return firn.NewError(firn.Corrupt, "its content cannot be read")
	}
	for _, key := range c.Keys {
		if CheckName(key.Name) != nil || key.State != Destroyed && len(key.Versions) == 0 {
			return firn.NewError(firn.Corrupt, "its content cannot be read")
		}
		k.mu.keys[key.Name] = key
	}
	return nil
}

func (k *Keyring) create(password []byte, cost seal.Cost) error {
	if err := os.MkdirAll(filepath.Dir(k.path), 0o700); err != nil {
		return err
	}
	k.key = seal.NewKey()
	k.head = keyringFile{Format: keyringFormat, Version: keyringVersion}
	if err := k.sealWith(password, cost); err != nil {
		return err
	}
	return k.write(nil)
}

// sealWith puts the sealing key under a secret.
func (k *Keyring) sealWith(password []byte, cost seal.Cost) error {
	salt := seal.NewSalt()
	w, err := seal.Wrap(password, k.key[:], salt, cost, keyringContext)
	if err != nil {
		return err
	}
	k.head.Salt, k.head.Cost, k.head.Key = salt[:], cost, w
	return nil
}

// write makes keys the durable content of the file.
func (k *Keyring) write(keys []*ringKey) error {
	plain, err := json.Marshal(keyringContent{Keys: keys})
	if err != nil {
		return err
	}
	head := k.head
	head.Content = k.key.Box(nil, keyringContext, plain)
	b, err := json.MarshalIndent(head, "", "  ")
	if err != nil {
		return err
	}
	return writeDurably(k.path, append(b, '\n'))
}

// Seal seals the keyring with another secret. The keys stay as they are.
func (k *Keyring) Seal(ctx context.Context, secret Secret) error {
	password, cost, err := secret(ctx)
	if err != nil {
		return firn.E("seal keyring", k.path, err)
	}
	k.change.Lock()
	defer k.change.Unlock()
	old := k.head
	if err = k.sealWith(password, cost); err == nil {
		err = k.write(k.sorted())
	}
	if err != nil {
		k.head = old
	}
	return firn.E("seal keyring", k.path, err)
}

func (k *Keyring) sorted() []*ringKey {
	k.mu.RLock()
	defer k.mu.RUnlock()
	out := make([]*ringKey, 0, len(k.mu.keys))
	for _, key := range k.mu.keys {
		out = append(out, key)
	}
	slices.SortFunc(out, func(a, b *ringKey) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// update has fn return the key that takes the place of the one of a name, durably. old is nil where there is none.
func (k *Keyring) update(name string, fn func(old *ringKey) (*ringKey, error)) error {
	if err := CheckName(name); err != nil {
		return err
	}
	k.change.Lock()
	defer k.change.Unlock()
	list := k.sorted()
	i, found := slices.BinarySearchFunc(list, name, func(a *ringKey, name string) int { return strings.Compare(a.Name, name) })
	var old *ringKey
	if found {
		old = list[i]
	}
	key, err := fn(old)
	if err != nil {
		return err
	}
	if found {
		list[i] = key
	} else {
		list = slices.Insert(list, i, key)
	}
	if len(list) > maxKeys || len(key.Versions) > maxVersions {
		return firn.NewError(firn.Conflict, "the keyring is full")
	}
	if err := k.write(list); err != nil {
		return err
	}
	k.mu.Lock()
	k.mu.keys[name] = key
	k.mu.Unlock()
	return nil
}

// usable returns a key that may be used.
func (k *Keyring) usable(name string) (*ringKey, error) {
	k.mu.RLock()
	key := k.mu.keys[name]
	k.mu.RUnlock()
	if key == nil {
		return nil, ErrNoKey
	}
	return key, key.check()
}

func (r *ringKey) check() error {
	switch r.State {
	case Enabled:
		return nil
	case Destroyed:
		return ErrDestroyed
	default:
		return ErrDisabled
	}
}

func (r *ringKey) newest() *ringVersion { return &r.Versions[len(r.Versions)-1] }

// Kind implements Service.
func (*Keyring) Kind() byte { return 'k' }

func (k *Keyring) String() string { return "keyring " + k.path }

// dataContext is what a data key is bound to.
func dataContext(name string, context []byte) string {
	return "data key\x00" + name + "\x00" + string(context)
}

// Wrap implements Service. A wrapped key is the version of this format, the version of the key as a big-endian uint32
// and a box.
func (k *Keyring) Wrap(_ context.Context, name string, plain seal.Key, context []byte) ([]byte, error) {
	key, err := k.usable(name)
	if err != nil {
		return nil, err
	}
	v := key.newest()
	b := binary.BigEndian.AppendUint32(append(make([]byte, 0, 8+seal.BoxOverhead+len(plain)), wrapVersion), v.Number)
	return v.Key.Box(b, dataContext(name, context), plain[:]), nil
}

// Unwrap implements Service.
func (k *Keyring) Unwrap(_ context.Context, name string, wrapped, context []byte) (seal.Key, error) {
	key, err := k.usable(name)
	if err != nil {
		return seal.Key{}, err
	}
	n, box, err := splitWrapped(wrapped)
	if err != nil {
		return seal.Key{}, err
	}
	i, found := slices.BinarySearchFunc(key.Versions, n, func(v ringVersion, n uint32) int { return int(v.Number) - int(n) })
	if !found {
		return seal.Key{}, ErrNotOpened
	}
	plain, err := key.Versions[i].Key.Unbox(dataContext(name, context), bytes.Clone(box))
	if firn.KindOf(err) == firn.Unsupported {
		return seal.Key{}, err
	}
	if err != nil || len(plain) != len(seal.Key{}) {
		return seal.Key{}, ErrNotOpened
	}
	return seal.Key(plain), nil
}

func splitWrapped(w []byte) (uint32, []byte, error) {
	if len(w) < 5 {
		return 0, nil, ErrNotOpened
	}
	if w[0] != wrapVersion {
		return 0, nil, firn.NewError(firn.Unsupported, "the data key was wrapped by a later release")
	}
	return binary.BigEndian.Uint32(w[1:]), w[5:], nil
}

// Newest implements Service.
func (k *Keyring) Newest(_ context.Context, name string, wrapped []byte) (bool, error) {
	key, err := k.usable(name)
	if err != nil {
		return false, err
	}
	n, _, err := splitWrapped(wrapped)
	return n == key.newest().Number, err
}

// List implements Service.
func (k *Keyring) List(context.Context) ([]Info, error) {
	var out []Info
	for _, key := range k.sorted() {
		i := Info{Name: key.Name, State: key.State, Created: key.Created}
		if len(key.Versions) > 0 {
			i.Version, i.Rotated = int(key.newest().Number), key.newest().Created
		}
		out = append(out, i)
	}
	return out, nil
}

// Create implements Service. The name of a destroyed key is not given again: what it protected must not seem to be
// protected by another.
func (k *Keyring) Create(_ context.Context, name string) error {
	return firn.E("create key", name, k.update(name, func(old *ringKey) (*ringKey, error) {
		if old != nil {
			if old.State == Destroyed {
				return nil, ErrDestroyed
			}
			return nil, ErrKeyExists
		}
		now := k.now().UTC()
		return &ringKey{
			Name: name, State: Enabled, Created: now,
			Versions: []ringVersion{{Number: 1, Created: now, Key: seal.NewKey()}},
		}, nil
	}))
}

// Rotate implements Service.
func (k *Keyring) Rotate(_ context.Context, name string) error {
	return firn.E("rotate key", name, k.update(name, func(old *ringKey) (*ringKey, error) {
		if old == nil {
			return nil, ErrNoKey
		}
		if err := old.check(); err != nil {
			return nil, err
		}
		r := *old
		r.Versions = append(slices.Clone(old.Versions),
			ringVersion{Number: old.newest().Number + 1, Created: k.now().UTC(), Key: seal.NewKey()})
		return &r, nil
	}))
}

// Enable implements Service.
func (k *Keyring) Enable(_ context.Context, name string) error {
	return firn.E("enable key", name, k.setState(name, Enabled))
}

// Disable implements Service.
func (k *Keyring) Disable(_ context.Context, name string) error {
	return firn.E("disable key", name, k.setState(name, Disabled))
}

// Destroy implements Service. The versions leave the file; copies of the file that were made before still have them.
func (k *Keyring) Destroy(_ context.Context, name string) error {
	return firn.E("destroy key", name, k.setState(name, Destroyed))
}

func (k *Keyring) setState(name string, s State) error {
	return k.update(name, func(old *ringKey) (*ringKey, error) {
		switch {
		case old == nil:
			return nil, ErrNoKey
		case old.State == Destroyed && s != Destroyed:
			return nil, ErrDestroyed
		}
		r := *old
		if r.State = s; s == Destroyed {
			r.Versions = nil
		}
		return &r, nil
	})
}

// writeDurably puts a file in place so that after a crash it is the old or the new one, whole.
func writeDurably(path string, b []byte) error {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = firn.NewError(firn.Invalid, fmt.Sprintf("larger than %d bytes", limit))
	}
	return b, err
}
