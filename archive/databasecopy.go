package archive

import (
	"context"
	"io"
	"os"
	"strings"
)

// IsDatabase reports whether a file is an SQLite database.
func IsDatabase(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	p := make([]byte, len(databaseMagic))
	n, err := io.ReadFull(f, p)
	if n < len(p) {
		return false, nil // too short, or not to be read: whoever reads it all will tell
	}
	return err == nil && string(p) == databaseMagic, nil
}

// CopyDatabase makes a consistent copy of an SQLite database in a new file, whatever is written to it meanwhile, and
// checks the copy.
func CopyDatabase(ctx context.Context, from, to string) error { return copyDatabase(ctx, from, to) }

// DatabaseLog reports whether path is named as a log that SQLite keeps beside the database base, which a copy of it must
// not have beside it.
func DatabaseLog(path string) (base string, ok bool) {
	for _, suffix := range logSuffixes {
		if base, ok := strings.CutSuffix(path, suffix); ok {
			return base, true
		}
	}
	return "", false
}
