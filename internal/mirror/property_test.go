package mirror

import (
	"flag"
	"fmt"
	"strings"
	"testing"
)

var (
	seeds   = flag.Int("seeds", 1200, "how many random histories each property is tried on")
	oneSeed = flag.Int("seed", -1, "only this history, with its trace")
)

const historySteps = 1200

// TestAnyHistoryKeepsTheGuarantees: guarantees 1, 3 and 7 and rules 17 to 21 and 24, over random histories of crashes, lost, late and
// doubled messages, and administrators who do not know of each other.
func TestAnyHistoryKeepsTheGuarantees(t *testing.T) {
	first, n := 0, *seeds
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
	if n > 100 {
		for _, what := range []string{"answers", "crashes", "switch ", "switch plan-in-progress", "switch handed-over", "switch heir-lost", "refused older-term"} {
			if total[what] == 0 {
				t.Errorf("no history had any %q: the test has gone blind", what)
			}
		}
	}
}

// TestEveryProtectionIsNeeded leaves out one protection after the other: the histories must notice each.
func TestEveryProtectionIsNeeded(t *testing.T) {
	for _, c := range []struct{ omit, breaks string }{
		{"save-before-token", "two sources"},
		{"take-back", "two sources"},
		{"require-early", "record"},
		{"accept-older-term", "older term"},
		{"admit-early", "member"},
		{"admit-unread", "record"},
		{"require-after-admit", "record"},
		{"token-not-repeated", "finale"},
		{"promise-not-durable", "promise"},
		{"plan-in-answer", "finale"},
	} {
		t.Run(c.omit, func(t *testing.T) {
			others := map[string]int{}
			for seed := range *seeds * 3 {
				broken := newCluster(uint64(seed), c.omit, false).run(historySteps)
				if strings.HasPrefix(broken, c.breaks) {
					t.Logf("seed %d: %s", seed, broken)
					return
				}
				if broken != "" {
					others[strings.SplitN(broken, ":", 2)[0]]++
				}
			}
			t.Error(fmt.Sprintf("left out, and no history of %d broke %q (others broke: %v)", *seeds*3, c.breaks, others))
		})
	}
}
