package sim

import (
	"fmt"
	"slices"
	"time"

	"keelson/internal/lineage"
	"keelson/internal/mirror"
)

// check is what holds whenever everybody waits: guarantees 1 to 7, as far as they can be seen from outside.
func (w *world) check() {
	w.askMembers()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.servers {
		w.checkTerms(s)
		w.checkTenure(s)
	}
	for _, s := range w.servers {
		if s.proc != nil {
			w.checkSessions(s)
			w.checkMembers(s)
			w.checkBoundaries(s)
		}
	}
	w.checkSources()
	w.checkHeld()
	w.checkEqual()
	w.checkPrefixes()
	for _, s := range w.servers {
		w.checkKept(s)
	}
	for n, c := range w.commands {
		if late := time.Since(c.since) - c.limit; late > commandGrace {
			w.failLocked("G7", "command %d (%s) had %s and is not over %s later", n, c.text, c.limit, late)
		}
	}
	w.tally("checks")
}

// commandGrace is how much longer than its limit a command may take to say so.
const commandGrace = 10 * time.Second

// checkTerms: terms never go down, whatever happens to the server (guarantee 3).
func (w *world) checkTerms(s *server) {
	v := s.volume()
	if v == nil || s.out.Load() || s.changing.Load() {
		return
	}
	h := v.Header()
	if h.Promised.Less(s.promised) || h.Served.Less(s.served) {
		w.failLocked("G3", "%s: terms go down from promised %s, served %s to %s, %s", s.name, s.promised, s.served, h.Promised, h.Served)
	}
	s.promised, s.served = h.Promised, h.Served
	floor := v.Own().Floor
	if floor.Gen == s.flushed.Gen && floor.Number < s.flushed.Number && !w.force.possible() {
		w.failLocked("G1", "%s answered a flush of number %d and reports the floor %d (rule 10)", s.name, s.flushed.Number, floor.Number)
	}
}

// checkTenure follows who serves. A server that begins to serve has every safe write, unless somebody took over by force.
func (w *world) checkTenure(s *server) {
	if s.proc == nil {
		return
	}
	t := s.proc.tenure
	if !s.open() {
		if t != nil {
			t.over = true
		}
		return
	}
	h := s.volume().Header()
	if t != nil && !t.over && t.term == h.Served {
		return
	}
	left := t != nil && t.flying > 0 // requests of before go on
	if t != nil {
		t.over = true
	}
	if t == nil {
		w.checkOpening(s, h.Served)
	}
	t = &tenure{spoiled: left || s.hasFailed(), p: s.proc, v: s.volume(), term: h.Served, base: map[int64]int{}, last: map[int64]int{}, busy: map[int64]bool{}, older: map[string]time.Time{}}
	s.proc.tenure = t
	w.tally("tenures")
	w.log(s.name, "is seen to serve in term %s", h.Served)
	if name, ok := w.opened[h.Served]; h.Served.Node != s.name || ok && name != s.name {
		w.failLocked("G3", "%s serves in term %s", s.name, h.Served)
	}
	w.opened[h.Served] = s.name
	w.newestServed(h.Served)
	for _, at := range spots {
		t.base[at], _ = w.at(s, at)
	}
	for _, wr := range w.safe {
		if at, ok := w.lacks(s, wr); ok && !wr.waived {
			if !w.force.possible() && !s.hasFailed() {
				w.failLocked("G1", "%s serves in term %s and lacks safe write %d in sector %d:%s", s.name, h.Served, wr.id, at, w.whereIs(at))
				return
			}
			wr.waived = true
		} else if !ok {
			t.below = append(t.below, wr)
		}
	}
}

// lacks reports a sector of the write in which the server has something else.
func (w *world) lacks(s *server, wr *write) (int64, bool) {
	for _, at := range wr.sectors {
		if now, _ := w.at(s, at); !w.covers(at, now, wr.id) {
			return at, true
		}
	}
	return 0, false
}

// checkSources: without force there is one at most.
func (w *world) checkSources() {
	var names []string
	for _, s := range w.servers {
		if s.open() {
			names = append(names, s.name)
		}
	}
	if len(names) > 1 && !w.force.possible() {
		w.failLocked("G3", "%v serve, and nobody took over by force", names)
	}
}

// checkEqual is the sentence on which everything stands: equal version, equal content (guarantee 5).
func (w *world) checkEqual() {
	for i, a := range w.servers {
		for _, b := range w.servers[i+1:] {
			va, vb := a.volume(), b.volume()
			if va == nil || vb == nil || a.proc.busy.Load()+b.proc.busy.Load() > 0 || a.hasFailed() || b.hasFailed() {
				continue
			}
			for r := range int64(volumeBytes / regionBytes) {
				ga, na := va.RegionVersion(r)
				gb, nb := vb.RegionVersion(r)
				if ga == (lineage.GenID{}) || ga != gb || na != nb || a.digest(r) == b.digest(r) {
					continue
				}
				if a.up() == nil || b.up() == nil { // a driver's own call ended it
					break
				}
				w.failLocked("G5", "region %d has version %.8s.%d on %s and %s, and other content:%s", r, ga, na, a.name, b.name, w.differ(a, b, r))
				return
			}
		}
	}
}

// differ shows the first sector in which two copies of a region differ.
func (w *world) differ(a, b *server, r int64) string {
	for at := r * regionBytes / sector; at < (r+1)*regionBytes/sector; at++ {
		x, _ := w.at(a, at)
		if y, _ := w.at(b, at); x != y {
			return fmt.Sprintf(" sector %d", at) + w.whereIs(at)
		}
	}
	return ""
}

// checkPrefixes: a target in step is a prefix of its source's writes, cut at its position (guarantee 2). It looks at the numbers of requests
// that the data path owns, while everybody waits; the race detector does not know that they do.
func (w *world) checkPrefixes() {
	if raceOn {
		return
	}
	for _, s := range w.servers {
		if !s.open() || s.proc.tenure == nil || s.proc.tenure.over || s.proc.tenure.spoiled {
			continue
		}
		t := s.proc.tenure
		if slices.ContainsFunc(t.writes, func(wr *write) bool { return wr.r.Number > 0 && wr.r.Err != nil }) {
			t.spoiled = true // it failed, and waits for others before it says so
			continue
		}
		for name, l := range t.v.Status(time.Now()).Links {
			x := w.byName(name)
			if !l.Up || !l.InStep || x.volume() == nil || x.proc.busy.Load() > 0 || x.hasFailed() {
				continue
			}
			view := x.view()
			if view == nil || len(view.Mirrors) != 1 || view.Mirrors[0].State != mirror.Mirroring || view.Source != s.name {
				continue // the session is over there, and the source does not know yet
			}
			own := x.volume().Own()
			if own.Consistent != "yes" || own.Position.Gen != t.v.Header().History.Last().ID {
				continue
			}
			expected := t.expected(own.Position.Number)
			for i, at := range spots {
				want := expected[i]
				if now, _ := w.at(x, at); now != want && x.up() != nil {
					w.failLocked("G2", "%s is at number %d of %s: sector %d has %d, not %d:%s", name, own.Position.Number, s.name, at, now, want, w.whereIs(at))
					return
				}
			}
			w.tally("prefixes checked")
		}
	}
}

// expected is what the spots have after the write of that number in the tenure.
func (t *tenure) expected(number uint64) []int {
	content, newest := make([]int, len(spots)), make([]uint64, len(spots))
	for i, at := range spots {
		content[i] = t.base[at]
	}
	for _, wr := range t.writes {
		n := wr.r.Number
		if n == 0 || n > number {
			continue
		}
		for _, at := range wr.sectors {
			if i, ok := spotAt[at]; ok && n >= newest[i] {
				newest[i], content[i] = n, wr.content()
			}
		}
	}
	return content
}

func (wr *write) content() int {
	if wr.zero {
		return 0
	}
	return wr.id
}

// checkKept is guarantee 6 for one server: what was safe and durable on its disk is there, or below what is there, or in a salvage.
func (w *world) checkKept(s *server) {
	v := s.volume()
	if v == nil || s.hasFailed() || s.proc.busy.Load() > 0 || s.out.Load() || s.changing.Load() {
		return
	}
	// In mid-resync what it had may be in the undo log: the end of it shows.
	settled := v.Header().Consistent == "yes" && v.UndoStatus().State == ""
	seen := [3]int64{s.moves.Load(), int64(len(w.safe)), 0}
	if settled {
		seen[2] = 1
	}
	if seen == s.seen {
		return
	}
	s.seen = seen
	for _, at := range spots {
		now, durable := w.at(s, at)
		if d := w.safeBelow(at, durable); d != 0 {
			s.hold(w, at, d)
		}
		for _, h := range s.held[at] {
			if settled && !w.covers(at, now, h) && !w.inSalvage(s, at, h) {
				if s.volume() == v {
					w.failLocked("G6", "%s discarded safe write %d of sector %d, and no salvage of it has it:%s", s.name, h, at, w.whereIs(at))
				}
				return
			}
		}
	}
}

// safeBelow is the nearest safe write that the content is or came to be on top of; 0: none. Zeroes are not followed.
func (w *world) safeBelow(at int64, content int) int {
	for content != 0 {
		wr := w.byID[content]
		if wr == nil || wr.safe {
			return content
		}
		content = wr.parents[at]
	}
	return 0
}

// hold notes a safe write that a server's disk has; those below it need not be remembered.
func (s *server) hold(w *world, at int64, id int) {
	kept := s.held[at][:0]
	for _, h := range s.held[at] {
		if h == id || !w.covers(at, id, h) {
			kept = append(kept, h)
		}
	}
	for _, h := range kept {
		if h == id {
			s.held[at] = kept
			return
		}
	}
	s.held[at] = append(kept, id)
}
