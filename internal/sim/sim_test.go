package sim

import (
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

var (
	seedFlag    = flag.Int64("seed", -1, "run only this history")
	seedsFlag   = flag.Int("seeds", 6, "how many histories")
	firstFlag   = flag.Uint64("first", 1, "the first of them")
	freshFlag   = flag.Int("fresh", 1, "how many histories of seeds that nobody has run before")
	fromFlag    = flag.Uint64("from", 0, "the first of those; 0: from the clock")
	secondsFlag = flag.Int("seconds", 0, "run fresh histories for so long")
	storyFlag   = flag.Bool("story", false, "print the story of every history")
	mutantFlag  = flag.String("mutant", "", "leave this protection out; TestMutants: only these, with commas between")
	timesFlag   = flag.Int("times", 1, "TestMutants: how often each has to be noticed before the next")
)

// tailMax is how much of a story is printed unless -story is set.
const tailMax = 250

// play runs one history in a bubble of its own.
func play(t *testing.T, seed uint64, m *mutant) *world {
	var w *world
	synctest.Test(t, func(t *testing.T) {
		if m != nil && scripts[m.name].play != nil {
			w = playScript(t, seed, m.name, m)
			return
		}
		w = newWorld(t, seed, m)
		w.run()
	})
	return w
}

// report prints the story of a broken history, and how to see it again.
func (w *world) report(t *testing.T) {
	lines := w.told
	if !*storyFlag && len(lines) > tailMax {
		lines = append([]string{fmt.Sprintf("... %d lines before (-story shows them)", len(lines)-tailMax)}, lines[len(lines)-tailMax:]...)
	}
	t.Errorf("seed %d: %s\n%s\nseed %d: %s\nagain: go test ./internal/sim -run TestSimulation -args -seed=%d", w.seed, w.broken, strings.Join(lines, "\n"), w.seed, w.broken, w.seed)
}

// TestSimulation runs random histories and checks guarantees 1 to 7 all along.
func TestSimulation(t *testing.T) {
	m := mutantNamed(t, *mutantFlag)
	if *seedFlag >= 0 {
		w := play(t, uint64(*seedFlag), m)
		if w.broken != "" {
			w.report(t)
		} else if *storyFlag {
			fmt.Println(strings.Join(w.told, "\n"))
		}
		return
	}
	began := time.Now()
	total := map[string]int{}
	n, broken := 0, 0
	one := func(seed uint64) {
		w := play(t, seed, m)
		n++
		for what, k := range w.count {
			total[what] += k
		}
		total["bytes sent"] += int(w.net.sent)
		if w.broken != "" {
			broken++
			fmt.Printf("seed %d: %.400s\n", seed, w.broken)
			w.report(t)
		}
	}
	for i := range *seedsFlag {
		one(*firstFlag + uint64(i))
	}
	fresh := *fromFlag
	if fresh == 0 {
		fresh = uint64(began.Unix())
	}
	fmt.Printf("fresh seeds from %d on\n", fresh)
	for i := 0; i < *freshFlag || time.Since(began) < time.Duration(*secondsFlag)*time.Second; i++ {
		one(fresh + uint64(i))
	}
	var figures []string
	for _, what := range slices.Sorted(maps.Keys(total)) {
		figures = append(figures, fmt.Sprintf("%d %s", total[what], what))
	}
	fmt.Printf("%d histories, %d broken, in %.0f s: %s\n", n, broken, time.Since(began).Seconds(), strings.Join(figures, ", "))
}
