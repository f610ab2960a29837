package archive_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"firn/archive"
	"firn/repo"
)

// What is made while a clock is wrong neither hides nor displaces what is made before and after.
func TestForgetWithWrongClocks(t *testing.T) {
	noon := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	snap := func(id byte, parent byte, at time.Time) repo.Snapshot {
		s := repo.Snapshot{ID: repo.ID{id}, Time: at, Host: "h", Paths: []string{"/p"}}
		if parent != 0 {
			s.Parent = repo.ID{parent}
		}
		return s
	}
	day := func(n int) time.Time { return noon.AddDate(0, 0, n) }
	for _, c := range []struct {
		name   string
		snaps  []repo.Snapshot
		policy archive.Policy
		now    time.Time
		want   string // kept, the newest time first
		future int
	}{
		{
			"one from the year 2099 counts for nothing",
			[]repo.Snapshot{snap(1, 0, day(-2)), snap(2, 1, noon.AddDate(73, 0, 0)), snap(3, 2, day(-1)), snap(4, 3, noon)},
			archive.Policy{Last: 2},
			noon, "2 4 3", 1,
		},
		{
			"nor for how old others are",
			[]repo.Snapshot{snap(1, 0, day(-2)), snap(2, 1, noon.AddDate(73, 0, 0)), snap(3, 2, day(-1)), snap(4, 3, noon)},
			archive.Policy{Within: 36 * time.Hour},
			noon, "2 4 3", 1,
		},
		{
			"nor as a day",
			[]repo.Snapshot{snap(1, 0, day(-2)), snap(2, 1, day(1)), snap(3, 2, day(-1)), snap(4, 3, noon)},
			archive.Policy{Daily: 2},
			noon, "2 4 3", 1,
		},
		{
			"a clock that was an hour ahead and went back",
			[]repo.Snapshot{snap(1, 0, noon.Add(time.Hour)), snap(2, 1, noon.Add(10*time.Minute))},
			archive.Policy{Last: 1},
			noon.Add(61 * time.Minute), "1 2", 0,
		},
		{
			"seconds between machines are nobody's concern",
			[]repo.Snapshot{snap(1, 0, noon), snap(2, 1, noon.Add(30*time.Second))},
			archive.Policy{Last: 1},
			noon, "2", 0,
		},
		{
			"a machine without a clock removes nothing",
			[]repo.Snapshot{snap(1, 0, day(-2)), snap(2, 1, day(-1)), snap(3, 2, noon)},
			archive.Policy{Last: 1},
			time.Unix(1000, 0), "3 2 1", 3,
		},
		{
			"one ahead by years removes what it would without",
			[]repo.Snapshot{snap(1, 0, day(-2)), snap(2, 1, day(-1)), snap(3, 2, noon)},
			archive.Policy{Within: 30 * time.Hour},
			noon.AddDate(9, 0, 0), "3 2", 0,
		},
		{
			"parents that go round in a circle",
			[]repo.Snapshot{snap(1, 2, day(-1)), snap(2, 1, noon)},
			archive.Policy{Last: 1},
			noon, "2", 0,
		},
	} {
		groups, err := archive.PlanForget(c.snaps, c.policy, archive.DefaultGroup(), c.now)
		if err != nil || len(groups) != 1 {
			t.Fatalf("%s: %d groups, %v", c.name, len(groups), err)
		}
		var kept []string
		for _, d := range groups[0].Decisions {
			if d.Keep {
				kept = append(kept, string('0'+d.Snapshot.ID[0]))
			}
			if d.Keep != (len(d.Reasons) > 0) {
				t.Errorf("%s: kept %v for %v", c.name, d.Keep, d.Reasons)
			}
		}
		if got := strings.Join(kept, " "); got != c.want || groups[0].Future != c.future {
			t.Errorf("%s: kept %s, want %s; %d from the future", c.name, got, c.want, groups[0].Future)
		}
	}
}

// The latest snapshot, and the one a backup goes on from, is the one made last, whatever clocks said.
func TestLatestWithWrongClocks(t *testing.T) {
	ctx := t.Context()
	r := newRepo(t)
	dir := t.TempDir()
	var made []repo.Snapshot
	backup := func(content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "a"), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		res, err := archive.Backup(ctx, r, archive.BackupOptions{Paths: []string{dir}, Host: "h"})
		if err != nil {
			t.Fatal(err)
		}
		if len(made) > 0 && res.Snapshot.Parent != made[len(made)-1].ID {
			t.Errorf("snapshot %d goes on from %s", len(made), res.Snapshot.Parent.Short())
		}
		s, _, err := archive.Locate(ctx, r, "latest", archive.Filter{Host: "h"})
		if err != nil || s.ID != res.Snapshot.ID {
			t.Errorf("after snapshot %d the latest is another: %v", len(made), err)
		}
		made = append(made, res.Snapshot)
	}
	clock := func(by time.Duration) {
		t.Helper()
		last := &made[len(made)-1]
		if _, err := r.Tag(ctx, last.ID, func(s *repo.Snapshot) { s.Time = s.Time.Add(by) }); err != nil {
			t.Fatal(err)
		}
	}
	backup("1")
	clock(time.Hour)
	backup("2")
	clock(20 * 365 * 24 * time.Hour)
	backup("3")
	clock(-time.Hour)
	backup("4")
	backup("5")
}
