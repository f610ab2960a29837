package s3api

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/cors"
	"github.com/minio/minio-go/v7/pkg/lifecycle"
	"github.com/minio/minio-go/v7/pkg/notification"
	"github.com/minio/minio-go/v7/pkg/sse"
	"github.com/minio/minio-go/v7/pkg/tags"
)

// The documents a client library writes are taken, and it reads back what it wrote.
func TestClientLibraryDocuments(t *testing.T) {
	h := newHarness(t, Options{})
	h.must("PUT", "/bkt", "")
	h.must("PUT", "/locked", "", "x-amz-bucket-object-lock-enabled: true")
	c, ctx := h.client(), t.Context()
	ok := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	same := func(what string, want, got any) {
		t.Helper()
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
	}

	ok("enable versioning", c.EnableVersioning(ctx, "bkt"))
	v, err := c.GetBucketVersioning(ctx, "bkt")
	ok("get versioning", err)
	same("versioning", "Enabled", v.Status)

	tagged, err := tags.NewTags(map[string]string{"team": "press", "empty": ""}, false)
	ok("tags", err)
	ok("set tagging", c.SetBucketTagging(ctx, "bkt", tagged))
	gotTags, err := c.GetBucketTagging(ctx, "bkt")
	ok("get tagging", err)
	same("tagging", tagged.ToMap(), gotTags.ToMap())
	ok("remove tagging", c.RemoveBucketTagging(ctx, "bkt"))

	rules := lifecycle.NewConfiguration()
	rules.Rules = []lifecycle.Rule{
		{
			ID: "all", Status: "Enabled", Expiration: lifecycle.Expiration{Days: 3},
			NoncurrentVersionExpiration: lifecycle.NoncurrentVersionExpiration{NoncurrentDays: 2, NewerNoncurrentVersions: 4},
		},
		{
			ID: "some", Status: "Disabled", Expiration: lifecycle.Expiration{DeleteMarker: true},
			RuleFilter:                     lifecycle.Filter{Prefix: "logs/"},
			AbortIncompleteMultipartUpload: lifecycle.AbortIncompleteMultipartUpload{DaysAfterInitiation: 1},
		},
		{
			ID: "tagged", Status: "Enabled", Transition: lifecycle.Transition{Days: 30, StorageClass: "STANDARD_IA"},
			RuleFilter: lifecycle.Filter{And: lifecycle.And{Prefix: "a", Tags: []lifecycle.Tag{{Key: "k", Value: "v"}}}},
		},
	}
	ok("set lifecycle", c.SetBucketLifecycle(ctx, "bkt", rules))
	gotRules, err := c.GetBucketLifecycle(ctx, "bkt")
	ok("get lifecycle", err)
	var ids []string
	for _, r := range gotRules.Rules {
		ids = append(ids, r.ID)
	}
	same("lifecycle", []string{"all", "some", "tagged"}, ids)
	same("lifecycle filter", rules.Rules[2].RuleFilter.And.Tags[0].Key, gotRules.Rules[2].RuleFilter.And.Tags[0].Key)
	ok("remove lifecycle", c.SetBucketLifecycle(ctx, "bkt", lifecycle.NewConfiguration()))

	origins := cors.NewConfig([]cors.Rule{{
		AllowedOrigin: []string{"https://*.example.com"}, AllowedMethod: []string{"GET"}, AllowedHeader: []string{"*"},
		ExposeHeader: []string{"ETag"}, MaxAgeSeconds: 60,
	}})
	ok("set cors", c.SetBucketCors(ctx, "bkt", origins))
	gotCORS, err := c.GetBucketCors(ctx, "bkt")
	ok("get cors", err)
	same("cors", origins.CORSRules, gotCORS.CORSRules)
	ok("remove cors", c.SetBucketCors(ctx, "bkt", nil))

	ok("set encryption", c.SetBucketEncryption(ctx, "bkt", sse.NewConfigurationSSES3()))
	gotSSE, err := c.GetBucketEncryption(ctx, "bkt")
	ok("get encryption", err)
	same("encryption", "AES256", gotSSE.Rules[0].Apply.SSEAlgorithm)
	ok("remove encryption", c.RemoveBucketEncryption(ctx, "bkt"))

	mode, days, unit := minio.Governance, uint(3), minio.Days
	ok("set lock", c.SetObjectLockConfig(ctx, "locked", &mode, &days, &unit))
	_, gotMode, gotDays, gotUnit, err := c.GetObjectLockConfig(ctx, "locked")
	ok("get lock", err)
	same("lock", []any{mode, days, unit}, []any{*gotMode, *gotDays, *gotUnit})

	ok("clear notification", c.RemoveAllBucketNotification(ctx, "bkt"))
	events, err := c.GetBucketNotification(ctx, "bkt")
	ok("get notification", err)
	same("notification", notification.Configuration{}.QueueConfigs, events.QueueConfigs)

	policy := allow(t, "*", "s3:GetObject", "arn:aws:s3:::bkt/*")
	ok("set policy", c.SetBucketPolicy(ctx, "bkt", policy))
	gotPolicy, err := c.GetBucketPolicy(ctx, "bkt")
	ok("get policy", err)
	same("policy", policy, gotPolicy)
	ok("remove policy", c.SetBucketPolicy(ctx, "bkt", ""))
}
