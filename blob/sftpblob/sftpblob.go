// Package sftpblob keeps blobs as files beneath a directory of an SSH server, by SFTP.
//
// It owns the use of SFTP for package driver's contract; the files lie as the file driver lays them
// (docs/format/blob-file.md), so that a place can be read at the server itself. A place is named by
//
//	sftp://user@host:port/absolute/path?key=/path/of/a/key&known_hosts=/path/of/known_hosts
//
// where user, port and the query may be left out. Keys come from the agent (SSH_AUTH_SOCK), from key or from
// ~/.ssh/id_ed25519, id_ecdsa and id_rsa; a password only from Options.
//
// It promises that the server's key is always checked against known_hosts, that a put is complete, synced and renamed
// into place where the server offers fsync@openssh.com and posix-rename@openssh.com (and fails without the latter where
// a blob is replaced), and that a lost connection costs the calls under way and no more. It must never import another
// driver.
package sftpblob

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/user"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"firn"
	"firn/blob/driver"
)

// Options say where the directory is and who asks.
type Options struct {
	// Host is the server's name or address, Port its port, 22 by default.
	Host string
	Port int
	// User is who logs in; the local user's name by default.
	User string
	// Root is the absolute path of the directory.
	Root string
	// KeyFiles are private keys without a passphrase; empty for those of ~/.ssh. One with a passphrase goes by the agent.
	KeyFiles []string
	// KnownHosts are files as OpenSSH has them; empty for ~/.ssh/known_hosts and /etc/ssh/ssh_known_hosts.
	KnownHosts []string
	// Agent is the agent's socket; empty for SSH_AUTH_SOCK.
	Agent string
	// Password is used last, where it is not empty.
	Password string
	// Connections is the most connections at once, 4 by default.
	Connections int
}

// FromURL reads an sftp: URL.
func FromURL(u *url.URL) (Options, error) {
	opt := Options{Host: u.Hostname(), User: u.User.Username(), Root: u.Path}
	query, err := url.ParseQuery(u.RawQuery)
	switch {
	case err != nil:
		return opt, invalid("the URL's query cannot be read")
	case u.Scheme != "sftp":
		return opt, invalid("the URL must begin with sftp:")
	case opt.Host == "" || u.Opaque != "" || u.Fragment != "":
		return opt, invalid("the URL is sftp://user@host:port/absolute/path")
	}
	if _, has := u.User.Password(); has {
		return opt, invalid("a password does not belong in the URL: use a key, or the setting for it")
	}
	if p := u.Port(); p != "" {
		if opt.Port, err = strconv.Atoi(p); err != nil {
			return opt, invalid("the URL's port is no number")
		}
	}
	for name, values := range query {
		switch name {
		case "key":
			opt.KeyFiles = values
		case "known_hosts":
			opt.KnownHosts = values
		default:
			return opt, invalid(fmt.Sprintf("%q: the URL takes key and known_hosts", name))
		}
	}
	return opt, opt.complete()
}

func invalid(text string) error { return firn.NewError(firn.Invalid, text) }

// complete checks the options and fills in defaults.
func (opt *Options) complete() error {
	if opt.Port == 0 {
		opt.Port = 22
	}
	if opt.Connections == 0 {
		opt.Connections = 4
	}
	if opt.Agent == "" {
		opt.Agent = os.Getenv("SSH_AUTH_SOCK")
	}
	if opt.User == "" {
		me, err := user.Current()
		if err != nil {
			return invalid("no user is named, and the local one's name is not known")
		}
		opt.User = me.Username
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = "/" // then the defaults are not there, and say so
	}
	if len(opt.KeyFiles) == 0 {
		for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
			if p := filepath.Join(home, ".ssh", name); exists(p) {
				opt.KeyFiles = append(opt.KeyFiles, p)
			}
		}
	}
	if len(opt.KnownHosts) == 0 {
		for _, p := range []string{filepath.Join(home, ".ssh", "known_hosts"), "/etc/ssh/ssh_known_hosts"} {
			if exists(p) {
				opt.KnownHosts = append(opt.KnownHosts, p)
			}
		}
	}
	switch {
	case opt.Host == "":
		return invalid("no host is named")
	case opt.Port < 1 || opt.Port > 65535:
		return invalid("the port is 1 to 65535")
	case !strings.HasPrefix(opt.Root, "/"):
		return invalid("the path on the server must be absolute")
	case opt.Connections < 1 || opt.Connections > 64:
		return invalid("there are 1 to 64 connections")
	}
	opt.Root = path.Clean(opt.Root)
	return nil
}

func exists(p string) bool {
	_, err := os.Stat(p)
	return err == nil
}

// place is the driver.
type place struct {
	opt    Options
	ctx    context.Context //nolint:containedctx // of all calls: ends at Close
	cancel context.CancelCauseFunc
	mu     sync.Mutex
	lines  []*line
	swept  bool
}

// New returns the driver for a directory. It does not connect: the first call does.
func New(ctx context.Context, opt Options) (driver.Driver, error) { return open(ctx, opt) }

func open(ctx context.Context, opt Options) (*place, error) {
	if err := opt.complete(); err != nil {
		return nil, err
	}
	p := &place{opt: opt}
	p.ctx, p.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	for range opt.Connections {
		p.lines = append(p.lines, &line{turn: make(chan struct{}, 1)})
	}
	return p, nil
}

func (p *place) addr() string { return net.JoinHostPort(p.opt.Host, strconv.Itoa(p.opt.Port)) }

// path is where a path below the root is on the server.
func (p *place) path(rel string) string {
	if rel == "" {
		return p.opt.Root
	}
	return strings.TrimSuffix(p.opt.Root, "/") + "/" + rel
}

var errClosed = errors.New("the place was closed")

// Close ends the calls under way and closes the connections.
func (p *place) Close() error {
	p.cancel(errClosed)
	for _, l := range p.lines {
		l.turn <- struct{}{} // waits for a dial, which the cancel ended
		l.drop()
		<-l.turn
	}
	return nil
}
