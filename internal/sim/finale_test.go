package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"keelson/internal/api"
	"keelson/internal/lineage"
	"keelson/internal/mirror"
	"keelson/internal/vfs"
	"keelson/internal/volume"
)

// finaleRounds of finaleRound are what the end of a history may take.
const (
	finaleRounds = 60
	finaleRound  = 2 * time.Second
)

// finale: all failures end, everybody starts, administrators settle what only they can; exactly one source and equal copies come out,
// and every safe write is there or in a salvage.
func (w *world) finale() {
	w.story("FINALE")
	w.calm = true
	for _, a := range w.servers {
		for _, b := range w.servers {
			w.net.setCut(a.name, b.name, false)
		}
		w.net.mu.Lock()
		w.net.refuse[a.name], w.net.slow = false, 0
		w.net.mu.Unlock()
		a.full.Store(false)
		a.mem.SetFree(-1)
		a.slow.Store(0)
		a.lazy.Store(0)
		if p := a.proc; p != nil {
			p.dieAt.Store(0)
		}
	}
	for round := range finaleRounds {
		for _, s := range w.servers {
			w.revive(s)
		}
		w.pause(finaleRound)
		w.check()
		if w.isBroken() {
			return
		}
		if w.settled() == "" {
			w.story("settled after %d rounds", round+1)
			w.tally("settled")
			w.judgeEnd()
			return
		}
		w.repair(round)
	}
	w.fail("finale", "after %s: %s", finaleRounds*finaleRound, w.settled())
}

// revive starts a server that is down; one whose disk failed gets a new, empty one, when somebody else serves.
func (w *world) revive(s *server) {
	if v := s.volume(); v != nil && !s.broken() && v.Failed() != nil {
		s.proc.die(false, "its log failed by a sync without room")
	}
	if s.broken() && s.open() { // repair switches over
		return
	}
	if s.broken() {
		if s.up() != nil {
			s.proc.die(true, "its disk is replaced")
		}
		if src := w.source(); src == nil || src == s || !w.proved(src) {
			return
		}
		s.replaceDisk()
	}
	if n := s.up(); n != nil && n.Stopped(volumeName) != nil && !volume.NoRoom(n.Stopped(volumeName)) { // as the event says: repair what failed, and start the agent again
		s.proc.die(false, "its volume is stopped")
	}
	if s.up() == nil {
		w.mayReturn(s)
	}
}

// proved reports that the source has begun its mirrors to everybody that lives.
func (w *world) proved(src *server) bool {
	v := src.view()
	if v == nil {
		return false
	}
	for _, m := range v.Mirrors {
		if m.State != mirror.Mirroring && w.byName(m.Target).up() != nil {
			return false
		}
	}
	return true
}

func (s *server) broken() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed || s.eio != ""
}

// replaceDisk: the machine comes back with nothing on its disks.
func (s *server) replaceDisk() {
	s.mu.Lock()
	s.failed, s.eio = false, ""
	s.digests = newDigests()
	s.mu.Unlock()
	s.w.mu.Lock()
	s.mem = vfs.NewMem(s.w.chance("disk", s.name))
	_ = s.mem.MkdirAll("/disk")
	_ = s.mem.MkdirAll("/state/volumes")
	s.held, s.promised, s.served = map[int64][]int{}, lineage.Term{}, lineage.Term{}
	s.fresh.Store(true)
	s.flushed = lineage.Position{}
	s.w.mu.Unlock()
	s.w.tally("disks replaced")
	s.w.log(s.name, "has a new disk")
}

// repair is what careful administrators do about what is left.
func (w *world) repair(round int) {
	src := w.source()
	if src == nil {
		w.findSource(round)
		return
	}
	if src.broken() {
		if w.leaveFailed(src); round > 20 && src.up() != nil {
			src.proc.die(true, "its disk failed, and nobody can take over")
		}
		return
	}
	for _, s := range w.servers {
		switch {
		case s == src || s.changing.Load():
		case s.fresh.Load():
			w.readmit(src, s)
		case s.out.Load():
			w.add(src, s)
		}
	}
	for _, m := range src.shown().Mirrors {
		switch m.State {
		case mirror.Paused, mirror.Broken:
			if m.Rule == lineage.RuleHeld {
				w.accept(src)
				continue
			}
			w.continueMirror(src, m.Target)
		case mirror.SplitBrain:
			if round%3 == 1 {
				w.resolve(src, src.name)
			}
		}
	}
	for _, s := range w.servers { // two sources, or one that was and shows a split brain
		if v := s.view(); s != src && v != nil && v.Role == lineage.RoleSource && round%4 == 3 {
			w.resolve(src, src.name)
			return
		}
	}
}

func (w *world) continueMirror(src *server, target string) {
	w.order(src, false, "continue "+target, func(ctx context.Context, a api.Service) error {
		_, err := a.ChangeMirror(ctx, api.MirrorChange{Volume: volumeName, Target: target, Action: "continue"})
		return err
	})
}

// readmit removes a server with a new disk from the volume and adds it again.
func (w *world) readmit(src, s *server) {
	w.order(src, false, "replace "+s.name, func(ctx context.Context, a api.Service) error {
		_, err := a.ChangeMirror(ctx, api.MirrorChange{Volume: volumeName, Target: s.name, Action: "remove"})
		var said *api.Error
		if gone := errors.As(err, &said) && said.Rule == lineage.RuleNotAMember; err != nil && !gone && !s.out.Load() {
			return err
		}
		if _, err = a.ChangeMirror(ctx, api.MirrorChange{Volume: volumeName, Target: s.name, Action: "add", Path: s.path}); err == nil {
			s.fresh.Store(false)
			s.out.Store(false)
		}
		return err
	})
}

// findSource: nobody serves. The administrator waits a little, then asks the servers in turn to take over, at last without what
// a server may have that can neither be rolled back nor brought up to date.
func (w *world) findSource(round int) {
	if round < 3 {
		return
	}
	s := w.servers[(round/2)%len(w.servers)]
	if s.up() == nil || s.fresh.Load() || s.out.Load() {
		return
	}
	if round%2 == 0 {
		w.switchover(s, api.Switchover{Volume: volumeName, To: s.name, Force: true, NoCatchUp: round > 20})
	} else if round > 10 {
		w.resolve(s, s.name)
	}
}

// settled says what is missing; "" if nothing is.
func (w *world) settled() string {
	var src *server
	var all string
	for _, s := range w.servers {
		v := s.view()
		if v == nil {
			return s.name + " has no volume"
		}
		if s.broken() {
			return "the disk of " + s.name + " failed"
		}
		all += fmt.Sprintf("; %s is %s, open %v, %s", s.name, v.Role, v.Open, v.Reason)
		if s.open() {
			if src != nil {
				return "two sources" + all
			}
			src = s
		}
	}
	if src == nil {
		return "no source" + all
	}
	v := src.view()
	if len(v.Mirrors) != len(w.servers)-1 {
		return fmt.Sprintf("%s has %d mirrors%s", src.name, len(v.Mirrors), all)
	}
	for _, m := range v.Mirrors {
		if m.State != mirror.Mirroring {
			return fmt.Sprintf("mirror %s->%s is %s: %s%s", m.Source, m.Target, m.State, m.Reason, all)
		}
	}
	w.mu.Lock()
	flying := src.proc.tenure == nil || src.proc.tenure.flying > 0
	w.mu.Unlock()
	if flying {
		return "requests are under way"
	}
	return ""
}

// judgeEnd: all copies are the same, and nothing that was safe is gone.
func (w *world) judgeEnd() {
	src := w.source()
	w.admins.Wait()
	w.pause(3 * time.Second) // async targets come to the end
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.servers {
		for r := range int64(volumeBytes / regionBytes) {
			if s.digest(r) != src.digest(r) {
				w.failLocked("G5", "finale: region %d of %s and %s differ:%s", r, s.name, src.name, w.differ(s, src, r))
				return
			}
		}
	}
	for _, wr := range w.writes {
		if !wr.answered || wr.t.p.s.everFailed() && !w.survives(wr) {
			continue
		}
		at, lacks := w.lacks(src, wr)
		switch {
		case !lacks:
		case !wr.safe && (w.force.possible() || w.counted("power lost") > 0):
		case !w.force.possible():
			w.failLocked("G1", "finale: write %d (safe: %v) is not on the volume, and nobody took over by force: sector %d%s", wr.id, wr.safe, at, w.whereIs(at))
			return
		case !w.anySalvage(at, wr.id):
			w.failLocked("G6", "finale: safe write %d is neither on the volume nor in a salvage: sector %d%s", wr.id, at, w.whereIs(at))
			return
		}
	}
}

// survives reports that a copy has the write that neither failed since nor was removed.
func (w *world) survives(wr *write) bool {
	return slices.ContainsFunc(wr.members, func(name string) bool {
		s := w.byName(name)
		return !s.everFailed() && !s.left.Load()
	})
}

func (w *world) anySalvage(at int64, id int) bool {
	for _, s := range w.servers {
		if w.inSalvage(s, at, id) {
			return true
		}
	}
	return w.counted("disks replaced") > 0 // it may have been on a disk that failed
}
