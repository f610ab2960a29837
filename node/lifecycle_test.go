package node

import (
	"bytes"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"firn/adminapi"
	"firn/config"
	"firn/lifecycle/usekv"
	"firn/object/record"
)

// getRange reads an object, or a range of it.
func (s *site) getRange(t *testing.T, key string, from, to int64) string {
	t.Helper()
	var o minio.GetObjectOptions
	if to > 0 {
		if err := o.SetRange(from, to); err != nil {
			t.Fatal(err)
		}
	}
	r, err := s.client(t).GetObject(t.Context(), bucket, key, o)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func (s *site) class(t *testing.T, key string) string {
	t.Helper()
	v, err := s.engine.store.Head(t.Context(), bucket, key, "")
	if err != nil {
		t.Fatal(err)
	}
	return v.StorageClass
}

func (s *site) runRules(t *testing.T) adminapi.LifecycleReport {
	t.Helper()
	rep, err := lifecycleView{s.lifecycle}.Run(t.Context(), adminapi.LifecycleRun{}, func(adminapi.LifecycleItem) error { return nil })
	if err != nil || rep.Failed != 0 {
		t.Fatalf("%+v, %v", rep, err)
	}
	return rep
}

func (s *site) explain(t *testing.T, key string) string {
	t.Helper()
	it, err := lifecycleView{s.lifecycle}.Explain(t.Context(), bucket, key, "", time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	return it.Reason
}

// TestTemperature: what is configured by temperature is carried out, reads over S3 count, also over a restart, and bring
// back what is read repeatedly.
func TestTemperature(t *testing.T) {
	dir := t.TempDir()
	cfg := tiered(t, dir)
	makePlace(t, "file:"+filepath.Join(dir, "nas"))
	rule := config.DefaultTemperature()
	rule.Name, rule.Bucket, rule.Cold = "all", bucket, "cold"
	rule.HotAge, rule.MinStay, rule.MinSize = 0, 0, 2
	pinned := rule
	pinned.Name, pinned.Prefix, pinned.Pin = "index", "index/", "hot"
	cfg.Temperature = []config.Temperature{rule, pinned}
	s := start(t, cfg, Options{})
	if err := s.client(t).MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"a", "b", "index/a"} {
		s.put(t, key, "content of "+key)
	}
	s.put(t, "small", "x")
	rep := s.runRules(t)
	if len(rep.Counts) != 1 || rep.Counts[0].Rule != "all" || rep.Counts[0].Objects != 2 || rep.Counts[0].Action != "move" {
		t.Errorf("%+v", rep)
	}
	for key, want := range map[string]string{"a": "COLD", "b": "COLD", "index/a": "", "small": ""} {
		if got := s.class(t, key); got != want {
			t.Errorf("%s: class %q, want %q", key, got, want)
		}
	}
	if why := s.explain(t, "index/a"); !strings.Contains(why, `temperature rule "index": stays: pinned to hot`) {
		t.Error(why)
	}
	if why := s.explain(t, "small"); !strings.Contains(why, "smaller than 2 bytes") {
		t.Error(why)
	}
	for range 2 {
		if got := s.getRange(t, "a", 0, 0); got != "content of a" {
			t.Errorf("%q", got)
		}
	}
	for range 5 { // later parts are no further reads
		if got := s.getRange(t, "b", 3, 6); got != "tent" {
			t.Errorf("%q", got)
		}
	}
	if rep := s.runRules(t); len(rep.Counts) != 0 {
		t.Errorf("%+v", rep)
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	s = start(t, cfg, Options{})
	s.getRange(t, "a", 0, 0)
	if why := s.explain(t, "a"); !strings.Contains(why, "bring back from COLD: up to warm: read 0 min ago") || !strings.Contains(why, "3 reads within 2 days") {
		t.Error(why)
	}
	if why := s.explain(t, "b"); !strings.Contains(why, "0 reads within 2 days") {
		t.Error(why)
	}
	if rep := s.runRules(t); len(rep.Counts) != 1 || rep.Counts[0].Action != "bring back" || rep.Counts[0].Bytes != int64(len("content of a")) {
		t.Errorf("%+v", rep)
	}
	if s.class(t, "a") != "" || s.class(t, "b") != "COLD" || s.getRange(t, "a", 0, 0) != "content of a" {
		t.Error("what was read three times did not come back")
	}

	// Reads that no rule needs any more are forgotten at the next start.
	id := s.bucketID(t)
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	cfg.Temperature = nil
	s = start(t, cfg, Options{})
	if err := s.lifecycle.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if uses, err := usekv.New(s.engine.db).Range(t.Context(), id, "", "\xff"); err != nil || len(uses) != 0 {
		t.Errorf("%v, %v", uses, err)
	}
}

func (s *site) bucketID(t *testing.T) uint64 {
	t.Helper()
	list, err := s.engine.store.Buckets(t.Context())
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	return list[0].ID
}

// TestRoom: from 85 % on the longest unused objects go to the overflow tier until 75 % would be reached, and no further.
func TestRoom(t *testing.T) {
	dir := t.TempDir()
	cfg := tiered(t, dir)
	makePlace(t, "file:"+filepath.Join(dir, "nas"))
	cfg.Lifecycle.Overflow = "cold"
	s := start(t, cfg, Options{})
	if err := s.client(t).MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	const size = 100_000
	for _, key := range []string{"1", "2", "3", "4"} {
		s.put(t, key, strings.Repeat(key, size))
	}
	// Now 2 is the one that was not used for the longest time. Times of reads are kept to the second.
	v, err := s.engine.store.Head(t.Context(), bucket, "1", "")
	if err != nil {
		t.Fatal(err)
	}
	s.lifecycle.reads.Read(usekv.ID(s.bucketID(t), "1", record.MakeOrder(v.Clock, v.Site)), 1, time.Now().Add(time.Minute))
	if err := s.lifecycle.reads.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	used := int64(84 * size / 10)
	s.lifecycle.space = func() (int64, int64, error) { return used, 10 * size, nil }
	step := func(relieving, still, moved bool, want string) {
		t.Helper()
		a, b := s.lifecycle.makeRoom(t.Context(), relieving)
		var got bytes.Buffer
		for _, key := range []string{"1", "2", "3", "4"} {
			if s.class(t, key) == "COLD" {
				got.WriteString(key)
			}
		}
		if a != still || b != moved || got.String() != want {
			t.Errorf("at %d: still %v, moved %v, gone %q; want %v, %v, %q", used, a, b, got.String(), still, moved, want)
		}
	}
	step(false, false, false, "")
	used = 85 * size / 10
	step(false, true, true, "2")
	used = 76 * size / 10
	step(true, true, true, "23")
	used = 75 * size / 10
	step(true, false, false, "23")
	used = 84 * size / 10
	step(false, false, false, "23")
	used = 99 * size / 10
	step(false, true, true, "1234")
	if s.lifecycle.missing == 0 {
		t.Error("what is missing is not told")
	}
	step(true, true, false, "1234")
	for _, key := range []string{"1", "2"} {
		if s.getRange(t, key, 0, 0) != strings.Repeat(key, size) {
			t.Errorf("%s reads wrong", key)
		}
	}
	if used, capacity, err := diskSpace(cfg.Data); err != nil || used <= 0 || capacity <= used {
		t.Errorf("%d of %d, %v", used, capacity, err)
	}
}
