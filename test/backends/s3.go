package backends

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Credentials of the S3 servers.
const (
	AccessKey = "FIRNTESTACCESSKEY"
	SecretKey = "firn-test-secret-key-0123456789"
)

// S3 is an S3 server with no bucket yet, and its administrator's keys.
type S3 struct {
	*Process
	Endpoint, Access, Secret string
	// Data is its directory; empty where it has none.
	Data string
}

// MinIO starts MinIO on one directory.
func MinIO(t testing.TB) *S3 {
	t.Helper()
	addr, data := freeAddr(t), t.TempDir()
	return &S3{start(
		t, "minio", answers("http://"+addr+"/minio/health/cluster", 200),
		[]string{"MINIO_ROOT_USER=" + AccessKey, "MINIO_ROOT_PASSWORD=" + SecretKey, "MINIO_CI_CD=1"},
		Program(t, "minio"), "server", "--quiet", "--address", addr, "--console-address", freeAddr(t), data,
	), "http://" + addr, AccessKey, SecretKey, data}
}

// VersityGW starts versitygw on one directory.
func VersityGW(t testing.TB) *S3 {
	t.Helper()
	addr, data := freeAddr(t), t.TempDir()
	return &S3{start(
		t, "versitygw", answers("http://"+addr+"/", 0),
		[]string{"ROOT_ACCESS_KEY=" + AccessKey, "ROOT_SECRET_KEY=" + SecretKey},
		Program(t, "versitygw"), "--quiet", "--keep-alive", "--port", addr, "posix", data,
	), "http://" + addr, AccessKey, SecretKey, data}
}

// Firn starts a site of this module's binary, which it builds unless FIRN_TEST_BINARY names one.
func Firn(t testing.TB) *S3 {
	t.Helper()
	binary, err := firn()
	if err != nil {
		t.Fatal(err)
	}
	addr, admin, data := freeAddr(t), freeAddr(t), filepath.Join(t.TempDir(), "data")
	return &S3{start(
		t, "firn", answers("http://"+admin+"/readyz", 200),
		[]string{"FIRN_ACCESS_KEY=" + AccessKey, "FIRN_SECRET_KEY=" + SecretKey},
		binary, "serve", "--data", data, "--listen", addr, "--admin-listen", admin,
	), "http://" + addr, AccessKey, SecretKey, data}
}

// firn is memoised because linking takes seconds; the tests of other packages find the result up to date.
var firn = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("FIRN_TEST_BINARY"); path != "" {
		return path, nil
	}
	mod, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	path := filepath.Join(filepath.Dir(strings.TrimSpace(string(mod))), "dist", "test", "backends", "firn")
	if out, err := exec.Command("go", "build", "-o", path, "firn/cmd/firn").CombinedOutput(); err != nil {
		return "", fmt.Errorf("build firn: %w\n%s", err, out)
	}
	return path, nil
})
