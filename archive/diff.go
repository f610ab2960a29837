package archive

import (
	"context"
	"slices"

	"firn/archive/tree"
	"firn/repo"
)

// Difference is one path that two snapshots differ in. Old or New is nil where only the other has it.
type Difference struct {
	Path     string // with its leading slash
	Old, New *tree.Node
	// Content, Type and Meta say what differs where both have it. Meta is owner, mode, times and attributes.
	Content, Type, Meta bool
}

// Diff calls fn for the differences of two snapshots beneath dir, "" for all, in the order of tree.Compare.
func Diff(ctx context.Context, r *repo.Repo, older, newer repo.Snapshot, dir string, fn func(Difference) error) error {
	a, b := tree.Walk(ctx, r, older.Root, dir), tree.Walk(ctx, r, newer.Root, dir)
	defer a.Close()
	defer b.Close()
	x, err := a.Next()
	if err != nil {
		return err
	}
	y, err := b.Next()
	if err != nil {
		return err
	}
	for x != nil || y != nil {
		order := 0
		switch {
		case x == nil:
			order = 1
		case y == nil:
			order = -1
		default:
			order = tree.Compare(x.Path, y.Path)
		}
		var d Difference
		if order <= 0 {
			d.Path, d.Old = "/"+x.Path, x
		}
		if order >= 0 {
			d.Path, d.New = "/"+y.Path, y
		}
		if order != 0 || d.compare() {
			if err := fn(d); err != nil {
				return err
			}
		}
		if order <= 0 {
			if x, err = a.Next(); err != nil {
				return err
			}
		}
		if order >= 0 {
			if y, err = b.Next(); err != nil {
				return err
			}
		}
	}
	return nil
}

// compare sets what differs and reports whether anything does. When a file was last looked at is no difference.
func (d *Difference) compare() bool {
	a, b := d.Old, d.New
	d.Type = a.Type != b.Type
	d.Content = a.Size != b.Size || a.Target != b.Target || a.Rdev != b.Rdev || !sameStored(a, b) || a.Err != b.Err
	d.Meta = a.Mode != b.Mode || a.UID != b.UID || a.GID != b.GID || a.Mtime != b.Mtime ||
		!slices.EqualFunc(a.Xattrs, b.Xattrs, func(x, y tree.Xattr) bool {
			return x.Name == y.Name && string(x.Value) == string(y.Value)
		})
	return d.Type || d.Content || d.Meta
}

func sameStored(a, b *tree.Node) bool {
	x, y := &a.Content, &b.Content
	if (x.List == nil) != (y.List == nil) || x.List != nil && *x.List != *y.List {
		return false
	}
	return string(x.Inline) == string(y.Inline) && slices.Equal(x.Chunks, y.Chunks) && slices.Equal(a.Holes, b.Holes)
}

// Affected calls fn for each file of a snapshot that needs one of the chunks, so that damage can be told by name.
func Affected(ctx context.Context, r *repo.Repo, s repo.Snapshot, lost map[repo.ID]bool, fn func(path string) error) error {
	it := tree.Walk(ctx, r, s.Root, "")
	defer it.Close()
	for {
		n, err := it.Next()
		if err != nil || n == nil {
			return err
		}
		if n.Type != tree.File {
			continue
		}
		hit := false
		err = tree.Chunks(ctx, r, n, func(id repo.ID, _, _ int64) error {
			hit = hit || lost[id]
			return nil
		})
		if err != nil && !hit {
			if ctx.Err() != nil {
				return err
			}
			hit = true // its own list is what is damaged
		}
		if hit {
			if err := fn("/" + n.Path); err != nil {
				return err
			}
		}
	}
}
