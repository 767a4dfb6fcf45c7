package mirror

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"keelson/internal/lineage"
)

// required is for whom answers wait: the members of the record, and those that left it until that is durable on
// every member that remains (rule 17).
type required struct {
	sent    []string                 // of the last Require
	dropped map[string]lineage.Epoch // who left the record, by the epoch that says so
}

// admitSettle makes targets members that have caught up: everything answered is durable there, and so is the record as
// it is now. Without the latter a newcomer would count whose own record still names a member that was lost while it joined,
// and as a survivor it would rank that one above itself.
func (m *Machine) admitSettle() {
	for node, l := range sortedLinks(m.links) {
		switch {
		case l.phase < inStep || m.st.Record.Has(node):
		case l.phase == caught && l.acked.Compare(m.st.Record.Epoch) >= 0,
			l.phase == caught && m.omits("admit-unread"), m.omits("admit-early"):
			m.admit(node, l)
		}
	}
}

func (m *Machine) admit(node string, l *link) {
	m.save(func(st *lineage.Standing) { st.Record = st.Record.With(node, st.Record.Since) })
	delete(m.required.dropped, node)
	l.since = m.st.Record.Epoch
	m.spreadRecord()
	m.noteOn("mirror "+m.cfg.Self+"->"+node, "info", lineage.RuleAdmit, node+" joined the in-sync set")
}

// shrink takes members out of the record, durably here and then through the streams.
func (m *Machine) shrink(why string, nodes ...string) {
	nodes = slices.DeleteFunc(nodes, func(n string) bool { return !m.st.Record.Has(n) || n == m.cfg.Self })
	if len(nodes) == 0 {
		return
	}
	m.save(func(st *lineage.Standing) { m.leave(st, nodes...) })
	m.spreadRecord()
	m.note("warning", lineage.RuleShrink, fmt.Sprintf("%s left the in-sync set: %s", strings.Join(nodes, ", "), why))
}

// leave is the part of shrink that changes the standing, for changes saved together with others.
func (m *Machine) leave(st *lineage.Standing, nodes ...string) {
	st.Record = st.Record.Without(st.Record.Since, nodes...)
	for _, n := range nodes {
		m.required.dropped[n] = st.Record.Epoch
		m.link(n).since = lineage.Epoch{}
	}
}

// spreadRecord sends the record to every target in step; one that is not gets it at the end of its resync.
func (m *Machine) spreadRecord() {
	for _, node := range m.others() {
		if l := m.links[node]; l != nil && l.phase >= inStep {
			m.emit(SendRecord{node, m.st.Record})
		}
	}
}

// answersWait records as lost every member that keeps an answer waiting for longer than its limit.
func (m *Machine) answersWait() {
	var lost []string
	for _, node := range m.st.Record.Members {
		if node == m.cfg.Self {
			continue
		}
		if l := m.link(node); l.phase < inStep && !m.now.Before(m.lostFrom(node, l)) {
			lost = append(lost, node)
		}
	}
	m.shrink("an answer waited for it", lost...)
}

// lostFrom is when a member that is not in step, and keeps an answer waiting, counts as lost.
func (m *Machine) lostFrom(node string, l *link) time.Time {
	if s := m.member(node); s == nil || s.Paused || s.Broken {
		return m.now
	}
	if !l.expectUntil.IsZero() {
		return l.expectUntil
	}
	if l.lostAt.IsZero() {
		l.lostAt = m.now
	}
	if l.phase >= comparing { // it is back, and has until then to come into step
		return l.lostAt.Add(max(m.cfg.ShrinkAfter, m.cfg.JoinWait))
	}
	return l.lostAt.Add(m.cfg.ShrinkAfter)
}

// requireSettle tells the data path for whom answers wait. Who left the record is waited for until every member that
// remains has that record durably.
func (m *Machine) requireSettle() {
	var want []string
	for _, node := range m.st.Record.Members {
		if node != m.cfg.Self {
			want = append(want, node)
			delete(m.required.dropped, node)
		}
	}
	for node, epoch := range m.required.dropped {
		if m.ackedByAll(epoch) || m.omits("require-early") {
			delete(m.required.dropped, node)
			continue
		}
		want = append(want, node)
	}
	slices.Sort(want)
	if !slices.Equal(want, m.required.sent) {
		m.required.sent = want
		m.emit(Require{slices.Clone(want)})
	}
}

func (m *Machine) ackedByAll(epoch lineage.Epoch) bool {
	for _, node := range m.st.Record.Members {
		if node != m.cfg.Self && m.link(node).acked.Compare(epoch) < 0 {
			return false
		}
	}
	return true
}
