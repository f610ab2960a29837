package policy

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
)

// callers are the principals that testdata/decisions.txt speaks of.
var callers = map[string]Principal{
	"anna":   anna,
	"bert":   bert,
	"sub":    {Canonical: canonicalA, Account: "111122223333", Name: "sub", Within: true},
	"imp":    {Canonical: canonicalA, Account: "111122223333", Name: "bert", Within: true},
	"job":    {Canonical: canonicalA, Account: "111122223333", Role: "job", Session: "run", Within: true},
	"nobody": {},
}

// TestDecisions asks every question of testdata/decisions.txt.
func TestDecisions(t *testing.T) {
	b, err := os.ReadFile("testdata/decisions.txt")
	if err != nil {
		t.Fatal(err)
	}
	decisions := 0
	for n, line := range strings.Split(string(b), "\n") {
		if line == "" || line[0] == '#' {
			continue
		}
		head, questions, ok := strings.Cut(line, " : ")
		kind, text, _ := strings.Cut(head, " ")
		if !ok {
			t.Fatalf("line %d: no questions", n+1)
		}
		text = strings.ReplaceAll(text, "~", " ")
		doc := oneStatement(t, kind, text)
		p := mustParse(t, doc)
		for _, q := range strings.Fields(questions) {
			i := strings.LastIndexByte(q, '=')
			ask, want := strings.ReplaceAll(q[:i], "~", " "), map[string]Effect{"Y": Deny, "N": None}[q[i+1:]]
			r := asked(t, kind, text, ask)
			if got := p.Evaluate(r).Effect; got != want {
				t.Errorf("line %d: %s for %s: %v, want %v", n+1, head, ask, got, want)
			}
			decisions++
		}
	}
	if decisions < 400 {
		t.Errorf("only %d decisions", decisions)
	}
	t.Logf("%d decisions", decisions)
}

// oneStatement returns a document whose one statement denies what the line speaks of.
func oneStatement(t *testing.T, kind, text string) string {
	t.Helper()
	s := map[string]any{
		"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": []string{"arn:aws:s3:::photos", "arn:aws:s3:::photos/*"},
	}
	var value any = text
	swap := func(name string) {
		delete(s, name)
		if strings.HasPrefix(kind, "not") {
			name = "Not" + name
		}
		s[name] = value
	}
	switch strings.TrimPrefix(kind, "not") {
	case "action":
		swap("Action")
	case "resource":
		swap("Resource")
	case "principal":
		if err := json.Unmarshal([]byte(text), &value); err != nil {
			t.Fatal(err)
		}
		swap("Principal")
	default:
		key, values, _ := strings.Cut(text, " ")
		s["Condition"] = map[string]any{kind: map[string]any{key: strings.Split(values, ",")}}
	}
	b, err := json.Marshal(map[string]any{"Version": "2012-10-17", "Statement": s})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func asked(t *testing.T, kind, text, ask string) *Request {
	t.Helper()
	ask = strings.TrimPrefix(ask, "''")
	keys := map[string][]string{"aws:username": {"anna"}}
	r := &Request{
		Principal: anna, Action: "s3:GetObject", Bucket: "photos", Key: "k",
		Lookup: func(k string) ([]string, bool) { v, ok := keys[k]; return v, ok },
	}
	switch strings.TrimPrefix(kind, "not") {
	case "action":
		r.Action = ask
	case "resource":
		r.Key = ask
	case "principal":
		who, ok := callers[ask]
		if !ok {
			t.Fatalf("no caller %q", ask)
		}
		r.Principal = who
	default:
		if ask != "-" {
			key, _, _ := strings.Cut(text, " ")
			keys[normalKey(key)] = strings.Split(ask, "+")
		}
	}
	return r
}

// FuzzParseOthers: what identity and trust policies accept can be evaluated, whatever it is asked.
func FuzzParseOthers(f *testing.F) {
	f.Add(`{"Statement":{"Effect":"Allow","Action":["iam:*","s3:Get*"],"Resource":["*","arn:aws:iam::1:user/${aws:username}"]}}`)
	f.Add(`{"Statement":{"Effect":"Allow","Action":"sts:*","Principal":{"Federated":"x"},"Condition":{"StringLike":{"host:8080/path:sub":"a*"}}}}`)
	look := func(string) ([]string, bool) { return []string{"x", ""}, true }
	f.Fuzz(func(t *testing.T, doc string) {
		if p, err := ParseIdentity([]byte(doc)); err == nil {
			p.Evaluate(&Request{Principal: anna, Action: "s3:GetObject", Bucket: "photos", Key: "a/b", Lookup: look})
			if p.Evaluate(&Request{Action: "iam:GetUser", Resource: "arn:aws:iam::1:user/x"}).Effect == Deny && !strings.Contains(doc, "Deny") && !strings.Contains(doc, `\u`) {
				t.Errorf("denies without saying so: %s", doc)
			}
		}
		if p, err := ParseTrust([]byte(doc)); err == nil {
			p.Evaluate(&Request{Principal: Principal{Federated: "x"}, Action: "sts:AssumeRoleWithWebIdentity", Resource: "*", Lookup: look})
		}
	})
}
