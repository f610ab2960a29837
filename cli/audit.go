package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"firn/audit"
	"firn/config"
	"firn/node"
)

func auditCommand(env *Env) *cobra.Command {
	var dir, data, known string
	verify := &cobra.Command{
		Use: "verify", Short: "Check that the audit log is one unbroken chain", Args: noArgs,
		Long: `Check that the audit log is one unbroken chain: no line changed, removed, put in or moved. The site may run. What
the chain cannot show is lines missing from its end: note the hash that is printed in another place, and give it to
the next check with --known, which then wants a line with it. docs/audit.md tells more.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dir == "" {
				a := &adminFlags{env: env, data: data}
				cfg := config.Default()
				cfg.Data = a.dataDir()
				if d, _ := env.Getenv("FIRN_AUDIT_DIR"); d != "" {
					cfg.Audit.Dir = d
				}
				dir = node.AuditDir(&cfg)
			}
			h, err := audit.Verify(dir, known)
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
			return err
		},
	}
	verify.Flags().StringVar(&dir, "dir", "", "directory of the audit log (FIRN_AUDIT_DIR; default audit in the data directory)")
	verify.Flags().StringVar(&data, "data", "", "data directory of the site (FIRN_DATA; default ./firn-data)")
	verify.Flags().StringVar(&known, "known", "", "hash of a line noted before, which must still be there")
	return group("audit", "The record of who did what", verify)
}
