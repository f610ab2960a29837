package s3api

import (
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"firn/object"
	"firn/object/record"
)

// begin creates an upload and returns its id.
func (h *harness) begin(target string, headers ...string) string {
	h.t.Helper()
	var v struct{ UploadId string }
	h.must("POST", target+"?uploads", "", headers...).parse(h.t, &v)
	if v.UploadId == "" {
		h.t.Fatal("no upload id")
	}
	return v.UploadId
}

// part sends a part and returns its ETag.
func (h *harness) part(target, id string, n int, body string, headers ...string) string {
	h.t.Helper()
	return h.must("PUT", fmt.Sprintf("%s?partNumber=%d&uploadId=%s", target, n, id), body, headers...).header.Get("ETag")
}

// completion is a CompleteMultipartUpload document of parts given as number, ETag.
func completion(parts ...any) string {
	var b strings.Builder
	b.WriteString(`<CompleteMultipartUpload xmlns="` + xmlNamespace + `">`)
	for i := 0; i < len(parts); i += 2 {
		fmt.Fprintf(&b, "<Part><PartNumber>%d</PartNumber><ETag>%s</ETag></Part>", parts[i], parts[i+1])
	}
	return b.String() + "</CompleteMultipartUpload>"
}

func TestMultipart(t *testing.T) {
	h := newHarness(t, Options{})
	h.must("PUT", "/bkt", "")
	id := h.begin("/bkt/k", "Content-Type: text/x", "x-amz-meta-a: b")
	one, two := strings.Repeat("1", object.MinPart), "22"
	h.part("/bkt/k", id, 1, "first try")
	e1 := h.part("/bkt/k", id, 1, one)
	e2 := h.part("/bkt/k", id, 7, two)

	var parts struct {
		Part []struct {
			PartNumber int
			ETag       string
			Size       int64
		}
		IsTruncated          bool
		NextPartNumberMarker int
	}
	h.must("GET", "/bkt/k?max-parts=1&uploadId="+id, "").parse(t, &parts)
	if len(parts.Part) != 1 || !parts.IsTruncated || parts.NextPartNumberMarker != 1 || parts.Part[0].ETag != e1 {
		t.Errorf("parts: %+v", parts)
	}
	var ups struct {
		Upload []struct{ Key, UploadId string }
	}
	h.must("GET", "/bkt?uploads", "").parse(t, &ups)
	if len(ups.Upload) != 1 || ups.Upload[0].UploadId != id || ups.Upload[0].Key != "k" {
		t.Errorf("uploads: %+v", ups)
	}
	h.refused(404, "NoSuchKey", "GET", "/bkt/k", "")

	complete := "/bkt/k?uploadId=" + id
	h.refused(400, "MalformedXML", "POST", complete, completion())
	h.refused(400, "MalformedXML", "POST", complete, "<x/>")
	h.refused(400, "MalformedXML", "POST", complete, "")
	h.refused(400, "InvalidPart", "POST", complete, completion(1, e2, 7, e2))
	h.refused(400, "InvalidPart", "POST", complete, completion(1, e1, 8, e2))
	h.refused(400, "InvalidPartOrder", "POST", complete, completion(7, e2, 1, e1))
	h.refused(412, "PreconditionFailed", "POST", "/bkt/k2?uploadId="+h.precondition(), completion(1, `"0cc175b9c0f1b6a831c399e269772661"`), "If-None-Match: *")
	r := h.must("POST", complete, completion(1, e1, 7, e2))
	s1, s2 := md5.Sum([]byte(one)), md5.Sum([]byte(two))
	sum := md5.Sum(append(s1[:], s2[:]...))
	var done struct{ ETag, Location, Bucket, Key string }
	r.parse(t, &done)
	if want := `"` + hex.EncodeToString(sum[:]) + `-2"`; done.ETag != want || done.Location != h.http.URL+"/bkt/k" {
		t.Errorf("%+v, want %s", done, want)
	}
	// The answer was lost on the way: the client completes again.
	if again := h.must("POST", complete, completion(1, e1, 7, e2)); !strings.Contains(again.body, "-2&#34;") &&
		!strings.Contains(again.body, "-2&quot;") {
		t.Errorf("completed again: %s", again.body)
	}
	if r := h.must("GET", "/bkt/k", ""); r.body != one+two || r.header.Get("Content-Type") != "text/x" ||
		r.header.Get("x-amz-meta-a") != "b" {
		t.Errorf("%d bytes, %v", len(r.body), r.header)
	}
	r = h.must("GET", "/bkt/k?partNumber=2", "")
	if r.status != 206 || r.body != two || r.header.Get("X-Amz-Mp-Parts-Count") != "2" ||
		r.header.Get("Content-Range") != fmt.Sprintf("bytes %d-%d/%d", len(one), len(one)+1, len(one)+2) {
		t.Errorf("part 2: %d %q %v", r.status, r.body, r.header)
	}
	h.refused(400, "InvalidPart", "GET", "/bkt/k?partNumber=3", "")
	if r := h.must("GET", "/bkt/k", "", fmt.Sprintf("Range: bytes=%d-%d", len(one)-1, len(one))); r.body != "12" {
		t.Errorf("across parts: %q", r.body)
	}

	id = h.begin("/bkt/small")
	a, b := h.part("/bkt/small", id, 1, "a"), h.part("/bkt/small", id, 2, "b")
	h.refused(400, "EntityTooSmall", "POST", "/bkt/small?uploadId="+id, completion(1, a, 2, b))
	h.refused(404, "NoSuchUpload", "POST", "/bkt/other?uploadId="+id, completion(1, a))
	h.refused(400, "InvalidArgument", "PUT", "/bkt/small?partNumber=0&uploadId="+id, "x")
	h.refused(400, "InvalidArgument", "PUT", "/bkt/small?partNumber=10001&uploadId="+id, "x")
	h.refused(404, "NoSuchUpload", "PUT", "/bkt/small?partNumber=1&uploadId=x", "x")
	h.refused(400, "BadDigest", "PUT", "/bkt/small?partNumber=1&uploadId="+id, "x", "Content-MD5: "+md5Of("y"))
	h.user(bobKey).refused(403, "AccessDenied", "DELETE", "/bkt/small?uploadId="+id, "")
	if r := h.must("DELETE", "/bkt/small?uploadId="+id, ""); r.status != 204 {
		t.Errorf("abort: %d", r.status)
	}
	h.refused(404, "NoSuchUpload", "DELETE", "/bkt/small?uploadId="+id, "")
	h.refused(404, "NoSuchUpload", "GET", "/bkt/small?uploadId="+id, "")
}

// precondition makes the object k2 and an upload of it with one part "a", and returns the upload's id.
func (h *harness) precondition() string {
	h.must("PUT", "/bkt/k2", "x")
	id := h.begin("/bkt/k2")
	h.part("/bkt/k2", id, 1, "a")
	return id
}

func TestMultipartChecksums(t *testing.T) {
	h := newHarness(t, Options{})
	h.must("PUT", "/bkt", "")
	one, two := strings.Repeat("1", object.MinPart), "22"
	for a := record.ChecksumCRC32; int(a) < len(algorithms); a++ {
		for _, typ := range []string{"COMPOSITE", "FULL_OBJECT"} {
			name := algorithms[a].name
			t.Run(name+" "+typ, func(t *testing.T) {
				create := []string{"x-amz-checksum-algorithm: " + name, "x-amz-checksum-type: " + typ}
				sha := a == record.ChecksumSHA1 || a == record.ChecksumSHA256
				if sha && typ == "FULL_OBJECT" || a == record.ChecksumCRC64NVME && typ == "COMPOSITE" {
					h.refused(400, "InvalidRequest", "POST", "/bkt/k?uploads", "", create...)
					return
				}
				id := h.begin("/bkt/k", create...)
				head := strings.ToLower(algorithms[a].header)
				h.refused(400, "BadDigest", "PUT", "/bkt/k?partNumber=1&uploadId="+id, one, head+": "+sumOf(a, "other"))
				e1 := h.part("/bkt/k", id, 1, one, head+": "+sumOf(a, one))
				e2 := h.part("/bkt/k", id, 2, two)
				other := record.ChecksumCRC32
				if a == other {
					other = record.ChecksumSHA1
				}
				h.refused(400, "InvalidRequest", "PUT", "/bkt/k?partNumber=2&uploadId="+id, two,
					strings.ToLower(algorithms[other].header)+": "+sumOf(other, two))
				want := sumOf(a, one+two)
				if typ == "COMPOSITE" {
					r1, _ := decodeChecksum(a, sumOf(a, one))
					r2, _ := decodeChecksum(a, sumOf(a, two))
					want = sumOf(a, string(r1)+string(r2)) + "-2"
				}
				h.refused(400, "BadDigest", "POST", "/bkt/k?uploadId="+id, completion(1, e1, 2, e2), head+": "+sumOf(a, "other"))
				r := h.must("POST", "/bkt/k?uploadId="+id, completion(1, e1, 2, e2), head+": "+want)
				if !strings.Contains(r.body, want) || !strings.Contains(r.body, "<ChecksumType>"+typ) {
					t.Errorf("completed: %s, want %s", r.body, want)
				}
				r = h.must("HEAD", "/bkt/k", "", "x-amz-checksum-mode: ENABLED")
				if r.header.Get(head) != want || r.header.Get("X-Amz-Checksum-Type") != typ {
					t.Errorf("HEAD: %v, want %s", r.header, want)
				}
				r = h.must("GET", "/bkt/k?partNumber=2", "", "x-amz-checksum-mode: ENABLED")
				if r.header.Get(head) != sumOf(a, two) {
					t.Errorf("part: %v, want %s", r.header, sumOf(a, two))
				}
				r = h.must("GET", "/bkt/k?attributes", "", "x-amz-object-attributes: Checksum,ObjectParts", "x-amz-max-parts: 1",
					"x-amz-part-number-marker: 1")
				for _, s := range []string{want, sumOf(a, two), "<PartsCount>2<", "<IsTruncated>false<", "<PartNumber>2<"} {
					if !strings.Contains(r.body, s) {
						t.Errorf("attributes: no %s in %s", s, r.body)
					}
				}
			})
		}
	}
}

func TestCopyPart(t *testing.T) {
	h := newHarness(t, Options{})
	h.must("PUT", "/bkt", "")
	h.must("PUT", "/bkt/src", "0123456789")
	id := h.begin("/bkt/dst")
	target := "/bkt/dst?partNumber=1&uploadId=" + id
	src := "x-amz-copy-source: /bkt/src"
	for _, rng := range []string{"0-2", "bytes=0", "bytes=a-b", "bytes=0-", "bytes=-3", "bytes=0-2,3-5", "bytes=5-2"} {
		h.refused(400, "InvalidArgument", "PUT", target, "", src, "x-amz-copy-source-range: "+rng)
	}
	h.refused(416, "InvalidRange", "PUT", target, "", src, "x-amz-copy-source-range: bytes=0-10")
	h.refused(412, "PreconditionFailed", "PUT", target, "", src, `x-amz-copy-source-if-match: "x"`)
	h.refused(404, "NoSuchKey", "PUT", target, "", "x-amz-copy-source: bkt/none")
	h.user(bobKey).refused(403, "AccessDenied", "PUT", target, "", src)
	var v struct{ ETag string }
	h.must("PUT", target, "", src, "x-amz-copy-source-range: bytes=2-4").parse(t, &v)
	h.must("POST", "/bkt/dst?uploadId="+id, completion(1, v.ETag))
	if got := h.must("GET", "/bkt/dst", "").body; got != "234" {
		t.Errorf("got %q", got)
	}
}
