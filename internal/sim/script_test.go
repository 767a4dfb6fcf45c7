package sim

import (
	"context"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"keelson/internal/api"
	"keelson/internal/mirror"
)

// script runs what somebody wrote instead of a random history, in a world in which nothing fails by itself.
func script(t *testing.T, servers int, play func(w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := bare(t, servers, 1, nil)
		play(w)
		w.check()
		w.end()
		if w.broken != "" {
			w.report(t)
		}
	})
}

// TestScripts: the scripts of mutants break nothing while nothing is left out.
func TestScripts(t *testing.T) {
	for _, name := range slices.Sorted(maps.Keys(scripts)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if w := playScript(t, 1, name, nil); w.broken != "" {
					w.report(t)
				}
			})
		})
	}
}

func playScript(t *testing.T, seed uint64, name string, m *mutant) *world {
	s := scripts[name]
	w := bare(t, s.servers, seed, m)
	w.create()
	s.play(w)
	w.check()
	w.end()
	return w
}

// bare is a world of so many servers that run.
func bare(t *testing.T, servers int, seed uint64, m *mutant) *world {
	w := newWorld(t, seed, m)
	for len(w.servers) < servers {
		w.servers = append(w.servers, newServer(w, len(w.servers)))
	}
	w.servers = w.servers[:servers]
	w.mode, w.encrypted, w.calm, w.mix = "sync", false, true, mix{pause: 5}
	w.boot()
	return w
}

// must gives a command and waits for it.
func (w *world) must(at string, do func(context.Context, api.Service) error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := do(ctx, w.byName(at).up().Service()); err != nil {
		w.fail("script", "%s: %v", at, err)
	}
}

func (w *world) change(at string, c api.MirrorChange) {
	c.Volume = volumeName
	w.must(at, func(ctx context.Context, a api.Service) error {
		_, err := a.ChangeMirror(ctx, c)
		return err
	})
}

func (w *world) moveTo(to string) {
	w.must(to, func(ctx context.Context, a api.Service) error {
		_, err := a.Switchover(ctx, api.Switchover{Volume: volumeName, To: to}, func(api.SwitchoverStep) {})
		return err
	})
}

// until waits until the condition holds, for a minute at most.
func (w *world) until(what string, holds func() bool) {
	for end := time.Now().Add(time.Minute); !holds() && !w.isBroken(); w.check() {
		if !time.Now().Before(end) {
			w.fail("script", "in vain: %s", what)
		}
		w.pause(10 * time.Millisecond)
	}
}

// inStep are the targets that mirror, as the source sees it.
func (w *world) inStep() (names []string) {
	src := w.source()
	if src == nil {
		return nil
	}
	for _, m := range src.shown().Mirrors {
		if m.State == mirror.Mirroring {
			names = append(names, m.Target)
		}
	}
	slices.Sort(names)
	return names
}

// TestAddedCopyStays: a copy that was added is a member in its own eyes as well: a switchover to it and on to another server loses nobody.
func TestAddedCopyStays(t *testing.T) {
	script(t, 3, func(w *world) {
		c := w.servers[2]
		c.out.Store(true)
		w.create()
		w.until("b mirrors", func() bool { return slices.Equal(w.inStep(), []string{"b"}) })
		w.change("a", api.MirrorChange{Target: "c", Action: "add", Path: c.path})
		c.out.Store(false)
		w.until("b and c mirror", func() bool { return slices.Equal(w.inStep(), []string{"b", "c"}) })
		w.moveTo("c")
		w.until("a and b mirror", func() bool { return slices.Equal(w.inStep(), []string{"a", "b"}) })
		w.moveTo("b")
		w.until("a and c mirror", func() bool { return slices.Equal(w.inStep(), []string{"a", "c"}) })
	})
}

// TestWhatAFirstResyncBroughtIsKept: a copy that has never been whole gets some of what b answered, after it took over; then the older source
// takes over from b, and goes on with that copy. Of what b answered nothing is given up in silence there.
func TestWhatAFirstResyncBroughtIsKept(t *testing.T) {
	script(t, 3, func(w *world) {
		a, b, c := w.servers[0], w.servers[1], w.servers[2]
		w.create()
		w.settle()
		rate := int64(256 << 10)
		w.change("a", api.MirrorChange{Target: "c", Action: "set", ResyncRate: &rate})
		w.pause(2 * time.Second)
		c.proc.die(false, "before anything was written")
		w.pause(2 * time.Second)
		w.clients(20)
		a.proc.die(false, "")
		c.start()
		w.pause(4 * time.Second)
		w.byForce(b)
		w.until("c is in its first resync", func() bool { return c.volume().Header().Consistent == "no" })
		w.clients(60)
		w.pause(2 * time.Second)
		w.clients(30)
		b.proc.die(false, "")
		w.pause(4 * time.Second)
		a.start()
		w.pause(time.Second)
		w.switchover(a, api.Switchover{Volume: volumeName, To: "a", Force: true, NoCatchUp: true})
		w.until("c mirrors", func() bool { return slices.Equal(w.inStep(), []string{"c"}) })
	})
}

// TestRemovedCopyIsForgotten: also by a server that has adopted the settings that say so.
func TestRemovedCopyIsForgotten(t *testing.T) {
	script(t, 3, func(w *world) {
		w.create()
		w.until("b and c mirror", func() bool { return slices.Equal(w.inStep(), []string{"b", "c"}) })
		c := w.servers[2]
		for range 2 {
			w.change("a", api.MirrorChange{Target: "c", Action: "remove"})
			w.until("c has forgotten it", func() bool { return c.volume() == nil })
			w.forget(c)
			w.change("a", api.MirrorChange{Target: "c", Action: "add", Path: c.path})
			w.until("b and c mirror again", func() bool { return slices.Equal(w.inStep(), []string{"b", "c"}) })
		}
	})
}

// TestTwoAreAddedAtOnce: what says that one of them was removed is older than its new copy.
func TestTwoAreAddedAtOnce(t *testing.T) {
	script(t, 3, func(w *world) {
		w.create()
		for range 30 {
			w.until("b and c mirror", func() bool { return slices.Equal(w.inStep(), []string{"b", "c"}) })
			for _, s := range w.servers[1:] {
				w.remove(w.servers[0], s)
				w.until("it is forgotten", func() bool { return !s.changing.Load() && s.volume() == nil })
			}
			w.pause(time.Duration(w.rng.IntN(1000)) * time.Millisecond)
			for _, s := range w.servers[1:] {
				w.add(w.servers[0], s)
				w.pause(time.Duration(w.rng.IntN(3000)) * time.Microsecond)
			}
		}
	})
}

// TestOneIsAddedTwiceAtOnce: two administrators add the same copy at the same moment. One is refused, and the copy stays.
func TestOneIsAddedTwiceAtOnce(t *testing.T) {
	script(t, 3, func(w *world) {
		w.create()
		c := w.servers[2]
		for range 30 {
			w.until("b and c mirror", func() bool { return slices.Equal(w.inStep(), []string{"b", "c"}) })
			w.remove(w.servers[0], c)
			w.until("it is forgotten", func() bool { return !c.changing.Load() && c.volume() == nil })
			for range 2 {
				w.add(w.servers[0], c)
				w.pause(time.Duration(w.rng.IntN(3000)) * time.Microsecond)
			}
			w.admins.Wait()
		}
		w.until("b and c mirror", func() bool { return slices.Equal(w.inStep(), []string{"b", "c"}) })
	})
}

// TestCrashOfARemoval: a server that loses its power at any moment of its removal has forgotten its copy in the end, and can get another.
func TestCrashOfARemoval(t *testing.T) {
	script(t, 3, func(w *world) {
		w.create()
		c := w.servers[2]
		for at := int64(1); at <= 60 && !w.isBroken(); at += 2 {
			w.until("b and c mirror", func() bool { return slices.Equal(w.inStep(), []string{"b", "c"}) })
			c.out.Store(true)
			c.proc.arm(at, at%3 > 0)
			w.change("a", api.MirrorChange{Target: "c", Action: "remove"})
			w.pause(2 * time.Second)
			if c.up() == nil {
				c.start()
			}
			c.proc.dieAt.Store(0)
			w.until("c has forgotten it", func() bool { return c.volume() == nil })
			w.pause(time.Second)
			w.forget(c)
			w.change("a", api.MirrorChange{Target: "c", Action: "add", Path: c.path})
			c.out.Store(false)
		}
	})
}

// TestCrashOfAnAddition: after a power loss of the source at any moment of an addition, that can be repeated, or has been done.
func TestCrashOfAnAddition(t *testing.T) {
	script(t, 3, func(w *world) {
		a, c := w.servers[0], w.servers[2]
		c.out.Store(true)
		w.create()
		for at := int64(1); at <= 24 && !w.isBroken(); at++ {
			w.until("b mirrors", func() bool { return slices.Equal(w.inStep(), []string{"b"}) })
			a.proc.arm(at, true)
			w.add(a, c)
			w.pause(2 * time.Second)
			if a.up() == nil {
				a.start()
			}
			a.proc.dieAt.Store(0)
			w.admins.Wait()
			w.until("a serves", a.open)
			w.until("c mirrors too", func() bool {
				if c.out.Load() && !c.changing.Load() {
					w.add(a, c)
				}
				return slices.Equal(w.inStep(), []string{"b", "c"})
			})
			w.remove(a, c)
			w.until("c has forgotten it", func() bool { return c.volume() == nil && !c.changing.Load() })
		}
	})
}

// TestStartOfACopyIsLost: a copy that was made, and whose server never got the call to start it, starts when it hears of the source again;
// nobody starts an agent again, and nobody has to add it once more.
func TestStartOfACopyIsLost(t *testing.T) {
	script(t, 3, func(w *world) {
		a, c := w.servers[0], w.servers[2]
		c.out.Store(true)
		w.create()
		life := c.proc
		for round := 0; round < 60 && w.counted("starts lost") < 3; round++ {
			w.until("b mirrors", func() bool { return slices.Equal(w.inStep(), []string{"b"}) })
			w.add(a, c)
			for named := false; !named; w.pause(20 * time.Microsecond) {
				m := a.volume().Header().Settings.Find("c")
				named = m != nil && !m.Removed
			}
			w.split(a, c, true)
			w.admins.Wait()
			if w.check(); c.volume() == nil {
				w.tally("starts lost")
			}
			w.split(a, c, false)
			w.until("c mirrors too", func() bool { return slices.Equal(w.inStep(), []string{"b", "c"}) })
			w.remove(a, c)
			w.until("c has forgotten it", func() bool { return c.volume() == nil && !c.changing.Load() })
			if w.isBroken() {
				t.Logf("in round %d", round)
				return
			}
		}
		if n := w.counted("starts lost"); n < 3 || c.proc != life {
			w.fail("script", "%d starts were lost; c was started again: %t", n, c.proc != life)
		}
	})
}
