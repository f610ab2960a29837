package sidecar

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"firn"
	"firn/blob"
)

// StateFile is the name of the state file in the directory. Files of this name are the sidecar's own, at any depth.
const StateFile = ".firn-sidecar"

// stateTemp is its name while it is written.
const stateTemp = ".firn-sidecar.new"

// State is the content of the state file: where the directory's content came from.
type State struct {
	Format int `json:"format"`
	// Version and Mark are of the last version that was restored to the directory, or made of it and acknowledged.
	Version string `json:"version,omitempty"`
	Mark    string `json:"mark,omitempty"`
	// Pending is the mark of a version that is being made of it. Whether it was is known by whether it is there.
	Pending string `json:"pending,omitempty"`
	// Restoring is the version that is being restored: what is in the directory is not whole.
	Restoring string `json:"restoring,omitempty"`
	// Holder is the lease's holder. Boot, Device and Inode are where the directory was then.
	Holder string `json:"holder,omitempty"`
	Boot   string `json:"boot,omitempty"`
	Device uint64 `json:"device,omitempty"`
	Inode  uint64 `json:"inode,omitempty"`
}

const (
	stateFormat = 1
	stateLimit  = 64 << 10
)

// came reports whether the content is, or may be, that of a version.
func (s *State) came() bool { return s.Mark != "" || s.Restoring != "" }

// is reports whether a version with this mark is the directory's.
func (s *State) is(mark string) bool { return mark != "" && (mark == s.Mark || mark == s.Pending) }

// ParseState reads a state file.
func ParseState(p []byte) (*State, error) {
	var s State
	if err := json.Unmarshal(p, &s); err != nil {
		return nil, &firn.Error{Kind: firn.Corrupt, Err: fmt.Errorf("it is damaged: %w", err)}
	}
	if s.Format != stateFormat {
		return nil, firn.NewError(firn.Unsupported, "it is of a later version of firn: update this one")
	}
	return &s, nil
}

// directory is the directory of the service, locked against another sidecar on this machine.
type directory struct {
	path  string
	rules Rules
	f     *os.File
}

func openDirectory(path string, rules Rules) (*directory, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, firn.E("start", "", blob.FileError(err))
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close() // the lock's error counts
		kind := firn.Internal
		if errors.Is(err, unix.EWOULDBLOCK) {
			kind, err = firn.Locked, errors.New("another sidecar has it")
		}
		return nil, &firn.Error{Kind: kind, Op: "lock", Subject: path, Err: err}
	}
	return &directory{path, rules, f}, nil
}

func (d *directory) Close() error { return d.f.Close() }

// identity is the State of this directory on this machine, with nothing in it.
func (d *directory) identity() State {
	s := State{Format: stateFormat}
	var st unix.Stat_t
	if unix.Fstat(int(d.f.Fd()), &st) == nil {
		s.Device, s.Inode = st.Dev, st.Ino
	}
	if b, err := os.ReadFile("/proc/sys/kernel/random/boot_id"); err == nil {
		s.Boot = strings.TrimSpace(string(b))
	}
	return s
}

// sameMachine reports whether s was written by a process that can have ended only before this one locked the directory.
func (d *directory) sameMachine(s *State) bool {
	i := d.identity()
	return s.Boot != "" && s.Boot == i.Boot && s.Device == i.Device && s.Inode == i.Inode
}

// readState returns nil where there is no state file.
func (d *directory) readState() (*State, error) {
	f, err := os.Open(filepath.Join(d.path, StateFile))
	if errors.Is(err, os.ErrNotExist) {
		// A directory that is gone itself must not look like one without a state.
		if _, serr := os.Stat(d.path); serr != nil {
			return nil, blob.FileError(serr)
		}
		return nil, nil
	}
	if err != nil {
		return nil, blob.FileError(err)
	}
	defer f.Close()
	p, err := io.ReadAll(io.LimitReader(f, stateLimit))
	if err != nil {
		return nil, blob.FileError(err)
	}
	return ParseState(p)
}

// writeState replaces the state file: its content is on stable storage before it has its name, and the name when
// writeState returns.
func (d *directory) writeState(s State) error {
	p, err := json.Marshal(s)
	if err != nil {
		return err
	}
	temp := filepath.Join(d.path, stateTemp)
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return blob.FileError(err)
	}
	_, err = f.Write(append(p, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(temp, filepath.Join(d.path, StateFile))
	}
	if err == nil {
		err = d.f.Sync()
	}
	if err != nil {
		return blob.FileError(err)
	}
	return nil
}

// lost says why the directory is not the one whose state was written by holder.
func (d *directory) lost(holder string) error {
	s, err := d.readState()
	switch {
	case err != nil:
		return err
	case s == nil:
		return errors.New("its state file is gone")
	case s.Holder != holder:
		return errors.New("its state file is another's")
	}
	var open, named unix.Stat_t
	if err := unix.Fstat(int(d.f.Fd()), &open); err != nil {
		return err
	}
	if err := unix.Stat(d.path, &named); err != nil {
		return err
	}
	if open.Dev != named.Dev || open.Ino != named.Ino {
		return errors.New("another directory has its name")
	}
	return nil
}
