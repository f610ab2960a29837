// Package tiers runs the real binary with two real tiers, a bucket of MinIO and a directory behind OpenSSH: objects walk
// down and back, a tier is killed and comes back, the site is killed in the middle of moves, and one that lost its data
// directory is made again from its tiers.
package tiers

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/encrypt"
	"github.com/minio/minio-go/v7/pkg/tags"

	"firn/test/backends"
	"firn/test/server"
)

// site is a site with the tiers warm and cold.
type site struct {
	*server.Server
	t      *testing.T
	conf   string
	minio  *backends.S3
	sshd   *backends.SSH
	client *minio.Client
	lines  map[string]*backends.Relay // to the tiers, by class; nil where it has none
}

// layouts runs a test with the tiers in each layout.
func layouts(t *testing.T, test func(t *testing.T, layout string)) {
	for _, layout := range []string{"plain", "repository"} {
		t.Run(layout, func(t *testing.T) { test(t, layout) })
	}
}

func newSite(t *testing.T, layout string) *site { return newSiteBy(t, layout, false) }

// newSiteBy is newSite, over lines that can be cut where by is set.
func newSiteBy(t *testing.T, layout string, by bool) *site {
	t.Helper()
	dir := t.TempDir()
	s := &site{t: t, conf: filepath.Join(dir, "firn.yaml"), minio: backends.MinIO(t), sshd: backends.SSHD(t)}
	endpoint, addr, known := s.minio.Endpoint, s.sshd.Addr, s.sshd.KnownHosts
	if by {
		s.lines = map[string]*backends.Relay{
			"WARM": backends.NewRelay(t, strings.TrimPrefix(endpoint, "http://")), "COLD": backends.NewRelay(t, addr),
		}
		endpoint, addr = "http://"+s.lines["WARM"].Addr, s.lines["COLD"].Addr
		// The server's key is known under another port.
		p, err := os.ReadFile(known)
		s.must(err)
		_, port, _ := strings.Cut(addr, ":")
		known = filepath.Join(dir, "known_hosts")
		write(t, known, "[127.0.0.1]:"+port+string(p[bytes.IndexByte(p, ' '):]))
	}
	write(t, filepath.Join(dir, "minio.credentials"), "access_key = "+s.minio.Access+"\nsecret_key = "+s.minio.Secret+"\n")
	more := ""
	if layout == "repository" {
		write(t, filepath.Join(dir, "tier-password"), "a password\n")
		more = ", layout: repository, password_file: " + filepath.Join(dir, "tier-password")
	}
	write(t, s.conf, fmt.Sprintf(`reserve: 0
encryption:
  keyring: %[1]s/keyring.json
  secret_file: %[1]s/keyring.secret
cache:
  memory: 1MiB
  disk: 0
places:
  minio:
    url: s3://warm/site-1?endpoint=%[2]s&region=us-east-1
    credentials: %[1]s/minio.credentials
  nas:
    url: sftp://%[3]s@%[4]s%[5]s/cold?key=%[6]s&known_hosts=%[7]s
tiers:
  warm: {url: place:minio%[8]s}
  cold: {url: place:nas/tier, cost: 4%[8]s}
`, dir, endpoint, s.sshd.User, addr, s.sshd.Root, s.sshd.KeyFile, known, more))
	write(t, filepath.Join(dir, "keyring.secret"), "a secret that is not beside the data")
	s.Server = server.New(t, server.Firn(server.Binary(t)), filepath.Join(dir, "data"), "--config", s.conf)
	for _, place := range []string{"place:minio", "place:nas"} {
		s.firn("blob", "init", place, "--config", s.conf)
	}
	s.Start(t)
	var err error
	s.client, err = minio.New(s.Addr(), &minio.Options{
		Creds: credentials.NewStaticV4(server.AccessKey, server.SecretKey, ""), Region: "us-east-1", MaxRetries: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// firn runs a command that must succeed.
func (s *site) firn(args ...string) string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	out, err := server.Run(ctx, s.t, args...)
	if err != nil {
		s.t.Fatalf("firn %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func (s *site) tier(args ...string) string {
	s.t.Helper()
	return s.firn(append(append([]string{"tier"}, args...), "--data", s.Data())...)
}

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func content(size int, seed uint64) []byte {
	p := make([]byte, size)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = r.Read(p)
	return p
}

// fill makes buckets with objects of all kinds: small and large, in parts, encrypted, with metadata and tags, in versions,
// deleted.
func (s *site) fill() {
	s.t.Helper()
	ctx := s.t.Context()
	s.must(s.client.MakeBucket(ctx, "plain", minio.MakeBucketOptions{}))
	s.must(s.client.MakeBucket(ctx, "versioned", minio.MakeBucketOptions{}))
	s.must(s.client.EnableVersioning(ctx, "versioned"))
	put := func(bucket, key string, p []byte, o minio.PutObjectOptions) {
		s.t.Helper()
		_, err := s.client.PutObject(ctx, bucket, key, bytes.NewReader(p), int64(len(p)), o)
		s.must(err)
	}
	for i, n := range []int{0, 1, 60 << 10, 300 << 10, 5<<20 + 17} {
		put("plain", fmt.Sprint("sizes/", n), content(n, uint64(i)), minio.PutObjectOptions{
			ContentType: "image/x-test", UserMetadata: map[string]string{"Camera": fmt.Sprint(i)}, UserTags: map[string]string{"n": fmt.Sprint(i)},
		})
	}
	put("plain", "parts", content(12<<20, 20), minio.PutObjectOptions{PartSize: 5 << 20})
	put("plain", "sealed", content(2<<20, 21), minio.PutObjectOptions{ServerSideEncryption: encrypt.NewSSE()})
	put("plain", "odd/ünïcode %41/\\back//slash", content(100, 22), minio.PutObjectOptions{})
	for i := range 3 {
		put("versioned", "k", content(100<<10+i, uint64(30+i)), minio.PutObjectOptions{})
	}
	put("versioned", "gone", content(1000, 40), minio.PutObjectOptions{})
	s.must(s.client.RemoveObject(ctx, "versioned", "gone", minio.RemoveObjectOptions{}))
}

// everything describes what the site has, content included.
func (s *site) everything() (all []string) {
	s.t.Helper()
	ctx := s.t.Context()
	buckets, err := s.client.ListBuckets(ctx)
	s.must(err)
	for _, b := range buckets {
		v, err := s.client.GetBucketVersioning(ctx, b.Name)
		s.must(err)
		all = append(all, fmt.Sprint(b.Name, " versioning ", v.Status, " ", b.CreationDate))
		for o := range s.client.ListObjects(ctx, b.Name, minio.ListObjectsOptions{Recursive: true, WithVersions: true}) {
			s.must(o.Err)
			if o.IsDeleteMarker {
				all = append(all, fmt.Sprint(b.Name, "/", o.Key, " ", o.VersionID, " marker ", o.IsLatest, o.LastModified))
				continue
			}
			opt := minio.GetObjectOptions{VersionID: o.VersionID}
			st, err := s.client.StatObject(ctx, b.Name, o.Key, opt)
			s.must(err)
			tagging, err := s.client.GetObjectTagging(ctx, b.Name, o.Key, minio.GetObjectTaggingOptions{VersionID: o.VersionID})
			s.must(err)
			sum, err := s.read(b.Name, o.Key, o.VersionID)
			s.must(err)
			all = append(all, fmt.Sprint(b.Name, "/", o.Key, " ", o.VersionID, " ", o.IsLatest, o.LastModified, st.ETag, st.Size, st.ContentType,
				st.UserMetadata, tagging, st.Metadata.Get("X-Amz-Server-Side-Encryption"), sum))
		}
	}
	return all
}

// read returns the hash of an object.
func (s *site) read(bucket, key, version string) (string, error) {
	o, err := s.client.GetObject(s.t.Context(), bucket, key, minio.GetObjectOptions{VersionID: version})
	if err != nil {
		return "", err
	}
	defer o.Close()
	h := sha256.New()
	_, err = io.Copy(h, o)
	return hex.EncodeToString(h.Sum(nil)), err
}

func (s *site) same(want []string) {
	s.t.Helper()
	if diff := cmp.Diff(want, s.everything()); diff != "" {
		s.t.Errorf("it is not what it was:\n%s", diff)
	}
}

// move moves everything to the tier of a class.
func (s *site) move(class string) {
	s.t.Helper()
	for _, b := range []string{"plain", "versioned"} {
		s.tier("move", "--prefix", b, "--versions", class)
	}
}

// on returns how many versions have the storage class of a tier.
func (s *site) on(name string) int64 {
	s.t.Helper()
	var doc struct {
		Tiers []struct {
			Name     string
			Versions int64
		}
	}
	s.must(json.Unmarshal([]byte(s.tier("ls", "--json")), &doc))
	for _, t := range doc.Tiers {
		if t.Name == name {
			return t.Versions
		}
	}
	s.t.Fatalf("no tier %s", name)
	return 0
}

func eventually(t *testing.T, what string, yes func() bool) {
	t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(time.Minute); !yes(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("it does not come that %s", what)
		}
	}
}

// TestDownAndBack walks objects down two tiers and back, and does with them there what clients do.
func TestDownAndBack(t *testing.T) { layouts(t, testDownAndBack) }

func testDownAndBack(t *testing.T, layout string) {
	s := newSite(t, layout)
	s.fill()
	ctx := t.Context()
	was := s.everything()
	n := int64(len(was) - 3) // two buckets and a marker

	s.move("WARM")
	s.same(was)
	if got := s.on("warm"); got != n {
		t.Errorf("%d versions are warm, want %d", got, n)
	}
	s.move("COLD")
	s.same(was)
	if got := s.on("cold"); got != n || s.on("warm") != 0 {
		t.Errorf("%d versions are cold, want %d", got, n)
	}
	if layout == "plain" { // any tool reads what is there
		p, err := os.ReadFile(filepath.Join(s.sshd.Root, "cold", "tier", "objects", "plain", "sizes", "307200"))
		if err != nil || !bytes.Equal(p, content(300<<10, 3)) {
			t.Errorf("on the tier: %d bytes, %v", len(p), err)
		}
	} else if _, err := os.Stat(filepath.Join(s.sshd.Root, "cold", "tier", "repo", "config")); err != nil {
		t.Error(err)
	}

	part := content(12<<20, 20)
	for _, r := range [][2]int64{{0, 0}, {5<<20 - 10, 5<<20 + 10}, {12<<20 - 1, 12<<20 - 1}, {100, 3 << 20}} {
		var o minio.GetObjectOptions
		s.must(o.SetRange(r[0], r[1]))
		got, err := s.client.GetObject(ctx, "plain", "parts", o)
		s.must(err)
		p, err := io.ReadAll(got)
		if err != nil || !bytes.Equal(p, part[r[0]:r[1]+1]) {
			t.Errorf("range %v: %d bytes, %v", r, len(p), err)
		}
		got.Close()
	}
	_, err := s.client.CopyObject(ctx, minio.CopyDestOptions{Bucket: "plain", Object: "copied"}, minio.CopySrcOptions{Bucket: "plain", Object: "sizes/307200"})
	s.must(err)
	_, err = s.client.ComposeObject(ctx, minio.CopyDestOptions{Bucket: "plain", Object: "composed"}, minio.CopySrcOptions{Bucket: "plain", Object: "parts"},
		minio.CopySrcOptions{Bucket: "plain", Object: "sizes/307200"})
	s.must(err)
	set, err := tags.NewTags(map[string]string{"a": "b"}, true)
	s.must(err)
	s.must(s.client.PutObjectTagging(ctx, "plain", "parts", set, minio.PutObjectTaggingOptions{}))
	for key, want := range map[string][]byte{"copied": content(300<<10, 3), "composed": append(slices.Clone(part), content(300<<10, 3)...)} {
		sum := sha256.Sum256(want)
		if got, err := s.read("plain", key, ""); err != nil || got != hex.EncodeToString(sum[:]) {
			t.Errorf("%s: %s, %v", key, got, err)
		}
	}
	s.must(s.client.RemoveObject(ctx, "plain", "copied", minio.RemoveObjectOptions{}))
	s.must(s.client.RemoveObject(ctx, "plain", "composed", minio.RemoveObjectOptions{}))
	s.must(s.client.RemoveObjectTagging(ctx, "plain", "parts", minio.RemoveObjectTaggingOptions{}))
	s.same(was)

	for _, b := range []string{"plain", "versioned"} {
		s.tier("recall", "--prefix", b, "--versions")
	}
	if got := s.on("cold"); got != 0 {
		t.Errorf("%d versions are cold still", got)
	}
	s.sshd.Kill()
	s.minio.Kill()
	s.same(was)
}

// TestTierAway kills a tier: what is on it is answered with 503 that says so, all else goes on, and it comes back.
func TestTierAway(t *testing.T) { layouts(t, testTierAway) }

func testTierAway(t *testing.T, layout string) {
	s := newSite(t, layout)
	s.fill()
	was := s.everything() // before, so that the cache has nothing of it
	s.tier("move", "--prefix", "plain/sizes/", "COLD")
	s.tier("move", "plain/parts", "WARM")
	s.sshd.Kill()
	began := time.Now()
	_, err := s.read("plain", "sizes/307200", "")
	e := minio.ToErrorResponse(err)
	if e.StatusCode != http.StatusServiceUnavailable || !strings.Contains(e.Message, "tier cold") || !strings.Contains(e.Message, "since ") {
		t.Errorf("a read from a tier that is away: %+v", e)
	}
	t.Logf("the first answer took %v", time.Since(began).Round(time.Millisecond))
	began = time.Now()
	if _, err := s.read("plain", "sizes/307200", ""); err == nil || time.Since(began) > 10*time.Second {
		t.Errorf("the second answer: %v after %v", err, time.Since(began))
	}
	for _, key := range []string{"parts", "sealed"} {
		if _, err := s.read("plain", key, ""); err != nil {
			t.Errorf("%s is not on that tier: %v", key, err)
		}
	}
	if _, err := s.client.StatObject(t.Context(), "plain", "sizes/307200", minio.StatObjectOptions{}); err != nil {
		t.Errorf("its head: %v", err)
	}
	if out := s.tier("status"); !strings.Contains(out, "cold: away since ") || !strings.Contains(out, "warm: ready") {
		t.Errorf("%s", out)
	}
	if out := s.tier("explain", "plain/sizes/307200"); !strings.Contains(out, "the tier is away since") {
		t.Errorf("%s", out)
	}
	if out := s.firn("status", "--data", s.Data()); !strings.Contains(out, "cold is away since") || !strings.Contains(out, "ready") {
		t.Errorf("%s", out)
	}
	// A restart meanwhile changes nothing.
	s.MustStop(t)
	s.Server.Start(t)
	if _, err := s.read("plain", "sizes/307200", ""); minio.ToErrorResponse(err).StatusCode != http.StatusServiceUnavailable {
		t.Errorf("after a restart: %v", err)
	}
	s.sshd.Process.Start(t)
	eventually(t, "the tier is back", func() bool {
		_, err := s.read("plain", "sizes/307200", "")
		return err == nil
	})
	s.same(was)
}

// TestKilledWhileMoving kills the site in the middle of moves, again and again: everything is there afterwards each time,
// and in the end everything is where it was to be.
func TestKilledWhileMoving(t *testing.T) { layouts(t, testKilledWhileMoving) }

func testKilledWhileMoving(t *testing.T, layout string) {
	s := newSite(t, layout)
	s.fill()
	for i := range 100 {
		p := content(20<<10+i*1000, uint64(100+i))
		_, err := s.client.PutObject(t.Context(), "plain", fmt.Sprintf("many/%03d", i), bytes.NewReader(p), int64(len(p)), minio.PutObjectOptions{})
		s.must(err)
	}
	was := s.everything()
	for i, class := range []string{"WARM", "COLD", "WARM", "COLD", "WARM"} {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = server.Run(ctx, t, "tier", "move", "--prefix", "plain", class, "--data", s.Data()) // cut off
		}()
		name := strings.ToLower(class)
		eventually(t, "the move is under way", func() bool { return s.on(name) > int64(i*10) })
		s.Kill()
		cancel()
		<-done
		s.Server.Start(t)
		s.same(was)
	}
	s.move("COLD")
	s.same(was)
	if got, want := s.on("cold"), int64(len(was)-3); got != want {
		t.Errorf("%d versions are cold, want %d", got, want)
	}
	if out := s.firn("check", "--tiers", "--data", s.Data()); !strings.Contains(out, "no problems") && !strings.Contains(out, " 0 problems") {
		t.Errorf("check: %s", out)
	}
}

// TestLostSite deletes the data directory of a site whose objects are on two tiers, and makes it again from them.
func TestLostSite(t *testing.T) { layouts(t, testLostSite) }

func testLostSite(t *testing.T, layout string) {
	s := newSite(t, layout)
	s.fill()
	s.tier("move", "--prefix", "plain", "WARM")
	s.tier("move", "--prefix", "versioned", "--versions", "COLD")
	s.tier("move", "--prefix", "plain/sizes/", "COLD")
	was := s.everything()
	var doc struct {
		Site  string
		Tiers []struct{ Journal uint64 }
	}
	eventually(t, "the catalogues tell of everything", func() bool {
		s.must(json.Unmarshal([]byte(s.tier("status", "--json")), &doc))
		return doc.Tiers[0].Journal+doc.Tiers[1].Journal == 0
	})
	s.Kill()
	s.must(os.RemoveAll(s.Data()))
	s.Server.Start(t)
	if out, err := server.Run(t.Context(), t, "tier", "rebuild", "warm", "--data", s.Data()); err == nil || !strings.Contains(out, "of site "+doc.Site) {
		t.Errorf("rebuilt without being asked: %v\n%s", err, out)
	}
	t.Log(s.tier("rebuild", "warm", "--from", doc.Site))
	t.Log(s.tier("rebuild", "cold", "--from", doc.Site))
	s.same(was)
	// It goes on from there.
	s.move("COLD")
	s.same(was)
	s.MustStop(t)
	s.Server.Start(t)
	s.same(was)
}
