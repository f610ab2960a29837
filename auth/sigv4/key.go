package sigv4

import (
	"crypto/hmac"
	"crypto/sha256"
	"strings"
	"sync"
)

// macKey is a signing key with HMAC's two padded blocks made ready.
type macKey struct{ inner, outer [sha256.BlockSize]byte }

// sum returns HMAC-SHA256 of msg. buf is working space. RFC 2104 written out, because hmac.New allocates
// and pads the key again for every message.
func (k *macKey) sum(buf *[]byte, msg []byte) [sha256.Size]byte {
	b := append((*buf)[:0], k.inner[:]...)
	b = append(b, msg...)
	in := sha256.Sum256(b)
	b = append(b[:0], k.outer[:]...)
	b = append(b, in[:]...)
	*buf = b
	return sha256.Sum256(b)
}

func hmacSum(key []byte, msg string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(msg))
	return m.Sum(nil)
}

// deriveKey derives the signing key of a credential scope.
func deriveKey(secret, date, region, service string) *macKey {
	k := hmacSum([]byte("AWS4"+secret), date)
	k = hmacSum(k, region)
	k = hmacSum(k, service)
	k = hmacSum(k, terminator)
	m := new(macKey)
	for i := range m.inner {
		var c byte
		if i < len(k) {
			c = k[i]
		}
		m.inner[i], m.outer[i] = c^0x36, c^0x5c
	}
	return m
}

// cacheSize is the number of signing keys in one generation of the cache; two are kept.
const cacheSize = 512

// keyCache remembers signing keys, which hold for a day. When the young generation is full it becomes the
// old one and the old is dropped, so that it is bounded and keys in use survive.
type keyCache struct {
	mu struct {
		sync.RWMutex
		young, old map[cacheKey]cached
	}
}

type cacheKey struct{ accessKey, date, region string }

// cached is a derived key with the secret it came from: a changed secret must not match.
type cached struct {
	secret string
	key    *macKey
}

func (c *keyCache) get(cred *credential, service, secret string) *macKey {
	k := cacheKey{cred.accessKey, cred.date, cred.region}
	c.mu.RLock()
	e, ok := c.mu.young[k]
	if !ok {
		e = c.mu.old[k]
	}
	c.mu.RUnlock()
	if e.key == nil || e.secret != secret {
		e = cached{secret, deriveKey(secret, cred.date, cred.region, service)}
		ok = false
	}
	if ok {
		return e.key
	}
	// The strings are parts of a request's header; clones let that go.
	k = cacheKey{strings.Clone(k.accessKey), strings.Clone(k.date), strings.Clone(k.region)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.young == nil || len(c.mu.young) >= cacheSize {
		c.mu.old, c.mu.young = c.mu.young, make(map[cacheKey]cached)
	}
	c.mu.young[k] = e
	return e.key
}
