package mirror

import (
	"fmt"
	"time"

	"keelson/internal/lineage"
)

// aliveMax is how long a peer's word that it serves counts after it was last heard.
const aliveMax = 3 * time.Second

// fenceAsked promises a forced take-over's term and hangs up the old source, or refuses because that one lives (rule 22).
// The promise is durable before anything is said.
func (m *Machine) fenceAsked(e FenceAsked) {
	m.own = e.Mine
	if rule, why := m.refuseFence(e); rule != "" {
		m.reply(e.ID, rule, why)
		return
	}
	m.giveUpForce(lineage.RuleOlderTerm, fmt.Sprintf("%s takes over by force in the newer term %s", e.From, e.Term))
	if m.st.Promised.Less(e.Term) {
		m.promise(e.Term)
	}
	m.emit(DropSession{e.From + " takes over by force in term " + e.Term.String()})
	if rule, why := m.cannotCount(e.Mine); rule != "" {
		m.reply(e.ID, rule, why)
		return
	}
	m.reply(e.ID, "", "")
}

// promise is durable before the next effect.
func (m *Machine) promise(t lineage.Term) {
	if m.omits("fence-not-durable") {
		m.st = m.st.Clone()
		m.st.Promised = t
		return
	}
	m.save(func(st *lineage.Standing) { st.Promised = t })
}

func (m *Machine) refuseFence(e FenceAsked) (rule, why string) {
	if alive := m.sourceAlive(e.From); alive != "" && !m.omits("serving-not-refused") {
		return lineage.RuleSourceAlive, alive
	}
	switch {
	case e.From != e.Term.Node:
		return lineage.RuleWrongTermOwner, fmt.Sprintf("term %s is not %s's", e.Term, e.From)
	case e.Term.Less(m.st.Promised):
		return lineage.RuleOlderTerm, fmt.Sprintf("%s has promised the newer term %s", m.cfg.Self, m.st.Promised)
	case m.removed(m.st.Settings.Find(e.From), e.Term):
		return lineage.RuleRemoved, e.From + " was removed from the volume"
	}
	return "", ""
}

// cannotCount says why this copy is no survivor although this server promised: an administrator has to choose first, or
// its disk cannot be read, or it was put back to an older one.
func (m *Machine) cannotCount(mine Own) (rule, why string) {
	switch {
	case m.split != "":
		return lineage.RuleSplitBrain, m.split
	case m.st.Discard:
		return lineage.RuleSplitBrain, m.cfg.Self + " is to give its surplus up"
	case m.failed != "" || mine.Failed:
		return lineage.RuleDiskFailed, fmt.Sprintf("the disk of %s failed", m.cfg.Self)
	case m.boot.waiting && m.boot.rule == lineage.RuleReverted:
		return m.boot.rule, m.boot.reason
	}
	return "", ""
}

// sourceAlive says which server, other than the one that asks, is known to serve; "" if none is.
func (m *Machine) sourceAlive(asker string) string {
	if m.open {
		return m.cfg.Self + " serves the volume"
	}
	if m.in.session && m.in.from != asker {
		return fmt.Sprintf("%s has a session with the source %s", m.cfg.Self, m.in.from)
	}
	if node := m.serving(asker, m.in.endedAt); node != "" {
		return fmt.Sprintf("%s has just heard that %s serves the volume", m.cfg.Self, node)
	}
	return ""
}

// RefusesForce says by which rule a forced take-over here would be refused before anybody is asked; "" if it would not be. Know
// comes first.
func (m *Machine) RefusesForce() (rule, why string) { return m.refuseForce(false) }

// serving is a peer, other than except, that said within aliveMax, and after that moment, that it serves, and has not fallen
// silent since; "" if there is none. What was said before a session with it ended says nothing.
func (m *Machine) serving(except string, after time.Time) string {
	for _, node := range m.others() {
		p := m.peer(node)
		if node != except && p.up && p.info.Known && p.info.Serving && p.at.After(after) && m.now.Sub(p.at) < aliveMax {
			return node
		}
	}
	return ""
}

// giveUpForce ends a forced take-over that is under way here, by that rule. Its term stays promised, and is nobody's.
func (m *Machine) giveUpForce(rule, why string) {
	f := m.force
	if f == nil {
		return
	}
	m.endForce()
	m.planStep(f.data, f.step, "failed")
	m.emit(Reply{ID: f.command, Rule: rule, Err: why, Fix: lineage.NextOf(rule)})
	m.note("warning", rule, "the forced take-over was given up: "+why)
}

// endForce forgets the take-over. A source that waits at its start asks everybody again: what they said before is old.
func (m *Machine) endForce() {
	m.force = nil
	if m.boot.waiting {
		m.boot.asked = time.Time{}
		for _, p := range m.peers {
			p.up, p.why = false, "not asked again yet"
		}
	}
}
