package edge

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"firn/adminapi"
	"firn/test/backends"
	"firn/test/server"
)

// TestNodes: a site, and an edge cache elsewhere before the site's own, tell each other of changes and purges over a Redis.
// While it is away reads go on, and what the other may have missed is revalidated.
func TestNodes(t *testing.T) {
	redis := backends.RedisServer(t)
	home := t.TempDir()
	site := func(name, rules string) (edge *process, s3, data string) {
		t.Helper()
		addr, s3 := address(t), address(t)
		data = filepath.Join(home, name)
		conf := data + ".yaml"
		text := fmt.Sprintf("data: %s\nlisten: %s\nadmin_listen: %s\naccess_key: admin\nsecret_key: secretsecret\ncache:\n  redis: redis://%s/0\n"+
			"edge:\n  listen: %s\n  node: %s\n  purge_from: [127.0.0.0/8]\nedge_rules:\n  shared:\n    prefix: /shared/\n%s",
			data, s3, address(t), redis.Addr, addr, name, rules)
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return start(t, addr, "http://"+addr+"/nothing", data+".log", nil, server.Binary(t), "serve", "--config", conf), s3, data
	}
	region, s3, regionData := site("region", "    strip: true\n    origins: ['bucket:shared']\n")
	shed, _, shedData := site("shed", "    origins: ['"+region.url("")+"']\n")

	client, err := minio.New(s3, &minio.Options{Creds: credentials.NewStaticV4("admin", "secretsecret", "")})
	if err != nil {
		t.Fatal(err)
	}
	if err := client.MakeBucket(t.Context(), "shared", minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	put := func(b []byte) {
		t.Helper()
		if _, err := client.PutObject(t.Context(), "shared", "k", strings.NewReader(string(b)), int64(len(b)), minio.PutObjectOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	bus := func(data string) adminapi.CacheBus {
		t.Helper()
		out, err := server.Run(t.Context(), t, "cache", "status", "--json", "--data", data)
		var s adminapi.CacheStatus
		if err == nil {
			err = json.Unmarshal([]byte(out), &s)
		}
		if err != nil || s.Bus == nil || len(s.Levels) != 3 {
			t.Fatal(err, out)
		}
		return *s.Bus
	}
	connected := func(yes bool) {
		t.Helper()
		eventually(t, fmt.Sprintf("Redis is there: %v", yes), func() bool {
			return bus(regionData).Connected == yes && bus(shedData).Connected == yes
		})
	}
	// becomes waits until the shed has content; it always has one of the two.
	becomes := func(what string, old, content []byte) {
		t.Helper()
		began := time.Now()
		eventually(t, what, func() bool {
			resp, err := http.Get(shed.url("/shared/k"))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != http.StatusOK || string(b) != string(old) && string(b) != string(content) {
				t.Fatalf("%s: %d, %d bytes, %v", what, resp.StatusCode, len(b), err)
			}
			return string(b) == string(content)
		})
		t.Logf("%s: after %v", what, time.Since(began).Round(time.Millisecond))
	}
	connected(true)
	one, two, three, four := content(300_000, 1), content(300_000, 2), content(300_000, 3), content(300_000, 4)
	put(one)
	want(t, shed.url("/shared/k"), 200, "MISS", one)
	eventually(t, "the shed keeps it", func() bool { return hit(t, shed.url("/shared/k")) })
	put(two)
	becomes("what was written at the region is seen in the shed", one, two)
	eventually(t, "the shed keeps it", func() bool { return hit(t, shed.url("/shared/k")) })
	if out, err := server.Run(t.Context(), t, "cache", "purge", "/shared/", "--data", regionData); err != nil {
		t.Fatal(err, out)
	}
	eventually(t, "a purge at the region is one in the shed", func() bool { return !hit(t, shed.url("/shared/k")) })

	redis.Kill()
	want(t, shed.url("/shared/k"), 200, "HIT REVALIDATED MISS", two)
	connected(false)
	want(t, shed.url("/shared/k"), 200, "HIT REVALIDATED", two)
	put(three)
	becomes("what was written at the region while Redis was away is seen in the shed", two, three)
	if out, err := server.Run(t.Context(), t, "cache", "purge", "/shared/", "--data", shedData); err == nil || !strings.Contains(out, "publish a purge") {
		t.Errorf("a purge that other nodes were not told of: %v %s", err, out)
	}
	redis.Start(t)
	connected(true)
	put(four)
	becomes("what was written after Redis came back is seen in the shed", three, four)
	eventually(t, "the shed keeps it", func() bool { return hit(t, shed.url("/shared/k")) })
}

func hit(t *testing.T, url string) bool {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp.Header.Get("X-Cache-Status") == "HIT"
}
