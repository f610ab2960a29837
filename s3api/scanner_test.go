package s3api

import (
	"encoding/xml"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"firn/object"
)

func TestParseDelete(t *testing.T) {
	tests := []struct {
		name, in string
		want     []string // KEY or KEY@VERSION
		quiet    bool
		ok       bool
	}{
		{"plain", "<Delete><Object><Key>a</Key></Object></Delete>", []string{"a"}, false, true},
		{
			"all of XML", "\xef\xbb\xbf<?xml version=\"1.0\"?><!-- c --><s3:Delete xmlns:s3='x>y'>\n <Quiet> true </Quiet>" +
				"<Object a=\"b\"><s3:Key>a&amp;&#x41;&#66;<![CDATA[<&]]><!-- x -->\r\nz</s3:Key ><Other><Deep/></Other></Object>\n" +
				"<Object><VersionId>v</VersionId><Key>b</Key></Object></s3:Delete>\n<!-- end -->",
			[]string{"a&AB<&\nz", "b@v"},
			true, true,
		},
		{"control characters", "<Delete><Object><Key>&#1;</Key></Object></Delete>", []string{"\x01"}, false, true},
		{"key twice", "<Delete><Object><Key>a</Key><Key>b</Key></Object></Delete>", []string{"b"}, false, true},
		{"no key", "<Delete><Object></Object></Delete>", nil, false, false},
		{"empty key", "<Delete><Object><Key/></Object></Delete>", nil, false, false},
		{"other root", "<Remove><Object><Key>a</Key></Object></Remove>", nil, false, false},
		{"cut", "<Delete><Object><Key>a</Key></Object>", nil, false, false},
		{"crossed", "<Delete><Object><Key>a</Object></Key></Delete>", nil, false, false},
		{"text between", "<Delete>x<Object><Key>a</Key></Object></Delete>", nil, false, false},
		{"doctype", "<!DOCTYPE x [<!ENTITY e 'x'>]><Delete><Object><Key>a</Key></Object></Delete>", nil, false, false},
		{"unknown entity", "<Delete><Object><Key>&e;</Key></Object></Delete>", nil, false, false},
		{"bad reference", "<Delete><Object><Key>&#xD800;</Key></Object></Delete>", nil, false, false},
		{"not UTF-8", "<Delete><Object><Key>\xff</Key></Object></Delete>", nil, false, false},
		{"two roots", "<Delete><Object><Key>a</Key></Object></Delete><Delete/>", nil, false, false},
		{"deep", strings.Repeat("<Delete>", 100), nil, false, false},
		{"empty", "", nil, false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			items, quiet, err := parseDelete([]byte(tt.in))
			if (err == nil) != tt.ok || quiet != tt.quiet && tt.ok {
				t.Fatalf("%v, quiet %v", err, quiet)
			}
			var got []string
			for _, it := range items {
				s := it.Key
				if it.VersionID != "" {
					s += "@" + it.VersionID
				}
				got = append(got, s)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestParseComplete(t *testing.T) {
	got, err := parseComplete([]byte(`<CompleteMultipartUpload><Part><ETag>"AB"</ETag><PartNumber> 1 </PartNumber></Part>` +
		`<Part><PartNumber>3</PartNumber><ETag>&quot;cd&quot;</ETag><ChecksumCRC32>AAAAAA==</ChecksumCRC32><Size>5</Size></Part>` +
		`<Part><PartNumber>3</PartNumber><ETag>ef</ETag></Part></CompleteMultipartUpload>`))
	want := []object.CompletePart{{Number: 1, ETag: "ab"}, {Number: 3, ETag: "ef"}}
	if d := cmp.Diff(want, got); err != nil || d != "" {
		t.Errorf("%v %s", err, d)
	}
	for in, code := range map[string]string{
		`<CompleteMultipartUpload/>`: "MalformedXML",
		`<CompleteMultipartUpload><Part><PartNumber>1</PartNumber></Part></CompleteMultipartUpload>`:               "MalformedXML",
		`<CompleteMultipartUpload><Part><PartNumber>0</PartNumber><ETag>a</ETag></Part></CompleteMultipartUpload>`: "InvalidArgument",
		`<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>a</ETag><ChecksumSHA1>x</ChecksumSHA1></Part>` +
			`</CompleteMultipartUpload>`: "InvalidPart",
		completion(2, "a", 1, "b"): "InvalidPartOrder",
	} {
		if _, err := parseComplete([]byte(in)); err == nil || toError(&request{}, err).Code != code {
			t.Errorf("%s: %v, want %s", in, err, code)
		}
	}
}

// FuzzScanner holds the scanner to encoding/xml: what both accept means the same.
func FuzzScanner(f *testing.F) {
	f.Add("<Delete><Object><Key>a&lt;</Key></Object><Object><VersionId/><Key>b</Key></Object></Delete>")
	f.Add("<Delete><!-- --><Object><Key><![CDATA[x]]>y</Key></Object></Delete>")
	f.Fuzz(func(t *testing.T, in string) {
		items, _, err := parseDelete([]byte(in))
		_, _ = parseComplete([]byte(in))
		if err != nil {
			return
		}
		var ref struct {
			XMLName xml.Name
			Object  []struct{ Key, VersionId string }
		}
		d := xml.NewDecoder(strings.NewReader(in))
		if d.Decode(&ref) != nil {
			return
		}
		if _, err := d.Token(); err != io.EOF {
			return
		}
		var got, want []object.DeleteItem
		for _, it := range items {
			got = append(got, object.DeleteItem{Key: it.Key, VersionID: it.VersionID})
		}
		for _, o := range ref.Object {
			want = append(want, object.DeleteItem{Key: o.Key, VersionID: o.VersionId})
		}
		if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(object.DeleteItem{}, "DeleteOptions")); diff != "" &&
			!strings.Contains(in, "<!") && strings.Count(in, "<Key") == strings.Count(in, "<Object") {
			t.Errorf("%q: %s", in, diff)
		}
	})
}
