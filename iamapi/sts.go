package iamapi

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"firn/auth"
	"firn/auth/policy"
)

func parseDocument(doc string) (*policy.Policy, error) { return policy.ParseIdentity([]byte(doc)) }

func stsOperations(action string) operation {
	switch action {
	case "GetCallerIdentity":
		return callerIdentity
	case "GetSessionToken":
		return sessionToken
	case "AssumeRole":
		return assumeRole
	case "AssumeRoleWithWebIdentity":
		return assumeRoleWithWebIdentity
	}
	return nil
}

func callerIdentity(c *call) (Node, error) {
	id := c.who.UserID
	if id == "" {
		id = c.who.Canonical
	}
	return el("", text("UserId", id), text("Account", c.who.Account), text("Arn", c.who.ARN())), nil
}

// life returns the duration that is asked for, within least and most seconds.
func (c *call) life(least, def, most int) (time.Duration, error) {
	n := def
	if s := c.get("DurationSeconds"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil || n < least || n > most {
			return 0, invalid("The requested DurationSeconds must be between " + strconv.Itoa(least) + " and " + strconv.Itoa(most) + ".")
		}
	}
	return time.Duration(n) * time.Second, nil
}

// Bounds of GetSessionToken, in seconds.
const (
	defaultToken = 43200
	maxTokenLife = 129600
)

func sessionToken(c *call) (Node, error) {
	if c.who.Temporary {
		return Node{}, fail(http.StatusForbidden, "AccessDenied", "Cannot call GetSessionToken with session credentials")
	}
	if err := c.may("*", true); err != nil {
		return Node{}, err
	}
	life, err := c.life(minSession, defaultToken, maxTokenLife)
	if err != nil {
		return Node{}, err
	}
	creds, err := c.credentials(auth.Session{Caller: c.who, Life: life})
	return el("", creds), err
}

func (c *call) credentials(q auth.Session) (Node, error) {
	k, token, expires, err := c.users.NewSession(q)
	if err != nil {
		return Node{}, err
	}
	return el("Credentials", text("AccessKeyId", k.AccessKey), text("SecretAccessKey", k.SecretKey), text("SessionToken", token),
		text("Expiration", stamp(expires))), nil
}

// session reads what both ways to assume a role have in common.
func (c *call) session() (q auth.Session, arn string, err error) {
	if arn, err = c.need("RoleArn"); err != nil {
		return q, "", err
	}
	if q.Name, err = c.need("RoleSessionName"); err != nil {
		return q, "", err
	}
	if !validSession(q.Name) {
		return q, "", invalid("RoleSessionName has 2 to 64 letters, digits or =,.@_-")
	}
	if q.Ref, q.Role = c.v.Resolve(arn); q.Ref.Kind != auth.KindRole {
		q.Role = nil
	}
	most := maxSession
	if q.Role != nil {
		most = max(q.Role.MaxSession, defaultSession)
	}
	if q.Life, err = c.life(minSession, defaultSession, most); err != nil {
		return q, "", err
	}
	q.Policy = c.get("Policy")
	if c.p.Has("PolicyArns.member.1.arn") {
		return q, "", fail(http.StatusBadRequest, "NotImplemented", "PolicyArns is not offered: give the session's policy in Policy.")
	}
	q.Tags, err = c.tags()
	return q, arn, err
}

func validSession(s string) bool {
	if len(s) < 2 || len(s) > 64 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("=,.@_-", c) >= 0) {
			return false
		}
	}
	return true
}

func (c *call) refuse(arn string) error {
	who := c.who.ARN()
	if who == "" {
		who = "anonymous"
	}
	return fail(http.StatusForbidden, "AccessDenied", "User: "+who+" is not authorized to perform: sts:"+c.action+" on resource: "+arn)
}

// assumeRole lets in whom the role's trust policy names. One that names only the caller's account leaves it to
// that account: then the caller's own policies must allow it too. A Deny of theirs always counts.
func assumeRole(c *call) (Node, error) {
	q, arn, err := c.session()
	if err != nil {
		return Node{}, err
	}
	if q.Role == nil {
		return Node{}, c.refuse(arn) // as for a role that is there: which exist is not told
	}
	look := c.tagLook(q)
	said := c.v.Trust(q.Role, c.who.Principal(), "sts:AssumeRole", look)
	if said.Effect != policy.Allow {
		return Node{}, c.refuse(arn)
	}
	if len(q.Tags) > 0 && c.v.Trust(q.Role, c.who.Principal(), "sts:TagSession", look).Effect != policy.Allow {
		return Node{}, c.refuse(arn)
	}
	own := c.who.Manages("sts:AssumeRole", c.arn(q.Ref, q.Role), said.Reach >= policy.Directly || !c.who.Within, look)
	if !own.Allowed && (own.By != auth.ByDefault || said.Reach < policy.Directly) {
		return Node{}, c.refuse(arn)
	}
	return c.assumed(q)
}

// tagLook adds to the caller's condition keys those about the role and the tags of the session.
func (c *call) tagLook(q auth.Session) policy.Lookup {
	return func(key string) ([]string, bool) {
		switch {
		case key == "aws:tagkeys":
			return slices.Sorted(maps.Keys(q.Tags)), len(q.Tags) > 0
		case key == "sts:rolesessionname":
			return []string{q.Name}, true
		}
		if k, ok := strings.CutPrefix(key, "aws:requesttag/"); ok {
			v, has := q.Tags[k]
			return []string{v}, has
		}
		for _, p := range [...]string{"iam:resourcetag/", "aws:resourcetag/"} {
			if k, ok := strings.CutPrefix(key, p); ok {
				v, has := q.Role.Tags[k]
				return []string{v}, has
			}
		}
		if key == "sts:externalid" {
			v := c.get("ExternalId")
			return []string{v}, v != ""
		}
		if c.look != nil {
			if v, ok := c.look(key); ok {
				return v, ok
			}
		}
		return c.who.Condition(key)
	}
}

// assumed answers with the credentials of a session.
func (c *call) assumed(q auth.Session, more ...Node) (Node, error) {
	creds, err := c.credentials(q)
	if err != nil {
		return Node{}, err
	}
	arn := "arn:aws:sts::" + auth.AccountID(q.Ref.Account) + ":assumed-role/" + q.Role.Name + "/" + q.Name
	return el("", creds, el("AssumedRoleUser", text("AssumedRoleId", q.Role.ID+":"+q.Name), text("Arn", arn))).with(more), nil
}
