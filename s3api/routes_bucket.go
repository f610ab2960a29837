package s3api

import (
	"net/http"
	"slices"

	"firn/s3api/s3doc"
	"firn/s3api/sse"
)

// bucketRoutes are the operations on a bucket's sub-resources, on ACLs and the POST form.
func bucketRoutes() []route {
	const (
		get, put, del = http.MethodGet, http.MethodPut, http.MethodDelete
		ok, noContent = http.StatusOK, http.StatusNoContent
	)
	rs := []route{
		{atBucket, get, "versioning", "GetBucketVersioning", "s3:GetBucketVersioning", getVersioning, 0},
		{atBucket, put, "versioning", "PutBucketVersioning", "s3:PutBucketVersioning", putVersioning, 0},

		{atBucket, get, "tagging", "GetBucketTagging", "s3:GetBucketTagging", getDoc(confTagging, "NoSuchTagSet"), 0},
		{
			atBucket, put, "tagging", "PutBucketTagging", "s3:PutBucketTagging",
			putDoc(confTagging, maxSmallDoc, noContent, s3doc.CheckBucketTagging), 0,
		},
		{atBucket, del, "tagging", "DeleteBucketTagging", "s3:PutBucketTagging", deleteDoc(confTagging), 0},

		{atBucket, get, "cors", "GetBucketCors", "s3:GetBucketCORS", getDoc(confCORS, "NoSuchCORSConfiguration"), 0},
		{atBucket, put, "cors", "PutBucketCors", "s3:PutBucketCORS", putDoc(confCORS, maxCORSBody, ok, s3doc.CheckCORS), 0},
		{atBucket, del, "cors", "DeleteBucketCors", "s3:PutBucketCORS", deleteDoc(confCORS), 0},

		{atBucket, get, "policy", "GetBucketPolicy", "s3:GetBucketPolicy", getPolicy, 0},
		{atBucket, put, "policy", "PutBucketPolicy", "s3:PutBucketPolicy", putPolicy, 0},
		{atBucket, del, "policy", "DeleteBucketPolicy", "s3:DeleteBucketPolicy", deleteDoc(confPolicy), 0},
		{atBucket, get, "policyStatus", "GetBucketPolicyStatus", "s3:GetBucketPolicyStatus", getPolicyStatus, 0},

		{
			atBucket, get, "publicAccessBlock", "GetPublicAccessBlock", "s3:GetBucketPublicAccessBlock",
			getDoc(confPublicAccess, "NoSuchPublicAccessBlockConfiguration"), 0,
		},
		{
			atBucket, put, "publicAccessBlock", "PutPublicAccessBlock", "s3:PutBucketPublicAccessBlock",
			putDoc(confPublicAccess, maxSmallDoc, ok, s3doc.CheckPublicAccess), 0,
		},
		{
			atBucket, del, "publicAccessBlock", "DeletePublicAccessBlock", "s3:PutBucketPublicAccessBlock",
			deleteDoc(confPublicAccess), 0,
		},

		{
			atBucket, get, "ownershipControls", "GetBucketOwnershipControls", "s3:GetBucketOwnershipControls",
			getDoc(confOwnership, "OwnershipControlsNotFoundError"), 0,
		},
		{
			atBucket, put, "ownershipControls", "PutBucketOwnershipControls", "s3:PutBucketOwnershipControls",
			putOwnership, 0,
		},
		{
			atBucket, del, "ownershipControls", "DeleteBucketOwnershipControls", "s3:PutBucketOwnershipControls",
			deleteDoc(confOwnership), 0,
		},

		{atBucket, get, "acl", "GetBucketAcl", "s3:GetBucketAcl", getBucketACL, 0},
		{atBucket, put, "acl", "PutBucketAcl", "s3:PutBucketAcl", putBucketACL, 0},
		{atObject, get, "acl", "GetObjectAcl", "s3:GetObjectAcl", getObjectACL, lateAuth},
		{atObject, put, "acl", "PutObjectAcl", "s3:PutObjectAcl", putObjectACL, lateAuth},

		{atBucket, get, "lifecycle", "GetBucketLifecycleConfiguration", "s3:GetLifecycleConfiguration", getLifecycle, 0},
		{atBucket, put, "lifecycle", "PutBucketLifecycleConfiguration", "s3:PutLifecycleConfiguration", putLifecycle, 0},
		{
			atBucket, del, "lifecycle", "DeleteBucketLifecycle", "s3:PutLifecycleConfiguration",
			deleteDoc(confLifecycle, confLifecycleMin), 0,
		},

		{
			atBucket, get, "notification", "GetBucketNotificationConfiguration", "s3:GetBucketNotification",
			getNotification, 0,
		},
		{
			atBucket, put, "notification", "PutBucketNotificationConfiguration", "s3:PutBucketNotification",
			putDoc(confNotification, maxSmallDoc, ok, parseNotificationHere), 0,
		},

		{
			atBucket, get, "encryption", "GetBucketEncryption", "s3:GetEncryptionConfiguration",
			getDoc(confEncryption, "ServerSideEncryptionConfigurationNotFoundError"), 0,
		},
		{
			atBucket, put, "encryption", "PutBucketEncryption", "s3:PutEncryptionConfiguration",
			putDoc(confEncryption, maxSmallDoc, ok, sse.CheckDefault), 0,
		},
		{
			atBucket, del, "encryption", "DeleteBucketEncryption", "s3:PutEncryptionConfiguration",
			deleteDoc(confEncryption), 0,
		},

		{
			atBucket, get, "object-lock", "GetObjectLockConfiguration", "s3:GetBucketObjectLockConfiguration",
			getObjectLock, 0,
		},
		{
			atBucket, put, "object-lock", "PutObjectLockConfiguration", "s3:PutBucketObjectLockConfiguration",
			putObjectLock, 0,
		},

		{atBucket, get, "logging", "GetBucketLogging", "s3:GetBucketLogging", getLogging, 0},
		{atBucket, put, "logging", "PutBucketLogging", "s3:PutBucketLogging", putLogging, 0},

		{
			atBucket, get, "requestPayment", "GetBucketRequestPayment", "s3:GetBucketRequestPayment",
			getEmpty("RequestPaymentConfiguration", s3doc.Field{Name: "Payer", Value: "BucketOwner"}), 0,
		},
		{
			atBucket, put, "requestPayment", "PutBucketRequestPayment", "s3:PutBucketRequestPayment",
			putRequestPayment, 0,
		},
		{atBucket, http.MethodPost, "", "PostObject", "s3:PutObject", postObject, noAuth},
	}
	rs = append(rs, notSetRoutes()...)
	return append(rs, preflightRoutes(rs)...)
}

// notSetRoutes answer for the configurations of S3 that Firn does not offer: reading says that none is set, because
// clients ask before they do anything else; changing is NotImplemented; removing what cannot be there succeeds where
// it does on S3.
func notSetRoutes() []route {
	var rs []route
	add := func(sub, op, perm string, read handler, remove handler) {
		rs = append(rs,
			route{atBucket, http.MethodGet, sub, "Get" + op, "s3:Get" + perm, read, 0},
			route{atBucket, http.MethodPut, sub, "Put" + op, "s3:Put" + perm, notImplemented, 0})
		if remove != nil {
			rs = append(rs, route{atBucket, http.MethodDelete, sub, "Delete" + op, "s3:Put" + perm, remove, 0})
		}
	}
	gone := func(_ *Server, rq *request) error { return rq.noContent(http.StatusNoContent) }
	noConfig := getMissing("NoSuchConfiguration", "The specified configuration does not exist.")
	add("accelerate", "BucketAccelerateConfiguration", "AccelerateConfiguration", getEmpty("AccelerateConfiguration"), nil)
	add("website", "BucketWebsite", "BucketWebsite", getMissing("NoSuchWebsiteConfiguration", ""), gone)
	add("replication", "BucketReplication", "ReplicationConfiguration",
		getMissing("ReplicationConfigurationNotFoundError", "The replication configuration was not found"), gone)
	add("inventory", "BucketInventoryConfiguration", "InventoryConfiguration",
		getListed("ListInventoryConfigurationsResult"), noConfig)
	add("analytics", "BucketAnalyticsConfiguration", "AnalyticsConfiguration",
		getListed("ListBucketAnalyticsConfigurationsResult"), noConfig)
	add("metrics", "BucketMetricsConfiguration", "MetricsConfiguration",
		getListed("ListMetricsConfigurationsResult"), noConfig)
	add("intelligent-tiering", "BucketIntelligentTieringConfiguration", "IntelligentTieringConfiguration",
		getListed("ListBucketIntelligentTieringConfigurationsOutput"), noConfig)
	return rs
}

// preflightRoutes answer OPTIONS on every path. A route is needed for each sub-resource, because a browser asks
// with the query of the request it is about to send.
func preflightRoutes(mine []route) []route {
	subs := [3][]string{atBucket: {""}, atObject: {""}}
	for _, rs := range [][]route{mine, coreRoutes()} {
		for i := range rs {
			subs[rs[i].level] = append(subs[rs[i].level], rs[i].sub)
		}
	}
	var out []route
	for _, l := range []level{atBucket, atObject} {
		slices.Sort(subs[l])
		for _, sub := range slices.Compact(subs[l]) {
			out = append(out, route{l, http.MethodOptions, sub, "Preflight", "", answerPreflight, noAuth | noBucket})
		}
	}
	return out
}
