package node

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"keelson/internal/api"
	"keelson/internal/preflight"
)

// Limits of a check.
const (
	checkTimeMax    = 30 * time.Second       // for one server's answer
	checkLoadMax    = 20 * time.Second       // for all measurements of bandwidth together
	loadTimeMax     = 500 * time.Millisecond // for one of them
	loadTimeMin     = 50 * time.Millisecond
	checkServersMax = 4 // asked at once where nothing makes load on the network
)

// factsRequest asks a server what it finds out about itself.
type factsRequest struct {
	Volume     string   `json:"volume"`      // only this one's copy; "": those of all volumes, unless Path is given
	Path       string   `json:"path"`        // where a copy is meant to be made
	SizeBytes  int64    `json:"size_bytes"`  // of that copy; 0: what is there
	Peers      []string `json:"peers"`       // servers that it is to reach
	Quick      bool     `json:"quick"`       // nothing that makes load
	LoadMillis int64    `json:"load_millis"` // how long to measure each server's bandwidth; 0: not at all
}

// Check implements api.Service: every server that is meant is asked what it finds out, and what it says is judged here.
func (s *service) Check(ctx context.Context, q api.CheckQuery) (*api.CheckReport, error) {
	if err := q.Check(); err != nil {
		return nil, err
	}
	n := s.n
	if q.Reboot {
		if q.Node != "" && q.Node != n.cfg.Node {
			p := n.peer(q.Node)
			if p == nil {
				return nil, errNoAddress(q.Node)
			}
			return p.api().Check(ctx, q)
		}
		return api.NewCheckReport(n.cfg.Node, now().UTC(), preflight.Reboot(n.status())), nil
	}
	if q.Volume != "" && n.find(q.Volume) == nil {
		other, err := n.holder(ctx, q.Volume)
		if err != nil {
			return nil, err
		}
		return other.api().Check(ctx, q)
	}
	want, err := n.wantedOf(q)
	if err != nil {
		return nil, err
	}
	servers, silent := n.askFacts(ctx, q, want)
	return api.NewCheckReport(n.cfg.Node, now().UTC(), preflight.Judge(now(), want, servers, silent)), nil
}

// wantedOf is what the query is about.
func (n *Node) wantedOf(q api.CheckQuery) (preflight.Wanted, error) {
	w := preflight.Wanted{Volume: q.Volume, SizeBytes: q.SizeBytes, Paths: map[string]string{}, Planned: map[string]bool{}}
	if a := n.find(q.Volume); a != nil {
		view := a.view.Load()
		w.Source, w.SizeBytes = view.Source, a.v.Size()
		for _, m := range view.Settings.Members {
			if !m.Removed {
				w.Paths[m.Node] = m.Path
			}
		}
	} else if len(q.Places) > 0 {
		w.Source = q.Places[0].Node
	}
	for _, p := range q.Places {
		if p.Node != n.cfg.Node && n.peer(p.Node) == nil {
			return w, errNoAddress(p.Node)
		}
		if path, there := w.Paths[p.Node]; there && path != p.Path {
			return w, api.Errorf(api.Usage, "volume "+q.Volume, "%s has a copy already, at %s", p.Node, path)
		}
		w.Planned[p.Node] = w.Paths[p.Node] == ""
		w.Paths[p.Node] = p.Path
	}
	return w, nil
}

// askFacts asks the servers that the check is about: those with a copy, or all.
func (n *Node) askFacts(ctx context.Context, q api.CheckQuery, want preflight.Wanted) ([]preflight.Server, map[string]string) {
	names := slices.Sorted(maps.Keys(want.Paths))
	if len(names) == 0 {
		for _, p := range n.neighbours() {
			names = append(names, p.name)
		}
		names = append(names, n.cfg.Node)
		slices.Sort(names)
	}
	var mu sync.Mutex
	found, silent := map[string]preflight.Server{}, map[string]string{}
	atOnce, load := checkServersMax, time.Duration(0)
	if pairs := len(names) * (len(names) - 1); !q.Quick && pairs > 0 {
		atOnce = 1 // they would share the network
		load = min(max(checkLoadMax/time.Duration(pairs), loadTimeMin), loadTimeMax)
	}
	var wg sync.WaitGroup
	tokens := make(chan struct{}, atOnce)
	for _, name := range names {
		r := factsRequest{Volume: q.Volume, SizeBytes: want.SizeBytes, Quick: q.Quick, LoadMillis: load.Milliseconds(),
			Peers: slices.DeleteFunc(slices.Clone(names), func(s string) bool { return s == name })}
		if want.Planned[name] {
			r.Path = want.Paths[name]
		}
		tokens <- struct{}{}
		wg.Go(func() {
			defer func() { <-tokens }()
			facts, err := n.factsAt(ctx, name, r)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				silent[name] = err.Error()
			} else {
				found[name] = facts
			}
		})
	}
	wg.Wait()
	servers := make([]preflight.Server, 0, len(found))
	for _, name := range slices.Sorted(maps.Keys(found)) {
		servers = append(servers, found[name])
	}
	return servers, silent
}

// factsAt asks one server, perhaps this one.
func (n *Node) factsAt(ctx context.Context, node string, r factsRequest) (answer preflight.Server, err error) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeMax)
	defer cancel()
	if node == n.cfg.Node {
		return n.factsCame(ctx, node, &r)
	}
	p := n.peer(node)
	if err = p.post(ctx, "facts", r, &answer); err == nil && answer.Node != node {
		err = errors.New("it answers as " + answer.Node)
	}
	return answer, err
}
