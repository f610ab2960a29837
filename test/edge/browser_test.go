package edge

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"firn/adminapi"
	"firn/test/backends"
	"firn/test/server"
)

// page plays a video, jumps in it, and reports what it saw at each stop: where it was, how many frames were decoded, and
// the colour of a corner, which the film tells its third by.
const page = `<!doctype html><video id=v muted width=320></video><script>
const v = document.getElementById('v'), report = [], once = name => new Promise((ok, no) => {
  v.addEventListener(name, ok, {once: true}); v.addEventListener('error', () => no(v.error.message), {once: true})
})
const shown = () => new Promise(ok => v.requestVideoFrameCallback((_, m) => ok(m.mediaTime)))
async function stop(what) {
  const from = v.currentTime
  await v.play()
  let at; do at = await shown(); while (at < from + 1)
  v.pause()
  const c = document.createElement('canvas'); c.width = 16; c.height = 16
  const g = c.getContext('2d'); g.drawImage(v, 0, 0, 100, 100, 0, 0, 16, 16)
  report.push({what, from, to: v.currentTime, frames: v.getVideoPlaybackQuality().totalVideoFrames, pixel: [...g.getImageData(8, 8, 1, 1).data]})
}
async function jump(to) { const done = once('seeked'); v.currentTime = to; await done; await stop('jump to ' + to) }
async function all() {
  v.src = '/videos/film.mp4'
  await once('loadedmetadata')
  await stop('the beginning')
  await jump(50); await jump(25); await jump(5)
  return {duration: v.duration, stops: report}
}
all().catch(e => ({error: String(e), stops: report})).then(r => fetch('RESULT', {method: 'POST', mode: 'no-cors', body: JSON.stringify(r)}))
</script>`

type stop struct {
	What     string
	From, To float64
	Frames   int
	Pixel    [4]int
}

type playback struct {
	Error    string
	Duration float64
	Stops    []stop
}

// film makes an MP4 of a minute whose corner is red, green and blue for 20 s each. What a player needs first is at its end.
func film(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "film.mp4")
	corner := func(color, when string) string {
		return fmt.Sprintf("drawbox=x=0:y=0:w=100:h=100:t=fill:c=%s:enable='%s'", color, when)
	}
	out, err := exec.CommandContext(t.Context(), backends.Program(t, "ffmpeg"), "-v", "error", "-f", "lavfi", "-i", "testsrc2=s=640x360:r=25:d=60",
		"-vf", strings.Join([]string{corner("red", "lt(t,20)"), corner("lime", "gte(t,20)*lt(t,40)"), corner("blue", "gte(t,40)")}, ","),
		"-c:v", "libx264", "-preset", "ultrafast", "-b:v", "4M", "-minrate", "4M", "-maxrate", "4M", "-bufsize", "4M", "-x264-params", "nal-hrd=cbr",
		"-g", "50", "-pix_fmt", "yuv420p", path).CombinedOutput()
	if err != nil {
		t.Fatalf("ffmpeg: %v\n%s", err, out)
	}
	return path
}

// TestBrowser has Chromium play and seek a film that is on a cold tier, by way of the edge cache, and again while the tier
// is away.
func TestBrowser(t *testing.T) {
	results := make(chan playback, 1)
	var self *httptest.Server
	self = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			var p playback
			if err := json.NewDecoder(r.Body).Decode(&p); err != nil {
				t.Error(err)
			}
			results <- p
			return
		}
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, strings.ReplaceAll(page, "RESULT", self.URL))
	}))
	defer self.Close()

	home, addr, s3 := t.TempDir(), address(t), address(t)
	cold := filepath.Join(home, "cold")
	if out, err := server.Run(t.Context(), t, "blob", "init", "file:"+cold); err != nil {
		t.Fatal(err, out)
	}
	conf := filepath.Join(home, "firn.yaml")
	text := fmt.Sprintf(`data: %s/data
listen: %s
admin_listen: %s
access_key: admin
secret_key: secretsecret
tiers:
  cold:
    url: file:%s
edge:
  listen: %s
edge_rules:
  videos:
    prefix: /videos/
    strip: true
    origins: ['bucket:videos']
  page:
    prefix: /page
    origins: ['%s']
    bypass: true
`, home, s3, address(t), cold, addr, self.URL)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	p := start(t, addr, "http://"+addr+"/nothing", filepath.Join(home, "log"), nil, server.Binary(t), "serve", "--config", conf)

	client, err := minio.New(s3, &minio.Options{Creds: credentials.NewStaticV4("admin", "secretsecret", "")})
	if err != nil {
		t.Fatal(err)
	}
	if err := client.MakeBucket(t.Context(), "videos", minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	info, err := client.FPutObject(t.Context(), "videos", "film.mp4", film(t), minio.PutObjectOptions{StorageClass: "COLD", ContentType: "video/mp4"})
	if err != nil {
		t.Fatal(err)
	}
	status := func() (s adminapi.CacheStatus) {
		t.Helper()
		out, err := server.Run(t.Context(), t, "cache", "status", "--json", "--data", filepath.Join(home, "data"))
		if err == nil {
			err = json.Unmarshal([]byte(out), &s)
		}
		if err != nil {
			t.Fatal(err, out)
		}
		return s
	}
	eventually(t, "the film is on its tier", func() bool {
		out, err := server.Run(t.Context(), t, "tier", "explain", "videos/film.mp4", "--json", "--data", filepath.Join(home, "data"))
		if err != nil {
			t.Fatal(err, out)
		}
		var e adminapi.TierExplain
		if err := json.Unmarshal([]byte(out), &e); err != nil {
			t.Fatal(err)
		}
		return e.Tier == "cold" && !e.Local
	})

	play := func(name string) {
		t.Helper()
		browse(t, p.url("/page"))
		var r playback
		select {
		case r = <-results:
		case <-time.After(2 * time.Minute):
			t.Fatalf("%s: the browser says nothing", name)
		}
		if r.Error != "" || len(r.Stops) != 4 || r.Duration < 59 || r.Duration > 61 {
			t.Fatalf("%s: %+v", name, r)
		}
		frames := 0
		for i, want := range []struct {
			at     float64
			colour int // the place of the strongest in a pixel
		}{{0, 0}, {50, 2}, {25, 1}, {5, 0}} {
			s := r.Stops[i]
			t.Logf("%s: %s: from %.2f s to %.2f s, %d frames, corner %v", name, s.What, s.From, s.To, s.Frames, s.Pixel)
			if s.From < want.at-.1 || s.From > want.at+.1 || s.To < want.at+.9 || s.To > want.at+10 || s.Frames < frames+20 {
				t.Errorf("%s: %+v", name, s)
			}
			frames = s.Frames
			for c := range 3 {
				if strong := s.Pixel[c] > 180; strong != (c == want.colour) {
					t.Errorf("%s: another picture: %+v", name, s)
				}
			}
		}
	}
	play("from the tier")
	s := status()
	t.Logf("%d bytes of %d came from the tier", s.Fetched, info.Size)
	if s.Fetched == 0 || s.Read["tier"] == 0 {
		t.Errorf("%+v", s)
	}
	if err := os.Rename(cold, cold+".away"); err != nil {
		t.Fatal(err)
	}
	play("with the tier away")
}

// browse opens a page until the test ends or the next page is opened.
func browse(t *testing.T, url string) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, backends.Program(t, "chromium"), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
		"--autoplay-policy=no-user-gesture-required", "--remote-debugging-port=0", "--user-data-dir="+t.TempDir(), url)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		_ = cmd.Wait() // it was killed
	})
}
