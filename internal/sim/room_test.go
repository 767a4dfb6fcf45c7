package sim

import (
	"context"
	"strings"
	"testing"
	"time"

	"keelson/internal/api"
	"keelson/internal/lineage"
	"keelson/internal/vfs"
	"keelson/internal/volume"
)

// fill makes every write to files of that name find no room at the server; "" ends it.
func (s *server) fill(name string) {
	s.mem.Inject(func(op, path string, _ int64, _ int) error {
		if name != "" && (op == "write" || op == "zero") && strings.Contains(path, name) {
			return vfs.ErrNoSpace
		}
		return nil
	})
}

func (s *server) stopped() error {
	if n := s.up(); n != nil {
		return n.Stopped(volumeName)
	}
	return nil
}

// asked gives a command that is expected to fail for lack of room, and says so.
func (w *world) asked(at *server, do func(context.Context, api.Service) error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := do(ctx, at.up().Service())
	if said := api.AsError(err); err == nil || !strings.Contains(said.Message, "no space") || !strings.Contains(said.Next, "goes on by itself") {
		w.fail("script", "without room %s says: %v", at.name, err)
	}
}

// TestVolumeGoesOnWhenThereIsRoom: a volume that was stopped as a save of its log found no room says so, and goes on by itself
// when there is some, at a target and at a source, without its agent being started again and without losing what it knows.
func TestVolumeGoesOnWhenThereIsRoom(t *testing.T) {
	script(t, 3, func(w *world) {
		w.create()
		w.settle()
		a, b := w.servers[0], w.servers[1]
		lives := []*process{a.proc, b.proc}
		for _, s := range []*server{b, a} {
			w.clients(10)
			s.fill("/header")
			rate := int64(1 << 30)
			set := func(ctx context.Context, service api.Service) error { // all have to write it down
				_, err := service.ChangeMirror(ctx, api.MirrorChange{Volume: volumeName, Target: "c", Action: "set", ResyncRate: &rate})
				return err
			}
			if s == a {
				rate++
				w.asked(a, set)
			} else {
				w.must("a", set)
			}
			w.until(s.name+" is stopped", func() bool { return s.stopped() != nil })
			if !volume.NoRoom(s.stopped()) {
				w.fail("script", "%s is stopped by %v", s.name, s.stopped())
			}
			if s == b {
				w.clients(10)
			}
			for range 40 {
				w.pause(time.Second)
				if w.check(); s.stopped() == nil {
					w.fail("script", "%s goes on without room", s.name)
				}
			}
			s.fill("")
			w.settle()
			if n := s.volume().Own(); n.Unknown {
				w.fail("script", "%s has forgotten what it holds", s.name)
			}
		}
		if a.proc != lives[0] || b.proc != lives[1] || w.source() != a {
			w.fail("script", "somebody was started again, or took over")
		}
		w.clients(10)
		w.settle()
	})
}

// TestVolumeIsOpenedWhenThereIsRoom: also one that could not be opened at the start of its agent.
func TestVolumeIsOpenedWhenThereIsRoom(t *testing.T) {
	script(t, 2, func(w *world) {
		w.create()
		w.settle()
		b := w.servers[1]
		b.proc.die(false, "")
		w.clients(10)
		b.fill("/header")
		b.start()
		w.pause(10 * time.Second)
		if w.check(); b.volume() != nil {
			w.fail("script", "b opens its volume without room")
		}
		b.fill("")
		w.settle()
	})
}

// TestRollBackWithoutRoom: a take-over in mid-resync whose roll-back finds no room, at any of its steps, ends with an error that says so and
// loses nothing. When there is room it can be asked for again, without the agent being started again.
func TestRollBackWithoutRoom(t *testing.T) {
	for _, where := range []string{"/salvage/", "/undo/", "/disk/b.img", "/header", "/map", "/floor"} {
		t.Run(strings.Trim(where, "/"), func(t *testing.T) {
			script(t, 2, func(w *world) {
				w.create()
				b := w.servers[1]
				w.inMidResync()
				life := b.proc
				b.fill(where)
				w.asked(b, func(ctx context.Context, service api.Service) error {
					_, err := service.Switchover(ctx, api.Switchover{Volume: volumeName, To: "b", Force: true}, func(api.SwitchoverStep) {})
					return err
				})
				for range 20 {
					w.pause(time.Second)
					if w.check(); b.open() {
						w.fail("script", "b serves what it could not roll back")
					}
				}
				b.fill("")
				w.until("b goes on", func() bool { return b.volume() != nil && b.stopped() == nil })
				w.byForce(b)
				if b.proc != life {
					w.fail("script", "b was started again")
				}
				if h := b.volume().Header(); h.Role != lineage.RoleSource || h.Consistent != "yes" {
					w.fail("script", "b took over as %s, consistent %s", h.Role, h.Consistent)
				}
				w.servers[0].start()
				w.until("a shows the split brain that is left", func() bool { return w.servers[0].view().Rule == lineage.RuleSplitBrain })
				w.resolve(b, "b") // a answered writes alone
				w.settle()
			})
		})
	}
}

// TestRollBackIsFinishedWhenTheSourceReturns: a roll-back that had no room in its middle is finished when the old source comes back instead, and
// the copy follows it again.
func TestRollBackIsFinishedWhenTheSourceReturns(t *testing.T) {
	script(t, 2, func(w *world) {
		w.create()
		a, b := w.servers[0], w.servers[1]
		w.inMidResync()
		b.fill(b.path)
		w.asked(b, func(ctx context.Context, service api.Service) error {
			_, err := service.Switchover(ctx, api.Switchover{Volume: volumeName, To: "b", Force: true}, func(api.SwitchoverStep) {})
			return err
		})
		w.until("b goes on", func() bool { return b.volume() != nil && b.stopped() == nil })
		if s := b.volume().UndoStatus(); s.State != "rolling-back" {
			w.fail("script", "b is %q", s.State)
		}
		b.fill("")
		a.start()
		w.until("a serves", a.open)
		w.settle()
		if h := b.volume().Header(); h.Role != lineage.RoleTarget || h.Consistent != "yes" {
			w.fail("script", "b is %s, consistent %s", h.Role, h.Consistent)
		}
	})
}
