package layout

import (
	"strings"
	"unicode/utf8"

	"firn/blob"
)

// A part of a key is a file name as it is, but for a few: "%" is "%25"; the first dot of a name that the driver or NFS
// uses for itself is "%2E"; a part of pieceLen bytes or more is cut into pieces, each but the last a directory whose
// name ends in "%". All parts that share a piece share its directory, which keeps a walk in the order of the keys.
const (
	pieceLen = 80   // bytes of a piece; three times as many still fit into a file name
	noRest   = "%0" // the last piece where nothing is left
	hexDigit = "0123456789ABCDEF"
)

// reserved reports whether a name needs its first dot escaped: the driver's own files, what NFS makes of a file that is
// removed while open, and the names that are no names.
func reserved(name string) bool {
	return name == "." || name == ".." || strings.HasPrefix(name, ".firn-") || strings.HasPrefix(name, ".nfs")
}

// EncodeKey returns the path of a key below the root.
func EncodeKey(key string) string {
	var b strings.Builder
	b.Grow(len(key) + 8)
	for part := range strings.SplitSeq(key, "/") {
		if b.Len() > 0 {
			b.WriteByte('/')
		}
		encodePart(&b, part)
	}
	return b.String()
}

func encodePart(b *strings.Builder, part string) {
	for len(part) >= pieceLen {
		encodePiece(b, part[:pieceLen])
		b.WriteString("%/")
		if part = part[pieceLen:]; part == "" {
			b.WriteString(noRest)
			return
		}
	}
	encodePiece(b, part)
}

func encodePiece(b *strings.Builder, p string) {
	if reserved(p) {
		b.WriteString("%2E")
		p = p[1:]
	}
	for len(p) > 0 {
		r, n := utf8.DecodeRuneInString(p)
		// A cut through a character leaves bytes that some file systems refuse.
		if r == utf8.RuneError && n == 1 || p[0] == '%' {
			b.WriteByte('%')
			b.WriteByte(hexDigit[p[0]>>4])
			b.WriteByte(hexDigit[p[0]&15])
		} else {
			b.WriteString(p[:n])
		}
		p = p[n:]
	}
}

// DecodeName returns the piece that a file name stands for, and whether the part goes on in the directory of that name.
// It is not ok for names that EncodeKey never makes.
func DecodeName(name string) (piece string, goesOn, ok bool) {
	if name == noRest {
		return "", false, true
	}
	body, goesOn := strings.CutSuffix(name, "%")
	var b strings.Builder
	for i := 0; i < len(body); i++ {
		if body[i] != '%' {
			b.WriteByte(body[i])
			continue
		}
		if i+2 >= len(body) {
			return "", false, false
		}
		hi, lo := strings.IndexByte(hexDigit, body[i+1]), strings.IndexByte(hexDigit, body[i+2])
		if hi < 0 || lo < 0 {
			return "", false, false
		}
		b.WriteByte(byte(hi<<4 | lo))
		i += 2
	}
	piece = b.String()
	if piece == "" || goesOn != (len(piece) == pieceLen) || len(piece) > pieceLen {
		return "", false, false
	}
	var again strings.Builder
	encodePiece(&again, piece)
	return piece, goesOn, again.String() == body
}

// WalkStart returns the directory in which all keys that begin with prefix are, and the part of prefix that leads to
// it. It is not ok where no key can begin so.
func WalkStart(prefix string) (dir, base string, ok bool) {
	i := strings.LastIndexByte(prefix, '/')
	if i < 0 {
		return "", "", true
	}
	if blob.CheckKey(prefix[:i]) != nil {
		return "", "", false
	}
	return EncodeKey(prefix[:i]), prefix[:i+1], true
}
