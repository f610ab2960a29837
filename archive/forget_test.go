package archive_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"firn"
	"firn/archive"
	"firn/repo"
)

func TestPlanForget(t *testing.T) {
	at := func(s string) time.Time {
		v, err := time.Parse("2006-01-02 15:04", s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	now := at("2026-01-06 11:00")
	var snaps []repo.Snapshot
	for i, s := range []string{
		"2024-12-31 10:00", "2025-06-01 10:00", "2025-12-30 09:00", "2026-01-01 08:00", "2026-01-01 20:00", "2026-01-05 10:00",
		"2026-01-05 10:30", "2026-01-06 11:00",
	} {
		snaps = append(snaps, repo.Snapshot{ID: repo.ID{byte(i + 1)}, Time: at(s), Host: "h", Paths: []string{"/p"}})
	}
	snaps[1].Tags = []string{"keep"}
	for _, c := range []struct {
		policy archive.Policy
		want   string // numbers of those kept, the newest first
	}{
		{archive.Policy{Last: 1}, "8"},
		{archive.Policy{Last: 3}, "8 7 6"},
		{archive.Policy{Last: 100}, "8 7 6 5 4 3 2 1"},
		{archive.Policy{Hourly: 2}, "8 7"},
		{archive.Policy{Daily: 3}, "8 7 5"},
		{archive.Policy{Weekly: 2}, "8 5"},
		{archive.Policy{Weekly: 3}, "8 5 2"}, // 2025-12-30 and 2026-01-01 are in the same ISO week
		{archive.Policy{Monthly: 2}, "8 3"},
		{archive.Policy{Yearly: 3}, "8 3 1"},
		{archive.Policy{Within: 36 * time.Hour}, "8 7 6"},
		{archive.Policy{Tags: []string{"keep"}}, "8 2"}, // the newest stays in any case
		{archive.Policy{Daily: 2, Yearly: 2}, "8 7 3"},
	} {
		groups, err := archive.PlanForget(snaps, c.policy, archive.DefaultGroup(), now)
		if err != nil || len(groups) != 1 || len(groups[0].Decisions) != len(snaps) {
			t.Fatalf("%+v: %d groups, %v", c.policy, len(groups), err)
		}
		var kept []string
		for _, d := range groups[0].Decisions {
			if d.Keep {
				kept = append(kept, fmt.Sprint(d.Snapshot.ID[0]))
			}
			if d.Keep != (len(d.Reasons) > 0) {
				t.Errorf("%+v: kept %v for %v", c.policy, d.Keep, d.Reasons)
			}
		}
		if got := strings.Join(kept, " "); got != c.want {
			t.Errorf("%+v: kept %s, want %s", c.policy, got, c.want)
		}
	}
	if _, err := archive.PlanForget(snaps, archive.Policy{}, archive.DefaultGroup(), now); firn.KindOf(err) != firn.Invalid {
		t.Errorf("without a rule: %v", err)
	}
	// Groups do not take each other's places.
	snaps[0].Host, snaps[2].Paths = "other", []string{"/q"}
	groups, err := archive.PlanForget(snaps, archive.Policy{Last: 1}, archive.DefaultGroup(), now)
	if err != nil || len(groups) != 3 {
		t.Errorf("%d groups, %v", len(groups), err)
	}
	if groups, err = archive.PlanForget(snaps, archive.Policy{Last: 1}, archive.GroupBy{}, now); err != nil || len(groups) != 1 {
		t.Errorf("%d groups without grouping, %v", len(groups), err)
	}
}
