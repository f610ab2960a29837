package cli

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"firn"
	"firn/node"
	"firn/tlsconf"
)

// tlsCommand shows what clients must trust.
func tlsCommand(env *Env) *cobra.Command {
	ca := &cobra.Command{
		Use: "ca", Short: "Print the certificate of the site's own authority", Args: noArgs,
		Long: `Print the certificate that clients of a site with tls.mode self must trust, in PEM, for a file of theirs. Its
fingerprint goes to the error stream: compare it with what the site printed at its first start. docs/tls.md tells
what to do with it for aws, mc, rclone, curl and firn itself.`,
	}
	a := &adminFlags{env: env}
	ca.Flags().StringVar(&a.data, "data", "", "data directory of the site (FIRN_DATA; default ./firn-data)")
	ca.RunE = func(cmd *cobra.Command, _ []string) error {
		dir := node.TLSDir(a.dataDir())
		pem, fingerprint, err := tlsconf.ReadAuthority(dir)
		if errors.Is(err, fs.ErrNotExist) {
			return &firn.Error{
				Kind: firn.NotFound, Op: "find the authority in", Subject: dir,
				Err: errors.New("there is none: it is made at the first start with tls.mode: self"),
			}
		}
		if err != nil {
			return firn.E("read the authority in", dir, err)
		}
		if asJSON(cmd) {
			return emit(env.Out, struct {
				PEM         string `json:"pem"`
				Fingerprint string `json:"sha256"`
			}{string(pem), fingerprint})
		}
		if _, err := env.Out.Write(pem); err != nil {
			return err
		}
		_, err = fmt.Fprintf(env.Err, "SHA-256 %s\n", fingerprint)
		return err
	}
	return group("tls", "The certificates a site shows", ca)
}
