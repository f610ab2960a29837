package cli

import (
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"firn/blob/wrap/mirror"
	"firn/telemetry"
)

// mirrors tells the log, and metrics, of places of mirrors that are away and of what is made good there. The mirrors are
// those that were opened since it was made; a place counts as it was when its mirror was closed.
type mirrors struct {
	log                      *slog.Logger
	away                     *prometheus.GaugeVec
	failovers, missed, fixed *prometheus.CounterVec
}

func newMirrors(log *slog.Logger) *mirrors {
	labels := []string{"mirror", "place"}
	counter := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "firn_mirror_" + name + "_total", Help: help}, labels)
	}
	return &mirrors{
		log: log,
		away: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "firn_mirror_place_away", Help: "1 while a place of a mirror does not answer.",
		}, labels),
		failovers: counter("failovers", "Reads that went on at another place of a mirror."),
		missed:    counter("missed_changes", "Changes that a place of a mirror missed, and owes."),
		fixed:     counter("repaired", "Blobs that were put right at a place of a mirror."),
	}
}

// mirrors are those of a command: it has a log of its own where nobody gave it one.
func (o *opener) mirrors() *mirrors {
	if o.watch != nil {
		return o.watch
	}
	log, err := telemetry.NewLogger(o.env.Err, "info", !o.env.Terminal)
	if err != nil {
		log = slog.New(slog.DiscardHandler)
	}
	return newMirrors(log)
}

func (m *mirrors) all() []prometheus.Collector {
	return []prometheus.Collector{m.away, m.failovers, m.missed, m.fixed}
}

// Describe is part of prometheus.Collector.
func (m *mirrors) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range m.all() {
		c.Describe(ch)
	}
}

// Collect is part of prometheus.Collector.
func (m *mirrors) Collect(ch chan<- prometheus.Metric) {
	for _, c := range m.all() {
		c.Collect(ch)
	}
}

// observe is what hears of one mirror.
func (m *mirrors) observe(name string, members []string) mirror.Observer {
	for _, place := range members {
		m.away.WithLabelValues(name, place).Set(0)
		for _, c := range []*prometheus.CounterVec{m.failovers, m.missed, m.fixed} {
			c.WithLabelValues(name, place)
		}
	}
	return observedMirror{m, name}
}

type observedMirror struct {
	*mirrors
	name string
}

// Failover is only counted: there may be one for each read.
func (o observedMirror) Failover(place, _ string, _ error) {
	o.failovers.WithLabelValues(o.name, place).Inc()
}

func (o observedMirror) Owed(place, _ string) { o.missed.WithLabelValues(o.name, place).Inc() }

func (o observedMirror) Repaired(place, _ string, left int) {
	o.fixed.WithLabelValues(o.name, place).Inc()
	if left == 0 {
		o.log.Info("a place of a mirror has all that it missed", "mirror", o.name, "place", place)
	}
}

func (o observedMirror) Away(place string, err error) {
	o.away.WithLabelValues(o.name, place).Set(1)
	o.log.Warn("a place of a mirror is away: what it misses is put right when it is back", "mirror", o.name, "place", place, "error", err)
}

func (o observedMirror) Back(place string) {
	o.away.WithLabelValues(o.name, place).Set(0)
	o.log.Info("a place of a mirror is back", "mirror", o.name, "place", place)
}
