package s3doc

import (
	"strings"
	"testing"
)

func TestCORSDoc(t *testing.T) {
	const rule = "<AllowedOrigin>*</AllowedOrigin><AllowedMethod>GET</AllowedMethod>"
	in := func(s string) string { return "<CORSRule>" + rule + s + "</CORSRule>" }
	checkDocs(t, "CORSConfiguration", CheckCORS, []docCase{
		{"least", in(""), ""},
		{"all", in("<ID>a</ID><AllowedHeader>x-*</AllowedHeader><ExposeHeader>ETag</ExposeHeader>" +
			"<MaxAgeSeconds>3000</MaxAgeSeconds><AllowedMethod>PUT</AllowedMethod>"), ""},
		{"most rules", strings.Repeat(in(""), 100), ""},
		{"too many rules", strings.Repeat(in(""), 101), "MalformedXML"},
		{"no rule", "", "MalformedXML"},
		{"no method", "<CORSRule><AllowedOrigin>*</AllowedOrigin></CORSRule>", "MalformedXML"},
		{"no origin", "<CORSRule><AllowedMethod>GET</AllowedMethod></CORSRule>", "MalformedXML"},
		{"method", in("<AllowedMethod>PATCH</AllowedMethod>"), "InvalidRequest"},
		{"two stars in an origin", in("<AllowedOrigin>http://*.*</AllowedOrigin>"), "InvalidRequest"},
		{"two stars in a header", in("<AllowedHeader>*x*</AllowedHeader>"), "InvalidRequest"},
		{"star in an exposed header", in("<ExposeHeader>x-*</ExposeHeader>"), "InvalidRequest"},
		{"bad exposed header", in("<ExposeHeader>a&#10;b</ExposeHeader>"), "InvalidRequest"},
		{"negative age", in("<MaxAgeSeconds>-1</MaxAgeSeconds>"), "MalformedXML"},
		{"id too long", in("<ID>" + strings.Repeat("a", 256) + "</ID>"), "InvalidRequest"},
		{"unknown element", in("<Foo/>"), "MalformedXML"},
	})
}
