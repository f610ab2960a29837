// Package seal encrypts: keys derived from one master key, whole small blobs in a box, and the master key under
// passwords.
//
// It owns the choice of algorithms: AES-256-GCM with a key of its own for every box and pack, so that no nonce is ever
// used twice; BLAKE3 to derive keys; Argon2id for passwords. It promises that what was changed, cut or put under
// another name does not open. It must never import another package of this module besides the vocabulary at the root.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"

	"github.com/zeebo/blake3"

	"firn"
)

// Key is a secret of 256 bits.
type Key [32]byte

// NewKey returns a random key.
func NewKey() Key {
	var k Key
	_, _ = rand.Read(k[:]) // never fails: it ends the process where the system has no randomness
	return k
}

// SaltSize is the length in bytes of the salts that make keys different.
const SaltSize = 16

// NewSalt returns a random salt.
func NewSalt() [SaltSize]byte {
	var s [SaltSize]byte
	_, _ = rand.Read(s[:])
	return s
}

// Overhead is how many bytes longer sealed bytes are than plain ones.
const Overhead = 16

// Derive returns the key for a purpose: BLAKE3, keyed with k, of the label, a zero byte and the salt.
func (k *Key) Derive(label string, salt []byte) Key {
	h, err := blake3.NewKeyed(k[:])
	if err != nil {
		panic(err) // only for a key that is not 32 bytes long
	}
	_, _ = h.WriteString(label)
	_, _ = h.Write([]byte{0})
	_, _ = h.Write(salt)
	var d Key
	h.Sum(d[:0])
	return d
}

// AEAD returns AES-256-GCM under k. The nonce of 12 bytes must differ for each message under one key: see Nonce.
func (k *Key) AEAD() cipher.AEAD {
	b, err := aes.NewCipher(k[:])
	if err != nil {
		panic(err) // only for a key that is not 16, 24 or 32 bytes long
	}
	g, err := cipher.NewGCM(b)
	if err != nil {
		panic(err) // only for a cipher with other blocks than AES
	}
	return g
}

// Nonce writes n as a nonce into p.
func Nonce(p *[12]byte, n uint64) []byte {
	binary.BigEndian.PutUint32(p[:], 0)
	binary.BigEndian.PutUint64(p[4:], n)
	return p[:]
}

// A box is a header of 32 bytes (the magic, the version, 7 zero bytes, the salt of its key) and the sealed content.
const (
	boxMagic   = "firnSEAL"
	boxVersion = 1
	boxHeader  = 32
	boxLabel   = "box"
)

// BoxOverhead is how many bytes longer a box is than its content.
const BoxOverhead = boxHeader + Overhead

// Box appends the sealed content to dst. It opens only with the same context, which is what the blob is and where it
// belongs, such as its name.
func (k *Key) Box(dst []byte, context string, plain []byte) []byte {
	salt := NewSalt()
	var head [boxHeader]byte
	copy(head[:], boxMagic)
	head[8] = boxVersion
	copy(head[16:], salt[:])
	key := k.Derive(boxLabel, salt[:])
	var nonce [12]byte
	dst = append(dst, head[:]...)
	return key.AEAD().Seal(dst, nonce[:], plain, append(head[:], context...))
}

// Unbox returns the content of a box, in the memory of p. It fails with firn.Corrupt for what is not a box or does not
// open, and with firn.Unsupported for a box of a later version.
func (k *Key) Unbox(context string, p []byte) ([]byte, error) {
	if len(p) < BoxOverhead || string(p[:8]) != boxMagic {
		return nil, firn.NewError(firn.Corrupt, "not a sealed blob, or cut off")
	}
	if p[8] != boxVersion || [7]byte(p[9:16]) != [7]byte{} {
		return nil, firn.NewError(firn.Unsupported, "sealed by a later version of firn: update this one")
	}
	key := k.Derive(boxLabel, p[16:boxHeader])
	var nonce [12]byte
	aad := append(append(make([]byte, 0, boxHeader+len(context)), p[:boxHeader]...), context...)
	plain, err := key.AEAD().Open(p[boxHeader:boxHeader], nonce[:], p[boxHeader:], aad)
	if err != nil {
		return nil, firn.NewError(firn.Corrupt, "damaged, or not of this repository: its seal does not open")
	}
	return plain, nil
}
