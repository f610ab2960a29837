package object

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"firn/kv"
	"firn/object/record"
	"firn/object/space"
)

// bucket is the state of one bucket in memory.
type bucket struct {
	rec atomic.Pointer[record.Bucket]
	// gate is held for reading from before a transaction on the bucket's keys until it is durable, and for
	// writing by changes of the bucket itself: so a transaction sees one state of the bucket, and none is
	// acknowledged in a bucket that is gone.
	gate sync.RWMutex
	gone bool // guarded by gate

	objects, versions, bytes atomic.Int64
	quota                    quotaState
	classes                  struct {
		sync.Mutex
		m map[string]record.Usage // by storage class other than STANDARD
	}
}

func (b *bucket) add(u record.Usage) {
	if u.Objects != 0 {
		b.objects.Add(u.Objects)
	}
	if u.Versions != 0 {
		b.versions.Add(u.Versions)
	}
	if u.Bytes != 0 {
		b.bytes.Add(u.Bytes)
	}
}

// count adds u to the counters of a storage class, or with "" to those of the bucket.
func (b *bucket) count(class string, u record.Usage) {
	if class == "" {
		b.add(u)
		return
	}
	b.classes.Lock()
	defer b.classes.Unlock()
	if b.classes.m == nil {
		b.classes.m = map[string]record.Usage{}
	}
	b.classes.m[class] = b.classes.m[class].Plus(u, 1)
}

func (b *bucket) countAll(list []record.ClassUsage) {
	for _, c := range list {
		b.count(c.Class, c.Usage)
	}
}

// byClass returns the counters of the storage classes other than STANDARD.
func (b *bucket) byClass() map[string]record.Usage {
	b.classes.Lock()
	defer b.classes.Unlock()
	return maps.Clone(b.classes.m)
}

func (b *bucket) usage() record.Usage {
	return record.Usage{Objects: b.objects.Load(), Versions: b.versions.Load(), Bytes: b.bytes.Load()}
}

func (s *Store) bucket(name string) (*bucket, error) {
	s.buckets.RLock()
	b := s.buckets.m[name]
	s.buckets.RUnlock()
	if b == nil {
		return nil, ErrNoSuchBucket
	}
	return b, nil
}

// bucketFor is bucket with a check of the key.
func (s *Store) bucketFor(name, key string) (*bucket, error) {
	if err := CheckKey(key); err != nil {
		return nil, err
	}
	return s.bucket(name)
}

func (s *Store) loadBuckets(ctx context.Context) error {
	return s.db.View(ctx, func(r kv.Reader) error {
		return kv.Scan(r, []byte{record.TagBucket}, []byte{record.TagBucket + 1}, func(k, v []byte) error {
			rec, err := record.DecodeBucket(string(k[1:]), v)
			if err != nil {
				return err
			}
			b := &bucket{}
			b.rec.Store(rec)
			s.buckets.m[rec.Name] = b
			return nil
		})
	})
}

// CreateBucket makes a bucket. ErrBucketExists, ErrInvalidBucketName.
func (s *Store) CreateBucket(ctx context.Context, name string, o BucketOptions) (*record.Bucket, error) {
	if err := CheckBucketName(name); err != nil {
		return nil, err
	}
	if err := s.space.Admit(space.RecordCost); err != nil {
		return nil, fail("create bucket", name, err)
	}
	defer s.space.Done(space.RecordCost)
	rec := &record.Bucket{
		Name: name, Owner: o.Owner, ObjectLock: o.ObjectLock, Config: maps.Clone(o.Config), Revision: 1,
	}
	if rec.Config == nil {
		rec.Config = map[string][]byte{}
	}
	if o.ObjectLock {
		rec.Versioning = record.VersioningEnabled
	}
	key, counter := record.BucketKey(name), record.MetaKey("nextbucket")
	err := s.db.Update(ctx, func(tx kv.Tx) error {
		if _, err := tx.Get(nil, key); !errors.Is(err, kv.ErrNotFound) {
			if err == nil {
				err = ErrBucketExists
			}
			return err
		}
		last, err := getUint(tx, counter)
		if err != nil {
			return err
		}
		rec.ID = last + 1
		now := s.clock.Now()
		rec.Created = now.Wall()
		tx.Set(counter, record.IDKey(0, rec.ID)[1:])
		tx.Set(key, record.AppendBucket(nil, rec))
		tx.Log(record.AppendMutation(nil, &record.Mutation{
			Op: record.OpCreateBucket, Clock: uint64(now), Site: s.o.Site, BucketID: rec.ID, Bucket: name,
		}))
		return nil
	}, key, counter)
	if err != nil {
		return nil, fail("create bucket", name, err)
	}
	b := &bucket{}
	b.rec.Store(rec)
	s.buckets.Lock()
	// A bucket deleted and made again while this call waited for its fsync may be in memory already.
	if old := s.buckets.m[name]; old == nil || old.rec.Load().ID < rec.ID {
		s.buckets.m[name] = b
	}
	s.buckets.Unlock()
	return rec, nil
}

// Bucket returns a bucket's record from memory. ErrNoSuchBucket.
func (s *Store) Bucket(_ context.Context, name string) (*record.Bucket, error) {
	b, err := s.bucket(name)
	if err != nil {
		return nil, err
	}
	return b.rec.Load(), nil
}

// Buckets returns all buckets by name.
func (s *Store) Buckets(context.Context) ([]*record.Bucket, error) {
	s.buckets.RLock()
	list := make([]*record.Bucket, 0, len(s.buckets.m))
	for _, b := range s.buckets.m {
		list = append(list, b.rec.Load())
	}
	s.buckets.RUnlock()
	slices.SortFunc(list, func(a, b *record.Bucket) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// UpdateBucket changes a bucket's record: fn gets a copy it may change (not ID, Name, Created). ErrLockConfig
// where the change would weaken object lock: it cannot be switched off, and needs versioning.
func (s *Store) UpdateBucket(ctx context.Context, name string, fn func(*record.Bucket) error) (*record.Bucket, error) {
	b, err := s.bucket(name)
	if err != nil {
		return nil, err
	}
	b.gate.Lock()
	defer b.gate.Unlock()
	if b.gone {
		return nil, ErrNoSuchBucket
	}
	old := b.rec.Load()
	rec := *old
	rec.Config = maps.Clone(old.Config)
	if err := fn(&rec); err != nil {
		return nil, err
	}
	rec.ID, rec.Name, rec.Created, rec.Revision = old.ID, old.Name, old.Created, old.Revision+1
	switch {
	case old.Versioning != record.VersioningOff && rec.Versioning == record.VersioningOff,
		old.ObjectLock && !rec.ObjectLock,
		rec.ObjectLock && rec.Versioning != record.VersioningEnabled,
		rec.Retention.Mode != record.RetentionNone && !rec.ObjectLock,
		rec.Retention.Mode != record.RetentionNone && (rec.Retention.Days > 0) == (rec.Retention.Years > 0):
		return nil, fail("update bucket", name, ErrLockConfig)
	}
	key := record.BucketKey(name)
	err = s.db.Update(ctx, func(tx kv.Tx) error {
		tx.Set(key, record.AppendBucket(nil, &rec))
		tx.Log(record.AppendMutation(nil, &record.Mutation{
			Op: record.OpUpdateBucket, Clock: uint64(s.clock.Now()), Site: s.o.Site, BucketID: rec.ID, Bucket: name,
		}))
		return nil
	}, key)
	if err != nil {
		return nil, fail("update bucket", name, err)
	}
	b.rec.Store(&rec)
	return &rec, nil
}

// errOccupied ends the look for something in a bucket.
var errOccupied = errors.New("occupied")

// empty returns ErrBucketNotEmpty where a version, delete marker or upload is in the bucket.
func empty(r kv.Reader, id uint64) error {
	for _, tag := range []byte{record.TagCurrent, record.TagOld, record.TagUpload} {
		lower := record.AppendBucketID(nil, tag, id)
		err := kv.Scan(r, lower, record.Successor(lower), func(_, _ []byte) error { return errOccupied })
		if errors.Is(err, errOccupied) {
			err = ErrBucketNotEmpty
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// DeleteBucket removes an empty bucket. ErrBucketNotEmpty where a version, delete marker or upload is left.
func (s *Store) DeleteBucket(ctx context.Context, name string) error {
	b, err := s.bucket(name)
	if err != nil {
		return err
	}
	rec := b.rec.Load()
	// Asked first without the gate, so that a refused delete does not hold up writers.
	if err := s.db.View(ctx, func(r kv.Reader) error { return empty(r, rec.ID) }); err != nil {
		return fail("delete bucket", name, err)
	}
	b.gate.Lock()
	defer b.gate.Unlock()
	if b.gone {
		return ErrNoSuchBucket
	}
	key := record.BucketKey(name)
	err = s.db.Update(ctx, func(tx kv.Tx) error {
		if err := empty(tx, rec.ID); err != nil {
			return err
		}
		tx.Delete(key)
		tx.Delete(record.UsageKey(record.Counter{Bucket: rec.ID}))
		for class := range b.byClass() {
			tx.Delete(record.UsageKey(record.Counter{Bucket: rec.ID, Class: class}))
		}
		tx.Log(record.AppendMutation(nil, &record.Mutation{
			Op: record.OpDeleteBucket, Clock: uint64(s.clock.Now()), Site: s.o.Site, BucketID: rec.ID, Bucket: name,
		}))
		return nil
	}, key)
	if err != nil {
		return fail("delete bucket", name, err)
	}
	b.gone = true
	s.buckets.Lock()
	if s.buckets.m[name] == b {
		delete(s.buckets.m, name)
	}
	s.buckets.Unlock()
	return nil
}

// Usage returns a bucket's counters.
func (s *Store) Usage(_ context.Context, name string) (record.Usage, error) {
	b, err := s.bucket(name)
	if err != nil {
		return record.Usage{}, err
	}
	return b.usage(), nil
}

// UsageByClass returns a bucket's counters by storage class, STANDARD among them. Objects are not counted by class.
func (s *Store) UsageByClass(_ context.Context, name string) (map[string]record.Usage, error) {
	b, err := s.bucket(name)
	if err != nil {
		return nil, err
	}
	rest := b.usage()
	rest.Objects = 0
	out := b.byClass()
	if out == nil {
		out = map[string]record.Usage{}
	}
	for class, u := range out {
		rest = rest.Plus(u, -1)
		if u == (record.Usage{}) {
			delete(out, class)
		}
	}
	out[StandardClass] = rest
	return out, nil
}
