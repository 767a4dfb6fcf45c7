package node

import (
	"context"
	"errors"
	"log/slog"

	"keelson/internal/api"
	"keelson/internal/config"
	"keelson/internal/mirror"
	"keelson/internal/peer"
	"keelson/internal/vfs"
	"keelson/internal/volume"
)

// Outside is what an agent stands on. The zero value is the machine: its disks and its TCP.
type Outside struct {
	FS      vfs.FS
	Network peer.Network
	Omit    string // tests only: the protection that is left out, as package mirror, volume or intentlog names it
}

// Start begins an agent without what only a process of its own has: the lock of its state directory, sockets for the
// command line and for NBD clients, a pid file. The simulator holds several in one process. Close ends it.
func Start(ctx context.Context, cfg *config.Agent, id peer.Identity, out Outside, log *slog.Logger) (*Node, error) {
	ctx, stop := context.WithCancel(ctx)
	n, err := newNode(ctx, cfg, id, out, log)
	if err != nil {
		stop()
		return nil, err
	}
	server, err := n.listenPeers()
	if err != nil {
		stop()
		return nil, errors.Join(err, n.nbd.Close(), n.events.Close(), n.cluster.Close())
	}
	n.server, n.stop = server, stop
	n.openVolumes()
	n.spawn(func() { n.gossip(ctx) })
	return n, nil
}

// Close ends what Start began, cleanly.
func (n *Node) Close() error { return n.end() }

// end stops everything that works for peers and volumes, and waits for it.
func (n *Node) end() error {
	n.stop()
	err := errors.Join(n.closePage(), n.closeVolumes(), n.server.Close(), n.nbd.Close())
	n.wg.Wait()
	for _, p := range n.neighbours() {
		p.stop()
	}
	return errors.Join(err, n.events.Close(), n.cluster.Close())
}

// Service is what administrators use.
func (n *Node) Service() api.Service { return &service{n} }

// Volume is the data path of a volume that is open here, or nil.
func (n *Node) Volume(name string) *volume.Volume {
	if a := n.find(name); a != nil {
		return a.v
	}
	return nil
}

// View is what the machine of a volume shows, or nil if none of that name is open here.
func (n *Node) View(name string) *mirror.View {
	a := n.find(name)
	if a == nil || a.view.Load() == nil {
		return nil
	}
	v := *a.view.Load()
	v.Open = v.Open && a.failed() == nil
	return &v
}

// Stopped is why nothing is done for a volume until it is opened again, or nil: by itself after volume.NoRoom, else with the agent.
func (n *Node) Stopped(name string) error {
	if a := n.find(name); a != nil {
		return a.failed()
	}
	return nil
}
