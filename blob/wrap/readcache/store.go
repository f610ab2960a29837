package readcache

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/zeebo/blake3"

	"firn"
	"firn/blob"
	"firn/vfs"
)

// blockID names a block: of which key, of which content of it, which one.
type blockID struct {
	key     [16]byte
	version uint64
	index   uint32
}

// keyID is the first half of the key's BLAKE3.
func keyID(key string) [16]byte {
	sum := blake3.Sum256([]byte(key))
	return [16]byte(sum[:16])
}

// versionID tells contents of one key apart, and blocks of other lengths.
func versionID(size int64, modified time.Time, block int) uint64 {
	var p [32]byte
	binary.LittleEndian.PutUint64(p[0:], uint64(size))
	binary.LittleEndian.PutUint64(p[8:], uint64(modified.Unix()))
	binary.LittleEndian.PutUint64(p[16:], uint64(modified.Nanosecond()))
	binary.LittleEndian.PutUint64(p[24:], uint64(block))
	sum := blake3.Sum256(p[:])
	return binary.LittleEndian.Uint64(sum[:])
}

// A file is the magic, the BLAKE3 of its name and content, and the content.
const (
	fileMagic = "firnRC01"
	blockHead = 8 + 32
	nameLen   = 32 + 1 + 16 + 1 + 8
)

func (id blockID) name() string { return fmt.Sprintf("%x-%016x-%08x", id.key, id.version, id.index) }

func parseName(s string) (blockID, bool) {
	var id blockID
	parts := strings.Split(s, "-")
	if len(s) != nameLen || len(parts) != 3 || len(parts[0]) != 32 || len(parts[1]) != 16 || len(parts[2]) != 8 {
		return id, false
	}
	raw, err := hex.DecodeString(parts[0] + parts[1] + parts[2])
	if err != nil {
		return id, false
	}
	id.key = [16]byte(raw[:16])
	id.version = binary.BigEndian.Uint64(raw[16:])
	id.index = binary.BigEndian.Uint32(raw[24:])
	return id, id.name() == s
}

func hash(name string, p []byte) [32]byte {
	h := blake3.New()
	_, _ = h.WriteString(name)
	_, _ = h.Write(p)
	return [32]byte(h.Sum(nil))
}

// store is the directory. Its bytes are counted before a file is written and after one is removed, so that they are
// never more than the budget.
type store struct {
	dir    string
	budget int64
	lock   io.Closer
	mu     struct {
		sync.Mutex
		held    int64
		blocks  *simplelru.LRU[blockID, int64] // bytes of the file
		byKey   map[[16]byte]map[blockID]struct{}
		dropped uint64 // counts drops
		stats   Stats
		closed  bool
	}
}

// openStore takes the directory and what is in it, the least recently written first to go.
func openStore(dir string, budget int64) (*store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, blob.FileError(err)
	}
	lock, err := vfs.LockDir(vfs.OS(), dir)
	if err != nil {
		return nil, err
	}
	s := &store{dir: dir, budget: budget, lock: lock}
	s.mu.byKey = map[[16]byte]map[blockID]struct{}{}
	if s.mu.blocks, err = simplelru.NewLRU[blockID, int64](maxBlocks, nil); err == nil {
		err = s.scan()
	}
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return s, nil
}

type found struct {
	id   blockID
	size int64
	at   time.Time
}

// scan takes up the files of an earlier run and removes those that were not finished. It reads no contents: get does.
func (s *store) scan() error {
	var all []found
	err := filepath.WalkDir(s.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() {
			return nil
		}
		id, ok := parseName(e.Name())
		switch {
		case ok:
			fi, err := e.Info()
			if err != nil {
				return err
			}
			all = append(all, found{id, fi.Size(), fi.ModTime()})
		case strings.HasPrefix(e.Name(), tempPrefix):
			return os.Remove(path)
		}
		return nil
	})
	if err != nil {
		return blob.FileError(err)
	}
	slices.SortFunc(all, func(a, b found) int { return a.at.Compare(b.at) })
	for _, f := range all {
		s.mu.held += f.size
		s.add(f.id, f.size)
	}
	return s.makeRoom(0)
}

const tempPrefix = "new-"

func (s *store) path(id blockID) string {
	name := id.name()
	return filepath.Join(s.dir, name[:2], name)
}

// add enters a file. The caller holds mu, or is the only one.
func (s *store) add(id blockID, size int64) {
	s.mu.blocks.Add(id, size)
	if s.mu.byKey[id.key] == nil {
		s.mu.byKey[id.key] = map[blockID]struct{}{}
	}
	s.mu.byKey[id.key][id] = struct{}{}
}

// takeOut removes the entry of a file. The caller holds mu and then removes the file, and its bytes after it.
func (s *store) takeOut(id blockID) {
	s.mu.blocks.Remove(id)
	delete(s.mu.byKey[id.key], id)
	if len(s.mu.byKey[id.key]) == 0 {
		delete(s.mu.byKey, id.key)
	}
}

// remove removes the file of a block that was taken out.
func (s *store) remove(id blockID, size int64) error {
	err := os.Remove(s.path(id))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return blob.FileError(err) // its bytes stay counted
	}
	s.mu.Lock()
	s.mu.held -= size
	s.mu.Unlock()
	return nil
}

// makeRoom removes the blocks that were not used for longest until n bytes more fit, and counts them as held.
func (s *store) makeRoom(n int64) error {
	for {
		s.mu.Lock()
		if s.mu.held+n <= s.budget && s.mu.blocks.Len() < maxBlocks {
			s.mu.held += n
			s.mu.Unlock()
			return nil
		}
		id, size, ok := s.mu.blocks.GetOldest()
		if !ok {
			s.mu.Unlock()
			return firn.NewError(firn.NoSpace, "the cache's budget is in use by blocks that are being written or removed")
		}
		s.takeOut(id)
		s.mu.stats.Evicted++
		s.mu.Unlock()
		if err := s.remove(id, size); err != nil {
			return err
		}
	}
}

// get returns a block whose hash is right.
func (s *store) get(id blockID) ([]byte, bool) {
	s.mu.Lock()
	_, ok := s.mu.blocks.Get(id)
	s.mu.Unlock()
	if !ok {
		return nil, false
	}
	p, err := os.ReadFile(s.path(id))
	if err == nil && len(p) >= blockHead && string(p[:len(fileMagic)]) == fileMagic &&
		hash(id.name(), p[blockHead:]) == [32]byte(p[len(fileMagic):blockHead]) {
		return p[blockHead:], true
	}
	s.mu.Lock()
	size, still := s.mu.blocks.Peek(id)
	if still {
		s.takeOut(id)
		s.mu.stats.Damaged++
	}
	s.mu.Unlock()
	if still {
		_ = s.remove(id, size) // counted as held until it can be removed
	}
	return nil, false
}

// epoch is a number that grows whenever blocks of a key are dropped.
func (s *store) epoch() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.dropped
}

// put keeps a block, unless something was dropped since epoch: it might be of the content before. A block that cannot be
// kept is no error: the cache is not needed.
func (s *store) put(id blockID, p []byte, epoch uint64) {
	size := int64(blockHead + len(p))
	if err := s.makeRoom(size); err != nil {
		s.refuse(0)
		return
	}
	temp, err := s.write(id, p)
	if err != nil {
		s.refuse(size)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, there := s.mu.blocks.Peek(id)
	if s.mu.closed || there || s.mu.dropped != epoch || os.Rename(temp, s.path(id)) != nil {
		if os.Remove(temp) == nil {
			s.mu.held -= size
		}
		return
	}
	s.add(id, size)
}

func (s *store) refuse(held int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.held -= held
	s.mu.stats.Refused++
}

// write writes a new file. It is not synced: what a crash tears, its hash tells.
func (s *store) write(id blockID, p []byte) (string, error) {
	if err := os.MkdirAll(filepath.Dir(s.path(id)), 0o700); err != nil {
		return "", err
	}
	f, err := os.CreateTemp(s.dir, tempPrefix+"*")
	if err != nil {
		return "", err
	}
	sum := hash(id.name(), p)
	_, err = f.Write(slices.Concat([]byte(fileMagic), sum[:], p))
	if err = errors.Join(err, f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}

// drop removes all blocks of a key.
func (s *store) drop(key [16]byte) {
	s.mu.Lock()
	s.mu.dropped++
	type file struct {
		id   blockID
		size int64
	}
	var files []file
	for id := range s.mu.byKey[key] {
		size, _ := s.mu.blocks.Peek(id)
		files = append(files, file{id, size})
	}
	for _, f := range files {
		s.takeOut(f.id)
	}
	s.mu.Unlock()
	for _, f := range files {
		_ = s.remove(f.id, f.size) // counted as held until it can be removed
	}
}

func (s *store) stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.mu.stats
	st.Held = s.mu.held
	return st
}

func (s *store) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return nil
	}
	s.mu.closed = true
	return s.lock.Close()
}
