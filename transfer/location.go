package transfer

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"firn"
)

// Location is one argument of a client verb: an object, bucket or prefix on an S3 endpoint (s3://BUCKET/KEY),
// the standard input or output (-), or a path of the local file system (anything else).
type Location struct {
	Remote bool
	Std    bool
	Bucket string // of a remote location; "" names the endpoint itself
	Key    string // of a remote location; may be empty or end in a slash
	Path   string // of a local location
}

const scheme = "s3://"

// maxKey is the longest object key S3 allows, in bytes.
const maxKey = 1024

// ParseLocation reads an argument.
func ParseLocation(s string) (Location, error) {
	bad := func(why string) (Location, error) {
		return Location{}, &firn.Error{Kind: firn.Invalid, Op: "name", Subject: s, Err: errors.New(why)}
	}
	switch {
	case s == "-":
		return Location{Std: true}, nil
	case s == "":
		return bad("is empty")
	case strings.HasPrefix(s, scheme):
		bucket, key, _ := strings.Cut(s[len(scheme):], "/")
		if bucket == "" && key != "" {
			return bad("has no bucket")
		}
		if strings.ContainsAny(bucket, "?#\\ ") || !utf8.ValidString(key) || len(key) > maxKey {
			return bad("is no valid bucket and key")
		}
		return Location{Remote: true, Bucket: bucket, Key: key}, nil
	case strings.HasPrefix(s, "s3:"):
		return bad("write s3://BUCKET/KEY")
	case strings.ContainsRune(s, 0):
		return bad("holds a NUL")
	}
	return Location{Path: s}, nil
}

func (l Location) String() string {
	switch {
	case l.Std:
		return "-"
	case l.Remote && l.Key == "":
		return scheme + l.Bucket
	case l.Remote:
		return scheme + l.Bucket + "/" + l.Key
	}
	return l.Path
}

// prefix is the start of the keys beneath a remote location taken as a directory.
func (l Location) prefix() string {
	if l.Key == "" || strings.HasSuffix(l.Key, "/") {
		return l.Key
	}
	return l.Key + "/"
}

// join returns the location of the relative name rel (slash separated) beneath l.
func (l Location) join(rel string) Location {
	if l.Remote {
		return Location{Remote: true, Bucket: l.Bucket, Key: l.prefix() + rel}
	}
	return Location{Path: filepath.Join(l.Path, filepath.FromSlash(rel))}
}

// base is the last element of the name.
func (l Location) base() string {
	if l.Remote {
		return path.Base("/" + strings.TrimSuffix(l.Key, "/"))
	}
	return filepath.Base(l.Path)
}

// Why a key cannot be a file name beneath the target directory.
var errUnsafe = firn.NewError(firn.Invalid, "the name is not safe as a file name")

// localName turns the part of a key beneath the copied prefix into a path that stays beneath the target
// directory. It refuses every name that means another place or another file: "..", ".", empty elements
// (a leading, double or trailing slash), NUL, and what the system's own path syntax would read otherwise.
func localName(rel string) (string, error) {
	refuse := func(why string) (string, error) { return "", fmt.Errorf("%w: %s", errUnsafe, why) }
	if strings.ContainsRune(rel, 0) {
		return refuse("it holds a NUL")
	}
	for elem := range strings.SplitSeq(rel, "/") {
		switch elem {
		case "":
			return refuse("it has an empty element")
		case ".", "..":
			return refuse("it has the element " + elem)
		}
		if strings.ContainsRune(elem, filepath.Separator) {
			return refuse("it holds a path separator")
		}
	}
	name := filepath.FromSlash(rel)
	if !filepath.IsLocal(name) {
		return refuse("the system would read it as another place")
	}
	return name, nil
}

// keyName checks that a local name can be a key.
func keyName(key string) error {
	switch {
	case !utf8.ValidString(key):
		return firn.NewError(firn.Invalid, "the name is not UTF-8, as an object key must be")
	case len(key) > maxKey:
		return firn.NewError(firn.Invalid, fmt.Sprintf("the key would be longer than %d bytes", maxKey))
	case key == "":
		return firn.NewError(firn.Invalid, "the key would be empty")
	}
	return nil
}
