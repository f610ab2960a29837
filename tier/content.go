package tier

import (
	"context"
	"io"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/tier/plain"
)

// Content is where the bytes of versions are on a tier, in one of its layouts. Its methods may be called concurrently, and
// their errors have the kinds that those of a place have. Package packed has the layout repository; the layout plain is here.
type Content interface {
	// Layout is the layout's name, for the mark of the tier.
	Layout() string
	// Catalogue returns where the catalogue is kept. create is set where the place was claimed for this site, and may be empty.
	Catalogue(ctx context.Context, create bool) (*blob.Store, error)
	// Put stores src, so that it can be read when Put returns, under name or one that begins with it and ends with what the
	// layout adds. It calls reserve with that before anything can be read under it, and fails with reserve's error.
	Put(ctx context.Context, name string, src driver.Source, reserve func(name string) error) error
	// Open, Size and Delete are those of blob.Store. What they read is what the place has: verification relies on it.
	Open(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error)
	Size(ctx context.Context, name string) (int64, error)
	Delete(ctx context.Context, names ...string) error
}

// Gatherer is the ability of a Content whose puts wait for each other to be stored at once. One that waits gives its turn away.
type Gatherer interface {
	// Together is how many may wait at most.
	Together() int
}

// Sweeper is the ability of a Content that takes back the room of what was deleted at some later time.
type Sweeper interface {
	// Sweep does that where it is worth it now. register calls each for all names that somebody needs, or that Delete may be
	// called with. What it does not call it for when it is called, no version needs nor will: a name is reserved before
	// anything is there, and deleted before it is forgotten.
	Sweep(ctx context.Context, register func(ctx context.Context, each func(name string, needed bool)) error) error
}

// resumer is a Content whose puts go on where they were cut off. Of another layout nothing but what is missing is put anyway.
type resumer interface {
	Content
	// CanResume reports whether the place can.
	CanResume() bool
	// Resume and Abandon are those of blob.Store.
	Resume(ctx context.Context, name string, src driver.Source) error
	Abandon(ctx context.Context, name string) error
}

// plainContent is the layout plain: one blob a version.
type plainContent struct{ store *blob.Store }

// Layout implements Content.
func (plainContent) Layout() string { return "plain" }

// Catalogue implements Content.
func (c plainContent) Catalogue(context.Context, bool) (*blob.Store, error) { return c.store, nil }

// Put implements Content.
func (c plainContent) Put(ctx context.Context, name string, src driver.Source, reserve func(string) error) error {
	if err := reserve(name); err != nil {
		return err
	}
	return c.store.Put(ctx, name, src)
}

// CanResume implements resumer.
func (c plainContent) CanResume() bool { return c.store.CanResume() }

// Resume implements resumer.
func (c plainContent) Resume(ctx context.Context, name string, src driver.Source) error {
	return c.store.Resume(ctx, name, src)
}

// Abandon implements resumer.
func (c plainContent) Abandon(ctx context.Context, name string) error {
	return c.store.Abandon(ctx, name)
}

// Open implements Content.
func (c plainContent) Open(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	return c.store.Get(ctx, name, offset, length)
}

// Size implements Content.
func (c plainContent) Size(ctx context.Context, name string) (int64, error) {
	info, err := c.store.Stat(ctx, name)
	return info.Size, err
}

// Delete implements Content.
func (c plainContent) Delete(ctx context.Context, names ...string) error {
	return c.store.Delete(ctx, names...)
}

// mark returns the mark of a tier. A place without one is no empty tier, but one that is away.
func (t *place) mark(ctx context.Context) (plain.Mark, error) {
	m, err := plain.ReadMark(ctx, t.Store, t.content.Layout())
	if firn.KindOf(err) == firn.NotFound {
		err = firn.NewError(firn.Unavailable, "its mark is not there")
	}
	return m, err
}
