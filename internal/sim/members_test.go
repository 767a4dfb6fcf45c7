package sim

import (
	"context"
	"errors"
	"slices"

	"keelson/internal/api"
	"keelson/internal/lineage"
	"keelson/internal/mirror"
)

// failSource makes the disk of the source fail, and sometimes lets an administrator switch over then.
func (w *world) failSource(*server) {
	src := w.source()
	if src == nil || src.hasFailed() || !w.maySpare(src) {
		if src != nil && src.hasFailed() {
			w.leaveFailed(src)
		}
		return
	}
	src.mu.Lock()
	defer src.mu.Unlock()
	src.eio = []string{"read", "write", "sync", "zero"}[w.rng.IntN(4)]
	w.faults.Add(1)
	w.tally("EIO on " + src.eio)
	w.log(src.name, "disk fails at the next %s", src.eio)
}

// maySpare reports whether a disk may fail: enough others are well, and another one has everything.
func (w *world) maySpare(s *server) bool {
	if s.hasFailed() || w.failedDisks() >= len(w.servers)-2 {
		return false
	}
	return slices.ContainsFunc(w.servers, func(x *server) bool {
		view := x.view()
		if x == s || view == nil || x.broken() {
			return false
		}
		return x.open() || len(view.Mirrors) == 1 && view.Mirrors[0].State == mirror.Mirroring
	})
}

// leaveFailed is an administrator who switches over from a source whose disk failed.
func (w *world) leaveFailed(src *server) {
	for _, c := range src.shown().Candidates {
		if c.OK && c.To != src.name {
			w.switchover(src, api.Switchover{Volume: volumeName, To: c.To})
			return
		}
	}
}

// changeMembers is an administrator who removes a server's copy from the volume, or adds one.
func (w *world) changeMembers(s *server) {
	src := w.source()
	if src == nil || s == src || s.up() == nil || w.force.possible() {
		return
	}
	for _, x := range w.servers {
		if x.out.Load() && x.up() != nil && !x.changing.Load() && w.rng.IntN(3) > 0 {
			w.add(src, x)
			return
		}
	}
	if !s.out.Load() && !s.changing.Load() {
		w.remove(src, s)
	}
}

// remove takes a server's copy out of the volume: it forgets it, and what is on its disk counts for nothing.
func (w *world) remove(src, s *server) {
	s.changing.Store(true)
	w.order(src, false, "remove "+s.name, func(ctx context.Context, a api.Service) error {
		_, err := a.ChangeMirror(ctx, api.MirrorChange{Volume: volumeName, Target: s.name, Action: "remove"})
		w.changed(s, err, true)
		return err
	})
}

// add gives a server a copy.
func (w *world) add(src, s *server) {
	s.changing.Store(true)
	mode := []string{"sync", "async"}[w.rng.IntN(2)]
	w.order(src, false, "add "+s.name, func(ctx context.Context, a api.Service) error {
		_, err := a.ChangeMirror(ctx, api.MirrorChange{Volume: volumeName, Target: s.name, Action: "add", Path: s.path, Mode: &mode})
		w.changed(s, err, false)
		return err
	})
}

// changed: it was added or removed, or not; if nobody knows, the next source does.
func (w *world) changed(s *server, err error, out bool) {
	var said *api.Error
	switch {
	case err == nil:
		w.nowMember(s, out)
	case errors.As(err, &said) && said.Code == api.Refused:
	default:
		s.unsure.Store(true)
		return
	}
	s.changing.Store(false)
}

func (w *world) nowMember(s *server, out bool) {
	w.tally(map[bool]string{true: "removed", false: "added"}[out])
	w.forget(s)
	s.out.Store(out)
	if out {
		s.left.Store(true)
	}
}

// askMembers asks the source about those of whom nobody knows.
func (w *world) askMembers() {
	src := w.source()
	for _, s := range w.servers {
		if src == nil || !s.unsure.Load() {
			continue
		}
		m := src.volume().Header().Settings.Find(s.name)
		if out := m == nil || m.Removed; out != s.out.Load() {
			w.nowMember(s, out)
		}
		s.unsure.Store(false)
		s.changing.Store(false)
	}
}

// forget: the server is no replica any more, or a new one.
func (w *world) forget(s *server) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s.held, s.promised, s.served, s.flushed, s.judged = map[int64][]int{}, lineage.Term{}, lineage.Term{}, lineage.Position{}, ""
}
