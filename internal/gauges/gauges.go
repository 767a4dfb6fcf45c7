// Package gauges turns what an agent knows of its volumes into Prometheus metrics, and into the two answers that a
// supervisor asks for: does it live, and is it ready. It reads the status of package api, so that metrics, command line
// and page never tell different things. docs/METRICS.md lists every metric; a test writes it from the table here.
package gauges

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"keelson/internal/api"
)

// scrapesMax is how many scrapes may be under way at once.
const scrapesMax = 4

// scrapeTimeMax is how long a scrape may take.
const scrapeTimeMax = 10 * time.Second

// Source is what the metrics are made of. All of it is asked at each scrape.
type Source interface {
	Now() *api.Status
	// Latencies of requests since the start, by volume and operation.
	Latencies() []Latency
	// Ends of the certificates in use: this server's ("node") and the cluster's ("ca").
	CertificateEnds() map[string]time.Time
	// Events told since the start, by level.
	Events() map[string]uint64
}

// Latency is a histogram of one operation.
type Latency struct {
	Volume, Op string
	Count      uint64
	Seconds    float64            // their sum
	Buckets    map[float64]uint64 // how many took at most so many seconds, cumulative
}

// Handler serves GET /metrics, /healthz and /readyz.
func Handler(s Source) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collector{s}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: scrapesMax, Timeout: scrapeTimeMax}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { ready(w, s.Now()) })
	return mux
}

// Readiness is the answer of /readyz.
type Readiness struct {
	Ready bool     `json:"ready"`
	Why   []string `json:"why"` // what is not
}

// Ready says whether this server does for every volume what its role asks of it: a source serves, a target's copy works.
// A mirror that lags, or a target that is away, is no matter of this server's readiness.
func Ready(s *api.Status) Readiness {
	r := Readiness{Ready: true, Why: []string{}}
	for _, v := range s.Volumes {
		if v.State == "Failed" || v.State == "Closed" || v.State == "HandedOver" {
			r.Ready = false
			r.Why = append(r.Why, fmt.Sprintf("volume %s is %s: %s", v.Name, v.State, v.Reason))
		}
	}
	return r
}

func ready(w http.ResponseWriter, s *api.Status) {
	r := Ready(s)
	w.Header().Set("Content-Type", "application/json")
	if !r.Ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(r) // who asked may be gone
}

// collector reads everything anew at each scrape: nothing is kept, so nothing can be stale.
type collector struct{ s Source }

func (c collector) Describe(out chan<- *prometheus.Desc) {
	for i := range metrics {
		out <- metrics[i].desc
	}
}

func (c collector) Collect(out chan<- prometheus.Metric) {
	w := world{Status: c.s.Now(), Source: c.s}
	for i := range metrics {
		m := &metrics[i]
		m.each(&w, func(value float64, labels ...string) {
			out <- prometheus.MustNewConstMetric(m.desc, m.kind, value, labels...)
		})
	}
	for _, l := range c.s.Latencies() {
		out <- prometheus.MustNewConstHistogram(latencyDesc, l.Count, l.Seconds, l.Buckets, l.Volume, l.Op)
	}
}

var latencyDesc = prometheus.NewDesc("keelson_request_duration_seconds",
	"How long applications waited for answers of a volume whose source is here, by operation.", []string{"volume", "op"}, nil)
