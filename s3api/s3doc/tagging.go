package s3doc

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"firn/s3api/s3err"
)

// Limits of tags, as S3 states them.
const (
	maxBucketTags = 50
	maxTagKey     = 128 // characters
	maxTagValue   = 256 // characters
)

// Tag is one tag of a bucket or an object.
type Tag struct{ Name, Value string }

// parseTag reads one Tag element.
func parseTag(n *node) (Tag, error) {
	var f Tag
	if err := n.only("Key", "Value"); err != nil {
		return f, err
	}
	k, err := n.need("Key")
	if err != nil {
		return f, err
	}
	v, err := n.need("Value")
	if err != nil {
		return f, err
	}
	if f.Name, err = k.leaf(); err != nil {
		return f, err
	}
	if f.Value, err = v.leaf(); err != nil {
		return f, err
	}
	switch {
	case f.Name == "" || utf8.RuneCountInString(f.Name) > maxTagKey || !tagText(f.Name):
		return f, s3err.Refuse("InvalidTag", "The TagKey you have provided is invalid")
	case utf8.RuneCountInString(f.Value) > maxTagValue || !tagText(f.Value):
		return f, s3err.Refuse("InvalidTag", "The TagValue you have provided is invalid")
	}
	return f, nil
}

// tagText reports whether s has only the characters S3 allows in tags.
func tagText(s string) bool {
	for _, r := range s {
		if !unicode.IsLetter(r) && !unicode.IsNumber(r) && !unicode.IsSpace(r) && !strings.ContainsRune("_.:/=+-@", r) {
			return false
		}
	}
	return true
}

// ParseTagging reads a Tagging document of at most limit tags, in its order. what names their holder in errors.
func ParseTagging(body []byte, limit int, what string) ([]Tag, error) {
	tags, _, err := readTagging(body, limit, what)
	return tags, err
}

func readTagging(body []byte, limit int, what string) ([]Tag, *node, error) {
	doc, err := parseDoc(body, "Tagging")
	if err != nil {
		return nil, nil, err
	}
	if err := doc.only("TagSet"); err != nil {
		return nil, nil, err
	}
	set, err := doc.need("TagSet")
	if err != nil {
		return nil, nil, err
	}
	if err := set.only("Tag"); err != nil {
		return nil, nil, err
	}
	if len(set.kids) > limit {
		return nil, nil, s3err.Refuse("InvalidTag", "%s cannot be greater than %d", what, limit)
	}
	tags := make([]Tag, 0, len(set.kids))
	for _, k := range set.kids {
		t, err := parseTag(k)
		if err != nil {
			return nil, nil, err
		}
		if slices.ContainsFunc(tags, func(o Tag) bool { return o.Name == t.Name }) {
			return nil, nil, s3err.Refuse("InvalidTag", "Cannot provide multiple Tags with the same key")
		}
		if strings.HasPrefix(strings.ToLower(t.Name), "aws:") {
			return nil, nil, s3err.Refuse("InvalidTag", "System tags cannot be added/updated by requester")
		}
		tags = append(tags, t)
	}
	return tags, doc, nil
}

// CheckBucketTagging validates the tags of a bucket; the result is what is stored and given back.
func CheckBucketTagging(body []byte) ([]byte, error) {
	_, doc, err := readTagging(body, maxBucketTags, "Bucket tag count")
	if err != nil {
		return nil, err
	}
	return doc.render(), nil
}

// CheckTag refuses names and values S3 does not allow in a tag, as InvalidTag.
func CheckTag(name, value string) error {
	switch {
	case name == "" || utf8.RuneCountInString(name) > maxTagKey || !utf8.ValidString(name) || !tagText(name):
		return s3err.New("InvalidTag").Saying("The TagKey you have provided is invalid").With("TagKey", name)
	case utf8.RuneCountInString(value) > maxTagValue || !utf8.ValidString(value) || !tagText(value):
		return s3err.New("InvalidTag").Saying("The TagValue you have provided is invalid").With("TagKey", name).
			With("TagValue", value)
	case len(name) >= 4 && strings.EqualFold(name[:4], "aws:"):
		return s3err.New("InvalidTag").Saying("System tags cannot be added/updated by requester").With("TagKey", name)
	}
	return nil
}
