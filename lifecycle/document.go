package lifecycle

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"firn"
)

// MaxDocument is the largest document that Parse reads, in bytes.
const MaxDocument = 2 << 20

type document struct {
	XMLName xml.Name
	Rules   []xmlRule `xml:"Rule"`
}

type xmlRule struct {
	ID         string
	Prefix     *string
	Filter     *xmlFilter
	Status     string
	Expiration *struct {
		Days                      *int64
		Date                      string
		ExpiredObjectDeleteMarker string
	}
	Transition []struct {
		Days         *int64
		Date         string
		StorageClass string
	}
	NoncurrentVersionExpiration    *xmlNoncurrent
	NoncurrentVersionTransition    []xmlNoncurrent
	AbortIncompleteMultipartUpload *struct{ DaysAfterInitiation int64 }
}

type xmlNoncurrent struct {
	NoncurrentDays          int64
	NewerNoncurrentVersions int64
	StorageClass            string
}

type xmlFilter struct {
	xmlPredicates
	And *xmlPredicates
}

type xmlPredicates struct {
	Prefix                string
	Tag                   []struct{ Key, Value string }
	ObjectSizeGreaterThan *int64
	ObjectSizeLessThan    *int64
}

// Parse reads a lifecycle configuration as it was accepted and stored: whether it is one that S3 accepts was checked
// before. firn.Invalid is a document that cannot be understood; no rule of such a document may be applied.
func Parse(doc []byte) ([]Rule, error) {
	bad := func(format string, args ...any) ([]Rule, error) {
		return nil, &firn.Error{Kind: firn.Invalid, Op: "read", Subject: "lifecycle configuration", Err: fmt.Errorf(format, args...)}
	}
	if len(doc) > MaxDocument {
		return bad("it is larger than %d bytes", MaxDocument)
	}
	var x document
	dec := xml.NewDecoder(bytes.NewReader(doc))
	if err := dec.Decode(&x); err != nil {
		return bad("%w", err)
	}
	if x.XMLName.Local != "LifecycleConfiguration" {
		return bad("its root is %q", x.XMLName.Local)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return bad("something follows its end")
	}
	rules := make([]Rule, 0, len(x.Rules))
	for i := range x.Rules {
		r, err := x.Rules[i].rule()
		if err != nil {
			return bad("rule %q: %w", x.Rules[i].ID, err)
		}
		rules = append(rules, r)
	}
	return rules, nil
}

func (x *xmlRule) rule() (r Rule, err error) {
	r.ID = x.ID
	switch word(x.Status) {
	case "Enabled":
	case "Disabled":
		r.Disabled = true
	default:
		return r, fmt.Errorf("status %q", x.Status)
	}
	switch {
	case x.Prefix != nil && x.Filter == nil:
		r.Filter.Prefix = *x.Prefix
	case x.Prefix == nil && x.Filter != nil && x.Filter.And != nil:
		r.Filter = x.Filter.And.filter()
	case x.Prefix == nil && x.Filter != nil:
		r.Filter = x.Filter.filter()
	default:
		return r, errors.New("it has neither one Prefix nor one Filter")
	}
	if e := x.Expiration; e != nil {
		if r.ExpiredMarker, err = truth(e.ExpiredObjectDeleteMarker); err != nil {
			return r, err
		}
		if e.Days != nil || e.Date != "" {
			w, err := when(e.Days, e.Date, 1)
			if err != nil {
				return r, err
			}
			r.Expiration = &w
		}
	}
	for _, t := range x.Transition {
		w, err := when(t.Days, t.Date, 0)
		if err != nil {
			return r, err
		}
		if word(t.StorageClass) == "" {
			return r, errors.New("a transition without a storage class")
		}
		r.Transitions = append(r.Transitions, Transition{When: w, Class: word(t.StorageClass)})
	}
	if e := x.NoncurrentVersionExpiration; e != nil {
		n, err := e.noncurrent(1)
		if err != nil {
			return r, err
		}
		r.NoncurrentExpiration = &n
	}
	for i := range x.NoncurrentVersionTransition {
		n, err := x.NoncurrentVersionTransition[i].noncurrent(0)
		if err != nil {
			return r, err
		}
		if n.Class == "" {
			return r, errors.New("a transition without a storage class")
		}
		r.NoncurrentTransitions = append(r.NoncurrentTransitions, n)
	}
	if a := x.AbortIncompleteMultipartUpload; a != nil {
		if r.AbortDays, err = number(a.DaysAfterInitiation, 1); err != nil {
			return r, err
		}
	}
	return r, nil
}

func (x *xmlPredicates) filter() Filter {
	f := Filter{Prefix: x.Prefix}
	for _, t := range x.Tag {
		f.Tags = append(f.Tags, Tag{t.Key, t.Value})
	}
	if x.ObjectSizeGreaterThan != nil {
		f.Greater, f.HasGreater = *x.ObjectSizeGreaterThan, true
	}
	if x.ObjectSizeLessThan != nil {
		f.Less, f.HasLess = *x.ObjectSizeLessThan, true
	}
	return f
}

func (x *xmlNoncurrent) noncurrent(least int64) (n Noncurrent, err error) {
	if n.Days, err = number(x.NoncurrentDays, least); err != nil {
		return n, err
	}
	if n.Newer, err = number(x.NewerNoncurrentVersions, 0); err != nil {
		return n, err
	}
	n.Class = word(x.StorageClass)
	return n, nil
}

// when reads days or a date. A rule that has neither, or days that would act at once where that is not allowed, must
// never pass for one that is due.
func when(days *int64, date string, least int64) (w When, err error) {
	if (days != nil) == (date != "") {
		return w, errors.New("it has neither one Days nor one Date")
	}
	if days != nil {
		w.Days, err = number(*days, least)
		return w, err
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", time.DateOnly} {
		if t, err := time.Parse(layout, word(date)); err == nil && !t.IsZero() {
			w.Date = t.UTC()
			return w, nil
		}
	}
	return w, fmt.Errorf("date %q", date)
}

func number(n, least int64) (int, error) {
	if n < least || n > 1<<31-1 {
		return 0, fmt.Errorf("the number %d is out of bounds", n)
	}
	return int(n), nil
}

func truth(s string) (bool, error) {
	switch strings.ToLower(word(s)) {
	case "true", "1":
		return true, nil
	case "false", "0", "":
		return false, nil
	}
	return false, fmt.Errorf("%q is neither true nor false", s)
}

func word(s string) string { return strings.TrimSpace(s) }
