package node

import (
	"context"
	"slices"
	"strings"

	"keelson/internal/api"
)

// holders are the servers that have said that they have a copy of the volume: those that can be reached first, its source
// before all others.
func (n *Node) holders(name string) (up, down []*neighbour) {
	for _, p := range n.neighbours() {
		p.mu.Lock()
		has, source := slices.Contains(p.copies, name), false
		for _, v := range p.serves {
			source = source || v.Name == name
		}
		isUp := p.up
		p.mu.Unlock()
		switch {
		case !has && !source:
		case !isUp:
			down = append(down, p)
		case source:
			up = slices.Insert(up, 0, p)
		default:
			up = append(up, p)
		}
	}
	return up, down
}

// holder is whom a call about a volume is passed on to by a server that has no copy of it. A call is passed on once.
func (n *Node) holder(ctx context.Context, name string) (*neighbour, error) {
	up, down := n.holders(name)
	switch {
	case api.Via(ctx) != "" || len(up)+len(down) == 0:
		return nil, unknownVolume(name)
	case len(up) == 0:
		return nil, api.Errorf(api.Failed, "volume "+name, "%s has no copy of it, and who has one cannot be reached: %s", n.cfg.Node, names(down)).
			WithNext("ask at one of them, or bring one back")
	}
	return up[0], nil
}

func names(list []*neighbour) string {
	var out []string
	for _, p := range list {
		out = append(out, p.name)
	}
	return strings.Join(out, ", ")
}

// notHere is the answer of a server without a copy to a call that is about its own: it says where copies are.
func (n *Node) notHere(name string) *api.Error {
	up, down := n.holders(name)
	if all := append(up, down...); len(all) > 0 {
		return api.Errorf(api.Failed, "volume "+name, "%s has no copy of it; %s has", n.cfg.Node, names(all)).WithNext("name that server: --node %s", all[0].name)
	}
	return unknownVolume(name)
}
