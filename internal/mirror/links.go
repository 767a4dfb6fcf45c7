package mirror

import (
	"time"

	"keelson/internal/lineage"
)

// link is the source's end of one mirror.
type link struct {
	session uint64 // 0: none; events of another session are void
	phase   phase
	kind    string // of the resync, from Compared
	bytes   int64
	full    uint64 // the FullAsked that this session's full resync answers
	failed  bool   // the target's disk
	rule    string // why it is not Mirroring
	reason  string
	noted   string // the rule by which the target ended the last session, as it was told; "" since it was in step

	retry       time.Duration // next back-off
	retryAt     time.Time
	expectUntil time.Time // answers wait for it until then, even if it has no session
	lostAt      time.Time // of the first answer that waited for it since it was lost; zero: none did

	acked lineage.Epoch // the newest record that it has durably
	told  bool          // records go to it in this session
	heard lineage.Epoch // the newest record that it acknowledged in this session
	since lineage.Epoch // it is a member since that record, as far as this source says; zero: it is none
}

// phase of a link.
type phase int

const (
	idle      phase = iota
	dialing         // Dial was asked for
	comparing       // the target accepted
	resyncing       // the comparison is done
	inStep          // the resync ended; answers wait for it
	caught          // it holds everything answered
)

func (m *Machine) link(node string) *link {
	l := m.links[node]
	if l == nil {
		l = &link{}
		m.links[node] = l
	}
	return l
}

// sourceEvent handles events of a source's links and of its plan. Those of an older session, or after the role is gone, are void.
func (m *Machine) sourceEvent(ev Event) {
	m.hangupStray(ev)
	if !m.open {
		return
	}
	switch e := ev.(type) {
	case LinkUp:
		if l := m.current(e.Target, e.Session); l != nil {
			l.phase, l.failed, l.rule, l.reason = comparing, false, "", "comparing both copies"
		}
	case LinkRefused:
		m.linkRefused(e)
	case LinkDown:
		m.linkDown(e)
	case Compared:
		if l := m.current(e.Target, e.Session); l != nil {
			l.phase, l.kind, l.bytes, l.reason = max(l.phase, resyncing), e.Kind, e.Bytes, "copying what differs ("+e.Kind+")"
		}
	case InStep:
		m.linkInStep(e)
	case Caught:
		if l := m.current(e.Target, e.Session); l != nil && l.phase == inStep {
			l.phase = caught
			m.join(e.Target, l)
		}
	case RecordAcked:
		m.recordAcked(e)
	case AnswersWait:
		m.answersWait()
	case Drained, CheckedHere, CheckedThere:
		m.planEvent(ev)
	}
}

// hangupStray ends a session that came up although nobody wants it any more: it was hung up while it began.
func (m *Machine) hangupStray(ev Event) {
	target := ""
	switch e := ev.(type) {
	case LinkUp:
		target = e.Target
	case Compared:
		target = e.Target
	case InStep:
		target = e.Target
	default:
		return
	}
	if l := m.links[target]; !m.open || l == nil || l.phase == idle {
		m.emit(Hangup{target, "the session is not wanted any more"})
	}
}

func (m *Machine) current(target string, session uint64) *link {
	if l := m.links[target]; l != nil && session != 0 && l.session == session {
		return l
	}
	return nil
}

// dialDue begins and ends sessions as the settings want it. A source whose own disk failed begins none: it could bring
// nobody up to date.
func (m *Machine) dialDue() {
	if m.failed != "" {
		return
	}
	for _, node := range m.others() {
		s, l := m.member(node), m.link(node)
		if s.Paused || s.Broken {
			m.hangup(node, "the mirror is "+pausedOrBroken(s))
			continue
		}
		if l.phase != idle || m.now.Before(l.retryAt) {
			continue
		}
		m.sessions++
		l.session, l.phase, l.full = m.sessions, dialing, 0
		if s.FullAsked > s.FullDone {
			l.full = s.FullAsked
		}
		m.emit(Dial{Target: node, Session: l.session, Full: l.full > 0})
	}
}

func pausedOrBroken(s *lineage.Member) string {
	if s.Broken {
		return "broken"
	}
	return "paused"
}

// hangup ends the session, if there is one, and forgets it.
func (m *Machine) hangup(node, why string) {
	l := m.links[node]
	if l == nil || l.phase == idle {
		return
	}
	m.emit(Hangup{node, why})
	m.dropSession(l, "", why)
	l.retry, l.retryAt = 0, m.now
}

func (m *Machine) dropSession(l *link, rule, why string) {
	l.session, l.phase, l.rule, l.reason = 0, idle, rule, why
	l.told, l.heard = false, lineage.Epoch{}
	if l.retry == 0 {
		l.retry = m.cfg.RetryMin
	}
	l.retryAt = m.now.Add(l.retry)
	l.retry = min(2*l.retry, m.cfg.RetryMax)
}

// retrySoon dials a server at once that is heard of again.
func (m *Machine) retrySoon(node string) {
	if l := m.links[node]; l != nil && l.phase == idle {
		l.retry, l.retryAt = 0, m.now
	}
}

func (m *Machine) linkDown(e LinkDown) {
	l := m.current(e.Target, e.Session)
	if l == nil {
		return
	}
	was, rule := l.phase, e.Rule
	if rule != "" { // it will say so again
		l.retry = m.cfg.RetryMax
	}
	if e.Failed {
		l.failed, rule = true, lineage.RuleDiskFailed
		l.retry = m.cfg.RetryMax
	}
	m.dropSession(l, rule, e.Why)
	news := rule == "" || l.noted != rule
	if l.noted = rule; was >= comparing && news {
		m.noteOn("mirror "+m.cfg.Self+"->"+e.Target, "warning", rule, "the session ended: "+e.Why)
	}
}

func (m *Machine) linkRefused(e LinkRefused) {
	l := m.current(e.Target, e.Session)
	if l == nil {
		return
	}
	if p := m.peer(e.Target); p.info.Promised.Less(e.Promised) {
		p.info.Promised, p.ever = e.Promised, true
	}
	news := l.rule != e.Rule
	l.failed = e.Rule == lineage.RuleDiskFailed
	m.dropSession(l, e.Rule, e.Target+" refused: "+e.Message)
	if news {
		m.noteOn("mirror "+m.cfg.Self+"->"+e.Target, "warning", e.Rule, l.reason)
	}
}

// linkInStep: the target holds the source's history and position, durably. It learns the record from the stream; if it is
// a member already it counts from when it has that; otherwise it is admitted when it has caught up (rule 17).
func (m *Machine) linkInStep(e InStep) {
	l := m.current(e.Target, e.Session)
	if l == nil || l.phase >= inStep {
		return
	}
	l.phase, l.retry, l.expectUntil, l.lostAt, l.reason = inStep, 0, time.Time{}, time.Time{}, "waiting until everything answered is on its disk"
	l.since, l.noted = lineage.Epoch{}, ""
	if s := m.member(e.Target); s != nil && l.full > s.FullDone {
		m.changeSettings(func(st *lineage.Settings) { st.Find(e.Target).FullDone = l.full })
	}
	if m.st.Record.Has(e.Target) {
		l.since, l.told = m.st.Record.Epoch, true
		m.emit(SendRecord{e.Target, m.st.Record})
	}
	if m.omits("admit-early") && !l.told {
		m.admit(e.Target, l)
	}
}
