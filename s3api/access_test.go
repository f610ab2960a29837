package s3api

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7/pkg/signer"

	"firn/auth"
	"firn/object"
)

// caller is one who knocks in TestAccessMatrix.
type caller struct {
	name               string
	key, secret, token string
	id                 *auth.Identity
}

// knock sends a request as the caller and returns its status.
func (h *harness) knock(c *caller, method, target, body string, headers ...string) (int, string) {
	h.t.Helper()
	req, err := http.NewRequestWithContext(h.t.Context(), method, h.http.URL+target, strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	for _, hd := range headers {
		k, v, _ := strings.Cut(hd, ":")
		req.Header.Set(k, strings.TrimSpace(v))
	}
	if c.key != "" {
		req.Header.Set("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD")
		req = signer.SignV4(*req, c.key, c.secret, c.token, "us-east-1")
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

// identities makes one caller of every kind that the site knows. alice owns the buckets.
func (h *harness) identities() []*caller {
	h.t.Helper()
	ctx := context.Background()
	check := func(err error) {
		h.t.Helper()
		if err != nil {
			h.t.Fatal(err)
		}
	}
	root, alice, bob := h.canonical(rootKey), h.canonical(aliceKey), h.canonical(bobKey)
	out := []*caller{{name: "nobody", id: &auth.Identity{}}}
	static := func(name, key string) {
		out = append(out, &caller{name: name, key: key, secret: secretOf(key)})
	}
	static("root", rootKey)
	static("owner", aliceKey)
	static("another", bobKey)
	grants := func(name, key string, g ...auth.Grant) {
		_, _, err := h.users.Add(ctx, name, auth.Credentials{AccessKey: key, SecretKey: secretOf(key)}, g)
		check(err)
		static(name, key)
	}
	grants("reader", "READERKEY", auth.Grant{Role: auth.RoleRead})
	grants("writer-below", "BELOWKEY", auth.Grant{Role: auth.RoleWrite, Bucket: "private-bucket", Prefix: "in/"})
	narrow := func(name, user, key, policy string) {
		_, err := h.users.AddKey(ctx, user, auth.Credentials{AccessKey: key, SecretKey: secretOf(key)}, auth.KeyOptions{Policy: policy})
		check(err)
		static(name, key)
	}
	const readOnly = `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":["s3:Get*","s3:List*"],"Resource":"*"}}`
	narrow("owner, narrowed", "alice", "NARROWKEY", readOnly)
	entity := func(account string, kind auth.Kind, name string, edit func(e *auth.Entity)) auth.Ref {
		ref := auth.Ref{Account: account, Kind: kind, Name: name}
		check(h.users.Change(ctx, "test", ref, func(_ *auth.View, e *auth.Entity) (*auth.Entity, error) {
			if e == nil {
				e = &auth.Entity{Name: name, ID: auth.NewID(kind)}
			}
			edit(e)
			return e, nil
		}))
		return ref
	}
	user := func(name, account, key, policy string) {
		entity(account, auth.KindUser, name, func(e *auth.Entity) {
			e.Keys = []auth.Key{{AccessKey: key, Secret: secretOf(key)}}
			if policy != "" {
				e.Inline = map[string]string{"p": policy}
			}
		})
		static(name, key)
	}
	user("owners-plain", alice, "PLAINKEY", "")
	user("owners-reader", alice, "OWNREADKEY", readOnly)
	user("anothers-user", bob, "BOBSUBKEY", `{"Statement":{"Effect":"Allow","Action":"s3:*","Resource":"*"}}`)
	user("site-reader", root, "SITEREADKEY", readOnly)
	user("site-no-delete", root, "SITENODELKEY", `{"Statement":[{"Effect":"Allow","Action":"s3:*","Resource":"*"},{"Effect":"Deny","Action":"s3:Delete*","Resource":"*"}]}`)
	entity(root, auth.KindUser, "bob", func(e *auth.Entity) {
		e.Inline = map[string]string{"deny": `{"Statement":{"Effect":"Deny","Action":"s3:PutObject","Resource":"arn:aws:s3:::*/in/*"}}`}
	})
	ref := entity(alice, auth.KindRole, "job", func(e *auth.Entity) {
		e.Inline = map[string]string{"p": `{"Statement":{"Effect":"Allow","Action":"s3:*","Resource":"*"}}`}
	})
	session := func(name, policy string) {
		c, token, _, err := h.users.NewSession(auth.Session{Role: h.users.View().Entity(ref), Ref: ref, Name: "run", Policy: policy, Life: time.Hour})
		check(err)
		out = append(out, &caller{name: name, key: c.AccessKey, secret: c.SecretKey, token: token})
	}
	session("owner's role", "")
	session("owner's role, narrowed", readOnly)
	for _, c := range out {
		var err error
		switch {
		case c.token != "":
			_, c.id, err = h.users.LookupSession(ctx, c.key, c.token)
		case c.key != "":
			_, c.id, err = h.users.Lookup(ctx, c.key)
		}
		check(err)
	}
	return out
}

// TestAccessMatrix knocks at the real door as everybody, for every kind of operation, at every kind of bucket, and
// compares with what auth.Authorize says about the documents that were set: no cell is more open, none more closed.
// Operations come from the table of routes, but for those that ask for permission in their own way, which are listed.
// That function is compared with oracles of its own in its package.
func TestAccessMatrix(t *testing.T) {
	h := newHarness(t, Options{})
	callers := h.identities()
	alice := h.canonical(aliceKey)
	statement := func(s string) string { return `{"Version":"2012-10-17","Statement":[` + s + `]}` }
	both := func(b string) string { return `["arn:aws:s3:::` + b + `","arn:aws:s3:::` + b + `/*"]` }
	kinds := map[string]func(b string){
		"private-bucket": func(string) {},
		"public-acl":     func(b string) { h.must("PUT", "/"+b+"?acl", "", "X-Amz-Acl: public-read-write") },
		"signed-acl":     func(b string) { h.must("PUT", "/"+b+"?acl", "", "X-Amz-Acl: authenticated-read") },
		"public-policy": func(b string) {
			h.must("PUT", "/"+b+"?policy", statement(`{"Effect":"Allow","Principal":"*","Action":["s3:GetObject","s3:ListBucket"],"Resource":`+both(b)+`}`))
		},
		"to-another": func(b string) {
			h.must("PUT", "/"+b+"?policy", statement(`{"Effect":"Allow","Principal":{"AWS":"`+auth.AccountID(h.canonical(bobKey))+`"},"Action":"s3:*","Resource":`+both(b)+`}`))
		},
		"to-users": func(b string) {
			h.must("PUT", "/"+b+"?policy", statement(`{"Effect":"Allow","Principal":{"AWS":["arn:aws:iam::`+auth.AccountID(alice)+`:user/owners-plain","arn:aws:iam::`+auth.AccountID(alice)+`:role/job"]},"Action":"s3:*","Resource":`+both(b)+`}`))
		},
		"nobody-writes": func(b string) {
			h.must("PUT", "/"+b+"?policy", statement(`{"Effect":"Deny","Principal":"*","Action":["s3:PutObject","s3:DeleteObject"],"Resource":`+both(b)+`}`))
		},
		"only-local": func(b string) {
			h.must("PUT", "/"+b+"?policy", statement(`{"Effect":"Deny","Principal":"*","Action":"s3:GetObject","Resource":`+both(b)+`,"Condition":{"NotIpAddress":{"aws:SourceIp":"192.0.2.0/24"}}}`))
		},
		"restricted-open": func(b string) {
			h.must("PUT", "/"+b+"?policy", statement(`{"Effect":"Allow","Principal":"*","Action":"s3:*","Resource":`+both(b)+`}`))
			h.must("PUT", "/"+b+"?publicAccessBlock", `<PublicAccessBlockConfiguration><RestrictPublicBuckets>true</RestrictPublicBuckets></PublicAccessBlockConfiguration>`)
		},
		"ignored-acl": func(b string) {
			h.must("PUT", "/"+b+"?acl", "", "X-Amz-Acl: public-read-write")
			h.must("PUT", "/"+b+"?publicAccessBlock", `<PublicAccessBlockConfiguration><IgnorePublicAcls>true</IgnorePublicAcls></PublicAccessBlockConfiguration>`)
		},
		"enforced": func(b string) {
			h.must("PUT", "/"+b+"?ownershipControls", `<OwnershipControls><Rule><ObjectOwnership>BucketOwnerEnforced</ObjectOwnership></Rule></OwnershipControls>`)
		},
	}
	operations := []knocked{
		{name: "get", method: "GET", key: "k", action: "s3:GetObject"},
		{name: "head", method: "HEAD", key: "in/k", action: "s3:GetObject"},
		{name: "put", method: "PUT", key: "in/new", body: "x", action: "s3:PutObject"},
		{name: "put elsewhere", method: "PUT", key: "new", body: "x", action: "s3:PutObject"},
		{name: "delete", method: "DELETE", key: "new", action: "s3:DeleteObject"},
		{name: "tags", method: "GET", key: "k", query: "?tagging", action: "s3:GetObjectTagging"},
		{name: "put tags", method: "PUT", key: "k", query: "?tagging", body: "<Tagging><TagSet/></Tagging>", action: "s3:PutObjectTagging"},
		{name: "acl", method: "GET", key: "k", query: "?acl", action: "s3:GetObjectAcl"},
		{name: "attributes", method: "GET", key: "k", query: "?attributes", action: "s3:GetObjectAttributes", headers: []string{"X-Amz-Object-Attributes: ETag"}},
		{name: "start upload", method: "POST", key: "in/up", query: "?uploads", action: "s3:PutObject"},
		{name: "list", method: "GET", action: "s3:ListBucket"},
		{name: "list v2", method: "GET", query: "?list-type=2&prefix=in/", action: "s3:ListBucket"},
		{name: "list versions", method: "GET", query: "?versions", action: "s3:ListBucketVersions"},
		{name: "list uploads", method: "GET", query: "?uploads", action: "s3:ListBucketMultipartUploads"},
		{name: "location", method: "GET", query: "?location", action: "s3:GetBucketLocation"},
		{name: "bucket acl", method: "GET", query: "?acl", action: "s3:GetBucketAcl"},
		{name: "policy", method: "GET", query: "?policy", action: "s3:GetBucketPolicy"},
		{name: "cors", method: "GET", query: "?cors", action: "s3:GetBucketCORS"},
		{name: "put cors", method: "PUT", query: "?cors", body: "<CORSConfiguration/>", action: "s3:PutBucketCORS"},
		{name: "block", method: "GET", query: "?publicAccessBlock", action: "s3:GetBucketPublicAccessBlock"},
		{name: "ownership", method: "GET", query: "?ownershipControls", action: "s3:GetBucketOwnershipControls"},
		{name: "versioning", method: "GET", query: "?versioning", action: "s3:GetBucketVersioning"},
		{name: "put versioning", method: "PUT", query: "?versioning", body: "<VersioningConfiguration/>", action: "s3:PutBucketVersioning"},
		{name: "lifecycle", method: "GET", query: "?lifecycle", action: "s3:GetLifecycleConfiguration"},
		{name: "delete bucket", method: "DELETE", action: "s3:DeleteBucket"},
		{name: "put acl", method: "PUT", key: "k", query: "?acl", body: "<X/>", action: "s3:PutObjectAcl"},
		{name: "retention", method: "GET", key: "k", query: "?retention", action: "s3:GetObjectRetention"},
		{name: "put retention", method: "PUT", key: "k", query: "?retention", body: "<X/>", action: "s3:PutObjectRetention"},
		{name: "put hold", method: "PUT", key: "k", query: "?legal-hold", body: "<X/>", action: "s3:PutObjectLegalHold"},
		{name: "hold", method: "GET", key: "k", query: "?legal-hold", action: "s3:GetObjectLegalHold"},
		{name: "delete tags", method: "DELETE", key: "k", query: "?tagging", action: "s3:DeleteObjectTagging"},
	}
	operations = append(operations, routed(operations)...)
	cells, open := 0, 0
	for bucket, set := range kinds {
		h.must("PUT", "/"+bucket, "")
		h.must("PUT", "/"+bucket+"/k", "content")
		h.must("PUT", "/"+bucket+"/in/k", "content")
		set(bucket)
		b, err := h.store.Bucket(t.Context(), bucket)
		if err != nil {
			t.Fatal(err)
		}
		docs := parseDocs(b)
		for _, c := range callers {
			for _, op := range operations {
				r := auth.Request{
					Identity: c.id, Action: op.action, Bucket: bucket, Key: op.key, BucketOwner: b.Owner, Policy: docs.policy, BucketACL: docs.acl,
					Ownership: docs.ownership, PublicAccess: docs.public,
					Lookup: func(key string) ([]string, bool) {
						switch {
						case key == "aws:sourceip":
							return []string{"127.0.0.1"}, true
						case key == "s3:prefix" && op.name == "list v2":
							return []string{"in/"}, true
						}
						return c.id.Condition(key)
					},
				}
				if v, err := h.store.Head(t.Context(), bucket, op.key, ""); err == nil && op.key != "" {
					r.ObjectOwner = v.Owner
					if r.ObjectACL, err = auth.DecodeACL(v.ACL); err != nil {
						t.Fatal(err)
					}
				}
				want := auth.Authorize(&r)
				if op.action == "s3:GetObjectAttributes" && want.Allowed { // the content is told about too
					r.Action = "s3:GetObject"
					want = auth.Authorize(&r)
				}
				cells++
				if want.Allowed {
					open++
				}
				target := "/" + bucket
				if op.key != "" {
					target += "/" + op.key
				}
				if want.Allowed && op.changes {
					continue
				}
				status, body := h.knock(c, op.method, target+op.query, op.body, op.headers...)
				if got := status != http.StatusForbidden; got != want.Allowed {
					t.Errorf("%s, %s, %s: %d, %s\n%s", bucket, c.name, op.name, status, want.Reason(), body)
				}
			}
			// Leave the bucket as the next caller should find it.
			if err := h.clear(bucket, "in/new", "new"); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("%d cells, %d of them open", cells, open)
	if open < cells/10 || open > cells*9/10 {
		t.Error("the matrix says little")
	}
}

// knocked is an operation of the matrix.
type knocked struct {
	name, method, key, query, body, action string
	headers                                []string
	// changes: where it is allowed it would change the bucket for those who come after, and is left out.
	changes bool
}

// routed makes an operation of every route that asks for permission before its handler runs and is not among those given:
// what is added to the door is in the matrix by itself. Bodies are such that what is allowed is then refused.
func routed(given []knocked) []knocked {
	var out []knocked
	for l, subs := range newRouteTable().by {
		for sub, methods := range subs {
			for method, rt := range methods {
				op := knocked{name: rt.op + " (route)", method: method, action: rt.action, changes: method == http.MethodDelete}
				switch {
				case rt.flags != 0 || rt.action == "" || level(l) == atService || strings.HasSuffix(sub, copySub):
					continue
				case level(l) == atObject:
					op.key = "k"
				}
				if sub != "" {
					op.query = "?" + sub
				}
				if method == http.MethodPut || method == http.MethodPost {
					op.body = "<X/>"
				}
				if !slices.ContainsFunc(given, func(k knocked) bool {
					return k.method == op.method && (k.key == "") == (op.key == "") && k.query == op.query
				}) {
					out = append(out, op)
				}
			}
		}
	}
	return out
}

// clear removes keys from a bucket, past the door.
func (h *harness) clear(bucket string, keys ...string) error {
	for _, k := range keys {
		if _, err := h.store.Delete(h.t.Context(), bucket, k, "", object.DeleteOptions{}); err != nil {
			return err
		}
	}
	return nil
}
