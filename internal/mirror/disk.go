package mirror

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"keelson/internal/lineage"
)

// lostDisk is what an open source does whose own disk failed (guarantee 9, rule 17). From the failure on the data path
// answers nothing. In this order:
//
//  1. Sessions that the disk would have to bring up to date end; new ones are not begun.
//  2. The record without this copy, and without every member that has no session in step, is durable here.
//  3. It is durable on every member that remains.
//  4. Reads and writes go on from one of them (ServeFrom). If that one is lost, from another one.
//
// As soon as nobody remains the device is closed, and what was held ends with the disk's error: then a forced take-over
// by another server is what helps, and this server does not stand in its way.
type lostDisk struct {
	left  lineage.Epoch // the record of step 2; zero: not written
	since time.Time     // of that, or of the failure
	via   string        // whom it serves from; "": nobody yet
	asked bool          // AbandonDisk was said
}

func (m *Machine) diskFailed(why string) {
	if m.failed != "" {
		return
	}
	m.failed, m.stalled = why, ""
	m.disk = lostDisk{since: m.now}
	m.note("error", lineage.RuleDiskFailed, "the disk of this copy failed: "+why)
	m.giveUpForce(lineage.RuleDiskFailed, "the disk of "+m.cfg.Self+" failed")
}

// diskStalled: a disk that hangs is reported. A source gives it up for good, as if it had failed, where a target holds
// everything; otherwise nothing would be better by that, and the disk may come back.
func (m *Machine) diskStalled(why string) {
	if m.failed != "" || why == m.stalled {
		return
	}
	if m.stalled = why; why == "" {
		m.disk.asked = false
		m.note("info", "", "the disk of this copy answers again")
		return
	}
	m.note("error", lineage.RuleDiskStalled, "the disk of this copy hangs: "+why)
}

// diskSettle takes the steps of lostDisk.
func (m *Machine) diskSettle() {
	d := &m.disk
	switch {
	case !m.open:
		return
	case m.failed != "":
	case m.stalled != "" && !d.asked && slices.ContainsFunc(m.others(), func(n string) bool { return m.recorded(n, m.link(n)) && m.link(n).phase >= inStep }):
		d.asked = true
		m.emit(AbandonDisk{m.stalled})
		return
	default:
		return
	}
	for node, l := range sortedLinks(m.links) {
		if l.phase != idle && l.phase < inStep {
			m.hangup(node, "the disk of the source failed: it can bring nobody up to date")
		}
	}
	if d.via != "" && m.link(d.via).phase >= inStep {
		return
	}
	d.via = ""
	live := m.live()
	for len(live) > 0 && d.via == "" {
		if again := m.leaveWith(live); again {
			live = m.live()
			continue
		}
		if m.ackedByAll(d.left) || m.omits("serve-before-leaving") {
			d.via = m.readFrom(live)
			m.emit(ServeFrom{d.via})
			m.note("warning", lineage.RuleServesFromTarget, fmt.Sprintf("%s serves from the copy of %s", m.cfg.Self, d.via))
		}
		return
	}
	if d.via == "" && (!m.joining() || m.now.Sub(d.since) >= m.cfg.JoinWait) {
		m.closeFailed()
	}
}

// live are the members of the record with a session in step.
func (m *Machine) live() []string {
	return slices.DeleteFunc(slices.Clone(m.st.Record.Members), func(n string) bool {
		return n == m.cfg.Self || m.link(n).phase < inStep
	})
}

// joining reports that a target in step is about to become a member.
func (m *Machine) joining() bool {
	for _, l := range m.links {
		if l.phase >= inStep {
			return true
		}
	}
	return false
}

// leaveWith makes the record one of those members alone. Who does not acknowledge it within JoinWait is hung up: then it
// reports true, and the members have to be looked at again.
func (m *Machine) leaveWith(live []string) (again bool) {
	d := &m.disk
	if gone := slices.DeleteFunc(slices.Clone(m.st.Record.Members), func(n string) bool { return slices.Contains(live, n) }); len(gone) > 0 {
		m.save(func(st *lineage.Standing) {
			others := slices.DeleteFunc(slices.Clone(gone), func(n string) bool { return n == m.cfg.Self })
			st.Record = st.Record.Without(st.Record.Since, gone...)
			for _, n := range others {
				m.required.dropped[n] = st.Record.Epoch
				m.link(n).since = lineage.Epoch{}
			}
		})
		d.left, d.since = m.st.Record.Epoch, m.now
		m.spreadRecord()
		m.note("warning", lineage.RuleShrink, fmt.Sprintf("%s left the in-sync set: the disk of %s failed", strings.Join(gone, ", "), m.cfg.Self))
		return false
	}
	if d.left == (lineage.Epoch{}) { // it had left before
		d.left = m.st.Record.Epoch
	}
	if m.now.Sub(d.since) < m.cfg.JoinWait {
		return false
	}
	for _, n := range live {
		if m.link(n).acked.Compare(d.left) < 0 {
			m.hangup(n, "it does not acknowledge that the source's own copy is no member any more")
			again = true
		}
	}
	return again
}

// readFrom is the member to read from: a sync one if there is one.
func (m *Machine) readFrom(live []string) string {
	for _, n := range live {
		if s := m.member(n); s != nil && s.Mode == lineage.Sync {
			return n
		}
	}
	return live[0]
}

// closeFailed closes the device of a source that has no copy to serve from. It waits then as after a restart.
func (m *Machine) closeFailed() {
	why := fmt.Sprintf("the disk of %s failed, and no target that holds everything is connected: %s", m.cfg.Self, m.failed)
	if m.plan != nil {
		m.abort(diskRefusal(why))
	}
	m.closeDevice(why)
	m.disk = lostDisk{}
	m.boot = boot{waiting: true, since: m.now, rule: lineage.RuleSourceDiskFailed, reason: why, noted: lineage.RuleSourceDiskFailed}
	m.note("error", lineage.RuleSourceDiskFailed, why)
}

// yield: a source of a newer term asks this server, whose disk failed, to follow. It cannot, but it is no source any more.
// Its copy stays as it is.
func (m *Machine) yield(e SessionAsked) {
	if m.st.Role == lineage.RoleTarget {
		return
	}
	m.stepDown(e)
	m.save(func(st *lineage.Standing) {
		st.Role, st.Heir = lineage.RoleTarget, nil
		if st.Promised.Less(e.Term) {
			st.Promised = e.Term
		}
	})
	m.boot, m.believed = boot{}, e.Term
}

// refuseLast refuses what would take the last copy away from a source whose own disk failed; "" if it may be done.
func (m *Machine) refuseLast(c Change) (rule, message string) {
	if m.failed == "" {
		return "", ""
	}
	if c.Action == "resync" {
		return lineage.RuleDiskFailed, fmt.Sprintf("the disk of the source %s failed: nothing can be copied from it", m.cfg.Self)
	}
	if live := m.live(); !m.stops(c) || len(live) != 1 || live[0] != c.Target {
		return "", ""
	}
	return lineage.RuleLastCopy, fmt.Sprintf("the disk of %s failed, and %s holds the last copy of everything answered", m.cfg.Self, c.Target)
}

// stops reports whether the change ends the mirror's session, or keeps answers from waiting for its target.
func (m *Machine) stops(c Change) bool {
	switch c.Action {
	case "pause", "break", "remove", "resync":
		return true
	case "set":
		s := m.member(c.Target)
		return c.Mode != nil && s != nil && s.Mode != *c.Mode
	}
	return false
}
