package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"keelson/internal/api"
)

// careful switches over as planned while there is a source. Without one he takes over only where the plan says that
// nothing answered is at risk, and what the plan takes for granted is what he saw: the source was mirroring to that
// server when it died. Otherwise he waits for the servers to come back.
func (x *chaos) careful(seed uint64) func(ctx context.Context) {
	return func(ctx context.Context) {
		rng := rand.New(rand.NewPCG(seed, uint64(x.kills)))
		for pauseUpTo(ctx, rng, time.Second) {
			up := x.up()
			if len(up) == 0 {
				continue
			}
			if v := x.serving(); v != nil {
				switch rng.IntN(6) {
				case 0, 1:
					x.plannedTo(rng, v, up)
				case 2: // frames that wait in the source's memory die with it
					others := x.c.others(v.Source)
					x.rate(v.Source, others[rng.IntN(len(others))], []string{"0", "1MiB", "4MiB"}[rng.IntN(3)])
				}
				continue
			}
			rng.Shuffle(len(up), func(i, j int) { up[i], up[j] = up[j], up[i] })
			for _, heir := range up {
				if x.safe(heir) {
					x.force(up[rng.IntN(len(up))], heir)
					break
				}
			}
		}
	}
}

// plannedTo switches over to one of the servers of which the source says that it can.
func (x *chaos) plannedTo(rng *rand.Rand, v *api.VolumeStatus, up []string) {
	var ready []string
	for _, c := range v.Switchover {
		if c.OK {
			ready = append(ready, c.To)
		}
	}
	if len(ready) == 0 {
		return
	}
	if x.command(up[rng.IntN(len(up))], "switchover", x.c.name, "--to", ready[rng.IntN(len(ready))], "--yes").code == exitDone {
		x.planned++
	} else {
		x.refused++
	}
}

// rate limits what is sent to the target, a second.
func (x *chaos) rate(source, target, limit string) {
	x.command(source, "mirror", "set", x.c.name, "--target", target, "--rate", limit)
}

// unlimited takes back what rate has set.
func (x *chaos) unlimited() {
	x.c.t.Helper()
	var v *api.VolumeStatus
	x.c.wait("somebody serves", settleMax, func() error {
		if v = x.serving(); v == nil {
			return errors.New("nobody does")
		}
		return nil
	})
	for _, target := range x.c.others(v.Source) {
		x.rate(v.Source, target, "0")
	}
}

// safe reads the plan of a forced take-over and compares it with what was seen.
func (x *chaos) safe(heir string) bool {
	r := x.c.execute(heir, "switchover", x.c.name, "--to", heir, "--plan", "--force", "--json", "--timeout", "5s")
	if r.code != exitDone {
		return false // somebody serves, or the agent was killed
	}
	var plan api.SwitchoverResult
	if err := json.Unmarshal([]byte(r.stdout), &plan); err != nil {
		x.problem(fmt.Errorf("plan at %s: %w: %s", heir, err, r.stdout))
		return false
	}
	d, dead := x.isDown(plan.From)
	if plan.Risk == nil || plan.Risk.AtRisk || !dead || !slices.Contains(d.inSync, heir) {
		x.waited++
		x.tell("waits rather than making %s the source: source %s down %v, was mirroring to %v, at risk: %v", heir, plan.From, dead, d.inSync, plan.Risks)
		return false
	}
	x.tell("%s can take over from %s: %v", heir, plan.From, plan.Risks)
	return true
}

func (x *chaos) force(at, heir string, more ...string) {
	if x.command(at, append([]string{"switchover", x.c.name, "--to", heir, "--force", "--yes"}, more...)...).code != exitDone {
		x.refused++
	}
}

// careless forces at random moments whoever comes to his mind, and ends split brains by a coin.
func (x *chaos) careless(seed uint64) func(ctx context.Context) {
	return func(ctx context.Context) {
		rng := rand.New(rand.NewPCG(seed, uint64(x.kills)))
		for pauseUpTo(ctx, rng, time.Second) {
			up := x.up()
			if len(up) == 0 {
				continue
			}
			at, node := up[rng.IntN(len(up))], up[rng.IntN(len(up))]
			switch dice := rng.IntN(10); {
			case dice < 4:
				x.force(at, node)
			case dice < 6:
				x.force(at, node, "--no-catch-up")
			case dice < 8 && (dice == 6 || x.split()):
				x.resolve(at, x.c.nodes[rng.IntN(len(x.c.nodes))])
			default:
				if v := x.serving(); v != nil && rng.IntN(2) == 0 {
					x.plannedTo(rng, v, up)
				}
			}
		}
	}
}

func (x *chaos) resolve(at, keep string) {
	if x.command(at, "split-brain", "resolve", x.c.name, "--keep", keep, "--yes").code == exitDone {
		x.resolved++
	} else {
		x.refused++
	}
}

// settle does what it takes until there is one source and all mirrors are Mirroring: every split brain is ended by a coin, and
// a volume that stays closed is forced open.
func (x *chaos) settle(seed uint64) {
	x.c.t.Helper()
	rng := rand.New(rand.NewPCG(seed, uint64(x.kills)+1))
	const patience = 15 * time.Second
	closed := time.Now()
	x.c.wait("the volume comes to rest", 4*settleMax, func() error {
		source, err := x.c.oneSource()
		if err == nil {
			err = x.c.mirroring(source, x.c.others(source)...)
		}
		if err == nil {
			return nil
		}
		switch v := x.serving(); {
		case x.split():
			x.resolve(x.c.nodes[rng.IntN(3)], x.c.nodes[rng.IntN(3)])
		case v != nil:
			closed = time.Now()
		case time.Since(closed) > patience:
			closed = time.Now()
			node := x.c.nodes[rng.IntN(3)]
			x.force(node, node)
		}
		x.check()
		return err
	})
}

// split reports whether any agent shows a split brain.
func (x *chaos) split() bool {
	for _, node := range x.up() {
		v, err := x.c.volume(node)
		if err == nil && slices.ContainsFunc(v.Mirrors, func(m api.MirrorStatus) bool { return m.State == "SplitBrain" }) {
			return true
		}
	}
	return false
}
