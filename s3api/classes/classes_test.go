package classes

import (
	"encoding/xml"
	"testing"
	"time"

	"firn/object/record"
)

func TestUntil(t *testing.T) {
	for from, want := range map[string]string{
		"2026-11-21T18:30:00Z":      "2026-11-24T00:00:00Z",
		"2026-11-21T00:00:00Z":      "2026-11-23T00:00:00Z", // midnight is the end of the day before
		"2026-11-21T23:59:59.999Z":  "2026-11-24T00:00:00Z",
		"2026-11-22T01:00:00+02:00": "2026-11-24T00:00:00Z",
	} {
		at, err := time.Parse(time.RFC3339Nano, from)
		if err != nil {
			t.Fatal(err)
		}
		var r RestoreRequest
		if err := xml.Unmarshal([]byte("<RestoreRequest><Days>2</Days></RestoreRequest>"), &r); err != nil {
			t.Fatal(err)
		}
		if got, err := r.Until(at); err != nil || got.Format(time.RFC3339Nano) != want {
			t.Errorf("two days from %s: %s, %v; want %s", from, got, err, want)
		}
	}
}

func TestRestoreHeader(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	later, before := now.Add(time.Hour), now.Add(-time.Hour)
	const here = `ongoing-request="false", expiry-date="Sat, 21 Nov 2026 13:00:00 GMT"`
	for name, c := range map[string]struct {
		v    record.Version
		want string
	}{
		"standard":         {record.Version{}, ""},
		"waits to go":      {record.Version{StorageClass: "COLD"}, ""},
		"asked for before": {record.Version{StorageClass: "COLD", KeepUntil: later}, here},
		"on a tier":        {record.Version{Location: &record.Location{}}, ""},
		"asked for":        {record.Version{Location: &record.Location{Wanted: later}}, `ongoing-request="true"`},
		"in vain":          {record.Version{Location: &record.Location{Wanted: before}}, ""},
		"here":             {record.Version{Location: &record.Location{LocalUntil: later}}, here},
		"here, longer":     {record.Version{Location: &record.Location{LocalUntil: later, Wanted: before}}, here},
	} {
		if got := RestoreHeader(&c.v, now); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
