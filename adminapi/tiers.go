package adminapi

import (
	"context"
	"net/http"
	"time"
)

// Tiers is what a site's tiers are, and what is known of them.
type Tiers struct {
	Site string `json:"site"` // id by which tiers know whose they are
	// Opens is when moves by rules begin again; absent where they may now.
	Opens time.Time `json:"opens,omitzero"`
	Tiers []Tier    `json:"tiers"`
}

// Tier is one of them.
type Tier struct {
	Name      string  `json:"name"`
	Class     string  `json:"class"`
	URL       string  `json:"url"` // without secrets
	Layout    string  `json:"layout"`
	Archive   bool    `json:"archive,omitempty"`            // content is restored before it is read
	KeepLocal float64 `json:"keep_local_seconds,omitempty"` // of a copy, after a move
	MaxBytes  int64   `json:"max_bytes,omitempty"`
	Cost      string  `json:"cost_per_tb_month,omitempty"`

	Versions  int64   `json:"versions"` // of the class
	Bytes     int64   `json:"bytes"`
	CostMonth float64 `json:"cost_month,omitempty"` // of the bytes

	Ready     bool      `json:"ready"` // it was found to be this site's, since the start
	AwaySince time.Time `json:"away_since,omitzero"`
	Error     string    `json:"error,omitempty"` // why it is away, or not used

	Moves   Backlog `json:"moves"`   // to it
	Recalls Backlog `json:"recalls"` // from it
	Garbage Backlog `json:"garbage"` // blobs on it to be removed; of these no bytes are known
	Begun   Begun   `json:"begun"`   // copies of large versions to it that are under way or were cut off
	Journal uint64  `json:"journal"` // entries of the journal that its catalogue does not tell of yet

	Moved         int64 `json:"moved"` // versions, since the start, as all below
	MovedBytes    int64 `json:"moved_bytes"`
	ResumedBytes  int64 `json:"resumed_bytes"` // that were there already when a copy that was cut off went on
	Recalled      int64 `json:"recalled"`
	RecalledBytes int64 `json:"recalled_bytes"`
	Removed       int64 `json:"removed"` // blobs
	Errors        int64 `json:"errors"`
}

// Backlog is work that waits.
type Backlog struct {
	Objects int64     `json:"objects"`
	Bytes   int64     `json:"bytes,omitempty"`
	Oldest  time.Time `json:"oldest,omitzero"`
	More    bool      `json:"more,omitempty"` // there are more than are counted
}

// Begun is how far copies of large versions are.
type Begun struct {
	Objects int64 `json:"objects"`
	Bytes   int64 `json:"bytes"` // of the versions
	// Done is how many of the bytes were copied, about; those of before the last start are counted once a copy goes on.
	Done int64 `json:"done"`
}

// TierExplain says where the bytes of a version are.
type TierExplain struct {
	Bucket     string    `json:"bucket"`
	Key        string    `json:"key"`
	VersionID  string    `json:"version_id"`
	Size       int64     `json:"size"`
	Class      string    `json:"storage_class"`
	Local      bool      `json:"local"`                // in the data directory
	LocalUntil time.Time `json:"local_until,omitzero"` // of a copy beside the tier's
	Tier       string    `json:"tier,omitempty"`
	TierURL    string    `json:"tier_url,omitempty"`
	TierKey    string    `json:"tier_key,omitempty"`
	Since      time.Time `json:"since,omitzero"`  // when it went to the tier
	Wanted     time.Time `json:"wanted,omitzero"` // until when a local copy was asked for that is not there yet
	// Says is all of it in words.
	Says []string `json:"says"`
}

// TierWork says which versions to move or recall.
type TierWork struct {
	Bucket  string `json:"bucket"`
	Key     string `json:"key,omitempty"`    // this one,
	Prefix  string `json:"prefix,omitempty"` // or with Key "" all that begin with this
	Version string `json:"version_id,omitempty"`
	// Versions: not only the current version of each key.
	Versions bool `json:"versions,omitempty"`
	// Class is where they are to be; STANDARD is here.
	Class string `json:"storage_class,omitempty"`
	// For is how long a local copy is to stay, of a recall; 0 is for good.
	For float64 `json:"for_seconds,omitempty"`
}

// TierItem is a version that was moved or recalled, or could not be; or a bucket or version that could not be made again.
type TierItem struct {
	Bucket    string `json:"bucket"`
	Key       string `json:"key,omitempty"`
	VersionID string `json:"version_id,omitempty"`
	Size      int64  `json:"size,omitempty"`
	Error     string `json:"error,omitempty"`
}

// TierReport is what a move or recall did.
type TierReport struct {
	Objects int64   `json:"objects"` // versions that are where they were to be now
	Bytes   int64   `json:"bytes"`
	Already int64   `json:"already"` // that were there before
	Changed int64   `json:"changed"` // replaced or removed meanwhile, and left alone
	Failed  int64   `json:"failed"`
	Seconds float64 `json:"seconds"`
}

// TierRebuild says from which tier to make a lost site again.
type TierRebuild struct {
	Tier string `json:"tier"`
	From string `json:"from,omitempty"` // id of the lost site
}

// TierRebuilt is what a rebuild made.
type TierRebuilt struct {
	Buckets  int64 `json:"buckets"`
	Versions int64 `json:"versions"`
	Markers  int64 `json:"markers"` // delete markers
	Bytes    int64 `json:"bytes"`   // of the versions, on the tier
	Present  int64 `json:"present"` // buckets and versions that were there already
	Failed   int64 `json:"failed"`
}

// TierLine is one line of an answer: items, now and then what was done so far, and at the end a report.
type TierLine struct {
	Item    *TierItem    `json:"item,omitempty"`
	So      *TierRebuilt `json:"so_far,omitempty"`
	Report  *TierReport  `json:"report,omitempty"`
	Rebuilt *TierRebuilt `json:"rebuilt,omitempty"`
}

// TierSite knows and works on the tiers of a site.
type TierSite interface {
	Tiers(ctx context.Context) (Tiers, error)
	Explain(ctx context.Context, bucket, key, versionID string) (TierExplain, error)
	// Move and Recall call fn for each version that was to be moved.
	Move(ctx context.Context, w TierWork, fn func(TierItem) error) (TierReport, error)
	Recall(ctx context.Context, w TierWork, fn func(TierItem) error) (TierReport, error)
	// Rebuild calls failed for what could not be made, and so with what was done so far.
	Rebuild(ctx context.Context, o TierRebuild, failed func(TierItem) error, so func(TierRebuilt) error) (TierRebuilt, error)
}

// ServeTiers adds the calls on tiers.
func (h *Handler) ServeTiers(t TierSite) {
	h.mux.HandleFunc("GET /admin/v1/tiers", h.api(func(r *http.Request) (any, error) { return t.Tiers(r.Context()) }))
	h.mux.HandleFunc("GET /admin/v1/tiers/explain", h.api(func(r *http.Request) (any, error) {
		q := r.URL.Query()
		return t.Explain(r.Context(), q.Get("bucket"), q.Get("key"), q.Get("version"))
	}))
	work := func(do func(context.Context, TierWork, func(TierItem) error) (TierReport, error)) http.HandlerFunc {
		return h.private(func(w http.ResponseWriter, r *http.Request) {
			var o TierWork
			runLines(w, r, &o, func(line func(any) error) (any, error) {
				rep, err := do(r.Context(), o, func(it TierItem) error { return line(TierLine{Item: &it}) })
				return TierLine{Report: &rep}, err
			})
		})
	}
	h.mux.HandleFunc("POST /admin/v1/tiers/move", work(t.Move))
	h.mux.HandleFunc("POST /admin/v1/tiers/recall", work(t.Recall))
	h.mux.HandleFunc("POST /admin/v1/tiers/rebuild", h.private(func(w http.ResponseWriter, r *http.Request) {
		var o TierRebuild
		runLines(w, r, &o, func(line func(any) error) (any, error) {
			all, err := t.Rebuild(r.Context(), o, func(it TierItem) error { return line(TierLine{Item: &it}) },
				func(so TierRebuilt) error { return line(TierLine{So: &so}) })
			return TierLine{Rebuilt: &all}, err
		})
	}))
}
