package cli

import (
	"os"
	"path/filepath"

	"github.com/spf13/pflag"

	"firn/transfer"
)

// remoteFlags are the flags that say which S3 endpoint a client command talks to.
type remoteFlags struct {
	sel transfer.Select
}

func (r *remoteFlags) register(f *pflag.FlagSet) {
	f.StringVar(&r.sel.Profile, "profile", "", "named profile to use (see firn profile; FIRN_PROFILE)")
	f.StringVar(&r.sel.Flags.Endpoint, "endpoint", "", "S3 endpoint (FIRN_ENDPOINT, AWS_ENDPOINT_URL; default "+transfer.DefaultEndpoint+")")
	f.StringVar(&r.sel.Flags.AccessKey, "access-key", "", "access key (FIRN_ACCESS_KEY, AWS_ACCESS_KEY_ID)")
	f.StringVar(&r.sel.Flags.SecretKey, "secret-key", "", "secret key (FIRN_SECRET_KEY, AWS_SECRET_ACCESS_KEY); visible to other users of the machine")
	f.StringVar(&r.sel.Flags.Region, "region", "", "region (FIRN_REGION, AWS_REGION)")
	f.BoolVar(&r.sel.Flags.Insecure, "insecure", false, "accept any TLS certificate")
}

// resolve finds the endpoint and credentials from flags, profiles and environment.
func (r *remoteFlags) resolve(env *Env) (transfer.Profile, error) {
	profiles, err := loadProfiles(env)
	if err != nil {
		return transfer.Profile{}, err
	}
	return transfer.Resolve(r.sel, profiles, env.variable)
}

// variable is Getenv for those who take an unset variable as an empty one.
func (e *Env) variable(name string) string {
	v, _ := e.Getenv(name)
	return v
}

func loadProfiles(env *Env) (*transfer.Profiles, error) {
	path, err := transfer.ProfilePath(env.variable)
	if err != nil {
		return nil, err
	}
	return transfer.LoadProfiles(path)
}

// clientFlags are remoteFlags with the bounds of a client.
type clientFlags struct {
	remoteFlags
	o transfer.ClientOptions
}

func (c *clientFlags) register(f *pflag.FlagSet) {
	c.remoteFlags.register(f)
	f.IntVar(&c.o.Parallel, "parallel", 8, "requests in flight at once")
	f.IntVar(&c.o.Attempts, "attempts", 8, "tries of a request that fails in a way that may pass")
}

// client returns a client of the endpoint that the flags choose.
func (c *clientFlags) client(env *Env) (*transfer.Client, error) {
	p, err := c.resolve(env)
	if err != nil {
		return nil, err
	}
	return transfer.NewClient(p, c.o)
}

// clientTo returns a client of the endpoint of another profile.
func (c *clientFlags) clientTo(env *Env, profile string) (*transfer.Client, error) {
	other := clientFlags{o: c.o}
	other.sel.Profile = profile
	return other.client(env)
}

// uploadStates is where unfinished uploads are remembered, "" where the system has no place for that.
func uploadStates(env *Env) string {
	if d := env.variable("FIRN_CLIENT_STATE"); d != "" {
		return d
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(cache, "firn", "uploads")
}
