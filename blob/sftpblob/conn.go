package sftpblob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/crypto/ssh/knownhosts"

	"firn"
)

const (
	dialWithin = 30 * time.Second
	// grace is how long a call that was cancelled may take to end by itself, before its connection is cut: others may
	// be using it too.
	grace = time.Second
	// openSSHPacket is the largest payload of a packet that OpenSSH takes; others need take no more than 32 KiB.
	openSSHPacket = 255 << 10
)

// line is one connection, made when it is needed and again when it was lost.
type line struct {
	turn  chan struct{} // held while the connection is made or dropped
	users atomic.Int64
	conn  atomic.Pointer[conn]
}

type conn struct {
	*sftp.Client
	ssh *ssh.Client
	raw net.Conn
}

func (c *conn) close() {
	c.raw.Close() // first: the others wait for the server to answer
	c.Client.Close()
	c.ssh.Close()
}

func (l *line) drop() {
	if c := l.conn.Swap(nil); c != nil {
		c.close()
	}
}

// lost cuts a connection that turned out to be of no use, unless there is a newer one already.
func (l *line) lost(c *conn) {
	l.conn.CompareAndSwap(c, nil)
	c.close()
}

// session is a call's use of one connection.
type session struct {
	*conn
	line *line
	stop func()
}

// use returns the connection with the fewest users. The session's context is ctx, which ends at Close too.
func (p *place) use(ctx context.Context) (*session, context.Context, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	unhook := context.AfterFunc(p.ctx, func() { cancel(errClosed) })
	end := func() { unhook(); cancel(nil) }
	if ctx.Err() != nil || p.ctx.Err() != nil {
		defer end()
		return nil, ctx, p.over(ctx)
	}
	p.mu.Lock()
	l := slices.MinFunc(p.lines, func(a, b *line) int { return int(a.users.Load() - b.users.Load()) })
	l.users.Add(1)
	p.mu.Unlock()
	c, err := l.get(ctx, p)
	if err != nil {
		l.users.Add(-1)
		if ctx.Err() != nil {
			err = p.over(ctx)
		}
		end()
		return nil, ctx, err
	}
	done := make(chan struct{})
	cut := context.AfterFunc(ctx, func() {
		select {
		case <-done:
		case <-time.After(grace):
			l.lost(c)
		}
	})
	return &session{c, l, func() {
		close(done)
		cut()
		l.users.Add(-1)
		end()
	}}, ctx, nil
}

// over is the error of a call whose context ended.
func (p *place) over(ctx context.Context) error {
	if p.ctx.Err() != nil {
		return &firn.Error{Kind: firn.Invalid, Err: errClosed}
	}
	return &firn.Error{Kind: firn.Unavailable, Err: ctx.Err()}
}

func (l *line) get(ctx context.Context, p *place) (*conn, error) {
	if c := l.conn.Load(); c != nil {
		return c, nil
	}
	select {
	case l.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-l.turn }()
	if c := l.conn.Load(); c != nil {
		return c, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c, err := p.dial(ctx)
	if err == nil {
		l.conn.Store(c)
		go func() {
			c.Client.Wait() // whatever it says, the next call needs another
			l.lost(c)
		}()
	}
	return c, err
}

// dial connects and logs in.
func (p *place) dial(ctx context.Context) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialWithin)
	defer cancel()
	config, done, err := p.config()
	if err != nil {
		return nil, err
	}
	defer done()
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", p.addr())
	if err != nil {
		return nil, &firn.Error{Kind: firn.Unavailable, Err: err}
	}
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	sc, chans, reqs, err := ssh.NewClientConn(raw, p.addr(), config)
	if err != nil {
		stop()
		raw.Close()
		return nil, p.refused(ctx, err)
	}
	client := ssh.NewClient(sc, chans, reqs)
	packet := 32 << 10
	if strings.HasPrefix(string(client.ServerVersion()), "SSH-2.0-OpenSSH_") {
		packet = openSSHPacket
	}
	fs, err := sftp.NewClient(client, sftp.UseConcurrentWrites(true), sftp.MaxPacketUnchecked(packet))
	if err != nil || !stop() {
		client.Close()
		if err == nil {
			err = ctx.Err()
		}
		return nil, &firn.Error{Kind: firn.Unavailable, Err: fmt.Errorf("the server does not serve SFTP: %w", err)}
	}
	return &conn{fs, client, raw}, nil
}

// refused is the error of a handshake or a login.
func (p *place) refused(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return &firn.Error{Kind: firn.Unavailable, Err: ctx.Err()}
	}
	var key *knownhosts.KeyError
	var revoked *knownhosts.RevokedError
	var network net.Error
	switch {
	case errors.As(err, &key) && len(key.Want) == 0:
		return firn.NewError(firn.Denied, fmt.Sprintf("the server's key is not in known_hosts (%s): "+
			"compare it with the server's own and add it, for example by logging in once with ssh -p %d %s",
			strings.Join(p.opt.KnownHosts, ", "), p.opt.Port, p.opt.Host))
	case errors.As(err, &key):
		return firn.NewError(firn.Denied, fmt.Sprintf("the server's key is another than the one in %s, line %d: "+
			"somebody may be in between", key.Want[0].Filename, key.Want[0].Line))
	case errors.As(err, &revoked):
		return firn.NewError(firn.Denied, "the server's key is revoked in known_hosts")
	case errors.Is(err, io.EOF), errors.As(err, &network), errors.Is(err, net.ErrClosed):
		return &firn.Error{Kind: firn.Unavailable, Err: fmt.Errorf("the connection was lost at the login: %w", err)}
	case strings.Contains(err.Error(), "unable to authenticate"):
		// The library has no type for it.
		return firn.NewError(firn.Denied, fmt.Sprintf("the server does not let %q in with the keys there are (%d files%s)",
			p.opt.User, len(p.opt.KeyFiles), map[bool]string{true: ", an agent"}[p.opt.Agent != ""]))
	}
	return &firn.Error{Kind: firn.Unavailable, Err: err}
}

// config says who the server must be and who logs in. done closes the agent's socket.
func (p *place) config() (_ *ssh.ClientConfig, done func(), err error) {
	done = func() {}
	if len(p.opt.KnownHosts) == 0 {
		return nil, nil, firn.NewError(firn.Denied, "there is no known_hosts file to check the server's key against: "+
			"log in once with ssh and compare the key")
	}
	check, err := knownhosts.New(p.opt.KnownHosts...)
	if err != nil {
		return nil, nil, invalid("known_hosts: " + err.Error())
	}
	var auth []ssh.AuthMethod
	var signers []ssh.Signer
	for _, file := range p.opt.KeyFiles {
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, nil, invalid(err.Error())
		}
		s, err := ssh.ParsePrivateKey(pem)
		var locked *ssh.PassphraseMissingError
		if errors.As(err, &locked) {
			continue // the agent may have it
		}
		if err != nil {
			return nil, nil, invalid("the key " + file + " cannot be read")
		}
		signers = append(signers, s)
	}
	if len(signers) > 0 {
		auth = append(auth, ssh.PublicKeys(signers...))
	}
	if p.opt.Agent != "" {
		if c, err := net.Dial("unix", p.opt.Agent); err == nil { // one that died is as none
			done = func() { c.Close() }
			auth = append(auth, ssh.PublicKeysCallback(agent.NewClient(c).Signers))
		}
	}
	if p.opt.Password != "" {
		auth = append(auth, ssh.Password(p.opt.Password))
	}
	if len(auth) == 0 {
		done()
		return nil, nil, firn.NewError(firn.Denied, "there is no key to log in with: "+
			"name one without a passphrase by key=, or add it to the agent")
	}
	return &ssh.ClientConfig{
		User: p.opt.User, Auth: auth, HostKeyCallback: check, HostKeyAlgorithms: p.algorithms(check), Timeout: dialWithin,
	}, done, nil
}

// algorithms are those of the server's keys in known_hosts, so that the server shows one of them. Which these are, only
// the error for a key that is not known tells.
func (p *place) algorithms(check ssh.HostKeyCallback) []string {
	var unknown *knownhosts.KeyError
	if !errors.As(check(p.addr(), &net.TCPAddr{IP: net.IPv4zero}, noKey{}), &unknown) {
		return nil
	}
	var all []string
	for _, k := range unknown.Want {
		switch t := k.Key.Type(); t {
		case ssh.KeyAlgoRSA:
			all = append(all, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
		default:
			all = append(all, t)
		}
	}
	return all
}

// noKey is nobody's key.
type noKey struct{}

func (noKey) Type() string                        { return "none" }
func (noKey) Marshal() []byte                     { return []byte("none") }
func (noKey) Verify([]byte, *ssh.Signature) error { return errors.New("no key") }
