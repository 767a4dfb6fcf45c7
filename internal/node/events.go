package node

import (
	"context"

	"keelson/internal/api"
)

// Events implements api.Service.
func (s *service) Events(ctx context.Context, q api.EventsQuery, fn func(api.Event) error) error {
	if q.All {
		return s.allEvents(ctx, q, fn)
	}
	for {
		events, more := s.n.events.After(q)
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
