package intentlog

import (
	"flag"
	"fmt"
	"testing"
)

var (
	crashSeeds = flag.Uint64("crash.seeds", 3, "scripts that crash at some of their calls, besides the one that does at all of them")
	crashEvery = flag.Int("crash.every", 9, "which of their calls: every n-th")
)

// matrix runs one script with a crash at its k-th I/O call, for every n-th k, and two further lives after it. It returns
// the first broken promise.
func matrix(seed uint64, left protection, steps, every int) (runs int, err error) {
	failed := 0 // the newest call at which a sync failed: to ask for an earlier one is the same
	for call := 1 + int(seed)%every; ; call += every {
		ended := false
		for _, kind := range []struct{ power, torn, eio bool }{{}, {power: true}, {torn: true}, {power: true, torn: true}, {eio: true}, {eio: true, power: true}} {
			if kind.eio && call < failed {
				continue
			}
			calls, failedAt, err := oneRun(seed, left, steps, crashPlan{call, kind.torn, kind.eio}, kind.power)
			runs++
			if kind.power {
				failed = max(failed, failedAt)
			}
			if err != nil {
				return runs, fmt.Errorf("seed %d, crash at call %d (%+v): %w", seed, call, kind, err)
			}
			ended = calls < call
		}
		if ended {
			return runs, nil
		}
	}
}

// oneRun is a crash at that call, then lives with crashes elsewhere, then a power cut.
func oneRun(seed uint64, left protection, steps int, plan crashPlan, power bool) (calls, failedAt int, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	call := plan.call
	w := newWorld(int64(seed)<<16+int64(call), left)
	if err := w.live(steps, plan, seed, power); err != nil {
		return w.calls, w.failedAt, err
	}
	calls, failedAt = w.calls, w.failedAt
	again := crashPlan{call: 1 + (call*7+int(seed)*13)%60, torn: call%2 == 0}
	if err := w.live(steps/2, again, seed+uint64(call), call%3 > 0); err != nil {
		return calls, failedAt, err
	}
	return calls, failedAt, w.live(steps/4, crashPlan{}, seed+uint64(call)+1, true)
}

func TestCrashAtEveryCall(t *testing.T) {
	every, seeds := 1, *crashSeeds+1
	if raceDetector { // ten times slower, and nothing here is concurrent
		every, seeds = *crashEvery, 1
	}
	for seed := range seeds {
		runs, err := matrix(seed, 0, 60, every)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("seed %d: %d crashes", seed, runs)
		every = *crashEvery
	}
}
