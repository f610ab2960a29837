package sidecar

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/fsnotify/fsnotify"
)

// watcher tells that something in a directory changed. It knows no more than that: what, the survey finds out.
type watcher struct {
	w     *fsnotify.Watcher
	most  int
	count int
	root  string
	skip  func(string, bool) bool
	wake  chan struct{} // holds one when something changed
	ended sync.WaitGroup
	limit func(error) // told once that not all can be watched
}

// watch begins to watch dir and what is beneath. limited is told why not all of it can be, if so.
func watch(dir string, rules Rules, most int, limited func(error)) (*watcher, error) {
	n, err := fsnotify.NewBufferedWatcher(64)
	if err != nil {
		return nil, err
	}
	w := &watcher{w: n, most: most, root: dir, skip: rules.Skip(), wake: make(chan struct{}, 1)}
	var once sync.Once
	w.limit = func(err error) { once.Do(func() { limited(err) }) }
	w.add(dir)
	w.ended.Go(w.run)
	return w, nil
}

// errWatches is why not all is watched.
var errWatches = errors.New("more directories than may be watched")

// add watches a directory and those beneath it.
func (w *watcher) add(dir string) {
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return nil // gone meanwhile, or not to be read: the survey will tell
		}
		if rel := strings.TrimPrefix(strings.TrimPrefix(path, w.root), "/"); rel != "" && w.skip(rel, true) {
			return fs.SkipDir
		}
		if w.count >= w.most {
			if w.count = len(w.w.WatchList()); w.count >= w.most { // those removed are gone from the list
				return errWatches
			}
		}
		w.count++
		if err := w.w.Add(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	})
	if err != nil {
		w.limit(err)
	}
}

func (w *watcher) run() {
	for {
		select {
		case e, ok := <-w.w.Events:
			if !ok {
				return
			}
			if !w.event(e) {
				continue
			}
		case _, ok := <-w.w.Errors: // events were lost, so something changed
			if !ok {
				return
			}
		}
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// event reports whether e is a change of the directory's data.
func (w *watcher) event(e fsnotify.Event) bool {
	rel := strings.TrimPrefix(strings.TrimPrefix(e.Name, w.root), "/")
	if strings.HasSuffix(rel, "-shm") {
		return false
	}
	if e.Has(fsnotify.Create) {
		if info, err := os.Lstat(e.Name); err == nil && info.IsDir() {
			w.add(e.Name)
		}
	}
	return rel == "" || !w.skip(rel, false)
}

func (w *watcher) Close() error {
	err := w.w.Close()
	w.ended.Wait()
	return err
}
