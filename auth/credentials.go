package auth

import (
	"crypto/rand"
	"encoding/hex"
)

const (
	upperDigits  = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	lettersDigit = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
)

// NewCredentials returns random credentials: an access key of 20 capital letters and digits, a secret of 40
// letters and digits (238 bits), so that both can be pasted anywhere without quoting.
func NewCredentials() Credentials {
	return Credentials{AccessKey: randomText(20, upperDigits), SecretKey: randomText(40, lettersDigit)}
}

// orGenerated returns c, checked, or new credentials where c is zero.
func (c Credentials) orGenerated() (Credentials, error) {
	if c == (Credentials{}) {
		return NewCredentials(), nil
	}
	return c, c.validate()
}

// newCanonical returns a new canonical id.
func newCanonical() string {
	var b [32]byte
	rand.Read(b[:]) // never fails: see crypto/rand
	return hex.EncodeToString(b[:])
}

// randomText returns n characters of the alphabet, each as likely as the others.
func randomText(n int, alphabet string) string {
	limit := byte(256 / len(alphabet) * len(alphabet)) // bytes from here on would favour the first characters
	out := make([]byte, 0, n)
	var b [64]byte
	for len(out) < n {
		rand.Read(b[:])
		for _, c := range b {
			if c < limit && len(out) < n {
				out = append(out, alphabet[int(c)%len(alphabet)])
			}
		}
	}
	return string(out)
}
