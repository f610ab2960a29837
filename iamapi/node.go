package iamapi

import (
	"encoding/json"
	"encoding/xml"
	"strings"
)

// Node is an element of an answer. Marshalled to JSON, a node of named elements is an object, a list an array, and
// any other a string.
type Node struct {
	Name string
	Text string
	Kids []Node
	List bool // Kids are members of a list
}

func text(name, s string) Node { return Node{Name: name, Text: s} }

// el returns an element of elements; those without a name are left out.
func el(name string, kids ...Node) Node {
	n := Node{Name: name, Kids: make([]Node, 0, len(kids))}
	for _, k := range kids {
		if k.Name != "" {
			n.Kids = append(n.Kids, k)
		}
	}
	return n
}

// some is text, left out where s is empty.
func some(name, s string) Node {
	if s == "" {
		return Node{}
	}
	return text(name, s)
}

// listOf returns a list with a member for each item.
func listOf[T any](name string, items []T, member func(T) Node) Node {
	n := Node{Name: name, List: true, Kids: make([]Node, 0, len(items))}
	for _, x := range items {
		m := member(x)
		m.Name = "member"
		n.Kids = append(n.Kids, m)
	}
	return n
}

func (n Node) with(kids []Node) Node {
	n.Kids = append(n.Kids, kids...)
	return n
}

// append appends the node as XML.
func (n Node) append(b *strings.Builder) {
	b.WriteString("<" + n.Name + ">")
	if n.Kids == nil {
		_ = xml.EscapeText(b, []byte(n.Text)) // a Builder does not fail
	}
	for _, k := range n.Kids {
		k.append(b)
	}
	b.WriteString("</" + n.Name + ">")
}

// MarshalJSON implements json.Marshaler.
func (n Node) MarshalJSON() ([]byte, error) {
	switch {
	case n.List:
		return json.Marshal(n.Kids)
	case n.Kids != nil:
		m := make(map[string]Node, len(n.Kids))
		for _, k := range n.Kids {
			m[k.Name] = k
		}
		return json.Marshal(m)
	}
	return json.Marshal(n.Text)
}
