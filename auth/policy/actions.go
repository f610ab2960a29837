package policy

import (
	"slices"
	"strings"
)

// actionNames are the actions of Amazon S3 in the service authorization reference, sorted. A statement whose
// action matches none of them is refused: a Deny that can never match would be a trap.
var actionNames = []string{
	"AbortMultipartUpload", "AssociateAccessGrantsIdentityCenter", "BypassGovernanceRetention",
	"CreateAccessGrant", "CreateAccessGrantsInstance", "CreateAccessGrantsLocation", "CreateAccessPoint",
	"CreateAccessPointForObjectLambda", "CreateBucket", "CreateBucketMetadataTableConfiguration", "CreateJob",
	"CreateMultiRegionAccessPoint", "CreateStorageLensGroup", "DeleteAccessGrant", "DeleteAccessGrantsInstance",
	"DeleteAccessGrantsInstanceResourcePolicy", "DeleteAccessGrantsLocation", "DeleteAccessPoint",
	"DeleteAccessPointForObjectLambda", "DeleteAccessPointPolicy", "DeleteAccessPointPolicyForObjectLambda",
	"DeleteBucket", "DeleteBucketMetadataTableConfiguration", "DeleteBucketOwnershipControls",
	"DeleteBucketPolicy", "DeleteBucketPublicAccessBlock", "DeleteBucketWebsite", "DeleteJobTagging",
	"DeleteMultiRegionAccessPoint", "DeleteObject", "DeleteObjectTagging", "DeleteObjectVersion",
	"DeleteObjectVersionTagging", "DeleteStorageLensConfiguration", "DeleteStorageLensConfigurationTagging",
	"DeleteStorageLensGroup", "DescribeJob", "DescribeMultiRegionAccessPointOperation",
	"DissociateAccessGrantsIdentityCenter", "GetAccelerateConfiguration", "GetAccessGrant",
	"GetAccessGrantsInstance", "GetAccessGrantsInstanceForPrefix", "GetAccessGrantsInstanceResourcePolicy",
	"GetAccessGrantsLocation", "GetAccessPoint", "GetAccessPointConfigurationForObjectLambda",
	"GetAccessPointForObjectLambda", "GetAccessPointPolicy", "GetAccessPointPolicyForObjectLambda",
	"GetAccessPointPolicyStatus", "GetAccessPointPolicyStatusForObjectLambda", "GetAccountPublicAccessBlock",
	"GetAnalyticsConfiguration", "GetBucketAcl", "GetBucketCORS", "GetBucketLocation", "GetBucketLogging",
	"GetBucketMetadataTableConfiguration", "GetBucketNotification", "GetBucketObjectLockConfiguration",
	"GetBucketOwnershipControls", "GetBucketPolicy", "GetBucketPolicyStatus", "GetBucketPublicAccessBlock",
	"GetBucketRequestPayment", "GetBucketTagging", "GetBucketVersioning", "GetBucketWebsite", "GetDataAccess",
	"GetEncryptionConfiguration", "GetIntelligentTieringConfiguration", "GetInventoryConfiguration",
	"GetJobTagging", "GetLifecycleConfiguration", "GetMetricsConfiguration", "GetMultiRegionAccessPoint",
	"GetMultiRegionAccessPointPolicy", "GetMultiRegionAccessPointPolicyStatus",
	"GetMultiRegionAccessPointRoutes", "GetObject", "GetObjectAcl", "GetObjectAttributes",
	"GetObjectLegalHold", "GetObjectRetention", "GetObjectTagging", "GetObjectTorrent", "GetObjectVersion",
	"GetObjectVersionAcl", "GetObjectVersionAttributes", "GetObjectVersionForReplication",
	"GetObjectVersionTagging", "GetObjectVersionTorrent", "GetReplicationConfiguration",
	"GetStorageLensConfiguration", "GetStorageLensConfigurationTagging", "GetStorageLensDashboard",
	"GetStorageLensGroup", "InitiateReplication", "ListAccessGrants", "ListAccessGrantsInstances",
	"ListAccessGrantsLocations", "ListAccessPoints", "ListAccessPointsForObjectLambda", "ListAllMyBuckets",
	"ListBucket", "ListBucketMultipartUploads", "ListBucketVersions", "ListCallerAccessGrants", "ListJobs",
	"ListMultiRegionAccessPoints", "ListMultipartUploadParts", "ListStorageLensConfigurations",
	"ListStorageLensGroups", "ListTagsForResource", "ObjectOwnerOverrideToBucketOwner", "PauseReplication",
	"PutAccelerateConfiguration", "PutAccessGrantsInstanceResourcePolicy",
	"PutAccessPointConfigurationForObjectLambda", "PutAccessPointPolicy",
	"PutAccessPointPolicyForObjectLambda", "PutAccessPointPublicAccessBlock", "PutAccountPublicAccessBlock",
	"PutAnalyticsConfiguration", "PutBucketAcl", "PutBucketCORS", "PutBucketLogging", "PutBucketNotification",
	"PutBucketObjectLockConfiguration", "PutBucketOwnershipControls", "PutBucketPolicy",
	"PutBucketPublicAccessBlock", "PutBucketRequestPayment", "PutBucketTagging", "PutBucketVersioning",
	"PutBucketWebsite", "PutEncryptionConfiguration", "PutIntelligentTieringConfiguration",
	"PutInventoryConfiguration", "PutJobTagging", "PutLifecycleConfiguration", "PutMetricsConfiguration",
	"PutMultiRegionAccessPointPolicy", "PutObject", "PutObjectAcl", "PutObjectLegalHold",
	"PutObjectRetention", "PutObjectTagging", "PutObjectVersionAcl", "PutObjectVersionTagging",
	"PutReplicationConfiguration", "PutStorageLensConfiguration", "PutStorageLensConfigurationTagging",
	"ReplicateDelete", "ReplicateObject", "ReplicateTags", "RestoreObject",
	"SubmitMultiRegionAccessPointRoutes", "TagResource", "UntagResource", "UpdateAccessGrantsLocation",
	"UpdateJobPriority", "UpdateJobStatus", "UpdateStorageLensGroup",
}

const actionWords = 4

// actionSet is a set of actions by their number in actionNames, with the patterns it came from for actions
// that have no number.
type actionSet struct {
	bits     [actionWords]uint64
	patterns []pattern // lower case, with "s3:"
}

// actionNumber returns the number of an action such as "s3:GetObject", -1 for one that is not known.
func actionNumber(action string) int {
	name, ok := strings.CutPrefix(action, "s3:")
	if !ok {
		return -1
	}
	if i, ok := slices.BinarySearch(actionNames, name); ok {
		return i
	}
	return -1
}

func (a *actionSet) has(number int, action string) bool {
	if number >= 0 {
		return a.bits[number/64]&(1<<(number%64)) != 0
	}
	action = strings.ToLower(action)
	for i := range a.patterns {
		if a.patterns[i].match(action, nil, false) {
			return true
		}
	}
	return false
}

// add adds an action or a pattern of actions and reports whether it stands for any known one. Of other services
// than S3, which identity and trust policies may name, only the form is checked.
func (a *actionSet) add(s string, g grammar) bool {
	p, _ := parsePattern(strings.ToLower(s), true, false)
	if s == "*" {
		for i := range a.bits {
			a.bits[i] = ^uint64(0)
		}
		a.patterns = append(a.patterns, p)
		return true
	}
	service, name, ok := strings.Cut(s, ":")
	if !ok || service == "" || name == "" {
		return false
	}
	if !strings.EqualFold(service, "s3") {
		a.patterns = append(a.patterns, p)
		return g == ofIdentity && !strings.ContainsAny(service, "*?") || g == ofTrust && strings.EqualFold(service, "sts")
	}
	known := false
	for i, name := range actionNames {
		if p.match("s3:"+strings.ToLower(name), nil, false) {
			a.bits[i/64] |= 1 << (i % 64)
			known = true
		}
	}
	a.patterns = append(a.patterns, p)
	return known && g != ofTrust
}
