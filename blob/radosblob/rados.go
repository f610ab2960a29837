//go:build rados

package radosblob

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/ceph/go-ceph/rados"

	"firn"
	"firn/blob/driver"
)

// maxCalls is how many calls of librados run at once; each holds an operating-system thread.
const maxCalls = 64

// pool is the driver.
type pool struct {
	opt   Options
	conn  *rados.Conn
	io    *rados.IOContext
	heads string // begins the names of head objects, and so on
	parts string
	notes string // the object that lists writes under way
	calls chan struct{}

	ctx    context.Context // ends at Close
	cancel context.CancelFunc
	work   sync.WaitGroup // calls of librados and the sweep

	mu struct {
		sync.Mutex
		closed bool
	}
}

var _ interface {
	driver.Driver
	driver.Creator
	driver.Measurer
} = (*pool)(nil)

// New connects to the cluster and opens the pool, which must be there. Pieces that killed clients left are removed in
// the background.
func New(ctx context.Context, opt Options) (driver.Driver, error) {
	if err := opt.complete(); err != nil {
		return nil, err
	}
	prefix := opt.Prefix
	if prefix != "" {
		prefix += "/"
	}
	p := &pool{
		opt: opt, heads: prefix + "k/", parts: prefix + "p/", notes: prefix + "writes",
		calls: make(chan struct{}, maxCalls),
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	connected := make(chan error, 1)
	go func() { connected <- p.connect() }()
	select {
	case err := <-connected:
		if err != nil {
			p.cancel()
			return nil, err
		}
	case <-ctx.Done():
		p.cancel()
		go func() { // bounded by the time-outs that connect sets
			if <-connected == nil {
				p.io.Destroy()
				p.conn.Shutdown()
			}
		}()
		return nil, ctx.Err()
	}
	p.work.Go(func() {
		// What fails here is swept the next time the place is opened.
		_ = p.sweep(p.ctx, 24*time.Hour)
	})
	return p, nil
}

func (p *pool) connect() error {
	conn, err := rados.NewConnWithClusterAndUser("ceph", p.opt.User)
	if err != nil {
		return kinded(err)
	}
	if err := conn.ReadConfigFile(p.opt.ConfigFile); err != nil {
		return firn.NewError(firn.Invalid, fmt.Sprintf("%s cannot be read: %v", p.opt.ConfigFile, err))
	}
	seconds := strconv.Itoa(int(p.opt.Timeout / time.Second))
	for _, option := range []string{"rados_osd_op_timeout", "rados_mon_op_timeout", "client_mount_timeout"} {
		if err := conn.SetConfigOption(option, seconds); err != nil {
			return kinded(err)
		}
	}
	if err := conn.Connect(); err != nil {
		// A missing keyring is "no such file"; nothing of the place was asked for yet.
		if errors.Is(err, rados.ErrNotFound) {
			return &firn.Error{Kind: firn.Denied, Err: fmt.Errorf("no key of %s in the keyring: %w", p.opt.User, err)}
		}
		return kinded(err)
	}
	io, err := conn.OpenIOContext(p.opt.Pool)
	if err != nil {
		conn.Shutdown()
		if errors.Is(err, rados.ErrNotFound) {
			return errNoPool
		}
		return kinded(err)
	}
	io.SetNamespace(p.opt.Namespace)
	// A full pool answers instead of letting writes wait, and deletes go through.
	if err := io.SetPoolFullTry(); err != nil {
		io.Destroy()
		conn.Shutdown()
		return kinded(err)
	}
	p.conn, p.io = conn, io
	return nil
}

var (
	errNoPool = firn.NewError(firn.Unavailable, "the pool is not there (a new one: ceph osd pool create NAME)")
	errClosed = firn.NewError(firn.Invalid, "the place is closed")
	errNone   = firn.NewError(firn.NotFound, "there is no such blob")
	errExists = firn.NewError(firn.Exists, "the blob is there already")
)

// call runs fn, which calls librados and cannot be interrupted. When ctx ends before it does, fn goes on until its
// time-out, and Close waits for it; it must not touch what the caller uses after that.
func (p *pool) call(ctx context.Context, fn func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case p.calls <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-p.ctx.Done():
		return errClosed
	}
	p.mu.Lock()
	if p.mu.closed {
		p.mu.Unlock()
		<-p.calls
		return errClosed
	}
	p.work.Add(1)
	p.mu.Unlock()
	done := make(chan error, 1)
	go func() {
		defer p.work.Done()
		err := fn()
		<-p.calls
		done <- err
	}()
	select {
	case err := <-done:
		return kinded(err)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close waits for calls under way, at most the time-out.
func (p *pool) Close() error {
	p.mu.Lock()
	closed := p.mu.closed
	p.mu.closed = true
	p.mu.Unlock()
	if closed {
		return errClosed
	}
	p.cancel()
	p.work.Wait()
	p.io.Destroy()
	p.conn.Shutdown()
	return nil
}

// codeOf returns the negative errno of an error of librados, or 0.
func codeOf(err error) int {
	var op rados.OperationError
	if errors.As(err, &op) {
		err = op.OpError
	}
	var coded interface{ ErrorCode() int }
	if errors.As(err, &coded) {
		return coded.ErrorCode()
	}
	return 0
}

// The errno values that librados answers with, on every system those of Linux.
const (
	ePERM, eNOENT, eIO, eACCES, eEXIST, eINVAL, eNOSPC = -1, -2, -5, -13, -17, -22, -28
	eNAMETOOLONG, eTIMEDOUT, eDQUOT, eCANCELED         = -36, -110, -122, -125
	eMismatch                                          = -4095 // and below: where a comparison found the first difference
)

func kinded(err error) error {
	if err == nil {
		return nil
	}
	var known *firn.Error
	if errors.As(err, &known) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	k := firn.Unavailable // the cluster says no more than that it did not work: connection lost, blocklisted, overloaded
	switch code := codeOf(err); {
	case code == ePERM, code == eACCES:
		k = firn.Denied
	case code == eNOENT:
		k = firn.NotFound
	case code == eEXIST:
		k = firn.Exists
	case code == eNOSPC, code == eDQUOT:
		k = firn.NoSpace
	case code == eIO:
		k = firn.Corrupt
	case code == eINVAL, code == eNAMETOOLONG:
		k = firn.Invalid
	case code == eCANCELED, code <= eMismatch:
		k = firn.Conflict
	}
	return &firn.Error{Kind: k, Err: err}
}

// readObject reads up to len(b) bytes at each offset, of one state of the object.
func (p *pool) readObject(ctx context.Context, name string, b, more []byte, offset int64) (int, int, error) {
	var n, m int // the call's own: it may outlive us
	err := p.call(ctx, func() error {
		op := rados.CreateReadOp()
		defer op.Release()
		first := op.Read(0, b)
		var second *rados.ReadOpReadStep
		if len(more) > 0 {
			second = op.Read(uint64(offset), more)
		}
		if err := op.Operate(p.io, name, rados.OperationNoFlag); err != nil {
			return err
		}
		n = int(first.BytesRead)
		if second != nil {
			m = int(second.BytesRead)
		}
		return nil
	})
	if err != nil {
		return 0, 0, err
	}
	return n, m, nil
}

// writeObject applies one atomic operation.
func (p *pool) writeObject(ctx context.Context, name string, build func(*rados.WriteOp)) error {
	return p.call(ctx, func() error {
		op := rados.CreateWriteOp()
		defer op.Release()
		build(op)
		return op.Operate(p.io, name, rados.OperationNoFlag)
	})
}

// gone replaces "not there" by an error if it is the whole pool that is not there.
func (p *pool) gone(ctx context.Context) error {
	return p.call(ctx, func() error {
		id, err := p.conn.GetPoolByName(p.opt.Pool)
		if errors.Is(err, rados.ErrNotFound) || err == nil && id != p.io.GetPoolID() {
			return errNoPool
		}
		return err
	})
}

// readHead returns the head and its raw bytes, which no later head has.
func (p *pool) readHead(ctx context.Context, key string) (head, []byte, error) {
	raw := make([]byte, headSize)
	n, _, err := p.readObject(ctx, p.heads+key, raw, nil, 0)
	if firn.KindOf(err) == firn.NotFound {
		if err := p.gone(ctx); err != nil {
			return head{}, nil, err
		}
		return head{}, nil, errNone
	}
	if err != nil {
		return head{}, nil, err
	}
	h, err := parseHead(raw[:n])
	return h, raw, err
}

// Stat reads the head.
func (p *pool) Stat(ctx context.Context, key string) (driver.Info, error) {
	h, _, err := p.readHead(ctx, key)
	if err != nil {
		return driver.Info{}, err
	}
	return driver.Info{Key: key, Size: h.size, Modified: h.modified}, nil
}
