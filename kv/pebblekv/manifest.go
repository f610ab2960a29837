package pebblekv

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/cockroachdb/pebble/v2"

	"firn"
	"firn/vfs"
)

// The manifest is a log of records in blocks of 32 KiB: chunks of checksum (4 bytes), length (2), type (1: whole, 2: first, 3:
// middle, 4: last) and content. A chunk does not cross the end of a block.
const (
	manifestBlock = 32 << 10
	chunkHeader   = 7
)

// checkManifest reads the manifest, of which another one is begun at 16 MiB, and fails with firn.Corrupt where it is
// that was cut off while it was written, and would open the state from before it without a word. Damage of the last record
// cannot be told from that.
func checkManifest(fsys vfs.FS, dir string) error {
	desc, err := pebble.Peek(dir, fsys)
	if err != nil || !desc.Exists {
		return nil // what Open says of it is clearer
	}
	p, err := vfs.ReadFile(fsys, desc.ManifestFilename)
	if err != nil {
		return err
	}
	bad := intactChunks(p)
	if bad < 0 || !chunkAfter(p, bad+1) {
		return nil
	}
	return &firn.Error{
		Kind: firn.Corrupt, Op: "open metadata store", Subject: desc.ManifestFilename,
		Err: fmt.Errorf("it is damaged at byte %d, and acknowledged changes follow: restore from a backup", bad),
	}
}

// intactChunks returns where the first chunk is that is not right, -1 where all are.
func intactChunks(p []byte) int {
	for at := 0; at < len(p); {
		left := manifestBlock - at%manifestBlock
		if left < chunkHeader {
			at += left // the rest of a block is filled up
			continue
		}
		n, ok := chunkAt(p, at)
		if !ok {
			return at
		}
		at += n
	}
	return -1
}

// chunkAt returns the length of the chunk at a place, and whether there is one.
func chunkAt(p []byte, at int) (int, bool) {
	if len(p)-at < chunkHeader {
		return 0, false
	}
	h := p[at:]
	n := chunkHeader + int(binary.LittleEndian.Uint16(h[4:]))
	if h[6] < 1 || h[6] > 4 || n > len(h) || at%manifestBlock+n > manifestBlock {
		return 0, false
	}
	// The checksum of LevelDB's logs.
	sum := crc32.Checksum(h[6:n], crc32.MakeTable(crc32.Castagnoli))
	return n, binary.LittleEndian.Uint32(h) == (sum>>15|sum<<17)+0xa282ead8
}

// chunkAfter reports whether any chunk begins at from or later. It looks at each byte, since a damaged length tells nothing.
func chunkAfter(p []byte, from int) bool {
	for ; from < len(p); from++ {
		if _, ok := chunkAt(p, from); ok {
			return true
		}
	}
	return false
}
