package s3doc

import (
	"crypto/rand"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"firn/s3api/s3err"
)

// Limits of a lifecycle configuration, as S3 states them.
const (
	maxLifecycleRules     = 1000
	maxRuleID             = 255 // characters
	maxNewerVersions      = 100
	maxLifecycleDays      = 1<<31 - 1
	minInfrequentDays     = 30 // days before a move to an infrequent access class, at a site without tiers
	maxTransitionsPerRule = 10
)

// transitionClasses are the storage classes a rule may move objects to at a site without tiers, where nothing moves yet.
var transitionClasses = []string{
	"STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER", "GLACIER_IR", "DEEP_ARCHIVE",
}

// CheckLifecycle reads and validates a LifecycleConfiguration and returns it as it is stored and given back: as it
// was sent, with an ID added to each rule that has none. knownClass reports the storage classes of the site's tiers; nil
// for a site without, where rules may name those of AWS.
func CheckLifecycle(body []byte, knownClass func(string) bool) ([]byte, error) {
	doc, err := parseDoc(body, "LifecycleConfiguration")
	if err != nil {
		return nil, err
	}
	if err := doc.only("Rule"); err != nil {
		return nil, err
	}
	rules := doc.kids
	if len(rules) == 0 || len(rules) > maxLifecycleRules {
		return nil, errXML
	}
	seen := make(map[string]bool, len(rules))
	for _, r := range rules {
		id, err := ruleID(r)
		if err != nil {
			return nil, err
		}
		if seen[id] {
			return nil, s3err.Refuse("InvalidArgument", "Rule ID must be unique. Found same ID for more than one rule")
		}
		seen[id] = true
		if err := checkLifecycleRule(r, knownClass); err != nil {
			return nil, err
		}
	}
	return doc.render(), nil
}

// ruleID returns a rule's ID and gives it one where it has none.
func ruleID(r *node) (string, error) {
	k, err := r.one("ID")
	if err != nil {
		return "", err
	}
	if k == nil {
		k = &node{name: "ID"}
		r.kids = slices.Insert(r.kids, 0, k)
	}
	id, err := k.leaf()
	if err != nil {
		return "", err
	}
	if len([]rune(id)) > maxRuleID {
		return "", s3err.Refuse("InvalidArgument", "ID length should not exceed allowed limit of %d", maxRuleID)
	}
	if id == "" {
		var b [12]byte
		_, _ = rand.Read(b[:]) // never fails
		id = hex.EncodeToString(b[:])
		k.text = id
	}
	return id, nil
}

// when is the moment of an expiration or a transition.
type when struct {
	days    int64
	hasDays bool
	date    time.Time
}

// lifecycleRule is what the checks across a rule's elements need.
type lifecycleRule struct {
	prefix      string
	tags        bool // the filter names tags
	expiration  *when
	marker      bool // ExpiredObjectDeleteMarker
	transitions []when
}

func checkLifecycleRule(r *node, knownClass func(string) bool) error {
	if err := r.only("ID", "Prefix", "Filter", "Status", "Expiration", "Transition", "NoncurrentVersionExpiration",
		"NoncurrentVersionTransition", "AbortIncompleteMultipartUpload"); err != nil {
		return err
	}
	if s, err := r.enum("Status", "Enabled", "Disabled"); err != nil || s == "" {
		return errXML
	}
	var rule lifecycleRule
	if err := checkRuleFilter(r, &rule); err != nil {
		return err
	}
	actions := 0
	for _, part := range []func(*node, *lifecycleRule, func(string) bool) (int, error){
		checkExpiration, checkTransitions, checkNoncurrent, checkAbort,
	} {
		n, err := part(r, &rule, knownClass)
		if err != nil {
			return err
		}
		actions += n
	}
	if actions == 0 {
		return s3err.Refuse("InvalidRequest", "At least one action needs to be specified in a rule")
	}
	return checkRuleOrder(&rule)
}

// checkRuleFilter reads the old Prefix or the Filter; a rule has exactly one of the two.
func checkRuleFilter(r *node, rule *lifecycleRule) error {
	prefix, old, err := r.str("Prefix")
	if err != nil {
		return err
	}
	f, err := r.one("Filter")
	if err != nil || old == (f != nil) {
		return errXML
	}
	if old {
		rule.prefix = prefix
		return checkPrefix(prefix)
	}
	if err := f.only("Prefix", "Tag", "ObjectSizeGreaterThan", "ObjectSizeLessThan", "And"); err != nil {
		return err
	}
	if len(f.kids) > 1 {
		return errXML
	}
	if and, err := f.one("And"); err != nil || and == nil {
		if err != nil {
			return err
		}
		return checkPredicates(f, rule)
	}
	and := f.kids[0]
	if err := and.only("Prefix", "Tag", "ObjectSizeGreaterThan", "ObjectSizeLessThan"); err != nil {
		return err
	}
	if len(and.kids) < 2 {
		return errXML
	}
	return checkPredicates(and, rule)
}

func checkPredicates(f *node, rule *lifecycleRule) error {
	prefix, _, err := f.str("Prefix")
	if err != nil {
		return err
	}
	rule.prefix = prefix
	if err := checkPrefix(prefix); err != nil {
		return err
	}
	keys := make(map[string]bool)
	for _, t := range f.all("Tag") {
		rule.tags = true
		tag, err := parseTag(t)
		if err != nil {
			return err
		}
		if keys[tag.Name] {
			return s3err.Refuse("InvalidRequest", "Duplicate Tag Keys are not allowed.")
		}
		keys[tag.Name] = true
	}
	gt, hasGT, err := f.num("ObjectSizeGreaterThan")
	if err != nil {
		return err
	}
	lt, hasLT, err := f.num("ObjectSizeLessThan")
	if err != nil {
		return err
	}
	if hasGT && gt < 0 || hasLT && lt < 1 {
		return s3err.Refuse("InvalidRequest",
			"'ObjectSizeGreaterThan' must not be negative and 'ObjectSizeLessThan' must be positive")
	}
	if hasGT && hasLT && gt >= lt-1 {
		return s3err.Refuse("InvalidRequest",
			"'ObjectSizeLessThan' must be more than one byte greater than 'ObjectSizeGreaterThan'")
	}
	return nil
}

func checkPrefix(p string) error {
	if len(p) > 1024 {
		return s3err.Refuse("InvalidRequest", "The maximum size of a prefix is 1024")
	}
	return nil
}

// parseWhen reads Days or Date of an action called what.
func parseWhen(n *node, what string, leastDays int64) (*when, error) {
	days, hasDays, err := n.num("Days")
	if err != nil {
		return nil, err
	}
	s, hasDate, err := n.str("Date")
	if err != nil || hasDays && hasDate {
		return nil, errXML
	}
	switch {
	case hasDays:
		if days < leastDays || days > maxLifecycleDays {
			return nil, s3err.Refuse("InvalidArgument", "'Days' for %s action must be a %s integer", what, sign(leastDays))
		}
		return &when{days: days, hasDays: true}, nil
	case hasDate:
		t, err := parseDate(s)
		if err != nil {
			return nil, err
		}
		return &when{date: t}, nil
	}
	return nil, nil
}

func sign(least int64) string {
	if least > 0 {
		return "positive"
	}
	return "non-negative"
}

// parseDate reads a day as ISO 8601 writes it, with or without the time, which must be midnight UTC.
func parseDate(s string) (time.Time, error) {
	s = strings.TrimSpace(s)
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02"} {
		t, err := time.Parse(layout, s)
		if err != nil {
			continue
		}
		t = t.UTC()
		if !t.Equal(t.Truncate(24 * time.Hour)) {
			return time.Time{}, s3err.Refuse("InvalidArgument", "'Date' must be at midnight GMT")
		}
		return t, nil
	}
	return time.Time{}, errXML
}

func checkExpiration(r *node, rule *lifecycleRule, _ func(string) bool) (int, error) {
	e, err := r.one("Expiration")
	if err != nil || e == nil {
		return 0, err
	}
	if err := e.only("Days", "Date", "ExpiredObjectDeleteMarker"); err != nil {
		return 0, err
	}
	marker, hasMarker, err := e.flag("ExpiredObjectDeleteMarker")
	if err != nil {
		return 0, err
	}
	w, err := parseWhen(e, "Expiration", 1)
	if err != nil {
		return 0, err
	}
	if (w != nil) == hasMarker {
		return 0, errXML
	}
	if marker && rule.tags {
		return 0, s3err.Refuse("InvalidRequest", "ExpiredObjectDeleteMarker cannot be specified with Tags.")
	}
	rule.expiration, rule.marker = w, marker
	return 1, nil
}

// checkClass reads the storage class of a transition.
func checkClass(n *node, knownClass func(string) bool) (string, error) {
	k, err := n.need("StorageClass")
	if err != nil {
		return "", err
	}
	class, err := k.word()
	if err != nil {
		return "", err
	}
	switch {
	case knownClass == nil && !slices.Contains(transitionClasses, class):
		return "", errXML
	case knownClass != nil && !knownClass(class):
		return "", s3err.Refuse("InvalidArgument", "'StorageClass' must be that of a tier of this site, which '%s' is not", class)
	}
	return class, nil
}

func checkTransitions(r *node, rule *lifecycleRule, knownClass func(string) bool) (int, error) {
	all := r.all("Transition")
	if len(all) > maxTransitionsPerRule {
		return 0, errXML
	}
	classes := make(map[string]bool)
	for _, t := range all {
		if err := t.only("Days", "Date", "StorageClass"); err != nil {
			return 0, err
		}
		class, err := checkClass(t, knownClass)
		if err != nil {
			return 0, err
		}
		w, err := parseWhen(t, "Transition", 0)
		if err != nil {
			return 0, err
		}
		if w == nil {
			return 0, errXML
		}
		if classes[class] {
			return 0, s3err.Refuse("InvalidRequest",
				"'StorageClass' must be different for 'Transition' actions in same 'Rule' with prefix '%s'", rule.prefix)
		}
		classes[class] = true
		if knownClass == nil {
			if err := checkInfrequent(class, "Days", "Transition", w); err != nil {
				return 0, err
			}
		}
		rule.transitions = append(rule.transitions, *w)
	}
	return len(all), nil
}

func checkInfrequent(class, days, action string, w *when) error {
	if (class == "STANDARD_IA" || class == "ONEZONE_IA") && w.hasDays && w.days < minInfrequentDays {
		return s3err.Refuse("InvalidArgument", "'%s' in %s action must be greater than or equal to %d for storageClass '%s'",
			days, action, minInfrequentDays, class)
	}
	return nil
}

func checkNoncurrent(r *node, rule *lifecycleRule, knownClass func(string) bool) (int, error) {
	actions := 0
	e, err := r.one("NoncurrentVersionExpiration")
	if err != nil {
		return 0, err
	}
	if e != nil {
		actions++
		if err := e.only("NoncurrentDays", "NewerNoncurrentVersions"); err != nil {
			return 0, err
		}
		days, there, err := e.num("NoncurrentDays")
		if err != nil || !there {
			return 0, errXML
		}
		if days < 1 || days > maxLifecycleDays {
			return 0, s3err.Refuse("InvalidArgument",
				"'NoncurrentDays' for NoncurrentVersionExpiration action must be a positive integer")
		}
		if err := checkNewer(e, "NoncurrentVersionExpiration"); err != nil {
			return 0, err
		}
	}
	all := r.all("NoncurrentVersionTransition")
	if len(all) > maxTransitionsPerRule {
		return 0, errXML
	}
	classes := make(map[string]bool)
	for _, t := range all {
		actions++
		if err := t.only("NoncurrentDays", "NewerNoncurrentVersions", "StorageClass"); err != nil {
			return 0, err
		}
		class, err := checkClass(t, knownClass)
		if err != nil {
			return 0, err
		}
		days, there, err := t.num("NoncurrentDays")
		if err != nil || !there {
			return 0, errXML
		}
		if days < 0 || days > maxLifecycleDays {
			return 0, s3err.Refuse("InvalidArgument",
				"'NoncurrentDays' for NoncurrentVersionTransition action must be a non-negative integer")
		}
		if classes[class] {
			return 0, s3err.Refuse("InvalidRequest", "'StorageClass' must be different for "+
				"'NoncurrentVersionTransition' actions in same 'Rule' with prefix '%s'", rule.prefix)
		}
		classes[class] = true
		if knownClass == nil {
			err = checkInfrequent(class, "NoncurrentDays", "NoncurrentVersionTransition", &when{days: days, hasDays: true})
			if err != nil {
				return 0, err
			}
		}
		if err := checkNewer(t, "NoncurrentVersionTransition"); err != nil {
			return 0, err
		}
	}
	return actions, nil
}

func checkNewer(n *node, action string) error {
	v, there, err := n.num("NewerNoncurrentVersions")
	if err != nil || !there {
		return err
	}
	if v < 1 || v > maxNewerVersions {
		return s3err.Refuse("InvalidArgument", "'NewerNoncurrentVersions' for %s action must be between 1 and %d",
			action, maxNewerVersions)
	}
	return nil
}

func checkAbort(r *node, rule *lifecycleRule, _ func(string) bool) (int, error) {
	a, err := r.one("AbortIncompleteMultipartUpload")
	if err != nil || a == nil {
		return 0, err
	}
	if err := a.only("DaysAfterInitiation"); err != nil {
		return 0, err
	}
	days, there, err := a.num("DaysAfterInitiation")
	if err != nil || !there {
		return 0, errXML
	}
	if days < 1 || days > maxLifecycleDays {
		return 0, s3err.Refuse("InvalidArgument",
			"'DaysAfterInitiation' for AbortIncompleteMultipartUpload action must be a positive integer")
	}
	if rule.tags {
		return 0, s3err.Refuse("InvalidRequest", "AbortIncompleteMultipartUpload cannot be specified with Tags.")
	}
	return 1, nil
}

// checkRuleOrder checks that a rule's expiration comes after its transitions, and that all count the same way.
func checkRuleOrder(rule *lifecycleRule) error {
	all := slices.Clone(rule.transitions)
	if rule.expiration != nil {
		all = append(all, *rule.expiration)
	}
	for _, w := range all {
		if w.hasDays != all[0].hasDays {
			return s3err.Refuse("InvalidRequest", "Found mixed 'Date' and 'Days' based Expiration and Transition actions in "+
				"lifecycle rule for prefix '%s'", rule.prefix)
		}
	}
	if rule.expiration == nil {
		return nil
	}
	for _, w := range rule.transitions {
		if w.hasDays && rule.expiration.days <= w.days {
			return s3err.Refuse("InvalidArgument", "'Days' in the Expiration action for prefix '%s' must be greater than "+
				"'Days' in the Transition action", rule.prefix)
		}
		if !w.hasDays && !rule.expiration.date.After(w.date) {
			return s3err.Refuse("InvalidArgument", "'Date' in the Expiration action for prefix '%s' must be later than "+
				"'Date' in the Transition action", rule.prefix)
		}
	}
	return nil
}
