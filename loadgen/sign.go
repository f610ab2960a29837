package loadgen

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"time"
)

const emptySHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// signer makes SigV4 signatures for one worker. It keeps the day's derived key and reuses its hashes, which
// brings a signature to a few microseconds. Not safe for concurrent use.
type signer struct {
	access, secret, region string

	day   string // yyyymmdd the mac's key is for
	scope string
	mac   hash.Hash
	sha   hash.Hash
	buf   []byte

	second int64 // unix second stamp is for
	stamp  string
}

func newSigner(t Target) *signer {
	return &signer{access: t.AccessKey, secret: t.SecretKey, region: t.Region, sha: sha256.New(), second: -1}
}

// date returns the x-amz-date of now and readies the key for its day.
func (s *signer) date(now time.Time) string {
	if sec := now.Unix(); sec != s.second {
		s.second = sec
		s.stamp = now.UTC().Format("20060102T150405Z")
	}
	if day := s.stamp[:8]; day != s.day {
		s.day = day
		k := []byte("AWS4" + s.secret)
		for _, p := range []string{day, s.region, "s3", "aws4_request"} {
			m := hmac.New(sha256.New, k)
			m.Write([]byte(p))
			k = m.Sum(nil)
		}
		s.mac = hmac.New(sha256.New, k)
		s.scope = day + "/" + s.region + "/s3/aws4_request"
	}
	return s.stamp
}

// header is one signed header beside host, x-amz-content-sha256 and x-amz-date; its name sorts after
// x-amz-date.
type header struct{ name, value string }

// authorization appends the value of the Authorization header to dst, and returns the bare signature too.
// path and query must be in canonical form; date must have been called for this request.
func (s *signer) authorization(dst []byte, method string, path, query []byte, host, sum string, extra []header) ([]byte, [64]byte) {
	const base = "host;x-amz-content-sha256;x-amz-date"
	b := append(s.buf[:0], method...)
	b = append(b, '\n')
	b = append(b, path...)
	b = append(b, '\n')
	b = append(b, query...)
	b = append(b, "\nhost:"...)
	b = append(b, host...)
	b = append(b, "\nx-amz-content-sha256:"...)
	b = append(b, sum...)
	b = append(b, "\nx-amz-date:"...)
	b = append(b, s.stamp...)
	for _, h := range extra {
		b = append(b, '\n')
		b = append(b, h.name...)
		b = append(b, ':')
		b = append(b, h.value...)
	}
	b = append(b, "\n\n"+base...)
	for _, h := range extra {
		b = append(b, ';')
		b = append(b, h.name...)
	}
	b = append(b, '\n')
	b = append(b, sum...)
	var digest [32]byte
	s.sha.Reset()
	s.sha.Write(b)
	s.sha.Sum(digest[:0])

	b = append(b[:0], "AWS4-HMAC-SHA256\n"...)
	b = append(b, s.stamp...)
	b = append(b, '\n')
	b = append(b, s.scope...)
	b = append(b, '\n')
	b = hex.AppendEncode(b, digest[:])
	s.buf = b
	sig := s.hmac(b)

	dst = append(dst, "AWS4-HMAC-SHA256 Credential="...)
	dst = append(dst, s.access...)
	dst = append(dst, '/')
	dst = append(dst, s.scope...)
	dst = append(dst, ", SignedHeaders="+base...)
	for _, h := range extra {
		dst = append(dst, ';')
		dst = append(dst, h.name...)
	}
	dst = append(dst, ", Signature="...)
	dst = append(dst, sig[:]...)
	return dst, sig
}

// chunk returns the signature of one aws-chunked chunk that follows the one signed with prev.
func (s *signer) chunk(prev [64]byte, p []byte) [64]byte {
	var digest [32]byte
	s.sha.Reset()
	s.sha.Write(p)
	s.sha.Sum(digest[:0])
	b := append(s.buf[:0], "AWS4-HMAC-SHA256-PAYLOAD\n"...)
	b = append(b, s.stamp...)
	b = append(b, '\n')
	b = append(b, s.scope...)
	b = append(b, '\n')
	b = append(b, prev[:]...)
	b = append(b, "\n"+emptySHA256+"\n"...)
	b = hex.AppendEncode(b, digest[:])
	s.buf = b
	return s.hmac(b)
}

func (s *signer) hmac(b []byte) (out [64]byte) {
	var sum [32]byte
	s.mac.Reset()
	s.mac.Write(b)
	s.mac.Sum(sum[:0])
	hex.Encode(out[:], sum[:])
	return out
}

// unreserved reports whether SigV4's URI encoding leaves c as it is.
func unreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		c == '-' || c == '.' || c == '_' || c == '~'
}

// appendEscaped appends v in SigV4's URI encoding, slashes included.
func appendEscaped(dst []byte, v string) []byte {
	for i := range len(v) {
		if c := v[i]; unreserved(c) {
			dst = append(dst, c)
		} else {
			dst = append(dst, '%', "0123456789ABCDEF"[c>>4], "0123456789ABCDEF"[c&15])
		}
	}
	return dst
}
