package api

import (
	"context"
	"time"
)

// History is the last hour of a volume, as its source's agent measured it, and who was source when.
type History struct {
	Volume       string   `json:"volume"`
	Node         string   `json:"node"` // whose agent measured
	EverySeconds float64  `json:"every_seconds"`
	Samples      []Sample `json:"samples"` // oldest first, at most SamplesMax; only since that agent's start
	Tenures      []Tenure `json:"tenures"` // oldest first
}

// SamplesMax is the most samples of one volume that are kept.
const SamplesMax = 720

// Sample is what was measured in one stretch of time. Rates are means over it; the rest is as at its end.
type Sample struct {
	Time       time.Time               `json:"time"` // its end
	Writes     float64                 `json:"writes_per_second"`
	WriteBytes float64                 `json:"write_bytes_per_second"`
	Reads      float64                 `json:"reads_per_second"`
	ReadBytes  float64                 `json:"read_bytes_per_second"`
	Latency    *float64                `json:"write_latency_seconds,omitempty"` // mean of the writes answered in it; null if none was
	Mirrors    map[string]MirrorSample `json:"mirrors"`                         // by target
}

// MirrorSample is what was measured of one mirror.
type MirrorSample struct {
	LagBytes    int64   `json:"lag_bytes"`
	LagSeconds  float64 `json:"lag_seconds"`
	QueuedBytes int64   `json:"queued_bytes"`
}

// Tenure is one generation of a volume: a server's time as source.
type Tenure struct {
	Generation string    `json:"generation"`
	Term       uint64    `json:"term"`
	Node       string    `json:"node"`
	Began      uint64    `json:"began"`         // the number it began at
	Time       time.Time `json:"time,omitzero"` // when that server took the role; not known of those before the kept events
	Why        string    `json:"why"`           // created | restarted | switchover | forced
}

// LinkRequest asks for a WebLink.
type LinkRequest struct{}

// About names what it is for.
func (LinkRequest) About() string { return "page" }

// WebLink is a one-time address that lets its holder in to the page as administrator.
type WebLink struct {
	URL     string    `json:"url"`
	Expires time.Time `json:"expires"`
}

// History implements Service.
func (c *Client) History(ctx context.Context, r VolumeName) (*History, error) {
	return call[History](ctx, c, "History", r)
}

// WebLink implements Service.
func (c *Client) WebLink(ctx context.Context) (*WebLink, error) {
	return call[WebLink](ctx, c, "WebLink", LinkRequest{})
}
