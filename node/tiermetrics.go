package node

import (
	"context"
	"time"

	"firn/adminapi"
	"firn/telemetry"
)

// registerTiers adds the metrics of the tiers, where there are any.
func (n *Node) registerTiers() error {
	if len(n.cfg.Tiers) == 0 {
		return nil
	}
	stamp := func(t time.Time) float64 {
		if t.IsZero() {
			return 0
		}
		return float64(t.Unix())
	}
	var descs []telemetry.Desc
	var values []func(t *adminapi.Tier) float64
	add := func(kind telemetry.Kind, name, help string, value func(t *adminapi.Tier) float64) {
		descs = append(descs, telemetry.Desc{Name: "firn_tier_" + name, Help: help + ", by tier.", Kind: kind, Label: "tier"})
		values = append(values, value)
	}
	count := func(n func(t *adminapi.Tier) int64) func(t *adminapi.Tier) float64 {
		return func(t *adminapi.Tier) float64 { return float64(n(t)) }
	}
	add(telemetry.Gauge, "versions", "Versions of the tier's storage class", count(func(t *adminapi.Tier) int64 { return t.Versions }))
	add(telemetry.Gauge, "bytes", "Bytes of those", count(func(t *adminapi.Tier) int64 { return t.Bytes }))
	add(telemetry.Gauge, "ready", "1 once the tier was found to be this site's", func(t *adminapi.Tier) float64 {
		if t.Ready {
			return 1
		}
		return 0
	})
	add(telemetry.Gauge, "away_since_timestamp_seconds", "Since when it does not answer; 0 where it does",
		func(t *adminapi.Tier) float64 { return stamp(t.AwaySince) })
	for _, w := range []struct {
		name, what string
		of         func(t *adminapi.Tier) *adminapi.Backlog
	}{
		{"moves", "moved to it", func(t *adminapi.Tier) *adminapi.Backlog { return &t.Moves }},
		{"recalls", "recalled from it", func(t *adminapi.Tier) *adminapi.Backlog { return &t.Recalls }},
	} {
		add(telemetry.Gauge, w.name+"_waiting", "Versions to be "+w.what, count(func(t *adminapi.Tier) int64 { return w.of(t).Objects }))
		add(telemetry.Gauge, w.name+"_waiting_bytes", "Bytes to be "+w.what, count(func(t *adminapi.Tier) int64 { return w.of(t).Bytes }))
		add(telemetry.Gauge, w.name+"_waiting_oldest_timestamp_seconds", "Since when the oldest of those waits; 0 where none does",
			func(t *adminapi.Tier) float64 { return stamp(w.of(t).Oldest) })
	}
	add(telemetry.Gauge, "begun", "Copies of large versions to it that are under way or were cut off", count(func(t *adminapi.Tier) int64 { return t.Begun.Objects }))
	add(telemetry.Gauge, "garbage_waiting", "Blobs to be removed from it; of all tiers together a million at most", count(func(t *adminapi.Tier) int64 { return t.Garbage.Objects }))
	add(telemetry.Gauge, "garbage_waiting_oldest_timestamp_seconds", "Since when the oldest of those is not needed; 0 where there is none",
		func(t *adminapi.Tier) float64 { return stamp(t.Garbage.Oldest) })
	add(telemetry.Gauge, "journal_behind", "Entries of the journal that its catalogue does not tell of yet", func(t *adminapi.Tier) float64 { return float64(t.Journal) })
	add(telemetry.Counter, "moved_total", "Versions moved to it", count(func(t *adminapi.Tier) int64 { return t.Moved }))
	add(telemetry.Counter, "moved_bytes_total", "Bytes of those", count(func(t *adminapi.Tier) int64 { return t.MovedBytes }))
	add(telemetry.Counter, "resumed_bytes_total", "Bytes that were there already when a copy that was cut off went on",
		count(func(t *adminapi.Tier) int64 { return t.ResumedBytes }))
	add(telemetry.Counter, "recalled_total", "Versions recalled from it", count(func(t *adminapi.Tier) int64 { return t.Recalled }))
	add(telemetry.Counter, "recalled_bytes_total", "Bytes of those", count(func(t *adminapi.Tier) int64 { return t.RecalledBytes }))
	add(telemetry.Counter, "removed_total", "Blobs removed from it", count(func(t *adminapi.Tier) int64 { return t.Removed }))
	add(telemetry.Counter, "errors_total", "Calls that failed", count(func(t *adminapi.Tier) int64 { return t.Errors }))
	return n.metrics.Collect(func() [][]telemetry.Sample {
		all, err := tierView{n.tiers}.Tiers(context.Background())
		if err != nil {
			return nil
		}
		out := make([][]telemetry.Sample, len(values))
		for _, t := range all.Tiers {
			for i, value := range values {
				out[i] = append(out[i], telemetry.Sample{Label: t.Name, Value: value(&t)})
			}
		}
		return out
	}, descs...)
}
