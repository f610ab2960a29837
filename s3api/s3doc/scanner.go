package s3doc

import (
	"bytes"
	"strconv"
	"unicode/utf8"
)

// Scanner reads the two documents that may be long, Delete and CompleteMultipartUpload, many times faster than
// encoding/xml does. It knows elements, character data, the predefined entities, character references,
// CDATA, comments and processing instructions; attributes are skipped, namespace prefixes dropped, and a
// DOCTYPE is refused. After an error every method returns at once and Bad is true.
type Scanner struct {
	b     []byte
	pos   int
	stack []string // open elements
	empty bool     // the element just opened was written <x/>
	bad   bool
}

// NewScanner returns a scanner of a document. It keeps b.
func NewScanner(b []byte) Scanner { return Scanner{b: b} }

// Bad reports whether the document, as far as it was read, is malformed.
func (p *Scanner) Bad() bool { return p.bad }

// Root opens the document's element.
func (p *Scanner) Root() (string, bool) {
	p.b = bytes.TrimPrefix(p.b, []byte("\xef\xbb\xbf"))
	return p.Child()
}

// Child opens the next child of the open element and returns its name. Where there is none it closes the open
// element and returns false. Text between elements must be white space.
func (p *Scanner) Child() (string, bool) {
	if p.bad {
		return "", false
	}
	if p.empty {
		p.close()
		return "", false
	}
	for {
		p.space()
		if p.pos >= len(p.b) || p.b[p.pos] != '<' {
			return p.fail()
		}
		switch rest := p.b[p.pos:]; {
		case bytes.HasPrefix(rest, []byte("<?")):
			p.past("?>")
		case bytes.HasPrefix(rest, []byte("<!--")):
			p.past("-->")
		case bytes.HasPrefix(rest, []byte("</")):
			p.endTag()
			return "", false
		case bytes.HasPrefix(rest, []byte("<!")):
			return p.fail()
		default:
			return p.startTag()
		}
		if p.bad {
			return "", false
		}
	}
}

// Text returns the character data of the open element, which must have no children, and closes it.
func (p *Scanner) Text() string {
	if p.bad {
		return ""
	}
	if p.empty {
		p.close()
		return ""
	}
	var out []byte
	for !p.bad {
		i := bytes.IndexByte(p.b[p.pos:], '<')
		if i < 0 {
			p.fail()
			break
		}
		run := p.b[p.pos : p.pos+i]
		p.pos += i
		rest := p.b[p.pos:]
		if out == nil && bytes.HasPrefix(rest, []byte("</")) && bytes.IndexByte(run, '&') < 0 && bytes.IndexByte(run, '\r') < 0 {
			p.endTag()
			return p.valid(string(run))
		}
		out = p.unescape(out, run)
		switch {
		case bytes.HasPrefix(rest, []byte("</")):
			p.endTag()
			return p.valid(string(out))
		case bytes.HasPrefix(rest, []byte("<![CDATA[")):
			start := p.pos + len("<![CDATA[")
			p.past("]]>")
			if !p.bad {
				out = append(out, p.b[start:p.pos-len("]]>")]...)
			}
		case bytes.HasPrefix(rest, []byte("<!--")):
			p.past("-->")
		case bytes.HasPrefix(rest, []byte("<?")):
			p.past("?>")
		default:
			p.fail()
		}
	}
	return ""
}

// valid refuses text that is not UTF-8.
func (p *Scanner) valid(s string) string {
	if p.bad || !utf8.ValidString(s) {
		p.fail()
		return ""
	}
	return s
}

// Skip closes the open element with all it holds.
func (p *Scanner) Skip() {
	if p.bad {
		return
	}
	depth := len(p.stack)
	if p.empty {
		p.close()
		return
	}
	for !p.bad && len(p.stack) >= depth {
		i := bytes.IndexByte(p.b[p.pos:], '<')
		if i < 0 {
			p.fail()
			return
		}
		p.pos += i
		switch rest := p.b[p.pos:]; {
		case bytes.HasPrefix(rest, []byte("</")):
			p.endTag()
		case bytes.HasPrefix(rest, []byte("<![CDATA[")):
			p.past("]]>")
		case bytes.HasPrefix(rest, []byte("<!--")):
			p.past("-->")
		case bytes.HasPrefix(rest, []byte("<?")):
			p.past("?>")
		case bytes.HasPrefix(rest, []byte("<!")):
			p.fail()
		default:
			if _, ok := p.startTag(); ok && p.empty {
				p.close()
			}
		}
	}
}

// End reports whether the document is whole: every element closed and nothing but comments behind.
func (p *Scanner) End() bool {
	for !p.bad && len(p.stack) == 0 {
		p.space()
		rest := p.b[p.pos:]
		switch {
		case len(rest) == 0:
			return true
		case bytes.HasPrefix(rest, []byte("<!--")):
			p.past("-->")
		case bytes.HasPrefix(rest, []byte("<?")):
			p.past("?>")
		default:
			return false
		}
	}
	return false
}

func (p *Scanner) fail() (string, bool) {
	p.bad = true
	return "", false
}

func (p *Scanner) space() {
	for p.pos < len(p.b) {
		switch p.b[p.pos] {
		case ' ', '\t', '\r', '\n':
			p.pos++
		default:
			return
		}
	}
}

// past moves behind the next occurrence of s.
func (p *Scanner) past(s string) {
	i := bytes.Index(p.b[p.pos:], []byte(s))
	if i < 0 {
		p.fail()
		return
	}
	p.pos += i + len(s)
}

func (p *Scanner) close() {
	p.empty = false
	p.stack = p.stack[:len(p.stack)-1]
}

// maxDepth bounds the nesting of documents.
const maxDepth = 16

// startTag reads <name attributes> or <name attributes/>.
func (p *Scanner) startTag() (string, bool) {
	start := p.pos + 1
	i := start
	for i < len(p.b) && nameByte(p.b[i]) {
		i++
	}
	name := local(p.b[start:i])
	if name == "" || len(p.stack) == maxDepth {
		return p.fail()
	}
	for i < len(p.b) {
		switch p.b[i] {
		case '"', '\'':
			j := bytes.IndexByte(p.b[i+1:], p.b[i])
			if j < 0 {
				return p.fail()
			}
			i += j + 2
		case '<':
			return p.fail()
		case '>':
			p.empty = p.b[i-1] == '/'
			p.pos = i + 1
			p.stack = append(p.stack, name)
			return name, true
		default:
			i++
		}
	}
	return p.fail()
}

// endTag reads </name> of the open element.
func (p *Scanner) endTag() {
	start := p.pos + 2
	i := start
	for i < len(p.b) && nameByte(p.b[i]) {
		i++
	}
	name := p.b[start:i]
	for i < len(p.b) && (p.b[i] == ' ' || p.b[i] == '\t' || p.b[i] == '\r' || p.b[i] == '\n') {
		i++
	}
	if i >= len(p.b) || p.b[i] != '>' || len(p.stack) == 0 || local(name) != p.stack[len(p.stack)-1] {
		p.fail()
		return
	}
	p.pos = i + 1
	p.close()
}

func nameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-' || c == '.' ||
		c == ':' || c >= utf8.RuneSelf
}

// local drops a namespace prefix. The names in use are returned without an allocation.
func local(b []byte) string {
	if i := bytes.LastIndexByte(b, ':'); i >= 0 {
		b = b[i+1:]
	}
	switch string(b) {
	case "Object":
		return "Object"
	case "Key":
		return "Key"
	case "VersionId":
		return "VersionId"
	case "Part":
		return "Part"
	case "PartNumber":
		return "PartNumber"
	case "ETag":
		return "ETag"
	}
	return string(b)
}

// unescape appends run with entities and character references resolved and line ends normalised.
func (p *Scanner) unescape(out, run []byte) []byte {
	for len(run) > 0 {
		i := bytes.IndexAny(run, "&\r")
		if i < 0 {
			return append(out, run...)
		}
		out = append(out, run[:i]...)
		if run[i] == '\r' {
			out = append(out, '\n')
			run = run[i+1:]
			if len(run) > 0 && run[0] == '\n' {
				run = run[1:]
			}
			continue
		}
		run = run[i+1:]
		j := bytes.IndexByte(run, ';')
		if j < 1 || j > 10 {
			p.fail()
			return out
		}
		r, ok := entity(string(run[:j]))
		if !ok {
			p.fail()
			return out
		}
		out = utf8.AppendRune(out, r)
		run = run[j+1:]
	}
	return out
}

// entity resolves the inside of &...;. References to characters XML 1.0 forbids are allowed all the same: S3
// keys may hold them and clients have no other way to write them.
func entity(s string) (rune, bool) {
	switch s {
	case "lt":
		return '<', true
	case "gt":
		return '>', true
	case "amp":
		return '&', true
	case "quot":
		return '"', true
	case "apos":
		return '\'', true
	}
	if s[0] != '#' {
		return 0, false
	}
	base, s := 10, s[1:]
	if s != "" && (s[0] == 'x' || s[0] == 'X') {
		base, s = 16, s[1:]
	}
	n, err := strconv.ParseUint(s, base, 32)
	if err != nil || !utf8.ValidRune(rune(n)) || n > utf8.MaxRune {
		return 0, false
	}
	return rune(n), true
}
