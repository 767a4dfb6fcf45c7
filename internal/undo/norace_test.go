//go:build !race

package undo

import "testing"

const raceDetector = false

// TestEveryProtectionIsNeeded leaves one out at a time: then the same crashes must break a promise. One goroutine,
// and ten times slower under the race detector.
func TestEveryProtectionIsNeeded(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(int64, protection) world
		left protection
	}{
		{"save is synced", newLogWorld, saveSynced}, {"images name their anchor", newLogWorld, imagesNamed},
		{"a torn tail is cut", newLogWorld, tailCut}, {"an anchor is synced", newLogWorld, anchorSynced},
		{"an anchor's name is synced", newLogWorld, nameSynced}, {"sync at open", newLogWorld, syncAtOpen}, {"the newest batch is written once more", newLogWorld, writeAtOpen}, {"a rollback's note is synced", newLogWorld, noteSynced},
		{"a salvage is synced", newStoreWorld, salvageSynced}, {"a salvage's name is synced", newStoreWorld, salvageNamed},
		{"a salvage is written apart", newStoreWorld, salvageApart}, {"names are synced at open", newStoreWorld, syncAtOpen},
	} {
		t.Run(c.name, func(t *testing.T) {
			for seed := uint64(0); seed < 60; seed++ {
				if runs, err := matrix(c.make, seed, c.left, 3); err != nil {
					t.Logf("noticed after %d runs: %v", runs, err)
					return
				}
			}
			t.Error("left out, and no crash noticed")
		})
	}
}
