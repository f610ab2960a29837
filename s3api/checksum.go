package s3api

import (
	"bytes"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"hash"
	"hash/crc32"
	"net/http"
	"strconv"
	"strings"

	"github.com/minio/crc64nvme"

	"firn/object"
	"firn/object/record"
	"firn/s3api/s3err"
)

// algorithm is what the protocol calls one of the additional checksums.
type algorithm struct {
	name    string // as in x-amz-checksum-algorithm
	header  string // canonical name of its header
	element string // XML element
	size    int    // bytes of the sum
}

// algorithms is indexed by object.ChecksumAlgorithm.
var algorithms = [...]algorithm{
	record.ChecksumCRC32:     {"CRC32", "X-Amz-Checksum-Crc32", "ChecksumCRC32", 4},
	record.ChecksumCRC32C:    {"CRC32C", "X-Amz-Checksum-Crc32c", "ChecksumCRC32C", 4},
	record.ChecksumCRC64NVME: {"CRC64NVME", "X-Amz-Checksum-Crc64nvme", "ChecksumCRC64NVME", 8},
	record.ChecksumSHA1:      {"SHA1", "X-Amz-Checksum-Sha1", "ChecksumSHA1", 20},
	record.ChecksumSHA256:    {"SHA256", "X-Amz-Checksum-Sha256", "ChecksumSHA256", 32},
}

// parseAlgorithm returns the algorithm of a name, ChecksumNone where there is none.
func parseAlgorithm(name string) record.ChecksumAlgorithm {
	for i := record.ChecksumCRC32; int(i) < len(algorithms); i++ {
		if strings.EqualFold(algorithms[i].name, name) {
			return i
		}
	}
	return record.ChecksumNone
}

// newHash returns the hash of a, which is not ChecksumNone.
func newHash(a record.ChecksumAlgorithm) hash.Hash {
	switch a {
	case record.ChecksumCRC32:
		return crc32.NewIEEE()
	case record.ChecksumCRC32C:
		return crc32.New(crc32.MakeTable(crc32.Castagnoli))
	case record.ChecksumSHA1:
		return sha1.New()
	case record.ChecksumSHA256:
		return sha256.New()
	}
	return crc64nvme.New()
}

// checksumNames returns the names S3 has for a checksum's type.
func checksumType(t record.ChecksumType) string {
	if t == record.ChecksumComposite {
		return "COMPOSITE"
	}
	return "FULL_OBJECT"
}

// checksumText is the value of a checksum as headers and documents show it.
func checksumText(c *record.Checksum) string {
	v := base64.StdEncoding.EncodeToString(c.Value)
	if c.Type == record.ChecksumComposite && c.Parts > 0 {
		v += "-" + strconv.Itoa(c.Parts)
	}
	return v
}

// errChecksum is the answer to a checksum that does not match or could not match anything.
func errChecksum(a record.ChecksumAlgorithm) *s3err.Error {
	return s3err.New("BadDigest").Saying("The %s you specified did not match the calculated checksum.", algorithms[a].name)
}

// decodeChecksum decodes a checksum value of a. A value that is no checksum of a is BadDigest.
func decodeChecksum(a record.ChecksumAlgorithm, v string) ([]byte, error) {
	b, err := base64.StdEncoding.DecodeString(v)
	if err != nil || len(b) != algorithms[a].size {
		return nil, errChecksum(a)
	}
	return b, nil
}

// checksumHeaders are what a request says about an additional checksum.
type checksumHeaders struct {
	algorithm record.ChecksumAlgorithm
	value     string // "" where it follows in a trailer
	trailer   bool
}

// findChecksum reads the checksum headers of a request that carries a body.
func findChecksum(rq *request) (checksumHeaders, error) {
	var c checksumHeaders
	for k, v := range rq.r.Header {
		if !strings.HasPrefix(k, "X-Amz-Checksum-") || len(v) == 0 {
			continue
		}
		for a := record.ChecksumCRC32; int(a) < len(algorithms); a++ {
			if k != algorithms[a].header {
				continue
			}
			if c.algorithm != record.ChecksumNone {
				return c, s3err.InvalidRequest("Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.")
			}
			c.algorithm, c.value = a, v[0]
		}
	}
	if t := rq.header("X-Amz-Trailer"); t != "" {
		for name := range strings.SplitSeq(t, ",") {
			name = strings.TrimSpace(name)
			suffix, ok := strings.CutPrefix(strings.ToLower(name), "x-amz-checksum-")
			a := parseAlgorithm(suffix)
			if !ok || a == record.ChecksumNone {
				return c, s3err.InvalidRequest("The value specified in the x-amz-trailer header is not supported")
			}
			if c.algorithm != record.ChecksumNone {
				return c, s3err.InvalidRequest("Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.")
			}
			c.algorithm, c.trailer = a, true
		}
	}
	if name := rq.header("X-Amz-Sdk-Checksum-Algorithm"); name != "" {
		a := parseAlgorithm(name)
		switch {
		case a == record.ChecksumNone:
			return c, s3err.InvalidRequest("Value for x-amz-sdk-checksum-algorithm header is invalid.")
		case c.algorithm == record.ChecksumNone:
			return c, s3err.InvalidRequest("x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* " +
				"or x-amz-trailer headers were found.")
		case a != c.algorithm:
			return c, s3err.InvalidRequest("Value for x-amz-sdk-checksum-algorithm header is invalid.")
		}
	}
	return c, nil
}

// expected returns the raw sum, once the body has been read to its end.
func (c checksumHeaders) expected(rq *request) ([]byte, error) {
	v := c.value
	if c.trailer {
		v = rq.trailer(algorithms[c.algorithm].header)
		if v == "" {
			return nil, s3err.InvalidRequest("The trailer %s was announced and not sent.",
				strings.ToLower(algorithms[c.algorithm].header))
		}
	}
	return decodeChecksum(c.algorithm, v)
}

// checksumRequest returns what the store is to compute and check, nil where the request asks for nothing.
func (rq *request) checksumRequest() (*object.ChecksumRequest, error) {
	c, err := findChecksum(rq)
	if err != nil || c.algorithm == record.ChecksumNone {
		return nil, err
	}
	if !c.trailer {
		sum, err := c.expected(rq)
		if err != nil {
			return nil, err
		}
		return &object.ChecksumRequest{Algorithm: c.algorithm, Expected: func() ([]byte, error) { return sum, nil }}, nil
	}
	return &object.ChecksumRequest{Algorithm: c.algorithm, Expected: func() ([]byte, error) { return c.expected(rq) }}, nil
}

// checkDocument compares a document that was read whole with the checksums sent with it, and reports whether
// any was sent.
func (rq *request) checkDocument(b []byte) (sent bool, err error) {
	if rq.hasHeader("Content-Md5") {
		sum, err := contentMD5(rq)
		if err != nil {
			return true, err
		}
		if got := md5.Sum(b); !bytes.Equal(got[:], sum) {
			return true, s3err.New("BadDigest")
		}
		sent = true
	}
	c, err := findChecksum(rq)
	if err != nil || c.algorithm == record.ChecksumNone {
		return sent, err
	}
	want, err := c.expected(rq)
	if err != nil {
		return true, err
	}
	h := newHash(c.algorithm)
	_, _ = h.Write(b)
	if !bytes.Equal(h.Sum(nil), want) {
		return true, errChecksum(c.algorithm)
	}
	return true, nil
}

// contentMD5 returns the raw Content-MD5, nil where none was sent.
func contentMD5(rq *request) ([]byte, error) {
	if !rq.hasHeader("Content-Md5") {
		return nil, nil
	}
	b, err := base64.StdEncoding.DecodeString(rq.header("Content-Md5"))
	if err != nil || len(b) != md5.Size {
		return nil, s3err.New("InvalidDigest").With("Content-MD5", rq.header("Content-Md5"))
	}
	return b, nil
}

// setChecksum adds the checksum headers of a response.
func (rq *request) setChecksum(c *record.Checksum) {
	if c.Algorithm == record.ChecksumNone || len(c.Value) == 0 {
		return
	}
	rq.set(algorithms[c.Algorithm].header, checksumText(c))
	rq.set("X-Amz-Checksum-Type", checksumType(c.Type))
}

// appendChecksum appends the checksum elements of a document.
func appendChecksum(b []byte, c *record.Checksum) []byte {
	if c.Algorithm == record.ChecksumNone || len(c.Value) == 0 {
		return b
	}
	b = appendElement(b, algorithms[c.Algorithm].element, checksumText(c))
	return appendElement(b, "ChecksumType", checksumType(c.Type))
}

// uploadChecksum reads the algorithm and type a multipart upload is created with.
func uploadChecksum(h http.Header) (*object.ChecksumRequest, error) {
	name, typ := first(h, "X-Amz-Checksum-Algorithm"), first(h, "X-Amz-Checksum-Type")
	if name == "" {
		if typ != "" {
			return nil, s3err.InvalidRequest("The x-amz-checksum-type header can only be used with the " +
				"x-amz-checksum-algorithm header.")
		}
		return nil, nil
	}
	a := parseAlgorithm(name)
	if a == record.ChecksumNone {
		return nil, s3err.InvalidRequest("Checksum algorithm provided is unsupported. Please try again with any of the " +
			"valid types: [CRC32, CRC32C, CRC64NVME, SHA1, SHA256]")
	}
	c := &object.ChecksumRequest{Algorithm: a, Type: record.ChecksumComposite}
	switch typ {
	case "":
		if a == record.ChecksumCRC64NVME {
			c.Type = record.ChecksumFullObject
		}
	case "COMPOSITE":
		if a == record.ChecksumCRC64NVME {
			return nil, s3err.InvalidRequest("The COMPOSITE checksum type cannot be used with the crc64nvme checksum algorithm.")
		}
	case "FULL_OBJECT":
		if a == record.ChecksumSHA1 || a == record.ChecksumSHA256 {
			return nil, s3err.InvalidRequest("The FULL_OBJECT checksum type cannot be used with the %s checksum algorithm.",
				strings.ToLower(algorithms[a].name))
		}
		c.Type = record.ChecksumFullObject
	default:
		return nil, s3err.InvalidRequest("Value for x-amz-checksum-type header is invalid.")
	}
	return c, nil
}

// first returns the first value of a header. key must be canonical.
func first(h http.Header, key string) string {
	if v := h[key]; len(v) > 0 {
		return v[0]
	}
	return ""
}
