package s3api

import (
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"firn/object"
	"firn/s3api/s3err"
)

// Limits of the smaller documents, as S3 states them.
const (
	maxBucketTags     = 50
	maxTagKey         = 128 // characters
	maxTagValue       = 256 // characters
	maxRetentionDays  = 36500
	maxRetentionYears = 100
)

// parseVersioning reads a VersioningConfiguration.
func parseVersioning(body []byte) (object.Versioning, error) {
	doc, err := parseDoc(body, "VersioningConfiguration")
	if err != nil {
		return 0, err
	}
	if err := doc.only("Status", "MfaDelete"); err != nil {
		return 0, err
	}
	mfa, err := doc.enum("MfaDelete", "Enabled", "Disabled")
	if err != nil {
		return 0, err
	}
	if mfa == "Enabled" {
		return 0, s3err.Refuse("NotImplemented", "MFA delete is not offered.")
	}
	s, err := doc.enum("Status", "Enabled", "Suspended")
	switch {
	case err != nil:
		return 0, err
	case s == "Enabled":
		return object.VersioningEnabled, nil
	case s == "Suspended":
		return object.VersioningSuspended, nil
	}
	return 0, s3err.Refuse("IllegalVersioningConfigurationException",
		"The Versioning element must be specified")
}

// versioningDoc is the answer to GetBucketVersioning.
func versioningDoc(v object.Versioning) *xmlNode {
	n := &xmlNode{name: "VersioningConfiguration"}
	switch v {
	case object.VersioningEnabled:
		n.add("Status", "Enabled")
	case object.VersioningSuspended:
		n.add("Status", "Suspended")
	case object.VersioningOff:
	}
	return n
}

// parseTag reads one Tag element.
func parseTag(n *xmlNode) (object.Field, error) {
	var f object.Field
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

// parseTagging reads a Tagging document of at most limit tags. what names their holder in errors.
func parseTagging(body []byte, limit int, what string) ([]object.Field, *xmlNode, error) {
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
	tags := make([]object.Field, 0, len(set.kids))
	for _, k := range set.kids {
		t, err := parseTag(k)
		if err != nil {
			return nil, nil, err
		}
		if slices.ContainsFunc(tags, func(o object.Field) bool { return o.Name == t.Name }) {
			return nil, nil, s3err.Refuse("InvalidTag", "Cannot provide multiple Tags with the same key")
		}
		if strings.HasPrefix(strings.ToLower(t.Name), "aws:") {
			return nil, nil, s3err.Refuse("InvalidTag", "System tags cannot be added/updated by requester")
		}
		tags = append(tags, t)
	}
	return tags, doc, nil
}

// parseBucketTagging reads the tags of a bucket; the result is what is stored and given back.
func parseBucketTagging(body []byte) ([]byte, error) {
	_, doc, err := parseTagging(body, maxBucketTags, "Bucket tag count")
	if err != nil {
		return nil, err
	}
	return doc.render(), nil
}

// parseEncryption reads and validates a ServerSideEncryptionConfiguration.
func parseEncryption(body []byte) ([]byte, error) {
	doc, err := parseDoc(body, "ServerSideEncryptionConfiguration")
	if err != nil {
		return nil, err
	}
	if err := doc.only("Rule"); err != nil {
		return nil, err
	}
	r, err := doc.need("Rule")
	if err != nil {
		return nil, err
	}
	if err := r.only("ApplyServerSideEncryptionByDefault", "BucketKeyEnabled"); err != nil {
		return nil, err
	}
	if _, _, err := r.flag("BucketKeyEnabled"); err != nil {
		return nil, err
	}
	by, err := r.need("ApplyServerSideEncryptionByDefault")
	if err != nil {
		return nil, err
	}
	if err := by.only("SSEAlgorithm", "KMSMasterKeyID"); err != nil {
		return nil, err
	}
	algorithm, err := by.enum("SSEAlgorithm", "AES256", "aws:kms", "aws:kms:dsse")
	if err != nil || algorithm == "" {
		return nil, errXML
	}
	id, there, err := by.str("KMSMasterKeyID")
	if err != nil {
		return nil, err
	}
	if there && algorithm == "AES256" {
		return nil, s3err.Refuse("InvalidArgument", "a KMSMasterKeyID is not applicable if the default sse algorithm is not "+
			"aws:kms or aws:kms:dsse")
	}
	if there && (id == "" || len(id) > 2048) {
		return nil, s3err.Refuse("InvalidArgument", "the KMSMasterKeyID is not valid")
	}
	return doc.render(), nil
}

// lockConfig is what an ObjectLockConfiguration asks for.
type lockConfig struct {
	enable    bool
	retention object.DefaultRetention // zero Mode: none
}

// parseObjectLock reads and validates an ObjectLockConfiguration.
func parseObjectLock(body []byte) (lockConfig, error) {
	var c lockConfig
	doc, err := parseDoc(body, "ObjectLockConfiguration")
	if err != nil {
		return c, err
	}
	if err := doc.only("ObjectLockEnabled", "Rule"); err != nil {
		return c, err
	}
	s, err := doc.enum("ObjectLockEnabled", "Enabled")
	if err != nil {
		return c, err
	}
	c.enable = s == "Enabled"
	rule, err := doc.one("Rule")
	if err != nil {
		return c, err
	}
	if rule == nil {
		return c, nil
	}
	if err := rule.only("DefaultRetention"); err != nil {
		return c, err
	}
	d, err := rule.need("DefaultRetention")
	if err != nil {
		return c, err
	}
	c.retention, err = parseDefaultRetention(d)
	return c, err
}

func parseDefaultRetention(d *xmlNode) (object.DefaultRetention, error) {
	var r object.DefaultRetention
	if err := d.only("Mode", "Days", "Years"); err != nil {
		return r, err
	}
	mode, err := d.enum("Mode", "GOVERNANCE", "COMPLIANCE")
	if err != nil || mode == "" {
		return r, errXML
	}
	days, hasDays, err := d.num("Days")
	if err != nil {
		return r, err
	}
	years, hasYears, err := d.num("Years")
	if err != nil || hasDays == hasYears {
		return r, errXML
	}
	switch {
	case hasDays && days < 1 || hasYears && years < 1:
		return r, s3err.Refuse("InvalidRetentionPeriod", "Default retention period must be a positive integer value.")
	case days > maxRetentionDays:
		return r, s3err.Refuse("InvalidRetentionPeriod", "Default retention period too large: at most %d days.", maxRetentionDays)
	case years > maxRetentionYears:
		return r, s3err.Refuse("InvalidRetentionPeriod", "Default retention period too large: at most %d years.", maxRetentionYears)
	}
	r = object.DefaultRetention{Mode: object.RetentionGovernance, Days: int(days), Years: int(years)}
	if mode == "COMPLIANCE" {
		r.Mode = object.RetentionCompliance
	}
	return r, nil
}

// objectLockDoc is the answer to GetObjectLockConfiguration of a bucket with object lock.
func objectLockDoc(r object.DefaultRetention) *xmlNode {
	n := (&xmlNode{name: "ObjectLockConfiguration"}).add("ObjectLockEnabled", "Enabled")
	if r.Mode == object.RetentionNone {
		return n
	}
	d := &xmlNode{name: "DefaultRetention"}
	mode := "GOVERNANCE"
	if r.Mode == object.RetentionCompliance {
		mode = "COMPLIANCE"
	}
	d.add("Mode", mode)
	if r.Days > 0 {
		d.addInt("Days", r.Days)
	}
	if r.Years > 0 {
		d.addInt("Years", r.Years)
	}
	n.kids = append(n.kids, &xmlNode{name: "Rule", kids: []*xmlNode{d}})
	return n
}

// notificationEvents are the events a notification may ask for.
var notificationEvents = []string{
	"s3:ReducedRedundancyLostObject",
	"s3:ObjectCreated:*", "s3:ObjectCreated:Put", "s3:ObjectCreated:Post", "s3:ObjectCreated:Copy",
	"s3:ObjectCreated:CompleteMultipartUpload",
	"s3:ObjectRemoved:*", "s3:ObjectRemoved:Delete", "s3:ObjectRemoved:DeleteMarkerCreated",
	"s3:ObjectRestore:*", "s3:ObjectRestore:Post", "s3:ObjectRestore:Completed", "s3:ObjectRestore:Delete",
	"s3:Replication:*", "s3:Replication:OperationFailedReplication", "s3:Replication:OperationNotTracked",
	"s3:Replication:OperationMissedThreshold", "s3:Replication:OperationReplicatedAfterThreshold",
	"s3:LifecycleExpiration:*", "s3:LifecycleExpiration:Delete", "s3:LifecycleExpiration:DeleteMarkerCreated",
	"s3:LifecycleTransition", "s3:IntelligentTiering",
	"s3:ObjectTagging:*", "s3:ObjectTagging:Put", "s3:ObjectTagging:Delete", "s3:ObjectAcl:Put",
}

// parseNotification reads and validates a NotificationConfiguration. target reports whether an ARN names a place
// that events can be sent to. An empty configuration, which clears what is set, gives nil.
func parseNotification(body []byte, target func(arn string) bool) ([]byte, error) {
	doc, err := parseDoc(body, "NotificationConfiguration")
	if err != nil {
		return nil, err
	}
	arnOf := map[string]string{
		"TopicConfiguration": "Topic", "QueueConfiguration": "Queue", "CloudFunctionConfiguration": "CloudFunction",
	}
	if err := doc.only("TopicConfiguration", "QueueConfiguration", "CloudFunctionConfiguration",
		"EventBridgeConfiguration"); err != nil {
		return nil, err
	}
	ids := make(map[string]bool)
	var arns []string
	for _, n := range doc.kids {
		if n.name == "EventBridgeConfiguration" {
			return nil, s3err.Refuse("NotImplemented", "EventBridge is not offered.")
		}
		arn, id, err := checkNotification(n, arnOf[n.name])
		if err != nil {
			return nil, err
		}
		if id != "" && ids[id] {
			return nil, s3err.Refuse("InvalidArgument", "Same ID used for multiple configurations. IDs must be unique")
		}
		ids[id] = true
		arns = append(arns, arn)
	}
	for _, a := range arns {
		if !target(a) {
			return nil, s3err.Refuse("InvalidArgument", "Unable to validate the following destination configurations").
				With("ArgumentName1", a).With("ArgumentValue1", "The destination ARN is not configured on this site")
		}
	}
	if len(doc.kids) == 0 {
		return nil, nil
	}
	return doc.render(), nil
}

// checkNotification checks one destination whose ARN is in the element arnName.
func checkNotification(n *xmlNode, arnName string) (arn, id string, err error) {
	if err := n.only("Id", arnName, "Event", "Filter"); err != nil {
		return "", "", err
	}
	if id, _, err = n.str("Id"); err != nil {
		return "", "", err
	}
	if len([]rune(id)) > maxRuleID {
		return "", "", s3err.Refuse("InvalidArgument", "ID length should not exceed allowed limit of %d", maxRuleID)
	}
	k, err := n.need(arnName)
	if err != nil {
		return "", "", err
	}
	if arn, err = k.word(); err != nil {
		return "", "", err
	}
	if !strings.HasPrefix(arn, "arn:") {
		return "", "", s3err.Refuse("InvalidArgument", "The ARN is not well formed")
	}
	events := n.all("Event")
	if len(events) == 0 {
		return "", "", errXML
	}
	for _, e := range events {
		s, err := e.word()
		if err != nil {
			return "", "", err
		}
		if !slices.Contains(notificationEvents, s) {
			return "", "", s3err.Refuse("InvalidArgument", "The event '%s' is not supported for notifications", s)
		}
	}
	f, err := n.one("Filter")
	if err != nil || f == nil {
		return arn, id, err
	}
	return arn, id, checkKeyFilter(f)
}

// checkKeyFilter checks the Filter of a notification: at most one prefix and one suffix.
func checkKeyFilter(f *xmlNode) error {
	if err := f.only("S3Key"); err != nil {
		return err
	}
	s3key, err := f.one("S3Key")
	if err != nil || s3key == nil {
		return err
	}
	if err := s3key.only("FilterRule"); err != nil {
		return err
	}
	seen := make(map[string]bool)
	for _, r := range s3key.kids {
		if err := r.only("Name", "Value"); err != nil {
			return err
		}
		name, there, err := r.str("Name")
		if err != nil || !there {
			return errXML
		}
		name = strings.ToLower(strings.TrimSpace(name))
		if name != "prefix" && name != "suffix" {
			return s3err.Refuse("InvalidArgument", "filter rule name must be either prefix or suffix")
		}
		if seen[name] {
			return s3err.Refuse("InvalidArgument", "Cannot specify more than one %s rule in a filter.", name)
		}
		seen[name] = true
		value, _, err := r.str("Value")
		if err != nil {
			return err
		}
		if len(value) > object.MaxKey {
			return s3err.Refuse("InvalidArgument", "Size of filter rule value cannot exceed %d bytes in UTF-8 representation",
				object.MaxKey)
		}
	}
	return nil
}

// iso8601 writes t as S3's documents do.
func iso8601(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }
