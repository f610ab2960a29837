package s3api

import (
	"maps"
	"net/http"

	"firn/object/record"
	"firn/s3api/s3doc"
	"firn/s3api/s3err"
)

// Names under which a bucket's documents are kept in object.Bucket.Config.
const (
	confTagging      = "tagging"
	confCORS         = "cors"
	confPolicy       = "policy"
	confPublicAccess = "publicAccessBlock"
	confOwnership    = "ownershipControls"
	confACL          = "acl"
	confLifecycle    = "lifecycle"
	confLifecycleMin = "lifecycleMinimumSize"
	confNotification = "notification"
	confEncryption   = "encryption"
	confLogging      = "logging"
)

// Bounds of configuration bodies in bytes.
const (
	maxSmallDoc     = 64 << 10
	maxLifecycleDoc = 2 << 20
	maxPolicyDoc    = 20 << 10
)

// writeDoc answers with a document.
func (rq *request) writeDoc(doc []byte) error {
	return rq.writeBody(http.StatusOK, xmlContentType, doc)
}

// setConfig stores one of the bucket's documents; a nil doc removes it.
func (s *Server) setConfig(rq *request, name string, doc []byte) error {
	_, err := s.store.UpdateBucket(rq.ctx, rq.bucket, func(b *record.Bucket) error {
		putConfig(b, name, doc)
		return nil
	})
	return err
}

// putConfig changes a document in the record an UpdateBucket call was given.
func putConfig(b *record.Bucket, name string, doc []byte) {
	b.Config = maps.Clone(b.Config)
	if doc == nil {
		delete(b.Config, name)
		return
	}
	if b.Config == nil {
		b.Config = make(map[string][]byte)
	}
	b.Config[name] = doc
}

// getDoc answers with a stored document, or with the code where none is stored.
func getDoc(name, missing string) handler {
	return func(_ *Server, rq *request) error {
		doc := rq.bkt.Config[name]
		if doc == nil {
			return s3err.New(missing).With("BucketName", rq.bucket)
		}
		return rq.writeBody(http.StatusOK, xmlContentType, doc)
	}
}

// putDoc validates the body with parse, stores what it returns and answers status.
func putDoc(name string, limit int64, status int, parse func(body []byte) ([]byte, error)) handler {
	return func(s *Server, rq *request) error {
		body, err := rq.readDocument(limit)
		if err != nil {
			return err
		}
		doc, err := parse(body)
		if err != nil {
			return err
		}
		if err := s.setConfig(rq, name, doc); err != nil {
			return err
		}
		return rq.noContent(status)
	}
}

// deleteDoc removes a stored document. Removing what is not there is no error.
func deleteDoc(names ...string) handler {
	return func(s *Server, rq *request) error {
		_, err := s.store.UpdateBucket(rq.ctx, rq.bucket, func(b *record.Bucket) error {
			for _, name := range names {
				putConfig(b, name, nil)
			}
			return nil
		})
		if err != nil {
			return err
		}
		return rq.noContent(http.StatusNoContent)
	}
}

// versioningStatus is what a VersioningConfiguration says of a bucket's state.
func versioningStatus(v record.Versioning) string {
	switch v {
	case record.VersioningEnabled:
		return s3doc.Enabled
	case record.VersioningSuspended:
		return s3doc.Suspended
	case record.VersioningOff:
	}
	return ""
}

func getVersioning(_ *Server, rq *request) error {
	return rq.writeDoc(s3doc.VersioningDoc(versioningStatus(rq.bkt.Versioning)))
}

func putVersioning(s *Server, rq *request) error {
	body, err := rq.readDocument(maxSmallDoc)
	if err != nil {
		return err
	}
	status, err := s3doc.ParseVersioning(body)
	if err != nil {
		return err
	}
	v := record.VersioningSuspended
	if status == s3doc.Enabled {
		v = record.VersioningEnabled
	}
	_, err = s.store.UpdateBucket(rq.ctx, rq.bucket, func(b *record.Bucket) error {
		if b.ObjectLock && v != record.VersioningEnabled {
			return s3err.Refuse("InvalidBucketState",
				"An Object Lock configuration is present on this bucket, so the versioning state cannot be changed.")
		}
		b.Versioning = v
		return nil
	})
	if err != nil {
		return err
	}
	return rq.noContent(http.StatusOK)
}

func getObjectLock(_ *Server, rq *request) error {
	if !rq.bkt.ObjectLock {
		return s3err.New("ObjectLockConfigurationNotFoundError").With("BucketName", rq.bucket)
	}
	return rq.writeDoc(s3doc.ObjectLockDoc(s3doc.DefaultRetention{
		Mode: retentionMode(rq.bkt.Retention.Mode), Days: rq.bkt.Retention.Days, Years: rq.bkt.Retention.Years,
	}))
}

func putObjectLock(s *Server, rq *request) error {
	body, err := rq.readDocument(maxSmallDoc)
	if err != nil {
		return err
	}
	c, err := s3doc.ParseObjectLock(body)
	if err != nil {
		return err
	}
	_, err = s.store.UpdateBucket(rq.ctx, rq.bucket, func(b *record.Bucket) error {
		if !b.ObjectLock {
			switch {
			case b.Versioning != record.VersioningEnabled:
				return s3err.Refuse("InvalidBucketState", "Versioning must be 'Enabled' on the bucket to apply a "+
					"Object Lock configuration")
			case !c.Enable:
				return s3err.Refuse("InvalidRequest", "Object Lock configuration cannot be enabled on existing buckets without "+
					"ObjectLockEnabled")
			}
			b.ObjectLock = true
		}
		b.Retention = record.DefaultRetention{Days: c.Retention.Days, Years: c.Retention.Years}
		switch c.Retention.Mode {
		case s3doc.Governance:
			b.Retention.Mode = record.RetentionGovernance
		case s3doc.Compliance:
			b.Retention.Mode = record.RetentionCompliance
		}
		return nil
	})
	if err != nil {
		return err
	}
	return rq.noContent(http.StatusOK)
}

// The rule of S3 for moves of small objects, carried in this header beside the lifecycle document.
const (
	headerMinimumSize  = "X-Amz-Transition-Default-Minimum-Object-Size"
	minimumSizeDefault = "all_storage_classes_128K"
	minimumSizeVaries  = "varies_by_storage_class"
)

func getLifecycle(_ *Server, rq *request) error {
	doc := rq.bkt.Config[confLifecycle]
	if doc == nil {
		return s3err.New("NoSuchLifecycleConfiguration").With("BucketName", rq.bucket)
	}
	least := string(rq.bkt.Config[confLifecycleMin])
	if least == "" {
		least = minimumSizeDefault
	}
	rq.set(headerMinimumSize, least)
	return rq.writeBody(http.StatusOK, xmlContentType, doc)
}

func putLifecycle(s *Server, rq *request) error {
	least := rq.header(headerMinimumSize)
	switch least {
	case "":
		least = minimumSizeDefault
	case minimumSizeDefault, minimumSizeVaries:
	default:
		return s3err.Refuse("InvalidRequest", "Invalid TransitionDefaultMinimumObjectSize found: %s", least)
	}
	body, err := rq.readDocument(maxLifecycleDoc)
	if err != nil {
		return err
	}
	var known func(string) bool
	if s.class.Tiered() {
		known = s.class.Known
	}
	doc, err := s3doc.CheckLifecycle(body, known)
	if err != nil {
		return err
	}
	_, err = s.store.UpdateBucket(rq.ctx, rq.bucket, func(b *record.Bucket) error {
		putConfig(b, confLifecycle, doc)
		putConfig(b, confLifecycleMin, []byte(least))
		return nil
	})
	if err != nil {
		return err
	}
	rq.set(headerMinimumSize, least)
	return rq.noContent(http.StatusOK)
}

func getNotification(_ *Server, rq *request) error {
	if doc := rq.bkt.Config[confNotification]; doc != nil {
		return rq.writeBody(http.StatusOK, xmlContentType, doc)
	}
	return rq.writeDoc(s3doc.Flat("NotificationConfiguration"))
}

// parseNotificationHere is s3doc.CheckNotification for a site that has no place to send events to.
func parseNotificationHere(body []byte) ([]byte, error) {
	return s3doc.CheckNotification(body, func(string) bool { return false })
}

// getEmpty answers with a document that says "not set" as S3 does.
func getEmpty(root string, fields ...s3doc.Field) handler {
	return func(_ *Server, rq *request) error { return rq.writeDoc(s3doc.Flat(root, fields...)) }
}

// getMissing answers that a configuration Firn does not offer is not set. message "" is the code's usual one.
func getMissing(code, message string) handler {
	return func(_ *Server, rq *request) error {
		e := s3err.New(code)
		if message != "" {
			e = s3err.Refuse(code, "%s", message)
		}
		return e.With("BucketName", rq.bucket)
	}
}

// getListed answers for configurations that come by id or as a list: no id is known, the list is empty.
func getListed(listRoot string) handler {
	return func(_ *Server, rq *request) error {
		if rq.query.Has("id") {
			return s3err.Refuse("NoSuchConfiguration", "The specified configuration does not exist.")
		}
		return rq.writeDoc(s3doc.Flat(listRoot, s3doc.Field{Name: "IsTruncated", Value: "false"}))
	}
}

// notImplemented answers a change of a configuration Firn does not offer.
func notImplemented(*Server, *request) error { return s3err.New("NotImplemented") }

// putRequestPayment takes the one setting there is: the bucket's owner pays.
func putRequestPayment(_ *Server, rq *request) error {
	body, err := rq.readDocument(maxSmallDoc)
	if err != nil {
		return err
	}
	if err := s3doc.CheckRequestPayment(body); err != nil {
		return err
	}
	return rq.noContent(http.StatusOK)
}
