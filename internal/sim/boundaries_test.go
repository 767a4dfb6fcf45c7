package sim

import (
	"fmt"
	"time"

	"keelson/internal/lineage"
)

// checkBoundaries: a consistent copy is what a disk is after a power cut: who has a write has everything that a flush had made safe
// before that write was submitted (guarantee 2; rules 15, 26 and 27). It looks at every copy that has just become consistent.
func (w *world) checkBoundaries(s *server) {
	v := s.volume()
	if v == nil || s.hasFailed() || s.proc.busy.Load() > 0 {
		return
	}
	state := v.Header().Consistent
	if s.proc.tenure != nil {
		state += s.proc.tenure.term.String()
	}
	if state += fmt.Sprint(s.proc.serial); state == s.judged {
		return
	}
	s.judged = state
	if h := v.Header(); h.Consistent != "yes" || len(h.History) == 0 { // it has never been whole
		return
	}
	newest := map[*tenure]*write{} // by tenure: of its writes that the copy has, the one submitted last
	for _, at := range spots {
		now, _ := w.at(s, at)
		if wr := w.byID[now]; wr != nil && (newest[wr.t] == nil || newest[wr.t].after < wr.after) {
			newest[wr.t] = wr
		}
	}
	for t, last := range newest {
		for _, before := range [2][]*write{t.below, t.flushed[:last.after]} {
			for _, wr := range before {
				if at, lacks := w.lacks(s, wr); lacks && s.volume() == v {
					w.failLocked("G2", "%s has write %d of term %s and lacks write %d, which was safe before, in sector %d:%s", s.name, last.id, t.term, wr.id, at, w.whereIs(at))
					return
				}
			}
		}
	}
	w.tally("boundaries checked")
}

// checkMembers: whoever the source's record names holds everything that was answered in its tenure (guarantee 1, rule 17). At answers it
// is checked as well; this is for those who are named from now on.
func (w *world) checkMembers(s *server) {
	t := s.proc.tenure
	if t == nil || t.over || !s.open() {
		return
	}
	epoch := t.v.Header().Record.Epoch
	if epoch == t.epoch {
		return
	}
	list, ok := w.members(t)
	if !ok {
		return
	}
	t.epoch = epoch
	for _, m := range list {
		if m == s || m.up() == nil || m.hasFailed() || m.volume() == nil {
			continue
		}
		for at, id := range t.last {
			wr := w.byID[id]
			if now, _ := w.at(m, at); wr != nil && !w.covers(at, now, id) && !m.lostPower().After(wr.when) && m.up() != nil {
				w.failLocked("G1", "the record %s.%d of %s names %s, which has %d in sector %d and not the answered write %d", epoch.Term, epoch.N, s.name, m.name, now, at, id)
				return
			}
		}
	}
}

// checkSessions: a target has promised, durably, the term of the source that it has a session with (guarantee 3, rule 20).
func (w *world) checkSessions(s *server) {
	t := s.proc.tenure
	if t == nil || t.over || !s.open() {
		return
	}
	for name, l := range t.v.Status(time.Now()).Links {
		x := w.byName(name)
		older := false
		if v := x.volume(); l.Up && v != nil && !x.fresh.Load() && !x.out.Load() && !x.changing.Load() {
			older = v.Header().Promised.Less(t.term)
		}
		if !older {
			delete(t.older, name)
			continue
		}
		promised := x.volume().Header().Promised
		since, seen := t.older[name]
		if !seen {
			since = time.Now()
			t.older[name] = since
		}
		// A source that overrules a promise goes on in its generation, and hangs up at once.
		if promised.Node != s.name || time.Since(since) > time.Second {
			w.failLocked("G3", "%s has a session with %s, and its promise %s is older than the term %s", name, s.name, promised, t.term)
		}
	}
}

// checkOpening: a server that was source opens nothing if somebody took over before it started (rule 24).
func (w *world) checkOpening(s *server, term lineage.Term) {
	newest := s.proc.newest
	if s.forced.Add(time.Minute).After(s.proc.began) { // an administrator says that it may
		return
	}
	if m := s.volume().Header().Settings.Find(newest.Node); !term.Less(newest) || m == nil || m.Removed || w.byName(newest.Node).everFailed() || w.counted("removed") > 0 {
		return
	}
	w.failLocked("G3", "%s opens in term %s, and %s had served in the newer term %s before it started", s.name, term, newest.Node, newest)
}
