package cli

import (
	"bufio"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"firn/audit"
	"firn/config"
	"firn/node"
)

func auditCommand(env *Env) *cobra.Command {
	var dir, data, known string
	// open finds the record, and the key that its lines are sealed with, if any.
	open := func(cmd *cobra.Command) (audit.Sealer, error) {
		a := &adminFlags{env: env, data: data}
		cfg := config.Default()
		cfg.Data = a.dataDir()
		if dir == "" {
			if d, _ := env.Getenv("FIRN_AUDIT_DIR"); d != "" {
				cfg.Audit.Dir = d
			}
			dir = node.AuditDir(&cfg)
		}
		if !node.Encrypted(cfg.Data) {
			return nil, nil
		}
		with, err := config.Load(config.Sources{Env: env.Getenv})
		if err != nil {
			return nil, err
		}
		return node.AuditSealer(cmd.Context(), cfg.Data, with.Encryption)
	}
	flags := func(c *cobra.Command) {
		c.Flags().StringVar(&dir, "dir", "", "directory of the audit log (FIRN_AUDIT_DIR; default audit in the data directory)")
		c.Flags().StringVar(&data, "data", "", "data directory of the site (FIRN_DATA; default ./firn-data)")
	}
	verify := &cobra.Command{
		Use: "verify", Short: "Check that the audit log is one unbroken chain", Args: noArgs,
		Long: `Check that the audit log is one unbroken chain: no line changed, removed, put in or moved. The site may run; settings
of encryption are read as firn serve reads them. What the chain cannot show is lines missing from its end: note the hash that is printed in another place, and give it to
the next check with --known, which then wants a line with it. docs/audit.md tells more.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			key, err := open(cmd)
			if err != nil {
				return err
			}
			h, err := audit.Verify(dir, known, key, nil)
			if err != nil {
				return err
			}
			if asJSON(cmd) {
				return emit(env.Out, h)
			}
			_, err = fmt.Fprintf(env.Out, "%d lines in %d files, %d to %d, %s to %s: one chain\nlast hash %s\n", h.Lines, h.Files,
				h.First, h.Last, h.From.Format(time.RFC3339), h.To.Format(time.RFC3339), h.Hash)
			if err == nil && h.Lost > 0 {
				_, err = fmt.Fprintf(env.Out, "%d events are missing that could not be written, as the log itself says\n", h.Lost)
			}
			if err == nil && h.Torn {
				_, err = fmt.Fprintln(env.Out, "the last line is incomplete: it is being written, or a crash left it")
			}
			if err == nil && key != nil && h.Plain > 0 {
				_, err = fmt.Fprintf(env.Out, "%d lines, the first ones, are not sealed: anybody could have written them\n", h.Plain)
			}
			return err
		},
	}
	show := &cobra.Command{
		Use: "show", Short: "Print the audit log, a JSON object a line", Args: noArgs,
		Long: `Print the audit log, a JSON object a line, as docs/format/audit.md describes them: of a site that encrypts all it
stores the files themselves are sealed. It ends with an error where the chain is broken. The site may run. Settings of
encryption are read as firn serve reads them.`,
		Example: `  firn audit show --data /var/lib/firn | jq -r 'select(.status == 403) | [.time, .user, .op, .bucket] | @tsv'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			key, err := open(cmd)
			if err != nil {
				return err
			}
			w := bufio.NewWriter(env.Out)
			_, err = audit.Verify(dir, "", key, func(line []byte) error {
				_, err := w.Write(line)
				return errors.Join(err, w.WriteByte('\n'))
			})
			return errors.Join(err, w.Flush())
		},
	}
	flags(verify)
	flags(show)
	verify.Flags().StringVar(&known, "known", "", "hash of a line noted before, which must still be there")
	return group("audit", "The record of who did what", show, verify)
}
