package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"

	"firn"
	"firn/tier/turns"
)

// FileName is the file that is read from the working directory where none is named.
const FileName = "firn.yaml"

// FileEnv names the file to read.
const FileEnv = "FIRN_CONFIG"

// MaxFile bounds a configuration file, in bytes.
const MaxFile = 1 << 20

// Problem is one thing wrong with a configuration: where, what, and what to do.
type Problem struct {
	Where string // FILE:LINE:COLUMN, "--flag" or "VARIABLE"
	Key   string // may be empty
	What  string
}

func (p Problem) String() string {
	s := p.Where + ": "
	if p.Key != "" {
		s += p.Key + ": "
	}
	return s + p.What
}

// Problems is the error of a configuration: all that is wrong with it, in the order of precedence and place.
type Problems []Problem

func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i := range p {
		lines[i] = p[i].String()
	}
	return strings.Join(lines, "\n")
}

// Sources are where settings come from.
type Sources struct {
	// File is the path of the file; "" means FileEnv's, then FileName in the working directory where it exists.
	File string
	// Env returns a variable of the environment and whether it is set; nil for none.
	Env func(name string) (string, bool)
	// Flags are the values given on the command line, by key name.
	Flags map[string]string
}

// Effective is a valid configuration and where each of its values came from.
type Effective struct {
	Config
	// File is the file that was read, "" for none.
	File string
	// From says for each key where its value came from: "default", FILE:LINE:COLUMN, the variable or the flag.
	From map[string]string
}

// Load reads the configuration from its sources. What is wrong with it is returned as Problems inside a
// *firn.Error of kind Invalid; a file that cannot be read is an error of its own.
func Load(src Sources) (*Effective, error) {
	e := &Effective{Config: Default(), From: map[string]string{}}
	keys := Keys()
	for _, k := range keys {
		e.From[k.Name] = "default"
	}
	getenv := src.Env
	if getenv == nil {
		getenv = func(string) (string, bool) { return "", false }
	}

	path, named := src.File, src.File != ""
	if !named {
		if path, named = getenv(FileEnv); path == "" {
			path, named = FileName, false
		}
	}
	raw, err := readFile(path)
	var problems Problems
	switch {
	case err == nil:
		e.File = path
		problems = e.applyFile(keys, path, raw)
	case !named && errors.Is(err, fs.ErrNotExist):
	default:
		return nil, &firn.Error{Kind: firn.Invalid, Op: "read configuration", Err: err}
	}
	for _, k := range keys {
		if s, ok := getenv(k.Env); ok && s != "" {
			problems = append(problems, e.set(k, k.Env, s)...)
		}
	}
	for _, k := range keys {
		if s, ok := src.Flags[k.Name]; ok {
			problems = append(problems, e.set(k, "--"+k.Flag, s)...)
		}
	}
	if len(problems) == 0 {
		problems = e.validate()
	}
	if len(problems) > 0 {
		return nil, &firn.Error{Kind: firn.Invalid, Op: "configuration", Err: problems}
	}
	return e, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > MaxFile {
		return nil, fmt.Errorf("%s: larger than %s", path, Size(MaxFile))
	}
	return b, nil
}

func (e *Effective) set(k Key, where, value string) Problems {
	e.From[k.Name] = where
	if err := k.Set(&e.Config, value); err != nil {
		return Problems{{Where: where, Key: k.Name, What: err.Error() + quoteValue(k, value)}}
	}
	return nil
}

// quoteValue shows the value that was wrong, unless it is a secret.
func quoteValue(k Key, value string) string {
	if k.Secret {
		return ""
	}
	return fmt.Sprintf(", not %q", value)
}

// validate checks the values against their bounds and each other.
func (e *Effective) validate() Problems {
	var out Problems
	bad := func(key, format string, args ...any) {
		out = append(out, Problem{Where: e.From[key], Key: key, What: fmt.Sprintf(format, args...)})
	}
	oneOf := func(key, value string, allowed ...string) {
		if !slices.Contains(allowed, value) {
			bad(key, "want %s, not %q", strings.Join(allowed, " or "), value)
		}
	}
	addr := func(key, value string) {
		if _, port, err := net.SplitHostPort(value); err != nil || port == "" {
			bad(key, "want host:port, such as :9000 or 127.0.0.1:9000, not %q", value)
		}
	}
	if e.Data == "" {
		bad("data", "must not be empty: name a directory")
	}
	addr("listen", e.Listen)
	addr("admin_listen", e.AdminListen)
	if e.Listen == e.AdminListen && !strings.HasSuffix(e.Listen, ":0") {
		bad("admin_listen", "is the address of listen too: choose another port")
	}
	switch {
	case e.AccessKey != "" && e.SecretKey == "":
		bad("access_key", "is set without secret_key: set both or neither")
	case e.AccessKey == "" && e.SecretKey != "":
		bad("secret_key", "is set without access_key: set both or neither")
	case e.AccessKey != "":
		if n := len(e.AccessKey); n < 3 || n > 128 || strings.ContainsFunc(e.AccessKey, notInAccessKey) {
			bad("access_key", "want 3 to 128 letters, digits or ._@+-")
		}
		if n := len(e.SecretKey); n < 8 || n > 128 || strings.ContainsFunc(e.SecretKey.Reveal(), notPrintable) {
			bad("secret_key", "want 8 to 128 printable characters without blanks")
		}
	}
	if e.Region == "" || strings.ContainsAny(e.Region, "/ \t") {
		bad("region", "want a name such as us-east-1")
	}
	for _, d := range e.Domains {
		if strings.ContainsAny(d, "/: *") || strings.HasPrefix(d, ".") {
			bad("domains", "want host names without scheme, port, wildcard or leading dot, not %q", d)
		}
	}
	e.validateTLS(bad, oneOf)
	e.validateAudit(bad, oneOf)
	e.validateEncryption(bad, oneOf)
	e.validateEdge(bad, addr)
	e.validateCache(bad)
	for _, p := range e.TrustedProxies {
		if _, err := netip.ParsePrefix(p); err != nil && net.ParseIP(p) == nil {
			bad("trusted_proxies", "want addresses and networks such as 10.0.0.0/8, not %q", p)
		}
	}
	oneOf("durability", e.Durability, DurabilityFsync, DurabilityRelaxed)
	oneOf("log.level", e.Log.Level, "debug", "info", "warn", "error")
	oneOf("log.format", e.Log.Format, "auto", "text", "json")
	if e.MemoryLimit < 64*mib {
		bad("memory_limit", "want 64MiB or more, not %s", e.MemoryLimit)
	}
	if e.UploadMaxAge < Duration(1e9*60) {
		bad("upload_max_age", "want 1m or more, not %s", e.UploadMaxAge)
	}
	if e.Journal.Keep <= 0 {
		bad("journal.keep", "want more than 0")
	}
	if e.Limits.Connections < 1 {
		bad("limits.connections", "want 1 or more")
	}
	if e.Limits.Requests < 1 {
		bad("limits.requests", "want 1 or more")
	}
	for _, d := range []struct {
		key   string
		value Duration
	}{
		{"limits.header_timeout", e.Limits.HeaderTimeout},
		{"limits.stall_timeout", e.Limits.StallTimeout},
		{"limits.idle_timeout", e.Limits.IdleTimeout},
	} {
		if d.value < Duration(1e9) {
			bad(d.key, "want 1s or more, not %s", d.value)
		}
	}
	if e.Limits.UserRequests < 0 {
		bad("limits.user_requests", "must not be negative")
	}
	if e.Limits.UserConcurrent < 0 {
		bad("limits.user_concurrent", "must not be negative")
	}
	if r := e.Limits.UserRate; r != 0 && r < Rate(64*kib) {
		bad("limits.user_rate", "want 64KiB/s or more, or 0, not %s", r)
	}
	if e.Limits.MinRate < 0 || e.Limits.MinRate > Rate(64*kib) {
		bad("limits.min_rate", "want 0 to 64KiB/s, not %s", e.Limits.MinRate)
	}
	if e.Limits.DrainTimeout < 0 {
		bad("limits.drain_timeout", "must not be negative")
	}
	return out
}

// complain notes a problem of a key.
type complain func(key, format string, args ...any)

func (e *Effective) validateTLS(bad complain, oneOf func(key, value string, allowed ...string)) {
	t := &e.TLS
	oneOf("tls.mode", t.Mode, TLSOff, TLSFiles, TLSSelf, TLSACME)
	oneOf("tls.min_version", t.MinVersion, "1.2", "1.3")
	for _, f := range []struct{ key, value string }{{"tls.cert", t.Cert}, {"tls.key", t.Key}} {
		switch {
		case t.Mode == TLSFiles && f.value == "":
			bad("tls.mode", "files needs %s: name the file", f.key)
		case t.Mode != TLSFiles && f.value != "":
			bad(f.key, "is read with tls.mode: files only: set that, or remove it")
		}
	}
	if t.Mode == TLSACME {
		if len(t.Names) == 0 {
			bad("tls.mode", "acme needs tls.names: the host names to fetch certificates for")
		}
		for _, n := range t.Names {
			if net.ParseIP(n) != nil || strings.ContainsAny(n, "*:/ ") || !strings.Contains(n, ".") {
				bad("tls.names", "acme wants full host names without wildcard, not %q", n)
			}
		}
		if !strings.HasPrefix(t.ACMEDirectory, "https://") {
			bad("tls.acme_directory", "want a URL with https://")
		}
	}
	if t.Mode == TLSOff && !e.AdminAllowPlain && !loopback(e.AdminListen) {
		bad("admin_listen", "%s is not loopback and tls.mode is off, so its token could be read on the way: "+
			"use 127.0.0.1, set tls.mode, or set admin_allow_plain where the network is trusted", e.AdminListen)
	}
}

// loopback reports whether addr can be reached from this machine only.
func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return true // complained about elsewhere
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (e *Effective) validateAudit(bad complain, oneOf func(key, value string, allowed ...string)) {
	a := &e.Audit
	oneOf("audit.on_failure", a.OnFailure, AuditRefuse, AuditDrop)
	if a.MaxFile < 64*kib {
		bad("audit.max_file", "want 64KiB or more, not %s", a.MaxFile)
	}
	if a.MaxAge < Duration(60e9) {
		bad("audit.max_age", "want 1m or more, not %s", a.MaxAge)
	}
	if i := e.Lifecycle.Interval; i != 0 && i < Duration(1e9) || i > 7*day {
		bad("lifecycle.interval", "want 0, or 1s to 168h, not %s", i)
	}
	if n := e.Moves.Parallel; n < 1 || n > 64 {
		bad("moves.parallel", "want 1 to 64, not %d", n)
	}
	if r := e.Moves.Rate; r != 0 && r < Rate(64*kib) {
		bad("moves.rate", "want 0, or 64KiB/s or more, not %s", r)
	}
	if _, err := turns.ParseWindows(e.Moves.Windows); err != nil {
		bad("moves.windows", "%s", err)
	}
	if l := &e.Lifecycle; l.Low < 1 || l.Low >= l.High || l.High > 99 {
		bad("lifecycle.high", "want 1 <= lifecycle.low < lifecycle.high <= 99, not %d and %d", l.Low, l.High)
	}
	if o := e.Lifecycle.Overflow; o != "" && e.ClassOf(o) == "" {
		bad("lifecycle.overflow", "there is no tier %q: name one of tiers", o)
	}
	if i := e.AccessLog.Interval; i < Duration(1e9) || i > day {
		bad("access_log.interval", "want 1s to 24h, not %s", i)
	}
	if a.Keep < 0 {
		bad("audit.keep", "must not be negative")
	}
	if a.KeepSize < 0 {
		bad("audit.keep_size", "must not be negative")
	}
	if u, err := url.Parse(a.Webhook); a.Webhook != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil) {
		bad("audit.webhook", "want a URL such as https://collector.example/firn, without a password in it")
	}
	if a.WebhookToken != "" && a.Webhook == "" {
		bad("audit.webhook_token", "is set without audit.webhook: set both or neither")
	}
}

func (e *Effective) validateEncryption(bad complain, oneOf func(key, value string, allowed ...string)) {
	c := &e.Encryption
	oneOf("encryption.service", c.Service, ServiceKeyring, ServiceVault, ServiceKES)
	if c.Service == ServiceVault && c.Vault == "" {
		bad("encryption.service", "vault needs encryption.vault: its URL")
	}
	if c.Service == ServiceKES && c.KES == "" {
		bad("encryption.service", "kes needs encryption.kes: its URL")
	}
	set := 0
	for _, v := range []string{c.Passphrase.Reveal(), c.SecretFile, c.SecretCommand} {
		if v != "" {
			set++
		}
	}
	if set > 1 {
		bad("encryption.secret_file", "set one of passphrase, secret_file and secret_command")
	}
	if n := len(c.Passphrase); n > 0 && n < 8 {
		bad("encryption.passphrase", "want 8 characters or more")
	}
	for _, u := range []struct{ key, value string }{{"encryption.vault", c.Vault}, {"encryption.kes", c.KES}} {
		p, err := url.Parse(u.value)
		if u.value != "" && (err != nil || p.Host == "" || p.User != nil || p.Scheme != "https" && !loopback(net.JoinHostPort(p.Hostname(), "0"))) {
			bad(u.key, "want a URL with https://, or http:// on this machine, without a password in it")
		}
	}
	if c.Vault != "" && (c.VaultTokenFile == "") == (c.VaultRoleID == "" || c.VaultSecretIDFile == "") {
		bad("encryption.vault", "needs either vault_token_file, or vault_role_id and vault_secret_id_file")
	}
	if c.KES != "" && (c.KESCert == "" || c.KESKey == "") {
		bad("encryption.kes", "needs kes_cert and kes_key: KES knows clients by their certificate")
	}
}

func notInAccessKey(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._@+-", r)
}

func notPrintable(r rune) bool { return r <= ' ' || r > '~' }

// Suspicious returns a warning for each variable of environ ("NAME=value") that looks like a mistyped key.
// Other variables that begin with FIRN_ are somebody else's: an orchestrator sets such names for a service
// called firn.
func Suspicious(environ []string) []string {
	known := map[string]bool{FileEnv: true}
	var names []string
	for _, k := range Keys() {
		known[k.Env] = true
		names = append(names, k.Env)
	}
	var out []string
	for _, kv := range environ {
		name, _, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, "FIRN_") || known[name] {
			continue
		}
		// Two slips of the finger and no more: other names are likely meant.
		for _, near := range names {
			if distance(name, near, 2) <= 2 {
				out = append(out, fmt.Sprintf("%s is not a setting: did you mean %s?", name, near))
				break
			}
		}
	}
	return out
}
