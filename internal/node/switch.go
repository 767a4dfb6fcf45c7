package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"keelson/internal/api"
	"keelson/internal/attach"
	"keelson/internal/lineage"
	"keelson/internal/mirror"
	"keelson/internal/switchover"
)

func now() time.Time { return time.Now() }

// Switchover implements api.Service.
func (s *service) Switchover(ctx context.Context, r api.Switchover, step func(api.SwitchoverStep)) (*api.SwitchoverResult, error) {
	if err := r.Check(); err != nil {
		return nil, err
	}
	a, other, err := s.atSource(ctx, r.Volume)
	var result *api.SwitchoverResult
	if other != nil {
		result, err = s.switchoverAt(ctx, other, r, step)
	}
	if sourceGone(err) {
		return s.withoutSource(ctx, r, step, err)
	}
	if err != nil || other != nil {
		return result, err
	}
	if lost := a.cannotHandOver(); lost != nil && r.To != s.n.cfg.Node {
		return s.withoutSource(ctx, r, step, lost)
	}
	result, err = a.shownPlan(ctx, r)
	if err != nil {
		return result, err
	}
	if r.Plan {
		return result, a.planRelease(r, result)
	}
	cancelled, err := a.askToDemote(ctx, r, step)
	if err != nil {
		return nil, err
	}
	released, err := a.release(r, step)
	if err != nil {
		cancelled()
		return nil, err
	}
	if err := a.switchTo(ctx, r, result, step); err != nil {
		if ctx.Err() != nil { // nobody waits any more, and the plan may go on
			a.work(func() { _ = a.afterPlan(released, cancelled) }) // it tells what failed
			return nil, err
		}
		return nil, errors.Join(err, a.afterPlan(released, cancelled))
	}
	if err := a.afterPlan(released, cancelled); err != nil {
		return nil, err
	}
	s.awaitDevice(ctx, result, step)
	if r.Wait {
		return result, s.waitMirrors(ctx, r)
	}
	return result, nil
}

// switchoverAt has the source's agent do it. With force a source that is lost meanwhile is not waited for, which would be until the caller gives up.
func (s *service) switchoverAt(ctx context.Context, source *api.Client, r api.Switchover, step func(api.SwitchoverStep)) (*api.SwitchoverResult, error) {
	p := s.n.sourceOf(r.Volume)
	if !r.Force || p == nil {
		return source.Switchover(ctx, r, step)
	}
	limited, end := p.whileReached(ctx)
	defer end()
	result, err := source.Switchover(limited, r, step)
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		err = api.Errorf(api.Unreachable, "volume "+r.Volume, "the source %s cannot be reached any more: %v", p.name, err)
	}
	return result, err
}

// sourceOf is the source of a volume, as far as this server knows, if that is another one.
func (n *Node) sourceOf(volume string) *neighbour {
	if a := n.find(volume); a != nil {
		return n.peer(a.view.Load().Source)
	}
	for _, p := range n.neighbours() {
		p.mu.Lock()
		for _, v := range p.serves {
			if v.Name == volume {
				p.mu.Unlock()
				return p
			}
		}
		p.mu.Unlock()
	}
	return nil
}

// afterPlan finishes with the released block device when the plan is not under way any more: if it was given up, everything is as it
// was before. Once the role is handed over the device does not come back, whenever the heir answers: nobody is to wait on it.
func (a *vol) afterPlan(released *attach.Released, cancelled func()) error {
	_ = a.ask(a.ctx, func(*mirror.Machine) {}) // the machine has seen the command; if it is gone, so is the plan
	for p := a.view.Load().Plan; p != nil && !p.Committed && a.ctx.Err() == nil; p = a.view.Load().Plan {
		<-time.After(deviceLook)
	}
	if a.view.Load().Open {
		defer cancelled() // when everything is mounted again
		return released.Undo()
	}
	a.awaitDeviceGone()
	released.Done()
	return nil
}

// cannotHandOver says why this server, which was source, cannot hand its role over: its disk failed and it has closed, or it does not open.
func (a *vol) cannotHandOver() error {
	view := a.view.Load()
	if view.Role == lineage.RoleSource && !view.Open && mirror.CannotOpen(view.Rule) {
		return api.Refusal(lineage.RuleNeedsForce, "volume "+a.name, "its source "+a.n.cfg.Node+" does not open and cannot hand over: "+view.Reason, lineage.NextOf(view.Rule))
	}
	if view.Role != lineage.RoleSource || a.failed() == nil && (view.Failed == "" || view.Open) {
		return nil
	}
	return api.Refusal(lineage.RuleNeedsForce, "volume "+a.name, "its source "+a.n.cfg.Node+" has a failed disk and cannot hand over", lineage.NextOf(lineage.RuleSourceDiskFailed))
}

// shownPlan is the plan as the machine sees it now; with only the plan asked for, a rule that forbids it is an error.
func (a *vol) shownPlan(ctx context.Context, r api.Switchover) (*api.SwitchoverResult, error) {
	var plan switchover.Plan
	var refused *switchover.Refusal
	var risk *switchover.Risk
	err := a.ask(ctx, func(m *mirror.Machine) {
		m.Know(a.v.Own())
		facts := m.Facts(r.To)
		facts.Heir.LagBytes = a.v.Status(now()).Links[r.To].LagBytes
		a.knowRisk(facts.Risk, facts.Source, r.NoCatchUp)
		risk = facts.Risk
		plan, refused = switchover.Planned(randomID(), facts), switchover.Check(facts)
		if r.Force && refused != nil && refused.Rule == lineage.RuleNeedsForce {
			plan, refused = switchover.Forced(plan.ID, facts), switchover.CheckForced(facts)
		}
	})
	if err != nil {
		return nil, api.AsError(err)
	}
	if refused != nil && (!r.Force || refused.Rule == lineage.RuleBehindSurvivor) {
		return nil, api.Refusal(refused.Rule, "volume "+a.name, refused.Message, refused.Next)
	}
	result := &api.SwitchoverResult{Volume: a.name, From: plan.From, To: plan.To, Risks: append([]string{}, plan.Risks...), Steps: []api.SwitchoverStep{}}
	if r.Force {
		result.Risk = riskStatus(risk, len(plan.Risks) > 0)
	}
	for _, assumed := range plan.Assumes {
		result.Risks = append(result.Risks, "nothing, if "+assumed)
	}
	for _, p := range plan.Steps {
		result.Steps = append(result.Steps, api.SwitchoverStep{Name: p.Name, Text: p.Text, State: "planned"})
	}
	if !r.Plan {
		result.Plan = plan.ID
	}
	return result, nil
}

// switchTo carries the plan out and shows its steps.
func (a *vol) switchTo(ctx context.Context, r api.Switchover, result *api.SwitchoverResult, step func(api.SwitchoverStep)) error {
	var mu sync.Mutex
	var held time.Time
	over := false
	a.mu.Lock()
	a.steps[result.Plan] = func(p mirror.PlanStep) {
		mu.Lock()
		defer mu.Unlock()
		if over {
			return
		}
		if p.Name == switchover.StepHold && held.IsZero() {
			held = now()
		}
		shown := api.SwitchoverStep{Name: p.Name, Text: p.Text, State: p.State}
		if i := slices.IndexFunc(result.Steps, func(s api.SwitchoverStep) bool { return s.Name == p.Name }); i >= 0 {
			result.Steps[i].State = p.State
		}
		step(shown)
	}
	a.mu.Unlock()
	defer func() {
		mu.Lock()
		over = true
		mu.Unlock()
		a.mu.Lock()
		delete(a.steps, result.Plan)
		a.mu.Unlock()
	}()
	limit := time.Duration(0)
	if end, ok := ctx.Deadline(); ok {
		limit = min(time.Until(end)*3/4, time.Duration(a.n.cfg.Limits.HoldMax))
	}
	reply, err := a.command(ctx, func(id uint64) mirror.Event {
		return mirror.Command{ID: id, Mine: a.v.Own(), Switch: &mirror.Switch{To: r.To, Plan: result.Plan, Limit: limit, Force: r.Force}}
	})
	if err := replyError("volume "+a.name, reply, err); err != nil {
		return err
	}
	mu.Lock()
	defer mu.Unlock()
	result.Done = true
	if !held.IsZero() {
		result.Millis = time.Since(held).Milliseconds()
	}
	return nil
}

// waitMirrors waits until the new source mirrors to every member that is neither paused, broken nor unreachable.
func (s *service) waitMirrors(ctx context.Context, r api.Switchover) error {
	var waits string
	err := s.Watch(ctx, func(st *api.Status) error {
		i := slices.IndexFunc(st.Volumes, func(v api.VolumeStatus) bool { return v.Name == r.Volume })
		if i < 0 || st.Volumes[i].Source != r.To {
			waits = "the new source's word"
			return nil
		}
		waits = ""
		for _, m := range st.Volumes[i].Mirrors {
			if m.Source == r.To && (m.State == string(mirror.Resync) || m.State == string(mirror.ResyncPending) && reachable(st, m.Target)) {
				waits = fmt.Sprintf("mirror %s->%s: %s", m.Source, m.Target, m.State)
			}
		}
		if waits == "" {
			return errDone
		}
		return nil
	})
	if err == errDone || err == nil {
		return nil
	}
	e := api.AsError(err)
	e.Object, e.Waits = "volume "+r.Volume, waits
	e.Message = "switched over, but not every mirror is Mirroring yet: " + waits
	return e
}

var errDone = fmt.Errorf("done")

func reachable(s *api.Status, node string) bool {
	return slices.ContainsFunc(s.Nodes, func(n api.NodeStatus) bool { return n.Name == node && n.Reachable })
}
