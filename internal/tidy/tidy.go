// Package tidy holds the rules of this module's layout that the compiler cannot hold: which package may import
// which, what a package must say about itself, how large it may grow. Its test is where they are checked.
//
// It owns the list of allowed edges. It must never be imported.
package tidy

// Edge is one allowed import within the module, with the reason for it.
type Edge struct{ From, To, Why string }

// Edges are all allowed imports between the module's packages, tests excepted. The root package, the vocabulary,
// may be imported by all and is not listed. A trailing "/..." stands for the package and what is below it.
func Edges() []Edge {
	return []Edge{
		{"block", "seal", "seals blocks"},
		{"vfs/cryptfs", "seal", "derives the keys of files"},
		{"vfs/cryptfs", "vfs", "is a file system over another"},
		{"block", "vfs", "reads and writes part files"},
		{"kv/pebblekv", "kv", "implements its DB"},
		{"kv/pebblekv", "vfs", "runs on the same file system as the part files, so that one crash clone covers both"},
		{"kv/kvtest", "kv", "holds every engine to the contract"},
		{"kv/kvtest", "vfs", "reopens engines from crash clones"},

		{"object", "hlc", "orders versions and journal entries"},
		{"object", "kv", "keeps records and journal in one transaction"},
		{"object", "block", "frames and checks content"},
		{"object", "object/envelope", "seals the keys of encrypted parts"},
		{"object", "object/record", "stores its records and finds them by its keys"},
		{"object", "object/check", "hands itself over to be checked"},
		{"object", "object/listing", "answers listings"},
		{"object", "object/remote", "reads what is on tiers"},
		{"object", "object/space", "refuses writes before the disk is full"},
		{"object/check", "block", "reads what orphans were"},
		{"object/check", "kv", "walks all records"},
		{"object/check", "object/blobs", "walks all part files"},
		{"object/check", "object/record", "decodes records"},
		{"object/listing", "hlc", "shows times"},
		{"object/listing", "kv", "walks keys"},
		{"object/listing", "object/record", "decodes records"},
		{"object/remote", "block", "verifies what comes from tiers"},
		{"object/remote", "object/record", "knows where content is"},
		{"object/remote", "vfs", "makes part files again"},
		{"object/space", "vfs", "asks for free space"},
		{"object/record", "hlc", "stores clocks"},
		{"object/record", "object/envelope", "stores how content is encrypted"},
		{"object", "seal", "passes on data keys"},
		{"object/envelope", "seal", "derives and seals keys"},
		{"object", "vfs", "walks and measures the directory of part files"},
		{"object", "object/blobs", "owns part files"},
		{"object", "object/digest", "computes ETags and checksums while content streams through"},
		{"object/blobs", "vfs", "creates, syncs and removes part files"},

		{"node", "lifecycle/runner", "carries out the rules of buckets"},
		{"node", "lifecycle", "counts by action"},
		{"lifecycle/runner", "lifecycle", "asks what is to be done"},
		{"lifecycle/runner", "object", "walks and changes the namespace"},
		{"lifecycle/runner", "object/listing", "asks for pages of versions"},
		{"lifecycle/runner", "object/record", "reads versions"},
		{"tier/plain", "blob", "keeps its blobs in a store"},
		{"blob", "blob/driver", "is the caller's side of it"},
		{"blob/drivertest", "blob", "looks for abilities as callers do"},
		{"blob/drivertest", "blob/driver", "holds every driver to the contract"},
		{"blob/fileblob", "blob", "checks keys and sources"},
		{"blob/fileblob", "blob/driver", "implements it"},
		{"blob/fileblob", "blob/layout", "names files, and walks them in the contract's order"},
		{"blob/fileblob", "vfs", "writes files, so that crash clones and injected faults reach them"},
		{"blob/places", "blob", "opens stores"},
		{"blob/places", "blob/driver", "puts wrappers in front of drivers"},
		{"blob/places", "blob/davblob", "is the list of all drivers"},
		{"blob/places", "blob/fileblob", "is the list of all drivers"},
		{"blob/places", "blob/gitblob", "is the list of all drivers"},
		{"blob/places", "blob/memblob", "is the list of all drivers"},
		{"blob/places", "blob/pgblob", "is the list of all drivers"},
		{"blob/places", "blob/radosblob", "is the list of all drivers"},
		{"blob/places", "blob/redisblob", "is the list of all drivers"},
		{"blob/places", "blob/s3blob", "is the list of all drivers"},
		{"blob/places", "blob/sftpblob", "is the list of all drivers"},
		{"blob/places", "blob/sqliteblob", "is the list of all drivers"},
		{"blob/places", "blob/wrap/compress", "switched on by a place's settings"},
		{"blob/places", "blob/wrap/encrypt", "switched on by a place's settings"},
		{"blob/places", "blob/wrap/limit", "switched on by a place's settings"},
		{"blob/places", "blob/wrap/mirror", "opens places that are several others"},
		{"blob/places", "blob/wrap/readcache", "switched on by a place's settings"},
		{"blob/places", "blob/wrap/prefix", "opens what is below a named place"},
		{"blob/places", "blob/wrap/retry", "switched on for places on other machines"},
		{"blob/memblob", "blob", "checks keys and sources"},
		{"blob/memblob", "blob/driver", "implements it"},

		{"blob/s3blob", "blob", "reads sources exactly"},
		{"blob/s3blob", "blob/driver", "implements it"},
		{"blob/sqliteblob", "blob", "reads sources exactly"},
		{"blob/sqliteblob", "blob/driver", "implements it"},
		{"blob/pgblob", "blob", "reads sources exactly"},
		{"blob/pgblob", "blob/driver", "implements it"},
		{"blob/redisblob", "blob", "reads sources exactly"},
		{"blob/redisblob", "blob/driver", "implements it"},
		{"blob/s3blob", "blob/httpbody", "sends sources"},
		{"blob/davblob", "blob", "reads sources exactly"},
		{"blob/davblob", "blob/driver", "implements it"},
		{"blob/davblob", "blob/httpbody", "sends sources"},
		{"blob/davblob", "blob/layout", "lays files as the file driver does"},
		{"blob/layout", "blob", "checks keys"},
		{"blob/layout", "blob/driver", "walks in the contract's order"},
		{"blob/sftpblob", "blob", "reads sources exactly"},
		{"blob/sftpblob", "blob/driver", "implements it"},
		{"blob/sftpblob", "blob/layout", "lays files as the file driver does"},
		{"blob/wrap/...", "blob", "finds abilities through wrappers, reads sources exactly"},
		{"blob/wrap/...", "blob/driver", "implements it in front of another"},
		{"blob/wrap/readcache", "vfs", "locks its directory"},
		{"blob/wrap/...", "blob/wrap", "shows the abilities of the driver behind"},

		{"cache", "vfs", "writes segments, so that crash clones and injected faults reach them"},

		{"cache", "telemetry", "describes its metrics"},
		{"cache/rediscache", "cache", "is a level of it"},
		{"cache/simulate", "prefetch", "learns from the log as a site does"},

		{"keys", "seal", "wraps data keys, seals the keyring"},

		{"auth", "kv", "keeps users beside the namespace"},
		{"auth", "auth/policy", "decides with the bucket's policy"},
		{"auth", "seal", "seals secrets and session tokens"},
		{"auth/sigv4", "auth", "returns the identity behind a signature"},

		{"iamapi", "auth", "manages users, groups, roles, policies and keys"},
		{"iamapi", "auth/policy", "asks the trust of roles"},
		{"iamapi", "auth/sigv4", "verifies signatures"},
		{"s3api", "object", "translates requests into calls of the namespace"},
		{"s3api", "object/listing", "asks for pages of listings"},
		{"s3api", "object/record", "speaks of versions, buckets and parts"},
		{"s3api", "seal", "passes on data keys"},
		{"s3api", "s3api/sse", "has content encrypted as clients ask"},
		{"s3api/sse", "keys", "has data keys made and opened"},
		{"s3api/sse", "object/envelope", "says how content is encrypted"},
		{"s3api/sse", "s3api/s3doc", "reads buckets' default encryption"},
		{"s3api/sse", "s3api/s3err", "refuses as S3 does"},
		{"s3api/sse", "seal", "opens data keys with clients' own"},
		{"s3api", "auth", "asks who calls and what they may do"},
		{"s3api", "auth/sigv4", "verifies signatures"},
		{"s3api", "auth/policy", "validates policies before they are stored"},
		{"s3api", "pace", "holds users to their bounds"},
		{"s3api", "s3api/postform", "takes uploads of browsers"},
		{"s3api", "s3api/s3doc", "reads and writes the documents of buckets"},
		{"s3api", "s3api/s3err", "answers with its errors"},
		{"s3api/postform", "s3api/s3err", "refuses a form as S3 does"},
		{"s3api/s3doc", "auth", "reads and writes its access control lists and bucket settings"},
		{"s3api/s3doc", "s3api/s3err", "refuses a document as S3 does"},

		{"blob/gitblob", "blob", "leaves out files of a branch whose names cannot be keys"},
		{"blob/gitblob", "blob/driver", "implements it"},
		{"blob/gitblob", "internal/gitrepo", "drives git"},
		{"archive/gittree", "internal/gitrepo", "drives git"},
		{"blob/radosblob", "blob/driver", "implements it"},

		{"archive/sqltree", "archive/scan", "reads extended attributes"},

		{"repo", "blob", "keeps packs, index and snapshots in a place"},
		{"repo", "blob/driver", "reads what listings say of blobs"},
		{"repo", "chunk", "gives its users cut points under its own key"},
		{"repo", "seal", "encrypts all it stores"},

		{"archive", "archive/scan", "finds files, and what is excluded"},
		{"archive", "archive/tree", "describes files in the repository"},
		{"archive", "repo", "keeps content and trees as chunks, and snapshots"},
		{"archive/lease", "blob", "keeps its records in a place"},
		{"archive/sidecar", "archive/sqltree", "keeps versions as rows"},
		{"archive/sidecar", "archive/gittree", "keeps versions as commits"},
		{"archive/sidecar", "archive", "backs up and restores"},
		{"archive/sidecar", "archive/lease", "lets one write"},
		{"archive/sidecar", "archive/scan", "looks at the directory"},
		{"archive/sidecar", "archive/tree", "knows files from directories"},
		{"archive/sidecar", "blob", "opens the place of the lease"},
		{"archive/sidecar", "repo", "keeps versions as snapshots"},
		{"archive/scan", "archive/tree", "walks in its order, knows its types"},
		{"archive/tree", "repo", "makes and reads tree chunks"},

		{"audit", "vfs", "syncs its directory"},
		{"tlsconf", "vfs", "syncs the directory of what it makes"},

		{"adminapi", "auth", "manages users"},

		{"node", "adminapi", "serves the admin endpoint"},
		{"node", "auth", "opens the users"},
		{"node", "iamapi", "serves IAM and STS"},
		{"node", "seal", "keeps the key of secrets"},
		{"node", "config", "builds what it describes"},
		{"node", "keys", "opens the keyring, sets up key services"},
		{"node", "object/envelope", "has data keys wrapped anew"},
		{"node", "vfs/cryptfs", "encrypts a whole data directory"},
		{"node", "cache", "opens the levels of the edge cache"},
		{"node", "edgehttp", "serves the edge cache"},
		{"node", "blob/places", "reads the credentials of origins"},
		{"node", "hlc", "shows the time of journal entries"},
		{"node", "kv", "knows the error of an engine that stopped"},
		{"node", "kv/pebblekv", "the one concrete engine; node alone chooses drivers"},
		{"node", "object", "opens the namespace"},
		{"node", "object/check", "has stores checked"},
		{"node", "object/record", "speaks of buckets and journal entries"},
		{"accesslog", "kv", "spools lines beside the namespace"},
		{"node", "accesslog", "delivers the access logs that buckets ask for"},
		{"node", "auth/sigv4", "says in access logs how a request was signed"},
		{"node", "audit", "records what is asked of the site"},
		{"node", "pace", "bounds users"},
		{"node", "proxied", "knows clients behind trusted proxies"},
		{"node", "tlsconf", "puts TLS in front of listeners"},
		{"node", "s3api", "serves the S3 endpoint"},
		{"node", "telemetry", "measures all of them"},
		{"node", "vfs", "the one concrete file system; locks the data directory"},

		{"edgehttp", "cache", "keeps entries and slices"},

		{"cli", "agefile", "encrypts files for people"},
		{"cli", "adminapi", "speaks its documents"},
		{"cli", "archive", "backs up, restores, and looks into snapshots"},
		{"cli", "archive/scan", "reads files of exclude patterns"},
		{"cli", "archive/schedule", "runs the backups of the configuration at their times"},
		{"cli", "archive/tree", "shows files of snapshots"},
		{"cli", "audit", "verifies the audit log"},
		{"cli", "auth", "reads and shows grants"},
		{"cli", "blob/gitblob", "reads the URL of a Git repository for plain files"},
		{"cli", "archive/sqltree", "opens what a sidecar keeps files in"},
		{"cli", "archive/gittree", "opens what a sidecar keeps files in"},
		{"cli", "archive/sidecar", "runs it and speaks to it"},
		{"cli", "blob", "runs the commands for places"},
		{"cli", "blob/driver", "shows what a place can do"},
		{"cli", "blob/places", "opens the places of commands"},
		{"cli", "blob/wrap/mirror", "tells logs and metrics of its places"},
		{"cli", "cache/simulate", "replays access logs"},
		{"cli", "config", "loads the configuration"},
		{"cli", "doctor", "says what endangers a site"},
		{"cli", "loadgen", "runs the benchmark"},
		{"cli", "node", "runs a site, finds the one that runs, checks one offline"},
		{"cli", "repo", "opens and tends repositories"},
		{"cli", "telemetry", "makes the log"},
		{"cli", "tlsconf", "shows the site's own authority, and knows its certificate"},
		{"cli", "transfer", "runs the client verbs"},
		{"cmd/firn", "cli", "is its main"},

		{"bench", "loadgen", "drives the servers it compares"},
		{"test/...", "test/...", "tests of the real binary share their server, ledger and wire client"},
	}
}

// Drivers are the concrete implementations behind an interface. Only node and cli may import them.
func Drivers() []string { return []string{"kv/pebblekv"} }

// Format says which page of docs/format describes what a package stores.
type Format struct{ Package, Page string }

// Formats are all stored formats.
func Formats() []Format {
	return []Format{
		{"archive/tree", "file-tree.md"},
		{"accesslog", "access-log.md"},
		{"audit", "audit.md"},
		{"block", "block.md"},
		{"kv/pebblekv", "kv.md"},
		{"blob/fileblob", "blob-file.md"},
		{"cache", "cache.md"},
		{"cache/rediscache", "cache-redis.md"},
		{"lifecycle", "use.md"},
		{"tier/plain", "tier-plain.md"},
		{"blob/gitblob", "blob-git.md"},
		{"blob/radosblob", "blob-rados.md"},
		{"archive/gittree", "git-plain.md"},
		{"archive/sqltree", "sql-plain.md"},
		{"blob/pgblob", "blob-sql.md"},
		{"blob/redisblob", "blob-redis.md"},
		{"blob/sqliteblob", "blob-sql.md"},
		{"object/record", "namespace.md"},
		{"object/envelope", "encryption.md"},
		{"vfs/cryptfs", "encryption.md"},
		{"keys", "encryption.md"},
		{"auth", "users.md"},
		{"s3api/s3doc", "bucket-documents.md"},
		{"node", "data-directory.md"},
		{"repo", "repository.md"},
		{"archive/lease", "lease.md"},
		{"archive/sidecar", "sidecar.md"},
		{"blob/wrap/encrypt", "blob-encrypt.md"},
		{"blob/wrap/compress", "blob-compress.md"},
		{"blob/wrap/mirror", "blob-mirror.md"},
		{"blob/wrap/readcache", "blob-readcache.md"},
	}
}

// MaxPackage is how many lines a package may have, tests excepted, before it is two.
const MaxPackage = 6000

// Large is a package that may be larger, and why it is not two.
type Large struct {
	Package string
	Lines   int
	Why     string
}

// LargePackages are all such packages.
func LargePackages() []Large {
	return []Large{
		{"s3api", 6500, "one handler an operation of S3; documents, errors, forms and encryption headers are out already"},
		{"cli", 8000, "one file a group of commands; what commands do is in other packages"},
	}
}
