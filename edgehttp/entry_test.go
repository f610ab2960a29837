package edgehttp

import (
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"
)

func headers(lines ...string) http.Header {
	h := http.Header{}
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ": ")
		h.Add(name, value)
	}
	return h
}

// RFC 9111, 4.2: how long an answer is fresh for a cache that is shared.
func TestLifetime(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	at := func(d time.Duration) string { return now.Add(d).Format(http.TimeFormat) }
	const day = 24 * time.Hour
	for _, c := range []struct {
		status int
		header http.Header
		keep   bool
		life   time.Duration
	}{
		{200, headers(), true, 7 * day},
		{404, headers(), true, time.Minute},
		{302, headers(), false, 0},
		{302, headers("Cache-Control: max-age=5"), true, 5 * time.Second},
		{206, headers("Cache-Control: max-age=5"), false, 0},
		{599, headers("Cache-Control: max-age=5"), false, 0},
		{200, headers("Cache-Control: max-age=60"), true, time.Minute},
		{200, headers("Cache-Control: max-age=60, s-maxage=10"), true, 10 * time.Second},
		{200, headers("Cache-Control: max-age=60", "Expires: "+at(time.Hour)), true, time.Minute},
		{200, headers("Cache-Control: public, MAX-AGE=60"), true, time.Minute},
		{200, headers(`Cache-Control: max-age="60"`), true, time.Minute},
		{200, headers("Cache-Control: max-age=99999999999999"), true, (1<<31 - 1) * time.Second},
		{200, headers("Cache-Control: max-age=-1"), false, 0},
		{200, headers("Cache-Control: max-age=1.5", `Etag: "1"`), true, 0},
		{200, headers("Cache-Control: max-age=0"), false, 0},
		{200, headers("Cache-Control: max-age=0", `Etag: "1"`), true, 0},
		{200, headers("Cache-Control: no-cache", "Last-Modified: "+at(-day)), true, 0},
		{200, headers("Cache-Control: no-cache, max-age=60", `Etag: "1"`), true, 0},
		{200, headers("Cache-Control: no-store, max-age=60"), false, 0},
		{200, headers("Cache-Control: private"), false, 0},
		{200, headers(`Cache-Control: private="x-user", max-age=60`), false, 0},
		{200, headers("Cache-Control: unknown, max-age=60"), true, time.Minute},
		{200, headers("Date: "+at(0), "Expires: "+at(time.Hour)), true, time.Hour},
		{200, headers("Date: "+at(-time.Hour), "Expires: "+at(time.Hour)), true, 2 * time.Hour},
		{200, headers("Expires: " + at(time.Hour)), true, time.Hour},
		{200, headers("Expires: 0"), false, 0},
		{200, headers("Expires: 0", `Etag: "1"`), true, 0},
		{200, headers("Expires: " + at(-time.Hour)), false, 0},
		{200, headers("Expires: "+at(time.Hour), "Expires: "+at(2*time.Hour)), false, 0},
		{200, headers("Pragma: no-cache"), false, 0},
		{200, headers("Pragma: no-cache", "Cache-Control: max-age=60"), true, time.Minute},
		{200, headers("Set-Cookie: a=b", "Cache-Control: max-age=60"), false, 0},
		{200, headers("Vary: Accept-Encoding, Origin"), true, 7 * day},
		{200, headers("Vary: *", "Cache-Control: max-age=60"), false, 0},
	} {
		o := Options{Rules: []Rule{{Prefix: "/", Origins: []Origin{nil}}}}
		if err := o.check(); err != nil {
			t.Fatal(err)
		}
		if got := judge(&o.Rules[0], c.status, c.header, now, now); got.keep != c.keep || got.lifetime != c.life {
			t.Errorf("%d %v: kept %v, fresh for %s, want %v, %s", c.status, c.header, got.keep, got.lifetime, c.keep, c.life)
		}
		// A rule that overrides looks at nothing but the status.
		o.Rules[0].Override = true
		ttl, listed := o.Rules[0].TTL[c.status]
		if got := judge(&o.Rules[0], c.status, c.header, now, now); got.keep != listed || got.lifetime != ttl || got.must {
			t.Errorf("override, %d %v: %+v", c.status, c.header, got)
		}
	}
}

// RFC 9111, 4.2.3.
func TestAge(t *testing.T) {
	asked := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	received := asked.Add(2 * time.Second)
	for _, c := range []struct {
		header http.Header
		age    time.Duration
	}{
		{headers(), 2 * time.Second},
		{headers("Date: " + received.Format(http.TimeFormat)), 2 * time.Second},
		{headers("Date: " + received.Add(-time.Minute).Format(http.TimeFormat)), time.Minute},
		{headers("Date: " + received.Add(time.Hour).Format(http.TimeFormat)), 2 * time.Second}, // its clock is ahead
		{headers("Age: 100"), 102 * time.Second},
		{headers("Age: 100", "Date: "+received.Add(-time.Hour).Format(http.TimeFormat)), time.Hour},
		{headers("Age: -5"), 2 * time.Second},
		{headers("Age: soon"), 2 * time.Second},
		{headers("Age: 9223372036854775807"), forever + 2*time.Second},
		{headers("Date: yesterday"), 2 * time.Second},
	} {
		if got := initialAge(c.header, asked, received); got != c.age {
			t.Errorf("%v: %s, want %s", c.header, got, c.age)
		}
	}
	e := entry{Received: received, Age: time.Minute, Lifetime: 2 * time.Minute, OnError: time.Minute, Meanwhile: time.Second}
	for _, c := range []struct {
		after                     time.Duration
		fresh, onError, meanwhile bool
	}{
		{-time.Hour, true, true, true}, // the clock was set back
		{59 * time.Second, true, true, true},
		{60 * time.Second, false, true, true},
		{61 * time.Second, false, true, false},
		{120 * time.Second, false, false, false},
	} {
		now := received.Add(c.after)
		if e.fresh(now) != c.fresh || e.onError(now) != c.onError || e.meanwhile(now) != c.meanwhile {
			t.Errorf("after %s: %v %v %v", c.after, e.fresh(now), e.onError(now), e.meanwhile(now))
		}
		if must := (entry{Received: received, Age: time.Minute, Lifetime: 2 * time.Minute, OnError: time.Hour, Meanwhile: time.Hour, Must: true}); must.onError(now) != c.fresh || must.meanwhile(now) != c.fresh {
			t.Errorf("after %s what must be revalidated is served stale", c.after)
		}
	}
}

// RFC 9110, 8.8: what tells parts of one version from those of another.
func TestCombinable(t *testing.T) {
	now := time.Now().UTC()
	at := func(d time.Duration) string { return now.Add(d).Format(http.TimeFormat) }
	for want, all := range map[bool][]http.Header{
		true:  {headers(`Etag: "x"`), headers("Last-Modified: "+at(-time.Hour), "Date: "+at(0)), headers(`Etag: W/"x"`, "Last-Modified: "+at(-time.Hour), "Date: "+at(0))},
		false: {headers(), headers(`Etag: W/"x"`), headers("Last-Modified: "+at(-time.Second), "Date: "+at(0)), headers("Last-Modified: " + at(-time.Hour)), headers(`Etag: `)},
	} {
		for _, h := range all {
			if combinable(h) != want {
				t.Errorf("%v: %v", h, !want)
			}
		}
	}
}

// RFC 9111, 3.2: a 304 changes what is said of the content, and not what it is.
func TestRefreshed(t *testing.T) {
	e := &entry{Header: headers("Content-Type: text/x", "Content-Length: 5", `Etag: "1"`, "Cache-Control: max-age=1", "X-Old: 1")}
	n := e.refreshed(headers("Content-Type: text/y", "Content-Length: 0", `Etag: W/"1"`, "Cache-Control: max-age=2", "X-New: 1", "Connection: X-Hop", "X-Hop: 1"))
	if want := headers("Content-Type: text/x", "Content-Length: 5", `Etag: "1"`, "Cache-Control: max-age=2", "X-Old: 1", "X-New: 1"); !reflect.DeepEqual(n.Header, want) {
		t.Errorf("%v, want %v", n.Header, want)
	}
	if e.Header.Get("Cache-Control") != "max-age=1" {
		t.Error("the old one was changed")
	}
}

func FuzzParseEntry(f *testing.F) {
	p, err := (&entry{Status: 200, Header: headers("Etag: 1"), Size: 10, Gen: "x", Slice: minSlice}).encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(p)
	f.Add([]byte(`{"status":404,"slice":4096,"size":-1}`))
	f.Fuzz(func(t *testing.T, p []byte) {
		e := parseEntry(p)
		if e == nil {
			return
		}
		e.Header.Set("Age", "1")
		for n := int64(0); n < 3 && n*e.Slice < e.Size; n++ {
			if l := e.sliceLen(n); l <= 0 || l > e.Slice {
				t.Errorf("slice %d has %d bytes", n, l)
			}
		}
	})
}

func FuzzHeaders(f *testing.F) {
	f.Add("bytes 0-5/10", `max-age=5, no-cache="a"`, "10", `"x"`)
	f.Fuzz(func(t *testing.T, contentRange_, control, age, tag string) {
		if first, last, size, ok := contentRange(contentRange_); ok && (first < 0 || last < first || size <= last) {
			t.Errorf("%q: %d %d %d", contentRange_, first, last, size)
		}
		h := http.Header{"Cache-Control": {control}, "Age": {age}, "Etag": {tag}, "Expires": {age}}
		o := Options{Rules: []Rule{{Prefix: "/", Origins: []Origin{nil}}}}
		if err := o.check(); err != nil {
			t.Fatal(err)
		}
		got := judge(&o.Rules[0], 200, h, time.Now(), time.Now())
		if got.lifetime < 0 || got.age < 0 || got.lifetime > forever || got.keep && got.alone {
			t.Errorf("%v: %+v", h, got)
		}
		if s := fmt.Sprint(combinable(h), generation(h, 1)); s == "" {
			t.Error("nothing")
		}
	})
}
