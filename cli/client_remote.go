package cli

import (
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
	getenv := func(name string) string { v, _ := env.Getenv(name); return v }
	path, err := transfer.ProfilePath(getenv)
	if err != nil {
		return transfer.Profile{}, err
	}
	profiles, err := transfer.LoadProfiles(path)
	if err != nil {
		return transfer.Profile{}, err
	}
	return transfer.Resolve(r.sel, profiles, getenv)
}
