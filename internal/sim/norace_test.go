//go:build !race

package sim

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// seedsOfMutant is how many further seeds are tried if those that are known to notice do not.
const seedsOfMutant = 60

// TestMutants leaves out one protection after the other: the histories must notice each.
func TestMutants(t *testing.T) {
	for _, m := range slices.Concat(mutants, chosen()) {
		if *mutantFlag != "" && !strings.Contains(","+*mutantFlag+",", ","+m.name+",") {
			continue
		}
		t.Run(m.name, func(t *testing.T) {
			seeds := m.seeds
			for i := range max(seedsOfMutant, *seedsFlag) {
				seeds = append(seeds, *firstFlag+uint64(i))
			}
			var found []string
			for n, seed := range seeds {
				w := play(t, seed, m)
				if w.broken == "" {
					continue
				}
				found = append(found, fmt.Sprintf("seed %d (the %d.): %.150s", seed, n+1, w.broken))
				if len(found) == *timesFlag {
					break
				}
			}
			if len(found) == 0 {
				t.Errorf("%d histories without this protection broke nothing (rule %s)", len(seeds), m.rule)
			}
			t.Logf("rule %s\n%s", m.rule, strings.Join(found, "\n"))
		})
	}
}

// chosen are further mutants, if some are asked for by name.
func chosen() []*mutant {
	if *mutantFlag == "" {
		return nil
	}
	return elsewhere
}
