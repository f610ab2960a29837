package tidy

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// testNames returns the names of the tests and fuzz targets of each package, by its directory.
func testNames(t *testing.T) map[string][]string {
	t.Helper()
	function := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Z]\w*)\(`)
	names := map[string][]string{}
	err := filepath.WalkDir(root(t), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(root(t), filepath.Dir(path))
		for _, m := range function.FindAllStringSubmatch(string(b), -1) {
			names[dir] = append(names[dir], m[1])
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// missingTests returns what is wrong with the tests that a page names: each must be there, in a package of the page's
// where it is named with one ("auth: TestMatrix, TestReasons; proxied: TestClient").
func missingTests(page string, names map[string][]string) (problems []string, named int) {
	name := regexp.MustCompile(`\b(?:Test|Fuzz)[A-Z]\w*`)
	list := regexp.MustCompile(`([a-z0-9/]+): ((?:Test|Fuzz)[A-Z]\w*(?:, (?:Test|Fuzz)[A-Z]\w*)*)`)
	for _, m := range list.FindAllStringSubmatch(page, -1) {
		for _, n := range strings.Split(m[2], ", ") {
			if !slices.Contains(names[m[1]], n) {
				problems = append(problems, m[1]+": "+n)
			}
		}
	}
	all := slices.Concat(slices.Collect(func(yield func([]string) bool) {
		for _, list := range names {
			if !yield(list) {
				return
			}
		}
	})...)
	for _, n := range name.FindAllString(page, -1) {
		named++
		if !slices.Contains(all, n) {
			problems = append(problems, n)
		}
	}
	return problems, named
}

// unheldClaims returns the rows of a page's tables of claims ("can", "cannot", "held by") that name no test.
func unheldClaims(page string) (rows []string) {
	test := regexp.MustCompile(`[a-z0-9/]+: (?:Test|Fuzz)[A-Z]`)
	claims := false
	for _, line := range strings.Split(page, "\n") {
		switch {
		case !strings.HasPrefix(line, "|"):
			claims = false
		case strings.HasSuffix(line, "| held by |"):
			claims = true
		case claims && !strings.HasPrefix(line, "|--") && !test.MatchString(line):
			rows = append(rows, line)
		}
	}
	return rows
}

// TestNamedTestsExist holds that each test a page names is there, and that each claim of the threat model names one.
func TestNamedTestsExist(t *testing.T) {
	names := testNames(t)
	total := 0
	err := filepath.WalkDir(root(t), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name := d.Name(); d.IsDir() && (name == ".git" || name == "firn-data" || name == "testdata") {
			return fs.SkipDir
		}
		if filepath.Ext(path) != ".md" {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		problems, named := missingTests(string(b), names)
		total += named
		rel, err := filepath.Rel(root(t), path)
		for _, p := range problems {
			t.Errorf("%s names %s, which is not there", rel, p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	model, err := os.ReadFile(filepath.Join(root(t), "docs", "threat-model.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range unheldClaims(string(model)) {
		t.Errorf("docs/threat-model.md: no test holds %s", row)
	}
	if total < 40 {
		t.Errorf("only %d tests are named: this test looks at the wrong place", total)
	}
}

func TestMissingTests(t *testing.T) {
	names := map[string][]string{"a": {"TestOne", "TestTwo"}, "b/c": {"FuzzThree"}}
	for page, want := range map[string]int{
		"a: TestOne, TestTwo; b/c: FuzzThree": 0,
		"in prose TestTwo is named":           0,
		"a: FuzzThree":                        1,
		"a: TestOne, TestFour":                2, // of its package, and at all
		"b: FuzzThree":                        1,
		"TestNone":                            1,
		"Tests and fuzzing are no names":      0,
	} {
		if got, _ := missingTests(page, names); len(got) != want {
			t.Errorf("%q: %q, want %d", page, got, want)
		}
	}
	page := "| can | cannot | held by |\n|---|---|---|\n| x | y | a: TestOne |\n| x | z | the tables of a |\n\n| other | table |\n|---|---|\n| x | y |\n"
	if got := unheldClaims(page); len(got) != 1 || !strings.Contains(got[0], "| z |") {
		t.Errorf("%q", got)
	}
}
