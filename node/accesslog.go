package node

import (
	"context"
	"time"

	"firn"
	"firn/accesslog"
	"firn/auth/sigv4"
	"firn/s3api"
	"firn/telemetry"
)

// openAccessLog opens the access logs that buckets ask for.
func (n *Node) openAccessLog(ctx context.Context) error {
	var err error
	n.accessLog, err = accesslog.Open(ctx, n.engine.db, n.deliverLog, accesslog.Options{
		Every: n.cfg.AccessLog.Interval.Std(), Log: n.log.With("part", "access log"),
	})
	if err != nil {
		return err
	}
	return n.metrics.Collect(func() [][]telemetry.Sample {
		s := n.accessLog.Stats()
		return [][]telemetry.Sample{
			{{Value: float64(s.Lines)}},
			{{Value: float64(s.Dropped)}},
			{{Value: float64(s.Delivered)}},
			{{Value: float64(s.Failed)}},
			{{Value: float64(s.Spooled)}},
		}
	},
		counter("firn_access_log_lines_total", "Lines of access logs that buckets ask for."),
		counter("firn_access_log_dropped_total", "Lines that no room was left for, or that the target bucket does not take."),
		counter("firn_access_log_delivered_total", "Objects of access logs put into target buckets."),
		counter("firn_access_log_failed_total", "Deliveries that failed and are tried again."),
		gauge("firn_access_log_spooled_bytes", "Bytes of access logs not delivered yet."),
	)
}

// deliverLog puts lines of the access log of a bucket where the bucket says.
func (n *Node) deliverLog(ctx context.Context, bucket uint64, day time.Time, lines []byte) error {
	list, err := n.engine.store.Buckets(ctx)
	if err != nil {
		return err
	}
	for _, b := range list {
		if b.ID == bucket {
			return firn.E("deliver access log", b.Name, n.door.DeliverLog(ctx, b, day, lines))
		}
	}
	return firn.NewError(firn.NotFound, "the bucket was deleted")
}

// logged notes a request in the access logs that ask for it.
func (n *Node) logged(f *s3api.Finished) {
	r := accesslog.Record{
		Time: f.Time, Remote: f.Remote, Requester: f.User.Canonical, RequestID: f.ID, Op: f.Op, Method: f.Method, Key: f.Key,
		URI: f.Path, Proto: f.Proto, Status: f.Status, Code: f.Code, Sent: f.Out, Size: f.Size, Total: f.Took, First: f.First,
		Referer: f.Referer, Agent: f.Agent, VersionID: f.VersionID, TLS: f.TLS, Cipher: f.Cipher, Host: f.Host, ByACL: f.ByACL,
		Region: n.cfg.Region,
	}
	if f.Query != "" {
		r.URI += "?" + f.Query
	}
	if f.User.Within {
		r.Requester = f.User.ARN()
	}
	switch f.Signature {
	case sigv4.Anonymous:
	case sigv4.Header:
		r.Signed, r.AuthType = "SigV4", "AuthHeader"
	case sigv4.Query:
		r.Signed, r.AuthType = "SigV4", "QueryString"
	default:
		r.Signed = "SigV4"
	}
	if s3api.Logs(f.Bucket) {
		r.Owner, r.Bucket = f.Bucket.Owner, f.Bucket.Name
		n.accessLog.Note(f.Bucket.ID, f.Time, r.Line())
	}
	for i := range f.Also {
		a := &f.Also[i]
		r := r
		r.Part, r.Owner, r.Bucket, r.Key, r.VersionID = true, a.Bucket.Owner, a.Bucket.Name, a.Key, a.VersionID
		r.Op, r.Size, r.Status, r.Code = a.Op, a.Size, a.Status, a.Code
		n.accessLog.Note(a.Bucket.ID, f.Time, r.Line())
	}
}
