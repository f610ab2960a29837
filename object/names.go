package object

import (
	"strings"
	"unicode/utf8"

	"firn"
)

var errLargeRecord = firn.NewError(firn.Invalid, "the metadata of the object is too large")

// CheckKey says whether key may name an object: 1 to MaxKey bytes of UTF-8. ErrInvalidKey, ErrKeyTooLong.
func CheckKey(key string) error {
	switch {
	case key == "" || !utf8.ValidString(key):
		return ErrInvalidKey
	case len(key) > MaxKey:
		return ErrKeyTooLong
	}
	return nil
}

// CheckBucketName says whether name follows S3's rules for bucket names. ErrInvalidBucketName.
func CheckBucketName(name string) error {
	bad := func(why string) error {
		return &firn.Error{Kind: firn.Invalid, Op: "bucket name", Subject: strings.ToValidUTF8(name, "?"), Err: wrapped{ErrInvalidBucketName, why}}
	}
	if len(name) < 3 || len(name) > 63 {
		return bad("must have 3 to 63 characters")
	}
	digitsAndDots, dots := true, 0
	for i := range len(name) {
		c := name[i]
		edge := i == 0 || i == len(name)-1
		switch {
		case c >= 'a' && c <= 'z':
			digitsAndDots = false
		case c >= '0' && c <= '9':
		case c == '-' && !edge:
			digitsAndDots = false
		case c == '.' && !edge && name[i-1] != '.':
			dots++
		default:
			return bad("may hold lower case letters, digits, hyphens and single dots, a letter or digit at each end")
		}
	}
	if digitsAndDots && dots == 3 {
		return bad("must not look like an IP address")
	}
	for _, p := range []string{"xn--", "sthree-"} {
		if strings.HasPrefix(name, p) {
			return bad("has a reserved prefix")
		}
	}
	for _, p := range []string{"-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"} {
		if strings.HasSuffix(name, p) {
			return bad("has a reserved suffix")
		}
	}
	return nil
}

// wrapped adds a reason to a sentinel.
type wrapped struct {
	error
	why string
}

func (w wrapped) Error() string { return w.error.Error() + ": " + w.why }
func (w wrapped) Unwrap() error { return w.error }
