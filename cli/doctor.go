package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"firn"
	"firn/config"
	"firn/doctor"
	"firn/node"
)

func doctorCommand(env *Env) *cobra.Command {
	c := &cobra.Command{
		Use: "doctor", Short: "Say what endangers a site on this machine", Args: noArgs,
		Long: `Say what endangers a site on this machine: whether the data directory lies on an encrypted volume, its file system
and how it is mounted, free space, modes of files with secrets, the clock, limits of open files and memory, where the
keyring and what opens it lie, who can reach the endpoints and what they see, how long certificates last, and durability.
Settings are read as firn serve reads them. It changes nothing. The exit code is 1 where a finding is bad, and with --strict where one is a warning.`,
	}
	file := c.Flags().String("config", "", "configuration file (default firn.yaml where it exists; FIRN_CONFIG)")
	data := c.Flags().String("data", "", "data directory of the site (FIRN_DATA; default ./firn-data)")
	strict := c.Flags().Bool("strict", false, "let warnings count")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		src := config.Sources{File: *file, Env: env.Getenv, Flags: map[string]string{}}
		if *data != "" {
			src.Flags["data"] = *data
		}
		cfg, err := config.Load(src)
		if err != nil {
			return err
		}
		found, err := doctor.Run(doctor.Options{
			Data: cfg.Data, Reserve: int64(cfg.Reserve), Memory: int64(cfg.MemoryLimit), Site: examined(cfg),
		})
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

// examined is what the doctor looks at of a configuration.
func examined(cfg *config.Effective) doctor.Site {
	s := doctor.Site{
		Relaxed: cfg.Durability == config.DurabilityRelaxed, Listen: cfg.Listen, Admin: cfg.AdminListen,
		TLS: cfg.TLS.Mode != config.TLSOff,
	}
	switch cfg.TLS.Mode {
	case config.TLSFiles:
		s.Certificates = []string{cfg.TLS.Cert}
	case config.TLSSelf:
		s.Certificates = node.CertificateFiles(cfg.Data)
	}
	s.Keyring, s.KeyFile = node.KeyringFiles(&cfg.Config)
	// A passphrase of the file is "FILE:LINE:COLUMN"; from a variable nothing of it is on a disk, as far as can be seen.
	if cfg.File != "" && strings.HasPrefix(cfg.From["encryption.passphrase"], cfg.File+":") {
		s.PassphraseFile = cfg.File
	}
	return s
}
