package transfer

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"firn"
)

func TestParseLocation(t *testing.T) {
	for in, want := range map[string]Location{
		"-":                 {Std: true},
		"s3://":             {Remote: true},
		"s3://b":            {Remote: true, Bucket: "b"},
		"s3://b/":           {Remote: true, Bucket: "b"},
		"s3://b/k/x":        {Remote: true, Bucket: "b", Key: "k/x"},
		"s3://b//k":         {Remote: true, Bucket: "b", Key: "/k"},
		"s3://b/a b?c#d%20": {Remote: true, Bucket: "b", Key: "a b?c#d%20"},
		"dir/file":          {Path: "dir/file"},
		"./s3://x":          {Path: "./s3://x"},
	} {
		got, err := ParseLocation(in)
		if err != nil || got != want {
			t.Errorf("%q: %+v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "s3:/b/k", "s3:b", "s3:///k", "s3://b\\c/k", "a\x00b", "s3://b/\xff", "s3://b/" + strings.Repeat("k", 1025)} {
		if _, err := ParseLocation(in); firn.KindOf(err) != firn.Invalid {
			t.Errorf("%q: %v", in, err)
		}
	}
}

// FuzzLocalName checks the promise that no key leads out of the target directory or to another key's file.
func FuzzLocalName(f *testing.F) {
	for _, s := range []string{"a", "a/b", "../x", "a/../../x", "/x", "a//b", ".", "", "a/", "a\x00", "...", "a\\..\\b", "C:/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, rel string) {
		name, err := localName(rel)
		if err != nil {
			return
		}
		if strings.ContainsRune(name, 0) || filepath.Clean(name) != name || filepath.ToSlash(name) != rel || !filepath.IsLocal(name) {
			t.Errorf("%q became %q", rel, name)
		}
		back, err := filepath.Rel("/target", filepath.Join("/target", name))
		if err != nil || back != name {
			t.Errorf("%q became %q, seen from the target %q", rel, name, back)
		}
	})
}

func TestFilter(t *testing.T) {
	for _, tt := range []struct {
		include, exclude []string
		name             string
		want             bool
	}{
		{nil, nil, "a/b", true},
		{[]string{"*.go"}, nil, "a/b.go", true},
		{[]string{"*.go"}, nil, "a/b.c", false},
		{[]string{"*.go"}, []string{"b.*"}, "a/b.go", false},
		{[]string{"a/*.go"}, nil, "a/b.go", true},
		{[]string{"a/*.go"}, nil, "a/x/b.go", false},
		{[]string{"a/**/b.go"}, nil, "a/b.go", true},
		{[]string{"a/**/b.go"}, nil, "a/x/y/b.go", true},
		{[]string{"/a"}, nil, "a/x", true},
		{[]string{"/a"}, nil, "b/a", false},
		{[]string{"a"}, nil, "b/a/c", true},
		{nil, []string{"node_modules"}, "x/node_modules/y/z", false},
		{nil, []string{"x/**"}, "x/y", false},
		{nil, []string{"x/**"}, "xy/z", true},
		{nil, []string{"[ab]?c"}, "axc", false},
		{nil, []string{"**"}, "anything/at/all", false},
		{nil, []string{"*"}, "anything/at/all", false},
	} {
		f, err := NewFilter(tt.include, tt.exclude)
		if err != nil || f.Take(tt.name) != tt.want {
			t.Errorf("%+v: %v, %v", tt, f.Take(tt.name), err)
		}
	}
	for _, bad := range []string{"[", "a/[", "", "x\\"} {
		if _, err := NewFilter([]string{bad}, nil); firn.KindOf(err) != firn.Invalid {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// FuzzFilter: a glob that takes a directory takes what is beneath it; a pruned directory has nothing to take.
func FuzzFilter(f *testing.F) {
	f.Add("a/**/b*", "a/x/bc", "d")
	f.Add("*", "a", "b")
	f.Fuzz(func(t *testing.T, glob, dir, base string) {
		in, err := NewFilter([]string{glob}, nil)
		if err != nil || base == "" {
			return
		}
		if in.Take(dir) && !in.Take(dir+"/"+base) {
			t.Errorf("%q takes %q but not %q beneath it", glob, dir, base)
		}
		ex, err := NewFilter(nil, []string{glob})
		if err != nil {
			t.Fatal(err)
		}
		if ex.prune(dir) && ex.Take(dir+"/"+base) {
			t.Errorf("%q prunes %q but takes %q", glob, dir, dir+"/"+base)
		}
	})
}

func TestMtime(t *testing.T) {
	for _, want := range []time.Time{
		time.Unix(0, 0), time.Unix(1_600_000_000, 0), time.Unix(1_600_000_000, 1), time.Unix(1_600_000_000, 999_999_999), time.Unix(1, 500_000_000), time.Unix(-5, 0),
	} {
		if got := parseMtime(formatMtime(want)); !got.Equal(want) {
			t.Errorf("%v became %q, %v", want, formatMtime(want), got)
		}
	}
	if got := formatMtime(time.Unix(1_600_000_000, 123_400_000)); got != "1600000000.1234" {
		t.Errorf("%q is not what rclone writes", got)
	}
	for _, bad := range []string{"", "x", "1.x", "1.-5", "1.1234567890", "99999999999999999999", "1.+5"} {
		if got := parseMtime(bad); !got.IsZero() {
			t.Errorf("%q became %v", bad, got)
		}
	}
}

func FuzzMtime(f *testing.F) {
	f.Add("1600000000.5")
	f.Fuzz(func(t *testing.T, s string) {
		m := parseMtime(s)
		if !m.IsZero() && !parseMtime(formatMtime(m)).Equal(m) {
			t.Errorf("%q became %v, then %q", s, m, formatMtime(m))
		}
	})
}

func TestPartsOf(t *testing.T) {
	for in, want := range map[string]int{
		"0123456789abcdef0123456789abcdef":       0,
		"0123456789abcdef0123456789abcdef-1":     1,
		"0123456789abcdef0123456789abcdef-10000": 10000,
		"0123456789abcdef0123456789abcdef-10001": -1,
		"0123456789abcdef0123456789abcdef-0":     -1,
		"0123456789abcdef0123456789abcdef-x":     -1,
		"0123":                                   -1, "": -1, "opaque": -1,
	} {
		if _, got := partsOf(in); got != want {
			t.Errorf("%q: %d, want %d", in, got, want)
		}
	}
}

func TestContentType(t *testing.T) {
	for _, tt := range []struct{ name, start, want string }{
		{"x.html", "", "text/html; charset=utf-8"},
		{"x.PNG", "", "image/png"},
		{"noext", "%PDF-1.4", "application/pdf"},
		{"noext", "", "application/octet-stream"},
		{"noext", "plain words", "text/plain; charset=utf-8"},
	} {
		if got := contentType(tt.name, []byte(tt.start)); got != tt.want {
			t.Errorf("%q: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestPartSize(t *testing.T) {
	for _, tt := range []struct{ set, size, want int64 }{
		{0, 0, defaultPartSize},
		{0, defaultPartSize * maxParts, defaultPartSize},
		{0, defaultPartSize*maxParts + 1, 2 * defaultPartSize},
		{0, 5 << 40, 1 << 30},
		{minPartSize, minPartSize * maxParts, minPartSize},
		{minPartSize, minPartSize*maxParts + 1, 0},
		{minPartSize - 1, 1, 0},
		{maxPartSize + 1, 1, 0},
	} {
		got, err := (&ObjectOptions{PartSize: tt.set}).partSize(tt.size)
		if got != tt.want || (err == nil) != (tt.want > 0) {
			t.Errorf("%+v: %d, %v", tt, got, err)
		}
	}
}

func TestPartsHash(t *testing.T) {
	data := noise(10_000, 1)
	var c Client
	for _, sizes := range [][]int64{{10_000}, {4000, 4000, 2000}, {1, 9998, 1}} {
		var md5s [][16]byte
		rest := data
		for _, n := range sizes {
			s, _, err := c.sumOf(t.Context(), strings.NewReader(string(rest[:n])))
			if err != nil {
				t.Fatal(err)
			}
			md5s, rest = append(md5s, s.md5), rest[n:]
		}
		want, n := partsOf(compositeETag(md5s))
		for _, step := range []int{1, 777, 10_000} {
			h := newPartsHash(sizes)
			for off := 0; off < len(data); off += step {
				if _, err := h.Write(data[off:min(off+step, len(data))]); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(want, h.Sum(nil)); diff != "" || n != len(sizes) {
				t.Errorf("%v in steps of %d: %s", sizes, step, diff)
			}
		}
	}
}
