package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"firn"
)

// newRoot returns the whole command line. Each group of commands is one call, so that what exists is seen here.
// The client verbs (clientCommands, in client_*.go) and the benchmark (benchCommand, in bench_*.go) are functions of
// env like the rest. --json is a flag of the root: asJSON(cmd) reads it.
func newRoot(env *Env) *cobra.Command {
	root := &cobra.Command{
		Use:   "firn",
		Short: "A site of a Firn system, and the tool to work with sites and S3 stores",
		Long: `Firn keeps objects on one machine, durably, behind the S3 API.

Start a site:   firn serve
It prints its address and keys at the first start.`,
		SilenceUsage: true, SilenceErrors: true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError("unknown command %q: see firn help", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetIn(env.In)
	root.SetOut(env.Out)
	root.SetErr(env.Err)
	root.PersistentFlags().Bool("json", false, "write the result, and errors, as JSON")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError("%w: see %s --help", err, cmd.CommandPath())
	})
	root.AddGroup(
		&cobra.Group{ID: "site", Title: "The site:"},
		&cobra.Group{ID: "client", Title: "Objects on any S3 endpoint:"},
		&cobra.Group{ID: "backup", Title: "Backups:"},
		&cobra.Group{ID: "tools", Title: "Tools:"},
	)
	site := []*cobra.Command{
		serveCommand(env), statusCommand(env), userCommand(env), keyCommand(env), kmsCommand(env), groupCommand(env), policyCommand(env), journalCommand(env),
		checkCommand(env), configCommand(env), pprofCommand(env), tlsCommand(env), bucketCommand(env), lifecycleCommand(env), tierCommand(env),
		auditCommand(env), doctorCommand(env), cacheCommand(env),
	}
	for _, c := range site {
		c.GroupID = "site"
	}
	root.AddCommand(site...)
	root.AddCommand(clientCommands(env)...)
	root.AddCommand(backupCommands(env)...)
	root.AddCommand(sidecarCommands(env)...)
	tools := []*cobra.Command{blobCommand(env), benchCommand(env), versionCommand(env)}
	for _, c := range tools {
		c.GroupID = "tools"
	}
	root.AddCommand(tools...)
	root.AddCommand(ageCommands(env)...)
	root.SetHelpCommandGroupID("tools")
	root.SetCompletionCommandGroupID("tools")
	return root
}

func versionCommand(env *Env) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := struct {
				Version  string `json:"version"`
				Commit   string `json:"commit,omitempty"`
				Go       string `json:"go"`
				Platform string `json:"platform"`
			}{Version: firn.Version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
			if info, ok := debug.ReadBuildInfo(); ok {
				for _, s := range info.Settings {
					if s.Key == "vcs.revision" {
						v.Commit = s.Value
					}
				}
			}
			if asJSON(cmd) {
				return emit(env.Out, v)
			}
			_, err := fmt.Fprintf(env.Out, "firn %s %s %s\n", v.Version, v.Go, v.Platform)
			return err
		},
	}
}

// noArgs, oneArg and group word cobra's argument errors as usage errors.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError("%s takes no arguments, not %q", cmd.CommandPath(), args[0])
	}
	return nil
}

func oneArg(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usageError("%s wants one argument: %s", cmd.CommandPath(), what)
		}
		return nil
	}
}

// group is a command that only holds others.
func group(use, short string, children ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError("unknown command %q: see %s --help", args[0], cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(children...)
	return c
}
