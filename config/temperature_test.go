package config

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"firn/lifecycle"
)

func TestTemperature(t *testing.T) {
	e, err := Load(Sources{File: write(t, "tiers:\n  region: {url: file:/r}\n  cloud: {url: file:/c, class: GLACIER}\n"+
		"lifecycle:\n  overflow: cloud\n"+
		"temperature:\n  videos: {bucket: v, warm: region, cold: cloud, hot_age: 12h, warm_reads: 7, pin: warm, tags: [a=b, c=d=e]}\n  all: {cold: cloud}\n"+
		"  tagged: {cold: cloud, tags: [a=]}\n")})
	if err != nil {
		t.Fatal(err)
	}
	if len(e.Temperature) != 3 || e.Temperature[1].Name != "all" || e.Temperature[1].Rules() != lifecycle.DefaultTemperatureRules() ||
		e.Temperature[1].MinSize != 128*kib {
		t.Errorf("%+v", e.Temperature)
	}
	v := e.Temperature[0]
	if r := v.Rules(); v.Bucket != "v" || v.Pin != "warm" || r.HotAge != 12*time.Hour || r.WarmReads != 7 || r.WarmRead != 7*lifecycle.Day ||
		e.ClassOf(v.Warm) != "REGION" || e.ClassOf(v.Cold) != "GLACIER" || e.ClassOf("none") != "" {
		t.Errorf("%+v", v)
	}
	if f := v.Filter(); !slices.Equal(f.Tags, []lifecycle.Tag{{Name: "a", Value: "b"}, {Name: "c", Value: "d=e"}}) {
		t.Errorf("%+v", f)
	}
	for _, k := range TemperatureKeys() {
		if len(k.Doc) < 20 || k.Type == "" {
			t.Errorf("%s: type %q, manual %q", k.Name, k.Type, k.Doc)
		}
	}
}

func TestWrongTemperature(t *testing.T) {
	const tiers = "tiers:\n  cold: {url: file:/x}\n  colder: {url: file:/y}\n"
	for text, want := range map[string]string{
		"temperature:\n  a: {}\n":                                                                  `5:3: temperature.a: names no tier: give warm, cold or both`,
		"temperature:\n  a: {cold: old}\n":                                                         `5:3: temperature.a.cold: there is no tier "old": name one of tiers`,
		"temperature:\n  a: {cold: cold, warm: cold}\n":                                            `5:3: temperature.a.cold: is the tier of warm: leave one of them out`,
		"temperature:\n  a: {warm: colder, cold: cold}\n":                                          `5:3: temperature.a.warm: tier colder stands after tier cold in tiers, which lists the warmest first`,
		"temperature:\n  a: {cold: cold, pin: cold}\n":                                             `5:3: temperature.a.pin: want hot or warm, not "cold"`,
		"temperature:\n  a: {cold: cold, hotage: 3d}\n":                                            `5:19: unknown key "temperature.a.hotage": did you mean "temperature.a.hot_age"?`,
		"temperature:\n  a: {cold: cold, promote_reads: 1}\n":                                      `5:3: temperature.a: a promotion takes 2 reads or more, within 1 to 8 days: single reads do not bring data back`,
		"temperature:\n  a: {cold: cold, warm_read: 1h}\n":                                         `5:3: temperature.a: what was brought back by its reads must count as warm for as long as it is to stay`,
		"temperature:\n  a: {cold: cold}\n  b: {cold: cold}\n":                                     `6:3: temperature.b: is for the same bucket, prefix and tags as a: leave one of them out`,
		"temperature:\n  a: {cold: cold, tags: [x=1, y=2]}\n  b: {cold: cold, tags: [y=2, x=1]}\n": `6:3: temperature.b: is for the same bucket, prefix and tags as a: leave one of them out`,
		"temperature:\n  a: {cold: cold, tags: [keep]}\n":                                          `5:3: temperature.a.tags: want tags such as keep=local, not "keep"`,
		"lifecycle:\n  overflow: old\n":                                                            `lifecycle.overflow: there is no tier "old": name one of tiers`,
		"lifecycle:\n  high: 70\n":                                                                 `lifecycle.high: want 1 <= lifecycle.low < lifecycle.high <= 99, not 75 and 70`,
	} {
		_, err := Load(Sources{File: write(t, tiers+text)})
		var p Problems
		if !errors.As(err, &p) || len(p) != 1 || !strings.HasSuffix(p.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}
