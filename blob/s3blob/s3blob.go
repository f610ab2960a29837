// Package s3blob keeps blobs as objects of a bucket of any S3 server: AWS, MinIO, Ceph RGW, versitygw, Firn itself.
//
// It owns the use of the S3 API for package driver's contract: one blob is one object, whose key is the prefix, a slash
// and the blob's key, readable by any S3 tool. A place is named by
//
//	s3://bucket/prefix?endpoint=http://host:9000&region=us-east-1&style=path&ca=/etc/ssl/our-ca.pem
//
// where all but the bucket may be left out: endpoint is AWS by default (or AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL),
// region AWS_REGION, AWS_DEFAULT_REGION or us-east-1, style is path or host (the server's usual one by default), ca a
// PEM file of further authorities to trust (or AWS_CA_BUNDLE). Credentials never stand in the URL: they come from AWS_ACCESS_KEY_ID,
// AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, from AWS's shared files with AWS_PROFILE, from the role of a container
// (AWS_WEB_IDENTITY_TOKEN_FILE, AWS_CONTAINER_CREDENTIALS_*), or from Options.
//
// It promises that memory does not grow with a blob's size, that a failed multipart upload is aborted, that a read gives
// the bytes of one put even when it had to connect again, and that Create answers firn.Unsupported where the server
// ignores If-None-Match, which it finds out by trying. It tries nothing else twice: that is a wrapper's. It must never
// import another driver.
package s3blob

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"firn"
	"firn/blob/driver"
)

const (
	awsEndpoint   = "https://s3.amazonaws.com"
	defaultRegion = "us-east-1"

	// buffer is what the transport reads and writes at once: its default of 4 KiB costs a third of the throughput.
	buffer = 64 << 10
	// idle is how many connections are kept for the next request.
	idle = 64
)

// Options say where the bucket is and who asks.
type Options struct {
	Bucket string
	// Prefix is put before every key, with a slash between; empty for the bucket's top.
	Prefix string
	// Endpoint is the server's URL without a path; empty for AWS.
	Endpoint string
	// Region is what requests are signed for; empty for us-east-1, or on AWS for the bucket's own.
	Region string
	// Style is "path" or "host"; empty for "host" at AWS and its like, "path" elsewhere.
	Style string
	// CAFile has further certificate authorities in PEM; empty for the system's alone.
	CAFile string

	// AccessKey, SecretKey and SessionToken are used where AccessKey is not empty; else the environment and AWS's files.
	AccessKey, SecretKey, SessionToken string

	// PartSize is the least size of a part in bytes, 32 MiB by default, at least 5 MiB; it grows where 10,000 parts
	// would not do. A blob of more than two parts is uploaded in parts.
	PartSize int64
}

// FromURL reads an s3: URL, and what it leaves out from AWS's environment variables, credentials excepted.
func FromURL(u *url.URL) (Options, error) {
	opt := Options{Bucket: u.Host, Prefix: strings.Trim(u.Path, "/")}
	query, err := url.ParseQuery(u.RawQuery)
	switch {
	case err != nil:
		return opt, invalid("the URL's query cannot be read")
	case u.Scheme != "s3":
		return opt, invalid("the URL must begin with s3:")
	case u.User != nil:
		return opt, invalid("credentials do not belong in the URL: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
	case u.Port() != "":
		return opt, invalid("the URL is s3://bucket/prefix?endpoint=http://host:port: the server goes into endpoint")
	case opt.Bucket == "" || u.Opaque != "":
		return opt, invalid("the URL names no bucket: s3://bucket/prefix")
	}
	fields := map[string]*string{
		"endpoint": &opt.Endpoint, "region": &opt.Region, "style": &opt.Style, "ca": &opt.CAFile,
	}
	for name, values := range query {
		field, ok := fields[name]
		if !ok || len(values) != 1 {
			return opt, invalid(fmt.Sprintf("%q: the URL takes endpoint, region, style and ca, each once", name))
		}
		*field = values[0]
	}
	if opt.Endpoint == "" {
		opt.Endpoint = firstEnv("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
	}
	if opt.Region == "" {
		opt.Region = firstEnv("AWS_REGION", "AWS_DEFAULT_REGION")
	}
	if opt.CAFile == "" && !strings.HasPrefix(opt.Endpoint, "http:") {
		opt.CAFile = firstEnv("AWS_CA_BUNDLE")
	}
	return opt, nil
}

func firstEnv(names ...string) string {
	for _, name := range names {
		if v := os.Getenv(name); v != "" {
			return v
		}
	}
	return ""
}

func invalid(text string) error { return firn.NewError(firn.Invalid, text) }

// bucket is the driver.
type bucket struct {
	core   *minio.Core
	http   *http.Transport
	name   string
	prefix string // with its slash, or empty
	part   int64

	creates creates
	nesting nesting
	ctx     context.Context // of all requests; ends at Close
	cancel  context.CancelCauseFunc
}

// New returns the driver for a bucket. It sends nothing: the first call does.
func New(ctx context.Context, opt Options) (driver.Driver, error) { return open(ctx, opt) }

// Init makes the bucket where it is not there.
func Init(ctx context.Context, opt Options) error {
	b, err := open(ctx, opt)
	if err != nil {
		return err
	}
	defer b.Close()
	ok, err := b.core.BucketExists(ctx, b.name)
	if err != nil || ok {
		return b.fail(ctx, err)
	}
	err = b.core.MakeBucket(ctx, b.name, minio.MakeBucketOptions{Region: opt.Region})
	if answered(err).Code == "BucketAlreadyOwnedByYou" {
		err = nil // somebody else's Init
	}
	return b.fail(ctx, err)
}

func open(ctx context.Context, opt Options) (*bucket, error) {
	endpoint, err := opt.complete()
	if err != nil {
		return nil, err
	}
	secure := endpoint.Scheme == "https"
	transport, err := minio.DefaultTransport(secure)
	if err != nil {
		return nil, invalid(err.Error())
	}
	transport.ReadBufferSize, transport.WriteBufferSize, transport.MaxIdleConnsPerHost = buffer, buffer, idle
	if opt.CAFile != "" {
		if transport.TLSClientConfig, err = trust(opt.CAFile); err != nil {
			return nil, err
		}
	}
	lookup := map[string]minio.BucketLookupType{
		"": minio.BucketLookupAuto, "path": minio.BucketLookupPath, "host": minio.BucketLookupDNS,
	}[opt.Style]
	creds, err := opt.credentials()
	if err != nil {
		return nil, err
	}
	b := &bucket{http: transport, name: opt.Bucket, prefix: opt.Prefix, part: opt.PartSize}
	b.core, err = minio.NewCore(endpoint.Host, &minio.Options{
		Creds: creds, Secure: secure, Region: opt.Region, BucketLookup: lookup, MaxRetries: 1,
		Transport: sniffer{transport, &b.nesting.seen},
	})
	if err != nil {
		return nil, invalid(err.Error())
	}
	if b.prefix != "" {
		b.prefix += "/"
	}
	b.ctx, b.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	return b, nil
}

// complete checks the options and fills in defaults.
func (opt *Options) complete() (*url.URL, error) {
	opt.Prefix = strings.Trim(opt.Prefix, "/")
	if opt.Endpoint == "" {
		opt.Endpoint = awsEndpoint
	}
	endpoint, err := url.Parse(opt.Endpoint)
	if err != nil || endpoint.Host == "" || endpoint.Scheme != "http" && endpoint.Scheme != "https" ||
		strings.Trim(endpoint.Path, "/") != "" || endpoint.RawQuery != "" || endpoint.User != nil {
		return nil, invalid("the endpoint is http://host:port or https://host:port, with nothing more")
	}
	if opt.Region == "" && opt.Endpoint != awsEndpoint {
		opt.Region = defaultRegion
	}
	if opt.PartSize == 0 {
		opt.PartSize = 32 << 20
	}
	switch {
	case opt.Bucket == "":
		return nil, invalid("no bucket is named")
	case opt.Style != "" && opt.Style != "path" && opt.Style != "host":
		return nil, invalid(fmt.Sprintf("style is path or host, not %q", opt.Style))
	case opt.PartSize < 5<<20:
		return nil, invalid("a part has at least 5 MiB")
	}
	return endpoint, nil
}

func (opt *Options) credentials() (*credentials.Credentials, error) {
	if opt.AccessKey != "" {
		return credentials.NewStaticV4(opt.AccessKey, opt.SecretKey, opt.SessionToken), nil
	}
	providers := []credentials.Provider{&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}}
	// Asked for only where the environment announces it: elsewhere its look-up of a machine's role hangs.
	if firstEnv("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
		"AWS_CONTAINER_CREDENTIALS_FULL_URI") != "" {
		providers = append(providers, &credentials.IAM{Client: http.DefaultClient})
	}
	// The first that has any is kept, rather than a chain: that one goes on without a signature where all have none.
	for _, p := range providers {
		c := credentials.New(p)
		if v, err := c.GetWithContext(&credentials.CredContext{Client: http.DefaultClient}); err == nil &&
			v.AccessKeyID != "" && v.SecretAccessKey != "" {
			return c, nil
		}
	}
	return nil, firn.NewError(firn.Denied, "no S3 credentials were found: "+
		"set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE for a profile of ~/.aws/credentials")
}

func trust(file string) (*tls.Config, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, invalid(err.Error())
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, invalid("no certificate in PEM is in " + file)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}, nil
}

func (b *bucket) key(key string) string { return b.prefix + key }

var errClosed = errors.New("the place was closed")

// call is the context of one call, which ends with the caller's and at Close.
func (b *bucket) call(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(b.ctx, func() { cancel(errClosed) })
	return ctx, func() { stop(); cancel(nil) }
}

// Close ends the calls under way and closes the connections.
func (b *bucket) Close() error {
	b.cancel(errClosed)
	b.http.CloseIdleConnections()
	return nil
}

// creates remembers whether the server honours If-None-Match.
type creates struct {
	mu struct {
		sync.Mutex
		known, honoured bool
	}
}
