package mirror

import (
	"fmt"
	"time"

	"keelson/internal/lineage"
)

// incoming is the session of this server's source.
type incoming struct {
	id      uint64
	session bool
	from    string
	term    lineage.Term
	inStep  bool
	ended   string // why the last one ended
	endedAt time.Time
	// lastInStep: the last one was in step when it ended, and nothing has begun to follow anybody since.
	lastInStep bool
}

// targetEvent handles events of the incoming session. They are void at a server that serves.
func (m *Machine) targetEvent(ev Event) {
	switch e := ev.(type) {
	case SessionAsked:
		m.sessionAsked(e)
	case SessionEnded:
		if m.in.is(e.ID) {
			m.in = incoming{from: m.in.from, term: m.in.term, ended: e.Why, endedAt: m.now, lastInStep: m.in.inStep || !m.in.session && m.in.lastInStep}
		}
	case Adopted:
		m.adopted(e)
	case RecordCame:
		m.recordCame(e)
	case SettingsCame:
		if !m.open && m.st.Role == lineage.RoleTarget {
			m.adoptSettings(e.Settings)
		}
	case RolledBack:
		m.rolledBack(e)
	}
}

// rolledBack: the record that the stream brought during the resync is of content that this copy gave back. A roll-back that a forced take-over
// ended with is known already: that one leaves the record in its own way.
func (m *Machine) rolledBack(e RolledBack) {
	if m.st.Role == lineage.RoleTarget && m.st.Record.Epoch != e.Record.Epoch {
		m.save(func(st *lineage.Standing) { st.Record = e.Record }) // also durably: a Save made before this was known may have undone it
	}
}

// is reports whether an event of the session with that id, 0 if that is not known, is of this one.
func (i incoming) is(id uint64) bool { return id == 0 || id == i.id }

func (m *Machine) adopted(e Adopted) {
	if m.st.Role != lineage.RoleTarget {
		return
	}
	m.in.inStep = m.in.inStep || m.in.session && m.in.is(e.ID) && e.Record.Epoch.Term == m.in.term
	followed := m.in.inStep
	// The shell has saved both already; saved again, because a Save made before this event was known may have undone that.
	m.save(func(st *lineage.Standing) {
		if st.Record.Epoch.Compare(e.Record.Epoch) < 0 {
			st.Record = e.Record
		}
		if st.Settings.Version.Compare(e.Settings.Version) < 0 {
			st.Settings = e.Settings.Clone()
		}
		st.Discard = st.Discard && !followed
	})
}

// recordCame: durable first, acknowledged then (rule 17).
func (m *Machine) recordCame(e RecordCame) {
	if m.st.Role != lineage.RoleTarget || !m.in.is(e.ID) || e.Record.Epoch.Term.Less(m.st.Promised) {
		return // of a session that is over
	}
	if m.st.Record.Epoch.Compare(e.Record.Epoch) < 0 {
		m.save(func(st *lineage.Standing) { st.Record = e.Record })
	}
	m.emit(AckRecord{e.Record.Epoch})
}

// sessionAsked accepts a source, or refuses it with a rule. The promise to follow its term is durable before it is accepted.
func (m *Machine) sessionAsked(e SessionAsked) {
	if rule, why := m.refuseSession(e); rule != "" {
		if rule == lineage.RuleDiskFailed {
			m.yield(e)
		}
		m.emit(RefuseSession{e.ID, rule, why})
		m.parts(e, rule, why)
		return
	}
	m.follow(e)
	m.in = incoming{id: e.ID, session: true, from: e.From, term: e.Term}
	m.emit(AcceptSession{e.ID})
}

// follow makes this server a target that follows the source which asks, durably.
func (m *Machine) follow(e SessionAsked) {
	m.giveUpForce(lineage.RuleNewerTerm, e.From+" is the source in the newer term "+e.Term.String())
	if m.st.Role == lineage.RoleSource || m.split != "" || m.st.Role == lineage.RoleHanded {
		m.stepDown(e)
	}
	changes := m.st.Role != lineage.RoleTarget || m.st.Promised.Less(e.Term)
	if changes && m.omits("promise-not-durable") {
		m.st = m.st.Clone()
		m.st.Role, m.st.Promised, m.st.Heir = lineage.RoleTarget, e.Term, nil
	} else if changes {
		m.save(func(st *lineage.Standing) { st.Role, st.Promised, st.Heir = lineage.RoleTarget, e.Term, nil })
	}
	m.boot, m.split, m.rival, m.refused = boot{}, "", "", ""
}

// stepDown ends what this server did as source, in favour of the one that asks.
func (m *Machine) stepDown(e SessionAsked) {
	if m.plan != nil {
		m.abort(stepDownRefusal(e))
	}
	if m.open {
		m.closeDevice(e.From + " is the source in the newer term " + e.Term.String())
	}
	if m.st.Role == lineage.RoleSource {
		m.note("warning", lineage.RuleNewerTerm, fmt.Sprintf("%s is the source in term %s: this server becomes its target", e.From, e.Term))
	}
	if m.st.Role == lineage.RoleHanded {
		m.handedOver()
	}
}

// parts notes that this server does not follow the source that asks.
func (m *Machine) parts(e SessionAsked, rule, why string) {
	if m.in.session && !m.in.term.Less(e.Term) {
		return // a late call of the source that it follows
	}
	if splits(rule) {
		m.holdFor(e.From, fmt.Sprintf("%s is the source in the newer term %s", e.From, e.Term))
		m.rival = e.From
		if m.split == "" {
			m.note("error", rule, why)
		}
		m.split, m.refused = why, rule
	}
	if m.split == "" {
		m.refused = rule
	}
}

// refuseSession says by which rule the source is refused; "" if it is not.
func (m *Machine) refuseSession(e SessionAsked) (rule, why string) {
	self := m.st.Settings.Find(m.cfg.Self)
	asker := m.st.Settings.Find(e.From)
	switch {
	case e.Term.Less(m.st.Promised) && !m.omits("accept-older-term"):
		return lineage.RuleOlderTerm, fmt.Sprintf("%s has promised to follow the newer term %s", m.cfg.Self, m.st.Promised)
	case e.From != e.Term.Node:
		return lineage.RuleWrongTermOwner, fmt.Sprintf("term %s is not %s's", e.Term, e.From)
	case m.st.Role == lineage.RoleSource && !m.st.Served.Less(e.Term):
		return lineage.RuleOlderTerm, fmt.Sprintf("%s is the source in term %s", m.cfg.Self, m.st.Served)
	case m.st.Role == lineage.RoleHanded && e.Term.Less(m.st.Heir.Term):
		return lineage.RuleHandedOver, fmt.Sprintf("%s has handed the role over to %s in term %s", m.cfg.Self, m.st.Heir.Node, m.st.Heir.Term)
	case m.removed(self, e.Term) || m.removed(asker, e.Term):
		return lineage.RuleRemoved, "the server was removed from the volume"
	case m.open: // also with a failed disk: what it answered is on its targets
	case e.Mine.Failed || m.failed != "":
		return lineage.RuleDiskFailed, fmt.Sprintf("the disk of %s failed: %s", m.cfg.Self, m.failed)
	case m.stalled != "":
		return lineage.RuleDiskStalled, fmt.Sprintf("the disk of %s hangs: %s", m.cfg.Self, m.stalled)
	}
	source := lineage.Replica{Node: e.From, History: e.History, Position: e.Position, Record: e.Record}
	mine := lineage.Replica{Node: m.cfg.Self, History: e.Mine.History, Position: e.Mine.Position, Record: m.st.Record, Discarding: m.st.Discard,
		Unsure: e.Mine.Unknown || e.Mine.Consistent != "yes" || m.open} // who serves may have answered more since
	if v := lineage.Stand(source, mine); !v.Follow {
		return v.Rule, fmt.Sprintf("%s cannot follow %s: %s", m.cfg.Self, e.From, v.Text)
	}
	if m.failed != "" {
		return lineage.RuleDiskFailed, fmt.Sprintf("the disk of %s failed: %s", m.cfg.Self, m.failed)
	}
	return "", ""
}

// removed reports whether the settings say, in that term or a newer one, that the member was removed.
func (m *Machine) removed(s *lineage.Member, term lineage.Term) bool {
	return s != nil && s.Removed && !m.st.Settings.Version.Term.Less(term)
}
