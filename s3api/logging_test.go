package s3api

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"firn"
	"firn/auth"
	"firn/object/listing"
)

func status(target, prefix, more string) string {
	return `<BucketLoggingStatus xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><LoggingEnabled><TargetBucket>` + target +
		`</TargetBucket>` + more + `<TargetPrefix>` + prefix + `</TargetPrefix></LoggingEnabled></BucketLoggingStatus>`
}

// deliverable lets the policy of a bucket take access logs, with the conditions of AWS's example.
func deliverable(to, from, account string) string {
	return fmt.Sprintf(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"logging.s3.amazonaws.com"},
		"Action":"s3:PutObject","Resource":"arn:aws:s3:::%s/log/*","Condition":{"ArnLike":{"aws:SourceArn":"arn:aws:s3:::%s"},
		"StringEquals":{"aws:SourceAccount":"%s"}}}]}`, to, from, account)
}

func TestPutBucketLogging(t *testing.T) {
	h := newHarness(t, Options{})
	for _, b := range []string{"/source", "/logs", "/locked", "/off"} {
		h.must("PUT", b, "")
	}
	h.user(bobKey).must("PUT", "/bobs", "", "x-amz-acl: log-delivery-write")
	account := auth.AccountID(h.canonical(aliceKey))
	if r := h.must("GET", "/source?logging", ""); !strings.Contains(r.body, "<BucketLoggingStatus") || strings.Contains(r.body, "Enabled") {
		t.Errorf("never set: %s", r.body)
	}
	const refused = "InvalidTargetBucketForLogging"
	set := func(doc string) { t.Helper(); h.must("PUT", "/source?logging", doc) }
	h.refused(400, refused, "PUT", "/source?logging", status("nowhere", "log/", ""))
	h.refused(400, refused, "PUT", "/source?logging", status("NO bucket", "log/", ""))
	h.refused(400, refused, "PUT", "/source?logging", status("bobs", "log/", ""))
	h.refused(400, refused, "PUT", "/source?logging", status("logs", "log/", ""))

	// By policy: for the bucket, the prefix and the account named only.
	for _, p := range []string{
		deliverable("logs", "other", account), deliverable("logs", "source", "999999999999"),
		strings.Replace(deliverable("logs", "source", account), "logging.s3", "logging", 1),
		strings.Replace(deliverable("logs", "source", account), "PutObject", "GetObject", 1),
		strings.Replace(deliverable("logs", "source", account), `{"Service":"logging.s3.amazonaws.com"}`, `{"AWS":"`+account+`"}`, 1),
	} {
		h.must("PUT", "/logs?policy", p)
		h.refused(400, refused, "PUT", "/source?logging", status("logs", "log/", ""))
	}
	h.must("PUT", "/logs?policy", deliverable("logs", "source", account))
	h.refused(400, refused, "PUT", "/source?logging", status("logs", "elsewhere/", ""))
	set(status("logs", "log/", ""))
	if r := h.must("GET", "/source?logging", ""); !strings.Contains(r.body, "<LoggingEnabled><TargetBucket>logs</TargetBucket><TargetPrefix>log/</TargetPrefix></LoggingEnabled>") {
		t.Errorf("read back: %s", r.body)
	}
	// A Deny counts for more than an ACL.
	h.must("PUT", "/logs?acl", "", "x-amz-acl: log-delivery-write")
	h.must("PUT", "/logs?policy", strings.Replace(deliverable("logs", "source", account), "Allow", "Deny", 1))
	h.refused(400, refused, "PUT", "/source?logging", status("logs", "log/", ""))
	h.must("DELETE", "/logs?policy", "")
	set(status("logs", "log/", ""))
	h.must("DELETE", "/logs?policy", "")
	// Where ACLs are off, one from before counts for nothing.
	h.must("PUT", "/off?acl", "", "x-amz-acl: private")
	h.must("PUT", "/off?ownershipControls", "<OwnershipControls><Rule><ObjectOwnership>BucketOwnerEnforced</ObjectOwnership></Rule></OwnershipControls>")
	h.refused(400, refused, "PUT", "/source?logging", status("off", "log/", ""))

	h.must("PUT", "/worm", "", "x-amz-bucket-object-lock-enabled: true", "x-amz-acl: log-delivery-write")
	h.must("PUT", "/worm?object-lock", "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention>"+
		"<Mode>GOVERNANCE</Mode><Days>1</Days></DefaultRetention></Rule></ObjectLockConfiguration>")
	h.refused(400, refused, "PUT", "/source?logging", status("worm", "log/", ""))

	grant := `<TargetGrants><Grant><Grantee xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="CanonicalUser"><ID>` +
		h.canonical(bobKey) + `</ID></Grantee><Permission>READ</Permission></Grant></TargetGrants>`
	set(status("logs", "log/", grant))
	h.refused(400, "InvalidArgument", "PUT", "/source?logging", status("logs", "log/", strings.Replace(grant, h.canonical(bobKey), strings.Repeat("0", 64), 1)))
	h.refused(400, "MalformedXML", "PUT", "/source?logging", status("logs", "log/", strings.Replace(grant, "READ", "READ_ACP", 1)))
	const format = "<TargetObjectKeyFormat>%s</TargetObjectKeyFormat>"
	for _, f := range []string{"<SimplePrefix/>", "<PartitionedPrefix><PartitionDateSource>EventTime</PartitionDateSource></PartitionedPrefix>"} {
		set(status("logs", "log/", fmt.Sprintf(format, f)))
		if r := h.must("GET", "/source?logging", ""); !strings.Contains(r.body, f) {
			t.Errorf("read back: %s", r.body)
		}
	}
	for _, f := range []string{
		"", "<Other/>", "<SimplePrefix/><SimplePrefix/>", "<SimplePrefix>x</SimplePrefix>",
		"<PartitionedPrefix><PartitionDateSource>Tomorrow</PartitionDateSource></PartitionedPrefix>",
	} {
		h.refused(400, "MalformedXML", "PUT", "/source?logging", status("logs", "log/", fmt.Sprintf(format, f)))
	}
	h.refused(400, "MalformedXML", "PUT", "/source?logging", strings.Replace(status("logs", "", ""), "<TargetPrefix></TargetPrefix>", "", 1))
	h.refused(400, "InvalidArgument", "PUT", "/source?logging", status("logs", strings.Repeat("x", 701), ""))
	h.user(bobKey).refused(403, "AccessDenied", "PUT", "/source?logging", status("logs", "log/", ""))
	h.user(bobKey).refused(403, "AccessDenied", "GET", "/source?logging", "")
	set("<BucketLoggingStatus/>")
	if r := h.must("GET", "/source?logging", ""); strings.Contains(r.body, "Enabled") {
		t.Errorf("switched off: %s", r.body)
	}
}

// keysIn returns the keys in a bucket.
func (h *harness) keysIn(bucket string) (keys []string) {
	h.t.Helper()
	l, err := h.store.List(context.Background(), bucket, listing.Options{Limit: 100})
	if err != nil {
		h.t.Fatal(err)
	}
	for _, v := range l.Versions {
		keys = append(keys, v.Key)
	}
	return keys
}

func TestDeliverLog(t *testing.T) {
	h := newHarness(t, Options{})
	h.must("PUT", "/source", "")
	h.must("PUT", "/logs", "", "x-amz-acl: log-delivery-write")
	bob := h.canonical(bobKey)
	deliver := func() error {
		b, err := h.store.Bucket(t.Context(), "source")
		if err != nil {
			t.Fatal(err)
		}
		return h.s.DeliverLog(t.Context(), b, time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC), []byte("a line\n"))
	}
	if err := deliver(); firn.KindOf(err) != firn.NotFound {
		t.Errorf("without a setting: %v", err)
	}
	grant := `<TargetGrants><Grant><Grantee xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="CanonicalUser"><ID>` + bob +
		`</ID></Grantee><Permission>READ</Permission></Grant></TargetGrants>`
	h.must("PUT", "/source?logging", status("logs", "log/", grant))
	if err := deliver(); err != nil {
		t.Fatal(err)
	}
	keys := h.keysIn("logs")
	if len(keys) != 1 || !strings.HasPrefix(keys[0], "log/"+time.Now().UTC().Format("2006-01-02-")) {
		t.Fatalf("keys %q", keys)
	}
	for _, who := range []string{aliceKey, bobKey} {
		if r := h.user(who).must("GET", "/logs/"+keys[0], ""); r.body != "a line\n" || r.header.Get("Content-Type") != "text/plain" {
			t.Errorf("%q %v", r.body, r.header)
		}
	}
	h.must("DELETE", "/logs/"+keys[0], "")
	h.must("PUT", "/source?logging", status("logs", "log/",
		"<TargetObjectKeyFormat><PartitionedPrefix><PartitionDateSource>EventTime</PartitionDateSource></PartitionedPrefix></TargetObjectKeyFormat>"))
	if err := deliver(); err != nil {
		t.Fatal(err)
	}
	keys = h.keysIn("logs")
	want := "log/" + auth.AccountID(h.canonical(aliceKey)) + "/us-east-1/source/2026/01/31/2026-01-31-00-00-00-"
	if len(keys) != 1 || !strings.HasPrefix(keys[0], want) {
		t.Fatalf("keys %q, want %s", keys, want)
	}
	// What the target takes is asked anew each time.
	h.must("PUT", "/logs?acl", "", "x-amz-acl: private")
	if err := deliver(); firn.KindOf(err) != firn.Denied {
		t.Errorf("without permission: %v", err)
	}
	h.must("PUT", "/logs?acl", "", "x-amz-acl: log-delivery-write")
	h.must("DELETE", "/logs/"+keys[0], "")
	h.must("DELETE", "/logs", "")
	if err := deliver(); firn.KindOf(err) != firn.Denied {
		t.Errorf("without the target: %v", err)
	}
	h.user(bobKey).must("PUT", "/logs", "", "x-amz-acl: log-delivery-write")
	if err := deliver(); firn.KindOf(err) != firn.Denied {
		t.Errorf("into a bucket of somebody else: %v", err)
	}
}

// What is told of requests has what a line needs, for the buckets that ask only.
func TestLogged(t *testing.T) {
	var mu sync.Mutex
	var got []*Finished
	h := newHarness(t, Options{Logged: func(f *Finished) { mu.Lock(); defer mu.Unlock(); got = append(got, f) }})
	take := func() *Finished {
		t.Helper()
		mu.Lock()
		defer mu.Unlock()
		if len(got) != 1 {
			t.Fatalf("%d requests were told of", len(got))
		}
		f := got[0]
		got = nil
		return f
	}
	h.must("PUT", "/source", "")
	h.must("PUT", "/quiet", "")
	h.must("PUT", "/logs", "", "x-amz-acl: log-delivery-write")
	h.must("PUT", "/source?logging", status("logs", "", ""))
	h.must("PUT", "/quiet/k", "content")
	if len(got) != 0 {
		t.Errorf("told of %s, where nobody asks", got[0].Op)
	}
	h.must("PUT", "/source/k", "content")
	if f := take(); f.Op != "PutObject" || f.Size != 7 || f.Key != "k" || f.ByACL || f.First <= 0 {
		t.Errorf("%+v", f)
	}
	h.must("GET", "/source/k", "", "Range: bytes=0-1")
	if f := take(); f.Size != 7 || f.Out != 2 || f.Status != 206 {
		t.Errorf("%+v", f)
	}
	h.user(bobKey).refused(403, "AccessDenied", "GET", "/source/k", "")
	if f := take(); f.Code != "AccessDenied" || f.User.Name != "bob" {
		t.Errorf("%+v", f)
	}
	h.must("PUT", "/quiet/copy", "", "x-amz-copy-source: /source/k")
	if f := take(); f.Op != "CopyObject" || len(f.Also) != 1 || f.Also[0].Key != "k" || f.Also[0].Bucket.Name != "source" || f.Also[0].Size != 7 {
		t.Errorf("%+v", f)
	}
	h.user("").refused(403, "AccessDenied", "DELETE", "/source/k", "")
	if f := take(); !f.User.Anonymous() {
		t.Errorf("%+v", f)
	}
	h.must("PUT", "/source/k?acl", "", "x-amz-acl: public-read")
	take()
	h.user("").must("GET", "/source/k", "")
	if f := take(); !f.ByACL {
		t.Errorf("%+v", f)
	}
	h.must("POST", "/source?delete", "<Delete><Object><Key>k</Key></Object><Object><Key>other</Key></Object></Delete>",
		"Content-MD5: "+md5Of("<Delete><Object><Key>k</Key></Object><Object><Key>other</Key></Object></Delete>"))
	if f := take(); len(f.Also) != 2 || f.Also[0].Key != "k" || f.Also[1].Status != 204 {
		t.Errorf("%+v", f)
	}
}
