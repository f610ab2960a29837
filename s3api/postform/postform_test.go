package postform

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/textproto"
	"slices"
	"strings"
	"testing"
	"time"

	"firn/s3api/s3err"
)

// testMax is the size limit of the tests' store.
const testMax = 5 << 30 // bytes

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

var postNow = time.Date(2024, 5, 1, 12, 0, 0, 0, time.UTC)

func policy64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func TestPostPolicyParse(t *testing.T) {
	const exp = `"expiration": "2024-05-01T13:00:00Z"`
	conds := func(s string) string { return `{` + exp + `, "conditions": [` + s + `]}` }
	tests := []struct{ name, in, code string }{
		{"none", conds(``), ""},
		{"all kinds", conds(`{"bucket": "b"}, ["StArTs-WiTh", "$KeY", ""], ["eq", "$acl", "x"], ["content-length-range", 0, 10]`), ""},
		{"numbers as strings", conds(`["content-length-range", "1", "10"]`), ""},
		{"milliseconds", `{"expiration": "2024-05-01T13:00:00.000Z", "conditions": []}`, ""},
		{"no json", `hello`, "InvalidPolicyDocument"},
		{"null", `null`, "InvalidPolicyDocument"},
		{"list", `[]`, "InvalidPolicyDocument"},
		{"bytes after", conds(``) + `{}`, "InvalidPolicyDocument"},
		{"no expiration", `{"conditions": []}`, "InvalidPolicyDocument"},
		{"case of expiration", `{"EXPIRATION": "2024-05-01T13:00:00Z", "conditions": []}`, "InvalidPolicyDocument"},
		{"case of conditions", `{` + exp + `, "CONDITIONS": []}`, "InvalidPolicyDocument"},
		{"date", `{"expiration": "2024-05-01 13:00:00+00:00", "conditions": []}`, "InvalidPolicyDocument"},
		{"no conditions", `{` + exp + `}`, "InvalidPolicyDocument"},
		{"conditions are no list", `{` + exp + `, "conditions": {}}`, "InvalidPolicyDocument"},
		{"empty object", conds(`{}`), "InvalidPolicyDocument"},
		{"two properties", conds(`{"a": "b", "c": "d"}`), "InvalidPolicyDocument"},
		{"value is a number", conds(`{"a": 1}`), "InvalidPolicyDocument"},
		{"empty list", conds(`[]`), "InvalidPolicyDocument"},
		{"unknown operator", conds(`["ends-with", "$key", "a"]`), "InvalidPolicyDocument"},
		{"field without $", conds(`["eq", "key", "a"]`), "InvalidPolicyDocument"},
		{"range of one", conds(`["content-length-range", 0]`), "InvalidPolicyDocument"},
		{"range negative", conds(`["content-length-range", -1, 0]`), "InvalidPolicyDocument"},
		{"range crossed", conds(`["content-length-range", 2, 1]`), "InvalidPolicyDocument"},
		{"range of half", conds(`["content-length-range", 0.5, 1]`), "InvalidPolicyDocument"},
		{"too many", conds(`{"a":"b"}` + strings.Repeat(`,{"a":"b"}`, maxConditions)), "InvalidPolicyDocument"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := ParsePolicy(policy64(tt.in), testMax); codeOf(err) != tt.code {
				t.Errorf("got %v, want %q", err, tt.code)
			}
		})
	}
	if _, err := ParsePolicy("%%%", testMax); codeOf(err) != "InvalidPolicyDocument" {
		t.Errorf("bad base64: %v", err)
	}
}

func TestPostPolicyCheck(t *testing.T) {
	const conds = `{"bucket": "b"}, ["starts-with", "$key", "foo"], {"acl": "private"}, ["starts-with", "$Content-Type", "text/"]`
	base := Fields{"bucket": "b", "key": "foo.txt", "acl": "private", "content-type": "text/plain"}
	with := func(kv ...string) Fields {
		f := make(Fields)
		for k, v := range base {
			f[k] = v
		}
		for i := 0; i < len(kv); i += 2 {
			if kv[i+1] == "-" {
				delete(f, kv[i])
			} else {
				f[kv[i]] = kv[i+1]
			}
		}
		return f
	}
	tests := []struct {
		name, conds string
		f           Fields
		at          time.Duration
		ok          bool
	}{
		{"all hold", conds, with(), 0, true},
		{"fields that need no condition", conds, with("policy", "x", "signature", "x", "awsaccesskeyid", "x",
			"x-amz-signature", "x", "x-ignore-foo", "x", "x-amz-checksum-sha256", "x"), 0, true},
		{"expired", conds, with(), 2 * time.Hour, false},
		{"at the end", conds, with(), time.Hour, false},
		{"other bucket", conds, with("bucket", "c"), 0, false},
		{"other key", conds, with("key", "bar"), 0, false},
		{"case of a value", conds, with("acl", "Private"), 0, false},
		{"extra field", conds, with("x-amz-meta-a", "b"), 0, false},
		{"missing field", conds + `, ["starts-with", "$x-amz-meta-a", "b"]`, with(), 0, false},
		{"missing field may be empty", conds + `, ["starts-with", "$x-amz-meta-a", ""]`, with(), 0, true},
		{"not empty", conds + `, ["eq", "$x-amz-meta-a", ""]`, with("x-amz-meta-a", "b"), 0, false},
		{"bucket not mentioned", `["starts-with", "$key", ""], ["starts-with", "$acl", ""], ["starts-with", "$content-type", ""]`, with(), 0, false},
		{"list of types", conds, with("content-type", "text/plain, text/html"), 0, true},
		{"list with another type", conds, with("content-type", "text/plain,image/png"), 0, false},
		{"escaped dollar is taken as it is", strings.Replace(conds, "foo", `\\$foo`, 1), with("key", `\$foo.txt`), 0, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := ParsePolicy(policy64(`{"expiration": "2024-05-01T13:00:00Z", "conditions": [`+tt.conds+`]}`), testMax)
			if err != nil {
				t.Fatal(err)
			}
			err = p.Check(tt.f, postNow.Add(tt.at))
			if tt.ok && err != nil || !tt.ok && codeOf(err) != "AccessDenied" {
				t.Errorf("got %v, want ok %v", err, tt.ok)
			}
		})
	}
}

func TestPostPolicyRange(t *testing.T) {
	p, err := ParsePolicy(policy64(`{"expiration": "2024-05-01T13:00:00Z", "conditions": [["content-length-range", 2, 9],
		["content-length-range", 0, 5]]}`), testMax)
	if err != nil {
		t.Fatal(err)
	}
	for in, code := range map[string]string{"a": "EntityTooSmall", "ab": "", "abcde": "", "abcdef": "EntityTooLarge"} {
		b, err := io.ReadAll(Sized(strings.NewReader(in), p.Min, p.Max))
		if codeOf(err) != code || err == nil && string(b) != in {
			t.Errorf("%q: got %q, %v, want %q", in, b, err, code)
		}
	}
}

// formBody writes a form the way Python's requests does: every field has a filename.
func formBody(t testing.TB, boundary string, parts ...[3]string) string {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	if err := w.SetBoundary(boundary); err != nil {
		t.Fatal(err)
	}
	for _, p := range parts {
		h := textproto.MIMEHeader{"Content-Disposition": {fmt.Sprintf(`form-data; name="%s"; filename="%s"`, p[0], p[1])}}
		f, err := w.CreatePart(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(f, p[2]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

const formType = "multipart/form-data; boundary=XX"

func TestReadForm(t *testing.T) {
	body := formBody(t, "XX", [3]string{"kEy", "kEy", "${filename}"}, [3]string{"acl", "", "private"},
		[3]string{"file", `C:\docs\foo.txt`, "bar\r\n--X"}, [3]string{"late", "", "x"})
	f, err := Read(formType, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(f.File)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != "bar\r\n--X" || f.Filename != "foo.txt" || f.Fields["key"] != "${filename}" ||
		f.Fields["acl"] != "private" || len(f.Fields) != 2 {
		t.Errorf("got %q, %q, %v", got, f.Filename, f.Fields)
	}
}

func TestReadFormErrors(t *testing.T) {
	field := [3]string{"key", "", "k"}
	file := [3]string{"file", "f", "bar"}
	big := [3]string{"x-amz-meta-a", "", strings.Repeat("a", maxFormFields)}
	var many [][3]string
	for i := range maxFormCount + 1 {
		many = append(many, [3]string{fmt.Sprint("x-ignore-", i), "", ""})
	}
	whole := formBody(t, "XX", field, file)
	tests := []struct{ name, typ, body, code string }{
		{"not a form", "text/plain", whole, "RequestIsNotMultiPartContent"},
		{"no type", "", whole, "RequestIsNotMultiPartContent"},
		{"no boundary", "multipart/form-data", whole, "RequestIsNotMultiPartContent"},
		{"empty", formType, "", "IncorrectNumberOfFilesInPostRequest"},
		{"no file", formType, formBody(t, "XX", field), "IncorrectNumberOfFilesInPostRequest"},
		{"cut in a field", formType, whole[:strings.Index(whole, "\r\n\r\nk")+5], "IncompleteBody"},
		{"cut in the file", formType, whole[:strings.Index(whole, "bar")+2], "IncompleteBody"},
		{"fields too big", formType, formBody(t, "XX", big, file), "MaxPostPreDataLengthExceededError"},
		{"too many fields", formType, formBody(t, "XX", append(many, file)...), "MaxPostPreDataLengthExceededError"},
		{"field without an end", formType, whole[:len(whole)/3] + strings.Repeat("a", maxFormPreData), "MaxPostPreDataLengthExceededError"},
		{"field twice", formType, formBody(t, "XX", field, field, file), "InvalidArgument"},
		{"field without a name", formType, formBody(t, "XX", [3]string{"", "", ""}, file), "MalformedPOSTRequest"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, err := Read(tt.typ, strings.NewReader(tt.body))
			if err == nil {
				_, err = io.ReadAll(f.File)
			}
			if codeOf(err) != tt.code {
				t.Errorf("got %v, want %q", err, tt.code)
			}
		})
	}
}

// A file larger than the bound on fields is read whole.
func TestReadFormLargeFile(t *testing.T) {
	want := strings.Repeat("0123456789", maxFormPreData)
	f, err := Read(formType, strings.NewReader(formBody(t, "XX", [3]string{"file", "f", want})))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(f.File); err != nil || string(got) != want {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
}

func FuzzPostForm(f *testing.F) {
	f.Add(formType, formBody(f, "XX", [3]string{"key", "", "k"}, [3]string{"file", "f", "bar"}))
	f.Add(formType, formBody(f, "XX", [3]string{"key", "", "k"}))
	f.Add("multipart/form-data; boundary=\"a b\"", "--a b\r\nContent-Disposition: form-data; name=file\r\n\r\n\r\n--a b--")
	f.Fuzz(func(t *testing.T, typ, body string) {
		form, err := Read(typ, strings.NewReader(body))
		if err == nil {
			var n int64
			n, err = io.Copy(io.Discard, form.File)
			if n > int64(len(body)) {
				t.Errorf("read %d bytes of %d", n, len(body))
			}
		}
		if err != nil {
			if _, ok := errors.AsType[*s3err.Error](err); !ok {
				t.Errorf("%v is no S3 error", err)
			}
		}
	})
}

// A policy never allows a field that no condition covers, whatever the document says.
func FuzzPostPolicy(f *testing.F) {
	f.Add(`{"expiration": "2024-05-01T13:00:00Z", "conditions": [{"bucket": "b"}, ["starts-with", "$key", "a"], ["content-length-range", 1, 2]]}`, "a/b", "b")
	f.Add(`{"expiration": "2024-05-01T13:00:00Z", "conditions": [["eq", "$key", "a"]]}`, "a", "b")
	f.Fuzz(func(t *testing.T, doc, key, bucket string) {
		p, err := ParsePolicy(policy64(doc), testMax)
		if err != nil {
			if codeOf(err) != "InvalidPolicyDocument" {
				t.Errorf("got %v", err)
			}
			return
		}
		if p.Min < 0 || p.Max < 0 {
			t.Errorf("range %d-%d", p.Min, p.Max)
		}
		if p.Check(Fields{"key": key, "bucket": bucket}, postNow) == nil {
			for _, field := range []string{"key", "bucket"} {
				if !slices.ContainsFunc(p.conditions, func(c condition) bool { return c.field == field }) {
					t.Errorf("%q allowed without a condition by %q", field, doc)
				}
			}
		}
	})
}
