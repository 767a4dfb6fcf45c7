package mirror

import (
	"fmt"
	"strings"

	"keelson/internal/lineage"
)

// Held copies: with hold-old-copies a take-over by force leaves the copies of all other servers as they were, until an administrator has
// accepted the new source. For the source that is a pause: it dials none of them. What the first words of a session would have done at
// such a server its report does (followByReport). The copy stays what it was, and its server can take over by force like any other.

// holdCopies has the settings of a take-over by force keep the other copies as they were. A copy that an administrator has paused or
// broken stays his. Who is held then, those of an earlier take-over included.
func (m *Machine) holdCopies(s *lineage.Settings) (held []string) {
	for i := range s.Members {
		o := &s.Members[i]
		if o.Node == m.cfg.Self || o.Removed {
			continue
		}
		if s.HoldCopies && !o.Paused && !o.Broken && !m.omits("hold") {
			o.Paused, o.Held = true, true
		}
		if o.Held {
			held = append(held, o.Node)
		}
	}
	return held
}

// releaseCopies ends what holdCopies did, and says of whom.
func releaseCopies(s *lineage.Settings) (released []string) {
	for i := range s.Members {
		if o := &s.Members[i]; o.Held {
			o.Paused, o.Held = false, false
			if !o.Removed {
				released = append(released, o.Node)
			}
		}
	}
	return released
}

// accept has this source bring the copies up to date that its take-over held.
func (m *Machine) accept() {
	settings := m.st.Settings.Clone()
	held := releaseCopies(&settings)
	if len(held) == 0 {
		return
	}
	m.changeSettings(func(s *lineage.Settings) { s.Members = settings.Members })
	for _, node := range held {
		m.retrySoon(node)
	}
	m.note("info", lineage.RuleHeld, "the new source was accepted: the copies at "+strings.Join(held, ", ")+" are brought up to date")
}

// isHeld reports whether this server's own copy is held.
func (m *Machine) isHeld() bool {
	self := m.member(m.cfg.Self)
	return self != nil && self.Held && m.st.Role == lineage.RoleTarget
}

func heldReason(source string) string {
	return fmt.Sprintf("kept as it was until the new source %s is accepted", source)
}

// followByReport does what the first words of a session with that source would do, at a server which it does not dial because the mirror
// is held, paused or broken: this server promises its term, durably, and is no source any more; or it shows a split brain.
// Without it a server that was source would stay closed as one, and forget at its next start that another one has served since.
func (m *Machine) followByReport(e PeerSeen) {
	i := e.Info
	self := i.Settings.Find(m.cfg.Self)
	if !i.Known || !i.Serving || self == nil || self.Removed || !self.Paused && !self.Broken {
		return
	}
	if m.st.Role == lineage.RoleTarget && m.split == "" && !m.st.Promised.Less(i.Served) {
		return
	}
	asked := SessionAsked{From: e.Node, Term: i.Served, Record: i.Record, History: i.History, Position: i.Position, Mine: e.Mine}
	if rule, why := m.refuseSession(asked); rule != "" {
		if rule == lineage.RuleDiskFailed {
			m.yield(asked)
		}
		m.parts(asked, rule, why)
		return
	}
	m.follow(asked)
	if m.in.session {
		m.emit(DropSession{e.Node + " is the source in the newer term " + i.Served.String()})
	}
	if self.Held {
		m.note("info", lineage.RuleHeld, "the copy at "+m.cfg.Self+" is "+heldReason(e.Node))
	}
}
