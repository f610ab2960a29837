//go:build rados

package radosblob

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/ceph/go-ceph/rados"
	"golang.org/x/sync/errgroup"

	"firn"
	"firn/blob/driver"
)

const (
	// atOnce is how many pieces of one blob are under way.
	atOnce = 4
	// maxRaces is how often a put is decided anew because another client was faster.
	maxRaces = 100
)

// errSwept says that a sweep took the put for one of a killed client.
var errSwept = firn.NewError(firn.Unavailable, "the put took so long that its pieces were swept")

// Put writes the pieces, then switches the head.
func (p *pool) Put(ctx context.Context, key string, src driver.Source) error {
	return p.put(ctx, key, src, false)
}

// Create is Put with an exclusive creation of the head.
func (p *pool) Create(ctx context.Context, key string, src driver.Source) error {
	return p.put(ctx, key, src, true)
}

func (p *pool) put(ctx context.Context, key string, src driver.Source, create bool) error {
	if create {
		// Saves the upload; the head's creation decides.
		if _, _, err := p.readHead(ctx, key); err == nil {
			return errExists
		} else if firn.KindOf(err) != firn.NotFound {
			return err
		}
	}
	h := head{size: src.Size(), modified: time.Now()}
	rand.Read(h.gen[:])
	if h.size < 0 {
		return invalid("the size of the source is negative")
	}
	in, err := src.Open()
	if err != nil {
		return err
	}
	defer in.Close()
	var content []byte
	if h.size <= p.opt.PieceSize {
		content = make([]byte, h.size)
		if err := readExactly(in, content); err != nil {
			return err
		}
	} else {
		h.piece = p.opt.PieceSize
		if err := p.note(ctx, h, key); err != nil {
			return err
		}
	}
	err = p.putPieces(ctx, h, in)
	if err == nil {
		err = sourceEnds(in)
	}
	if err == nil {
		err = p.switchHead(ctx, key, h, append(h.encode(), content...), create)
	}
	if h.piece == 0 {
		return err
	}
	if err == nil {
		return p.settle(ctx, h, key)
	}
	if k := firn.KindOf(err); k == firn.Exists || k == firn.Invalid || k == firn.NoSpace || k == firn.Conflict {
		// The head is known not to name the pieces. What is not removed now is swept later.
		clean, cancel := context.WithTimeout(p.ctx, p.opt.Timeout)
		defer cancel()
		_ = p.removePieces(clean, h.gen, h.pieces())
	}
	return err
}

func readExactly(in io.Reader, b []byte) error {
	_, err := io.ReadFull(in, b)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return invalid("the source has fewer bytes than its size says")
	}
	return err
}

func sourceEnds(in io.Reader) error {
	switch n, err := io.ReadFull(in, make([]byte, 1)); {
	case n > 0:
		return invalid("the source has more bytes than its size says")
	case !errors.Is(err, io.EOF):
		return err
	}
	return nil
}

func (p *pool) pieceName(gen generation, n int64) string {
	return fmt.Sprintf("%s%s/%08d", p.parts, gen, n)
}

func (p *pool) putPieces(ctx context.Context, h head, in io.Reader) error {
	work, workCtx := errgroup.WithContext(ctx)
	work.SetLimit(atOnce)
	for n := range h.pieces() {
		b := make([]byte, min(h.piece, h.size-n*h.piece))
		if err := readExactly(in, b); err != nil {
			_ = work.Wait() // the source's error says more
			return err
		}
		if workCtx.Err() != nil {
			break
		}
		work.Go(func() error {
			return p.writeObject(workCtx, p.pieceName(h.gen, n), func(op *rados.WriteOp) { op.WriteFull(b) })
		})
	}
	return work.Wait()
}

// note writes down that there may be pieces of h that the head of key does not name.
func (p *pool) note(ctx context.Context, h head, key string) error {
	return p.writeObject(ctx, p.notes, func(op *rados.WriteOp) {
		op.SetOmap(map[string][]byte{h.gen.String(): encodeNote(h.pieces(), false, key)})
	})
}

func (p *pool) dropNote(ctx context.Context, gen generation) error {
	return p.writeObject(ctx, p.notes, func(op *rados.WriteOp) { op.RmOmapKeys([]string{gen.String()}) })
}

// settle ends a put whose head was switched. A sweep that began before that may have removed the pieces; one that begins
// after it sees that the head names them.
func (p *pool) settle(ctx context.Context, h head, key string) error {
	var swept bool
	err := p.call(ctx, func() error {
		op := rados.CreateReadOp()
		defer op.Release()
		step := op.GetOmapValuesByKeys([]string{h.gen.String()})
		if err := op.Operate(p.io, p.notes, rados.OperationNoFlag); err != nil {
			return err
		}
		note, err := step.Next()
		if err != nil {
			return err
		}
		if note == nil {
			swept = true
			return nil
		}
		_, swept, _, _ = parseNote(note.Value)
		return nil
	})
	if err != nil {
		return err
	}
	if swept {
		// Or it was replaced meanwhile, by one that removed the pieces as it should.
		if now, _, err := p.readHead(ctx, key); err == nil && now.gen != h.gen || firn.KindOf(err) == firn.NotFound {
			return nil
		} else if err != nil {
			return err
		}
		return errSwept
	}
	// A note that stays is looked at by the next sweep, which finds the head in order.
	_ = p.dropNote(ctx, h.gen)
	return nil
}

// switchHead makes raw, which begins with h, the head of key in one operation, and removes what it replaces.
func (p *pool) switchHead(ctx context.Context, key string, h head, raw []byte, create bool) error {
	for range maxRaces {
		old, oldRaw, err := p.readHead(ctx, key)
		there := err == nil
		switch {
		case there && create:
			if old.gen == h.gen {
				return nil // an operation sent again by librados
			}
			return errExists
		case err != nil && firn.KindOf(err) != firn.NotFound && firn.KindOf(err) != firn.Corrupt:
			return err
		case firn.KindOf(err) == firn.Corrupt:
			// A head that cannot be read is replaced; its pieces, if it had any, cannot be known.
			return p.writeObject(ctx, p.heads+key, func(op *rados.WriteOp) { op.WriteFull(raw) })
		}
		if there && old.piece > 0 {
			if err := p.note(ctx, old, key); err != nil {
				return err
			}
		}
		err = p.writeObject(ctx, p.heads+key, func(op *rados.WriteOp) {
			if there {
				op.CmpExt(oldRaw, 0) // no two heads are equal
			} else {
				op.Create(rados.CreateExclusive)
			}
			op.WriteFull(raw)
		})
		switch firn.KindOf(err) {
		case firn.Conflict, firn.Exists, firn.NotFound:
			if err := p.gone(ctx); err != nil {
				return err
			}
			continue // another client was faster
		}
		if err != nil {
			return err
		}
		if there && old.piece > 0 {
			p.dropPieces(ctx, old)
		}
		return nil
	}
	return firn.NewError(firn.Unavailable, "other clients were faster each time: the blob is too busy")
}

// dropPieces removes the pieces of a head that was replaced; what it cannot is noted already, and swept later.
func (p *pool) dropPieces(ctx context.Context, old head) {
	_ = p.removePieces(ctx, old.gen, old.pieces())
}

// removePieces removes pieces that no head names, and then their note.
func (p *pool) removePieces(ctx context.Context, gen generation, count int64) error {
	work, workCtx := errgroup.WithContext(ctx)
	work.SetLimit(atOnce)
	for n := range count {
		if workCtx.Err() != nil {
			break
		}
		work.Go(func() error {
			err := p.writeObject(workCtx, p.pieceName(gen, n), func(op *rados.WriteOp) { op.Remove() })
			if firn.KindOf(err) == firn.NotFound {
				return nil
			}
			return err
		})
	}
	if err := work.Wait(); err != nil {
		return err
	}
	return p.dropNote(ctx, gen)
}

// Delete removes the head in one operation, then the pieces.
func (p *pool) Delete(ctx context.Context, key string) error {
	for range maxRaces {
		old, raw, err := p.readHead(ctx, key)
		switch firn.KindOf(err) {
		case firn.NotFound:
			return nil
		case firn.Corrupt:
			err = p.writeObject(ctx, p.heads+key, func(op *rados.WriteOp) { op.Remove() })
			if firn.KindOf(err) == firn.NotFound {
				return nil
			}
			return err
		}
		if err != nil {
			return err
		}
		if old.piece > 0 {
			// A full pool may refuse the note: then the pieces are removed, or lost to a crash in this moment.
			if err := p.note(ctx, old, key); err != nil && firn.KindOf(err) != firn.NoSpace {
				return err
			}
		}
		err = p.writeObject(ctx, p.heads+key, func(op *rados.WriteOp) {
			op.CmpExt(raw, 0)
			op.Remove()
		})
		switch firn.KindOf(err) {
		case firn.Conflict, firn.NotFound:
			continue
		}
		if err != nil {
			return err
		}
		if old.piece > 0 {
			p.dropPieces(ctx, old)
		}
		return nil
	}
	return firn.NewError(firn.Unavailable, "other clients were faster each time: the blob is too busy")
}

// sweep removes the pieces of puts that began before and never ended. It marks each first, so that a put that is only
// slow finds out; see settle.
func (p *pool) sweep(ctx context.Context, age time.Duration) error {
	notes := map[string][]byte{}
	var changed time.Time
	err := p.call(ctx, func() error {
		stat, err := p.io.Stat(p.notes)
		if err != nil {
			return err
		}
		changed = stat.ModTime
		// Notes are few: those of puts under way, and of clients that were killed.
		return p.io.ListOmapValues(p.notes, "", "", 10_000, func(k string, v []byte) { notes[k] = v })
	})
	if firn.KindOf(err) == firn.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	if time.Since(changed) < age {
		return nil // somebody is at work: the next time
	}
	for name, value := range notes {
		var gen generation
		n, err := hex.Decode(gen[:], []byte(name[:min(len(name), 2*len(gen))]))
		count, _, key, ok := parseNote(value)
		if err != nil || n != len(gen) || !ok {
			continue // not written by this version
		}
		if err := p.sweepOne(ctx, gen, count, key); err != nil {
			return err
		}
	}
	return nil
}

func (p *pool) sweepOne(ctx context.Context, gen generation, count int64, key string) error {
	err := p.writeObject(ctx, p.notes, func(op *rados.WriteOp) {
		op.SetOmap(map[string][]byte{gen.String(): encodeNote(count, true, key)})
	})
	if err != nil {
		return err
	}
	h, _, err := p.readHead(ctx, key)
	switch {
	case err == nil && h.gen == gen:
		return p.dropNote(ctx, gen)
	case err == nil, firn.KindOf(err) == firn.NotFound:
		return p.removePieces(ctx, gen, count)
	}
	return err
}
