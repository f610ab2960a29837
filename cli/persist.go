package cli

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"firn/archive/sidecar"
)

// persistCommand is `firn persist`.
func persistCommand(env *Env) *cobra.Command {
	return group("persist", "Move what sidecars keep to another place", persistMoveCommand(env), persistStayCommand(env))
}

func persistMoveCommand(env *Env) *cobra.Command {
	t := targetFlags{repoFlags: newRepoFlags(env)}
	var from, to string
	ttl := durationFlag(30 * time.Second)
	cmd := &cobra.Command{
		Use: "move --from URL --to URL", Short: "Move a directory's versions to another kind of place", Args: noArgs,
		Long: `Copy the versions that a sidecar made to another place, which is made where it is not there, compare the last one
file by file, and make that place the one to use. URLs are those of firn sidecar --repo.

Sidecars may run meanwhile: they go on in the new place without a gap, and so does every one that is started with the old
URL, as long as the old place is there. They need the credentials of the new place, and a repository there the same
password. For the move FIRN_TO_REPO_PASSWORD (_FILE, _COMMAND) is the password of the new one; where it is not set it is
that of FIRN_REPO_PASSWORD. A move that fails changes nothing; one that was killed is taken back by firn persist stay.`,
		Example: `  firn persist move --from file:/mnt/nas/trustee --to 's3://backups/trustee?endpoint=https://minio:9000'
  firn persist move --from plain+git+ssh://git@host/app.git --to plain+postgres://app@db/persistence`,
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if from == "" || to == "" {
			return usageError("give --from URL and --to URL")
		}
		if err := sidecar.CheckName(t.name); err != nil {
			return usageError("--name: %w", err)
		}
		t.keep = 1000 // whatever the source has
		source, err := t.open(cmd.Context(), from, false)
		if err != nil {
			return err
		}
		defer func() { _ = source.Close() }() // nothing is written any more
		other := t
		flags := *t.repoFlags
		for _, suffix := range []string{"", "_FILE", "_COMMAND"} {
			if env.variable("FIRN_TO_REPO_PASSWORD"+suffix) != "" {
				flags.prefix = "FIRN_TO_REPO"
			}
		}
		other.repoFlags = &flags
		target, err := other.open(cmd.Context(), to, true)
		if err != nil {
			return err
		}
		defer func() { _ = target.Close() }() // nothing is written any more
		rep, err := sidecar.Move(cmd.Context(), source, target, sidecar.MoveOptions{
			To: to, Rules: t.rules, TTL: time.Duration(ttl), Report: func(what string) {
				if !asJSON(cmd) {
					fmt.Fprintln(env.Err, what)
				}
			},
		})
		if err != nil {
			return err
		}
		if asJSON(cmd) {
			return emit(env.Out, rep)
		}
		_, err = fmt.Fprintf(env.Out, "moved to %s: %d versions copied, the last one compared\nSet the new URL for the sidecars, then remove the old place.\n",
			target.Name(), rep.Versions)
		return err
	}
	f := cmd.Flags()
	t.opener.register(f)
	t.registerName(f)
	t.registerRules(f)
	f.StringVar(&from, "from", "", "URL of what is to be moved")
	f.StringVar(&to, "to", "", "URL of where to")
	f.StringVar(&t.cache, "cache-dir", "", "directory for what is read again and again; \"none\" for none (FIRN_CACHE_DIR)")
	f.Var(&ttl, "lease-ttl", "silence after which another process is taken for dead")
	return cmd
}

func persistStayCommand(env *Env) *cobra.Command {
	t := targetFlags{repoFlags: newRepoFlags(env)}
	cmd := &cobra.Command{
		Use: "stay", Short: "Take back a move that was cut off", Args: noArgs,
		Long: `Take back a move that was killed before it was complete: sidecars go on in the old place. What was copied stays in the
new one, and another move goes on from there.`,
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		source, err := t.open(cmd.Context(), "", false)
		if err != nil {
			return err
		}
		if err := errors.Join(sidecar.Stay(cmd.Context(), source), source.Close()); err != nil {
			return err
		}
		return done(cmd, env, "the versions stay in", source.Name())
	}
	t.repoFlags.register(cmd.Flags())
	t.registerName(cmd.Flags())
	return cmd
}
