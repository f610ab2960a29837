package policy

import "strings"

// principals is a Principal or NotPrincipal element.
type principals struct {
	any  bool
	list []principal
}

// principal is one named principal. Fields that are set must match, all of them.
type principal struct {
	canonical string
	account   string
	user      string // user name, or canonical id as tools that know no names write it
	never     bool   // well-formed, but nobody here can be it: a service, role or federated user
}

func (p *principals) match(who *Principal) bool {
	if p.any {
		return true
	}
	if who.Canonical == "" {
		return false
	}
	for i := range p.list {
		q := &p.list[i]
		if !q.never && (q.canonical == "" || q.canonical == who.Canonical) &&
			(q.account == "" || q.account == who.Account) &&
			(q.user == "" || q.user == who.Name || q.user == who.Canonical) {
			return true
		}
	}
	return false
}

// addAWS adds a value of {"AWS": ...}: "*", an account id, a canonical id, or an ARN of an account, user,
// role or session. Every user of a site is an account of its own, so that arn:aws:iam::ACCOUNT:root and
// arn:aws:iam::ACCOUNT:user/NAME name the same caller; an empty account leaves it to the name.
func (p *principals) addAWS(s string) bool {
	switch {
	case s == "*":
		p.any = true
		return true
	case isAccount(s):
		p.list = append(p.list, principal{account: s})
		return true
	case isCanonical(s):
		p.list = append(p.list, principal{canonical: s})
		return true
	}
	parts, ok := splitArn(s)
	if !ok || parts[0] != "arn" || !isPartition(parts[1]) || parts[3] != "" || strings.ContainsAny(s, "*?") {
		return false
	}
	q := principal{account: parts[4]}
	kind, name, _ := strings.Cut(parts[5], "/")
	switch {
	case parts[2] == "sts" && name != "":
		q.never = true
	case parts[2] != "iam":
		return false
	case parts[5] == "root":
		// Without an account the ARN names nobody in particular.
		if q.account == "" {
			return false
		}
	case kind == "user" && name != "":
		// The path of a user's ARN, if any, is not part of the name.
		q.user = name[strings.LastIndexByte(name, '/')+1:]
		if q.user == "" {
			return false
		}
	case kind == "role" && name != "":
		q.never = true
	default:
		return false
	}
	p.list = append(p.list, q)
	return true
}

func isPartition(s string) bool { return s == "aws" || s == "aws-cn" || s == "aws-us-gov" }

func isAccount(s string) bool {
	if len(s) != 12 {
		return false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

func isCanonical(s string) bool {
	if len(s) != 64 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !('0' <= c && c <= '9' || 'a' <= c && c <= 'f') {
			return false
		}
	}
	return true
}
