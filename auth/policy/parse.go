package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Versions of the policy language. Only the newer has variables.
const (
	version2008 = "2008-10-17"
	version2012 = "2012-10-17"
)

// grammar is which kind of policy a document is.
type grammar uint8

const (
	ofBucket grammar = iota
	ofIdentity
	ofTrust
)

// ParseBucket parses the policy of a bucket: every statement names principals, and every resource can match
// something in that bucket. Errors are *Error.
func ParseBucket(doc []byte, bucket string) (*Policy, error) {
	return parse(doc, bucket, ofBucket)
}

// ParseIdentity parses a policy of an identity or a session: no statement names a principal, resources may be
// in any bucket, and actions may be of other services than S3. Errors are *Error.
func ParseIdentity(doc []byte) (*Policy, error) { return parse(doc, "", ofIdentity) }

// ParseTrust parses the trust policy of a role: every statement names principals, actions are of sts, and
// there are no resources. Errors are *Error.
func ParseTrust(doc []byte) (*Policy, error) { return parse(doc, "", ofTrust) }

func parse(doc []byte, bucket string, g grammar) (*Policy, error) {
	whole := func(element, reason string) error { return &Error{-1, "", element, reason} }
	if len(doc) > MaxSize {
		return nil, whole("", "policy document exceeds the maximum allowed size of "+strconv.Itoa(MaxSize)+" bytes")
	}
	root, err := parseJSON(doc)
	if err != nil {
		return nil, whole("", "Policies must be valid JSON and the first byte must be '{' ("+err.Error()+")")
	}
	p := &Policy{version: version2008}
	var statements []node
	for _, m := range root.object {
		switch m.name {
		case "Version":
			if m.value.kind != jsonString || m.value.text != version2008 && m.value.text != version2012 {
				return nil, whole("Version", `must be "2012-10-17" or "2008-10-17"`)
			}
			p.version = m.value.text
		case "Id":
			if m.value.kind != jsonString {
				return nil, whole("Id", "must be a string")
			}
			p.id = m.value.text
		case "Statement":
			switch m.value.kind {
			case jsonObject:
				statements = []node{m.value}
			case jsonArray:
				statements = m.value.list
			}
			if len(statements) == 0 {
				return nil, whole("Statement", "must be a statement or a list of statements")
			}
		default:
			return nil, whole(m.name, "unknown element")
		}
	}
	if statements == nil {
		return nil, whole("Statement", "missing required element")
	}
	sids := make(map[string]bool)
	for i, n := range statements {
		s, err := parseStatement(n, bucket, g, p.version == version2012)
		if err == nil && s.sid != "" && sids[s.sid] {
			err = &Error{Element: "Sid", Reason: "is used by another statement"}
		}
		if err != nil {
			err.Statement, err.Sid = i, s.sid
			return nil, err
		}
		sids[s.sid] = true
		p.statements = append(p.statements, s)
		p.public = p.public || s.isPublic()
	}
	return p, nil
}

func parseStatement(n node, bucket string, g grammar, vars bool) (s statement, _ *Error) {
	if n.kind != jsonObject {
		return s, &Error{Reason: "must be an object"}
	}
	seen := make(map[string]bool)
	for _, m := range n.object {
		seen[m.name] = true
		if m.name == "Sid" {
			if m.value.kind != jsonString {
				return s, &Error{Element: "Sid", Reason: "must be a string"}
			}
			s.sid = m.value.text
		}
	}
	for _, m := range n.object {
		wrong := ""
		switch m.name {
		case "Sid":
		case "Effect":
			switch {
			case m.value.kind == jsonString && m.value.text == "Allow":
				s.effect = Allow
			case m.value.kind == jsonString && m.value.text == "Deny":
				s.effect = Deny
			default:
				wrong = `must be "Allow" or "Deny"`
			}
		case "Principal", "NotPrincipal":
			s.notPrincipal = m.name == "NotPrincipal"
			if g == ofIdentity {
				wrong = "an identity policy names no principal"
				break
			}
			wrong = s.principals.parse(m.value)
		case "Action", "NotAction":
			s.notAction = m.name == "NotAction"
			wrong = parseStrings(m.value, func(v string) string {
				if !s.actions.add(v, g) {
					return "policy has invalid action " + strconv.Quote(v)
				}
				return ""
			})
		case "Resource", "NotResource":
			s.notResource = m.name == "NotResource"
			if g == ofTrust {
				wrong = "a trust policy names no resource"
				break
			}
			wrong = parseStrings(m.value, func(v string) string { return s.addResource(v, bucket, g, vars) })
		case "Condition":
			wrong = s.parseConditions(m.value, g, vars)
		default:
			wrong = "unknown element"
		}
		if wrong != "" {
			return s, &Error{Element: m.name, Reason: wrong}
		}
	}
	need := []string{"Effect", "Action", "Principal", "Resource"}
	switch g {
	case ofIdentity:
		need = []string{"Effect", "Action", "Resource"}
		s.principals.any = true
	case ofTrust:
		need = need[:3]
		s.ofTrust = true
	}
	for _, name := range need {
		if name != "Effect" && seen[name] && seen["Not"+name] {
			return s, &Error{Element: name, Reason: "cannot stand beside Not" + name}
		}
		if !seen[name] && !seen["Not"+name] {
			return s, &Error{Element: name, Reason: "missing required element"}
		}
	}
	if s.effect == Allow && s.notPrincipal {
		return s, &Error{Element: "NotPrincipal", Reason: "Allow with NotPrincipal is not allowed"}
	}
	return s, nil
}

func (p *principals) parse(n node) string {
	if n.kind == jsonString && n.text == "*" {
		p.any = true
		return ""
	}
	if n.kind != jsonObject || len(n.object) == 0 {
		return `must be "*" or an object`
	}
	for _, m := range n.object {
		var add func(string) bool
		switch m.name {
		case "AWS":
			add = p.addAWS
		case "CanonicalUser":
			add = func(s string) bool {
				p.list = append(p.list, principal{canonical: s})
				return isCanonical(s)
			}
		case "Federated":
			add = func(s string) bool {
				p.list = append(p.list, principal{federated: s})
				return s != ""
			}
		case "Service":
			add = func(s string) bool {
				p.list = append(p.list, principal{service: s})
				return s != ""
			}
		default:
			return "unknown kind of principal " + strconv.Quote(m.name)
		}
		if wrong := parseStrings(m.value, func(v string) string {
			if !add(v) {
				return "invalid principal in policy " + strconv.Quote(v)
			}
			return ""
		}); wrong != "" {
			return wrong
		}
	}
	return ""
}

// addResource adds an ARN pattern. Those of S3 are kept without what comes before the bucket's name.
func (s *statement) addResource(v, bucket string, g grammar, vars bool) string {
	invalid := "policy has invalid resource " + strconv.Quote(v)
	r := resource{full: v == "*" && g == ofIdentity}
	name := v
	if v != "*" {
		parts, ok := splitArn(v)
		switch {
		case ok && parts[0] == "arn" && isPartition(parts[1]) && parts[2] == "s3" && (parts[3] == "" || parts[3] == "*") &&
			(parts[4] == "" || parts[4] == "*") && parts[5] != "":
			name = parts[5]
		case g == ofIdentity && ok && parts[0] == "arn" && parts[2] != "" && parts[2] != "s3" && parts[5] != "":
			r.full = true
		default:
			return invalid
		}
	}
	var ok bool
	if r.pattern, ok = parsePattern(name, true, vars); !ok {
		return invalid
	}
	if bucket != "" && !couldMatch(&r.pattern, bucket) {
		return invalid + ": it is not in this bucket"
	}
	s.resources = append(s.resources, r)
	return ""
}

// couldMatch reports whether the pattern can match the bucket or a key in it. Variables may be anything.
func couldMatch(p *pattern, bucket string) bool {
	var head []part
	for _, t := range p.parts {
		if t.kind == variable {
			t = part{kind: star}
		}
		before, _, slash := strings.Cut(t.text, "/")
		if t.kind == literal && slash {
			t.text = before
			head = append(head, t)
			return matchParts(head, bucket, false)
		}
		head = append(head, t)
		if t.kind == star && matchParts(head, bucket, false) {
			return true // the star may take the slash too
		}
	}
	return matchParts(head, bucket, false)
}

func (s *statement) parseConditions(n node, g grammar, vars bool) string {
	if n.kind != jsonObject {
		return "must be an object"
	}
	for _, op := range n.object {
		if op.value.kind != jsonObject || len(op.value.object) == 0 {
			return strconv.Quote(op.name) + " must be an object of condition keys"
		}
		for _, key := range op.value.object {
			var values []string
			list := []node{key.value}
			if key.value.kind == jsonArray {
				list = key.value.list
			}
			for _, v := range list {
				if v.kind != jsonString && v.kind != jsonScalar {
					return "the values of " + strconv.Quote(key.name) + " must be strings"
				}
				values = append(values, v.text)
			}
			c, wrong := parseCondition(op.name, key.name, values, g, vars)
			if wrong != "" {
				return wrong
			}
			s.conditions = append(s.conditions, c)
		}
	}
	return ""
}

// parseStrings calls add for a string or for each of a list of strings.
func parseStrings(n node, add func(string) string) string {
	list := []node{n}
	if n.kind == jsonArray {
		list = n.list
	}
	if len(list) == 0 {
		return "must not be empty"
	}
	for _, v := range list {
		if v.kind != jsonString {
			return "must be a string or a list of strings"
		}
		if wrong := add(v.text); wrong != "" {
			return wrong
		}
	}
	return ""
}

// node is a JSON value. encoding/json into structs would neither see a name given twice nor keep apart
// what is a string and what a list.
type node struct {
	kind   jsonKind
	text   string // of a string; a number, true or false as written
	list   []node
	object []member
}

type member struct {
	name  string
	value node
}

type jsonKind uint8

const (
	jsonNull jsonKind = iota
	jsonString
	jsonScalar
	jsonArray
	jsonObject
)

// maxDepth is the deepest nesting of a valid document, with room for a clear error.
const maxDepth = 10

func parseJSON(doc []byte) (node, error) {
	if !utf8.Valid(doc) {
		return node{}, errors.New("invalid UTF-8")
	}
	if t := bytes.TrimLeft(doc, " \t\r\n"); len(t) == 0 || t[0] != '{' {
		return node{}, errors.New("not an object")
	}
	d := json.NewDecoder(bytes.NewReader(doc))
	d.UseNumber()
	n, err := parseNode(d, 0)
	if err != nil {
		return n, err
	}
	if _, err := d.Token(); err != io.EOF {
		return n, errors.New("data after the document")
	}
	return n, nil
}

func parseNode(d *json.Decoder, depth int) (n node, err error) {
	if depth > maxDepth {
		return n, errors.New("nested too deeply")
	}
	tok, err := d.Token()
	if err != nil {
		return n, err
	}
	switch t := tok.(type) {
	case string:
		return node{kind: jsonString, text: t}, nil
	case json.Number:
		return node{kind: jsonScalar, text: t.String()}, nil
	case bool:
		return node{kind: jsonScalar, text: strconv.FormatBool(t)}, nil
	case json.Delim:
		if t == '[' {
			n.kind = jsonArray
			for d.More() {
				v, err := parseNode(d, depth+1)
				if err != nil {
					return n, err
				}
				n.list = append(n.list, v)
			}
		} else {
			n.kind = jsonObject
			if err := n.members(d, depth); err != nil {
				return n, err
			}
		}
		_, err = d.Token() // the closing bracket
		return n, err
	}
	return n, nil
}

func (n *node) members(d *json.Decoder, depth int) error {
	seen := make(map[string]bool)
	for d.More() {
		tok, err := d.Token()
		if err != nil {
			return err
		}
		name, _ := tok.(string)
		if seen[name] {
			return errors.New("the name " + strconv.Quote(name) + " is given twice")
		}
		seen[name] = true
		v, err := parseNode(d, depth+1)
		if err != nil {
			return err
		}
		n.object = append(n.object, member{name, v})
	}
	return nil
}
