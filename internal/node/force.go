package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"keelson/internal/api"
	"keelson/internal/lineage"
	"keelson/internal/mirror"
)

// fenceRequest asks a server to promise the term of a forced take-over (rule 22).
type fenceRequest struct {
	Volume string       `json:"volume"`
	Term   lineage.Term `json:"term"`
}

type fenceAnswer struct {
	OK       bool             `json:"ok"`
	Rule     string           `json:"rule"`
	Why      string           `json:"why"`
	Survivor lineage.Survivor `json:"survivor"`
}

// giveUpRequest asks the server that a promised term names to give it up (rule 24).
type giveUpRequest struct {
	Volume string       `json:"volume"`
	Term   lineage.Term `json:"term"`
	New    lineage.Term `json:"new"`
}

// survivor is what this server reports in a forced take-over.
func (a *vol) survivor() lineage.Survivor {
	record := a.v.Header().Record
	if anchor := a.v.Anchor(); anchor != nil { // in mid-resync: what it would have after a roll-back (rule 12)
		record = anchor.Record
	}
	return a.v.Own().Survivor(a.n.cfg.Node, record)
}

// fence asks every server for its promise, each beside the loop; FenceAnswer follows for each.
func (a *vol) fence(e mirror.Fence) {
	for _, node := range e.Nodes {
		if node == a.n.cfg.Node {
			a.post(mirror.FenceAnswer{Plan: e.Plan, Node: node, OK: true, Survivor: a.survivor(), Mine: a.v.Own()})
			continue
		}
		p := a.n.peer(node)
		if p == nil {
			a.post(mirror.FenceAnswer{Plan: e.Plan, Node: node, Why: "its address is not in the configuration ([[peer]])"})
			continue
		}
		a.work(func() {
			ctx, cancel := context.WithTimeout(a.ctx, gossipTimeout)
			defer cancel()
			var answer fenceAnswer
			if err := p.post(ctx, "fence", fenceRequest{a.id, e.Term}, &answer); err != nil {
				answer = fenceAnswer{Why: err.Error()}
			}
			a.post(mirror.FenceAnswer{Plan: e.Plan, Node: node, OK: answer.OK, Rule: answer.Rule, Why: answer.Why, Survivor: answer.Survivor})
		})
	}
}

// giveUp asks the server that a promised term names; GiveUpAnswer follows.
func (a *vol) giveUp(e mirror.GiveUp) {
	p := a.n.peer(e.Node)
	if p == nil {
		a.post(mirror.GiveUpAnswer{Node: e.Node, Term: e.Term, New: e.New, Why: "its address is not in the configuration ([[peer]])"})
		return
	}
	a.work(func() {
		ctx, cancel := context.WithTimeout(a.ctx, gossipTimeout)
		defer cancel()
		var answer tokenAnswer
		if err := p.post(ctx, "giveup", giveUpRequest{a.id, e.Term, e.New}, &answer); err != nil {
			answer = tokenAnswer{Why: err.Error()}
		}
		a.post(mirror.GiveUpAnswer{Node: e.Node, Term: e.Term, New: e.New, OK: answer.Taken, Rule: answer.Rule, Why: answer.Why})
	})
}

// fenceCame: another server is about to take over by force.
func (n *Node) fenceCame(ctx context.Context, from string, r *fenceRequest) (fenceAnswer, error) {
	a := n.byID(r.Volume)
	if a == nil {
		return fenceAnswer{Rule: ruleUnknownVolume, Why: n.cfg.Node + " has no replica of the volume"}, nil
	}
	reply, err := a.command(ctx, func(id uint64) mirror.Event {
		return mirror.FenceAsked{ID: id, From: from, Term: r.Term, Mine: a.v.Own()}
	})
	if err != nil || reply.Rule != "" || reply.Err != "" {
		return fenceAnswer{Rule: reply.Rule, Why: reply.Err}, err
	}
	n.crash("fence-promised")
	return fenceAnswer{OK: true, Survivor: a.survivor()}, nil
}

// giveUpCame: a server that serves asks this one to give up a term that nobody serves.
func (n *Node) giveUpCame(ctx context.Context, from string, r *giveUpRequest) (tokenAnswer, error) {
	a := n.byID(r.Volume)
	if a == nil {
		return tokenAnswer{Rule: ruleUnknownVolume, Why: n.cfg.Node + " has no replica of the volume"}, nil
	}
	reply, err := a.command(ctx, func(id uint64) mirror.Event {
		return mirror.GiveUpAsked{ID: id, From: from, Term: r.Term, New: r.New}
	})
	n.crash("giveup-saved")
	return tokenAnswer{Taken: err == nil && reply.Rule == "" && reply.Err == "", Rule: reply.Rule, Why: reply.Err}, err
}

// sourceGone reports that a call could not be done because the source cannot be reached, or is not known.
func sourceGone(err error) bool {
	var e *api.Error
	return errors.As(err, &e) && (e.Code == api.Unreachable || e.Rule == lineage.RuleNeedsForce || e.Rule == lineage.RuleNotSource)
}

// withoutSource does a switchover while the source cannot be reached: at the server that is to be source. cause is how
// that was found.
func (s *service) withoutSource(ctx context.Context, r api.Switchover, step func(api.SwitchoverStep), cause error) (*api.SwitchoverResult, error) {
	n := s.n
	if r.To != n.cfg.Node {
		p := n.peer(r.To)
		if p == nil || api.Via(ctx) != "" {
			return nil, cause
		}
		return p.api().Switchover(ctx, r, step)
	}
	a := n.find(r.Volume)
	if a == nil {
		return nil, api.Refusal(lineage.RuleNotAMember, "volume "+r.Volume, n.cfg.Node+" has no copy of it", lineage.NextOf(lineage.RuleNotAMember))
	}
	var result *api.SwitchoverResult
	var err error
	for range lookMax {
		a.lookForSource(ctx)
		if result, err = a.shownPlan(ctx, r); err == nil || api.AsError(err).Rule != lineage.RuleNotSource {
			break
		}
	}
	if err != nil || r.Plan {
		return result, err
	}
	if err := a.fenceOff(ctx, r, step); err != nil {
		return nil, err
	}
	reply, err := a.command(ctx, func(id uint64) mirror.Event {
		return mirror.Command{ID: id, Mine: a.v.Own(), Switch: &mirror.Switch{To: r.To, Plan: result.Plan, Force: true, NoCatchUp: r.NoCatchUp}}
	})
	if err == nil && reply.Rule == lineage.RuleBehindSurvivor && reply.Better != "" && n.peer(reply.Better) != nil {
		return s.catchUp(ctx, r, reply.Better, step)
	}
	if err := replyError("volume "+a.name, reply, err); err != nil {
		return nil, err
	}
	result.Done = true
	for i := range result.Steps {
		result.Steps[i].State = "done"
	}
	s.awaitDevice(ctx, result, step)
	if r.Wait {
		return result, s.waitMirrors(ctx, r)
	}
	return result, nil
}

// lookMax is how often a server looks for the source: what that said before it died may arrive between a look and the judgement.
const lookMax = 4

// lookForSource asks the source now, if this server has not noticed yet what somebody else has: that it cannot be reached.
// The machine learns of it before it judges. Takes at most gossipTimeout.
func (a *vol) lookForSource(ctx context.Context) {
	if p := a.n.peer(a.view.Load().Source); p != nil {
		p.mu.Lock()
		up := p.up
		p.mu.Unlock()
		if up {
			p.exchange(ctx)
		}
	}
}

// catchUpPoll is how often the catch-up of a forced take-over looks whether its second step is possible.
const catchUpPoll = 100 * time.Millisecond

// catchUp makes the better survivor the source first, and then switches over to the server that was asked for: it gets
// what it lacks by an ordinary mirror (docs/adr/0005).
func (s *service) catchUp(ctx context.Context, r api.Switchover, better string, step func(api.SwitchoverStep)) (*api.SwitchoverResult, error) {
	other := s.n.peer(better)
	if other == nil {
		return nil, errNoAddress(better)
	}
	first := other.api()
	step(api.SwitchoverStep{Name: "catch-up", Text: fmt.Sprintf("%s holds writes that %s may lack: it becomes the source first", better, r.To), State: "running"})
	if _, err := first.Switchover(ctx, api.Switchover{Volume: r.Volume, To: better, Force: true, NoFence: r.NoFence}, step); err != nil {
		return nil, err
	}
	reason := "its first word"
	for {
		status, err := first.Status(ctx)
		if err != nil {
			return nil, err
		}
		if i := slices.IndexFunc(status.Volumes, func(v api.VolumeStatus) bool { return v.Name == r.Volume }); i >= 0 {
			for _, c := range status.Volumes[i].Switchover {
				if c.To == r.To && c.OK {
					step(api.SwitchoverStep{Name: "catch-up", Text: r.To + " has everything now", State: "done"})
					return first.Switchover(ctx, r, step)
				}
				if c.To == r.To {
					reason = c.Reason
				}
			}
		}
		select {
		case <-time.After(catchUpPoll):
		case <-ctx.Done():
			e := api.AsError(ctx.Err())
			e.Object, e.Waits = "volume "+r.Volume, fmt.Sprintf("%s, which is the source now, to bring %s up to date: %s", better, r.To, reason)
			e.Next = fmt.Sprintf("keelson switchover %s --to %s, when it is Mirroring", r.Volume, r.To)
			return nil, e
		}
	}
}
