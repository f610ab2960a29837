package object

import (
	"context"

	"firn/kv"
	"firn/object/listing"
	"firn/object/record"
)

// List returns a page of current objects (no delete markers).
func (s *Store) List(ctx context.Context, bucket string, o listing.Options) (*listing.Page, error) {
	l, err := s.list(ctx, bucket, &o, false)
	return l, fail("list objects", bucket, err)
}

// ListVersions returns a page of all versions, newest first within a key.
func (s *Store) ListVersions(ctx context.Context, bucket string, o listing.Options) (*listing.Page, error) {
	l, err := s.list(ctx, bucket, &o, true)
	return l, fail("list versions", bucket, err)
}

func (s *Store) list(ctx context.Context, bucket string, o *listing.Options, versions bool) (*listing.Page, error) {
	b, err := s.bucket(bucket)
	if err != nil {
		return nil, err
	}
	rec := b.rec.Load()
	o.Limit = min(o.Limit, MaxList)
	if o.Limit <= 0 {
		return &listing.Page{}, nil
	}
	var p *listing.Page
	err = s.db.View(ctx, func(r kv.Reader) (err error) {
		p, err = listing.Versions(ctx, r, &s.pages, rec, o, versions)
		return err
	})
	return p, err
}

// VersionPages calls fn for all versions that o selects, a page at a time, until fn returns an error. The versions are valid
// during the call; strings in them stay.
func (s *Store) VersionPages(ctx context.Context, bucket string, o listing.Options, fn func([]record.Version) error) error {
	for {
		l, err := s.ListVersions(ctx, bucket, o)
		if err != nil {
			return err
		}
		if err := fn(l.Versions); err != nil {
			return err
		}
		truncated := l.Truncated
		o.After, o.VersionAfter = l.NextKey, l.NextVersion
		s.Recycle(l)
		if !truncated {
			return nil
		}
	}
}

// Recycle gives the memory of a page back, which spares the garbage collector most of a listing. Neither p.Versions
// nor pointers into it may be used after that; strings may. It need not be called.
func (s *Store) Recycle(p *listing.Page) { s.pages.Recycle(p) }
