package cli

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"firn"
	"firn/loadgen"
)

// benchCommand is `firn bench`.
func benchCommand(env *Env) *cobra.Command {
	c := group("bench", "Measure an endpoint", benchS3Command(env))
	c.GroupID = "tools"
	return c
}

func benchS3Command(env *Env) *cobra.Command {
	var (
		sel            remoteFlags
		o              loadgen.Options
		op, size, part string
		signing, mix   string
	)
	names := make([]string, 0, len(loadgen.Ops()))
	for _, n := range loadgen.Ops() {
		names = append(names, string(n))
	}
	c := &cobra.Command{
		Use:   "s3",
		Short: "Drive an S3 endpoint with load and print rates and latencies",
		Long: `Drive an S3 endpoint with load and print operations and bytes a second, latency quantiles, errors by code
and the CPU time that the client, and with --server-pid the server, used for each operation.

Objects live under --prefix in --bucket. The bucket is made where it does not exist; what the run made is
removed at the end unless --keep is given, and nothing else ever is.`,
		Example: `  firn bench s3 --op put --size 4KiB --concurrency 16 --duration 10s
  firn bench s3 --op get --size 1MiB --objects 200 --verify --json
  firn bench s3 --op list --objects 10000 --size 0 --concurrency 8
  firn bench s3 --op mixed --mix get=60,put=30,delete=10 --server-pid $(pidof firn)`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			p, err := sel.resolve(env)
			if err != nil {
				return err
			}
			if o.Size, err = parseSize(size); err != nil {
				return err
			}
			if o.PartSize, err = parseSize(part); err != nil {
				return err
			}
			if o.Mix, err = parseMix(mix); err != nil {
				return err
			}
			o.Op, o.Signing = loadgen.Op(op), loadgen.Signing(signing)
			if c.Flags().Changed("requests") && !c.Flags().Changed("duration") {
				o.Duration = 0 // the count alone ends the run
			}
			res, err := loadgen.Run(c.Context(), loadgen.Target{
				Endpoint: p.Endpoint, AccessKey: p.AccessKey, SecretKey: p.SecretKey, Region: p.Region, Insecure: p.Insecure,
			}, o)
			if res != nil {
				var werr error
				if asJSON(c) {
					werr = emit(env.Out, res)
				} else {
					werr = res.WriteText(env.Out)
				}
				if werr == nil && err == nil {
					err = benchFailure(res)
				}
				err = errors.Join(err, werr)
			}
			return err
		},
	}
	f := c.Flags()
	sel.register(f)
	f.StringVar(&o.Bucket, "bucket", "firn-bench", "bucket to work in")
	f.StringVar(&o.Prefix, "prefix", "bench/", "start of every key of the run; only such keys are ever removed")
	f.StringVar(&op, "op", string(loadgen.OpPut), "operation: "+strings.Join(names, ", "))
	f.StringVar(&size, "size", "4KiB", "size of an object")
	f.StringVar(&part, "part-size", "16MiB", "size of a part, for multipart")
	f.IntVar(&o.Concurrency, "concurrency", 8, "workers, each with one connection and one request at a time")
	f.DurationVar(&o.Duration, "duration", 10*time.Second, "length of the measured part")
	f.Int64Var(&o.Requests, "requests", 0, "end after so many operations (0: after --duration)")
	f.IntVar(&o.Objects, "objects", 1000, "objects loaded beforehand for get, head, list, delete, multi-delete and mixed")
	f.IntVar(&o.Batch, "batch", 1000, "keys in one multi-delete")
	f.IntVar(&o.Page, "page", 1000, "keys in one page of a listing")
	f.BoolVar(&o.ListRandom, "list-random", false, "start each page after a random key instead of going on where the last ended")
	f.StringVar(&signing, "payload", string(loadgen.SignPayload), "how uploads are signed: signed, streaming, unsigned, unsigned-trailer")
	f.BoolVar(&o.Unique, "random-content", false, "give every object its own content, hashed for each request (default: 16 contents hashed once)")
	f.BoolVar(&o.Encrypt, "encrypt", false, "ask for server-side encryption (SSE-S3) of objects put in one request")
	f.BoolVar(&o.Verify, "verify", false, "compare every byte of every object read")
	f.BoolVar(&o.Keep, "keep", false, "leave objects and bucket behind")
	f.BoolVar(&o.Preloaded, "preloaded", false, "the objects are there from an earlier run with --keep and the same settings")
	f.StringVar(&mix, "mix", "get=45,head=30,put=15,delete=10", "shares of a mixed run")
	f.IntVar(&o.ServerPID, "server-pid", 0, "process whose CPU time and memory are reported (Linux)")
	f.DurationVar(&o.Timeout, "timeout", 2*time.Minute, "of one request")
	return c
}

// benchFailure makes a run that measured only failures, or found wrong bytes, fail as a command.
func benchFailure(r *loadgen.Result) error {
	switch {
	case r.VerifyFailures > 0:
		return &firn.Error{Kind: firn.Corrupt, Op: "bench", Err: fmt.Errorf("%d answers differ from what was put", r.VerifyFailures)}
	case r.Ops == 0 && r.Failed() > 0:
		return &firn.Error{Kind: firn.Unavailable, Op: "bench", Err: errors.New("every operation failed")}
	}
	return nil
}

// parseSize reads a size such as 4096, 4KiB, 4k or 1MB. K, M, G, T without i and B are binary, as in dd.
func parseSize(s string) (int64, error) {
	t := strings.TrimSpace(s)
	if n := len(t); n > 1 && strings.ContainsRune("kKmMgGtT", rune(t[n-1])) {
		t += "iB"
	}
	n, err := humanize.ParseBytes(t)
	if err != nil || n > 1<<62 {
		return 0, usageError("size %q: expected a number with a unit, such as 4KiB", s)
	}
	return int64(n), nil
}

func parseMix(s string) (m loadgen.Mix, err error) {
	bad := func(what string) error {
		return usageError("mix %q: %s", s, what)
	}
	for _, part := range strings.Split(s, ",") {
		name, share, ok := strings.Cut(part, "=")
		n, err := strconv.Atoi(strings.TrimSpace(share))
		if !ok || err != nil || n < 0 || n > 1_000_000 {
			return m, bad("expected shares such as get=60,put=40")
		}
		switch strings.TrimSpace(name) {
		case "get":
			m.Get = n
		case "head":
			m.Head = n
		case "put":
			m.Put = n
		case "delete":
			m.Delete = n
		default:
			return m, bad("only get, head, put and delete can be mixed")
		}
	}
	if m == (loadgen.Mix{}) {
		return m, bad("every share is zero")
	}
	return m, nil
}
