package repo

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/zeebo/blake3"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/seal"
)

// How writers and prune live beside each other, without a lock and without trusting a clock:
//
// A writer puts sessions/<id> before it loads the index it finds known chunks in. A prune publishes what it will delete
// (doomed/<id>), then lists the sessions, and deletes only when all of them have ended; whoever comes later sees the
// doomed packs and does not rely on them. A session whose sign of life stands still may be dead: the prune deletes its
// file, lists the snapshots after that, pending ones too, and keeps what they need. A writer puts its snapshot as
// pending and looks for its session file after that. If it is there, the prune's listing comes later and sees the
// snapshot. If it is gone, the writer begins a new session, and goes on where it finds each chunk in a pack that is not
// doomed. Only a writer that found its file puts the snapshot. A pack that was doomed stays so for ever: what is needed of
// it after all is copied, since a prune that was taken for dead may be deleting it.
//
// So a clock that is wrong, a machine that slept, or a wrong guess about who is dead costs a backup that must run again,
// and never a chunk.

// RenewEvery is how often a session shows that it is alive.
const RenewEvery = 30 * time.Second

// A session's file is put once and never again: if it were renewed, a renewal on its way could bring it back after a
// prune deleted it. The sign of life is a file beside it.
const (
	sessionVersion = 1
	sessionLimit   = 16 << 10
	aliveSuffix    = ".alive"
)

// SessionOptions say who writes, for those who look at what is going on.
type SessionOptions struct {
	Host    string // "" is the machine's name
	Purpose string // "" is "backup"
}

type sessionFile struct {
	Version int       `json:"version"`
	Host    string    `json:"host"`
	Purpose string    `json:"purpose"`
	PID     int       `json:"pid"`
	Started time.Time `json:"started"` // by the writer's clock; only shown
}

// Session is one writer. Save may be called by any number of goroutines at once; the other methods by one. A Repo has
// at most one session at a time.
type Session struct {
	r       *Repo
	id      ID   // changes where it goes on as a new one
	loaded  bool // the index was loaded for it
	host    string
	purpose string
	ctx     context.Context // of what runs beside the callers; ends with the first failure
	cancel  context.CancelCauseFunc
	group   errgroup.Group // of uploads
	quiet   func()         // ends the signs of life

	claims  uint32          // number of a pack that stands for chunks that have no place yet
	staged  chan struct{}   // packs that the place has, and that are not durable yet
	buffers chan packBuffer // those there are for packs; an empty one is made when it is needed
	lanes   [kinds]lane

	mu struct {
		sync.Mutex
		ended   bool
		content []byte // of the next index file
		packs   []uint32
		numbers []uint32 // all packs of the session
		written time.Time
	}
}

// lane is the pack of one kind that takes chunks now.
type lane struct {
	sem  chan struct{} // held while a place is found
	open *packer
}

// NewSession begins to write. It fails with firn.Conflict while the Repo has another session.
func (r *Repo) NewSession(ctx context.Context, opt SessionOptions) (*Session, error) {
	return r.beginSession(ctx, opt, true)
}

// beginSession is NewSession; without the index where nothing is to be found in it.
func (r *Repo) beginSession(ctx context.Context, opt SessionOptions, load bool) (_ *Session, err error) {
	const op = "begin session"
	if err := r.writable(op); err != nil {
		return nil, err
	}
	if opt.Purpose == "" {
		opt.Purpose = "backup"
	}
	if opt.Host == "" {
		opt.Host, _ = os.Hostname() // only shown
	}
	s := &Session{r: r, loaded: load, host: opt.Host, purpose: opt.Purpose}
	r.mu.Lock()
	busy := r.mu.session != nil
	if !busy {
		r.mu.session = s
	}
	r.mu.Unlock()
	if busy {
		return nil, &firn.Error{Kind: firn.Conflict, Op: op, Subject: r.store.Name(), Err: errors.New("another session of this process is open")}
	}
	defer func() {
		if err != nil {
			r.mu.Lock()
			r.mu.session = nil
			r.mu.Unlock()
		}
	}()
	closing, release := Closing(ctx)
	defer release()
	if err := s.announce(ctx); err != nil {
		return nil, err
	}
	if load {
		err = r.refresh(ctx)
	}
	if err != nil {
		_ = s.leave(closing) // what is left of it only makes a prune wait
		return nil, err
	}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	s.claims = r.idx.addPack(packInfo{state: packOurs, file: noFile})
	s.mu.numbers = append(s.mu.numbers, s.claims)
	s.mu.written = time.Now()
	n := max(int(kinds), min(r.opt.Uploads+int(kinds), int(r.opt.Memory/int64(r.cfg.PackSize))-2))
	s.staged = make(chan struct{}, maxStaged)
	s.buffers = make(chan packBuffer, n)
	for range n {
		s.buffers <- packBuffer{}
	}
	for i := range s.lanes {
		s.lanes[i].sem = make(chan struct{}, 1)
	}
	return s, nil
}

// ID returns the session's id: that of another one after a Commit that found it over and went on.
func (s *Session) ID() ID { return s.id }

// announce puts the file of a new session, and shows from then on that it is alive.
func (s *Session) announce(ctx context.Context) error {
	s.id = newID()
	p, err := json.Marshal(sessionFile{sessionVersion, s.host, s.purpose, os.Getpid(), time.Now().UTC().Truncate(time.Second)})
	if err != nil {
		return err
	}
	key := sessionPrefix + s.id.String()
	if err := s.r.store.PutBytes(ctx, key, s.r.boxes.Box(nil, key, p)); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.r.renew(ctx, key+aliveSuffix)
	}()
	s.quiet = func() { cancel(); <-done }
	return nil
}

// leave takes away what announce put.
func (s *Session) leave(ctx context.Context) error {
	s.quiet()
	key := sessionPrefix + s.id.String()
	return s.r.store.Delete(ctx, key, key+aliveSuffix)
}

// renew shows that a session is alive, also while it is being ended.
func (r *Repo) renew(ctx context.Context, key string) {
	t := time.NewTicker(RenewEvery)
	defer t.Stop()
	for n := 1; ctx.Err() == nil; n++ {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		// One that fails is made up for by the next; if none gets through, Commit finds out.
		_ = r.store.PutBytes(ctx, key, fmt.Appendf(nil, "%d %s\n", n, hex.EncodeToString(random(8))))
	}
}

func random(n int) []byte {
	p := make([]byte, n)
	_, _ = rand.Read(p) // never fails
	return p
}

// worker is what one goroutine needs to hash, compress and seal.
type worker struct {
	hash  [kinds]*blake3.Hasher
	zip   []byte
	nonce [12]byte
	aad   [33]byte
	id    ID
}

func (r *Repo) worker(ctx context.Context) (*worker, error) {
	select {
	case w := <-r.workers:
		if w != nil {
			return w, nil
		}
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	w := &worker{}
	for k := range w.hash {
		h, err := blake3.NewKeyed(r.ids[k][:])
		if err != nil {
			r.workers <- nil
			return nil, err
		}
		w.hash[k] = h
	}
	return w, nil
}

func (w *worker) sum(kind Kind, p []byte) ID {
	h := w.hash[kind]
	h.Reset()
	_, _ = h.Write(p)
	h.Sum(w.id[:0])
	return w.id
}

// Save stores a chunk unless it is known, and returns its id and how many bytes that added. The work is done on the
// caller's goroutine and in its time; plain is the caller's again on return. Storing goes on behind: a failure there
// fails later calls, and Commit. It fails with firn.Invalid for more than MaxChunk bytes.
func (s *Session) Save(ctx context.Context, kind Kind, plain []byte) (ID, int, error) {
	if limit := min(MaxChunk, s.r.cfg.PackSize-packSlack); kind >= kinds || len(plain) > limit {
		return ID{}, 0, firn.E("save chunk", "", firn.NewError(firn.Invalid, fmt.Sprintf("%d bytes of kind %d: %d are the most", len(plain), kind, limit)))
	}
	if err := s.ctx.Err(); err != nil {
		return ID{}, 0, context.Cause(s.ctx)
	}
	w, err := s.r.worker(ctx)
	if err != nil {
		return ID{}, 0, err
	}
	defer func() { s.r.workers <- w }()
	id := w.sum(kind, plain)
	if !s.r.idx.claim(id, s.claims) {
		return id, 0, nil
	}
	n, err := s.store(ctx, w, kind, id, plain)
	if err != nil {
		s.fail(err) // others may have been told that the chunk is known
		return ID{}, 0, err
	}
	return id, n, nil
}

// store compresses and seals a chunk into a pack, and returns how many bytes that adds.
func (s *Session) store(ctx context.Context, w *worker, kind Kind, id ID, plain []byte) (int, error) {
	body, codec := plain, uint32(codecRaw)
	if cap(w.zip) < len(plain) {
		w.zip = make([]byte, 0, len(plain)+len(plain)/8+64)
	}
	zipped, ok := s.r.zip.compress(w.zip[:0], plain)
	w.zip = zipped[:0]
	if ok {
		body, codec = zipped, codecZstd
	}
	n := len(body) + seal.Overhead
	p, off, err := s.reserve(ctx, kind, entry{id, uint32(n), uint32(len(plain)) | codec<<24})
	if err != nil {
		return 0, err
	}
	p.aead.Seal(p.buf[off:off:off+n], seal.Nonce(&w.nonce, uint64(off)), body, chunkAAD(&w.aad, kind, id))
	s.sealed(p)
	return n + entrySize, nil
}

func (s *Session) fail(err error) { s.cancel(err) }

// reserve finds a place for a chunk in the pack of its kind that is open.
func (s *Session) reserve(ctx context.Context, kind Kind, e entry) (*packer, int, error) {
	l := &s.lanes[kind]
	select {
	case l.sem <- struct{}{}:
		defer func() { <-l.sem }()
	case <-ctx.Done():
		return nil, 0, context.Cause(ctx)
	case <-s.ctx.Done():
		return nil, 0, context.Cause(s.ctx)
	}
	if l.open != nil && !l.open.fits(int(e.stored)) {
		p := l.open
		l.open = nil
		s.sealed(p)
	}
	if l.open == nil {
		p, err := s.newPacker(ctx, kind)
		if err != nil {
			return nil, 0, err
		}
		l.open = p
	}
	p := l.open
	off := p.off
	p.off += int(e.stored)
	p.list = appendEntry(p.list, e)
	s.mu.Lock()
	p.sealing++
	s.mu.Unlock()
	s.r.idx.place(located{e.id, p.number, uint32(off), e.stored, e.plain}, s.claims)
	return p, off, nil
}

// newPacker waits for a buffer: this is what holds writers back where storing is slower than they are.
func (s *Session) newPacker(ctx context.Context, kind Kind) (*packer, error) {
	var b packBuffer
	select {
	case b = <-s.buffers:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-s.ctx.Done():
		return nil, context.Cause(s.ctx)
	}
	if b.buf == nil {
		b.buf = make([]byte, s.r.cfg.PackSize)
	}
	p := &packer{head: packHead{kind, seal.NewSalt()}, packBuffer: b, off: packHeader, sealing: 1}
	p.list = p.list[:0]
	p.aead = s.r.packAEAD(p.head.salt)
	h := p.head.encode()
	copy(p.buf, h[:])
	p.number = s.r.idx.addPack(packInfo{salt: p.head.salt, kind: kind, state: packOurs, file: noFile})
	s.mu.Lock()
	s.mu.numbers = append(s.mu.numbers, p.number)
	s.mu.Unlock()
	return p, nil
}

// sealed says that one more of a pack's chunks is in place, or that it takes no more. The last one stores it.
func (s *Session) sealed(p *packer) {
	s.mu.Lock()
	p.sealing--
	last := p.sealing == 0
	s.mu.Unlock()
	if last {
		s.group.Go(func() error {
			err := s.upload(p)
			if err != nil {
				s.fail(err)
			}
			return err
		})
	}
}

// maxStaged is how many packs a place may have that are not durable yet.
const maxStaged = 32

func (s *Session) upload(p *packer) error {
	commit, id, size, err := s.stage(p)
	list := slices.Clone(p.list)
	s.buffers <- p.packBuffer
	if err != nil {
		return err
	}
	err = commit(s.ctx)
	<-s.staged
	if err != nil {
		return err
	}
	s.r.idx.change(p.number, func(i *packInfo) { i.id, i.size, i.state = id, size, i.state|packStored })
	s.mu.Lock()
	s.mu.content = appendIndexPack(s.mu.content, id, p.head, size, list)
	s.mu.packs = append(s.mu.packs, p.number)
	full := len(s.mu.content) >= indexEntries*entrySize || len(s.mu.packs) >= indexPacks || time.Since(s.mu.written) > 2*time.Minute
	s.mu.Unlock()
	if full {
		return s.writeIndex(s.ctx)
	}
	return nil
}

// stage hands a pack to the place. Its buffer is free then.
func (s *Session) stage(p *packer) (commit func(context.Context) error, id ID, size uint32, err error) {
	select {
	case s.staged <- struct{}{}:
	case <-s.ctx.Done():
		return nil, ID{}, 0, context.Cause(s.ctx)
	}
	out := p.finish()
	id = sum(out)
	if commit, err = s.r.store.Stage(s.ctx, packKey(id), blob.Bytes(out)); err != nil {
		<-s.staged
		return nil, ID{}, 0, err
	}
	if p.head.kind == Tree {
		s.r.cache.put(cachePack, id, out)
	}
	return commit, id, uint32(len(out)), nil
}

// writeIndex stores an index file of the packs that were stored since the last one.
func (s *Session) writeIndex(ctx context.Context) error {
	s.mu.Lock()
	content, packs := s.mu.content, s.mu.packs
	s.mu.content, s.mu.packs, s.mu.written = nil, nil, time.Now()
	s.mu.Unlock()
	if len(packs) == 0 {
		return nil
	}
	id, err := s.r.putIndex(ctx, content)
	if err != nil {
		return err
	}
	return s.indexed(ctx, id, packs)
}

// indexed notes that an index file of our own names the packs.
func (s *Session) indexed(ctx context.Context, id ID, packs []uint32) error {
	r := s.r
	select {
	case r.loading <- struct{}{}:
		defer func() { <-r.loading }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	n := noFile
	if s.loaded { // else the index in memory does not have its chunks, and the file is loaded when they are asked for
		n = r.fileCount
		r.fileCount++
		r.files[id] = n
	}
	for _, p := range packs {
		r.idx.change(p, func(i *packInfo) { i.file, i.state = n, i.state&^packOurs })
	}
	return nil
}

// flush stores all that was saved, and its index.
func (s *Session) flush(ctx context.Context) error {
	for i := range s.lanes {
		l := &s.lanes[i]
		select {
		case l.sem <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		p := l.open
		l.open = nil
		<-l.sem
		if p != nil {
			s.sealed(p)
		}
	}
	if err := s.group.Wait(); err != nil {
		return err
	}
	if err := context.Cause(s.ctx); err != nil {
		return err
	}
	return s.writeIndex(ctx)
}

// Commit stores what is left, then the snapshot, and ends the session. Its time is now unless it is set. After an error
// the snapshot is not there, or the error says so; what was stored stays for the next run until a prune.
func (s *Session) Commit(ctx context.Context, snap Snapshot) (Snapshot, error) {
	if snap.Root.IsZero() {
		return Snapshot{}, firn.E("commit snapshot", "", firn.NewError(firn.Invalid, "it has no root"))
	}
	if snap.Time.IsZero() {
		snap.Time = time.Now()
	}
	closing, release := Closing(ctx)
	defer release()
	err := s.commit(ctx, closing, &snap)
	return snap, errors.Join(err, s.end(closing, err))
}

func (s *Session) commit(ctx, closing context.Context, snap *Snapshot) error {
	if err := context.Cause(s.ctx); err != nil {
		return err
	}
	if !s.r.idx.has(snap.Root) {
		return firn.E("commit snapshot", "", firn.NewError(firn.Invalid, "its root was not saved"))
	}
	if err := s.flush(ctx); err != nil {
		return err
	}
	for range 3 {
		snap.ID = newID()
		over, err := s.publish(ctx, *snap)
		if err == nil && !over {
			return nil
		}
		// A prune that found it whole may have made a snapshot of it.
		id := snap.ID.String()
		err = errors.Join(err, s.r.store.Delete(closing, snapshotPrefix+id, pendingPrefix+id))
		if err == nil {
			err = s.restart(ctx, snap.Root)
		}
		if err != nil {
			return err
		}
	}
	return &firn.Error{
		Kind: firn.Conflict, Op: "commit snapshot", Subject: s.r.store.Name(),
		Err: errors.New("prunes took its session for dead again and again, so the way there is too slow or a clock jumps: run it again"),
	}
}

// publish puts a snapshot whose chunks are stored, once it is certain that no prune takes them away. It is pending until
// then: what a killed process leaves there is never taken for a whole snapshot. Where the session is over it reports that,
// and the snapshot is left pending.
func (s *Session) publish(ctx context.Context, snap Snapshot) (over bool, err error) {
	r := s.r
	if err := r.putSnapshot(ctx, pendingPrefix, snap, s.id); err != nil {
		return false, err
	}
	// No prune deletes what it needs before it saw that this is gone, and looked for what is pending after that.
	alive, err := r.store.Exists(ctx, sessionPrefix+s.id.String())
	if err != nil || !alive {
		return !alive && err == nil, err
	}
	if err := r.putSnapshot(ctx, snapshotPrefix, snap, ID{}); err != nil {
		return false, err
	}
	pending := pendingPrefix + snap.ID.String()
	there, err := r.store.Exists(ctx, pending)
	if err != nil {
		return false, err
	}
	if there {
		_ = r.store.Delete(ctx, pending) // what is left of it, the next prune clears
		return false, nil
	}
	// A prune took the session for dead after that and made it a snapshot, long ago perhaps: it may have been forgotten
	// since, and put by us again.
	return false, s.whole(ctx, snap.Root)
}

// restart goes on as a new session where a prune took this one for dead: as if it had just found all its chunks stored.
func (s *Session) restart(ctx context.Context, root ID) error {
	if err := s.leave(ctx); err != nil {
		return err
	}
	if err := s.announce(ctx); err != nil {
		return err
	}
	return s.whole(ctx, root)
}

// whole looks for each chunk in a pack that stays.
func (s *Session) whole(ctx context.Context, root ID) error {
	if err := s.r.refresh(ctx); err != nil {
		return err
	}
	err := s.r.complete(ctx, root, s.r.idx.has)
	if k := firn.KindOf(err); err == nil || k != firn.NotFound && k != firn.Corrupt {
		return err
	}
	return &firn.Error{
		Kind: firn.Conflict, Op: "commit snapshot", Subject: s.r.store.Name(),
		Err: fmt.Errorf("a prune took this session for dead and removed some of what it needs: run it again: %w", err),
	}
}

// Abort ends the session without a snapshot. What was stored and indexed is found again by the next run, until a prune.
// Its context is one of Closing, so that the session ends even where the caller's context has.
func (s *Session) Abort(ctx context.Context) error {
	err := firn.NewError(firn.Conflict, "the session was ended")
	s.fail(err)
	return s.end(ctx, err)
}

// end stops what runs for the session and takes its file away; it does nothing a second time.
func (s *Session) end(ctx context.Context, failure error) error {
	s.mu.Lock()
	ended := s.mu.ended
	s.mu.ended = true
	s.mu.Unlock()
	if ended {
		return nil
	}
	s.fail(errors.New("the session has ended"))
	_ = s.group.Wait() // told by whoever ended it
	if failure != nil {
		_ = s.writeIndex(ctx) // a gift for the next run
		for _, n := range s.mu.numbers {
			s.r.idx.change(n, func(i *packInfo) {
				if i.state&packOurs != 0 {
					i.state |= packGone
				}
			})
		}
	}
	s.r.mu.Lock()
	s.r.mu.session = nil
	s.r.mu.Unlock()
	err := s.leave(ctx)
	if err != nil && ctx.Err() != nil {
		err = &firn.Error{
			Kind: firn.Unavailable, Op: "end session", Subject: s.r.store.Name(),
			Err: errors.New("interrupted, and the place did not answer in time: the session looks alive to the next prune, which waits for it"),
		}
	}
	return err
}

// SessionInfo describes a session of any process.
type SessionInfo struct {
	ID      ID
	Host    string
	Purpose string
	PID     int
	Started time.Time
}

// Sessions lists the writers there are, dead ones among them.
func (r *Repo) Sessions(ctx context.Context) ([]SessionInfo, error) {
	var all []SessionInfo
	err := r.listIDs(ctx, sessionPrefix, func(id ID, info driver.Info) error {
		p, err := r.store.ReadAll(ctx, info.Key, sessionLimit)
		if firn.KindOf(err) == firn.NotFound {
			return nil
		}
		if err != nil {
			return err
		}
		var f sessionFile
		if p, err = r.boxes.Unbox(info.Key, p); err == nil {
			f, err = parseSession(p)
		}
		if err != nil {
			f = sessionFile{Purpose: "unknown: " + err.Error()}
		}
		all = append(all, SessionInfo{id, f.Host, f.Purpose, f.PID, f.Started})
		return nil
	})
	return all, err
}

func parseSession(p []byte) (sessionFile, error) {
	var f sessionFile
	err := parseJSON(p, &f)
	if err == nil && f.Version != sessionVersion {
		err = firn.NewError(firn.Unsupported, "a session of a later version of firn")
	}
	return f, err
}
