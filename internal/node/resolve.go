package node

import (
	"context"
	"errors"
	"slices"
	"time"

	"keelson/internal/api"
	"keelson/internal/lineage"
	"keelson/internal/mirror"
)

// PlanResolve implements api.Service: what every other server has that the one to be kept lacks.
func (s *service) PlanResolve(ctx context.Context, r api.ResolveSplitBrain) (*api.ResolvePlan, error) {
	a := s.n.find(r.Volume)
	if a == nil {
		p, err := s.n.holder(ctx, r.Volume)
		if err != nil {
			return nil, err
		}
		return p.api().PlanResolve(ctx, r)
	}
	sides := a.sides(ctx)
	i := slices.IndexFunc(sides, func(x side) bool { return x.node == r.Keep })
	switch {
	case i < 0:
		return nil, api.Refusal(lineage.RuleNotAMember, "volume "+r.Volume, r.Keep+" has no copy of it", lineage.NextOf(lineage.RuleNotAMember))
	case sides[i].err != nil:
		return nil, reach(r.Keep, sides[i].err)
	}
	keep := sides[i].info
	out := &api.ResolvePlan{Volume: r.Volume, Keep: r.Keep, GivenUp: []api.GivenUp{}}
	region := a.v.Header().RegionBytes
	for _, x := range sides {
		if x.node == r.Keep {
			continue
		}
		g := api.GivenUp{Node: x.node, Runs: []api.Run{}}
		err := x.err
		if err == nil && x.info.Known {
			g.Role = roleName(x.info.Role)
			var f forkAnswer
			if f, err = a.forkOf(ctx, x.node, keep.History, keep.Position); err == nil {
				g.Regions, g.Bytes, g.UnknownBytes, g.RoomBytes = f.Regions, f.Regions*region, f.Unknown*region, f.RoomBytes
				g.Runs = append(g.Runs, apiRuns(f.Runs)...)
			}
		}
		if err != nil {
			g.Why = "cannot be asked: " + err.Error()
		}
		out.GivenUp = append(out.GivenUp, g)
	}
	return out, nil
}

// ResolveSplitBrain implements api.Service: the other sides give up first, then the one that is kept goes on, and then those give
// in that had followed a side which did.
func (s *service) ResolveSplitBrain(ctx context.Context, r api.ResolveSplitBrain) error {
	if err := r.Check(); err != nil {
		return err
	}
	n := s.n
	a := n.find(r.Volume)
	if a == nil {
		p, err := n.holder(ctx, r.Volume)
		if err != nil {
			return err
		}
		r.All = true
		return p.api().ResolveSplitBrain(ctx, r)
	}
	if api.Via(ctx) != "" && !r.All {
		return a.resolveHere(ctx, r.Keep)
	}
	report, err := s.SplitBrain(ctx, api.VolumeName{Name: r.Volume})
	if err != nil {
		return err
	}
	members := a.view.Load().Settings.Members
	if !slices.ContainsFunc(members, func(m lineage.Member) bool { return m.Node == r.Keep && !m.Removed }) {
		return api.Refusal(lineage.RuleNotAMember, "volume "+r.Volume, r.Keep+" has no copy of it", lineage.NextOf(lineage.RuleNotAMember))
	}
	var others []string
	for _, m := range members {
		if !m.Removed && m.Node != r.Keep {
			others = append(others, m.Node)
		}
	}
	gaveUp := 0
	var quiet []string // they show no split brain
	var errs []error
	for _, node := range append(others, r.Keep) {
		// Who is kept may take over by force then, so there have to be two sides; after a choice that was interrupted only the
		// one that gave in knows that there were.
		if node == r.Keep && gaveUp == 0 && !report.Split {
			why := "nothing known to " + n.cfg.Node + " shows two sides"
			refusal := api.Refusal(lineage.RuleNoSplitBrain, "volume "+r.Volume, why, lineage.NextOf(lineage.RuleNoSplitBrain))
			return errors.Join(append([]error{refusal}, errs...)...)
		}
		err := s.resolveAt(ctx, node, r)
		for end := now().Add(gaveInMax); node == r.Keep && stillAlive(err) && now().Before(end) && ctx.Err() == nil; {
			<-time.After(catchUpPoll) // short beside every deadline
			err = s.resolveAt(ctx, node, r)
		}
		var e *api.Error
		switch {
		case err == nil:
			gaveUp++
		case errors.As(err, &e) && e.Rule == lineage.RuleNoSplitBrain:
			quiet = append(quiet, node)
		default:
			errs = append(errs, err)
		}
	}
	if gaveUp == 0 && len(errs) == 0 {
		return api.Refusal(lineage.RuleNoSplitBrain, "volume "+r.Volume, "no server shows a split brain", lineage.NextOf(lineage.RuleNoSplitBrain))
	}
	if len(errs) == 0 {
		s.resolveFollowers(ctx, a, r, quiet)
	}
	return errors.Join(errs...)
}

// resolveFollowers has those give in that had followed a side which gave in: they see that they parted from the one that is kept only
// when it asks them to follow, and then it shows a split brain there too. PlanResolve has shown what they lose. One
// that does not come to that in time shows it by its state, as ever.
func (s *service) resolveFollowers(ctx context.Context, a *vol, r api.ResolveSplitBrain, nodes []string) {
	for end := now().Add(gaveInMax); len(nodes) > 0 && now().Before(end) && ctx.Err() == nil; {
		kept := a.statusOf(ctx, r.Keep)
		nodes = slices.DeleteFunc(nodes, func(node string) bool {
			if p := s.n.peer(node); node == r.Keep || node != s.n.cfg.Node && (p == nil || !p.isUp()) {
				return true
			}
			i := slices.IndexFunc(kept.Mirrors, func(m api.MirrorStatus) bool { return m.Target == node })
			if i < 0 {
				return false
			}
			switch mirror.State(kept.Mirrors[i].State) {
			case mirror.ResyncPending:
				return false
			case mirror.SplitBrain:
				return s.resolveAt(ctx, node, r) == nil
			}
			return true
		})
		if len(nodes) > 0 {
			<-time.After(catchUpPoll) // short beside every deadline
		}
	}
}

// statusOf is what the server says of the volume now if it is its source, or nothing.
func (a *vol) statusOf(ctx context.Context, node string) api.VolumeStatus {
	if node == a.n.cfg.Node {
		return a.status(now())
	}
	var theirs nodeState
	_ = a.n.peer(node).post(ctx, "state", a.n.state(), &theirs) // not reached: nothing
	return theirs.Serves[a.id]
}

// gaveInMax is how long the side that is kept may take to hear that the others, which gave in a moment ago, do not serve
// any more.
const gaveInMax = 10 * time.Second

func stillAlive(err error) bool {
	var e *api.Error
	return errors.As(err, &e) && e.Rule == lineage.RuleSourceAlive
}

func (s *service) resolveAt(ctx context.Context, node string, r api.ResolveSplitBrain) error {
	if node == s.n.cfg.Node {
		return s.n.find(r.Volume).resolveHere(ctx, r.Keep)
	}
	p := s.n.peer(node)
	if p == nil {
		return errNoAddress(node)
	}
	r.All = false
	return p.api().ResolveSplitBrain(ctx, r)
}

func (a *vol) resolveHere(ctx context.Context, keep string) error {
	reply, err := a.command(ctx, func(id uint64) mirror.Event {
		return mirror.Command{ID: id, Mine: a.v.Own(), Resolve: &mirror.Resolve{Keep: keep}}
	})
	a.n.crash("resolve-done")
	return replyError("volume "+a.name+" at "+a.n.cfg.Node, reply, err)
}
