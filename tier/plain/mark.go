package plain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"firn"
	"firn/blob"
	"firn/blob/driver"
)

// markKey is a blob that says whose tier this is.
const markKey = "firn-tier.json"

const markVersion = 1

// Mark says whose tier a place is.
type Mark struct {
	Format  string    `json:"format"` // "firn tier, " and its layout
	Version int       `json:"version"`
	Site    string    `json:"site"` // id of the site
	Tier    string    `json:"tier"` // its name there
	Created time.Time `json:"created"`
}

const markFormat = "firn tier, "

// ReadMark returns the mark of a place: firn.NotFound where it has none, firn.Conflict where it is of another layout.
func ReadMark(ctx context.Context, store *blob.Store, layout string) (Mark, error) {
	var m Mark
	p, err := store.ReadAll(ctx, markKey, 64<<10)
	if err != nil {
		return m, err
	}
	err = json.Unmarshal(p, &m)
	has, ok := strings.CutPrefix(m.Format, markFormat)
	switch {
	case err != nil || !ok || m.Site == "" || m.Tier == "" || m.Version < 1:
		return m, &firn.Error{Kind: firn.Corrupt, Op: "open tier", Subject: store.Name() + "/" + markKey, Err: errors.New("it is damaged, or not of a tier")}
	case has != layout:
		return m, &firn.Error{
			Kind: firn.Conflict, Op: "open tier", Subject: store.Name(),
			Err: fmt.Errorf("its layout is %q, not %q: a tier keeps its layout, so configure that one, or another place", has, layout),
		}
	case m.Version != markVersion:
		return m, &firn.Error{
			Kind: firn.Unsupported, Op: "open tier", Subject: store.Name(),
			Err: fmt.Errorf("version %d of a later firn: update this one", m.Version),
		}
	}
	return m, nil
}

// Claim makes a place the tier of a site, or makes sure that it is. A place that has blobs and no mark, or the mark of
// another site or tier, is refused with firn.Conflict: two sites that write one catalogue would lose each other's objects.
func Claim(ctx context.Context, store *blob.Store, layout, site, tier string) error {
	refuse := func(format string, args ...any) error {
		return &firn.Error{Kind: firn.Conflict, Op: "open tier", Subject: store.Name(), Err: fmt.Errorf(format, args...)}
	}
	m, err := ReadMark(ctx, store, layout)
	switch {
	case err == nil && m.Site == site && m.Tier == tier:
		return nil
	case err == nil && m.Site == site:
		return refuse("it is tier %s of this site already: give each tier a directory, bucket or prefix of its own", m.Tier)
	case err == nil:
		return refuse("it belongs to tier %s of site %s since %s: give this one a directory, bucket or prefix of its own, or, if that site is lost, see firn tier rebuild --help",
			m.Tier, m.Site, m.Created.Format("2006-01-02"))
	case firn.KindOf(err) != firn.NotFound && firn.KindOf(err) != firn.Corrupt:
		return err
	}
	unreadable := &firn.Error{Kind: firn.Unavailable, Op: "open tier", Subject: store.Name(), Err: errors.New("its mark is there and cannot be read")}
	// Two things are not to be mistaken for an empty place: one whose mark cannot be read now, and one whose mark is damaged.
	damaged := err
	for info, err := range store.List(ctx, markKey) {
		if err == nil && info.Key == markKey && firn.KindOf(damaged) == firn.NotFound {
			err = unreadable
		}
		if err != nil {
			return err
		}
	}
	for info, err := range store.List(ctx, "") {
		switch {
		case err != nil:
			return err
		case info.Key == markKey:
		case firn.KindOf(damaged) == firn.Corrupt:
			return damaged
		default:
			return refuse("it is not empty (%s) and not a tier: give the tier a directory, bucket or prefix of its own", info.Key)
		}
	}
	src, err := newMark(layout, site, tier)
	if err != nil {
		return err
	}
	// Where the place can, of two sites that claim it at once one fails.
	if firn.KindOf(damaged) == firn.Corrupt {
		err = store.Put(ctx, markKey, src)
	} else if err = store.Create(ctx, markKey, src); firn.KindOf(err) == firn.Unsupported {
		err = store.Put(ctx, markKey, src)
	}
	if err != nil && firn.KindOf(err) != firn.Exists && firn.KindOf(err) != firn.Unavailable {
		return err
	}
	written := err
	m, err = ReadMark(ctx, store, layout)
	if firn.KindOf(err) == firn.NotFound {
		if firn.KindOf(written) != firn.Unavailable {
			written = unreadable
		}
		return written
	}
	if err == nil && (m.Site != site || m.Tier != tier) {
		err = refuse("tier %s of site %s was faster", m.Tier, m.Site)
	}
	return err
}

func newMark(layout, site, tier string) (driver.Source, error) {
	p, err := json.MarshalIndent(Mark{markFormat + layout, markVersion, site, tier, time.Now().UTC().Truncate(time.Second)}, "", "  ")
	return blob.Bytes(append(p, '\n')), err
}

// TakeOver makes the tier of a site that is lost the tier of another, which knows all that its catalogue tells of.
func TakeOver(ctx context.Context, store *blob.Store, layout, site, tier string) error {
	src, err := newMark(layout, site, tier)
	if err != nil {
		return err
	}
	return store.Put(ctx, markKey, src)
}
