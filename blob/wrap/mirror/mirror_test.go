package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/blob/drivertest"
	"firn/blob/memblob"
)

// place is a member that can be away, and keeps its content when the mirror is closed.
type place struct {
	*memblob.Driver
	away    atomic.Bool
	failing atomic.Pointer[func(memblob.Op) error]
}

func newPlace() *place {
	p := &place{}
	p.Driver = memblob.New(memblob.Options{Before: func(_ context.Context, op memblob.Op) memblob.Fault {
		if p.away.Load() {
			return memblob.Fault{Err: firn.NewError(firn.Unavailable, "no route to the place")}
		}
		if f := p.failing.Load(); f != nil {
			return memblob.Fault{Err: (*f)(op)}
		}
		return memblob.Fault{}
	}})
	return p
}

func (p *place) Close() error { return nil }

func (p *place) fail(f func(memblob.Op) error) {
	if f == nil {
		p.failing.Store(nil)
		return
	}
	p.failing.Store(&f)
}

func members(places ...*place) []Member {
	var out []Member
	for i, p := range places {
		out = append(out, Member{string(rune('a' + i)), p})
	}
	return out
}

func open(t *testing.T, writes int, places ...*place) *Mirror {
	t.Helper()
	m, err := New(t.Context(), members(places...), Options{Init: true, Writes: writes})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func put(t *testing.T, d driver.Driver, key, content string) {
	t.Helper()
	if err := d.Put(t.Context(), key, blob.Bytes([]byte(content))); err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
}

func get(ctx context.Context, d driver.Driver, key string) (string, error) {
	rc, err := d.Get(ctx, key, 0, -1)
	if err != nil {
		return "", err
	}
	p, err := io.ReadAll(rc)
	return string(p), errors.Join(err, rc.Close())
}

func want(t *testing.T, d driver.Driver, key, content string) {
	t.Helper()
	if got, err := get(t.Context(), d, key); err != nil || got != content {
		t.Errorf("%s is %.50q, %v, want %.50q", key, got, err, content)
	}
}

func wantNone(t *testing.T, d driver.Driver, key string) {
	t.Helper()
	if got, err := get(t.Context(), d, key); firn.KindOf(err) != firn.NotFound {
		t.Errorf("%s is %q, %v, want not found", key, got, err)
	}
}

func keys(t *testing.T, d driver.Driver) string {
	t.Helper()
	var out []string
	err := d.List(t.Context(), "", func(i driver.Info) error {
		if !strings.HasPrefix(i.Key, ownPrefix) {
			out = append(out, i.Key)
		}
		return nil
	})
	if err != nil {
		t.Errorf("list: %v", err)
	}
	return strings.Join(out, " ")
}

func repair(t *testing.T, m *Mirror, all bool) Report {
	t.Helper()
	r, err := m.Repair(t.Context(), all)
	if err != nil {
		t.Fatalf("repair: %v", err)
	}
	return r
}

func TestConformance(t *testing.T) {
	for _, writes := range []int{2, 1} {
		t.Run(fmt.Sprintf("writes %d", writes), func(t *testing.T) {
			drivertest.Run(t, func(t *testing.T) driver.Driver {
				m, err := New(t.Context(), []Member{
					{"a", memblob.New(memblob.Options{})}, {"b", memblob.New(memblob.Options{})},
				}, Options{Init: true, Writes: writes})
				if err != nil {
					t.Fatal(err)
				}
				return m.Driver()
			}, drivertest.Expect(drivertest.Creator|drivertest.Measurer))
		})
	}
}

// TestConformanceWhileOneIsAway runs the suite on three members of which the last goes away after the start.
func TestConformanceWhileOneIsAway(t *testing.T) {
	drivertest.Run(t, func(t *testing.T) driver.Driver {
		away := newPlace()
		m, err := New(t.Context(), []Member{
			{"a", memblob.New(memblob.Options{})}, {"b", memblob.New(memblob.Options{})}, {"c", away},
		}, Options{Init: true, Writes: 2})
		if err != nil {
			t.Fatal(err)
		}
		away.away.Store(true)
		return m.Driver()
	}, drivertest.Expect(drivertest.Creator|drivertest.Measurer), drivertest.Blobs(200))
}

// TestDeletesDoNotComeBack is the case that mirrors get wrong: a member misses deletes and changes, everything restarts,
// the member comes back first.
func TestDeletesDoNotComeBack(t *testing.T) {
	for _, restart := range []bool{false, true} {
		for away := range 3 {
			synctest.Test(t, func(t *testing.T) {
				places := []*place{newPlace(), newPlace(), newPlace()}
				m := open(t, 2, places...)
				for _, k := range []string{"kept", "deleted", "changed", "again"} {
					put(t, m, k, "old")
				}
				places[away].away.Store(true)
				for _, k := range []string{"deleted", "again"} {
					if err := m.Delete(t.Context(), k); err != nil {
						t.Fatal(err)
					}
				}
				put(t, m, "changed", "new, and longer")
				put(t, m, "again", "new")
				put(t, m, "added", "new")
				if restart {
					m = open(t, 2, places...)
				}
				check := func(when string) {
					t.Helper()
					wantNone(t, m, "deleted")
					want(t, m, "changed", "new, and longer")
					want(t, m, "again", "new")
					want(t, m, "added", "new")
					want(t, m, "kept", "old")
					if got := keys(t, m); got != "added again changed kept" {
						t.Errorf("%s: listed %q", when, got)
					}
				}
				check("away")
				if r := repair(t, m, true); r.Left != 4 || r.Deleted+r.Copied != 0 {
					t.Errorf("repaired an absent member: %+v", r)
				}
				places[away].away.Store(false)
				time.Sleep(time.Minute)
				check("back")
				// Those that did not miss anything but one go: what is left must not be believed blindly.
				other := places[(away+1)%3]
				other.away.Store(true)
				check("back, another away")
				other.away.Store(false)
				time.Sleep(time.Minute)
				if r := repair(t, m, false); r.Copied != 3 || r.Deleted != 1 || r.Left != 0 {
					t.Errorf("repair: %+v", r)
				}
				check("repaired")
				for i, p := range places {
					if got := keys(t, p); got != "added again changed kept" {
						t.Errorf("member %d has %q", i, got)
					}
					want(t, p, "changed", "new, and longer")
					if err := p.List(t.Context(), ownPrefix+"owed/", func(i driver.Info) error { return errors.New(i.Key) }); err != nil {
						t.Errorf("member %d still has the note %v", i, err)
					}
				}
				if r := repair(t, m, true); r != (Report{}) {
					t.Errorf("a second repair did %+v", r)
				}
			})
		}
	}
}

// TestAllMustHaveIt holds that without all members a change fails, and reads go on.
func TestAllMustHaveIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newPlace(), newPlace()
		m := open(t, 0, a, b)
		put(t, m, "k", "old")
		b.away.Store(true)
		if err := m.Put(t.Context(), "k", blob.Bytes([]byte("new"))); firn.KindOf(err) != firn.Unavailable || !strings.Contains(err.Error(), "mirror b") {
			t.Errorf("put: %v", err)
		}
		want(t, m, "k", "new")
		// Back: it owes, and is not read even when it is alone.
		b.away.Store(false)
		a.away.Store(true)
		time.Sleep(time.Minute)
		if got, err := get(t.Context(), m, "k"); firn.KindOf(err) != firn.Unavailable {
			t.Errorf("read %q, %v from a member that owes it", got, err)
		}
		a.away.Store(false)
		time.Sleep(time.Minute)
		repair(t, m, false)
		a.away.Store(true)
		want(t, m, "k", "new")
		// Nobody there is not the same as nothing there.
		b.away.Store(true)
		if _, err := get(t.Context(), m, "none"); firn.KindOf(err) != firn.Unavailable {
			t.Errorf("get with nobody there: %v", err)
		}
		if err := m.List(t.Context(), "", func(driver.Info) error { return nil }); firn.KindOf(err) != firn.Unavailable {
			t.Errorf("list with nobody there: %v", err)
		}
	})
}

// TestStartNeedsWhoKnows holds that with fewer writes than members a start needs one that knows of every debt.
func TestStartNeedsWhoKnows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		places := []*place{newPlace(), newPlace(), newPlace()}
		m := open(t, 2, places...)
		put(t, m, "k", "old")
		places[0].away.Store(true)
		put(t, m, "k", "new")
		places[0].away.Store(false)
		places[1].away.Store(true)
		places[2].away.Store(true)
		if _, err := New(t.Context(), members(places...), Options{Writes: 2}); firn.KindOf(err) != firn.Unavailable {
			t.Errorf("start with the one that missed it: %v", err)
		}
		places[2].away.Store(false)
		m, err := New(t.Context(), members(places...), Options{Writes: 2})
		if err != nil {
			t.Fatal(err)
		}
		want(t, m, "k", "new")
	})
}

// TestEmptyMember replaces a member's disk by an empty one.
func TestEmptyMember(t *testing.T) {
	for lost := range 2 {
		synctest.Test(t, func(t *testing.T) {
			places := []*place{newPlace(), newPlace()}
			m := open(t, 0, places...)
			for i := range 50 {
				put(t, m, fmt.Sprintf("k%02d", i), strings.Repeat("x", i))
			}
			all := keys(t, m)
			places[lost] = newPlace()
			m, err := New(t.Context(), members(places...), Options{})
			if err != nil {
				t.Fatal(err)
			}
			if got := keys(t, m); got != all {
				t.Errorf("with an empty member %q are left", got)
			}
			put(t, m, "k99", "new")
			if err := m.Delete(t.Context(), "k01"); err != nil {
				t.Fatal(err)
			}
			if !m.Status()[lost].Filling {
				t.Error("an empty member passes for a full one")
			}
			// The empty one alone says nothing about what is not there.
			places[1-lost].away.Store(true)
			if _, err := get(t.Context(), m, "k02"); firn.KindOf(err) != firn.Unavailable {
				t.Errorf("an empty member alone: %v", err)
			}
			places[1-lost].away.Store(false)
			time.Sleep(time.Minute)
			if r := repair(t, m, false); r.Copied != 49 || m.Status()[lost].Filling {
				t.Errorf("%+v, %+v", r, m.Status())
			}
			if a, b := keys(t, places[0]), keys(t, places[1]); a != b || strings.Contains(a, "k01") {
				t.Errorf("the members have %q and %q", a, b)
			}
		})
	}
}

// TestForeignMember holds that somebody else's place does not become a member.
func TestForeignMember(t *testing.T) {
	a, b, foreign := newPlace(), newPlace(), newPlace()
	put(t, open(t, 0, a, b), "k", "v")
	put(t, foreign, "theirs", "v")
	if _, err := New(t.Context(), members(a, foreign), Options{}); firn.KindOf(err) != firn.Invalid {
		t.Errorf("a place with other blobs: %v", err)
	}
	if _, err := New(t.Context(), members(b, a), Options{}); firn.KindOf(err) != firn.Invalid {
		t.Errorf("members exchanged: %v", err)
	}
	c, d := newPlace(), newPlace()
	open(t, 0, c, d)
	if _, err := New(t.Context(), members(a, d), Options{}); firn.KindOf(err) != firn.Invalid {
		t.Errorf("a member of another mirror: %v", err)
	}
	if _, err := New(t.Context(), members(newPlace(), newPlace()), Options{}); firn.KindOf(err) != firn.NotFound {
		t.Errorf("no mirror yet: %v", err)
	}
	for _, ms := range [][]Member{nil, members(a), {{"a", a}, {"a", b}}, {{"a", a}, {"a/b", b}}} {
		if _, err := New(t.Context(), ms, Options{Init: true}); firn.KindOf(err) != firn.Invalid {
			t.Errorf("%d members: %v", len(ms), err)
		}
	}
}

// TestDamagedAndLostCopies damages one member's blobs behind the mirror's back.
func TestDamagedAndLostCopies(t *testing.T) {
	for bad := range 2 {
		synctest.Test(t, func(t *testing.T) {
			places := []*place{newPlace(), newPlace()}
			m := open(t, 0, places...)
			big := strings.Repeat("content ", 100_000)
			put(t, m, "lost", "v")
			put(t, m, "damaged", big)
			if err := places[bad].Delete(t.Context(), "lost"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour) // the copies are older than a read by more than the clocks differ
			places[bad].fail(func(op memblob.Op) error {
				if op.Name == "read" && op.Index%2 == 0 && op.Keys[0] == "damaged" {
					return firn.NewError(firn.Corrupt, "flipped")
				}
				return nil
			})
			want(t, m, "lost", "v")
			want(t, m, "damaged", big)
			if got := keys(t, m); got != "damaged lost" {
				t.Errorf("listed %q", got)
			}
			wantCopied := 1
			if bad == 0 {
				wantCopied = 2 // the damage was seen: the first is read first
			}
			if r := repair(t, m, false); r.Copied != wantCopied {
				t.Errorf("%+v, want %d copied", r, wantCopied)
			}
			want(t, places[bad], "lost", "v")
		})
	}
}

// TestReadGoesOnElsewhere breaks the first member while a blob is read.
func TestReadGoesOnElsewhere(t *testing.T) {
	for _, c := range []struct {
		name          string
		wait          time.Duration
		change, fails bool
	}{
		{"old blob", time.Hour, false, false},
		{"just written", time.Second, false, true},
		{"replaced meanwhile", time.Hour, true, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			a, b := newPlace(), newPlace()
			m := open(t, 0, a, b)
			content := strings.Repeat("0123456789", 200_000)
			put(t, m, "k", content)
			time.Sleep(c.wait)
			rc, err := m.Get(t.Context(), "k", 5, -1)
			if err != nil {
				t.Fatal(err)
			}
			head := make([]byte, 100_000)
			if _, err := io.ReadFull(rc, head); err != nil {
				t.Fatal(err)
			}
			if c.change {
				put(t, m, "k", strings.Repeat("x", len(content)))
			}
			a.away.Store(true)
			rest, err := io.ReadAll(rc)
			if (err != nil) != c.fails {
				t.Errorf("%s: %v", c.name, err)
			}
			if got := string(head) + string(rest); err == nil && got != content[5:] || !strings.HasPrefix(content[5:], got) {
				t.Errorf("%s: %d bytes that are not those", c.name, len(got))
			}
			if err := rc.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestUnclearChange holds that a member whose change failed, although it may have happened, is repaired.
func TestUnclearChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, c := newPlace(), newPlace(), newPlace()
		m := open(t, 2, a, b, c)
		put(t, m, "k", "old")
		a.fail(func(op memblob.Op) error {
			if op.Name == "put" && op.Keys[0] == "k" {
				return firn.NewError(firn.Unavailable, "time-out")
			}
			return nil
		})
		put(t, m, "k", "new")
		a.fail(nil)
		time.Sleep(time.Minute)
		want(t, m, "k", "new")
		if r := repair(t, m, false); r.Copied != 1 {
			t.Errorf("%+v", r)
		}
		want(t, a, "k", "new")
	})
}

// TestNoDebtNoSuccess holds that a change counts only where its debts are noted at enough members.
func TestNoDebtNoSuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, c := newPlace(), newPlace(), newPlace()
		m := open(t, 2, a, b, c)
		c.away.Store(true)
		b.fail(func(op memblob.Op) error {
			if op.Name == "put" && strings.HasPrefix(op.Keys[0], ownPrefix) {
				return firn.NewError(firn.NoSpace, "full")
			}
			return nil
		})
		if err := m.Put(t.Context(), "k", blob.Bytes(nil)); err == nil {
			t.Error("a change counts whose debt only one member knows")
		}
	})
}

// TestTwoProcesses holds that the debts one notes are seen by the other.
func TestTwoProcesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, c := newPlace(), newPlace(), newPlace()
		one := open(t, 2, a, b, c)
		put(t, one, "k", "old")
		two := open(t, 2, a, b, c)
		a.away.Store(true)
		put(t, one, "k", "new")
		a.away.Store(false)
		time.Sleep(time.Minute)
		want(t, two, "k", "new")
	})
}

func TestMovesNothingWhileEqual(t *testing.T) {
	m := open(t, 0, newPlace(), newPlace())
	put(t, m, "k", "v")
	if r := repair(t, m, true); r != (Report{}) {
		t.Errorf("%+v", r)
	}
	if err := m.Put(t.Context(), ownPrefix+"x", blob.Bytes(nil)); firn.KindOf(err) != firn.Invalid {
		t.Errorf("put over the mirror's own: %v", err)
	}
	if s := m.Status(); len(s) != 2 || s[0].Owed+s[1].Owed != 0 || !slices.ContainsFunc(s, func(s Status) bool { return s.Name == "b" }) {
		t.Errorf("%+v", s)
	}
}

// heard is an Observer that writes down what it hears.
type heard struct {
	nobody
	all chan string
}

func (h heard) Owed(member, key string) { h.all <- "owed " + member + " " + key }
func (h heard) Repaired(member, key string, left int) {
	h.all <- fmt.Sprint("repaired ", member, " ", key, " ", left)
}
func (h heard) Away(member string, err error) { h.all <- "away " + member }
func (h heard) Back(member string)            { h.all <- "back " + member }

func TestObserver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newPlace(), newPlace()
		_ = open(t, 2, a, b).Close()
		h := heard{all: make(chan string, 100)}
		m, err := New(t.Context(), members(a, b), Options{Writes: 2, Observer: h})
		if err != nil {
			t.Fatal(err)
		}
		put(t, m.Driver(), "one", "1")
		b.away.Store(true)
		for _, key := range []string{"two", "three"} {
			if err := m.Driver().Put(t.Context(), key, blob.Bytes([]byte("2"))); firn.KindOf(err) != firn.Unavailable {
				t.Errorf("put: %v", err)
			}
		}
		b.away.Store(false)
		time.Sleep(time.Minute)
		repair(t, m, false)
		close(h.all)
		var all []string
		for s := range h.all {
			all = append(all, s)
		}
		for i, s := range all {
			all[i] = strings.NewReplacer(" two", "", " three", "").Replace(s) // it pays its debts in any order
		}
		if got, want := strings.Join(all, ", "), "away b, owed b, owed b, back b, repaired b 1, repaired b 0"; got != want {
			t.Errorf("heard %s, want %s", got, want)
		}
	})
}
