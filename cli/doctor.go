package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"firn"
	"firn/config"
	"firn/doctor"
)

func doctorCommand(env *Env) *cobra.Command {
	c := &cobra.Command{
		Use: "doctor", Short: "Say what endangers a site on this machine", Args: noArgs,
		Long: `Say what endangers a site on this machine: whether the data directory lies on an encrypted volume, its file system
and how it is mounted, free space, modes of files with secrets, the clock, limits of open files and memory. It changes
nothing. The exit code is 1 where a finding is bad, and with --strict where one is a warning.`,
	}
	a := &adminFlags{env: env}
	c.Flags().StringVar(&a.data, "data", "", "data directory of the site (FIRN_DATA; default ./firn-data)")
	strict := c.Flags().Bool("strict", false, "let warnings count")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		def := config.Default()
		found, err := doctor.Run(doctor.Options{Data: a.dataDir(), Reserve: int64(def.Reserve), Memory: int64(def.MemoryLimit)})
		if err != nil {
			return err
		}
		if asJSON(cmd) {
			err = emit(env.Out, found)
		} else {
			for _, f := range found {
				if _, err = fmt.Fprintf(env.Out, "%-5s %-12s %s\n", f.Level, f.Check, f.What); err == nil && f.Do != "" {
					_, err = fmt.Fprintf(env.Out, "%18s → %s\n", "", f.Do)
				}
				if err != nil {
					break
				}
			}
		}
		if err != nil {
			return err
		}
		if w := doctor.Worst(found); w == doctor.Bad || *strict && w == doctor.Warn {
			return firn.NewError(firn.Precondition, "the machine is not fit as it is: see the findings")
		}
		return nil
	}
	return c
}
