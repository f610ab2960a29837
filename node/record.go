package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"firn"
	"firn/adminapi"
	"firn/audit"
	"firn/auth"
	"firn/config"
	"firn/iamapi"
	"firn/object/record"
	"firn/pace"
	"firn/s3api"
	"firn/telemetry"
)

// auditName is the directory of the audit log in a data directory, unless the configuration names another.
const auditName = "audit"

// AuditDir returns where the site of a configuration keeps its audit log.
func AuditDir(cfg *config.Config) string {
	if cfg.Audit.Dir != "" {
		return cfg.Audit.Dir
	}
	return filepath.Join(cfg.Data, auditName)
}

// AuditSealer returns what opens the lines of the audit log of an encrypted data directory, on which a site may run.
func AuditSealer(ctx context.Context, data string, enc config.Encryption) (audit.Sealer, error) {
	dir := &DataDir{Path: data}
	k, err := openKeys(ctx, dir, &enc)
	if err == nil {
		err = dir.unseal(ctx, k, false)
	}
	if err != nil {
		return nil, firn.E("open audit log of", data, err)
	}
	return dir.sealer(), nil
}

// openAudit opens the audit log where the configuration asks for one.
func (n *Node) openAudit() error {
	c := n.cfg.Audit
	if !c.Enabled {
		return nil
	}
	policy := audit.Refuse
	if c.OnFailure == config.AuditDrop {
		policy = audit.Drop
	}
	var err error
	n.audit, err = audit.Open(audit.Options{
		Dir: AuditDir(&n.cfg), OnFailure: policy, MaxFile: int64(c.MaxFile), MaxAge: c.MaxAge.Std(), Keep: c.Keep.Std(),
		KeepSize: int64(c.KeepSize), Log: n.log, Seal: n.dir.sealer(),
	})
	if err != nil {
		return err
	}
	n.onClose(n.audit.Close)
	if c.Webhook == "" {
		return nil
	}
	n.webhook, err = audit.NewWebhook(n.audit, audit.WebhookOptions{URL: c.Webhook, Token: c.WebhookToken.Reveal(), Log: n.log})
	return err
}

// registerAudit adds the metrics of the audit log.
func (n *Node) registerAudit() error {
	if n.audit == nil {
		return nil
	}
	return n.metrics.Collect(func() [][]telemetry.Sample {
		s := n.audit.Stats()
		return [][]telemetry.Sample{{{Value: float64(s.Written)}}, {{Value: float64(s.Dropped)}}}
	},
		counter("firn_audit_written_total", "Events written to the audit log."),
		counter("firn_audit_dropped_total", "Events lost to the audit log, which says so itself."),
	)
}

// ready says whether S3 requests may be served.
func (n *Node) ready() error {
	if n.audit == nil {
		return nil
	}
	return n.audit.Ready()
}

// finished records an S3 request.
func (n *Node) finished(f *s3api.Finished) {
	if n.audit == nil {
		return
	}
	n.audit.Record(audit.Event{
		Time: f.Time, Kind: "s3", RequestID: f.ID, User: f.User.Name, AccessKey: f.AccessKey, Remote: f.Remote,
		TLS: f.TLS != 0, Agent: f.Agent, Op: f.Op, Action: f.Action, Method: f.Method, Bucket: f.BucketArg, Key: f.Key,
		VersionID: f.VersionID, Decision: f.Decision, Status: f.Status, Code: f.Code, In: f.In, Out: f.Out,
		Micros: f.Took.Microseconds(),
	})
}

// bounds holds users to the site's bounds and their own.
type bounds struct {
	users *auth.Users
	pace  *pace.Users
}

// Begin begins a request of an account, or of an address.
func (b bounds) Begin(name string) (*pace.User, time.Duration, bool) {
	own := b.users.LimitsOf(name)
	return b.pace.Begin(name, pace.Limits{Requests: own.Requests, Concurrent: own.Concurrent, Bytes: own.Rate})
}

// identityCall records a call of IAM or STS.
func (n *Node) identityCall(c iamapi.Call) {
	if n.audit == nil {
		return
	}
	status, code, decision := http.StatusOK, "", "allowed"
	if c.Err != nil {
		status, code, decision = http.StatusBadRequest, "InternalFailure", ""
		var e *iamapi.Error
		if errors.As(c.Err, &e) {
			status, code = e.Status, e.Code
		}
		if firn.KindOf(c.Err) == firn.Denied {
			decision = "denied"
		}
	}
	n.audit.Record(audit.Event{
		Time: c.Time, Kind: "admin", User: c.User, AccessKey: c.AccessKey, Remote: hostOf(c.Request.RemoteAddr),
		TLS: c.Request.TLS != nil, Agent: c.Request.UserAgent(), Op: c.Service + ":" + c.Action, Method: c.Request.Method,
		Detail: c.Subject, Decision: decision, Status: status, Code: code, Micros: time.Since(c.Time).Microseconds(),
	})
}

// audited records what is asked of the admin endpoint, but for what only tells how the site is.
func (n *Node) audited(next http.Handler) http.Handler {
	if n.audit == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			next.ServeHTTP(w, r)
			return
		}
		if err := n.audit.Ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		start := time.Now()
		s := &statusWriter{ResponseWriter: w, status: http.StatusOK}
		defer func() {
			e := audit.Event{
				Time: start, Kind: "admin", Remote: hostOf(r.RemoteAddr), TLS: r.TLS != nil, Agent: r.UserAgent(),
				Method: r.Method, Op: r.Pattern, Detail: r.URL.Path, Status: s.status, Decision: "allowed: holds the admin token",
				Micros: time.Since(start).Microseconds(),
			}
			if s.status == http.StatusUnauthorized {
				e.Decision = "denied: without the admin token"
			}
			n.audit.Record(e)
		}()
		next.ServeHTTP(s, r)
	})
}

// statusWriter keeps the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets deadlines and flushes through.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func hostOf(addr string) string {
	if host, _, err := net.SplitHostPort(addr); err == nil {
		return host
	}
	return addr
}

// SetQuota implements adminapi.Quotas.
func (v siteView) SetQuota(ctx context.Context, bucket string, q adminapi.Quota) error {
	if q.Bytes < 0 || q.Versions < 0 {
		return firn.NewError(firn.Invalid, "a quota is 0, for none, or more")
	}
	_, err := v.n.engine.store.UpdateBucket(ctx, bucket, func(b *record.Bucket) error {
		b.Quota = record.Quota(q)
		return nil
	})
	return err
}

// Quota implements adminapi.Quotas.
func (v siteView) Quota(ctx context.Context, bucket string) (adminapi.QuotaStatus, error) {
	b, err := v.n.engine.store.Bucket(ctx, bucket)
	if err != nil {
		return adminapi.QuotaStatus{}, firn.E("find bucket", bucket, err)
	}
	u, err := v.n.engine.store.Usage(ctx, bucket)
	if err != nil {
		return adminapi.QuotaStatus{}, fmt.Errorf("count %s: %w", bucket, err)
	}
	return adminapi.QuotaStatus{Quota: adminapi.Quota(b.Quota), UsedBytes: u.Bytes, UsedVersions: u.Versions}, nil
}
