package keys

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"strings"
	"time"

	"firn"
	"firn/seal"
)

const (
	// maxSecret bounds a passphrase, a key file and what a command prints, in bytes.
	maxSecret = 64 << 10
	// commandTime bounds how long a command may take.
	commandTime = time.Minute
	minSecret   = 8
)

// SecretFile returns the secret in a file, without the line end at its end. Where makeIt is set and the file is not there,
// it is made with a random secret.
func SecretFile(path string, makeIt bool) Secret {
	return func(context.Context) ([]byte, seal.Cost, error) {
		b, err := readBounded(path, maxSecret)
		if errors.Is(err, fs.ErrNotExist) && makeIt {
			var r [32]byte
			_, _ = rand.Read(r[:]) // never fails
			b = hex.AppendEncode(nil, r[:])
			err = writeDurably(path, append(bytes.Clone(b), '\n'))
		}
		if err != nil {
			return nil, seal.Cost{}, err
		}
		b, cost, err := checkSecret(b, path)
		if raw, herr := hex.DecodeString(string(b)); herr == nil && len(raw) >= 32 {
			cost = cheapest() // nobody guesses 256 random bits, however fast each guess is
		}
		return b, cost, err
	}
}

// SecretText returns a passphrase that is there already.
func SecretText(passphrase string) Secret {
	return func(context.Context) ([]byte, seal.Cost, error) {
		return checkSecret([]byte(passphrase), "the passphrase")
	}
}

// SecretCommand returns what a command prints: one that has a TPM, a smart card or a vault give it out. Its words are
// divided by spaces and no shell reads them.
func SecretCommand(command string) Secret {
	return func(ctx context.Context) ([]byte, seal.Cost, error) {
		words := strings.Fields(command)
		if len(words) == 0 {
			return nil, seal.Cost{}, firn.NewError(firn.Invalid, "the command that gives the keyring's secret is empty")
		}
		ctx, cancel := context.WithTimeout(ctx, commandTime)
		defer cancel()
		var out, text limited
		out.left, text.left = maxSecret, 1<<10
		c := exec.CommandContext(ctx, words[0], words[1:]...)
		c.Stdout, c.Stderr = &out, &text
		c.WaitDelay = time.Second // for children that keep its output open
		if err := c.Run(); err != nil {
			return nil, seal.Cost{}, &firn.Error{Kind: firn.Unavailable, Op: "run", Subject: words[0], Err: fmt.Errorf(
				"%w %s: it must print the secret of the keyring and end with status 0", err,
				bytes.TrimSpace(text.Bytes()))}
		}
		return checkSecret(out.Bytes(), "what "+words[0]+" printed")
	}
}

func checkSecret(b []byte, what string) ([]byte, seal.Cost, error) {
	b = bytes.TrimRight(b, "\r\n")
	if len(b) < minSecret {
		return nil, seal.Cost{}, firn.NewError(firn.Invalid, fmt.Sprintf("%s is shorter than %d bytes: too short to protect keys", what, minSecret))
	}
	return b, seal.DefaultCost(), nil
}

// cheapest is the least cost that is taken.
func cheapest() seal.Cost { return seal.Cost{Memory: 8 << 10, Time: 1, Threads: 1} }

// limited keeps the first bytes written to it.
type limited struct {
	bytes.Buffer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	n := min(len(p), l.left)
	l.left -= n
	_, _ = l.Buffer.Write(p[:n])
	return len(p), nil
}
