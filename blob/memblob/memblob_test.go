package memblob

import (
	"testing"

	"firn/blob/driver"
	"firn/blob/drivertest"
)

func TestContract(t *testing.T) {
	drivertest.Run(t, func(*testing.T) driver.Driver { return New(Options{}) },
		drivertest.Expect(drivertest.Creator|drivertest.Batcher|drivertest.BulkDeleter|drivertest.Measurer|drivertest.Resumer))
}
