package repo

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"firn/blob"
	"firn/blob/driver"
	"firn/blob/memblob"
)

// hanging answers nothing after some calls: each call then lasts as long as its context.
type hanging struct {
	driver.Driver
	after atomic.Int64 // calls that are answered
}

func (h *hanging) call(ctx context.Context) error {
	if h.after.Add(-1) >= 0 {
		return nil
	}
	<-ctx.Done()
	return context.Cause(ctx)
}

func (h *hanging) Put(ctx context.Context, key string, src driver.Source) error {
	if err := h.call(ctx); err != nil {
		return err
	}
	return h.Driver.Put(ctx, key, src)
}

func (h *hanging) Delete(ctx context.Context, key string) error {
	if err := h.call(ctx); err != nil {
		return err
	}
	return h.Driver.Delete(ctx, key)
}

func (h *hanging) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if err := h.call(ctx); err != nil {
		return nil, err
	}
	return h.Driver.Get(ctx, key, offset, length)
}

func (h *hanging) Stat(ctx context.Context, key string) (driver.Info, error) {
	if err := h.call(ctx); err != nil {
		return driver.Info{}, err
	}
	return h.Driver.Stat(ctx, key)
}

func (h *hanging) List(ctx context.Context, prefix string, fn func(driver.Info) error) error {
	if err := h.call(ctx); err != nil {
		return err
	}
	return h.Driver.List(ctx, prefix, fn)
}

// Interrupted, nothing waits for a place that has stopped to answer, whichever call it stops at.
func TestInterruptedWhereThePlaceHangs(t *testing.T) {
	for name, work := range map[string]func(ctx context.Context, r, other *Repo, snap ID, dir string) error{
		"backup": func(ctx context.Context, r, _ *Repo, _ ID, _ string) error {
			closing, release := Closing(ctx)
			defer release()
			s, err := r.NewSession(ctx, SessionOptions{})
			if err != nil {
				return err
			}
			root, err := saveTree(ctx, s, upTo(25))
			if err != nil {
				return errors.Join(err, s.Abort(closing))
			}
			_, err = s.Commit(ctx, Snapshot{Root: root})
			return err
		},
		"prune": func(ctx context.Context, r, _ *Repo, _ ID, dir string) error {
			rep, err := r.Prune(ctx, PruneOptions{Scratch: dir, MaxUnused: -1})
			return errors.Join(err, rep.NoReserve)
		},
		"repair": func(ctx context.Context, r, _ *Repo, _ ID, _ string) error {
			_, err := r.Repair(ctx, RepairOptions{ReadData: true}, func(Problem) {})
			return err
		},
		"copy": func(ctx context.Context, r, other *Repo, _ ID, _ string) error {
			_, err := other.CopyTo(ctx, r)
			return err
		},
		"tag": func(ctx context.Context, r, _ *Repo, snap ID, _ string) error {
			_, err := r.Tag(ctx, snap, func(s *Snapshot) { s.Tags = []string{"kept"} })
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				for calls := int64(0); ; calls++ {
					if calls > 200 {
						t.Fatal("it does not come to its end")
					}
					place := memblob.New(memblob.Options{})
					base := initRepo(t, blob.New(place, "mem:hang"), small())
					snap, err := backup(t.Context(), base, upTo(10))
					if err != nil {
						t.Fatal(err)
					}
					gone, err := backup(t.Context(), base, []int{31, 32})
					if err != nil {
						t.Fatal(err)
					}
					if err := base.Forget(t.Context(), gone.ID); err != nil {
						t.Fatal(err)
					}
					other := initRepo(t, newStore(t), small())
					if _, err := backup(t.Context(), other, upTo(10)); err != nil {
						t.Fatal(err)
					}
					h := &hanging{Driver: place}
					h.after.Store(calls)
					r := again(t, base, blob.New(h, "mem:hang"), Options{Uploads: 1})
					ctx, cancel := context.WithCancel(t.Context())
					ended := make(chan error)
					go func() { ended <- work(ctx, r, other, snap.ID, t.TempDir()) }()
					synctest.Wait()
					if h.after.Load() >= 0 {
						cancel()
						if err := <-ended; err != nil {
							t.Error(err)
						}
						return
					}
					time.Sleep(10 * time.Minute) // however long: while nobody interrupts it, it waits
					synctest.Wait()
					select {
					case err := <-ended:
						t.Fatalf("after %d calls it did not wait for the place: %v", calls, err)
					default:
					}
					begin := time.Now()
					cancel()
					limit := time.NewTimer(time.Hour)
					select {
					case err := <-ended:
						if err == nil && name != "tag" { // what is left of that session only makes a prune wait
							t.Errorf("after %d calls: interrupted, it says that all is well", calls)
						}
						if took := time.Since(begin); took > ClosingTime {
							t.Errorf("after %d calls: it ended %v after it was interrupted", calls, took)
						}
					case <-limit.C:
						t.Fatalf("after %d calls: interrupted, it does not end", calls)
					}
					limit.Stop()
				}
			})
		})
	}
}
