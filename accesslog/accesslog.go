// Package accesslog owns the access logs that buckets ask for: the form of their lines, and the lines on their way from
// the request to an object in the target bucket.
//
// It promises that noting a request never waits for the disk; that what was noted is in the metadata store within a
// second, from where a crash does not take it; that each line reaches the target once, or again after a crash in
// between, as long as the target takes it; and that memory and spool are bounded, beyond which lines are dropped and
// counted. As on AWS, logs are a best effort: they neither hold up nor fail a request. It must never import a door, the
// namespace, config or node: where the lines go is the function that New is given. docs/format/access-log.md describes
// what is stored.
package accesslog

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"sync"
	"time"

	"firn"
	"firn/kv"
)

// Deliver puts lines of one day of the log of a bucket, which it finds by its id, where that bucket says. An error of
// kind firn.NotFound or firn.Denied says that they can go nowhere: they are dropped. After any other it is called again.
type Deliver func(ctx context.Context, bucket uint64, day time.Time, lines []byte) error

// Options are the settings of a Log. Zero values have the meaning stated.
type Options struct {
	Every time.Duration // between deliveries; 0 is five minutes
	Log   *slog.Logger  // nil discards
	Now   func() time.Time
}

// Bounds of a Log, in bytes.
const (
	maxWaiting = 4 << 20  // in memory, until the next write
	maxBucket  = 16 << 20 // spooled for one bucket
	maxSpool   = 64 << 20 // spooled for all
	maxObject  = 4 << 20  // of one delivery, about
	enough     = 1 << 20  // spooled for a bucket, to be delivered at once
)

const (
	writeEvery = time.Second
	// stopWithin bounds the deliveries at the end.
	stopWithin = 10 * time.Second
)

// Log takes lines and delivers them. All methods may be called concurrently.
type Log struct {
	db      kv.DB
	deliver Deliver
	o       Options

	mu struct {
		sync.Mutex
		waiting map[slot][]byte
		bytes   int
		stats   Stats
	}

	// The rest is Run's alone, after Open.
	spooled map[uint64]int64 // bytes by bucket
	seq     uint64
	failing bool            // the last write to the spool failed
	held    map[uint64]bool // buckets whose delivery failed: they wait for the next turn
}

// slot is what is delivered together.
type slot struct {
	bucket uint64
	day    uint32 // since 1970, UTC
}

// Stats count lines since the start.
type Stats struct {
	Lines     int64 // noted
	Dropped   int64 // that no room was left for, or that no target takes
	Delivered int64 // objects
	Failed    int64 // deliveries to be tried again
	Spooled   int64 // bytes
}

// Open returns a Log over what db still holds of an earlier one.
func Open(ctx context.Context, db kv.DB, deliver Deliver, o Options) (*Log, error) {
	if o.Every <= 0 {
		o.Every = 5 * time.Minute
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	l := &Log{db: db, deliver: deliver, o: o, spooled: make(map[uint64]int64), held: make(map[uint64]bool)}
	l.mu.waiting = make(map[slot][]byte)
	err := db.View(ctx, func(r kv.Reader) error {
		return kv.Scan(r, []byte{tag}, []byte{tag + 1}, func(key, value []byte) error {
			s, seq, ok := parseKey(key)
			if !ok {
				return firn.NewError(firn.Unsupported, "the spool of access logs has entries that are not known to this build")
			}
			l.count(s.bucket, int64(len(value)))
			l.seq = max(l.seq, seq)
			return nil
		})
	})
	return l, firn.E("open access logs", "", err)
}

// Note takes one line, which ends with a line feed, of the log of a bucket. It does not keep line.
func (l *Log) Note(bucket uint64, at time.Time, line []byte) {
	s := slot{bucket, uint32(at.Unix() / (24 * 60 * 60))}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.bytes+len(line) > maxWaiting {
		l.mu.stats.Dropped++
		return
	}
	l.mu.waiting[s] = append(l.mu.waiting[s], line...)
	l.mu.bytes += len(line)
	l.mu.stats.Lines++
}

// Stats returns the counts.
func (l *Log) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.stats
}

// add changes the counts.
func (l *Log) add(change func(*Stats)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(&l.mu.stats)
}

func (l *Log) count(bucket uint64, bytes int64) {
	if l.spooled[bucket] += bytes; l.spooled[bucket] <= 0 {
		delete(l.spooled, bucket)
	}
	l.add(func(s *Stats) { s.Spooled += bytes })
}

// Run spools and delivers until ctx ends; then it delivers what there is, within a bound, and returns nil. The db must
// stay open until then.
func (l *Log) Run(ctx context.Context) error {
	write := time.NewTicker(writeEvery)
	defer write.Stop()
	due := time.NewTicker(l.o.Every)
	defer due.Stop()
	for {
		select {
		case <-ctx.Done():
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
			defer cancel()
			l.spool(ctx)
			clear(l.held)
			l.deliverAll(ctx, 0)
			return nil
		case <-write.C:
			l.spool(ctx)
			l.deliverAll(ctx, enough)
		case <-due.C:
			clear(l.held)
			l.deliverAll(ctx, 0)
		}
	}
}

// spool writes what waits in memory to the metadata store, in one transaction.
func (l *Log) spool(ctx context.Context) {
	l.mu.Lock()
	waiting := l.mu.waiting
	if l.mu.bytes > 0 {
		l.mu.waiting, l.mu.bytes = make(map[slot][]byte), 0
	}
	total := l.mu.stats.Spooled
	l.mu.Unlock()
	for s, lines := range waiting {
		if n := int64(len(lines)); l.spooled[s.bucket]+n > maxBucket || total+n > maxSpool {
			l.drop("there is more of it than the spool may hold", s.bucket, lines)
			delete(waiting, s)
		} else {
			total += n
		}
	}
	if len(waiting) == 0 {
		return
	}
	l.seq++
	err := l.db.Update(ctx, func(tx kv.Tx) error {
		for s, lines := range waiting {
			tx.Set(key(s, l.seq), lines)
		}
		return nil
	}, []byte{tag})
	if err != nil {
		if !l.failing {
			l.o.Log.Warn("access logs cannot be spooled", "error", err)
		}
		for s, lines := range waiting {
			l.drop("", s.bucket, lines)
		}
	} else {
		for s, lines := range waiting {
			l.count(s.bucket, int64(len(lines)))
		}
	}
	l.failing = err != nil
}

// drop counts lines that are given up, and says so where there is a reason to name.
func (l *Log) drop(why string, bucket uint64, lines []byte) {
	n := int64(0)
	for _, c := range lines {
		if c == '\n' {
			n++
		}
	}
	l.add(func(s *Stats) { s.Dropped += n })
	if why != "" {
		l.o.Log.Warn("a part of an access log was dropped", "bucket_id", bucket, "lines", n, "why", why)
	}
}

// deliverAll delivers what is spooled for buckets with least bytes or more. What fails for one does not hold up another.
func (l *Log) deliverAll(ctx context.Context, least int64) {
	for bucket, bytes := range l.spooled {
		if bytes < least || l.held[bucket] {
			continue
		}
		for ctx.Err() == nil {
			more, err := l.deliverOne(ctx, bucket)
			if err != nil {
				l.held[bucket] = true
				l.add(func(s *Stats) { s.Failed++ })
				l.o.Log.Warn("an access log could not be delivered; it is tried again", "bucket_id", bucket, "error", err)
			}
			if !more || err != nil {
				break
			}
		}
	}
}

// deliverOne delivers the oldest of what is spooled for a bucket, of one day, and reports whether there is more.
func (l *Log) deliverOne(ctx context.Context, bucket uint64) (more bool, err error) {
	var lines []byte
	var day uint32
	var last []byte
	from, to := key(slot{bucket, 0}, 0), key(slot{bucket, 1<<32 - 1}, 1<<64-1)
	err = l.db.View(ctx, func(r kv.Reader) error {
		err := kv.Scan(r, from, to, func(k, value []byte) error {
			s, _, _ := parseKey(k)
			if last != nil && (s.day != day || len(lines)+len(value) > maxObject) {
				more = true
				return errEnough
			}
			day, last, lines = s.day, append(last[:0], k...), append(lines, value...)
			return nil
		})
		if errors.Is(err, errEnough) {
			return nil
		}
		return err
	})
	if err != nil {
		return false, err
	}
	if last == nil {
		l.count(bucket, -l.spooled[bucket])
		return false, nil
	}
	err = l.deliver(ctx, bucket, time.Unix(int64(day)*24*60*60, 0).UTC(), lines)
	switch kind := firn.KindOf(err); {
	case err == nil:
		l.add(func(s *Stats) { s.Delivered++ })
	case kind == firn.NotFound || kind == firn.Denied:
		l.drop(err.Error(), bucket, lines)
	default:
		return false, err
	}
	err = l.db.Update(ctx, func(tx kv.Tx) error {
		tx.DeleteRange(from, append(last, 0))
		return nil
	}, []byte{tag})
	if err != nil {
		return false, err
	}
	l.count(bucket, -int64(len(lines)))
	return more, nil
}

var errEnough = errors.New("enough for one object")

// Keys of the spool in the metadata store are: tag version bucket day sequence, all big-endian.
const (
	tag     = 'l'
	version = 1
)

func key(s slot, seq uint64) []byte {
	b := binary.BigEndian.AppendUint64([]byte{tag, version}, s.bucket)
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(b, s.day), seq)
}

func parseKey(k []byte) (s slot, seq uint64, ok bool) {
	if len(k) != 2+8+4+8 || k[1] != version {
		return s, 0, false
	}
	return slot{binary.BigEndian.Uint64(k[2:]), binary.BigEndian.Uint32(k[10:])}, binary.BigEndian.Uint64(k[14:]), true
}
