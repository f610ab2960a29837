package transfer

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"firn"
)

// stateDir remembers the multipart uploads in progress, so that an interrupted one goes on. A nil stateDir
// remembers nothing.
type stateDir struct {
	path string
}

// uploadState is the record of one upload. All but UploadID decide whether the record is still of use.
type uploadState struct {
	Version  int       `json:"version"`
	Endpoint string    `json:"endpoint"`
	Target   string    `json:"target"`
	Source   string    `json:"source"`
	Size     int64     `json:"size"`
	ModTime  time.Time `json:"mtime"`
	PartSize int64     `json:"part_size"`
	UploadID string    `json:"upload_id"`

	path string // "" where nothing is kept
	lock *os.File
}

const stateVersion = 1

// maxStateFile bounds what is read of a state file, in bytes.
const maxStateFile = 64 << 10

// errBusy is a transfer that another process is busy with.
var errBusy = firn.NewError(firn.Conflict, "another process is transferring the same thing")

// stateName is a file name of fixed length for any names.
func stateName(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		h.Write([]byte(p))
		h.Write([]byte{0})
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// openUpload returns the record of an upload of a file, with UploadID where an earlier run left one of the
// same file as it is now. It keeps others out until close.
func (d *stateDir) openUpload(endpoint string, to Location, source string, fi fs.FileInfo, partSize int64) (*uploadState, error) {
	st := &uploadState{
		Version: stateVersion, Endpoint: endpoint, Target: to.String(), Source: source,
		Size: fi.Size(), ModTime: fi.ModTime().UTC(), PartSize: partSize,
	}
	if d == nil || d.path == "" {
		return st, nil
	}
	abs, err := filepath.Abs(source)
	if err != nil {
		return nil, err
	}
	st.Source = abs
	if err := os.MkdirAll(d.path, 0o700); err != nil {
		return nil, firn.E("keep upload state", d.path, err)
	}
	st.path = filepath.Join(d.path, stateName(endpoint, st.Target, st.Source)+".json")
	lock, err := os.OpenFile(st.path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, firn.E("keep upload state", st.path, err)
	}
	if err := lockFile(lock); err != nil {
		return nil, errors.Join(firn.E("upload", st.Target, err), lock.Close())
	}
	st.lock = lock
	var old uploadState
	switch err := readJSON(st.path, &old); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil: // cut short or of another release: start anew, the server removes old uploads in time
	case old.Version == st.Version && old.Endpoint == endpoint && old.Target == st.Target && old.Source == st.Source &&
		old.Size == st.Size && old.ModTime.Equal(st.ModTime) && old.PartSize == partSize:
		st.UploadID = old.UploadID
	}
	return st, nil
}

func readJSON(path string, v any) error {
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	if fi.Size() > maxStateFile {
		return errors.New("state file is too large")
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}

func (s *uploadState) save() error {
	if s.path == "" {
		return nil
	}
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return firn.E("keep upload state", s.path, writeFileAtomic(s.path, data, 0o600))
}

// forget removes the record of a finished or given up upload.
func (s *uploadState) forget() error {
	if s.path == "" {
		return nil
	}
	for _, p := range []string{s.path, s.path + ".lock"} {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return firn.E("remove upload state", p, err)
		}
	}
	return nil
}

// close lets others in.
func (s *uploadState) close() error {
	if s.lock == nil {
		return nil
	}
	return s.lock.Close()
}
