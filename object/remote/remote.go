// Package remote reads parts of versions whose bytes are on a tier.
//
// It promises that no byte leaves it that was not compared with what is kept of the part here, its outboard, and that an
// error names the tier and says since when the content is there: firn.Corrupt for content that is gone or not what it was,
// ErrAway for a tier that cannot be read now. It must never write to a tier, nor know a namespace.
package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"firn"
	"firn/block"
	"firn/object/record"
	"firn/vfs"
)

// Tiers reads what tiers hold. The errors' kinds count: firn.NotFound for a blob that is not there, anything else for a tier
// that cannot be asked now. This package adds the tier's name and since when the version is there.
type Tiers interface {
	// Open returns length bytes of a blob from offset. A reader that ends early with io.EOF tells of a blob that is
	// shorter; a connection that broke is another error.
	Open(ctx context.Context, tier, key string, offset, length int64) (io.ReadCloser, error)
	// Size returns the size of a blob in bytes.
	Size(ctx context.Context, tier, key string) (int64, error)
}

// Keeper is the ability of Tiers to keep what was read.
type Keeper interface {
	Tiers
	// Of returns what reads the content of v, which is on a tier, by way of what is kept; nil where nothing can be.
	Of(v *record.Version) Kept
}

// Kept reads the content of one version.
type Kept interface {
	// Open is that of Tiers.
	Open(ctx context.Context, offset, length int64) (io.ReadCloser, error)
	// Forget drops what is kept of the content: some of it was not right. It reports whether anything of what Open gave
	// was kept before, so that the tier itself may give something better.
	Forget(ctx context.Context) bool
}

// ErrAway is wrapped by errors of tiers that cannot be read now.
var ErrAway = firn.NewError(firn.Unavailable, "the tier that holds the content cannot be read")

var (
	errNone       = firn.NewError(firn.Unavailable, "no tier is configured")
	errGone       = errors.New("which no longer has it")
	errNoOutboard = firn.NewError(firn.Corrupt, "what is kept to check content on a tier is missing or broken")
)

// None is the Tiers of a site without any.
type None struct{}

// Open implements Tiers.
func (None) Open(context.Context, string, string, int64, int64) (io.ReadCloser, error) {
	return nil, errNone
}

// Size implements Tiers.
func (None) Size(context.Context, string, string) (int64, error) { return 0, errNone }

// explain says of an error of a tier which it is and since when the content is there.
func explain(ctx context.Context, l *record.Location, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	since := fmt.Sprintf("on tier %s since %s", l.Tier, l.Since.UTC().Format(time.RFC3339))
	switch firn.KindOf(err) {
	case firn.Corrupt:
		return &firn.Error{Kind: firn.Corrupt, Err: fmt.Errorf("%s: %w", since, err)}
	case firn.NotFound:
		return &firn.Error{Kind: firn.Corrupt, Err: fmt.Errorf("%s, %w: %s", since, errGone, err)}
	}
	a := &Away{Tier: l.Tier, Err: fmt.Errorf("%w: %s: %s", ErrAway, since, err)}
	var told interface{ AwaySince() time.Time }
	if errors.As(err, &told) {
		a.Since = told.AwaySince()
	}
	return &firn.Error{Kind: firn.Unavailable, Err: a}
}

// Away is what errors of a tier that cannot be read wrap: for those who say so to people who are not to see the tier's
// address, which may be in the text. An error of Tiers may have the method AwaySince.
type Away struct {
	Tier  string
	Since time.Time // when the tier was first found away; zero where that is not known
	Err   error     // wraps ErrAway
}

func (a *Away) Error() string { return a.Err.Error() }

// Unwrap returns a.Err.
func (a *Away) Unwrap() error { return a.Err }

// Check asks a tier whether it has the blob of a version of the given size.
func Check(ctx context.Context, t Tiers, l *record.Location, size int64) error {
	have, err := t.Size(ctx, l.Tier, l.Key)
	if err == nil && have != size {
		err = firn.NewError(firn.Corrupt, fmt.Sprintf("the blob has %d bytes, the version %d", have, size))
	}
	return explain(ctx, l, err)
}

// What is stored of a part's outboard begins with what it is the outboard of.
const (
	ofInline = 1
	ofPart   = 2
)

// InlineOutboard returns what is to be kept of a framed inline value.
func InlineOutboard(stored []byte) ([]byte, error) {
	raw, err := block.InlineOutboard(stored)
	return append([]byte{ofInline}, raw...), err
}

// PartOutboard returns what is to be kept of a part file.
func PartOutboard(r *block.Reader) ([]byte, error) {
	raw, err := r.Outboard()
	return append([]byte{ofPart}, raw...), err
}

// Part is a part whose bytes are on a tier.
type Part struct {
	tiers    Tiers
	loc      *record.Location
	base     int64           // of the part within the blob
	size     int64           // bytes of the part
	outboard *block.Outboard // of a part file
	inline   []byte          // outboard of an inline value; not nil where it is one
	kept     Kept            // nil where nothing is kept
}

// NewPart returns the part of size bytes at base of the blob that l names, of which raw was kept. firn.Corrupt where raw is
// not of such a part.
func NewPart(t Tiers, l *record.Location, base, size int64, raw []byte) (*Part, error) {
	p := &Part{tiers: t, loc: l, base: base, size: size}
	switch {
	case len(raw) > 1 && raw[0] == ofInline:
		p.inline = raw[1:]
		return p, nil
	case len(raw) > 1 && raw[0] == ofPart:
		var err error
		p.outboard, err = block.OpenOutboard(raw[1:], l.Key)
		if err == nil && p.outboard.Reader().Info().Size != size {
			err = errNoOutboard
		}
		return p, err
	}
	return nil, errNoOutboard
}

// Keep has what readers get of the part, which is one of v, kept by the tiers, where they can. What is moved is not.
func (p *Part) Keep(v *record.Version) {
	if k, ok := p.tiers.(Keeper); ok {
		p.kept = k.Of(v)
	}
}

// Inline reports whether the part is an inline value, which is read as a whole by Fetch.
func (p *Part) Inline() bool { return p.inline != nil }

// Reader describes a part that is not inline and takes its key.
func (p *Part) Reader() *block.Reader { return p.outboard.Reader() }

func (p *Part) open(ctx context.Context, offset, length int64, kept Kept) (data io.ReadCloser, err error) {
	switch {
	case length == 0:
		return io.NopCloser(bytes.NewReader(nil)), nil
	case kept != nil:
		data, err = kept.Open(ctx, p.base+offset, length)
	default:
		data, err = p.tiers.Open(ctx, p.loc.Tier, p.loc.Key, p.base+offset, length)
	}
	return data, explain(ctx, p.loc, err)
}

// forgotten reports whether err is of something that was kept, is forgotten now, and is worth being asked for again.
func (p *Part) forgotten(ctx context.Context, err error) bool {
	return firn.KindOf(err) == firn.Corrupt && !errors.Is(err, errGone) && p.kept != nil && p.kept.Forget(ctx)
}

// Fetch returns an inline value with its frame.
func (p *Part) Fetch(ctx context.Context) ([]byte, error) {
	value, err := p.fetch(ctx)
	if p.forgotten(ctx, err) {
		return p.fetch(ctx)
	}
	return value, err
}

func (p *Part) fetch(ctx context.Context) ([]byte, error) {
	data, err := p.open(ctx, 0, p.size, p.kept)
	if err != nil {
		return nil, err
	}
	defer func() { _ = data.Close() }() // what counts is checked
	value, err := block.RestoreInline(p.inline, data, p.size)
	return value, explain(ctx, p.loc, err)
}

// WriteRange writes n bytes of a part that is not inline, from off, to w: plain ones, or as they are stored. It asks the
// tier once, for the blocks that the range is in.
func (p *Part) WriteRange(ctx context.Context, w io.Writer, off, n int64, stored bool) (int64, error) {
	if stored {
		return p.writeRange(ctx, w, off, n, true, nil)
	}
	k, err := p.writeRange(ctx, w, off, n, false, p.kept)
	if p.forgotten(ctx, err) {
		var more int64
		more, err = p.writeRange(ctx, w, off+k, n-k, false, p.kept)
		k += more
	}
	return k, err
}

func (p *Part) writeRange(ctx context.Context, w io.Writer, off, n int64, stored bool, kept Kept) (int64, error) {
	start, length, err := p.outboard.Span(off, n)
	if err != nil {
		return 0, err
	}
	data, err := p.open(ctx, start, length, kept)
	if err != nil {
		return 0, err
	}
	defer func() { _ = data.Close() }() // what counts is checked
	dst := &writer{w: w}
	write := p.outboard.WriteRange
	if stored {
		write = p.outboard.WriteStored
	}
	k, err := write(ctx, data, dst, off, n)
	if dst.err == nil {
		err = explain(ctx, p.loc, err)
	}
	return k, err
}

// writer remembers its error, to tell it from one of reading.
type writer struct {
	w   io.Writer
	err error
}

func (w *writer) Write(p []byte) (int, error) {
	n, err := w.w.Write(p)
	if err != nil {
		w.err = err
	}
	return n, err
}

// Restore writes a part file that is not inline again, to f, as block.Outboard does.
func (p *Part) Restore(ctx context.Context, f vfs.File) error {
	data, err := p.open(ctx, 0, p.size, nil)
	if err != nil {
		return err
	}
	defer func() { _ = data.Close() }() // what counts is checked
	src := &reader{r: data}
	err = p.outboard.Restore(ctx, src, f)
	if src.err != nil || firn.KindOf(err) == firn.Corrupt {
		err = explain(ctx, p.loc, err)
	}
	return err
}

// reader remembers its error, to tell it from one of writing.
type reader struct {
	r   io.Reader
	err error
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}
