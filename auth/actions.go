package auth

import "firn"

// actionInfo is what Authorize knows about an action.
type actionInfo struct {
	read     bool       // a read grant allows it
	write    bool       // a write grant allows it
	object   Permission // what of the object's ACL allows it; set, the content or ACL of an object is touched
	bucket   Permission // what of the bucket's ACL allows it
	list     bool       // lists keys: a grant on a prefix allows listing below it
	about    bool       // tells about the bucket; a grant on a prefix allows it too
	service  bool       // about no bucket
	create   bool       // makes a bucket
	ofPolicy bool       // reads or changes the bucket's policy
	uploader bool       // open to who owns the object or started the upload
	tags     bool       // sets tags: who may put a new object by the bucket's ACL may give it tags
}

// actionTable holds the actions that grants or ACLs can allow. All others belong to bucket owners and
// policies. ACL permissions are those of "Mapping of ACL permissions and access policy permissions" in the
// Amazon S3 user guide.
var actionTable = map[string]actionInfo{
	"s3:ListAllMyBuckets": {service: true},
	"s3:CreateBucket":     {create: true},

	"s3:ListBucket":                       {read: true, list: true, bucket: PermRead},
	"s3:ListBucketVersions":               {read: true, list: true, bucket: PermRead},
	"s3:ListBucketMultipartUploads":       {read: true, list: true, bucket: PermRead},
	"s3:GetBucketLocation":                {read: true, about: true, bucket: PermRead},
	"s3:GetBucketVersioning":              {read: true, about: true},
	"s3:GetBucketObjectLockConfiguration": {read: true, about: true},
	"s3:GetBucketTagging":                 {read: true},
	"s3:GetBucketCORS":                    {read: true},
	"s3:GetLifecycleConfiguration":        {read: true},
	"s3:GetEncryptionConfiguration":       {read: true},
	"s3:GetBucketAcl":                     {bucket: PermReadACP},
	"s3:PutBucketAcl":                     {bucket: PermWriteACP},
	"s3:GetBucketPolicy":                  {ofPolicy: true},
	"s3:PutBucketPolicy":                  {ofPolicy: true},
	"s3:DeleteBucketPolicy":               {ofPolicy: true},

	"s3:GetObject":                  {read: true, object: PermRead},
	"s3:GetObjectVersion":           {read: true, object: PermRead},
	"s3:GetObjectAttributes":        {read: true, object: PermRead},
	"s3:GetObjectVersionAttributes": {read: true, object: PermRead},
	"s3:GetObjectAcl":               {read: true, object: PermReadACP},
	"s3:GetObjectVersionAcl":        {read: true, object: PermReadACP},
	"s3:PutObjectAcl":               {object: PermWriteACP},
	"s3:PutObjectVersionAcl":        {object: PermWriteACP},
	"s3:GetObjectTagging":           {read: true, uploader: true},
	"s3:GetObjectVersionTagging":    {read: true, uploader: true},
	"s3:GetObjectRetention":         {read: true},
	"s3:GetObjectLegalHold":         {read: true},

	"s3:PutObject":                  {write: true, bucket: PermWrite},
	"s3:DeleteObject":               {write: true, bucket: PermWrite},
	"s3:DeleteObjectVersion":        {write: true},
	"s3:PutObjectTagging":           {write: true, uploader: true, tags: true},
	"s3:PutObjectVersionTagging":    {write: true, uploader: true},
	"s3:DeleteObjectTagging":        {write: true, uploader: true},
	"s3:DeleteObjectVersionTagging": {write: true, uploader: true},
	"s3:PutObjectRetention":         {write: true},
	"s3:RestoreObject":              {write: true},
	"s3:AbortMultipartUpload":       {write: true, uploader: true},
	"s3:ListMultipartUploadParts":   {write: true, uploader: true},
}

func lookupAction(name string) actionInfo { return actionTable[name] }

// AccountID returns the 12-digit account id that stands for a user in ARNs such as
// arn:aws:iam::123456789012:root. It is derived from the canonical id; "" for an id that is none.
func AccountID(canonical string) string {
	if len(canonical) < 15 {
		return ""
	}
	var n uint64
	for i := range 15 {
		switch c := canonical[i]; {
		case '0' <= c && c <= '9':
			n = n<<4 | uint64(c-'0')
		case 'a' <= c && c <= 'f':
			n = n<<4 | uint64(c-'a'+10)
		default:
			return ""
		}
	}
	var b [12]byte
	for i := len(b) - 1; i >= 0; i-- {
		b[i] = byte('0' + n%10)
		n /= 10
	}
	return string(b[:])
}

func (id *Identity) account() string {
	if id.Account != "" {
		return id.Account
	}
	return AccountID(id.Canonical)
}

// ErrInvalidGrant is wrapped by ParseGrant's errors.
var ErrInvalidGrant = firn.NewError(firn.Invalid, "invalid grant")
