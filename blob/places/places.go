// Package places opens a place by its URL.
//
// It owns the list of schemes, one explicit function, and the order in which a place's wrappers stand: prefix, then
// compression, then encryption, then the cache, then retry, then rate limits, then the driver or the mirror of other
// places; and it says what a cache may keep. It promises that a URL with a password is
// refused, that neither names nor errors show one, and that Open makes nothing: Init does. It must never import config;
// a place that a configuration names comes as a Place.
package places

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"firn"
	"firn/blob"
	"firn/blob/davblob"
	"firn/blob/driver"
	"firn/blob/fileblob"
	"firn/blob/gitblob"
	"firn/blob/memblob"
	"firn/blob/pgblob"
	"firn/blob/radosblob"
	"firn/blob/redisblob"
	"firn/blob/s3blob"
	"firn/blob/sftpblob"
	"firn/blob/sqliteblob"
	"firn/blob/wrap/compress"
	"firn/blob/wrap/encrypt"
	"firn/blob/wrap/limit"
	"firn/blob/wrap/mirror"
	"firn/blob/wrap/prefix"
	"firn/blob/wrap/retry"
)

// Place is a place with its settings.
type Place struct {
	// URL without password; "" for a mirror.
	URL     string
	Secrets Secrets
	// Mirror are the names of the places that a mirror writes to; MirrorWrites is how many of them must have a change
	// before it counts, 0 for all.
	Mirror       []string
	MirrorWrites int
	// CacheDir keeps up to CacheSize bytes of packs and indexes that were read; "" is no cache. While another process
	// uses it the place is opened without.
	CacheDir  string
	CacheSize int64
	// NoRetry returns failures that may pass at once. Places on this machine are never retried.
	NoRetry bool
	// Upload and Download bound the bytes of content a second; 0 is no bound.
	Upload, Download int64
	// Encrypt keeps contents encrypted with Secrets.EncryptionPassword. Keys stay readable.
	Encrypt bool
	// Compress keeps contents compressed with zstd.
	Compress bool
}

// Opener opens places by URL, and by name those it knows.
type Opener struct {
	// Named are the places that place:NAME stands for.
	Named map[string]Place
	// Mirrors returns what hears of a mirror that is opened, by the names of it and of its places; nil is nobody.
	Mirrors func(name string, members []string) mirror.Observer

	patience time.Duration // for what fails and may pass; 0 is the retry package's own
}

// Open opens the place at a URL, which must be there.
func Open(ctx context.Context, rawURL string, s Secrets) (*blob.Store, error) {
	return new(Opener).openPlace(ctx, "", Place{URL: rawURL, Secrets: s}, "", false, nil)
}

// Init makes the place at a URL where it is not there yet, and opens it.
func Init(ctx context.Context, rawURL string, s Secrets) (*blob.Store, error) {
	return new(Opener).openPlace(ctx, "", Place{URL: rawURL, Secrets: s}, "", true, nil)
}

// Open opens a URL, of a named place too: place:NAME or place:NAME/PREFIX.
func (o *Opener) Open(ctx context.Context, rawURL string) (*blob.Store, error) {
	return o.open(ctx, rawURL, false)
}

// Init is Open that makes the place where it is not there yet.
func (o *Opener) Init(ctx context.Context, rawURL string) (*blob.Store, error) {
	return o.open(ctx, rawURL, true)
}

func (o *Opener) open(ctx context.Context, rawURL string, create bool) (*blob.Store, error) {
	rest, named := strings.CutPrefix(rawURL, "place:")
	if !named {
		return o.openPlace(ctx, "", Place{URL: rawURL}, "", create, nil)
	}
	name, below, _ := strings.Cut(rest, "/")
	p, ok := o.Named[name]
	if !ok {
		what := "no places are configured"
		if len(o.Named) > 0 {
			var names []string
			for n := range o.Named {
				names = append(names, n)
			}
			slices.Sort(names)
			what = "the configuration has " + strings.Join(names, ", ")
		}
		return nil, fail("place:"+name, firn.NewError(firn.NotFound, "no place of this name: "+what))
	}
	return o.openPlace(ctx, name, p, strings.Trim(below, "/"), create, nil)
}

func fail(name string, err error) error { return firn.E("open", name, err) }

// Parse reads the URL of a place. It fails with firn.Invalid for what is no URL or has a password; the error does not
// show it.
func Parse(rawURL string) (*url.URL, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		// The error of url.Parse quotes the URL.
		return nil, fail(Redact(rawURL), firn.NewError(firn.Invalid, "this is no URL: write SCHEME:..., with %XX for what cannot stand in one"))
	}
	if u.Scheme == "" {
		return nil, fail(Redact(rawURL), firn.NewError(firn.Invalid, "the URL has no scheme: a directory is file:/PATH, a configured place place:NAME"))
	}
	if _, ok := u.User.Password(); ok {
		return nil, fail(Redact(rawURL), firn.NewError(firn.Invalid,
			"the URL has a password, which process lists and logs would show: leave it out and give it by the environment, or by the credentials file of a place in the configuration (docs/places.md)"))
	}
	return u, nil
}

// Redact returns a URL without its password, for errors and logs. What is no URL is cut at what may be one.
func Redact(rawURL string) string {
	u, err := url.Parse(rawURL)
	if err == nil && u.User == nil && !strings.Contains(u.Opaque, "@") {
		return rawURL
	}
	if err == nil && u.User != nil {
		if _, ok := u.User.Password(); ok {
			u.User = url.User(u.User.Username())
		}
		return u.String()
	}
	scheme, rest, ok := strings.Cut(rawURL, ":")
	if !ok || !strings.Contains(rest, "@") {
		return rawURL
	}
	return scheme + ":...@" + rest[strings.LastIndexByte(rest, '@')+1:]
}

// openPlace opens p, which has a name where it is of the configuration. inside are the mirrors that it is a place of.
func (o *Opener) openPlace(ctx context.Context, name string, p Place, below string, create bool, inside []string) (*blob.Store, error) {
	var d driver.Driver
	patience := retry.Options{Total: o.patience, Stall: o.patience}
	retried := !p.NoRetry
	shown := "place:" + name
	if len(p.Mirror) > 0 {
		var err error
		if d, err = o.openMirror(ctx, name, p, create, inside); err != nil {
			return nil, fail(shown, err)
		}
		retried = false // its places are
	} else {
		u, err := Parse(p.URL)
		if err != nil {
			return nil, err
		}
		shown = Redact(p.URL)
		if d, err = openDriver(ctx, u, p.Secrets, create); err != nil {
			return nil, fail(shown, err)
		}
		retried = retried && !local(u)
		if len(inside) > 0 {
			patience.Total, patience.Stall = memberPatience, memberPatience
		}
	}
	wrapped, err := p.wrap(ctx, d, retried, patience, below, create)
	if err != nil {
		return nil, fail(shown, err)
	}
	if below != "" {
		shown = strings.TrimRight(shown, "/") + " below " + below
	}
	return blob.New(wrapped, shown), nil
}

// openDriver is the list of all schemes.
func openDriver(ctx context.Context, u *url.URL, s Secrets, create bool) (driver.Driver, error) {
	switch u.Scheme {
	case "file":
		return start(ctx, u, create, fileblob.FromURL, fileblob.Init, func(ctx context.Context, o fileblob.Options) (driver.Driver, error) {
			return fileblob.New(ctx, o)
		})
	case "mem":
		return memblob.New(memblob.Options{}), nil
	case "s3":
		return start(ctx, u, create, func(u *url.URL) (s3blob.Options, error) {
			o, err := s3blob.FromURL(u)
			o.AccessKey, o.SecretKey, o.SessionToken = s.Username, s.Password, s.SessionToken
			return o, err
		}, s3blob.Init, s3blob.New)
	case "git+file", "git+ssh", "git+https":
		return start(ctx, u, create, func(u *url.URL) (gitblob.Options, error) {
			o, err := gitblob.FromURL(u)
			o.Create = o.Create || create
			set(&o.Username, s.Username)
			set(&o.Password, s.Password)
			return o, err
		}, nil, gitblob.New)
	case "sftp":
		return start(ctx, u, create, func(u *url.URL) (sftpblob.Options, error) {
			o, err := sftpblob.FromURL(u)
			set(&o.User, s.Username)
			set(&o.Password, s.Password)
			return o, err
		}, sftpblob.Init, sftpblob.New)
	case "webdav", "webdavs":
		return start(ctx, u, create, func(u *url.URL) (davblob.Options, error) {
			o, err := davblob.FromURL(u)
			set(&o.User, s.Username)
			set(&o.Password, s.Password)
			return o, err
		}, davblob.Init, davblob.New)
	case "sqlite":
		return start(ctx, u, create, sqliteblob.FromURL, sqliteblob.Init, sqliteblob.New)
	case "rados":
		return start(ctx, u, create, radosblob.FromURL, nil, radosblob.New)
	case "redis", "rediss", "redis+cluster", "rediss+cluster":
		return start(ctx, u, create, func(u *url.URL) (redisblob.Options, error) {
			o, err := redisblob.FromURL(u)
			set(&o.Username, s.Username)
			set(&o.Password, s.Password)
			return o, err
		}, redisblob.Init, redisblob.New)
	case "postgres", "postgresql":
		return start(ctx, u, create, func(u *url.URL) (pgblob.Options, error) {
			o, err := pgblob.FromURL(u)
			set(&o.Password, s.Password)
			return o, err
		}, pgblob.Init, pgblob.New)
	}
	return nil, firn.NewError(firn.Unsupported, fmt.Sprintf("no scheme %q: firn knows %s", u.Scheme, strings.Join(Schemes(), ", ")))
}

// set lets what a credentials file says go before what a URL does.
func set(field *string, secret string) {
	if secret != "" {
		*field = secret
	}
}

// start reads the options, makes the place where that is asked for, and opens it.
func start[O any](
	ctx context.Context, u *url.URL, create bool, options func(*url.URL) (O, error),
	initialise func(context.Context, O) error, open func(context.Context, O) (driver.Driver, error),
) (driver.Driver, error) {
	o, err := options(u)
	if err != nil {
		return nil, err
	}
	if create && initialise != nil {
		if err := initialise(ctx, o); err != nil {
			return nil, err
		}
	}
	return open(ctx, o)
}

// Schemes are all schemes, as they are written before the colon.
func Schemes() []string {
	return []string{
		"file", "s3", "sftp", "webdav", "webdavs", "rados", "redis", "rediss", "redis+cluster", "rediss+cluster", "postgres", "postgresql",
		"sqlite", "git+file", "git+ssh", "git+https", "mem", "place",
	}
}

// local reports whether a place is on this machine, where trying again does not help.
func local(u *url.URL) bool {
	return slices.Contains([]string{"file", "mem", "sqlite", "git+file"}, u.Scheme)
}

// wrap puts the wrappers in front of d, and closes it where it fails.
func (p Place) wrap(
	ctx context.Context, d driver.Driver, retried bool, patience retry.Options, below string, create bool,
) (_ driver.Driver, err error) {
	opened := d
	defer func() {
		if err != nil {
			_ = opened.Close() // what went wrong before says more
		}
	}()
	if p.Upload > 0 || p.Download > 0 {
		l, err := limit.NewLimiter(limit.Rates{Up: p.Upload, Down: p.Download})
		if err != nil {
			return nil, err
		}
		d = limit.New(d, l)
	}
	if retried {
		if d, err = retry.New(d, patience); err != nil {
			return nil, err
		}
	}
	if p.CacheDir != "" {
		if d, err = p.cache(d); err != nil {
			return nil, err
		}
		opened = d // with the cache's hold of its directory
	}
	if p.Encrypt {
		if p.Secrets.EncryptionPassword == "" {
			return nil, firn.NewError(firn.Invalid, "the place is to be encrypted and its credentials file has no encryption_password")
		}
		o := encrypt.Options{Secret: encrypt.Secret{Password: []byte(p.Secrets.EncryptionPassword)}, Init: create}
		if d, err = encrypt.Open(ctx, d, o); err != nil {
			return nil, err
		}
	}
	if p.Compress {
		if d, err = compress.New(d, compress.Options{}); err != nil {
			return nil, err
		}
	}
	if below != "" {
		return prefix.New(d, below)
	}
	return d, nil
}
