package mirror

import (
	"fmt"
	"slices"

	"keelson/internal/lineage"
)

// minCopies is how many copies have to hold a write before it is answered (rule 18).
func (m *Machine) minCopies() int { return max(m.st.Settings.MinCopies, 1) }

// copies counts the copies of the record that hold a write when it is answered: this server's own, unless its disk failed,
// those of sync members, and the one that it serves from instead, without the ones named.
func (m *Machine) copies(without ...string) int {
	n := 0
	for _, node := range m.st.Record.Members {
		s := m.member(node)
		if !slices.Contains(without, node) && (node == m.cfg.Self && m.failed == "" || node != m.cfg.Self && s != nil && (s.Mode == lineage.Sync || node == m.disk.via)) {
			n++
		}
	}
	return n
}

// copiesNow are those of them that can acknowledge a write now.
func (m *Machine) copiesNow() int {
	var absent []string
	for _, node := range m.st.Record.Members {
		if node != m.cfg.Self && m.link(node).phase < inStep {
			absent = append(absent, node)
		}
	}
	return m.copies(absent...)
}

// copiesSettle tells the administrator when there are too few copies, and when there are enough again.
func (m *Machine) copiesSettle() {
	short := m.minCopies() > 1 && m.copiesNow() < m.minCopies()
	if short == m.short {
		return
	}
	if m.short = short; short {
		m.note("warning", lineage.RuleMinCopies, m.tooFew())
	} else {
		m.note("info", "", fmt.Sprintf("enough copies hold a write again (%d): writes go on", m.copiesNow()))
	}
}

func (m *Machine) tooFew() string {
	return fmt.Sprintf("too few copies would hold a write (%d, min-copies is %d): writes are held, and fail after a while", m.copiesNow(), m.minCopies())
}

// setVolume changes settings of the volume as a whole.
func (m *Machine) setVolume(c Command) {
	copies, hold := m.st.Settings.MinCopies, m.st.Settings.HoldCopies
	if c.Set.MinCopies != nil {
		copies = *c.Set.MinCopies
	}
	if c.Set.HoldCopies != nil {
		hold = *c.Set.HoldCopies
	}
	if hold && copies > 1 && (c.Set.MinCopies != nil || c.Set.HoldCopies != nil) {
		m.emit(Reply{ID: c.ID, Rule: lineage.RuleBadSetting, Err: "hold-old-copies and min-copies above 1 exclude each other: a new source whose other copies are held could answer no write",
			Fix: "choose one: keelson volume set VOLUME --min-copies 1, or --hold-old-copies off"})
		return
	}
	if n := c.Set.MinCopies; n != nil {
		if most := m.possible(nil); *n < 1 || *n > most {
			m.reply(c.ID, lineage.RuleBadSetting, fmt.Sprintf("min-copies is 1 to %d here (the source and its sync targets), not %d", most, *n))
			return
		}
		m.changeSettings(func(s *lineage.Settings) {
			if s.MinCopies = *n; *n == 1 {
				s.MinCopies = 0
			}
		})
	}
	if c.Set.HoldCopies != nil {
		m.changeSettings(func(s *lineage.Settings) { s.HoldCopies = hold })
	}
	if c.Set.Accept {
		m.accept()
	}
	m.reply(c.ID, "", "")
}

// possible is how many copies could hold a write if every mirror worked, after that change.
func (m *Machine) possible(c *Change) int {
	n := 1
	for _, node := range m.others() {
		s := *m.member(node)
		if c != nil && c.Target == node {
			switch {
			case c.Action == "pause", c.Action == "break", c.Action == "remove":
				continue
			case c.Action == "set" && c.Mode != nil:
				s.Mode = *c.Mode
			}
		}
		if s.Mode == lineage.Sync && !s.Paused && !s.Broken {
			n++
		}
	}
	return n
}

// refuseFew refuses a change after which no write could be answered any more; "" if it may be done.
func (m *Machine) refuseFew(c Change) (rule, message string) {
	if after := m.possible(&c); after < m.minCopies() && after < m.possible(nil) {
		return lineage.RuleMinCopies, fmt.Sprintf("too few copies would be left (%d, min-copies is %d): no write could be answered", after, m.minCopies())
	}
	return "", ""
}
