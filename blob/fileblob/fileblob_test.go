package fileblob

import (
	"os"
	"path/filepath"
	"testing"

	"firn/blob/driver"
	"firn/blob/drivertest"
)

func openTemp(t *testing.T) driver.Driver {
	t.Helper()
	o := Options{Root: filepath.Join(t.TempDir(), "place")}
	if err := Init(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	d, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestContract(t *testing.T) {
	drivertest.Run(t, openTemp,
		drivertest.Expect(drivertest.Creator|drivertest.BulkDeleter|drivertest.Measurer|drivertest.Stager|drivertest.Resumer),
		drivertest.Second(func(t *testing.T, d driver.Driver) driver.Driver {
			o, err := New(t.Context(), Options{Root: d.(*Driver).root})
			if err != nil {
				t.Fatal(err)
			}
			return o
		}),
		drivertest.Gone(func(t *testing.T, d driver.Driver) {
			root := d.(*Driver).root
			if err := os.Rename(root, root+"-unmounted"); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(root, 0o755); err != nil { // a mount point without its mount
				t.Fatal(err)
			}
		}))
}
