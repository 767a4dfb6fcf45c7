package mirror

import (
	"fmt"
	"math/rand/v2"

	"keelson/internal/lineage"
)

// Histories in which disks fail: of a server whose disk failed nothing is ever used again, so it holds nothing.

// newFailing is a history with failing disks.
func newFailing(seed uint64, omit string, verbose bool) *cluster {
	c := startCluster(seed, omit, verbose, nil)
	c.disks = rand.New(rand.NewPCG(seed, 11))
	return c
}

// disksFail fails a disk now and then, as long as a server is left that holds everything answered.
func (c *cluster) disksFail() {
	if c.disks == nil || c.disks.IntN(400) > 0 {
		return
	}
	s := c.servers[c.disks.IntN(len(c.servers))]
	for _, o := range c.servers {
		if o.serving && c.disks.IntN(2) == 0 {
			s = o
		}
	}
	if s.failed || !s.up {
		return
	}
	for _, o := range c.servers {
		if o != s && !o.failed && o.consistent == "yes" && len(o.history) > 0 && o.holdsAll() && !c.removed(o.name) {
			s.failDisk()
			return
		}
	}
}

// removed reports whether anybody knows that the server was removed.
func (c *cluster) removed(node string) bool {
	for _, s := range c.servers {
		if m := s.st.Settings.Find(node); m != nil && m.Removed {
			return true
		}
	}
	return false
}

func (s *server) holdsAll() bool {
	for w := range s.c.answered {
		if !s.holds(w) {
			return false
		}
	}
	return true
}

func (s *server) failDisk() {
	s.c.log("%s's DISK FAILS", s.name)
	s.c.count["disks failed"]++
	if s.serving {
		s.c.count["disks failed at a source"]++
	}
	s.failed, s.via, s.c.dirty = true, "", true
	s.dropIn()
	s.inbox = append(s.inbox, DiskFailed{"input/output error"})
}

// stands reports that nothing may be answered: the disk failed, and there is no session to serve from.
func (s *server) stands() bool {
	if !s.failed {
		return false
	}
	x := s.out[s.via]
	return x == nil || !x.inStep || x.sDead
}

func (s *server) serveFrom(target string) {
	x := s.out[target]
	if x == nil || !x.inStep || x.sDead {
		return // LinkDown is on its way
	}
	c := s.c
	c.count["served from a target"]++
	coming := map[int]bool{}
	for _, f := range x.down {
		if w, ok := f.(frameWrite); ok {
			coming[w.write] = true
		}
	}
	for w := range c.answered {
		if !x.tDead && !x.t.holds(w) && !coming[w] {
			c.fail("read: %s reads from %s, which lacks answered write %d", s.name, target, w)
		}
	}
	if s.via = target; !s.held {
		s.letGo()
	}
}

func (s *server) letGo() {
	for _, w := range s.holding {
		s.write(w)
	}
	s.holding = nil
}

// replace is the administrator at the end: he forces somebody if nobody serves, switches away from a source whose disk failed, and
// gives the others new disks.
func (c *cluster) replace() {
	var source *server
	for _, s := range c.servers {
		if s.serving {
			source = s
		}
	}
	switch {
	case source == nil:
		var best *server
		for _, s := range c.servers {
			if !s.failed && !c.removed(s.name) && (best == nil || s.own().Survivor(s.name, s.st.Record).Compare(best.own().Survivor(best.name, best.st.Record)) > 0) {
				best = s
			}
		}
		if best != nil {
			c.forceAt(best, c.disks.IntN(2) == 0) // who was removed may hold more than he knows was answered
		}
	case source.failed:
		for _, can := range source.m.View().Candidates {
			if can.OK {
				c.command(source, "switch from a failed disk", Change{}, &Switch{To: can.To, Plan: fmt.Sprint("plan", c.nextID)})
				return
			}
		}
	default:
		for _, s := range c.servers {
			if m := source.st.Settings.Find(s.name); s.failed && m.Removed {
				s.renew(source)
			} else if s.failed {
				c.command(source, "remove", Change{Action: "remove", Target: s.name}, nil)
			}
		}
	}
}

// renew gives the server a new disk and a replica that knows nothing, as `mirror add` does; repair adds it.
func (s *server) renew(source *server) {
	s.crash()
	s.failed, s.history, s.pos, s.content, s.consistent, s.anchor = false, nil, lineage.Position{}, nil, "yes", nil
	s.said, s.terms, s.was = lineage.Term{}, [2]lineage.Term{}, false
	s.st = lineage.Standing{Role: lineage.RoleTarget, Record: source.st.Clone().Record, Settings: source.st.Settings.Clone()}
	s.boot()
}
