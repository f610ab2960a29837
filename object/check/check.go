// Package check looks whether a namespace's records, files and counters fit each other, and mends what follows from the rest.
//
// It promises that it removes nothing that a record names, and that it finds no fault in a namespace that is only being
// changed meanwhile. It must never import package object, which hands itself over.
package check

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"firn"
	"firn/block"
	"firn/kv"
	"firn/object/blobs"
	"firn/object/record"
)

// Namespace is what a check needs of the namespace beside its records and files.
type Namespace interface {
	Buckets(ctx context.Context) ([]*record.Bucket, error)
	Usage(ctx context.Context, bucket string) (record.Usage, error)
	Head(ctx context.Context, bucket, key, versionID string) (*record.Version, error)
	// Frozen calls fn while no transaction on any bucket is under way, with the counters in memory as of then: those of
	// every bucket, and of every storage class that has some.
	Frozen(fn func(memory map[record.Counter]record.Usage) error) error

	// AdjustUsage moves the counters of a bucket by what they were wrong, in memory and as stored.
	AdjustUsage(ctx context.Context, bucket string, c record.Counter, memory, stored record.Usage) error
	// AdjustReferences moves the number of uses of a blob by what it was wrong.
	AdjustReferences(ctx context.Context, id record.BlobID, by int) error
	// DropPart removes the part that is stored under k and belongs to no upload, and frees its blob.
	DropPart(ctx context.Context, k []byte, p *record.Part) error
	// FreeTierBlob hands a blob on a tier that no version uses over to who removes it.
	FreeTierBlob(ctx context.Context, b record.TierBlob) error
	// UseTierBlob has the register say that the version uses the blob that it says it is on.
	UseTierBlob(ctx context.Context, bucket, key, versionID string, l *record.Location) error
}

// Options say how deep a check goes.
type Options struct {
	Read   bool // read all local content against its checksums, not only look whether it is there
	Tiers  bool // ask tiers whether they have what versions say, in the right size; else nothing is asked of them
	Repair bool // put right what can be put right without losing anything that a record names
}

// Problem is one thing a check found.
type Problem struct {
	// Kind is one of "record", "content", "missing", "orphan-file", "orphan-content", "orphan-part",
	// "stray-file", "references", "pointer", "counters", "bucket", "tier".
	Kind      string
	Bucket    string
	Key       string
	VersionID string
	Blob      string
	Detail    string
	Repaired  bool
}

// Summary is what a check looked at and found.
type Summary struct {
	Buckets, Versions, Uploads, Blobs int64
	TierBlobs                         int64 // that versions use
	Bytes                             int64 // read
	Problems, Repaired                int64
}

// MaxTracked bounds the memory of a check: where more ids are in use, it takes several passes.
const MaxTracked = 2 << 20

// checkEvery is the number of records between looks at the context.
const checkEvery = 1024

// errStop ends a walk early.
var errStop = errors.New("stop")

// Records walks all records and files and calls report for each problem found; report's error ends it. It runs beside
// normal work, of which it holds up writes once a pass for the length of a commit, or where nothing else runs. Content is
// not read, and tiers are not asked. tracked is the number of ids tracked in one pass: MaxTracked, but for tests.
func Records(ctx context.Context, db kv.DB, dir *blobs.Dir, ns Namespace, repair bool, tracked int, report func(Problem) error) (Summary, error) {
	c := &checker{db: db, blobs: dir, ns: ns, repair: repair, limit: tracked, report: report}
	err := c.run(ctx)
	return c.sum, err
}

type checker struct {
	db     kv.DB
	blobs  *blobs.Dir
	ns     Namespace
	repair bool
	report func(Problem) error
	sum    Summary
	limit  int // ids tracked in one pass
}

func (c *checker) found(p Problem) error {
	c.sum.Problems++
	if p.Repaired {
		c.sum.Repaired++
	}
	return c.report(p)
}

func (c *checker) run(ctx context.Context) error {
	passes, err := c.passes(ctx)
	if err != nil {
		return err
	}
	for n := range passes {
		if err := c.pass(ctx, n, passes); err != nil {
			return err
		}
	}
	return nil
}

// smallPart is the least number of bytes that a part takes in a part list.
const smallPart = 40

// passes returns the number of passes, a power of two, in which ids can be tracked within the limit.
func (c *checker) passes(ctx context.Context) (int, error) {
	ids := int64(0)
	list, err := c.ns.Buckets(ctx)
	if err != nil {
		return 0, err
	}
	for _, b := range list {
		u, err := c.ns.Usage(ctx, b.Name)
		if err == nil { // else removed meanwhile
			ids += u.Versions
		}
	}
	err = c.db.View(ctx, func(r kv.Reader) error {
		parts := int64(0)
		for _, tag := range []byte{record.TagPart, record.TagParts} {
			if err := kv.Scan(r, []byte{tag}, []byte{tag + 1}, func(_, v []byte) error {
				parts += 1 + int64(len(v)/smallPart)
				return nil
			}); err != nil {
				return err
			}
		}
		ids += parts
		return nil
	})
	passes := 1
	for passes < 256 && ids > int64(c.limit)*int64(passes) {
		passes *= 2
	}
	return passes, err
}

// pass is one walk over everything. It tracks those blobs and contents whose id falls into slice n of passes.
type pass struct {
	*checker
	n, passes int
	names     map[uint64]string
	counted   map[record.Counter]record.Usage // from the records
	listed    map[record.BlobID]bool          // files found before the snapshot was taken
	uses      map[record.BlobID]*use
	open      map[record.BlobID]bool // on the list of files without a record, or waiting to be removed
	data      map[uint64]bool        // inline contents that records name
	lists     map[uint64]list        // part lists that records name
	nulls     map[string]bool        // current keys of objects with a noncurrent version that is "null"
	uploads   map[[record.UploadIDLen]byte]bool
	current   kv.Iterator // a second look into the snapshot
	lastOld   []byte      // escaped key of the noncurrent version before
	repairs   []func(context.Context) error
	tierPass
}

// list is a multipart version.
type list struct {
	size  int64
	owner Problem
	tier  record.BlobID
}

// use is how records use a blob.
type use struct {
	n       int
	private bool // a record takes it for its own
	count   int64
	size    int64
	user    Problem          // one of them, for reports
	part    string           // key of the part record, where the user is an upload
	parts   int              // of a blob on a tier: those with content
	tier    *record.Location // nil for a blob that is a file
}

// blobSlice reports whether the pass tracks id: slices are runs of fan-out directories.
func (p *pass) blobSlice(id record.BlobID) bool { return int(id[0])*p.passes>>8 == p.n }

func (p *pass) dataSlice(id uint64) bool { return int(id%uint64(p.passes)) == p.n }

func (c *checker) pass(ctx context.Context, n, passes int) error {
	buckets, err := c.ns.Buckets(ctx)
	if err != nil {
		return err
	}
	names := make(map[uint64]string, len(buckets))
	for _, b := range buckets {
		names[b.ID] = b.Name
	}
	p := &pass{
		checker: c, n: n, passes: passes, names: names, counted: map[record.Counter]record.Usage{},
		listed: map[record.BlobID]bool{}, uses: map[record.BlobID]*use{}, open: map[record.BlobID]bool{}, data: map[uint64]bool{},
		lists: map[uint64]list{}, nulls: map[string]bool{}, uploads: map[[record.UploadIDLen]byte]bool{}, tierPass: newTierPass(),
	}
	// Files are listed before the snapshot: each of them was, at the time of the snapshot, either named by a
	// record or a list, or removed, or an orphan.
	err = c.blobs.Walk(ctx, func(name string, id blobs.ID, ok bool) error {
		if !ok {
			if n > 0 {
				return nil
			}
			return c.found(Problem{Kind: "stray-file", Blob: name, Detail: "not a blob's name; left alone"})
		}
		if p.blobSlice(record.BlobID(id)) {
			p.listed[record.BlobID(id)] = true
		}
		return nil
	})
	if err != nil {
		return err
	}
	var usage counters
	err = c.db.View(ctx, func(r kv.Reader) (err error) {
		lower, upper := []byte{record.TagBucket}, []byte{record.TagTierGarbage + 1}
		var it kv.Iterator
		err = c.ns.Frozen(func(memory map[record.Counter]record.Usage) (err error) {
			usage.memory, usage.tail = memory, c.db.LogTail()
			if it, err = r.Iter(lower, upper); err != nil {
				return err
			}
			if p.current, err = r.Iter(lower, upper); err != nil {
				return errors.Join(err, it.Close())
			}
			return nil
		})
		if err != nil {
			return err
		}
		if n == 0 {
			err = p.storedCounters(ctx, it, &usage)
		}
		if err == nil {
			err = p.walk(ctx, it)
		}
		return errors.Join(err, it.Close(), p.current.Close())
	})
	if err != nil {
		return err
	}
	if n == 0 {
		if err := p.counters(&usage); err != nil {
			return err
		}
	}
	if err := p.files(ctx); err != nil {
		return err
	}
	for _, fn := range p.repairs {
		if err := fn(ctx); err != nil {
			return err
		}
	}
	return nil
}

// counters are the buckets' counters at the time of a snapshot.
type counters struct {
	tail   uint64                          // of the journal
	memory map[record.Counter]record.Usage // those of every bucket are there
	stored map[record.Counter]record.Usage // the stored ones, brought up to the tail
}

// storedCounters reads the stored counters of the snapshot and adds what the journal had after them.
func (p *pass) storedCounters(ctx context.Context, it kv.Iterator, u *counters) error {
	u.stored = make(map[record.Counter]record.Usage, len(u.memory))
	read := func(k []byte) ([]byte, error) {
		if !it.SeekGE(k) || !bytes.Equal(it.Key(), k) {
			return nil, it.Err()
		}
		return it.Value()
	}
	var seq uint64
	v, err := read(record.UsageSeqKey())
	if err == nil && v != nil {
		seq, err = record.ParseUint64(v)
	}
	if err != nil {
		return err
	}
	// Of the counters of a bucket that is gone, or came after the snapshot, nothing is to be said.
	add := func(c record.Counter, n record.Usage) {
		if _, ok := u.memory[record.Counter{Bucket: c.Bucket}]; ok {
			u.stored[c] = u.stored[c].Plus(n, 1)
		}
	}
	lower := record.UsagePrefix()
	for ok := it.SeekGE(lower); ok && bytes.HasPrefix(it.Key(), lower); ok = it.Next() {
		c, err := record.ParseUsageKey(it.Key())
		if err != nil {
			return err
		}
		v, err := it.Value()
		if err != nil {
			return err
		}
		n, _, ok := record.ParseUsage(v)
		if !ok {
			return record.ErrBroken
		}
		add(c, n)
	}
	if err := it.Err(); err != nil {
		return err
	}
	if seq >= u.tail {
		return nil
	}
	err = p.db.ReadLog(ctx, seq+1, func(l kv.LogEntry) error {
		if err := record.Deltas(l.Data, add); err != nil {
			return err
		}
		if l.Seq >= u.tail {
			return errStop
		}
		return nil
	})
	if errors.Is(err, kv.ErrTrimmed) {
		u.stored = nil // brought up to date and trimmed since the snapshot; the next check compares them
		return nil
	}
	if errors.Is(err, errStop) {
		err = nil
	}
	return err
}

// walk reads every record of the snapshot.
func (p *pass) walk(ctx context.Context, it kv.Iterator) error {
	sections := []struct {
		tag  byte
		fn   func(k, v []byte) error
		bare bool // the value is not read
	}{
		{tag: record.TagNull, fn: p.null},
		{tag: record.TagCurrent, fn: p.version},
		{tag: record.TagOld, fn: p.version},
		{tag: record.TagUpload, fn: p.upload},
		{tag: record.TagPart, fn: p.part},
		{tag: record.TagParts, fn: p.partList},
		{tag: record.TagOpening, fn: p.opening},
		{tag: record.TagGarbage, fn: p.garbage},
		{tag: record.TagRef, fn: p.count},
		{tag: record.TagData, fn: p.content, bare: true}, // readAll reads the contents themselves
		{tag: record.TagTierBlob, fn: p.tierBlob},
		{tag: record.TagTierGarbage, fn: p.tierGarbage},
		{tag: record.TagOutboard, fn: p.tierPart, bare: true},
	}
	seen := 0
	for _, sec := range sections {
		for ok := it.SeekGE([]byte{sec.tag}); ok && it.Key()[0] == sec.tag; ok = it.Next() {
			if seen++; seen%checkEvery == 0 {
				if err := ctx.Err(); err != nil {
					return err
				}
			}
			var v []byte
			var err error
			if !sec.bare {
				if v, err = it.Value(); err != nil {
					return err
				}
			}
			err = sec.fn(it.Key(), v)
			if errors.Is(err, record.ErrBroken) {
				err = p.found(Problem{Kind: "record", Detail: fmt.Sprintf("record %q cannot be decoded", it.Key())})
			}
			if err != nil {
				return err
			}
		}
		if err := it.Err(); err != nil {
			return err
		}
	}
	return p.leftovers(it)
}

// leftovers reports what records name and the snapshot does not hold.
func (p *pass) leftovers(it kv.Iterator) error {
	if p.n == 0 {
		for ck := range p.nulls {
			if err := p.found(Problem{
				Kind: "pointer", Bucket: p.names[binary.BigEndian.Uint64([]byte(ck)[1:])], Key: ck[9:], VersionID: record.NullID,
				Detail: "a pointer leads to no noncurrent version", Repaired: p.mend([]byte(ck)),
			}); err != nil {
				return err
			}
		}
		for _, l := range p.lists {
			if err := p.missing(l.owner, "the part list is not there"); err != nil {
				return err
			}
		}
	}
	if len(p.data) == 0 {
		return nil
	}
	// Rare: a second walk finds out whose the missing contents are.
	for _, tag := range []byte{record.TagCurrent, record.TagOld} {
		for ok := it.SeekGE([]byte{tag}); ok && it.Key()[0] == tag; ok = it.Next() {
			v, err := it.Value()
			if err != nil {
				return err
			}
			var r record.Record
			item, err := newItem(it.Key(), v)
			if err != nil || record.Decode(&r, v) != nil || r.Multipart || !p.data[r.Data] {
				continue // what cannot be decoded was reported before
			}
			if err := p.missing(p.problem(item), "the content is not there"); err != nil {
				return err
			}
		}
		if err := it.Err(); err != nil {
			return err
		}
	}
	return nil
}

// item names a stored version.
type item struct {
	bucketID  uint64
	key       string
	versionID string
}

func newItem(k, v []byte) (it item, err error) {
	it.bucketID, it.key, it.versionID, err = record.VersionAt(k, v)
	return it, err
}

func (p *pass) missing(where Problem, detail string) error {
	where.Kind, where.Detail = "missing", detail
	return p.found(where)
}

// problem names a version.
func (p *pass) problem(item item) Problem {
	return Problem{Bucket: p.names[item.bucketID], Key: item.key, VersionID: item.versionID}
}

func (p *pass) null(k, v []byte) error {
	if len(v) != record.OrderLen {
		return record.ErrBroken
	}
	ck := bytes.Clone(k)
	ck[0] = record.TagCurrent
	p.nulls[string(ck)] = true
	return nil
}

// version looks at one c or v record.
func (p *pass) version(k, v []byte) error {
	item, err := newItem(k, v)
	if err != nil {
		return err
	}
	var r record.Record
	if err := record.Decode(&r, v); err != nil {
		return err
	}
	where := p.problem(item)
	if p.n == 0 {
		if err := p.versionOnce(k, item, &r, where); err != nil {
			return err
		}
	}
	if l := r.Location; l != nil {
		p.noteTier(l, &r, where)
	}
	switch {
	case r.Multipart:
		l := list{size: r.Size, owner: where}
		if r.Location != nil {
			l.tier = r.Location.ID
		}
		p.lists[r.Data] = l
	case r.Blob != record.BlobID{}:
		p.note(r.Blob, r.Size, r.Shared, where, "")
	case r.Data != 0 && p.dataSlice(r.Data):
		p.data[r.Data] = true
	}
	return nil
}

// versionOnce does what does not depend on the slice.
func (p *pass) versionOnce(k []byte, item item, r *record.Record, where Problem) error {
	p.sum.Versions++
	one := record.Usage{Versions: 1, Bytes: r.Size}
	if r.StorageClass != "" {
		c := record.Counter{Bucket: item.bucketID, Class: r.StorageClass}
		p.counted[c] = p.counted[c].Plus(one, 1)
	}
	if k[0] == record.TagCurrent && !r.DeleteMarker {
		one.Objects++
	}
	c := record.Counter{Bucket: item.bucketID}
	p.counted[c] = p.counted[c].Plus(one, 1)
	if where.Bucket == "" {
		where.Kind, where.Detail = "bucket", fmt.Sprintf("belongs to bucket %d, which does not exist", item.bucketID)
		if err := p.found(where); err != nil {
			return err
		}
	}
	if k[0] != record.TagOld {
		return nil
	}
	ck := record.CurrentKey(item.bucketID, item.key)
	if r.Null {
		if !p.nulls[string(ck)] {
			where.Kind, where.Detail = "pointer", "a noncurrent \"null\" version has no pointer"
			where.Repaired = p.mend(ck)
			if err := p.found(where); err != nil {
				return err
			}
		}
		delete(p.nulls, string(ck))
	}
	if escaped := k[:len(k)-record.OrderLen]; !bytes.Equal(escaped, p.lastOld) {
		p.lastOld = append(p.lastOld[:0], escaped...)
		if !p.current.SeekGE(ck) || !bytes.Equal(p.current.Key(), ck) {
			if err := p.current.Err(); err != nil {
				return err
			}
			where.Kind, where.Detail = "record", "noncurrent versions without a current one"
			where.Repaired = p.mend(ck)
			return p.found(where)
		}
	}
	return nil
}

// mend has what follows from the noncurrent versions of a key put right, where repairs are asked for.
func (p *pass) mend(ck []byte) bool {
	if p.repair {
		p.repairs = append(p.repairs, func(ctx context.Context) error { return p.mendKey(ctx, ck) })
	}
	return p.repair
}

// mendKey sets or removes the pointer to the noncurrent version of an object that is "null", and makes the newest version
// the current one where there is none.
func (p *pass) mendKey(ctx context.Context, ck []byte) error {
	id, key, err := record.ParseVersionKey(ck)
	if err != nil {
		return err
	}
	live := false
	err = p.db.Update(ctx, func(tx kv.Tx) error {
		cur, err := kv.Find(tx, nil, ck)
		if err != nil {
			return err
		}
		lower := record.AppendOldPrefix(nil, id, key)
		promote := cur == nil
		tx.Delete(record.NullKey(ck))
		return kv.Scan(tx, lower, record.Successor(lower), func(k, v []byte) error {
			var l record.Listed
			if err := record.DecodeListed(&l, v); err != nil {
				return err
			}
			if promote { // the newest comes first
				promote = false
				tx.Set(ck, bytes.Clone(v))
				tx.Delete(bytes.Clone(k))
				live = l.Flags&record.FlagDeleteMarker == 0
				return nil
			}
			if l.Flags&record.FlagNull != 0 {
				tx.Set(record.NullKey(ck), bytes.Clone(k[len(k)-record.OrderLen:]))
			}
			return nil
		})
	}, ck)
	if err != nil || !live {
		return err
	}
	one := record.Usage{Objects: 1}
	return p.ns.AdjustUsage(ctx, p.names[id], record.Counter{Bucket: id}, one, one)
}

// note takes down one use of a blob.
func (p *pass) note(id record.BlobID, size int64, shared bool, user Problem, part string) {
	if id == (record.BlobID{}) || !p.blobSlice(id) {
		return
	}
	u := p.uses[id]
	if u == nil {
		u = &use{size: size, user: user, part: part}
		p.uses[id] = u
	}
	u.n++
	u.private = u.private || !shared
}

// partList looks at the part list of a multipart version.
func (p *pass) partList(k, v []byte) error {
	if len(k) != 9 {
		return record.ErrBroken
	}
	id := binary.BigEndian.Uint64(k[1:])
	l, ok := p.lists[id]
	if !ok {
		if p.n > 0 {
			return nil
		}
		return p.orphanContent(k)
	}
	delete(p.lists, id)
	parts, err := record.DecodePartList(v)
	if err != nil {
		return err
	}
	size, filled := int64(0), 0
	for i := range parts {
		size += parts[i].Size
		if parts[i].Size > 0 {
			filled++
		}
		p.note(parts[i].Blob, parts[i].Size, parts[i].Shared, l.owner, "")
	}
	if u := p.uses[l.tier]; u != nil {
		u.parts = max(u.parts, filled)
	}
	if size != l.size && p.n == 0 {
		where := l.owner
		where.Kind, where.Detail = "record", fmt.Sprintf("the parts have %d bytes, the version %d", size, l.size)
		return p.found(where)
	}
	return nil
}

func (p *pass) upload(k, v []byte) error {
	if len(k) < 9+2+record.UploadIDLen {
		return record.ErrBroken
	}
	p.uploads[[record.UploadIDLen]byte(k[len(k)-record.UploadIDLen:])] = true
	if p.n == 0 {
		p.sum.Uploads++
	}
	var r record.Record
	return record.Decode(&r, v)
}

func (p *pass) part(k, v []byte) error {
	var part record.Part
	if len(k) != 1+record.UploadIDLen+2 {
		return record.ErrBroken
	}
	if err := record.DecodePart(&part, v); err != nil {
		return err
	}
	id := [record.UploadIDLen]byte(k[1:])
	where := Problem{Detail: fmt.Sprintf("part %d of upload %s", part.Number, hex.EncodeToString(id[:]))}
	p.note(part.Blob, part.Size, part.Shared, where, string(k))
	if p.uploads[id] || p.n > 0 {
		return nil
	}
	where.Kind, where.Repaired = "orphan-part", p.repair
	where.Detail += ", which does not exist"
	if p.repair {
		key := bytes.Clone(k)
		p.repairs = append(p.repairs, func(ctx context.Context) error {
			return p.ns.DropPart(ctx, key, &part)
		})
	}
	return p.found(where)
}

func (p *pass) opening(k, _ []byte) error { return p.listOpen(k[1:]) }
func (p *pass) garbage(k, _ []byte) error { return p.listOpen(k[min(9, len(k)):]) }

func (p *pass) listOpen(b []byte) error {
	if len(b) != len(record.BlobID{}) {
		return record.ErrBroken
	}
	if id := record.BlobID(b); p.blobSlice(id) {
		p.open[id] = true
	}
	return nil
}

func (p *pass) count(k, v []byte) error {
	if len(k) != 1+len(record.BlobID{}) {
		return record.ErrBroken
	}
	n, used := binary.Uvarint(v)
	if used <= 0 {
		return record.ErrBroken
	}
	id := record.BlobID(k[1:])
	if !p.blobSlice(id) {
		return nil
	}
	u := p.uses[id]
	if u == nil {
		u = &use{user: Problem{Detail: "no record uses it"}}
		p.uses[id] = u
	}
	u.count = int64(n)
	return nil
}

// content looks at the key of one inline content.
func (p *pass) content(k, _ []byte) error {
	if len(k) != 9 {
		return record.ErrBroken
	}
	id := binary.BigEndian.Uint64(k[1:])
	switch {
	case !p.dataSlice(id):
		return nil
	case p.data[id]:
		delete(p.data, id)
		return nil
	}
	return p.orphanContent(k)
}

func (p *pass) orphanContent(k []byte) error {
	if p.repair {
		key := bytes.Clone(k)
		p.repairs = append(p.repairs, func(ctx context.Context) error {
			return p.db.Update(ctx, func(tx kv.Tx) error {
				tx.Delete(key)
				return nil
			})
		})
	}
	return p.found(Problem{Kind: "orphan-content", Detail: fmt.Sprintf("content %x belongs to no version", k), Repaired: p.repair})
}

// counters compares the counters with the records.
func (p *pass) counters(u *counters) error {
	all := maps.Clone(p.counted)
	maps.Copy(all, u.memory)
	maps.Copy(all, u.stored)
	for c := range all {
		if _, ok := u.memory[record.Counter{Bucket: c.Bucket}]; !ok {
			continue
		}
		if c.Class == "" {
			p.sum.Buckets++
		}
		want, have, stored := p.counted[c], u.memory[c], u.stored[c]
		if u.stored == nil {
			stored = want
		}
		if have == want && stored == want {
			continue
		}
		name := p.names[c.Bucket]
		if p.repair {
			p.repairs = append(p.repairs, func(ctx context.Context) error {
				return p.ns.AdjustUsage(ctx, name, c, want.Plus(have, -1), want.Plus(stored, -1))
			})
		}
		detail := fmt.Sprintf("counters say %+v, stored ones %+v, the records %+v", have, stored, want)
		if c.Class != "" {
			detail = "storage class " + c.Class + ": " + detail
		}
		if err := p.found(Problem{Kind: "counters", Bucket: name, Repaired: p.repair, Detail: detail}); err != nil {
			return err
		}
	}
	return nil
}

// files compares the blobs that records use with the files, and the counts of shared ones.
func (p *pass) files(ctx context.Context) error {
	ids := make([]record.BlobID, 0, len(p.uses))
	for id := range p.uses {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b record.BlobID) int { return bytes.Compare(a[:], b[:]) })
	for _, id := range ids {
		u := p.uses[id]
		switch {
		case u.tier != nil && u.n > 0:
			p.sum.TierBlobs++
		case u.n > 0:
			p.sum.Blobs++
		}
		where := u.user
		where.Blob = id.String()
		if want := int64(u.n); u.count != want && (want > 1 || u.count != 0) || u.n > 1 && u.private {
			where.Kind = "references"
			where.Detail = fmt.Sprintf("%d records use the blob, its count says %d, taken for unshared: %v", u.n, u.count, u.private)
			where.Repaired = p.repair && !u.private
			if where.Repaired {
				p.repairs = append(p.repairs, func(ctx context.Context) error {
					return p.ns.AdjustReferences(ctx, id, u.n-int(max(1, u.count)))
				})
			}
			if err := p.found(where); err != nil {
				return err
			}
		}
		if u.n == 0 {
			continue
		}
		if u.tier != nil {
			if err := p.registered(id, u); err != nil {
				return err
			}
			continue
		}
		size, err := p.blobs.Size(blobs.ID(id))
		if err == nil && size >= u.size {
			continue
		}
		if err == nil {
			err = fmt.Errorf("the file has %d bytes, the part alone %d", size, u.size)
		}
		gone, cerr := p.gone(ctx, u, id)
		if cerr != nil {
			return cerr
		}
		if gone {
			continue
		}
		where.Kind, where.Repaired = "missing", false
		where.Detail = strings.TrimPrefix(u.user.Detail+": "+err.Error(), ": ")
		if err := p.found(where); err != nil {
			return err
		}
	}
	if err := p.tierLeftovers(); err != nil {
		return err
	}
	for id := range p.listed {
		if p.open[id] || p.uses[id] != nil && p.uses[id].n > 0 {
			continue
		}
		if _, err := p.blobs.Size(blobs.ID(id)); err != nil {
			continue // removed since it was listed
		}
		where := Problem{Kind: "orphan-file", Blob: id.String(), Detail: p.describeBlob(id), Repaired: p.repair}
		if p.repair {
			if err := p.blobs.Remove(blobs.ID(id)); err != nil {
				return err
			}
		}
		if err := p.found(where); err != nil {
			return err
		}
	}
	return nil
}

// gone reports whether the user of a blob that was not found is gone too: removed since the snapshot.
func (p *pass) gone(ctx context.Context, u *use, id record.BlobID) (bool, error) {
	if u.part != "" {
		var part record.Part
		err := p.db.View(ctx, func(r kv.Reader) error {
			v, err := kv.Find(r, nil, []byte(u.part))
			if v == nil || err != nil {
				return err
			}
			return record.DecodePart(&part, v)
		}, record.UploadLock([record.UploadIDLen]byte([]byte(u.part)[1:])))
		return part.Blob != id, err
	}
	v, err := p.ns.Head(ctx, u.user.Bucket, u.user.Key, u.user.VersionID)
	if firn.KindOf(err) == firn.NotFound {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return !slices.ContainsFunc(v.Parts, func(x record.Part) bool { return x.Blob == id }), nil
}

// describeBlob says what an orphan was, from its own label.
func (c *checker) describeBlob(id record.BlobID) string {
	f, err := c.blobs.OpenBlob(blobs.ID(id))
	if err != nil {
		return "no record uses it"
	}
	defer func() { _ = f.Close() }() // read only
	r, err := block.Open(f, "")
	if err != nil {
		return "no record uses it; " + err.Error()
	}
	l, err := record.DecodeLabel(r.Label())
	if err != nil {
		return "no record uses it; " + err.Error()
	}
	return fmt.Sprintf("no record uses it; written for %s", l.Bucket+"/"+l.Key)
}
