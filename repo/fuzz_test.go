package repo

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"firn/seal"
)

// The parsers of what a place gives back. Most of it is sealed, but whoever has a key may have made it.

func FuzzConfig(f *testing.F) {
	f.Add([]byte(configMagic + "box"))
	p, _ := json.Marshal(config{ID: ID{1}, Secret: ID{2}, Min: 1 << 10, Mean: 5 << 10, Max: 16 << 10, PackSize: 1 << 20})
	f.Add(p)
	f.Fuzz(func(t *testing.T, p []byte) {
		if box, err := configBox(p); err == nil && !bytes.HasSuffix(p, box) {
			t.Error("the box is not the end of the config")
		}
		var c config
		if parseJSON(p, &c) != nil || c.check() != nil {
			return
		}
		if c.Max > MaxChunk || c.PackSize > maxPackSize || c.Reserve > maxReserve {
			t.Errorf("sizes that hurt: %+v", c)
		}
	})
}

func FuzzKeyFile(f *testing.F) {
	p, _ := json.Marshal(keyFile{
		Version: 1, KDF: keyKDF, Cost: seal.DefaultCost(), Salt: make([]byte, 16), Sealed: make([]byte, 48), Role: Full,
		Created: time.Unix(0, 0).UTC(),
	})
	f.Add(p)
	f.Fuzz(func(t *testing.T, p []byte) {
		k, err := parseKeyFile(p)
		if err != nil {
			return
		}
		if len(k.Salt) != seal.SaltSize || k.Cost.Check() != nil {
			t.Errorf("taken: %+v", k)
		}
	})
}

func FuzzPack(f *testing.F) {
	head := packHead{Tree, [16]byte{1, 2, 3}}
	h := head.encode()
	f.Add(h[:])
	list := appendEntry(nil, entry{ID{1}, 116, 100})
	f.Add(list)
	f.Add([]byte("\x38\x00\x00\x00\x00\x00\x00\x00" + footerMagic))
	f.Fuzz(func(t *testing.T, p []byte) {
		if head, err := parsePackHead(p); err == nil {
			if again := head.encode(); !bytes.Equal(again[:], p[:packHeader]) {
				t.Error("a header that is not what it says")
			}
		}
		if len(p) >= packFooter {
			if n, err := trailerLength(p[len(p)-packFooter:], int64(len(p))); err == nil && n > int64(len(p)) {
				t.Errorf("a list of %d bytes in a pack of %d", n, len(p))
			}
		}
		end := int64(packHeader)
		for l := p; len(l) >= entrySize; l = l[entrySize:] {
			end += int64(readEntry(l).stored)
		}
		all, err := parseEntries(p, end)
		if err != nil {
			return
		}
		var out []byte
		for _, e := range all {
			out = appendEntry(out, e)
			if e.size() > MaxChunk {
				t.Errorf("a chunk of %d bytes", e.size())
			}
		}
		if !bytes.Equal(out, p) {
			t.Error("entries do not come back as they were")
		}
	})
}

func FuzzIndex(f *testing.F) {
	list := appendEntry(nil, entry{ID{1}, 116, 100})
	size := uint32(packHeader + 116 + entrySize + seal.Overhead + packFooter)
	f.Add(appendIndexPack(nil, ID{2}, packHead{}, size, list))
	f.Add(appendIndexPack(appendIndexPack(nil, ID{2}, packHead{}, size, list), ID{3}, packHead{kind: Tree}, size, list))
	f.Fuzz(func(t *testing.T, p []byte) {
		var out []byte
		if parseIndex(p, func(k indexPack) error {
			out = appendIndexPack(out, k.id, k.head, k.size, k.list)
			return nil
		}) == nil && !bytes.Equal(out, p) {
			t.Error("the index does not come back as it was")
		}
	})
}

func FuzzTree(f *testing.F) {
	f.Add(EncodeTree(nil, TreeChunk{}))
	f.Add(EncodeTree(nil, TreeChunk{Trees: []ID{{1}}, Data: []ID{{2}, {3}}, Payload: []byte("payload")}))
	f.Fuzz(func(t *testing.T, p []byte) {
		if c, err := ParseTree(p); err == nil && !bytes.Equal(EncodeTree(nil, c), p) {
			t.Error("the tree does not come back as it was")
		}
	})
}

func FuzzDocuments(f *testing.F) {
	for _, v := range []any{
		snapshotFile{1, ID{}, Snapshot{Root: ID{1}, Tags: []string{"a"}}},
		sessionFile{1, "host", "backup", 1, time.Unix(0, 0).UTC()},
		doomed{Version: 1, Packs: []ID{{1}}, Listed: true, Sessions: []ID{{2}}},
	} {
		p, _ := json.Marshal(v)
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		if s, err := parseSnapshot(p); err == nil && s.Root.IsZero() {
			t.Error("a snapshot without a root")
		}
		if s, err := parseSession(p); err == nil && s.Version != sessionVersion {
			t.Error("a session of another version")
		}
		if d, err := parseDoomed(p); err == nil && d.Version != doomedVersion {
			t.Error("a note of another version")
		}
	})
}
