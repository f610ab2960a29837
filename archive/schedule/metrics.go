package schedule

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Describe and Collect make the runner a source of metrics, one of each for each job.
func (r *Runner) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(r, ch) }

// Collect sends the metrics.
func (r *Runner) Collect(ch chan<- prometheus.Metric) {
	send := func(name, help string, value float64, job string) {
		ch <- prometheus.MustNewConstMetric(prometheus.NewDesc("firn_job_"+name, help, []string{"job"}, nil), prometheus.GaugeValue, value, job)
	}
	seconds := func(t time.Time) float64 {
		if t.IsZero() {
			return 0
		}
		return float64(t.UnixNano()) / 1e9
	}
	for _, s := range r.Status() {
		running := 0.0
		if s.Running {
			running = 1
		}
		send("running", "Whether the job runs now.", running, s.Name)
		send("next_run_seconds", "Time of the next run, in seconds since 1970.", seconds(s.Next), s.Name)
		send("last_success_seconds", "Time of the last success, in seconds since 1970; 0 for never.", seconds(s.LastSuccess), s.Name)
		send("last_duration_seconds", "How long the last run took.", s.Duration.Seconds(), s.Name)
		send("last_bytes", "Bytes the last run that succeeded stored or read.", float64(s.Bytes), s.Name)
		send("failures", "Failures in a row.", float64(s.Failures), s.Name)
	}
}
