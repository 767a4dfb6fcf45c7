package sim

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"keelson/internal/api"
	"keelson/internal/switchover"
)

// command is something that an administrator waits for.
type command struct {
	text     string
	since    time.Time
	limit    time.Duration
	endsHold bool // it may bring a copy up to date that is held
}

// forcing counts what may have made a second source.
type forcing struct{ under, done int }

// possible reports whether somebody took over by force, or may be about to.
func (f *forcing) possible() bool { return f.under+f.done > 0 }

// order gives a command at a server and does not wait. Force: it may make a second source, unless it is refused.
func (w *world) order(at *server, force bool, text string, do func(context.Context, api.Service) error) {
	n := at.up()
	if n == nil {
		return
	}
	w.mu.Lock()
	w.commandN++
	id := w.commandN
	c := command{text: text + " at " + at.name, since: time.Now(), limit: time.Duration(w.pick(2, 5, 20)) * time.Second}
	switch verb, _, _ := strings.Cut(text, " "); verb {
	case "accept", "continue", "resync", "add", "remove", "replace", "resolve,", "forced":
		w.endsHold()
		c.endsHold = true
	}
	w.commands[id] = c
	if force {
		w.force.under++
	}
	w.mu.Unlock()
	w.tally("commands")
	w.log(at.name, "administrator %d: %s (limit %s)", id, text, c.limit)
	w.admins.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), c.limit)
		defer cancel()
		err := do(ctx, n.Service())
		result := "done"
		var said *api.Error
		if errors.As(err, &said) {
			result = fmt.Sprintf("code %d: %v", said.Code, err)
		} else if err != nil {
			result = err.Error()
		}
		w.log(at.name, "administrator %d: %s", id, result)
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.commands, id)
		if err == nil {
			w.tally("commands done")
		}
		if force {
			w.force.under--
			if said == nil || said.Code != api.Refused {
				w.force.done++
			}
		}
	})
}

// administer is an administrator who does something ordinary, perhaps at the wrong moment.
func (w *world) administer(s *server) {
	target := w.servers[w.rng.IntN(len(w.servers))].name
	if at := w.source(); at != nil && w.rng.IntN(4) > 0 {
		s = at
		for _, c := range at.shown().Candidates {
			if c.OK && w.rng.IntN(2) == 0 {
				target = c.To
			}
		}
	}
	mode := []string{"sync", "async"}[w.rng.IntN(2)]
	change := api.MirrorChange{Volume: volumeName, Target: target, Action: "continue"}
	switch w.rng.IntN(16) {
	case 0:
		change.Action = "pause"
	case 1:
		change.Action = "break"
	case 2, 3, 4:
	case 5:
		change.Action, change.Mode = "set", &mode
	case 6:
		change.Action = "resync"
	default:
		w.switchover(s, api.Switchover{Volume: volumeName, To: target})
		if w.mix.armed > 0 && w.rng.IntN(3) == 0 { // somebody dies in the middle of it
			w.down(w.byName(w.pickName(s.name, target)), w.mix.power > 0 && w.rng.IntN(2) == 0, 1+w.rng.Int64N(60))
		}
		return
	}
	w.order(s, false, change.Action+" "+target, func(ctx context.Context, a api.Service) error {
		_, err := a.ChangeMirror(ctx, change)
		return err
	})
}

func (w *world) pickName(of ...string) string { return of[w.rng.IntN(len(of))] }

func (w *world) switchover(at *server, r api.Switchover) {
	text := "switchover to " + r.To
	if r.Force {
		text = "forced take-over by " + r.To
		w.tally("forced take-overs asked for")
	} else {
		w.tally("switchovers asked for")
	}
	var before *attempt
	last := w.lastWord()
	if r.Force {
		before = w.beforeForce(r)
		w.byName(r.To).forced = time.Now()
	}
	w.order(at, r.Force, text, func(ctx context.Context, a api.Service) error {
		planned := false // in the end it may be a hand-over, if the source lives or another server took over for this one
		_, err := a.Switchover(ctx, r, func(s api.SwitchoverStep) { planned = planned || s.Name == switchover.StepHandOver })
		if err == nil && r.Force {
			w.tally("forced take-overs done")
			w.mu.Lock()
			w.afterForce(before, r, planned)
			if !planned {
				w.beginHold(w.byName(r.To), last)
			}
			w.mu.Unlock()
		} else if err == nil {
			w.tally("switchovers done")
		}
		return err
	})
}

// takeOver is an administrator who believes that the source is dead.
func (w *world) takeOver(s *server) {
	if s.out.Load() || w.source() != nil && w.rng.IntN(3) > 0 {
		return
	}
	w.switchover(s, api.Switchover{Volume: volumeName, To: s.name, Force: true, NoCatchUp: w.rng.IntN(5) == 0})
}

// reckless is an administrator who chooses a side at once.
func (w *world) reckless(s *server) {
	keep := w.servers[w.rng.IntN(len(w.servers))].name
	w.resolve(s, keep)
}

func (w *world) resolve(at *server, keep string) {
	w.order(at, true, "resolve, keep "+keep, func(ctx context.Context, a api.Service) error {
		err := a.ResolveSplitBrain(ctx, api.ResolveSplitBrain{Volume: volumeName, Keep: keep})
		if err == nil {
			w.tally("split brains resolved")
		}
		return err
	})
}

// source is a server that serves, in the newest term; nil if there is none.
func (w *world) source() (best *server) {
	for _, s := range w.servers {
		if s.open() && (best == nil || best.served.Less(s.served)) {
			best = s
		}
	}
	return best
}
