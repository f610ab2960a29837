package seal

import (
	"golang.org/x/crypto/argon2"

	"firn"
)

// Cost is what deriving a key from a password costs, for the owner and for whoever guesses. It is stored with each
// wrapped key.
type Cost struct {
	Memory  uint32 `json:"memory_kib"`
	Time    uint32 `json:"time"` // passes over the memory
	Threads uint8  `json:"threads"`
}

// DefaultCost is 19 MiB and 2 passes, the least that OWASP's Password Storage Cheat Sheet recommends. A backup that finds
// nothing changed takes about as long as 32 MiB and 3 passes would take on top. A long
// password makes up for it: each character more costs a guesser more than any number here.
func DefaultCost() Cost { return Cost{Memory: 19 << 10, Time: 2, Threads: 4} }

// Check refuses, with firn.Invalid, what protects nothing, and what would take a machine down: a stored cost is read
// before anything proves who wrote it.
func (c Cost) Check() error {
	if c.Memory < 8<<10 || c.Memory > 4<<20 || c.Time < 1 || c.Time > 64 || c.Threads < 1 || c.Threads > 64 {
		return firn.NewError(firn.Invalid,
			"the cost of a password must be 8 MiB to 4 GiB of memory, 1 to 64 passes, 1 to 64 threads")
	}
	return nil
}

// Wrap seals secret under a password. The context must be given again to open it.
func Wrap(password, secret []byte, salt [SaltSize]byte, cost Cost, context string) ([]byte, error) {
	if err := cost.Check(); err != nil {
		return nil, err
	}
	key := passwordKey(password, salt, cost)
	var nonce [12]byte // the key is used once: its salt is random
	return key.AEAD().Seal(nil, nonce[:], secret, []byte(context)), nil
}

// Unwrap opens what Wrap sealed. It fails with firn.Denied for another password, and for what was changed since.
func Unwrap(password, wrapped []byte, salt [SaltSize]byte, cost Cost, context string) ([]byte, error) {
	if err := cost.Check(); err != nil {
		return nil, err
	}
	key := passwordKey(password, salt, cost)
	var nonce [12]byte
	secret, err := key.AEAD().Open(nil, nonce[:], wrapped, []byte(context))
	if err != nil {
		return nil, firn.NewError(firn.Denied, "wrong password")
	}
	return secret, nil
}

func passwordKey(password []byte, salt [SaltSize]byte, c Cost) Key {
	return Key(argon2.IDKey(password, salt[:], c.Time, c.Memory, c.Threads, 32))
}
