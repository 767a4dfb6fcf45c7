package mirror

import (
	"fmt"
	"time"

	"keelson/internal/lineage"
)

// overrule is how a source, serving or at its start, goes on although a newer term was promised in which nobody serves: it
// asks the server which that term names to give it up, durably, and then takes a number above it (rule 24).
type overrule struct {
	term, next lineage.Term // asked to give up; in favour of
	asked      time.Time
	why        string // why it was not given up
}

const overruleEvery = time.Second

// unserved is the greatest term that is promised, as far as this server knows, above the one that it serves; and who
// promised it.
func (m *Machine) unserved() (top lineage.Term, by string) {
	top, by = m.st.Served, ""
	if top.Less(m.st.Promised) {
		top, by = m.st.Promised, m.cfg.Self
	}
	for _, node := range m.others() {
		if p := m.peer(node); p.ever && p.info.Known && top.Less(p.info.Promised) {
			top, by = p.info.Promised, node
		}
	}
	return top, by
}

// overruleSettle lets a serving source overrule a newer promise that it meets.
func (m *Machine) overruleSettle() {
	if m.newer != "" || m.plan != nil || m.failed != "" {
		return
	}
	if top, by := m.unserved(); by != "" {
		m.askToGiveUp(top)
	} else {
		m.over = overrule{}
	}
}

// askToGiveUp asks the server that the term names; a term of this server's own needs no asking.
func (m *Machine) askToGiveUp(top lineage.Term) {
	if top.Node == m.cfg.Self || m.omits("vouch-skipped") {
		m.goOnIn(lineage.Term{N: m.highestTerm() + 1, Node: m.cfg.Self}, top)
		return
	}
	if m.over.term == top && m.now.Sub(m.over.asked) < overruleEvery {
		return
	}
	why := m.over.why
	if m.over.term != top {
		why = ""
	}
	m.over = overrule{term: top, next: lineage.Term{N: m.highestTerm() + 1, Node: m.cfg.Self}, asked: m.now, why: why}
	if m.member(top.Node) == nil {
		m.over.why = top.Node + " is not a member of the volume"
		return
	}
	m.emit(GiveUp{top.Node, top, m.over.next})
}

func (m *Machine) giveUpAnswer(e GiveUpAnswer) {
	o := &m.over
	if e.Term != o.term || e.New != o.next || m.st.Role != lineage.RoleSource || m.newer != "" || m.plan != nil || !m.open && !m.boot.waiting {
		return
	}
	if !e.OK {
		o.why = e.Node + " does not give it up: " + e.Why
		if e.Rule == "" {
			o.why = e.Node + " cannot be asked to give it up: " + e.Why
		}
		return
	}
	if p := m.peer(e.Node); p.info.Promised.Less(e.New) {
		p.info.Promised, p.ever = e.New, true
	}
	top, _ := m.unserved()
	if top != e.New { // somebody promised a still newer one
		return
	}
	m.goOnIn(e.New, e.Term)
}

// goOnIn begins a new record in a term above every promise: what was in sync stays so, and sessions begin anew.
func (m *Machine) goOnIn(next, given lineage.Term) {
	m.over = overrule{}
	change := func(st *lineage.Standing) {
		st.Promised, st.Served = next, next
		if !m.omits("renew-skipped") {
			st.Record = lineage.Record{Epoch: lineage.Epoch{Term: next}, Members: st.Record.Members, Since: st.Record.Since, After: st.Record.Epoch}
		}
	}
	why := fmt.Sprintf("nobody serves in term %s, which was promised to %s; %s goes on as the source in term %s", given, given.Node, m.cfg.Self, next)
	if m.boot.waiting {
		m.st = m.st.Clone()
		change(&m.st)
		m.note("warning", lineage.RuleOverruled, why)
		m.openAsSource()
		return
	}
	m.save(change)
	m.note("warning", lineage.RuleOverruled, why)
	m.required.dropped = raised(m.required.dropped, m.st.Record.Epoch)
	for node, l := range sortedLinks(m.links) {
		m.hangup(node, "the source goes on in the newer term "+next.String())
		l.since, l.lostAt, l.expectUntil = lineage.Epoch{}, time.Time{}, m.now.Add(m.cfg.JoinWait)
		l.retry, l.retryAt = 0, m.now
	}
}

// raised says of everybody who left the record that the new epoch says so.
func raised(dropped map[string]lineage.Epoch, to lineage.Epoch) map[string]lineage.Epoch {
	for node := range dropped {
		dropped[node] = to
	}
	return dropped
}

// giveUpAsked gives a promised term up that names this server, durably, unless it serves or served in it.
func (m *Machine) giveUpAsked(e GiveUpAsked) {
	if rule, why := m.refuseGiveUp(e); rule != "" {
		m.reply(e.ID, rule, why)
		return
	}
	m.giveUpForce(lineage.RuleSourceAlive, fmt.Sprintf("%s is the source and overruled term %s", e.From, e.Term))
	if m.st.Promised.Less(e.New) {
		m.save(func(st *lineage.Standing) { st.Promised = e.New })
	}
	m.reply(e.ID, "", "")
}

func (m *Machine) refuseGiveUp(e GiveUpAsked) (rule, why string) {
	switch {
	case e.Term.Node != m.cfg.Self || e.New.Node != e.From:
		return lineage.RuleWrongTermOwner, fmt.Sprintf("term %s is not %s's to give up in favour of %s", e.Term, m.cfg.Self, e.New)
	case m.open:
		return lineage.RuleSourceAlive, fmt.Sprintf("%s serves the volume in term %s", m.cfg.Self, m.st.Served)
	case m.st.Role == lineage.RoleSource && e.Term.Compare(m.st.Served) <= 0:
		return lineage.RuleSourceClosed, fmt.Sprintf("%s was the source in term %s", m.cfg.Self, m.st.Served)
	case m.st.Role == lineage.RoleHanded:
		return lineage.RuleHandedOver, fmt.Sprintf("%s has handed the role over to %s", m.cfg.Self, m.st.Heir.Node)
	case e.New.Less(m.st.Promised):
		return lineage.RuleOlderTerm, fmt.Sprintf("%s has promised the newer term %s", m.cfg.Self, m.st.Promised)
	}
	return "", ""
}
