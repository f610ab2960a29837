package redisblob

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"

	"github.com/redis/go-redis/v9"

	"firn"
)

var (
	errGone     = firn.NewError(firn.Invalid, "the namespace is not there: either Init never made it, or the server lost its data")
	errNotThere = firn.NewError(firn.NotFound, "there is no such blob")
	errReplaced = firn.NewError(firn.Unavailable, "the blob was replaced or deleted while it was read; read it again")
	errLost     = firn.NewError(firn.Unavailable, "the put rested so long that it was taken for abandoned; put it again")
	errExists   = firn.NewError(firn.Exists, "the blob is there already")
	errClosed   = firn.NewError(firn.Invalid, "the driver is closed")
)

// answered is what a script's one word means.
func answered(word string) error {
	switch word {
	case "ok":
		return nil
	case "gone":
		return errGone
	case "none":
		return errNotThere
	case "replaced":
		return errReplaced
	case "lost":
		return errLost
	case "exists":
		return errExists
	}
	return firn.NewError(firn.Internal, "a script answered "+word)
}

// fail gives an error of the client its kind.
func fail(ctx context.Context, err error) error {
	var known *firn.Error
	var network net.Error
	var verify *tls.CertificateVerificationError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &known):
		return err
	case ctx.Err() != nil:
		return &firn.Error{Kind: firn.Unavailable, Err: ctx.Err()}
	case errors.Is(err, redis.ErrClosed):
		return errClosed
	case errors.As(err, &verify):
		return &firn.Error{Kind: firn.Denied, Err: err}
	case errors.As(err, &network):
		return &firn.Error{Kind: firn.Unavailable, Err: err}
	}
	return &firn.Error{Kind: kindOfAnswer(err), Err: err}
}

func kindOfAnswer(err error) firn.Kind {
	var answer redis.Error
	if !errors.As(err, &answer) {
		return firn.Unavailable // the connection's: closed in the middle of an answer, none free in time
	}
	text := answer.Error()
	word, _, _ := strings.Cut(strings.TrimPrefix(text, "ERR "), " ")
	switch {
	case word == "OOM":
		return firn.NoSpace
	case word == "NOAUTH", word == "WRONGPASS", word == "NOPERM", word == "DENIED",
		strings.Contains(text, "AUTH <password> called without any password configured"):
		return firn.Denied
	case word == "LOADING", word == "CLUSTERDOWN", word == "MASTERDOWN", word == "TRYAGAIN", word == "READONLY",
		word == "MOVED", word == "ASK", word == "BUSY", word == "NOREPLICAS", word == "MISCONF", word == "UNBLOCKED",
		strings.Contains(text, "max number of clients reached"):
		return firn.Unavailable
	case strings.Contains(text, "-OOM ") || strings.Contains(text, "OOM command not allowed"):
		return firn.NoSpace // as Redis 6 reports a script's
	case strings.Contains(text, "DB index is out of range"), strings.Contains(text, "cluster support disabled"):
		return firn.Invalid
	case strings.Contains(text, "can't run this command or subcommand"), strings.Contains(text, "No permissions"):
		return firn.Denied // a command within a script
	}
	return firn.Internal
}
