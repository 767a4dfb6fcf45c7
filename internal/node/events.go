package node

import (
	"context"
	"sync"
	"time"

	"keelson/internal/api"
)

// eventLog keeps the newest events, bounded by number.
type eventLog struct {
	node string
	max  int

	mu     sync.Mutex
	seq    uint64
	kept   []api.Event
	change chan struct{} // closed and replaced with each event
}

func newEventLog(node string, max int) *eventLog {
	return &eventLog{node: node, max: max, change: make(chan struct{})}
}

func (l *eventLog) add(e api.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seq++
	e.Seq, e.Time, e.Node = l.seq, time.Now().UTC(), l.node
	if len(l.kept) >= l.max {
		l.kept = append(l.kept[:0], l.kept[1:]...)
	}
	l.kept = append(l.kept, e)
	close(l.change)
	l.change = make(chan struct{})
}

// after returns the kept events that fit the query, and a channel that is closed when there are more.
func (l *eventLog) after(q api.EventsQuery) ([]api.Event, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []api.Event
	for _, e := range l.kept {
		if e.Seq > q.After && (q.Volume == "" || e.Volume == q.Volume) {
			out = append(out, e)
		}
	}
	if q.Limit > 0 && len(out) > q.Limit {
		out = out[len(out)-q.Limit:]
	}
	return out, l.change
}

// Events implements api.Service.
func (s *service) Events(ctx context.Context, q api.EventsQuery, fn func(api.Event) error) error {
	for {
		events, more := s.n.events.after(q)
		for _, e := range events {
			if err := fn(e); err != nil {
				return err
			}
			q.After = e.Seq
		}
		q.Limit = 0
		if !q.Follow {
			return nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return ctx.Err()
		case <-s.n.ctx.Done():
			return nil
		}
	}
}
