// Package classes is what storage classes are to S3 clients: which of them a site has, what of a version on a tier can be
// read, and how RestoreObject is asked for and told of.
//
// It promises that no client learns more of a tier than its name, its class and since when it is away. It must never
// import the store (object) or a door.
package classes

import (
	"encoding/xml"
	"slices"
	"strconv"
	"strings"
	"time"

	"firn/object/record"
	"firn/object/remote"
	"firn/s3api/s3err"
)

// standard is the class of versions whose bytes are on the site's own disk.
const standard = "STANDARD"

// Set is the storage classes of a site.
type Set struct{ known, archive []string }

// New returns the set of STANDARD and the known classes. Those of archive, which are known too, can be read only after
// a restore.
func New(known, archive []string) *Set { return &Set{known, archive} }

// Tiered reports whether there is a class beside STANDARD.
func (s *Set) Tiered() bool {
	return slices.ContainsFunc(s.known, func(c string) bool { return c != standard })
}

// Known reports whether the site has a class beside STANDARD.
func (s *Set) Known(class string) bool { return class != standard && slices.Contains(s.known, class) }

// Parse reads x-amz-storage-class; "" is STANDARD.
func (s *Set) Parse(class string) (string, error) {
	switch {
	case class == "" || class == standard:
		return "", nil
	case s.Known(class):
		return class, nil
	}
	return "", s3err.New("InvalidStorageClass").With("StorageClassRequested", class)
}

// Name is the name of a class that "" is STANDARD of.
func Name(class string) string {
	if class == "" {
		return standard
	}
	return class
}

// Readable says whether the content of v may be read: of an archive class only while a copy of it is here.
func (s *Set) Readable(v *record.Version) error {
	if v.Local() || !slices.Contains(s.archive, v.StorageClass) {
		return nil
	}
	return s3err.New("InvalidObjectState").With("StorageClass", v.StorageClass)
}

// RestoreRequest is the document of RestoreObject.
type RestoreRequest struct {
	XMLName xml.Name `xml:"RestoreRequest"`
	Days    *int
	Type    string
	Tier    string
	Job     struct{ Tier string } `xml:"GlacierJobParameters"`
}

// maxRestoreDays bounds a restore so that its end is a date that clients can read.
const maxRestoreDays = 36500

// Until returns the end of the restore: so many days from now, and then to the next midnight UTC. The speed asked for
// is checked and not needed: all restores are as fast as their tier.
func (r *RestoreRequest) Until(now time.Time) (time.Time, error) {
	if r.Type != "" {
		return now, s3err.NotImplemented("Type")
	}
	for _, speed := range []string{r.Tier, r.Job.Tier} {
		if !slices.Contains([]string{"", "Expedited", "Standard", "Bulk"}, speed) {
			return now, s3err.New("MalformedXML")
		}
	}
	switch {
	case r.Days == nil:
		return now, s3err.New("MalformedXML")
	case *r.Days < 1:
		return now, s3err.InvalidArgument("Days", strconv.Itoa(*r.Days), "restoration days should be at least 1")
	case *r.Days > maxRestoreDays:
		return now, s3err.InvalidArgument("Days", strconv.Itoa(*r.Days), "restoration days should be at most %d", maxRestoreDays)
	}
	const day = 24 * time.Hour
	t := now.UTC().Add(time.Duration(*r.Days) * day)
	if midnight := t.Truncate(day); !midnight.Equal(t) {
		t = midnight.Add(day)
	}
	return t, nil
}

// ErrNotRestorable is the answer to RestoreObject for a version of the class STANDARD.
func ErrNotRestorable() error {
	return s3err.New("InvalidObjectState").Saying("Restore is not allowed for the object's current storage class")
}

// CheckRestore refuses to restore what is being restored.
func CheckRestore(v *record.Version, now time.Time) error {
	if v.Location != nil && !v.Local() && v.Location.Wanted.After(now) {
		return s3err.New("RestoreAlreadyInProgress")
	}
	return nil
}

// restore tells of the local copy that somebody asked for: it is on its way, or here until a time; zero: nobody did.
func restore(v *record.Version, now time.Time) (ongoing bool, until time.Time) {
	l := v.Location
	switch {
	case l == nil:
		return false, v.KeepUntil
	case !v.Local() && l.Wanted.After(now):
		return true, time.Time{}
	}
	return false, l.LocalUntil
}

// RestoreHeader is the value of x-amz-restore, "" for a version that nobody asked to have here.
func RestoreHeader(v *record.Version, now time.Time) string {
	ongoing, until := restore(v, now)
	switch {
	case ongoing:
		return `ongoing-request="true"`
	case until.IsZero():
		return ""
	}
	return `ongoing-request="false", expiry-date="` + until.UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT") + `"`
}

// AppendRestoreStatus appends the same to a listing's entry of v.
func AppendRestoreStatus(b []byte, v *record.Version, now time.Time) []byte {
	ongoing, until := restore(v, now)
	switch {
	case ongoing:
		b = append(b, "<RestoreStatus><IsRestoreInProgress>true</IsRestoreInProgress></RestoreStatus>"...)
	case !until.IsZero():
		b = append(b, "<RestoreStatus><IsRestoreInProgress>false</IsRestoreInProgress><RestoreExpiryDate>"...)
		b = until.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z")
		b = append(b, "</RestoreExpiryDate></RestoreStatus>"...)
	}
	return b
}

// WantsRestores reads x-amz-optional-object-attributes: whether a listing is to have RestoreStatus.
func WantsRestores(values []string) (bool, error) {
	wanted := false
	for _, v := range values {
		for a := range strings.SplitSeq(v, ",") {
			switch a = strings.TrimSpace(a); a {
			case "RestoreStatus":
				wanted = true
			case "":
			default:
				return false, s3err.InvalidArgument("x-amz-optional-object-attributes", a, "Invalid attribute name specified.")
			}
		}
	}
	return wanted, nil
}

// Unreadable is the answer to a read of a version whose tier is away.
func Unreadable(a *remote.Away) *s3err.Error {
	var b strings.Builder
	b.WriteString("The content of this object is on the tier " + a.Tier + ", which cannot be read")
	if !a.Since.IsZero() {
		b.WriteString(" since " + a.Since.UTC().Format("2006-01-02 15:04:05 MST"))
	}
	b.WriteString(". Please try again later.")
	return s3err.New("ServiceUnavailable").Saying("%s", b.String()).With("Tier", a.Tier)
}
