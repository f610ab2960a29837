package backends

import (
	"io"
	"net"
	"sync"
	"testing"
)

// Relay is a line to a server that can be cut or stalled.
type Relay struct {
	// Addr is where clients connect to.
	Addr string

	mu struct {
		sync.Mutex
		conns  map[net.Conn]bool
		served int // connections so far
		closed bool
		stall  chan struct{} // not nil while bytes are held back; closed when they go on
		limit  int64         // bytes until the next cut; 0 is none
		sent   int64         // bytes that came from clients
		hold   int64         // of these until it stalls; 0 is never
	}
}

// NewRelay starts a relay to the server at addr.
func NewRelay(t testing.TB, addr string) *Relay {
	t.Helper()
	l, err := net.Listen("tcp", freeAddr(t))
	if err != nil {
		t.Fatal(err)
	}
	r := &Relay{Addr: l.Addr().String()}
	r.mu.conns = map[net.Conn]bool{}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { r.serve(c, addr) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		r.mu.Lock()
		r.mu.closed = true
		r.mu.Unlock()
		r.Resume()
		r.Cut()
		all.Wait()
	})
	return r
}

func (r *Relay) serve(client net.Conn, addr string) {
	defer client.Close()
	server, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	defer server.Close()
	r.mu.Lock()
	closed := r.mu.closed
	r.mu.served++
	r.mu.conns[client], r.mu.conns[server] = true, true
	r.mu.Unlock()
	if closed {
		return
	}
	var both sync.WaitGroup
	pass := func(to, from net.Conn) {
		r.pass(to, from, from == client)
		to.Close()
		from.Close()
	}
	both.Go(func() { pass(server, client) })
	both.Go(func() { pass(client, server) })
	both.Wait()
	r.mu.Lock()
	delete(r.mu.conns, client)
	delete(r.mu.conns, server)
	r.mu.Unlock()
}

func (r *Relay) pass(to io.Writer, from io.Reader, up bool) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		r.mu.Lock()
		if up {
			r.mu.sent += int64(n)
			if r.mu.hold > 0 && r.mu.sent >= r.mu.hold {
				r.mu.hold = 0
				r.stall()
			}
		}
		stall := r.mu.stall
		cut := r.mu.limit > 0 && r.mu.limit <= int64(n)
		r.mu.limit = max(0, r.mu.limit-int64(n))
		r.mu.Unlock()
		if stall != nil {
			<-stall
		}
		if _, e := to.Write(buf[:n]); e != nil || err != nil || cut {
			return
		}
	}
}

// Served is how many connections there were, and how many there are.
func (r *Relay) Served() (all, open int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.served, len(r.mu.conns) / 2
}

// Cut ends all connections; new ones are served.
func (r *Relay) Cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.mu.conns {
		c.Close()
	}
}

// CutAfter ends the connection that carries the n-th byte from now on.
func (r *Relay) CutAfter(n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.limit = n
}

// Stall holds back what is sent, on old connections and new ones, as a network does that lost its way.
func (r *Relay) Stall() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stall()
}

// stall is Stall with mu held.
func (r *Relay) stall() {
	if r.mu.stall == nil {
		r.mu.stall = make(chan struct{})
	}
}

// StallAfter is Stall once clients have sent n bytes from now on.
func (r *Relay) StallAfter(n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.hold = r.mu.sent + n
}

// Sent is how many bytes clients have sent, and whether they are held back.
func (r *Relay) Sent() (n int64, stalled bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.sent, r.mu.stall != nil
}

// Resume ends Stall.
func (r *Relay) Resume() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.stall != nil {
		close(r.mu.stall)
		r.mu.stall = nil
	}
}
