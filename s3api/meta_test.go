package s3api

import (
	"strings"
	"testing"
	"time"

	"firn/auth"
)

func TestBuckets(t *testing.T) {
	h := newHarness(t, Options{})
	if r := h.must("PUT", "/bkt", ""); r.header.Get("Location") != "/bkt" {
		t.Errorf("%v", r.header)
	}
	h.must("PUT", "/bkt", "") // us-east-1 takes it again
	h.refused(409, "BucketAlreadyExists", "PUT", "/bkt", "", "x-amz-acl: public-read")
	h.refused(409, "BucketAlreadyExists", "PUT", "/bkt", "", "x-amz-bucket-object-lock-enabled: true")
	h.user(bobKey).refused(409, "BucketAlreadyExists", "PUT", "/bkt", "")
	h.user("").refused(403, "AccessDenied", "PUT", "/anon", "")
	for _, name := range []string{"ab", "A-b", "a_b", "192.168.0.1", "-ab", "ab-", "a..b", strings.Repeat("a", 64)} {
		h.refused(400, "InvalidBucketName", "PUT", "/"+name, "")
	}
	h.refused(400, "MalformedXML", "PUT", "/bkt2", "<x>")
	h.refused(400, "InvalidLocationConstraint", "PUT", "/bkt2",
		"<CreateBucketConfiguration><LocationConstraint>eu-west-1</LocationConstraint></CreateBucketConfiguration>")
	h.must("PUT", "/bkt2",
		"<CreateBucketConfiguration><LocationConstraint>us-east-1</LocationConstraint></CreateBucketConfiguration>")
	if r := h.must("HEAD", "/bkt", ""); r.header.Get("X-Amz-Bucket-Region") != "us-east-1" {
		t.Errorf("%v", r.header)
	}
	if r := h.do("HEAD", "/nosuch", ""); r.status != 404 || r.body != "" {
		t.Errorf("%+v", r)
	}
	if r := h.user(bobKey).do("HEAD", "/bkt", ""); r.status != 403 {
		t.Errorf("%+v", r)
	}
	if r := h.must("GET", "/bkt?location", ""); !strings.Contains(r.body, `"></LocationConstraint>`) {
		t.Errorf("%s", r.body)
	}
	h.must("PUT", "/bkt/k", "x")
	h.refused(409, "BucketNotEmpty", "DELETE", "/bkt", "")
	h.refused(404, "NoSuchBucket", "DELETE", "/nosuch", "")
	h.user(bobKey).refused(403, "AccessDenied", "DELETE", "/bkt2", "")
	if r := h.must("DELETE", "/bkt2", ""); r.status != 204 {
		t.Errorf("%+v", r)
	}
	h.refused(404, "NoSuchBucket", "GET", "/bkt2", "")
}

func TestRecreateElsewhere(t *testing.T) {
	h := newHarness(t, Options{Region: "us-east-1"})
	h.s.opt.Region = "eu-test-1" // requests stay signed for us-east-1, which is what the verifier knows
	h.must("PUT", "/bkt", "")
	h.refused(409, "BucketAlreadyOwnedByYou", "PUT", "/bkt", "")
	if r := h.must("GET", "/bkt?location", ""); !strings.Contains(r.body, ">eu-test-1<") {
		t.Errorf("%s", r.body)
	}
}

func TestListBuckets(t *testing.T) {
	h := newHarness(t, Options{})
	for _, b := range []string{"ccc", "aaa", "bbb"} {
		h.must("PUT", "/"+b, "")
	}
	h.user(bobKey).must("PUT", "/bobs", "")
	type result struct {
		Buckets           []struct{ Name, CreationDate string } `xml:"Buckets>Bucket"`
		Owner             struct{ ID, DisplayName string }
		ContinuationToken string
		Prefix            string
	}
	get := func(h *harness, query string) string {
		var r result
		h.must("GET", "/"+query, "").parse(t, &r)
		var names []string
		for _, b := range r.Buckets {
			names = append(names, b.Name)
			if _, err := time.Parse("2006-01-02T15:04:05.000Z", b.CreationDate); err != nil {
				t.Error(err)
			}
		}
		return strings.Join(names, " ")
	}
	for _, tt := range []struct {
		h           *harness
		query, want string
	}{
		{h, "", "aaa bbb ccc"},
		{h, "?prefix=b", "bbb"},
		{h, "?max-buckets=2", "aaa bbb"},
		{h.user(bobKey), "", "bobs"},
		{h.user(rootKey), "", "aaa bbb bobs ccc"},
		{h.user(""), "", ""},
	} {
		if got := get(tt.h, tt.query); got != tt.want {
			t.Errorf("%s as %q: %q, want %q", tt.query, tt.h.as, got, tt.want)
		}
	}
	var r result
	h.must("GET", "/?max-buckets=2", "").parse(t, &r)
	if got := get(h, "?continuation-token="+r.ContinuationToken); got != "ccc" {
		t.Errorf("second page %q", got)
	}
	if err := h.users.SetGrants(t.Context(), "bob", []auth.Grant{{Role: auth.RoleRead, Bucket: "aaa"}}); err != nil {
		t.Fatal(err)
	}
	if got := get(h.user(bobKey), ""); got != "aaa bobs" {
		t.Errorf("with a grant: %q", got)
	}
	h.refused(400, "InvalidArgument", "GET", "/?max-buckets=0", "")
	h.refused(400, "InvalidArgument", "GET", "/?continuation-token=x", "")
}

func TestGrants(t *testing.T) {
	h := newHarness(t, Options{})
	h.must("PUT", "/bkt", "")
	h.must("PUT", "/bkt/in/k", "x")
	h.must("PUT", "/bkt/out/k", "x")
	grant := func(g ...auth.Grant) {
		t.Helper()
		if err := h.users.SetGrants(t.Context(), "bob", g); err != nil {
			t.Fatal(err)
		}
	}
	bob := h.user(bobKey)
	grant(auth.Grant{Role: auth.RoleRead, Bucket: "bkt", Prefix: "in/"})
	bob.must("GET", "/bkt/in/k", "")
	bob.must("GET", "/bkt?prefix=in/", "")
	bob.refused(403, "AccessDenied", "GET", "/bkt?prefix=out/", "")
	bob.refused(403, "AccessDenied", "GET", "/bkt/out/k", "")
	bob.refused(403, "AccessDenied", "PUT", "/bkt/in/k", "y")
	bob.refused(404, "NoSuchKey", "GET", "/bkt/in/none", "")
	bob.refused(403, "AccessDenied", "GET", "/bkt/none", "")
	grant(auth.Grant{Role: auth.RoleWrite, Bucket: "bkt"})
	bob.must("PUT", "/bkt/in/k", "y")
	bob.must("DELETE", "/bkt/out/k", "")
	bob.refused(403, "AccessDenied", "DELETE", "/bkt", "")
	// What a granted user writes is the bucket owner's.
	v, err := h.store.Head(t.Context(), "bkt", "in/k", "")
	if err != nil || v.Owner != h.canonical(aliceKey) {
		t.Errorf("%v, owner %s", err, v.Owner)
	}
}

func TestObjectTagging(t *testing.T) {
	h := newHarness(t, Options{})
	h.must("PUT", "/bkt", "")
	h.must("PUT", "/bkt/k", "x", "x-amz-tagging: a=1")
	doc := func(s string) string { return "<Tagging><TagSet>" + s + "</TagSet></Tagging>" }
	tag := func(k, v string) string { return "<Tag><Key>" + k + "</Key><Value>" + v + "</Value></Tag>" }
	if r := h.must("GET", "/bkt/k?tagging", ""); !strings.Contains(r.body, doc(tag("a", "1"))[9:]) {
		t.Errorf("%s", r.body)
	}
	h.must("PUT", "/bkt/k?tagging", doc(tag("b", "2")+tag("c", "")))
	if r := h.must("GET", "/bkt/k?tagging", ""); !strings.Contains(r.body, tag("b", "2")+tag("c", "")) || strings.Contains(r.body, "<Key>a<") {
		t.Errorf("%s", r.body)
	}
	h.refused(400, "InvalidTag", "PUT", "/bkt/k?tagging", doc(tag("b", "2")+tag("b", "3")))
	h.refused(400, "MalformedXML", "PUT", "/bkt/k?tagging", "<Tagging/>")
	h.refused(404, "NoSuchKey", "PUT", "/bkt/none?tagging", doc(tag("b", "2")))
	h.refused(404, "NoSuchKey", "GET", "/bkt/none?tagging", "")
	h.user(bobKey).refused(403, "AccessDenied", "GET", "/bkt/k?tagging", "")
	if r := h.must("DELETE", "/bkt/k?tagging", ""); r.status != 204 {
		t.Errorf("%+v", r)
	}
	if r := h.must("HEAD", "/bkt/k", ""); r.header.Get("X-Amz-Tagging-Count") != "" {
		t.Errorf("%v", r.header)
	}
}

func TestObjectLock(t *testing.T) {
	h := newHarness(t, Options{})
	h.must("PUT", "/plain", "")
	h.must("PUT", "/plain/k", "x")
	for _, sub := range []string{"retention", "legal-hold"} {
		h.refused(400, "InvalidRequest", "GET", "/plain/k?"+sub, "")
		h.refused(400, "InvalidRequest", "PUT", "/plain/k?"+sub, "<x/>")
	}
	h.must("PUT", "/bkt", "", "x-amz-bucket-object-lock-enabled: true")
	until := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	lock := []string{
		"x-amz-object-lock-mode: GOVERNANCE", "x-amz-object-lock-retain-until-date: " + until.Format(time.RFC3339),
		"x-amz-object-lock-legal-hold: ON",
	}
	for _, hs := range [][]string{
		lock[:1], lock[1:2],
		{"x-amz-object-lock-legal-hold: maybe"},
		{"x-amz-object-lock-mode: STRICT", lock[1]},
		{lock[0], "x-amz-object-lock-retain-until-date: 2001-01-01T00:00:00Z"},
		{lock[0], "x-amz-object-lock-retain-until-date: soon"},
	} {
		h.refused(400, "InvalidArgument", "PUT", "/bkt/k", "x", hs...)
	}
	id := h.must("PUT", "/bkt/k", "x", lock...).header.Get("X-Amz-Version-Id")
	r := h.must("HEAD", "/bkt/k", "")
	if r.header.Get("X-Amz-Object-Lock-Mode") != "GOVERNANCE" || r.header.Get("X-Amz-Object-Lock-Legal-Hold") != "ON" ||
		r.header.Get("X-Amz-Object-Lock-Retain-Until-Date") != until.Format("2006-01-02T15:04:05.000Z") {
		t.Errorf("%v", r.header)
	}
	del := "/bkt/k?versionId=" + id
	h.refused(403, "AccessDenied", "DELETE", del, "")
	h.refused(403, "AccessDenied", "DELETE", del, "", "x-amz-bypass-governance-retention: true")
	h.refused(400, "MalformedXML", "PUT", "/bkt/k?legal-hold", "<LegalHold><Status>off</Status></LegalHold>")
	h.must("PUT", "/bkt/k?legal-hold", "<LegalHold><Status>OFF</Status></LegalHold>")
	if r := h.must("GET", "/bkt/k?legal-hold", ""); !strings.Contains(r.body, "<Status>OFF<") {
		t.Errorf("%s", r.body)
	}
	h.refused(403, "AccessDenied", "DELETE", del, "")
	retention := func(mode string, until time.Time) string {
		return "<Retention><Mode>" + mode + "</Mode><RetainUntilDate>" + until.Format(time.RFC3339) + "</RetainUntilDate></Retention>"
	}
	h.refused(400, "MalformedXML", "PUT", "/bkt/k?retention", retention("NONE", until))
	h.refused(400, "InvalidArgument", "PUT", "/bkt/k?retention", retention("GOVERNANCE", until.Add(-2*time.Hour)))
	h.refused(403, "AccessDenied", "PUT", "/bkt/k?retention", retention("GOVERNANCE", until.Add(-time.Minute)))
	h.must("PUT", "/bkt/k?retention", retention("GOVERNANCE", until.Add(time.Minute)))
	h.must("PUT", "/bkt/k?retention", retention("GOVERNANCE", until), "x-amz-bypass-governance-retention: true")
	if r := h.must("GET", "/bkt/k?retention", ""); !strings.Contains(r.body, "<Mode>GOVERNANCE</Mode>") {
		t.Errorf("%s", r.body)
	}
	h.must("DELETE", del, "", "x-amz-bypass-governance-retention: true")
	h.must("PUT", "/bkt/k", "x")
	h.refused(404, "NoSuchObjectLockConfiguration", "GET", "/bkt/k?retention", "")
}

func TestStorageClasses(t *testing.T) {
	h := newHarness(t, Options{StorageClasses: []string{"WARM"}})
	h.must("PUT", "/bkt", "")
	h.must("PUT", "/bkt/hot", "x", "x-amz-storage-class: STANDARD")
	h.must("PUT", "/bkt/warm", "x", "x-amz-storage-class: WARM")
	h.refused(400, "InvalidStorageClass", "PUT", "/bkt/cold", "x", "x-amz-storage-class: COLD")
	if got := h.must("HEAD", "/bkt/warm", "").header.Get("X-Amz-Storage-Class"); got != "WARM" {
		t.Errorf("%q", got)
	}
	if got := h.must("HEAD", "/bkt/hot", "").header.Get("X-Amz-Storage-Class"); got != "" {
		t.Errorf("%q", got)
	}
	const days = "<RestoreRequest><Days>1</Days></RestoreRequest>"
	h.must("POST", "/bkt/warm?restore", days)
	h.refused(403, "InvalidObjectState", "POST", "/bkt/hot?restore", days)
	h.refused(400, "InvalidArgument", "POST", "/bkt/warm?restore", "<RestoreRequest><Days>0</Days></RestoreRequest>")
	h.refused(400, "MalformedXML", "POST", "/bkt/warm?restore", "")
}

func TestAttributes(t *testing.T) {
	h := newHarness(t, Options{})
	h.must("PUT", "/bkt", "")
	h.must("PUT", "/bkt/k", "x")
	r := h.must("GET", "/bkt/k?attributes", "", "x-amz-object-attributes: ETag", "x-amz-object-attributes: ObjectSize, StorageClass")
	want := "<ETag>9dd4e461268c8034f5c8564e155c67a6</ETag><StorageClass>STANDARD</StorageClass><ObjectSize>1</ObjectSize>"
	if !strings.Contains(r.body, want) {
		t.Errorf("%s", r.body)
	}
	h.refused(400, "InvalidArgument", "GET", "/bkt/k?attributes", "")
	h.refused(400, "InvalidArgument", "GET", "/bkt/k?attributes", "", "x-amz-object-attributes: Colour")
	h.refused(404, "NoSuchKey", "GET", "/bkt/none?attributes", "", "x-amz-object-attributes: ETag")
}

func TestPresigned(t *testing.T) {
	h := newHarness(t, Options{})
	h.must("PUT", "/bkt", "")
	anon := h.user("")
	anon.must("PUT", h.presigned("PUT", "/bkt/a%20b", time.Minute), "content")
	if r := anon.must("GET", h.presigned("GET", "/bkt/a%20b", time.Minute), ""); r.body != "content" {
		t.Errorf("%+v", r)
	}
	anon.refused(403, "SignatureDoesNotMatch", "GET", h.presigned("PUT", "/bkt/a%20b", time.Minute), "")
	anon.refused(403, "SignatureDoesNotMatch", "GET", h.presigned("GET", "/bkt/a%20b", time.Minute)+"0", "")
	h.user(strings.Repeat("N", 20)).refused(403, "InvalidAccessKeyId", "GET", "/bkt/a%20b", "")
}
