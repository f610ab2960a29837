package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"firn"
	"firn/adminapi"
	"firn/auth"
	"firn/config"
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
			fmt.Fprintln(w, "NAME\tCREATED\tKEYS\tGRANTS\tGROUPS\tPOLICIES")
			for _, u := range users {
				fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\n", u.Name, u.Created.Format(time.DateTime), len(u.Keys), grantList(u.Grants),
					listed(u.Groups), listed(u.Policies))
			}
			return w.Flush()
		},
	}
	var to string
	rm := &cobra.Command{
		Use: "rm NAME", Short: "Remove a user with its keys and what is within its account", Args: oneArg("the user's name"),
		Long: `Remove a user with its keys and what is within its account. A user that owns buckets is not removed: remove
the buckets, or hand them over with --to, to another user or to root.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			site, err := admin.connect()
			if err != nil {
				return err
			}
			path := "/admin/v1/users/" + url.PathEscape(args[0])
			if to != "" {
				path += "?to=" + url.QueryEscape(to)
			}
			if err := site.call(cmd.Context(), "DELETE", path, nil, nil); err != nil {
				return err
			}
			return done(cmd, env, "removed", args[0])
		},
	}
	rm.Flags().StringVar(&to, "to", "", "user, or root, who gets the buckets")
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
	c.AddCommand(add, list, rm, grant, userLimitCommand(env, admin))
	return c
}

// userLimitCommand shows and sets a user's own bounds.
func userLimitCommand(env *Env, admin *adminFlags) *cobra.Command {
	var requests, concurrent, rate string
	c := &cobra.Command{
		Use: "limit NAME", Short: "Show or set the bounds of a user", Args: oneArg("the user's name"),
		Long: `Show or set the bounds of a user on requests and bandwidth, in place of those of the site's configuration
(limits.user_requests, limits.user_concurrent, limits.user_rate). A value is a number, "none" for no bound, or "site"
for the site's. A change holds for requests that begin after it.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			users, err := listUsers(cmd, admin)
			if err != nil {
				return err
			}
			i := slices.IndexFunc(users, func(u auth.User) bool { return u.Name == args[0] })
			if i < 0 {
				return firn.E("get user", args[0], auth.ErrNoSuchUser)
			}
			l := users[i].Limits
			number := func(s string) (int64, error) { return strconv.ParseInt(s, 10, 32) }
			bytes := func(s string) (int64, error) {
				r, err := config.ParseRate(s)
				return int64(r), err
			}
			n, m := int64(l.Requests), int64(l.Concurrent)
			changed := false
			for _, f := range []struct {
				name, value string
				to          *int64
				parse       func(string) (int64, error)
			}{{"requests", requests, &n, number}, {"concurrent", concurrent, &m, number}, {"rate", rate, &l.Rate, bytes}} {
				if !cmd.Flags().Changed(f.name) {
					continue
				}
				if changed, *f.to, err = true, 0, nil; f.value == "none" {
					*f.to = auth.NoLimit
				} else if f.value != "site" {
					if *f.to, err = f.parse(f.value); err != nil || *f.to <= 0 {
						return usageError("--%s %s: want more than 0, none, or site", f.name, f.value)
					}
				}
			}
			if l.Requests, l.Concurrent = int(n), int(m); changed {
				site, err := admin.connect()
				if err != nil {
					return err
				}
				if err := site.call(cmd.Context(), "PUT", "/admin/v1/users/"+url.PathEscape(args[0])+"/limits", l, nil); err != nil {
					return err
				}
			}
			if asJSON(cmd) {
				return emit(env.Out, l)
			}
			show := func(n int64, s string) string {
				switch n {
				case 0:
					return "as the site"
				case auth.NoLimit:
					return "none"
				}
				return s
			}
			_, err = fmt.Fprintf(env.Out, "requests    %s\nconcurrent  %s\nrate        %s\n", show(n, fmt.Sprint(n, " a second")),
				show(m, fmt.Sprint(m)), show(l.Rate, config.Rate(max(0, l.Rate)).String()))
			return err
		},
	}
	c.Flags().StringVar(&requests, "requests", "", "requests a second, with twice as many at once")
	c.Flags().StringVar(&concurrent, "concurrent", "", "requests served at once")
	c.Flags().StringVar(&rate, "rate", "", "bytes a second, sent and received together, such as 10MiB/s")
	return c
}

func keyCommand(env *Env) *cobra.Command {
	c := group("key", "Manage the access keys of users")
	admin := addAdminFlags(c, env)

	var q adminapi.KeyRequest
	var expires, policy string
	add := &cobra.Command{
		Use: "add USER", Short: "Give a user one more key", Args: oneArg("the user's name"),
		Long: `Give a user one more key. With --policy the key may do only what both the user may and the policy allows: a key
for a program that should not have all of the user's rights.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if expires != "" {
				d, err := config.ParseDuration(expires)
				if err != nil || d <= 0 {
					return usageError("--expires %s: want a span such as 90d or 12h", expires)
				}
				q.Expires = time.Now().Add(time.Duration(d))
			}
			if policy != "" {
				doc, err := readPolicy(env, policy)
				if err != nil {
					return err
				}
				if !json.Valid([]byte(doc)) {
					return usageError("--policy %s: not a JSON document", policy)
				}
				q.Policy = json.RawMessage(doc)
			}
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
	add.Flags().StringVar(&expires, "expires", "", "span after which the key ends, such as 90d")
	add.Flags().StringVar(&policy, "policy", "", "file with a policy that narrows what the key may do; - reads standard input")
	add.Flags().StringVar(&q.Note, "note", "", "what the key is for")

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
				User string `json:"user"`
				auth.KeyInfo
			}
			keys := []key{}
			known := len(args) == 0
			for _, u := range users {
				if len(args) == 1 && u.Name != args[0] {
					continue
				}
				known = true
				for _, k := range u.Keys {
					keys = append(keys, key{u.Name, k})
				}
			}
			if !known {
				return fmt.Errorf("list keys %s: %w", args[0], auth.ErrNoSuchUser)
			}
			if asJSON(cmd) {
				return emit(env.Out, keys)
			}
			w := tabwriter.NewWriter(env.Out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "USER\tACCESS KEY\tCREATED\tLAST USED\tEXPIRES\tSTATE\tNOTE")
			for _, k := range keys {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", k.User, k.AccessKey, k.Created.Format(time.DateTime),
					moment(k.Used), moment(k.Expires), keyState(k.KeyInfo), k.Note)
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
	var overlap string
	rotate := &cobra.Command{
		Use: "rotate ACCESS-KEY", Short: "Make a new key that may do the same, and let the old one end", Args: oneArg("the access key"),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := config.ParseDuration(overlap)
			if err != nil || d < 0 {
				return usageError("--overlap %s: want a span such as 24h or 7d", overlap)
			}
			site, err := admin.connect()
			if err != nil {
				return err
			}
			var made auth.Credentials
			path := "/admin/v1/keys/" + url.PathEscape(args[0]) + "/rotate"
			q := adminapi.RotateRequest{OverlapSeconds: int64(time.Duration(d) / time.Second)}
			if err := site.call(cmd.Context(), "POST", path, q, &made); err != nil {
				return err
			}
			if asJSON(cmd) {
				return emit(env.Out, made)
			}
			return printCredentials(env.Out, made, true)
		},
	}
	rotate.Flags().StringVar(&overlap, "overlap", "24h", "span for which the old key goes on working")
	c.AddCommand(add, list, rm, rotate)
	return c
}

// moment shows a time, a dash where it is none.
func moment(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Format(time.DateTime)
}

func keyState(k auth.KeyInfo) string {
	switch {
	case k.Inactive:
		return "inactive"
	case !k.Expires.IsZero() && !time.Now().Before(k.Expires):
		return "expired"
	case k.Narrowed:
		return "narrowed"
	}
	return "active"
}

func listed(names []string) string {
	if len(names) == 0 {
		return "-"
	}
	return strings.Join(names, " ")
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
