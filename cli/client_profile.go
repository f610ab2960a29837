package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"firn/transfer"
)

// profilesCommand is `firn profile`: the endpoints a user works with, by name.
func profilesCommand(env *Env) *cobra.Command {
	c := group("profile", "Name the endpoints you work with", profileAddCommand(env), profileListCommand(env), profileRemoveCommand(env))
	c.Long = `Name the S3 endpoints you work with, and use one with --profile NAME or FIRN_PROFILE. The profile called
"default" is used where nothing else is said. Profiles are kept in client.yaml in the firn directory of your
configuration directory (FIRN_CLIENT_CONFIG names another file), readable by you alone.`
	return c
}

func profileAddCommand(env *Env) *cobra.Command {
	var p transfer.Profile
	c := &cobra.Command{
		Use: "add NAME --endpoint URL --access-key KEY", Short: "Add or replace a profile", Args: oneArg("the profile's name"),
		Long: `Add or replace a profile. Without --secret-key the secret is asked for on a terminal, and read from the
standard input otherwise, so that it does not show in the list of processes.`,
		Example: `  firn profile add office --endpoint https://s3.example.org --access-key AKEXAMPLE
  echo "$SECRET" | firn profile add default --endpoint http://127.0.0.1:9000 --access-key AKEXAMPLE`,
		RunE: func(cmd *cobra.Command, args []string) error {
			profiles, err := loadProfiles(env)
			if err != nil {
				return err
			}
			if p.AccessKey != "" && p.SecretKey == "" {
				if p.SecretKey, err = readSecret(env); err != nil {
					return err
				}
			}
			if (p.AccessKey == "") != (p.SecretKey == "") {
				return usageError("an access key and a secret key are needed together")
			}
			if err := profiles.Set(args[0], p); err != nil {
				return err
			}
			return done(cmd, env, "saved profile", args[0])
		},
	}
	f := c.Flags()
	f.StringVar(&p.Endpoint, "endpoint", "", "http://host:port or https://host[:port]")
	f.StringVar(&p.AccessKey, "access-key", "", "access key")
	f.StringVar(&p.SecretKey, "secret-key", "", "secret key; visible to other users of the machine")
	f.StringVar(&p.SessionToken, "session-token", "", "session token of temporary credentials")
	f.StringVar(&p.Region, "region", "", "region")
	f.BoolVar(&p.Insecure, "insecure", false, "accept any TLS certificate")
	f.BoolVar(&p.VirtualHost, "virtual-host", false, "address buckets as BUCKET.host")
	return c
}

// readSecret asks for a secret without showing it, or reads the first line of the standard input.
func readSecret(env *Env) (string, error) {
	if f, ok := env.In.(interface{ Fd() uintptr }); ok && term.IsTerminal(int(f.Fd())) {
		fmt.Fprint(env.Err, "Secret key: ")
		b, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(env.Err)
		return strings.TrimSpace(string(b)), err
	}
	b, err := io.ReadAll(io.LimitReader(env.In, 4096))
	line, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimSpace(line), err
}

func profileListCommand(env *Env) *cobra.Command {
	return &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List the profiles", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			profiles, err := loadProfiles(env)
			if err != nil {
				return err
			}
			type line struct {
				Name string `json:"name"`
				transfer.Profile
			}
			all := []line{}
			for _, n := range profiles.Names() {
				p, _ := profiles.Get(n)
				all = append(all, line{n, p})
			}
			if asJSON(cmd) {
				return emit(env.Out, all)
			}
			w := tabwriter.NewWriter(env.Out, 0, 8, 2, ' ', 0)
			for _, l := range all {
				fmt.Fprintf(w, "%s\t%s\t%s\n", l.Name, l.Endpoint, l.AccessKey)
			}
			return w.Flush()
		},
	}
}

func profileRemoveCommand(env *Env) *cobra.Command {
	return &cobra.Command{
		Use: "rm NAME", Short: "Remove a profile", Args: oneArg("the profile's name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			profiles, err := loadProfiles(env)
			if err != nil {
				return err
			}
			if err := profiles.Remove(args[0]); err != nil {
				return err
			}
			return done(cmd, env, "removed profile", args[0])
		},
	}
}
