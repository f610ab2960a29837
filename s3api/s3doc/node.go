package s3doc

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"

	"firn/s3api/s3err"
)

// Bounds of a configuration document. The largest legal one, a lifecycle configuration of 1000 rules with tags,
// stays well below them.
const (
	maxXMLDepth = 12
	maxXMLNodes = 100_000
)

// Namespace is the namespace of every document of S3.
const Namespace = "http://s3.amazonaws.com/doc/2006-03-01/"

const xsiNamespace = "http://www.w3.org/2001/XMLSchema-instance"

// errXML is the answer to a document that is not of the expected shape. It is shared and must not be changed.
var errXML error = s3err.New("MalformedXML")

// node is one element of a parsed document. Documents are held as trees instead of structs because S3 refuses
// elements it does not know, and because a stored document is given back as it was sent, in the sender's order.
type node struct {
	name string
	typ  string // xsi:type, on the grantees of an ACL
	text string // character data of an element without children
	kids []*node
}

// parseDoc reads one document whose root is called root ("" takes any). Comments, processing instructions and
// white space between elements are dropped; a DOCTYPE, a foreign namespace, mixed content and trailing bytes are
// errors. All its errors are errXML.
func parseDoc(doc []byte, root string) (*node, error) {
	d := xml.NewDecoder(bytes.NewReader(doc))
	d.CharsetReader = func(label string, r io.Reader) (io.Reader, error) {
		if strings.EqualFold(label, "us-ascii") {
			return r, nil
		}
		return nil, errXML
	}
	var (
		stack []*node
		top   *node
		nodes int
		text  []byte // of the innermost open element, while it has no children
	)
	for {
		t, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, errXML
		}
		switch t := t.(type) {
		case xml.Directive:
			return nil, errXML
		case xml.StartElement:
			if nodes++; nodes > maxXMLNodes || len(stack) >= maxXMLDepth || len(stack) == 0 && top != nil {
				return nil, errXML
			}
			if t.Name.Space != "" && t.Name.Space != Namespace {
				return nil, errXML
			}
			n := &node{name: t.Name.Local}
			for _, a := range t.Attr {
				if a.Name.Local == "type" && (a.Name.Space == xsiNamespace || a.Name.Space == "xsi") {
					n.typ = a.Value
				}
			}
			if len(stack) == 0 {
				top = n
			} else {
				p := stack[len(stack)-1]
				if len(bytes.TrimSpace(text)) > 0 {
					return nil, errXML
				}
				p.kids = append(p.kids, n)
			}
			stack, text = append(stack, n), text[:0]
		case xml.EndElement:
			if n := stack[len(stack)-1]; len(n.kids) == 0 {
				n.text = string(text)
			}
			stack, text = stack[:len(stack)-1], text[:0]
		case xml.CharData:
			if len(stack) == 0 {
				if len(bytes.TrimSpace(t)) > 0 {
					return nil, errXML
				}
				continue
			}
			if len(stack[len(stack)-1].kids) == 0 {
				text = append(text, t...)
			} else if len(bytes.TrimSpace(t)) > 0 {
				return nil, errXML
			}
		}
	}
	if top == nil || len(stack) > 0 || root != "" && top.name != root {
		return nil, errXML
	}
	return top, nil
}

// only reports errXML where n has text of its own or a child not named here.
func (n *node) only(names ...string) error {
	if strings.TrimSpace(n.text) != "" {
		return errXML
	}
	for _, k := range n.kids {
		if !slices.Contains(names, k.name) {
			return errXML
		}
	}
	return nil
}

// all returns the children of a name.
func (n *node) all(name string) []*node {
	var out []*node
	for _, k := range n.kids {
		if k.name == name {
			out = append(out, k)
		}
	}
	return out
}

// one returns the child of a name, nil where there is none, errXML where there are several.
func (n *node) one(name string) (*node, error) {
	switch k := n.all(name); len(k) {
	case 0:
		return nil, nil
	case 1:
		return k[0], nil
	default:
		return nil, errXML
	}
}

// need is one for a child that must be there.
func (n *node) need(name string) (*node, error) {
	k, err := n.one(name)
	if err == nil && k == nil {
		err = errXML
	}
	return k, err
}

// str returns the text of the one child of a name and whether it is there.
func (n *node) str(name string) (string, bool, error) {
	k, err := n.one(name)
	if err != nil || k == nil {
		return "", false, err
	}
	s, err := k.leaf()
	return s, true, err
}

// leaf returns the text of an element that must not have children.
func (n *node) leaf() (string, error) {
	if len(n.kids) > 0 {
		return "", errXML
	}
	return n.text, nil
}

// word is leaf without the white space around it, for values that are no free text.
func (n *node) word() (string, error) {
	s, err := n.leaf()
	return strings.TrimSpace(s), err
}

// enum returns the value of the child of a name, which must be one of the allowed where it is there.
func (n *node) enum(name string, allowed ...string) (string, error) {
	k, err := n.one(name)
	if err != nil || k == nil {
		return "", err
	}
	s, err := k.word()
	if err != nil || !slices.Contains(allowed, s) {
		return "", errXML
	}
	return s, nil
}

// num returns the whole number in the child of a name and whether it is there.
func (n *node) num(name string) (int64, bool, error) {
	k, err := n.one(name)
	if err != nil || k == nil {
		return 0, false, err
	}
	s, err := k.word()
	if err != nil {
		return 0, true, err
	}
	v, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, true, errXML
	}
	return v, true, nil
}

// flag returns the truth value in the child of a name and whether it is there.
func (n *node) flag(name string) (value, there bool, err error) {
	k, err := n.one(name)
	if err != nil || k == nil {
		return false, false, err
	}
	s, err := k.word()
	if err != nil {
		return false, true, err
	}
	switch strings.ToLower(s) {
	case "true", "1":
		return true, true, nil
	case "false", "0":
		return false, true, nil
	}
	return false, true, errXML
}

// add appends a child with text and returns n.
func (n *node) add(name, text string) *node {
	n.kids = append(n.kids, &node{name: name, text: text})
	return n
}

// addInt appends a child with a number and returns n.
func (n *node) addInt(name string, v int) *node { return n.add(name, strconv.Itoa(v)) }

// addBool appends a child with a truth value.
func (n *node) addBool(name string, v bool) *node { return n.add(name, strconv.FormatBool(v)) }

// render writes the document with S3's namespace on its root and no white space between elements.
func (n *node) render() []byte {
	var b bytes.Buffer
	b.WriteString(xml.Header)
	n.write(&b, ` xmlns="`+Namespace+`"`)
	return b.Bytes()
}

func (n *node) write(b *bytes.Buffer, attr string) {
	b.WriteByte('<')
	b.WriteString(n.name)
	b.WriteString(attr)
	if n.typ != "" {
		b.WriteString(` xmlns:xsi="` + xsiNamespace + `" xsi:type="`)
		escapeXML(b, n.typ)
		b.WriteByte('"')
	}
	if n.text == "" && len(n.kids) == 0 {
		b.WriteString("/>")
		return
	}
	b.WriteByte('>')
	for _, k := range n.kids {
		k.write(b, "")
	}
	if len(n.kids) == 0 {
		escapeXML(b, n.text)
	}
	b.WriteString("</")
	b.WriteString(n.name)
	b.WriteByte('>')
}

// escapeXML writes s escaped. Writing to a bytes.Buffer cannot fail.
func escapeXML(b *bytes.Buffer, s string) { _ = xml.EscapeText(b, []byte(s)) }
