package block_test

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"firn/block"
)

// Stored bytes as version 1 writes them. If these tests fail, existing data directories cannot be read: raise the version
// and keep reading this one.
var (
	partV1 = "68656c6c6f" + // "hello"
		"4cbb719a" + // CRC32C of the block
		"6c6162656c" + // "label"
		strings.Repeat("00", 0xf92) + // padding
		"ea8f163db38682925e4491c5e58d4bb3506ef8c14eb78a86e908c5624a67200f" + // BLAKE3
		"0500000000000000" + "0500000000000000" + "00000100" + "01000000" + "04000000" + "05000000" +
		"81d1a8f3" + "610be4cf" + "00" + "00" + "0100" + "920f0000" + "00000000" + "f2cc2468" +
		"6669726e50415254"
	inlineV1 = "0100" + "dc8b3e0c" + "68656c6c6f"
)

func TestFormatPinned(t *testing.T) {
	file := partBytes(t, []byte("hello"), block.WriterOptions{Label: []byte("label")})
	if got := hex.EncodeToString(file); got != partV1 {
		t.Errorf("a part of \"hello\" is written as\n%s, not as\n%s", got, partV1)
	}
	want, err := hex.DecodeString(partV1)
	if err != nil {
		t.Fatal(err)
	}
	f := memFile(t, want)
	defer f.Close()
	r, err := block.Open(f, "p")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if _, err := r.WriteRange(t.Context(), &out, 0, 5); err != nil || out.String() != "hello" {
		t.Errorf("the pinned part reads as %q, %v", &out, err)
	}
	if got := hex.EncodeToString(block.AppendInline(nil, []byte("hello"))); got != inlineV1 {
		t.Errorf("inline \"hello\" is written as %s, not as %s", got, inlineV1)
	}
	stored, err := hex.DecodeString(inlineV1)
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := block.OpenInline(stored); err != nil || string(plain) != "hello" {
		t.Errorf("the pinned inline value reads as %q, %v", plain, err)
	}
}
