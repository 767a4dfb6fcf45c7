package sim

import (
	"time"

	"keelson/internal/api"
	"keelson/internal/lineage"
)

// attempt is what the checkers know when somebody is asked to take over by force: while nothing else happens, it has to be refused if a
// source lives, and otherwise nothing is lost that a server has that can be reached (rule 22).
type attempt struct {
	faults int64
	lives  map[*server]*process
	alive  []*server
	served lineage.Term // by who takes over, before
	had    []*write     // answered, and on the disk of a server that was in sync then
}

// lagMax is how slow the network may be for that.
const lagMax = 12 * time.Millisecond

// still reports that nothing is wrong with the network and the disks.
func (w *world) still() bool {
	w.net.mu.Lock()
	quiet := len(w.net.cut) == 0 && w.net.slow <= lagMax
	for _, refuses := range w.net.refuse {
		quiet = quiet && !refuses
	}
	w.net.mu.Unlock()
	for _, s := range w.servers {
		quiet = quiet && s.slow.Load() == 0 && !s.full.Load()
	}
	return quiet
}

// beforeForce looks at everybody; nil if it can say nothing.
func (w *world) beforeForce(r api.Switchover) *attempt {
	if !w.still() {
		return nil
	}
	a := &attempt{faults: w.faults.Load(), lives: map[*server]*process{}}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.servers {
		if s.up() == nil || s.volume() == nil || s.out.Load() || s.changing.Load() {
			continue
		}
		a.lives[s] = s.proc
		if s.open() && s.name != r.To && s.volume().Failed() == nil {
			a.alive = append(a.alive, s)
		}
	}
	if to := w.byName(r.To); a.lives[to] != nil {
		a.served = to.volume().Header().Served
	}
	if r.NoCatchUp || w.force.possible() {
		return a
	}
	for _, wr := range w.writes {
		if !wr.answered || !wr.safe && w.counted("power lost") > 0 {
			continue
		}
		for _, name := range wr.members {
			s := w.byName(name)
			if a.lives[s] == nil || name == r.To || s.hasFailed() || s.volume().Header().Consistent != "yes" || s.lostPower().After(wr.when) {
				continue
			}
			if _, lacks := w.lacks(s, wr); !lacks {
				a.had = append(a.had, wr)
				break
			}
		}
	}
	return a
}

// afterForce judges a take-over that has just been done.
func (w *world) afterForce(a *attempt, r api.Switchover, planned bool) {
	if a == nil || !w.still() || w.faults.Load() != a.faults {
		return
	}
	to := w.byName(r.To)
	for s, p := range a.lives {
		if s.proc != p || p.isDead() {
			return
		}
	}
	if a.lives[to] == nil || to.volume() == nil || to.hasFailed() {
		return
	}
	h := to.volume().Header()
	if !a.served.Less(h.Served) { // it was the source, and is opened again
		return
	}
	for s := range a.lives {
		v := s.volume()
		if m := h.Settings.Find(s.name); v == nil || m == nil || m.Removed || s.hasFailed() {
			continue
		}
		if !planned && v.Header().Promised.Less(h.Served) {
			w.failLocked("G3", "%s took over in term %s; %s could be reached and has promised %s", r.To, h.Served, s.name, v.Header().Promised)
		}
	}
	for _, s := range a.alive {
		if s.open() && s.volume().Header().Served.Less(h.Served) {
			w.failLocked("G3", "%s took over by force in term %s although %s served and could be reached (rule 22)", r.To, h.Served, s.name)
		}
	}
	for _, wr := range a.had {
		if at, lacks := w.lacks(to, wr); lacks {
			w.failLocked("G1", "%s took over by force and lacks the answered write %d, which a server had that could be reached (rule 22): sector %d%s", r.To, wr.id, at, w.whereIs(at))
			return
		}
	}
	w.tally("take-overs judged")
}

// newestServed notes the newest term that anybody was seen to serve in.
func (w *world) newestServed(t lineage.Term) {
	if w.newest.Less(t) {
		w.newest = t
	}
}
