package ledger

import (
	"fmt"
	"slices"
)

// history is a key of the bucket with versions.
type history struct {
	key      string
	versions []version // newest first
	pending  *pending  // an operation that was cut off
	touched  bool
	trail    trail
}

// version is one version or delete marker.
type version struct {
	id string
	c  *content // nil is a delete marker
	// checked says that the bytes were compared after the last fault that could have harmed them.
	checked bool
}

// pending is an operation cut off: a version added on top (c nil for a delete marker), or the one with id removed.
type pending struct {
	c      *content
	remove string
}

const maxVersions = 6

func (h *history) latest() *content {
	if len(h.versions) == 0 {
		return nil
	}
	return h.versions[0].c
}

func (h *history) cut(w *worker, what string, p pending) {
	h.pending, h.touched = &p, true
	w.l.stats.unknown.Add(1)
	h.trail.note(w.l.round, "%s cut off", what)
}

func (h *history) done(w *worker, r *round, what string) {
	h.touched = true
	h.trail.note(w.l.round, "%s acknowledged", what)
	w.ack(r)
}

// versionedOp sends one operation to the bucket with versions.
func (w *worker) versionedOp(r *round) error {
	if len(w.versions) == 0 {
		return nil
	}
	h := w.versions[w.rng.IntN(len(w.versions))]
	switch n := w.rng.IntN(100); {
	case len(h.versions) > maxVersions || n < 15 && len(h.versions) > 0:
		return w.removeVersion(r, h)
	case n < 65 || h.latest() == nil:
		return w.putVersion(r, h)
	case n < 85:
		return w.mark(r, h)
	default:
		return w.readVersion(r, h)
	}
}

func (w *worker) putVersion(r *round, h *history) error {
	c, body := w.newContent(w.size())
	resp, err := w.l.client.Put(r.ctx, w.l.versioned, h.key, body, header(c))
	switch err := r.outcome("put version "+h.key, resp, err, 200); {
	case err == errCut:
		h.cut(w, "put version", pending{c: c})
		return err
	case err != nil:
		return err
	}
	id := resp.VersionID()
	if id == "" || id == "null" || slices.ContainsFunc(h.versions, func(v version) bool { return v.id == id }) {
		return fmt.Errorf("put version %s: version id %q is none or not new", h.key, id)
	}
	h.versions = slices.Insert(h.versions, 0, version{id: id, c: c})
	h.done(w, r, "put version "+id)
	return nil
}

func (w *worker) mark(r *round, h *history) error {
	resp, err := w.l.client.Delete(r.ctx, w.l.versioned, h.key, "")
	switch err := r.outcome("delete marker "+h.key, resp, err, 204); {
	case err == errCut:
		h.cut(w, "delete marker", pending{})
		return err
	case err != nil:
		return err
	}
	id := resp.VersionID()
	if id == "" || resp.Header.Get("X-Amz-Delete-Marker") != "true" {
		return fmt.Errorf("delete marker %s: answer without the marker: %v%v", h.key, resp.Header, &h.trail)
	}
	h.versions = slices.Insert(h.versions, 0, version{id: id})
	h.done(w, r, "delete marker "+id)
	return nil
}

func (w *worker) removeVersion(r *round, h *history) error {
	i := w.rng.IntN(len(h.versions))
	id := h.versions[i].id
	resp, err := w.l.client.Delete(r.ctx, w.l.versioned, h.key, id)
	switch err := r.outcome("delete version "+h.key, resp, err, 204); {
	case err == errCut:
		h.cut(w, "delete version "+id, pending{remove: id})
		return err
	case err != nil:
		return err
	}
	h.versions = slices.Delete(h.versions, i, i+1)
	h.done(w, r, "delete version "+id)
	return nil
}

func (w *worker) readVersion(r *round, h *history) error {
	if len(h.versions) == 0 {
		return nil
	}
	v := h.versions[w.rng.IntN(len(h.versions))]
	want := 200
	if v.c == nil {
		want = 405
	}
	resp, err := w.l.client.Get(r.ctx, w.l.versioned, h.key, v.id)
	if err := r.outcome("get version "+h.key, resp, err, want); err != nil {
		return err
	}
	if v.c == nil {
		return nil
	}
	if err := w.l.same(resp, v.c); err != nil {
		return fmt.Errorf("get version %s %s: %w%v", h.key, v.id, err, &h.trail)
	}
	return nil
}
