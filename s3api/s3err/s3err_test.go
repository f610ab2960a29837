package s3err

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCodes(t *testing.T) {
	for code, c := range codes {
		if c.status < 300 || c.status > 599 || c.message == "" {
			t.Errorf("%s: status %d, message %q", code, c.status, c.message)
		}
	}
}

func TestErrors(t *testing.T) {
	tests := []struct {
		name string
		got  *Error
		want Error
	}{
		{
			"of the table", New("NoSuchUpload").Saying("No %s.", "upload").With("UploadId", "1").With("Key", "k"),
			Error{Code: "NoSuchUpload", Status: 404, Message: "No upload.", Extra: []Field{{"UploadId", "1"}, {"Key", "k"}}},
		},
		{"not of the table", New("Nonsense"), Error{Code: "InternalError", Status: 500, Message: codes["InternalError"].message}},
		{
			"argument", InvalidArgument("a", "b", ""),
			Error{
				Code: "InvalidArgument", Status: 400, Message: "Invalid Argument",
				Extra: []Field{{"ArgumentName", "a"}, {"ArgumentValue", "b"}},
			},
		},
		{"own message", Refuse("AccessDenied", "No."), Error{Code: "AccessDenied", Status: 403, Message: "No."}},
		{"own code", Refuse("Odd", "No."), Error{Code: "Odd", Status: 400, Message: "No."}},
		{"own code of something missing", Refuse("NoSuchOdd", "No."), Error{Code: "NoSuchOdd", Status: 404, Message: "No."}},
		{"own code of something forbidden", Refuse("AccessForbidden", "No."), Error{Code: "AccessForbidden", Status: 403, Message: "No."}},
	}
	for _, tt := range tests {
		if diff := cmp.Diff(&tt.want, tt.got); diff != "" {
			t.Errorf("%s: %s", tt.name, diff)
		}
	}
	if got := New("NoSuchKey").Error(); got != "NoSuchKey: The specified key does not exist." {
		t.Errorf("got %q", got)
	}
}
