package mirror

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	"keelson/internal/lineage"
	"keelson/internal/switchover"
)

func sortedLinks(links map[string]*link) iter.Seq2[string, *link] {
	return func(yield func(string, *link) bool) {
		for _, node := range slices.Sorted(maps.Keys(links)) {
			if !yield(node, links[node]) {
				return
			}
		}
	}
}

// plan is a planned switchover under way at the source, before its commit point. Afterwards token is what remains of it.
type plan struct {
	data     switchover.Plan
	command  uint64
	session  uint64 // of the heir
	started  time.Time
	deadline time.Time
	state    switchover.State
	step     string // shown as running
	asked    bool   // the checkpoints
}

// token is a hand-over after its commit point: repeated until the heir is seen to serve (rule 21).
type token struct {
	command  uint64 // 0: answered, or asked for before a restart
	deadline time.Time
	retry    time.Duration
	retryAt  time.Time
	started  time.Time
	why      string // what the heir said last
}

func (m *Machine) switchTo(c Command) {
	s := c.Switch
	if m.force != nil {
		m.reply(c.ID, lineage.RulePlanInProgress, "a forced take-over by "+m.cfg.Self+" is under way")
		return
	}
	if len(c.Mine.History) > 0 {
		m.own = c.Mine
	}
	if s.Force && s.To == m.cfg.Self && !m.open {
		m.forced(c)
		return
	}
	facts := m.Facts(s.To)
	if r := switchover.Check(facts); r != nil {
		m.emit(Reply{ID: c.ID, Rule: r.Rule, Err: r.Message, Fix: r.Next})
		return
	}
	limit := s.Limit
	if limit <= 0 {
		limit = m.cfg.HoldMax
	}
	m.plan = &plan{data: switchover.Planned(s.Plan, facts), command: c.ID, session: m.link(s.To).session, started: m.now, deadline: m.now.Add(limit)}
	m.emit(Hold{s.Plan})
}

// planEvent takes the answers to what the plan asked for. Those to an older plan, or of another session, are void.
func (m *Machine) planEvent(ev Event) {
	p := m.plan
	if p == nil {
		return
	}
	switch e := ev.(type) {
	case Drained:
		if e.Plan == p.data.ID {
			p.state.Drained, p.state.Number = true, e.Number
		}
	case CheckedHere:
		if e.Plan == p.data.ID && p.state.Drained {
			p.state.Here = &e.Last
		}
	case CheckedThere:
		if e.Target == p.data.To && e.Session == p.session && p.state.Drained {
			p.state.There = &e.Number
		}
	}
}

// planSettle does the plan's next step.
func (m *Machine) planSettle() {
	p := m.plan
	if p == nil {
		return
	}
	l := m.link(p.data.To)
	p.state.HeirInStep = l.session == p.session && l.phase >= inStep
	p.state.HeirRecorded = m.st.Record.Has(p.data.To)
	if p.state.Failed = m.failed; m.disk.via != "" {
		p.state.Failed = ""
	}
	p.state.Late = !m.now.Before(p.deadline)
	a := switchover.Next(p.data, p.state)
	m.showStep(a.Step)
	switch {
	case a.Refused != nil:
		m.abort(a.Refused)
	case a.Step == switchover.StepCheckpoint && !p.asked:
		p.asked = true
		m.emit(Checkpoint{p.data.ID}, SendCheckpoint{p.data.To})
	case a.Step == switchover.StepCommit:
		m.commit()
	}
}

func (m *Machine) showStep(step string) {
	p := m.plan
	if p.step == step {
		return
	}
	if p.step != "" {
		m.planStep(p.data, p.step, "done")
	}
	p.step = step
	m.planStep(p.data, step, "running")
}

func (m *Machine) planStep(data switchover.Plan, step, state string) {
	for _, s := range data.Steps {
		if s.Name == step {
			m.emit(PlanStep{data.ID, step, s.Text, state})
		}
	}
}

// abort gives the plan up before its commit point: the source serves on, the held writes included.
func (m *Machine) abort(r *switchover.Refusal) {
	p := m.plan
	m.plan = nil
	m.emit(Release{})
	m.planStep(p.data, p.step, "failed")
	m.emit(Reply{ID: p.command, Rule: r.Rule, Err: r.Message, Fix: r.Next})
	m.note("warning", r.Rule, fmt.Sprintf("switchover to %s was given up: %s", p.data.To, r.Message))
}

// commit is the commit point: from the Save on only the heir may serve. Nothing is sent before it is durable, the device is
// closed before the token leaves, and sending it promises its term (rule 20).
func (m *Machine) commit() {
	p := m.plan
	term := lineage.Term{N: m.highestTerm() + 1, Node: p.data.To}
	record := lineage.Record{Epoch: lineage.Epoch{Term: term}, Members: m.present(), Since: p.state.Number, After: m.st.Record.Epoch}
	heir := lineage.Heir{Node: p.data.To, Term: term, Plan: p.data.ID, Last: *p.state.Here, Record: record, Settings: m.st.Settings.Clone()}
	if m.omits("save-before-token") {
		m.emit(CloseDevice{"handed over"}, DeliverToken{heir})
	}
	m.save(func(st *lineage.Standing) { st.Role, st.Promised, st.Heir = lineage.RoleHanded, term, &heir })
	m.showStep(switchover.StepHandOver)
	m.closeDevice(fmt.Sprintf("%s is the next source", p.data.To))
	m.token = token{command: p.command, started: p.started, deadline: m.now.Add(m.cfg.HoldMax)}
	m.plan = nil
}

// present are the members of the record that the heir inherits: those in step. One that is lost now would only keep the
// heir's first answers waiting; it is left out as if an answer had waited for it here, and joins when it is back.
func (m *Machine) present() []string {
	return slices.DeleteFunc(slices.Clone(m.st.Record.Members), func(node string) bool {
		return node != m.cfg.Self && m.link(node).phase < inStep
	})
}

// highestTerm is the greatest number of a term that this server has heard of.
func (m *Machine) highestTerm() uint64 {
	n := m.st.Promised.N
	for _, p := range m.peers {
		if p.ever {
			n = max(n, p.info.Promised.N)
		}
	}
	return n
}

// closeDevice throws applications out and ends all mirrors.
func (m *Machine) closeDevice(why string) {
	if !m.open {
		return
	}
	m.open, m.newer, m.rival = false, "", ""
	m.emit(CloseDevice{why})
	for node, l := range sortedLinks(m.links) {
		if l.phase != idle {
			m.emit(Hangup{node, why})
		}
	}
	m.links = map[string]*link{}
}

// tokenSettle repeats the token with back-off, for ever; the command that asked for it waits no longer than its limit.
func (m *Machine) tokenSettle() {
	if m.st.Role != lineage.RoleHanded {
		return
	}
	t := &m.token
	if m.omits("take-back") && !t.deadline.IsZero() && !m.now.Before(t.deadline) {
		m.save(func(st *lineage.Standing) { st.Role, st.Heir = lineage.RoleSource, nil })
		m.openAsSource()
		return
	}
	if t.command != 0 && !m.now.Before(t.deadline) {
		message := fmt.Sprintf("the role was handed to %s, which has not answered yet; it is repeated", m.st.Heir.Node)
		if t.why != "" {
			message += "; last: " + t.why
		}
		m.emit(Reply{ID: t.command, Rule: lineage.RuleHandedOver, Err: message, Fix: lineage.NextOf(lineage.RuleHandedOver), Unfinished: true})
		t.command = 0
	}
	if m.st.Heir.Term.Less(m.st.Promised) { // somebody took over by force, or tried to: it speaks for no older term
		return
	}
	if m.force != nil || m.now.Before(t.retryAt) || m.omits("token-not-repeated") && t.retry > 0 {
		return
	}
	t.retry = min(max(2*t.retry, m.cfg.RetryMin), m.cfg.RetryMax)
	t.retryAt = m.now.Add(t.retry)
	heir := *m.st.Clone().Heir
	m.emit(DeliverToken{heir})
}

func (m *Machine) tokenAnswer(e TokenAnswer) {
	if m.st.Role != lineage.RoleHanded || e.Node != m.st.Heir.Node || e.Plan != m.st.Heir.Plan && !m.omits("plan-in-answer") {
		return
	}
	if e.Taken {
		m.handedOver()
		return
	}
	if news := m.token.why; news != e.Why {
		m.note("warning", e.Rule, fmt.Sprintf("%s has not taken over yet: %s", e.Node, e.Why))
	}
	m.token.why = e.Why
}

// heirSeen ends the hand-over when any server is seen to have served its term, or a later one.
func (m *Machine) heirSeen(i PeerInfo) {
	if m.st.Role == lineage.RoleHanded && i.Known && i.Served.Compare(m.st.Heir.Term) >= 0 {
		m.handedOver()
	}
}

// handedOver makes this server a target: the heir serves.
func (m *Machine) handedOver() {
	heir := *m.st.Heir
	m.believed = heir.Term
	m.save(func(st *lineage.Standing) { st.Role, st.Heir = lineage.RoleTarget, nil })
	m.emit(PlanStep{heir.Plan, switchover.StepHandOver, "the role was handed to " + heir.Node, "done"},
		PlanStep{heir.Plan, switchover.StepServe, heir.Node + " serves in term " + heir.Term.String(), "done"})
	if m.token.command != 0 {
		m.reply(m.token.command, "", "")
	}
	m.token = token{}
}

func diskRefusal(why string) *switchover.Refusal {
	return &switchover.Refusal{Rule: lineage.RuleDiskFailed, Message: why, Next: lineage.NextOf(lineage.RuleDiskFailed)}
}

func stepDownRefusal(e SessionAsked) *switchover.Refusal {
	return &switchover.Refusal{Rule: lineage.RuleNewerTerm, Message: e.From + " is the source in a newer term", Next: lineage.NextOf(lineage.RuleNewerTerm)}
}
