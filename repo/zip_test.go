package repo

import (
	"bytes"
	"fmt"
	"testing"

	"firn"
	"firn/blob"
	"firn/blob/memblob"
)

// TestCompression holds that a repository can be written with every level and read whatever wrote it, and that each
// level is one of its own.
func TestCompression(t *testing.T) {
	var text []byte
	for i := range 40_000 {
		text = fmt.Appendf(text, "%08x the %dth line says %d\n", i*i*2654435761, i, i%77)
	}
	text = text[:1<<20]
	store := blob.New(memblob.New(memblob.Options{}), "mem:")
	r, err := Init(t.Context(), store, []byte("pw"), InitOptions{Cost: cheap()})
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	sizes := map[Compression]int{}
	for n, c := range []Compression{"", "default", CompressionFastest, CompressionBetter, CompressionOff} {
		r, err := Open(t.Context(), store, []byte("pw"), Options{Compression: c})
		if err != nil {
			t.Fatal(err)
		}
		s, err := r.NewSession(t.Context(), SessionOptions{})
		if err != nil {
			t.Fatal(err)
		}
		plain := append([]byte{byte(n)}, text...)
		id, stored, err := s.Save(t.Context(), Data, plain)
		if err != nil {
			t.Fatal(err)
		}
		sizes[c] = stored
		root, _, err := s.Save(t.Context(), Tree, EncodeTree(nil, TreeChunk{Data: []ID{id}}))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Commit(t.Context(), Snapshot{Root: root}); err != nil {
			t.Fatal(err)
		}
		r.Close()
		if r, err = Open(t.Context(), store, []byte("pw"), Options{}); err != nil {
			t.Fatal(err)
		}
		if got, err := r.Load(t.Context(), id, nil); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%q: %d bytes come back, %v", c, len(got), err)
		}
		r.Close()
	}
	if sizes[""] != sizes["default"] || sizes[CompressionBetter] >= sizes[""] || sizes[CompressionFastest] == sizes[""] ||
		sizes[CompressionFastest] > len(text)/2 || sizes[CompressionOff] < len(text) {
		t.Errorf("stored %v", sizes)
	}
	if _, err := Open(t.Context(), store, []byte("pw"), Options{Compression: "most"}); firn.KindOf(err) != firn.Invalid {
		t.Errorf("an unknown level: %v", err)
	}
}
