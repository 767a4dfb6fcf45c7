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
	copies  int                      // ... and its Copies
	dropped map[string]lineage.Epoch // who left the record, by the epoch that says so
}

// A target joins the in-sync set in three steps, each of which the next one needs:
//
//  1. It has caught up: everything answered is durable there, and answers wait for it as long as its session lives.
//  2. Require names it: answers wait for it even if its session ends. Only then the record as it is goes to it.
//  3. It acknowledges that record in the same session, so the session lived throughout and nothing was answered without
//     it. Now the record names it.
//
// Without 2, a session that ends before its end is known here makes a member of a target that lacks an answered write.
// Without 3, a member is born whose own record still names a server that was lost while it joined; as a survivor it would
// rank that one above itself.
func (m *Machine) join(node string, l *link) {
	if m.st.Record.Has(node) {
		return
	}
	l.told = true
	if !m.omits("require-after-admit") {
		m.requireSettle()
	}
	m.emit(SendRecord{node, m.st.Record})
	if m.omits("admit-unread") || m.omits("require-after-admit") {
		m.admit(node, l)
	}
}

func (m *Machine) recordAcked(e RecordAcked) {
	l := m.links[e.Target]
	if l == nil {
		return
	}
	l.acked = later(l.acked, e.Epoch)
	if m.current(e.Target, e.Session) == nil || !l.told {
		return
	}
	l.heard = later(l.heard, e.Epoch)
	if l.phase == caught && !m.st.Record.Has(e.Target) && l.heard.Compare(m.st.Record.Epoch) >= 0 {
		m.admit(e.Target, l)
	}
}

func later(a, b lineage.Epoch) lineage.Epoch {
	if a.Compare(b) < 0 {
		return b
	}
	return a
}

func (m *Machine) admit(node string, l *link) {
	m.save(func(st *lineage.Standing) { st.Record = st.Record.With(node, st.Record.Since) })
	delete(m.required.dropped, node)
	l.since, l.told = m.st.Record.Epoch, true
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

// spreadRecord sends the record to every member in step, and to those that join; others get it at the end of their resync.
func (m *Machine) spreadRecord() {
	for node, l := range sortedLinks(m.links) {
		if l.told {
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
	if m.copies(lost...) < m.minCopies() { // nothing is answered without them (rule 18): they need not leave
		return
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

// requireSettle tells the data path for whom answers wait: the members, those who join, and who left the record until
// every member that remains has that record durably.
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
	for node, l := range m.links {
		if l.told {
			want = append(want, node)
		}
	}
	slices.Sort(want)
	want = slices.Compact(want)
	if copies := m.minCopies(); !slices.Equal(want, m.required.sent) || copies != m.required.copies {
		m.required.sent, m.required.copies = want, copies
		m.emit(Require{slices.Clone(want), copies})
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
