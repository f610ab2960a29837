package s3api

import (
	"net/http"
	"strings"

	"firn/s3api/s3err"
)

// handler answers one operation. It writes a response or returns an error, not both, except that an error
// after the header is out breaks the connection.
type handler func(s *Server, rq *request) error

// level says what a path addresses.
type level uint8

const (
	atService level = iota
	atBucket
	atObject
)

// Flags of a route.
const (
	// noBucket: the bucket need not exist.
	noBucket = 1 << iota
	// noAuth: the handler looks at credentials itself, or needs none.
	noAuth
	// lateAuth: the handler calls authorize itself, once it knows the object or the items of a batch.
	lateAuth
)

// route binds a method and a sub-resource to an operation.
type route struct {
	level  level
	method string
	sub    string // name of the query parameter that selects it, "" for none
	op     string // AWS name of the operation
	action string // permission, such as "s3:GetObject"
	handle handler
	flags  uint8
}

// routeTable finds the route of a request.
type routeTable struct {
	// by[level][sub][method]
	by [3]map[string]map[string]*route
}

// copySub is the pseudo sub-resource of a PUT with x-amz-copy-source.
const copySub = "\x00copy"

// notOffered are the sub-resources of S3 that Firn knows and does not implement.
var notOffered = [...][]string{
	atBucket: {
		"accelerate", "analytics", "intelligent-tiering", "inventory", "logging", "metrics", "replication",
		"requestPayment", "website", "session", "metadataTable", "metadataConfiguration", "ownershipControls", "acl",
		"policy", "policyStatus", "cors", "lifecycle", "notification", "encryption", "tagging", "publicAccessBlock",
		"versioning", "object-lock", "abac", "metadataInventoryTable", "metadataJournalTable",
	},
	atObject: {"select", "torrent", "acl", "renameObject", "encryption", "annotation"},
}

func newRouteTable() *routeTable {
	t := &routeTable{}
	for l := range t.by {
		t.by[l] = make(map[string]map[string]*route)
	}
	for _, rs := range [][]route{coreRoutes(), bucketRoutes()} {
		for i := range rs {
			rt := &rs[i]
			m := t.by[rt.level][rt.sub]
			if m == nil {
				m = make(map[string]*route)
				t.by[rt.level][rt.sub] = m
			}
			m[rt.method] = rt
		}
	}
	for l, subs := range notOffered {
		for _, sub := range subs {
			if t.by[l][sub] == nil {
				t.by[l][sub] = map[string]*route{}
			}
		}
	}
	return t
}

// find returns the route of rq.
func (t *routeTable) find(rq *request) (*route, error) {
	l := atService
	switch {
	case rq.key != "":
		l = atObject
	case rq.bucket != "":
		l = atBucket
	}
	sub := ""
	by := t.by[l]
	for i := range rq.query {
		name := rq.query[i].name
		m, ok := by[name]
		if !ok || name == "" {
			continue
		}
		if sub == "" || m[rq.r.Method] != nil && by[sub][rq.r.Method] == nil {
			sub = name
		}
	}
	if l == atObject && rq.r.Method == http.MethodPut && rq.hasHeader("X-Amz-Copy-Source") {
		sub += copySub
	}
	if rt := by[sub][rq.r.Method]; rt != nil {
		if strings.TrimSuffix(sub, copySub) == "" {
			if name := unknownSub(rq.query); name != "" {
				return nil, s3err.New("NotImplemented").With("Header", name)
			}
		}
		return rt, nil
	}
	switch rq.r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPost, http.MethodDelete, http.MethodOptions:
		if sub != "" && len(by[sub]) == 0 {
			return nil, s3err.New("NotImplemented")
		}
	}
	return nil, s3err.New("MethodNotAllowed").With("Method", rq.r.Method).
		With("ResourceType", [...]string{"SERVICE", "BUCKET", "OBJECT"}[l])
}

// parameters are the query parameters that are no sub-resources and may come without a value, beside response-*
// and x-*.
var parameters = map[string]bool{
	"AWSAccessKeyId": true, "Expires": true, "Signature": true, "bucket-region": true, "continuation-token": true,
	"delimiter": true, "encoding-type": true, "fetch-owner": true, "key-marker": true, "list-type": true, "marker": true,
	"max-buckets": true, "max-keys": true, "partNumber": true, "prefix": true, "start-after": true, "versionId": true,
}

// unknownSub returns the name of a parameter that looks like a sub-resource, having no value, and is none that S3
// had when this was written. To ignore it could turn "DELETE /bucket?newthing" into the deletion of the bucket.
func unknownSub(q query) string {
	for i := range q {
		n := q[i].name
		if q[i].value != "" || parameters[n] || strings.HasPrefix(n, "response-") || len(n) > 1 && (n[0]|0x20) == 'x' && n[1] == '-' {
			continue
		}
		return n
	}
	return ""
}
