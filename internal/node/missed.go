package node

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"keelson/internal/api"
	"keelson/internal/mirror"
)

// startMissed starts replicas that were made here and never started, as the call that was to do it was lost, or its source died before it.
// That they are wanted is known from a source that serves and whose settings name this server.
func (n *Node) startMissed(s nodeState) {
	var missed []string
	for id, v := range s.Serves {
		info := s.Volumes[id]
		if m := info.Settings.Find(n.cfg.Node); info.Serving && m != nil && !m.Removed && n.closedHere(v.Name) {
			missed = append(missed, id)
		}
	}
	if len(missed) == 0 || n.starting.Swap(true) {
		return
	}
	n.spawn(func() {
		defer n.starting.Store(false)
		for _, id := range missed {
			n.startIfMade(s.Serves[id].Name, id, s.Volumes[id])
		}
	})
}

// closedHere reports that no volume of that name is open here, nor known to be unusable.
func (n *Node) closedHere(name string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.volumes[name] == nil && n.broken[name] == nil
}

// startIfMade opens the replica of that volume if there is one, in the settings that name it. A replica that has newer ones is
// left alone: they may say that it was removed.
func (n *Node) startIfMade(name, id string, info mirror.PeerInfo) {
	if api.CheckVolumeName(name) != nil || n.ctx.Err() != nil {
		return
	}
	n.making.Lock()
	defer n.making.Unlock()
	dir := filepath.Join(n.volumesDir(), name)
	if !n.closedHere(name) || n.unfinished(dir) {
		return
	}
	h, err := n.headerOf(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return
	case err == nil && (h.Volume != id || h.Cluster != n.id.Cluster || h.Node != n.cfg.Node || info.Settings.Version.Compare(h.Settings.Version) < 0):
		return
	case err == nil:
		err = n.startMade(name, &info.Settings)
	}
	if errors.Is(err, errStopped) {
		return
	}
	if err != nil {
		n.cannotOpen(name, err)
		return
	}
	n.events.Add(api.Event{Level: "info", Volume: name, Object: "volume " + name, Message: fmt.Sprintf("the copy on %s is started: it was made, and no call to start it had come", n.cfg.Node)})
}
