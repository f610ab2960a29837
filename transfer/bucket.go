package transfer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"

	"firn"
)

// MakeBucket makes a bucket.
func (c *Client) MakeBucket(ctx context.Context, bucket string, versioning, lock bool) error {
	err := c.do(ctx, "make bucket", scheme+bucket, func(ctx context.Context, _ *pulse) error {
		return c.core.MakeBucket(ctx, bucket, minio.MakeBucketOptions{Region: c.profile.Region, ObjectLocking: lock})
	})
	if err != nil || !versioning {
		return err
	}
	return c.do(ctx, "enable versioning of", scheme+bucket, func(ctx context.Context, _ *pulse) error {
		return c.core.EnableVersioning(ctx, bucket)
	})
}

// RemoveBucket removes an empty bucket.
func (c *Client) RemoveBucket(ctx context.Context, bucket string) error {
	return c.do(ctx, "remove bucket", scheme+bucket, func(ctx context.Context, _ *pulse) error {
		return c.core.RemoveBucket(ctx, bucket)
	})
}

// Entry is one line of a listing.
type Entry struct {
	Name         string    `json:"name"` // key or bucket; a prefix ends in a slash
	Prefix       bool      `json:"prefix,omitempty"`
	Size         int64     `json:"size"`
	Modified     time.Time `json:"modified,omitzero"`
	ETag         string    `json:"etag,omitempty"`
	StorageClass string    `json:"storage_class,omitempty"`
	VersionID    string    `json:"version_id,omitempty"`
	Latest       bool      `json:"latest,omitempty"`
	DeleteMarker bool      `json:"delete_marker,omitempty"`
	UploadID     string    `json:"upload_id,omitempty"` // of an unfinished upload
}

// ListOptions choose what List shows.
type ListOptions struct {
	Recursive bool
	Versions  bool
	Uploads   bool // unfinished multipart uploads instead of objects
}

// List calls fn for each bucket of the endpoint, or each object and prefix at a location, in order.
func (c *Client) List(ctx context.Context, l Location, o ListOptions, fn func(Entry) error) error {
	if !l.Remote {
		return &firn.Error{Kind: firn.Invalid, Op: "list", Subject: l.String(), Err: errors.New("is no S3 location: write s3://BUCKET/PREFIX")}
	}
	if l.Bucket == "" {
		return c.listBuckets(ctx, fn)
	}
	if o.Uploads {
		return c.listUploads(ctx, l, func(u minio.ObjectMultipartInfo) error {
			return fn(Entry{Name: u.Key, Size: 0, Modified: u.Initiated, UploadID: u.UploadID})
		})
	}
	return c.list(ctx, l.Bucket, minio.ListObjectsOptions{
		Prefix: l.Key, Recursive: o.Recursive, WithVersions: o.Versions,
	}, func(i minio.ObjectInfo) error {
		e := Entry{
			Name: i.Key, Size: i.Size, Modified: i.LastModified, ETag: strings.Trim(i.ETag, `"`), StorageClass: i.StorageClass,
		}
		if o.Versions {
			e.VersionID, e.Latest, e.DeleteMarker = i.VersionID, i.IsLatest, i.IsDeleteMarker
		}
		if strings.HasSuffix(i.Key, "/") && i.LastModified.IsZero() && !o.Recursive {
			e = Entry{Name: i.Key, Prefix: true}
		}
		return fn(e)
	})
}

func (c *Client) listBuckets(ctx context.Context, fn func(Entry) error) error {
	var all []minio.BucketInfo
	err := c.do(ctx, "list buckets of", c.Endpoint(), func(ctx context.Context, _ *pulse) (err error) {
		all, err = c.core.ListBuckets(ctx)
		return err
	})
	if err != nil {
		return err
	}
	for _, b := range all {
		if err := fn(Entry{Name: b.Name, Modified: b.CreationDate}); err != nil {
			return err
		}
	}
	return nil
}

// listUploads walks the unfinished uploads beneath a location.
func (c *Client) listUploads(ctx context.Context, l Location, fn func(minio.ObjectMultipartInfo) error) error {
	key, id := "", ""
	for {
		var page minio.ListMultipartUploadsResult
		err := c.do(ctx, "list uploads of", l.String(), func(ctx context.Context, _ *pulse) (err error) {
			page, err = c.core.ListMultipartUploads(ctx, l.Bucket, l.Key, key, id, "", 1000)
			return err
		})
		if err != nil {
			return err
		}
		for _, u := range page.Uploads {
			if err := fn(u); err != nil {
				return err
			}
		}
		if !page.IsTruncated || page.NextKeyMarker == key && page.NextUploadIDMarker == id {
			return nil
		}
		key, id = page.NextKeyMarker, page.NextUploadIDMarker
	}
}

// Stat is what is known of an object or a bucket.
type Stat struct {
	Name         string            `json:"name"`
	Bucket       bool              `json:"bucket,omitempty"`
	Size         int64             `json:"size"`
	Modified     time.Time         `json:"modified,omitzero"`
	MTime        time.Time         `json:"mtime,omitzero"` // of the file it came from
	ETag         string            `json:"etag,omitempty"`
	ContentType  string            `json:"content_type,omitempty"`
	StorageClass string            `json:"storage_class,omitempty"`
	VersionID    string            `json:"version_id,omitempty"`
	Checksums    map[string]string `json:"checksums,omitempty"`
	Metadata     map[string]string `json:"metadata,omitempty"`
	Headers      map[string]string `json:"headers,omitempty"` // lock, encryption, replication, ...
	Region       string            `json:"region,omitempty"`
	Versioning   string            `json:"versioning,omitempty"` // of a bucket: Enabled, Suspended or off
	ObjectLock   bool              `json:"object_lock,omitempty"`
}

// Stat returns what is known of an object or, where the key is empty, a bucket.
func (c *Client) Stat(ctx context.Context, l Location, version string) (Stat, error) {
	switch {
	case !l.Remote || l.Bucket == "":
		return Stat{}, &firn.Error{Kind: firn.Invalid, Op: "stat", Subject: l.String(), Err: errors.New("is neither object nor bucket")}
	case l.Key == "":
		return c.statBucket(ctx, l)
	}
	o, err := c.head(ctx, l, version)
	if err != nil {
		return Stat{}, err
	}
	s := Stat{
		Name: l.String(), Size: o.Size, Modified: o.info.LastModified, ETag: o.ETag, ContentType: o.info.ContentType,
		StorageClass: cmp.Or(o.header.Get("x-amz-storage-class"), "STANDARD"), VersionID: o.info.VersionID,
		Checksums: map[string]string{}, Metadata: map[string]string{}, Headers: map[string]string{},
		MTime: parseMtime(o.info.UserMetadata[metaMtime]),
	}
	for k, v := range o.info.UserMetadata {
		s.Metadata[strings.ToLower(k)] = v
	}
	for k := range o.header {
		low := strings.ToLower(k)
		switch name, sum := strings.CutPrefix(low, "x-amz-checksum-"); {
		case sum && name != "type" && name != "algorithm":
			s.Checksums[name] = o.header.Get(k)
		case strings.HasPrefix(low, "x-amz-object-lock-"), strings.HasPrefix(low, "x-amz-server-side-encryption"),
			low == "x-amz-restore", low == "x-amz-replication-status", low == "x-amz-expiration", low == "cache-control",
			low == "content-encoding", low == "content-disposition", low == "content-language", low == "expires",
			low == "x-amz-tagging-count", low == "x-amz-mp-parts-count":
			s.Headers[low] = o.header.Get(k)
		}
	}
	return s, nil
}

func (c *Client) statBucket(ctx context.Context, l Location) (Stat, error) {
	s := Stat{Name: l.String(), Bucket: true, Versioning: "off"}
	err := c.do(ctx, "stat", l.String(), func(ctx context.Context, _ *pulse) error {
		ok, err := c.core.BucketExists(ctx, l.Bucket)
		if err == nil && !ok {
			err = &firn.Error{Kind: firn.NotFound, Err: errors.New("bucket does not exist")}
		}
		return err
	})
	if err != nil {
		return s, err
	}
	// What a caller may not see, or a server does not know, is left out.
	optional := func(err error) error {
		switch firn.KindOf(err) {
		case firn.NotFound, firn.Denied, firn.Unsupported, firn.Invalid:
			return nil
		}
		return err
	}
	err = optional(c.do(ctx, "stat", l.String(), func(ctx context.Context, _ *pulse) (err error) {
		s.Region, err = c.core.GetBucketLocation(ctx, l.Bucket)
		return err
	}))
	if err != nil {
		return s, err
	}
	err = optional(c.do(ctx, "stat", l.String(), func(ctx context.Context, _ *pulse) error {
		v, err := c.core.GetBucketVersioning(ctx, l.Bucket)
		s.Versioning = cmp.Or(v.Status, "off")
		return err
	}))
	if err != nil {
		return s, err
	}
	return s, optional(c.do(ctx, "stat", l.String(), func(ctx context.Context, _ *pulse) error {
		enabled, _, _, _, err := c.core.GetObjectLockConfig(ctx, l.Bucket)
		s.ObjectLock = enabled == "Enabled"
		return err
	}))
}

// RemoveOptions say what Remove removes.
type RemoveOptions struct {
	Recursive bool
	Versions  bool   // all versions and delete markers, not the current ones only
	VersionID string // one version of one object
	Uploads   bool   // unfinished multipart uploads beneath the location instead of objects
	Bypass    bool   // of governance retention
	DryRun    bool
	Filter    Filter
	Report    func(Event)
	Progress  *Progress
}

// Count returns how many objects (or versions, or uploads) Remove would remove, and their bytes.
func (c *Client) Count(ctx context.Context, l Location, o RemoveOptions) (n, bytes int64, err error) {
	err = c.eachToRemove(ctx, l, o, func(_ string, i minio.ObjectInfo) error {
		n++
		bytes += i.Size
		return nil
	})
	return n, bytes, err
}

// eachToRemove walks what a recursive removal removes. Uploads come as objects with their id as VersionID.
func (c *Client) eachToRemove(ctx context.Context, l Location, o RemoveOptions, fn func(rel string, i minio.ObjectInfo) error) error {
	p := l.prefix()
	if o.Uploads {
		return c.listUploads(ctx, Location{Remote: true, Bucket: l.Bucket, Key: p}, func(u minio.ObjectMultipartInfo) error {
			if rel := strings.TrimPrefix(u.Key, p); o.Filter.Take(rel) {
				return fn(rel, minio.ObjectInfo{Key: u.Key, VersionID: u.UploadID})
			}
			return nil
		})
	}
	return c.list(ctx, l.Bucket, minio.ListObjectsOptions{Prefix: p, Recursive: true, WithVersions: o.Versions},
		func(i minio.ObjectInfo) error {
			if rel := strings.TrimPrefix(i.Key, p); o.Filter.Take(rel) {
				return fn(rel, i)
			}
			return nil
		})
}

// batch is the number of keys in one delete request.
const batch = 1000

// remover is one run of Remove.
type remover struct {
	c *Client
	l Location
	o RemoveOptions

	mu struct {
		sync.Mutex
		sum Summary
	}
}

// Remove removes one object (or version), or with Recursive all beneath the location. Removing a single
// object that is not there is a NotFound error.
func (c *Client) Remove(ctx context.Context, l Location, o RemoveOptions) (Summary, error) {
	if !l.Remote || l.Bucket == "" || l.Key == "" && !o.Recursive && !o.Uploads {
		return Summary{}, &firn.Error{Kind: firn.Invalid, Op: "remove", Subject: l.String(), Err: errors.New("names no object: with -r all beneath it is removed")}
	}
	if o.Report == nil {
		o.Report = func(Event) {}
	}
	if o.Progress == nil {
		o.Progress = &Progress{}
	}
	r := &remover{c: c, l: l, o: o}
	var err error
	switch {
	case o.Recursive, o.Uploads:
		err = r.all(ctx)
	case o.Versions:
		err = r.versions(ctx)
	default:
		err = r.single(ctx)
	}
	s := r.mu.sum
	if err == nil && s.Failed > 0 {
		err = &errPartly{s.Failed, s.Failed + s.Done}
	}
	return s, err
}

func (r *remover) event(i minio.ObjectInfo, err error) Event {
	l := Location{Remote: true, Bucket: r.l.Bucket, Key: i.Key}
	ev := Event{Op: "delete", Status: Done, Source: l.String(), VersionID: i.VersionID, Size: i.Size, Err: err}
	switch {
	case err != nil:
		ev.Status, ev.Message = Failed, err.Error()
	case r.o.DryRun:
		ev.Status = Planned
	}
	return ev
}

func (r *remover) report(i minio.ObjectInfo, err error) {
	ev := r.event(i, err)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.mu.sum.Failed++
	} else {
		r.mu.sum.Done++
		r.mu.sum.Bytes += i.Size
	}
	r.o.Progress.FilesDone.Add(1)
	r.o.Report(ev)
}

func (r *remover) single(ctx context.Context) error {
	o, err := r.c.head(ctx, r.l, r.o.VersionID)
	// A delete marker answers HEAD with an error, but it can be removed by its id.
	if err != nil && (r.o.VersionID == "" || firn.KindOf(err) == firn.NotFound && !strings.Contains(err.Error(), "MethodNotAllowed")) {
		return err
	}
	r.remove(ctx, minio.ObjectInfo{Key: r.l.Key, VersionID: r.o.VersionID, Size: o.Size})
	return nil
}

// versions removes all versions of one object.
func (r *remover) versions(ctx context.Context) error {
	n := 0
	err := r.c.list(ctx, r.l.Bucket, minio.ListObjectsOptions{Prefix: r.l.Key, Recursive: true, WithVersions: true},
		func(i minio.ObjectInfo) error {
			if i.Key != r.l.Key {
				return errEnough
			}
			n++
			r.remove(ctx, i)
			return nil
		})
	if err != nil && !errors.Is(err, errEnough) {
		return err
	}
	if n == 0 {
		return &firn.Error{Kind: firn.NotFound, Op: "remove", Subject: r.l.String(), Err: errors.New("no version exists")}
	}
	return nil
}

var errEnough = errors.New("enough")

// remove removes one thing and reports it.
func (r *remover) remove(ctx context.Context, i minio.ObjectInfo) {
	r.o.Progress.Files.Add(1)
	if r.o.DryRun {
		r.report(i, nil)
		return
	}
	l := Location{Remote: true, Bucket: r.l.Bucket, Key: i.Key}
	r.report(i, r.c.do(ctx, "remove", l.String(), func(ctx context.Context, _ *pulse) error {
		if r.o.Uploads {
			return r.c.core.AbortMultipartUpload(ctx, l.Bucket, l.Key, i.VersionID)
		}
		return r.c.core.RemoveObject(ctx, l.Bucket, l.Key, minio.RemoveObjectOptions{
			VersionID: i.VersionID, GovernanceBypass: r.o.Bypass,
		})
	}))
}

// all removes what is beneath the location, many in one request.
func (r *remover) all(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	work := make(chan []minio.ObjectInfo, r.c.o.Parallel)
	var wg sync.WaitGroup
	for range r.c.o.Parallel {
		wg.Go(func() {
			for items := range work {
				if err := r.batch(ctx, items); err != nil {
					cancel(err)
				}
			}
		})
	}
	size := batch
	if r.o.Uploads {
		size = 1
	}
	var items []minio.ObjectInfo
	send := func() error {
		if len(items) == 0 {
			return nil
		}
		r.o.Progress.Files.Add(int64(len(items)))
		select {
		case work <- items:
			items = nil
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	err := r.c.eachToRemove(ctx, r.l, r.o, func(_ string, i minio.ObjectInfo) error {
		if !r.o.Versions && !r.o.Uploads {
			i.VersionID = ""
		}
		if items = append(items, i); len(items) < size {
			return nil
		}
		return send()
	})
	if err == nil {
		err = send()
	}
	close(work)
	r.o.Progress.Listed.Store(true)
	wg.Wait()
	if err == nil {
		err = context.Cause(ctx)
	}
	return err
}

func (r *remover) batch(ctx context.Context, items []minio.ObjectInfo) error {
	if ctx.Err() != nil {
		return nil // the caller knows
	}
	if r.o.DryRun || r.o.Uploads {
		for _, i := range items {
			if r.o.DryRun {
				r.report(i, nil)
			} else {
				r.o.Progress.Files.Add(-1) // remove counts it again
				r.remove(ctx, i)
			}
		}
		return nil
	}
	failed := map[string]error{}
	err := r.c.do(ctx, "remove", fmt.Sprintf("%d objects of %s", len(items), r.l), func(ctx context.Context, _ *pulse) error {
		clear(failed)
		each := func(yield func(minio.ObjectInfo) bool) {
			for _, i := range items {
				if !yield(i) {
					return
				}
			}
		}
		results, err := r.c.core.RemoveObjectsWithIter(ctx, r.l.Bucket, each, minio.RemoveObjectsOptions{GovernanceBypass: r.o.Bypass})
		if err != nil {
			return err
		}
		n := 0
		for res := range results {
			n++
			if res.Err == nil {
				continue
			}
			if res.ObjectName == "" || mayPass(res.Err) { // of the whole request, or as good as: all are sent again
				return res.Err
			}
			failed[res.ObjectName+"\x00"+res.ObjectVersionID] = res.Err
		}
		if n == 0 && ctx.Err() == nil {
			return firn.NewError(firn.Unavailable, "the server answered nothing")
		}
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	for _, i := range items {
		err := failed[i.Key+"\x00"+i.VersionID]
		l := Location{Remote: true, Bucket: r.l.Bucket, Key: i.Key}
		r.report(i, wrapError("remove", l.String(), err))
	}
	return nil
}
