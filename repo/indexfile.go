package repo

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"strings"

	"golang.org/x/sync/errgroup"

	"firn"
	"firn/blob/driver"
	"firn/seal"
)

// An index file is a box with the lists of some packs. Its name is the BLAKE3 of its bytes.
const (
	indexContext = "index"
	indexPackLen = 60       // of a pack's record before its entries
	indexLimit   = 16 << 20 // bytes of the largest index file
	indexEntries = 1 << 16  // entries after which a new file is begun: 2.6 MiB
	indexPacks   = 64       // packs after which one is written, so that a run cut off loses little
	loaders      = 8        // index files that are read at once
)

// appendIndexPack appends a pack's record: id, salt, kind, 3 zero bytes, size, number of entries, entries.
func appendIndexPack(dst []byte, id ID, head packHead, size uint32, list []byte) []byte {
	dst = append(dst, id[:]...)
	dst = append(dst, head.salt[:]...)
	dst = append(dst, byte(head.kind), 0, 0, 0)
	dst = binary.LittleEndian.AppendUint32(dst, size)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(list)/entrySize))
	return append(dst, list...)
}

// indexPack is a pack's record in an index file.
type indexPack struct {
	id   ID
	head packHead
	size uint32
	list []byte // encoded entries, checked
}

// parseIndex calls fn for each pack of an index file's content. It fails with firn.Corrupt, before or after some calls.
func parseIndex(p []byte, fn func(indexPack) error) error {
	bad := firn.NewError(firn.Corrupt, "the index file is damaged")
	for len(p) > 0 {
		if len(p) < indexPackLen {
			return bad
		}
		k := indexPack{
			id: ID(p[:32]), head: packHead{Kind(p[48]), [seal.SaltSize]byte(p[32:48])},
			size: binary.LittleEndian.Uint32(p[52:]),
		}
		n := binary.LittleEndian.Uint32(p[56:])
		if k.id.IsZero() || k.head.kind >= kinds || [3]byte(p[49:52]) != [3]byte{} || n > maxEntries ||
			len(p)-indexPackLen < int(n)*entrySize || k.size > maxPackSize {
			return bad
		}
		k.list = p[indexPackLen : indexPackLen+int(n)*entrySize]
		end := int64(packHeader)
		for l := k.list; len(l) > 0; l = l[entrySize:] {
			e := readEntry(l)
			if !e.check() {
				return bad
			}
			end += int64(e.stored)
		}
		if end+int64(len(k.list))+seal.Overhead+packFooter != int64(k.size) {
			return bad
		}
		if err := fn(k); err != nil {
			return err
		}
		p = p[indexPackLen+len(k.list):]
	}
	return nil
}

// putIndex stores the content of an index file.
func (r *Repo) putIndex(ctx context.Context, content []byte) (ID, error) {
	box := r.boxes.Box(make([]byte, 0, len(content)+seal.BoxOverhead), indexContext, content)
	id := sum(box)
	if err := r.store.PutBytes(ctx, indexPrefix+id.String(), box); err != nil {
		return ID{}, err
	}
	r.cache.put(cacheIndex, id, box)
	return id, nil
}

// readIndex returns the content of an index file of size bytes.
func (r *Repo) readIndex(ctx context.Context, id ID, size int64) ([]byte, error) {
	key := indexPrefix + id.String()
	if size > indexLimit {
		return nil, &firn.Error{Kind: firn.Corrupt, Op: "read", Subject: key, Err: fmt.Errorf("an index file cannot have %d bytes", size)}
	}
	p, cached := r.cache.get(cacheIndex, id)
	if !cached {
		p = make([]byte, size)
		if err := r.readAt(ctx, key, p, 0); err != nil {
			return nil, err
		}
	}
	if sum(p) != id {
		if cached {
			r.cache.drop(cacheIndex, id)
			return r.readIndex(ctx, id, size)
		}
		return nil, &firn.Error{Kind: firn.Corrupt, Op: "read", Subject: key, Err: errors.New("it does not match its name: run 'firn repo repair'")}
	}
	if !cached {
		r.cache.put(cacheIndex, id, p)
	}
	content, err := r.boxes.Unbox(indexContext, p)
	return content, firn.E("read", key, err)
}

// listIDs lists the blobs under a prefix that are named by an id.
func (r *Repo) listIDs(ctx context.Context, prefix string, fn func(ID, driver.Info) error) error {
	for info, err := range r.store.List(ctx, prefix) {
		if err != nil {
			return err
		}
		name := info.Key[strings.LastIndexByte(info.Key, '/')+1:]
		id, err := ParseID(name)
		if err != nil {
			continue
		}
		if err := fn(id, info); err != nil {
			return err
		}
	}
	return nil
}

// errReload: an index file was superseded between the listing and its reading.
var errReload = errors.New("the index changed")

// refresh brings the index in memory to what the place has. Sessions call it after they made themselves known.
//
// The doomed files come first: a pack that is doomed after that waits for the sessions alive then, ours among them; one
// doomed before and deleted since is in no index file that is listed after.
func (r *Repo) refresh(ctx context.Context) error {
	return r.refreshWith(ctx, func(ID, error) bool { return false })
}

// refreshWith is refresh, but leaves out the index files that cannot be read and for which skip returns true.
func (r *Repo) refreshWith(ctx context.Context, skip func(id ID, err error) bool) error {
	select {
	case r.loading <- struct{}{}:
		defer func() { <-r.loading }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	for range 10 {
		err := r.refreshOnce(ctx, skip)
		if errors.Is(err, errReload) {
			continue
		}
		if err == nil {
			r.loaded = true
		}
		return err
	}
	return &firn.Error{Kind: firn.Unavailable, Op: "load index", Subject: r.store.Name(), Err: errors.New("it changes faster than it can be read")}
}

func (r *Repo) refreshOnce(ctx context.Context, skip func(ID, error) bool) error {
	doomed, err := r.readDoomed(ctx)
	if err != nil {
		return err
	}
	set := map[ID]packState{}
	for _, d := range doomed {
		for _, id := range d.Packs {
			set[id] |= packDoomed
		}
		for _, id := range d.Buried {
			set[id] |= packGone
		}
	}
	r.idx.setDoomed(set)

	listed, err := r.listIndex(ctx)
	if err != nil {
		return err
	}
	there := map[ID]bool{}
	for _, f := range listed {
		there[f.id] = true
	}
	gone := map[uint32]bool{}
	for id, n := range r.files {
		if !there[id] {
			gone[n] = true
			delete(r.files, id)
		}
	}
	if len(gone) > 0 {
		r.idx.forgetFiles(gone)
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(loaders)
	begun, skipped := map[uint32]bool{}, make(chan ID, len(listed))
	for _, f := range listed {
		if _, ok := r.files[f.id]; ok {
			continue
		}
		// The file counts as loaded once it is begun: after a failure all that was begun is forgotten.
		n := r.fileCount
		r.fileCount++
		r.files[f.id] = n
		begun[n] = true
		g.Go(func() error {
			err := r.loadIndex(gctx, f.id, f.size, n)
			if err != nil && firn.KindOf(err) != firn.NotFound && skip(f.id, err) {
				skipped <- f.id
				return nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		maps.DeleteFunc(r.files, func(_ ID, n uint32) bool { return begun[n] })
		r.idx.forgetFiles(begun)
		if firn.KindOf(err) == firn.NotFound {
			return errReload
		}
		return err
	}
	close(skipped)
	for id := range skipped {
		delete(r.files, id) // tried again the next time
	}
	return nil
}

// indexFile is an index file as it is listed.
type indexFile struct {
	id   ID
	size int64
}

// listIndex returns the index files in the order of their ids.
func (r *Repo) listIndex(ctx context.Context) ([]indexFile, error) {
	var files []indexFile
	err := r.listIDs(ctx, indexPrefix, func(id ID, info driver.Info) error {
		files = append(files, indexFile{id, info.Size})
		return nil
	})
	return files, err
}

func (r *Repo) loadIndex(ctx context.Context, id ID, size int64, file uint32) error {
	p, err := r.readIndex(ctx, id, size)
	if err != nil {
		return err
	}
	return firn.E("read", indexPrefix+id.String(), parseIndex(p, func(k indexPack) error {
		n := r.idx.addPack(packInfo{id: k.id, salt: k.head.salt, file: file, size: k.size, kind: k.head.kind, state: packStored})
		off := uint32(packHeader)
		for l := k.list; len(l) > 0; l = l[entrySize:] {
			e := readEntry(l)
			r.idx.put(located{e.id, n, off, e.stored, e.plain})
			off += e.stored
		}
		return nil
	}))
}

// ensure loads the index unless it was.
func (r *Repo) ensure(ctx context.Context) error {
	select {
	case r.loading <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	loaded := r.loaded
	<-r.loading
	if loaded {
		return nil
	}
	return r.refresh(ctx)
}
