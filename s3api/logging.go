package s3api

import (
	"bytes"
	"context"
	"net/http"
	"strconv"
	"time"

	"firn"
	"firn/auth"
	"firn/object"
	"firn/object/record"
	"firn/s3api/s3doc"
	"firn/s3api/s3err"
	"firn/s3api/sse"
)

// Logs reports whether b asks for an access log; b may be nil.
func Logs(b *record.Bucket) bool { return b != nil && b.Config[confLogging] != nil }

func getLogging(_ *Server, rq *request) error {
	if doc := rq.bkt.Config[confLogging]; doc != nil {
		return rq.writeDoc(doc)
	}
	return rq.writeDoc(s3doc.LoggingDoc(s3doc.Logging{}))
}

// putLogging sets where the bucket's access log goes, or that there is none. A target that logs could not be put into
// now is refused: it would be noticed only when the logs are needed.
func putLogging(s *Server, rq *request) error {
	body, err := rq.readDocument(maxSmallDoc)
	if err != nil {
		return err
	}
	l, err := s3doc.ParseLogging(body)
	if err != nil {
		return err
	}
	var doc []byte
	if l.Bucket != "" {
		if err := s.checkLogging(rq, &l); err != nil {
			return err
		}
		doc = s3doc.LoggingDoc(l)
	}
	if err := s.setConfig(rq, confLogging, doc); err != nil {
		return err
	}
	return rq.noContent(http.StatusOK)
}

func (s *Server) checkLogging(rq *request, l *s3doc.Logging) error {
	for _, g := range l.Grants {
		if g.ID != "" && !s.users.Exists(g.ID) {
			return s3doc.ACLError(auth.ErrUnknownGrantee)
		}
	}
	to, err := s.logTarget(rq.ctx, rq.bkt, l)
	if err != nil {
		return err
	}
	if to.Retention.Mode != record.RetentionNone {
		return errLogTarget("The target bucket for logging must not have a default retention.")
	}
	return s.mayLog(rq.bkt, to, s.logKey(rq.bkt, l, rq.start, rq.start, rq.id), rq.start)
}

func errLogTarget(why string) error {
	return s3err.New("InvalidTargetBucketForLogging").Saying("%s", why)
}

// logTarget returns the bucket that l names for the log of source.
func (s *Server) logTarget(ctx context.Context, source *record.Bucket, l *s3doc.Logging) (*record.Bucket, error) {
	to, err := s.store.Bucket(ctx, l.Bucket)
	switch kind := firn.KindOf(err); {
	case kind == firn.NotFound || kind == firn.Invalid:
		return nil, s3err.New("InvalidTargetBucketForLogging").With("TargetBucket", l.Bucket)
	case err != nil:
		return nil, err
	case to.Owner != source.Owner:
		return nil, errLogTarget("The owner for the bucket to be logged and the target bucket must be the same.")
	}
	d := s.docsOf(to)
	if d.err != nil {
		return nil, d.err
	}
	if len(l.Grants) > 0 && !d.ownership.ACLs() {
		return nil, errLogTarget("Target grants are not possible where the target bucket has ACLs disabled.")
	}
	return to, nil
}

// mayLog asks whether the log of source may be put at key of to.
func (s *Server) mayLog(source, to *record.Bucket, key string, now time.Time) error {
	d := s.docsOf(to)
	dec := auth.AuthorizeLog(&auth.Request{
		Bucket: to.Name, Key: key, BucketOwner: to.Owner, Policy: d.policy, BucketACL: d.acl, Ownership: d.ownership,
		Lookup: func(key string) ([]string, bool) {
			v, ok := map[string]string{
				"aws:sourcearn": "arn:aws:s3:::" + source.Name, "aws:sourceaccount": auth.AccountID(source.Owner),
				"aws:resourceaccount": auth.AccountID(to.Owner), "s3:resourceaccount": auth.AccountID(to.Owner),
				"aws:principalisawsservice": "true", "aws:principalservicename": auth.LogService,
				"aws:securetransport": "true", // nothing of it travels
				"aws:currenttime":     now.UTC().Format(time.RFC3339), "aws:epochtime": strconv.FormatInt(now.Unix(), 10),
				"aws:requestedregion": s.opt.Region,
			}[key]
			return []string{v}, ok
		},
	})
	switch {
	case dec.Allowed:
		return nil
	case dec.By == auth.ByPolicy:
		return errLogTarget("The policy of the target bucket denies that access logs are put there: " + dec.Reason() + ".")
	case d.ownership.ACLs():
		return errLogTarget("You must give the log-delivery group WRITE and READ_ACP permissions to the target bucket, " +
			"or allow " + auth.LogService + " to do s3:PutObject there in its policy.")
	}
	return errLogTarget("The policy of the target bucket must allow " + auth.LogService + " to do s3:PutObject there.")
}

func (s *Server) logKey(source *record.Bucket, l *s3doc.Logging, day, now time.Time, unique string) string {
	return l.LogKey(auth.AccountID(source.Owner), s.opt.Region, source.Name, day, now, unique)
}

// DeliverLog puts lines of the access log of source, of requests of one day, into the bucket that source names. An error
// of kind firn.NotFound says that source asks for no log any more, one of kind firn.Denied that the target takes none.
func (s *Server) DeliverLog(ctx context.Context, source *record.Bucket, day time.Time, lines []byte) error {
	d := s.docsOf(source)
	if d.err != nil {
		return d.err
	}
	if d.logging.Bucket == "" {
		return firn.NewError(firn.NotFound, "the bucket asks for no access log any more")
	}
	now := time.Now()
	l := &d.logging
	to, err := s.logTarget(ctx, source, l)
	if err != nil {
		return deliveryError(err)
	}
	key := s.logKey(source, l, day, now, s.newID())
	if err := s.mayLog(source, to, key, now); err != nil {
		return deliveryError(err)
	}
	o := object.PutOptions{
		Size: int64(len(lines)), Owner: to.Owner, Headers: []record.Field{{Name: "Content-Type", Value: "text/plain"}},
	}
	if len(l.Grants) > 0 {
		a := auth.PrivateACL(to.Owner)
		a.Grants = append(a.Grants, l.Grants...)
		o.ACL = encodeACL(a)
	}
	r := (&http.Request{Header: http.Header{}}).WithContext(ctx)
	if o.Encryption, o.DataKey, err = sse.New(r, s.docsOf(to).encryption, s.opt.Keys, to.Name, key); err != nil {
		return err
	}
	_, err = s.store.Put(ctx, to.Name, key, bytes.NewReader(lines), o)
	return err
}

// deliveryError gives refusals of the protocol a kind.
func deliveryError(err error) error {
	if codeOfError(err) != "" {
		return &firn.Error{Kind: firn.Denied, Err: err}
	}
	return err
}
