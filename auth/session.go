package auth

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"time"

	"firn"
	"firn/auth/policy"
	"firn/kv"
)

// Session is what temporary credentials are asked for. Either User or Role is set.
type Session struct {
	Caller *Identity // of GetSessionToken: the credentials are the caller's for a time
	Role   *Entity   // of AssumeRole
	Ref    Ref       // of the role
	Name   string    // of a role's session
	Policy string    // narrows the session; "" does not
	Tags   map[string]string
	Life   time.Duration
}

// claims are the content of a session token: nothing about temporary credentials is stored, so that they cost
// nothing to make and are bounded by their time alone. They hold only as long as the user or role is there.
type claims struct {
	AccessKey string            `json:"k"`
	Secret    string            `json:"s"`
	Issued    int64             `json:"i"`
	Expires   int64             `json:"e"`
	Parent    string            `json:"u,omitempty"` // access key that GetSessionToken was called with
	Account   string            `json:"a,omitempty"` // canonical id of the role's account
	Role      string            `json:"r,omitempty"` // unique id of the role
	RoleName  string            `json:"n,omitempty"`
	Session   string            `json:"x,omitempty"`
	Policy    string            `json:"p,omitempty"`
	Tags      map[string]string `json:"t,omitempty"`

	narrow *NamedPolicy
}

const tokenPurpose = "firn session token 1"

// maxToken bounds a session token in bytes; with the rest of a request's header it must stay below the door's
// bound.
const maxToken = 12 << 10

// NewSession makes temporary credentials. *policy.Error where the session's policy is wrong, ErrLimit where
// policy and tags are too large for a token.
func (u *Users) NewSession(q Session) (c Credentials, token string, expires time.Time, err error) {
	now := u.opt.Now().UTC().Truncate(time.Second)
	expires = now.Add(q.Life)
	cl := claims{
		AccessKey: "ASIA" + randomText(16, upperDigits), Secret: randomText(40, lettersDigit),
		Issued: now.Unix(), Expires: expires.Unix(), Policy: q.Policy, Tags: q.Tags,
	}
	if q.Role != nil {
		cl.Account, cl.Role, cl.RoleName, cl.Session = q.Ref.Account, q.Role.ID, q.Role.Name, q.Name
	} else {
		cl.Parent = q.Caller.AccessKey
	}
	if q.Policy != "" {
		if _, err := policy.ParseIdentity([]byte(q.Policy)); err != nil {
			return c, "", expires, err
		}
	}
	b, err := json.Marshal(cl)
	if err == nil {
		b, err = u.token.Seal(tokenPurpose, b)
	}
	if err != nil {
		return c, "", expires, firn.E("make session", cl.Session, err)
	}
	if token = base64.RawURLEncoding.EncodeToString(b); len(token) > maxToken {
		return c, "", expires, ErrLimit
	}
	return Credentials{AccessKey: cl.AccessKey, SecretKey: cl.Secret}, token, expires, nil
}

// LookupSession returns the secret of temporary credentials and whom they stand for. ErrToken where the token is
// not one that was given out with the access key, or the user or role is gone; ErrExpired.
func (u *Users) LookupSession(_ context.Context, accessKey, token string) (secret string, id *Identity, err error) {
	c := u.cache.get(token)
	if c == nil {
		if c, err = u.openToken(token); err != nil {
			return "", nil, err
		}
		u.cache.put(token, c)
	}
	if c.AccessKey != accessKey {
		return "", nil, ErrToken
	}
	if u.opt.Now().Unix() >= c.Expires {
		return "", nil, ErrExpired
	}
	v := u.snap.Load()
	if c.Role == "" {
		_, parent, err := u.Lookup(context.Background(), c.Parent)
		if err != nil {
			return "", nil, ErrToken
		}
		own := *parent
		own.AccessKey, own.Issued, own.Temporary, own.used = accessKey, time.Unix(c.Issued, 0), true, nil
		return c.Secret, &own, nil
	}
	role := v.Entity(Ref{c.Account, KindRole, c.RoleName})
	if role == nil || role.ID != c.Role {
		return "", nil, ErrToken
	}
	tags := role.Tags
	if len(c.Tags) > 0 {
		tags = maps.Clone(role.Tags)
		if tags == nil {
			tags = make(map[string]string)
		}
		maps.Copy(tags, c.Tags)
	}
	return c.Secret, &Identity{
		Name: c.RoleName + "/" + c.Session, AccessKey: accessKey, Canonical: c.Account, Account: AccountID(c.Account),
		Within: true, Site: c.Account == v.root.Canonical, UserID: c.Role + ":" + c.Session, Path: role.Path,
		Role: role.Name, Session: c.Session, Tags: tags, Issued: time.Unix(c.Issued, 0), Temporary: true,
		policies: v.policiesOf(nil, role), boundary: v.boundaryOf(role), narrow: c.narrow,
	}, nil
}

func (u *Users) openToken(token string) (*claims, error) {
	if len(token) > maxToken {
		return nil, ErrToken
	}
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err == nil {
		b, err = u.token.Open(tokenPurpose, b)
	}
	c := new(claims)
	if err != nil || json.Unmarshal(b, c) != nil {
		return nil, ErrToken
	}
	if c.Policy != "" {
		p, err := policy.ParseIdentity([]byte(c.Policy))
		if err != nil {
			return nil, ErrToken
		}
		c.narrow = &NamedPolicy{"of the session", p}
	}
	return c, nil
}

// tokenCacheSize is the number of tokens in one generation of the cache; two are kept.
const tokenCacheSize = 512

// tokenCache remembers opened tokens. When the young generation is full it becomes the old one, so that it is
// bounded and tokens in use survive.
type tokenCache struct {
	mu struct {
		sync.RWMutex
		young, old map[string]*claims
	}
}

func (t *tokenCache) get(token string) *claims {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if c := t.mu.young[token]; c != nil {
		return c
	}
	return t.mu.old[token]
}

func (t *tokenCache) put(token string, c *claims) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.young == nil || len(t.mu.young) >= tokenCacheSize {
		t.mu.old, t.mu.young = t.mu.young, make(map[string]*claims)
	}
	t.mu.young[token] = c
}

// usedRecord is the stored form of a key's last use.
type usedRecord struct {
	Version int   `json:"v"`
	At      int64 `json:"at"` // seconds since 1970
}

// Bounds of what is written about last uses.
const (
	usedEvery = 15 * time.Minute
	usedBatch = 1000 // keys in one transaction
)

// Run writes down, every quarter of an hour and at the end, when keys were last used. It returns nil when ctx
// ends; what could not be written is tried again at the next turn.
func (u *Users) Run(ctx context.Context) error {
	t := time.NewTicker(usedEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return u.saveUsed(context.WithoutCancel(ctx))
		case <-t.C:
			_ = u.saveUsed(ctx)
		}
	}
}

// saveUsed stores the last uses that changed, and forgets keys that are gone.
func (u *Users) saveUsed(ctx context.Context) error {
	u.change <- struct{}{}
	defer func() { <-u.change }()
	v := u.snap.Load()
	var set, gone []string
	for _, k := range slices.Sorted(maps.Keys(u.used)) {
		switch {
		case v.keys[k] == nil:
			gone = append(gone, k)
		case u.used[k].Load() != u.saved[k]:
			set = append(set, k)
		}
	}
	for len(set)+len(gone) > 0 {
		s, g := set[:min(len(set), usedBatch)], gone[:min(len(gone), usedBatch)]
		set, gone = set[len(s):], gone[len(g):]
		at := make(map[string]int64, len(s))
		err := u.db.Update(ctx, func(tx kv.Tx) error {
			for _, k := range s {
				at[k] = u.used[k].Load()
				b, err := json.Marshal(usedRecord{1, at[k]})
				if err != nil {
					return err
				}
				tx.Set([]byte(usedPrefix+k), b)
			}
			for _, k := range g {
				tx.Delete([]byte(usedPrefix + k))
			}
			return nil
		}, []byte(usedPrefix))
		if err != nil {
			return firn.E("store last uses of keys", "", err)
		}
		maps.Copy(u.saved, at)
		for _, k := range g {
			delete(u.used, k)
			delete(u.saved, k)
		}
	}
	return nil
}
