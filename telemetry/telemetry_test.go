package telemetry

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func scrape(t *testing.T, m *Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

func TestRequestsAreCounted(t *testing.T) {
	m := New("v9", time.Unix(1000, 0))
	m.Request("GetObject", 200, 0, 100, 3*time.Millisecond)
	m.Request("GetObject", 200, 0, 50, 700*time.Millisecond)
	m.Request("GetObject", 404, 0, 10, time.Millisecond)
	m.Request("PutObject", 200, 77, 0, 2*time.Hour)
	got := scrape(t, m)
	for _, want := range []string{
		`firn_s3_requests_total{op="GetObject",status="200"} 2`,
		`firn_s3_requests_total{op="GetObject",status="404"} 1`,
		`firn_s3_sent_bytes_total{op="GetObject"} 160`,
		`firn_s3_received_bytes_total{op="PutObject"} 77`,
		`firn_s3_request_seconds_bucket{op="GetObject",le="0.005"} 2`,
		`firn_s3_request_seconds_bucket{op="GetObject",le="1"} 3`,
		`firn_s3_request_seconds_bucket{op="PutObject",le="60"} 0`,
		`firn_s3_request_seconds_count{op="PutObject"} 1`,
		`firn_build_info{version="v9"} 1`,
		`firn_start_time_seconds 1000`,
		`go_goroutines `,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no line %s", want)
		}
	}
}

func TestTwoSitesInOneProcessDoNotMeet(t *testing.T) {
	a, b := New("a", time.Now()), New("b", time.Now())
	a.Request("PutObject", 200, 1, 0, time.Millisecond)
	if strings.Contains(scrape(t, b), "PutObject") {
		t.Error("a request of one site is counted by the other")
	}
}

func TestCollect(t *testing.T) {
	m := New("v", time.Now())
	samples := [][]Sample{{{Value: 3}}, {{Label: "x", Value: 1}, {Label: "y", Value: 2}}}
	err := m.Collect(func() [][]Sample { return samples },
		Desc{Name: "firn_one", Help: "One."}, Desc{Name: "firn_many_total", Help: "Many.", Kind: Counter, Label: "what"})
	if err != nil {
		t.Fatal(err)
	}
	got := scrape(t, m)
	for _, want := range []string{
		"# TYPE firn_one gauge", "firn_one 3", "# TYPE firn_many_total counter", `firn_many_total{what="x"} 1`,
		`firn_many_total{what="y"} 2`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no line %s", want)
		}
	}
	samples = nil
	if strings.Contains(scrape(t, m), "firn_one") {
		t.Error("a metric without samples is not left out")
	}
	if err := m.Collect(func() [][]Sample { return nil }, Desc{Name: "firn_one", Help: "Again."}); err == nil {
		t.Error("a name can be registered twice")
	}
}

func TestLogger(t *testing.T) {
	var b bytes.Buffer
	l, err := NewLogger(&b, "info", true)
	if err != nil {
		t.Fatal(err)
	}
	l.Debug("quiet")
	l.Info("loud", "took", 1500*time.Microsecond)
	var line struct{ Msg, Took string }
	if err := json.Unmarshal(b.Bytes(), &line); err != nil {
		t.Fatalf("%v in %s", err, &b)
	}
	if line.Msg != "loud" || line.Took != "1.5ms" {
		t.Errorf("logged %+v", line)
	}
	if _, err := NewLogger(io.Discard, "shout", false); err == nil {
		t.Error("a level that does not exist is no error")
	}
	b.Reset()
	if l, err = NewLogger(&b, "debug", false); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(Slogger(l, "connection"), "http: broken\n"); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), `msg=connection detail="http: broken"`) {
		t.Errorf("logged %s", &b)
	}
}

func BenchmarkRequest(b *testing.B) {
	m := New("v", time.Now())
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			m.Request("PutObject", 200, 4096, 0, time.Millisecond)
		}
	})
}
