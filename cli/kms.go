package cli

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"firn/adminapi"
)

func kmsCommand(env *Env) *cobra.Command {
	c := group("kms", "Manage the keys that encrypt stored objects")
	c.Long = `Manage the named keys that objects are encrypted with: those of the running site's key service, which is its
keyring unless the configuration says otherwise. No key ever leaves the service.`
	admin := addAdminFlags(c, env)
	ls := &cobra.Command{
		Use: "ls", Short: "List the keys", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			site, err := admin.connect()
			if err != nil {
				return err
			}
			var list adminapi.KeyList
			if err := site.call(cmd.Context(), "GET", "/admin/v1/kms", nil, &list); err != nil {
				return err
			}
			if asJSON(cmd) {
				return emit(env.Out, list)
			}
			w := tabwriter.NewWriter(env.Out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tSTATE\tVERSION\tCREATED\tROTATED")
			for _, k := range list.Keys {
				name := k.Name
				if name == list.Default {
					name += " (default)"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", name, k.State, keyVersion(k.Version), day(k.Created), day(k.Rotated))
			}
			return w.Flush()
		},
	}
	change := func(do, past, short, long string, sure bool) *cobra.Command {
		var yes bool
		cmd := &cobra.Command{
			Use: do + " NAME", Short: short, Long: long, Args: oneArg("the key's name"),
			RunE: func(cmd *cobra.Command, args []string) error {
				if sure && !yes {
					return usageError("%s %s: nothing that the key protects could ever be read again: add --yes", cmd.CommandPath(), args[0])
				}
				site, err := admin.connect()
				if err != nil {
					return err
				}
				q := adminapi.KeyChange{Name: args[0], Do: do}
				if err := site.call(cmd.Context(), "POST", "/admin/v1/kms", q, nil); err != nil {
					return err
				}
				return done(cmd, env, past, args[0])
			},
		}
		if sure {
			cmd.Flags().BoolVar(&yes, "yes", false, "yes, nothing that the key protects shall be readable any more")
		}
		return cmd
	}
	rewrap := &cobra.Command{
		Use: "rewrap", Short: "Wrap every data key with the newest version of its key", Args: noArgs,
		Long: `Wrap the data key of every encrypted object with the newest version of its key, by the key service in use. No
content is read or written. Run it after rotate, and after another key service was configured. It can be interrupted
and run again. What a disabled or destroyed key protects, and what a client's own key does, stays as it is.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			site, err := admin.connect()
			if err != nil {
				return err
			}
			var sum adminapi.RewrapLine
			if err := site.call(cmd.Context(), "POST", "/admin/v1/kms/rewrap", nil, &sum); err != nil {
				return err
			}
			if asJSON(cmd) {
				if err := emit(env.Out, sum); err != nil {
					return err
				}
			} else if _, err := fmt.Fprintf(env.Out, "%d encrypted versions and uploads, %d wrapped anew\n", sum.Records, sum.Rewrapped.Rewrapped); err != nil {
				return err
			}
			if sum.Error != "" {
				return errors.New(sum.Error)
			}
			return nil
		},
	}
	seal := &cobra.Command{
		Use: "seal FILE", Short: "Seal the keyring with the content of a file", Args: oneArg("the file with the new secret"),
		Long: `Seal the keyring of the running site with the content of FILE, 8 bytes or more, in place of what opens it now. Before
the next start, set encryption.secret_file to FILE, or have encryption.secret_command print the same.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			site, err := admin.connect()
			if err != nil {
				return err
			}
			q := adminapi.KeyringSeal{Passphrase: strings.TrimRight(string(b), "\r\n")}
			if err := site.call(cmd.Context(), "POST", "/admin/v1/kms/seal", q, nil); err != nil {
				return err
			}
			return done(cmd, env, "sealed with", args[0])
		},
	}
	c.AddCommand(ls, seal,
		change("create", "created", "Make a key", "", false),
		change("rotate", "rotated", "Give a key a new version", `Give a key a new version, with which new data keys are wrapped from now on. Older
versions still open what they wrapped; firn kms rewrap moves that to the newest one.`, false),
		change("enable", "enabled", "Let a disabled key be used again", "", false),
		change("disable", "disabled", "Keep a key from being used", `Keep a key from being used: what it protects can neither be read nor written until it
is enabled.`, false),
		change("destroy", "destroyed", "Remove a key for good", `Remove a key for good. What it protects cannot be read any more, from backups of the data directory either, unless
there is a copy of the keyring with the key in it.`, true),
		rewrap)
	return c
}

func keyVersion(n int) string {
	if n == 0 {
		return "-"
	}
	return strconv.Itoa(n)
}

func day(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Format(time.DateTime)
}
