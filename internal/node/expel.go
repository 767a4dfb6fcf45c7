package node

import (
	"context"
	"slices"
	"strings"
	"sync"

	"keelson/internal/api"
)

// Rules of removing servers.
const (
	ruleUnknownNode  = "unknown-node"
	ruleRemoveSelf   = "removes-itself"
	ruleRemoveSource = "removes-source"
)

// RemoveNode implements api.Service: the server is shut out first, here and at every member that is reached, and then its
// mirrors are removed, so that nothing waits for it.
func (s *service) RemoveNode(ctx context.Context, r api.RemoveNode) (*api.Removal, error) {
	if err := r.Check(); err != nil {
		return nil, err
	}
	n, object := s.n, r.About()
	m, there := n.cluster.Member(r.Name)
	if !there && n.peer(r.Name) == nil && r.Name != n.cfg.Node {
		return nil, api.Refusal(ruleUnknownNode, object, "is no server of this cluster", "keelson node list shows those that there are")
	}
	if r.Name == n.cfg.Node {
		return nil, api.Refusal(ruleRemoveSelf, object, "a server cannot remove itself: the others would not learn of it", "remove it at another server: keelson node remove --socket …")
	}
	of, sources := n.copiesOf(r.Name)
	if len(sources) > 0 && !r.Force && !m.Removed {
		return nil, api.Refusal(ruleRemoveSource, object, "is the source of "+strings.Join(sources, ", ")+"; applications there would go on writing what nobody else gets",
			"switch over first (keelson switchover), or shut it out all the same: --force")
	}
	if err := n.cluster.RemoveMember(r.Name); err != nil {
		return nil, api.Errorf(api.Failed, object, "%v", err)
	}
	n.membersChanged()
	n.events.Add(api.Event{Level: "warning", Object: object, Message: "removed from the cluster; no member speaks with it any more"})
	out := &api.Removal{Name: r.Name, Mirrors: []string{}, Left: []string{}, Told: n.tell(ctx)}
	for _, name := range of {
		if _, err := s.ChangeMirror(ctx, api.MirrorChange{Volume: name, Action: "remove", Target: r.Name}); err != nil {
			out.Left = append(out.Left, name+": "+err.Error())
			continue
		}
		out.Mirrors = append(out.Mirrors, name)
	}
	return out, nil
}

// copiesOf are the volumes with a copy on that server, and those whose source it is, as far as this one knows.
func (n *Node) copiesOf(node string) (all, sources []string) {
	for _, v := range n.status().Volumes {
		target := slices.ContainsFunc(v.Mirrors, func(m api.MirrorStatus) bool { return m.Target == node })
		if a := n.find(v.Name); a != nil {
			m := a.view.Load().Settings.Find(node)
			target = target || m != nil && !m.Removed
		}
		if v.Source == node {
			sources = append(sources, v.Name)
		}
		if target || v.Source == node {
			all = append(all, v.Name)
		}
	}
	return all, sources
}

// tell exchanges states, and so the cluster document, with every member that can be reached, now, and returns who has it.
func (n *Node) tell(ctx context.Context) []string {
	var mu sync.Mutex
	told := []string{}
	var wg sync.WaitGroup
	for _, p := range n.neighbours() {
		wg.Go(func() {
			limited, cancel := context.WithTimeout(ctx, gossipTimeout)
			defer cancel()
			var answer documentRequest
			mine, err := n.cluster.Document()
			if err == nil {
				err = p.post(limited, "cluster", documentRequest{mine}, &answer)
			}
			if err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			told = append(told, p.name)
		})
	}
	wg.Wait()
	slices.Sort(told)
	return told
}
