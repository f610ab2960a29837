package s3api

import (
	"unicode/utf8"
)

const xmlHeader = `<?xml version="1.0" encoding="UTF-8"?>` + "\n"

// plainText marks the bytes of character data that stand for themselves.
var plainText = func() (t [256]bool) {
	for c := 0x20; c < utf8.RuneSelf; c++ {
		t[c] = true
	}
	for _, c := range "<>&\"" {
		t[c] = false
	}
	t['\n'], t['\t'] = true, true
	return t
}()

// appendEscaped appends s as XML character data. Bytes XML 1.0 cannot hold become U+FFFD, except those it can
// refer to by number, as S3 does.
func appendEscaped(b []byte, s string) []byte {
	last := 0
	for i := 0; i < len(s); {
		c := s[i]
		if plainText[c] {
			i++
			continue
		}
		var esc string
		size := 1
		switch {
		case c >= utf8.RuneSelf:
			var r rune
			r, size = utf8.DecodeRuneInString(s[i:])
			if r != utf8.RuneError || size > 1 {
				if r != 0xFFFE && r != 0xFFFF {
					i += size
					continue
				}
			}
			esc = "\uFFFD"
		case c == '<':
			esc = "&lt;"
		case c == '>':
			esc = "&gt;"
		case c == '&':
			esc = "&amp;"
		case c == '"':
			esc = "&quot;"
		case c == '\r':
			esc = "&#13;"
		default:
			b = append(b, s[last:i]...)
			b = append(b, "&#x"...)
			if c >= 16 {
				b = append(b, '1')
			}
			b = append(b, "0123456789abcdef"[c&15], ';')
			i++
			last = i
			continue
		}
		b = append(b, s[last:i]...)
		b = append(b, esc...)
		i += size
		last = i
	}
	return append(b, s[last:]...)
}

// appendElement appends <name>value</name> with the value escaped.
func appendElement(b []byte, name, value string) []byte {
	b = append(b, '<')
	b = append(b, name...)
	b = append(b, '>')
	b = appendEscaped(b, value)
	b = append(b, '<', '/')
	b = append(b, name...)
	return append(b, '>')
}
