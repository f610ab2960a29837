package adminapi

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// Status describes a running site. Sizes are bytes.
type Status struct {
	Version       string         `json:"version"`
	Started       time.Time      `json:"started"`
	UptimeSeconds float64        `json:"uptime_seconds"`
	PID           int            `json:"pid"`
	Data          string         `json:"data"`
	Listen        string         `json:"listen"`
	Region        string         `json:"region"`
	Durability    string         `json:"durability"`
	Ready         bool           `json:"ready"`
	NotReady      string         `json:"not_ready,omitempty"` // why, where Ready is false
	Disk          Disk           `json:"disk"`
	Memory        ProcessMemory  `json:"memory"`
	Journal       JournalStatus  `json:"journal"`
	Scrub         ScrubStatus    `json:"scrub"`
	Tiers         []string       `json:"tiers,omitempty"` // what stands against the use of tiers, one line each
	Buckets       []BucketStatus `json:"buckets"`
}

// Disk is the file system of the data directory.
type Disk struct {
	Total   uint64 `json:"total"`
	Free    uint64 `json:"free"` // for an ordinary user
	Reserve int64  `json:"reserve"`
}

// ProcessMemory is what the process holds.
type ProcessMemory struct {
	Limit    int64  `json:"limit"`
	Resident uint64 `json:"resident"` // 0 where the system does not tell
}

// JournalStatus is the range of entries kept.
type JournalStatus struct {
	First uint64 `json:"first"`
	Last  uint64 `json:"last"` // First-1 where the journal is empty
}

// ScrubStatus is what the scrubber did since the start.
type ScrubStatus struct {
	Rate    int64 `json:"rate"` // bytes a second; 0 is off
	Rounds  int64 `json:"rounds"`
	Items   int64 `json:"items"`
	Bytes   int64 `json:"bytes"`
	Corrupt int64 `json:"corrupt"` // found by the scrubber and by reads
}

// BucketStatus counts one bucket.
type BucketStatus struct {
	Name       string    `json:"name"`
	Created    time.Time `json:"created"`
	Objects    int64     `json:"objects"`
	Versions   int64     `json:"versions"`
	Bytes      int64     `json:"bytes"`
	Versioning string    `json:"versioning"`
}

// JournalEntry is one change of the namespace.
type JournalEntry struct {
	Seq       uint64    `json:"seq"`
	Time      time.Time `json:"time"`
	Op        string    `json:"op"`
	Bucket    string    `json:"bucket"`
	Key       string    `json:"key,omitempty"`
	VersionID string    `json:"version_id,omitempty"`
	Size      int64     `json:"size,omitempty"`
	ETag      string    `json:"etag,omitempty"`
	Site      uint32    `json:"site"`
}

// CheckOptions say how deep a check goes.
type CheckOptions struct {
	Read   bool `json:"read"`   // read back every byte and compare it with its checksum
	Tiers  bool `json:"tiers"`  // ask tiers whether they have what versions say
	Repair bool `json:"repair"` // put right what can be put right without losing anything
}

// Problem is one thing a check found. Kinds are those of check.Problem in object/check.
type Problem struct {
	Kind      string `json:"kind"`
	Bucket    string `json:"bucket,omitempty"`
	Key       string `json:"key,omitempty"`
	VersionID string `json:"version_id,omitempty"`
	Blob      string `json:"blob,omitempty"`
	Detail    string `json:"detail"`
	Repaired  bool   `json:"repaired,omitempty"`
}

// CheckSummary ends a check.
type CheckSummary struct {
	Buckets   int64 `json:"buckets"`
	Versions  int64 `json:"versions"`
	Uploads   int64 `json:"uploads"`
	Blobs     int64 `json:"blobs"`
	TierBlobs int64 `json:"tier_blobs"` // on tiers, that versions use
	Bytes     int64 `json:"bytes"`      // read back
	Problems  int64 `json:"problems"`
	Repaired  int64 `json:"repaired"`
}

// CheckLine is one line of a check's answer: problems, then one summary.
type CheckLine struct {
	Problem *Problem      `json:"problem,omitempty"`
	Summary *CheckSummary `json:"summary,omitempty"`
	Error   *ErrorBody    `json:"error,omitempty"`
}

func (h *Handler) status(r *http.Request) (any, error) {
	s, err := h.site.Status(r.Context())
	if err != nil {
		return nil, err
	}
	if err := h.site.Ready(); err != nil {
		s.NotReady = err.Error()
	} else {
		s.Ready = true
	}
	return s, nil
}

// journal streams entries: ?from=N (0: the oldest kept), ?follow=true.
func (h *Handler) journal(w http.ResponseWriter, r *http.Request) {
	out := newStream(w)
	from, err := queryUint(r, "from", 0)
	if err != nil {
		out.fail(err)
		return
	}
	follow := r.URL.Query().Get("follow") == "true"
	if follow {
		// The header goes out now, so that a follower of a quiet site knows it is connected.
		out.begin()
		out.rest()
		_ = out.rc.Flush()
	}
	err = h.site.Journal(r.Context(), from, follow, func(e JournalEntry) error {
		if err := out.send(e); err != nil || !follow {
			return err
		}
		if err := out.rc.Flush(); err != nil {
			return err
		}
		out.rest()
		return nil
	})
	if err != nil && !errors.Is(err, context.Canceled) {
		out.fail(err)
		return
	}
	out.begin()
}

// check streams CheckLines.
func (h *Handler) check(w http.ResponseWriter, r *http.Request) {
	var o CheckOptions
	runLines(w, r, &o, func(line func(any) error) (any, error) {
		sum, err := h.site.Check(r.Context(), o, func(p Problem) error { return line(CheckLine{Problem: &p}) })
		return CheckLine{Summary: &sum}, err
	})
}

// runLines answers with the lines that run gives while it works, then the one it returns, or one {"error": ...}. The
// request's document is read into o first.
func runLines(w http.ResponseWriter, r *http.Request, o any, run func(line func(any) error) (last any, err error)) {
	r.Body = http.MaxBytesReader(w, r.Body, MaxBody)
	if err := decode(r, o); err != nil {
		writeError(w, err, 0)
		return
	}
	out := newStream(w)
	out.begin()
	out.rest()
	_ = out.rc.Flush()
	last, err := run(func(v any) error {
		if err := out.send(v); err != nil {
			return err
		}
		_ = out.rc.Flush()
		out.rest()
		return nil
	})
	if err != nil {
		out.fail(err)
		return
	}
	_ = out.send(last)
}
