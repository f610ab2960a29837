package s3api

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"firn"
	"firn/object"
	"firn/object/record"
	"firn/s3api/sse"
)

// memTier is a tier in memory that can be away.
type memTier struct {
	mu    sync.Mutex // guards all below
	blobs map[string][]byte
	since time.Time // away since then; zero: it is there
	asked []int64   // lengths of the requests for content
}

// awayError is like those of a site's tiers.
type awayError struct{ since time.Time }

func (awayError) Error() string          { return "dial tcp 10.1.2.3:443: connection refused" }
func (e awayError) AwaySince() time.Time { return e.since }

func (m *memTier) find(tier, key string) ([]byte, error) {
	if !m.since.IsZero() {
		return nil, awayError{m.since}
	}
	p, ok := m.blobs[tier+"/"+key]
	if !ok {
		return nil, firn.NewError(firn.NotFound, "no such blob")
	}
	return p, nil
}

func (m *memTier) Open(_ context.Context, tier, key string, offset, length int64) (io.ReadCloser, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, err := m.find(tier, key)
	if err != nil {
		return nil, err
	}
	m.asked = append(m.asked, length)
	return io.NopCloser(bytes.NewReader(p[offset : offset+length])), nil
}

func (m *memTier) Size(_ context.Context, tier, key string) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, err := m.find(tier, key)
	return int64(len(p)), err
}

// away sets since when the tier is away; zero: it is back.
func (m *memTier) away(since time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.since = since
}

// requests returns the lengths of the requests since the last call.
func (m *memTier) requests() []int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	asked := m.asked
	m.asked = nil
	return asked
}

// tiered is a harness whose site has the tiers cold (COLD), warm (STANDARD_IA) and vault (GLACIER, an archive).
type tiered struct {
	*harness
	tier *memTier
	mu   sync.Mutex // guards skew
	skew time.Duration
	keys sse.Keys
}

func newTiered(t *testing.T) *tiered {
	k, _ := newKeys(t)
	h := &tiered{tier: &memTier{blobs: map[string][]byte{}}, keys: k}
	now := func() time.Time {
		h.mu.Lock()
		defer h.mu.Unlock()
		return time.Now().Add(h.skew)
	}
	h.harness = newHarnessOn(t, Options{
		Keys: k, StorageClasses: []string{"STANDARD", "COLD", "STANDARD_IA", "GLACIER"}, ArchiveClasses: []string{"GLACIER"},
	}, object.Options{Remote: h.tier, Now: now})
	return h
}

// advance moves the store's clock.
func (h *tiered) advance(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.skew += d
}

// move does what a mover does: it brings a version to the tier of its class.
func (h *tiered) move(key, versionID, tier, class string) {
	h.t.Helper()
	ctx := h.t.Context()
	o, err := h.store.Open(ctx, "bkt", key, versionID)
	if err != nil {
		h.t.Fatal(err)
	}
	defer o.Close()
	name := fmt.Sprintf("%s@%d", key, o.Version.Clock)
	list, err := h.store.Reserve(ctx, tier, name)
	if err != nil {
		h.t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := o.WriteStored(ctx, &b, 0, o.Version.Size); err != nil {
		h.t.Fatal(err)
	}
	h.tier.mu.Lock()
	h.tier.blobs[tier+"/"+name] = b.Bytes()
	h.tier.mu.Unlock()
	if _, err := h.store.Switch(ctx, object.RefOf(o.Version), list[0], object.MoveOptions{Class: class}); err != nil {
		h.t.Fatal(err)
	}
}

// recall fulfils a wish as the mover does.
func (h *tiered) recall(key string) {
	h.t.Helper()
	v, err := h.store.Head(h.t.Context(), "bkt", key, "")
	if err != nil {
		h.t.Fatal(err)
	}
	if _, err := h.store.Recall(h.t.Context(), object.RefOf(v), object.RecallOptions{Until: v.Location.Wanted}); err != nil {
		h.t.Fatal(err)
	}
}

const oneDay = "<RestoreRequest><Days>1</Days></RestoreRequest>"

// midnight is the end of a restore of so many days that is asked for at present.
func midnight(days int) time.Time {
	return time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, days+1)
}

func expiry(t time.Time) string {
	return `ongoing-request="false", expiry-date="` + t.Format("Mon, 02 Jan 2006 15:04:05 GMT") + `"`
}

func (h *tiered) restoreHeader(target, want string) {
	h.t.Helper()
	for _, method := range []string{"HEAD", "GET"} {
		if got := h.must(method, target, "").header.Get("X-Amz-Restore"); got != want {
			h.t.Errorf("%s %s: x-amz-restore is %q, want %q", method, target, got, want)
		}
	}
}

// TestClassesEverywhere: a class is taken and shown by everything that knows classes.
func TestClassesEverywhere(t *testing.T) {
	h := newTiered(t)
	h.must("PUT", "/bkt", "")
	h.must("PUT", "/bkt/hot", "x")
	h.must("PUT", "/bkt/cold", "x", "x-amz-storage-class: COLD")
	h.must("PUT", "/bkt/copied", "", "x-amz-copy-source: /bkt/hot", "x-amz-storage-class: COLD")
	var up struct{ UploadId string }
	h.must("POST", "/bkt/parts?uploads", "", "x-amz-storage-class: COLD").parse(t, &up)
	for _, target := range []string{"/bkt?uploads", "/bkt/parts?uploadId=" + up.UploadId} {
		if r := h.must("GET", target, ""); !strings.Contains(r.body, "<StorageClass>COLD</StorageClass>") {
			t.Errorf("%s: %s", target, r.body)
		}
	}
	etag := h.must("PUT", "/bkt/parts?partNumber=1&uploadId="+up.UploadId, "x").header.Get("Etag")
	h.must("POST", "/bkt/parts?uploadId="+up.UploadId, "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>"+
		etag+"</ETag></Part></CompleteMultipartUpload>")
	check := func() {
		t.Helper()
		for key, class := range map[string]string{"hot": "", "cold": "COLD", "copied": "COLD", "parts": "COLD"} {
			for _, method := range []string{"GET", "HEAD"} {
				if got := h.must(method, "/bkt/"+key, "").header.Get("X-Amz-Storage-Class"); got != class {
					t.Errorf("%s %s: class %q", method, key, got)
				}
			}
			if class == "" {
				class = "STANDARD"
			}
			want := "<StorageClass>" + class + "</StorageClass>"
			if r := h.must("GET", "/bkt/"+key+"?attributes", "", "x-amz-object-attributes: StorageClass"); !strings.Contains(r.body, want) {
				t.Errorf("%s: %s", key, r.body)
			}
			for _, list := range []string{"", "list-type=2&", "versions&"} {
				r := h.must("GET", "/bkt?"+list+"prefix="+key, "")
				if strings.Count(r.body, "<StorageClass>") != 1 || !strings.Contains(r.body, want) {
					t.Errorf("%s%s: %s", list, key, r.body)
				}
			}
		}
	}
	check()
	for _, key := range []string{"cold", "copied", "parts"} {
		h.move(key, "", "cold", "COLD")
	}
	check()
	for _, req := range [][]string{
		{"PUT", "/bkt/k"}, {"POST", "/bkt/k?uploads"}, {"PUT", "/bkt/k", "x-amz-copy-source: /bkt/hot"},
	} {
		h.refused(400, "InvalidStorageClass", req[0], req[1], "", append(req[2:], "x-amz-storage-class: TAPE")...)
	}
	const rule = "<LifecycleConfiguration><Rule><Filter/><Status>Enabled</Status><Transition><Days>1</Days><StorageClass>%s" +
		"</StorageClass></Transition></Rule></LifecycleConfiguration>"
	h.must("PUT", "/bkt?lifecycle", fmt.Sprintf(rule, "STANDARD_IA"))
	r := h.refused(400, "InvalidArgument", "PUT", "/bkt?lifecycle", fmt.Sprintf(rule, "DEEP_ARCHIVE"))
	if !strings.Contains(r.body, "DEEP_ARCHIVE") {
		t.Errorf("%s", r.body)
	}
	h.refused(400, "InvalidArgument", "PUT", "/bkt?lifecycle", fmt.Sprintf(rule, "STANDARD"))
}

// TestClassChange: a copy onto itself with another class asks for a move there, and back.
func TestClassChange(t *testing.T) {
	h := newTiered(t)
	h.must("PUT", "/bkt", "")
	content := strings.Repeat("0123456789abcdef", 8<<10)
	h.must("PUT", "/bkt/k", content, "x-amz-meta-a: b", "x-amz-tagging: t=u")
	self := "x-amz-copy-source: /bkt/k"
	h.refused(400, "InvalidRequest", "PUT", "/bkt/k", "", self)
	to := func(class, tier string) {
		t.Helper()
		h.must("PUT", "/bkt/k", "", self, "x-amz-storage-class: "+class)
		h.refused(400, "InvalidRequest", "PUT", "/bkt/k", "", self, "x-amz-storage-class: "+class)
		v, err := h.store.Head(t.Context(), "bkt", "k", "")
		if err != nil || v.Location != nil || v.StorageClass != strings.TrimPrefix(class, "STANDARD") && class == "STANDARD" {
			t.Fatalf("%+v, %v", v, err)
		}
		if tier != "" {
			h.move("k", "", tier, class)
		}
		r := h.must("GET", "/bkt/k", "")
		if r.body != content || r.header.Get("X-Amz-Meta-A") != "b" || r.header.Get("X-Amz-Tagging-Count") != "1" {
			t.Errorf("%s: %d bytes, %v", class, len(r.body), r.header)
		}
	}
	to("COLD", "cold")
	to("STANDARD_IA", "warm")
	to("STANDARD", "")
	if got := h.must("HEAD", "/bkt/k", "").header.Get("X-Amz-Storage-Class"); got != "" {
		t.Errorf("%q", got)
	}
}

// TestRestore: a restore is asked for, under way, done, longer, shorter, over.
func TestRestore(t *testing.T) {
	h := newTiered(t)
	h.must("PUT", "/bkt", "")
	const content = "content"
	for _, class := range []string{"COLD", "GLACIER"} {
		target := "/bkt/" + class
		h.must("PUT", target, content, "x-amz-storage-class: "+class)
		h.restoreHeader(target, "")
		h.move(class, "", "tier", class)
		if got := h.must("HEAD", target, "").header.Get("X-Amz-Restore"); got != "" {
			t.Errorf("%q", got)
		}
		readable := func(yes bool) {
			t.Helper()
			if yes {
				if r := h.must("GET", target, ""); r.body != content {
					t.Errorf("%q", r.body)
				}
				h.must("PUT", "/bkt/copy", "", "x-amz-copy-source: "+target)
				return
			}
			r := h.refused(403, "InvalidObjectState", "GET", target, "")
			if !strings.Contains(r.body, "<StorageClass>GLACIER</StorageClass>") {
				t.Errorf("%s", r.body)
			}
			h.refused(403, "InvalidObjectState", "PUT", "/bkt/copy", "", "x-amz-copy-source: "+target)
		}
		readable(class == "COLD")
		if r := h.must("POST", target+"?restore", oneDay); r.status != 202 {
			t.Errorf("%s: %d", class, r.status)
		}
		if got := h.must("HEAD", target, "").header.Get("X-Amz-Restore"); got != `ongoing-request="true"` {
			t.Errorf("%q", got)
		}
		readable(class == "COLD")
		h.refused(409, "RestoreAlreadyInProgress", "POST", target+"?restore", oneDay)
		h.recall(class)
		h.tier.requests()
		h.restoreHeader(target, expiry(midnight(1)))
		readable(true)
		if n := len(h.tier.requests()); n != 0 {
			t.Errorf("%d requests for a restored version", n)
		}
		for _, days := range []int{9, 3} {
			doc := fmt.Sprintf(`<RestoreRequest xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Days>%d</Days><GlacierJobParameters>`+
				`<Tier>Bulk</Tier></GlacierJobParameters></RestoreRequest>`, days)
			if r := h.must("POST", target+"?restore", doc); r.status != 200 {
				t.Errorf("%s: %d", class, r.status)
			}
			h.restoreHeader(target, expiry(midnight(days)))
		}
		h.advance(4*24*time.Hour + time.Minute)
		if n, err := h.store.ExpireLocal(t.Context()); err != nil || n != 1 {
			t.Errorf("%d, %v", n, err)
		}
		if got := h.must("HEAD", target, "").header.Get("X-Amz-Restore"); got != "" {
			t.Errorf("%q", got)
		}
		readable(class == "COLD")
		h.advance(-(4*24*time.Hour + time.Minute))
	}
}

// TestRestoresInListings: all listings tell of a restore what HEAD does, and only where that is asked for.
func TestRestoresInListings(t *testing.T) {
	h := newTiered(t)
	h.must("PUT", "/bkt", "")
	for _, key := range []string{"archived", "going", "here", "later", "on-disk"} {
		class := "x-amz-storage-class: GLACIER"
		if key == "on-disk" {
			class = "x-amz-storage-class: STANDARD"
		}
		h.must("PUT", "/bkt/"+key, "content of "+key, class, "x-amz-meta-a: b", "x-amz-tagging: t=u")
		switch key {
		case "later", "on-disk":
		default:
			h.move(key, "", "vault", "GLACIER")
		}
	}
	for _, key := range []string{"going", "here", "later"} {
		h.must("POST", "/bkt/"+key+"?restore", oneDay)
	}
	h.recall("here")
	until := "<RestoreStatus><IsRestoreInProgress>false</IsRestoreInProgress><RestoreExpiryDate>" +
		midnight(1).Format("2006-01-02T15:04:05.000Z") + "</RestoreExpiryDate></RestoreStatus>"
	want := map[string]string{
		"archived": "", "on-disk": "",
		"going": "<RestoreStatus><IsRestoreInProgress>true</IsRestoreInProgress></RestoreStatus>",
		"here":  until, "later": until,
	}
	const ask = "x-amz-optional-object-attributes: RestoreStatus"
	check := func() {
		t.Helper()
		for key, want := range want {
			for _, list := range []string{"", "list-type=2&", "versions&"} {
				target := "/bkt?" + list + "prefix=" + key
				if r := h.must("GET", target, ""); strings.Contains(r.body, "RestoreStatus") {
					t.Errorf("%s: not asked for: %s", target, r.body)
				}
				r := h.must("GET", target, "", ask)
				if strings.Count(r.body, "<RestoreStatus>") != strings.Count(want, "<RestoreStatus>") || !strings.Contains(r.body, want) {
					t.Errorf("%s: %s", target, r.body)
				}
				if !strings.Contains(r.body, "<Size>") || !strings.Contains(r.body, "<Key>"+key+"</Key>") {
					t.Errorf("%s: %s", target, r.body)
				}
			}
		}
	}
	check()
	h.refused(400, "InvalidArgument", "GET", "/bkt", "", "x-amz-optional-object-attributes: Colour")

	// Versions that are not current any more, and delete markers.
	h.must("PUT", "/bkt?versioning", "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>")
	h.must("DELETE", "/bkt/here", "")
	r := h.must("GET", "/bkt?versions&prefix=here", "", ask)
	if strings.Count(r.body, "RestoreStatus>") != 2 || !strings.Contains(r.body, until) || !strings.Contains(r.body, "<DeleteMarker>") {
		t.Errorf("%s", r.body)
	}
}

// TestRestoreBeforeTheMove: what is asked for while a version waits for its move holds after it.
func TestRestoreBeforeTheMove(t *testing.T) {
	h := newTiered(t)
	h.must("PUT", "/bkt", "")
	h.must("PUT", "/bkt/k", "content", "x-amz-storage-class: GLACIER")
	if r := h.must("POST", "/bkt/k?restore", oneDay); r.status != 200 {
		t.Errorf("%d", r.status)
	}
	h.restoreHeader("/bkt/k", expiry(midnight(1)))
	h.move("k", "", "vault", "GLACIER")
	h.restoreHeader("/bkt/k", expiry(midnight(1)))
	h.advance(48 * time.Hour)
	if n, err := h.store.ExpireLocal(t.Context()); err != nil || n != 1 {
		t.Errorf("%d, %v", n, err)
	}
	h.refused(403, "InvalidObjectState", "GET", "/bkt/k", "")
}

// TestRestoreRefused: what cannot be restored, by whom, and documents that are none.
func TestRestoreRefused(t *testing.T) {
	h := newTiered(t)
	h.must("PUT", "/bkt", "")
	h.must("PUT", "/bkt?versioning", "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>")
	id := h.must("PUT", "/bkt/k", "x", "x-amz-storage-class: COLD").header.Get("X-Amz-Version-Id")
	h.move("k", id, "cold", "COLD")
	h.must("PUT", "/bkt/k", "y")
	h.refused(403, "InvalidObjectState", "POST", "/bkt/k?restore", oneDay)
	h.refused(404, "NoSuchKey", "POST", "/bkt/none?restore", oneDay)
	if r := h.must("POST", "/bkt/k?restore&versionId="+id, oneDay); r.status != 202 {
		t.Errorf("%d", r.status)
	}
	marker := h.must("DELETE", "/bkt/k", "").header.Get("X-Amz-Version-Id")
	h.refused(405, "MethodNotAllowed", "POST", "/bkt/k?restore&versionId="+marker, oneDay)
	h.user(bobKey).refused(403, "AccessDenied", "POST", "/bkt/k?restore&versionId="+id, oneDay)
	for doc, code := range map[string]string{
		"":                  "MalformedXML",
		"<RestoreRequest/>": "MalformedXML",
		"<RestoreRequest><Days>x</Days></RestoreRequest>":                  "MalformedXML",
		"<RestoreRequest><Days>0</Days></RestoreRequest>":                  "InvalidArgument",
		"<RestoreRequest><Days>9999999</Days></RestoreRequest>":            "InvalidArgument",
		"<RestoreRequest><Days>1</Days><Tier>Soon</Tier></RestoreRequest>": "MalformedXML",
		"<RestoreRequest><Days>1</Days></RestoreRequest><Other/>":          "MalformedXML",
	} {
		h.refused(400, code, "POST", "/bkt/k?restore&versionId="+id, doc)
	}
	h.refused(501, "NotImplemented", "POST", "/bkt/k?restore&versionId="+id,
		"<RestoreRequest><Type>SELECT</Type></RestoreRequest>")
}

// tieredObject is an object on a tier and what it takes to read it.
type tieredObject struct {
	name, content string
	read, source  []string // headers
}

// objects puts objects of each kind and moves them to the tier cold.
func (h *tiered) objects() []tieredObject {
	h.t.Helper()
	large := strings.Repeat("0123456789abcdef", 20<<10) // 320 KiB
	own := ownKey(sse.Own, 0)
	var list []tieredObject
	for _, enc := range []struct {
		name                string
		write, read, source []string
	}{
		{name: "plain"},
		{name: "site", write: []string{useSite}},
		{name: "own", write: own, read: own, source: ownKey(sse.Source, 0)},
	} {
		for name, content := range map[string]string{"empty": "", "small": "content", "large": large} {
			o := tieredObject{enc.name + "-" + name, content, enc.read, enc.source}
			h.must("PUT", "/bkt/"+o.name, content, append(enc.write, "x-amz-storage-class: COLD", "x-amz-meta-a: b")...)
			list = append(list, o)
		}
		o := tieredObject{enc.name + "-multipart", strings.Repeat("p", 5<<20) + large, enc.read, enc.source}
		h.upload(o.name, []string{o.content[:5<<20], large}, append(enc.write, "x-amz-storage-class: COLD", "x-amz-meta-a: b"), enc.read)
		list = append(list, o)
	}
	for _, o := range list {
		h.move(o.name, "", "cold", "COLD")
	}
	return list
}

func (h *tiered) upload(key string, parts, create, each []string) {
	h.t.Helper()
	var up struct{ UploadId string }
	h.must("POST", "/bkt/"+key+"?uploads", "", create...).parse(h.t, &up)
	var doc strings.Builder
	for i, p := range parts {
		r := h.must("PUT", fmt.Sprintf("/bkt/%s?partNumber=%d&uploadId=%s", key, i+1, up.UploadId), p, each...)
		fmt.Fprintf(&doc, "<Part><PartNumber>%d</PartNumber><ETag>%s</ETag></Part>", i+1, r.header.Get("Etag"))
	}
	h.must("POST", "/bkt/"+key+"?uploadId="+up.UploadId, "<CompleteMultipartUpload>"+doc.String()+"</CompleteMultipartUpload>", each...)
}

// TestTieredObjects: what can be done with an object can be done with one on a tier.
func TestTieredObjects(t *testing.T) {
	h := newTiered(t)
	h.must("PUT", "/bkt", "")
	for _, o := range h.objects() {
		target := "/bkt/" + o.name
		size := len(o.content)
		if r := h.must("GET", target, "", o.read...); r.body != o.content || r.header.Get("X-Amz-Meta-A") != "b" {
			t.Errorf("%s: %d bytes, %v", o.name, len(r.body), r.header)
		}
		head := h.must("HEAD", target, "", o.read...)
		if got := head.header.Get("Content-Length"); got != fmt.Sprint(size) {
			t.Errorf("%s: %s bytes", o.name, got)
		}
		etag := head.header.Get("Etag")
		h.refused(304, "", "GET", target, "", append(o.read, "If-None-Match: "+etag)...)
		h.refused(412, "PreconditionFailed", "GET", target, "", append(o.read, `If-Match: "x"`)...)
		h.must("GET", target, "", append(o.read, "If-Match: "+etag)...)
		if size > 0 {
			h.tier.requests()
			from := max(0, size-1000)
			r := h.do("GET", target, "", append(o.read, fmt.Sprintf("Range: bytes=%d-%d", from, size-2))...)
			if r.status != 206 || r.body != o.content[from:size-1] {
				t.Errorf("%s: %d, %d bytes", o.name, r.status, len(r.body))
			}
			if asked := h.tier.requests(); len(asked) != 1 || asked[0] > 256<<10 {
				t.Errorf("%s: a range of 1 kB asked the tier for %v", o.name, asked)
			}
		}
		if strings.HasSuffix(o.name, "multipart") {
			r := h.do("GET", target+"?partNumber=2", "", o.read...)
			if r.status != 206 || r.body != o.content[5<<20:] || r.header.Get("X-Amz-Mp-Parts-Count") != "2" {
				t.Errorf("%s: %d, %d bytes, %v", o.name, r.status, len(r.body), r.header)
			}
		}
		// Copies: to the disk, and to a version on the same tier, which need not be read where the keys are the site's.
		source := append([]string{"x-amz-copy-source: " + target}, o.source...)
		h.must("PUT", "/bkt/copy", "", source...)
		if r := h.must("GET", "/bkt/copy", ""); r.body != o.content {
			t.Errorf("copy of %s: %d bytes", o.name, len(r.body))
		}
		h.tier.requests()
		h.must("PUT", "/bkt/shared", "", append(source, "x-amz-storage-class: COLD")...)
		if asked := h.tier.requests(); o.name == "plain-large" && len(asked) != 0 {
			t.Errorf("%s: a copy on the same tier asked it for %v", o.name, asked)
		}
		if r := h.must("GET", "/bkt/shared", ""); r.body != o.content {
			t.Errorf("shared copy of %s: %d bytes", o.name, len(r.body))
		}
		h.copyPart(o, source)
		// Metadata.
		h.must("PUT", target+"?tagging", "<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>")
		if r := h.must("GET", target+"?tagging", ""); !strings.Contains(r.body, "<Value>b</Value>") {
			t.Errorf("%s: %s", o.name, r.body)
		}
		h.must("DELETE", target+"?tagging", "")
		h.must("GET", target+"?attributes", "", append(o.read, "x-amz-object-attributes: ETag,ObjectParts,ObjectSize,StorageClass,Checksum")...)
		// A condition of a write, then an overwrite, and removal.
		h.refused(412, "PreconditionFailed", "PUT", target, "new", "If-None-Match: *")
		h.must("PUT", "/bkt/gone", "", append(source, "x-amz-storage-class: COLD")...)
		h.must("DELETE", target, "")
		h.refused(404, "NoSuchKey", "GET", target, "")
		if r := h.must("GET", "/bkt/gone", ""); r.body != o.content {
			t.Errorf("%s: its copy went with it: %d bytes", o.name, len(r.body))
		}
	}
}

// copyPart makes a multipart object of a tiered one, whole and by range.
func (h *tiered) copyPart(o tieredObject, source []string) {
	h.t.Helper()
	if len(o.content) < 5<<20 {
		return
	}
	var up struct{ UploadId string }
	h.must("POST", "/bkt/assembled?uploads", "").parse(h.t, &up)
	var doc strings.Builder
	for i, rng := range []string{"", "x-amz-copy-source-range: bytes=5242870-5242899"} {
		headers := source
		if rng != "" {
			headers = append(headers[:len(headers):len(headers)], rng)
		}
		var p struct{ ETag string }
		h.must("PUT", fmt.Sprintf("/bkt/assembled?partNumber=%d&uploadId=%s", i+1, up.UploadId), "", headers...).parse(h.t, &p)
		fmt.Fprintf(&doc, "<Part><PartNumber>%d</PartNumber><ETag>%s</ETag></Part>", i+1, p.ETag)
	}
	h.must("POST", "/bkt/assembled?uploadId="+up.UploadId, "<CompleteMultipartUpload>"+doc.String()+"</CompleteMultipartUpload>")
	if r := h.must("GET", "/bkt/assembled", ""); r.body != o.content+o.content[5242870:5242900] {
		h.t.Errorf("parts of %s: %d bytes", o.name, len(r.body))
	}
}

// TestTieredLock: retention and legal hold are as strong for versions on a tier.
func TestTieredLock(t *testing.T) {
	h := newTiered(t)
	h.must("PUT", "/bkt", "", "x-amz-bucket-object-lock-enabled: true")
	id := h.must("PUT", "/bkt/k", "content", "x-amz-storage-class: COLD", "x-amz-object-lock-legal-hold: ON").header.Get("X-Amz-Version-Id")
	h.move("k", "", "cold", "COLD")
	version := "/bkt/k?versionId=" + id
	if got := h.must("HEAD", version, "").header.Get("X-Amz-Object-Lock-Legal-Hold"); got != "ON" {
		t.Errorf("%q", got)
	}
	h.refused(403, "AccessDenied", "DELETE", version, "")
	h.must("POST", "/bkt/k?restore", oneDay)
	h.recall("k")
	h.refused(403, "AccessDenied", "DELETE", version, "")
	h.must("PUT", "/bkt/k?legal-hold&versionId="+id, "<LegalHold><Status>OFF</Status></LegalHold>")
	until := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	h.must("PUT", "/bkt/k?retention&versionId="+id, "<Retention><Mode>COMPLIANCE</Mode><RetainUntilDate>"+until+"</RetainUntilDate></Retention>")
	h.refused(403, "AccessDenied", "DELETE", version, "")
	h.must("DELETE", "/bkt/k", "")
	if r := h.must("GET", version, ""); r.body != "content" {
		t.Errorf("%q", r.body)
	}
}

// TestTierAway: while a tier is away reads say so, and what needs no content goes on.
func TestTierAway(t *testing.T) {
	h := newTiered(t)
	h.must("PUT", "/bkt", "")
	objects := h.objects()
	h.must("PUT", "/bkt/here", "here")
	h.must("PUT", "/bkt/summed", "summed", "x-amz-storage-class: COLD", "x-amz-sdk-checksum-algorithm: CRC32", "x-amz-checksum-crc32: "+sumOf(record.ChecksumCRC32, "summed"))
	h.move("summed", "", "cold", "COLD")
	since := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	h.tier.away(since)
	refused := func(method, target, body string, headers ...string) {
		t.Helper()
		r := h.refused(503, "ServiceUnavailable", method, target, body, headers...)
		if r.header.Get("Retry-After") == "" || !strings.Contains(r.body, "tier cold, which cannot be read since 2026-03-04 05:06:07 UTC") {
			t.Errorf("%s %s: %v %s", method, target, r.header, r.body)
		}
		for k := range r.header {
			if strings.HasPrefix(k, "X-Amz-Checksum-") {
				t.Errorf("the answer has %s of the object", k)
			}
		}
		if strings.Contains(r.body, "10.1.2.3") {
			t.Errorf("the answer has the tier's address: %s", r.body)
		}
	}
	refused("GET", "/bkt/summed", "", "x-amz-checksum-mode: ENABLED")
	h.must("DELETE", "/bkt/summed", "")
	for _, o := range objects {
		target := "/bkt/" + o.name
		source := append([]string{"x-amz-copy-source: " + target}, o.source...)
		if o.content != "" {
			refused("GET", target, "", o.read...)
			refused("GET", target, "", append(o.read, "Range: bytes=1-2")...)
			refused("PUT", "/bkt/copy", "", source...)
		}
		h.must("HEAD", target, "", o.read...)
		h.must("PUT", target+"?tagging", "<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>")
		h.must("GET", target+"?attributes", "", append(o.read, "x-amz-object-attributes: ETag")...)
		if r := h.must("POST", target+"?restore", oneDay); r.status != 202 {
			t.Errorf("%d", r.status)
		}
	}
	if r := h.must("GET", "/bkt", ""); strings.Count(r.body, "<StorageClass>COLD<") != len(objects) {
		t.Errorf("%s", r.body)
	}
	if r := h.must("GET", "/bkt/here", ""); r.body != "here" {
		t.Errorf("%q", r.body)
	}
	for i, o := range objects {
		if i%2 == 0 {
			h.must("DELETE", "/bkt/"+o.name, "")
		}
	}
	h.tier.away(time.Time{})
	for i, o := range objects {
		if i%2 == 0 {
			h.refused(404, "NoSuchKey", "GET", "/bkt/"+o.name, "", o.read...)
			continue
		}
		if r := h.must("GET", "/bkt/"+o.name, "", o.read...); r.body != o.content {
			t.Errorf("%s: %d bytes", o.name, len(r.body))
		}
	}
}

// TestRestoreIsJournaled: the mover learns of a restore from the journal.
func TestRestoreIsJournaled(t *testing.T) {
	h := newTiered(t)
	h.must("PUT", "/bkt", "")
	h.must("PUT", "/bkt/k", "x", "x-amz-storage-class: COLD")
	h.move("k", "", "cold", "COLD")
	h.must("POST", "/bkt/k?restore", oneDay)
	var last record.Entry
	if err := h.store.Journal(t.Context(), 1, func(e record.Entry) error { last = e; return nil }); err != nil {
		t.Fatal(err)
	}
	if last.Op != record.OpRecall || last.Key != "k" || last.Tier != "cold" {
		t.Errorf("%+v", last)
	}
}
