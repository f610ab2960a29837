package policy

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// naive evaluates a document straight from its JSON, as slowly and plainly as it can: the other opinion.
type naive struct {
	vars bool
	req  *Request
}

func naiveEvaluate(doc string, req *Request) Effect {
	var d struct {
		Version   string
		Statement []map[string]any
	}
	if err := json.Unmarshal([]byte(doc), &d); err != nil {
		panic(err)
	}
	n := naive{d.Version == "2012-10-17", req}
	allowed := false
	for _, s := range d.Statement {
		if !n.element(s, "Action", n.action) || !n.element(s, "Resource", n.resource) || !n.element(s, "Principal", n.principal) {
			continue
		}
		holds := true
		if c, ok := s["Condition"].(map[string]any); ok {
			for op, ks := range c {
				for k, vs := range ks.(map[string]any) {
					holds = holds && n.condition(op, k, list(vs))
				}
			}
		}
		if holds && s["Effect"] == "Deny" {
			return Deny
		}
		allowed = allowed || holds
	}
	if allowed {
		return Allow
	}
	return None
}

func list(v any) (out []string) {
	if l, ok := v.([]any); ok {
		for _, x := range l {
			out = append(out, fmt.Sprint(x))
		}
		return out
	}
	return []string{fmt.Sprint(v)}
}

func (n naive) element(s map[string]any, name string, match func(v any) bool) bool {
	if v, ok := s["Not"+name]; ok {
		return !match(v)
	}
	return match(s[name])
}

func (n naive) action(v any) bool {
	for _, a := range list(v) {
		if glob(strings.ToLower(a), strings.ToLower(n.req.Action), false) {
			return true
		}
	}
	return false
}

func (n naive) resource(v any) bool {
	arn := "arn:aws:s3:::" + n.req.Bucket
	if n.req.Key != "" {
		arn += "/" + n.req.Key
	}
	for _, r := range list(v) {
		if r, ok := n.substitute(r); ok && glob(r, arn, false) {
			return true
		}
	}
	return false
}

func (n naive) principal(v any) bool {
	if v == "*" {
		return true
	}
	for kind, ps := range v.(map[string]any) {
		for _, p := range list(ps) {
			who := n.req.Principal
			switch {
			case kind == "AWS" && p == "*":
				return true
			case kind == "Service" && who.Service != "":
				if p == who.Service {
					return true
				}
			case who.Canonical == "":
			case kind == "AWS" && (p == who.Account || p == "arn:aws:iam::"+who.Account+":root" || p == "arn:aws:iam::"+who.Account+":user/"+who.Name):
				return true
			case kind == "CanonicalUser" && p == who.Canonical:
				return true
			}
		}
	}
	return false
}

// Wildcards that substitute put in must not act as such, so it hides them behind other characters.
const hiddenStar, hiddenQuestion = "\x01", "\x02"

func (n naive) substitute(s string) (string, bool) {
	if !n.vars {
		return s, true
	}
	ok := true
	s = regexp.MustCompile(`\$\{[^}]*\}`).ReplaceAllStringFunc(s, func(v string) string {
		vs, has := n.req.Lookup(normalKey(v[2 : len(v)-1]))
		if !has || len(vs) != 1 {
			ok = false
			return ""
		}
		return strings.NewReplacer("*", hiddenStar, "?", hiddenQuestion).Replace(vs[0])
	})
	return s, ok
}

func glob(pattern, s string, fold bool) bool {
	var b strings.Builder
	b.WriteString("(?s)^")
	if fold {
		b.WriteString("(?i)")
	}
	for _, r := range pattern {
		switch string(r) {
		case "*":
			b.WriteString(".*")
		case "?":
			b.WriteString(".")
		case hiddenStar:
			b.WriteString(`\*`)
		case hiddenQuestion:
			b.WriteString(`\?`)
		default:
			b.WriteString(regexp.QuoteMeta(string(r)))
		}
	}
	return regexp.MustCompile(b.String() + "$").MatchString(s)
}

func (n naive) condition(op, key string, want []string) bool {
	values, has := n.req.Lookup(normalKey(key))
	has = has && len(values) > 0
	all, anyOf := strings.HasPrefix(op, "ForAllValues:"), strings.HasPrefix(op, "ForAnyValue:")
	op = op[strings.IndexByte(op, ':')+1:]
	op, ifExists := strings.TrimSuffix(op, "IfExists"), strings.HasSuffix(op, "IfExists")
	if op == "Null" {
		return has == (want[0] == "false")
	}
	negative := strings.Contains(op, "Not")
	op = strings.Replace(op, "Not", "", 1)
	if !has {
		return ifExists || all || !anyOf && negative
	}
	for _, v := range values {
		matched := false
		for _, w := range want {
			matched = matched || n.compare(op, v, w)
		}
		if all && matched == negative {
			return false
		}
		if anyOf && matched != negative {
			return true
		}
		if !all && !anyOf && matched {
			return !negative
		}
	}
	return all || !anyOf && negative
}

func (n naive) compare(op, v, w string) bool {
	if strings.HasPrefix(op, "String") {
		w, ok := n.substitute(w)
		unhide := strings.NewReplacer(hiddenStar, "*", hiddenQuestion, "?")
		switch op {
		case "StringEquals":
			return ok && v == unhide.Replace(w)
		case "StringEqualsIgnoreCase":
			return ok && strings.EqualFold(v, unhide.Replace(w))
		}
		return ok && glob(w, v, false)
	}
	switch op {
	case "Bool":
		return strings.EqualFold(v, w)
	case "IpAddress":
		if !strings.Contains(w, "/") {
			return net.ParseIP(v).Equal(net.ParseIP(w))
		}
		_, block, _ := net.ParseCIDR(w)
		ip := net.ParseIP(v)
		return ip != nil && block.Contains(ip)
	}
	a, err := strconv.ParseFloat(v, 64)
	b, _ := strconv.ParseFloat(w, 64)
	if err != nil {
		return false
	}
	return map[string]bool{
		"NumericEquals": a == b, "NumericLessThan": a < b, "NumericLessThanEquals": a <= b,
		"NumericGreaterThan": a > b, "NumericGreaterThanEquals": a >= b,
	}[op]
}

// generator makes random documents and requests out of few words, so that they often meet.
type generator struct{ *rand.Rand }

func pick[T any](g generator, xs ...T) T { return xs[g.IntN(len(xs))] }

// some returns one to three of xs, as a string or a list.
func (g generator) some(xs ...string) any {
	if g.IntN(2) == 0 {
		return pick(g, xs...)
	}
	var out []any
	for range 1 + g.IntN(3) {
		out = append(out, pick(g, xs...))
	}
	return out
}

func (g generator) document() string {
	var statements []any
	for range 1 + g.IntN(4) {
		s := map[string]any{"Effect": pick(g, "Allow", "Allow", "Deny")}
		not := func() string { return pick(g, "", "", "", "Not") }
		s[not()+"Action"] = g.some("s3:GetObject", "s3:Get*", "s3:PutObject", "s3:*", "*", "s3:?etObject", "s3:ListBucket", "S3:getOBJECT")
		s[not()+"Resource"] = g.some("arn:aws:s3:::photos", "arn:aws:s3:::photos/*", "arn:aws:s3:::photos/a*", "arn:aws:s3:::photos/?/b",
			"arn:aws:s3:::*", "arn:aws:s3:::photos/${aws:username}/*", "arn:aws:s3:::photos*b", "arn:aws:s3:::photos/*/*b*")
		p := pick[any](g, "*", map[string]any{"AWS": g.some("*", anna.Account, "arn:aws:iam::"+bert.Account+":root", "arn:aws:iam::"+anna.Account+":user/anna", "arn:aws:iam::"+anna.Account+":user/bert")},
			map[string]any{"CanonicalUser": g.some(canonicalA, canonicalB)}, map[string]any{"Service": "x", "AWS": anna.Account},
			map[string]any{"Service": g.some("x", service.Service)})
		if s["Effect"] == "Deny" {
			s[not()+"Principal"] = p
		} else {
			s["Principal"] = p
		}
		if g.IntN(2) == 0 {
			c := map[string]any{}
			for range 1 + g.IntN(2) {
				op, key, values := g.condition()
				c[op] = map[string]any{key: values}
			}
			s["Condition"] = c
		}
		statements = append(statements, s)
	}
	b, err := json.Marshal(map[string]any{"Version": pick(g, "2012-10-17", "2012-10-17", "2008-10-17"), "Statement": statements})
	if err != nil {
		panic(err)
	}
	return string(b)
}

func (g generator) condition() (op, key string, values any) {
	suffix := pick(g, "", "", "IfExists")
	quant := pick(g, "", "", "ForAllValues:", "ForAnyValue:")
	switch g.IntN(5) {
	case 0:
		return quant + "Numeric" + pick(g, "Equals", "NotEquals", "LessThan", "LessThanEquals", "GreaterThan", "GreaterThanEquals") + suffix,
			"s3:max-keys", g.some("1", "2", "3.5", "-1")
	case 1:
		return quant + pick(g, "IpAddress", "NotIpAddress") + suffix, "aws:SourceIp", g.some("10.0.0.0/8", "10.1.2.3", "::/0", "0.0.0.0/0")
	case 2:
		return "Bool" + suffix, "aws:SecureTransport", g.some("true", "false")
	case 3:
		return "Null", pick(g, "s3:prefix", "s3:max-keys"), pick(g, "true", "false")
	}
	return quant + "String" + pick(g, "Equals", "NotEquals", "EqualsIgnoreCase", "NotEqualsIgnoreCase", "Like", "NotLike") + suffix,
		pick(g, "s3:prefix", "S3:Prefix", "s3:RequestObjectTagKeys"), g.some("a", "A", "a*", "?", "${aws:username}", "${aws:username}*", "*b", "anna")
}

func (g generator) request() *Request {
	m := map[string][]string{}
	put := func(key string, values ...string) {
		for range g.IntN(3) {
			m[key] = append(m[key], pick(g, values...))
		}
	}
	put("s3:prefix", "a", "A", "b", "ab", "anna", "anna/b", "*", "")
	put("s3:requestobjecttagkeys", "a", "b", "anna")
	put("s3:max-keys", "1", "2", "3.5", "x")
	put("aws:sourceip", "10.1.2.3", "11.0.0.1", "::1", "2001:db8::1", "x")
	put("aws:securetransport", "true", "false", "TRUE")
	put("aws:username", "anna", "bert", "*", "a")
	return &Request{
		Principal: pick(g, anna, bert, anonymous, service), Bucket: "photos",
		Action: pick(g, "s3:GetObject", "s3:PutObject", "s3:ListBucket", "s3:GetObjectAcl"),
		Key:    pick(g, "", "a", "a/b", "anna/b", "x/b", "ü/b", "bert/*", "a\nb"),
		Lookup: func(k string) ([]string, bool) { v, ok := m[k]; return v, ok },
	}
}

func TestAgainstOracle(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	g := generator{rand.New(rand.NewPCG(seed, 1))}
	seen := map[Effect]int{}
	for range 1500 {
		doc := g.document()
		p := mustParse(t, doc)
		for range 4 {
			r := g.request()
			got, want := p.Evaluate(r).Effect, naiveEvaluate(doc, r)
			if got != want {
				t.Fatalf("seed %d: %v, oracle %v, for %+v of\n%s", seed, got, want, r, doc)
			}
			seen[got]++
		}
	}
	for _, e := range []Effect{None, Allow, Deny} {
		if seen[e] < 100 {
			t.Errorf("only %d decisions were %v", seen[e], e)
		}
	}
}

func FuzzParse(f *testing.F) {
	g := generator{rand.New(rand.NewPCG(1, 2))}
	for range 5 {
		f.Add(g.document())
	}
	f.Add(`{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::1:root"},"Action":"*","Resource":"*","Condition":{"DateLessThan":{"aws:CurrentTime":"2025"}}}}`)
	f.Fuzz(func(t *testing.T, doc string) {
		p, err := ParseBucket([]byte(doc), "photos")
		if err != nil {
			return
		}
		// What is accepted can be evaluated, whatever it is asked.
		p.Evaluate(&Request{Principal: anna, Action: "s3:GetObject", Bucket: "photos", Key: "a/b", Lookup: func(string) ([]string, bool) { return []string{"x", ""}, true }})
		if p.Evaluate(&Request{Action: "s3:GetObject", Bucket: "photos", Key: doc}).Effect == Allow && !p.IsPublic() {
			// An anonymous caller was let in on no conditions known to hold: only a policy with conditions may do so.
			for i := range p.statements {
				if len(p.statements[i].conditions) > 0 {
					return
				}
			}
			t.Errorf("lets in the anonymous but is not public: %s", doc)
		}
	})
}

func FuzzPattern(f *testing.F) {
	f.Add("a*b?c", "axxbyc")
	f.Add("**?*", "ü")
	f.Fuzz(func(t *testing.T, pattern, s string) {
		if len(pattern) > 40 || len(s) > 200 || strings.ContainsAny(pattern, hiddenStar+hiddenQuestion) ||
			!json.Valid([]byte(strconv.Quote(pattern))) || strings.ToValidUTF8(pattern+s, "") != pattern+s {
			return
		}
		p, _ := parsePattern(pattern, true, false)
		if got, want := p.match(s, nil, false), glob(pattern, s, false); got != want {
			t.Errorf("%q on %q: %v, regexp %v", pattern, s, got, want)
		}
	})
}

func BenchmarkEvaluate50(b *testing.B) {
	var statements []string
	for i := range 50 {
		statements = append(statements, statement1(pick(generator{rand.New(rand.NewPCG(uint64(i), 0))}, "Allow", "Deny"),
			`{"AWS":["111122223333","arn:aws:iam::444455556666:user/bert"]}`, `["s3:GetObject","s3:Put*"]`,
			fmt.Sprintf(`["arn:aws:s3:::photos/prefix-%d/*","arn:aws:s3:::photos/*/%d"]`, i, i),
			`{"IpAddress":{"aws:SourceIp":"10.0.0.0/8"}}`))
	}
	p := mustParse(b, document(statements...))
	r := &Request{Principal: anna, Action: "s3:GetObject", Bucket: "photos", Key: "prefix-x/some/longer/key/of/an/object.jpg", Lookup: keys("aws:sourceip=10.1.2.3")}
	b.ReportAllocs()
	var before, after syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &before)
	for b.Loop() {
		if p.Evaluate(r).Effect != None {
			b.Fatal("unexpected")
		}
	}
	syscall.Getrusage(syscall.RUSAGE_SELF, &after)
	b.ReportMetric(float64(after.Utime.Nano()-before.Utime.Nano())/float64(b.N), "cpu-ns/op")
}
