package node

import (
	"strings"

	"firn/blob/places"
	"firn/blob/wrap/mirror"
	"firn/config"
)

// Places returns what opens the place at a URL, which may be one of the configuration: place:NAME. Of those, only the
// credentials of the one that is wanted, and of what it mirrors, need be there. mirrors may be nil.
func Places(
	all map[string]config.Place, url string, mirrors func(name string, members []string) mirror.Observer,
) (*places.Opener, error) {
	rest, named := strings.CutPrefix(url, "place:")
	if !named {
		return &places.Opener{}, nil
	}
	wanted := map[string]bool{}
	var want func(name string)
	want = func(name string) {
		if wanted[name] {
			return
		}
		wanted[name] = true
		for _, member := range all[name].Mirror {
			want(member)
		}
	}
	name, _, _ := strings.Cut(rest, "/")
	want(name)
	out := &places.Opener{Named: map[string]places.Place{}, Mirrors: mirrors}
	for name, c := range all {
		p := places.Place{
			URL: c.URL, NoRetry: !c.Retry, Upload: int64(c.UploadRate), Download: int64(c.DownloadRate), Encrypt: c.Encrypt,
			Compress: c.Compress, Mirror: c.Mirror, MirrorWrites: c.MirrorWrites, CacheDir: c.Cache.Dir, CacheSize: int64(c.Cache.Size),
		}
		if c.Credentials != "" && wanted[name] {
			var err error
			if p.Secrets, err = places.ReadSecrets(c.Credentials); err != nil {
				return nil, err
			}
		}
		out.Named[name] = p
	}
	return out, nil
}
