package mirror

import (
	"fmt"
	"time"

	"keelson/internal/lineage"
	"keelson/internal/switchover"
)

// State of a mirror, the first that applies, as status shows it.
type State string

// The states of a mirror.
const (
	SplitBrain    State = "SplitBrain"
	Failed        State = "Failed"
	Broken        State = "Broken"
	Paused        State = "Paused"
	Resync        State = "Resync"
	ResyncPending State = "ResyncPending"
	Mirroring     State = "Mirroring"
)

// View is what status shows of the machine. It shares nothing with it.
type View struct {
	Role    lineage.Role
	Open    bool   // the device is open: applications are let in
	Reason  string // why a source is closed, or holds its writes, or a target has no source; "" if nothing is wrong
	Rule    string // of Reason
	Source  string // believed to be the source; "" if none is known
	Term    lineage.Term
	Record  lineage.Record
	Mirrors []MirrorView // a source's: of every member not removed; a target's: its own
	Plan    *PlanView
	Failed  string
	Stalled string // why its disk hangs
	Split   string // why this copy may not follow the source that asks
	Via     string // the target whose copy a source with a failed disk serves from
	// Copies that a write would be on now, and have to be.
	Copies, MinCopies int
	// Candidates for a switchover, sorted by name, without this server unless it is not the source.
	Candidates []Candidate
	Settings   lineage.Settings
}

// MirrorView is one mirror.
type MirrorView struct {
	Source, Target string
	Mode           lineage.Mode
	State          State
	Reason, Rule   string
	Kind           string // of the resync under way, or last in this session
	Session        uint64 // 0: none
	NotPromotable  string // why the target cannot become source, not even by force; "" if it can
}

// PlanView is a switchover under way.
type PlanView struct {
	ID, To, Step, Waits string
	Started             time.Time
	Committed           bool
}

// Candidate says whether the volume can be switched over to that server now, without force.
type Candidate struct {
	To     string
	OK     bool
	Rule   string
	Reason string
}

// View is what status shows.
func (m *Machine) View() View {
	s := m.st.Clone()
	v := View{Role: s.Role, Open: m.open, Term: s.Promised, Record: s.Record, Settings: s.Settings, Failed: m.failed, Stalled: m.stalled, Split: m.split, Via: m.disk.via, MinCopies: m.minCopies(), Source: m.source()}
	if m.open || s.Role == lineage.RoleSource {
		v.Term = s.Served
	}
	if m.open {
		v.Copies = m.copiesNow()
	}
	v.Rule, v.Reason = m.reason()
	if s.Role == lineage.RoleSource {
		for _, node := range m.others() {
			v.Mirrors = append(v.Mirrors, m.mirrorView(node))
		}
	} else if self := m.member(m.cfg.Self); self != nil {
		v.Mirrors = append(v.Mirrors, m.ownMirror(*self))
	}
	v.Plan = m.planView()
	for _, member := range s.Settings.Members {
		if member.Removed || member.Node == m.cfg.Self && s.Role == lineage.RoleSource {
			continue
		}
		c := Candidate{To: member.Node, OK: true}
		if r := switchover.Check(m.Facts(member.Node)); r != nil {
			c = Candidate{To: member.Node, Rule: r.Rule, Reason: r.Message}
		}
		v.Candidates = append(v.Candidates, c)
	}
	return v
}

// source is the server believed to be the source.
func (m *Machine) source() string {
	switch m.st.Role {
	case lineage.RoleSource:
		return m.cfg.Self
	case lineage.RoleHanded:
		return m.st.Heir.Node
	}
	best, node := m.in.term, m.in.from
	for _, t := range []lineage.Term{m.st.Record.Epoch.Term, m.believed} {
		if best.Less(t) && t.Node != m.cfg.Self {
			best, node = t, t.Node
		}
	}
	for name, p := range m.peers {
		if p.ever && p.info.Known && p.info.Role == lineage.RoleSource && !p.info.Served.Less(best) {
			best, node = p.info.Served, name
		}
	}
	if node == "" {
		return m.st.Promised.Node
	}
	return node
}

// heard is when that server was last heard; zero: not since the start.
func (m *Machine) heard(node string) time.Time {
	at := m.peer(node).at
	if node == m.in.from {
		if m.in.session {
			return m.now
		}
		if at.Before(m.in.endedAt) {
			at = m.in.endedAt
		}
	}
	return at
}

func (m *Machine) reason() (rule, reason string) {
	switch {
	case m.split != "":
		return m.refused, m.split
	case m.newer != "":
		return lineage.RuleSplitBrain, m.newer
	case m.boot.waiting:
		return m.boot.rule, m.boot.reason
	case m.open && m.failed != "" && m.disk.via == "":
		return lineage.RuleDiskFailed, "the disk failed (" + m.failed + "); nothing is answered until the targets know that it is no copy any more"
	case m.open && m.failed != "":
		return lineage.RuleServesFromTarget, fmt.Sprintf("the disk of %s failed (%s); reads and writes go to %s", m.cfg.Self, m.failed, m.disk.via)
	case m.failed != "":
		return lineage.RuleDiskFailed, "the disk failed: " + m.failed
	case m.stalled != "":
		return lineage.RuleDiskStalled, "the disk hangs: " + m.stalled
	case m.open && m.short:
		return lineage.RuleMinCopies, m.tooFew()
	case m.open && m.over.why != "":
		return lineage.RuleUnservedTerm, fmt.Sprintf("term %s is promised and nobody serves in it; %s", m.over.term, m.over.why)
	case m.st.Role == lineage.RoleHanded:
		if m.st.Heir.Term.Less(m.st.Promised) {
			return lineage.RuleHandedOver, fmt.Sprintf("handed over to %s in term %s, and promised to follow nobody below %s", m.st.Heir.Node, m.st.Heir.Term, m.st.Promised)
		}
		return lineage.RuleHandedOver, "handed over to " + m.st.Heir.Node + ", which has not answered yet"
	case m.isHeld():
		return lineage.RuleHeld, heldReason(m.source())
	}
	return "", ""
}

// mirrorView is a mirror as its source sees it.
func (m *Machine) mirrorView(node string) MirrorView {
	s, l := m.member(node), m.link(node)
	v := MirrorView{Source: m.cfg.Self, Target: node, Mode: s.Mode, Kind: l.kind, Session: l.session, Rule: l.rule, Reason: l.reason}
	switch {
	case splits(l.rule) || m.rival == node || m.boot.by == node && m.boot.rule == lineage.RuleSplitBrain:
		v.State = SplitBrain
		if v.Reason == "" {
			v.Rule, v.Reason = m.reason()
		}
	case (s.Paused || s.Broken) && m.peer(node).info.Split != "":
		v.State, v.Reason, v.Rule = SplitBrain, m.peer(node).info.Split, lineage.RuleSplitBrain
	case l.failed:
		v.State = Failed
	case s.Broken:
		v.State, v.Reason, v.Rule = Broken, "broken by an administrator", lineage.RuleBroken
	case s.Held:
		v.State, v.Reason, v.Rule = Paused, heldReason(m.cfg.Self), lineage.RuleHeld
	case s.Paused:
		v.State, v.Reason, v.Rule = Paused, "paused by an administrator", lineage.RulePaused
	case m.recorded(node, l) && l.phase >= inStep:
		v.State, v.Reason = Mirroring, ""
	case l.phase >= comparing:
		v.State = Resync
	default:
		v.State = ResyncPending
		if v.Reason == "" {
			v.Reason = "connecting to " + node
		}
		if m.open && m.failed != "" {
			v.Rule, v.Reason = lineage.RuleServesFromTarget, "the disk of the source failed: it can bring nobody up to date; switch over first"
		}
		if m.boot.waiting {
			v.Rule, v.Reason = m.boot.rule, "the source is not open: "+m.boot.reason
		}
	}
	v.NotPromotable = m.notPromotable(node, v.State)
	return v
}

// notPromotable is NotPromotable as a source knows it.
func (m *Machine) notPromotable(node string, s State) string {
	switch s {
	case Mirroring:
		return ""
	case Failed:
		return "the disk of " + node + " failed"
	case SplitBrain:
		return "an administrator has to choose a side of the split brain first"
	}
	return NotPromotable(node, m.peer(node).info)
}

// recorded reports whether the target is a member of the durable record and has said that it knows.
func (m *Machine) recorded(node string, l *link) bool {
	return m.st.Record.Has(node) && l.since != lineage.Epoch{} && l.acked.Compare(l.since) >= 0
}

// ownMirror is this server's mirror as its target sees it.
func (m *Machine) ownMirror(s lineage.Member) MirrorView {
	v := MirrorView{Source: m.source(), Target: m.cfg.Self, Mode: s.Mode}
	switch {
	case m.split != "":
		v.State, v.Reason, v.Rule = SplitBrain, m.split, m.refused
	case m.failed != "":
		v.State, v.Reason, v.Rule = Failed, m.failed, lineage.RuleDiskFailed
	case m.stalled != "":
		v.State, v.Reason, v.Rule = ResyncPending, "the disk hangs: "+m.stalled, lineage.RuleDiskStalled
	case s.Broken:
		v.State, v.Reason, v.Rule = Broken, "broken by an administrator", lineage.RuleBroken
	case s.Held:
		v.State, v.Reason, v.Rule = Paused, heldReason(v.Source), lineage.RuleHeld
	case s.Paused:
		v.State, v.Reason, v.Rule = Paused, "paused by an administrator", lineage.RulePaused
	case m.in.session && m.in.inStep && m.st.Record.Has(m.cfg.Self):
		v.State = Mirroring
	case m.in.session && m.in.inStep:
		v.State, v.Reason = Resync, "waiting until everything answered is on its disk"
	case m.in.session:
		v.State, v.Reason = Resync, "being brought up to date"
	default:
		v.State, v.Reason = ResyncPending, "no session with the source "+m.source()
		if m.in.ended != "" {
			v.Reason += ": " + m.in.ended
		}
	}
	return v
}

func (m *Machine) planView() *PlanView {
	if f := m.force; f != nil {
		return &PlanView{ID: f.data.ID, To: f.data.To, Step: f.step, Waits: "the other servers to promise", Started: f.started}
	}
	if p := m.plan; p != nil {
		a := switchover.Next(p.data, p.state)
		return &PlanView{ID: p.data.ID, To: p.data.To, Step: a.Step, Waits: a.Waits, Started: p.started}
	}
	if h := m.st.Heir; h != nil {
		return &PlanView{ID: h.Plan, To: h.Node, Step: switchover.StepHandOver, Waits: h.Node + " to take over", Started: m.token.started, Committed: true}
	}
	return nil
}

// Facts are what this server knows about a wish to make that server the source; with them switchover.Planned shows the plan.
// LagBytes is the shell's to fill in.
func (m *Machine) Facts(to string) switchover.Facts {
	f := switchover.Facts{Self: m.cfg.Self, To: to, Source: m.source(), SelfServes: m.open, SelfFailed: m.failed, SelfVia: m.disk.via, SelfHolds: m.newer, HoldOld: m.st.Settings.HoldCopies, Heir: m.targetFacts(to)}
	if m.boot.waiting {
		f.SelfWaits = m.boot.reason
	}
	if p := m.planView(); p != nil {
		f.Running = p.ID
	}
	if to == m.cfg.Self {
		f.Risk = m.risk()
	}
	if p := m.peers[f.Source]; p != nil && p.up && (!p.info.Failed && p.info.Stuck == "" || p.info.Serving) || m.in.session {
		f.SourceReachable = true
	}
	if p := m.peers[f.Source]; p != nil && p.up && p.info.Failed {
		f.SourceFailed = true
	}
	if p := m.peers[f.Source]; p != nil && p.up && !p.info.Serving {
		f.SourceStuck = p.info.Stuck
	}
	for _, node := range m.others() {
		f.Others = append(f.Others, m.targetFacts(node))
	}
	return f
}

func (m *Machine) targetFacts(node string) switchover.Target {
	s := m.member(node)
	if s == nil {
		return switchover.Target{Node: node}
	}
	t := switchover.Target{Node: node, Known: true, Mode: s.Mode, Paused: s.Paused, Held: s.Held, Broken: s.Broken}
	if l := m.links[node]; l != nil && m.open {
		t.Failed, t.Linked, t.InStep, t.Recorded = l.failed, l.phase >= comparing, l.phase >= inStep, m.recorded(node, l)
		t.Reason = l.reason
	}
	return t
}
