package firn

import (
	"errors"
	"strings"
)

// Kind says what sort of failure an error is. Callers act on the kind (or on a sentinel with
// errors.Is), never on the text.
type Kind uint8

const (
	// Internal is a failure nobody foresaw: a bug, or an I/O error without a better kind.
	Internal Kind = iota
	// NotFound: the named thing does not exist.
	NotFound
	// Exists: the named thing exists already.
	Exists
	// Invalid: the request itself is wrong; sending it again cannot help.
	Invalid
	// Denied: the caller may not do this.
	Denied
	// Conflict: another operation or the state of the thing stands against it.
	Conflict
	// Precondition: a condition sent with the request does not hold.
	Precondition
	// Locked: retention or a legal hold protects the thing.
	Locked
	// NoSpace: the disk or a budget is full.
	NoSpace
	// Corrupt: stored bytes do not match their checksum.
	Corrupt
	// Unavailable: a part this needs is away; trying later may help.
	Unavailable
	// Unsupported: a known operation that this build does not offer.
	Unsupported
)

var kindNames = [...]string{
	"internal error", "not found", "already exists", "invalid", "access denied", "conflict",
	"precondition failed", "locked", "no space", "corrupt", "unavailable", "unsupported",
}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "unknown kind"
}

// Error is a failure with its kind, the operation and the subject, each named once.
type Error struct {
	Kind    Kind
	Op      string // what was being done, such as "put object"; may be empty
	Subject string // to which thing, such as "bucket/key"; may be empty
	Err     error  // the cause; may be nil
}

func (e *Error) Error() string {
	var b strings.Builder
	for _, s := range []string{e.Op, e.Subject} {
		if s == "" {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(s)
	}
	if b.Len() > 0 {
		b.WriteString(": ")
	}
	if e.Err != nil {
		b.WriteString(e.Err.Error())
	} else {
		b.WriteString(e.Kind.String())
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }

// E wraps err with an operation and a subject and keeps the kind of err. It returns nil for nil.
func E(op, subject string, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Kind: KindOf(err), Op: op, Subject: subject, Err: err}
}

// NewError returns an error of kind k with the text s, to be used as a sentinel or as a cause.
func NewError(k Kind, s string) error { return &Error{Kind: k, Err: errors.New(s)} }

// KindOf returns the kind of the first *Error in err's chain, or Internal where there is none.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Internal
}
