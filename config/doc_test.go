package config

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write docs/configuration.md")

// page is docs/configuration.md.
func page() string {
	var b strings.Builder
	b.WriteString(`# Configuration

<!-- Made from the comments in config/config.go: go test ./config -run Page -update -->

A site needs no configuration. Each setting below can be given in a file, in the environment and on the command
line of ` + "`firn serve`" + `. A flag wins over the environment, the environment over the file, the file over the
default. An empty variable counts as not set.

The file is the one named by ` + "`--config`" + ` or ` + "`FIRN_CONFIG`" + `, else ` + "`firn.yaml`" + ` in the working directory where
it exists. It is YAML: keys with a dot are written nested.

` + "```yaml" + `
data: /var/lib/firn
listen: :9000
journal:
  keep: 14d
log:
  level: warn
` + "```" + `

A key that does not exist, a value that does not fit and a choice that excludes another fail at the start with the
file, the line, the column and what to write instead. ` + "`firn config check FILE`" + ` says so without starting anything,
` + "`firn config show`" + ` tells the settings in effect and where each comes from, ` + "`firn config keys`" + ` prints this list.

Sizes are written as 512KiB, 256MiB, 1GiB or 10GB, rates as 4MiB/s, durations as 500ms, 30s, 24h or 7d.
In variables and flags, items of a list are separated by commas.
`)
	for _, s := range Sections() {
		title := "General"
		if s.Name != "" {
			title = s.Name
		}
		fmt.Fprintf(&b, "\n## %s\n", title)
		if s.Doc != "" {
			fmt.Fprintf(&b, "\n%s\n", s.Doc)
		}
		for _, k := range s.Keys {
			def := "none"
			if k.Default != "" {
				def = "`" + k.Default + "`"
			}
			fmt.Fprintf(&b, "\n### %s\n\n`--%s` · `%s` · %s · default %s\n\n%s\n", k.Name, k.Flag, k.Env, k.Type, def, k.Doc)
		}
	}
	fmt.Fprintf(&b, "\n## places\n\n%s\n\n```yaml\nplaces:\n  nas:\n    url: file:/mnt/nas/backups\n"+
		"  cloud:\n    url: s3://backups/site-1\n    credentials: /etc/firn/cloud.credentials\n    upload_rate: 20MiB/s\n```\n", PlacesDoc())
	for _, k := range PlaceKeys() {
		def := "none"
		if k.Default != "" {
			def = "`" + k.Default + "`"
		}
		fmt.Fprintf(&b, "\n### places.NAME.%s\n\n%s · default %s\n\n%s\n", k.Name, k.Type, def, k.Doc)
	}
	fmt.Fprintf(&b, "\n## tiers\n\n%s\n\n```yaml\ntiers:\n  warm:\n    url: s3://firn-warm/site-1?endpoint=https://minio.example:9000\n"+
		"    keep_local: 7d\n  cold:\n    url: place:nas/tier\n    cost: 3.99\n```\n", TiersDoc())
	for _, k := range TierKeys() {
		def := "none"
		if k.Default != "" {
			def = "`" + k.Default + "`"
		}
		fmt.Fprintf(&b, "\n### tiers.NAME.%s\n\n%s · default %s\n\n%s\n", k.Name, k.Type, def, k.Doc)
	}
	fmt.Fprintf(&b, "\n## temperature\n\n%s\n\n```yaml\ntemperature:\n  videos:\n    bucket: edge-videos\n    warm: region\n    cold: cloud\n"+
		"  index:\n    bucket: edge-videos\n    prefix: index/\n    cold: cloud\n    pin: hot\n```\n", TemperatureDoc())
	for _, k := range TemperatureKeys() {
		def := "none"
		if k.Default != "" {
			def = "`" + k.Default + "`"
		}
		fmt.Fprintf(&b, "\n### temperature.NAME.%s\n\n%s · default %s\n\n%s\n", k.Name, k.Type, def, k.Doc)
	}
	fmt.Fprintf(&b, "\n## backups\n\n%s\n\n```yaml\nbackups:\n  app:\n    repository: place:nas\n    password_file: /etc/firn/password\n"+
		"    paths: [/srv/app, /etc]\n    exclude: ['*.tmp']\n    schedule: every 6h\n    jitter: 10m\n    keep_daily: 7\n    keep_weekly: 5\n"+
		"    prune: '@weekly'\n    drill: '@monthly'\n```\n", BackupsDoc())
	for _, k := range BackupKeys() {
		def := "none"
		if k.Default != "" {
			def = "`" + k.Default + "`"
		}
		fmt.Fprintf(&b, "\n### backups.NAME.%s\n\n%s · default %s\n\n%s\n", k.Name, k.Type, def, k.Doc)
	}
	fmt.Fprintf(&b, "\n## edge_rules\n\n%s\n\n```yaml\nedge:\n  listen: :8080\nedge_rules:\n  videos:\n    prefix: /videos/\n"+
		"    origins: ['https://regional-cache.example.com', 'https://cloud-origin.example.com']\n```\n", EdgeRulesDoc())
	for _, k := range EdgeRuleKeys() {
		def := "none"
		if k.Default != "" {
			def = "`" + k.Default + "`"
		}
		fmt.Fprintf(&b, "\n### edge_rules.NAME.%s\n\n%s · default %s\n\n%s\n", k.Name, k.Type, def, k.Doc)
	}
	return b.String()
}

func TestPage(t *testing.T) {
	const path = "../docs/configuration.md"
	if *update {
		if err := os.WriteFile(path, []byte(page()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(got), page()); diff != "" {
		t.Errorf("docs/configuration.md is not what config.go says; go test ./config -run Page -update\n%s", diff)
	}
}
