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
	why        string                // why it was not given up
	given      map[lineage.Term]bool // those above the term served that were given up
}

const overruleEvery = time.Second

// unserved is the greatest term that is promised, as far as this server knows, above the one that it serves; and who
// promised it: "" if there is none.
func (m *Machine) unserved() (top lineage.Term, by string) {
	top = m.st.Served
	m.promises(func(t lineage.Term, node string) {
		if top.Less(t) {
			top, by = t, node
		}
	})
	return top, by
}

// promises calls f with every promise that is known and newer than the term that this server serves.
func (m *Machine) promises(f func(t lineage.Term, by string)) {
	if m.st.Served.Less(m.st.Promised) {
		f(m.st.Promised, m.cfg.Self)
	}
	for _, node := range m.others() {
		if p := m.peer(node); p.ever && p.info.Known && m.st.Served.Less(p.info.Promised) {
			f(p.info.Promised, node)
		}
	}
}

// foreign is the greatest newer promise that names another server, which has not given it up; by is "" if there is none.
func (m *Machine) foreign() (top lineage.Term, by string) {
	m.promises(func(t lineage.Term, node string) {
		if t.Node != m.cfg.Self && !m.over.given[t] && top.Less(t) {
			top, by = t, node
		}
	})
	return top, by
}

// overruleSettle lets a serving source overrule the newer promises that it meets.
func (m *Machine) overruleSettle() {
	if m.newer != "" || m.plan != nil || m.failed != "" {
		return
	}
	if _, by := m.unserved(); by != "" {
		m.askToGiveUp()
	} else {
		m.over = overrule{}
	}
}

// askToGiveUp asks the server that a newer promise names to give it up, one after the other. Terms of this server's own
// need no asking. When all are given up it goes on.
func (m *Machine) askToGiveUp() {
	top, by := m.foreign()
	o := &m.over
	switch {
	case by == "" || m.omits("vouch-skipped"):
		m.goOn()
		return
	case o.term == top && m.now.Sub(o.asked) < overruleEvery:
		return
	case o.term != top:
		o.why = ""
	}
	o.term, o.next, o.asked = top, lineage.Term{N: m.highestTerm() + 1, Node: m.cfg.Self}, m.now
	if m.member(top.Node) == nil {
		o.why = top.Node + " is not a member of the volume"
		return
	}
	m.emit(GiveUp{top.Node, top, o.next})
}

func (m *Machine) giveUpAnswer(e GiveUpAnswer) {
	o := &m.over
	switch {
	case e.OK: // it promised e.New: it never serves e.Term
		if o.given == nil {
			o.given = map[lineage.Term]bool{}
		}
		o.given[e.Term] = true
		if p := m.peer(e.Node); p.info.Promised.Less(e.New) {
			p.info.Promised, p.ever = e.New, true
		}
	case e.Term != o.term:
	case e.Rule == "":
		o.why = e.Node + " cannot be asked to give it up: " + e.Why
	default:
		o.why = e.Node + " does not give it up: " + e.Why
	}
}

// goOn begins a new record in a term above every promise: what was in sync stays so, and sessions begin anew.
func (m *Machine) goOn() {
	given, _ := m.unserved()
	next := given
	if next.Node != m.cfg.Self {
		next = lineage.Term{N: m.highestTerm() + 1, Node: m.cfg.Self}
	}
	m.over = overrule{}
	change := func(st *lineage.Standing) {
		st.Promised, st.Served = next, next
		bump(&st.Settings, next)
		if !m.omits("renew-skipped") {
			st.Record = lineage.Record{Epoch: lineage.Epoch{Term: next}, Members: st.Record.Members, Since: st.Record.Since, After: st.Record.Epoch}
		}
	}
	why := fmt.Sprintf("nobody serves in the newer terms that were promised; %s goes on as the source in term %s", m.cfg.Self, next)
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
	case m.st.Role == lineage.RoleHanded && e.Term.Compare(m.st.Served) <= 0:
		return lineage.RuleHandedOver, fmt.Sprintf("%s has handed the role over to %s", m.cfg.Self, m.st.Heir.Node)
	case e.New.Less(m.st.Promised):
		return lineage.RuleOlderTerm, fmt.Sprintf("%s has promised the newer term %s", m.cfg.Self, m.st.Promised)
	}
	return "", ""
}
