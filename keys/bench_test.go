package keys

import (
	"context"
	"path/filepath"
	"testing"

	"firn/block"
	"firn/object/envelope"
)

// BenchmarkSealed4KiB is what encryption adds to a put and to a get of 4 KiB.
func BenchmarkSealed4KiB(b *testing.B) {
	ring, err := OpenKeyring(context.Background(), filepath.Join(b.TempDir(), "k"), SecretText("secret secret"))
	if err != nil {
		b.Fatal(err)
	}
	k, err := New(ring, Options{})
	if err != nil {
		b.Fatal(err)
	}
	ctx := context.Background()
	plain := make([]byte, 4096)
	var stored, sealed []byte
	var e *envelope.Encryption
	b.Run("put", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			n := envelope.Encryption{Method: envelope.Site}
			bound, _ := n.Binding("bucket", "key")
			d, err := k.Generate(ctx, "", bound)
			if err != nil {
				b.Fatal(err)
			}
			n.Wrapped = d.Wrapped
			e = envelope.New(n)
			s, _ := e.NewSealer(&d.Plain, 1, "key")
			key := s.NewKey()
			stored = block.AppendSealedInline(stored[:0], plain, key)
			sealed = s.Seal(key, 1, 4096)
		}
	})
	b.Run("get", func(b *testing.B) {
		b.ReportAllocs()
		buf := make([]byte, len(stored))
		raw := e.Append(nil)
		for b.Loop() {
			e, _ := envelope.Decode(raw)
			bound, _ := e.Binding("bucket", "key")
			d, err := k.Unwrap(ctx, e.Key, e.Wrapped, bound)
			if err != nil {
				b.Fatal(err)
			}
			s, _ := e.NewSealer(&d, 1, "key")
			key, err := s.Open(sealed, 1, 4096)
			if err != nil {
				b.Fatal(err)
			}
			copy(buf, stored)
			c, _ := block.OpenInline(buf)
			if _, err := block.UnsealInline(c, key); err != nil {
				b.Fatal(err)
			}
		}
	})
}
