package blob_test

import (
	"bytes"
	"context"
	"testing"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/blob/memblob"
)

// spoiler changes what is stored.
type spoiler struct{ driver.Driver }

func (s spoiler) Put(ctx context.Context, key string, src driver.Source) error {
	p := make([]byte, src.Size())
	for i := range p {
		p[i] = 'x'
	}
	return s.Driver.Put(ctx, key, blob.Bytes(p))
}

func TestCopy(t *testing.T) {
	ctx := t.Context()
	from, fromDriver := newStore(t, memblob.Options{})
	to, toDriver := newStore(t, memblob.Options{})
	bad := blob.New(spoiler{memblob.New(memblob.Options{})}, "bad:")
	for _, size := range []int{0, 1, 300_000} {
		p := bytes.Repeat([]byte{7}, size)
		if err := from.PutBytes(ctx, "a", p); err != nil {
			t.Fatal(err)
		}
		info, err := from.Stat(ctx, "a")
		if err != nil {
			t.Fatal(err)
		}
		for _, verify := range []bool{false, true} {
			if err := from.Copy(ctx, info, to, "b/c", verify); err != nil {
				t.Errorf("%d bytes, verify %t: %v", size, verify, err)
			}
			if got, err := to.ReadAll(ctx, "b/c", 1<<20); err != nil || !bytes.Equal(got, p) {
				t.Errorf("%d bytes, verify %t: %d bytes, %v", size, verify, len(got), err)
			}
		}
		err = from.Copy(ctx, info, bad, "b", true)
		if size > 0 && (firn.KindOf(err) != firn.Corrupt || err.Error() != "verify b in bad:: what was read back is not what was copied from a in mem:/place") {
			t.Errorf("%d bytes that were stored wrong: %v", size, err)
		}
		// It has another size by now.
		info.Size++
		if err := from.Copy(ctx, info, to, "b", true); firn.KindOf(err) != firn.Invalid {
			t.Errorf("one byte less than listed: %v", err)
		}
	}
	if n := fromDriver.Open() + toDriver.Open(); n != 0 {
		t.Errorf("%d readers were left open", n)
	}
}
