package undo

import (
	"flag"
	"fmt"
	"testing"

	"keelson/internal/vfs"
)

var (
	crashSeeds = flag.Uint64("crash.seeds", 4, "scripts that crash at some of their calls, besides the one that does at all of them")
	crashEvery = flag.Int("crash.every", 5, "which of their calls: every n-th")
)

// world lives, crashes and compares.
type world interface {
	live(steps int, plan crashPlan, script uint64, power bool) error
	made() (calls, failedAt int) // in the last life, and at which of all a sync failed last
	steps() int                  // of a first life
}

func (w *crasher) made() (calls, failedAt int) { return w.calls, w.failedAt }

func (w *logWorld) steps() int   { return 30 }
func (w *storeWorld) steps() int { return 12 } // each is a dozen calls

func newLogWorld(seed int64, left protection) world {
	return &logWorld{crasher: crasher{mem: vfs.NewMem(seed), left: left}}
}

func newStoreWorld(seed int64, left protection) world {
	return &storeWorld{crasher: crasher{mem: vfs.NewMem(seed), left: left}, kept: map[string][]Image{}, keepTried: map[string][]Image{}}
}

// matrix runs one script with a crash at every n-th of its I/O calls, each of four kinds, and further lives after it.
func matrix(make func(int64, protection) world, seed uint64, left protection, every int) (runs int, err error) {
	failed := 0 // the newest call at which a sync failed: to ask for an earlier one is the same
	for call := 1 + int(seed)%every; ; call += every {
		ended := false
		for k, kind := range []struct{ power, torn, eio bool }{{}, {power: true}, {torn: true}, {power: true, torn: true}, {eio: true}, {eio: true, torn: true}, {eio: true, power: true}} {
			if kind.eio && call < failed {
				continue
			}
			w := make(int64(seed)<<20+int64(call)<<3+int64(k), left)
			err := w.live(w.steps(), crashPlan{call, kind.torn, kind.eio}, seed, kind.power)
			calls, failedAt := w.made()
			ended = calls < call
			if kind.power {
				failed = max(failed, failedAt)
			}
			for life := 1; err == nil && life < 4; life++ {
				again := crashPlan{1 + (call*7+life*13)%50, (call+life)%2 == 0, (call+life)%3 == 0}
				err = w.live(w.steps()*2/3, again, seed+uint64(call*life), (call+life)%3 > 0)
			}
			if err == nil {
				err = w.live(5, crashPlan{}, seed, true)
			}
			if err == nil {
				err = w.live(0, crashPlan{}, seed, true)
			}
			if runs++; err != nil {
				return runs, fmt.Errorf("seed %d, crash at call %d (%+v): %w", seed, call, kind, err)
			}
		}
		if ended {
			return runs, nil
		}
	}
}

func crashEverywhere(t *testing.T, make func(int64, protection) world) {
	every := 1
	if raceDetector { // ten times slower, and there is one goroutine
		every = 4 * *crashEvery
	}
	for seed := range *crashSeeds + 1 {
		runs, err := matrix(make, seed, 0, every)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("seed %d: %d runs of 5 crashes", seed, runs)
		every = max(every, *crashEvery)
	}
}

func TestLogCrashAtEveryCall(t *testing.T) { crashEverywhere(t, newLogWorld) }

func TestSalvageCrashAtEveryCall(t *testing.T) { crashEverywhere(t, newStoreWorld) }
