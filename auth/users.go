package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"firn"
	"firn/kv"
)

// Limits of the user store.
const (
	MaxUsers  = 10_000 // users of a site
	MaxKeys   = 8      // access keys of a user
	MaxGrants = 256    // grants of a user
)

// RootName is the name of the root user, who is not stored among the others.
const RootName = "root"

// Errors of changes to users.
var (
	// ErrInvalidUser: a name, access key or secret key breaks the rules for them.
	ErrInvalidUser = firn.NewError(firn.Invalid, "invalid user")
	// ErrLimit: a limit of the user store is reached.
	ErrLimit = firn.NewError(firn.Conflict, "too many users, keys or grants")
)

// Keys in the metadata store; docs/format/users.md describes them.
const (
	userPrefix = "au"
	userEnd    = "av"
	rootKey    = "ar"
)

// recordVersion is the version of stored records that this build reads and writes.
const recordVersion = 1

// userRecord is the stored form of a user.
type userRecord struct {
	Version   int         `json:"v"`
	Name      string      `json:"name"`
	Canonical string      `json:"canonical"`
	Created   time.Time   `json:"created"`
	Grants    []Grant     `json:"grants,omitempty"`
	Keys      []keyRecord `json:"keys,omitempty"`
}

// keyRecord is the stored form of an access key. Seal names how the secret is protected: "" is not at all.
// A build that does not know the scheme refuses to open the store.
type keyRecord struct {
	AccessKey string    `json:"access_key"`
	Created   time.Time `json:"created"`
	Seal      string    `json:"seal,omitempty"`
	Secret    string    `json:"secret"`
}

// rootRecord keeps what of root must stay the same when its keys change.
type rootRecord struct {
	Version   int       `json:"v"`
	Canonical string    `json:"canonical"`
	Created   time.Time `json:"created"`
}

// Users are the users of a site and their keys. Reads come from memory and never wait. All methods may be
// called concurrently.
type Users struct {
	db   kv.DB
	now  func() time.Time
	snap atomic.Pointer[snapshot]
	// change is held by the one change under way, from reading the snapshot to publishing the next. It is a
	// channel because a change waits for the disk, and who waits for it must be able to give up.
	change chan struct{}
}

// snapshot is all users at one time. It is immutable.
type snapshot struct {
	root        Identity
	rootCreated time.Time
	users       map[string]*userRecord // by name
	keys        map[string]*keyEntry   // by access key, root's included
	names       map[string]string      // canonical id to name, root's included
}

// keyEntry is what Lookup returns.
type keyEntry struct {
	secret string
	id     *Identity
}

// UsersOptions configure OpenUsers.
type UsersOptions struct {
	Now func() time.Time // clock; nil is time.Now
}

// OpenUsers reads the users from db. root are the root user's credentials, which are not stored there; its
// canonical id is, made at the first opening. ErrKeyExists where root's access key is a user's.
func OpenUsers(ctx context.Context, db kv.DB, root Credentials, o UsersOptions) (*Users, error) {
	u := &Users{db: db, now: o.Now, change: make(chan struct{}, 1)}
	if u.now == nil {
		u.now = time.Now
	}
	if err := root.validate(); err != nil {
		return nil, firn.E("open users", "root credentials", err)
	}
	rr, err := u.openRoot(ctx)
	if err != nil {
		return nil, firn.E("open users", RootName, err)
	}
	users := make(map[string]*userRecord)
	err = db.View(ctx, func(r kv.Reader) error { return readUsers(r, users) })
	if err != nil {
		return nil, firn.E("open users", "", err)
	}
	s := &snapshot{
		root: Identity{
			Name: RootName, AccessKey: root.AccessKey, Canonical: rr.Canonical, Account: AccountID(rr.Canonical), Root: true,
		},
		rootCreated: rr.Created,
	}
	if s, err = s.with(users, root.SecretKey); err != nil {
		return nil, firn.E("open users", "", err)
	}
	u.snap.Store(s)
	return u, nil
}

// openRoot reads root's record, or makes it.
func (u *Users) openRoot(ctx context.Context) (rr rootRecord, err error) {
	err = u.db.Update(ctx, func(tx kv.Tx) error {
		b, err := tx.Get(nil, []byte(rootKey))
		if err == nil {
			if err := json.Unmarshal(b, &rr); err != nil {
				return firn.NewError(firn.Corrupt, "stored record is not readable: "+err.Error())
			}
			return checkVersion(rr.Version)
		}
		if !errors.Is(err, kv.ErrNotFound) {
			return err
		}
		rr = rootRecord{Version: recordVersion, Canonical: newCanonical(), Created: u.now().UTC().Truncate(time.Second)}
		b, err = json.Marshal(rr)
		tx.Set([]byte(rootKey), b)
		return err
	}, []byte(rootKey))
	return rr, err
}

func checkVersion(v int) error {
	if v != recordVersion {
		return firn.NewError(firn.Unsupported, fmt.Sprintf("user records of version %d are not known to this build", v))
	}
	return nil
}

func readUsers(r kv.Reader, users map[string]*userRecord) error {
	it, err := r.Iter([]byte(userPrefix), []byte(userEnd))
	if err != nil {
		return err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		name := string(it.Key()[len(userPrefix):])
		v, err := it.Value()
		if err != nil {
			return firn.E("read user", name, err)
		}
		rec := new(userRecord)
		if err := json.Unmarshal(v, rec); err != nil || rec.Name != name {
			return firn.E("read user", name, firn.NewError(firn.Corrupt, "stored record is not readable"))
		}
		if err := checkVersion(rec.Version); err != nil {
			return firn.E("read user", name, err)
		}
		for _, k := range rec.Keys {
			if k.Seal != "" {
				return firn.E("read user", name, firn.NewError(firn.Unsupported,
					fmt.Sprintf("secrets sealed with %q are not known to this build", k.Seal)))
			}
		}
		users[name] = rec
	}
	return it.Err()
}

// with returns a snapshot of the same root with these users.
func (s *snapshot) with(users map[string]*userRecord, rootSecret string) (*snapshot, error) {
	n := &snapshot{
		root: s.root, rootCreated: s.rootCreated, users: users,
		keys:  make(map[string]*keyEntry, len(users)+1),
		names: make(map[string]string, len(users)+1),
	}
	n.keys[n.root.AccessKey] = &keyEntry{rootSecret, &n.root}
	n.names[n.root.Canonical] = RootName
	for _, rec := range users {
		n.names[rec.Canonical] = rec.Name
		for _, k := range rec.Keys {
			if n.keys[k.AccessKey] != nil {
				return nil, firn.E("", k.AccessKey, ErrKeyExists)
			}
			n.keys[k.AccessKey] = &keyEntry{k.Secret, &Identity{
				Name: rec.Name, AccessKey: k.AccessKey, Canonical: rec.Canonical,
				Account: AccountID(rec.Canonical), Grants: rec.Grants,
			}}
		}
	}
	return n, nil
}

func (r *userRecord) user() User {
	u := User{
		Name: r.Name, Canonical: r.Canonical, Account: AccountID(r.Canonical), Created: r.Created,
		Grants: slices.Clone(r.Grants), Keys: make([]KeyInfo, len(r.Keys)),
	}
	for i, k := range r.Keys {
		u.Keys[i] = KeyInfo{k.AccessKey, k.Created}
	}
	return u
}

// Lookup returns the secret of an access key and whom it belongs to, or ErrNoSuchKey. The Identity must not
// be changed. It has the form that package sigv4 asks for; ctx is not used.
func (u *Users) Lookup(_ context.Context, accessKey string) (secret string, id *Identity, err error) {
	e := u.snap.Load().keys[accessKey]
	if e == nil {
		return "", nil, ErrNoSuchKey
	}
	return e.secret, e.id, nil
}

// Root returns the root user's identity.
func (u *Users) Root() Identity { return u.snap.Load().root }

// NameOf returns the name of the user with a canonical id, root included; "" where there is none.
func (u *Users) NameOf(canonical string) string { return u.snap.Load().names[canonical] }

// Exists reports whether a canonical id is a user's or root's.
func (u *Users) Exists(canonical string) bool { return u.NameOf(canonical) != "" }

// Get returns a user. ErrNoSuchUser.
func (u *Users) Get(name string) (User, error) {
	rec := u.snap.Load().users[name]
	if rec == nil {
		return User{}, firn.E("get user", name, ErrNoSuchUser)
	}
	return rec.user(), nil
}

// List returns all users by name, without root.
func (u *Users) List() []User {
	s := u.snap.Load()
	list := make([]User, 0, len(s.users))
	for _, name := range slices.Sorted(maps.Keys(s.users)) {
		list = append(list, s.users[name].user())
	}
	return list
}

// update runs one change: edit gets a copy of the user's record, nil where there is none, and returns the
// record to store, nil to remove it. The change is durable and visible when update returns nil.
func (u *Users) update(ctx context.Context, op, name string, edit func(*snapshot, *userRecord) (*userRecord, error)) error {
	select {
	case u.change <- struct{}{}:
	case <-ctx.Done():
		return firn.E(op, name, ctx.Err())
	}
	defer func() { <-u.change }()
	s := u.snap.Load()
	var rec *userRecord
	if old := s.users[name]; old != nil {
		c := *old
		c.Grants, c.Keys = slices.Clone(old.Grants), slices.Clone(old.Keys)
		rec = &c
	}
	rec, err := edit(s, rec)
	if err != nil {
		return firn.E(op, name, err)
	}
	users := maps.Clone(s.users)
	if rec == nil {
		delete(users, name)
	} else {
		users[name] = rec
	}
	next, err := s.with(users, s.keys[s.root.AccessKey].secret)
	if err != nil {
		return firn.E(op, name, err)
	}
	key := []byte(userPrefix + name)
	err = u.db.Update(ctx, func(tx kv.Tx) error {
		if rec == nil {
			tx.Delete(key)
			return nil
		}
		b, err := json.Marshal(rec)
		tx.Set(key, b)
		return err
	}, key)
	if err != nil {
		return firn.E(op, name, err)
	}
	u.snap.Store(next)
	return nil
}

// Add makes a user with one key: creds, or generated ones where creds is zero. It returns the credentials,
// whose secret cannot be had again. ErrUserExists, ErrKeyExists, ErrInvalidUser, ErrInvalidGrant, ErrLimit.
func (u *Users) Add(ctx context.Context, name string, creds Credentials, grants []Grant) (User, Credentials, error) {
	var made User
	creds, err := creds.orGenerated()
	if err == nil {
		err = validName(name)
	}
	if err == nil {
		err = validGrants(grants)
	}
	if err != nil {
		return User{}, Credentials{}, firn.E("add user", name, err)
	}
	err = u.update(ctx, "add user", name, func(s *snapshot, rec *userRecord) (*userRecord, error) {
		switch {
		case rec != nil:
			return nil, ErrUserExists
		case len(s.users) >= MaxUsers:
			return nil, ErrLimit
		case s.keys[creds.AccessKey] != nil:
			return nil, ErrKeyExists
		}
		now := u.now().UTC().Truncate(time.Second)
		rec = &userRecord{
			Version: recordVersion, Name: name, Canonical: s.freeCanonical(), Created: now, Grants: slices.Clone(grants),
			Keys: []keyRecord{{AccessKey: creds.AccessKey, Created: now, Secret: creds.SecretKey}},
		}
		made = rec.user()
		return rec, nil
	})
	if err != nil {
		return User{}, Credentials{}, err
	}
	return made, creds, nil
}

// freeCanonical returns a new canonical id whose account id no other has either.
func (s *snapshot) freeCanonical() string {
	accounts := make(map[string]bool, len(s.names))
	for c := range s.names {
		accounts[AccountID(c)] = true
	}
	for {
		if c := newCanonical(); !accounts[AccountID(c)] {
			return c
		}
	}
}

// Remove removes a user and its keys. What the user owns stays, owned by an id that nobody has any more; the
// caller decides what is to become of it first. ErrNoSuchUser.
func (u *Users) Remove(ctx context.Context, name string) error {
	return u.update(ctx, "remove user", name, func(_ *snapshot, rec *userRecord) (*userRecord, error) {
		if rec == nil {
			return nil, ErrNoSuchUser
		}
		return nil, nil
	})
}

// SetGrants replaces a user's grants. ErrNoSuchUser, ErrInvalidGrant, ErrLimit.
func (u *Users) SetGrants(ctx context.Context, name string, grants []Grant) error {
	if err := validGrants(grants); err != nil {
		return firn.E("set grants", name, err)
	}
	return u.update(ctx, "set grants", name, func(_ *snapshot, rec *userRecord) (*userRecord, error) {
		if rec == nil {
			return nil, ErrNoSuchUser
		}
		rec.Grants = slices.Clone(grants)
		return rec, nil
	})
}

// AddKey gives a user one more key: creds, or generated ones where creds is zero.
// ErrNoSuchUser, ErrKeyExists, ErrInvalidUser, ErrLimit.
func (u *Users) AddKey(ctx context.Context, name string, creds Credentials) (Credentials, error) {
	creds, err := creds.orGenerated()
	if err != nil {
		return Credentials{}, firn.E("add key", name, err)
	}
	err = u.update(ctx, "add key", name, func(s *snapshot, rec *userRecord) (*userRecord, error) {
		switch {
		case rec == nil:
			return nil, ErrNoSuchUser
		case len(rec.Keys) >= MaxKeys:
			return nil, ErrLimit
		case s.keys[creds.AccessKey] != nil:
			return nil, ErrKeyExists
		}
		rec.Keys = append(rec.Keys, keyRecord{
			AccessKey: creds.AccessKey, Created: u.now().UTC().Truncate(time.Second), Secret: creds.SecretKey,
		})
		return rec, nil
	})
	if err != nil {
		return Credentials{}, err
	}
	return creds, nil
}

// RemoveKey removes an access key from its user, who may be left without any. Root's key cannot be removed
// here: ErrDenied. ErrNoSuchKey.
func (u *Users) RemoveKey(ctx context.Context, accessKey string) error {
	e := u.snap.Load().keys[accessKey]
	switch {
	case e == nil:
		return firn.E("remove key", accessKey, ErrNoSuchKey)
	case e.id.Root:
		return firn.E("remove key", accessKey, ErrDenied)
	}
	return u.update(ctx, "remove key", e.id.Name, func(_ *snapshot, rec *userRecord) (*userRecord, error) {
		if rec == nil {
			return nil, ErrNoSuchKey
		}
		n := len(rec.Keys)
		rec.Keys = slices.DeleteFunc(rec.Keys, func(k keyRecord) bool { return k.AccessKey == accessKey })
		if len(rec.Keys) == n {
			return nil, ErrNoSuchKey
		}
		return rec, nil
	})
}

func validName(name string) error {
	if name == RootName {
		return fmt.Errorf("%w: the name root is taken", ErrInvalidUser)
	}
	if !allIn(name, 1, 64, "+=,.@_-") {
		return fmt.Errorf("%w: a name has 1 to 64 letters, digits or +=,.@_-", ErrInvalidUser)
	}
	return nil
}

func validGrants(grants []Grant) error {
	if len(grants) > MaxGrants {
		return ErrLimit
	}
	for _, g := range grants {
		if err := g.Validate(); err != nil {
			return err
		}
	}
	return nil
}

// validate reports what is wrong with credentials that somebody chose.
func (c Credentials) validate() error {
	if !allIn(c.AccessKey, 3, 128, "._@+-") {
		return fmt.Errorf("%w: an access key has 3 to 128 letters, digits or ._@+-", ErrInvalidUser)
	}
	if len(c.SecretKey) < 8 || len(c.SecretKey) > 256 {
		return fmt.Errorf("%w: a secret key has 8 to 256 characters", ErrInvalidUser)
	}
	for i := range len(c.SecretKey) {
		if c.SecretKey[i] <= ' ' || c.SecretKey[i] > '~' {
			return fmt.Errorf("%w: a secret key has only printable ASCII characters and no blanks", ErrInvalidUser)
		}
	}
	return nil
}

// allIn reports whether s has min to max ASCII letters, digits and characters of more.
func allIn(s string, least, most int, more string) bool {
	if len(s) < least || len(s) > most {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte(more, c) >= 0) {
			return false
		}
	}
	return true
}
