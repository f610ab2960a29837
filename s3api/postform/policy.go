package postform

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math"
	"strconv"
	"strings"
	"time"

	"firn/s3api/s3err"
)

// maxConditions bounds the conditions of one policy.
const maxConditions = 200

// Policy is the policy document of a POST form.
type Policy struct {
	expiration time.Time
	conditions []condition
	Min, Max   int64 // bytes the file may have
}

// condition is one condition on a form field. An exact match has prefix false.
type condition struct {
	field  string // in lower case, without $
	prefix bool
	value  string
}

func invalidPolicy(format string, args ...any) error {
	return s3err.Refuse("InvalidPolicyDocument", "Invalid Policy: "+format, args...)
}

// ParsePolicy reads the base64 of a POST policy. Property names are case sensitive, operators and fields are not. most
// is how many bytes a file may have where the policy does not say. Errors are InvalidPolicyDocument.
func ParsePolicy(encoded string, most int64) (*Policy, error) {
	doc, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return nil, invalidPolicy("Invalid base64 encoding")
	}
	// A map, because decoding into a struct would match names without regard to case.
	var top map[string]json.RawMessage
	if err := decodeStrict(doc, &top); err != nil || top == nil {
		return nil, invalidPolicy("Invalid JSON.")
	}
	for name := range top {
		if name != "expiration" && name != "conditions" {
			return nil, invalidPolicy("Unexpected: '%s'", name)
		}
	}
	p := &Policy{Max: most}
	var when string
	if raw, ok := top["expiration"]; !ok {
		return nil, invalidPolicy("Policy missing expiration.")
	} else if json.Unmarshal(raw, &when) != nil {
		return nil, invalidPolicy("Invalid 'expiration' value.")
	}
	if p.expiration, err = parsePolicyTime(when); err != nil {
		return nil, invalidPolicy("Invalid 'expiration' value: '%s'", when)
	}
	var conds []json.RawMessage
	if raw, ok := top["conditions"]; !ok {
		return nil, invalidPolicy("Policy missing conditions.")
	} else if json.Unmarshal(raw, &conds) != nil || conds == nil {
		return nil, invalidPolicy("Invalid 'conditions' value: must be a List.")
	}
	if len(conds) > maxConditions {
		return nil, invalidPolicy("Too many conditions.")
	}
	for _, raw := range conds {
		if err := p.addCondition(raw); err != nil {
			return nil, err
		}
	}
	return p, nil
}

var errMoreValues = errors.New("more than one JSON value")

// decodeStrict decodes exactly one JSON value.
func decodeStrict(doc []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(doc))
	d.UseNumber()
	if err := d.Decode(v); err != nil {
		return err
	}
	if d.More() {
		return errMoreValues
	}
	return nil
}

// parsePolicyTime reads the ISO 8601 forms S3 takes.
func parsePolicyTime(s string) (time.Time, error) {
	t, err := time.Parse("2006-01-02T15:04:05.999999999Z", s)
	if err != nil {
		return time.Parse("20060102T150405Z", s)
	}
	return t, nil
}

func (p *Policy) addCondition(raw json.RawMessage) error {
	var v any
	if err := decodeStrict(raw, &v); err != nil {
		return invalidPolicy("Invalid JSON.")
	}
	switch c := v.(type) {
	case map[string]any:
		if len(c) != 1 {
			return invalidPolicy("Invalid Simple-Condition: Simple-Conditions must have exactly one property specified.")
		}
		for field, value := range c {
			s, ok := value.(string)
			if !ok {
				return invalidPolicy("Invalid Simple-Condition: value must be a string.")
			}
			p.conditions = append(p.conditions, condition{field: strings.ToLower(field), value: s})
		}
		return nil
	case []any:
		return p.addOperator(c)
	}
	return invalidPolicy("Invalid condition: must be a List or an Object.")
}

func (p *Policy) addOperator(c []any) error {
	if len(c) == 0 {
		return invalidPolicy("Invalid Condition: no operation given.")
	}
	name, ok := c[0].(string)
	if !ok {
		return invalidPolicy("Invalid Condition: unknown operation.")
	}
	op := strings.ToLower(name)
	switch op {
	case "content-length-range":
		if len(c) != 3 {
			return invalidPolicy("Invalid content-length-range: wrong number of arguments.")
		}
		least, ok1 := wholeNumber(c[1])
		most, ok2 := wholeNumber(c[2])
		if !ok1 || !ok2 || least > most {
			return invalidPolicy("Invalid content-length-range: arguments must be non-negative numbers in order.")
		}
		// Several ranges all hold.
		p.Min, p.Max = max(p.Min, least), min(p.Max, most)
		return nil
	case "eq", "starts-with":
		if len(c) != 3 {
			return invalidPolicy("Invalid %s: wrong number of arguments.", op)
		}
		field, ok1 := c[1].(string)
		value, ok2 := c[2].(string)
		if !ok1 || !ok2 || !strings.HasPrefix(field, "$") || field == "$" {
			return invalidPolicy("Invalid %s: the field must start with $ and the value be a string.", op)
		}
		p.conditions = append(p.conditions,
			condition{field: strings.ToLower(field[1:]), prefix: op == "starts-with", value: value})
		return nil
	}
	return invalidPolicy("Invalid Condition: unknown operation '%s'.", name)
}

// wholeNumber reads a JSON number, or a string that holds one, as not negative.
func wholeNumber(v any) (int64, bool) {
	var s string
	switch v := v.(type) {
	case json.Number:
		s = v.String()
	case string:
		s = v
	default:
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		f, ferr := strconv.ParseFloat(s, 64)
		if ferr != nil || f < 0 || f > 1<<53 || f != math.Trunc(f) {
			return 0, false
		}
		return int64(f), true
	}
	return n, n >= 0
}

// needsNoCondition reports whether a field may be sent although the policy does not mention it: those that carry the
// policy itself, those a client may add for its own use, and checksums, which cannot change what is stored.
func needsNoCondition(field string) bool {
	switch field {
	case "awsaccesskeyid", "signature", "policy", "x-amz-signature", "file", "x-amz-sdk-checksum-algorithm":
		return true
	}
	return strings.HasPrefix(field, "x-ignore-") || strings.HasPrefix(field, "x-amz-checksum-")
}

// Check reports why the policy does not allow the form, as AccessDenied. f holds "bucket", the bucket the form
// was posted to.
func (p *Policy) Check(f Fields, now time.Time) error {
	if !now.Before(p.expiration) {
		return s3err.Refuse("AccessDenied", "Invalid according to Policy: Policy expired.")
	}
	covered := make(map[string]bool, len(p.conditions))
	for _, c := range p.conditions {
		v := f[c.field]
		switch {
		case !c.prefix && v != c.value:
			return s3err.Refuse("AccessDenied", `Invalid according to Policy: Policy Condition failed: ["eq", "$%s", "%s"]`,
				c.field, c.value)
		case c.prefix && !prefixHolds(c.field, v, c.value):
			return s3err.Refuse("AccessDenied", `Invalid according to Policy: Policy Condition failed: ["starts-with", "$%s", "%s"]`,
				c.field, c.value)
		}
		covered[c.field] = true
	}
	for field := range f {
		if !covered[field] && !needsNoCondition(field) {
			return s3err.Refuse("AccessDenied", "Invalid according to Policy: Extra input fields: %s", field)
		}
	}
	return nil
}

// prefixHolds is starts-with. A Content-Type may list several types; each must match.
func prefixHolds(field, value, prefix string) bool {
	if field != "content-type" {
		return strings.HasPrefix(value, prefix)
	}
	for part := range strings.SplitSeq(value, ",") {
		if !strings.HasPrefix(strings.TrimSpace(part), prefix) {
			return false
		}
	}
	return true
}
