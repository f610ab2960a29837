// Package repo is the content-addressed repository: chunks found by the keyed hash of their content, compressed,
// encrypted and packed into blobs of a place, and snapshots that refer to them.
//
// It owns everything stored there: docs/format/repository.md describes each byte. It promises that a committed snapshot
// stays whole whatever else runs, is killed, or has a wrong clock; that what is loaded is what was saved, or an error;
// and that its memory is bounded by figures given with each operation. It knows nothing of files: package archive and
// others give the chunks of kind Tree their meaning. It must never import them, or a concrete driver.
//
// What is written goes in one order, packs, index, snapshot, and is read in the reverse one, so that whatever is
// referred to is there. No lock is needed for it: see session.go for what writers do and prune.go for what removes.
package repo

import (
	"context"
	"crypto/cipher"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"time"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/chunk"
	"firn/seal"
)

// ID names a chunk: the keyed BLAKE3 hash of its plain content. It also names packs, index files and snapshots.
type ID [32]byte

// String returns 64 hex digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// Short returns the first digits, enough for people.
func (id ID) Short() string { return id.String()[:8] }

// IsZero reports whether id is unset.
func (id ID) IsZero() bool { return id == ID{} }

// MarshalText and UnmarshalText make an ID a string of hex digits in JSON.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads 64 hex digits.
func (id *ID) UnmarshalText(p []byte) error {
	if len(p) == 0 {
		*id = ID{}
		return nil
	}
	d, err := ParseID(string(p))
	*id = d
	return err
}

// ParseID reads 64 hex digits. It fails with firn.Invalid for anything else.
func ParseID(s string) (ID, error) {
	var id ID
	bad := len(s) != hex.EncodedLen(len(id)) || s != strings.ToLower(s)
	if !bad {
		_, err := hex.Decode(id[:], []byte(s))
		bad = err != nil
	}
	if bad {
		return ID{}, firn.NewError(firn.Invalid, fmt.Sprintf("%q is no id: 64 hex digits", s))
	}
	return id, nil
}

// Kind is what a chunk is. Each kind has packs and ids of its own.
type Kind uint8

const (
	// Data is content.
	Data Kind = iota
	// Tree refers to other chunks: see TreeChunk.
	Tree
	kinds
)

func (k Kind) String() string {
	switch k {
	case Data:
		return "data"
	case Tree:
		return "tree"
	}
	return "unknown kind"
}

// MaxChunk is the largest chunk that can be saved, in bytes. Where packs are smaller it is 64 KiB less than those.
const MaxChunk = 8 << 20

// Names of blobs.
const (
	configKey      = "config"
	reserveKey     = "reserve"
	keysPrefix     = "keys/"
	packsPrefix    = "packs/"
	indexPrefix    = "index/"
	snapshotPrefix = "snapshots/"
	pendingPrefix  = "pending/"
	sessionPrefix  = "sessions/"
	doomedPrefix   = "doomed/"
)

func packKey(id ID) string {
	s := id.String()
	return packsPrefix + s[:2] + "/" + s
}

// Options are settings of an opened repository. The zero value is good.
type Options struct {
	// CacheDir is a directory for what is read again and again, trees and index files; "" keeps nothing. It may be
	// shared by repositories and processes, may be deleted at any time, and holds only encrypted bytes.
	CacheDir string
	// CacheSize bounds it, in bytes; 0 is 1 GiB.
	CacheSize int64
	// Memory bounds the buffers of reading and writing in bytes, besides the index (64 bytes a chunk); 0 is 96 MiB, and
	// what is too little for one pack of each kind is taken as that.
	Memory int64
	// Uploads is how many packs are handed to the place at once at most; 0 is 2, and 1 for a place that makes
	// a pack durable later. More helps where the way is long; Memory bounds it.
	Uploads int
	// Compression is that of new chunks.
	Compression Compression
	// ReadOnly refuses everything that writes.
	ReadOnly bool
	// Key is the id, or the beginning of it, of the key that the password belongs to; "" tries all. Each costs some 50
	// ms and 19 MiB.
	Key string
}

// InitOptions are settings of a new repository.
type InitOptions struct {
	// Sizes bound chunks; zero is chunk.DefaultSizes.
	Sizes chunk.Sizes
	// PackSize is how large packs become at most, in bytes, up to 256 MiB; 0 is 16 MiB. Larger ones are fewer requests,
	// and more memory for each writer.
	PackSize int
	// AppendOnly refuses to forget, prune and remove keys, to whoever uses this program. Against whoever does not, the
	// place's own permissions must refuse deletes and overwrites.
	AppendOnly bool
	// Like gives the new repository the cut points and ids of another one, so that chunks copied from there and chunks
	// of later backups meet. Whoever sees both can tell that they share content.
	Like *Repo
	// Reserve is how many bytes are put aside to be freed when the place is full; 0 is 1 MiB, less than 0 none.
	Reserve int
	// Cost of the first key's password; zero is seal.DefaultCost.
	Cost seal.Cost
	// Label of the first key.
	Label string
	// Options for using it.
	Options Options
}

// config is what a repository is, sealed but for its head.
type config struct {
	ID         ID        `json:"id"`
	Created    time.Time `json:"created"`
	Min        int       `json:"chunk_min"`
	Mean       int       `json:"chunk_mean"`
	Max        int       `json:"chunk_max"`
	PackSize   int       `json:"pack_size"`
	AppendOnly bool      `json:"append_only"`
	Reserve    int       `json:"reserve"`
	Secret     ID        `json:"id_secret"` // ids and cut points come from it
}

const (
	configMagic   = "firn repository 1\n"
	configContext = "config"
	configLimit   = 64 << 10

	defaultPackSize = 16 << 20
	packSlack       = 64 << 10 // that a pack has beyond its chunks, at least
	maxPackSize     = 256 << 20
	defaultReserve  = 1 << 20
	maxReserve      = 1 << 30
)

// check refuses what cannot be, so that a damaged or hostile config does not make sizes that hurt.
func (c *config) check() error {
	err := (chunk.Sizes{Min: c.Min, Mean: c.Mean, Max: c.Max}).Check()
	if err == nil && (c.Max > MaxChunk || c.PackSize < c.Max+packSlack || c.PackSize > maxPackSize || c.ID.IsZero() ||
		c.Secret.IsZero() || c.Reserve < 0 || c.Reserve > maxReserve) {
		err = firn.NewError(firn.Invalid, "chunks up to 8 MiB, packs up to 256 MiB and larger than chunks by 64 KiB, up to 1 GiB of reserve")
	}
	return err
}

// Repo is an opened repository. Its methods may be called by many goroutines at once.
type Repo struct {
	store  *blob.Store
	cfg    config
	role   Role
	opt    Options
	key    ID       // the file of the key it was opened with
	master seal.Key // all other keys but those for ids come from it
	packs  seal.Key
	boxes  seal.Key
	ids    [kinds]seal.Key
	cutter *chunk.Cutter
	zip    *zipper
	cache  *cache

	workers  chan *worker // those that exist; bounds hashing, compression and sealing
	chunkers sync.Pool
	buffers  buffers

	idx *index
	mu  struct {
		sync.Mutex
		session *Session
		aeads   map[[seal.SaltSize]byte]cipher.AEAD
	}
	loading   chan struct{} // held while the index is loaded
	loaded    bool          // guarded by loading
	files     map[ID]uint32 // index files that were loaded, by number; guarded by loading
	fileCount uint32        // guarded by loading
}

// Init makes a repository in an empty place. It fails with firn.Exists where there is one.
func Init(ctx context.Context, store *blob.Store, password []byte, opt InitOptions) (*Repo, error) {
	const op = "make repository"
	if ok, err := store.Exists(ctx, configKey); err != nil {
		return nil, err
	} else if ok {
		return nil, &firn.Error{Kind: firn.Exists, Op: op, Subject: store.Name(), Err: errors.New("there is one already")}
	}
	if len(password) == 0 {
		return nil, firn.E(op, store.Name(), firn.NewError(firn.Invalid, "the password is empty"))
	}
	if opt.Sizes == (chunk.Sizes{}) {
		opt.Sizes = chunk.DefaultSizes()
	}
	if opt.PackSize == 0 {
		opt.PackSize = defaultPackSize
	}
	if opt.Reserve == 0 {
		opt.Reserve = defaultReserve
	}
	cfg := config{
		ID: ID(seal.NewKey()), Created: time.Now().UTC().Truncate(time.Second),
		Min: opt.Sizes.Min, Mean: opt.Sizes.Mean, Max: opt.Sizes.Max,
		PackSize: opt.PackSize, AppendOnly: opt.AppendOnly, Reserve: max(opt.Reserve, 0), Secret: ID(seal.NewKey()),
	}
	if like := opt.Like; like != nil {
		cfg.Min, cfg.Mean, cfg.Max, cfg.Secret = like.cfg.Min, like.cfg.Mean, like.cfg.Max, like.cfg.Secret
	}
	if err := cfg.check(); err != nil {
		return nil, firn.E(op, store.Name(), err)
	}
	r, err := newRepo(store, cfg, seal.NewKey(), opt.Options)
	if err != nil {
		return nil, firn.E(op, store.Name(), err)
	}
	// The key first: a config without one could never be opened, a key without a config is no repository yet.
	if r.key, err = r.AddKey(ctx, password, KeyOptions{Label: opt.Label, Cost: opt.Cost}); err != nil {
		return nil, err
	}
	if err := r.putReserve(ctx); err != nil {
		return nil, err
	}
	plain, err := json.Marshal(cfg)
	if err != nil {
		return nil, err
	}
	if err := r.create(ctx, configKey, r.boxes.Box([]byte(configMagic), configContext, plain)); err != nil {
		return nil, err
	}
	return r, nil
}

// Open opens the repository in store. It fails with firn.NotFound where there is none, firn.Denied for a wrong
// password, firn.Unsupported for a later version.
func Open(ctx context.Context, store *blob.Store, password []byte, opt Options) (*Repo, error) {
	const op = "open repository"
	p, err := store.ReadAll(ctx, configKey, configLimit)
	if firn.KindOf(err) == firn.NotFound {
		return nil, &firn.Error{
			Kind: firn.NotFound, Op: op, Subject: store.Name(),
			Err: errors.New("there is none: make one with 'firn repo init', or correct the URL"),
		}
	}
	if err != nil {
		return nil, err
	}
	box, err := configBox(p)
	if err != nil {
		return nil, firn.E(op, store.Name(), err)
	}
	k, err := findKey(ctx, store, password, opt.Key)
	if err != nil {
		return nil, firn.E(op, store.Name(), err)
	}
	// The memory of the password's hash counts twice for when the collector runs next, unless it runs now: it has next to
	// nothing to look at.
	runtime.GC()
	boxes := k.master.Derive("boxes", nil)
	plain, err := boxes.Unbox(configContext, box)
	if err != nil {
		return nil, firn.E(op, store.Name(), fmt.Errorf("config: %w", err))
	}
	var cfg config
	if err = parseJSON(plain, &cfg); err == nil {
		err = cfg.check()
	}
	if err != nil {
		return nil, firn.E(op, store.Name(), fmt.Errorf("config: %w", err))
	}
	r, err := newRepo(store, cfg, k.master, opt)
	if err != nil {
		return nil, firn.E(op, store.Name(), err)
	}
	r.role, r.key = k.role, k.id
	return r, nil
}

// configBox returns the sealed part of a config.
func configBox(p []byte) ([]byte, error) {
	if box, ok := strings.CutPrefix(string(p), configMagic); ok {
		return []byte(box), nil
	}
	if strings.HasPrefix(string(p), "firn repository ") {
		return nil, firn.NewError(firn.Unsupported, "it was made by a later version of firn: update this one")
	}
	return nil, firn.NewError(firn.Corrupt, "its config is damaged, or of another program")
}

func newRepo(store *blob.Store, cfg config, master seal.Key, opt Options) (*Repo, error) {
	if opt.Memory <= 0 {
		opt.Memory = 96 << 20
	}
	if opt.Uploads <= 0 {
		opt.Uploads = 2
		if _, ok := blob.As[driver.Stager](store.Driver()); ok {
			opt.Uploads = 1
		}
	}
	r := &Repo{
		store: store, cfg: cfg, opt: opt, master: master,
		packs: master.Derive("packs", nil), boxes: master.Derive("boxes", nil),
		idx: newIndex(), loading: make(chan struct{}, 1), files: map[ID]uint32{},
	}
	secret := seal.Key(cfg.Secret)
	for k := range kinds {
		r.ids[k] = secret.Derive("id "+k.String(), nil)
	}
	var err error
	r.cutter, err = chunk.NewCutter(secret.Derive("cut points", nil), chunk.Sizes{Min: cfg.Min, Mean: cfg.Mean, Max: cfg.Max})
	if err != nil {
		return nil, err
	}
	n := runtime.GOMAXPROCS(0)
	if r.zip, err = newZipper(n, opt.Compression); err != nil {
		return nil, err
	}
	r.workers = make(chan *worker, n)
	for range n {
		r.workers <- nil // made when first needed
	}
	r.mu.aeads = map[[seal.SaltSize]byte]cipher.AEAD{}
	if r.cache, err = newCache(opt.CacheDir, cfg.ID, opt.CacheSize); err != nil {
		return nil, err
	}
	return r, nil
}

// ID returns the repository's identity, which tells it from a copy or another one at the same URL.
func (r *Repo) ID() ID { return r.cfg.ID }

// Created returns when the repository was made, by the clock of who made it.
func (r *Repo) Created() time.Time { return r.cfg.Created }

// AppendOnly reports whether the repository, or the key it was opened with, refuses to forget, prune and remove keys.
func (r *Repo) AppendOnly() bool { return r.cfg.AppendOnly || r.role == Append }

// Store returns the place.
func (r *Repo) Store() *blob.Store { return r.store }

// Close frees memory. A session must have ended before. The store stays open: it is the caller's.
func (r *Repo) Close() error {
	r.zip.close()
	return nil
}

// NewChunker returns a chunker of rd. Give it back with FreeChunker, or let it go.
func (r *Repo) NewChunker(rd io.Reader) *chunk.Chunker {
	if c, ok := r.chunkers.Get().(*chunk.Chunker); ok {
		c.Reset(rd)
		return c
	}
	return r.cutter.New(rd)
}

// FreeChunker lets the memory of c, some 3 MiB, be used for the next one. c must not be used after that.
func (r *Repo) FreeChunker(c *chunk.Chunker) {
	c.Reset(nil)
	r.chunkers.Put(c)
}

// writable refuses to write to a repository that was opened for reading.
func (r *Repo) writable(op string) error {
	if r.opt.ReadOnly {
		return &firn.Error{Kind: firn.Denied, Op: op, Subject: r.store.Name(), Err: errors.New("it was opened read-only")}
	}
	return nil
}

// deletable refuses to delete from an append-only repository.
func (r *Repo) deletable(op string) error {
	if err := r.writable(op); err != nil {
		return err
	}
	why := ""
	switch {
	case r.cfg.AppendOnly:
		why = "the repository is append-only"
	case r.role == Append:
		why = "this key may only append: use another one"
	default:
		return nil
	}
	return &firn.Error{Kind: firn.Denied, Op: op, Subject: r.store.Name(), Err: errors.New(why)}
}

// create puts a blob that must not be there, as surely as the place allows.
func (r *Repo) create(ctx context.Context, key string, p []byte) error {
	err := r.store.Create(ctx, key, blob.Bytes(p))
	if firn.KindOf(err) == firn.Unsupported {
		err = r.store.PutBytes(ctx, key, p)
	}
	return err
}

func (r *Repo) putReserve(ctx context.Context) error {
	if r.cfg.Reserve == 0 {
		return nil
	}
	return r.store.PutBytes(ctx, reserveKey, make([]byte, r.cfg.Reserve))
}

// parseJSON reads one document whole. Fields that are not known are skipped: a change that an older version must not
// skip comes with another version number.
func parseJSON(p []byte, v any) error {
	if err := json.Unmarshal(p, v); err != nil {
		return &firn.Error{Kind: firn.Corrupt, Err: err}
	}
	return nil
}
