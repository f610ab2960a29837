// Package s3doc is the document side of S3: it reads the XML documents that configure buckets and objects, says what is
// wrong with them as S3 does, and writes the answers.
//
// It owns what a document may hold, the form in which a bucket's documents are stored, and the rules that CORS documents
// express. It promises that no document, however made, costs more than its bounds allow or ends the process, that
// every error is an *s3err.Error, and that what a Check function returns is read back by it as the same bytes. It does
// no I/O and must never import the object store or net/http.
package s3doc

import (
	"slices"
	"strings"

	"firn/s3api/s3err"
)

// Limits of the smaller documents, as S3 states them.
const (
	maxRetentionDays  = 36500
	maxRetentionYears = 100
	maxKey            = 1024 // bytes
)

// The states of versioning a bucket may be set to.
const (
	Enabled   = "Enabled"
	Suspended = "Suspended"
)

// ParseVersioning reads a VersioningConfiguration: it returns Enabled or Suspended.
func ParseVersioning(body []byte) (string, error) {
	doc, err := parseDoc(body, "VersioningConfiguration")
	if err != nil {
		return "", err
	}
	if err := doc.only("Status", "MfaDelete"); err != nil {
		return "", err
	}
	mfa, err := doc.enum("MfaDelete", "Enabled", "Disabled")
	if err != nil {
		return "", err
	}
	if mfa == "Enabled" {
		return "", s3err.Refuse("NotImplemented", "MFA delete is not offered.")
	}
	s, err := doc.enum("Status", Enabled, Suspended)
	if err != nil {
		return "", err
	}
	if s == "" {
		return "", s3err.Refuse("IllegalVersioningConfigurationException",
			"The Versioning element must be specified")
	}
	return s, nil
}

// VersioningDoc is the answer to GetBucketVersioning. An empty status is that of a bucket that never had versioning.
func VersioningDoc(status string) []byte {
	n := &node{name: "VersioningConfiguration"}
	if status != "" {
		n.add("Status", status)
	}
	return n.render()
}

// Encryption is how a bucket has objects encrypted that do not say it themselves.
type Encryption struct {
	Algorithm string // "AES256", "aws:kms" or "aws:kms:dsse"; "" is not at all
	KeyID     string
	BucketKey bool
}

// CheckEncryption reads and validates a ServerSideEncryptionConfiguration.
func CheckEncryption(body []byte) ([]byte, error) {
	_, doc, err := readEncryption(body)
	if err != nil {
		return nil, err
	}
	return doc.render(), nil
}

// ParseEncryption reads a ServerSideEncryptionConfiguration.
func ParseEncryption(body []byte) (Encryption, error) {
	e, _, err := readEncryption(body)
	return e, err
}

func readEncryption(body []byte) (Encryption, *node, error) {
	var e Encryption
	doc, err := parseDoc(body, "ServerSideEncryptionConfiguration")
	if err != nil {
		return e, nil, err
	}
	if err := doc.only("Rule"); err != nil {
		return e, nil, err
	}
	r, err := doc.need("Rule")
	if err != nil {
		return e, nil, err
	}
	if err := r.only("ApplyServerSideEncryptionByDefault", "BucketKeyEnabled"); err != nil {
		return e, nil, err
	}
	if e.BucketKey, _, err = r.flag("BucketKeyEnabled"); err != nil {
		return e, nil, err
	}
	by, err := r.need("ApplyServerSideEncryptionByDefault")
	if err != nil {
		return e, nil, err
	}
	if err := by.only("SSEAlgorithm", "KMSMasterKeyID"); err != nil {
		return e, nil, err
	}
	e.Algorithm, err = by.enum("SSEAlgorithm", "AES256", "aws:kms", "aws:kms:dsse")
	if err != nil || e.Algorithm == "" {
		return e, nil, errXML
	}
	id, there, err := by.str("KMSMasterKeyID")
	if err != nil {
		return e, nil, err
	}
	if there && e.Algorithm == "AES256" {
		return e, nil, s3err.Refuse("InvalidArgument", "a KMSMasterKeyID is not applicable if the default sse algorithm is not "+
			"aws:kms or aws:kms:dsse")
	}
	if there && (id == "" || len(id) > 2048) {
		return e, nil, s3err.Refuse("InvalidArgument", "the KMSMasterKeyID is not valid")
	}
	e.KeyID = id
	return e, doc, nil
}

// The modes of a retention.
const (
	Governance = "GOVERNANCE"
	Compliance = "COMPLIANCE"
)

// DefaultRetention is what new versions of a bucket are retained by. An empty Mode is none. One of Days and Years is 0.
type DefaultRetention struct {
	Mode        string // Governance or Compliance
	Days, Years int
}

// ObjectLock is what an ObjectLockConfiguration asks for.
type ObjectLock struct {
	Enable    bool
	Retention DefaultRetention
}

// ParseObjectLock reads and validates an ObjectLockConfiguration.
func ParseObjectLock(body []byte) (ObjectLock, error) {
	var c ObjectLock
	doc, err := parseDoc(body, "ObjectLockConfiguration")
	if err != nil {
		return c, err
	}
	if err := doc.only("ObjectLockEnabled", "Rule"); err != nil {
		return c, err
	}
	s, err := doc.enum("ObjectLockEnabled", Enabled)
	if err != nil {
		return c, err
	}
	c.Enable = s == Enabled
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
	c.Retention, err = parseDefaultRetention(d)
	return c, err
}

func parseDefaultRetention(d *node) (DefaultRetention, error) {
	var r DefaultRetention
	if err := d.only("Mode", "Days", "Years"); err != nil {
		return r, err
	}
	mode, err := d.enum("Mode", Governance, Compliance)
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
		return r, s3err.Refuse("InvalidRetentionPeriod",
			"Default retention period too large: at most %d days.", maxRetentionDays)
	case years > maxRetentionYears:
		return r, s3err.Refuse("InvalidRetentionPeriod",
			"Default retention period too large: at most %d years.", maxRetentionYears)
	}
	return DefaultRetention{Mode: mode, Days: int(days), Years: int(years)}, nil
}

// ObjectLockDoc is the answer to GetObjectLockConfiguration of a bucket with object lock.
func ObjectLockDoc(r DefaultRetention) []byte {
	n := (&node{name: "ObjectLockConfiguration"}).add("ObjectLockEnabled", Enabled)
	if r.Mode == "" {
		return n.render()
	}
	d := (&node{name: "DefaultRetention"}).add("Mode", r.Mode)
	if r.Days > 0 {
		d.addInt("Days", r.Days)
	}
	if r.Years > 0 {
		d.addInt("Years", r.Years)
	}
	n.kids = append(n.kids, &node{name: "Rule", kids: []*node{d}})
	return n.render()
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

// CheckNotification reads and validates a NotificationConfiguration. target reports whether an ARN names a place
// that events can be sent to. An empty configuration, which clears what is set, gives nil.
func CheckNotification(body []byte, target func(arn string) bool) ([]byte, error) {
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
func checkNotification(n *node, arnName string) (arn, id string, err error) {
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
func checkKeyFilter(f *node) error {
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
		if len(value) > maxKey {
			return s3err.Refuse("InvalidArgument", "Size of filter rule value cannot exceed %d bytes in UTF-8 representation",
				maxKey)
		}
	}
	return nil
}

// CheckRequestPayment validates a RequestPaymentConfiguration. The one setting there is: the bucket's owner pays.
func CheckRequestPayment(body []byte) error {
	doc, err := parseDoc(body, "RequestPaymentConfiguration")
	if err != nil {
		return err
	}
	if err := doc.only("Payer"); err != nil {
		return err
	}
	switch payer, err := doc.enum("Payer", "BucketOwner", "Requester"); {
	case err != nil || payer == "":
		return errXML
	case payer == "Requester":
		return s3err.Refuse("NotImplemented", "Requester pays is not offered.")
	}
	return nil
}

// Field is one element of a document without nesting.
type Field struct{ Name, Value string }

// Flat is a document of a root and fields, in order.
func Flat(root string, fields ...Field) []byte {
	n := &node{name: root}
	for _, f := range fields {
		n.add(f.Name, f.Value)
	}
	return n.render()
}
