package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"firn/archive"
	"firn/archive/scan"
	"firn/repo"
)

// backupCommands are the commands for files and their snapshots.
func backupCommands(env *Env) []*cobra.Command {
	all := []*cobra.Command{
		backupCommand(env), restoreCommand(env), snapshotsCommand(env), forgetCommand(env), drillCommand(env),
		exportCommand(env), importCommand(env), repoCommand(env), agentCommand(env),
	}
	for _, c := range all {
		c.GroupID = "backup"
	}
	return all
}

// reporter prints what happens to single files, as lines for people or as JSON, and draws progress.
type reporter struct {
	env  *Env
	json bool
	out  *syncWriter // the error output, or the bars on it
	mu   sync.Mutex  // of the standard output
	stop func()
}

// newReporter draws the progress of p where there is a terminal for it.
func newReporter(ctx context.Context, cmd *cobra.Command, env *Env, quiet bool, p *archive.Progress) *reporter {
	r := &reporter{env: env, json: asJSON(cmd), out: &syncWriter{w: env.Err}, stop: func() {}}
	if env.Terminal && !quiet && !r.json {
		r.stop = drawArchive(ctx, env, r.out, p)
	}
	return r
}

// event is how one is written as JSON.
type event struct {
	Event string `json:"event"`
	Path  string `json:"path"`
	Error string `json:"error,omitempty"`
}

// report prints e. What went wrong goes to the error output, the rest to the standard output.
func (r *reporter) report(e archive.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	// An output that cannot be written to ends the process by itself (EPIPE) or shows in the summary's error.
	if r.json {
		v := event{Event: e.What, Path: e.Path}
		if e.Err != nil {
			v.Error = e.Err.Error()
		}
		_ = line(r.env.Out, v)
		return
	}
	switch {
	case e.Err != nil:
		fmt.Fprintf(r.out, "%s %s: %v\n", e.What, shown(e.Path), e.Err)
	case e.What == archive.EventChanged:
		fmt.Fprintf(r.out, "%s %s: it changed while it was read: what is stored may be a mixture\n", e.What, shown(e.Path))
	default:
		fmt.Fprintf(r.env.Out, "%s %s\n", e.What, shown(e.Path))
	}
}

// summary ends the stream of events.
func (r *reporter) summary(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		return err
	}
	m["event"] = "summary"
	return line(r.env.Out, m)
}

// drawArchive draws how far p is, with speed and what is left of the time, until the function it returns is called.
func drawArchive(ctx context.Context, env *Env, out *syncWriter, p *archive.Progress) func() {
	bars := mpb.NewWithContext(ctx, mpb.WithOutput(env.Err), mpb.WithWidth(40))
	files := func(decor.Statistics) string {
		if n := p.TotalFiles.Load(); n > 0 {
			return fmt.Sprintf("%d/%d files ", p.Files.Load(), max(n, p.Files.Load()))
		}
		return fmt.Sprintf("%d files ", p.Files.Load())
	}
	bar := bars.AddBar(0,
		mpb.PrependDecorators(decor.Any(files), decor.CountersKibiByte("% .1f / % .1f")),
		mpb.AppendDecorators(decor.AverageSpeed(decor.SizeB1024(0), "% .1f "), decor.AverageETA(decor.ET_STYLE_GO)),
		mpb.BarRemoveOnComplete(),
	)
	out.use(bars)
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			bar.SetTotal(max(p.TotalBytes.Load(), p.Bytes.Load(), 1), false)
			bar.SetCurrent(p.Bytes.Load())
			select {
			case <-tick.C:
			case <-quit:
				return
			case <-ctx.Done():
				return
			}
		}
	}()
	var once sync.Once
	return func() {
		once.Do(func() {
			close(quit)
			<-ended
			bar.Abort(true)
			bars.Wait()
			out.use(env.Err)
		})
	}
}

func backupCommand(env *Env) *cobra.Command {
	r := newRepoFlags(env)
	var (
		o              archive.BackupOptions
		excludeFiles   []string
		larger, ignore string
		sqlite         string
		noIgnore       bool
		hooks          hooks
		command, as    string
		stdin          bool
		quiet, verbose bool
	)
	c := &cobra.Command{
		Use: "backup PATH...", Short: "Back up files and directories",
		Long: `Make a snapshot of files and directories in a repository: content, owners, modes, times, extended attributes and
access control lists, hard links, holes of sparse files, links and special files. What is stored already is not
stored again, and files that look as in the last snapshot of the same host and paths are not read.

A file that cannot be read is reported and listed in the snapshot, the rest goes on, and the exit code is 3. A file
that changes while it is read is read again, and marked if it does not come to rest. SQLite databases are copied
through SQLite and checked, so that they are whole though somebody writes to them.`,
		Example: `  export FIRN_REPO=file:/mnt/nas/backup FIRN_REPO_PASSWORD_FILE=/etc/firn/password
  firn repo init
  firn backup /home /etc
  firn backup --exclude '*.tmp' --exclude-file /etc/firn/excludes --one-file-system /`,
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		streams := 0
		if command != "" {
			streams++
		}
		if stdin {
			streams++
		}
		if streams > 1 || streams == 1 && (len(args) > 0 || as == "") || streams == 0 && len(args) == 0 {
			return usageError("give files and directories, or --command COMMAND --as NAME, or --stdin --as NAME")
		}
		for _, a := range args {
			abs, err := filepath.Abs(a)
			if err != nil {
				return err
			}
			o.Paths = append(o.Paths, abs)
		}
		for _, name := range excludeFiles {
			b, err := os.ReadFile(name)
			if err != nil {
				return usageError("--exclude-file: %w", err)
			}
			o.Scan.Excludes = append(o.Scan.Excludes, scan.ParseIgnore(b)...)
		}
		if larger != "" {
			n, err := parseSize(larger)
			if err != nil {
				return err
			}
			o.Scan.LargerThan = n
		}
		if !noIgnore {
			o.Scan.IgnoreFile = ignore
		}
		switch sqlite {
		case "auto":
		case "off":
			o.CopyDatabases = true
		default:
			return usageError("--sqlite %s: want auto or off", sqlite)
		}
		if o.Host == "" {
			o.Host, _ = os.Hostname() // a machine without a name makes snapshots without one
		}
		if u, err := user.Current(); err == nil {
			o.User = u.Username
		}
		return r.with(cmd.Context(), repo.Options{}, func(re *repo.Repo) error {
			o.Progress = &archive.Progress{}
			rep := newReporter(cmd.Context(), cmd, env, quiet, o.Progress)
			defer rep.stop()
			o.Report, o.Verbose = rep.report, verbose
			var res archive.BackupResult
			err := hooks.around(cmd.Context(), env, func() (err error) {
				name := strings.Trim(as, "/")
				switch {
				case command != "":
					res, err = archive.BackupStream(cmd.Context(), re, o, archive.Command(name, command, env.Environ()))
				case stdin:
					open := func(context.Context) (io.ReadCloser, error) { return io.NopCloser(env.In), nil }
					res, err = archive.BackupStream(cmd.Context(), re, o, archive.Stream{Name: name, Open: open})
				default:
					res, err = archive.Backup(cmd.Context(), re, o)
				}
				return err
			})
			rep.stop()
			if err != nil {
				return err
			}
			return backupSummary(rep, res, quiet)
		})
	}
	r.register(c.Flags())
	f := c.Flags()
	f.StringArrayVar(&o.Scan.Excludes, "exclude", nil, "pattern, as of gitignore, of what to leave out (may be repeated)")
	f.StringArrayVar(&excludeFiles, "exclude-file", nil, "file with such patterns (may be repeated)")
	f.StringVar(&ignore, "ignore-file", ".firnignore", "name of files in the tree that hold patterns for their directory")
	f.BoolVar(&noIgnore, "no-ignore-file", false, "do not look for them")
	f.StringArrayVar(&o.Scan.IfPresent, "exclude-if-present", nil, "leave out what is in directories with a file of this name (may be repeated)")
	f.BoolVar(&o.Scan.CacheTags, "exclude-caches", false, "leave out what is in directories with a CACHEDIR.TAG")
	f.StringVar(&larger, "exclude-larger-than", "", "leave out files larger than this, such as 4GiB")
	f.BoolVarP(&o.Scan.OneFileSystem, "one-file-system", "x", false, "do not enter other file systems")
	f.StringVar(&o.Host, "host", "", "name of the host in the snapshot (default: this machine's)")
	f.StringArrayVar(&o.Tags, "tag", nil, "tag of the snapshot (may be repeated)")
	f.StringVar(&o.Parent, "parent", "", "snapshot whose unchanged files are not read (default: the last one of the same host and paths)")
	f.BoolVar(&o.ReadAll, "read-all", false, "read all files, unchanged or not")
	f.StringVar(&sqlite, "sqlite", "auto", "auto: copy SQLite databases through SQLite. off: as other files")
	f.StringVar(&command, "command", "", "store the output of this shell command, under the name --as; if it fails there is no snapshot")
	f.BoolVar(&stdin, "stdin", false, "store the standard input, under the name --as")
	f.StringVar(&as, "as", "", "name in the snapshot for --command and --stdin, such as db.sql")
	f.StringVar(&hooks.pre, "pre", "", "shell command to run first; if it fails nothing is backed up")
	f.StringVar(&hooks.post, "post", "", "shell command to run afterwards, also after a failure: FIRN_RESULT is ok or failed")
	f.BoolVarP(&verbose, "verbose", "v", false, "print every file")
	f.BoolVarP(&quiet, "quiet", "q", false, "print problems only")
	return c
}

// hooks are commands around a backup.
type hooks struct{ pre, post string }

func (h hooks) around(ctx context.Context, env *Env, fn func() error) error {
	if h.pre != "" {
		if err := archive.RunHook(ctx, h.pre, env.Environ()); err != nil {
			return err
		}
	}
	err := fn()
	if h.post != "" {
		result := "ok"
		if err != nil {
			result = "failed"
		}
		// Whatever stopped the backup, what the first hook did is to be undone.
		herr := archive.RunHook(context.WithoutCancel(ctx), h.post, append(env.Environ(), "FIRN_RESULT="+result))
		err = errors.Join(err, herr)
	}
	return err
}

// backupSummary prints what a backup did and chooses the exit code.
func backupSummary(rep *reporter, res archive.BackupResult, quiet bool) error {
	s := res.Summary
	switch {
	case rep.json:
		if err := rep.summary(struct {
			Snapshot string `json:"snapshot"`
			archive.Summary
		}{res.Snapshot.ID.String(), s}); err != nil {
			return err
		}
	case !quiet:
		took := time.Duration(s.Millis) * time.Millisecond
		fmt.Fprintf(rep.env.Out, "snapshot %s: %d files, %s; %d new, %d modified, %d unchanged; stored %s in %s\n",
			res.Snapshot.ID.Short(), s.Files, humanize.IBytes(uint64(s.Bytes)), s.New, s.Modified, s.Unchanged,
			humanize.IBytes(uint64(s.StoredBytes)), took.Round(10*time.Millisecond))
	}
	if s.Problems+s.Changed == 0 {
		return nil
	}
	if !rep.json {
		fmt.Fprintf(rep.env.Err, "firn: %d problems, %d files that changed while they were read: the rest is backed up\n", s.Problems, s.Changed)
	}
	return &exitError{code: exitProblems}
}
