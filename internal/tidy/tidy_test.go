package tidy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	module      = "firn"
	maxFile     = 1000 // lines
	maxMain     = 30
	maxRoot     = 1000
	formatPages = "docs/format"
)

type pkg struct {
	ImportPath   string
	Dir          string
	Name         string
	Doc          string
	GoFiles      []string
	TestGoFiles  []string
	XTestGoFiles []string
	Imports      []string
}

// name is the path below the module, "." for the root.
func (p *pkg) name() string {
	if p.ImportPath == module {
		return "."
	}
	return strings.TrimPrefix(p.ImportPath, module+"/")
}

// packages lists the module, seen from its root.
func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,Name,Doc,GoFiles,TestGoFiles,XTestGoFiles,Imports", "./...")
	cmd.Dir = root(t)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	var all []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < 10 {
		t.Fatalf("go list found %d packages: this test looks at the wrong place", len(all))
	}
	return all
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func matches(pattern, name string) bool {
	if base, ok := strings.CutSuffix(pattern, "/..."); ok {
		return name == base || strings.HasPrefix(name, base+"/")
	}
	return pattern == name
}

func TestImportEdges(t *testing.T) {
	used := map[Edge]bool{}
	for _, p := range packages(t) {
		for _, imp := range p.Imports {
			to, ok := strings.CutPrefix(imp, module+"/")
			if !ok {
				continue
			}
			allowed := false
			for _, e := range Edges() {
				if matches(e.From, p.name()) && matches(e.To, to) {
					allowed, used[e] = true, true
				}
			}
			if !allowed {
				t.Errorf("%s imports %s: the edge is not listed; add it to Edges with its reason, or turn it round", p.name(), to)
			}
			if slices.Contains(Drivers(), to) && p.name() != "node" && p.name() != "cli" {
				t.Errorf("%s imports the driver %s: only node and cli choose drivers", p.name(), to)
			}
		}
	}
	for _, e := range Edges() {
		if e.Why == "" {
			t.Errorf("the edge %s → %s has no reason", e.From, e.To)
		}
		if !used[e] {
			t.Errorf("the edge %s → %s is listed and not used: remove it", e.From, e.To)
		}
	}
}

func TestVocabularyImportsOnlyTheStandardLibrary(t *testing.T) {
	for _, p := range packages(t) {
		if p.name() != "." {
			continue
		}
		for _, imp := range p.Imports {
			if strings.Contains(imp, ".") || strings.HasPrefix(imp, module+"/") {
				t.Errorf("the root package imports %s", imp)
			}
		}
		n := 0
		for _, f := range p.GoFiles {
			n += lines(t, filepath.Join(p.Dir, f))
		}
		if n > maxRoot {
			t.Errorf("the root package has %d lines: at most %d", n, maxRoot)
		}
	}
}

func TestPackages(t *testing.T) {
	banned := []string{"util", "utils", "common", "helper", "helpers", "misc", "types"}
	for _, p := range packages(t) {
		if slices.Contains(banned, path.Base(p.name())) {
			t.Errorf("%s: name the package for what it provides", p.name())
		}
		// A package of tests alone has its comment in a test file, which go list does not read.
		if len(p.GoFiles) > 0 && len(p.Doc) < 20 {
			t.Errorf("%s has no package comment: say what it owns, what it promises, what it must never import", p.name())
		}
		total := 0
		for _, f := range p.GoFiles {
			n := lines(t, filepath.Join(p.Dir, f))
			total += n
			if n > maxFile {
				t.Errorf("%s/%s has %d lines: split it (at most %d)", p.name(), f, n, maxFile)
			}
		}
		for _, f := range slices.Concat(p.TestGoFiles, p.XTestGoFiles) {
			if n := lines(t, filepath.Join(p.Dir, f)); n > maxFile {
				t.Errorf("%s/%s has %d lines: split it (at most %d)", p.name(), f, n, maxFile)
			}
		}
		limit := MaxPackage
		for _, l := range LargePackages() {
			if l.Package != p.name() {
				continue
			}
			limit = l.Lines
			if total <= MaxPackage {
				t.Errorf("%s is no longer large: take it off the list", p.name())
			}
		}
		if total > limit {
			t.Errorf("%s has %d lines: split it (at most %d)", p.name(), total, limit)
		}
	}
	if n := lines(t, filepath.Join(root(t), "cmd/firn/main.go")); n > maxMain {
		t.Errorf("cmd/firn/main.go has %d lines: main only delegates (at most %d)", n, maxMain)
	}
}

// TestNoState holds that no package has init functions or variables that change while the program runs.
func TestNoState(t *testing.T) {
	for _, p := range packages(t) {
		fset := token.NewFileSet()
		var files []*ast.File
		for _, name := range p.GoFiles {
			f, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, f)
		}
		for _, problem := range stateProblems(fset, files) {
			t.Errorf("%s: %s", p.name(), problem)
		}
	}
}

// stateProblems looks for init functions, package-level variables of types made to change, and assignments to
// package-level variables. Tables, sentinel errors, compiled expressions and pools pass: nothing assigns to them.
// It goes by names: a local variable named like a package-level one is reported too, and better renamed.
func stateProblems(fset *token.FileSet, files []*ast.File) []string {
	var out []string
	report := func(n ast.Node, format string, args ...any) {
		pos := fset.Position(n.Pos())
		out = append(out, fmt.Sprintf("%s:%d: ", filepath.Base(pos.Filename), pos.Line)+fmt.Sprintf(format, args...))
	}
	vars := map[string]bool{}
	for _, f := range files {
		for _, decl := range f.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil && d.Name.Name == "init" {
					report(d, "an init function: do it where the value is made")
				}
			case *ast.GenDecl:
				if d.Tok != token.VAR {
					continue
				}
				for _, spec := range d.Specs {
					v, ok := spec.(*ast.ValueSpec)
					if !ok {
						continue
					}
					for _, name := range v.Names {
						vars[name.Name] = name.Name != "_"
					}
					if mutable(v) {
						report(v, "%s is state of the package: make it a field", v.Names[0].Name)
					}
				}
			}
		}
	}
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			switch s := n.(type) {
			case *ast.AssignStmt:
				if s.Tok == token.DEFINE {
					return true
				}
				for _, l := range s.Lhs {
					if name := target(l); vars[name] {
						report(s, "assigns to the package-level variable %s: make it a field", name)
					}
				}
			case *ast.IncDecStmt:
				if name := target(s.X); vars[name] {
					report(s, "changes the package-level variable %s: make it a field", name)
				}
			}
			return true
		})
	}
	return out
}

// mutable reports whether v is of a type that exists to change: locks, atomics, channels, sync's map and once.
func mutable(v *ast.ValueSpec) bool {
	found := false
	look := func(e ast.Expr) {
		ast.Inspect(e, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncLit:
				return false
			case *ast.ChanType:
				found = true
			case *ast.SelectorExpr:
				x, ok := n.X.(*ast.Ident)
				if !ok {
					return true
				}
				switch x.Name + "." + n.Sel.Name {
				case "sync.Mutex", "sync.RWMutex", "sync.Map", "sync.Once", "sync.WaitGroup", "sync.Cond":
					found = true
				}
				found = found || x.Name == "atomic"
			}
			return true
		})
	}
	if v.Type != nil {
		look(v.Type)
	}
	for _, e := range v.Values {
		look(e)
	}
	return found
}

// target returns the name at the root of what is assigned to: x of x, x[i], x.f, *x.
func target(e ast.Expr) string {
	for {
		switch x := e.(type) {
		case *ast.Ident:
			return x.Name
		case *ast.IndexExpr:
			e = x.X
		case *ast.SelectorExpr:
			e = x.X
		case *ast.StarExpr:
			e = x.X
		case *ast.ParenExpr:
			e = x.X
		default:
			return ""
		}
	}
}

func TestStateProblems(t *testing.T) {
	const src = `package p
import ("sync"; "sync/atomic"; "errors")
var ErrX = errors.New("x")
var table = map[string]int{"a": 1}
var pool = sync.Pool{New: func() any { return new(sync.Mutex) }}
var _ = ErrX
var mu sync.Mutex
var n atomic.Int64
var ch = make(chan int)
var count int
func init() {}
func f() { count++; table["b"] = 2; local := 1; local = 2; _ = local }
`
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, "p.go", src, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	got := stateProblems(fset, []*ast.File{f})
	want := []string{
		"p.go:7: mu is state", "p.go:8: n is state", "p.go:9: ch is state", "p.go:11: an init function",
		"p.go:12: changes the package-level variable count", "p.go:12: assigns to the package-level variable table",
	}
	if len(got) != len(want) {
		t.Fatalf("got %d problems, want %d: %q", len(got), len(want), got)
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("problem %d is %q, want %q...", i, got[i], want[i])
		}
	}
}

func TestFormatsAreDocumented(t *testing.T) {
	for _, f := range Formats() {
		b, err := os.ReadFile(filepath.Join(root(t), formatPages, f.Page))
		if err != nil {
			t.Errorf("the format of %s has no page: %v", f.Package, err)
			continue
		}
		if !bytes.Contains(bytes.ToLower(b), []byte("version")) {
			t.Errorf("%s/%s does not say which version it describes", formatPages, f.Page)
		}
	}
	pages, err := os.ReadDir(filepath.Join(root(t), formatPages))
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{"README.md": true}
	for _, f := range Formats() {
		listed[f.Page] = true
	}
	for _, page := range pages {
		if !listed[page.Name()] {
			t.Errorf("%s/%s is not in Formats: say whose it is", formatPages, page.Name())
		}
	}
}

func lines(t *testing.T, file string) int {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Count(b, []byte("\n"))
}
