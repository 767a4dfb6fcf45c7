package mirror

import (
	"fmt"
	"slices"

	"keelson/internal/lineage"
)

// tokenCame takes the role of source, late and more than once if need be (rule 21).
func (m *Machine) tokenCame(e TokenCame) {
	h := e.Heir
	if h.Node == m.cfg.Self && m.st.Served.Compare(h.Term) >= 0 {
		m.reply(e.ID, "", "") // it serves that term, or did; nothing to do
		return
	}
	if rule, why := m.refuseToken(e); rule != "" {
		m.reply(e.ID, rule, why)
		return
	}
	m.giveUpForce(lineage.RuleNewerTerm, fmt.Sprintf("%s hands the role over in the newer term %s", e.From, h.Term))
	m.emit(DropSession{"this server becomes the source"})
	m.st = m.st.Clone()
	m.st.Role, m.st.Promised, m.st.Served, m.st.Heir, m.st.Discard = lineage.RoleSource, h.Term, h.Term, nil, false
	m.st.Record = h.Record
	m.st.Record.Members = slices.Clone(h.Record.Members)
	if m.st.Settings.Version.Compare(h.Settings.Version) < 0 {
		m.st.Settings = h.Settings.Clone()
	}
	m.st.Settings = m.st.Settings.Clone()
	bump(&m.st.Settings, h.Term) // newer than what any abandoned line has
	m.emit(BecomeSource{Standing: m.st.Clone()})
	m.serve()
	m.note("info", "", fmt.Sprintf("took the role of source over from %s, term %s", e.From, h.Term))
	m.reply(e.ID, "", "")
}

// refuseToken says by which rule the hand-over is refused; "" if it is not.
func (m *Machine) refuseToken(e TokenCame) (rule, why string) {
	h, mine := e.Heir, e.Mine
	for _, node := range m.others() {
		if p := m.peer(node); p.up && p.info.Known && (h.Term.Less(p.info.Served) || h.Term.Less(p.info.Record.Epoch.Term)) {
			return lineage.RuleNewerTerm, fmt.Sprintf("%s knows a source of a newer term than %s", node, h.Term)
		}
	}
	switch {
	case h.Node != m.cfg.Self || h.Term.Node != m.cfg.Self:
		return lineage.RuleWrongHeir, fmt.Sprintf("the hand-over is for %s", h.Node)
	case h.Term.Less(m.st.Promised):
		return lineage.RuleOlderTerm, fmt.Sprintf("%s has promised the newer term %s", m.cfg.Self, m.st.Promised)
	case m.in.session && m.in.from != e.From: // Mine may be from before that began to change this copy
		return lineage.RuleSourceAlive, fmt.Sprintf("%s has a session with the source %s in term %s", m.cfg.Self, m.in.from, m.in.term)
	case m.st.Role != lineage.RoleTarget:
		return lineage.RuleNotTarget, fmt.Sprintf("%s is not a target but %s", m.cfg.Self, m.st.Role)
	case m.member(m.cfg.Self) == nil && m.st.Settings.Find(m.cfg.Self) != nil && h.Settings.Version.Compare(m.st.Settings.Version) <= 0:
		return lineage.RuleRemoved, fmt.Sprintf("%s was removed from the volume", m.cfg.Self)
	case mine.Failed || m.failed != "":
		return lineage.RuleDiskFailed, fmt.Sprintf("the disk of %s failed", m.cfg.Self)
	case mine.Consistent != "yes":
		return lineage.RuleNotConsistent, fmt.Sprintf("%s is in the middle of a resync", m.cfg.Self)
	case mine.Position != h.Last || len(mine.History) > 0 && mine.History.Last().ID != h.Last.Gen:
		return lineage.RulePositionDiffers, fmt.Sprintf("%s is at number %d, %s handed over at %d", m.cfg.Self, mine.Position.Number, e.From, h.Last.Number)
	}
	return "", ""
}
