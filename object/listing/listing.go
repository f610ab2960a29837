// Package listing walks the keys of a bucket for a page of a listing, as S3 orders and rolls them up.
//
// It promises that a page costs one range scan, few allocations, and no look at a key that it does not show or roll up. It
// must never change a record.
package listing

import (
	"bytes"
	"context"
	"slices"
	"sync"

	"firn/hlc"
	"firn/kv"
	"firn/object/record"
)

// Options select a page of a listing.
type Options struct {
	Prefix    string
	Delimiter string
	After     string // keys and common prefixes > After
	// VersionAfter goes on inside After's versions (Versions only): versions of After older than this one.
	VersionAfter string
	Limit        int // 0..MaxList
	// Restores has versions carry Location and KeepUntil, which costs a look at the whole of each record.
	Restores bool
}

// Page is one page of a listing.
type Page struct {
	Versions       []record.Version // what Listed has of them, and what Options.Restores asks for
	CommonPrefixes []string
	Truncated      bool
	// NextKey and NextVersion go into After and VersionAfter of the next page.
	NextKey     string
	NextVersion string
}

// span is a piece of a page's text.
type span struct{ from, to int }

// row is a listed version before its strings are cut from the page's text.
type row struct {
	key, etag, id, owner, class span
}

// page gathers a listing. All its strings are pieces of one text, so that a page costs few allocations.
type page struct {
	o    *Options
	out  *Page
	rows []row
	text []byte
	// The last owner and class: most neighbours have the same.
	owner, class span
	pool         *Pool
}

// Pool keeps the memory of full pages: what is gathered, and the entries that callers gave back by Recycle. It holds no state of any listing.
type Pool struct {
	scratch  sync.Pool // of *scratch
	versions sync.Pool // of *[]Version
}

// scratch is what of a page nobody needs once its strings are cut.
type scratch struct {
	rows []row
	text []byte
}

// keepText is the longest text that the pool keeps, in bytes.
const keepText = 1 << 20

// getVersions returns an empty slice with room for n entries.
func (p *Pool) getVersions(n int) []record.Version {
	if v, ok := p.versions.Get().(*[]record.Version); ok && cap(*v) >= n {
		return *v
	}
	return make([]record.Version, 0, n)
}

// Recycle gives the memory of a page back, which spares the garbage collector most of a listing. Neither l.Versions
// nor pointers into it may be used after that; strings may. It need not be called.
func (p *Pool) Recycle(l *Page) {
	v := l.Versions
	if l.Versions = nil; cap(v) <= firstRows {
		return
	}
	clear(v) // it must not keep the page's text
	v = v[:0]
	p.versions.Put(&v)
}

func (p *page) add(b []byte) span {
	from := len(p.text)
	p.text = append(p.text, b...)
	return span{from, len(p.text)}
}

func (p *page) same(last span, b []byte) span {
	if bytes.Equal(p.text[last.from:last.to], b) {
		return last
	}
	return p.add(b)
}

// firstRows is the number of entries a page has room for at first.
const firstRows = 32

// version adds the version v, whose record is raw, of the key that is at key in the text.
func (p *page) version(key span, v *record.Listed, raw []byte, latest bool, withID bool) error {
	r := row{key: key}
	marker := v.Flags&record.FlagDeleteMarker != 0
	if !marker {
		from := len(p.text)
		var md5 [16]byte
		copy(md5[:], v.MD5)
		p.text = record.AppendETag(p.text, md5, v.ETagParts)
		r.etag = span{from, len(p.text)}
	}
	if withID && v.Flags&record.FlagNull == 0 {
		from := len(p.text)
		p.text = record.MakeOrder(v.Clock, v.Site).AppendID(p.text)
		r.id = span{from, len(p.text)}
	}
	p.owner = p.same(p.owner, v.Owner)
	p.class = p.same(p.class, v.Class)
	r.owner, r.class = p.owner, p.class
	if n := len(p.rows); n == firstRows && cap(p.rows) == n {
		// More than a few: likely a full page.
		p.out.Versions = append(p.pool.getVersions(p.o.Limit), p.out.Versions...)
		if sc, ok := p.pool.scratch.Get().(*scratch); ok && cap(sc.rows) >= p.o.Limit {
			p.rows, p.text = append(sc.rows[:0], p.rows...), append(sc.text[:0], p.text...)
		} else {
			p.rows = slices.Grow(p.rows, p.o.Limit-n)
			p.text = slices.Grow(p.text, len(p.text)/n*p.o.Limit)
		}
	}
	var whole record.Record
	if p.o.Restores {
		if err := record.Decode(&whole, raw); err != nil {
			return err
		}
	}
	p.rows = append(p.rows, r)
	p.out.Versions = append(p.out.Versions, record.Version{
		Bucket: "", Latest: latest, DeleteMarker: marker, Size: v.Size, Modified: hlc.Time(v.Clock).Wall(),
		Site: v.Site, Clock: v.Clock, Multipart: v.Flags&record.FlagMultipart != 0,
		Checksum: record.Checksum{Algorithm: record.ChecksumAlgorithm(v.SumKind & 0xF), Type: record.ChecksumType(v.SumKind >> 4 & 0xF)},
		Location: whole.Location, KeepUntil: whole.KeepUntil,
	})
	return nil
}

// full reports whether the page holds as many entries as were asked for.
func (p *page) full() bool { return len(p.out.Versions)+len(p.out.CommonPrefixes) >= p.o.Limit }

// finish cuts the strings.
func (p *page) finish(bucket string, withID bool) {
	s := string(p.text)
	for i := range p.rows {
		r, v := &p.rows[i], &p.out.Versions[i]
		v.Bucket = bucket
		v.Key, v.ETag = s[r.key.from:r.key.to], s[r.etag.from:r.etag.to]
		v.Owner, v.StorageClass = s[r.owner.from:r.owner.to], s[r.class.from:r.class.to]
		switch {
		case r.id.to > r.id.from:
			v.ID = s[r.id.from:r.id.to]
		case withID:
			v.ID = record.NullID
		}
	}
	if cap(p.rows) > firstRows && cap(p.text) <= keepText {
		p.pool.scratch.Put(&scratch{rows: p.rows, text: p.text})
	}
	p.rows, p.text = nil, nil
}

// CommonPrefix returns the common prefix that key rolls up into, with ok false where it does not.
func CommonPrefix(key []byte, o *Options) (p []byte, ok bool) {
	if o.Delimiter == "" {
		return nil, false
	}
	rest := key[len(o.Prefix):]
	var i int
	if len(o.Delimiter) == 1 {
		i = bytes.IndexByte(rest, o.Delimiter[0])
	} else {
		i = bytes.Index(rest, []byte(o.Delimiter))
	}
	if i < 0 {
		return nil, false
	}
	return key[:len(o.Prefix)+i+len(o.Delimiter)], true
}

// Versions returns a page of the current objects of b, which are no delete markers, or of all its versions, newest first
// within a key. o.Limit is at least 1.
func Versions(ctx context.Context, r kv.Reader, pool *Pool, b *record.Bucket, o *Options, all bool) (*Page, error) {
	n := min(firstRows, o.Limit)
	p := &page{o: o, pool: pool, out: &Page{Versions: make([]record.Version, 0, n)}, rows: make([]row, 0, n)}
	w := walker{r: r, b: b, o: o, p: p, versions: all}
	if err := w.run(ctx); err != nil {
		return nil, err
	}
	p.finish(b.Name, all)
	return p.out, nil
}

// walker walks the keys of a listing.
type walker struct {
	r        kv.Reader
	b        *record.Bucket
	o        *Options
	p        *page
	versions bool

	old    kv.Iterator // over noncurrent versions; nil where the bucket has none
	oldAt  bool        // old is positioned; only then oldOK counts
	oldOK  bool
	seek   []byte // scratch
	listed record.Listed
}

// checkEvery is the number of keys between looks at the context.
const checkEvery = 1024

func (w *walker) run(ctx context.Context) (err error) {
	o := w.o
	lower := record.AppendCurrentKey(nil, w.b.ID, o.Prefix)
	upper := record.Successor(lower)
	base := 9 // bytes before the key
	start := lower
	inside := false // the page goes on inside the versions of After
	if o.After != "" {
		after := record.AppendCurrentKey(nil, w.b.ID, o.After)
		inside = w.versions && o.VersionAfter != ""
		if !inside {
			after = append(after, 0)
		}
		if bytes.Compare(after, start) > 0 {
			start = after
		}
	}
	it, err := w.r.Iter(lower, upper)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := it.Close(); err == nil {
			err = cerr
		}
	}()
	if w.versions && w.b.Versioning != record.VersioningOff {
		ol := record.AppendBucketID(nil, record.TagOld, w.b.ID)
		if w.old, err = w.r.Iter(ol, record.Successor(ol)); err != nil {
			return err
		}
		defer func() {
			if cerr := w.old.Close(); err == nil {
				err = cerr
			}
		}()
	}
	n := 0
	for ok := it.SeekGE(start); ok; {
		if n++; n%checkEvery == 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		key := it.Key()[base:]
		raw, err := it.Value()
		if err != nil {
			return err
		}
		if err := record.DecodeListed(&w.listed, raw); err != nil {
			return err
		}
		if !w.versions && w.listed.Flags&record.FlagDeleteMarker != 0 {
			ok = it.Next()
			continue
		}
		if cp, rolled := CommonPrefix(key, o); rolled {
			if string(cp) > o.After {
				if w.p.full() {
					w.p.out.Truncated = true
					return nil
				}
				w.p.out.CommonPrefixes = append(w.p.out.CommonPrefixes, string(cp))
				w.p.out.NextKey, w.p.out.NextVersion = string(cp), ""
			}
			w.seek = append(append(w.seek[:0], it.Key()[:base]...), cp...)
			next := record.Successor(w.seek)
			ok = next != nil && it.SeekGE(next)
			continue
		}
		if !w.versions {
			if w.p.full() {
				w.p.out.Truncated = true
				return nil
			}
			if err := w.p.version(w.p.add(key), &w.listed, raw, true, false); err != nil {
				return err
			}
			if w.p.full() {
				w.p.out.NextKey = string(key)
			}
			ok = it.Next()
			continue
		}
		done, err := w.keyVersions(key, raw, inside && string(key) == o.After)
		if done || err != nil {
			return err
		}
		ok = it.Next()
	}
	if err := it.Err(); err != nil {
		return err
	}
	w.p.out.NextKey, w.p.out.NextVersion = "", ""
	return nil
}

// keyVersions adds the versions of key, whose current one is in w.listed and current: those older than VersionAfter where
// inside. done ends the page.
func (w *walker) keyVersions(key, current []byte, inside bool) (done bool, err error) {
	var after record.Order
	skip := false // the current version and all up to after
	if inside {
		if w.o.VersionAfter == record.NullID {
			if w.listed.Flags&record.FlagNull != 0 {
				after, skip = record.MakeOrder(w.listed.Clock, w.listed.Site), true
			} else if p, err := kv.Find(w.r, nil, record.AppendTagged(record.TagNull, w.b.ID, key)); err != nil {
				return false, err
			} else if len(p) == record.OrderLen {
				after, skip = record.Order(p), true
			}
		} else {
			after, skip = record.ParseOrder(w.o.VersionAfter)
		}
	}
	ks := span{-1, 0}
	add := func(v *record.Listed, raw []byte, latest bool) (bool, error) {
		if w.p.full() {
			w.p.out.Truncated = true
			return false, nil
		}
		if ks.from < 0 {
			ks = w.p.add(key)
		}
		if err := w.p.version(ks, v, raw, latest, true); err != nil {
			return false, err
		}
		if w.p.full() {
			w.p.out.NextKey = string(key)
			if w.p.out.NextVersion = record.NullID; v.Flags&record.FlagNull == 0 {
				w.p.out.NextVersion = record.MakeOrder(v.Clock, v.Site).String()
			}
		}
		return true, nil
	}
	cur := record.MakeOrder(w.listed.Clock, w.listed.Site)
	if !skip || bytes.Compare(cur[:], after[:]) > 0 {
		if more, err := add(&w.listed, current, true); !more || err != nil {
			return true, err
		}
	}
	if w.old == nil {
		return false, nil
	}
	prefix := record.AppendOldPrefix(w.seek[:0], w.b.ID, key)
	w.seek = prefix
	if skip {
		// Not the version itself, but what follows it.
		w.oldOK = w.old.SeekGE(append(append(bytes.Clone(prefix), after[:]...), 0))
	} else if !w.oldAt || w.oldOK && bytes.Compare(w.old.Key(), prefix) < 0 {
		w.oldOK = w.old.SeekGE(prefix)
	}
	w.oldAt = true
	for ; w.oldOK && bytes.HasPrefix(w.old.Key(), prefix); w.oldOK = w.old.Next() {
		raw, err := w.old.Value()
		if err != nil {
			return false, err
		}
		var v record.Listed
		if err := record.DecodeListed(&v, raw); err != nil {
			return false, err
		}
		if more, err := add(&v, raw, false); !more || err != nil {
			return true, err
		}
	}
	return false, w.old.Err()
}
