package prefix

import (
	"context"
	"io"
	"strings"
	"testing"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/blob/drivertest"
	"firn/blob/memblob"
	"firn/blob/wrap"
)

const below = "some/where"

// roomy is a backend whose keys may be longer than memblob's: it takes the prefix off again, and knows no other keys.
type roomy struct {
	*memblob.Driver
	t *testing.T
}

func (r roomy) key(key string) string {
	rest, ok := strings.CutPrefix(key, below+"/")
	if !ok {
		r.t.Errorf("the key %q is outside the prefix", key)
	}
	return rest
}

func (r roomy) Put(ctx context.Context, key string, src driver.Source) error {
	return r.Driver.Put(ctx, r.key(key), src)
}

func (r roomy) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	return r.Driver.Get(ctx, r.key(key), offset, length)
}

func (r roomy) Stat(ctx context.Context, key string) (driver.Info, error) {
	info, err := r.Driver.Stat(ctx, r.key(key))
	info.Key = key
	return info, err
}

func (r roomy) Delete(ctx context.Context, key string) error { return r.Driver.Delete(ctx, r.key(key)) }

func (r roomy) List(ctx context.Context, prefix string, fn func(driver.Info) error) error {
	return r.Driver.List(ctx, r.key(prefix), func(info driver.Info) error {
		info.Key = below + "/" + info.Key
		return fn(info)
	})
}

func (r roomy) Create(ctx context.Context, key string, src driver.Source) error {
	return r.Driver.Create(ctx, r.key(key), src)
}

func (r roomy) Resume(ctx context.Context, key string, src driver.Source) error {
	return r.Driver.Resume(ctx, r.key(key), src)
}

func (r roomy) Abandon(ctx context.Context, key string) error {
	return r.Driver.Abandon(ctx, r.key(key))
}

func (r roomy) Apply(ctx context.Context, changes []driver.Change) error {
	var out []driver.Change
	for _, c := range changes {
		out = append(out, driver.Change{Key: r.key(c.Key), Put: c.Put})
	}
	return r.Driver.Apply(ctx, out)
}

func (r roomy) DeleteAll(ctx context.Context, keys []string) error {
	var out []string
	for _, k := range keys {
		out = append(out, r.key(k))
	}
	return r.Driver.DeleteAll(ctx, out)
}

func TestConformance(t *testing.T) {
	drivertest.Run(t, func(t *testing.T) driver.Driver {
		d, err := New(roomy{memblob.New(memblob.Options{}), t}, below)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}, drivertest.Expect(drivertest.Creator|drivertest.Batcher|drivertest.BulkDeleter|drivertest.Measurer|drivertest.Resumer))
}

// TestNeighbours holds that what lies beside the prefix is neither seen nor touched.
func TestNeighbours(t *testing.T) {
	ctx := t.Context()
	inner := memblob.New(memblob.Options{})
	for _, key := range []string{"a/b", "a/bc", "a/b/in", "a/bd/x", "b"} {
		if err := inner.Put(ctx, key, blob.Bytes([]byte(key))); err != nil {
			t.Fatal(err)
		}
	}
	d, err := New(inner, "a/b")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	if err := d.List(ctx, "", func(i driver.Info) error { got = append(got, i.Key); return nil }); err != nil {
		t.Fatal(err)
	}
	if strings.Join(got, " ") != "in" {
		t.Errorf("listed %q, want only what is below", got)
	}
	for _, key := range got {
		if err := d.Delete(ctx, key); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{"a/b", "a/bc", "a/bd/x", "b"} {
		if _, err := inner.Stat(ctx, key); err != nil {
			t.Errorf("%s: %v", key, err)
		}
	}
}

func TestRefusesWhatIsNoPrefix(t *testing.T) {
	for _, prefix := range []string{"", "/", "a/", "/a", "a//b", "..", "a/../b", ".", "a\x00", strings.Repeat("p", maxPrefix+1)} {
		if _, err := New(memblob.New(memblob.Options{}), prefix); firn.KindOf(err) != firn.Invalid {
			t.Errorf("%.20q: %v, want firn.Invalid", prefix, err)
		}
	}
}

// plain hides the abilities of what it embeds.
type plain struct{ driver.Driver }

// TestAbilitiesAreThoseBehind goes through all combinations: a wrapper has what the driver behind it has.
func TestAbilitiesAreThoseBehind(t *testing.T) {
	m := memblob.New(memblob.Options{})
	type (
		c = driver.Creator
		b = driver.Batcher
		k = driver.BulkDeleter
		s = driver.Measurer
	)
	for i := range 16 {
		full := wrap.Of(m)
		a := wrap.Abilities{}
		if i&1 != 0 {
			a.Creator = full.Creator
		}
		if i&2 != 0 {
			a.Batcher = full.Batcher
		}
		if i&4 != 0 {
			a.Bulk = full.Bulk
		}
		if i&8 != 0 {
			a.Measurer = full.Measurer
		}
		d := wrap.Narrow(&prefixed{inner: plain{m}, can: a, prefix: "p/"}, a)
		_, hasC := d.(c)
		_, hasB := d.(b)
		_, hasK := d.(k)
		_, hasS := d.(s)
		if hasC != (i&1 != 0) || hasB != (i&2 != 0) || hasK != (i&4 != 0) || hasS != (i&8 != 0) {
			t.Errorf("combination %04b shows %t %t %t %t", i, hasC, hasB, hasK, hasS)
		}
		if got := wrap.Of(d); (got.Creator != nil) != hasC || (got.Measurer != nil) != hasS {
			t.Errorf("combination %04b: found %+v", i, got)
		}
	}
	if got := wrap.Of(plain{m}); got != (wrap.Abilities{}) {
		t.Errorf("a plain driver has %+v", got)
	}
}
