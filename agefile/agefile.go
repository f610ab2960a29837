// Package agefile encrypts streams for people, in the age format (age-encryption.org/v1): under a passphrase, or for
// recipients with age or SSH keys. Files of the age tool open here and the other way round.
//
// It promises that nothing of a stream that was changed is taken for whole: what was read until then is followed by an
// error. It must never import another package of this module besides the vocabulary at the root.
package agefile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"filippo.io/age/armor"

	"firn"
)

// maxKeyFile bounds a file with recipients or identities, in bytes.
const maxKeyFile = 1 << 20

// workFactor is log2 of the cost of a passphrase, about a second; more than maxWorkFactor is not tried.
const (
	workFactor    = 18
	maxWorkFactor = 22
)

// Recipients reads whom to encrypt for: age1..., ssh-ed25519 ..., ssh-rsa ..., or @FILE with one of those a line.
func Recipients(specs []string) ([]age.Recipient, error) {
	var out []age.Recipient
	for _, s := range specs {
		lines := []string{s}
		if path, ok := strings.CutPrefix(s, "@"); ok {
			b, err := readFile(path)
			if err != nil {
				return nil, err
			}
			lines = strings.Split(string(b), "\n")
		}
		for _, l := range lines {
			if l = strings.TrimSpace(l); l == "" || l[0] == '#' {
				continue
			}
			r, err := recipient(l)
			if err != nil {
				return nil, firn.NewError(firn.Invalid, fmt.Sprintf("recipient %.20q...: want age1..., ssh-ed25519 ..., ssh-rsa ... or @FILE", l))
			}
			out = append(out, r)
		}
	}
	if len(specs) > 0 && len(out) == 0 {
		return nil, firn.NewError(firn.Invalid, "there is no recipient in the file")
	}
	return out, nil
}

func recipient(s string) (age.Recipient, error) {
	if strings.HasPrefix(s, "ssh-") {
		return agessh.ParseRecipient(s)
	}
	return age.ParseX25519Recipient(s)
}

// Passphrase returns the recipient of a passphrase.
func Passphrase(p []byte) (age.Recipient, error) {
	r, err := age.NewScryptRecipient(string(p))
	if err != nil {
		return nil, firn.NewError(firn.Invalid, "the passphrase is empty")
	}
	r.SetWorkFactor(workFactor)
	return r, nil
}

// Identities reads the keys in files: of age-keygen, or private SSH keys without a passphrase.
func Identities(paths []string) ([]age.Identity, error) {
	var out []age.Identity
	for _, path := range paths {
		b, err := readFile(path)
		if err != nil {
			return nil, err
		}
		if bytes.HasPrefix(bytes.TrimSpace(b), []byte("-----BEGIN")) {
			id, err := agessh.ParseIdentity(b)
			if err != nil {
				return nil, firn.NewError(firn.Invalid, path+": not a private SSH key without a passphrase")
			}
			out = append(out, id)
			continue
		}
		ids, err := age.ParseIdentities(bytes.NewReader(b))
		if err != nil {
			return nil, firn.NewError(firn.Invalid, path+": not a file of age-keygen, nor a private SSH key")
		}
		out = append(out, ids...)
	}
	return out, nil
}

// PassphraseIdentity returns the identity of a passphrase.
func PassphraseIdentity(p []byte) (age.Identity, error) {
	id, err := age.NewScryptIdentity(string(p))
	if err != nil {
		return nil, firn.NewError(firn.Invalid, "the passphrase is empty")
	}
	id.SetMaxWorkFactor(maxWorkFactor)
	return id, nil
}

// Encrypt writes src to dst, encrypted; as text where armored.
func Encrypt(dst io.Writer, src io.Reader, armored bool, to ...age.Recipient) (err error) {
	out := dst
	if armored {
		a := armor.NewWriter(dst)
		defer func() {
			if err == nil {
				err = a.Close()
			}
		}()
		out = a
	}
	w, err := age.Encrypt(out, to...)
	if err != nil {
		return &firn.Error{Kind: firn.Invalid, Op: "encrypt", Err: err}
	}
	if _, err := io.Copy(w, src); err != nil {
		return err
	}
	return w.Close()
}

// Decrypt returns the plain stream of src, which may be armored. firn.Denied where no identity opens it, firn.Corrupt
// where it is no age file; reading what was changed or cut off ends with firn.Corrupt too.
func Decrypt(src io.Reader, ids ...age.Identity) (io.Reader, error) {
	head := make([]byte, len(armor.Header))
	n, err := io.ReadFull(src, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, err
	}
	src = io.MultiReader(bytes.NewReader(head[:n]), src)
	if string(head[:n]) == armor.Header {
		src = armor.NewReader(src)
	}
	r, err := age.Decrypt(src, ids...)
	var none *age.NoIdentityMatchError
	switch {
	case errors.As(err, &none):
		return nil, firn.NewError(firn.Denied, "wrong password, or none of the keys is one that it was encrypted for")
	case err != nil:
		return nil, &firn.Error{Kind: firn.Corrupt, Op: "decrypt", Err: fmt.Errorf("not an age file, or damaged: %w", err)}
	}
	return &checked{r}, nil
}

// checked gives errors of the format their kind.
type checked struct{ r io.Reader }

func (c *checked) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = &firn.Error{Kind: firn.Corrupt, Op: "decrypt", Err: fmt.Errorf("changed or cut off: %w", err)}
	}
	return n, err
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxKeyFile))
}
