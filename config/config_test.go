package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"firn"
)

// write puts text into a file called firn.yaml and returns its path.
func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), FileName)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func env(vars map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) { v, ok := vars[name]; return v, ok }
}

func TestEveryKeyHasItsManual(t *testing.T) {
	keys := Keys()
	if len(keys) < 20 {
		t.Fatalf("only %d keys", len(keys))
	}
	seen := map[string]string{}
	for _, k := range keys {
		if len(k.Doc) < 20 || k.Type == "" {
			t.Errorf("%s: type %q, manual %q", k.Name, k.Type, k.Doc)
		}
		for _, name := range []string{k.Name, "--" + k.Flag, k.Env} {
			if other := seen[name]; other != "" {
				t.Errorf("%s belongs to %s and %s", name, other, k.Name)
			}
			seen[name] = k.Name
		}
	}
	for _, s := range Sections()[1:] {
		if s.Doc == "" {
			t.Errorf("section %s has no manual", s.Name)
		}
	}
}

func TestDefaultsAreValid(t *testing.T) {
	e, err := Load(Sources{Env: env(map[string]string{FileEnv: write(t, "")})})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Default(), e.Config); diff != "" {
		t.Error(diff)
	}
}

// TestEveryKeyFromEverySource sets each key in the file, in the environment and by flag, to a value that is not
// its default, and reads it back.
func TestEveryKeyFromEverySource(t *testing.T) {
	values := map[string]string{
		"data": "/srv/firn", "listen": "127.0.0.1:19000", "admin_listen": "127.0.0.1:19001", "access_key": "0123",
		"secret_key": "long-enough", "region": "eu-1", "domains": "s3.example,s3.test", "durability": "relaxed",
		"memory_limit": "1GiB", "reserve": "10GiB", "scrub_rate": "1MiB/s", "upload_max_age": "3d",
		"journal.keep": "36h", "journal.keep_entries": "20000", "log.level": "debug", "log.format": "json",
		"limits.connections": "10", "limits.requests": "5", "limits.header_timeout": "1m30s",
		"limits.stall_timeout": "2m", "limits.idle_timeout": "1h", "limits.drain_timeout": "5s",
		"metrics.enabled": "false", "admin_allow_plain": "true", "trusted_proxies": "10.0.0.0/8,192.0.2.1",
		"tls.mode": "acme", "tls.names": "s3.example,s3.test", "tls.min_version": "1.3", "tls.cert": "", "tls.key": "",
		"tls.acme_directory": "https://ca.example/dir", "tls.acme_email": "ops@example.com", "tls.acme_roots": "/etc/ca.pem",
		"audit.enabled": "true", "audit.dir": "/var/log/firn", "audit.on_failure": "drop", "audit.max_file": "1MiB",
		"audit.max_age": "2h", "access_log.interval": "30s", "lifecycle.interval": "6h", "lifecycle.overflow": "", "lifecycle.high": "90", "lifecycle.low": "60", "moves.parallel": "2", "moves.rate": "20MiB/s",
		"moves.windows": "22:00-06:00,12:00-13:00", "audit.keep": "10d", "audit.keep_size": "1GiB", "audit.webhook": "https://collector.example/",
		"audit.webhook_token": "long-enough", "limits.min_rate": "1KiB/s", "limits.user_requests": "50",
		"limits.user_concurrent": "9", "limits.user_rate": "1MiB/s",
		"encryption.all": "true", "encryption.service": "vault", "encryption.key": "site", "encryption.keyring": "/etc/firn/keyring",
		"encryption.passphrase": "long-enough", "encryption.secret_file": "", "encryption.secret_command": "",
		"encryption.vault": "https://vault.example", "encryption.vault_mount": "kv", "encryption.vault_namespace": "team",
		"encryption.vault_token_file": "", "encryption.vault_role_id": "role", "encryption.vault_secret_id_file": "/etc/firn/id",
		"encryption.vault_ca": "/etc/ca.pem", "encryption.kes": "https://kes.example:7373", "encryption.kes_cert": "/etc/c.pem",
		"encryption.kes_key": "/etc/k.pem", "encryption.kes_ca": "/etc/ca.pem",
		"edge.listen": "", "edge.node": "shed-7",
		"cache.memory": "1GiB", "cache.dir": "/fast/cache", "cache.disk": "500GiB", "cache.ttl": "30d", "cache.prefetch": "1MiB/s",
		"cache.redis": "redis://127.0.0.1:6379/0", "cache.redis_credentials": "/etc/firn/redis",
		"edge.slice": "256KiB", "edge.purge_from": "10.0.0.0/8,192.0.2.1", "edge.timeout": "3s",
	}
	var file strings.Builder
	vars, flags := map[string]string{}, map[string]string{}
	section := ""
	for _, k := range Keys() {
		v, ok := values[k.Name]
		if !ok {
			t.Fatalf("no value for %s: add one", k.Name)
		}
		if v == "" && k.Default == "" {
			continue // excludes another's value: TestTLS sets it
		}
		if v == k.Default {
			t.Fatalf("%s: the value is the default", k.Name)
		}
		vars[k.Env], flags[k.Name] = v, v
		name := k.Name
		if s, n, ok := strings.Cut(name, "."); ok {
			if s != section {
				fmt.Fprintf(&file, "%s:\n", s)
				section = s
			}
			name = "  " + n
		}
		if k.Type == "list" {
			v = "[" + v + "]"
		}
		fmt.Fprintf(&file, "%s: %s\n", name, v)
	}
	secrets := map[string]string{
		"FIRN_ACCESS_KEY": "0123", "FIRN_SECRET_KEY": "long-enough", "FIRN_AUDIT_WEBHOOK_TOKEN": "long-enough",
	}
	for name, src := range map[string]Sources{
		"file":        {File: write(t, file.String()), Env: env(secrets)},
		"environment": {File: write(t, ""), Env: env(vars)},
		"flags":       {File: write(t, ""), Flags: flags, Env: env(secrets)},
	} {
		t.Run(name, func(t *testing.T) {
			e, err := Load(src)
			if err != nil {
				t.Fatal(err)
			}
			for _, k := range Keys() {
				want := values[k.Name]
				if k.Secret {
					for _, s := range []Secret{e.SecretKey, e.Audit.WebhookToken} {
						if s.Reveal() != want {
							t.Errorf("secret is %q", s.Reveal())
						}
					}
					want = hidden
				}
				if got := k.Get(&e.Config); got != want {
					t.Errorf("%s is %s, want %s", k.Name, got, want)
				}
			}
		})
	}
}

func TestPrecedence(t *testing.T) {
	file := write(t, "region: from-file\nlisten: :1\nadmin_listen: localhost:2\n")
	e, err := Load(Sources{
		File:  file,
		Env:   env(map[string]string{"FIRN_LISTEN": ":3", "FIRN_ADMIN_LISTEN": "localhost:4", "FIRN_DATA": ""}),
		Flags: map[string]string{"admin_listen": "localhost:5"},
	})
	if err != nil {
		t.Fatal(err)
	}
	got := []string{e.Region, e.Listen, e.AdminListen, e.Data}
	if diff := cmp.Diff([]string{"from-file", ":3", "localhost:5", "./firn-data"}, got); diff != "" {
		t.Error(diff)
	}
	from := []string{e.From["region"], e.From["listen"], e.From["admin_listen"], e.From["data"]}
	if diff := cmp.Diff([]string{file + ":1:9", "FIRN_LISTEN", "--admin-listen", "default"}, from); diff != "" {
		t.Error(diff)
	}
}

func TestWhatIsWrongHasAPlaceAndARemedy(t *testing.T) {
	tests := []struct {
		name, file string
		want       []string // FILE stands for the path
	}{
		{"unknown", "data: x\nregoin: a\n", []string{`FILE:2:1: unknown key "regoin": did you mean "region"?`}},
		{"unknown, nothing near", "colour: red\n", []string{"FILE:1:1: unknown key \"colour\": see `firn config keys`"}},
		{"unknown in a section", "journal:\n  keeep: 1d\n", []string{`FILE:2:3: unknown key "journal.keeep": did you mean "journal.keep"?`}},
		{"unknown section", "jornal:\n  keep: 1d\n", []string{`FILE:1:1: unknown key "jornal": did you mean "journal"?`}},
		{"key of a section at the top", "keep_entries: 1\n", []string{`FILE:1:1: unknown key "keep_entries": did you mean "journal.keep_entries"?`}},
		{"dotted", "log.level: debug\n", []string{`FILE:1:1: write log.level nested: "log:" on one line, "level: ..." indented on the next`}},
		{"all of them", "a: 1\nmemory_limit: 1X\nb: 2\n", []string{
			"FILE:1:1: unknown key \"a\": see `firn config keys`",
			`FILE:2:15: memory_limit: want a size such as 512KiB, 256MiB or 1GiB, not "1X"`,
			"FILE:3:1: unknown key \"b\": see `firn config keys`",
		}},
		{"ambiguous unit", "reserve: 10G\n", []string{`FILE:1:10: reserve: the unit "G" can mean two things: write GiB or GB, not "10G"`}},
		{"duration", "journal: {keep: 3w}\n", []string{`FILE:1:17: journal.keep: want a duration such as 500ms, 30s, 24h or 7d, not "3w"`}},
		{"bool", "metrics:\n  enabled: yes\n", []string{`FILE:2:12: metrics.enabled: want true or false, not "yes"`}},
		{"number", "limits:\n  requests: many\n", []string{`FILE:2:13: limits.requests: want a whole number, not "many"`}},
		{"list for one value", "region: [a, b]\n", []string{`FILE:1:9: region: takes one value, not a list`}},
		{"section for one value", "region:\n  a: b\n", []string{`FILE:2:4: region: takes one value (text)`}},
		{"one value for a section", "journal: 3d\n", []string{`FILE:1:10: journal: want lines of the form key: value`}},
		{"no value", "region:\n", []string{`FILE:1:1: region: has no value: give one or remove the line`}},
		{"two documents", "region: a\n---\nregion: b\n", []string{`FILE:3:7: the file holds more than one document: keep one`}},
		{"a list at the top", "- a\n", []string{`FILE:1:1: want lines of the form key: value`}},
		{"choice", "durability: maybe\n", []string{`FILE:1:13: durability: want fsync or relaxed, not "maybe"`}},
		{"too small", "memory_limit: 1MiB\n", []string{`FILE:1:15: memory_limit: want 64MiB or more, not 1MiB`}},
		{"half a pair", "access_key: abc\n", []string{`FILE:1:13: access_key: is set without secret_key: set both or neither`}},
		{"short secret is not shown", "access_key: abc\nsecret_key: hush\n", []string{`FILE:2:13: secret_key: want 8 to 128 printable characters without blanks`}},
		{"address", "listen: 9000\n", []string{`FILE:1:9: listen: want host:port, such as :9000 or 127.0.0.1:9000, not "9000"`}},
		{"one address twice", "listen: localhost:9001\nadmin_listen: localhost:9001\n", []string{`FILE:2:15: admin_listen: is the address of listen too: choose another port`}},
		{"admin in the open", "admin_listen: :9001\n", []string{`FILE:1:15: admin_listen: :9001 is not loopback and tls.mode is off, so its token could be read on the way: use 127.0.0.1, set tls.mode, or set admin_allow_plain where the network is trusted`}},
		{"no certificate", "tls: {mode: files, key: k}\n", []string{`FILE:1:13: tls.mode: files needs tls.cert: name the file`}},
		{"a certificate for nothing", "tls: {cert: c}\n", []string{`FILE:1:13: tls.cert: is read with tls.mode: files only: set that, or remove it`}},
		{"old TLS", "tls: {min_version: \"1.1\"}\n", []string{`FILE:1:20: tls.min_version: want 1.2 or 1.3, not "1.1"`}},
		{"ACME without names", "tls: {mode: acme}\n", []string{`FILE:1:13: tls.mode: acme needs tls.names: the host names to fetch certificates for`}},
		{"ACME for an address", "tls: {mode: acme, names: [192.0.2.1]}\n", []string{`FILE:1:26: tls.names: acme wants full host names without wildcard, not "192.0.2.1"`}},
		{"windows", "moves:\n  windows: [22:00]\n", []string{`FILE:2:12: moves.windows: "22:00": want two times of day such as 22:00-06:00`}},
		{"proxies", "trusted_proxies: [proxy.example]\n", []string{`FILE:1:18: trusted_proxies: want addresses and networks such as 10.0.0.0/8, not "proxy.example"`}},
		{"webhook", "audit: {webhook: \"https://user:hush@c.example\"}\n", []string{`FILE:1:18: audit.webhook: want a URL such as https://collector.example/firn, without a password in it`}},
		{"user rate", "limits: {user_rate: 1KiB/s}\n", []string{`FILE:1:21: limits.user_rate: want 64KiB/s or more, or 0, not 1KiB/s`}},
		{"domain", "domains: [https://s3.example]\n", []string{`FILE:1:10: domains: want host names without scheme, port, wildcard or leading dot, not "https://s3.example"`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := write(t, tt.file)
			_, err := Load(Sources{File: path})
			var p Problems
			if !errors.As(err, &p) || firn.KindOf(err) != firn.Invalid {
				t.Fatalf("got %v, want problems", err)
			}
			got := strings.Split(strings.ReplaceAll(p.Error(), path, "FILE"), "\n")
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestTLS(t *testing.T) {
	for _, ok := range []string{
		"tls: {mode: files, cert: /c, key: /k}\nadmin_listen: :9001\n", "tls: {mode: self}\nadmin_listen: :9001\n",
		"admin_listen: :9001\nadmin_allow_plain: true\n", "admin_listen: \"[::1]:9001\"\n",
	} {
		if _, err := Load(Sources{File: write(t, ok)}); err != nil {
			t.Errorf("%s: %v", ok, err)
		}
	}
}

func TestSyntaxErrorHasAPlace(t *testing.T) {
	path := write(t, "region: a\n  listen: [\n")
	_, err := Load(Sources{File: path})
	if err == nil || !strings.Contains(err.Error(), path+":1:9: ") {
		t.Errorf("got %v, want the place of the value that cannot go on", err)
	}
	path = write(t, "region: a\nregion: b\n")
	if _, err = Load(Sources{File: path}); err == nil || !strings.Contains(err.Error(), path+":2:") {
		t.Errorf("got %v, want line 2 of the file", err)
	}
}

func TestProblemsOutsideOfAFile(t *testing.T) {
	_, err := Load(Sources{
		File: write(t, ""), Env: env(map[string]string{"FIRN_RESERVE": "x"}), Flags: map[string]string{"log.level": "loud"},
	})
	want := `configuration: FIRN_RESERVE: reserve: want a size such as 512KiB, 256MiB or 1GiB, not "x"`
	if err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
	_, err = Load(Sources{File: write(t, ""), Flags: map[string]string{"log.level": "loud"}})
	want = `configuration: --log-level: log.level: want debug or info or warn or error, not "loud"`
	if err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
}

func TestFileThatIsNotThere(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "none.yaml")
	if _, err := Load(Sources{File: missing}); err == nil {
		t.Error("a named file that is not there is no error")
	}
	if _, err := Load(Sources{Env: env(map[string]string{FileEnv: missing})}); err == nil {
		t.Error("a file named by the environment that is not there is no error")
	}
	t.Chdir(t.TempDir())
	e, err := Load(Sources{})
	if err != nil || e.File != "" {
		t.Errorf("without a file: %v, file %q", err, e.File)
	}
	if err := os.WriteFile(FileName, []byte("region: here\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if e, err = Load(Sources{}); err != nil || e.Region != "here" || e.File != FileName {
		t.Errorf("the file in the working directory was not read: %v", err)
	}
}

func TestSizes(t *testing.T) {
	good := map[string]Size{
		"0": 0, "17": 17, "512B": 512, "1KiB": 1024, "1.5MiB": 3 << 19, "2 GiB": 2 << 30, "1GB": 1e9, "1kB": 1000,
	}
	for s, want := range good {
		if got, err := ParseSize(s); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v, want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "-1", "MiB", "1 2MiB", "1M", "1XB", "9999999TiB", "1.2.3KiB", "1e400TiB"} {
		if got, err := ParseSize(s); err == nil {
			t.Errorf("ParseSize(%q) = %d, want an error", s, got)
		}
	}
	for _, n := range []Size{0, 1, 1023, 1024, 256 << 20, 1<<30 + 1, 3 << 40} {
		if got, err := ParseSize(n.String()); err != nil || got != n {
			t.Errorf("%d is written %s and read as %d, %v", n, n, got, err)
		}
	}
}

func TestDurations(t *testing.T) {
	for s, want := range map[string]string{"7d": "7d", "24h": "1d", "90m": "1h30m", "36h": "36h", "1m": "1m", "1.5s": "1.5s"} {
		if d, err := ParseDuration(s); err != nil || d.String() != want {
			t.Errorf("ParseDuration(%q) = %s, %v, want %s", s, d, err, want)
		}
	}
	for _, s := range []string{"", "7", "d", "-1d", "1.5d", "99999d"} {
		if d, err := ParseDuration(s); err == nil {
			t.Errorf("ParseDuration(%q) = %s, want an error", s, d)
		}
	}
}

func TestSuspiciousVariables(t *testing.T) {
	got := Suspicious([]string{
		"FIRN_DATA=x", "FIRN_MEMORY_LIMITS=1GiB", "FIRN_PORT=tcp://10.0.0.1:9000", "FIRN_SERVICE_HOST=10.0.0.1", "PATH=x",
	})
	want := []string{"FIRN_MEMORY_LIMITS is not a setting: did you mean FIRN_MEMORY_LIMIT?"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestSecretsStayHidden(t *testing.T) {
	c := Default()
	c.SecretKey = "hush-hush"
	for _, s := range []string{fmt.Sprint(c), fmt.Sprintf("%+v", c), fmt.Sprintf("%#v", c), c.SecretKey.String()} {
		if strings.Contains(s, "hush") {
			t.Errorf("the secret shows in %s", s)
		}
	}
}

// FuzzFile holds that no file makes the reader fail in another way than by naming problems, and that what it
// accepts is valid.
func FuzzFile(f *testing.F) {
	for _, s := range []string{
		"", "data: x\njournal:\n  keep: 7d\n", "domains: [a, b]\n", "a: &x 1\nb: *x\n", "log: {level: debug}\n",
		"reserve: |\n  1GiB\n", "? [a]\n: b\n", "- x\n", "data: !!binary aGk=\n", "---\n---\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		e := &Effective{Config: Default(), From: map[string]string{}}
		problems := e.applyFile(Keys(), "f", raw)
		for _, p := range problems {
			if p.Where == "" || p.What == "" {
				t.Errorf("a problem says too little: %+v", p)
			}
		}
	})
}
