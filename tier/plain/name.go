package plain

import (
	"encoding/hex"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/zeebo/blake3"
)

const (
	objectsPrefix = "objects/"
	longPart      = "%long"
	maxPart       = 200 // bytes of a part of a name: directories take 255, and a suffix follows
	maxName       = 700 // bytes of a whole name, of the 900 a place takes
)

// Names returns the names under which a version may be kept, the best first. All are the version's own: no other version
// of any key has one of them but the first, which a version without an id shares with its predecessors and successors.
// The next is for when the first is taken, the one with the time for when that is, too, by copies that were given up and are
// not removed yet. The long ones are for places that cannot hold both "a" and "a/b".
func Names(bucket, key, versionID string, clock uint64, now time.Time) []string {
	suffix := fmt.Sprintf("%%~%016x", clock)
	again := fmt.Sprintf("%s-%x", suffix, now.UnixMilli())
	h := blake3.Sum256([]byte(key))
	long := objectsPrefix + bucket + "/" + longPart + "/" + hex.EncodeToString(h[:16])
	name, ok := escape(key)
	if !ok {
		return []string{long + suffix, long + again}
	}
	name = objectsPrefix + bucket + "/" + name
	list := []string{name + suffix, name + again, long + suffix, long + again}
	if versionID == "null" {
		list = append([]string{name}, list...)
	}
	return list
}

// escape writes a key so that every place takes it and people can read it: what cannot be in a name becomes a percent
// sign and two digits, an empty part "%-". It reports whether the result is short enough.
func escape(key string) (string, bool) {
	var b strings.Builder
	for i, part := range strings.Split(key, "/") {
		if i > 0 {
			b.WriteByte('/')
		}
		begin := b.Len()
		switch part {
		case "":
			b.WriteString("%-")
		case ".":
			b.WriteString("%2E")
		case "..":
			b.WriteString("%2E%2E")
		default:
			for len(part) > 0 {
				r, n := utf8.DecodeRuneInString(part)
				if r < 0x20 || r >= 0x7f && r < 0xa0 || r == utf8.RuneError && n == 1 || strings.ContainsRune(`%\`, r) {
					for i := range n {
						fmt.Fprintf(&b, "%%%02X", part[i])
					}
				} else {
					b.WriteString(part[:n])
				}
				part = part[n:]
			}
		}
		if b.Len()-begin > maxPart || b.Len() > maxName {
			return "", false
		}
	}
	return b.String(), true
}
