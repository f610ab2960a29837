package cli

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"firn/adminapi"
)

// exactArgs wants the arguments named.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != len(names) {
			return usageError("%s wants %s", cmd.CommandPath(), strings.Join(names, " and "))
		}
		return nil
	}
}

// iam makes a call of IAM as root and reads the answer into out, nil for none.
func (a *adminFlags) iam(cmd *cobra.Command, out any, action string, params map[string]string) error {
	site, err := a.connect()
	if err != nil {
		return err
	}
	var raw json.RawMessage
	if err := site.call(cmd.Context(), "POST", "/admin/v1/iam", adminapi.IdentityCall{Action: action, Params: params}, &raw); err != nil {
		return err
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(raw, out)
}

// changes runs a call that has no result of its own, and says that it is done.
func (a *adminFlags) changes(what, action string, params ...string) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		p := make(map[string]string, len(params))
		for i, name := range params {
			p[name] = args[i]
		}
		if err := a.iam(cmd, nil, action, p); err != nil {
			return err
		}
		return done(cmd, a.env, what, strings.Join(args, " "))
	}
}

// named is a group or a policy in a listing.
type named struct {
	GroupName  string `json:",omitempty"`
	PolicyName string `json:",omitempty"`
	UserName   string `json:",omitempty"`
	Arn        string
	CreateDate string
}

// every calls IAM until the last page and returns what each answer has under key.
func (a *adminFlags) every(cmd *cobra.Command, action, key string, params map[string]string) ([]named, error) {
	all := []named{}
	p := map[string]string{"MaxItems": "1000"}
	for k, v := range params {
		p[k] = v
	}
	for {
		var page map[string]json.RawMessage
		if err := a.iam(cmd, &page, action, p); err != nil {
			return nil, err
		}
		var items []named
		if err := json.Unmarshal(page[key], &items); err != nil {
			return nil, err
		}
		all = append(all, items...)
		var marker string
		if page["Marker"] == nil {
			return all, nil
		}
		if err := json.Unmarshal(page["Marker"], &marker); err != nil {
			return nil, err
		}
		p["Marker"] = marker
	}
}

func (a *adminFlags) show(cmd *cobra.Command, list []named) error {
	if asJSON(cmd) {
		return emit(a.env.Out, list)
	}
	w := tabwriter.NewWriter(a.env.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tCREATED\tARN")
	for _, n := range list {
		fmt.Fprintf(w, "%s\t%s\t%s\n", cmp.Or(n.GroupName, n.PolicyName, n.UserName), n.CreateDate, n.Arn)
	}
	return w.Flush()
}

func groupCommand(env *Env) *cobra.Command {
	c := group("group", "Manage groups of users, which policies can be attached to")
	admin := addAdminFlags(c, env)
	list := &cobra.Command{
		Use: "list [GROUP]", Short: "List the groups, or the users in one", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			action, key, params := "ListGroups", "Groups", map[string]string(nil)
			if len(args) == 1 {
				action, key, params = "GetGroup", "Users", map[string]string{"GroupName": args[0]}
			}
			items, err := admin.every(cmd, action, key, params)
			if err != nil {
				return err
			}
			return admin.show(cmd, items)
		},
	}
	c.AddCommand(
		&cobra.Command{
			Use: "add GROUP", Short: "Make a group", Args: oneArg("the group's name"),
			RunE: admin.changes("added", "CreateGroup", "GroupName"),
		},
		list,
		&cobra.Command{
			Use: "rm GROUP", Short: "Remove a group that has no users and no policies", Args: oneArg("the group's name"),
			RunE: admin.changes("removed", "DeleteGroup", "GroupName"),
		},
		&cobra.Command{
			Use: "join GROUP USER", Short: "Put a user into a group", Args: exactArgs("the group", "the user"),
			RunE: admin.changes("joined", "AddUserToGroup", "GroupName", "UserName"),
		},
		&cobra.Command{
			Use: "leave GROUP USER", Short: "Take a user out of a group", Args: exactArgs("the group", "the user"),
			RunE: admin.changes("left", "RemoveUserFromGroup", "GroupName", "UserName"),
		},
	)
	return c
}

// policyARN returns the ARN of a policy of the site by its name; an ARN stays as it is.
func policyARN(name string) string {
	if strings.HasPrefix(name, "arn:") {
		return name
	}
	return "arn:aws:iam:::policy/" + name
}

// maxPolicyFile bounds a policy document in bytes.
const maxPolicyFile = 20 << 10

// readPolicy reads a policy document from a file, or from standard input for "-".
func readPolicy(env *Env, name string) (string, error) {
	in := env.In
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return "", err
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, maxPolicyFile+1))
	if err == nil && len(b) > maxPolicyFile {
		err = usageError("%s is larger than the %d bytes a policy may have", name, maxPolicyFile)
	}
	return string(b), err
}

func policyCommand(env *Env) *cobra.Command {
	c := group("policy", "Manage policies, attach them, and ask what they decide")
	admin := addAdminFlags(c, env)
	c.AddCommand(policyAdd(admin), policyList(admin), policyShow(admin),
		&cobra.Command{
			Use: "rm POLICY", Short: "Remove a policy that is attached to nobody", Args: oneArg("the policy's name"),
			RunE: func(cmd *cobra.Command, args []string) error {
				if err := admin.iam(cmd, nil, "DeletePolicy", map[string]string{"PolicyArn": policyARN(args[0])}); err != nil {
					return err
				}
				return done(cmd, env, "removed", args[0])
			},
		},
		policyAttach(admin, "attach", "Attach", "attached", "Attach a policy to a user, a group or a role"),
		policyAttach(admin, "detach", "Detach", "detached", "Detach a policy from a user, a group or a role"),
		policySimulate(admin))
	return c
}

func policyAdd(admin *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use: "add POLICY FILE", Short: "Add a policy from a file (- for standard input), or a new version of one",
		Args: exactArgs("the policy's name", "a file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			doc, err := readPolicy(admin.env, args[1])
			if err != nil {
				return err
			}
			var old struct{ Policies []named }
			if err := admin.iam(cmd, &old, "ListPolicies", map[string]string{"Scope": "Local", "MaxItems": "1000"}); err != nil {
				return err
			}
			for _, p := range old.Policies {
				if strings.EqualFold(p.PolicyName, args[0]) {
					return replacePolicy(cmd, admin, p.Arn, args[0], doc)
				}
			}
			if err := admin.iam(cmd, nil, "CreatePolicy", map[string]string{"PolicyName": args[0], "PolicyDocument": doc}); err != nil {
				return err
			}
			return done(cmd, admin.env, "added", args[0])
		},
	}
}

// maxVersions is how many versions of a policy the site keeps.
const maxVersions = 5

// replacePolicy makes doc the policy's version in force. The oldest goes where there are too many.
func replacePolicy(cmd *cobra.Command, admin *adminFlags, arn, name, doc string) error {
	var have struct {
		Versions []struct{ VersionId, IsDefaultVersion string }
	}
	if err := admin.iam(cmd, &have, "ListPolicyVersions", map[string]string{"PolicyArn": arn}); err != nil {
		return err
	}
	if len(have.Versions) >= maxVersions {
		oldest := have.Versions[0]
		if oldest.IsDefaultVersion == "true" {
			oldest = have.Versions[1]
		}
		if err := admin.iam(cmd, nil, "DeletePolicyVersion", map[string]string{"PolicyArn": arn, "VersionId": oldest.VersionId}); err != nil {
			return err
		}
	}
	p := map[string]string{"PolicyArn": arn, "PolicyDocument": doc, "SetAsDefault": "true"}
	if err := admin.iam(cmd, nil, "CreatePolicyVersion", p); err != nil {
		return err
	}
	return done(cmd, admin.env, "replaced", name)
}

func policyList(admin *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the policies of the site and those that come with it", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			items, err := admin.every(cmd, "ListPolicies", "Policies", nil)
			if err != nil {
				return err
			}
			return admin.show(cmd, items)
		},
	}
}

func policyShow(admin *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use: "show POLICY", Short: "Print a policy's document", Args: oneArg("the policy's name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			arn := policyARN(args[0])
			var p struct {
				Policy struct{ DefaultVersionId string }
			}
			if err := admin.iam(cmd, &p, "GetPolicy", map[string]string{"PolicyArn": arn}); err != nil {
				return err
			}
			var v struct {
				PolicyVersion struct{ Document string }
			}
			params := map[string]string{"PolicyArn": arn, "VersionId": p.Policy.DefaultVersionId}
			if err := admin.iam(cmd, &v, "GetPolicyVersion", params); err != nil {
				return err
			}
			doc, err := url.PathUnescape(v.PolicyVersion.Document)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(admin.env.Out, strings.TrimSpace(doc))
			return err
		},
	}
}

func policyAttach(admin *adminFlags, use, verb, what, short string) *cobra.Command {
	var user, grp, role string
	c := &cobra.Command{
		Use: use + " POLICY", Short: short, Args: oneArg("the policy's name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, to := range [...]struct{ kind, name string }{{"User", user}, {"Group", grp}, {"Role", role}} {
				if to.name == "" {
					continue
				}
				p := map[string]string{to.kind + "Name": to.name, "PolicyArn": policyARN(args[0])}
				if err := admin.iam(cmd, nil, verb+to.kind+"Policy", p); err != nil {
					return err
				}
			}
			return done(cmd, admin.env, what, args[0])
		},
	}
	c.Flags().StringVar(&user, "user", "", "name of the user")
	c.Flags().StringVar(&grp, "group", "", "name of the group")
	c.Flags().StringVar(&role, "role", "", "name of the role")
	c.MarkFlagsOneRequired("user", "group", "role")
	return c
}

func policySimulate(admin *adminFlags) *cobra.Command {
	var q adminapi.Simulation
	var conditions []string
	c := &cobra.Command{
		Use: "simulate ACTION [BUCKET[/KEY]]", Short: "Tell whether a request would be allowed, and which statement or rule decides",
		Long: `Tell whether a request would be allowed, and which statement or rule decides, with the policies, grants, ACLs and
settings as they are. ACTION is such as s3:GetObject. Without --user or --access-key the caller is anonymous.`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			q.Action = args[0]
			if len(args) == 2 {
				q.Bucket, q.Key, _ = strings.Cut(strings.TrimPrefix(args[1], "arn:aws:s3:::"), "/")
			}
			q.Conditions = make(map[string][]string)
			for _, s := range conditions {
				k, v, ok := strings.Cut(s, "=")
				if !ok {
					return usageError("--condition %s: want KEY=VALUE, such as aws:SourceIp=10.0.0.7", s)
				}
				q.Conditions[k] = append(q.Conditions[k], v)
			}
			site, err := admin.connect()
			if err != nil {
				return err
			}
			var v adminapi.Verdict
			if err := site.call(cmd.Context(), "POST", "/admin/v1/policy/simulate", q, &v); err != nil {
				return err
			}
			if asJSON(cmd) {
				return emit(admin.env.Out, v)
			}
			_, err = fmt.Fprintln(admin.env.Out, v.Reason)
			return err
		},
	}
	c.Flags().StringVar(&q.User, "user", "", "name of the user who asks")
	c.Flags().StringVar(&q.AccessKey, "access-key", "", "access key that is asked with, in place of --user")
	c.Flags().StringArrayVar(&conditions, "condition", nil, "value of a condition key, KEY=VALUE; may be repeated")
	c.MarkFlagsMutuallyExclusive("user", "access-key")
	return c
}
