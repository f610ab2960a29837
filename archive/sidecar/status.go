package sidecar

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"firn"
)

// Phase is what a sidecar is doing.
type Phase string

// The phases.
const (
	Starting   Phase = "starting"
	Waiting    Phase = "waiting"
	Restoring  Phase = "restoring"
	Running    Phase = "running"
	Stopping   Phase = "stopping"
	Stopped    Phase = "stopped"
	Superseded Phase = "superseded"
)

// Duration is written as in 5m0s.
type Duration time.Duration

// MarshalText writes it.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads it.
func (d *Duration) UnmarshalText(p []byte) error {
	v, err := time.ParseDuration(string(p))
	*d = Duration(v)
	return err
}

// Status is what people and probes are told.
type Status struct {
	Phase Phase `json:"phase"`
	// Ready: the directory is restored, and the service may start.
	Ready     bool   `json:"ready"`
	Directory string `json:"directory"`
	Target    string `json:"target,omitempty"`
	// Reason says for what it waits, why a backup failed, or what was lost.
	Reason string `json:"reason,omitempty"`
	// Held: the directory suddenly lost much, and the good versions are kept until that is accepted.
	Held bool `json:"held"`
	// RolledBack is the version that the next start will restore.
	RolledBack string `json:"rolled_back,omitempty"`
	Busy       bool   `json:"busy"`
	// Failures is how many backups failed since the last that did not.
	Failures int `json:"failures"`
	// Problems is how many files the last backup could not take as they are.
	Problems   int64     `json:"problems"`
	Version    string    `json:"version,omitempty"`
	Files      int64     `json:"files"`
	Bytes      int64     `json:"bytes"`
	LastBackup time.Time `json:"last_backup,omitzero"`
	LastTook   Duration  `json:"last_took"`
	// Checked is when the directory was last known to be as its backup.
	Checked  time.Time `json:"checked,omitzero"`
	Interval Duration  `json:"interval"`
}

// Bad says what a person should look at, "" for nothing.
func (t Status) Bad() string {
	switch {
	case t.Held:
		return "held: " + t.Reason
	case !t.Ready:
		return strings.TrimSuffix(string(t.Phase)+": "+t.Reason, ": ")
	case t.Failures > 0:
		return fmt.Sprintf("%d backups failed: %s", t.Failures, t.Reason)
	case t.RolledBack != "":
		return t.Reason
	case t.Problems > 0:
		return fmt.Sprintf("the last backup could not take %d files as they are", t.Problems)
	}
	return ""
}

// Status returns what is so now.
func (s *Sidecar) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.status
}

func (s *Sidecar) setStatus(change func(*Status)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.mu.status)
	s.metrics.ready.Set(flag(s.mu.status.Ready))
}

// Find returns the version whose id begins with rev.
func Find(versions []Version, rev string) (Version, error) {
	var found []Version
	for _, v := range versions {
		if rev != "" && strings.HasPrefix(v.ID, rev) {
			found = append(found, v)
		}
	}
	found = slices.CompactFunc(found, func(a, b Version) bool { return a.ID == b.ID })
	if len(found) == 1 {
		return found[0], nil
	}
	kind, err := firn.NotFound, errors.New("there is no such version: firn sidecar versions lists them")
	if len(found) > 1 {
		kind, err = firn.Conflict, errors.New("several versions begin so: give more of it")
	}
	return Version{}, &firn.Error{Kind: kind, Op: "find version", Subject: rev, Err: err}
}

// ActionHeader must be in requests that change something: no web page can send it unasked.
const ActionHeader = "Firn-Sidecar"

// Handler serves /healthz (the process lives), /readyz (the directory is restored: the startup gate), /status, /metrics,
// and, only to this machine, POST /accept, /backup and /rollback?to=REV.
func (s *Sidecar) Handler() http.Handler {
	mux := http.NewServeMux()
	text := func(w http.ResponseWriter, code int, what string) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(code)
		fmt.Fprintln(w, what)
	}
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { text(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if t := s.Status(); !t.Ready {
			text(w, http.StatusServiceUnavailable, strings.TrimSuffix(string(t.Phase)+": "+t.Reason, ": "))
			return
		}
		text(w, http.StatusOK, "ok")
	})
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(s.Status()) // a client that went away
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.metrics.reg, promhttp.HandlerOpts{}))
	for _, what := range []string{"accept", "backup", "rollback"} {
		mux.HandleFunc("POST /"+what, func(w http.ResponseWriter, r *http.Request) {
			host, _, _ := net.SplitHostPort(r.RemoteAddr)
			if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() || r.Header.Get(ActionHeader) == "" {
				text(w, http.StatusForbidden, "only 'firn sidecar "+what+"' on this machine may")
				return
			}
			switch err := s.Do(r.Context(), what, r.URL.Query().Get("to")); firn.KindOf(err) {
			case firn.NotFound:
				text(w, http.StatusNotFound, err.Error())
			default:
				if err != nil {
					text(w, http.StatusConflict, err.Error())
					return
				}
				text(w, http.StatusOK, "ok")
			}
		})
	}
	return mux
}

type metrics struct {
	reg                              *prometheus.Registry
	ready, held                      prometheus.Gauge
	backups, restores                *prometheus.CounterVec
	restoreSeconds                   prometheus.Gauge
	lastTime, lastSeconds, problems  prometheus.Gauge
	files, bytes, backFiles, backLen prometheus.Gauge
	versions                         prometheus.Gauge
}

func newMetrics() *metrics {
	m := &metrics{reg: prometheus.NewRegistry()}
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "firn", Subsystem: "sidecar", Name: name, Help: help})
		m.reg.MustRegister(g)
		return g
	}
	counter := func(name, help string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "firn", Subsystem: "sidecar", Name: name, Help: help}, []string{"result"})
		m.reg.MustRegister(c)
		return c
	}
	m.ready = gauge("ready", "1 once the directory is restored and as long as this sidecar may write.")
	m.held = gauge("held", "1 while the directory has suddenly lost much and nobody accepted it.")
	m.backups = counter("backups_total", "Backups by result: ok, held, failed.")
	m.restores = counter("restores_total", "Restores by result: ok, failed.")
	m.restoreSeconds = gauge("restore_seconds", "How long the restore at the start took.")
	m.lastTime = gauge("last_backup_timestamp_seconds", "When the last good backup was made.")
	m.lastSeconds = gauge("last_backup_seconds", "How long the last backup took.")
	m.problems = gauge("last_backup_problems", "Files that the last backup could not take as they are.")
	m.files = gauge("directory_files", "Files in the directory when it was last looked at.")
	m.bytes = gauge("directory_bytes", "Bytes of them.")
	m.backFiles = gauge("last_backup_files", "Files in the last good backup.")
	m.backLen = gauge("last_backup_bytes", "Bytes of them.")
	m.versions = gauge("versions", "Versions that are kept.")
	return m
}

func (m *metrics) surveyed(v Survey) {
	m.files.Set(float64(v.Files))
	m.bytes.Set(float64(v.Bytes))
}

func (m *metrics) backedUp(v Version, took time.Duration, problems int64) {
	m.held.Set(flag(v.Held))
	m.lastSeconds.Set(took.Seconds())
	m.problems.Set(float64(problems))
	if v.Held {
		m.backups.WithLabelValues("held").Inc()
		return
	}
	m.backups.WithLabelValues("ok").Inc()
	m.lastTime.Set(float64(v.Time.UnixNano()) / 1e9)
	m.backFiles.Set(float64(v.Files))
	m.backLen.Set(float64(v.Bytes))
}
