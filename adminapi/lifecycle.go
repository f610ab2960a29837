package adminapi

import (
	"context"
	"net/http"
	"time"

	"firn"
)

// LifecycleRun says what a run of lifecycle rules is about.
type LifecycleRun struct {
	Bucket string    `json:"bucket,omitempty"` // "" is all
	Prefix string    `json:"prefix,omitempty"`
	DryRun bool      `json:"dry_run,omitempty"`
	At     time.Time `json:"at,omitzero"` // with DryRun: the time that is decided for; zero is now
}

// LifecycleItem is a version, or an unfinished upload, on which a rule acts.
type LifecycleItem struct {
	Bucket    string    `json:"bucket"`
	Key       string    `json:"key"`
	VersionID string    `json:"version_id,omitempty"` // or the id of the upload
	Size      int64     `json:"size"`
	Action    string    `json:"action"`
	Class     string    `json:"storage_class,omitempty"` // of a move
	Rule      string    `json:"rule,omitempty"`
	Due       time.Time `json:"due,omitzero"`
	Reason    string    `json:"reason"`
	Error     string    `json:"error,omitempty"` // why it was not done
}

// LifecycleCount counts what one action of one rule did.
type LifecycleCount struct {
	Bucket  string `json:"bucket"`
	Rule    string `json:"rule"`
	Action  string `json:"action"`
	Objects int64  `json:"objects"`
	Bytes   int64  `json:"bytes"`
}

// LifecycleWaiting is the moves to one storage class that are due and wait for its tier.
type LifecycleWaiting struct {
	Class   string    `json:"storage_class"`
	Objects int64     `json:"objects"`
	Bytes   int64     `json:"bytes"`
	Oldest  time.Time `json:"oldest"` // since when the first of them is due
	Since   time.Time `json:"since"`  // when it was first found that the tier does not take them
	Why     string    `json:"why"`
}

// LifecycleReport is what a run did, or with DryRun would do.
type LifecycleReport struct {
	Began   time.Time          `json:"began,omitzero"`
	Seconds float64            `json:"seconds"`
	DryRun  bool               `json:"dry_run,omitempty"`
	Buckets int                `json:"buckets"` // that have rules
	Scanned int64              `json:"scanned"` // versions and uploads
	Failed  int64              `json:"failed"`
	Changed int64              `json:"changed"` // replaced or removed meanwhile, and left alone
	Counts  []LifecycleCount   `json:"counts"`
	Waiting []LifecycleWaiting `json:"waiting"`
	Error   string             `json:"error,omitempty"` // what ended it early
}

// LifecycleLine is one line of a run's answer: items, then one report.
type LifecycleLine struct {
	Item   *LifecycleItem   `json:"item,omitempty"`
	Report *LifecycleReport `json:"report,omitempty"`
	Error  *ErrorBody       `json:"error,omitempty"`
}

// Lifecycle carries out the lifecycle rules of buckets.
type Lifecycle interface {
	// Last returns the report of the last run by the site's clock; a zero Began: there was none since the start.
	Last() LifecycleReport
	// Run carries them out now and calls fn for each item.
	Run(ctx context.Context, o LifecycleRun, fn func(LifecycleItem) error) (LifecycleReport, error)
	// Explain says what the rules make of one version; "" is the current one, a zero time now.
	Explain(ctx context.Context, bucket, key, versionID string, at time.Time) (LifecycleItem, error)
}

// ServeLifecycle adds the calls on lifecycle rules.
func (h *Handler) ServeLifecycle(l Lifecycle) {
	h.mux.HandleFunc("GET /admin/v1/lifecycle", h.api(func(*http.Request) (any, error) { return l.Last(), nil }))
	h.mux.HandleFunc("GET /admin/v1/lifecycle/explain", h.api(func(r *http.Request) (any, error) {
		q := r.URL.Query()
		var at time.Time
		if s := q.Get("at"); s != "" {
			var err error
			if at, err = time.Parse(time.RFC3339, s); err != nil {
				return nil, &firn.Error{Kind: firn.Invalid, Subject: "at", Err: err}
			}
		}
		return l.Explain(r.Context(), q.Get("bucket"), q.Get("key"), q.Get("version"), at)
	}))
	h.mux.HandleFunc("POST /admin/v1/lifecycle/run", h.private(func(w http.ResponseWriter, r *http.Request) {
		var o LifecycleRun
		runLines(w, r, &o, func(line func(any) error) (any, error) {
			rep, err := l.Run(r.Context(), o, func(it LifecycleItem) error { return line(LifecycleLine{Item: &it}) })
			return LifecycleLine{Report: &rep}, err
		})
	}))
}
