package mirror

import (
	"slices"
	"testing"

	"keelson/internal/lineage"
)

// newHolding is a history with forced take-overs of a volume that has hold-old-copies.
func newHolding(seed uint64, omit string, verbose bool) *cluster {
	r := startReckless()
	r.held = map[string]lineage.Term{}
	return startCluster(seed, omit, verbose, r)
}

// judgeHeld: from a take-over by force on every other copy is held that no administrator had paused or broken.
func (c *cluster) judgeHeld(s *server, w *wish) {
	if c.reckless.held == nil || s.lazy { // it was the source already
		return
	}
	delete(c.reckless.held, s.name)
	for _, m := range s.st.Settings.Members {
		if m.Node != s.name && !m.Removed && !m.Broken && (!m.Paused || m.Held) && w.resolve == "" {
			c.reckless.held[m.Node] = s.st.Served
			c.count["held"]++
		}
	}
}

// judgeRelease: an administrator's word ends the hold, of one copy or of all.
func (c *cluster) judgeRelease(ev Event) {
	e, ok := ev.(Command)
	if !ok || c.reckless == nil {
		return
	}
	if e.Set != nil || e.Resolve != nil {
		clear(c.reckless.held)
	}
	if a := e.Change.Action; a == "continue" || a == "add" || a == "remove" { // the last two make another copy of it
		delete(c.reckless.held, e.Change.Target)
	}
}

// judgeUntouched: no source that took over, or has the role since, has a session with a copy that is held.
func (c *cluster) judgeUntouched(t *server, x *session) {
	term, held := c.reckless.held[t.name]
	if held && slices.ContainsFunc(x.asked.History, func(g lineage.Generation) bool { return g.Term == term }) {
		c.fail("held: %s follows %s in term %s, and nobody has accepted the source of term %s", t.name, x.s.name, x.asked.Term, term)
	}
}

func (c *cluster) accept(at *server) {
	if !at.up {
		return
	}
	c.nextID++
	c.commands[c.nextID] = &ask{server: at, text: "accept"}
	at.inbox = append(at.inbox, Command{ID: c.nextID, Set: &Set{Accept: true}, Mine: at.own()})
}

// TestHeldCopiesWait: after a take-over by force of a volume with hold-old-copies nobody writes to another copy before an administrator has
// accepted the new source, whatever happens meanwhile; and all that holds without it holds.
func TestHeldCopiesWait(t *testing.T) {
	histories(t, newHolding, "held", "accept ", "forced", "force behind-survivor", "switch held", "refused split-brain")
}
