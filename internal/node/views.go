package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"keelson/internal/api"
	"keelson/internal/block"
	"keelson/internal/frontend/nbd"
	"keelson/internal/lineage"
	"keelson/internal/undo"
	"keelson/internal/volume"
)

// view is a read-only export for looking at a salvage, or at this server's copy. It ends when it is detached, when the copy
// below it begins to change, and with the volume or the agent. While it is there its salvage cannot be deleted.
type view struct {
	api.View
	a     *vol
	live  bool // reads through the volume's own device, which may close
	over  chan struct{}
	close func()
}

// ChangeView implements api.Service.
func (s *service) ChangeView(ctx context.Context, r api.ViewChange) (*api.View, error) {
	if err := r.Check(); err != nil {
		return nil, err
	}
	n := s.n
	if r.Node != "" && r.Node != n.cfg.Node {
		p := n.peer(r.Node)
		if p == nil {
			return nil, errNoAddress(r.Node)
		}
		return p.api().ChangeView(ctx, r)
	}
	a := n.find(r.Volume)
	if a == nil {
		return nil, n.notHere(r.Volume)
	}
	name := api.ViewName(r.Volume, r.Salvage, r.Over)
	if r.Action == "detach" {
		return n.detach(name)
	}
	return a.attach(name, r)
}

// attach makes the export, or finds it.
func (a *vol) attach(name string, r api.ViewChange) (*api.View, error) {
	n := a.n
	n.viewsMu.Lock()
	defer n.viewsMu.Unlock()
	if v := n.views[name]; v != nil {
		return v.status(), nil
	}
	object := "view " + name
	if a.ctx.Err() != nil {
		return nil, api.Errorf(api.Failed, object, "%v", errStopped)
	}
	if len(n.views) >= n.cfg.Limits.ViewsMax {
		return nil, api.Refusal(lineage.RuleTooManyViews, object, fmt.Sprintf("%s has %d views attached", n.cfg.Node, len(n.views)), lineage.NextOf(lineage.RuleTooManyViews))
	}
	v := &view{a: a, over: make(chan struct{}), close: func() {}, View: api.View{Name: name, Volume: a.name, Node: n.cfg.Node, Kind: "copy", Salvage: r.Salvage, Over: r.Over,
		Since: now().UTC(), SizeBytes: a.v.Size(), Addresses: n.addresses(name)}}
	dev, about, err := v.open(r)
	if err == nil {
		err = n.nbd.AddExport(name, dev, nbd.ExportOptions{ReadOnly: true, ByNameOnly: true, Description: about})
		if err != nil {
			v.close()
		}
	}
	if err != nil {
		return nil, a.viewError(object, r, err)
	}
	n.views[name] = v
	a.note("info", object, "", "attached read-only: "+about, "")
	return v.status(), nil
}

// open makes the device of a view. For one over a copy that stands still, a goroutine waits for its end.
func (v *view) open(r api.ViewChange) (block.Device, string, error) {
	var base block.Device
	if r.Salvage == "" || r.Over {
		if v.live = v.a.view.Load().Open; v.live {
			base = v.a.v
		} else {
			still, err := v.a.v.ViewCopy()
			if err != nil {
				return nil, "", err
			}
			base, v.close = still, still.Close
			v.a.work(func() {
				select {
				case <-still.Ended():
					v.a.n.endView(v, "the copy begins to change")
				case <-v.over:
				}
			})
		}
	}
	if r.Salvage == "" {
		return base, "the copy of volume " + v.a.name + " on " + v.Node, nil
	}
	v.Kind = "salvage"
	salvage, err := v.a.v.OpenSalvage(r.Salvage)
	if err != nil {
		v.close()
		return nil, "", err
	}
	below := v.close
	v.close = func() { below(); _ = salvage.Close() } // it was only read
	about := "what salvage " + r.Salvage + " of volume " + v.a.name + " has; holes elsewhere"
	if r.Over {
		about = "salvage " + r.Salvage + " over the copy of volume " + v.a.name + " on " + v.Node
	}
	return salvage.Device(base), about, nil
}

func (a *vol) viewError(object string, r api.ViewChange, err error) error {
	switch {
	case errors.Is(err, volume.ErrCopyChanges):
		return api.Refusal(lineage.RuleCopyChanges, object, err.Error(), lineage.NextOf(lineage.RuleCopyChanges))
	case errors.Is(err, undo.ErrUnknown):
		return noSalvage(a.n, r.Volume, r.Salvage)
	}
	return api.Errorf(api.Failed, object, "%v", err)
}

func noSalvage(n *Node, volume, id string) error {
	return api.Errorf(api.Failed, "salvage "+id+" of "+volume, "no such salvage on %s", n.cfg.Node).WithNext("keelson salvage list %s shows those that there are, and where", volume)
}

// status is what is said of it. Under viewsMu.
func (v *view) status() *api.View {
	s := v.View
	s.Clients = len(v.a.n.nbd.Connections(v.Name))
	return &s
}

// detach ends the view of that name.
func (n *Node) detach(name string) (*api.View, error) {
	n.viewsMu.Lock()
	v := n.views[name]
	n.viewsMu.Unlock()
	if v == nil {
		return nil, api.Errorf(api.Failed, "view "+name, "nothing of that name is attached on %s", n.cfg.Node).WithNext("keelson status there shows what is")
	}
	s := v.View
	n.endView(v, "detached")
	return &s, nil
}

// endView ends a view, if it is there; its clients are hung up.
func (n *Node) endView(v *view, why string) {
	n.viewsMu.Lock()
	mine := n.views[v.Name] == v
	if mine {
		delete(n.views, v.Name)
	}
	n.viewsMu.Unlock()
	if !mine {
		return
	}
	close(v.over)
	err := n.nbd.RemoveExport(v.Name) // a connection that does not end is cut
	v.close()
	v.a.note("info", "view "+v.Name, "", why, "")
	if err != nil {
		n.log.Warn("a view's clients did not end", "view", v.Name, "err", err)
	}
	n.wakeWatchers()
}

// endViews ends the volume's views, or only those that read through its device.
func (a *vol) endViews(onlyLive bool, why string) {
	a.n.viewsMu.Lock()
	var end []*view
	for _, v := range a.n.views {
		if v.a == a && (v.live || !onlyLive) {
			end = append(end, v)
		}
	}
	a.n.viewsMu.Unlock()
	for _, v := range end {
		a.n.endView(v, why)
	}
}

// viewsNow lists the volume's views.
func (a *vol) viewsNow() []api.View {
	a.n.viewsMu.Lock()
	defer a.n.viewsMu.Unlock()
	out := []api.View{}
	for _, v := range slices.SortedFunc(maps.Values(a.n.views), func(x, y *view) int { return cmp.Compare(x.Name, y.Name) }) {
		if v.a == a {
			out = append(out, *v.status())
		}
	}
	return out
}
