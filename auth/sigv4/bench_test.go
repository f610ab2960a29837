package sigv4

import (
	"bytes"
	"io"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/minio/minio-go/v7/pkg/signer"
)

// benchRequest is a PUT as minio-go and warp send it.
func benchRequest(tb testing.TB, now time.Time, size int, stream bool) (*http.Request, []byte) {
	body := bytes.Repeat([]byte("x"), size)
	req, err := http.NewRequest("PUT", "http://127.0.0.1:9000/bench-bucket/prefix/object-0123456789.bin", bytes.NewReader(body))
	if err != nil {
		tb.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	if stream {
		req = signer.StreamingSignV4(req, awsKey, awsSecret, "", "us-east-1", int64(size), now, newSHA256())
	} else {
		h := newSHA256()
		h.Write(body)
		req.Header.Set("X-Amz-Content-Sha256", string(appendHex(nil, h.Sum(nil))))
		req = signer.SignV4(*req, awsKey, awsSecret, "", "us-east-1")
	}
	r := overWire(tb, req)
	wire, err := io.ReadAll(r.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return r, wire
}

// cpu reports the CPU time an operation, which a busy machine disturbs less than the time that passes.
func cpu(b *testing.B) func() {
	now := func() time.Duration {
		var r syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
			b.Fatal(err)
		}
		return time.Duration(r.Utime.Nano() + r.Stime.Nano())
	}
	start := now()
	return func() { b.ReportMetric(float64(now()-start)/float64(b.N), "cpu-ns/op") }
}

func BenchmarkVerify(b *testing.B) {
	now := time.Now()
	for _, c := range []struct {
		name   string
		size   int
		stream bool
	}{{"signed 4 KiB", 4 << 10, false}, {"signed 1 MiB", 1 << 20, false}, {"chunked 4 KiB", 4 << 10, true}, {"chunked 1 MiB", 1 << 20, true}} {
		b.Run(c.name, func(b *testing.B) {
			r, wire := benchRequest(b, now, c.size, c.stream)
			v := New(oneSecret(awsKey, awsSecret), Options{Region: DefaultRegion, Now: at(now)})
			buf := make([]byte, 128<<10)
			src := bytes.NewReader(wire)
			r.Body = io.NopCloser(src)
			b.ReportAllocs()
			defer cpu(b)()
			for b.Loop() {
				src.Reset(wire)
				res, err := v.Verify(r)
				if err != nil {
					b.Fatal(explain(err))
				}
				body, err := res.Body(r)
				if err != nil {
					b.Fatal(err)
				}
				for {
					_, err := body.Read(buf)
					if err == io.EOF {
						break
					}
					if err != nil {
						b.Fatal(err)
					}
				}
				body.Close()
			}
		})
	}
	b.Run("get", func(b *testing.B) {
		v := awsVerifier()
		r := awsExamples()["get object"]()
		b.ReportAllocs()
		defer cpu(b)()
		for b.Loop() {
			if _, err := v.Verify(r); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("presigned", func(b *testing.B) {
		v := awsVerifier()
		r := awsExamples()["presigned"]()
		b.ReportAllocs()
		defer cpu(b)()
		for b.Loop() {
			if _, err := v.Verify(r); err != nil {
				b.Fatal(err)
			}
		}
	})
}
