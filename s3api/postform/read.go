// Package postform reads the form with which a browser uploads an object to S3: its fields, the policy among them that
// says what may be stored, and its file.
//
// It owns the form's bounds and the policy language. It promises that a form is read no further than its file begins,
// within bounds, that the file is streamed, and that every error is an *s3err.Error or one of the connection. It must
// never import the object store, auth or net/http: who signed the policy is for s3api to find out.
package postform

import (
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"strconv"
	"strings"

	"firn/s3api/s3err"
)

// Bounds of a POST form before its file. S3 allows 20 KB of fields; the second bound also holds the part headers
// and boundaries, and the reader's own buffer.
const (
	maxFormFields  = 20 << 10 // bytes of names and values
	maxFormPreData = 96 << 10 // bytes read up to the file
	maxFormCount   = 200
	maxFormName    = 256 // bytes
)

var errFormTooBig = errors.New("form fields before the file are too large")

// boundedReader gives at most left bytes and then errFormTooBig, until free is set.
type boundedReader struct {
	r    io.Reader
	left int64
	free bool
}

func (b *boundedReader) Read(p []byte) (int, error) {
	if b.free {
		return b.r.Read(p)
	}
	if b.left <= 0 {
		return 0, errFormTooBig
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.r.Read(p)
	b.left -= int64(n)
	return n, err
}

// Fields are the fields of a POST form before the file, names in lower case.
type Fields map[string]string

// Form is a POST form read up to the start of its file.
type Form struct {
	Fields   Fields
	Filename string    // as the client named the file, without folders; may be empty
	File     io.Reader // the file's bytes, from the request body
}

// Read reads the fields of a multipart/form-data body up to the part called file. Fields after the file are not
// read, as S3 ignores them.
func Read(contentType string, body io.Reader) (*Form, error) {
	media, params, err := mime.ParseMediaType(contentType)
	if err != nil || media != "multipart/form-data" || params["boundary"] == "" {
		return nil, s3err.New("RequestIsNotMultiPartContent")
	}
	bounded := &boundedReader{r: body, left: maxFormPreData}
	mr := multipart.NewReader(bounded, params["boundary"])
	f := &Form{Fields: make(Fields)}
	left := int64(maxFormFields)
	for {
		// A raw part: a Content-Transfer-Encoding must not change the bytes.
		part, err := mr.NextRawPart()
		if errors.Is(err, io.EOF) {
			return nil, s3err.New("IncorrectNumberOfFilesInPostRequest")
		}
		if err != nil {
			return nil, formError(err)
		}
		name := strings.ToLower(part.FormName())
		if name == "" || len(name) > maxFormName {
			return nil, s3err.New("MalformedPOSTRequest")
		}
		if name == "file" {
			f.Filename = part.FileName()
			if i := strings.LastIndexByte(f.Filename, '\\'); i >= 0 {
				f.Filename = f.Filename[i+1:]
			}
			f.File = formFile{part}
			bounded.free = true
			return f, nil
		}
		left -= int64(len(name))
		value, err := io.ReadAll(io.LimitReader(part, max(left, 0)+1))
		if err != nil {
			return nil, formError(err)
		}
		left -= int64(len(value))
		if left < 0 {
			return nil, s3err.New("MaxPostPreDataLengthExceededError")
		}
		if _, twice := f.Fields[name]; twice {
			return nil, s3err.Refuse("InvalidArgument", "POST requires each form field at most once.").With("ArgumentName", name)
		}
		if len(f.Fields) >= maxFormCount {
			return nil, s3err.New("MaxPostPreDataLengthExceededError")
		}
		f.Fields[name] = string(value)
	}
}

// formFile reads the file's part. The multipart reader's errors for a body that ends early become S3's.
type formFile struct{ part *multipart.Part }

func (f formFile) Read(p []byte) (int, error) {
	n, err := f.part.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = formError(err)
	}
	return n, err
}

// formError maps an error of the multipart reader; errors of the connection pass.
func formError(err error) error {
	var e *s3err.Error
	var n interface{ Timeout() bool }
	switch {
	case errors.As(err, &e), errors.As(err, &n) && n.Timeout():
		return err
	case errors.Is(err, errFormTooBig):
		return s3err.New("MaxPostPreDataLengthExceededError")
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return s3err.New("IncompleteBody")
	}
	return s3err.New("MalformedPOSTRequest")
}

// Sized passes a file on and holds it to a size range, in bytes: more than most, or fewer than least at the end, is an
// error, so that nothing is stored.
func Sized(file io.Reader, least, most int64) io.Reader {
	return &sizeReader{r: file, least: least, most: most}
}

type sizeReader struct {
	r           io.Reader
	n           int64
	least, most int64
}

func (s *sizeReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.n += int64(n)
	if s.n > s.most {
		return 0, s3err.New("EntityTooLarge").With("MaxSizeAllowed", strconv.FormatInt(s.most, 10))
	}
	if errors.Is(err, io.EOF) && s.n < s.least {
		return 0, s3err.New("EntityTooSmall").With("MinSizeAllowed", strconv.FormatInt(s.least, 10)).
			With("ProposedSize", strconv.FormatInt(s.n, 10))
	}
	return n, err
}
