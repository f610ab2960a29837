package plain

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/blake3"

	"firn"
	"firn/blob"
)

const (
	cataloguePrefix  = "catalogue/"
	catalogueSuffix  = ".jsonl.zst"
	catalogueVersion = 1

	maxSegment = 64 << 20 // bytes of a segment, unpacked
	maxLine    = 8 << 20  // bytes of a line: a record and a version's check data, in base64
	tellAfter  = 100_000  // entries of the journal, of nothing the tier has, after which a segment says so
	segmentTo  = 4 << 20  // bytes of lines after which another segment begins
)

// Entry is one line of the catalogue. The latest of a bucket, or of a version, is the one that counts.
type Entry struct {
	Bucket  string `json:"bucket"`
	Key     string `json:"key,omitempty"` // "" for an entry about the bucket itself
	Version string `json:"version,omitempty"`
	Removed bool   `json:"removed,omitempty"`

	// What people may want to know. Record says it, too.
	Size     int64     `json:"size,omitempty"`
	Modified time.Time `json:"modified,omitzero"`
	ETag     string    `json:"etag,omitempty"`

	// Blob is the name of the blob that has the version's bytes; "" where this tier has none.
	Blob string `json:"blob,omitempty"`
	// BLAKE3 is that of the blob.
	BLAKE3 string `json:"blake3,omitempty"`
	// Record is the namespace's record of the bucket or version, in its own encoding. LoadRecord reads one that is long.
	Record []byte `json:"record,omitempty"`
	// RecordBlob is the name of the blob that has the record, where that is long.
	RecordBlob string `json:"record_blob,omitempty"`
}

// head is a segment's first line, and foot its last.
type head struct {
	Firn    string    `json:"firn"` // "tier catalogue"
	Version int       `json:"version"`
	Site    string    `json:"site"`
	Number  uint64    `json:"number"`
	Written time.Time `json:"written"`
	// Full is "begin" in the first segment of a catalogue that does not build on what is before, "end" in its last,
	// "both" where these are one.
	Full string `json:"full,omitempty"`
	// Journal is the number of the last entry of the site's journal that the segment knows of.
	Journal uint64 `json:"journal"`
}

type foot struct {
	Lines  int    `json:"lines"`
	BLAKE3 string `json:"blake3"` // of all lines before, line feeds included
}

const firnWord = "tier catalogue"

func segmentKey(n uint64) string {
	return fmt.Sprintf("%s%020d%s", cataloguePrefix, n, catalogueSuffix)
}

func segmentNumber(key string) (uint64, bool) {
	s, ok := strings.CutSuffix(strings.TrimPrefix(key, cataloguePrefix), catalogueSuffix)
	if !ok || len(s) != 20 {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 10, 64)
	return n, err == nil
}

// Catalogue is that of one tier. It is written by one goroutine at a time.
type Catalogue struct {
	store   *blob.Store
	site    string
	next    uint64 // number of the next segment
	journal atomic.Uint64
	told    uint64 // what the last segment says of journal
	since   int    // segments since the last full one
	damaged bool   // the last segment cannot be read
	lost    bool   // nor can any
	// records are the long ones that are known to be there. Rewrite leaves those that it names.
	records map[string]bool
}

// OpenCatalogue finds the end of the catalogue in store, for writing by the site.
func OpenCatalogue(ctx context.Context, store *blob.Store, site string) (*Catalogue, error) {
	numbers, err := segments(ctx, store)
	if err != nil {
		return nil, err
	}
	c := &Catalogue{store: store, site: site, next: 1, records: map[string]bool{}}
	if len(numbers) == 0 {
		return c, nil
	}
	last := numbers[len(numbers)-1]
	c.next, c.since = last+1, len(numbers)
	// The last ones may be such as the place took and did not keep: the site gave up what they told of, or told it again.
	for _, n := range slices.Backward(numbers) {
		h, err := readSegment(ctx, store, n, func(Entry) error { return nil })
		switch firn.KindOf(err) {
		case firn.NotFound:
			return nil, &firn.Error{Kind: firn.Unavailable, Op: "read catalogue", Subject: segmentKey(n), Err: errors.New("it is listed and cannot be read")}
		case firn.Corrupt:
			c.damaged = true
			continue
		}
		// The numbers of another site's journal say nothing of this one's.
		if err == nil && h.Site == site {
			c.told = h.Journal
			c.journal.Store(h.Journal)
		}
		return c, err
	}
	c.lost = true
	return c, nil
}

// Damaged reports whether the last segment cannot be read, so that the catalogue is to be written anew before anything
// relies on it.
func (c *Catalogue) Damaged() bool { return c.damaged }

// Lost reports whether there are segments and none can be read.
func (c *Catalogue) Lost() bool { return c.lost }

// Journal returns up to which entry of the journal the catalogue knows what happened. It may be called by others.
func (c *Catalogue) Journal() uint64 { return c.journal.Load() }

// Segments returns how many segments a reader would have to read.
func (c *Catalogue) Segments() int { return c.since }

// Append adds entries, in one segment where they fit. journal is the last entry of the site's journal that they, or those
// before, tell of. Nothing to add is only written down now and then. After an error the segment may be there, or not; the
// next Append tries the same number.
func (c *Catalogue) Append(ctx context.Context, journal uint64, list []Entry) error {
	journal = max(journal, c.journal.Load())
	if len(list) == 0 && journal-c.told < tellAfter {
		c.journal.Store(journal)
		return nil
	}
	w := newSegment()
	for _, e := range list {
		if w.plain.Len() > segmentTo {
			if err := c.put(ctx, w, "", c.told); err != nil {
				return err
			}
			w = newSegment()
		}
		err := c.part(ctx, &e)
		if err == nil {
			err = w.add(&e)
		}
		if err != nil {
			return err
		}
	}
	if err := c.put(ctx, w, "", journal); err != nil {
		return err
	}
	c.journal.Store(journal)
	return nil
}

// put writes the next segment, and reads it back: the versions it tells of are found by it alone.
func (c *Catalogue) put(ctx context.Context, w *segment, full string, journal uint64) error {
	p, err := w.finish(head{
		Firn: firnWord, Version: catalogueVersion, Site: c.site, Number: c.next, Written: time.Now().UTC().Truncate(time.Second),
		Full: full, Journal: journal,
	})
	if err != nil {
		return err
	}
	if err := c.putVerified(ctx, segmentKey(c.next), p); err != nil {
		return err
	}
	c.next++
	c.since++
	c.told = journal
	return nil
}

func (c *Catalogue) putVerified(ctx context.Context, key string, p []byte) error {
	if err := c.store.PutBytes(ctx, key, p); err != nil {
		return err
	}
	back, err := c.store.ReadAll(ctx, key, int64(len(p)))
	if k := firn.KindOf(err); err != nil && k != firn.NotFound && k != firn.Invalid {
		return err
	}
	if !bytes.Equal(p, back) {
		return firn.E("write catalogue", key, firn.NewError(firn.Corrupt, "the tier does not give back what it was given"))
	}
	return nil
}

// Rewrite writes the whole catalogue anew from what all gives, and deletes what was before. A run that is cut off leaves
// the old one in force: only the last segment knows of journal.
func (c *Catalogue) Rewrite(ctx context.Context, journal uint64, all func(add func(Entry) error) error) error {
	begin, full := c.next, "begin"
	w := newSegment()
	records := map[string]bool{}
	err := all(func(e Entry) error {
		if w.plain.Len() > segmentTo {
			if err := c.put(ctx, w, full, c.told); err != nil {
				return err
			}
			w, full = newSegment(), ""
		}
		if err := c.part(ctx, &e); err != nil {
			return err
		}
		if e.RecordBlob != "" {
			records[e.RecordBlob] = true
		}
		return w.add(&e)
	})
	if err != nil {
		return err
	}
	last := "end"
	if full == "begin" {
		last = "both"
	}
	if err := c.put(ctx, w, last, journal); err != nil {
		return err
	}
	c.journal.Store(journal)
	c.damaged = false
	numbers, err := segments(ctx, c.store)
	if err != nil {
		return err
	}
	var old []string
	for _, n := range numbers {
		if n < begin {
			old = append(old, segmentKey(n))
		}
	}
	c.since = len(numbers) - len(old)
	if err := c.store.Delete(ctx, old...); err != nil {
		return err
	}
	return c.sweepRecords(ctx, records)
}

// segment is one that is being made.
type segment struct {
	plain bytes.Buffer
	enc   *json.Encoder
	lines int
}

func newSegment() *segment {
	w := &segment{}
	w.enc = json.NewEncoder(&w.plain)
	w.enc.SetEscapeHTML(false)
	return w
}

func (w *segment) add(e *Entry) error {
	n := w.plain.Len()
	if err := w.enc.Encode(e); err != nil {
		return err
	}
	w.lines++
	if w.plain.Len()-n > maxLine || w.plain.Len() > maxSegment-maxLine {
		return firn.NewError(firn.Invalid, "a segment of the catalogue becomes too large")
	}
	return nil
}

func (w *segment) finish(h head) ([]byte, error) {
	first, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	all := append(append(first, '\n'), w.plain.Bytes()...)
	sum := blake3.Sum256(all)
	last, err := json.Marshal(foot{Lines: w.lines, BLAKE3: hex.EncodeToString(sum[:])})
	if err != nil {
		return nil, err
	}
	all = append(append(all, last...), '\n')
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer enc.Close()
	return enc.EncodeAll(all, nil), nil
}

// segments returns the numbers of the segments that are there.
func segments(ctx context.Context, store *blob.Store) ([]uint64, error) {
	var all []uint64
	for info, err := range store.List(ctx, cataloguePrefix) {
		if err != nil {
			return nil, err
		}
		if n, ok := segmentNumber(info.Key); ok {
			all = append(all, n)
		}
	}
	return all, nil
}

// ReadCatalogue calls fn for the entries in order, those of the last full catalogue and what came after it. It fails
// with firn.Corrupt, naming the blob, where a segment is damaged or missing, and with firn.NotFound where there is none.
func ReadCatalogue(ctx context.Context, store *blob.Store, fn func(Entry) error) error {
	numbers, err := segments(ctx, store)
	if err != nil {
		return err
	}
	if len(numbers) == 0 {
		return &firn.Error{Kind: firn.NotFound, Op: "read catalogue", Subject: store.Name(), Err: errors.New("there is no catalogue")}
	}
	start, err := lastFull(ctx, store, numbers)
	if err != nil {
		return err
	}
	for i, n := range numbers[start:] {
		if want := numbers[start] + uint64(i); n != want {
			return &firn.Error{Kind: firn.Corrupt, Op: "read catalogue", Subject: segmentKey(want), Err: errors.New("the segment is missing")}
		}
		if _, err := readSegment(ctx, store, n, fn); err != nil {
			return err
		}
	}
	return nil
}

// lastFull returns where the last whole catalogue begins. Before the first one was written the catalogue begins with
// segment 1.
func lastFull(ctx context.Context, store *blob.Store, numbers []uint64) (int, error) {
	ended := false
	for i := len(numbers) - 1; i >= 0; i-- {
		h, err := readHead(ctx, store, numbers[i])
		if err != nil {
			return 0, err
		}
		switch {
		case h.Full == "both", h.Full == "begin" && ended:
			return i, nil
		case h.Full == "begin": // cut off: its entries are true nevertheless
		case h.Full == "end":
			ended = true
		}
	}
	if numbers[0] != 1 {
		return 0, &firn.Error{Kind: firn.Corrupt, Op: "read catalogue", Subject: segmentKey(numbers[0] - 1), Err: errors.New("the segment is missing")}
	}
	return 0, nil
}

func readHead(ctx context.Context, store *blob.Store, n uint64) (head, error) {
	var h head
	err := lines(ctx, store, n, func(i int, line []byte) error {
		var err error
		if h, err = parseHead(line, n); err != nil {
			return err
		}
		return errEnough
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return h, segmentError(n, err)
}

var errEnough = errors.New("enough")

func parseHead(line []byte, n uint64) (h head, err error) {
	if err := json.Unmarshal(line, &h); err != nil || h.Firn != firnWord || h.Number != n {
		return h, firn.NewError(firn.Corrupt, "it is no segment of a catalogue, or another one")
	}
	if h.Version != catalogueVersion {
		return h, firn.NewError(firn.Unsupported, fmt.Sprintf("version %d of a later firn: update this one", h.Version))
	}
	return h, nil
}

func segmentError(n uint64, err error) error {
	if err == nil || firn.KindOf(err) != firn.Corrupt && firn.KindOf(err) != firn.Unsupported {
		return err
	}
	return firn.E("read catalogue", segmentKey(n), err)
}

// readSegment calls fn for the entries of a segment once all of it was found to be right.
func readSegment(ctx context.Context, store *blob.Store, n uint64, fn func(Entry) error) (head, error) {
	var (
		h       head
		entries []Entry
		ended   bool
		sum     = blake3.New()
		bad     = firn.NewError(firn.Corrupt, "the segment is damaged")
	)
	err := lines(ctx, store, n, func(i int, line []byte) (err error) {
		switch {
		case ended:
			return bad
		case i == 0:
			h, err = parseHead(line, n)
		case bytes.HasPrefix(line, []byte(`{"lines":`)):
			var f foot
			if json.Unmarshal(line, &f) != nil || f.Lines != len(entries) || f.BLAKE3 != hex.EncodeToString(sum.Sum(nil)) {
				return bad
			}
			ended = true
			return nil
		default:
			var e Entry
			if json.Unmarshal(line, &e) != nil || e.Bucket == "" {
				return bad
			}
			entries = append(entries, e)
		}
		_, _ = sum.Write(line)
		_, _ = sum.Write([]byte{'\n'})
		return err
	})
	if err == nil && !ended {
		err = bad
	}
	if err != nil {
		return h, segmentError(n, err)
	}
	for _, e := range entries {
		if err := fn(e); err != nil {
			return h, err
		}
	}
	return h, nil
}

// lines calls fn for each line of a segment.
func lines(ctx context.Context, store *blob.Store, n uint64, fn func(i int, line []byte) error) error {
	packed, err := store.ReadAll(ctx, segmentKey(n), maxSegment)
	if err != nil {
		return err
	}
	dec, err := zstd.NewReader(bytes.NewReader(packed), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(32<<20))
	if err != nil {
		return firn.NewError(firn.Corrupt, "the segment is damaged")
	}
	defer dec.Close()
	sc := bufio.NewScanner(io.LimitReader(dec, maxSegment+1))
	sc.Buffer(make([]byte, 64<<10), maxLine+1)
	for i := 0; sc.Scan(); i++ {
		if err := fn(i, sc.Bytes()); err != nil {
			return err
		}
	}
	if sc.Err() != nil {
		return firn.NewError(firn.Corrupt, "the segment is damaged: "+sc.Err().Error())
	}
	return nil
}
