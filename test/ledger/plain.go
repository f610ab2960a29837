package ledger

import (
	"crypto/md5"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"strings"
)

// object is a key of the bucket without versions.
type object struct {
	key     string
	now     *content // acknowledged state; nil is absent
	pending []change // states that an operation cut off may have made
	touched bool     // since the last verification
	trail   trail
}

// change is what an operation may have made of a key: content, or nil for its absence.
type change struct {
	to *content
	// retry completes the operation after the fault, where sending it again must succeed.
	retry *upload
}

// upload is a multipart upload whose parts were acknowledged.
type upload struct {
	id    string
	o     *object
	c     *content
	etags []string
}

func (o *object) cut(w *worker, what string, changes ...change) {
	o.pending = append(o.pending, changes...)
	o.touched = true
	w.l.stats.unknown.Add(1)
	o.trail.note(w.l.round, "%s cut off", what)
}

func (o *object) done(w *worker, r *round, what string, now *content) {
	o.now = now
	o.touched = true
	o.trail.note(w.l.round, "%s acknowledged: %v", what, now)
	w.ack(r)
}

// plainOp sends one operation to the bucket without versions.
func (w *worker) plainOp(r *round) error {
	o := w.plain[w.rng.IntN(len(w.plain))]
	switch n := w.rng.IntN(100); {
	case n < 45:
		return w.put(r, o, "put", 200)
	case n < 51:
		want := 200
		if o.now != nil {
			want = 412
		}
		return w.put(r, o, "put if absent", want, "If-None-Match", "*")
	case n < 57:
		switch {
		case o.now == nil:
			return w.put(r, o, "put if match on nothing", 404, "If-Match", `"d41d8cd98f00b204e9800998ecf8427e"`)
		case w.rng.IntN(2) == 0:
			return w.put(r, o, "put if other", 412, "If-Match", `"00000000000000000000000000000000"`)
		default:
			return w.put(r, o, "put if match", 200, "If-Match", `"`+o.now.etag+`"`)
		}
	case n < 68:
		return w.remove(r, o)
	case n < 72:
		return w.removeMany(r)
	case n < 81:
		return w.copy(r, o)
	case n < 86:
		return w.begin(r, o)
	case n < 91:
		return w.finish(r)
	default:
		return w.read(r, o)
	}
}

func (w *worker) put(r *round, o *object, what string, want int, cond ...string) error {
	c, body := w.newContent(w.size())
	resp, err := w.l.client.Put(r.ctx, w.l.plain, o.key, body, header(c, cond...))
	switch err := r.outcome(what+" "+o.key, resp, err, want); {
	case err == errCut:
		if want == 200 {
			o.cut(w, what, change{to: c})
		}
		return err
	case err != nil:
		return fmt.Errorf("%w; expected %v%v", err, o.now, &o.trail)
	}
	if want != 200 {
		return nil
	}
	if resp.ETag() != c.etag {
		return fmt.Errorf("%s %s: ETag %q, want %q", what, o.key, resp.ETag(), c.etag)
	}
	o.done(w, r, what, c)
	return nil
}

func (w *worker) remove(r *round, o *object) error {
	resp, err := w.l.client.Delete(r.ctx, w.l.plain, o.key, "")
	switch err := r.outcome("delete "+o.key, resp, err, 204); {
	case err == errCut:
		o.cut(w, "delete", change{})
		return err
	case err != nil:
		return err
	}
	o.done(w, r, "delete", nil)
	return nil
}

func (w *worker) removeMany(r *round) error {
	var keys []string
	objects := map[string]*object{}
	for range 1 + w.rng.IntN(6) {
		o := w.plain[w.rng.IntN(len(w.plain))]
		if objects[o.key] == nil {
			objects[o.key] = o
			keys = append(keys, o.key)
		}
	}
	resp, err := w.l.client.DeleteMany(r.ctx, w.l.plain, keys)
	switch err := r.outcome("delete many", resp, err, 200); {
	case err == errCut:
		// Each key of a batch is an operation of its own.
		for _, o := range objects {
			o.cut(w, "delete in a batch", change{})
		}
		return err
	case err != nil:
		return err
	}
	var doc struct {
		Error []struct{ Key, Code, Message string }
	}
	if err := xml.Unmarshal(resp.Body, &doc); err != nil {
		return fmt.Errorf("delete many: %w", err)
	}
	failed := map[string]bool{}
	for _, e := range doc.Error {
		failed[e.Key] = true
		if !r.faulted.Load() {
			return fmt.Errorf("delete many: %v", resp)
		}
	}
	for _, o := range objects {
		if failed[o.key] {
			o.cut(w, "delete in a batch", change{})
		} else {
			o.done(w, r, "delete in a batch", nil)
		}
	}
	if len(failed) > 0 {
		return errCut
	}
	return nil
}

func (w *worker) copy(r *round, o *object) error {
	from := w.plain[w.rng.IntN(len(w.plain))]
	want := 200
	switch {
	case from == o:
		return nil // S3 refuses a copy onto itself that changes nothing
	case from.now == nil:
		want = 404
	}
	resp, err := w.l.client.Copy(r.ctx, w.l.plain, from.key, o.key, nil)
	if err == nil && resp.Status == 200 && resp.Code() != "" {
		resp.Status = 500 // a copy may fail after its header went out
	}
	what := "copy of " + from.key
	switch err := r.outcome(what, resp, err, want); {
	case err == errCut:
		if want == 200 {
			o.cut(w, what, change{to: &content{id: from.now.id, size: from.now.size}})
		}
		return err
	case err != nil:
		return fmt.Errorf("%w; source expected %v%v", err, from.now, &from.trail)
	}
	if want != 200 {
		return nil
	}
	var doc struct{ ETag string }
	if err := xml.Unmarshal(resp.Body, &doc); err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	o.done(w, r, what, &content{id: from.now.id, size: from.now.size, etag: strings.Trim(doc.ETag, `"`)})
	return nil
}

const partSize = 5 << 20

// begin starts a multipart upload and sends its parts. Some are completed at once, some in a later round.
func (w *worker) begin(r *round, o *object) error {
	if len(w.uploads) >= 3 {
		return w.finish(r)
	}
	size := 1 + w.rng.IntN(300<<10) // one part, which may be small
	if w.l.opts.Large && w.rng.IntN(4) == 0 {
		size = partSize + w.rng.IntN(2<<20)
	}
	c, body := w.newContent(size)
	id, resp, err := w.l.client.CreateUpload(r.ctx, w.l.plain, o.key, header(c))
	if err := r.outcome("create upload", resp, err, 200); err != nil {
		return err
	}
	u := &upload{id: id, o: o, c: c}
	sums := md5.New()
	for number := 1; len(body) > 0; number++ {
		part := body[:min(partSize, len(body))]
		body = body[len(part):]
		resp, err := w.l.client.PutPart(r.ctx, w.l.plain, o.key, id, number, part)
		if err := r.outcome("put part", resp, err, 200); err != nil {
			return err
		}
		sum := md5.Sum(part)
		sums.Write(sum[:])
		u.etags = append(u.etags, resp.ETag())
	}
	c.etag = fmt.Sprintf("%s-%d", hex.EncodeToString(sums.Sum(nil)), len(u.etags))
	w.uploads = append(w.uploads, u)
	switch w.rng.IntN(5) {
	case 0:
		return nil // left for later
	case 1:
		w.uploads = w.uploads[:len(w.uploads)-1]
		resp, err := w.l.client.AbortUpload(r.ctx, w.l.plain, o.key, id)
		return r.outcome("abort upload", resp, err, 204)
	}
	w.uploads = w.uploads[:len(w.uploads)-1]
	return w.complete(r, u)
}

// finish completes an upload begun earlier, perhaps before a fault.
func (w *worker) finish(r *round) error {
	if len(w.uploads) == 0 {
		return nil
	}
	u := w.uploads[0]
	w.uploads = w.uploads[1:]
	return w.complete(r, u)
}

func (w *worker) complete(r *round, u *upload) error {
	resp, err := w.l.client.CompleteUpload(r.ctx, w.l.plain, u.o.key, u.id, u.etags)
	switch err := r.outcome("complete upload "+u.o.key, resp, err, 200); {
	case err == errCut:
		u.o.cut(w, "multipart completion", change{to: u.c, retry: u})
		return err
	case err != nil:
		return fmt.Errorf("%w%v", err, &u.o.trail)
	}
	u.o.done(w, r, "multipart completion", u.c)
	return nil
}

// read reads a key while the load runs: what was acknowledged is visible at once.
func (w *worker) read(r *round, o *object) error {
	want := 200
	if o.now == nil {
		want = 404
	}
	resp, err := w.l.client.Get(r.ctx, w.l.plain, o.key, "")
	if err := r.outcome("get "+o.key, resp, err, want); err != nil {
		return err
	}
	if want == 404 {
		return nil
	}
	if err := w.l.same(resp, o.now); err != nil {
		return fmt.Errorf("get %s: %w%v", o.key, err, &o.trail)
	}
	return nil
}
