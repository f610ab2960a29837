package object

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"firn/object/check"
	"firn/object/listing"
	"firn/object/record"
	"firn/vfs"
)

// check runs a full check and fails on any problem.
func (f *fixture) check() check.Summary {
	f.t.Helper()
	sum, err := f.Check(f.t.Context(), check.Options{Read: true}, func(p check.Problem) error {
		f.t.Errorf("check: %+v", p)
		return nil
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return sum
}

func TestVersioning(t *testing.T) {
	for _, size := range []int{10, InlineMax + 10} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			f := newFixture(t, vfs.NewMem(), Options{})
			f.bucket("bucket", BucketOptions{})
			c := func(n int) string { return big(size + n) }
			n0 := f.put("bucket", "k", c(0))
			f.versioning("bucket", record.VersioningEnabled)
			v1 := f.put("bucket", "k", c(1))
			v2 := f.put("bucket", "k", c(2))
			if n0.ID != "null" || v1.ID == v2.ID || len(v1.ID) != 24 {
				t.Fatalf("ids %q %q %q", n0.ID, v1.ID, v2.ID)
			}
			f.want("bucket", "k", "", c(2))
			f.want("bucket", "k", "null", c(0))
			f.want("bucket", "k", v1.ID, c(1))
			f.want("bucket", "k", v2.ID, c(2))
			m := f.delete("bucket", "k", "")
			if !m.DeleteMarker || m.VersionID == "" || m.VersionID == "null" {
				t.Fatalf("%+v", m)
			}
			f.wantErr("bucket", "k", "", ErrDeleteMarker)
			f.wantErr("bucket", "k", m.VersionID, ErrDeleteMarker)
			if v, err := f.Head(t.Context(), "bucket", "k", ""); !errors.Is(err, ErrDeleteMarker) || v.ID != m.VersionID {
				t.Fatalf("%+v, %v", v, err)
			}
			f.want("bucket", "k", v2.ID, c(2))
			l, err := f.List(t.Context(), "bucket", listing.Options{Limit: 10})
			if err != nil || len(l.Versions) != 0 {
				t.Fatalf("%+v, %v", l, err)
			}
			want := []string{
				fmt.Sprintf("k %s true true 0", m.VersionID), fmt.Sprintf("k %s false false %d", v2.ID, size+2),
				fmt.Sprintf("k %s false false %d", v1.ID, size+1), fmt.Sprintf("k null false false %d", size),
			}
			for limit := 1; limit <= 5; limit++ {
				if got := f.versions("bucket", limit); !slices.Equal(got, want) {
					t.Fatalf("limit %d: %q, want %q", limit, got, want)
				}
			}
			f.check()
			// Suspended: a put replaces the old "null" and goes before the others.
			f.versioning("bucket", record.VersioningSuspended)
			s1 := f.put("bucket", "k", c(3))
			if s1.ID != "null" {
				t.Fatal(s1.ID)
			}
			f.want("bucket", "k", "null", c(3))
			if got := len(f.versions("bucket", 2)); got != 4 {
				t.Fatalf("%d versions", got)
			}
			s2 := f.put("bucket", "k", c(4))
			f.want("bucket", "k", "", c(4))
			if s2.ID != "null" || len(f.versions("bucket", 1)) != 4 {
				t.Fatal("a second null")
			}
			// Enabled again: the "null" version becomes noncurrent and is still found.
			f.versioning("bucket", record.VersioningEnabled)
			v3 := f.put("bucket", "k", c(5))
			f.want("bucket", "k", "null", c(4))
			f.reopen()
			f.check()
			// Deleting the current version promotes the next.
			if r := f.delete("bucket", "k", v3.ID); r.VersionID != v3.ID || r.DeleteMarker {
				t.Fatalf("%+v", r)
			}
			f.want("bucket", "k", "", c(4))
			if got := f.usage("bucket").Objects; got != 1 {
				t.Fatalf("%d objects", got)
			}
			f.delete("bucket", "k", "null")
			f.wantErr("bucket", "k", "", ErrDeleteMarker)
			f.wantErr("bucket", "k", "null", ErrNoSuchVersion)
			if got := f.usage("bucket").Objects; got != 0 {
				t.Fatalf("%d objects", got)
			}
			if r := f.delete("bucket", "k", m.VersionID); !r.DeleteMarker || r.VersionID != m.VersionID {
				t.Fatalf("%+v", r)
			}
			f.want("bucket", "k", "", c(2))
			// A suspended delete lays a "null" marker over the others.
			f.versioning("bucket", record.VersioningSuspended)
			if r := f.delete("bucket", "k", ""); r.VersionID != "null" || !r.DeleteMarker {
				t.Fatalf("%+v", r)
			}
			if r := f.delete("bucket", "k", ""); r.VersionID != "null" || !r.DeleteMarker {
				t.Fatalf("%+v", r)
			}
			if got := len(f.versions("bucket", 3)); got != 3 {
				t.Fatalf("%d versions", got)
			}
			f.delete("bucket", "k", "null")
			f.delete("bucket", "k", v1.ID) // noncurrent
			f.want("bucket", "k", "", c(2))
			f.delete("bucket", "k", v1.ID) // not there: no error
			f.delete("bucket", "k", "bogus")
			f.delete("bucket", "k", v2.ID)
			f.wantErr("bucket", "k", "", ErrNoSuchKey)
			if u := f.usage("bucket"); u != (record.Usage{}) {
				t.Fatalf("%+v", u)
			}
			if _, err := f.Collect(t.Context()); err != nil {
				t.Fatal(err)
			}
			if s := f.check(); s.Blobs != 0 || s.Versions != 0 {
				t.Fatalf("%+v", s)
			}
			if err := f.DeleteBucket(t.Context(), "bucket"); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestDeleteMany(t *testing.T) {
	f := newFixture(t, vfs.NewMem(), Options{})
	f.bucket("plain", BucketOptions{})
	f.bucket("versioned", BucketOptions{})
	f.versioning("versioned", record.VersioningEnabled)
	var items []DeleteItem
	for i := range 600 {
		k := fmt.Sprintf("k%03d", i)
		f.put("plain", k, k)
		f.put("versioned", k, k)
		items = append(items, DeleteItem{Key: k})
	}
	items = append(items, DeleteItem{Key: "k000"}, DeleteItem{Key: "absent"}, DeleteItem{Key: ""})
	for _, b := range []string{"plain", "versioned"} {
		res, err := f.DeleteMany(t.Context(), b, items)
		if err != nil || len(res) != len(items) {
			t.Fatal(len(res), err)
		}
		for i, r := range res {
			if i == len(items)-1 {
				if !errors.Is(r.Err, ErrInvalidKey) {
					t.Fatalf("%+v", r)
				}
				continue
			}
			if r.Err != nil || r.DeleteMarker != (b == "versioned") || (r.VersionID != "") != (b == "versioned") {
				t.Fatalf("%s item %d: %+v", b, i, r)
			}
		}
		l, err := f.List(t.Context(), b, listing.Options{Limit: 1000})
		if err != nil || len(l.Versions) != 0 {
			t.Fatal(len(l.Versions), err)
		}
	}
	if got := f.usage("versioned"); got.Objects != 0 || got.Versions != 1202 {
		t.Fatalf("%+v", got)
	}
	// All versions of the versioned bucket, markers first, in one call with keys named several times.
	var all []DeleteItem
	for _, v := range f.versions("versioned", 1000) {
		p := strings.Fields(v)
		all = append(all, DeleteItem{Key: p[0], VersionID: p[1]})
	}
	if _, err := f.DeleteMany(t.Context(), "versioned", all); err != nil {
		t.Fatal(err)
	}
	if got := f.usage("versioned"); got != (record.Usage{}) {
		t.Fatalf("%+v", got)
	}
	f.check()
}

func TestObjectLock(t *testing.T) {
	f := newFixture(t, vfs.NewMem(), Options{})
	ctx := t.Context()
	f.bucket("plain", BucketOptions{})
	f.bucket("locked", BucketOptions{ObjectLock: true})
	now := f.now.now()
	in := func(d time.Duration) record.Retention {
		return record.Retention{Mode: record.RetentionGovernance, Until: now.Add(d)}
	}
	if _, err := f.Put(ctx, "plain", "k", nil, PutOptions{LegalHold: true}); !errors.Is(err, ErrLockConfig) {
		t.Fatal(err)
	}
	put := func(r record.Retention, hold bool) *record.Version {
		t.Helper()
		v, err := f.Put(ctx, "locked", "k", strings.NewReader("x"), PutOptions{Size: 1, Retention: r, LegalHold: hold})
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	del := func(v *record.Version, bypass bool) error {
		_, err := f.Delete(ctx, "locked", "k", v.ID, DeleteOptions{BypassGovernance: bypass})
		return err
	}
	change := func(v *record.Version, bypass bool, r record.Retention) error {
		_, err := f.UpdateVersion(ctx, "locked", "k", v.ID, bypass, func(v *record.Version) error { v.Retention = r; return nil })
		return err
	}
	compliance := func(d time.Duration) record.Retention {
		return record.Retention{Mode: record.RetentionCompliance, Until: now.Add(d)}
	}
	gov, comp, hold := put(in(time.Hour), false), put(compliance(time.Hour), false), put(record.Retention{}, true)
	tests := []struct {
		name string
		got  error
		want error
	}{
		{"governance", del(gov, false), ErrLocked},
		{"compliance", del(comp, false), ErrLocked},
		{"compliance, bypass", del(comp, true), ErrLocked},
		{"hold, bypass", del(hold, true), ErrLocked},
		{"longer governance", change(gov, false, in(2*time.Hour)), nil},
		{"shorter governance", change(gov, false, in(time.Hour)), ErrLocked},
		{"no governance", change(gov, false, record.Retention{}), ErrLocked},
		{"governance to compliance", change(gov, false, compliance(3*time.Hour)), ErrLocked},
		{"shorter governance, bypass", change(gov, true, in(time.Hour)), nil},
		{"longer compliance", change(comp, false, compliance(2*time.Hour)), nil},
		{"shorter compliance, bypass", change(comp, true, compliance(time.Hour)), ErrLocked},
		{"compliance to governance, bypass", change(comp, true, in(3*time.Hour)), ErrLocked},
	}
	for _, tt := range tests {
		if !errors.Is(tt.got, tt.want) || tt.want == nil && tt.got != nil {
			t.Errorf("%s: %v, want %v", tt.name, tt.got, tt.want)
		}
	}
	res, err := f.DeleteMany(ctx, "locked", []DeleteItem{{Key: "k", VersionID: comp.ID}, {Key: "k"}})
	if err != nil || !errors.Is(res[0].Err, ErrLocked) || !res[1].DeleteMarker {
		t.Fatalf("%+v, %v", res, err)
	}
	if err := del(gov, true); err != nil {
		t.Fatal(err)
	}
	f.reopen()
	if err := del(comp, true); !errors.Is(err, ErrLocked) {
		t.Fatal(err)
	}
	f.now.advance(2*time.Hour + time.Second)
	if err := del(comp, false); err != nil {
		t.Fatal(err)
	}
	if err := del(hold, true); !errors.Is(err, ErrLocked) {
		t.Fatal(err)
	}
	if _, err := f.UpdateVersion(ctx, "locked", "k", hold.ID, false, func(v *record.Version) error { v.LegalHold = false; return nil }); err != nil {
		t.Fatal(err)
	}
	if err := del(hold, false); err != nil {
		t.Fatal(err)
	}
	// Default retention.
	if _, err := f.UpdateBucket(ctx, "locked", func(b *record.Bucket) error {
		b.Retention = record.DefaultRetention{Mode: record.RetentionCompliance, Days: 3}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	v := put(record.Retention{}, false)
	if v.Retention.Mode != record.RetentionCompliance || !v.Retention.Until.Equal(v.Modified.AddDate(0, 0, 3)) {
		t.Fatalf("%+v", v.Retention)
	}
	if err := del(v, true); !errors.Is(err, ErrLocked) {
		t.Fatal(err)
	}
	f.check()
}

func TestUpdateVersion(t *testing.T) {
	f := newFixture(t, vfs.NewMem(), Options{})
	f.bucket("bucket", BucketOptions{})
	f.put("bucket", "k", "content")
	v, err := f.UpdateVersion(t.Context(), "bucket", "k", "", false, func(v *record.Version) error {
		v.Tags = []record.Field{{Name: "a", Value: "1"}}
		v.ACL = []byte("doc")
		v.Size, v.ETag = 99, "no"
		return nil
	})
	if err != nil || v.Size != 7 || v.ETag != etag("content") || len(v.Tags) != 1 || string(v.ACL) != "doc" {
		t.Fatalf("%+v, %v", v, err)
	}
	f.want("bucket", "k", "", "content")
	if _, err := f.UpdateVersion(t.Context(), "bucket", "k", "", false, func(v *record.Version) error { v.LegalHold = true; return nil }); !errors.Is(err, ErrLockConfig) {
		t.Fatal(err)
	}
	if _, err := f.UpdateVersion(t.Context(), "bucket", "no", "", false, func(*record.Version) error { return nil }); !errors.Is(err, ErrNoSuchKey) {
		t.Fatal(err)
	}
	f.check()
}
