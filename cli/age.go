package cli

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"

	"filippo.io/age"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"firn/agefile"
	"firn/transfer"
)

// ageFlags say whom to encrypt for, or with what to decrypt.
type ageFlags struct {
	recipients []string
	identities []string
}

func (a *ageFlags) registerRecipients(f *pflag.FlagSet) {
	f.StringArrayVar(&a.recipients, "recipient", nil, "encrypt for age1..., ssh-ed25519 ..., ssh-rsa ... or those in @FILE, not for a "+
		"password (may be repeated)")
}

func (a *ageFlags) registerIdentities(f *pflag.FlagSet) {
	f.StringArrayVar(&a.identities, "identity", nil, "file with an age or private SSH key to decrypt with, not a password (may be repeated)")
}

const ageSecret = "FIRN_ENCRYPT_PASSWORD"

func (a *ageFlags) to(ctx context.Context, env *Env) ([]age.Recipient, error) {
	if len(a.recipients) > 0 {
		return agefile.Recipients(a.recipients)
	}
	p, err := env.password(ctx, ageSecret, "password to encrypt with", true)
	if err != nil {
		return nil, err
	}
	r, err := agefile.Passphrase(p)
	return []age.Recipient{r}, err
}

func (a *ageFlags) with(ctx context.Context, env *Env) ([]age.Identity, error) {
	if len(a.identities) > 0 {
		return agefile.Identities(a.identities)
	}
	p, err := env.password(ctx, ageSecret, "password to decrypt with", false)
	if err != nil {
		return nil, err
	}
	id, err := agefile.PassphraseIdentity(p)
	return []age.Identity{id}, err
}

// ageCommands are firn encrypt and firn decrypt.
func ageCommands(env *Env) []*cobra.Command {
	const secret = `The password is that of FIRN_ENCRYPT_PASSWORD, of the file in FIRN_ENCRYPT_PASSWORD_FILE or what the command in
FIRN_ENCRYPT_PASSWORD_COMMAND prints; else it is asked for.`
	var enc, dec ageFlags
	var armored bool
	e := &cobra.Command{
		Use: "encrypt IN [OUT]", Short: "Encrypt a file in age format", GroupID: "tools", Args: inOut,
		Long: "Encrypt a file with a password, or for recipients, in the format of the age tool, which opens it too. - is the\n" +
			"standard input or output. " + secret,
		Example: "  firn encrypt --recipient age1... report.pdf report.pdf.age\n  tar c dir | firn encrypt - dir.tar.age",
		RunE: func(cmd *cobra.Command, args []string) error {
			to, err := enc.to(cmd.Context(), env)
			if err != nil {
				return err
			}
			return filter(env, args, func(w io.Writer, r io.Reader) error { return agefile.Encrypt(w, r, armored, to...) })
		},
	}
	enc.registerRecipients(e.Flags())
	e.Flags().BoolVarP(&armored, "armor", "a", false, "write text")
	d := &cobra.Command{
		Use: "decrypt IN [OUT]", Short: "Decrypt a file in age format", GroupID: "tools", Args: inOut,
		Long: "Decrypt a file of firn encrypt, firn cp --encrypt or the age tool. - is the standard input or output. A file\n" +
			"appears under its name only whole. " + secret,
		RunE: func(cmd *cobra.Command, args []string) error {
			ids, err := dec.with(cmd.Context(), env)
			if err != nil {
				return err
			}
			return filter(env, args, func(w io.Writer, r io.Reader) error { return decryptTo(w, r, ids) })
		},
	}
	dec.registerIdentities(d.Flags())
	return []*cobra.Command{e, d}
}

func decryptTo(w io.Writer, r io.Reader, ids []age.Identity) error {
	plain, err := agefile.Decrypt(r, ids...)
	if err == nil {
		_, err = io.Copy(w, plain)
	}
	return err
}

func inOut(cmd *cobra.Command, args []string) error {
	if len(args) != 1 && len(args) != 2 {
		return usageError("%s wants a file, and where to write to; - is the standard input or output", cmd.CommandPath())
	}
	return nil
}

// filter has fn read the file args[0] and write args[1], which appears only whole.
func filter(env *Env, args []string, fn func(w io.Writer, r io.Reader) error) error {
	in := env.In
	if args[0] != "-" {
		f, err := os.Open(args[0])
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	if len(args) == 1 || args[1] == "-" {
		return fn(env.Out, in)
	}
	return putWhole(args[1], func(w io.Writer) error { return fn(w, in) })
}

// putWhole has fn write a file that takes its name once it is whole and on stable storage.
func putWhole(path string, fn func(w io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600: it may hold what was secret
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone after the rename
	err = fn(f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// copyEncrypted is cp --encrypt: one file, or the standard input, to one object.
func (a *ageFlags) copyEncrypted(ctx context.Context, env *Env, from transfer.Location, o *transfer.CopyOptions, run func(stdin transfer.Location) error) error {
	to, err := a.to(ctx, env)
	if err != nil {
		return err
	}
	in := env.In
	if !from.Std {
		f, err := os.Open(from.Path)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := agefile.Encrypt(w, in, false, to...)
		w.CloseWithError(err)
		done <- err
	}()
	o.Stdin = r
	err = run(transfer.Location{Std: true})
	r.CloseWithError(io.ErrClosedPipe) // ends the writer where the copy failed
	if e := <-done; err == nil {
		err = e
	}
	return err
}

// copyDecrypted is cp --decrypt: one object to one file, or to the standard output.
func (a *ageFlags) copyDecrypted(ctx context.Context, env *Env, to transfer.Location, cat func(w io.Writer) error) error {
	ids, err := a.with(ctx, env)
	if err != nil {
		return err
	}
	run := func(out io.Writer) error {
		r, w := io.Pipe()
		done := make(chan error, 1)
		go func() {
			err := cat(w)
			w.CloseWithError(err)
			done <- err
		}()
		err := decryptTo(out, r, ids)
		r.CloseWithError(io.ErrClosedPipe)
		if e := <-done; e != nil && !errors.Is(e, io.ErrClosedPipe) {
			return e
		}
		return err
	}
	if to.Std {
		return run(env.Out)
	}
	return putWhole(to.Path, run)
}
