package mirror

import (
	"fmt"

	"keelson/internal/lineage"
	"keelson/internal/switchover"
)

// resolve carries out an administrator's choice between the sides of a split brain (rule 25).
func (m *Machine) resolve(c Command) {
	m.own = c.Mine
	switch keep := c.Resolve.Keep; {
	case m.st.Settings.Find(keep) == nil || keep == m.cfg.Self && m.member(keep) == nil: // one side may have removed the other
		m.reply(c.ID, lineage.RuleNotAMember, keep+" holds no copy of the volume")
	case m.force != nil || m.plan != nil:
		m.reply(c.ID, lineage.RulePlanInProgress, "a switchover is under way")
	case keep != m.cfg.Self && !m.twoSides(keep):
		m.reply(c.ID, lineage.RuleNoSplitBrain, fmt.Sprintf("%s shows no split brain: it gives nothing up", m.cfg.Self))
	case keep != m.cfg.Self:
		m.giveIn(c)
	case m.open:
		m.keepServing(c)
	default:
		m.forceHere(c, "resolve", true, true)
	}
}

// twoSides reports whether something known here shows that this server is one side of a split brain.
func (m *Machine) twoSides(keep string) bool {
	if m.st.Discard || m.newer != "" || m.split != "" {
		return true
	}
	if l := m.links[keep]; l != nil && splits(l.rule) {
		return true
	}
	p := m.peer(keep)
	if p.up && p.info.Split != "" {
		return true
	}
	return m.st.Role == lineage.RoleSource && p.up && p.info.Known && p.info.Role == lineage.RoleSource
}

// splits reports whether a session refused by that rule shows a split brain.
func splits(rule string) bool {
	return rule == lineage.RuleSplitBrain || rule == lineage.RuleReverted || rule == lineage.RuleNewerThanSource
}

// giveIn makes this server a target that will follow whoever is kept; what it has of its own goes to a salvage then.
func (m *Machine) giveIn(c Command) {
	why := fmt.Sprintf("an administrator keeps %s", c.Resolve.Keep)
	m.closeDevice(why)
	if m.token.command != 0 {
		m.reply(m.token.command, lineage.RuleSplitBrain, why)
	}
	m.token = token{}
	m.save(func(st *lineage.Standing) {
		st.Role, st.Heir = lineage.RoleTarget, nil
		st.Discard = !m.omits("discard-forgotten")
	})
	m.boot, m.split, m.newer, m.rival, m.refused, m.over = boot{}, "", "", "", "", overrule{}
	m.note("warning", lineage.RuleSplitBrain, why+": what only this server holds is given up when it follows")
	m.reply(c.ID, "", "")
}

// keepServing lets this source go on; the other side was told already.
func (m *Machine) keepServing(c Command) {
	if m.newer != "" {
		m.newer, m.rival = "", ""
		m.emit(Release{})
	}
	m.split, m.refused = "", ""
	for node, l := range sortedLinks(m.links) {
		if splits(l.rule) {
			l.rule, l.reason = "", "connecting to "+node
		}
		m.retrySoon(node)
	}
	m.note("warning", lineage.RuleSplitBrain, "an administrator keeps this side")
	m.accept()
	m.reply(c.ID, "", "")
}

// risk is what this server knows about a forced take-over by itself. The shell fills in the lag.
func (m *Machine) risk() *switchover.Risk {
	if m.open {
		return nil
	}
	r := &switchover.Risk{Mine: m.own.Survivor(m.cfg.Self, m.st.Clone().Record), Consistent: m.own.Consistent, InStep: m.in.from == m.source() && (m.in.lastInStep || m.in.session && m.in.inStep),
		Never: !Whole(m.cfg.Self, m.own.History, m.st.Record), Foreign: m.own.Foreign}
	if m.st.Heir != nil {
		r.HandedTo = m.st.Heir.Node
	}
	if self := m.member(m.cfg.Self); self != nil {
		r.Async = self.Mode == lineage.Async
	}
	if at := m.heard(m.source()); !at.IsZero() {
		r.Heard, r.Silent = true, m.now.Sub(at)
	}
	for _, node := range m.others() {
		p := m.peer(node)
		if node == m.source() && !p.up || !p.ever || !p.info.Known {
			continue
		}
		i := p.info
		if (i.Failed || i.Stuck != "") && i.Record.Epoch.Compare(m.st.Record.Epoch) <= 0 { // what it answered is what the record promises
			continue
		}
		r.Others = append(r.Others, switchover.Seen{Reachable: p.up, Survivor: lineage.Survivor{Node: node, Record: i.Record, Floor: i.Floor, Position: i.Position, Consistent: i.Consistent != "no", Foreign: i.Foreign}})
	}
	return r
}
