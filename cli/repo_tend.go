package cli

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"firn/archive"
	"firn/config"
	"firn/repo"
)

// bytesOf words a number of bytes.
func bytesOf(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

func repoKeyCommand(env *Env) *cobra.Command {
	return group("key", "Add, list, remove and replace passwords",
		repoKeyAddCommand(env), repoKeyListCommand(env), repoKeyRemoveCommand(env), repoKeyRotateCommand(env))
}

// newPassword finds the password of a new key.
func newPassword(ctx context.Context, env *Env) ([]byte, error) {
	return env.password(ctx, "FIRN_REPO_NEW_PASSWORD", "new password", true)
}

func repoKeyAddCommand(env *Env) *cobra.Command {
	r := newRepoFlags(env)
	var label, role string
	c := &cobra.Command{
		Use: "add", Short: "Add a password", Args: noArgs,
		Long: `Add a password. It comes from FIRN_REPO_NEW_PASSWORD, the file FIRN_REPO_NEW_PASSWORD_FILE, what
FIRN_REPO_NEW_PASSWORD_COMMAND prints, or is asked for on a terminal.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if role != string(repo.Full) && role != string(repo.Append) {
				return usageError("--role %s: want full or append", role)
			}
			return r.with(cmd.Context(), repo.Options{}, func(re *repo.Repo) error {
				p, err := newPassword(cmd.Context(), env)
				if err != nil {
					return err
				}
				id, err := re.AddKey(cmd.Context(), p, repo.KeyOptions{Label: label, Role: repo.Role(role)})
				if err != nil {
					return err
				}
				return done(cmd, env, "added key", id.Short())
			})
		},
	}
	r.register(c.Flags())
	c.Flags().StringVar(&label, "label", "", "what the key is for")
	c.Flags().StringVar(&role, "role", "full", "full, or append: this program then refuses to forget, prune and remove keys with it")
	return c
}

func repoKeyListCommand(env *Env) *cobra.Command {
	r := newRepoFlags(env)
	c := &cobra.Command{
		Use: "ls", Short: "List the keys", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return r.with(cmd.Context(), repo.Options{ReadOnly: true}, func(re *repo.Repo) error {
				keys, err := re.Keys(cmd.Context())
				if err != nil {
					return err
				}
				if asJSON(cmd) {
					return emit(env.Out, keys)
				}
				w := tabwriter.NewWriter(env.Out, 0, 8, 2, ' ', 0)
				fmt.Fprintln(w, "ID\tROLE\tCREATED\tLABEL\t")
				for _, k := range keys {
					current := ""
					if k.Current {
						current = "(in use)"
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", k.ID.Short(), k.Role, when(k.Created), shown(k.Label), current)
				}
				return w.Flush()
			})
		},
	}
	r.register(c.Flags())
	return c
}

func repoKeyRemoveCommand(env *Env) *cobra.Command {
	r := newRepoFlags(env)
	c := &cobra.Command{
		Use: "rm KEY", Short: "Remove a password", Args: oneArg("the id of a key, or the beginning of it"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return r.with(cmd.Context(), repo.Options{}, func(re *repo.Repo) error {
				keys, err := re.Keys(cmd.Context())
				if err != nil {
					return err
				}
				var found []repo.ID
				for _, k := range keys {
					if strings.HasPrefix(k.ID.String(), args[0]) {
						found = append(found, k.ID)
					}
				}
				if len(found) != 1 {
					return usageError("%d keys begin with %q: see firn repo key ls", len(found), args[0])
				}
				if err := re.RemoveKey(cmd.Context(), found[0]); err != nil {
					return err
				}
				return done(cmd, env, "removed key", found[0].Short())
			})
		},
	}
	r.register(c.Flags())
	return c
}

func repoKeyRotateCommand(env *Env) *cobra.Command {
	r := newRepoFlags(env)
	var label string
	c := &cobra.Command{
		Use: "rotate", Short: "Replace the password in use by a new one", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return r.with(cmd.Context(), repo.Options{}, func(re *repo.Repo) error {
				p, err := newPassword(cmd.Context(), env)
				if err != nil {
					return err
				}
				id, err := re.Rotate(cmd.Context(), p, repo.KeyOptions{Label: label})
				if err != nil {
					return err
				}
				return done(cmd, env, "the key is now", id.Short())
			})
		},
	}
	r.register(c.Flags())
	c.Flags().StringVar(&label, "label", "", "label of the new key")
	return c
}

func repoCheckCommand(env *Env) *cobra.Command {
	r := newRepoFlags(env)
	var read string
	c := &cobra.Command{
		Use: "check", Short: "Check that every snapshot is whole", Args: noArgs,
		Long: `Check that all that snapshots refer to is there, and with --read-data that its bytes are right: all, or a part
chosen at random, such as --read-data=5%. The files that damage makes unrestorable are named. The exit code is 3 where
something is damaged.`,
	}
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		var o repo.CheckOptions
		if read != "" {
			part, err := parsePercent(read)
			if err != nil {
				return err
			}
			o.ReadData = part
		}
		return r.with(cmd.Context(), repo.Options{ReadOnly: true}, func(re *repo.Repo) error {
			lost := map[repo.ID]bool{}
			rep, err := re.Check(cmd.Context(), o, func(p repo.Problem) {
				for _, id := range p.Chunks {
					lost[id] = true
				}
				printRepoProblem(cmd, env, p)
			})
			if err != nil {
				return err
			}
			files, err := damagedFiles(cmd, env, re, lost)
			if err != nil {
				return err
			}
			if asJSON(cmd) {
				if err := line(env.Out, struct {
					Event string `json:"event"`
					repo.CheckReport
					DamagedFiles int
				}{"summary", rep, files}); err != nil {
					return err
				}
			} else {
				fmt.Fprintf(env.Out, "checked %d snapshots, %d packs; read %d packs, %s; %d problems, %d damaged files\n",
					rep.Snapshots, rep.Packs, rep.PacksRead, bytesOf(rep.BytesRead), rep.Problems, files)
			}
			if rep.Problems > 0 {
				return &exitError{code: exitProblems}
			}
			return nil
		})
	}
	r.register(c.Flags())
	c.Flags().StringVar(&read, "read-data", "", "read back all packs, or a part of them: --read-data=5%")
	c.Flags().Lookup("read-data").NoOptDefVal = "100%"
	return c
}

func printRepoProblem(cmd *cobra.Command, env *Env, p repo.Problem) {
	if asJSON(cmd) {
		_ = line(env.Out, map[string]any{"event": "problem", "blob": p.Blob, "error": p.Err.Error(), "chunks": len(p.Chunks), "harmless": p.Harmless})
		return
	}
	what := "problem"
	if p.Harmless {
		what = "note"
	}
	fmt.Fprintf(env.Err, "%s: %v\n", what, p)
}

// damagedFiles names the files of all snapshots that need a lost chunk.
func damagedFiles(cmd *cobra.Command, env *Env, re *repo.Repo, lost map[repo.ID]bool) (int, error) {
	if len(lost) == 0 {
		return 0, nil
	}
	snaps, err := re.Snapshots(cmd.Context())
	if err != nil {
		return 0, err
	}
	count := 0
	for _, s := range snaps {
		err := archive.Affected(cmd.Context(), re, s, lost, func(path string) error {
			count++
			if asJSON(cmd) {
				return line(env.Out, map[string]string{"event": "damaged", "snapshot": s.ID.String(), "path": path})
			}
			fmt.Fprintf(env.Err, "damaged: %s in snapshot %s\n", shown(path), s.ID.Short())
			return nil
		})
		if err != nil {
			if cmd.Context().Err() != nil {
				return count, err
			}
			// Its tree is what is damaged: what is beneath cannot be named.
			fmt.Fprintf(env.Err, "snapshot %s: %v\n", s.ID.Short(), err)
		}
	}
	return count, nil
}

func repoPruneCommand(env *Env) *cobra.Command {
	r := newRepoFlags(env)
	var (
		o               repo.PruneOptions
		memory, timeout string
		unused          string
	)
	c := &cobra.Command{
		Use: "prune", Short: "Remove what no snapshot needs", Args: noArgs,
		Long: `Remove what no snapshot refers to any more. Backups and restores may run meanwhile, here and elsewhere; it may be
interrupted, and the next one goes on.

Before it deletes, it finds out which of the sessions in the repository are alive. One that runs shows it within 30
seconds; one whose process was killed is taken for dead after --session-timeout. A terminal, and --json on the error
output, are told which ones are waited for.`,
	}
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if memory != "" {
			n, err := parseSize(memory)
			if err != nil {
				return err
			}
			o.Memory = n
		}
		if unused != "" {
			if unused == "0" || unused == "0%" {
				o.MaxUnused = -1
			} else {
				part, err := parsePercent(unused)
				if err != nil {
					return err
				}
				o.MaxUnused = part
			}
		}
		if timeout != "" {
			d, err := config.ParseDuration(timeout)
			if err != nil {
				return usageError("--session-timeout: %w", err)
			}
			o.SessionTimeout = time.Duration(d)
		}
		return r.with(cmd.Context(), repo.Options{}, func(re *repo.Repo) error {
			o.Waits = waits(cmd, env)
			rep, err := re.Prune(cmd.Context(), o)
			if err != nil {
				return err
			}
			return showPrune(cmd, env, rep, o.DryRun)
		})
	}
	r.register(c.Flags())
	f := c.Flags()
	f.BoolVar(&o.DryRun, "dry-run", false, "only tell what would happen")
	f.StringVar(&memory, "memory", "", "memory for the part of the index that is looked at at once (default 64MiB)")
	f.StringVar(&unused, "max-unused", "", "part of the repository that may stay unused (default 5%)")
	f.StringVar(&o.Scratch, "scratch", "", "directory for temporary files (default: the system's)")
	f.StringVar(&timeout, "session-timeout", "", "how long a backup must show no sign of life to be taken for dead (default 5m)")
	return c
}

func showPrune(cmd *cobra.Command, env *Env, rep repo.PruneReport, dry bool) error {
	if asJSON(cmd) {
		return emit(env.Out, rep)
	}
	verb := "removed"
	if dry {
		verb = "would remove"
	}
	fmt.Fprintf(env.Out, "%s %d packs, %s, and rewrote %d, %s; freed %d packs, %s, by now\n", verb,
		rep.RemovePacks, bytesOf(rep.RemoveSize), rep.RepackPacks, bytesOf(rep.RepackSize), rep.FreedPacks, bytesOf(rep.Freed))
	if rep.Pending > 0 {
		fmt.Fprintf(env.Out, "%d packs, %s, wait for %d running backups to end: the next prune deletes them\n",
			rep.Pending, bytesOf(rep.PendingSize), len(rep.Waiting))
	}
	if rep.NoSpace {
		fmt.Fprintln(env.Err, "firn: the place is too full to rewrite packs: only whole ones were removed")
	}
	if rep.NoReserve != nil {
		fmt.Fprintf(env.Err, "firn: the space put aside for a full place could not be taken again: %v\n", rep.NoReserve)
	}
	return nil
}

func repoStatsCommand(env *Env) *cobra.Command {
	r := newRepoFlags(env)
	c := &cobra.Command{
		Use: "stats", Short: "Count what a repository holds", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return r.with(cmd.Context(), repo.Options{ReadOnly: true}, func(re *repo.Repo) error {
				s, err := re.Stats(cmd.Context())
				if err != nil {
					return err
				}
				if asJSON(cmd) {
					return emit(env.Out, s)
				}
				w := tabwriter.NewWriter(env.Out, 0, 8, 2, ' ', 0)
				fmt.Fprintf(w, "snapshots\t%d\n", s.Snapshots)
				fmt.Fprintf(w, "packs\t%d\t%s\n", s.Packs, bytesOf(s.PackSize))
				fmt.Fprintf(w, "index files\t%d\t%s\n", s.IndexFiles, bytesOf(s.IndexSize))
				for _, k := range []repo.Kind{repo.Data, repo.Tree} {
					fmt.Fprintf(w, "%s chunks\t%d\t%s, from %s\n", k, s.Chunks[k], bytesOf(s.Stored[k]), bytesOf(s.Plain[k]))
				}
				fmt.Fprintf(w, "index in memory\t\t%s\n", bytesOf(s.Memory))
				fmt.Fprintf(w, "running sessions\t%d\n", s.Sessions)
				fmt.Fprintf(w, "packs to be deleted\t%d\n", s.DoomedPacks)
				return w.Flush()
			})
		},
	}
	r.register(c.Flags())
	return c
}

func repoCopyCommand(env *Env) *cobra.Command {
	r, to := newRepoFlags(env), newRepoFlags(env)
	to.prefix = "FIRN_TO_REPO"
	c := &cobra.Command{
		Use: "copy [SNAPSHOT...]", Short: "Copy snapshots to another repository",
		Long: `Copy snapshots, all where none are named, to the repository --to, whose password comes from FIRN_TO_REPO_PASSWORD,
_FILE or _COMMAND. Snapshots that were copied before are left out, and every chunk is verified on its way.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			to.opener = r.opener
			return r.with(cmd.Context(), repo.Options{ReadOnly: true}, func(from *repo.Repo) error {
				var ids []repo.ID
				for _, a := range args {
					s, err := from.Snapshot(cmd.Context(), a)
					if err != nil {
						return err
					}
					ids = append(ids, s.ID)
				}
				return to.with(cmd.Context(), repo.Options{}, func(dst *repo.Repo) error {
					rep, err := from.CopyTo(cmd.Context(), dst, ids...)
					if err != nil {
						return err
					}
					if asJSON(cmd) {
						return emit(env.Out, rep)
					}
					_, err = fmt.Fprintf(env.Out, "copied %d snapshots, %d were there; stored %s\n", rep.Snapshots, rep.Skipped, bytesOf(rep.Stored))
					return err
				})
			})
		},
	}
	r.register(c.Flags())
	c.Flags().StringVar(&to.url, "to", "", "URL of the other repository (FIRN_TO_REPO)")
	return c
}

func repoRepairCommand(env *Env) *cobra.Command {
	r := newRepoFlags(env)
	var o repo.RepairOptions
	c := &cobra.Command{
		Use: "repair", Short: "Make the index anew from the packs that are there", Args: noArgs,
		Long: `Make the index anew from the packs that are there, after blobs were lost or damaged. What is lost is named, and stored
again by the next backup where its source still has it. Nothing that could be read is removed.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return r.with(cmd.Context(), repo.Options{}, func(re *repo.Repo) error {
				rep, err := re.Repair(cmd.Context(), o, func(p repo.Problem) { printRepoProblem(cmd, env, p) })
				if err != nil {
					return err
				}
				if asJSON(cmd) {
					return emit(env.Out, rep)
				}
				fmt.Fprintf(env.Out, "%d packs; %d found again, %d lost, %d salvaged; %d chunks lost\n",
					rep.Packs, rep.Recovered, rep.Lost, rep.Salvaged, rep.LostChunks)
				if rep.LostChunks > 0 {
					fmt.Fprintln(env.Out, "run firn backup on the sources that still exist, then firn repo check")
				}
				return nil
			})
		},
	}
	r.register(c.Flags())
	c.Flags().BoolVar(&o.ReadData, "read-data", false, "read all packs back, and save what is good in damaged ones")
	c.Flags().BoolVar(&o.Force, "force", false, "go on though backups seem to run: where it is certain that they do not")
	return c
}
