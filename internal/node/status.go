package node

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"time"

	"keelson/internal/api"
	"keelson/internal/attach"
	"keelson/internal/config"
	"keelson/internal/lineage"
	"keelson/internal/mirror"
	"keelson/internal/volume"
)

// service implements api.Service for this agent.
type service struct{ n *Node }

// watchEvery is the shortest time between two states that a watcher is shown; watchLongest the longest.
const (
	watchEvery   = 100 * time.Millisecond
	watchLongest = time.Second
)

// Status implements api.Service.
func (s *service) Status(context.Context) (*api.Status, error) { return s.n.status(), nil }

// Watch implements api.Service.
func (s *service) Watch(ctx context.Context, fn func(*api.Status) error) error {
	for {
		s.n.mu.Lock()
		changed := s.n.changed
		s.n.mu.Unlock()
		if err := fn(s.n.status()); err != nil {
			return err
		}
		pause, longest := time.After(watchEvery), time.After(watchLongest)
		select {
		case <-pause:
		case <-ctx.Done():
			return ctx.Err()
		}
		select {
		case <-changed:
		case <-longest: // counters and progress change without being told
		case <-ctx.Done():
			return ctx.Err()
		case <-s.n.ctx.Done():
			return nil
		}
	}
}

func (n *Node) status() *api.Status {
	now := time.Now()
	s := &api.Status{Cluster: n.id.Cluster, Node: n.cfg.Node, Version: n.version, Web: n.pageURL(), Volumes: []api.VolumeStatus{},
		Nodes: []api.NodeStatus{{Name: n.cfg.Node, Address: n.cfg.Listen.Address, Reachable: true, Heard: now.UTC()}}}
	here := map[string]bool{}
	for _, a := range n.all() {
		here[a.id] = true
		s.Volumes = append(s.Volumes, a.status(now))
	}
	for _, p := range n.neighbours() {
		p.mu.Lock()
		s.Nodes = append(s.Nodes, api.NodeStatus{Name: p.name, Address: p.addr, Reachable: p.up, Heard: p.heard.UTC()})
		for id, v := range p.serves {
			if !here[id] && p.up { // a volume without a copy on this server
				here[id] = true
				v.Role, v.Devices, v.Views = "none", []api.DeviceStatus{}, nil
				s.Volumes = append(s.Volumes, v)
			}
		}
		p.mu.Unlock()
	}
	n.mu.Lock()
	for name, err := range n.broken {
		reason, rule := whyStopped(err)
		s.Volumes = append(s.Volumes, api.VolumeStatus{Name: name, Role: "none", State: "Failed", Reason: reason, Rule: rule,
			InSync: []string{}, Devices: []api.DeviceStatus{}, Mirrors: []api.MirrorStatus{}, Switchover: []api.Candidate{}})
	}
	n.mu.Unlock()
	slices.SortFunc(s.Nodes, func(a, b api.NodeStatus) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(s.Volumes, func(a, b api.VolumeStatus) int { return cmp.Compare(a.Name, b.Name) })
	return s
}

// status of one volume. A source knows all; what a target shows of other mirrors is what the source said last.
func (a *vol) status(now time.Time) api.VolumeStatus {
	view, st, h := a.view.Load(), a.v.Status(now), a.v.Header()
	s := api.VolumeStatus{
		Name: a.name, ID: a.id, SizeBytes: h.SizeBytes, RegionBytes: h.RegionBytes, Role: roleName(view.Role), Reason: view.Reason, Rule: view.Rule,
		Source: view.Source, Term: view.Term.N, Generation: h.History.Last().ID.String(), Position: st.Number,
		InSync: append([]string{}, view.Record.Members...), Encryption: a.n.cfg.Encryption, Devices: a.devices(view),
		Mirrors: []api.MirrorStatus{}, Switchover: []api.Candidate{}, Counters: st.Counters, HotExtents: st.HotExtents, UnknownBytes: st.Unknown,
		Attach: a.attachStatus(), ServiceAddress: a.addressStatus(), HoldOldCopies: view.Settings.HoldCopies,
	}
	s.Counters["switchovers"] = a.tookOver.Load()
	for _, m := range view.Settings.Members {
		if m.Held && !m.Removed {
			s.Held = append(s.Held, m.Node)
		}
	}
	s.ServedFrom, s.Copies, s.MinCopies = view.Via, view.Copies, view.MinCopies
	s.State, s.Views = stateOf(view, a.failed()), a.viewsNow()
	for _, c := range a.n.nbd.Connections(a.name) {
		s.Clients = append(s.Clients, api.ClientStatus{Remote: c.Remote, Since: c.Since.UTC()})
	}
	if err := a.failed(); err != nil {
		s.Reason, s.Rule = whyStopped(err)
	} else if slow := a.slowStep(now); slow != "" {
		s.Reason, s.Rule = slow, lineage.RuleDiskStalled
	}
	s.Undo, s.Salvage = undoStatus(st.Undo)
	for _, m := range view.Mirrors {
		if m.Target == a.n.cfg.Node { // a target knows its own copy best
			m.NotPromotable = a.notPromotable(m)
		}
		s.Mirrors = append(s.Mirrors, mirrorStatus(m, st.Links[m.Target], now))
	}
	for _, c := range view.Candidates {
		s.Switchover = append(s.Switchover, api.Candidate{To: c.To, OK: c.OK, Reason: c.Reason, Rule: c.Rule})
	}
	if p := view.Plan; p != nil {
		s.Plan = &api.PlanStatus{ID: p.ID, To: p.To, Step: p.Step, Waits: p.Waits, Started: p.Started.UTC()}
	}
	for i := range s.Mirrors {
		if m := view.Settings.Find(s.Mirrors[i].Target); m != nil {
			s.Mirrors[i].QueueBytes, s.Mirrors[i].RateBytes, s.Mirrors[i].ResyncRate = m.QueueBytes, m.RateBytes, m.ResyncBytes
		}
	}
	if view.Role == lineage.RoleTarget {
		a.fromSource(&s)
	}
	return s
}

// fromSource fills in what only the source knows, as it said it last.
func (a *vol) fromSource(s *api.VolumeStatus) {
	p := a.n.peer(s.Source)
	if p == nil {
		return
	}
	p.mu.Lock()
	theirs, ok := p.serves[a.id]
	up := p.up
	p.mu.Unlock()
	if !ok || theirs.Term < s.Term {
		return
	}
	own := s.Mirrors
	s.Mirrors = slices.Clone(theirs.Mirrors)
	if up {
		if a.view.Load().Record.Epoch.Term.N < theirs.Term { // its own is of a source before, as a held copy's is
			s.InSync = slices.Clone(theirs.InSync)
		}
		s.Clients, s.ServedFrom, s.Copies = theirs.Clients, theirs.ServedFrom, theirs.Copies
		s.Switchover = slices.Clone(theirs.Switchover)
		s.Plan = theirs.Plan
		return
	}
	for i := range s.Mirrors { // of a source that cannot be reached: this server knows its own end better
		for _, m := range own {
			if s.Mirrors[i].Target == m.Target {
				m.Resync = s.Mirrors[i].Resync
				s.Mirrors[i] = m
			}
		}
	}
}

// notPromotable says why this target cannot become source.
func (a *vol) notPromotable(m mirror.MirrorView) string {
	if m.State == mirror.SplitBrain {
		return m.Reason
	}
	return mirror.NotPromotable(a.n.cfg.Node, a.info())
}

func undoStatus(u volume.UndoStatus) (*api.UndoStatus, *api.SalvageStatus) {
	return &api.UndoStatus{State: u.State, Reason: u.Reason, Bytes: u.Bytes, BytesMax: u.BytesMax, Regions: u.Regions},
		&api.SalvageStatus{Count: u.Salvages, Bytes: u.SalvageBytes, BytesMax: u.SalvageBytesMax, RoomBytes: u.RoomBytes, RoomLow: u.RoomLow}
}

func roleName(r lineage.Role) string {
	switch r {
	case lineage.RoleSource, lineage.RoleTarget:
		return string(r)
	}
	return "none"
}

func stateOf(v *mirror.View, dead error) string {
	switch {
	case dead != nil || v.Failed != "":
		return "Failed"
	case v.Role == lineage.RoleSource && v.Open:
		return "Serving"
	case v.Role == lineage.RoleSource:
		return "Closed"
	case v.Role == lineage.RoleHanded:
		return "HandedOver"
	}
	return "Target"
}

// devices says how the volume can be used here; nothing where it cannot.
func (a *vol) devices(v *mirror.View) []api.DeviceStatus {
	out := []api.DeviceStatus{}
	if !v.Open || a.failed() != nil {
		return out
	}
	for _, address := range append(a.n.addresses(a.name), a.n.followers(a.name)...) {
		out = append(out, api.DeviceStatus{Kind: "nbd", Address: address})
	}
	if s := a.device.Status(); s.State == attach.Attached {
		out = append(out, api.DeviceStatus{Kind: s.Kind, Address: s.Device, Path: s.Link})
	}
	return out
}

// followers are the volume's addresses by which clients find it wherever its source is: where NBD is served at all addresses of each server.
func (n *Node) followers(name string) (out []string) {
	host, port, err := net.SplitHostPort(n.cfg.NBD.Address)
	ip, bad := netip.ParseAddr(host)
	if err != nil || host != "" && (bad != nil || !ip.IsUnspecified()) {
		return nil
	}
	for _, service := range servicesIn(n.cfg.Volume(name)) {
		out = append(out, overTCP(n.cfg.NBD, net.JoinHostPort(service, port), name))
	}
	return out
}

func overTCP(c config.NBD, address, name string) string {
	scheme := "nbd"
	if c.TLS {
		scheme = "nbds"
	}
	return fmt.Sprintf("%s://%s/%s", scheme, address, url.PathEscape(name))
}

// addresses are those of an export on this server.
func (n *Node) addresses(name string) []string {
	c := n.cfg.NBD
	out := []string{fmt.Sprintf("nbd+unix:///%s?socket=%s", url.PathEscape(name), c.Socket)}
	if c.Address != "" {
		out = append(out, overTCP(c, c.Address, name))
	}
	return out
}

func mirrorStatus(m mirror.MirrorView, l volume.LinkStatus, now time.Time) api.MirrorStatus {
	s := api.MirrorStatus{
		Source: m.Source, Target: m.Target, Mode: string(m.Mode), State: string(m.State), Reason: m.Reason, Rule: m.Rule, Position: l.Position,
		LagBytes: l.LagBytes, LagSeconds: l.LagTime.Seconds(), Promotable: m.NotPromotable == "", NotPromotable: m.NotPromotable, AsOf: now.UTC(), BytesOnWire: l.WireBytes, QueuedBytes: l.Queued,
	}
	if r := l.Resync; r != nil {
		s.Resync = resyncStatus(*r)
	}
	return s
}

func resyncStatus(r volume.ResyncStatus) *api.ResyncStatus {
	p := r.Progress
	s := &api.ResyncStatus{
		Kind: r.Kind, Rule: r.Rule, State: "interrupted", BytesTotal: p.Total, BytesSent: p.Sent, BytesSkipped: p.Skipped,
		BytesPerSec: p.PerSecond, Started: p.Started.UTC(),
	}
	switch {
	case p.Finished:
		s.State = "finished"
	case r.Running:
		s.State = "running"
	}
	if p.LeftKnown {
		left := p.Left.Seconds()
		s.SecondsLeft = &left
	}
	if !p.Ended.IsZero() {
		ended := p.Ended.UTC()
		s.Finished = &ended
	}
	return s
}
