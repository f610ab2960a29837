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
	"firn/seal"
)

// Limits of the user store.
const (
	MaxUsers    = 10_000 // users of a site
	MaxKeys     = 8      // access keys of a user
	MaxGrants   = 256    // grants of a user
	MaxEntities = 20_000 // users within accounts, groups, roles, policies and providers of a site
	MaxInside   = 1_000  // of them, in the account of one user
)

// RootName is the name of the root user, who is not stored among the others.
const RootName = "root"

// Errors of changes to users.
var (
	// ErrInvalidUser: a name, access key or secret key breaks the rules for them.
	ErrInvalidUser = firn.NewError(firn.Invalid, "invalid user")
	// ErrLimit: a limit of the user store is reached.
	ErrLimit = firn.NewError(firn.Conflict, "too many users, keys, grants or policies")
	// ErrOwnsBuckets: a user to be removed owns buckets.
	ErrOwnsBuckets = firn.NewError(firn.Conflict, "the user owns buckets")
)

// Keys in the metadata store; docs/format/users.md describes them.
const (
	userPrefix   = "au"
	userEnd      = "av"
	rootKey      = "ar"
	entityPrefix = "ai" // then canonical id of the account, kind, lower-case name
	entityEnd    = "aj"
	usedPrefix   = "al" // then access key
	usedEnd      = "am"
)

// recordVersion is the version of stored records that this build writes; it reads version 1 too.
const recordVersion = 2

// kindBytes are the kinds in keys of the metadata store.
var kindBytes = map[Kind]byte{KindUser: 'u', KindGroup: 'g', KindRole: 'r', KindPolicy: 'p', KindProvider: 'o'}

// rootRecord keeps what of root must stay the same when its keys change.
type rootRecord struct {
	Version   int       `json:"v"` // 1: nothing of it has changed since
	Canonical string    `json:"canonical"`
	Created   time.Time `json:"created"`
}

// rootVersion is the version of root's record.
const rootVersion = 1

// Users are the users of a site, their keys, and the groups, roles and policies around them. Reads come from
// memory and never wait. All methods may be called concurrently.
type Users struct {
	db    kv.DB
	opt   UsersOptions
	snap  atomic.Pointer[View]
	root  Credentials
	token Sealer // of session tokens
	cache tokenCache
	// change is held by the one change under way, from reading the view to publishing the next. It is a
	// channel because a change waits for the disk, and who waits for it must be able to give up.
	change chan struct{}
	used   map[string]*atomic.Int64 // last use by access key; guarded by change
	saved  map[string]int64         // what of it is stored; guarded by change
}

// UsersOptions configure OpenUsers.
type UsersOptions struct {
	Now func() time.Time // clock; nil is time.Now
	// Sealer protects secrets at rest and session tokens. Nil stores secrets as they are, and session tokens end
	// with the process: for tests.
	Sealer Sealer
	// Owned returns the names of buckets that a canonical id owns; a user who owns any is not removed. Nil: none.
	Owned func(ctx context.Context, canonical string) ([]string, error)
}

// OpenUsers reads the users from db. root are the root user's credentials, which are not stored there; its
// canonical id is, made at the first opening. Secrets that an older build stored unsealed are sealed.
// ErrKeyExists where root's access key is a user's.
func OpenUsers(ctx context.Context, db kv.DB, root Credentials, o UsersOptions) (*Users, error) {
	u := &Users{
		db: db, opt: o, root: root, change: make(chan struct{}, 1), token: o.Sealer,
		used: make(map[string]*atomic.Int64), saved: make(map[string]int64),
	}
	if o.Now == nil {
		u.opt.Now = time.Now
	}
	if u.token == nil {
		u.token = &KeySealer{Key: seal.NewKey()}
	}
	if err := root.validate(); err != nil {
		return nil, firn.E("open users", "root credentials", err)
	}
	rr, err := u.openRoot(ctx)
	if err != nil {
		return nil, firn.E("open users", RootName, err)
	}
	v := &View{
		root: Identity{
			Name: RootName, AccessKey: root.AccessKey, Canonical: rr.Canonical, Account: AccountID(rr.Canonical), Root: true,
		},
		rootCreated: rr.Created,
		accounts:    map[string]*account{rr.Canonical: {}},
	}
	aws, err := awsPolicies()
	if err != nil {
		return nil, err
	}
	v.accounts[awsAccount] = &account{kinds: map[Kind]map[string]*Entity{KindPolicy: aws}}
	var stale []record
	err = db.View(ctx, func(r kv.Reader) error {
		v, stale, err = u.read(r, v)
		return err
	})
	if err == nil {
		err = u.store(ctx, stale)
	}
	if err == nil {
		err = v.index(root.SecretKey, u.used)
	}
	if err != nil {
		return nil, firn.E("open users", "", err)
	}
	u.snap.Store(v)
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
			return checkVersion(rr.Version, rootVersion)
		}
		if !errors.Is(err, kv.ErrNotFound) {
			return err
		}
		rr = rootRecord{Version: rootVersion, Canonical: newCanonical(), Created: u.opt.Now().UTC().Truncate(time.Second)}
		b, err = json.Marshal(rr)
		tx.Set([]byte(rootKey), b)
		return err
	}, []byte(rootKey))
	return rr, err
}

func checkVersion(v, newest int) error {
	if v < 1 || v > newest {
		return firn.NewError(firn.Unsupported, fmt.Sprintf("user records of version %d are not known to this build", v))
	}
	return nil
}

// record is an entity with the key it is stored at.
type record struct {
	key    []byte
	entity *Entity
}

// keyOf returns the key of an entity in the metadata store.
func keyOf(ref Ref, e *Entity) []byte {
	name := e.Name
	switch {
	case e.Canonical != "":
		return []byte(userPrefix + name)
	case ref.Kind != KindProvider:
		name = strings.ToLower(name)
	}
	return append(append([]byte(entityPrefix+ref.Account), kindBytes[ref.Kind]), name...)
}

// read reads all records into a view. stale are those whose secrets are not stored as they should be.
func (u *Users) read(r kv.Reader, v *View) (_ *View, stale []record, err error) {
	parse := func(ref Ref, key, value []byte) error {
		e := new(Entity)
		if err := json.Unmarshal(value, e); err != nil {
			return firn.NewError(firn.Corrupt, "stored record is not readable")
		}
		if err := checkVersion(e.Version, recordVersion); err != nil {
			return err
		}
		if string(keyOf(ref, e)) != string(key) {
			return firn.NewError(firn.Corrupt, "stored record is not readable")
		}
		sealed := true
		for i := range e.Keys {
			as, err := e.Keys[i].open(u.opt.Sealer)
			if err != nil {
				return err
			}
			sealed = sealed && as
		}
		if err := e.compile(); err != nil {
			return err
		}
		if !sealed {
			stale = append(stale, record{slices.Clone(key), e})
		}
		v = v.with(ref, "", e)
		return nil
	}
	err = kv.Scan(r, []byte(userPrefix), []byte(userEnd), func(key, value []byte) error {
		name := string(key[len(userPrefix):])
		return firn.E("read user", name, parse(Ref{v.root.Canonical, KindUser, name}, key, value))
	})
	if err != nil {
		return nil, nil, err
	}
	kinds := make(map[byte]Kind)
	for k, b := range kindBytes {
		kinds[b] = k
	}
	err = kv.Scan(r, []byte(entityPrefix), []byte(entityEnd), func(key, value []byte) error {
		rest := key[len(entityPrefix):]
		if len(rest) < 66 {
			return firn.E("read entity", string(rest), firn.NewError(firn.Corrupt, "stored record is not readable"))
		}
		ref := Ref{string(rest[:64]), kinds[rest[64]], string(rest[65:])}
		if v.accounts[ref.Account] == nil {
			return nil // a user removed by a build that did not know what is in an account
		}
		return firn.E("read "+string(ref.Kind), ref.Name, parse(ref, key, value))
	})
	if err != nil {
		return nil, nil, err
	}
	err = kv.Scan(r, []byte(usedPrefix), []byte(usedEnd), func(key, value []byte) error {
		var l usedRecord
		if json.Unmarshal(value, &l) == nil { // what cannot be read is only a time
			a := new(atomic.Int64)
			a.Store(l.At)
			k := string(key[len(usedPrefix):])
			u.used[k], u.saved[k] = a, l.At
		}
		return nil
	})
	return v, stale, err
}

// store writes records as they are.
func (u *Users) store(ctx context.Context, records []record) error {
	if len(records) == 0 {
		return nil
	}
	keys := make([][]byte, len(records))
	for i := range records {
		keys[i] = records[i].key
	}
	return u.db.Update(ctx, func(tx kv.Tx) error {
		for _, r := range records {
			b, err := r.entity.encode(u.opt.Sealer)
			if err != nil {
				return err
			}
			tx.Set(r.key, b)
		}
		return nil
	}, keys...)
}

// Lookup returns the secret of an access key and whom it belongs to. ErrNoSuchKey where nobody has it, or it is
// inactive or past its time. The Identity must not be changed. It has the form that package sigv4 asks for; ctx
// is not used.
func (u *Users) Lookup(_ context.Context, accessKey string) (secret string, id *Identity, err error) {
	e := u.snap.Load().keys[accessKey]
	if e == nil || e.inactive || !e.expires.IsZero() && !u.opt.Now().Before(e.expires) {
		return "", nil, ErrNoSuchKey
	}
	return e.secret, e.id, nil
}

// View returns the users as they are now.
func (u *Users) View() *View { return u.snap.Load() }

// Root returns the root user's identity.
func (u *Users) Root() Identity { return u.snap.Load().root }

// NameOf returns the name of the user with a canonical id, root included; "" where there is none.
func (u *Users) NameOf(canonical string) string { return u.snap.Load().names[canonical] }

// Exists reports whether a canonical id is a user's or root's.
func (u *Users) Exists(canonical string) bool { return u.NameOf(canonical) != "" }

// Get returns a user of the site. ErrNoSuchUser.
func (u *Users) Get(name string) (User, error) {
	v := u.snap.Load()
	e := v.accounts[v.root.Canonical].kinds[KindUser][name]
	if e == nil {
		return User{}, firn.E("get user", name, ErrNoSuchUser)
	}
	return v.user(e), nil
}

// List returns all users of the site by name, without root.
func (u *Users) List() []User {
	v := u.snap.Load()
	m := v.accounts[v.root.Canonical].kinds[KindUser]
	list := make([]User, 0, len(m))
	for _, name := range slices.Sorted(maps.Keys(m)) {
		list = append(list, v.user(m[name]))
	}
	return list
}

// Change makes one change: edit gets a view and a copy of what ref names, nil where there is nothing, and returns
// the entity to store, nil to remove it. A new name in the entity renames it. The change is durable and visible
// when Change returns nil. ErrLimit, ErrInvalidUser, ErrInvalidGrant, ErrKeyExists, *policy.Error, and
// ErrUserExists where a new name is taken.
//
// Removing a user of the site removes what its account holds; the caller sees to it that it owns no bucket.
func (u *Users) Change(ctx context.Context, op string, ref Ref, edit func(*View, *Entity) (*Entity, error)) error {
	if ref.Account == awsAccount || kindBytes[ref.Kind] == 0 {
		return firn.E(op, ref.Name, ErrDenied)
	}
	select {
	case u.change <- struct{}{}:
	case <-ctx.Done():
		return firn.E(op, ref.Name, ctx.Err())
	}
	defer func() { <-u.change }()
	return firn.E(op, ref.Name, u.apply(ctx, ref, edit))
}

// apply is Change while the change is held.
func (u *Users) apply(ctx context.Context, ref Ref, edit func(*View, *Entity) (*Entity, error)) error {
	v := u.snap.Load()
	old := v.Entity(ref)
	oldName := ""
	var e *Entity
	if old != nil {
		oldName = v.stored(Ref{ref.Account, ref.Kind, old.Name})
		e = old.clone()
	}
	e, err := edit(v, e)
	if err != nil {
		return err
	}
	var keys [][]byte
	if old != nil {
		keys = append(keys, keyOf(ref, old))
	}
	var b []byte
	switch {
	case e == nil && old == nil:
		return nil
	case e != nil:
		if err := u.admit(v, ref, old, e); err != nil {
			return err
		}
		if b, err = e.encode(u.opt.Sealer); err != nil {
			return err
		}
		keys = append(keys, keyOf(ref, e))
	}
	write := func(tx kv.Tx) error {
		if old != nil {
			tx.Delete(keys[0])
			if e == nil && old.Canonical != "" {
				inside := entityPrefix + old.Canonical
				tx.DeleteRange([]byte(inside), []byte(inside+"\xff"))
			}
		}
		if e != nil {
			tx.Set(keys[len(keys)-1], b)
		}
		return nil
	}
	next := v.with(ref, oldName, e)
	if err := next.index(u.root.SecretKey, u.used); err != nil {
		return err
	}
	if err := u.db.Update(ctx, write, keys...); err != nil {
		return err
	}
	u.snap.Store(next)
	return nil
}

// admit checks an entity that is to be stored in the place of old, nil for a new one.
func (u *Users) admit(v *View, ref Ref, old, e *Entity) error {
	if err := e.check(ref.Kind); err != nil {
		return err
	}
	if at := v.Entity(Ref{ref.Account, ref.Kind, e.Name}); at != nil && at != old {
		return ErrUserExists
	}
	if old == nil {
		site := ref.Account == v.root.Canonical
		switch {
		case site && ref.Kind == KindUser && len(v.accounts[ref.Account].kinds[KindUser]) >= MaxUsers,
			v.total >= MaxEntities, !site && v.inside(ref.Account) >= MaxInside:
			return ErrLimit
		}
	}
	return e.compile()
}

// inside counts the entities within an account.
func (v *View) inside(canonical string) (n int) {
	if a := v.accounts[canonical]; a != nil {
		for _, m := range a.kinds {
			n += len(m)
		}
	}
	return n
}

// siteUser makes a change to a user of the site.
func (u *Users) siteUser(ctx context.Context, op, name string, edit func(*View, *Entity) (*Entity, error)) error {
	root := u.snap.Load().root.Canonical
	return u.Change(ctx, op, Ref{root, KindUser, name}, func(v *View, e *Entity) (*Entity, error) {
		if e != nil && e.Name != name {
			e = nil // the commands of the site name users exactly
		}
		return edit(v, e)
	})
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
	err = u.siteUser(ctx, "add user", name, func(v *View, e *Entity) (*Entity, error) {
		switch {
		case e != nil || v.Entity(Ref{v.root.Canonical, KindUser, name}) != nil:
			return nil, ErrUserExists
		case v.keys[creds.AccessKey] != nil:
			return nil, ErrKeyExists
		}
		now := u.opt.Now().UTC().Truncate(time.Second)
		return &Entity{
			Version: recordVersion, Name: name, Canonical: v.freeCanonical(), Created: now, Grants: slices.Clone(grants),
			Keys: []Key{{AccessKey: creds.AccessKey, Created: now, Secret: creds.SecretKey}},
		}, nil
	})
	if err != nil {
		return User{}, Credentials{}, err
	}
	made, err = u.Get(name)
	return made, creds, err
}

// Remove removes a user of the site with its keys and what is within its account. ErrNoSuchUser; ErrOwnsBuckets
// where it owns buckets, which must be removed or handed over first.
func (u *Users) Remove(ctx context.Context, name string) error {
	return u.siteUser(ctx, "remove user", name, func(_ *View, e *Entity) (*Entity, error) {
		if e == nil {
			return nil, ErrNoSuchUser
		}
		return nil, u.OwnsNothing(ctx, e)
	})
}

// OwnsNothing returns ErrOwnsBuckets where a user of the site owns buckets.
func (u *Users) OwnsNothing(ctx context.Context, e *Entity) error {
	if u.opt.Owned == nil || e.Canonical == "" {
		return nil
	}
	names, err := u.opt.Owned(ctx, e.Canonical)
	if err != nil || len(names) == 0 {
		return err
	}
	more := ""
	if len(names) > 5 {
		names, more = names[:5], " and more"
	}
	return fmt.Errorf("%w: %s%s; remove them, or hand them over with --to USER", ErrOwnsBuckets, strings.Join(names, ", "), more)
}

// SetGrants replaces a user's grants. ErrNoSuchUser, ErrInvalidGrant, ErrLimit.
func (u *Users) SetGrants(ctx context.Context, name string, grants []Grant) error {
	if err := validGrants(grants); err != nil {
		return firn.E("set grants", name, err)
	}
	return u.siteUser(ctx, "set grants", name, func(_ *View, e *Entity) (*Entity, error) {
		switch {
		case e == nil:
			return nil, ErrNoSuchUser
		case e.Canonical == "" && len(grants) > 0:
			return nil, fmt.Errorf("%w: a user within root's account, as IAM makes them, has policies in their place", ErrInvalidGrant)
		}
		e.Grants = slices.Clone(grants)
		return e, nil
	})
}

// SetLimits replaces a user's limits. ErrNoSuchUser, ErrInvalidUser.
func (u *Users) SetLimits(ctx context.Context, name string, l Limits) error {
	if l.Requests < NoLimit || l.Concurrent < NoLimit || l.Rate < NoLimit || l.Rate > 0 && l.Rate < MinRate {
		return firn.E("set limits", name, fmt.Errorf(
			"%w: a limit is a positive number, 0 for the site's or -1 for none; a rate is %d bytes a second or more", ErrInvalidUser, MinRate))
	}
	return u.siteUser(ctx, "set limits", name, func(_ *View, e *Entity) (*Entity, error) {
		switch {
		case e == nil:
			return nil, ErrNoSuchUser
		case e.Canonical == "":
			return nil, fmt.Errorf("%w: a user within root's account has no bounds of its own", ErrInvalidUser)
		}
		e.Limits = l
		return e, nil
	})
}

// LimitsOf returns the limits of the account with a canonical id.
func (u *Users) LimitsOf(canonical string) Limits { return u.snap.Load().limits[canonical] }

// KeyOptions are what a key may have beside its secret.
type KeyOptions struct {
	Expires time.Time // zero never
	Policy  string    // narrows what the key may do to what this document allows; "" does not
	Note    string    // what the key is for; up to 256 characters
}

// AddKey gives a user of the site one more key: creds, or generated ones where creds is zero.
// ErrNoSuchUser, ErrKeyExists, ErrInvalidUser, ErrLimit, *policy.Error.
func (u *Users) AddKey(ctx context.Context, name string, creds Credentials, o KeyOptions) (Credentials, error) {
	creds, err := creds.orGenerated()
	if err == nil && len(o.Note) > 256 {
		err = fmt.Errorf("%w: a key's note has up to 256 characters", ErrInvalidUser)
	}
	if err != nil {
		return Credentials{}, firn.E("add key", name, err)
	}
	err = u.siteUser(ctx, "add key", name, func(v *View, e *Entity) (*Entity, error) {
		if e == nil {
			return nil, ErrNoSuchUser
		}
		return e, u.addKey(v, e, creds, o)
	})
	if err != nil {
		return Credentials{}, err
	}
	return creds, nil
}

func (u *Users) addKey(v *View, e *Entity, creds Credentials, o KeyOptions) error {
	switch {
	case len(e.Keys) >= MaxKeys:
		return ErrLimit
	case v.keys[creds.AccessKey] != nil:
		return ErrKeyExists
	}
	e.Keys = append(e.Keys, Key{
		AccessKey: creds.AccessKey, Created: u.opt.Now().UTC().Truncate(time.Second), Secret: creds.SecretKey,
		Expires: o.Expires, Policy: o.Policy, Note: o.Note,
	})
	return nil
}

// RotateKey gives the user of an access key a new one that may do the same, and lets the old one end after
// overlap. ErrNoSuchKey, ErrLimit; ErrDenied for root's.
func (u *Users) RotateKey(ctx context.Context, accessKey string, overlap time.Duration) (Credentials, error) {
	creds := NewCredentials()
	err := u.changeKey(ctx, "rotate key", accessKey, func(v *View, e *Entity, i int) error {
		old := e.Keys[i]
		if err := u.addKey(v, e, creds, KeyOptions{Expires: old.Expires, Policy: old.Policy, Note: old.Note}); err != nil {
			return err
		}
		end := u.opt.Now().Add(overlap).UTC().Truncate(time.Second)
		if old.Expires.IsZero() || end.Before(old.Expires) {
			e.Keys[i].Expires = end
		}
		return nil
	})
	if err != nil {
		return Credentials{}, err
	}
	return creds, nil
}

// RemoveKey removes an access key from its user, who may be left without any. Root's key cannot be removed
// here: ErrDenied. ErrNoSuchKey.
func (u *Users) RemoveKey(ctx context.Context, accessKey string) error {
	return u.changeKey(ctx, "remove key", accessKey, func(_ *View, e *Entity, i int) error {
		e.Keys = slices.Delete(e.Keys, i, i+1)
		return nil
	})
}

// changeKey changes the key at index i of the user it belongs to.
func (u *Users) changeKey(ctx context.Context, op, accessKey string, edit func(v *View, e *Entity, i int) error) error {
	v := u.snap.Load()
	k := v.keys[accessKey]
	switch {
	case k == nil:
		return firn.E(op, accessKey, ErrNoSuchKey)
	case k.id.Root:
		return firn.E(op, accessKey, ErrDenied)
	}
	ref := Ref{k.id.Canonical, KindUser, k.id.Name}
	if !k.id.Within {
		ref.Account = v.root.Canonical
	}
	return u.Change(ctx, op, ref, func(v *View, e *Entity) (*Entity, error) {
		if e == nil {
			return nil, ErrNoSuchKey
		}
		i := slices.IndexFunc(e.Keys, func(k Key) bool { return k.AccessKey == accessKey })
		if i < 0 {
			return nil, ErrNoSuchKey
		}
		return e, edit(v, e, i)
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
