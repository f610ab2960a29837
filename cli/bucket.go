package cli

import (
	"fmt"
	"net/url"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"firn/adminapi"
	"firn/config"
)

func bucketCommand(env *Env) *cobra.Command {
	c := group("bucket", "Bounds on the buckets of the running site")
	admin := addAdminFlags(c, env)
	var size string
	var versions int64
	quota := &cobra.Command{
		Use: "quota BUCKET", Short: "Show or set a bucket's quota", Args: oneArg("the bucket's name"),
		Long: `Show or set a bucket's quota. --bytes bounds the bytes of all versions, --versions their number, delete markers
included; 0 takes the bound away. Writes that would exceed a bound are answered 403 QuotaExceeded; deletes never are.
What is there already stays, also where it is more.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			site, err := admin.connect()
			if err != nil {
				return err
			}
			path := "/admin/v1/buckets/" + url.PathEscape(args[0]) + "/quota"
			var st adminapi.QuotaStatus
			if err := site.call(cmd.Context(), "GET", path, nil, &st); err != nil {
				return err
			}
			changed := cmd.Flags().Changed
			if changed("bytes") {
				n, err := config.ParseSize(size)
				if err != nil {
					return usageError("--bytes %s: %w", size, err)
				}
				st.Quota.Bytes = int64(n)
			}
			if changed("versions") {
				if st.Quota.Versions = versions; versions < 0 {
					return usageError("--versions %d: want 0 or more", versions)
				}
			}
			if changed("bytes") || changed("versions") {
				if err := site.call(cmd.Context(), "PUT", path, st.Quota, nil); err != nil {
					return err
				}
			}
			if asJSON(cmd) {
				return emit(env.Out, st)
			}
			bound := func(n int64, s string) string {
				if n == 0 {
					return "no bound"
				}
				return s
			}
			_, err = fmt.Fprintf(env.Out, "bytes     %s of %s\nversions  %d of %s\n",
				humanize.IBytes(uint64(max(0, st.UsedBytes))), bound(st.Quota.Bytes, humanize.IBytes(uint64(st.Quota.Bytes))),
				st.UsedVersions, bound(st.Quota.Versions, fmt.Sprint(st.Quota.Versions)))
			return err
		},
	}
	quota.Flags().StringVar(&size, "bytes", "", "bytes of all versions, such as 10GiB; 0 for no bound")
	quota.Flags().Int64Var(&versions, "versions", 0, "versions, delete markers included; 0 for no bound")
	c.AddCommand(quota)
	return c
}
