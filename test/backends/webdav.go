package backends

import (
	"crypto/sha1"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// DAV is a WebDAV server.
type DAV struct {
	*Process
	// URL is its top, ending in a slash.
	URL, User, Password string
	// Data is the directory it serves.
	Data string
}

const (
	davUser     = "firn"
	davPassword = "test-password-0123456789"
)

// WebDAV starts nginx with its WebDAV modules.
func WebDAV(t testing.TB) *DAV {
	t.Helper()
	d, addr := t.TempDir(), freeAddr(t)
	data := filepath.Join(d, "data")
	for _, dir := range []string{data, filepath.Join(d, "tmp")} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	sum := sha1.Sum([]byte(davPassword))
	write(t, filepath.Join(d, "users"), davUser+":{SHA}"+base64.StdEncoding.EncodeToString(sum[:])+"\n")
	conf := filepath.Join(d, "nginx.conf")
	write(t, conf, strings.NewReplacer("$D", d, "$ADDR", addr).Replace(nginxConf))
	return &DAV{
		start(t, "nginx", answers("http://"+addr+"/", 0), nil, Program(t, "nginx"), "-p", d, "-c", conf),
		"http://" + addr + "/", davUser, davPassword, data,
	}
}

// nginxConf serves as the user who runs it, so that files of the test can be read by it.
const nginxConf = `load_module /usr/lib/nginx/modules/ngx_http_dav_ext_module.so;
daemon off;
master_process off;
error_log stderr;
pid $D/pid;
events {}
http {
  access_log off;
  client_body_temp_path $D/tmp;
  proxy_temp_path $D/tmp; fastcgi_temp_path $D/tmp; uwsgi_temp_path $D/tmp; scgi_temp_path $D/tmp;
  client_max_body_size 0;
  keepalive_requests 100000;
  server {
    listen $ADDR;
    root $D/data;
    location / {
      auth_basic firn;
      auth_basic_user_file $D/users;
      dav_methods PUT DELETE MKCOL COPY MOVE;
      dav_ext_methods PROPFIND OPTIONS;
      create_full_put_path off;
    }
  }
}
`

// RcloneDAV starts rclone's WebDAV server.
func RcloneDAV(t testing.TB) *DAV {
	t.Helper()
	data, addr := t.TempDir(), freeAddr(t)
	return &DAV{
		start(t, "rclone", answers("http://"+addr+"/", 0), []string{"RCLONE_USER=" + davUser, "RCLONE_PASS=" + davPassword},
			Program(t, "rclone"), "serve", "webdav", "--config", "/dev/null", "--addr", addr, data),
		"http://" + addr + "/", davUser, davPassword, data,
	}
}
