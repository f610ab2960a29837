package object

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"firn"
	"firn/object/blobs"
	"firn/object/record"
	"firn/vfs"
)

// model is the simplest thing that behaves as a bucket should.
type model struct {
	versioning record.Versioning
	keys       map[string][]modelVersion // newest last
}

type modelVersion struct {
	id      string
	marker  bool
	content string
}

func (m *model) null(key string) int {
	return slices.IndexFunc(m.keys[key], func(v modelVersion) bool { return v.id == "null" })
}

func (m *model) add(key string, v modelVersion) {
	if m.versioning != record.VersioningEnabled {
		v.id = "null"
		if i := m.null(key); i >= 0 {
			m.keys[key] = slices.Delete(m.keys[key], i, i+1)
		}
	}
	m.keys[key] = append(m.keys[key], v)
}

func (m *model) remove(key, id string) {
	l := m.keys[key]
	if i := slices.IndexFunc(l, func(v modelVersion) bool { return v.id == id }); i >= 0 {
		l = slices.Delete(l, i, i+1)
	}
	if m.keys[key] = l; len(l) == 0 {
		delete(m.keys, key)
	}
}

func (m *model) current(key string) (modelVersion, bool) {
	l := m.keys[key]
	if len(l) == 0 {
		return modelVersion{}, false
	}
	return l[len(l)-1], true
}

func (m *model) listing() (out []string) {
	var keys []string
	for k := range m.keys {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		l := m.keys[k]
		for i := len(l) - 1; i >= 0; i-- {
			out = append(out, fmt.Sprintf("%s %s %v %v %d", k, l[i].id, i == len(l)-1, l[i].marker, len(l[i].content)))
		}
	}
	return out
}

func (m *model) usage() (u record.Usage) {
	for k, l := range m.keys {
		if v, _ := m.current(k); !v.marker {
			u.Objects++
		}
		for _, v := range l {
			u.Versions++
			u.Bytes += int64(len(v.content))
		}
	}
	return u
}

func TestRandomOperationsAgainstAModel(t *testing.T) {
	seed := rand.Uint64()
	for _, s := range []uint64{1, 2, 3, seed} {
		t.Run(fmt.Sprintf("seed %d", s), func(t *testing.T) { runModel(t, s, 600) })
	}
}

func runModel(t *testing.T, seed uint64, steps int) {
	r := rand.New(rand.NewPCG(seed, 99))
	f := newFixture(t, vfs.NewMem(), Options{InlineMax: 64})
	ctx := t.Context()
	names := []string{"first", "second"}
	models := map[string]*model{}
	for _, n := range names {
		f.bucket(n, BucketOptions{})
		models[n] = &model{keys: map[string][]modelVersion{}}
	}
	content := func() string { return big([]int{0, 1, 64, 65, 300, 70_000}[r.IntN(6)] + r.IntN(2)) }
	keys := []string{"a", "b", "b\x00", "b/c", "b/d", "é"}
	for step := range steps {
		name := names[r.IntN(2)]
		m := models[name]
		key := keys[r.IntN(len(keys))]
		pick := func() (string, bool) { // a version id of key, or one that is not there
			if l := m.keys[key]; len(l) > 0 && r.IntN(8) > 0 {
				return l[r.IntN(len(l))].id, true
			}
			return record.MakeOrder(uint64(r.Int64()), 1).String(), false
		}
		fail := func(format string, args ...any) {
			t.Helper()
			t.Fatalf("step %d, %s/%q: %s", step, name, key, fmt.Sprintf(format, args...))
		}
		switch op := r.IntN(26); op {
		case 0, 1, 2, 3, 4:
			c := content()
			v, err := f.Put(ctx, name, key, strings.NewReader(c), PutOptions{
				Size: []int64{int64(len(c)), -1}[r.IntN(2)], StorageClass: []string{"", "COLD"}[r.IntN(2)],
			})
			if err != nil {
				fail("put: %v", err)
			}
			m.add(key, modelVersion{id: v.ID, content: c})
		case 5, 6:
			res, err := f.Delete(ctx, name, key, "", DeleteOptions{})
			if err != nil {
				fail("delete: %v", err)
			}
			if m.versioning == record.VersioningOff {
				m.remove(key, "null")
			} else {
				m.add(key, modelVersion{id: res.VersionID, marker: true})
			}
		case 7, 8, 9:
			id, _ := pick()
			if _, err := f.Delete(ctx, name, key, id, DeleteOptions{}); err != nil {
				fail("delete version: %v", err)
			}
			m.remove(key, id)
		case 10, 11:
			id, ok := pick()
			to, toKey := names[r.IntN(2)], keys[r.IntN(len(keys))]
			class := []string{"", "WARM", "COLD"}[r.IntN(3)]
			v, err := f.Copy(ctx, CopySource{Bucket: name, Key: key, VersionID: id}, to, toKey, PutOptions{StorageClass: class})
			if !ok {
				if !errors.Is(err, ErrNoSuchVersion) {
					fail("copy of what is not there: %v", err)
				}
				break
			}
			src := m.keys[key][slices.IndexFunc(m.keys[key], func(v modelVersion) bool { return v.id == id })]
			if src.marker {
				if !errors.Is(err, ErrDeleteMarker) {
					fail("copy of a marker: %v", err)
				}
				break
			}
			if err != nil {
				fail("copy: %v", err)
			}
			models[to].add(toKey, modelVersion{id: v.ID, content: src.content})
		case 12:
			id, err := f.CreateUpload(ctx, name, key, PutOptions{})
			if err != nil {
				fail("create upload: %v", err)
			}
			c := content()
			for range 1 + r.IntN(2) {
				if _, err := f.PutPart(ctx, name, key, id, 3, strings.NewReader(c), PutOptions{Size: -1}); err != nil {
					fail("put part: %v", err)
				}
			}
			if r.IntN(3) == 0 {
				err = f.AbortUpload(ctx, name, key, id)
			} else {
				var v *record.Version
				if v, err = f.CompleteUpload(ctx, name, key, id, []CompletePart{{Number: 3, ETag: etag(c)}}, CompleteOptions{Size: -1}); err == nil {
					m.add(key, modelVersion{id: v.ID, content: c})
				}
			}
			if err != nil {
				fail("upload: %v", err)
			}
		case 13:
			if r.IntN(4) == 0 {
				m.versioning = []record.Versioning{record.VersioningEnabled, record.VersioningSuspended}[r.IntN(2)]
				f.versioning(name, m.versioning)
			}
		case 14:
			items := []DeleteItem{}
			for range 4 {
				k := keys[r.IntN(len(keys))]
				item := DeleteItem{Key: k}
				if l := m.keys[k]; len(l) > 0 {
					item.VersionID = l[r.IntN(len(l))].id
				} else {
					item.VersionID = "null"
				}
				items = append(items, item)
			}
			if _, err := f.DeleteMany(ctx, name, items); err != nil {
				fail("delete many: %v", err)
			}
			for _, it := range items {
				m.remove(it.Key, it.VersionID)
			}
		case 15:
			if _, err := f.Collect(ctx); err != nil {
				fail("collect: %v", err)
			}
		case 16:
			if r.IntN(5) == 0 {
				f.reopen()
			}
		case 17:
			if err := f.saveUsage(ctx); err != nil {
				fail("save: %v", err)
			}
		case 18, 19, 20:
			id, ok := pick()
			tier := []string{"warm", "cold"}[r.IntN(2)]
			ref, blob, err := f.copyTo(f.tiers, name, key, id, tier)
			if !ok || errors.Is(err, ErrDeleteMarker) {
				if firn.KindOf(err) != firn.NotFound {
					fail("move of what is not there: %v", err)
				}
				break
			}
			if err != nil {
				fail("copy to tier: %v", err)
			}
			o := MoveOptions{Class: []string{"", "WARM", "COLD"}[r.IntN(3)]}
			if r.IntN(3) == 0 {
				o.LocalUntil = f.now.now().Add(time.Duration(r.IntN(100)) * time.Second)
			}
			if r.IntN(4) == 0 { // given up, or cut off and found later
				if r.IntN(2) == 0 {
					err = f.Free(ctx, blob)
				}
			} else {
				_, err = f.Switch(ctx, ref, blob, o)
			}
			if err != nil {
				fail("move: %v", err)
			}
		case 21:
			id, _ := pick()
			v, err := f.Head(ctx, name, key, id)
			if err != nil || v.Location == nil {
				break
			}
			o := RecallOptions{Class: []string{"", "COLD"}[r.IntN(2)]}
			if r.IntN(2) == 0 {
				o.Until = f.now.now().Add(time.Duration(1+r.IntN(100)) * time.Second)
			}
			if _, err := f.Recall(ctx, RefOf(v), o); err != nil {
				fail("recall: %v", err)
			}
		case 22:
			f.now.advance(time.Duration(r.IntN(100)) * time.Second)
			if _, err := f.ExpireLocal(ctx); err != nil {
				fail("expire: %v", err)
			}
		case 23:
			f.sweep(f.tiers, "cold", "warm")
		default:
			id, ok := pick()
			got, err := f.get(name, key, id)
			if !ok {
				if !errors.Is(err, ErrNoSuchVersion) {
					fail("get of what is not there: %v", err)
				}
				break
			}
			v := m.keys[key][slices.IndexFunc(m.keys[key], func(v modelVersion) bool { return v.id == id })]
			if v.marker != errors.Is(err, ErrDeleteMarker) || !v.marker && (err != nil || got != v.content) {
				fail("get %s: %d bytes, %v; want %+.60v", id, len(got), err, v)
			}
		}
		for _, n := range names {
			if got, want := f.versions(n, 3), models[n].listing(); !slices.Equal(got, want) {
				fail("bucket %s holds\n%s\nwant\n%s", n, strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			if got, want := f.usage(n), models[n].usage(); got != want {
				fail("usage of %s %+v, want %+v", n, got, want)
			}
		}
		if step%50 == 0 {
			f.check()
		}
	}
	for _, n := range names {
		for k, l := range models[n].keys {
			for _, v := range l {
				if !v.marker {
					f.want(n, k, v.id, v.content)
				}
			}
		}
	}
	if _, err := f.Collect(ctx); err != nil {
		t.Fatal(err)
	}
	f.reopen()
	f.check()
	// Everything goes, and with it every file.
	for _, n := range names {
		for _, line := range f.versions(n, 100) {
			p := strings.Split(line, " ")
			f.delete(n, p[0], p[1])
		}
	}
	if _, err := f.Collect(ctx); err != nil {
		t.Fatal(err)
	}
	f.giveUp("cold", "warm")
	if left := f.sweep(f.tiers, "cold", "warm"); len(left) != 0 {
		t.Fatalf("left on tiers: %q", left)
	}
	if s := f.check(); s.Blobs != 0 || s.Versions != 0 || s.TierBlobs != 0 {
		t.Fatalf("%+v", s)
	}
	f.now.advance(time.Hour)
	if n, err := f.ExpireLocal(ctx); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	for _, tag := range []byte{record.TagTierBlob, record.TagTierGarbage, record.TagOutboard, record.TagExpiry, record.TagRef, record.TagParts, record.TagData} {
		if n := f.count(tag); n != 0 {
			t.Fatalf("%d keys under %c are left", n, tag)
		}
	}
	for _, n := range names {
		if c, err := f.UsageByClass(ctx, n); err != nil || len(c) != 1 || c[StandardClass] != (record.Usage{}) {
			t.Fatalf("%+v, %v", c, err)
		}
	}
	f.reopen()
	if files := f.files(); len(files) != 0 {
		t.Fatalf("files left: %q", files)
	}
}

// files returns the names of all blob files.
func (f *fixture) files() (names []string) {
	f.t.Helper()
	if err := f.blobs.Walk(f.t.Context(), func(name string, _ blobs.ID, _ bool) error {
		names = append(names, name)
		return nil
	}); err != nil {
		f.t.Fatal(err)
	}
	return names
}
