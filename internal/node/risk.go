package node

import (
	"time"

	"keelson/internal/api"
	"keelson/internal/lineage"
	"keelson/internal/mirror"
	"keelson/internal/switchover"
)

// knowRisk fills in what the machine does not know: how far an async target was behind when its source last said so.
func (a *vol) knowRisk(r *switchover.Risk, source string, noCatchUp bool) {
	p := a.n.peer(source)
	if r == nil {
		return
	}
	r.NoCatchUp = noCatchUp
	if p == nil || !r.Async || !r.InStep {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.serves[a.id].Mirrors {
		if m.Source == source && m.Target == a.n.cfg.Node && m.State == string(mirror.Mirroring) {
			r.LagKnown, r.LagBytes, r.LagSeconds = true, m.LagBytes, m.LagSeconds
		}
	}
}

// riskStatus shows it to programs.
func riskStatus(r *switchover.Risk, atRisk bool) *api.SwitchoverRisk {
	if r == nil {
		return nil
	}
	at := r.Mine.Position
	s := &api.SwitchoverRisk{AtRisk: atRisk, Position: at.Number, Generation: at.Gen.String(), InSync: r.Mine.Record.Has(r.Mine.Node), InStep: r.InStep,
		Consistent: r.Consistent, Mode: string(lineage.Sync), CatchUp: r.CatchUp(), Others: []api.Survivor{}}
	if r.Async {
		s.Mode = string(lineage.Async)
	}
	if r.Heard {
		silent := r.Silent.Seconds()
		heard := now().Add(-r.Silent).UTC().Truncate(time.Millisecond)
		s.SilentSeconds, s.SourceHeard = &silent, &heard
	}
	if r.LagKnown {
		s.LagBytes, s.LagSeconds = &r.LagBytes, &r.LagSeconds
	}
	for _, o := range r.Others {
		x := o.Survivor
		s.Others = append(s.Others, api.Survivor{Node: x.Node, Reachable: o.Reachable, Position: x.Position.Number, Generation: x.Position.Gen.String(),
			InSync: x.Record.Has(x.Node), Usable: x.Consistent, Ahead: x.Compare(r.Mine) > 0})
	}
	return s
}
