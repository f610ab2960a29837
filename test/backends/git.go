package backends

import (
	"crypto/sha1"
	"encoding/base64"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Git is a server of bare repositories.
type Git struct {
	*Process
	// URL is ssh://… or https://…, up to the name of a repository, ending in a slash.
	URL string
	// KeyFile and KnownHosts are for ssh; User, Password and CAFile for https.
	KeyFile, KnownHosts, User, Password, CAFile string
	// Root is the directory of the repositories.
	Root string
}

// Repository makes an empty bare repository and returns its URL.
func (g *Git) Repository(t testing.TB, name string) string {
	t.Helper()
	dir := filepath.Join(g.Root, name)
	run(t, []string{"GIT_CONFIG_GLOBAL=/dev/null"}, Program(t, "git"), "init", "-q", "--bare", dir)
	run(t, nil, Program(t, "git"), "--git-dir", dir, "config", "http.receivepack", "true")
	run(t, nil, Program(t, "git"), "--git-dir", dir, "config", "gc.auto", "0")
	return g.URL + name
}

// GitSSH starts an sshd that runs git's server programs for the user who runs the test, with lines of sshd_config(5).
func GitSSH(t testing.TB, config ...string) *Git {
	t.Helper()
	root := filepath.Join(t.TempDir(), "repositories")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	s := sshd(t, "ForceCommand git shell -c \"$SSH_ORIGINAL_COMMAND\"\n"+strings.Join(config, "\n"))
	u := url.URL{Scheme: "ssh", User: url.User(s.User), Host: s.Addr, Path: root + "/"}
	return &Git{Process: s.Process, URL: u.String(), KeyFile: s.KeyFile, KnownHosts: s.KnownHosts, Root: root}
}

// GitHTTPS starts nginx with git-http-backend behind fcgiwrap, by password and TLS.
func GitHTTPS(t testing.TB) *Git {
	t.Helper()
	// Not t.TempDir: the path of a Unix socket has at most 107 bytes.
	d, err := os.MkdirTemp("", "firn-git")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(d); err != nil {
			t.Error(err)
		}
	})
	root, socket := filepath.Join(d, "repositories"), filepath.Join(d, "fcgi")
	for _, dir := range []string{root, filepath.Join(d, "tmp")} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// Three of one process each: the children of one with several would outlive a test process that is killed.
	for i := range 3 {
		socket := socket + strconv.Itoa(i)
		start(t, "fcgiwrap", func() error { _, err := os.Stat(socket); return err },
			[]string{"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"},
			Program(t, "fcgiwrap"), "-s", "unix:"+socket)
	}
	sum := sha1.Sum([]byte(davPassword))
	write(t, filepath.Join(d, "users"), davUser+":{SHA}"+base64.StdEncoding.EncodeToString(sum[:])+"\n")
	files := certificate(t, d)
	addr := "127.0.0.1:" + strconv.Itoa(FreePort(t))
	conf := filepath.Join(d, "nginx.conf")
	write(t, conf, strings.NewReplacer("$D", d, "$ADDR", addr, "$CERT", files.cert, "$KEY", files.key).Replace(gitNginxConf))
	return &Git{
		Process: start(t, "nginx", func() error { return dial(addr, startWithin) }, nil, Program(t, "nginx"), "-p", d, "-c", conf),
		URL:     "https://" + addr + "/", User: davUser, Password: davPassword, CAFile: files.ca, Root: root,
	}
}

const gitNginxConf = `daemon off;
master_process off;
error_log stderr;
pid $D/pid;
events {}
http {
  access_log off;
  client_body_temp_path $D/tmp;
  proxy_temp_path $D/tmp; fastcgi_temp_path $D/tmp; uwsgi_temp_path $D/tmp; scgi_temp_path $D/tmp;
  client_max_body_size 0;
  upstream git { least_conn; server unix:$D/fcgi0; server unix:$D/fcgi1; server unix:$D/fcgi2; }
  server {
    listen $ADDR ssl;
    ssl_certificate $CERT;
    ssl_certificate_key $KEY;
    auth_basic git;
    auth_basic_user_file $D/users;
    location / {
      fastcgi_pass git;
      fastcgi_read_timeout 300;
      fastcgi_param SCRIPT_FILENAME /usr/lib/git-core/git-http-backend;
      fastcgi_param GIT_PROJECT_ROOT $D/repositories;
      fastcgi_param GIT_HTTP_EXPORT_ALL 1;
      fastcgi_param GIT_PROTOCOL $http_git_protocol;
      fastcgi_param PATH_INFO $uri;
      fastcgi_param QUERY_STRING $query_string;
      fastcgi_param REQUEST_METHOD $request_method;
      fastcgi_param CONTENT_TYPE $content_type;
      fastcgi_param CONTENT_LENGTH $content_length;
      fastcgi_param REMOTE_USER $remote_user;
      fastcgi_param REMOTE_ADDR $remote_addr;
    }
  }
}
`
