package s3doc

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// leaf is an element without children.
type leaf struct{ name, text string }

// leaves reads the children of a document's root, which must have no children of their own.
func leaves(doc []byte) (root string, out []leaf, ok bool) {
	p := NewScanner(doc)
	root, ok = p.Root()
	for ok {
		var name string
		if name, ok = p.Child(); ok {
			out = append(out, leaf{name, p.Text()})
		}
	}
	return root, out, p.End() && !p.Bad()
}

func TestScanner(t *testing.T) {
	root, got, ok := leaves([]byte("<?xml version='1.0'?><s3:R xmlns:s3='>'>\n<A a='1'>x&amp;<![CDATA[<]]>\r\n</A><B/></s3:R> <!-- -->"))
	if diff := cmp.Diff([]leaf{{"A", "x&<\n"}, {"B", ""}}, got, cmp.AllowUnexported(leaf{})); !ok || root != "R" || diff != "" {
		t.Errorf("root %q, whole %v: %s", root, ok, diff)
	}
	p := NewScanner([]byte("<R><A><B>1</B>x<!-- </A> --><![CDATA[</A>]]></A><C>2</C></R>"))
	p.Root()
	p.Child()
	p.Skip()
	if name, _ := p.Child(); name != "C" || p.Text() != "2" {
		t.Errorf("behind what was skipped: %q", name)
	}
	if _, more := p.Child(); more || !p.End() || p.Bad() {
		t.Error("the document does not end")
	}
	for _, bad := range []string{
		"", "x", "<R>", "<R></S>", "<R/>x", "<R/><R/>", "<!DOCTYPE R><R/>", "<R><A>&x;</A></R>", "<R><A>\xff</A></R>", "<R><A><B/></A></R>",
	} {
		if _, _, ok := leaves([]byte(bad)); ok {
			t.Errorf("%q is taken", bad)
		}
	}
}

// The scanner and the tree read the same from what both take.
func FuzzScannerTree(f *testing.F) {
	f.Add([]byte("<R><A>a&lt;<!-- --></A>\n<B/></R>"))
	f.Add([]byte("<R xmlns='" + Namespace + "'><A><![CDATA[x]]>y\r</A></R>"))
	f.Fuzz(func(t *testing.T, doc []byte) {
		root, got, ok := leaves(doc)
		n, err := parseDoc(doc, "")
		if err != nil || !ok {
			return
		}
		var want []leaf
		for _, k := range n.kids {
			want = append(want, leaf{k.name, k.text})
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(leaf{})); root != n.name || diff != "" {
			t.Errorf("%q: root %q and %q: %s", doc, root, n.name, diff)
		}
	})
}
