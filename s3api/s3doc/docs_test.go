package s3doc

import (
	"encoding/xml"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"firn/s3api/s3err"
)

// codeOf is the S3 code of an error, "" for nil.
func codeOf(err error) string {
	if err == nil {
		return ""
	}
	var e *s3err.Error
	if !errors.As(err, &e) {
		return "not an *Error: " + err.Error()
	}
	return e.Code
}

func TestParseDoc(t *testing.T) {
	tests := []struct {
		name, in, want string // want "" is an error
	}{
		{"plain", `<R><A>1</A><B/></R>`, `<R><A>1</A><B/></R>`},
		{"white space, comments, declaration", "<?xml version=\"1.0\"?>\n<R>\n <!-- x --><A>1</A>\n</R>\n", `<R><A>1</A></R>`},
		{"text is kept", "<R><A> a b\n</A></R>", "<R><A> a b&#xA;</A></R>"},
		{"comment inside text", "<R><A>a<!-- x -->b</A></R>", "<R><A>ab</A></R>"},
		{"entities", "<R><A>&lt;&amp;&#65;</A></R>", "<R><A>&lt;&amp;A</A></R>"},
		{"namespace", `<R xmlns="` + Namespace + `"><A>1</A></R>`, `<R><A>1</A></R>`},
		{
			"xsi:type", `<R><A xmlns:xsi="` + xsiNamespace + `" xsi:type="Group">1</A></R>`,
			`<R><A xmlns:xsi="` + xsiNamespace + `" xsi:type="Group">1</A></R>`,
		},
		{
			"deepest", "<R>" + strings.Repeat("<a>", maxXMLDepth-1) + strings.Repeat("</a>", maxXMLDepth-1) + "</R>",
			"<R>" + strings.Repeat("<a>", maxXMLDepth-2) + "<a/>" + strings.Repeat("</a>", maxXMLDepth-2) + "</R>",
		},
		{"too deep", "<R>" + strings.Repeat("<a>", maxXMLDepth) + strings.Repeat("</a>", maxXMLDepth) + "</R>", ``},
		{"empty", ``, ``},
		{"other root", `<S/>`, ``},
		{"foreign namespace", `<R xmlns="urn:x"/>`, ``},
		{"foreign child", `<R><x:A xmlns:x="urn:x"/></R>`, ``},
		{"two roots", `<R/><R/>`, ``},
		{"text after the root", `<R/>x`, ``},
		{"text before the root", `x<R/>`, ``},
		{"mixed content", `<R>x<A/></R>`, ``},
		{"mixed content after", `<R><A/>x</R>`, ``},
		{"doctype", `<!DOCTYPE R [<!ENTITY a "b">]><R/>`, ``},
		{"unknown entity", `<R>&a;</R>`, ``},
		{"unclosed", `<R><A>`, ``},
		{"crossed", `<R><A></R></A>`, ``},
		{"not utf-8", "<R>\xff</R>", ``},
		{"other charset", `<?xml version="1.0" encoding="latin1"?><R/>`, ``},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n, err := parseDoc([]byte(tt.in), "R")
			if tt.want == "" {
				if codeOf(err) != "MalformedXML" {
					t.Fatalf("got %v, want MalformedXML", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Replace(string(n.render()), ` xmlns="`+Namespace+`"`, "", 1)
			if diff := cmp.Diff(xml.Header+tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// docCase is one document, given by what is inside its root, and the code it is refused with.
type docCase struct{ name, in, code string }

// checkDocs runs a parser over cases and checks that what it stores reads back as itself.
func checkDocs(t *testing.T, root string, parse func([]byte) ([]byte, error), cases []docCase) {
	t.Helper()
	for _, tt := range cases {
		t.Run(tt.name, func(t *testing.T) {
			doc, err := parse([]byte("<" + root + ">" + tt.in + "</" + root + ">"))
			if codeOf(err) != tt.code {
				t.Fatalf("got %v, want %q", err, tt.code)
			}
			if err != nil || doc == nil {
				return
			}
			if again, err := parse(doc); err != nil || string(again) != string(doc) {
				t.Errorf("stored %q, which reads back as %q, %v", doc, again, err)
			}
		})
	}
}

func parseVersioningDoc(b []byte) ([]byte, error) {
	status, err := ParseVersioning(b)
	if err != nil {
		return nil, err
	}
	return VersioningDoc(status), nil
}

func parseObjectLockDoc(b []byte) ([]byte, error) {
	c, err := ParseObjectLock(b)
	if err != nil {
		return nil, err
	}
	return ObjectLockDoc(c.Retention), nil
}

func parseTierLifecycle(b []byte) ([]byte, error) {
	return CheckLifecycle(b, func(c string) bool { return c == "COLD" || c == "STANDARD_IA" })
}

func parseLifecycle(b []byte) ([]byte, error) { return CheckLifecycle(b, nil) }

func parseQueueNotification(b []byte) ([]byte, error) {
	return CheckNotification(b, func(arn string) bool { return strings.HasPrefix(arn, "arn:aws:sqs:") })
}

func TestVersioningDoc(t *testing.T) {
	checkDocs(t, "VersioningConfiguration", parseVersioningDoc, []docCase{
		{"on", `<Status>Enabled</Status>`, ""},
		{"off", `<Status>Suspended</Status><MfaDelete>Disabled</MfaDelete>`, ""},
		{"mfa", `<Status>Enabled</Status><MfaDelete>Enabled</MfaDelete>`, "NotImplemented"},
		{"case", `<Status>enabled</Status>`, "MalformedXML"},
		{"twice", `<Status>Enabled</Status><Status>Enabled</Status>`, "MalformedXML"},
		{"unknown", `<Status>Enabled</Status><Foo/>`, "MalformedXML"},
		{"empty", ``, "IllegalVersioningConfigurationException"},
	})
}

func TestBucketTaggingDoc(t *testing.T) {
	tag := func(k, v string) string { return "<Tag><Key>" + k + "</Key><Value>" + v + "</Value></Tag>" }
	set := func(tags ...string) string { return "<TagSet>" + strings.Join(tags, "") + "</TagSet>" }
	many := func(n int) string {
		var b strings.Builder
		for i := range n {
			b.WriteString(tag(fmt.Sprint("k", i), "v"))
		}
		return b.String()
	}
	checkDocs(t, "Tagging", CheckBucketTagging, []docCase{
		{"one", set(tag("Hello", "World")), ""},
		{"none", set(), ""},
		{"empty value", set(tag("a", "")), ""},
		{"letters of any script", set(tag("ключ", "значение 1+-=._:/@")), ""},
		{"most", set(many(50)), ""},
		{"longest", set(tag(strings.Repeat("é", 128), strings.Repeat("é", 256))), ""},
		{"too many", set(many(51)), "InvalidTag"},
		{"same key", set(tag("a", "1"), tag("a", "2")), "InvalidTag"},
		{"key too long", set(tag(strings.Repeat("a", 129), "")), "InvalidTag"},
		{"value too long", set(tag("a", strings.Repeat("a", 257))), "InvalidTag"},
		{"empty key", set(tag("", "1")), "InvalidTag"},
		{"bad character", set(tag("a!", "1")), "InvalidTag"},
		{"system tag", set(tag("aws:x", "1")), "InvalidTag"},
		{"no value", set("<Tag><Key>a</Key></Tag>"), "MalformedXML"},
		{"no set", "", "MalformedXML"},
		{"unknown element", set(tag("a", "1"), "<X/>"), "MalformedXML"},
	})
}

func TestEncryptionDoc(t *testing.T) {
	by := func(s string) string {
		return "<Rule><ApplyServerSideEncryptionByDefault>" + s + "</ApplyServerSideEncryptionByDefault></Rule>"
	}
	checkDocs(t, "ServerSideEncryptionConfiguration", CheckEncryption, []docCase{
		{"aes", by("<SSEAlgorithm>AES256</SSEAlgorithm>"), ""},
		{"kms", by("<SSEAlgorithm>aws:kms</SSEAlgorithm>"), ""},
		{"key", by("<KMSMasterKeyID>k</KMSMasterKeyID><SSEAlgorithm>aws:kms:dsse</SSEAlgorithm>"), ""},
		{"aes with key", by("<SSEAlgorithm>AES256</SSEAlgorithm><KMSMasterKeyID>k</KMSMasterKeyID>"), "InvalidArgument"},
		{"unknown", by("<SSEAlgorithm>DES</SSEAlgorithm>"), "MalformedXML"},
		{"no algorithm", by(""), "MalformedXML"},
		{"two rules", strings.Repeat(by("<SSEAlgorithm>AES256</SSEAlgorithm>"), 2), "MalformedXML"},
		{"no default", "<Rule><BucketKeyEnabled>true</BucketKeyEnabled></Rule>", "MalformedXML"},
		{"empty", "", "MalformedXML"},
	})
}

func TestObjectLockDoc(t *testing.T) {
	const on = "<ObjectLockEnabled>Enabled</ObjectLockEnabled>"
	def := func(s string) string { return "<Rule><DefaultRetention>" + s + "</DefaultRetention></Rule>" }
	checkDocs(t, "ObjectLockConfiguration", parseObjectLockDoc, []docCase{
		{"on", on, ""},
		{"days", on + def("<Mode>GOVERNANCE</Mode><Days>1</Days>"), ""},
		{"years", def("<Mode>COMPLIANCE</Mode><Years>100</Years>"), ""},
		{"disabled", "<ObjectLockEnabled>Disabled</ObjectLockEnabled>", "MalformedXML"},
		{"case", def("<Mode>governance</Mode><Days>1</Days>"), "MalformedXML"},
		{"both", def("<Mode>GOVERNANCE</Mode><Days>1</Days><Years>1</Years>"), "MalformedXML"},
		{"no period", def("<Mode>GOVERNANCE</Mode>"), "MalformedXML"},
		{"no mode", def("<Days>1</Days>"), "MalformedXML"},
		{"no number", def("<Mode>GOVERNANCE</Mode><Days>one</Days>"), "MalformedXML"},
		{"empty rule", "<Rule/>", "MalformedXML"},
		{"0 days", def("<Mode>GOVERNANCE</Mode><Days>0</Days>"), "InvalidRetentionPeriod"},
		{"-1 years", def("<Mode>GOVERNANCE</Mode><Years>-1</Years>"), "InvalidRetentionPeriod"},
		{"many days", def("<Mode>GOVERNANCE</Mode><Days>36501</Days>"), "InvalidRetentionPeriod"},
		{"many years", def("<Mode>GOVERNANCE</Mode><Years>101</Years>"), "InvalidRetentionPeriod"},
	})
	got, err := ParseObjectLock([]byte("<ObjectLockConfiguration>" + on + def("<Mode>COMPLIANCE</Mode><Years>3</Years>") +
		"</ObjectLockConfiguration>"))
	want := ObjectLock{Enable: true, Retention: DefaultRetention{Mode: Compliance, Years: 3}}
	if err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
}

func TestNotificationDoc(t *testing.T) {
	const put = "<Event>s3:ObjectCreated:*</Event>"
	queue := func(s string) string {
		return "<QueueConfiguration><Id>q</Id><Queue>arn:aws:sqs:us-east-1:1:q</Queue>" + s + "</QueueConfiguration>"
	}
	rule := func(name string) string { return "<FilterRule><Name>" + name + "</Name><Value>a</Value></FilterRule>" }
	filter := func(rules ...string) string {
		return queue(put + "<Filter><S3Key>" + strings.Join(rules, "") + "</S3Key></Filter>")
	}
	checkDocs(t, "NotificationConfiguration", parseQueueNotification, []docCase{
		{"empty", "", ""},
		{"queue", queue(put), ""},
		{"filter", filter(rule("Prefix"), rule("suffix")), ""},
		{"unknown target", "<TopicConfiguration><Topic>arn:aws:sns:::t</Topic>" + put + "</TopicConfiguration>", "InvalidArgument"},
		{"no arn", "<TopicConfiguration>" + put + "</TopicConfiguration>", "MalformedXML"},
		{"bad arn", "<TopicConfiguration><Topic>t</Topic>" + put + "</TopicConfiguration>", "InvalidArgument"},
		{"no event", queue(""), "MalformedXML"},
		{"unknown event", queue("<Event>s3:Foo</Event>"), "InvalidArgument"},
		{"same id", queue(put) + queue(put), "InvalidArgument"},
		{"unknown filter", filter(rule("infix")), "InvalidArgument"},
		{"two prefixes", filter(rule("prefix"), rule("prefix")), "InvalidArgument"},
		{"event bridge", "<EventBridgeConfiguration/>", "NotImplemented"},
		{"unknown element", "<Foo/>", "MalformedXML"},
	})
}

func TestLifecycleDoc(t *testing.T) {
	const (
		on     = "<Status>Enabled</Status>"
		all    = "<Filter/>"
		expire = "<Expiration><Days>1</Days></Expiration>"
		tag    = "<Tag><Key>k</Key><Value>v</Value></Tag>"
		marker = "<ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker>"
	)
	rule := func(s ...string) string { return "<Rule>" + strings.Join(s, "") + "</Rule>" }
	exp := func(s string) string { return rule(all, on, "<Expiration>"+s+"</Expiration>") }
	filter := func(s string) string { return rule("<Filter>"+s+"</Filter>", on, expire) }
	move := func(when, class string) string {
		return "<Transition>" + when + "<StorageClass>" + class + "</StorageClass></Transition>"
	}
	old := func(s string) string {
		return rule(all, on, "<NoncurrentVersionExpiration>"+s+"</NoncurrentVersionExpiration>")
	}
	abort := func(days string) string {
		return "<AbortIncompleteMultipartUpload><DaysAfterInitiation>" + days +
			"</DaysAfterInitiation></AbortIncompleteMultipartUpload>"
	}
	checkDocs(t, "LifecycleConfiguration", parseTierLifecycle, []docCase{
		{"class of a tier", rule(all, on, move("<Days>1</Days>", "COLD")), ""},
		{"sooner than AWS allows", rule(all, on, move("<Days>1</Days>", "STANDARD_IA")), ""},
		{"of AWS alone", rule(all, on, move("<Days>1</Days>", "GLACIER")), "InvalidArgument"},
		{"noncurrent of AWS alone", rule(all, on, "<NoncurrentVersionTransition><NoncurrentDays>30</NoncurrentDays>"+
			"<StorageClass>ONEZONE_IA</StorageClass></NoncurrentVersionTransition>"), "InvalidArgument"},
	})
	checkDocs(t, "LifecycleConfiguration", parseLifecycle, []docCase{
		{"old prefix", rule("<ID>a</ID><Prefix>p/</Prefix>", on, expire), ""},
		{"empty filter", rule(all, on, expire), ""},
		{"disabled", rule(all, "<Status>Disabled</Status>", expire), ""},
		{"filter prefix", filter("<Prefix>p</Prefix>"), ""},
		{"filter tag", filter(tag), ""},
		{"filter and", filter("<And><Prefix/>" + tag + "<ObjectSizeGreaterThan>1</ObjectSizeGreaterThan>" +
			"<ObjectSizeLessThan>9</ObjectSizeLessThan></And>"), ""},
		{"date", exp("<Date>2017-09-27T00:00:00Z</Date>"), ""},
		{"day alone", exp("<Date>2017-09-27</Date>"), ""},
		{"midnight elsewhere", exp("<Date>2017-09-27T02:00:00+02:00</Date>"), ""},
		{"delete marker", exp(marker), ""},
		{"noncurrent", old("<NoncurrentDays>3</NoncurrentDays><NewerNoncurrentVersions>5</NewerNoncurrentVersions>"), ""},
		{"abort", rule(all, on, abort("7")), ""},
		{"transition", rule(all, on, move("<Days>0</Days>", "GLACIER"), expire), ""},
		{"noncurrent transition", rule(all, on, "<NoncurrentVersionTransition><NoncurrentDays>30</NoncurrentDays>"+
			"<StorageClass>STANDARD_IA</StorageClass></NoncurrentVersionTransition>"), ""},

		{"no rule", "", "MalformedXML"},
		{"too many rules", strings.Repeat(rule(all, on, expire), 1001), "MalformedXML"},
		{"no status", rule(all, expire), "MalformedXML"},
		{"status", rule(all, "<Status>enabled</Status>", expire), "MalformedXML"},
		{"no filter", rule(on, expire), "MalformedXML"},
		{"prefix and filter", rule(all, "<Prefix/>", on, expire), "MalformedXML"},
		{"two predicates without And", filter("<Prefix/>" + tag), "MalformedXML"},
		{"And of one", filter("<And><Prefix/></And>"), "MalformedXML"},
		{"no action", rule(all, on), "InvalidRequest"},
		{"id too long", rule("<ID>"+strings.Repeat("a", 256)+"</ID>", all, on, expire), "InvalidArgument"},
		{"same id", strings.Repeat(rule("<ID>a</ID>", all, on, expire), 2), "InvalidArgument"},
		{"days 0", exp("<Days>0</Days>"), "InvalidArgument"},
		{"days not a number", exp("<Days>x</Days>"), "MalformedXML"},
		{"days and date", exp("<Days>1</Days><Date>2017-09-27</Date>"), "MalformedXML"},
		{"empty expiration", exp(""), "MalformedXML"},
		{"days and marker", exp("<Days>1</Days>" + marker), "MalformedXML"},
		{"not midnight", exp("<Date>2017-09-27T01:00:00Z</Date>"), "InvalidArgument"},
		{"no date", exp("<Date>20200101</Date>"), "MalformedXML"},
		{"marker with tag", rule("<Filter>"+tag+"</Filter>", on, "<Expiration>"+marker+"</Expiration>"), "InvalidRequest"},
		{"abort with tag", rule("<Filter>"+tag+"</Filter>", on, abort("1")), "InvalidRequest"},
		{"abort 0", rule(all, on, abort("0")), "InvalidArgument"},
		{"same tag twice", filter("<And>" + tag + tag + "</And>"), "InvalidRequest"},
		{"sizes crossed", filter("<And><ObjectSizeGreaterThan>9</ObjectSizeGreaterThan><ObjectSizeLessThan>9" +
			"</ObjectSizeLessThan></And>"), "InvalidRequest"},
		{"negative size", filter("<ObjectSizeGreaterThan>-1</ObjectSizeGreaterThan>"), "InvalidRequest"},
		{"unknown class", rule(all, on, move("<Days>1</Days>", "TAPE")), "MalformedXML"},
		{"move without class", rule(all, on, "<Transition><Days>1</Days></Transition>"), "MalformedXML"},
		{"move without time", rule(all, on, move("", "GLACIER")), "MalformedXML"},
		{"move too early", rule(all, on, move("<Days>29</Days>", "STANDARD_IA")), "InvalidArgument"},
		{"same class twice", rule(all, on, move("<Days>1</Days>", "GLACIER"), move("<Days>2</Days>", "GLACIER")), "InvalidRequest"},
		{"expired before the move", rule(all, on, move("<Days>1</Days>", "GLACIER"), expire), "InvalidArgument"},
		{"mixed", rule(all, on, move("<Date>2017-09-27</Date>", "GLACIER"), expire), "InvalidRequest"},
		{"noncurrent days 0", old("<NoncurrentDays>0</NoncurrentDays>"), "InvalidArgument"},
		{"newer without days", old("<NewerNoncurrentVersions>1</NewerNoncurrentVersions>"), "MalformedXML"},
		{
			"newer 101",
			old("<NoncurrentDays>1</NoncurrentDays><NewerNoncurrentVersions>101</NewerNoncurrentVersions>"), "InvalidArgument",
		},
		{"unknown element", rule(all, on, expire, "<Foo/>"), "MalformedXML"},
	})
}

// A rule without an id gets one; the rest of the document stays as it was sent.
func TestLifecycleGivesIDs(t *testing.T) {
	const body = `<Filter><Prefix>a &amp; b</Prefix></Filter><Status>Enabled</Status><Expiration><Days>1</Days></Expiration>`
	doc, err := CheckLifecycle([]byte("<LifecycleConfiguration><Rule>"+body+"</Rule></LifecycleConfiguration>"), nil)
	if err != nil {
		t.Fatal(err)
	}
	n, err := parseDoc(doc, "LifecycleConfiguration")
	if err != nil {
		t.Fatal(err)
	}
	id, there, err := n.kids[0].str("ID")
	if err != nil || !there || len(id) != 24 {
		t.Fatalf("id %q, %v, %v", id, there, err)
	}
	got := strings.Replace(string(doc), "<ID>"+id+"</ID>", "", 1)
	want := xml.Header + "<LifecycleConfiguration xmlns=\"" + Namespace + "\"><Rule>" + body +
		"</Rule></LifecycleConfiguration>"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Every document parser takes any bytes without a panic, answers with an S3 error or with a document it reads again.
func FuzzDocuments(f *testing.F) {
	for _, s := range []string{
		`<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>`,
		`<LifecycleConfiguration><Rule><Filter/><Status>Enabled</Status><Expiration><Days>1</Days></Expiration></Rule></LifecycleConfiguration>`,
		`<CORSConfiguration><CORSRule><AllowedOrigin>*</AllowedOrigin><AllowedMethod>GET</AllowedMethod></CORSRule></CORSConfiguration>`,
		`<ServerSideEncryptionConfiguration><Rule><ApplyServerSideEncryptionByDefault><SSEAlgorithm>AES256</SSEAlgorithm></ApplyServerSideEncryptionByDefault></Rule></ServerSideEncryptionConfiguration>`,
		`<NotificationConfiguration><QueueConfiguration><Queue>arn:aws:sqs:x</Queue><Event>s3:ObjectAcl:Put</Event></QueueConfiguration></NotificationConfiguration>`,
		`<ObjectLockConfiguration><Rule><DefaultRetention><Mode>GOVERNANCE</Mode><Days>1</Days></DefaultRetention></Rule></ObjectLockConfiguration>`,
		`<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>`,
		"<R><A>\x00</A></R>",
	} {
		f.Add([]byte(s))
	}
	parsers := map[string]func([]byte) ([]byte, error){
		"tagging": CheckBucketTagging, "encryption": CheckEncryption, "cors": CheckCORS, "lifecycle": parseTierLifecycle,
		"notification": parseQueueNotification, "lock": parseObjectLockDoc, "versioning": parseVersioningDoc,
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for name, parse := range parsers {
			doc, err := parse(b)
			if err != nil {
				if e, ok := errors.AsType[*s3err.Error](err); !ok || e.Status < 400 {
					t.Errorf("%s: %v is no S3 error", name, err)
				}
				continue
			}
			if doc == nil {
				continue
			}
			if again, err := parse(doc); err != nil || string(again) != string(doc) {
				t.Errorf("%s: stored %q reads back as %q, %v", name, doc, again, err)
			}
		}
	})
}
