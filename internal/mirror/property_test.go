package mirror

import (
	"flag"
	"strings"
	"testing"
)

var (
	seeds   = flag.Int("seeds", 0, "how many random histories (0: 800, with the race detector 100)")
	oneSeed = flag.Int("seed", -1, "only this history, with its trace")
)

const historySteps = 1200

func howMany() int {
	switch {
	case *seeds > 0:
		return *seeds
	case raceOn:
		return 40 // one goroutine: the detector has little to find
	}
	return 800
}

// TestAnyHistoryKeepsTheGuarantees: guarantees 1, 3 and 7 and rules 17 to 21 and 24, over random histories of crashes, lost, late and
// doubled messages, and administrators who do not know of each other.
func TestAnyHistoryKeepsTheGuarantees(t *testing.T) {
	first, n := 0, howMany()
	if *oneSeed >= 0 {
		first, n = *oneSeed, 1
	}
	total := map[string]int{}
	for seed := first; seed < first+n; seed++ {
		c := newCluster(uint64(seed), "", *oneSeed >= 0)
		if broken := c.run(historySteps); broken != "" {
			t.Errorf("seed %d: %s\n%s", seed, broken, strings.Join(c.trace, "\n"))
			if testing.Short() || *oneSeed < 0 {
				break
			}
		}
		for k, v := range c.count {
			total[k] += v
		}
	}
	t.Logf("%d histories: %v", n, total)
	if n > 400 {
		for _, what := range []string{"answers", "crashes", "switch ", "switch plan-in-progress", "switch handed-over", "switch heir-lost", "refused older-term"} {
			if total[what] == 0 {
				t.Errorf("no history had any %q: the test has gone blind", what)
			}
		}
	}
}

// TestForcedTakeOvers: guarantees 1 and 3 and rules 20, 22, 24 and 25, over random histories in which administrators also
// force and resolve, carelessly.
func TestForcedTakeOvers(t *testing.T) {
	histories(t, newReckless, "forced", "careful", "waived", "given up", "overruled", "rolled back", "force behind-survivor", "force source-alive", "resolve ", "refused split-brain")
}

// histories runs random histories of that kind; in many of them, all of those things have to have happened.
func histories(t *testing.T, history func(uint64, string, bool) *cluster, things ...string) {
	t.Helper()
	first, n := 0, howMany()
	if *oneSeed >= 0 {
		first, n = *oneSeed, 1
	}
	total := map[string]int{}
	for seed := first; seed < first+n; seed++ {
		c := history(uint64(seed), "", *oneSeed >= 0)
		if broken := c.run(historySteps); broken != "" {
			t.Errorf("seed %d: %s\n%s", seed, broken, strings.Join(c.trace, "\n"))
			if testing.Short() || *oneSeed < 0 {
				break
			}
		}
		for k, v := range c.count {
			total[k] += v
		}
	}
	t.Logf("%d histories: %v", n, total)
	if n > 400 {
		for _, what := range things {
			if total[what] == 0 {
				t.Errorf("no history had any %q: the test has gone blind", what)
			}
		}
	}
}

// TestDisksFail: guarantees 1 and 9 and rule 17, over random histories in which disks fail, most often the source's.
func TestDisksFail(t *testing.T) {
	first, n := 0, howMany()
	if *oneSeed >= 0 {
		first, n = *oneSeed, 1
	}
	total := map[string]int{}
	for seed := first; seed < first+n; seed++ {
		c := newFailing(uint64(seed), "", *oneSeed >= 0)
		if broken := c.run(historySteps); broken != "" {
			t.Errorf("seed %d: %s\n%s", seed, broken, strings.Join(c.trace, "\n"))
			if testing.Short() || *oneSeed < 0 {
				break
			}
		}
		for k, v := range c.count {
			total[k] += v
		}
	}
	for _, action := range []string{"pause", "break", "remove", "set"} {
		total["last copy kept"] += total[action+" last-copy"]
	}
	t.Logf("%d histories: %v", n, total)
	if n > 400 {
		for _, what := range []string{"disks failed", "disks failed at a source", "served from a target", "switch from a failed disk ", "force ", "last copy kept"} {
			if total[what] == 0 {
				t.Errorf("no history had any %q: the test has gone blind", what)
			}
		}
	}
}

// TestEveryProtectionIsNeeded leaves out one protection after the other: the histories must notice each.
func TestEveryProtectionIsNeeded(t *testing.T) {
	for _, c := range []struct {
		omit   string // see Machine.omits
		breaks string // how the broken invariant's name begins
		seed   uint64 // a history known to notice; if histories have changed, the search goes on from there
	}{
		{"save-before-token", "two sources", 306},
		{"take-back", "two sources", 27},
		{"require-early", "record", 12},
		{"accept-older-term", "older term", 25},
		{"admit-early", "member", 511},
		{"admit-unread", "record", 50},
		{"require-after-admit", "record", 50},
		{"token-not-repeated", "finale: no source", 4},
		{"promise-not-durable", "promise", 0},
		{"plan-in-answer", "finale: no source", 93},
	} {
		notices(t, c.omit, c.breaks, c.seed, newCluster)
	}
	for _, c := range []struct {
		omit, breaks string
		seed         uint64
	}{
		{"serve-before-leaving", "record", 0},
		{"open-failed-copy", "failed", 0},
	} {
		notices(t, c.omit, c.breaks, c.seed, newFailing)
	}
	for _, c := range []struct {
		omit, breaks string
		seed         uint64
	}{
		{"fence-not-durable", "promise", 0},
		{"serving-not-refused", "two sources", 207},
		{"vouch-skipped", "overruled", 13},
		{"renew-skipped", "finale", 0},
		{"discard-forgotten", "finale", 0},
		{"compare-by-position-only", "forced", 179},
		{"ask", "lost write", 4},
		{"no-roll-back", "rolling", 26},
	} {
		notices(t, c.omit, c.breaks, c.seed, newReckless)
	}
	notices(t, "hold", "held", 0, newHolding)
}

// notices leaves a protection out and expects that a history breaks in the way that it is there to prevent.
func notices(t *testing.T, omit, breaks string, from uint64, history func(uint64, string, bool) *cluster) {
	t.Run(omit, func(t *testing.T) {
		others := map[string]int{}
		for seed := from; seed < from+searchMax; seed++ {
			broken := history(seed, omit, false).run(historySteps)
			if strings.HasPrefix(broken, breaks) {
				t.Logf("seed %d: %s", seed, broken)
				return
			}
			if broken != "" {
				others[strings.SplitN(broken, ":", 2)[0]]++
			}
		}
		t.Errorf("left out, and no history of %d broke %q (others broke: %v)", searchMax, breaks, others)
	})
}

const searchMax = 5000
