package node

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"keelson/internal/api"
	"keelson/internal/attach"
	"keelson/internal/hook"
	"keelson/internal/lineage"
	"keelson/internal/mirror"
)

// How this server came to be source, as hooks are told (KEELSON_REASON).
const (
	causeStart   = "start"   // it was so before its agent started
	causePlanned = "planned" // by a planned switchover
	causeForced  = "forced"
)

// moments are the hooks of one volume that wait to be run: those that only tell. One goroutine runs them, one after the other;
// a moment that comes again while it waits is run once, with the state of then. So they are never more than there are names.
type moments struct {
	mu      sync.Mutex
	waiting []string // names, oldest first
	running bool     // the goroutine is there
	cause   string   // of this server's being source
	old     string   // the source before
	served  bool     // AfterPromote was the last of the two
}

// hookRunner runs the hooks of this agent.
func (n *Node) hookRunner() *hook.Runner {
	return &hook.Runner{Directory: n.cfg.Hooks.Directory, Limit: time.Duration(n.cfg.Hooks.Limit)}
}

// moment has a hook run that only tells. It never blocks.
func (a *vol) moment(name string) {
	if !a.n.hookRunner().Has(name) {
		return
	}
	m := &a.moments
	m.mu.Lock()
	defer m.mu.Unlock()
	if !slices.Contains(m.waiting, name) {
		m.waiting = append(m.waiting, name)
	}
	if !m.running && a.ctx.Err() == nil {
		m.running = true
		a.work(a.runMoments)
	}
}

// runMoments runs what waits, until nothing does.
func (a *vol) runMoments() {
	m := &a.moments
	for {
		m.mu.Lock()
		if len(m.waiting) == 0 || a.ctx.Err() != nil {
			m.running = false
			m.mu.Unlock()
			return
		}
		name := m.waiting[0]
		m.waiting = m.waiting[1:]
		old := m.old
		m.mu.Unlock()
		if a.address != nil { // what is started then may need the address
			a.address.Settle(a.ctx)
		}
		a.runHook(a.ctx, name, "KEELSON_OLD_SOURCE="+old)
	}
}

// runHook runs a hook and makes an event of what became of it. One that does what it should and says nothing is not worth one
// when it is run at every change.
func (a *vol) runHook(ctx context.Context, name string, vars ...string) hook.Result {
	r := a.n.hookRunner().Run(ctx, name, append(a.hookVars(), vars...)...)
	took := r.Took.Round(time.Millisecond)
	switch {
	case r.Err != nil:
		a.n.events.Add(api.Event{Level: "warning", Volume: a.name, Object: "hook " + name, Message: fmt.Sprintf("%v (after %s)%s", r.Err, took, said(r)), Next: "see what it says, and docs/admin/hooks.md"})
	case r.Ran && (name != hook.StateChange || r.Output != ""):
		a.n.events.Add(api.Event{Level: "info", Volume: a.name, Object: "hook " + name, Message: fmt.Sprintf("done in %s%s", took, said(r))})
	}
	if r.Ran || r.Err != nil {
		a.n.log.Info("hook", "volume", a.name, "hook", name, "took", took, "err", r.Err)
	}
	return r
}

// said is what a hook wrote, for a message.
func said(r hook.Result) string {
	if r.Output == "" {
		return ""
	}
	return ": " + r.Output
}

// hookVars are the variables that every hook gets.
func (a *vol) hookVars() []string {
	view, d := a.view.Load(), a.device.Status()
	vars := map[string]string{
		"VOLUME": a.name, "NODE": a.n.cfg.Node, "SOCKET": a.n.cfg.API.Socket, "ROLE": roleName(view.Role), "STATE": stateOf(view, a.failed()),
		"REASON": view.Reason, "SOURCE": view.Source, "MOUNT": d.Mount.Point, "MOUNT_STATE": d.Mount.State,
		"SERVICE_ADDRESS": a.n.cfg.Volume(a.name).ServiceAddress, "SERVICE_INTERFACE": a.n.cfg.Volume(a.name).ServiceInterface,
		"SERVICE_NAME": a.n.cfg.Volume(a.name).ServiceName,
	}
	if d.State == attach.Attached {
		vars["DEVICE"] = d.Link
	}
	var mirrors []string
	for _, m := range view.Mirrors {
		mirrors = append(mirrors, fmt.Sprintf("%s->%s=%s", m.Source, m.Target, m.State))
	}
	vars["MIRRORS"] = strings.Join(mirrors, " ")
	a.moments.mu.Lock()
	vars["CAUSE"] = a.moments.cause
	a.moments.mu.Unlock()
	out := make([]string, 0, len(vars)+1)
	for name, value := range vars {
		out = append(out, "KEELSON_"+name+"="+value)
	}
	return out
}

// settled is told when what is wished of the block device is brought about: usable says whether the volume can be used here.
func (a *vol) settled(usable bool) {
	a.moments.mu.Lock()
	before := a.moments.served
	a.moments.served = usable
	a.moments.mu.Unlock()
	name := hook.AfterPromote
	if !usable {
		name = hook.AfterDemote
	}
	if usable || before { // when the step that did this is over, and the status shows it
		a.post(call{f: func(*mirror.Machine) {
			a.wantAddress(usable && a.view.Load().Open && a.failed() == nil) // it may have changed meanwhile
			a.moment(name)
		}})
	}
}

// becomes notes how this server becomes source.
func (a *vol) becomes(e mirror.Event, lazy bool, before *mirror.View) {
	m := &a.moments
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cause, m.old = causeForced, before.Source
	switch _, token := e.(mirror.TokenCame); {
	case token:
		m.cause = causePlanned
	case lazy:
		m.cause, m.old = causeStart, ""
	}
}

// changed has the hooks of another state run.
func (a *vol) changed(before, now *mirror.View) {
	if before.Role == lineage.RoleSource && now.Role != lineage.RoleSource {
		a.moments.mu.Lock()
		a.moments.old = a.n.cfg.Node
		a.moments.mu.Unlock()
	}
	if !isSplit(before) && isSplit(now) {
		a.moment(hook.SplitBrain)
	}
	if before.Role != now.Role || before.Open != now.Open || before.Failed != now.Failed || !slices.EqualFunc(before.Mirrors, now.Mirrors, sameState) {
		a.moment(hook.StateChange)
	}
}

func sameState(a, b mirror.MirrorView) bool {
	return a.Source == b.Source && a.Target == b.Target && a.State == b.State
}

func isSplit(v *mirror.View) bool {
	return v.Rule == lineage.RuleSplitBrain || slices.ContainsFunc(v.Mirrors, func(m mirror.MirrorView) bool { return m.State == mirror.SplitBrain })
}

// Steps that a switchover has where there are hooks.
const (
	stepBeforeDemote = "before-demote"
	stepFenceHook    = "fence-hook"
)

// askToDemote runs the hook that may refuse a planned switchover. cancelled has the hook run that is for one that did not happen.
func (a *vol) askToDemote(ctx context.Context, r api.Switchover, step func(api.SwitchoverStep)) (cancelled func(), err error) {
	nothing := func() {}
	if !a.n.hookRunner().Has(hook.BeforeDemote) {
		return nothing, nil
	}
	text := "the hook " + hook.BeforeDemote + " makes the volume ready to go"
	step(api.SwitchoverStep{Name: stepBeforeDemote, Text: text, State: "running"})
	result := a.runHook(ctx, hook.BeforeDemote, "KEELSON_OLD_SOURCE="+a.n.cfg.Node, "KEELSON_NEW_SOURCE="+r.To)
	cancelled = func() { a.moment(hook.DemoteCancelled) }
	if result.Err != nil {
		step(api.SwitchoverStep{Name: stepBeforeDemote, Text: text, State: "failed"})
		cancelled()
		return nothing, api.Refusal(ruleHookRefused, "volume "+a.name, fmt.Sprintf("the hook %s at %s: %v%s", hook.BeforeDemote, a.n.cfg.Node, result.Err, said(result)), "see what it says; nothing was switched over")
	}
	step(api.SwitchoverStep{Name: stepBeforeDemote, Text: text, State: "done"})
	return cancelled, nil
}

// fenceOff runs the hook that makes sure that the old source is off, before a take-over by force. It is not run if the take-over
// would be refused anyway.
func (a *vol) fenceOff(ctx context.Context, r api.Switchover, step func(api.SwitchoverStep)) error {
	view := a.view.Load()
	if r.NoFence || view.Role == lineage.RoleSource || !a.n.hookRunner().Has(hook.Fence) {
		return nil
	}
	object := "volume " + a.name
	var rule, why string
	if err := a.ask(ctx, func(m *mirror.Machine) {
		m.Know(a.v.Own())
		rule, why = m.RefusesForce()
	}); err != nil {
		return api.AsError(err)
	}
	if rule != "" {
		return api.Refusal(rule, object, why, lineage.NextOf(rule))
	}
	text := "the hook " + hook.Fence + " makes sure that " + orNobody(view.Source) + " is off"
	step(api.SwitchoverStep{Name: stepFenceHook, Text: text, State: "running"})
	result := a.runHook(ctx, hook.Fence, "KEELSON_OLD_SOURCE="+view.Source, "KEELSON_NEW_SOURCE="+r.To)
	if result.Err != nil {
		step(api.SwitchoverStep{Name: stepFenceHook, Text: text, State: "failed"})
		return api.Refusal(ruleFenceFailed, object, fmt.Sprintf("the hook %s at %s: %v%s", hook.Fence, a.n.cfg.Node, result.Err, said(result)),
			"see that "+orNobody(view.Source)+" is off, then ask again; with --no-fence the hook is not run")
	}
	step(api.SwitchoverStep{Name: stepFenceHook, Text: text, State: "done"})
	return nil
}
