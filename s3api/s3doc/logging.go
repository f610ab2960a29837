package s3doc

import (
	"time"

	"firn/auth"
	"firn/s3api/s3err"
)

// maxLogPrefix leaves room in a key for what comes after the prefix.
const maxLogPrefix = 700

// Logging says where the access log of a bucket goes.
type Logging struct {
	Bucket      string // "" where no log is asked for
	Prefix      string
	Simple      bool // said that keys are the prefix, the time and something unique, as they are by default
	Partitioned bool // keys have account, region, bucket and date in them
	EventTime   bool // of partitioned keys the date is that of the requests, not of the delivery
	Grants      []auth.ACLGrant
}

// ParseLogging reads a BucketLoggingStatus.
func ParseLogging(body []byte) (Logging, error) {
	var l Logging
	doc, err := parseDoc(body, "BucketLoggingStatus")
	if err != nil {
		return l, err
	}
	if err := doc.only("LoggingEnabled"); err != nil {
		return l, err
	}
	n, err := doc.one("LoggingEnabled")
	if err != nil || n == nil {
		return l, err
	}
	if err := n.only("TargetBucket", "TargetPrefix", "TargetGrants", "TargetObjectKeyFormat"); err != nil {
		return l, err
	}
	there := false
	if l.Bucket, there, err = n.str("TargetBucket"); err != nil || !there || l.Bucket == "" {
		return l, errXML
	}
	if l.Prefix, there, err = n.str("TargetPrefix"); err != nil || !there {
		return l, errXML
	}
	if len(l.Prefix) > maxLogPrefix {
		return l, s3err.InvalidArgument("TargetPrefix", l.Prefix, "The target prefix may have %d bytes.", maxLogPrefix)
	}
	if err := l.readKeyFormat(n); err != nil {
		return l, err
	}
	return l, l.readGrants(n)
}

func (l *Logging) readKeyFormat(n *node) error {
	f, err := n.one("TargetObjectKeyFormat")
	if err != nil || f == nil {
		return err
	}
	if err := f.only("SimplePrefix", "PartitionedPrefix"); err != nil || len(f.kids) != 1 {
		return errXML
	}
	k := f.kids[0]
	if l.Simple = k.name == "SimplePrefix"; l.Simple {
		return k.only()
	}
	l.Partitioned = true
	if err := k.only("PartitionDateSource"); err != nil {
		return err
	}
	source, err := k.enum("PartitionDateSource", "EventTime", "DeliveryTime")
	l.EventTime = source == "EventTime"
	return err
}

func (l *Logging) readGrants(n *node) error {
	list, err := n.one("TargetGrants")
	if err != nil || list == nil {
		return err
	}
	if err := list.only("Grant"); err != nil {
		return err
	}
	for _, k := range list.kids {
		g, err := readGrant(k)
		if err != nil {
			return err
		}
		if g.Permission != auth.PermFullControl && g.Permission != auth.PermRead && g.Permission != auth.PermWrite {
			return errXML
		}
		if l.Grants = append(l.Grants, g); len(l.Grants) >= auth.MaxACLGrants {
			return errXML
		}
	}
	return nil
}

// LoggingDoc is the stored form of l and the answer to GetBucketLogging.
func LoggingDoc(l Logging) []byte {
	doc := &node{name: "BucketLoggingStatus"}
	if l.Bucket == "" {
		return doc.render()
	}
	n := (&node{name: "LoggingEnabled"}).add("TargetBucket", l.Bucket)
	if len(l.Grants) > 0 {
		list := &node{name: "TargetGrants"}
		for _, g := range l.Grants {
			who := &node{name: "Grantee", typ: grantCanonical}
			if g.Group != auth.NoGroup {
				who.typ = grantGroup
				who.add("URI", g.Group.URI())
			} else {
				who.add("ID", g.ID)
			}
			list.kids = append(list.kids, (&node{name: "Grant", kids: []*node{who}}).add("Permission", g.Permission.String()))
		}
		n.kids = append(n.kids, list)
	}
	switch {
	case l.Simple:
		n.kids = append(n.kids, &node{name: "TargetObjectKeyFormat", kids: []*node{{name: "SimplePrefix"}}})
	case l.Partitioned:
		source := "DeliveryTime"
		if l.EventTime {
			source = "EventTime"
		}
		p := (&node{name: "PartitionedPrefix"}).add("PartitionDateSource", source)
		n.kids = append(n.kids, &node{name: "TargetObjectKeyFormat", kids: []*node{p}})
	}
	n.add("TargetPrefix", l.Prefix)
	doc.kids = []*node{n}
	return doc.render()
}

// LogKey returns the key of an object of the log that is delivered at now and holds requests of day. account, region and
// bucket are the source's; unique tells objects of one second apart.
func (l *Logging) LogKey(account, region, bucket string, day, now time.Time, unique string) string {
	if !l.Partitioned {
		return l.Prefix + now.UTC().Format("2006-01-02-15-04-05-") + unique
	}
	if l.EventTime {
		now = day.Truncate(24 * time.Hour)
	}
	return l.Prefix + account + "/" + region + "/" + bucket + now.UTC().Format("/2006/01/02/2006-01-02-15-04-05-") + unique
}
