package tree

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"firn"
	"firn/repo"
)

// chunks is a repository in memory.
type chunks struct {
	mu    sync.Mutex
	m     map[repo.ID][]byte
	added int
}

func newChunks() *chunks { return &chunks{m: map[repo.ID][]byte{}} }

func (c *chunks) Save(_ context.Context, _ repo.Kind, plain []byte) (repo.ID, int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := repo.ID(sha256.Sum256(plain))
	if c.m[id] != nil {
		return id, 0, nil
	}
	c.m[id] = bytes.Clone(plain)
	c.added++
	return id, len(plain), nil
}

func (c *chunks) Load(_ context.Context, id repo.ID, buf []byte) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.m[id]
	if !ok {
		return nil, firn.NewError(firn.NotFound, "no such chunk")
	}
	return append(buf[:0], p...), nil
}

func (c *chunks) LoadMany(ctx context.Context, ids []repo.ID, fn func(int, []byte) error) error {
	for i, id := range ids {
		p, err := c.Load(ctx, id, nil)
		if err != nil {
			return err
		}
		if err := fn(i, p); err != nil {
			return err
		}
		clear(p) // nobody may keep it
	}
	return nil
}

func randomNode(r *rand.Rand, path string) Node {
	n := Node{
		Path: path, Type: []Type{File, Dir, Symlink, FIFO, Socket, CharDevice, BlockDevice}[r.IntN(7)], Mode: uint32(r.IntN(0o10000)),
		UID: uint32(r.IntN(3)), GID: r.Uint32(), Mtime: Time{r.Int64() >> r.IntN(63), uint32(r.IntN(1e9))},
		Inode: r.Uint64(), Device: uint64(r.IntN(2)), Links: 1 + uint64(r.IntN(2)),
		Changed: r.IntN(9) == 0, Recent: r.IntN(9) == 0, Database: r.IntN(9) == 0,
	}
	n.Ctime = n.Mtime
	if r.IntN(2) == 0 {
		n.Ctime = Time{r.Int64() >> r.IntN(63), uint32(r.IntN(1e9))}
		n.User, n.Group = "us\xffer", "group"
	}
	for i := range r.IntN(3) {
		n.Xattrs = append(n.Xattrs, Xattr{fmt.Sprintf("user.%d", i), randomBytes(r, r.IntN(50))})
	}
	switch n.Type {
	case Symlink:
		n.Target = string(randomBytes(r, r.IntN(50)))
	case CharDevice, BlockDevice:
		n.Rdev = r.Uint64()
	case File:
		var end int64
		for range r.IntN(4) {
			h := Hole{end + r.Int64N(1000) + 1, r.Int64N(1000) + 1}
			n.Holes = append(n.Holes, h)
			end = h.Offset + h.Length
			n.Size = end
		}
		switch r.IntN(5) {
		case 0:
			n.Content.Inline = randomBytes(r, int(n.Stored())+0)
			if len(n.Content.Inline) == 0 {
				n.Content.Inline = nil
			}
		case 1:
			n.Err = "it was away"
			n.Size += 5
		case 2:
			id := repo.ID(randomBytes(r, 32))
			n.Content.List = &id
			n.Size += 1 << 40
		case 3:
			n.Size += 77
			n.Content.Chunks = []repo.ID{repo.ID(randomBytes(r, 32))}
		case 4:
			before := n.Stored()
			for i := range 2 + r.IntN(5) {
				n.Content.Chunks = append(n.Content.Chunks, repo.ID(randomBytes(r, 32)))
				s := uint32(r.IntN(4<<20) + 1)
				if i == 0 {
					s += uint32(before)
				}
				n.Size += int64(s)
				n.Content.Sizes = append(n.Content.Sizes, s)
			}
			n.Size -= before
		}
	}
	return n
}

func randomBytes(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// randomTree returns n nodes in order.
func randomTree(r *rand.Rand, n int) []Node {
	paths := map[string]bool{}
	for len(paths) < n {
		var parts []string
		for range 1 + r.IntN(4) {
			part := strings.Map(func(c rune) rune { return max(c, 1) }, fmt.Sprintf("%c%c%d", r.IntN(0x2f), r.IntN(0x2f), r.IntN(max(n/10, 2))))
			parts = append(parts, part)
		}
		if p := strings.Join(parts, "/"); ValidPath(p) {
			paths[p] = true
		}
	}
	var nodes []Node
	for p := range paths {
		nodes = append(nodes, randomNode(r, p))
	}
	slices.SortFunc(nodes, func(a, b Node) int { return Compare(a.Path, b.Path) })
	return nodes
}

func write(t *testing.T, c *chunks, nodes []Node) repo.ID {
	t.Helper()
	w := NewWriter(c)
	for i := range nodes {
		if err := w.Add(t.Context(), &nodes[i]); err != nil {
			t.Fatal(err)
		}
	}
	root, err := w.Finish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func read(t *testing.T, c *chunks, root repo.ID, dir string) []Node {
	t.Helper()
	it := Walk(t.Context(), c, root, dir)
	defer it.Close()
	var nodes []Node
	for {
		n, err := it.Next()
		if err != nil {
			t.Fatal(err)
		}
		if n == nil {
			return nodes
		}
		nodes = append(nodes, *n)
	}
}

func TestRoundTrip(t *testing.T) {
	for _, n := range []int{0, 1, 2, 50, 5000} {
		seed := rand.Uint64()
		r := rand.New(rand.NewPCG(seed, 0))
		nodes := randomTree(r, n)
		c := newChunks()
		root := write(t, c, nodes)
		if diff := cmp.Diff(nodes, read(t, c, root, ""), cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("seed %d, %d nodes: %s", seed, n, diff[:min(len(diff), 3000)])
		}
		for range min(n, 30) {
			dir := nodes[r.IntN(n)].Path
			if i := strings.LastIndexByte(dir, '/'); i > 0 && r.IntN(2) == 0 {
				dir = dir[:i]
			}
			var want []Node
			for _, n := range nodes {
				if Within(n.Path, dir) {
					want = append(want, n)
				}
			}
			if diff := cmp.Diff(want, read(t, c, root, dir), cmpopts.EquateEmpty()); diff != "" {
				t.Fatalf("seed %d: within %q: %s", seed, dir, diff[:min(len(diff), 3000)])
			}
			got, err := Find(t.Context(), c, root, want[0].Path)
			if err != nil || got.Path != want[0].Path {
				t.Fatalf("seed %d: find %q: %v", seed, want[0].Path, err)
			}
		}
		if _, err := Find(t.Context(), c, root, "not there"); firn.KindOf(err) != firn.NotFound {
			t.Errorf("finding what is not there: %v", err)
		}
	}
}

// A change in a large directory rewrites its page and those above it.
func TestSmallChangeRewritesLittle(t *testing.T) {
	var nodes []Node
	for i := range 100_000 {
		id := sha256.Sum256(fmt.Append(nil, i))
		nodes = append(nodes, Node{
			Path: fmt.Sprintf("dir/file-%08d", i), Type: File, Links: 1, Size: int64(i + 1), Inode: uint64(i),
			Content: Content{Chunks: []repo.ID{repo.ID(id)}},
		})
	}
	c := newChunks()
	root := write(t, c, nodes)
	pages := c.added
	for name, change := range map[string]func([]Node) []Node{
		"content": func(n []Node) []Node { n[77_777].Content.Chunks = []repo.ID{{1}}; return n },
		"insert": func(n []Node) []Node {
			x := n[30_000]
			x.Path += "x"
			return slices.Insert(n, 30_001, x)
		},
		"delete": func(n []Node) []Node { return slices.Delete(n, 50_000, 50_001) },
	} {
		c.added = 0
		if write(t, c, change(slices.Clone(nodes))) == root {
			t.Errorf("%s: the root is the same", name)
		}
		if c.added > 8 {
			t.Errorf("%s: %d of %d pages were written anew", name, c.added, pages)
		}
	}
	if pages < 50 {
		t.Errorf("%d pages for %d nodes: nothing is split", pages, len(nodes))
	}
	// Node records depend on the node before: what starts a page must not depend on the page before.
	c.added = 0
	write(t, c, nodes[1:])
	if c.added > 8 {
		t.Errorf("without the first node %d of %d pages were written anew", c.added, pages)
	}
}

func TestLists(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{0, 1, 2, MaxChunks, MaxChunks + 1, 5000, 300_000} {
		c := newChunks()
		w := NewListWriter(c)
		var size int64
		var want []repo.ID
		for range n {
			id, s := repo.ID(randomBytes(r, 32)), 1+r.IntN(4<<20)
			want = append(want, id)
			size += int64(s)
			if err := w.Add(t.Context(), id, s); err != nil {
				t.Fatal(err)
			}
		}
		content, err := w.Finish(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if (content.List != nil) != (n > MaxChunks) {
			t.Errorf("%d chunks: list %v", n, content.List)
		}
		nodes := []Node{{Path: "f", Type: File, Links: 1, Size: size, Content: content}}
		nodes = read(t, c, write(t, c, nodes), "")
		var got []repo.ID
		var end int64
		err = Chunks(t.Context(), c, &nodes[0], func(id repo.ID, offset, size int64) error {
			if offset != end {
				t.Fatalf("a chunk at %d, want %d", offset, end)
			}
			end = offset + size
			got = append(got, id)
			return nil
		})
		if err != nil || !slices.Equal(got, want) || end != size {
			t.Errorf("%d chunks: got %d, %d of %d bytes, %v", n, len(got), end, size, err)
		}
	}
}

func TestOrder(t *testing.T) {
	sorted := []string{"a", "a/b", "a/b/c", "a/b-", "a/c", "a-", "a-/x", "a0", "b"}
	for i := range sorted {
		for j := range sorted {
			if got := Compare(sorted[i], sorted[j]); (got < 0) != (i < j) || (got > 0) != (i > j) {
				t.Errorf("Compare(%q, %q) = %d", sorted[i], sorted[j], got)
			}
		}
	}
}

func TestWriterRefuses(t *testing.T) {
	w := NewWriter(newChunks())
	if err := w.Add(t.Context(), &Node{Path: "b", Type: Dir, Links: 1}); err != nil {
		t.Fatal(err)
	}
	for _, n := range []Node{
		{Path: "a", Type: Dir},
		{Path: "b", Type: Dir},
		{Path: "c/../d", Type: Dir},
		{Path: "/c", Type: Dir},
		{Path: "c", Type: 'x'},
		{Path: "c", Type: File, Size: 3},
		{Path: "c", Type: File, Size: 3, Content: Content{Inline: []byte("ab")}},
		{Path: "c", Type: Dir, Mode: 0o10000},
	} {
		if err := w.Add(t.Context(), &n); firn.KindOf(err) != firn.Invalid {
			t.Errorf("%+v: %v", n, err)
		}
	}
}

// FuzzPage holds that no page makes the parser fail in another way than with an error, hand out an impossible path,
// or take memory out of proportion; and that what it accepts is written back as it was.
func FuzzPage(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 2))
	c := newChunks()
	w := NewWriter(c)
	nodes := randomTree(r, 2000)
	for i := range nodes {
		if err := w.Add(context.Background(), &nodes[i]); err != nil {
			f.Fatal(err)
		}
	}
	if _, err := w.Finish(context.Background()); err != nil {
		f.Fatal(err)
	}
	for _, p := range c.m {
		f.Add(p)
	}
	f.Add(repo.EncodeTree(nil, repo.TreeChunk{Data: []repo.ID{{1}, {2}}, Payload: []byte{version, pageList, 5, 200, 1}}))
	f.Add(repo.EncodeTree(nil, repo.TreeChunk{Trees: []repo.ID{{1}}, Payload: []byte{version, pageLists, 5}}))
	f.Fuzz(func(t *testing.T, plain []byte) {
		p, err := parsePage(plain)
		if err != nil {
			return
		}
		last := ""
		for i := range p.nodes {
			n := &p.nodes[i]
			if !ValidPath(n.Path) || last != "" && Compare(last, n.Path) >= 0 {
				t.Fatalf("%q after %q", n.Path, last)
			}
			last = n.Path
			if err := n.check(); err != nil {
				t.Fatalf("%q: the writer would not write it: %v", n.Path, err)
			}
		}
	})
}
