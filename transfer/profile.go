package transfer

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"

	"firn"
)

// DefaultEndpoint is where a site started with no configuration listens.
const DefaultEndpoint = "http://127.0.0.1:9000"

// Profile says how to reach an S3 endpoint.
type Profile struct {
	Endpoint     string `yaml:"endpoint,omitempty" json:"endpoint,omitempty"` // http://host:port or https://host[:port]
	AccessKey    string `yaml:"access_key,omitempty" json:"access_key,omitempty"`
	SecretKey    string `yaml:"secret_key,omitempty" json:"-"`
	SessionToken string `yaml:"session_token,omitempty" json:"-"`
	Region       string `yaml:"region,omitempty" json:"region,omitempty"`
	Insecure     bool   `yaml:"insecure,omitempty" json:"insecure,omitempty"`         // accept any certificate
	VirtualHost  bool   `yaml:"virtual_host,omitempty" json:"virtual_host,omitempty"` // address buckets as BUCKET.host
}

// Profiles is the file of named profiles. It holds secrets and is kept with mode 0600.
type Profiles struct {
	path  string
	named map[string]Profile
}

// profileFile is the YAML document.
type profileFile struct {
	Profiles map[string]Profile `yaml:"profiles"`
}

// maxProfileFile bounds what is read of a profile file, in bytes.
const maxProfileFile = 1 << 20

// ProfilePath returns where profiles are kept: $FIRN_CLIENT_CONFIG, or firn/client.yaml in the user's
// configuration directory.
func ProfilePath(getenv func(string) string) (string, error) {
	if p := getenv("FIRN_CLIENT_CONFIG"); p != "" {
		return p, nil
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", &firn.Error{Kind: firn.Invalid, Op: "find profiles", Err: err}
	}
	return filepath.Join(dir, "firn", "client.yaml"), nil
}

// LoadProfiles reads the file at path. A missing file holds no profiles; one that others can read is refused.
func LoadProfiles(path string) (*Profiles, error) {
	const op = "read profiles"
	p := &Profiles{path: path, named: map[string]Profile{}}
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return nil, firn.E(op, path, err)
	}
	if fi.Mode().Perm()&0o077 != 0 {
		return nil, &firn.Error{Kind: firn.Invalid, Op: op, Subject: path, Err: fmt.Errorf(
			"the file holds secrets but others can read it (mode %04o): run chmod 600 on it", fi.Mode().Perm())}
	}
	if fi.Size() > maxProfileFile {
		return nil, &firn.Error{Kind: firn.Invalid, Op: op, Subject: path, Err: errors.New("the file is too large")}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, firn.E(op, path, err)
	}
	if p.named, err = parseProfiles(data); err != nil {
		return nil, &firn.Error{Kind: firn.Invalid, Op: op, Subject: path, Err: err}
	}
	return p, nil
}

func parseProfiles(data []byte) (map[string]Profile, error) {
	var doc profileFile
	if len(bytes.TrimSpace(data)) > 0 {
		// The error's own text would quote the lines around it, and one may be a secret.
		if err := yaml.UnmarshalWithOptions(data, &doc, yaml.Strict()); err != nil {
			var se yaml.Error
			if errors.As(err, &se) && se.GetToken() != nil {
				return nil, fmt.Errorf("line %d: %s", se.GetToken().Position.Line, se.GetMessage())
			}
			return nil, errors.New("not a profile file")
		}
	}
	if doc.Profiles == nil {
		doc.Profiles = map[string]Profile{}
	}
	for name := range doc.Profiles {
		if err := checkProfileName(name); err != nil {
			return nil, err
		}
	}
	return doc.Profiles, nil
}

func checkProfileName(name string) error {
	ok := name != "" && len(name) <= 64
	for _, c := range name {
		ok = ok && (c == '-' || c == '_' || c == '.' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z')
	}
	if !ok {
		return fmt.Errorf("profile name %q: 1 to 64 letters, digits and .-_ are allowed", name)
	}
	return nil
}

// Names returns the names of all profiles in order.
func (p *Profiles) Names() []string { return slices.Sorted(maps.Keys(p.named)) }

// Get returns a profile by name.
func (p *Profiles) Get(name string) (Profile, bool) {
	v, ok := p.named[name]
	return v, ok
}

// Set adds or replaces a profile and saves the file.
func (p *Profiles) Set(name string, v Profile) error {
	if err := checkProfileName(name); err != nil {
		return &firn.Error{Kind: firn.Invalid, Op: "add profile", Err: err}
	}
	if _, err := ParseEndpoint(v.Endpoint); err != nil {
		return err
	}
	p.named[name] = v
	return p.save()
}

// Remove removes a profile and saves the file.
func (p *Profiles) Remove(name string) error {
	if _, ok := p.named[name]; !ok {
		return &firn.Error{Kind: firn.NotFound, Op: "remove profile", Subject: name, Err: errors.New("no such profile")}
	}
	delete(p.named, name)
	return p.save()
}

// save replaces the file as a whole: a crash leaves the old one or the new one.
func (p *Profiles) save() (err error) {
	defer func() { err = firn.E("save profiles", p.path, err) }()
	data, err := yaml.Marshal(profileFile{Profiles: p.named})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(p.path), 0o700); err != nil {
		return err
	}
	return writeFileAtomic(p.path, data, 0o600)
}

// Select says which endpoint and credentials a command uses. Non-empty fields of Flags win over everything.
type Select struct {
	Profile string // name given on the command line, "" for none
	Flags   Profile
}

// Resolve finds the endpoint and credentials: flags, then the named profile (the flag's or FIRN_PROFILE), and
// where no profile is named FIRN_* variables, AWS_* variables, the profile "default", and DefaultEndpoint.
// A key and its secret are always taken from the same place.
func Resolve(s Select, profiles *Profiles, getenv func(string) string) (Profile, error) {
	first := func(names ...string) string {
		for _, n := range names {
			if v := getenv(n); v != "" {
				return v
			}
		}
		return ""
	}
	sources := []Profile{s.Flags}
	if name := cmp.Or(s.Profile, getenv("FIRN_PROFILE")); name != "" {
		p, ok := profiles.Get(name)
		if !ok {
			return Profile{}, &firn.Error{
				Kind: firn.NotFound, Op: "profile", Subject: name,
				Err: fmt.Errorf("no such profile in %s; add it with: firn profile add %s --endpoint URL", profiles.path, name),
			}
		}
		sources = append(sources, p)
	} else {
		sources = append(sources,
			Profile{
				Endpoint: getenv("FIRN_ENDPOINT"), Region: getenv("FIRN_REGION"),
				AccessKey: getenv("FIRN_ACCESS_KEY"), SecretKey: getenv("FIRN_SECRET_KEY"),
			},
			Profile{
				Endpoint: first("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"), Region: first("AWS_REGION", "AWS_DEFAULT_REGION"),
				AccessKey: getenv("AWS_ACCESS_KEY_ID"), SecretKey: getenv("AWS_SECRET_ACCESS_KEY"),
				SessionToken: getenv("AWS_SESSION_TOKEN"),
			})
		if p, ok := profiles.Get("default"); ok {
			sources = append(sources, p)
		}
	}
	var out Profile
	for _, p := range sources {
		out.Endpoint = cmp.Or(out.Endpoint, p.Endpoint)
		out.Region = cmp.Or(out.Region, p.Region)
		out.Insecure = out.Insecure || p.Insecure
		out.VirtualHost = out.VirtualHost || p.VirtualHost
		if out.AccessKey == "" && out.SecretKey == "" {
			out.AccessKey, out.SecretKey, out.SessionToken = p.AccessKey, p.SecretKey, p.SessionToken
		}
	}
	out.Endpoint = cmp.Or(out.Endpoint, DefaultEndpoint)
	if (out.AccessKey == "") != (out.SecretKey == "") {
		return Profile{}, &firn.Error{
			Kind: firn.Invalid, Op: "credentials",
			Err: errors.New("an access key and a secret key are needed together"),
		}
	}
	if _, err := ParseEndpoint(out.Endpoint); err != nil {
		return Profile{}, err
	}
	return out, nil
}

// ParseEndpoint checks an endpoint's URL: http or https, a host, no path, query or user.
func ParseEndpoint(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err == nil && ((u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || strings.Trim(u.Path, "/") != "" ||
		u.RawQuery != "" || u.User != nil || u.Fragment != "") {
		err = errors.New("must be http://host:port or https://host[:port]")
	}
	if err != nil {
		return nil, &firn.Error{Kind: firn.Invalid, Op: "endpoint", Subject: s, Err: err}
	}
	return u, nil
}
