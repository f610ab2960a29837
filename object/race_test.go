package object

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"firn/object/check"
	"firn/object/record"
	"firn/vfs"
)

func absent(cur *record.Version) error {
	if cur != nil && !cur.DeleteMarker {
		return ErrPrecondition
	}
	return nil
}

func matches(etag string) Precondition {
	return func(cur *record.Version) error {
		if cur == nil || cur.ETag != etag {
			return ErrPrecondition
		}
		return nil
	}
}

func TestConditionalPutHasOneWinner(t *testing.T) {
	f := newFixture(t, vfs.NewMem(), Options{InlineMax: 64})
	f.bucket("bucket", BucketOptions{})
	for round := range 30 {
		key := fmt.Sprint(round)
		var won atomic.Int32
		var content atomic.Value
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				c := strings.Repeat(fmt.Sprint(i), 60+i) // some inline, some in files
				_, err := f.Put(t.Context(), "bucket", key, strings.NewReader(c), PutOptions{Size: -1, Precondition: absent})
				switch {
				case err == nil:
					won.Add(1)
					content.Store(c)
				case !errors.Is(err, ErrPrecondition):
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Fatalf("%d winners", won.Load())
		}
		f.want("bucket", key, "", content.Load().(string))
	}
	f.check()
	if _, err := f.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestCompareAndSwapLosesNoUpdate(t *testing.T) {
	f := newFixture(t, vfs.NewMem(), Options{})
	f.bucket("bucket", BucketOptions{})
	f.put("bucket", "n", "0")
	const workers, each = 6, 30
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for done := 0; done < each; {
				o, err := f.Open(t.Context(), "bucket", "n", "")
				if err != nil {
					t.Error(err)
					return
				}
				b, err := io.ReadAll(io.NewSectionReader(o, 0, o.Version.Size))
				tag := o.Version.ETag
				o.Close()
				n, err2 := strconv.Atoi(string(b))
				if err != nil || err2 != nil {
					t.Error(err, err2)
					return
				}
				_, err = f.Put(t.Context(), "bucket", "n", strings.NewReader(fmt.Sprint(n+1)), PutOptions{Size: -1, Precondition: matches(tag)})
				switch {
				case err == nil:
					done++
				case !errors.Is(err, ErrPrecondition):
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	f.want("bucket", "n", "", fmt.Sprint(workers*each))
}

func TestNoObjectIsAcknowledgedInADeletedBucket(t *testing.T) {
	f := newFixture(t, vfs.NewMem(), Options{InlineMax: 64})
	deleted := 0
	for round := range 200 {
		f.bucket("bucket", BucketOptions{})
		var wg sync.WaitGroup
		var stored atomic.Int32
		var gone atomic.Bool
		start := make(chan struct{})
		for i := range 3 {
			wg.Go(func() {
				<-start
				var err error
				if i == 2 {
					_, err = f.CreateUpload(t.Context(), "bucket", "u", PutOptions{})
				} else {
					c := strings.Repeat("x", 1+i*100)
					_, err = f.Put(t.Context(), "bucket", fmt.Sprint(i), strings.NewReader(c), PutOptions{Size: -1})
				}
				switch {
				case err == nil:
					stored.Add(1)
				case !errors.Is(err, ErrNoSuchBucket):
					t.Error(err)
				}
			})
		}
		wg.Go(func() {
			<-start
			err := f.DeleteBucket(t.Context(), "bucket")
			if gone.Store(err == nil); err != nil && !errors.Is(err, ErrBucketNotEmpty) {
				t.Error(err)
			}
		})
		close(start)
		wg.Wait()
		if gone.Load() {
			deleted++
			if stored.Load() > 0 {
				t.Fatalf("round %d: %d writes were acknowledged in a bucket that is gone", round, stored.Load())
			}
			continue
		}
		for i := range 2 {
			f.delete("bucket", fmt.Sprint(i), "")
		}
		l, err := f.ListUploads(t.Context(), "bucket", UploadListOptions{Limit: 10})
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range l.Uploads {
			if err := f.AbortUpload(t.Context(), "bucket", u.Key, u.ID); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.DeleteBucket(t.Context(), "bucket"); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("the delete won %d of 200 times", deleted)
	if s := f.check(); s.Versions != 0 || s.Uploads != 0 {
		t.Fatalf("%+v", s)
	}
}

func TestReadersSeeWholeVersions(t *testing.T) {
	f := newFixture(t, vfs.NewMem(), Options{InlineMax: 64})
	f.bucket("bucket", BucketOptions{})
	content := func(i int) string { return strings.Repeat(string(rune('a'+i%26)), 30+i%5*30) } // inline and files in turn
	f.put("bucket", "k", content(0))
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for w := range 2 {
		wg.Go(func() {
			for i := w; i < 300; i++ {
				if _, err := f.Put(ctx, "bucket", "k", strings.NewReader(content(i)), PutOptions{Size: -1}); err != nil {
					t.Error(err)
					return
				}
				if i%3 == 0 {
					if _, err := f.Copy(ctx, CopySource{Bucket: "bucket", Key: "k"}, "bucket", "copy", PutOptions{}); err != nil {
						t.Error(err)
						return
					}
					if _, err := f.Delete(ctx, "bucket", "copy", "", DeleteOptions{}); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	var others sync.WaitGroup
	for range 3 {
		others.Go(func() {
			for ctx.Err() == nil {
				c, err := f.get("bucket", "k", "")
				if ctx.Err() != nil {
					return
				}
				if err != nil || c == "" || c != strings.Repeat(c[:1], len(c)) {
					t.Errorf("read %q, %v", c, err)
					return
				}
			}
		})
	}
	others.Go(func() {
		for ctx.Err() == nil {
			if _, err := f.Collect(ctx); err != nil && ctx.Err() == nil {
				t.Error(err)
				return
			}
		}
	})
	others.Go(func() { // a check beside the work finds nothing wrong
		for ctx.Err() == nil {
			_, err := f.Check(ctx, check.Options{}, func(p check.Problem) error {
				t.Errorf("%+v", p)
				return nil
			})
			if err != nil && ctx.Err() == nil {
				t.Error(err)
				return
			}
		}
	})
	wg.Wait()
	cancel()
	others.Wait()
	if _, err := f.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := f.check()
	if want := int64(0); s.Versions != 1 || s.Blobs != want && s.Blobs != 1 {
		t.Fatalf("%+v", s)
	}
}

func TestCompletionsOfOneUploadMakeOneVersion(t *testing.T) {
	f := newFixture(t, vfs.NewMem(), Options{})
	f.bucket("bucket", BucketOptions{})
	f.versioning("bucket", record.VersioningEnabled)
	for range 20 {
		id, err := f.CreateUpload(t.Context(), "bucket", "k", PutOptions{})
		if err != nil {
			t.Fatal(err)
		}
		list := listed1(f.part("k", id, 1, "content"))
		var wg sync.WaitGroup
		ids := make([]string, 3)
		for i := range ids {
			wg.Go(func() {
				v, err := f.CompleteUpload(t.Context(), "bucket", "k", id, list, CompleteOptions{Size: -1})
				if err != nil {
					t.Error(err)
					return
				}
				ids[i] = v.ID
			})
		}
		wg.Wait()
		if ids[0] != ids[1] || ids[1] != ids[2] {
			t.Fatalf("%q", ids)
		}
	}
	if got := len(f.versions("bucket", 1000)); got != 20 {
		t.Fatalf("%d versions", got)
	}
	f.check()
}
