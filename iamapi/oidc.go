package iamapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"firn/auth"
	"firn/auth/policy"
)

// issuers remembers the identity providers that tokens were checked with, with their keys. There are at most as
// many as the site names.
type issuers struct {
	client *http.Client
	mu     struct {
		sync.Mutex
		by map[string]*issuer
	}
}

// issuer is one provider. mu is held while it is asked for its keys, so that it is asked once.
type issuer struct {
	mu       sync.Mutex
	provider *oidc.Provider
	failed   time.Time
	err      error
}

// Bounds of what is fetched from a provider.
const (
	fetchTimeout = 10 * time.Second
	retryIssuer  = 10 * time.Second // a provider that could not be reached is asked again after it
	maxIssuers   = 256
)

func newIssuers(client *http.Client) *issuers {
	if client == nil {
		client = &http.Client{Timeout: fetchTimeout, CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("the provider answered with a redirect")
		}}
	}
	i := &issuers{client: client}
	i.mu.by = make(map[string]*issuer)
	return i
}

// provider returns the provider behind a URL, asked for its configuration once.
func (s *issuers) provider(ctx context.Context, url string) (*oidc.Provider, error) {
	s.mu.Lock()
	is := s.mu.by[url]
	if is == nil {
		if len(s.mu.by) >= maxIssuers {
			clear(s.mu.by)
		}
		is = &issuer{}
		s.mu.by[url] = is
	}
	s.mu.Unlock()
	is.mu.Lock()
	defer is.mu.Unlock()
	if is.provider != nil {
		return is.provider, nil
	}
	if is.err != nil && time.Since(is.failed) < retryIssuer {
		return nil, is.err
	}
	// The provider keeps the context for fetching keys later; a request's would be over by then.
	keep := oidc.ClientContext(context.WithoutCancel(ctx), s.client)
	is.provider, is.err = oidc.NewProvider(keep, url)
	if is.err != nil {
		is.failed = time.Now()
	}
	return is.provider, is.err
}

// webClaims are the claims of a token that conditions may ask about.
type webClaims struct {
	audience []string
	azp      string
	sub      string
	amr      []string
	tags     map[string]string
}

// maxWebToken bounds an identity token in bytes, as AWS does.
const maxWebToken = 20000

// verify checks a token: signature, issuer, time, and that it was issued to one of the provider's clients.
func (s *issuers) verify(ctx context.Context, p *auth.Entity, token string) (*webClaims, error) {
	provider, err := s.provider(ctx, p.URL)
	if err != nil {
		return nil, fail(http.StatusBadRequest, "IDPCommunicationError", "Couldn't retrieve the configuration of the identity provider "+p.Name)
	}
	id, err := provider.Verifier(&oidc.Config{SkipClientIDCheck: true}).Verify(oidc.ClientContext(ctx, s.client), token)
	if err != nil {
		var old *oidc.TokenExpiredError
		if errors.As(err, &old) {
			return nil, fail(http.StatusBadRequest, "ExpiredTokenException", "Token expired")
		}
		return nil, fail(http.StatusBadRequest, "InvalidIdentityToken", "The token could not be verified with the keys of the identity provider "+p.Name)
	}
	var c struct {
		Azp  string         `json:"azp"`
		Amr  []string       `json:"amr"`
		Tags map[string]any `json:"https://aws.amazon.com/tags"`
	}
	if err := id.Claims(&c); err != nil {
		return nil, fail(http.StatusBadRequest, "InvalidIdentityToken", "A claim of the token has an unknown form")
	}
	client := func(x string) bool { return slices.Contains(p.ClientIDs, x) }
	if !slices.ContainsFunc(id.Audience, client) && !client(c.Azp) {
		return nil, fail(http.StatusBadRequest, "InvalidIdentityToken", "Incorrect token audience")
	}
	w := &webClaims{audience: id.Audience, azp: c.Azp, sub: id.Subject, amr: c.Amr}
	if tags, ok := c.Tags["principal_tags"].(map[string]any); ok && len(tags) <= auth.MaxTags {
		w.tags = make(map[string]string, len(tags))
		for k, v := range tags {
			if list, ok := v.([]any); ok && len(list) > 0 {
				v = list[0]
			}
			w.tags[k] = fmt.Sprint(v)
		}
	}
	return w, nil
}

// issuerOf returns the issuer a token claims, unverified: it only chooses whose keys to verify with.
func issuerOf(token string) string {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return ""
	}
	var c struct {
		Iss string `json:"iss"`
	}
	if decodeSegment(parts[1], &c) != nil {
		return ""
	}
	return c.Iss
}

func assumeRoleWithWebIdentity(c *call) (Node, error) {
	q, arn, err := c.session()
	if err != nil {
		return Node{}, err
	}
	token, err := c.need("WebIdentityToken")
	if err != nil {
		return Node{}, err
	}
	if q.Role == nil {
		return Node{}, c.refuse(arn)
	}
	iss := issuerOf(token)
	name := strings.TrimPrefix(strings.TrimPrefix(iss, "https://"), "http://")
	ref := auth.Ref{Account: c.v.Root().Canonical, Kind: auth.KindProvider, Name: name}
	p := c.v.Entity(ref)
	if len(token) > maxWebToken || iss == "" || p == nil || p.URL != iss {
		return Node{}, fail(http.StatusBadRequest, "InvalidIdentityToken", "No OpenIDConnect provider found in your account for the token's issuer")
	}
	claims, err := c.oidc.verify(c.ctx, p, token)
	if err != nil {
		return Node{}, err
	}
	q.Tags = claims.tags
	look := c.tagLook(q)
	ask := func(key string) ([]string, bool) {
		if claim, ok := strings.CutPrefix(key, strings.ToLower(hostOf(name))+strings.TrimPrefix(name, hostOf(name))+":"); ok {
			return claims.value(claim)
		}
		return look(key)
	}
	who := policy.Principal{Federated: c.arn(ref, p)}
	action := "sts:AssumeRoleWithWebIdentity"
	if c.v.Trust(q.Role, who, action, ask).Effect != policy.Allow ||
		len(q.Tags) > 0 && c.v.Trust(q.Role, who, "sts:TagSession", ask).Effect != policy.Allow {
		return Node{}, c.refuse(arn)
	}
	audience := claims.azp
	if audience == "" {
		audience = claims.audience[0]
	}
	return c.assumed(q, text("SubjectFromWebIdentityToken", claims.sub), text("Audience", audience), text("Provider", c.arn(ref, p)))
}

// hostOf returns what comes before the first slash. Condition keys are in lower case up to there.
func hostOf(name string) string {
	host, _, _ := strings.Cut(name, "/")
	return host
}

// value returns a claim by the name that conditions give it.
func (w *webClaims) value(claim string) ([]string, bool) {
	switch claim {
	case "sub":
		return []string{w.sub}, w.sub != ""
	case "aud", "app_id":
		return w.audience, len(w.audience) > 0
	case "azp":
		return []string{w.azp}, w.azp != ""
	case "amr":
		return w.amr, len(w.amr) > 0
	}
	return nil, false
}
