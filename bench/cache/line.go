package main

import (
	"context"
	"net"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// line is a slow way to a server: bytes arrive late, and no more than so many a second come back.
type line struct {
	addr  string
	l     net.Listener
	all   sync.WaitGroup
	delay time.Duration
	rate  *rate.Limiter
	stop  context.CancelFunc
}

// newLine begins a line to addr.
func newLine(ctx context.Context, addr string, delay time.Duration, bytesPerSecond int) (*line, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	n := &line{addr: l.Addr().String(), l: l, delay: delay, rate: rate.NewLimiter(rate.Limit(bytesPerSecond), 64<<10), stop: stop}
	n.all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n.all.Go(func() { n.serve(ctx, c, addr) })
		}
	})
	return n, nil
}

func (n *line) close() {
	n.stop()
	_ = n.l.Close() // it only listened
	n.all.Wait()
}

func (n *line) serve(ctx context.Context, client net.Conn, addr string) {
	defer client.Close()
	server, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	defer server.Close()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	context.AfterFunc(ctx, func() { client.Close(); server.Close() })
	var both sync.WaitGroup
	both.Go(func() { n.pass(ctx, server, client, nil); stop() })
	both.Go(func() { n.pass(ctx, client, server, n.rate); stop() })
	both.Wait()
}

type late struct {
	p  []byte
	at time.Time
}

// pass copies from one side to the other, n.delay later.
func (n *line) pass(ctx context.Context, to, from net.Conn, limit *rate.Limiter) {
	queue := make(chan late, 256)
	go func() { // it ends with from, which the caller closes
		defer close(queue)
		for {
			p := make([]byte, 16<<10)
			k, err := from.Read(p)
			if err != nil {
				return
			}
			select {
			case queue <- late{p[:k], time.Now().Add(n.delay)}:
			case <-ctx.Done():
				return
			}
		}
	}()
	for q := range queue {
		if limit != nil && limit.WaitN(ctx, len(q.p)) != nil {
			return
		}
		t := time.NewTimer(time.Until(q.at))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
		if _, err := to.Write(q.p); err != nil {
			return
		}
	}
}
