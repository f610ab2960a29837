package cache

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"firn/telemetry"
	"firn/vfs"
)

func TestMetrics(t *testing.T) {
	c := newCache(t, newMemory(t, 4<<20, 0), openDisk(t, vfs.NewMem(), DiskOptions{}))
	for range 3 {
		if _, _, err := c.Get(t.Context(), key("a", 0), given(make([]byte, 1000))); err != nil {
			t.Fatal(err)
		}
	}
	m := telemetry.New("v", time.Now())
	read, descs := c.Metrics("cache")
	if err := m.Collect(read, descs...); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{
		`firn_cache_hits_total{level="memory"} 2`, `firn_cache_hits_total{level="disk"} 0`,
		`firn_cache_misses_total{level="disk"} 1`, `firn_cache_hit_bytes_total{level="memory"} 2000`,
		`firn_cache_budget_bytes{level="memory"} 4.194304e+06`, `firn_cache_fills_total 1`, `firn_cache_fill_bytes_total 1000`,
	} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("no %s", want)
		}
	}
}
