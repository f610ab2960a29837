package pgblob

import (
	"context"
	"crypto/tls"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"firn"
)

// fail gives an error of a call with ctx its kind.
func (s *store) fail(ctx context.Context, err error) error {
	var known *firn.Error
	var answer *pgconn.PgError
	var verify *tls.CertificateVerificationError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &known):
		return err
	case ctx.Err() != nil:
		return &firn.Error{Kind: firn.Unavailable, Err: ctx.Err()}
	case s.closed.Load():
		return firn.NewError(firn.Invalid, "the driver is closed")
	case errors.As(err, &verify):
		return &firn.Error{Kind: firn.Denied, Err: err}
	case errors.As(err, &answer):
		if answer.Code == "42P01" {
			// Not NotFound: that no blob is there is never the answer where there is nothing to ask.
			return invalid("the tables " + s.tables + "_* are not there: Init makes them")
		}
		return &firn.Error{Kind: kindOfCode(answer.Code), Err: err}
	}
	return &firn.Error{Kind: firn.Unavailable, Err: err} // the connection's
}

// kindOfCode knows the codes of PostgreSQL's appendix A.
func kindOfCode(code string) firn.Kind {
	class := func(classes ...string) bool {
		for _, c := range classes {
			if strings.HasPrefix(code, c) {
				return true
			}
		}
		return false
	}
	switch {
	case class("28", "42501"):
		return firn.Denied
	case class("53100"): // disk_full
		return firn.NoSpace
	case class("XX001", "XX002"): // data_corrupted, index_corrupted
		return firn.Corrupt
	// Connection, resources, operator's intervention, system error; deadlock, lock not free, time-out, standby.
	case class("08", "53", "57", "58", "40", "55P03", "25006", "25P03"):
		return firn.Unavailable
	case class("22", "3D", "3F", "42"):
		return firn.Invalid
	}
	return firn.Internal
}
