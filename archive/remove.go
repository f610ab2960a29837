package archive

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"firn/archive/scan"
	"firn/archive/tree"
)

// remove deletes what is beneath restored directories of the target and not in the snapshot: both are walked side by
// side, in the same order.
func (t *restore) remove() error {
	target, err := filepath.EvalSymlinks(t.o.Target)
	if err == nil {
		target, err = filepath.Abs(target)
	}
	if err != nil {
		return err
	}
	prefix := strings.Trim(target, "/")
	next := make(chan string, 256)
	done := make(chan struct{})
	var nodesErr error
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(next)
		nodesErr = t.each(func(n wanted) error {
			select {
			case next <- n.rel:
				return nil
			case <-done:
				return errDiffers
			case <-t.ctx.Done():
				return t.ctx.Err()
			}
		})
	})
	defer wg.Wait()
	defer close(done)
	current, more := <-next
	gone := ""
	root := t.o.Path == "" // then only what is beneath the snapshot's own paths belongs to it
	err = scan.Walk(t.ctx, []string{target}, scan.Options{}, func(e *scan.Entry) error {
		rel, ok := strings.CutPrefix(e.Path, prefix+"/")
		if prefix == "" {
			rel, ok = e.Path, true
		}
		if !ok || rel == Marker {
			return nil
		}
		if gone != "" && tree.Within(rel, gone) {
			return nil
		}
		gone = ""
		for more && tree.Compare(current, rel) < 0 {
			current, more = <-next
		}
		if !more && nodesErr != nil {
			return nodesErr
		}
		if more && current == rel {
			return nil
		}
		if root && !t.covered(rel) || !t.selected(rel, e.Meta.Type() == tree.Dir) {
			return nil
		}
		gone = rel
		t.o.Report(Event{What: EventDeleted, Path: "/" + rel})
		if t.o.DryRun {
			t.sum.Deleted++
			return nil
		}
		n, err := removeTree(t.ctx, e.Dir.Fd(), e.Name())
		t.sum.Deleted += n
		if err != nil {
			if t.ctx.Err() != nil {
				return t.ctx.Err()
			}
			t.failed.Add(1)
			t.o.Report(Event{EventUnreadable, "/" + rel, fmt.Errorf("delete: %w", err)})
		}
		return nil
	})
	return err
}

// covered reports whether the snapshot says what is at rel: it is beneath one of its paths.
func (t *restore) covered(rel string) bool {
	for _, p := range t.snap.Paths {
		if p = strings.Trim(p, "/"); p != rel && tree.Within(rel, p) {
			return true
		}
	}
	return false
}

// selected reports whether the include and exclude patterns choose rel.
func (t *restore) selected(rel string, isDir bool) bool {
	path := rel
	if t.strip != "" {
		path = t.strip + "/" + rel
	}
	included := t.include == nil
	for i := 0; ; {
		j := strings.IndexByte(path[i:], '/')
		part, dir := path, isDir
		if j >= 0 {
			part, dir = path[:i+j], true
		}
		if t.exclude != nil && t.exclude.Match(part, dir) {
			return false
		}
		if t.include != nil && t.include.Match(part, dir) {
			included = true
		}
		if j < 0 {
			return included
		}
		i += j + 1
	}
}

// verify reads back what was restored and compares it with the snapshot.
func (t *restore) verify() error {
	jobs := make(chan wanted)
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for n := range jobs {
				if err := t.verifyFile(n); err != nil && t.ctx.Err() == nil {
					t.fail(n.Node, fmt.Errorf("verify: %w", err))
				}
			}
		})
	}
	err := t.each(func(n wanted) error {
		if n.Type != tree.File || n.Err != "" {
			return nil
		}
		select {
		case jobs <- n:
			return nil
		case <-t.ctx.Done():
			return t.ctx.Err()
		}
	})
	close(jobs)
	wg.Wait()
	return err
}

func (t *restore) verifyFile(n wanted) error {
	fd, err := openBeneath(t.root, n.rel, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// From the disk, not from memory, as far as the system does as it is told.
	_ = unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED)
	same, err := sameContent(t.ctx, t.r, fd, n.Node)
	if err == nil && !same {
		err = errors.New("its content is not that of the snapshot")
	}
	if err == nil {
		t.verified.Add(1)
	}
	return err
}
