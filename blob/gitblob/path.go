package gitblob

import (
	"fmt"
	"strconv"
	"strings"
)

// piecesSuffix ends the name of the directory that holds the pieces of a large blob. No encoded part ends so, because
// "%" is always followed by two hexadecimal digits there.
const piecesSuffix = "%pieces"

// encodePath returns the path of a key in the tree. Every part stays readable where it can: what some Git host, file
// system or shell would not take as a name is written as % and two upper-case hexadecimal digits.
func encodePath(key string) string {
	var b strings.Builder
	for i := 0; i < len(key); i++ {
		c := key[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("/_-+=@,", c) >= 0:
			b.WriteByte(c)
		case c == '.' && i > 0 && key[i-1] != '/':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// decodePath is the inverse of encodePath and reports false for any other path: a file that somebody else put there.
func decodePath(path string) (string, bool) {
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		if path[i] != '%' {
			b.WriteByte(path[i])
			continue
		}
		if i+3 > len(path) {
			return "", false
		}
		c, err := strconv.ParseUint(path[i+1:i+3], 16, 8)
		if err != nil {
			return "", false
		}
		b.WriteByte(byte(c))
		i += 2
	}
	key := b.String()
	return key, encodePath(key) == path
}

// piecePath returns the path of the n-th piece.
func piecePath(key string, n int) string {
	return fmt.Sprintf("%s%s/%08d", encodePath(key), piecesSuffix, n)
}

// parsePath returns the key that a file belongs to and its number as a piece, or -1 for a whole blob.
func parsePath(path string) (key string, piece int, ok bool) {
	dir, name, found := strings.Cut(path, piecesSuffix+"/")
	if !found {
		key, ok = decodePath(path)
		return key, -1, ok
	}
	key, ok = decodePath(dir)
	n, err := strconv.ParseUint(name, 10, 31)
	return key, int(n), ok && err == nil && len(name) == 8
}
