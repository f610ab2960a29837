// Package audit owns the record of who did what: one JSON line for each request and each change by an administrator,
// in files whose lines each carry the hash of the one before.
//
// It promises that lines are complete and in order, that a line changed, removed or put in later breaks the chain
// where Verify says, that recording never waits for the disk longer than its queue is long, and that what could not
// be recorded is either refused before it happens or counted in the record, as the options say. Nothing secret may be
// put into an Event. With a Sealer each line is sealed, so that it can neither be read nor made up without the key. It must never import a door, config or node. docs/format/audit.md describes the files.
package audit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"firn"
	"firn/vfs"
)

// Event is one thing that happened. Empty fields are left out.
type Event struct {
	Time      time.Time `json:"time"`
	Kind      string    `json:"kind"` // s3, admin, or the log's own: open, close, dropped
	RequestID string    `json:"request_id,omitempty"`
	User      string    `json:"user,omitempty"` // "" where nobody signed
	AccessKey string    `json:"access_key,omitempty"`
	Remote    string    `json:"remote,omitempty"` // address of the client
	TLS       bool      `json:"tls,omitempty"`
	Agent     string    `json:"user_agent,omitempty"`
	Op        string    `json:"op,omitempty"`     // such as GetObject
	Action    string    `json:"action,omitempty"` // the permission asked for, such as s3:GetObject
	Method    string    `json:"method,omitempty"`
	Bucket    string    `json:"bucket,omitempty"`
	Key       string    `json:"key,omitempty"`
	VersionID string    `json:"version_id,omitempty"`
	Detail    string    `json:"detail,omitempty"`   // of an administrator's change: what was asked for
	Decision  string    `json:"decision,omitempty"` // allowed or denied, and by what
	Status    int       `json:"status,omitempty"`
	Code      string    `json:"code,omitempty"` // the S3 error sent
	In        int64     `json:"in,omitempty"`   // bytes of body received
	Out       int64     `json:"out,omitempty"`  // bytes of body sent
	Micros    int64     `json:"took_us,omitempty"`
	Count     int64     `json:"count,omitempty"` // of a dropped line: events not recorded
}

// line is an Event as it is stored.
type line struct {
	Seq  uint64 `json:"seq"`
	Prev string `json:"prev"` // SHA-256 of the line before, without its line feed, in hex
	Event
}

// Policy says what happens while events cannot be recorded.
type Policy uint8

const (
	// Refuse lets Ready fail until they can be recorded again. Record waits for room in the queue.
	Refuse Policy = iota
	// Drop goes on and counts what is lost.
	Drop
)

// Options are the settings of a Log. Zero values have the meaning stated.
type Options struct {
	Dir       string // where the files are
	OnFailure Policy
	MaxFile   int64         // bytes of a file; 0 is 64 MiB
	MaxAge    time.Duration // of a file from its first line; 0 is a day
	Keep      time.Duration // of closed files; 0 keeps them
	KeepSize  int64         // bytes of closed files; 0 sets no bound
	Queue     int           // events waiting to be written; 0 is 4096
	Seal      Sealer        // seals each line; nil writes them in the clear
	Log       *slog.Logger  // nil discards
	Now       func() time.Time
}

// Sealer seals what is not to be read from the disk. A box opens only with the context it was made for.
type Sealer interface {
	Box(dst []byte, context string, plain []byte) []byte
	Unbox(context string, box []byte) ([]byte, error)
}

// ErrNotRecording is what Ready returns while events cannot be recorded.
var ErrNotRecording = firn.NewError(firn.Unavailable, "the audit log cannot be written, and requests that are not recorded are refused")

// syncEvery is how long a line may be only in the operating system's memory.
const syncEvery = time.Second

// retryEvery is how long to wait after a failed write.
const retryEvery = time.Second

// Log writes events. All methods may be called concurrently.
type Log struct {
	o     Options
	queue chan Event
	done  chan struct{} // closed when Run returned

	mu struct {
		sync.Mutex
		failed  error // of the last write, nil where it succeeded
		dropped int64 // since the last dropped line
		total   Stats
		grown   chan struct{} // closed and replaced when lines were added
	}

	// The rest is Run's alone, after Open.
	file    *os.File
	name    string
	size    int64
	began   time.Time
	seq     uint64
	prev    string
	unsaved bool
	buf     []byte // the line being written
}

// Stats count what happened since the start.
type Stats struct {
	Written int64
	Dropped int64
}

// Open finds the end of the record in o.Dir, or begins it. A last line that a crash left incomplete is cut off; what
// was cut off is said in the line after.
func Open(o Options) (*Log, error) {
	if o.MaxFile <= 0 {
		o.MaxFile = 64 << 20
	}
	if o.MaxAge <= 0 {
		o.MaxAge = 24 * time.Hour
	}
	if o.Queue <= 0 {
		o.Queue = 4096
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	l := &Log{o: o, queue: make(chan Event, o.Queue), done: make(chan struct{})}
	l.mu.grown = make(chan struct{})
	if err := vfs.MkdirAllSync(vfs.OS(), o.Dir, 0o700); err != nil {
		return nil, firn.E("open audit log", o.Dir, err)
	}
	if err := l.resume(); err != nil {
		return nil, firn.E("open audit log", o.Dir, err)
	}
	return l, nil
}

// resume continues the newest file, or begins the first.
func (l *Log) resume() error {
	files, err := list(l.o.Dir)
	if err != nil {
		return err
	}
	if len(files) == 0 {
		l.prev = hex.EncodeToString(make([]byte, sha256.Size))
		return l.begin("")
	}
	newest := files[len(files)-1]
	path := filepath.Join(l.o.Dir, newest)
	end, err := tail(path, l.o.Seal)
	if err != nil {
		return err
	}
	if end.lines == 0 && len(files) > 1 {
		// A crash came between the making of the file and its first line: it holds nothing.
		if err := os.Remove(path); err != nil {
			return err
		}
		return l.resume()
	}
	if l.file, err = os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0o600); err != nil {
		return err
	}
	if end.torn > 0 {
		if err := l.file.Truncate(end.size); err != nil {
			return errors.Join(err, l.file.Close())
		}
	}
	l.name, l.size, l.seq, l.prev, l.began = newest, end.size, end.seq, end.hash, end.began
	if end.lines == 0 {
		l.prev, l.began = hex.EncodeToString(make([]byte, sha256.Size)), l.o.Now()
	}
	detail := ""
	if end.torn > 0 {
		detail = fmt.Sprintf("%d bytes of a line that a crash left incomplete were cut off", end.torn)
	}
	return l.append(Event{Kind: "open", Detail: detail})
}

// begin opens the next file. Its name is the number of its first line.
func (l *Log) begin(detail string) error {
	l.name = fmt.Sprintf("audit-%016d.jsonl", l.seq+1)
	f, err := os.OpenFile(filepath.Join(l.o.Dir, l.name), os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	l.file, l.size, l.began = f, 0, l.o.Now()
	if err = vfs.SyncDir(vfs.OS(), l.o.Dir); err == nil {
		err = l.append(Event{Kind: "open", Detail: detail})
	}
	if err != nil {
		// The next try makes it again.
		l.abandon()
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// abandon gives a file up that cannot be written: the record goes on in the next.
func (l *Log) abandon() {
	if l.file != nil {
		_ = l.file.Close() // it failed already
		l.file = nil
	}
}

// append writes one line. After an error nothing was written, as far as the file's length can be put back.
func (l *Log) append(e Event) error {
	if e.Time.IsZero() {
		e.Time = l.o.Now()
	}
	e.Time = e.Time.UTC()
	b, err := json.Marshal(line{Seq: l.seq + 1, Prev: l.prev, Event: e})
	if err != nil {
		return err
	}
	sum := sha256.Sum256(b)
	l.buf = append(encode(l.buf[:0], b, l.o.Seal), '\n')
	if _, err := l.file.Write(l.buf); err != nil {
		if terr := l.file.Truncate(l.size); terr != nil {
			err = errors.Join(err, terr)
			l.abandon()
		}
		return err
	}
	l.seq++
	l.prev = hex.EncodeToString(sum[:])
	l.size += int64(len(l.buf))
	l.unsaved = true
	return nil
}

// Ready returns nil where events are being recorded, or where that does not matter.
func (l *Log) Ready() error {
	if l.o.OnFailure == Drop {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.failed != nil {
		return ErrNotRecording
	}
	return nil
}

// Record takes one event. With Refuse it waits for room in the queue; an event of a request that was let in before
// the record failed waits with the others until it can be written.
func (l *Log) Record(e Event) {
	select {
	case l.queue <- e:
		return
	default:
	}
	if l.o.OnFailure == Drop {
		l.mu.Lock()
		l.mu.dropped++
		l.mu.total.Dropped++
		l.mu.Unlock()
		return
	}
	select {
	case l.queue <- e:
	case <-l.done: // the site stopped: nothing is recorded any more
	}
}

// Stats returns what was counted since the start.
func (l *Log) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.total
}

// Run writes events until ctx ends, then what is queued, and closes the record. It returns nil.
func (l *Log) Run(ctx context.Context) error {
	defer close(l.done)
	tick := time.NewTicker(syncEvery)
	defer tick.Stop()
	for {
		select {
		case e := <-l.queue:
			l.write(ctx, e)
			for more := true; more; { // all that waits becomes one announcement
				select {
				case e := <-l.queue:
					l.write(ctx, e)
				default:
					more = false
				}
			}
			l.announce()
		case <-tick.C:
			l.tidy()
		case <-ctx.Done():
			for {
				select {
				case e := <-l.queue:
					l.write(ctx, e)
					continue
				default:
				}
				break
			}
			if l.file == nil {
				return nil
			}
			if err := errors.Join(l.append(Event{Kind: "close"}), l.file.Sync(), l.file.Close()); err != nil {
				l.o.Log.Error("the audit log could not be closed", "error", err)
			}
			l.file = nil
			l.announce()
			return nil
		}
	}
}

// Close closes a record that was never run. After Run it does nothing.
func (l *Log) Close() error {
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
}

// write records e, after what was lost before it. With Refuse it tries until it can; at the end of ctx it gives up.
func (l *Log) write(ctx context.Context, e Event) {
	for {
		err := l.writeOnce(e)
		l.outcome(err)
		if err == nil {
			return
		}
		if l.o.OnFailure == Drop || ctx.Err() != nil {
			l.mu.Lock()
			l.mu.dropped++
			l.mu.total.Dropped++
			l.mu.Unlock()
			return
		}
		select {
		case <-time.After(retryEvery):
		case <-ctx.Done():
		}
	}
}

func (l *Log) writeOnce(e Event) error {
	if err := l.rotate(); err != nil {
		return err
	}
	l.mu.Lock()
	lost := l.mu.dropped
	l.mu.Unlock()
	if lost > 0 {
		if err := l.append(Event{Kind: "dropped", Count: lost}); err != nil {
			return err
		}
		l.mu.Lock()
		l.mu.dropped -= lost
		l.mu.Unlock()
	}
	return l.append(e)
}

// outcome notes whether a write succeeded, and says so where that changed.
func (l *Log) outcome(err error) {
	l.mu.Lock()
	was := l.mu.failed
	l.mu.failed = err
	if err == nil {
		l.mu.total.Written++
	}
	l.mu.Unlock()
	switch {
	case err != nil && was == nil:
		l.o.Log.Error("the audit log cannot be written", "dir", l.o.Dir, "refusing_requests", l.o.OnFailure == Refuse, "error", err)
	case err == nil && was != nil:
		l.o.Log.Info("the audit log is written again", "dir", l.o.Dir)
	}
}

// rotate closes a file that is large or old enough and begins the next. A failed file is not written again.
func (l *Log) rotate() error {
	if l.file == nil {
		return l.begin("")
	}
	if l.size < l.o.MaxFile && l.o.Now().Sub(l.began) < l.o.MaxAge {
		return nil
	}
	if err := errors.Join(l.file.Sync(), l.file.Close()); err != nil {
		l.o.Log.Error("a file of the audit log could not be closed", "file", l.name, "error", err)
	}
	l.file, l.unsaved = nil, false
	// The head of the chain in another place shows when the end of the record is cut off.
	l.o.Log.Info("audit log: file closed", "file", l.name, "last", l.seq, "hash", l.prev)
	return l.begin("")
}

// tidy syncs what was written, tries again what failed, and removes old files.
func (l *Log) tidy() {
	if l.unsaved && l.file != nil {
		l.unsaved = false
		if err := l.file.Sync(); err != nil {
			l.o.Log.Error("the audit log could not be synced", "file", l.name, "error", err)
		}
	}
	l.mu.Lock()
	failed, lost := l.mu.failed, l.mu.dropped
	l.mu.Unlock()
	// A line of the log's own finds out whether the disk has room again.
	if failed != nil || lost > 0 {
		err := l.rotate()
		if err == nil && lost > 0 {
			if err = l.append(Event{Kind: "dropped", Count: lost}); err == nil {
				l.mu.Lock()
				l.mu.dropped -= lost
				l.mu.Unlock()
			}
		} else if err == nil {
			err = l.append(Event{Kind: "open", Detail: "written again after a failure"})
		}
		l.outcome(err)
	}
	if err := l.expire(); err != nil {
		l.o.Log.Warn("old files of the audit log could not be removed", "error", err)
	}
}

// expire removes closed files that are older or more than asked for, the oldest first.
func (l *Log) expire() error {
	if l.o.Keep == 0 && l.o.KeepSize == 0 {
		return nil
	}
	files, err := list(l.o.Dir)
	if err != nil {
		return err
	}
	var total int64
	for i := len(files) - 1; i >= 0; i-- {
		if files[i] == l.name {
			continue
		}
		path := filepath.Join(l.o.Dir, files[i])
		fi, err := os.Stat(path)
		if err != nil {
			return err
		}
		total += fi.Size()
		old := l.o.Keep > 0 && l.o.Now().Sub(fi.ModTime()) > l.o.Keep
		if old || l.o.KeepSize > 0 && total > l.o.KeepSize {
			if err := os.Remove(path); err != nil {
				return err
			}
			l.o.Log.Info("audit log: old file removed", "file", files[i])
		}
	}
	return nil
}

// announce wakes who waits for lines.
func (l *Log) announce() {
	l.mu.Lock()
	close(l.mu.grown)
	l.mu.grown = make(chan struct{})
	l.mu.Unlock()
}

// changed returns a channel that is closed when lines are added.
func (l *Log) changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.grown
}
