package redisblob

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"firn"
	"firn/blob"
	"firn/blob/driver"
)

// upload is the content of a put on its way: staged piece by piece before the commit, or travelling with it.
type upload struct {
	gen    string
	size   int64
	pieces int64
	staged bool
	data   []byte // where it is not staged
}

func newUpload(src driver.Source) *upload {
	size := src.Size()
	return &upload{gen: newGeneration(), size: size, pieces: max(1, (size+pieceSize-1)/pieceSize)}
}

func newGeneration() string {
	var b [12]byte
	rand.Read(b[:]) //nolint:errcheck // never fails
	return hex.EncodeToString(b[:])
}

func (c *upload) note() string { return c.gen + " " + strconv.FormatInt(c.pieces, 10) }

// Put stores a blob.
func (s *store) Put(ctx context.Context, key string, src driver.Source) error {
	return s.apply(ctx, []driver.Change{{Key: key, Put: src}}, "")
}

// Create stores a blob whose key is not there.
func (s *store) Create(ctx context.Context, key string, src driver.Source) error {
	if src.Size() > pieceSize {
		switch _, err := s.Stat(ctx, key); {
		case err == nil:
			return errExists
		case firn.KindOf(err) != firn.NotFound:
			return err
		}
	}
	return s.apply(ctx, []driver.Change{{Key: key, Put: src}}, "new")
}

// Delete removes a blob.
func (s *store) Delete(ctx context.Context, key string) error {
	return s.apply(ctx, []driver.Change{{Key: key}}, "")
}

// DeleteAll removes blobs, a script for up to 200 of a shard.
func (s *store) DeleteAll(ctx context.Context, keys []string) error {
	const most = 200
	batches := map[string][]driver.Change{}
	for _, key := range keys {
		at := s.shard(key).index
		batches[at] = append(batches[at], driver.Change{Key: key})
		if len(batches[at]) == most {
			if err := s.apply(ctx, batches[at], ""); err != nil {
				return err
			}
			batches[at] = batches[at][:0]
		}
	}
	for _, batch := range batches {
		if err := s.apply(ctx, batch, ""); err != nil {
			return err
		}
	}
	return nil
}

// Apply makes all changes or none.
func (w whole) Apply(ctx context.Context, changes []driver.Change) error {
	return w.apply(ctx, changes, "")
}

// apply makes changes within one shard.
func (s *store) apply(ctx context.Context, changes []driver.Change, mode string) error {
	if len(changes) == 0 {
		return ctx.Err()
	}
	sh := s.shard(changes[0].Key)
	uploads := make([]*upload, len(changes))
	var notes []any
	room := int64(pieceSize) // for content in the commit, which should stay small
	for i, c := range changes {
		if c.Put == nil {
			continue
		}
		up := newUpload(c.Put)
		if uploads[i] = up; up.size > room {
			up.staged = true
			notes = append(notes, up.note())
		} else {
			room -= up.size
		}
	}
	err := s.send(ctx, sh, changes, uploads, notes, mode)
	if len(notes) > 0 && err != nil {
		// What fails here is swept later. The commit may have happened in spite of the error; then nothing is noted.
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
		_, _ = s.run(cleanup, s.scripts.abort, []string{sh.pending}, append([]any{sh.piece}, notes...)...)
		cancel()
	}
	return err
}

func (s *store) send(ctx context.Context, sh shard, changes []driver.Change, uploads []*upload, notes []any, mode string) error {
	if len(notes) > 0 {
		if err := s.begin(ctx, sh, notes...); err != nil {
			return err
		}
	}
	args := []any{sh.piece, mode}
	for i, c := range changes {
		up := uploads[i]
		if up == nil {
			args = append(args, "del", c.Key)
			continue
		}
		if err := s.content(ctx, sh, up, c.Put); err != nil {
			return err
		}
		how := "put"
		if up.staged {
			how = "staged"
		}
		args = append(args, how, c.Key, up.gen, up.pieces, up.size, pieceSize, up.data)
	}
	return s.commit(ctx, sh, args)
}

// begin sweeps a part of what killed puts left, and notes new ones.
func (s *store) begin(ctx context.Context, sh shard, notes ...any) error {
	args := append([]any{sh.piece, lease.Milliseconds()}, notes...)
	_, err := s.run(ctx, s.scripts.begin, []string{sh.meta, sh.pending}, args...)
	return err
}

func (s *store) sweep(ctx context.Context, sh shard) error { return s.begin(ctx, sh) }

// content reads the source: into up, or as pieces into the server, some at a time.
func (s *store) content(ctx context.Context, sh shard, up *upload, src driver.Source) (err error) {
	r, err := blob.OpenExact(ctx, src)
	if err != nil {
		return fail(ctx, err)
	}
	defer func() {
		if e := r.Close(); err == nil && e != nil {
			err = e
		}
	}()
	if !up.staged {
		up.data = make([]byte, up.size)
		if _, err := io.ReadFull(r, up.data); err != nil {
			return err
		}
		return ended(r)
	}
	group, running := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	buffers := make(chan []byte, parallel)
	for range parallel {
		buffers <- make([]byte, min(pieceSize, up.size))
	}
	for n := int64(0); n < up.pieces && err == nil; n++ {
		var buf []byte
		select {
		case buf = <-buffers:
		case <-running.Done():
			err = running.Err()
			continue
		}
		buf = buf[:min(pieceSize, up.size-n*pieceSize)]
		if _, err = io.ReadFull(r, buf); err != nil {
			break
		}
		group.Go(func() error {
			_, err := s.run(running, s.scripts.stage, []string{sh.pending, fmt.Sprintf("%s%s:%d", sh.piece, up.gen, n)}, up.note(), buf)
			buffers <- buf[:cap(buf)]
			return err
		})
	}
	if e := group.Wait(); e != nil {
		return e
	}
	if ctx.Err() != nil {
		return fail(ctx, ctx.Err())
	}
	if err != nil {
		return err // the source's
	}
	return ended(r)
}

// ended reads the end, where an empty source shows whether it is one.
func ended(r io.Reader) error {
	var one [1]byte
	if _, err := io.ReadFull(r, one[:]); err != io.EOF { //nolint:errorlint // ReadFull returns it as it is
		return err
	}
	return nil
}

// run runs a script and returns what it answered, where that is not one word.
func (s *store) run(ctx context.Context, script *redis.Script, keys []string, args ...any) ([]any, error) {
	return result(ctx, script.Run(ctx, s.client, keys, args...))
}

func result(ctx context.Context, cmd *redis.Cmd) ([]any, error) {
	switch v, err := cmd.Result(); v := v.(type) {
	case []any:
		return v, fail(ctx, err)
	case string:
		return nil, answered(v)
	default:
		if err == nil {
			err = firn.NewError(firn.Internal, fmt.Sprintf("a script answered a %T", v))
		}
		return nil, fail(ctx, err)
	}
}

// commit runs the script and waits for replicas. These get a server's changes in order, so one that has the commit has
// the pieces too.
func (s *store) commit(ctx context.Context, sh shard, args []any) error {
	keys := []string{sh.meta, sh.index, sh.pending}
	cluster, isCluster := s.client.(*redis.ClusterClient)
	if !isCluster && s.replicas == 0 {
		_, err := s.run(ctx, s.scripts.commit, keys, args...)
		return err
	}
	// WAIT is about the changes of its own connection, so one is held, and a moved slot followed here.
	const attempts = 5
	for attempt := 1; ; attempt++ {
		node, ok := s.client.(*redis.Client)
		if isCluster {
			var err error
			if node, err = cluster.MasterForKey(ctx, sh.index); err != nil {
				return fail(ctx, err)
			}
		} else if !ok {
			return firn.NewError(firn.Internal, "neither a cluster nor a server")
		}
		err := s.commitAt(ctx, node, keys, args)
		if isCluster && attempt < attempts && moved(err) {
			cluster.ReloadState(ctx)
			select {
			case <-time.After(time.Duration(attempt) * 50 * time.Millisecond):
				continue
			case <-ctx.Done():
			}
		}
		return err
	}
}

func moved(err error) bool {
	return redis.HasErrorPrefix(err, "MOVED ") || redis.HasErrorPrefix(err, "ASK ") || redis.HasErrorPrefix(err, "READONLY ")
}

func (s *store) commitAt(ctx context.Context, node *redis.Client, keys []string, args []any) error {
	conn := node.Conn()
	defer conn.Close()
	if _, err := result(ctx, s.scripts.commit.Run(ctx, conn, keys, args...)); err != nil {
		return err
	}
	want := s.replicas
	if want == 0 {
		replication, err := info(ctx, conn, "replication")
		if redis.HasErrorPrefix(err, "NOPERM") {
			return nil // opened with durable=any by a user who may not ask
		}
		if err != nil {
			return fail(ctx, err)
		}
		if replication["connected_slaves"] == "0" {
			return nil
		}
		want = 1
	}
	got, err := conn.Wait(ctx, want, replicaWait).Result()
	if err == nil && got < int64(want) {
		err = firn.NewError(firn.Unavailable, fmt.Sprintf("the change is made, but %d of %d replicas have it", got, want))
	}
	return fail(ctx, err)
}
