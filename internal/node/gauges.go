package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"keelson/internal/api"
	"keelson/internal/config"
	"keelson/internal/gauges"
	"keelson/internal/notify"
	"keelson/internal/volume"
)

// measured is what the metrics are made of.
type measured struct{ n *Node }

// Now implements gauges.Source.
func (m measured) Now() *api.Status { return m.n.status() }

// Events implements gauges.Source.
func (m measured) Events() map[string]uint64 { return m.n.events.Told() }

// CertificateEnds implements gauges.Source.
func (m measured) CertificateEnds() map[string]time.Time {
	ends := map[string]time.Time{"ca": m.n.id.CAEnds()}
	if leaf := m.n.id.Leaf(); leaf != nil {
		ends["node"] = leaf.NotAfter
	}
	return ends
}

// Latencies implements gauges.Source.
func (m measured) Latencies() []gauges.Latency {
	var out []gauges.Latency
	for _, a := range m.n.all() {
		for _, l := range a.v.Latencies() {
			g := gauges.Latency{Volume: a.name, Op: l.Op.String(), Seconds: l.Sum.Seconds(), Buckets: map[float64]uint64{}}
			for i, n := range l.Buckets {
				g.Count += n
				if i < volume.LatencyBuckets {
					g.Buckets[volume.LatencyBound(i).Seconds()] = g.Count
				}
			}
			out = append(out, g)
		}
	}
	return out
}

// localHandler serves the control interface, the metrics and the two answers for supervisors on the local socket.
func (n *Node) localHandler() http.Handler {
	control, metrics := api.NewAuditedHandler(&service{n}, n.noteAudit), gauges.Handler(measured{n})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.URL.Path, "/v1/"):
			control.ServeHTTP(w, r)
		case r.URL.Path == "/debug/flight":
			n.serveFlight(w, r)
		default:
			metrics.ServeHTTP(w, r)
		}
	})
}

// listenMetrics serves the metrics on an address of their own, if one is configured, until ctx ends.
func (n *Node) listenMetrics(ctx context.Context) error {
	address := n.cfg.Metrics.Address
	if address == "" {
		return nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("metrics address %s: %w; choose a free one", address, err)
	}
	server := &http.Server{Handler: gauges.Handler(measured{n}), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	n.spawn(func() {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			n.log.Error("metrics are not served any more", "address", address, "err", err)
		}
	})
	n.spawn(func() { <-ctx.Done(); _ = server.Close() })
	return nil
}

// notifies tells events to the outside, if somebody is configured who wants to know.
func (n *Node) notifies(ctx context.Context, c config.Notify) {
	if c.Command == "" && c.Webhook == "" {
		return
	}
	n.spawn(func() {
		notify.Run(ctx, notify.Options{Command: c.Command, Webhook: c.Webhook, Level: c.Level, After: n.events.After, Log: n.log})
	})
}
