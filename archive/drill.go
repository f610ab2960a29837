package archive

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"

	"firn/archive/tree"
	"firn/repo"
)

// DrillOptions say what a restore drill restores.
type DrillOptions struct {
	// Sample is the part of the files, by number, that is restored: 1 is all. Some 20 files are in any case.
	Sample float64
	// Seed chooses the sample; the report names it, so that a drill can be repeated.
	Seed uint64
	// Dir is where a scratch directory is made, and removed; "" is the system's place for temporary files.
	Dir      string
	Report   func(Event)
	Progress *Progress
}

// DrillReport is the evidence of a restore drill.
type DrillReport struct {
	Repository string         `json:"repository"`
	Snapshot   string         `json:"snapshot"`
	Taken      time.Time      `json:"snapshot_time"`
	Host       string         `json:"host"`
	Paths      []string       `json:"paths"`
	Begun      time.Time      `json:"begun"`
	Ended      time.Time      `json:"ended"`
	Sample     float64        `json:"sample"`
	Seed       uint64         `json:"seed"`
	Total      int64          `json:"total_files"`
	Result     RestoreSummary `json:"result"`
	Failures   []DrillFailure `json:"failures"`
	Passed     bool           `json:"passed"`
}

// DrillFailure is a file that did not come back as it was.
type DrillFailure struct {
	Path  string `json:"path"`
	Error string `json:"error"`
}

// maxFailures bounds how many failures a report names.
const maxFailures = 1000

// Drill restores a snapshot, or a sample of its files, to a scratch directory as a real restore would, reads it back
// from the disk and compares it with the hashes in the snapshot. The scratch directory is removed. The error says why
// the drill could not be carried out; a failed one is a report that did not pass.
func Drill(ctx context.Context, r *repo.Repo, snap repo.Snapshot, o DrillOptions) (rep DrillReport, err error) {
	if o.Seed == 0 {
		o.Seed = rand.Uint64()
	}
	rep = DrillReport{
		Repository: r.ID().String(), Snapshot: snap.ID.String(), Taken: snap.Time, Host: snap.Host, Paths: snap.Paths,
		Begun: time.Now(), Sample: o.Sample, Seed: o.Seed, Failures: []DrillFailure{},
	}
	dir, err := os.MkdirTemp(o.Dir, "firn-drill-")
	if err != nil {
		return rep, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	rep.Total = snap.Summary["files"]
	if rep.Total > 0 {
		o.Sample = max(o.Sample, min(1, fewest/float64(rep.Total)))
	}
	var mu sync.Mutex // of rep, in reports
	ro := RestoreOptions{
		Target: filepath.Join(dir, "restored"), Verify: true, NoOwner: os.Geteuid() != 0, Progress: o.Progress,
		Report: func(e Event) {
			if o.Report != nil {
				o.Report(e)
			}
			if e.What != EventUnreadable {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if len(rep.Failures) < maxFailures {
				rep.Failures = append(rep.Failures, DrillFailure{e.Path, fmt.Sprint(e.Err)})
			}
		},
	}
	ro.choose = func(n *tree.Node) bool {
		// By the path's hash, so that the choice is the same each time and the seed repeats it.
		in := o.Sample >= 1 || float64(xxhash.Sum64String(fmt.Sprint(o.Seed, n.Path)))/(1<<64) < o.Sample
		return in && n.Err == "" && (n.Type != tree.Dir || o.Sample >= 1)
	}
	rep.Result, err = Restore(ctx, r, snap, ro)
	rep.Ended = time.Now()
	rep.Passed = err == nil && rep.Result.Failed == 0 && (rep.Result.Files > 0 || rep.Total == 0)
	return rep, err
}

// fewest is how many files a sample has on average at least.
const fewest = 20
