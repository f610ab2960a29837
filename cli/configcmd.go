package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"firn/config"
)

func configCommand(env *Env) *cobra.Command {
	check := &cobra.Command{
		Use: "check [FILE]", Short: "Say whether a configuration file is right",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usageError("%s takes one file", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			src := config.Sources{}
			if len(args) == 1 {
				src.File = args[0]
			} else {
				src.Env = env.Getenv
			}
			e, err := config.Load(src)
			if err != nil {
				return &exitError{exitUsage, err}
			}
			if e.File == "" {
				return usageError("there is no %s here: name the file, firn config check FILE", config.FileName)
			}
			if asJSON(cmd) {
				return emit(env.Out, map[string]any{"file": e.File, "ok": true})
			}
			_, err = fmt.Fprintf(env.Out, "%s: ok\n", e.File)
			return err
		},
	}
	show := &cobra.Command{Use: "show", Short: "Show the settings in effect and where each comes from", Args: noArgs}
	load := configFlags(show.Flags(), env)
	show.RunE = func(cmd *cobra.Command, _ []string) error {
		e, err := load()
		if err != nil {
			return err
		}
		if asJSON(cmd) {
			type setting struct {
				Key   string `json:"key"`
				Value string `json:"value"`
				From  string `json:"from"`
			}
			var out []setting
			for _, k := range config.Keys() {
				out = append(out, setting{k.Name, k.Get(&e.Config), e.From[k.Name]})
			}
			return emit(env.Out, out)
		}
		w := tabwriter.NewWriter(env.Out, 0, 0, 2, ' ', 0)
		for _, k := range config.Keys() {
			fmt.Fprintf(w, "%s:\t%s\t# %s\n", k.Name, k.Get(&e.Config), e.From[k.Name])
		}
		return w.Flush()
	}
	keys := &cobra.Command{
		Use: "keys", Short: "List every setting with its meaning and default", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if asJSON(cmd) {
				type key struct {
					Key     string `json:"key"`
					Flag    string `json:"flag"`
					Env     string `json:"env"`
					Type    string `json:"type"`
					Default string `json:"default"`
					Doc     string `json:"doc"`
				}
				var out []key
				for _, k := range config.Keys() {
					out = append(out, key{k.Name, "--" + k.Flag, k.Env, k.Type, k.Default, k.Doc})
				}
				return emit(env.Out, out)
			}
			return printKeys(env.Out)
		},
	}
	return group("config", "Check and explain the configuration", check, show, keys)
}

func printKeys(w io.Writer) error {
	for _, k := range config.Keys() {
		def := k.Default
		if def == "" {
			def = "none"
		}
		if _, err := fmt.Fprintf(w, "%s  (%s, default %s)\n  --%s  %s\n%s\n\n",
			k.Name, k.Type, def, k.Flag, k.Env, wrap(k.Doc, 90, "    ")); err != nil {
			return err
		}
	}
	return nil
}

// wrap breaks text into lines of at most width bytes after the indent.
func wrap(text string, width int, indent string) string {
	var b strings.Builder
	line := 0
	for _, word := range strings.Fields(text) {
		switch {
		case line == 0:
			b.WriteString(indent)
		case line+1+len(word) > width:
			b.WriteString("\n" + indent)
			line = 0
		default:
			b.WriteByte(' ')
			line++
		}
		b.WriteString(word)
		line += len(word)
	}
	return b.String()
}
