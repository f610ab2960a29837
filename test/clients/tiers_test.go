package clients

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/lifecycle"

	"firn/test/server"
)

// tieredSite starts a server with the tiers cold (COLD) and vault (GLACIER, an archive), whose rules run each second.
func tieredSite(t *testing.T) *server.Server {
	t.Helper()
	dir := t.TempDir()
	config := "lifecycle:\n  interval: 1s\ntiers:\n"
	for _, tier := range []string{"cold: {class: COLD, url: ", "vault: {class: GLACIER, archive: true, url: "} {
		name, _, _ := strings.Cut(tier, ":")
		url := "file:" + filepath.Join(dir, name)
		if out, err := server.Run(t.Context(), t, "blob", "init", url); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		config += "  " + tier + strconv.Quote(url) + "}\n"
	}
	file := filepath.Join(dir, "firn.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return server.Start(t, "--config", file)
}

func client(t *testing.T, s *server.Server) *minio.Client {
	t.Helper()
	c, err := minio.New(s.Addr(), &minio.Options{
		Creds: credentials.NewStaticV4(server.AccessKey, server.SecretKey, ""), Region: "us-east-1",
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestClientsOnTiers has every client do its job while all that it writes goes to a tier within a second or two.
func TestClientsOnTiers(t *testing.T) {
	s := tieredSite(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- moveAll(ctx, client(t, s)) }()
	t.Run("clients", func(t *testing.T) { runClients(t, s) })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	_, body := request(t, "GET", s.AdminURL()+"/metrics", nil)
	moved := 0.0
	for line := range strings.Lines(string(body)) {
		if n, ok := strings.CutPrefix(line, `firn_lifecycle_objects_total{action="move"} `); ok {
			moved, _ = strconv.ParseFloat(strings.TrimSpace(n), 64)
		}
	}
	t.Logf("%.0f versions were moved to the tier", moved)
	if moved < 1000 {
		t.Errorf("%.0f versions were moved to the tier: the clients worked on local ones", moved)
	}
}

// moveAll gives each bucket, as it appears, a rule by which all goes to the tier cold at once.
func moveAll(ctx context.Context, c *minio.Client) error {
	rules := lifecycle.NewConfiguration()
	rules.Rules = []lifecycle.Rule{{
		ID: "all", Status: "Enabled", RuleFilter: lifecycle.Filter{ObjectSizeGreaterThan: 1},
		Transition: lifecycle.Transition{
			StorageClass: "COLD", Date: lifecycle.ExpirationDate{Time: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)},
		},
	}}
	seen := map[string]bool{}
	every := time.NewTicker(100 * time.Millisecond)
	defer every.Stop()
	for {
		buckets, err := c.ListBuckets(ctx)
		for _, b := range buckets {
			if err != nil || seen[b.Name] {
				continue
			}
			seen[b.Name] = true
			err = c.SetBucketLifecycle(ctx, b.Name, rules)
			if minio.ToErrorResponse(err).Code == "NoSuchBucket" { // removed already
				err = nil
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-every.C:
		}
	}
}

// TestRestore: what is put with the class of an archive is refused, restored and read by clients' own commands.
func TestRestore(t *testing.T) {
	s := tieredSite(t)
	c := client(t, s)
	must(t, c.MakeBucket(t.Context(), "vault", minio.MakeBucketOptions{}))
	for _, job := range []struct {
		name string
		do   func(t *testing.T, b *bench, file string)
	}{
		{"aws", awsRestore}, {"mc", mcRestore}, {"rclone", rcloneRestore}, {"boto3", boto3Restore},
	} {
		t.Run(job.name, func(t *testing.T) {
			t.Parallel()
			b := &bench{name: job.name, server: s, dir: t.TempDir(), rng: rand.New(rand.NewPCG(7, 7))}
			job.do(t, b, b.file(t, "up", strings.Repeat("0123456789abcdef", 10_000)))
		})
	}
}

// state waits until what HEAD tells of an object is so.
func state(t *testing.T, s *server.Server, key string, want func(minio.ObjectInfo) bool) minio.ObjectInfo {
	t.Helper()
	c := client(t, s)
	every := time.NewTicker(50 * time.Millisecond)
	defer every.Stop()
	for deadline := time.Now().Add(time.Minute); ; <-every.C {
		i, err := c.StatObject(t.Context(), "vault", key, minio.StatObjectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if want(i) {
			return i
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is still %+v", key, i)
		}
	}
}

// archived waits until an object can no longer be read.
func archived(t *testing.T, s *server.Server, key string) {
	t.Helper()
	c := client(t, s)
	state(t, s, key, func(minio.ObjectInfo) bool {
		o, err := c.GetObject(t.Context(), "vault", key, minio.GetObjectOptions{})
		must(t, err)
		defer o.Close()
		_, err = o.Read(make([]byte, 1))
		return minio.ToErrorResponse(err).Code == "InvalidObjectState"
	})
}

func restored(t *testing.T, s *server.Server, key string) {
	t.Helper()
	i := state(t, s, key, func(i minio.ObjectInfo) bool { return i.Restore != nil && !i.Restore.OngoingRestore })
	if left := time.Until(i.Restore.ExpiryTime); left < 24*time.Hour || left > 72*time.Hour {
		t.Errorf("%s is restored until %s", key, i.Restore.ExpiryTime)
	}
}

func awsRestore(t *testing.T, b *bench, file string) {
	awsSteps(t, b) // for its settings
	b.run(t, "s3", "cp", "--storage-class", "GLACIER", file, "s3://vault/aws")
	archived(t, b.server, "aws")
	at := []string{"--bucket", "vault", "--key", "aws"}
	api := func(op string, args ...string) []string { return append(append([]string{"s3api", op}, at...), args...) }
	contains(t, b.run(t, api("head-object")...), `"StorageClass": "GLACIER"`)
	b.refused(t, "InvalidObjectState", api("get-object", b.path("down"))...)
	b.run(t, api("restore-object", "--restore-request", `{"Days": 1, "GlacierJobParameters": {"Tier": "Bulk"}}`)...)
	restored(t, b.server, "aws")
	contains(t, b.run(t, api("head-object")...), `"Restore": "ongoing-request=\"false\", expiry-date=\"`)
	b.run(t, api("get-object", b.path("down"))...)
	same(t, file, b.path("down"))
	// Back for good.
	b.run(t, "s3", "cp", "--storage-class", "STANDARD", "s3://vault/aws", "s3://vault/aws")
	if out := b.run(t, api("head-object")...); strings.Contains(out, "GLACIER") {
		t.Errorf("%s", out)
	}
	b.refused(t, "InvalidObjectState", api("restore-object", "--restore-request", "Days=1")...)
}

func mcRestore(t *testing.T, b *bench, file string) {
	mcSteps(t, b)
	b.run(t, "cp", "--storage-class", "GLACIER", file, "site/vault/mc")
	archived(t, b.server, "mc")
	b.run(t, "ilm", "restore", "--days", "2", "site/vault/mc") // it waits for the end
	restored(t, b.server, "mc")
	b.run(t, "cp", "site/vault/mc", b.path("down"))
	same(t, file, b.path("down"))
}

func rcloneRestore(t *testing.T, b *bench, file string) {
	rcloneSteps(t, b)
	b.run(t, "copyto", "--s3-storage-class", "GLACIER", file, "site:vault/rclone")
	archived(t, b.server, "rclone")
	contains(t, b.run(t, "backend", "restore", "site:vault", "--include", "/rclone", "-o", "priority=Standard", "-o", "lifetime=1"), `"OK"`)
	restored(t, b.server, "rclone")
	b.run(t, "copyto", "site:vault/rclone", b.path("down"))
	same(t, file, b.path("down"))
}

// boto3Restore has the newer boto3 restore, since other clients have no way to ask listings for restores.
func boto3Restore(t *testing.T, b *bench, file string) {
	b.need(t, "/usr/bin/python3", "python3")
	b.env = boto3Env(boto3New(t))
	const script = `
import sys, boto3
c = boto3.client("s3", endpoint_url=sys.argv[1])
if sys.argv[2] == "put":
    c.upload_file(sys.argv[3], "vault", "boto3", ExtraArgs={"StorageClass": "GLACIER"})
elif sys.argv[2] == "restore":
    c.restore_object(Bucket="vault", Key="boto3", RestoreRequest={"Days": 1})
else:
    for op, entries in (c.list_objects, "Contents"), (c.list_objects_v2, "Contents"), (c.list_object_versions, "Versions"):
        print(op(Bucket="vault", Prefix="boto3", OptionalObjectAttributes=["RestoreStatus"])[entries][0].get("RestoreStatus"))
`
	do := func(args ...string) string {
		return b.run(t, append([]string{"-c", script, b.server.URL()}, args...)...)
	}
	do("put", file)
	archived(t, b.server, "boto3")
	if out := do("list"); strings.Count(out, "None") != 3 {
		t.Errorf("%s", out)
	}
	do("restore")
	restored(t, b.server, "boto3")
	if out := do("list"); strings.Count(out, "'IsRestoreInProgress': False, 'RestoreExpiryDate': datetime.datetime(20") != 3 {
		t.Errorf("%s", out)
	}
}
