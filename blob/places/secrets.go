package places

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"

	"firn"
	"firn/blob"
)

// MaxSecrets bounds a credentials file in bytes.
const MaxSecrets = 64 << 10

// Secrets are the credentials of a place. What is empty comes from the standard sources of its scheme.
type Secrets struct {
	// Username is a user's name, or an access key.
	Username string
	// Password is a password, or a secret key.
	Password string
	// SessionToken goes with temporary access keys.
	SessionToken string
	// EncryptionPassword opens an encrypted place.
	EncryptionPassword string
}

// String hides all of them.
func (Secrets) String() string { return "(hidden)" }

// GoString hides all of them from %#v.
func (Secrets) GoString() string { return "(hidden)" }

// ReadSecrets reads a credentials file: lines NAME = VALUE, with username (or access_key), password (or secret_key),
// session_token and encryption_password; lines that begin with # and empty ones are comments. An error names the line
// and never its value.
func ReadSecrets(path string) (Secrets, error) {
	f, err := os.Open(path)
	if err != nil {
		return Secrets{}, firn.E("read credentials", "", blob.FileError(err))
	}
	defer f.Close()
	p, err := io.ReadAll(io.LimitReader(f, MaxSecrets+1))
	if err != nil {
		return Secrets{}, firn.E("read credentials", path, blob.FileError(err))
	}
	s, err := ParseSecrets(p)
	return s, firn.E("read credentials", path, err)
}

// ParseSecrets reads the content of a credentials file.
func ParseSecrets(p []byte) (s Secrets, err error) {
	if len(p) > MaxSecrets {
		return Secrets{}, firn.NewError(firn.Invalid, fmt.Sprintf("the file is larger than %d bytes", MaxSecrets))
	}
	fields := map[string]*string{
		"username": &s.Username, "access_key": &s.Username, "password": &s.Password, "secret_key": &s.Password,
		"session_token": &s.SessionToken, "encryption_password": &s.EncryptionPassword,
	}
	lines := bufio.NewScanner(bytes.NewReader(p))
	lines.Buffer(nil, MaxSecrets+1)
	for n := 1; lines.Scan(); n++ {
		text := strings.TrimSpace(lines.Text())
		if text == "" || text[0] == '#' {
			continue
		}
		name, value, ok := strings.Cut(text, "=")
		field := fields[strings.TrimSpace(name)]
		switch {
		case !ok || field == nil:
			return Secrets{}, firn.NewError(firn.Invalid, fmt.Sprintf(
				"line %d: want NAME = VALUE with username, password, access_key, secret_key, session_token or encryption_password", n))
		case *field != "":
			return Secrets{}, firn.NewError(firn.Invalid, fmt.Sprintf("line %d: %s is set a second time", n, strings.TrimSpace(name)))
		}
		*field = strings.TrimSpace(value)
	}
	return s, lines.Err()
}
