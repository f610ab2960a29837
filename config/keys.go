package config

import (
	_ "embed"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"strconv"
	"strings"
)

// source is config.go: the comments of its fields are the manual, so that there is no second text to keep.
//
//go:embed config.go
var source string

// Key is one setting.
type Key struct {
	Name    string // as in the file, sections joined by a dot: "journal.keep"
	Flag    string // without dashes: "journal-keep"
	Env     string // "FIRN_JOURNAL_KEEP"
	Type    string // what it takes: text, list, size, rate, duration, number, true or false
	Default string
	Doc     string // one paragraph
	Secret  bool

	index []int // of the field in Config
}

// Section is a group of keys with its own comment.
type Section struct {
	Name string // "" for the keys at the top
	Doc  string
	Keys []Key
}

// Keys returns every key in the order of the struct.
func Keys() []Key {
	var keys []Key
	for _, s := range Sections() {
		keys = append(keys, s.Keys...)
	}
	return keys
}

// Sections returns every key, grouped.
func Sections() []Section {
	docs := fieldDocs()
	def := Default()
	v := reflect.ValueOf(def)
	top := Section{}
	var rest []Section
	for i := range v.NumField() {
		f := v.Type().Field(i)
		name := f.Tag.Get("yaml")
		if f.Type.Kind() == reflect.Map || f.Type == reflect.TypeFor[[]Tier]() || f.Type == reflect.TypeFor[[]Temperature]() {
			continue // see PlaceKeys
		}
		if f.Type.Kind() != reflect.Struct {
			top.Keys = append(top.Keys, newKey(v, name, docs["Config."+f.Name], []int{i}))
			continue
		}
		s := Section{Name: name, Doc: docs["Config."+f.Name]}
		for j := range f.Type.NumField() {
			g := f.Type.Field(j)
			s.Keys = append(s.Keys, newKey(v, name+"."+g.Tag.Get("yaml"), docs[f.Type.Name()+"."+g.Name], []int{i, j}))
		}
		rest = append(rest, s)
	}
	return append([]Section{top}, rest...)
}

// PlaceKeys returns the keys of one place, as they are written below places and its name. Their defaults and manuals
// are set; flags and variables they have none.
func PlaceKeys() []Key { return namedKeys(reflect.ValueOf(DefaultPlace())) }

// TierKeys are those of one tier, as PlaceKeys.
func TierKeys() []Key { return namedKeys(reflect.ValueOf(DefaultTier())) }

// TemperatureKeys are those of one rule by temperature, as PlaceKeys.
func TemperatureKeys() []Key { return namedKeys(reflect.ValueOf(DefaultTemperature())) }

// BackupKeys are those of one backup, as PlaceKeys.
func BackupKeys() []Key { return namedKeys(reflect.ValueOf(DefaultBackup())) }

func namedKeys(def reflect.Value) []Key {
	docs := fieldDocs()
	var keys []Key
	add := func(name, doc string, index ...int) {
		k := newKey(def, name, doc, index)
		k.Flag, k.Env = "", ""
		keys = append(keys, k)
	}
	for i := range def.NumField() {
		f := def.Type().Field(i)
		name := f.Tag.Get("yaml")
		if name == "-" {
			continue // what the section is called
		}
		if f.Type.Kind() != reflect.Struct {
			add(name, docs[def.Type().Name()+"."+f.Name], i)
			continue
		}
		for j := range f.Type.NumField() {
			g := f.Type.Field(j)
			add(name+"."+g.Tag.Get("yaml"), docs[f.Type.Name()+"."+g.Name], i, j)
		}
	}
	return keys
}

// EdgeRuleKeys are those of one rule of the edge cache, as PlaceKeys.
func EdgeRuleKeys() []Key { return namedKeys(reflect.ValueOf(DefaultEdgeRule())) }

// EdgeRulesDoc is the manual of the section edge_rules.
func EdgeRulesDoc() string { return fieldDocs()["Config.EdgeRules"] }

// PlacesDoc is the manual of the section places.
func PlacesDoc() string { return fieldDocs()["Config.Places"] }

// TiersDoc is the manual of the section tiers.
func TiersDoc() string { return fieldDocs()["Config.Tiers"] }

// TemperatureDoc is the manual of the section temperature.
func TemperatureDoc() string { return fieldDocs()["Config.Temperature"] }

// BackupsDoc is the manual of the section backups.
func BackupsDoc() string { return fieldDocs()["Config.Backups"] }

func newKey(def reflect.Value, name, doc string, index []int) Key {
	f := def.FieldByIndex(index)
	k := Key{
		Name:  name,
		Flag:  strings.NewReplacer(".", "-", "_", "-").Replace(name),
		Env:   "FIRN_" + strings.ToUpper(strings.ReplaceAll(name, ".", "_")),
		Doc:   doc,
		index: index,
	}
	switch f.Interface().(type) {
	case string:
		k.Type = "text"
	case Secret:
		k.Type, k.Secret = "text", true
	case []string:
		k.Type = "list"
	case Size:
		k.Type = "size"
	case Rate:
		k.Type = "rate"
	case Duration:
		k.Type = "duration"
	case int, uint64:
		k.Type = "number"
	case bool:
		k.Type = "true or false"
	}
	k.Default = format(f)
	return k
}

// Get returns the key's value in c as text. A secret is hidden.
func (k Key) Get(c *Config) string { return format(reflect.ValueOf(c).Elem().FieldByIndex(k.index)) }

func format(f reflect.Value) string {
	switch v := f.Interface().(type) {
	case []string:
		return strings.Join(v, ",")
	case fmt.Stringer:
		return v.String()
	default:
		return fmt.Sprint(v)
	}
}

// Set sets the key in c from text. A list is separated by commas. The error does not repeat the value.
func (k Key) Set(c *Config, s string) error { return k.set(reflect.ValueOf(c).Elem(), s) }

// set sets the key in a Config or a Place.
func (k Key) set(v reflect.Value, s string) error {
	var err error
	switch p := v.FieldByIndex(k.index).Addr().Interface().(type) {
	case *string:
		*p = s
	case *Secret:
		*p = Secret(s)
	case *[]string:
		*p = nil
		for item := range strings.SplitSeq(s, ",") {
			if item = strings.TrimSpace(item); item != "" {
				*p = append(*p, item)
			}
		}
	case *Size:
		*p, err = ParseSize(s)
	case *Rate:
		*p, err = ParseRate(s)
	case *Duration:
		*p, err = ParseDuration(s)
	case *int:
		if *p, err = strconv.Atoi(s); err != nil {
			err = fmt.Errorf("want a whole number")
		}
	case *uint64:
		if *p, err = strconv.ParseUint(s, 10, 64); err != nil {
			err = fmt.Errorf("want a whole number, 0 or more")
		}
	case *bool:
		switch s {
		case "true":
			*p = true
		case "false":
			*p = false
		default:
			err = fmt.Errorf("want true or false")
		}
	}
	return err
}

// fieldDocs returns the comments of the struct fields in config.go by "Type.Field", each joined to one line.
func fieldDocs() map[string]string {
	docs := map[string]string{}
	f, err := parser.ParseFile(token.NewFileSet(), "config.go", source, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return docs // the source compiled, so it parses; a test holds every key to having a manual
	}
	ast.Inspect(f, func(n ast.Node) bool {
		t, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		s, ok := t.Type.(*ast.StructType)
		if !ok {
			return true
		}
		for _, field := range s.Fields.List {
			for _, name := range field.Names {
				docs[t.Name.Name+"."+name.Name] = strings.Join(strings.Fields(field.Doc.Text()), " ")
			}
		}
		return false
	})
	return docs
}
