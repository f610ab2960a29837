// Package config owns the settings of a site: what keys exist, what they mean, their defaults, and how a
// file, the environment and the command line set them.
//
// It promises that a Config it returns is valid, that every key can be given in all three places, that a key
// it does not know fails with the file, the line, the column and the nearest key it does know, and that no
// error or dump shows a secret. Only node and cli import it: a subsystem gets its own options, never a Config.
package config

import "time"

// Config is the settings of a site. The comment of a field is its manual: `firn config keys` and
// docs/configuration.md are made from it. Keys in the file are written as in the yaml tags, sections nested;
// the flag of journal.keep is --journal-keep and its variable FIRN_JOURNAL_KEEP. A flag wins over the
// environment, the environment over the file, the file over the default.
type Config struct {
	// Directory that holds everything the site stores. It is made with mode 0700 where it does not exist.
	Data string `yaml:"data"`
	// Address of the S3 endpoint, as host:port. An empty host listens on every interface.
	Listen string `yaml:"listen"`
	// Address of the admin endpoint: health, metrics, profiles and the admin API. On loopback it speaks plain
	// HTTP. On any other address it speaks TLS as tls sets it up, and without tls it is refused.
	AdminListen string `yaml:"admin_listen"`
	// Whether the admin endpoint may speak plain HTTP on an address that is not loopback, where its token and new
	// secrets can be read on the way: in a container behind its own network, say.
	AdminAllowPlain bool `yaml:"admin_allow_plain"`
	// Addresses and networks (10.0.0.0/8) of reverse proxies in front of the site. X-Forwarded-For,
	// X-Forwarded-Proto and Forwarded say who the client is where they come from one of these, and count for
	// nothing from anybody else.
	TrustedProxies []string `yaml:"trusted_proxies"`
	// Access key of the root user. Give it together with secret_key, or neither: then a pair is generated at
	// the first start and kept in the data directory.
	AccessKey string `yaml:"access_key"`
	// Secret key of the root user, 8 characters or more. On the command line other users of the machine can
	// see it: prefer the file or the environment.
	SecretKey Secret `yaml:"secret_key"`
	// Region that clients sign for and that the site answers to.
	Region string `yaml:"region"`
	// Host names under which BUCKET.NAME addresses a bucket (virtual-host style). Path style always works.
	Domains []string `yaml:"domains"`
	// What a success means. fsync: bytes, metadata and journal entry are on stable storage. relaxed: they
	// are not yet, so a power loss, a crash of the machine or of firn itself takes back acknowledged writes,
	// those of about the last second and, for large objects, what the operating system had not written.
	// fsync or relaxed.
	Durability string `yaml:"durability"`
	// Memory the process aims to stay below. Caches and write buffers are sized from it, and the garbage
	// collector works harder near it. At least 64MiB.
	MemoryLimit Size `yaml:"memory_limit"`
	// Free space kept on the disk of the data directory. Below it writes are refused with 507 while reads
	// and deletes go on. The metadata store's log, flushes and compactions live on it: keep some 256MiB at
	// least. 0 keeps none.
	Reserve Size `yaml:"reserve"`
	// Bytes a second the scrubber reads to check stored data in the background. 0 turns it off.
	ScrubRate Rate `yaml:"scrub_rate"`
	// Age at which a multipart upload that was never completed is removed.
	UploadMaxAge Duration `yaml:"upload_max_age"`

	// Encryption of connections. docs/tls.md tells how.
	TLS TLS `yaml:"tls"`
	// The journal of every change.
	Journal Journal `yaml:"journal"`
	// What is written about the site's running, and how.
	Log Log `yaml:"log"`
	// Encryption of what is stored, and where its keys are kept. docs/encryption.md tells how they fit together.
	Encryption Encryption `yaml:"encryption"`
	// Bounds on what clients can make the site do at once.
	Limits Limits `yaml:"limits"`
	// Record of who did what, in a chain that shows changes. docs/audit.md tells how.
	Audit Audit `yaml:"audit"`
	// Access logs that buckets ask for. docs/access-log.md tells how.
	AccessLog AccessLog `yaml:"access_log"`
	// Lifecycle rules of buckets. docs/lifecycle.md tells how.
	Lifecycle Lifecycle `yaml:"lifecycle"`
	// When and how fast content moves to tiers and back.
	Moves Moves `yaml:"moves"`
	// Measurements.
	Metrics Metrics `yaml:"metrics"`

	// Places by name, for commands and sections that take the URL of a place: place:NAME, or place:NAME/PREFIX for
	// what is below a prefix in it. docs/places.md tells the URLs. In the file only, one section a name.
	Places map[string]Place `yaml:"places"`
	// Tiers by name, the warmest first: places where the bytes of versions live instead of in the data directory.
	// docs/tiers.md tells how. A name is for good, since versions on the tier name it. In the file only, one section a
	// name.
	Tiers []Tier `yaml:"tiers"`
	// Rules by temperature, by name: which tier objects belong on by their age and by when and how often they are read.
	// docs/lifecycle.md tells how. Of several rules that are for an object the one that asks for the most tags counts, of
	// those the one that names its bucket, and of those the one with the longest prefix. In the file only, one section a
	// name.
	Temperature []Temperature `yaml:"temperature"`
	// Backups by name, run by firn agent and firn serve at their times. docs/backup.md tells what a backup keeps. In
	// the file only, one section a name.
	Backups map[string]Backup `yaml:"backups"`

	// What is kept of contents that are slow to get: those of tiers, and of the edge cache. docs/cache.md tells how.
	Cache ContentCache `yaml:"cache"`
	// The HTTP edge cache. docs/edge-cache.md tells how.
	Edge Edge `yaml:"edge"`
	// Rules of the edge cache by name: where paths come from and how long they are kept. In the file only, one section a
	// name.
	EdgeRules map[string]EdgeRule `yaml:"edge_rules"`
}

// ContentCache configures what is kept of contents of tiers and of the edge cache.
type ContentCache struct {
	// Memory for contents that are asked for often, beside memory_limit. It is taken only where there are tiers or an edge
	// cache, as is the disk.
	Memory Size `yaml:"memory"`
	// Bytes that the files in cache.dir hold together at most, 4MiB or more. 0 keeps contents in memory only.
	Disk Size `yaml:"disk"`
	// Directory for contents on a fast local disk, which survive a restart. By default cache in the data directory.
	Dir string `yaml:"dir"`
	// Time after which what is kept is forgotten, however often it is read. 0 is never.
	TTL Duration `yaml:"ttl"`
	// Bytes a second, over time, that are fetched from tiers ahead of being read: what follows in a large object that is
	// read in order, objects that were read next so far, and the rest of a directory that is read again. 0 fetches
	// nothing ahead.
	Prefetch Rate `yaml:"prefetch"`
	// URL of a Redis that nodes share, such as redis://host:6379/0?prefix=NAME (redis, rediss, redis+cluster or
	// rediss+cluster), without password: a third level, and how nodes tell each other of purges. Its size and what it
	// evicts are its own affair (maxmemory). Empty for none.
	Redis string `yaml:"redis"`
	// File with username and password for cache.redis.
	RedisCredentials string `yaml:"redis_credentials"`
}

// Edge configures the HTTP edge cache.
type Edge struct {
	// Address of the edge cache, as host:port. Empty turns it off. It speaks TLS where tls is set up.
	Listen string `yaml:"listen"`
	// Name of this node in X-Edge-Node and Via. Nodes in a row need different ones. By default the machine's name.
	Node string `yaml:"node"`
	// Size of the slices in which contents are fetched and kept, 4KiB to 8MiB.
	Slice Size `yaml:"slice"`
	// Addresses and networks that may purge, such as 10.0.0.0/8. By default nobody.
	PurgeFrom []string `yaml:"purge_from"`
	// Time that an origin has for the header of an answer, and for each next part of it.
	Timeout Duration `yaml:"timeout"`
}

// EdgeRule is a rule of the edge cache.
type EdgeRule struct {
	// What the paths begin with that it is for. Of several rules the one with the longest prefix counts.
	Prefix string `yaml:"prefix"`
	// Whether the prefix is taken off before the origin is asked.
	Strip bool `yaml:"strip"`
	// Where contents come from: http:// and https:// URLs, s3://BUCKET?endpoint=URL&region=NAME with credentials, or
	// bucket:NAME for a bucket of this site, whose objects then are for everybody who reaches the edge cache. The next
	// one is asked where one fails.
	Origins []string `yaml:"origins"`
	// File with access_key and secret_key for the s3: origins.
	Credentials string `yaml:"credentials"`
	// Times for which answers are fresh that do not say so themselves, by status, such as 200=7d. Answers with other
	// statuses are not kept unless they say so.
	TTL []string `yaml:"ttl"`
	// Whether ttl counts whatever the origin says, no-store and private included.
	Override bool `yaml:"override"`
	// Time after which something is forgotten that nobody asked for.
	Inactive Duration `yaml:"inactive"`
	// Time for which something that is not fresh any more is served while the origin fails. 0 is as long as it is there.
	StaleIfError Duration `yaml:"stale_if_error"`
	// Time for which something that is not fresh any more is served at once, while the origin is asked.
	StaleWhileRevalidate Duration `yaml:"stale_while_revalidate"`
	// Whether all queries of a path are one content.
	IgnoreQuery bool `yaml:"ignore_query"`
	// Request headers, such as Authorization, with which a request is passed to the origin, with them, and nothing is
	// kept.
	Pass []string `yaml:"pass"`
	// Whether everything is passed to the origin, and nothing is kept.
	Bypass bool `yaml:"bypass"`
}

// DefaultEdgeRule returns the settings of a rule of which only prefix and origins are given.
func DefaultEdgeRule() EdgeRule {
	return EdgeRule{TTL: []string{"200=7d", "301=1h", "308=1h", "404=1m", "410=1m"}, Inactive: 7 * day}
}

// Backup is a backup at its times.
type Backup struct {
	// URL of the repository, or place:NAME. It must have been made by firn repo init.
	Repository string `yaml:"repository"`
	// File with the password of the repository.
	PasswordFile string `yaml:"password_file"`
	// Shell command that prints the password of the repository.
	PasswordCommand string `yaml:"password_command"`
	// Compression of what is stored: default, fastest, better or off. What is stored already stays as it is.
	Compression string `yaml:"compression"`
	// Files and directories to back up, absolute.
	Paths []string `yaml:"paths"`
	// Shell command whose output is backed up in their place. If it fails there is no snapshot.
	Command string `yaml:"command"`
	// Name of the output of command in the snapshot, such as db.sql.
	As string `yaml:"as"`
	// Patterns, as of gitignore, of what is left out.
	Exclude []string `yaml:"exclude"`
	// Whether other file systems than those of the paths are left out.
	OneFileSystem bool `yaml:"one_file_system"`
	// When it runs: an interval such as every 6h, the five fields of cron, or @hourly, @daily, @weekly, @monthly. A
	// run that was missed is made up for once.
	Schedule string `yaml:"schedule"`
	// Runs are moved back by up to this much, each backup by its own time, so that many do not begin together.
	Jitter Duration `yaml:"jitter"`
	// Number of newest snapshots that are kept. Where no keep key is given nothing is forgotten.
	KeepLast int `yaml:"keep_last"`
	// Number of hours whose newest snapshot is kept.
	KeepHourly int `yaml:"keep_hourly"`
	// Number of days whose newest snapshot is kept.
	KeepDaily int `yaml:"keep_daily"`
	// Number of weeks whose newest snapshot is kept.
	KeepWeekly int `yaml:"keep_weekly"`
	// Number of months whose newest snapshot is kept.
	KeepMonthly int `yaml:"keep_monthly"`
	// Number of years whose newest snapshot is kept.
	KeepYearly int `yaml:"keep_yearly"`
	// Snapshots not older than this before the newest are kept.
	KeepWithin Duration `yaml:"keep_within"`
	// When what no snapshot needs any more is removed from the repository. Empty for never.
	Prune string `yaml:"prune"`
	// When a restore drill runs. Empty for never.
	Drill string `yaml:"drill"`
	// Part of the files that a drill restores, such as 5% or 100%.
	DrillSample string `yaml:"drill_sample"`
	// Shell command that runs before a backup. If it fails nothing is backed up.
	Pre string `yaml:"pre"`
	// Shell command that runs after a backup, also after one that failed: FIRN_RESULT is ok or failed.
	Post string `yaml:"post"`
}

// DefaultBackup returns the settings of a backup of which nothing is given.
func DefaultBackup() Backup { return Backup{DrillSample: "5%"} }

// Place is one place that keeps blobs.
type Place struct {
	// URL of the place, without password. docs/places.md lists the schemes.
	URL string `yaml:"url"`
	// Names of two other places or more that keep the same blobs, in the place of a url. Reads take the first that
	// has a right copy. Make it with firn blob init place:NAME; a name stays with its place from then on.
	Mirror []string `yaml:"mirror"`
	// How many places of mirror must have a change before it counts, 2 or more. 0 is all; with fewer, writing goes on
	// while places are away, and opening the mirror needs the other places and one of these.
	MirrorWrites int `yaml:"mirror_writes"`
	// Directory that keeps what is read of a repository's packs and indexes; nothing else is cached.
	Cache Cache `yaml:"cache"`
	// File with the place's credentials: lines NAME = VALUE with username and password (or access_key and
	// secret_key), session_token and encryption_password. A relative path starts at the working directory.
	// Without it they come from the environment and the files that are usual for the scheme.
	Credentials string `yaml:"credentials"`
	// Whether what fails and may work a moment later (connection lost, time-out, throttling) is tried again for some
	// minutes. Places on this machine are never tried again.
	Retry bool `yaml:"retry"`
	// Bytes a second of content that are written at most. 0 sets no bound.
	UploadRate Rate `yaml:"upload_rate"`
	// Bytes a second of content that are read at most. 0 sets no bound.
	DownloadRate Rate `yaml:"download_rate"`
	// Whether contents are encrypted with the credentials' encryption_password before they leave. Keys stay
	// readable. A repository encrypts by itself and does not need it.
	Encrypt bool `yaml:"encrypt"`
	// Whether contents are compressed with zstd. A repository compresses by itself and does not need it.
	Compress bool `yaml:"compress"`
}

// Cache is the cache of one place.
type Cache struct {
	// Directory on a fast local disk that keeps what is read of a repository's packs and indexes, which never change;
	// all else is read from the place. One process at a time uses it; others go without.
	Dir string `yaml:"dir"`
	// Bytes that the files in cache.dir hold together at most, 2MiB or more.
	Size Size `yaml:"size"`
}

// Tier is one tier of the site.
type Tier struct {
	Name string `yaml:"-"`
	// URL of the place, without password, or place:NAME or place:NAME/PREFIX for one of places. It belongs to this tier
	// alone. docs/places.md lists the schemes.
	URL string `yaml:"url"`
	// Storage class of the versions on the tier: capitals, digits and _. By default the tier's name in capitals.
	Class string `yaml:"class"`
	// How the bytes are kept. plain: one blob a version, under the object's name, which other tools can read. repository:
	// encrypted, compressed and each like part once, so that the place learns neither contents nor names. A tier keeps its
	// layout.
	Layout string `yaml:"layout"`
	// File with the password of a tier in the layout repository, without the line ends at its end. Without it nothing on
	// the tier can be read, by nobody.
	PasswordFile string `yaml:"password_file"`
	// Shell command that prints the password of a tier in the layout repository.
	PasswordCommand string `yaml:"password_command"`
	// Whether content must be restored (RestoreObject, firn tier recall --for) before it can be read, as with S3 Glacier.
	// Without it content is read from the tier directly.
	Archive bool `yaml:"archive"`
	// How long a local copy stays after a version was moved to the tier. 0 frees the local bytes at once.
	KeepLocal Duration `yaml:"keep_local"`
	// Bytes of versions that the tier takes at most; what would go beyond stays where it is. 0 sets no bound.
	MaxBytes Size `yaml:"max_bytes"`
	// Price of 1 TB (10^12 bytes) for a month, in whatever currency, such as 3.99. firn tier ls multiplies with it.
	Cost string `yaml:"cost"`
}

// Layouts of tiers.
const (
	LayoutPlain      = "plain"
	LayoutRepository = "repository"
)

// DefaultTier returns the settings of a tier of which only the URL is given.
func DefaultTier() Tier { return Tier{Layout: LayoutPlain} }

// Temperature is a rule by temperature.
type Temperature struct {
	Name string `yaml:"-"`
	// Bucket that the rule is for. By default all.
	Bucket string `yaml:"bucket"`
	// What the keys begin with that the rule is for. By default all.
	Prefix string `yaml:"prefix"`
	// Tags that an object needs for the rule to be for it, all of them, such as keep=local. By default none.
	Tags []string `yaml:"tags"`
	// Tier of warm objects. By default they stay where the hot ones are, in the data directory.
	Warm string `yaml:"warm"`
	// Tier of cold objects. By default they stay where the warm ones are.
	Cold string `yaml:"cold"`
	// Age below which an object is hot.
	HotAge Duration `yaml:"hot_age"`
	// An object that was read within this time is warm. As long as min_stay, or longer.
	WarmRead Duration `yaml:"warm_read"`
	// An object that was read more often than this is warm as long as it is younger than warm_age.
	WarmReads uint64 `yaml:"warm_reads"`
	// Age from which an object is cold that was not read within warm_read, however often it was before.
	WarmAge Duration `yaml:"warm_age"`
	// Time that an object stays on the tier it was moved to, before its temperature moves it again.
	MinStay Duration `yaml:"min_stay"`
	// Reads within promote_window that bring an object up to where it belongs: 2 or more.
	PromoteReads uint64 `yaml:"promote_reads"`
	// Time in which promote_reads have to happen, counted in days of UTC: 24h to 192h.
	PromoteWindow Duration `yaml:"promote_window"`
	// Size in bytes below which objects do not leave the data directory.
	MinSize Size `yaml:"min_size"`
	// Temperature at which objects are held, whatever their use: hot, or warm, and hot as long as they are young. hot or
	// warm.
	Pin string `yaml:"pin"`
}

// DefaultTemperature returns the settings of a rule by temperature of which only the tiers are given.
func DefaultTemperature() Temperature {
	return Temperature{
		HotAge: 3 * day, WarmRead: 7 * day, WarmReads: 100, WarmAge: 30 * day,
		MinStay: day, PromoteReads: 3, PromoteWindow: 2 * day, MinSize: 128 * kib,
	}
}

// DefaultPlace returns the settings of a place of which only the URL is given.
func DefaultPlace() Place { return Place{Retry: true} }

// TLS configures the encryption of connections.
type TLS struct {
	// Where certificates come from. off: plain HTTP. files: tls.cert and tls.key, read again when they change.
	// self: an authority of the site's own, made at the first start and kept in the data directory, whose
	// certificate clients must be given (firn tls ca). acme: fetched from an ACME authority such as Let's Encrypt,
	// which must reach the S3 endpoint on port 443 under each of tls.names. off, files, self or acme.
	Mode string `yaml:"mode"`
	// File with the certificate and its intermediates, the site's first, in PEM.
	Cert string `yaml:"cert"`
	// File with the certificate's key in PEM.
	Key string `yaml:"key"`
	// Host names and addresses that certificates are made for: with self beside localhost, this machine's name and
	// domains; with acme exactly these, host names only.
	Names []string `yaml:"names"`
	// Oldest version of TLS spoken. 1.2 or 1.3.
	MinVersion string `yaml:"min_version"`
	// URL of the ACME authority's directory.
	ACMEDirectory string `yaml:"acme_directory"`
	// Address the ACME authority may write to.
	ACMEEmail string `yaml:"acme_email"`
	// File with certificates (PEM) to trust when speaking to the ACME authority, where it is a private one.
	ACMERoots string `yaml:"acme_roots"`
}

// Audit configures the audit log.
type Audit struct {
	// Whether every S3 request and every admin change is recorded.
	Enabled bool `yaml:"enabled"`
	// Directory of the record; empty is audit in the data directory.
	Dir string `yaml:"dir"`
	// What happens while the record cannot be written, the disk being full, say. refuse: requests are answered 503
	// until it can. drop: requests go on, and what was not recorded is counted in the record. refuse or drop.
	OnFailure string `yaml:"on_failure"`
	// Size at which a file of the record is closed and the next begun.
	MaxFile Size `yaml:"max_file"`
	// Age at which a file of the record is closed and the next begun.
	MaxAge Duration `yaml:"max_age"`
	// Age at which a closed file is removed. 0 keeps all.
	Keep Duration `yaml:"keep"`
	// Bytes of closed files kept at most; the oldest are removed. 0 sets no bound.
	KeepSize Size `yaml:"keep_size"`
	// URL that every line is also sent to, several to a POST. The files are what waits while it does not answer.
	Webhook string `yaml:"webhook"`
	// Token sent to the webhook as Authorization: Bearer.
	WebhookToken Secret `yaml:"webhook_token"`
}

// AccessLog configures the access logs that buckets ask for (PutBucketLogging).
type AccessLog struct {
	// Time between deliveries of access logs to the buckets they go to. A log that grows faster than 1MiB in that time
	// is delivered earlier.
	Interval Duration `yaml:"interval"`
}

// Lifecycle configures when the lifecycle rules of buckets are carried out.
type Lifecycle struct {
	// Time between runs of the rules. Each looks at the versions for which something may be due; the first after a start
	// at all versions in buckets that rules are for. 0 leaves it to firn lifecycle run.
	Interval Duration `yaml:"interval"`
	// Tier to which the objects go that were not used for the longest time when the disk of the data directory fills up.
	// By default none do.
	Overflow string `yaml:"overflow"`
	// Percentage of the disk in use from which objects go to overflow.
	High int `yaml:"high"`
	// Percentage of the disk in use down to which they go.
	Low int `yaml:"low"`
}

// Moves configures when and how fast content moves to tiers and back.
type Moves struct {
	// Number of objects that are copied to a tier, or back from it, at once. What somebody waits for goes first: recalls,
	// then moves that were asked for, then recalls by rules, then moves by rules.
	Parallel int `yaml:"parallel"`
	// Bytes a second that moves and recalls take together, reading back what was written included. What is most
	// urgent gets half of it at least. 0 sets no bound. Reads of content that stays on a tier are not bound by it.
	Rate Rate `yaml:"rate"`
	// Times of day, by the clock of the machine, in which rules begin to move content to tiers, such as 22:00-06:00.
	// What has begun is finished, but for copies of more than 64 MiB that can go on in the next one. Empty is always. Recalls, and moves that were asked for, need no window.
	Windows []string `yaml:"windows"`
}

// Journal configures the journal.
type Journal struct {
	// Age at which journal entries are forgotten, once every consumer has read them.
	Keep Duration `yaml:"keep"`
	// Number of journal entries kept at most, once every consumer has read them. At least 10000 are kept.
	KeepEntries uint64 `yaml:"keep_entries"`
}

// Log configures the log.
type Log struct {
	// Least level that is logged: debug, info, warn or error. debug has a line for each request.
	Level string `yaml:"level"`
	// Format of a line: text, json, or auto: text on a terminal and json elsewhere.
	Format string `yaml:"format"`
}

// Encryption configures encryption at rest.
type Encryption struct {
	// Whether everything that the data directory holds is encrypted, the metadata store included. It can be set for a new
	// data directory only, and stays.
	All bool `yaml:"all"`
	// Service that wraps new data keys: keyring, a file of this site, vault, the transit engine of HashiCorp Vault or
	// OpenBao, or kes, a MinIO KES server. What another one wrapped opens as long as that one is configured too.
	// keyring, vault or kes.
	Service string `yaml:"service"`
	// Name of the key for objects that ask for encryption without naming a key. It is made at its first use.
	Key string `yaml:"key"`
	// File of the keyring. By default keyring.json in the data directory: keep it elsewhere where whoever takes the disk
	// must not have it. Without it nothing encrypted can be read: keep a copy.
	Keyring string `yaml:"keyring"`
	// Passphrase that seals the keyring. Prefer the environment or secret_file. One of passphrase, secret_file and
	// secret_command; without any it is keyring.key beside the keyring, made at the first start.
	Passphrase Secret `yaml:"passphrase"`
	// File whose content seals the keyring.
	SecretFile string `yaml:"secret_file"`
	// Command that prints what seals the keyring, such as tpm2_unseal -c 0x81000001. It is run at the start, without a
	// shell.
	SecretCommand string `yaml:"secret_command"`
	// URL of Vault or OpenBao, such as https://vault.example:8200.
	Vault string `yaml:"vault"`
	// Path at which the transit engine is mounted.
	VaultMount string `yaml:"vault_mount"`
	// Namespace of Vault, where it has them.
	VaultNamespace string `yaml:"vault_namespace"`
	// File with the token for Vault. It is read again when Vault refuses the token. Either this or a role.
	VaultTokenFile string `yaml:"vault_token_file"`
	// Role id to log in to Vault with (AppRole).
	VaultRoleID string `yaml:"vault_role_id"`
	// File with the secret id of the role.
	VaultSecretIDFile string `yaml:"vault_secret_id_file"`
	// File with the certificates to trust for Vault, where the system does not.
	VaultCA string `yaml:"vault_ca"`
	// URL of a KES server, such as https://kes.example:7373.
	KES string `yaml:"kes"`
	// File with the client certificate for KES.
	KESCert string `yaml:"kes_cert"`
	// File with the key of the client certificate for KES.
	KESKey string `yaml:"kes_key"`
	// File with the certificates to trust for KES, where the system does not.
	KESCA string `yaml:"kes_ca"`
}

// Limits bound what clients can use.
type Limits struct {
	// Connections open at once on the S3 endpoint. More wait to be accepted.
	Connections int `yaml:"connections"`
	// Requests served at once. More are answered 503 SlowDown.
	Requests int `yaml:"requests"`
	// Time a client has to send the header of a request.
	HeaderTimeout Duration `yaml:"header_timeout"`
	// Time after which a request whose body makes no progress is ended.
	StallTimeout Duration `yaml:"stall_timeout"`
	// Bytes a second that a request's body must bring on average while the site waits for it, or the request is
	// ended. 0 asks for none.
	MinRate Rate `yaml:"min_rate"`
	// Requests a second of one user, with as many at once as two seconds bring. More are answered 503 SlowDown with
	// Retry-After. Root is not bound; who signs nothing is counted by address. 0 sets no bound.
	UserRequests int `yaml:"user_requests"`
	// Requests of one user served at once. More are answered 503 SlowDown. 0 sets no bound.
	UserConcurrent int `yaml:"user_concurrent"`
	// Bytes a second of one user, sent and received together, over all of the user's requests. 64KiB/s at least; 0
	// sets no bound.
	UserRate Rate `yaml:"user_rate"`
	// Time after which a connection without a request is closed.
	IdleTimeout Duration `yaml:"idle_timeout"`
	// Time that requests in flight have to finish after SIGTERM or SIGINT before they are cut off.
	DrainTimeout Duration `yaml:"drain_timeout"`
}

// Metrics configures /metrics.
type Metrics struct {
	// Whether /metrics is served on the admin endpoint.
	Enabled bool `yaml:"enabled"`
}

// Durability modes.
const (
	DurabilityFsync   = "fsync"
	DurabilityRelaxed = "relaxed"
)

// Modes of TLS.
const (
	TLSOff   = "off"
	TLSFiles = "files"
	TLSSelf  = "self"
	TLSACME  = "acme"
)

// What to do while the audit log cannot be written.
const (
	AuditRefuse = "refuse"
	AuditDrop   = "drop"
)

// Services that keep keys.
const (
	ServiceKeyring = "keyring"
	ServiceVault   = "vault"
	ServiceKES     = "kes"
)

const (
	kib Size = 1 << 10
	mib Size = 1 << 20
	gib Size = 1 << 30

	day = Duration(24 * time.Hour)
)

// Default returns the settings of a site that nobody configured.
func Default() Config {
	return Config{
		Data:         "./firn-data",
		Listen:       ":9000",
		AdminListen:  "127.0.0.1:9001",
		Region:       "us-east-1",
		Durability:   DurabilityFsync,
		MemoryLimit:  256 * mib,
		Reserve:      1 * gib,
		ScrubRate:    Rate(4 * mib),
		UploadMaxAge: 7 * day,
		TLS: TLS{
			Mode: TLSOff, MinVersion: "1.2", ACMEDirectory: "https://acme-v02.api.letsencrypt.org/directory",
		},
		Journal:    Journal{Keep: 7 * day, KeepEntries: 1_000_000},
		Log:        Log{Level: "info", Format: "auto"},
		Encryption: Encryption{Service: ServiceKeyring, Key: "default", VaultMount: "transit"},
		Limits: Limits{
			Connections:   8192,
			Requests:      1024,
			HeaderTimeout: Duration(20 * time.Second),
			StallTimeout:  Duration(time.Minute),
			MinRate:       Rate(512),
			IdleTimeout:   Duration(2 * time.Minute),
			DrainTimeout:  Duration(30 * time.Second),
		},
		Audit: Audit{
			OnFailure: AuditRefuse, MaxFile: 64 * mib, MaxAge: day, Keep: 90 * day, KeepSize: 4 * gib,
		},
		AccessLog: AccessLog{Interval: Duration(5 * time.Minute)},
		Lifecycle: Lifecycle{Interval: Duration(time.Hour), High: 85, Low: 75},
		Moves:     Moves{Parallel: 4},
		Metrics:   Metrics{Enabled: true},
		Cache:     ContentCache{Memory: 64 * mib, Disk: 1 * gib, Prefetch: Rate(4 * mib)},
		Edge:      Edge{Slice: 1 * mib, Timeout: Duration(15 * time.Second)},
	}
}
