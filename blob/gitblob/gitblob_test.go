package gitblob

import (
	"os"
	"path/filepath"
	"testing"

	"firn/blob/driver"
	"firn/blob/drivertest"
)

// everything is what a place on this machine can do.
const everything = drivertest.Creator | drivertest.Batcher | drivertest.BulkDeleter | drivertest.Measurer

// local returns options for a new repository; many pieces, so that the suite's large blobs have some.
func local(t *testing.T) Options {
	t.Helper()
	return Options{Dir: filepath.Join(t.TempDir(), "place.git"), Create: true, PieceSize: 3 << 20}
}

func open(t *testing.T, opt Options) *place {
	t.Helper()
	d, err := New(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	return d.(*place)
}

func TestLocal(t *testing.T) {
	drivertest.Run(t, func(t *testing.T) driver.Driver { return open(t, local(t)) },
		drivertest.Expect(everything), drivertest.Blobs(300), drivertest.Large(10<<20+7), drivertest.Rounds(12),
		drivertest.Second(func(t *testing.T, d driver.Driver) driver.Driver { return open(t, d.(*place).opt) }),
		drivertest.Gone(func(t *testing.T, d driver.Driver) {
			dir := d.(*place).opt.Dir
			if err := os.Rename(dir, dir+".away"); err != nil {
				t.Fatal(err)
			}
		}))
}
