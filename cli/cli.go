// Package cli is the command line: it reads arguments, calls what does the work, and writes for people or, with
// --json, for programs.
//
// It promises that every failure says what was tried, on which thing, and what to do next; that results go to the
// standard output and all else to the standard error; and that exit codes mean what docs/cli.md says. Commands
// for a running site speak to its admin endpoint, commands for objects to any S3 endpoint: beside serve and
// the offline check none opens a data directory. It must never be imported but by cmd/firn.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"firn"
)

// Exit codes.
const (
	exitOK       = 0
	exitFailed   = 1 // it was tried and failed
	exitUsage    = 2 // the arguments or the configuration are wrong; nothing was tried
	exitProblems = 3 // it worked, and what it looked for is there: check found problems
)

// Env is the world around a command.
type Env struct {
	In       io.Reader
	Out, Err io.Writer
	// Getenv returns a variable of the environment and whether it is set.
	Getenv func(name string) (string, bool)
	// Environ returns all of them as NAME=value.
	Environ func() []string
	// Terminal reports whether Err is a terminal: only then are logs text and progress drawn.
	Terminal bool
}

// OS returns the process's own.
func OS() *Env {
	return &Env{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Getenv: os.LookupEnv, Environ: os.Environ,
		Terminal: term.IsTerminal(int(os.Stderr.Fd())),
	}
}

// exitError ends a command with a code of its own. Its text was printed already where err is nil.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// usageError marks err as the caller's: exit code 2.
func usageError(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

// Main runs the command line args (without the program's name) and returns the exit code.
func Main(ctx context.Context, args []string, env *Env) int {
	root := newRoot(env)
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	code := exitFailed
	var x *exitError
	if errors.As(err, &x) {
		code = x.code
		if x.err == nil {
			return code
		}
	}
	if asJSON(cmd) {
		_ = json.NewEncoder(env.Err).Encode(map[string]any{
			"error": map[string]string{"kind": firn.KindOf(err).String(), "message": err.Error()},
		})
	} else {
		fmt.Fprintf(env.Err, "firn: %v\n", err)
	}
	return code
}

// asJSON reports whether the command was asked for JSON.
func asJSON(cmd *cobra.Command) bool {
	f := cmd.Flag("json")
	return f != nil && f.Value.String() == "true"
}

// emit writes v as indented JSON.
func emit(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
