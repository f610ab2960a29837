package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"firn/repo"
)

// repoCommand is `firn repo`.
func repoCommand(env *Env) *cobra.Command {
	c := group("repo", "Make, check and tend backup repositories", repoInitCommand(env), repoKeyCommand(env),
		repoCheckCommand(env), repoPruneCommand(env), repoStatsCommand(env), repoCopyCommand(env), repoRepairCommand(env))
	c.Long = `Make, check and tend backup repositories. A repository is in a place: a directory, a bucket, a server, named by
--repo URL or FIRN_REPO (docs/places.md lists the URLs). Its password comes from FIRN_REPO_PASSWORD, from the file
FIRN_REPO_PASSWORD_FILE, from what FIRN_REPO_PASSWORD_COMMAND prints, or is asked for on a terminal.`
	return c
}

func repoInitCommand(env *Env) *cobra.Command {
	r := newRepoFlags(env)
	var o repo.InitOptions
	var pack string
	c := &cobra.Command{
		Use: "init", Short: "Make a repository", Args: noArgs,
		Long: `Make a repository. Everything in it is encrypted with its password: without the password nobody can read it, you
neither.`,
	}
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		url, err := r.place()
		if err != nil {
			return err
		}
		if pack != "" {
			n, err := parseSize(pack)
			if err != nil {
				return err
			}
			o.PackSize = int(n)
		}
		p, err := r.places(url)
		if err != nil {
			return err
		}
		password, err := env.password(cmd.Context(), r.prefix+"_PASSWORD", "password of the repository", true)
		if err != nil {
			return err
		}
		s, err := p.Init(cmd.Context(), url)
		if err != nil {
			return err
		}
		defer s.Close()
		re, err := repo.Init(cmd.Context(), s, password, o)
		if err != nil {
			return err
		}
		defer re.Close()
		if asJSON(cmd) {
			return emit(env.Out, map[string]string{"id": re.ID().String(), "repository": s.Name()})
		}
		_, err = fmt.Fprintf(env.Out, "made repository %s at %s\nKeep its password: there is no way in without it.\n", re.ID().Short(), s.Name())
		return err
	}
	r.register(c.Flags())
	f := c.Flags()
	f.BoolVar(&o.AppendOnly, "append-only", false, "refuse to forget, prune and remove keys")
	f.StringVar(&pack, "pack-size", "", "size of packs: 16MiB (the default) to 256MiB")
	f.StringVar(&o.Label, "label", "", "label of the first key")
	return c
}
