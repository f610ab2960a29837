package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"

	"firn/test/wire"
)

// Verify compares the server with the notes, and then notes what it found of the operations cut off. It reads every
// key written since the last call and one in eight of the others; with full set it reads all. Both buckets are listed
// whole each time.
func (l *Ledger) Verify(ctx context.Context, full bool) error {
	versions, err := l.client.ListVersions(ctx, l.versioned, "")
	if err != nil {
		return err
	}
	byKey := map[string][]wire.Item{}
	for _, item := range versions {
		byKey[item.Key] = append(byKey[item.Key], item)
	}
	errs := make([]error, len(l.workers))
	var wg sync.WaitGroup
	limit := make(chan struct{}, 8)
	for i, w := range l.workers {
		limit <- struct{}{}
		wg.Go(func() {
			defer func() { <-limit }()
			errs[i] = w.verify(ctx, full, byKey)
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("after round %d: %w", l.round, err)
	}
	if err := errors.Join(l.verifyListing(ctx), l.verifyVersionListing(byKey), l.verifyCurrent(ctx)); err != nil {
		return fmt.Errorf("after round %d: %w", l.round, err)
	}
	return nil
}

func (w *worker) verify(ctx context.Context, full bool, listed map[string][]wire.Item) error {
	rng := rand.New(rand.NewPCG(w.l.opts.Seed, uint64(w.l.round)<<16|uint64(w.n)|1<<63))
	var errs []error
	for _, o := range w.plain {
		if full || o.touched || rng.IntN(8) == 0 {
			errs = append(errs, w.verifyObject(ctx, o))
		}
	}
	for _, h := range w.versions {
		if full {
			for i := range h.versions {
				h.versions[i].checked = false
			}
		}
		if full || h.touched || rng.IntN(8) == 0 {
			errs = append(errs, w.verifyHistory(ctx, h, listed[h.key]))
		}
	}
	return errors.Join(errs...)
}

// verifyObject reads a key and holds it against the acknowledged state and what operations cut off may have made.
func (w *worker) verifyObject(ctx context.Context, o *object) error {
	resp, err := w.l.client.Get(ctx, w.l.plain, o.key, "")
	if err != nil {
		return fmt.Errorf("get %s: %w", o.key, err)
	}
	found, err := w.l.match(resp, o)
	if err != nil {
		return fmt.Errorf("%s: %w%v", o.key, err, &o.trail)
	}
	if found != o.now {
		w.l.stats.unknownNew.Add(1)
	}
	for _, ch := range o.pending {
		if ch.retry == nil || !w.l.opts.Retry {
			continue
		}
		// A completion whose answer was lost can be sent again, whether it happened or not.
		resp, err := w.l.client.CompleteUpload(ctx, w.l.plain, o.key, ch.retry.id, ch.retry.etags)
		if err != nil || resp.Status != 200 {
			return fmt.Errorf("%s: completion sent again: %v, %w%v", o.key, resp, err, &o.trail)
		}
		o.trail.note(w.l.round, "completion sent again")
		if resp, err = w.l.client.Get(ctx, w.l.plain, o.key, ""); err != nil {
			return fmt.Errorf("get %s: %w", o.key, err)
		}
		if err := w.l.same(resp, ch.to); err != nil {
			return fmt.Errorf("%s after its completion was sent again: %w%v", o.key, err, &o.trail)
		}
		found = ch.to
	}
	o.now, o.pending, o.touched = found, nil, false
	return nil
}

// match returns which of the possible states of o the answer shows.
func (l *Ledger) match(resp *wire.Response, o *object) (*content, error) {
	allowed := []*content{o.now}
	for _, ch := range o.pending {
		allowed = append(allowed, ch.to)
	}
	switch resp.Status {
	case 404:
		if !slices.Contains(allowed, nil) {
			return nil, fmt.Errorf("lost: not found, want one of %v", allowed)
		}
		return nil, nil
	case 200:
		var errs []error
		for _, c := range allowed {
			if c == nil {
				continue
			}
			err := l.same(resp, c)
			if err == nil {
				return c, nil
			}
			errs = append(errs, err)
		}
		if len(errs) == 0 {
			return nil, fmt.Errorf("found (id %s) though it was deleted", resp.Header.Get(idHeader))
		}
		return nil, errors.Join(errs...)
	default:
		return nil, fmt.Errorf("answer %v, want one of %v", resp, allowed)
	}
}

// same compares an answer to a GET with a content: id, size, bytes, ETag. It notes the ETag where it was not known.
func (l *Ledger) same(resp *wire.Response, c *content) error {
	l.stats.reads.Add(1)
	if resp.Status != 200 {
		return fmt.Errorf("answer %v, want %v", resp, c)
	}
	if id := resp.Header.Get(idHeader); id != strconv.FormatUint(c.id, 10) {
		return fmt.Errorf("has id %s, want %v", id, c)
	}
	if length := resp.Header.Get("Content-Length"); length != strconv.Itoa(c.size) {
		return fmt.Errorf("Content-Length %s, want %v", length, c)
	}
	if want := l.bytes(c); !bytes.Equal(resp.Body, want) {
		at := 0
		for at < len(want) && at < len(resp.Body) && want[at] == resp.Body[at] {
			at++
		}
		return fmt.Errorf("torn: %d bytes that differ from byte %d on, want %v", len(resp.Body), at, c)
	}
	if c.etag == "" {
		c.etag = resp.ETag()
	}
	if resp.ETag() != c.etag {
		return fmt.Errorf("ETag %q, want %q of %v", resp.ETag(), c.etag, c)
	}
	return nil
}

// verifyHistory holds the listed versions of a key against the notes and reads those not read since they were made.
func (w *worker) verifyHistory(ctx context.Context, h *history, listed []wire.Item) error {
	have := make([]string, 0, len(listed))
	for _, item := range listed {
		have = append(have, item.VersionID)
	}
	want := make([]string, 0, len(h.versions))
	for _, v := range h.versions {
		want = append(want, v.id)
	}
	if p := h.pending; p != nil && !slices.Equal(have, want) {
		w.l.stats.unknownNew.Add(1)
		if p.remove != "" {
			h.versions = slices.DeleteFunc(h.versions, func(v version) bool { return v.id == p.remove })
		} else if len(have) > 0 {
			h.versions = slices.Insert(h.versions, 0, version{id: have[0], c: p.c})
		}
		want = want[:0]
		for _, v := range h.versions {
			want = append(want, v.id)
		}
	}
	if !slices.Equal(have, want) {
		return fmt.Errorf("%s: versions %v, want %v%v", h.key, have, want, &h.trail)
	}
	for i := range h.versions {
		v := &h.versions[i]
		if listed[i].DeleteMarker != (v.c == nil) || listed[i].Latest != (i == 0) {
			return fmt.Errorf("%s: listed %+v, want %v at place %d%v", h.key, listed[i], v.c, i, &h.trail)
		}
		if v.checked || v.c == nil {
			continue
		}
		resp, err := w.l.client.Get(ctx, w.l.versioned, h.key, v.id)
		if err != nil {
			return fmt.Errorf("get %s %s: %w", h.key, v.id, err)
		}
		if err := w.l.same(resp, v.c); err != nil {
			return fmt.Errorf("%s %s: %w%v", h.key, v.id, err, &h.trail)
		}
		v.checked = true
	}
	h.pending, h.touched = nil, false
	return nil
}

// verifyListing holds the listing of the bucket without versions against the notes, which agree with the reads.
func (l *Ledger) verifyListing(ctx context.Context) error {
	want := map[string]*content{}
	for _, w := range l.workers {
		for _, o := range w.plain {
			if o.now != nil {
				want[o.key] = o.now
			}
		}
	}
	return l.compareListing(ctx, l.plain, want)
}

// verifyCurrent does the same for the current objects of the bucket with versions.
func (l *Ledger) verifyCurrent(ctx context.Context) error {
	want := map[string]*content{}
	for _, w := range l.workers {
		for _, h := range w.versions {
			if c := h.latest(); c != nil {
				want[h.key] = c
			}
		}
	}
	return l.compareListing(ctx, l.versioned, want)
}

func (l *Ledger) compareListing(ctx context.Context, bucket string, want map[string]*content) error {
	items, err := l.client.List(ctx, bucket, "")
	if err != nil {
		return err
	}
	last := ""
	for _, item := range items {
		c := want[item.Key]
		switch {
		case item.Key <= last:
			return fmt.Errorf("listing of %s: %q after %q", bucket, item.Key, last)
		case c == nil:
			return fmt.Errorf("listing of %s: %s is listed but not there", bucket, item.Key)
		case item.Size != int64(c.size) || item.ETag != c.etag:
			return fmt.Errorf("listing of %s: %+v, want %v with ETag %q", bucket, item, c, c.etag)
		}
		last = item.Key
		delete(want, item.Key)
	}
	for key, c := range want {
		return fmt.Errorf("listing of %s: %s is missing, which is %v", bucket, key, c)
	}
	return nil
}

// verifyVersionListing finds listed versions of keys the ledger never wrote, and wrong sizes and ETags.
func (l *Ledger) verifyVersionListing(listed map[string][]wire.Item) error {
	for _, w := range l.workers {
		for _, h := range w.versions {
			for i, item := range listed[h.key] {
				if i >= len(h.versions) {
					return fmt.Errorf("%s: more versions listed than the %d noted", h.key, len(h.versions))
				}
				if c := h.versions[i].c; c != nil && (item.Size != int64(c.size) || item.ETag != c.etag) {
					return fmt.Errorf("%s: listed %+v, want %v with ETag %q", h.key, item, c, c.etag)
				}
			}
			delete(listed, h.key)
		}
	}
	for key := range listed {
		return fmt.Errorf("version listing has %s, which nobody wrote", key)
	}
	return nil
}

// Census reads every object that the notes hold as acknowledged, in both buckets, and counts those whose current state
// is neither the acknowledged one nor one that an operation cut off may have made. It changes no notes.
func (l *Ledger) Census(ctx context.Context) (objects, lost int) {
	for _, w := range l.workers {
		for _, o := range w.plain {
			if o.now == nil {
				continue
			}
			objects++
			resp, err := l.client.Get(ctx, l.plain, o.key, "")
			if err == nil {
				_, err = l.match(resp, o)
			}
			if err != nil {
				lost++
			}
		}
		for _, h := range w.versions {
			for _, v := range h.versions {
				if v.c == nil || h.pending != nil && h.pending.remove == v.id {
					continue
				}
				objects++
				resp, err := l.client.Get(ctx, l.versioned, h.key, v.id)
				if err == nil {
					err = l.same(resp, v.c)
				}
				if err != nil {
					lost++
				}
			}
		}
	}
	return objects, lost
}
