package s3api

import (
	"crypto/md5"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	lifecycleBody = `<LifecycleConfiguration><Rule><ID>a</ID><Filter><Prefix>p/</Prefix></Filter><Status>Enabled</Status>` +
		`<Expiration><Days>3</Days></Expiration></Rule></LifecycleConfiguration>`
	corsBody = `<CORSConfiguration><CORSRule><AllowedOrigin>http://a.example</AllowedOrigin><AllowedMethod>GET</AllowedMethod>` +
		`<AllowedMethod>PUT</AllowedMethod><AllowedHeader>x-amz-*</AllowedHeader></CORSRule></CORSConfiguration>`
	tagBody        = `<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>`
	encryptionBody = `<ServerSideEncryptionConfiguration><Rule><ApplyServerSideEncryptionByDefault><SSEAlgorithm>AES256` +
		`</SSEAlgorithm></ApplyServerSideEncryptionByDefault></Rule></ServerSideEncryptionConfiguration>`
	ownershipBody = `<OwnershipControls><Rule><ObjectOwnership>BucketOwnerPreferred</ObjectOwnership></Rule></OwnershipControls>`
	blockBody     = `<PublicAccessBlockConfiguration><BlockPublicAcls>true</BlockPublicAcls><IgnorePublicAcls>false</IgnorePublicAcls>` +
		`<BlockPublicPolicy>false</BlockPublicPolicy><RestrictPublicBuckets>true</RestrictPublicBuckets></PublicAccessBlockConfiguration>`
	noBlockBody = `<PublicAccessBlockConfiguration/>`
)

// subDoc is a document that is stored and given back as it was sent.
type subDoc struct{ sub, body, missing string }

var subDocs = []subDoc{
	{"lifecycle", lifecycleBody, "NoSuchLifecycleConfiguration"},
	{"cors", corsBody, "NoSuchCORSConfiguration"},
	{"tagging", tagBody, "NoSuchTagSet"},
	{"encryption", encryptionBody, "ServerSideEncryptionConfigurationNotFoundError"},
	{"ownershipControls", ownershipBody, "OwnershipControlsNotFoundError"},
	{"publicAccessBlock", blockBody, "NoSuchPublicAccessBlockConfiguration"},
}

// plain takes the declaration and the namespace off a document.
func plain(doc string) string {
	return strings.Replace(strings.TrimPrefix(doc, xmlHeader), ` xmlns="`+xmlNamespace+`"`, "", 1)
}

func TestStoredDocuments(t *testing.T) {
	h := newHarness(t, Options{})
	h.must("PUT", "/bkt", "")
	for _, d := range subDocs {
		t.Run(d.sub, func(t *testing.T) {
			h := *h
			h.t = t
			target := "/bkt?" + d.sub
			h.refused(404, d.missing, "GET", target, "")
			h.must("PUT", target, d.body)
			r := h.must("GET", target, "")
			if diff := cmp.Diff(d.body, plain(r.body)); diff != "" || r.header.Get("Content-Type") != "application/xml" {
				t.Errorf("%s: %s", r.header.Get("Content-Type"), diff)
			}
			for _, key := range []string{bobKey, ""} {
				other := h.user(key)
				other.refused(403, "AccessDenied", "GET", target, "")
				other.refused(403, "AccessDenied", "PUT", target, d.body)
				other.refused(403, "AccessDenied", "DELETE", target, "")
			}
			h.refused(400, "MalformedXML", "PUT", target, d.body+"<x/>")
			h.refused(400, "MalformedXML", "PUT", target, strings.Replace(d.body, "</", "<Foo/></", 1))
			h.refused(400, "MalformedXML", "PUT", target, "")
			sum := md5.Sum([]byte(d.body))
			h.must("PUT", target, d.body, "Content-MD5: "+base64.StdEncoding.EncodeToString(sum[:]))
			h.refused(400, "BadDigest", "PUT", target, d.body, "Content-MD5: "+base64.StdEncoding.EncodeToString(make([]byte, 16)))
			h.refused(400, "BadDigest", "PUT", target, d.body, "x-amz-checksum-crc32: AAAAAA==")
			for range 2 {
				if r := h.must("DELETE", target, ""); r.status != 204 {
					t.Errorf("DELETE: %d", r.status)
				}
			}
			h.refused(404, d.missing, "GET", target, "")
			h.refused(404, "NoSuchBucket", "GET", "/nosuch?"+d.sub, "")
			h.refused(404, "NoSuchBucket", "PUT", "/nosuch?"+d.sub, d.body)
		})
	}
}

// A document over its limit is refused, whether its length is announced or not.
func TestDocumentTooLarge(t *testing.T) {
	h := newHarness(t, Options{})
	h.must("PUT", "/bkt", "")
	big := corsBody + strings.Repeat(" ", maxCORSBody)
	h.refused(400, "MaxMessageLengthExceeded", "PUT", "/bkt?cors", big)
	// More than net/http reads to keep a connection: it must be closed, and what follows not be taken for a request.
	h.refused(400, "MaxMessageLengthExceeded", "PUT", "/bkt?lifecycle", lifecycleBody+strings.Repeat(" ", maxLifecycleDoc))
	h.must("GET", "/bkt", "")
	req, err := http.NewRequest("PUT", h.http.URL+"/bkt?cors", struct{ io.Reader }{strings.NewReader(big)})
	if err != nil {
		t.Fatal(err)
	}
	h.sign(req)
	if r := h.send(req); r.status != 400 || r.code() != "MaxMessageLengthExceeded" {
		t.Errorf("chunked: %d %s", r.status, r.body)
	}
}

func TestVersioningAndObjectLock(t *testing.T) {
	h := newHarness(t, Options{})
	status := func(s string) string {
		return "<VersioningConfiguration><Status>" + s + "</Status></VersioningConfiguration>"
	}
	lock := func(s string) string {
		return "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled>" + s + "</ObjectLockConfiguration>"
	}
	const rule = "<Rule><DefaultRetention><Mode>GOVERNANCE</Mode><Days>3</Days></DefaultRetention></Rule>"
	same := func(target, want string) {
		t.Helper()
		if got := plain(h.must("GET", target, "").body); got != want {
			t.Errorf("%s: got %s, want %s", target, got, want)
		}
	}
	h.must("PUT", "/bkt", "")
	same("/bkt?versioning", "<VersioningConfiguration/>")
	h.refused(404, "ObjectLockConfigurationNotFoundError", "GET", "/bkt?object-lock", "")
	h.refused(409, "InvalidBucketState", "PUT", "/bkt?object-lock", lock(rule))
	h.must("PUT", "/bkt?versioning", status("Suspended"))
	same("/bkt?versioning", status("Suspended"))
	h.refused(409, "InvalidBucketState", "PUT", "/bkt?object-lock", lock(rule))
	h.must("PUT", "/bkt?versioning", status("Enabled"))
	h.refused(400, "InvalidRequest", "PUT", "/bkt?object-lock", strings.Replace(lock(rule), "<ObjectLockEnabled>Enabled</ObjectLockEnabled>", "", 1))
	h.must("PUT", "/bkt?object-lock", lock(rule))
	same("/bkt?object-lock", lock(rule))
	h.refused(409, "InvalidBucketState", "PUT", "/bkt?versioning", status("Suspended"))
	h.must("PUT", "/bkt?object-lock", lock(""))
	same("/bkt?object-lock", lock(""))

	h.must("PUT", "/locked", "", "x-amz-bucket-object-lock-enabled: true")
	same("/locked?object-lock", lock(""))
	same("/locked?versioning", status("Enabled"))
}

// What Firn does not offer is answered as S3 answers for a bucket where it is not set.
func TestNotSet(t *testing.T) {
	h := newHarness(t, Options{})
	h.must("PUT", "/bkt", "")
	for _, tt := range []struct {
		sub    string
		status int
		want   string // code or document
	}{
		{"accelerate", 200, "<AccelerateConfiguration/>"},
		{"requestPayment", 200, "<RequestPaymentConfiguration><Payer>BucketOwner</Payer></RequestPaymentConfiguration>"},
		{"logging", 200, "<BucketLoggingStatus/>"},
		{"notification", 200, "<NotificationConfiguration/>"},
		{"website", 404, "NoSuchWebsiteConfiguration"},
		{"replication", 404, "ReplicationConfigurationNotFoundError"},
		{"inventory", 200, "<ListInventoryConfigurationsResult><IsTruncated>false</IsTruncated></ListInventoryConfigurationsResult>"},
		{"inventory&id=a", 404, "NoSuchConfiguration"},
		{"analytics&id=a", 404, "NoSuchConfiguration"},
		{"metrics&id=a", 404, "NoSuchConfiguration"},
		{"intelligent-tiering&id=a", 404, "NoSuchConfiguration"},
		{"policyStatus", 200, "<PolicyStatus><IsPublic>false</IsPublic></PolicyStatus>"},
		{"policy", 404, "NoSuchBucketPolicy"},
	} {
		r := h.do("GET", "/bkt?"+tt.sub, "")
		got := r.code()
		if got == "" {
			got = plain(r.body)
		}
		if r.status != tt.status || got != tt.want {
			t.Errorf("%s: got %d %s, want %d %s", tt.sub, r.status, got, tt.status, tt.want)
		}
		h.user(bobKey).refused(403, "AccessDenied", "GET", "/bkt?"+tt.sub, "")
	}
	for _, sub := range []string{"accelerate", "website", "replication", "inventory", "analytics", "metrics", "intelligent-tiering"} {
		h.refused(501, "NotImplemented", "PUT", "/bkt?"+sub, "<X/>")
	}
	h.must("DELETE", "/bkt?website", "")
	h.must("DELETE", "/bkt?replication", "")
	h.must("PUT", "/bkt?requestPayment", "<RequestPaymentConfiguration><Payer>BucketOwner</Payer></RequestPaymentConfiguration>")
	h.refused(501, "NotImplemented", "PUT", "/bkt?requestPayment", "<RequestPaymentConfiguration><Payer>Requester</Payer></RequestPaymentConfiguration>")
	h.must("PUT", "/bkt?notification", "<NotificationConfiguration/>")
	h.refused(400, "InvalidArgument", "PUT", "/bkt?notification", "<NotificationConfiguration><TopicConfiguration>"+
		"<Topic>arn:aws:sns:us-east-1:1:t</Topic><Event>s3:ObjectCreated:*</Event></TopicConfiguration></NotificationConfiguration>")
}

func TestLifecycleMinimumSize(t *testing.T) {
	h := newHarness(t, Options{})
	h.must("PUT", "/bkt", "")
	for _, tt := range []struct{ sent, want string }{
		{"", minimumSizeDefault}, {minimumSizeVaries, minimumSizeVaries}, {"", minimumSizeDefault},
	} {
		var headers []string
		if tt.sent != "" {
			headers = []string{headerMinimumSize + ": " + tt.sent}
		}
		put := h.must("PUT", "/bkt?lifecycle", lifecycleBody, headers...)
		get := h.must("GET", "/bkt?lifecycle", "")
		if put.header.Get(headerMinimumSize) != tt.want || get.header.Get(headerMinimumSize) != tt.want {
			t.Errorf("sent %q: got %q, %q, want %q", tt.sent, put.header.Get(headerMinimumSize), get.header.Get(headerMinimumSize), tt.want)
		}
	}
	h.refused(400, "InvalidRequest", "PUT", "/bkt?lifecycle", lifecycleBody, headerMinimumSize+": 1M")
}

func TestCORSOnRequests(t *testing.T) {
	h := newHarness(t, Options{})
	h.must("PUT", "/bkt", "")
	h.must("PUT", "/bkt/key", "hello")
	const origin = "Origin: http://a.example"
	anyone := h.user("")
	anyone.refused(403, "AccessForbidden", "OPTIONS", "/bkt/key", "", origin, "Access-Control-Request-Method: GET")
	h.must("PUT", "/bkt?cors", corsBody)

	r := anyone.must("OPTIONS", "/bkt/key?uploads", "", origin, "Access-Control-Request-Method: PUT", "Access-Control-Request-Headers: X-Amz-Date")
	want := map[string]string{
		"Access-Control-Allow-Origin": "http://a.example", "Access-Control-Allow-Methods": "GET, PUT",
		"Access-Control-Allow-Headers": "x-amz-date", "Access-Control-Allow-Credentials": "true",
	}
	for k, v := range want {
		if got := r.header.Get(k); got != v {
			t.Errorf("%s: got %q, want %q", k, got, v)
		}
	}
	for _, target := range []string{"/bkt", "/bkt?cors", "/bkt/key", "/bkt/nosuch", "/bkt/key?acl"} {
		anyone.must("OPTIONS", target, "", origin, "Access-Control-Request-Method: GET")
	}
	anyone.refused(403, "AccessForbidden", "OPTIONS", "/bkt/key", "", "Origin: http://b.example", "Access-Control-Request-Method: GET")
	anyone.refused(403, "AccessForbidden", "OPTIONS", "/nosuch/key", "", origin, "Access-Control-Request-Method: GET")
	anyone.refused(400, "BadRequest", "OPTIONS", "/bkt/key", "", origin)
	anyone.refused(400, "BadRequest", "OPTIONS", "/bkt/key", "")

	// The headers are on every answer, refusals included, so that a script can read why.
	for _, r := range []*response{
		h.must("GET", "/bkt/key", "", origin),
		h.refused(404, "NoSuchKey", "GET", "/bkt/nosuch", "", origin),
		anyone.refused(403, "AccessDenied", "GET", "/bkt/key", "", origin),
		h.must("GET", "/bkt", "", origin),
	} {
		if got := r.header.Get("Access-Control-Allow-Origin"); got != "http://a.example" {
			t.Errorf("%d %s: allowed %q", r.status, r.body, got)
		}
	}
	if r := h.must("GET", "/bkt/key", ""); r.header.Get("Access-Control-Allow-Origin") != "" {
		t.Error("headers without an Origin")
	}
	h.must("DELETE", "/bkt?cors", "")
	if r := h.must("GET", "/bkt/key", "", origin); r.header.Get("Access-Control-Allow-Origin") != "" {
		t.Error("headers after the configuration was removed")
	}
}

// allow is a policy that allows an action to a principal.
func allow(t *testing.T, principal any, action string, resources ...string) string {
	t.Helper()
	b, err := json.Marshal(map[string]any{"Version": "2012-10-17", "Statement": []any{map[string]any{
		"Effect": "Allow", "Principal": principal, "Action": action, "Resource": resources,
	}}})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestBucketPolicy(t *testing.T) {
	h := newHarness(t, Options{})
	h.must("PUT", "/bkt", "")
	h.must("PUT", "/bkt/key", "hello")
	status := func(want string) {
		t.Helper()
		if got := h.must("GET", "/bkt?policyStatus", "").body; !strings.Contains(got, "<IsPublic>"+want+"</IsPublic>") {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	public := allow(t, "*", "s3:GetObject", "arn:aws:s3:::bkt/*")
	anyone, bob := h.user(""), h.user(bobKey)
	anyone.refused(403, "AccessDenied", "GET", "/bkt/key", "")
	if r := h.must("PUT", "/bkt?policy", " "+public); r.status != 204 {
		t.Errorf("PUT: %d", r.status)
	}
	r := h.must("GET", "/bkt?policy", "")
	if r.body != " "+public || r.header.Get("Content-Type") != "application/json" {
		t.Errorf("got %s %s", r.header.Get("Content-Type"), r.body)
	}
	anyone.must("GET", "/bkt/key", "")
	status("true")

	h.must("PUT", "/bkt?publicAccessBlock", strings.Replace(blockBody, "<BlockPublicPolicy>false", "<BlockPublicPolicy>true", 1))
	anyone.refused(403, "AccessDenied", "GET", "/bkt/key", "")
	bob.refused(403, "AccessDenied", "GET", "/bkt/key", "")
	h.must("GET", "/bkt/key", "")
	h.refused(403, "AccessDenied", "PUT", "/bkt?policy", public)
	h.must("PUT", "/bkt?policy", allow(t, map[string]string{"AWS": h.canonical(bobKey)}, "s3:GetObject", "arn:aws:s3:::bkt/*"))
	status("false")
	bob.must("GET", "/bkt/key", "")
	anyone.refused(403, "AccessDenied", "GET", "/bkt/key", "")

	for _, bad := range []string{
		"", "{}", "[]", "<Policy/>", public + "x", allow(t, "*", "s3:GetObject", "arn:aws:s3:::other/*"),
		allow(t, "*", "s3:NoSuchAction", "arn:aws:s3:::bkt/*"), strings.Replace(public, "Allow", "Maybe", 1),
	} {
		h.refused(400, "MalformedPolicy", "PUT", "/bkt?policy", bad)
	}
	h.refused(400, "MalformedPolicy", "PUT", "/bkt?policy", public+strings.Repeat(" ", maxPolicyDoc))
	bob.refused(403, "AccessDenied", "PUT", "/bkt?policy", public)
	for range 2 {
		h.must("DELETE", "/bkt?policy", "")
	}
	h.refused(404, "NoSuchBucketPolicy", "GET", "/bkt?policy", "")
	bob.refused(403, "AccessDenied", "GET", "/bkt/key", "")
}

// One who may change the policy by the policy must confirm to take that from oneself.
func TestBucketPolicyConfirm(t *testing.T) {
	h := newHarness(t, Options{})
	h.must("PUT", "/bkt", "")
	h.must("PUT", "/bkt?policy", allow(t, map[string]string{"AWS": h.canonical(bobKey)}, "s3:PutBucketPolicy", "arn:aws:s3:::bkt"))
	deny := strings.Replace(allow(t, "*", "s3:PutBucketPolicy", "arn:aws:s3:::bkt"), "Allow", "Deny", 1)
	bob := h.user(bobKey)
	bob.refused(403, "AccessDenied", "PUT", "/bkt?policy", deny)
	bob.must("PUT", "/bkt?policy", deny, "x-amz-confirm-remove-self-bucket-access: true")
	bob.refused(403, "AccessDenied", "PUT", "/bkt?policy", deny, "x-amz-confirm-remove-self-bucket-access: true")
	h.must("PUT", "/bkt?policy", deny)
	h.must("DELETE", "/bkt?policy", "")
}

func TestPublicAccessBlockPartial(t *testing.T) {
	h := newHarness(t, Options{})
	h.must("PUT", "/bkt", "")
	h.must("PUT", "/bkt?publicAccessBlock", "<PublicAccessBlockConfiguration><IgnorePublicAcls>TRUE</IgnorePublicAcls></PublicAccessBlockConfiguration>")
	got := plain(h.must("GET", "/bkt?publicAccessBlock", "").body)
	want := "<PublicAccessBlockConfiguration><BlockPublicAcls>false</BlockPublicAcls><IgnorePublicAcls>true</IgnorePublicAcls>" +
		"<BlockPublicPolicy>false</BlockPublicPolicy><RestrictPublicBuckets>false</RestrictPublicBuckets></PublicAccessBlockConfiguration>"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	h.refused(http.StatusBadRequest, "MalformedXML", "PUT", "/bkt?publicAccessBlock",
		"<PublicAccessBlockConfiguration><IgnorePublicAcls>maybe</IgnorePublicAcls></PublicAccessBlockConfiguration>")
}
