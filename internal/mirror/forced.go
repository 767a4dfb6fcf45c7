package mirror

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"keelson/internal/lineage"
	"keelson/internal/switchover"
)

// takeover is a forced take-over under way here (rule 22): this server has promised its term and waits for the promises
// of the others, each with what that server holds.
type takeover struct {
	data     switchover.Plan
	command  uint64
	term     lineage.Term
	started  time.Time
	deadline time.Time
	step     string
	waiting  map[string]bool
	mine     *Own // from this server's own answer
	best     lineage.Survivor
	reports  []lineage.Survivor
	unusable []string // who promised, and why its copy does not count
	silent   []string
	told     bool   // it carries a choice between two sides out
	noCatch  bool   // told to go on although another survivor may hold more
	planned  string // the survivor that the plan takes from; without its word the plan would not be what was shown
	risks    []string
}

// forceHere begins a forced take-over by this server. told: an administrator chose this side of a split brain.
func (m *Machine) forceHere(c Command, plan string, noCatchUp, told bool) {
	m.own = c.Mine
	if rule, why := m.refuseForce(told); rule != "" {
		m.reply(c.ID, rule, why)
		return
	}
	facts := m.Facts(m.cfg.Self)
	if facts.Risk != nil {
		facts.Risk.NoCatchUp = noCatchUp || told
	}
	f := &takeover{planned: facts.Risk.CatchUp(), data: switchover.Forced(plan, facts), command: c.ID, noCatch: noCatchUp || told, told: told, waiting: map[string]bool{},
		term: lineage.Term{N: m.highestTerm() + 1, Node: m.cfg.Self}, started: m.now, deadline: m.now.Add(m.cfg.FenceMax), step: switchover.StepFence}
	f.risks = f.data.Risks
	nodes := append([]string{m.cfg.Self}, m.others()...)
	for _, n := range nodes {
		f.waiting[n] = true
	}
	m.force = f
	m.promise(f.term)
	m.emit(DropSession{"this server takes over by force"})
	m.planStep(f.data, f.step, "running")
	m.emit(Fence{plan, f.term, nodes})
}

// refuseForce says by which rule a forced take-over here is refused before it begins; "" if it is not.
func (m *Machine) refuseForce(told bool) (rule, why string) {
	if alive := m.sourceAlive(""); alive != "" {
		return lineage.RuleSourceAlive, alive
	}
	switch {
	case m.st.Role == lineage.RoleHanded && m.token.command != 0:
		return lineage.RulePlanInProgress, "the role was handed to " + m.st.Heir.Node + ", which has not answered yet"
	case m.st.Discard && !told:
		return lineage.RuleSplitBrain, m.cfg.Self + " is to give its surplus up"
	case m.member(m.cfg.Self) == nil:
		return lineage.RuleNotAMember, m.cfg.Self + " holds no copy of the volume"
	case m.split != "" && !told:
		return lineage.RuleSplitBrain, m.split
	case m.failed != "" || m.own.Failed:
		return lineage.RuleDiskFailed, fmt.Sprintf("the disk of %s failed", m.cfg.Self)
	case m.own.Consistent == "no":
		return lineage.RuleNotConsistent, m.cfg.Self + " is in the middle of a resync that cannot be rolled back"
	case !Whole(m.cfg.Self, m.own.History, m.st.Record):
		return lineage.RuleNotConsistent, m.cfg.Self + " has never held a whole copy of the volume"
	}
	return "", ""
}

func (m *Machine) fenceAnswer(e FenceAnswer) {
	f := m.force
	if f == nil || e.Plan != f.data.ID || !f.waiting[e.Node] {
		return
	}
	delete(f.waiting, e.Node)
	switch {
	case e.Node == m.cfg.Self:
		m.own = e.Mine
		f.mine, f.best = &e.Mine, e.Survivor
		f.reports = append(f.reports, e.Survivor)
	case e.OK:
		f.reports = append(f.reports, e.Survivor)
	case e.Rule == lineage.RuleSourceAlive || e.Rule == lineage.RuleOlderTerm || e.Rule == lineage.RuleRemoved:
		m.giveUpForce(e.Rule, e.Node+" refused: "+e.Why)
	case e.Rule == "":
		f.silent = append(f.silent, e.Node)
	default:
		f.unusable = append(f.unusable, fmt.Sprintf("%s (%s)", e.Node, e.Why))
	}
}

// forceSettle decides once every server has answered, or the wait for them is over.
func (m *Machine) forceSettle() {
	f := m.force
	if f == nil {
		return
	}
	if node := m.serving("", f.started); node != "" {
		m.giveUpForce(lineage.RuleSourceAlive, node+" serves the volume")
		return
	}
	if late := !m.now.Before(f.deadline); len(f.waiting) > 0 && (!late || f.waiting[m.cfg.Self]) {
		return
	}
	for _, n := range m.others() {
		if f.waiting[n] {
			f.silent = append(f.silent, n)
		}
	}
	if r := m.judgeSurvivors(); r != nil {
		m.endForce()
		m.planStep(f.data, f.step, "failed")
		m.emit(*r)
		m.note("warning", r.Rule, "the forced take-over was given up: "+r.Err)
		return
	}
	m.takeOver()
}

// judgeSurvivors compares who answered (rule 22): nil if this server may take over, otherwise the refusal.
func (m *Machine) judgeSurvivors() *Reply {
	f := m.force
	mine := f.best
	for _, s := range f.reports {
		if m.better(s, f.best) {
			f.best = s
		}
	}
	refuse := func(rule, better, format string, args ...any) *Reply {
		return &Reply{ID: f.command, Rule: rule, Err: fmt.Sprintf(format, args...), Fix: lineage.NextOf(rule), Better: better}
	}
	settings := m.newestSettings(f.reports)
	switch self := settings.Find(m.cfg.Self); {
	case self == nil || self.Removed:
		return refuse(lineage.RuleRemoved, "", "%s was removed from the volume, as another server knows", m.cfg.Self)
	case f.mine.Failed:
		return refuse(lineage.RuleDiskFailed, "", "the disk of %s failed", m.cfg.Self)
	case f.mine.Consistent == "no":
		return refuse(lineage.RuleNotConsistent, "", "%s is in the middle of a resync that cannot be rolled back", m.cfg.Self)
	case f.planned != "" && !slices.ContainsFunc(f.reports, func(s lineage.Survivor) bool { return s.Node == f.planned }):
		return refuse(lineage.RuleBehindSurvivor, "", "%s may hold answered writes that %s lacks, and does not answer any more", f.planned, m.cfg.Self)
	case f.best.Node == m.cfg.Self:
		return nil
	case f.noCatch:
		if lost := f.best.Node + " may hold answered writes that " + m.cfg.Self + " lacks"; !slices.ContainsFunc(f.risks, func(r string) bool { return strings.HasPrefix(r, lost) }) {
			f.risks = append(f.risks, lost+": "+survivorText(f.best)+"; "+survivorText(mine))
		}
		return nil
	case !f.best.Consistent:
		no := refuse(lineage.RuleNotConsistent, "", "%s may hold answered writes that %s lacks, but is in the middle of a resync that cannot be rolled back", f.best.Node, m.cfg.Self)
		no.Fix = fmt.Sprintf("bring its source back, and wait for the end of the resync; or, if that is gone, do without what only %s has (--force --no-catch-up): that goes to its salvage", f.best.Node)
		return no
	case settings.HoldCopies:
		no := refuse(lineage.RuleBehindSurvivor, "", "%s may hold answered writes that %s lacks, and with hold-old-copies nothing is copied before a new source is accepted", f.best.Node, m.cfg.Self)
		no.Fix = switchover.FirstAccept(f.best.Node, m.cfg.Self)
		return no
	}
	return refuse(lineage.RuleBehindSurvivor, f.best.Node, "%s may hold answered writes that %s lacks: %s; %s", f.best.Node, m.cfg.Self, survivorText(f.best), survivorText(mine))
}

func (m *Machine) better(s, t lineage.Survivor) bool {
	if m.omits("compare-by-position-only") {
		return s.Position.Number > t.Position.Number
	}
	return s.Compare(t) > 0
}

func survivorText(s lineage.Survivor) string {
	text := fmt.Sprintf("%s is at number %d and knows the in-sync record %s.%d", s.Node, s.Position.Number, s.Record.Epoch.Term, s.Record.Epoch.N)
	if !s.Record.Has(s.Node) {
		text += ", which it is not in"
	}
	return text
}

// takeOver makes this server the source of a new term, alone in its record. Record.After is set only if it was a member of
// the record that it leaves: then whoever followed that record, or an older one, answered nothing without it.
func (m *Machine) takeOver() {
	f := m.force
	m.force, m.boot = nil, boot{}
	m.planStep(f.data, f.step, "done")
	if f.mine.Consistent == "rolling" && !m.omits("no-roll-back") {
		m.emit(RollBack{})
	}
	old := m.st.Record
	record := lineage.Record{Epoch: lineage.Epoch{Term: f.term}, Members: []string{m.cfg.Self}, Since: f.mine.Position.Number}
	if old.Has(m.cfg.Self) {
		record.After = old.Epoch
	}
	m.st = m.st.Clone()
	m.st.Role, m.st.Promised, m.st.Served, m.st.Heir, m.st.Discard, m.st.Record = lineage.RoleSource, f.term, f.term, nil, false, record
	m.st.Settings = m.newestSettings(f.reports)
	bump(&m.st.Settings, f.term) // newer than what any other line has
	if own := m.st.Settings.Find(m.cfg.Self); own != nil {
		own.Paused, own.Held, own.Broken = false, false, false // as a target; it is none, and would find its mirror paused when it is one again
	}
	var held []string
	if f.told { // who chose a side of a split brain has accepted it
		releaseCopies(&m.st.Settings)
	} else {
		held = m.holdCopies(&m.st.Settings)
	}
	m.token = token{}
	m.emit(BecomeSource{Standing: m.st.Clone()})
	m.serve()
	m.planStep(f.data, switchover.StepServe, "done")
	m.note("warning", lineage.RuleForced, fmt.Sprintf("%s became the source by force, term %s%s", m.cfg.Self, f.term, f.remains()))
	if len(held) > 0 {
		m.note("warning", lineage.RuleHeld, "the copies at "+strings.Join(held, ", ")+" are kept as they were until the new source "+m.cfg.Self+" is accepted")
	}
	m.reply(f.command, "", "")
}

// newestSettings are the newest that this server or one of the survivors has: no pause, no removal gets lost.
func (m *Machine) newestSettings(survivors []lineage.Survivor) lineage.Settings {
	newest := m.st.Settings
	for _, s := range survivors {
		if p := m.peers[s.Node]; p != nil && p.info.Known && newest.Version.Compare(p.info.Settings.Version) < 0 {
			newest = p.info.Settings
		}
	}
	return newest.Clone()
}

// remains says what a take-over left behind.
func (f *takeover) remains() string {
	var out []string
	if len(f.silent) > 0 {
		slices.Sort(f.silent)
		out = append(out, "not reached: "+strings.Join(f.silent, ", "))
	}
	if len(f.unusable) > 0 {
		out = append(out, "not counted: "+strings.Join(f.unusable, ", "))
	}
	for _, r := range f.risks {
		out = append(out, "at risk: "+r)
	}
	if out == nil {
		return ""
	}
	return "; " + strings.Join(out, "; ")
}
