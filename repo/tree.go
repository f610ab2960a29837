package repo

import (
	"encoding/binary"

	"firn"
)

// TreeChunk is what a chunk of kind Tree holds: first the chunks it refers to, so that prune, check and copy can follow
// them without knowing what they mean, then whatever its owner puts there. The payload must name chunks by their place
// in the lists, not by id: a copy in another repository has other ids.
type TreeChunk struct {
	Trees, Data []ID
	Payload     []byte
}

// A tree chunk is the version, 3 zero bytes, the number of trees and of data chunks, their ids, the payload.
const (
	treeVersion = 1
	treeHeader  = 12
)

// EncodeTree appends t to dst. The result must not be longer than MaxChunk to be saved: split larger trees.
func EncodeTree(dst []byte, t TreeChunk) []byte {
	dst = append(dst, treeVersion, 0, 0, 0)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(t.Trees)))
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(t.Data)))
	for _, id := range t.Trees {
		dst = append(dst, id[:]...)
	}
	for _, id := range t.Data {
		dst = append(dst, id[:]...)
	}
	return append(dst, t.Payload...)
}

// ParseTree reads a tree chunk. The payload is part of p. It fails with firn.Corrupt or, for a later version,
// firn.Unsupported.
func ParseTree(p []byte) (TreeChunk, error) {
	if len(p) < treeHeader {
		return TreeChunk{}, firn.NewError(firn.Corrupt, "a tree is cut off")
	}
	if [4]byte(p) != [4]byte{treeVersion} {
		return TreeChunk{}, firn.NewError(firn.Unsupported, "a tree of a later version of firn: update this one")
	}
	trees, data := uint64(binary.LittleEndian.Uint32(p[4:])), uint64(binary.LittleEndian.Uint32(p[8:]))
	p = p[treeHeader:]
	if (trees+data)*uint64(len(ID{})) > uint64(len(p)) {
		return TreeChunk{}, firn.NewError(firn.Corrupt, "a tree refers to more than it has room for")
	}
	ids := make([]ID, trees+data)
	for i := range ids {
		ids[i] = ID(p)
		p = p[len(ID{}):]
	}
	return TreeChunk{Trees: ids[:trees:trees], Data: ids[trees:], Payload: p}, nil
}
