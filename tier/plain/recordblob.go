package plain

import (
	"bytes"
	"context"
	"encoding/hex"
	"strings"

	"github.com/zeebo/blake3"

	"firn"
	"firn/blob"
)

// A record that is long, since a version is large and its check data grow with it, is a blob of its own beside the segments,
// named after its content: it is written before the segment that names it, and removed once no segment does.

const (
	recordPrefix = "catalogue-records/"
	longRecord   = 32 << 10 // bytes from which a record is a blob of its own
	maxRecord    = 2 << 30  // bytes
)

func recordName(p []byte) string {
	sum := blake3.Sum256(p)
	return recordPrefix + hex.EncodeToString(sum[:])
}

// part gives an entry's record a blob of its own where it is long.
func (c *Catalogue) part(ctx context.Context, e *Entry) error {
	if len(e.Record) < longRecord {
		return nil
	}
	name := recordName(e.Record)
	if !c.records[name] {
		back, err := c.store.ReadAll(ctx, name, int64(len(e.Record)))
		if k := firn.KindOf(err); err != nil && k != firn.NotFound && k != firn.Invalid {
			return err
		}
		if !bytes.Equal(back, e.Record) {
			if err := c.putVerified(ctx, name, e.Record); err != nil {
				return err
			}
		}
		c.records[name] = true
	}
	e.Record, e.RecordBlob = nil, name
	return nil
}

// sweepRecords removes the records that no segment names.
func (c *Catalogue) sweepRecords(ctx context.Context, named map[string]bool) error {
	var old []string
	for info, err := range c.store.List(ctx, recordPrefix) {
		if err != nil {
			return err
		}
		if !named[info.Key] {
			old = append(old, info.Key)
		}
	}
	c.records = named
	return c.store.Delete(ctx, old...)
}

// LoadRecord returns the record of an entry. firn.Corrupt where it is damaged or gone.
func LoadRecord(ctx context.Context, store *blob.Store, e *Entry) ([]byte, error) {
	if e.RecordBlob == "" {
		return e.Record, nil
	}
	if !strings.HasPrefix(e.RecordBlob, recordPrefix) {
		return nil, firn.NewError(firn.Corrupt, "the catalogue names a record that is none")
	}
	p, err := store.ReadAll(ctx, e.RecordBlob, maxRecord)
	if firn.KindOf(err) == firn.NotFound || err == nil && recordName(p) != e.RecordBlob {
		err = firn.E("read catalogue", e.RecordBlob, firn.NewError(firn.Corrupt, "the record is damaged or gone"))
	}
	if err != nil {
		return nil, err
	}
	return p, nil
}
