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
	site      bool   // an ARN without an account: users and roles of the site only
	user      string // user name, or canonical id as tools that know no names write it
	role      string // role name
	session   string // session name, beside role
	federated string // ARN of an identity provider
	service   string // name of a service
	never     bool   // well-formed, but nobody here can be it: a federated user
}

// match reports whether who is among the principals, and how it is named.
func (p *principals) match(who *Principal) (reach Reach, ok bool) {
	if p.any {
		return Directly, true
	}
	if who.Canonical == "" && who.Federated == "" && who.Service == "" {
		return 0, false
	}
	for i := range p.list {
		if r, is := p.list[i].match(who); is && (!ok || r > reach) {
			reach, ok = r, true
		}
	}
	return reach, ok
}

func (q *principal) match(who *Principal) (Reach, bool) {
	if q.never || q.federated != who.Federated || q.service != who.Service {
		return 0, false
	}
	if q.federated != "" || q.service != "" {
		return Directly, true
	}
	if q.canonical != "" && q.canonical != who.Canonical || q.account != "" && q.account != who.Account || q.site && !who.Site {
		return 0, false
	}
	switch {
	case q.session != "":
		return BySession, q.role == who.Role && q.session == who.Session
	case q.role != "":
		return Directly, q.role == who.Role
	case q.user != "":
		return Directly, q.user == who.Name || q.user == who.Canonical && !who.Within
	case who.Within:
		return ByAccount, true
	}
	return Directly, true
}

// addAWS adds a value of {"AWS": ...}: "*", an account id, a canonical id, or an ARN of an account, user,
// role or session. Every user of a site is an account of its own, so that arn:aws:iam::ACCOUNT:root and
// arn:aws:iam::ACCOUNT:user/NAME name the same caller; an empty account is the site, never somebody's account,
// who could otherwise make a user of any name.
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
	q := principal{account: parts[4], site: parts[4] == ""}
	kind, name, _ := strings.Cut(parts[5], "/")
	base := name[strings.LastIndexByte(name, '/')+1:] // the path of an ARN is not part of the name
	switch {
	case parts[2] == "sts" && kind == "assumed-role":
		q.role, q.session, _ = strings.Cut(name, "/")
		if q.role == "" || q.session == "" || strings.Contains(q.session, "/") {
			return false
		}
	case parts[2] == "sts" && name != "":
		q.never = true
	case parts[2] != "iam":
		return false
	case parts[5] == "root":
		// Without an account the ARN names nobody in particular.
		if q.account == "" {
			return false
		}
	case kind == "user" && base != "":
		q.user = base
	case kind == "role" && base != "":
		q.role = base
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
