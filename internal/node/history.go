package node

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"keelson/internal/api"
	"keelson/internal/block"
	"keelson/internal/lineage"
	"keelson/internal/volume"
)

// sampleEvery is the stretch of one sample; api.SamplesMax of them are an hour.
const sampleEvery = 5 * time.Second

// samples are those of one replica, the oldest overwritten.
type samples struct {
	mu   sync.Mutex
	kept []api.Sample
	last volume.Status
	took volume.Latency // of writes, with last
	at   time.Time      // of last; zero: none yet
}

// add makes a sample of what changed since the last time. took is of writes.
func (s *samples) add(now time.Time, st volume.Status, took volume.Latency) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if span := now.Sub(s.at).Seconds(); !s.at.IsZero() && span > 0 {
		rate := func(counter string) float64 { return float64(st.Counters[counter]-s.last.Counters[counter]) / span }
		x := api.Sample{Time: now.UTC(), Writes: rate("writes"), WriteBytes: rate("write_bytes"), Reads: rate("reads"), ReadBytes: rate("read_bytes"),
			Mirrors: map[string]api.MirrorSample{}}
		if n := countOf(took) - countOf(s.took); n > 0 {
			mean := (took.Sum - s.took.Sum).Seconds() / float64(n)
			x.Latency = &mean
		}
		for target, l := range st.Links {
			x.Mirrors[target] = api.MirrorSample{LagBytes: l.LagBytes, LagSeconds: l.LagTime.Seconds(), QueuedBytes: l.Queued}
		}
		if len(s.kept) == api.SamplesMax {
			s.kept = append(s.kept[:0], s.kept[1:]...)
		}
		s.kept = append(s.kept, x)
	}
	s.last, s.took, s.at = st, took, now
}

// countOf is how many requests a histogram has.
func countOf(l volume.Latency) (n uint64) {
	for _, b := range l.Buckets {
		n += b
	}
	return n
}

func (s *samples) list() []api.Sample {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]api.Sample{}, s.kept...)
}

// sample measures all volumes until ctx ends.
func (n *Node) sample(ctx context.Context) {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			for _, a := range n.all() {
				a.samples.add(now, a.v.Status(now), a.v.Latencies()[block.Write])
			}
		}
	}
}

// History implements api.Service: the source's agent measures; if it cannot be reached, this one shows what it has itself.
func (s *service) History(ctx context.Context, r api.VolumeName) (*api.History, error) {
	a := s.n.find(r.Name)
	_, other, err := s.atSource(ctx, r.Name)
	if other != nil {
		return other.History(ctx, r)
	}
	if a == nil {
		if err == nil {
			err = unknownVolume(r.Name)
		}
		return nil, err
	}
	h := &api.History{Volume: r.Name, Node: s.n.cfg.Node, EverySeconds: sampleEvery.Seconds(), Samples: a.samples.list(), Tenures: []api.Tenure{}}
	var events []api.Event
	if err := s.Events(ctx, api.EventsQuery{Volume: r.Name, All: true}, func(e api.Event) error { events = append(events, e); return nil }); err != nil {
		return nil, err
	}
	h.Tenures = tenures(a.v.Header().History, events)
	return h, nil
}

// tenures says of each generation what is known of its beginning: by the generations themselves, and by the events in
// which a server says that it became the source in that term.
func tenures(history lineage.History, events []api.Event) []api.Tenure {
	out := []api.Tenure{}
	for i, g := range history {
		t := api.Tenure{Generation: g.ID.String(), Term: g.Term.N, Node: g.Term.Node, Began: g.Began, Why: "switchover"}
		switch {
		case i == 0:
			t.Why = "created"
		case history[i-1].Term == g.Term:
			t.Why = "restarted"
		}
		for _, e := range events {
			if e.Node == g.Term.Node && speaksOf(e.Message, ", term ", g.Term) || speaksOf(e.Message, " serves in term ", g.Term) {
				t.Time = e.Time
				if e.Rule == lineage.RuleForced {
					t.Why = "forced"
				}
			}
		}
		out = append(out, t)
	}
	return out
}

// speaksOf reports a message that has these words and that term: "..., term 3@b" or "..., term 3@b; ...".
func speaksOf(message, words string, t lineage.Term) bool {
	_, after, ok := strings.Cut(message, words+t.String())
	return ok && (after == "" || strings.IndexAny(after, ";, ") == 0)
}

// allEvents gives the kept events of every server that can be reached, by time.
func (s *service) allEvents(ctx context.Context, q api.EventsQuery, fn func(api.Event) error) error {
	ctx, cancel := context.WithTimeout(ctx, gossipTimeout)
	defer cancel()
	q.All = false
	events, _ := s.n.events.After(q)
	var mu sync.Mutex
	var asked sync.WaitGroup
	for _, p := range s.n.neighbours() {
		if !p.isUp() {
			continue
		}
		asked.Go(func() {
			var theirs []api.Event
			err := p.api().Events(ctx, q, func(e api.Event) error { theirs = append(theirs, e); return nil })
			if err != nil {
				return // it is not reachable, as the status shows in a moment
			}
			mu.Lock()
			defer mu.Unlock()
			events = append(events, theirs...)
		})
	}
	asked.Wait()
	slices.SortStableFunc(events, func(a, b api.Event) int { return a.Time.Compare(b.Time) })
	if q.Limit > 0 && len(events) > q.Limit {
		events = events[len(events)-q.Limit:]
	}
	for _, e := range events {
		if err := fn(e); err != nil {
			return err
		}
	}
	return nil
}
