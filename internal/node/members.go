package node

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"

	"keelson/internal/api"
	"keelson/internal/cluster"
	"keelson/internal/config"
	"keelson/internal/mirror"
	"keelson/internal/peer"
)

// peer is another server that this one speaks with, by name; nil if there is none.
func (n *Node) peer(name string) *neighbour {
	n.peersMu.Lock()
	defer n.peersMu.Unlock()
	return n.peers[name]
}

// neighbours are all servers that this one speaks with, by name.
func (n *Node) neighbours() []*neighbour {
	n.peersMu.Lock()
	defer n.peersMu.Unlock()
	return slices.SortedFunc(maps.Values(n.peers), func(a, b *neighbour) int { return cmp.Compare(a.name, b.name) })
}

// wanted are the addresses of all servers that this one is to speak with: those of the cluster document and those that its
// configuration names, without those that were removed.
func (n *Node) wanted() map[string]string {
	out := map[string]string{}
	for _, m := range n.cluster.Members() {
		if cluster.CheckAddress(m.Address) == nil {
			out[m.Name] = m.Address
		}
	}
	for _, p := range n.cfg.Peers {
		if m, _ := n.cluster.Member(p.Name); !m.Removed {
			out[p.Name] = p.Address
		}
	}
	delete(out, n.cfg.Node)
	return out
}

// meet makes the neighbours those that are wanted. Exchanges with new ones begin if the node runs already; those with
// others end.
func (n *Node) meet() {
	wanted := n.wanted()
	n.peersMu.Lock()
	var gone, fresh []*neighbour
	for name, p := range n.peers {
		if address, ok := wanted[name]; !ok || address != p.addr {
			gone = append(gone, p)
			delete(n.peers, name)
		}
	}
	for name, address := range wanted {
		if n.peers[name] == nil {
			p := newNeighbour(n, name, address)
			n.peers[name] = p
			fresh = append(fresh, p)
		}
	}
	running := n.exchanging
	n.peersMu.Unlock()
	for _, p := range gone {
		p.stop()
		if n.peer(p.name) == nil {
			for _, a := range n.all() {
				a.post(mirror.PeerLost{Node: p.name, Why: "it is no member of the cluster any more"})
			}
		}
	}
	if running {
		for _, p := range fresh {
			n.spawn(func() { p.run(p.ctx) })
		}
	}
}

// gossip keeps exchanging states with all peers, whoever they are as time goes by, until ctx ends.
func (n *Node) gossip(ctx context.Context) {
	n.peersMu.Lock()
	n.exchanging = true
	first := slices.Collect(maps.Values(n.peers))
	n.peersMu.Unlock()
	for _, p := range first {
		n.spawn(func() { p.run(p.ctx) })
	}
	for {
		changed := n.cluster.Changed()
		n.membersChanged()
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// membersChanged brings neighbours and live connections into line with the cluster document.
func (n *Node) membersChanged() {
	n.meet()
	n.id.Gate.Recheck()
	n.nbd.Recheck(func(cert *x509.Certificate) error { return n.id.JudgeClient(cert, n.admitsClient) })
	n.bump()
}

// judge is what the cluster document and the configuration say of a server that shows a key.
func (n *Node) judge(node, key string) peer.Standing {
	m, there := n.cluster.Member(node)
	configured := slices.ContainsFunc(n.cfg.Peers, func(p config.Peer) bool { return p.Name == node })
	switch {
	case m.Removed:
		return peer.Removed
	case slices.Contains(m.Keys, key):
		return peer.Known
	case there && m.Admitted == cluster.ByInvite:
		return peer.OtherKey
	case configured || node == n.cfg.Node: // itself: the hello refuses it, in better words
		return peer.Named
	}
	return peer.Stranger
}

// enroll notes this server in the cluster document, with its address and key; so the others know its key, and let it in
// whatever the time. One that was invited is there already, with the only key that it may have.
func (n *Node) enroll() error {
	m, there := n.cluster.Member(n.cfg.Node)
	key := peer.KeyID(n.id.Leaf())
	switch {
	case m.Removed:
		n.events.Add(api.Event{Level: "error", Object: "node " + n.cfg.Node, Rule: peer.RuleRemoved, Message: "this server was removed from the cluster: no other will speak with it",
			Next: "to have it back: keelson node invite at another server, then keelson node join here"})
		return nil
	case there && m.Admitted == cluster.ByInvite && !slices.Contains(m.Keys, key):
		return fmt.Errorf("node %s: %s is not the key that was admitted; put the files of [tls] back, or remove the server at another one and invite it again", n.cfg.Node, n.cfg.TLS.Key)
	}
	before := m
	if !there {
		m.Name, m.Admitted = n.cfg.Node, cluster.ByConfig
	}
	if address := n.cfg.Reached(); cluster.CheckAddress(address) == nil {
		m.Address = address
	}
	if !slices.Contains(m.Keys, key) {
		m.Keys = append(slices.Clone(m.Keys), key)
		m.Keys = m.Keys[max(0, len(m.Keys)-cluster.KeysMax):]
	}
	if there && m.Address == before.Address && len(m.Keys) == len(before.Keys) {
		return nil
	}
	return n.cluster.SetMember(m)
}

// errNoMember is why nothing can be asked of a server.
var errNoMember = errors.New("it is no member of the cluster, and not in the configuration ([[peer]])")
