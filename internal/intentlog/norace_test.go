//go:build !race

package intentlog

import "testing"

const raceDetector = false

// TestEveryProtectionIsNeeded leaves one out at a time: then the same crashes must break a promise.
// It is not for the race detector, which makes it ten times slower: nothing here is concurrent.
func TestEveryProtectionIsNeeded(t *testing.T) {
	for name, left := range map[string]protection{
		"hot mark before the write": hotBeforeWrite, "cool after the commit": coolAfterCommit, "two header slots": twoHeaderSlots,
		"two map slots": twoMapSlots, "touched stay hot": touchedStayHot,
		"map before header": mapBeforeHeader, "data before map": dataBeforeMap, "sync at open": syncAtOpen,
		"written once more at open": writeAtOpen,
		"clean hot is durable":      cleanHotIsDurable,
	} {
		t.Run(name, func(t *testing.T) {
			for seed := uint64(0); seed < 40; seed++ {
				if runs, err := matrix(seed, left, 60, 4); err != nil {
					t.Logf("noticed after %d crashes: %v", runs, err)
					return
				}
			}
			t.Error("left out, and no crash noticed")
		})
	}
}
