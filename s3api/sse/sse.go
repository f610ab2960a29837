// Package sse is server-side encryption as S3 clients speak of it: the headers by which they ask for it, bring their own
// keys and are told of it, and the data keys behind.
//
// It promises that a key that a client brought is neither kept nor logged, and that it is taken only where nobody on the
// way can read it. It must never import the store (object) or a door.
package sse

import (
	"context"
	"crypto/md5"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"firn"
	"firn/keys"
	"firn/object/envelope"
	"firn/s3api/s3doc"
	"firn/s3api/s3err"
	"firn/seal"
)

// Keys gives out data keys and opens them. It is *keys.Keys.
type Keys interface {
	// Generate returns a new data key for a named key, "" being the default one, bound to context.
	Generate(ctx context.Context, id string, context []byte) (keys.DataKey, error)
	// Unwrap opens what Generate wrapped.
	Unwrap(ctx context.Context, id string, wrapped, context []byte) (seal.Key, error)
	// Default is the name of the default key.
	Default() string
}

// The headers of server-side encryption.
const (
	headerMethod    = "X-Amz-Server-Side-Encryption"
	headerKey       = "X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id"
	headerContext   = "X-Amz-Server-Side-Encryption-Context"
	headerBucketKey = "X-Amz-Server-Side-Encryption-Bucket-Key-Enabled"
)

// Prefixes of the headers of clients' own keys.
const (
	Own    = "X-Amz-Server-Side-Encryption-Customer-"
	Source = "X-Amz-Copy-Source-Server-Side-Encryption-Customer-" // of the source of a copy

	ownAlgorithm = "Algorithm"
	ownKey       = "Key"
	ownMD5       = "Key-Md5"
)

const (
	methodAES256 = "AES256"
	methodKMS    = "aws:kms"
	methodDSSE   = "aws:kms:dsse"
	// maxContext bounds the encryption context, in bytes, as KMS does.
	maxContext = 8 << 10
	maxKeyID   = 2048
)

// Customer is a key that came with a request.
type Customer struct {
	key seal.Key
	md5 string // as sent
}

func get(h http.Header, name string) string {
	if v := h[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// ReadCustomer reads a client's own key from the headers with a prefix, nil where there are none.
func ReadCustomer(r *http.Request, prefix string) (*Customer, error) {
	h := r.Header
	algorithm, text, sum := get(h, prefix+ownAlgorithm), get(h, prefix+ownKey), get(h, prefix+ownMD5)
	if algorithm == "" && text == "" && sum == "" {
		return nil, nil
	}
	bad := func(header, what string) error {
		return s3err.InvalidArgument(strings.ToLower(prefix+header), "",
			"%s", what)
	}
	const must = "Requests specifying Server Side Encryption with Customer provided keys must "
	switch {
	case !confidential(r):
		return nil, s3err.InvalidRequest(must + "be made over a secure connection.")
	case algorithm == "":
		return nil, bad(ownAlgorithm, must+"provide a valid encryption algorithm.")
	case algorithm != methodAES256:
		return nil, s3err.New("InvalidEncryptionAlgorithmError").With("ArgumentName", strings.ToLower(prefix+ownAlgorithm)).
			With("ArgumentValue", algorithm)
	case text == "":
		return nil, bad(ownKey, must+"provide an appropriate secret key.")
	case sum == "":
		return nil, bad(ownMD5, must+"provide the client calculated MD5 of the secret key.")
	}
	raw, err := base64.StdEncoding.DecodeString(text)
	c := &Customer{md5: sum}
	if err != nil || len(raw) != len(c.key) {
		return nil, bad(ownKey, "The secret key was invalid for the specified algorithm.")
	}
	copy(c.key[:], raw)
	got := md5.Sum(raw)
	if subtle.ConstantTimeCompare([]byte(base64.StdEncoding.EncodeToString(got[:])), []byte(sum)) == 0 {
		return nil, bad(ownMD5, "The calculated MD5 hash of the key did not match the hash that was provided.")
	}
	return c, nil
}

// confidential reports whether nobody between client and site can read a request: over TLS, which a trusted proxy may
// have ended, or from the same machine. What a proxy on this machine passed on came from elsewhere.
func confidential(r *http.Request) bool {
	if r.TLS != nil {
		return true
	}
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "X-Real-Ip", "Via"} {
		if get(r.Header, name) != "" {
			return false
		}
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// ReadForRead reads the key that a read brought. What only writes may say is refused, as on AWS.
func ReadForRead(r *http.Request) (*Customer, error) {
	if v := get(r.Header, headerMethod); v != "" {
		return nil, s3err.InvalidArgument(strings.ToLower(headerMethod), v,
			"x-amz-server-side-encryption header is not supported for this operation.")
	}
	return ReadCustomer(r, Own)
}

// Asked reports whether a write says itself how it is to be encrypted.
func Asked(h http.Header) bool { return get(h, headerMethod) != "" || get(h, Own+ownAlgorithm) != "" }

// readContext returns the encryption context of a request as a JSON object with its names in order.
func readContext(h http.Header) (string, error) {
	text := get(h, headerContext)
	if text == "" {
		return "", nil
	}
	name := strings.ToLower(headerContext)
	bad := s3err.InvalidArgument(name, "", "The header '%s' shall be Base64-encoded UTF-8 string holding JSON which "+
		"represents a string-string map", name)
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(raw) > maxContext {
		return "", bad
	}
	var m map[string]string
	if err := json.Unmarshal(raw, &m); err != nil || m == nil {
		return "", bad
	}
	b, err := json.Marshal(m)
	return string(b), err
}

// wanted returns how a request wants what it makes to be encrypted: as it says itself, else as the bucket has it by
// default, else not at all, which is nil.
func wanted(r *http.Request, byDefault s3doc.Encryption) (*envelope.Encryption, *Customer, error) {
	h := r.Header
	method, id := get(h, headerMethod), get(h, headerKey)
	c, err := ReadCustomer(r, Own)
	if err != nil {
		return nil, nil, err
	}
	refuse := func(what string) error {
		return s3err.InvalidArgument(strings.ToLower(headerMethod), method, "%s", what)
	}
	if c != nil {
		if method != "" || id != "" {
			return nil, nil, refuse("Server Side Encryption with Customer provided key is incompatible with the encryption " +
				"method specified")
		}
		return &envelope.Encryption{Method: envelope.Customer}, c, nil
	}
	if method != methodKMS && (id != "" || get(h, headerContext) != "") {
		return nil, nil, refuse("Server Side Encryption with AWS KMS managed key requires HTTP header " +
			"x-amz-server-side-encryption : aws:kms")
	}
	switch method {
	case "":
		if byDefault.Algorithm == "" {
			return nil, nil, nil
		}
		method, id = byDefault.Algorithm, byDefault.KeyID
	case methodAES256, methodKMS:
	case methodDSSE:
		return nil, nil, s3err.NotImplemented(strings.ToLower(headerMethod))
	default:
		return nil, nil, refuse("The encryption method specified is not supported")
	}
	if method == methodAES256 {
		return &envelope.Encryption{Method: envelope.Site}, nil, nil
	}
	e := &envelope.Encryption{Method: envelope.Service, Key: id, BucketKey: byDefault.BucketKey}
	if v := get(h, headerBucketKey); v != "" {
		e.BucketKey = strings.EqualFold(v, "true")
	}
	if len(id) > maxKeyID {
		return nil, nil, s3err.InvalidArgument(strings.ToLower(headerKey), "", "The key id is too long")
	}
	e.Context, err = readContext(h)
	return e, nil, err
}

// New returns how what a request makes under a key in a bucket is to be encrypted, and its data key; nil for not at all.
// byDefault is the bucket's setting. k may be nil: then only clients' own keys are taken.
func New(r *http.Request, byDefault s3doc.Encryption, k Keys, bucket, key string) (*envelope.Encryption, *seal.Key, error) {
	e, c, err := wanted(r, byDefault)
	if e == nil || err != nil {
		return nil, nil, err
	}
	if c == nil && k == nil {
		return nil, nil, s3err.NotImplemented(strings.ToLower(headerMethod))
	}
	if e.Method == envelope.Service && e.Key == "" {
		e.Key = k.Default()
	}
	bound, err := e.Binding(bucket, key)
	if err != nil {
		return nil, nil, err
	}
	var plain seal.Key
	if c != nil {
		plain = seal.NewKey()
		e.Wrapped = c.key.Box(nil, string(bound), plain[:])
	} else {
		d, err := k.Generate(r.Context(), e.Key, bound)
		if err != nil {
			return nil, nil, coded(err)
		}
		plain, e.Wrapped = d.Plain, d.Wrapped
	}
	return envelope.New(*e), &plain, nil
}

// Open returns the data key of content of a key in a bucket, nil where it is not encrypted. c is the client's key, which
// must be there where the content needs it, and only there.
func Open(ctx context.Context, k Keys, e *envelope.Encryption, bucket, key string, c *Customer) (*seal.Key, error) {
	if err := match(e, c); err != nil || e == nil {
		return nil, err
	}
	bound, err := e.Binding(bucket, key)
	if err != nil {
		return nil, err
	}
	if e.Method == envelope.Customer {
		raw, err := c.key.Unbox(string(bound), slices.Clone(e.Wrapped))
		if err != nil || len(raw) != len(seal.Key{}) {
			return nil, s3err.InvalidRequest("The provided encryption parameters did not match the ones used originally to " +
				"encrypt the object.")
		}
		plain := seal.Key(raw)
		return &plain, nil
	}
	if k == nil {
		return nil, firn.NewError(firn.Unavailable, "the object is encrypted, and the site has no keys")
	}
	plain, err := k.Unwrap(ctx, e.Key, e.Wrapped, bound)
	return &plain, coded(err)
}

// Check says whether a read brought the right key to content that it does not have opened, as HEAD does.
func Check(e *envelope.Encryption, bucket, key string, c *Customer) error {
	if err := match(e, c); err != nil || c == nil {
		return err
	}
	_, err := Open(context.Background(), nil, e, bucket, key, c)
	return err
}

// CheckSent is Check with the key that came with r, and passes where none did.
func CheckSent(r *http.Request, e *envelope.Encryption, bucket, key string) error {
	c, err := ReadCustomer(r, Own)
	if c == nil || err != nil {
		return err
	}
	return Check(e, bucket, key, c)
}

func match(e *envelope.Encryption, c *Customer) error {
	own := e != nil && e.Method == envelope.Customer
	switch {
	case own && c == nil:
		return s3err.InvalidRequest("The object was stored using a form of Server Side Encryption. The correct parameters must " +
			"be provided to retrieve the object.")
	case !own && c != nil:
		return s3err.InvalidRequest("The encryption parameters are not applicable to this object.")
	}
	return nil
}

// OpenUpload is Open for an upload that a part is sent to with r. It also returns the client's key.
func OpenUpload(r *http.Request, k Keys, e *envelope.Encryption, bucket, key string) (*seal.Key, *Customer, error) {
	c, err := ReadCustomer(r, Own)
	if err != nil {
		return nil, nil, err
	}
	own := e != nil && e.Method == envelope.Customer
	switch {
	case own && c == nil:
		return nil, nil, s3err.InvalidRequest("The multipart upload initiate requested encryption. Subsequent part requests " +
			"must include the appropriate encryption parameters.")
	case !own && c != nil:
		return nil, nil, s3err.InvalidRequest("The multipart upload initiate did not request encryption. Please resend the " +
			"request without sending encryption parameters.")
	}
	plain, err := Open(r.Context(), k, e, bucket, key, c)
	return plain, c, err
}

// Tell says in the headers of a response how content is encrypted. c is the client's key, where one is known.
func Tell(h http.Header, e *envelope.Encryption, c *Customer) {
	if e == nil {
		return
	}
	set := func(name, value string) { h[name] = []string{value} }
	switch e.Method {
	case envelope.Site:
		set(headerMethod, methodAES256)
	case envelope.Service:
		set(headerMethod, methodKMS)
		set(headerKey, e.Key)
		if e.BucketKey {
			set(headerBucketKey, "true")
		}
	case envelope.Customer:
		set(Own+ownAlgorithm, methodAES256)
		if c != nil {
			set(Own+ownMD5, c.md5)
		}
	}
}

// TellNew is Tell for what a request made just now.
func TellNew(h http.Header, e *envelope.Encryption, r *http.Request) {
	if e == nil {
		return
	}
	c, _ := ReadCustomer(r, Own) // it was read before
	Tell(h, e, c)
	if e.Context != "" {
		h[headerContext] = []string{base64.StdEncoding.EncodeToString([]byte(e.Context))}
	}
}

// coded gives an error of the key service its code.
func coded(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, keys.ErrNoKey):
		return s3err.New("KMS.NotFoundException")
	case errors.Is(err, keys.ErrDisabled):
		return s3err.New("KMS.DisabledException")
	case errors.Is(err, keys.ErrDestroyed):
		return s3err.New("KMS.KMSInvalidStateException")
	}
	return err
}

// CheckDefault reads a bucket's default encryption and refuses what would not be in force.
func CheckDefault(body []byte) ([]byte, error) {
	e, err := s3doc.ParseEncryption(body)
	if err == nil && e.Algorithm == methodDSSE {
		err = s3err.NotImplemented("SSEAlgorithm")
	}
	if err != nil {
		return nil, err
	}
	return s3doc.CheckEncryption(body)
}
