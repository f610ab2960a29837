package policy

import (
	"bytes"
	"encoding/base64"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// condition is one key under one operator.
type condition struct {
	op       operator
	name     string // the operator as written
	negate   bool
	ifExists bool
	quant    quantifier
	key      string
	values   []operand
}

type quantifier uint8

const (
	single quantifier = iota
	forAll
	forAny
)

type operator uint8

const (
	opString operator = iota
	opStringFold
	opStringLike
	opNumeric
	opDate
	opBool
	opBinary
	opIP
	opArn
	opNull
)

// relation is how a numeric or date operator compares the request's value with the policy's.
type relation uint8

const (
	relEqual relation = iota
	relLess
	relLessEqual
	relGreater
	relGreaterEqual
)

// operand is one value of a condition, in the form its operator needs.
type operand struct {
	text   pattern
	number float64
	time   time.Time
	truth  bool
	binary []byte
	prefix netip.Prefix
	arn    [6]pattern
	rel    relation
}

type operatorInfo struct {
	op     operator
	negate bool
	rel    relation
}

// lookupOperator finds an operator by its name without qualifier and IfExists.
func lookupOperator(name string) (operatorInfo, bool) {
	for _, f := range [...]struct {
		prefix string
		op     operator
	}{{"Numeric", opNumeric}, {"Date", opDate}} {
		suffix, ok := strings.CutPrefix(name, f.prefix)
		if !ok {
			continue
		}
		switch suffix {
		case "Equals":
			return operatorInfo{f.op, false, relEqual}, true
		case "NotEquals":
			return operatorInfo{f.op, true, relEqual}, true
		case "LessThan":
			return operatorInfo{f.op, false, relLess}, true
		case "LessThanEquals":
			return operatorInfo{f.op, false, relLessEqual}, true
		case "GreaterThan":
			return operatorInfo{f.op, false, relGreater}, true
		case "GreaterThanEquals":
			return operatorInfo{f.op, false, relGreaterEqual}, true
		}
		return operatorInfo{}, false
	}
	switch name {
	case "StringEquals":
		return operatorInfo{op: opString}, true
	case "StringNotEquals":
		return operatorInfo{op: opString, negate: true}, true
	case "StringEqualsIgnoreCase":
		return operatorInfo{op: opStringFold}, true
	case "StringNotEqualsIgnoreCase":
		return operatorInfo{op: opStringFold, negate: true}, true
	case "StringLike":
		return operatorInfo{op: opStringLike}, true
	case "StringNotLike":
		return operatorInfo{op: opStringLike, negate: true}, true
	case "Bool":
		return operatorInfo{op: opBool}, true
	case "BinaryEquals":
		return operatorInfo{op: opBinary}, true
	case "IpAddress":
		return operatorInfo{op: opIP}, true
	case "NotIpAddress":
		return operatorInfo{op: opIP, negate: true}, true
	case "ArnEquals", "ArnLike":
		return operatorInfo{op: opArn}, true
	case "ArnNotEquals", "ArnNotLike":
		return operatorInfo{op: opArn, negate: true}, true
	case "Null":
		return operatorInfo{op: opNull}, true
	}
	return operatorInfo{}, false
}

// parseCondition compiles one key of one operator. It returns what is wrong, "" where nothing is.
func parseCondition(name, key string, values []string, g grammar, vars bool) (c condition, wrong string) {
	c = condition{name: name, key: normalKey(key)}
	base := name
	if rest, ok := strings.CutPrefix(base, "ForAllValues:"); ok {
		c.quant, base = forAll, rest
	} else if rest, ok := strings.CutPrefix(base, "ForAnyValue:"); ok {
		c.quant, base = forAny, rest
	}
	if rest, ok := strings.CutSuffix(base, "IfExists"); ok {
		c.ifExists, base = true, rest
	}
	info, ok := lookupOperator(base)
	if !ok || info.op == opNull && (c.ifExists || c.quant != single) {
		return c, "unknown operator " + strconv.Quote(name)
	}
	c.op, c.negate = info.op, info.negate
	// The keys of an identity provider begin with its host, so that elsewhere any service will do.
	if service, k, ok := strings.Cut(c.key, ":"); !ok || k == "" || g == ofBucket && service != "aws" && service != "s3" {
		return c, "invalid condition key " + strconv.Quote(key)
	}
	if len(values) == 0 {
		return c, "the key " + strconv.Quote(key) + " has no values"
	}
	for _, v := range values {
		o, ok := parseOperand(info, v, vars)
		if !ok {
			return c, "invalid value " + strconv.Quote(v) + " for " + name + " of " + strconv.Quote(key)
		}
		c.values = append(c.values, o)
	}
	return c, ""
}

func parseOperand(info operatorInfo, v string, vars bool) (o operand, ok bool) {
	o.rel = info.rel
	switch info.op {
	case opString, opStringFold:
		o.text, ok = parsePattern(v, false, vars)
	case opStringLike:
		o.text, ok = parsePattern(v, true, vars)
	case opNumeric:
		o.number, ok = parseNumber(v)
	case opDate:
		o.time, ok = parseTime(v)
	case opBool, opNull:
		o.truth, ok = parseBool(v)
	case opBinary:
		var err error
		o.binary, err = base64.StdEncoding.DecodeString(v)
		ok = err == nil
	case opIP:
		o.prefix, ok = parsePrefix(v)
	case opArn:
		o.text = pattern{text: v}
		parts, six := splitArn(v)
		if !six {
			return o, false
		}
		for i, s := range parts {
			if o.arn[i], ok = parsePattern(s, true, vars); !ok {
				return o, false
			}
		}
	}
	return o, ok
}

func parseNumber(s string) (float64, bool) {
	f, err := strconv.ParseFloat(s, 64)
	return f, err == nil && !math.IsNaN(f) && !math.IsInf(f, 0)
}

func parseBool(s string) (truth, ok bool) {
	switch {
	case strings.EqualFold(s, "true"):
		return true, true
	case strings.EqualFold(s, "false"):
		return false, true
	}
	return false, false
}

// parseTime parses the forms of ISO 8601 that W3C's note lists, or seconds since 1970.
func parseTime(s string) (time.Time, bool) {
	for _, layout := range [...]string{
		time.RFC3339, "2006-01-02T15:04Z07:00", "2006-01-02T15:04:05Z0700", "2006-01-02", "2006-01", "2006",
	} {
		// Four digits are a year, more are seconds.
		if t, err := time.Parse(layout, s); err == nil {
			return t, true
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > 1<<40 {
		return time.Time{}, false
	}
	return time.Unix(n, 0), true
}

// parsePrefix parses an address range or a single address.
func parsePrefix(s string) (netip.Prefix, bool) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p.Masked(), !p.Addr().Is4In6()
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Prefix{}, false
	}
	a = a.Unmap()
	return netip.PrefixFrom(a, a.BitLen()), true
}

func splitArn(s string) (parts [6]string, ok bool) {
	p := strings.SplitN(s, ":", 6)
	if len(p) != 6 {
		return parts, false
	}
	return [6]string(p), true
}

// holds reports whether the condition holds for a request.
func (c *condition) holds(look Lookup) bool {
	var values []string
	ok := false
	if look != nil {
		values, ok = look(c.key)
	}
	ok = ok && len(values) > 0
	if c.op == opNull {
		// Several values of Null can only say one thing or contradict each other; one that fits suffices.
		for i := range c.values {
			if c.values[i].truth == !ok {
				return true
			}
		}
		return false
	}
	if !ok {
		switch {
		case c.ifExists, c.quant == forAll:
			return true
		case c.quant == forAny:
			return false
		}
		return c.negate
	}
	// Without a quantifier a key has one value. Where it has more, a positive operator asks for one that
	// matches, a negated one for none that does.
	all := c.quant == forAll || c.quant == single && c.negate
	for _, v := range values {
		if (c.matches(v, look) != c.negate) != all {
			return !all
		}
	}
	return all
}

// matches reports whether any of the condition's values matches v.
func (c *condition) matches(v string, look Lookup) bool {
	switch c.op {
	case opString, opStringFold, opStringLike:
		for i := range c.values {
			if c.values[i].text.match(v, look, c.op == opStringFold) {
				return true
			}
		}
	case opNumeric:
		n, ok := parseNumber(v)
		for i := range c.values {
			o := &c.values[i]
			if ok && o.rel.holds(compareFloat(n, o.number)) {
				return true
			}
		}
	case opDate:
		t, ok := parseTime(v)
		for i := range c.values {
			o := &c.values[i]
			if ok && o.rel.holds(t.Compare(o.time)) {
				return true
			}
		}
	case opBool:
		b, ok := parseBool(v)
		for i := range c.values {
			if ok && c.values[i].truth == b {
				return true
			}
		}
	case opBinary:
		b, err := base64.StdEncoding.DecodeString(v)
		for i := range c.values {
			if err == nil && bytes.Equal(b, c.values[i].binary) {
				return true
			}
		}
	case opIP:
		a, err := netip.ParseAddr(v)
		a = a.Unmap().WithZone("")
		for i := range c.values {
			if err == nil && c.values[i].prefix.Contains(a) {
				return true
			}
		}
	case opArn:
		parts, ok := splitArn(v)
		for i := range c.values {
			if ok && c.values[i].matchArn(&parts, look) {
				return true
			}
		}
	}
	return false
}

func (o *operand) matchArn(parts *[6]string, look Lookup) bool {
	for i := range parts {
		if !o.arn[i].match(parts[i], look, false) {
			return false
		}
	}
	return true
}

func compareFloat(a, b float64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// holds reports whether a comparison's result satisfies the relation.
func (r relation) holds(cmp int) bool {
	switch r {
	case relEqual:
		return cmp == 0
	case relLess:
		return cmp < 0
	case relLessEqual:
		return cmp <= 0
	case relGreater:
		return cmp > 0
	default:
		return cmp >= 0
	}
}
