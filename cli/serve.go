package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"firn/archive/schedule"
	"firn/config"
	"firn/node"
	"firn/telemetry"
)

// configFlags adds --config and one flag for each key, and returns what loads the configuration.
func configFlags(f *pflag.FlagSet, env *Env) func() (*config.Effective, error) {
	file := f.String("config", "", "configuration file (default firn.yaml where it exists; FIRN_CONFIG)")
	values := map[string]*string{}
	for _, k := range config.Keys() {
		doc, _, _ := strings.Cut(k.Doc, ". ")
		def := k.Default
		if def == "" {
			def = "none"
		}
		values[k.Name] = f.String(k.Flag, "", fmt.Sprintf("%s (%s; default %s)", strings.TrimSuffix(doc, "."), k.Env, def))
	}
	return func() (*config.Effective, error) {
		src := config.Sources{File: *file, Env: env.Getenv, Flags: map[string]string{}}
		for _, k := range config.Keys() {
			if f.Changed(k.Flag) {
				src.Flags[k.Name] = *values[k.Name]
			}
		}
		e, err := config.Load(src)
		if err != nil {
			return nil, &exitError{exitUsage, err}
		}
		return e, nil
	}
}

func serveCommand(env *Env) *cobra.Command {
	c := &cobra.Command{
		Use: "serve", Short: "Run a site", Args: noArgs,
		Long: `Run a site: an S3 endpoint over a data directory.

Without any configuration it keeps its data in ./firn-data, listens on port 9000, makes root keys at the first
start and prints them once. Every setting is a flag, a variable and a key of firn.yaml: see firn config keys.
SIGTERM or an interrupt stops it after the requests in flight; a second one stops it at once.`,
	}
	load := configFlags(c.Flags(), env)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := load()
		if err != nil {
			return err
		}
		json := cfg.Log.Format == "json" || cfg.Log.Format == "auto" && !env.Terminal
		log, err := telemetry.NewLogger(env.Err, cfg.Log.Level, json)
		if err != nil {
			return err
		}
		for _, w := range config.Suspicious(env.Environ()) {
			log.Warn(w)
		}
		o := node.Options{Log: log, Welcome: env.Out}
		var backups *schedule.Runner
		var watch *mirrors
		if len(cfg.Backups) > 0 || len(cfg.Tiers) > 0 {
			watch = newMirrors(log)
			o.Mirrors = watch.observe
			o.Metrics = append(o.Metrics, watch)
		}
		if len(cfg.Backups) > 0 {
			if err := os.MkdirAll(cfg.Data, 0o700); err != nil {
				return err
			}
			if backups, err = newSchedule(env, cfg, filepath.Join(cfg.Data, "schedule.json"), log, watch); err != nil {
				return err
			}
			o.Metrics = append(o.Metrics, backups)
		}
		n, err := node.Build(cmd.Context(), cfg.Config, o)
		if err != nil {
			return err
		}
		err = serve(cmd.Context(), n, backups)
		if cerr := n.Close(); cerr != nil {
			err = errors.Join(err, cerr)
		}
		if err == nil {
			log.Info("stopped")
		}
		return err
	}
	return c
}

// serve runs a site, and the backups of its configuration beside it. Neither ends the other but by an end of both.
func serve(ctx context.Context, n *node.Node, backups *schedule.Runner) error {
	if backups == nil {
		return n.Run(ctx)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var g errgroup.Group
	g.Go(func() error { return backups.Run(ctx) })
	g.Go(func() error {
		defer stop()
		return n.Run(ctx)
	})
	return g.Wait()
}
