package layout

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"
)

// A put that can be resumed writes a file beside those of other puts, named after the key, and syncs it each time that
// KeptStep bytes were added, before it writes on. So the length tells what is durable in any case.
const (
	KeptStep   = 16 << 20
	keptPrefix = "kept-"

	// StaleAfter is how old the file of a put is when its writer is taken for dead, and KeptFor how old that of one that
	// can be resumed.
	StaleAfter = 24 * time.Hour
	KeptFor    = 14 * 24 * time.Hour
)

// KeptPath returns the path of the file that a put of key writes which can be resumed.
func KeptPath(key string) string {
	sum := sha256.Sum256([]byte(key))
	return Temp + "/" + keptPrefix + hex.EncodeToString(sum[:16])
}

// Kept returns how much of such a file of a given length is kept of a put of size bytes.
func Kept(length, size int64) int64 {
	if length > size {
		return 0
	}
	return max(length-1, 0) / KeptStep * KeptStep
}

// Stale reports whether a file below Temp is of a writer that died, by its name and its age.
func Stale(name string, age time.Duration) bool {
	if strings.HasPrefix(name, keptPrefix) {
		return age > KeptFor
	}
	return age > StaleAfter
}
