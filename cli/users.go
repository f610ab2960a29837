package cli

import (
	"fmt"
	"io"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"firn/adminapi"
	"firn/auth"
)

func userCommand(env *Env) *cobra.Command {
	c := group("user", "Manage the users of the running site")
	admin := addAdminFlags(c, env)

	var q adminapi.UserRequest
	var grants []string
	add := &cobra.Command{
		Use: "add NAME", Short: "Add a user with a key", Args: oneArg("the user's name"),
		Long: `Add a user with a key. Without --access-key and --secret-key a pair is made and printed this once.

A grant is ROLE[:BUCKET[/PREFIX]], ROLE one of
  read   read and list
  write  read, list, put and delete objects
  owner  create buckets of one's own and do anything with them; with a bucket: anything there
Without a bucket, read and write hold for the whole site. Without any grant the user can do what bucket
policies and ACLs allow.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			q.Name = args[0]
			var err error
			if q.Grants, err = parseGrants(grants); err != nil {
				return err
			}
			site, err := admin.connect()
			if err != nil {
				return err
			}
			var made adminapi.NewUser
			if err := site.call(cmd.Context(), "POST", "/admin/v1/users", q, &made); err != nil {
				return err
			}
			if asJSON(cmd) {
				return emit(env.Out, made)
			}
			_, err = fmt.Fprintf(env.Out, "user        %s\n", made.User.Name)
			if err != nil {
				return err
			}
			return printCredentials(env.Out, made.Credentials, q.SecretKey == "")
		},
	}
	add.Flags().StringVar(&q.AccessKey, "access-key", "", "access key to use instead of a made one")
	add.Flags().StringVar(&q.SecretKey, "secret-key", "", "secret key to use instead of a made one")
	add.Flags().StringArrayVar(&grants, "grant", nil, "grant, ROLE[:BUCKET[/PREFIX]]; may be repeated")

	list := &cobra.Command{
		Use: "list", Short: "List the users", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			users, err := listUsers(cmd, admin)
			if err != nil {
				return err
			}
			if asJSON(cmd) {
				return emit(env.Out, users)
			}
			w := tabwriter.NewWriter(env.Out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tCREATED\tKEYS\tGRANTS")
			for _, u := range users {
				fmt.Fprintf(w, "%s\t%s\t%d\t%s\n", u.Name, u.Created.Format(time.DateTime), len(u.Keys), grantList(u.Grants))
			}
			return w.Flush()
		},
	}
	rm := &cobra.Command{
		Use: "rm NAME", Short: "Remove a user and its keys; its buckets and objects stay", Args: oneArg("the user's name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			site, err := admin.connect()
			if err != nil {
				return err
			}
			if err := site.call(cmd.Context(), "DELETE", "/admin/v1/users/"+url.PathEscape(args[0]), nil, nil); err != nil {
				return err
			}
			return done(cmd, env, "removed", args[0])
		},
	}
	grant := &cobra.Command{
		Use: "grant NAME [GRANT...]", Short: "Replace the grants of a user; without any, take all away",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 1 {
				return usageError("%s wants the user's name and the grants", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			g, err := parseGrants(args[1:])
			if err != nil {
				return err
			}
			site, err := admin.connect()
			if err != nil {
				return err
			}
			var u auth.User
			path := "/admin/v1/users/" + url.PathEscape(args[0]) + "/grants"
			if err := site.call(cmd.Context(), "PUT", path, adminapi.GrantsRequest{Grants: g}, &u); err != nil {
				return err
			}
			if asJSON(cmd) {
				return emit(env.Out, u)
			}
			_, err = fmt.Fprintf(env.Out, "%s: %s\n", u.Name, grantList(u.Grants))
			return err
		},
	}
	c.AddCommand(add, list, rm, grant)
	return c
}

func keyCommand(env *Env) *cobra.Command {
	c := group("key", "Manage the access keys of users")
	admin := addAdminFlags(c, env)

	var q adminapi.KeyRequest
	add := &cobra.Command{
		Use: "add USER", Short: "Give a user one more key", Args: oneArg("the user's name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			site, err := admin.connect()
			if err != nil {
				return err
			}
			var made auth.Credentials
			path := "/admin/v1/users/" + url.PathEscape(args[0]) + "/keys"
			if err := site.call(cmd.Context(), "POST", path, q, &made); err != nil {
				return err
			}
			if asJSON(cmd) {
				return emit(env.Out, made)
			}
			return printCredentials(env.Out, made, q.SecretKey == "")
		},
	}
	add.Flags().StringVar(&q.AccessKey, "access-key", "", "access key to use instead of a made one")
	add.Flags().StringVar(&q.SecretKey, "secret-key", "", "secret key to use instead of a made one")

	list := &cobra.Command{
		Use: "list [USER]", Short: "List access keys, never their secrets",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usageError("%s takes one user", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			users, err := listUsers(cmd, admin)
			if err != nil {
				return err
			}
			type key struct {
				User      string    `json:"user"`
				AccessKey string    `json:"access_key"`
				Created   time.Time `json:"created"`
			}
			keys := []key{}
			known := len(args) == 0
			for _, u := range users {
				if len(args) == 1 && u.Name != args[0] {
					continue
				}
				known = true
				for _, k := range u.Keys {
					keys = append(keys, key{u.Name, k.AccessKey, k.Created})
				}
			}
			if !known {
				return fmt.Errorf("list keys %s: %w", args[0], auth.ErrNoSuchUser)
			}
			if asJSON(cmd) {
				return emit(env.Out, keys)
			}
			w := tabwriter.NewWriter(env.Out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "USER\tACCESS KEY\tCREATED")
			for _, k := range keys {
				fmt.Fprintf(w, "%s\t%s\t%s\n", k.User, k.AccessKey, k.Created.Format(time.DateTime))
			}
			return w.Flush()
		},
	}
	rm := &cobra.Command{
		Use: "rm ACCESS-KEY", Short: "Remove an access key", Args: oneArg("the access key"),
		RunE: func(cmd *cobra.Command, args []string) error {
			site, err := admin.connect()
			if err != nil {
				return err
			}
			if err := site.call(cmd.Context(), "DELETE", "/admin/v1/keys/"+url.PathEscape(args[0]), nil, nil); err != nil {
				return err
			}
			return done(cmd, env, "removed", args[0])
		},
	}
	c.AddCommand(add, list, rm)
	return c
}

func listUsers(cmd *cobra.Command, admin *adminFlags) ([]auth.User, error) {
	site, err := admin.connect()
	if err != nil {
		return nil, err
	}
	var users []auth.User
	return users, site.call(cmd.Context(), "GET", "/admin/v1/users", nil, &users)
}

func parseGrants(args []string) ([]auth.Grant, error) {
	grants := make([]auth.Grant, 0, len(args))
	for _, s := range args {
		g, err := auth.ParseGrant(s)
		if err != nil {
			return nil, &exitError{exitUsage, err}
		}
		grants = append(grants, g)
	}
	return grants, nil
}

func grantList(grants []auth.Grant) string {
	if len(grants) == 0 {
		return "none"
	}
	out := make([]string, len(grants))
	for i, g := range grants {
		out[i] = g.String()
	}
	return strings.Join(out, " ")
}

// printCredentials shows a pair. A secret the caller chose is not repeated.
func printCredentials(w io.Writer, c auth.Credentials, made bool) error {
	if !made {
		_, err := fmt.Fprintf(w, "access key  %s\n", c.AccessKey)
		return err
	}
	_, err := fmt.Fprintf(w, "access key  %s\nsecret key  %s\nThe secret is shown this once.\n", c.AccessKey, c.SecretKey)
	return err
}

// done reports a change that has no result of its own.
func done(cmd *cobra.Command, env *Env, what, subject string) error {
	if asJSON(cmd) {
		return emit(env.Out, map[string]string{what: subject})
	}
	_, err := fmt.Fprintf(env.Out, "%s %s\n", what, subject)
	return err
}
