package resync_test

import (
	"testing"

	"keelson/internal/resync"
)

func (w *world) step() {
	rng := w.rng
	var up, sources []*replica
	for _, r := range w.replicas {
		if r.up {
			up = append(up, r)
			if r.isSource {
				sources = append(sources, r)
			}
		}
	}
	one := func(of []*replica) *replica { return of[rng.IntN(len(of))] }
	switch dice := rng.IntN(100); {
	case dice < 40:
		if len(sources) > 0 {
			w.write(one(sources))
		}
	case dice < 62:
		if len(w.streams) > 0 {
			x := w.streams[rng.IntN(len(w.streams))]
			if rng.IntN(2) == 0 {
				w.copyNext(x)
			} else {
				w.deliver(x)
			}
		}
	case dice < 67:
		if len(up) > 0 {
			w.checkpoint(one(up))
		}
	case dice < 75:
		if r := one(w.replicas); r.up {
			w.crash(r)
		} else {
			r.up = true
		}
	case dice < 80:
		if len(up) > 0 && len(sources) < 2 {
			if r := one(up); !r.isSource {
				w.becomeSource(r)
			}
		}
	case dice < 84:
		if len(w.streams) > 0 {
			i := rng.IntN(len(w.streams))
			w.streams = append(w.streams[:i:i], w.streams[i+1:]...)
		}
	case len(sources) > 0 && len(up) > 1:
		w.meet(one(sources), one(up))
	}
}

// checkpoint: with "cool" left out the data was not durable when the regions cooled.
func (w *world) checkpoint(r *replica) {
	if w.omit == "cool" && w.rng.IntN(2) == 0 {
		for region := range int64(regions) {
			if seen := r.hot[region]; seen != nil && w.rng.IntN(2) == 0 {
				r.checkpoint()
				r.data[region] = seen[w.rng.IntN(len(seen))]
				return
			}
		}
	}
	r.checkpoint()
}

func (w *world) meet(s, t *replica) {
	if s == t {
		return
	}
	for _, x := range w.streams {
		if x.t == t {
			return
		}
	}
	if t.isSource {
		w.hangup(t)
	}
	w.connect(s, t)
	if w.rng.IntN(3) == 0 {
		w.finish(w.streams[len(w.streams)-1])
	}
}

func (w *world) run() string {
	for range historySteps {
		if w.step(); w.broken != "" {
			return w.broken
		}
	}
	w.compare()
	return w.broken
}

func howMany() int {
	switch {
	case *seeds > 0:
		return *seeds
	case raceOn:
		return 1500
	}
	return 20000
}

func TestEqualVersionEqualContent(t *testing.T) {
	kinds := map[resync.Kind]int{}
	for seed := range howMany() {
		w := newWorld(uint64(seed), "")
		if broken := w.run(); broken != "" {
			t.Fatalf("seed %d: %s", seed, broken)
		}
		for k, n := range w.kinds {
			kinds[k] += n
		}
	}
	t.Logf("%d histories of %d steps: resyncs %v", howMany(), historySteps, kinds)
	for _, k := range []resync.Kind{resync.None, resync.Partial, resync.Compare} {
		if kinds[k] == 0 {
			t.Errorf("no history had a %s resync: the test has gone blind", k)
		}
	}
}

func TestEveryRuleIsNeeded(t *testing.T) {
	for _, omit := range []string{
		"hot",          // rule 6: hot regions are unknown after a stop
		"cool",         // rule 7: regions cool only when their data is durable
		"number",       // rule 1: a new generation after every start as source
		"cursor",       // a write ahead of the cursor is left to it
		"hash",         // rule 8: content that was unknown is hashed, not believed
		"adopt-number", // no write gets an adoption number
		"adopt-hot",    // rule 8: what was unknown stays hot until the next checkpoint
	} {
		t.Run(omit, func(t *testing.T) {
			for seed := range howMany() {
				if broken := newWorld(uint64(seed), omit).run(); broken != "" {
					t.Logf("seed %d: %s", seed, broken)
					return
				}
			}
			t.Errorf("left out, and none of %d histories noticed", howMany())
		})
	}
}
