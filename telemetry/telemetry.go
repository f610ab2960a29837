// Package telemetry owns how a site is measured and logged: one registry of metrics, the metrics of requests,
// and the log handler.
//
// It promises that counting a request costs two map look-ups and a few atomic additions, and that nothing is
// registered outside the registry it makes, so that two sites in one process do not share a number. It must
// never import another package of this module: what the engines count is handed to it as functions.
package telemetry

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics is the measurements of one site. All methods may be called concurrently.
type Metrics struct {
	registry *prometheus.Registry

	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	received *prometheus.CounterVec
	sent     *prometheus.CounterVec
	inFlight prometheus.Gauge
	begun    atomic.Uint64

	ops      sync.Map // op string → *opMetrics
	statuses sync.Map // opStatus → prometheus.Counter
}

type opMetrics struct {
	seconds  prometheus.Observer
	received prometheus.Counter
	sent     prometheus.Counter
}

type opStatus struct {
	op     string
	status int
}

// latencyBuckets in seconds: from a cached small read to a large upload over a slow link.
var latencyBuckets = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 60}

// New returns the metrics of a site of the given version that started at the given time.
func New(version string, started time.Time) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "firn_s3_requests_total", Help: "S3 requests finished, by operation and HTTP status.",
		}, []string{"op", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "firn_s3_request_seconds", Buckets: latencyBuckets,
			Help: "Seconds from the header of an S3 request to the end of its response, by operation.",
		}, []string{"op"}),
		received: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "firn_s3_received_bytes_total", Help: "Bytes of S3 request bodies, by operation.",
		}, []string{"op"}),
		sent: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "firn_s3_sent_bytes_total", Help: "Bytes of S3 response bodies, by operation.",
		}, []string{"op"}),
	}
	m.inFlight = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "firn_s3_requests_in_flight", Help: "S3 requests being served now.",
	})
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "firn_build_info", Help: "Always 1; the label is the version that runs.",
		ConstLabels: prometheus.Labels{"version": version},
	})
	info.Set(1)
	start := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "firn_start_time_seconds", Help: "When the site started, in Unix seconds.",
	})
	start.Set(float64(started.UnixMilli()) / 1e3)
	m.registry.MustRegister(m.requests, m.seconds, m.received, m.sent, m.inFlight, info, start,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Begun returns how many requests have begun since the start.
func (m *Metrics) Begun() uint64 { return m.begun.Load() }

// InFlight wraps a handler to count the requests it is serving.
func (m *Metrics) InFlight(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.begun.Add(1)
		m.inFlight.Inc()
		defer m.inFlight.Dec()
		next.ServeHTTP(w, r)
	})
}

// Request counts one finished request. op comes from a fixed set.
func (m *Metrics) Request(op string, status int, bytesIn, bytesOut int64, took time.Duration) {
	v, ok := m.ops.Load(op)
	if !ok {
		v, _ = m.ops.LoadOrStore(op, &opMetrics{
			seconds: m.seconds.WithLabelValues(op), received: m.received.WithLabelValues(op), sent: m.sent.WithLabelValues(op),
		})
	}
	o, _ := v.(*opMetrics)
	key := opStatus{op, status}
	c, ok := m.statuses.Load(key)
	if !ok {
		c, _ = m.statuses.LoadOrStore(key, m.requests.WithLabelValues(op, strconv.Itoa(status)))
	}
	counter, _ := c.(prometheus.Counter)
	counter.Inc()
	o.seconds.Observe(took.Seconds())
	if bytesIn > 0 {
		o.received.Add(float64(bytesIn))
	}
	if bytesOut > 0 {
		o.sent.Add(float64(bytesOut))
	}
}

// Kind says how a sample behaves over time.
type Kind uint8

const (
	// Gauge goes up and down.
	Gauge Kind = iota
	// Counter only grows while the process lives.
	Counter
)

// Desc describes one metric that is read when it is scraped. Its name begins with "firn_".
type Desc struct {
	Name string
	Help string
	Kind Kind
	// Label is the name of the one label of its samples; "" for a single sample without labels.
	Label string
}

// Sample is one value of a metric.
type Sample struct {
	Label string // value of the label
	Value float64
}

// Collect registers a group of metrics that read returns the values of, in the order of descs. read is called
// for each scrape and must be quick. A metric for which it returns no samples is left out.
func (m *Metrics) Collect(read func() [][]Sample, descs ...Desc) error {
	c := &collector{read: read, descs: descs, prom: make([]*prometheus.Desc, len(descs))}
	for i, d := range descs {
		var labels []string
		if d.Label != "" {
			labels = []string{d.Label}
		}
		c.prom[i] = prometheus.NewDesc(d.Name, d.Help, labels, nil)
	}
	return m.registry.Register(c)
}

type collector struct {
	read  func() [][]Sample
	descs []Desc
	prom  []*prometheus.Desc
}

func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.prom {
		ch <- d
	}
}

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	for i, samples := range c.read() {
		if i >= len(c.descs) {
			return
		}
		kind := prometheus.GaugeValue
		if c.descs[i].Kind == Counter {
			kind = prometheus.CounterValue
		}
		for _, s := range samples {
			var labels []string
			if c.descs[i].Label != "" {
				labels = []string{s.Label}
			}
			ch <- prometheus.MustNewConstMetric(c.prom[i], kind, s.Value, labels...)
		}
	}
}

// Register adds a source of metrics of its own.
func (m *Metrics) Register(c prometheus.Collector) error { return m.registry.Register(c) }

// Handler serves the metrics in the Prometheus text format.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		// One metric that cannot be read must not hide the others.
		ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 4,
	})
}

// Names returns the names and help texts of what the registry holds now.
func (m *Metrics) Names() (map[string]string, error) {
	families, err := m.registry.Gather()
	if err != nil {
		return nil, err
	}
	names := make(map[string]string, len(families))
	for _, f := range families {
		names[f.GetName()] = f.GetHelp()
	}
	return names, nil
}

// NewLogger returns a logger that writes lines of the given level ("debug", "info", "warn", "error") and above
// to w, as JSON or as text.
func NewLogger(w io.Writer, level string, json bool) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, err
	}
	o := &slog.HandlerOptions{Level: l, ReplaceAttr: replaceAttr}
	if json {
		return slog.New(slog.NewJSONHandler(w, o)), nil
	}
	return slog.New(slog.NewTextHandler(w, o)), nil
}

// replaceAttr writes durations as text ("1.5ms") in JSON too: a bare number of nanoseconds helps nobody.
func replaceAttr(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(a.Value.Duration().String())
	}
	return a
}

// Slogger adapts log to the writer that http.Server's ErrorLog wants: each line becomes a debug entry, because
// what it reports (broken connections, bad TLS) is the clients' doing.
func Slogger(log *slog.Logger, msg string) io.Writer { return lineWriter{log, msg} }

type lineWriter struct {
	log *slog.Logger
	msg string
}

func (w lineWriter) Write(p []byte) (int, error) {
	n := len(p)
	for n > 0 && p[n-1] == '\n' {
		n--
	}
	w.log.Log(context.Background(), slog.LevelDebug, w.msg, "detail", string(p[:n]))
	return len(p), nil
}
