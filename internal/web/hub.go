package web

import (
	"context"
	"sync"
	"time"

	"keelson/internal/api"
)

// hub watches the agent's status once for all who look at the page.
type hub struct {
	service api.Service
	now     func() time.Time
	wire    map[string]counted // of run only

	mu      sync.Mutex
	state   *state
	changed chan struct{} // closed and replaced with each state
}

// state is one moment of what the agent knows. It is not changed after it was made.
type state struct {
	*api.Status
	At    time.Time
	Rates map[string]float64 // bytes a second on the wire, by VOLUME/SOURCE/TARGET
}

type counted struct {
	bytes int64
	at    time.Time
	rate  float64
}

const (
	watchRetry = 500 * time.Millisecond
	rateSpan   = 900 * time.Millisecond // rates are means over at least so long
)

func newHub(s api.Service, now func() time.Time) *hub {
	return &hub{service: s, now: now, wire: map[string]counted{}, changed: make(chan struct{}),
		state: &state{Status: &api.Status{}, Rates: map[string]float64{}}}
}

// run watches until ctx ends.
func (h *hub) run(ctx context.Context) {
	for ctx.Err() == nil {
		_ = h.service.Watch(ctx, func(s *api.Status) error { h.take(s); return nil }) // it is begun again, whatever ended it
		select {
		case <-ctx.Done():
		case <-time.After(watchRetry):
		}
	}
}

// take makes a state of a status.
func (h *hub) take(s *api.Status) {
	now := h.now()
	st := &state{Status: s, At: now, Rates: map[string]float64{}}
	seen := map[string]counted{}
	for _, v := range s.Volumes {
		for _, m := range v.Mirrors {
			key := rateKey(v.Name, m.Source, m.Target)
			last, ok := h.wire[key]
			switch {
			case !ok || m.BytesOnWire < last.bytes: // a new session counts from zero
				last = counted{m.BytesOnWire, now, 0}
			case now.Sub(last.at) >= rateSpan:
				last = counted{m.BytesOnWire, now, float64(m.BytesOnWire-last.bytes) / now.Sub(last.at).Seconds()}
			}
			seen[key] = last
			st.Rates[key] = last.rate
		}
	}
	h.wire = seen
	h.mu.Lock()
	h.state = st
	close(h.changed)
	h.changed = make(chan struct{})
	h.mu.Unlock()
}

func rateKey(volume, source, target string) string { return volume + "/" + source + "/" + target }

// look returns the newest state and a channel that is closed when there is a newer one.
func (h *hub) look() (*state, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.state, h.changed
}

// fresh asks for the state as it is now: a page that follows a command shows what the command did.
func (h *hub) fresh(ctx context.Context) (*state, error) {
	last, _ := h.look()
	s, err := h.service.Status(ctx)
	if err != nil {
		return nil, err
	}
	return &state{Status: s, At: h.now(), Rates: last.Rates}, nil
}

// volume finds one by name.
func (s *state) volume(name string) *api.VolumeStatus {
	for i := range s.Volumes {
		if s.Volumes[i].Name == name {
			return &s.Volumes[i]
		}
	}
	return nil
}

// node finds a server by name.
func (s *state) node(name string) *api.NodeStatus {
	for i := range s.Nodes {
		if s.Nodes[i].Name == name {
			return &s.Nodes[i]
		}
	}
	return nil
}

func (s *state) reachable(name string) bool {
	n := s.node(name)
	return n != nil && n.Reachable
}
