package cache

import (
	"encoding/json"
	"errors"
	"hash/crc32"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"firn"
	"firn/vfs"
)

// recover reads what is in the directory. Files that cannot be read are removed: a cache holds nothing that cannot be
// fetched again.
func (d *Disk) recover() error {
	if err := d.readPins(); err != nil {
		return err
	}
	names, err := d.fs.List(d.opt.Dir)
	if err != nil {
		return err
	}
	var numbers []uint64
	for _, name := range names {
		hex, ok := strings.CutSuffix(name, ".seg")
		n, err := strconv.ParseUint(hex, 16, 64)
		if ok && err == nil && len(hex) == 16 {
			numbers = append(numbers, n)
		} else if strings.HasSuffix(name, ".new") {
			if err := d.fs.Remove(d.fs.PathJoin(d.opt.Dir, name)); err != nil {
				return err
			}
		}
	}
	slices.Sort(numbers)
	segments := make([]*segment, 0, len(numbers))
	for _, n := range numbers {
		seg := &segment{number: n, path: d.path(n)}
		fi, err := d.fs.Stat(seg.path)
		if err != nil {
			return err
		}
		seg.size = fi.Size()
		segments = append(segments, seg)
		d.mu.held += seg.size
		d.w.last = max(d.w.last, n)
	}
	// The budget may have become smaller. The oldest go first, and before anything is read.
	for len(segments) > 0 && d.mu.held+2*d.opt.segment > d.limit {
		if err := d.fs.Remove(segments[0].path); err != nil {
			return err
		}
		// In this order, as when they are evicted.
		if err := vfs.SyncDir(d.fs, d.opt.Dir); err != nil {
			return err
		}
		d.mu.held -= segments[0].size
		segments = segments[1:]
	}
	for _, seg := range segments {
		if seg.file, err = d.fs.Open(seg.path); err != nil {
			return err
		}
		d.mu.segments = append(d.mu.segments, seg)
		d.load(seg)
	}
	for len(d.mu.segments) > 0 && d.mu.index.memory > d.opt.Memory {
		d.w.d = d
		d.w.evictOldest(false)
	}
	return nil
}

// load puts the blocks of a segment in the index, and applies its purges to what is there.
func (d *Disk) load(seg *segment) {
	records, at, ok := readTrailer(seg)
	if !ok {
		records, at = scan(seg)
	}
	now := time.Now()
	for i := range records {
		r := &records[i]
		switch {
		case r.kind != recordBlock:
			d.mu.index.remove(r.match())
		case !expired(r.expires, now):
			d.mu.index.insert(r.key, seg, at[i], r.length(), r.expires)
			if seg.oldest == 0 || r.written < seg.oldest {
				seg.oldest = r.written
			}
		default:
			// An older block under the key was replaced by this one all the same.
			if e := d.mu.index.find(r.key); e != nil {
				d.mu.index.drop(e)
			}
		}
	}
}

func readTrailer(seg *segment) ([]record, []int64, bool) {
	if seg.size < trailerFoot {
		return nil, nil, false
	}
	var foot [trailerFoot]byte
	if _, err := seg.file.ReadAt(foot[:], seg.size-trailerFoot); err != nil {
		return nil, nil, false
	}
	off, count, sum, ok := parseFoot(foot[:], seg.number, seg.size)
	if !ok || seg.size-trailerFoot-off > maxHeads+recordHead+2*MaxName {
		return nil, nil, false
	}
	p := make([]byte, seg.size-trailerFoot-off)
	if _, err := seg.file.ReadAt(p, off); err != nil || crc32.Checksum(p, castagnoli()) != sum {
		return nil, nil, false
	}
	return parseHeads(p, count, seg.number, off)
}

// scan reads a segment that was not sealed. What is damaged is passed over: behind it may be a purge.
func scan(seg *segment) (records []record, at []int64) {
	const step = 1 << 20
	for off := int64(0); off < seg.size; {
		p := make([]byte, min(recordHead+2*MaxName, seg.size-off))
		if n, err := seg.file.ReadAt(p, off); err != nil && !errors.Is(err, io.EOF) {
			return records, at
		} else if p = p[:n]; n < recordHead {
			return records, at
		}
		r, ok := parseHead(p)
		if ok && r.generation == seg.number && off+int64(r.length()) <= seg.size {
			records, at = append(records, r), append(at, off)
			off += int64(r.length())
			continue
		}
		off++
		for found := false; !found && off < seg.size; {
			p := make([]byte, min(step, seg.size-off))
			n, err := seg.file.ReadAt(p, off)
			if err != nil && !errors.Is(err, io.EOF) || n < len(recordMagic) {
				return records, at
			}
			if i := nextMagic(p[:n], 0); i >= 0 {
				off, found = off+int64(i), true
			} else {
				off += int64(n - len(recordMagic) + 1)
			}
		}
	}
	return records, at
}

const (
	pinsName = "pins.json"
	maxPins  = 64 << 10 // bytes of the file; the reserve of the budget covers it twice
)

type pinsFile struct {
	Version int   `json:"version"`
	Pins    []pin `json:"pins"`
}

type pin struct {
	Object string `json:"object"`
	Prefix bool   `json:"prefix,omitempty"`
}

func (d *Disk) readPins() error {
	f, err := d.fs.Open(d.fs.PathJoin(d.opt.Dir, pinsName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	p, err := io.ReadAll(io.LimitReader(f, maxPins+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	var doc pinsFile
	if err := json.Unmarshal(p, &doc); err != nil || doc.Version != 1 || len(p) > maxPins {
		return firn.NewError(firn.Corrupt, pinsName+" is damaged or of a later version: remove it to go on without its pins")
	}
	for _, p := range doc.Pins {
		d.mu.index.pins = append(d.mu.index.pins, Match{Object: p.Object, Prefix: p.Prefix})
	}
	return nil
}

// Pin implements Pinner. Pinned bytes are at most half of the budget: what is over that is kept like all else.
func (d *Disk) Pin(m Match) error {
	if m.Object == "" && !m.Prefix || len(m.Object) > MaxName {
		return firn.NewError(firn.Invalid, "a pin needs a name of 1 to 4096 bytes, or a prefix")
	}
	m.Version = ""
	return d.changePins(m, func(pins []Match) ([]Match, error) {
		if slices.Contains(pins, m) {
			return pins, nil
		}
		return append(pins, m), nil
	})
}

// Unpin implements Pinner.
func (d *Disk) Unpin(m Match) error {
	m.Version = ""
	return d.changePins(m, func(pins []Match) ([]Match, error) {
		i := slices.Index(pins, m)
		if i < 0 {
			return nil, firn.NewError(firn.NotFound, "nothing is pinned under that name")
		}
		return slices.Delete(pins, i, i+1), nil
	})
}

// Pins implements Pinner.
func (d *Disk) Pins() []Match {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return slices.Clone(d.mu.index.pins)
}

func (d *Disk) changePins(m Match, fn func([]Match) ([]Match, error)) error {
	d.pinning.Lock()
	defer d.pinning.Unlock()
	pins, err := fn(d.Pins())
	if err != nil {
		return err
	}
	doc := pinsFile{Version: 1}
	for _, p := range pins {
		doc.Pins = append(doc.Pins, pin{Object: p.Object, Prefix: p.Prefix})
	}
	p, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	if len(p) > maxPins {
		return firn.NewError(firn.NoSpace, "the names of all pins together are too long: pin prefixes")
	}
	if err := d.writeFile(pinsName, p); err != nil {
		return firn.E("write pins to", d.opt.Dir, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mu.index.pins = pins
	d.mu.index.repin(m)
	return nil
}

// writeFile replaces a small file durably.
func (d *Disk) writeFile(name string, p []byte) error {
	path := d.fs.PathJoin(d.opt.Dir, name)
	f, err := d.fs.Create(path+".new", vfs.CategoryState)
	if err != nil {
		return err
	}
	_, err = f.Write(p)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := d.fs.Rename(path+".new", path); err != nil {
		return err
	}
	return vfs.SyncDir(d.fs, d.opt.Dir)
}
