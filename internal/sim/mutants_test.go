package sim

import (
	"slices"
	"testing"
)

// mutant is a protection that is left out, to show that the checkers notice.
type mutant struct {
	name  string // as package mirror, volume or intentlog calls what is left out
	rule  string // of DESIGN.md
	seeds []uint64
	tune  func(*mix) // what shows it
}

// takeOvers: sources die, and others take over by force, often in the middle of a resync.
func takeOvers(m *mix) {
	m.crash, m.power, m.armed, m.cut, m.force, m.admin, m.disk, m.lag = 150, 150, 200, 200, 300, 100, 0, 0
}

// mutants are what the histories have to notice, each with seeds that are likely to.
var mutants = []*mutant{
	{name: "checkpoint-drains", rule: "7: an extent does not cool while a write to it is in flight"},
	{name: "hot-before-write", seeds: []uint64{13}, rule: "6: a region is hot, durably, before a write to it is issued"},
	{name: "data-before-map", seeds: []uint64{19}, rule: "7: ... and the data before it"},
	{name: "new-generation", rule: "1: no number is used twice"},
	{name: "region-by-region", seeds: []uint64{17}, rule: "4: a write is decided region by region"},
	{name: "failed-is-unknown", seeds: []uint64{9}, rule: "5: a region whose write failed is unknown", tune: func(m *mix) { m.disk, m.force, m.armed = 800, 0, 50 }},
	{name: "flush-syncs", rule: "10: a flush makes data durable before it is answered"},
	{name: "floor-never-lower", rule: "10: a later checkpoint never lowers the floor"},
	{name: "position-frozen", seeds: []uint64{6}, rule: "11: while a resync runs the position is frozen"},
	{name: "checkpoint-before-adoption", seeds: []uint64{19}, rule: "11: history and position are adopted after a checkpoint"},
	{name: "flush-is-a-barrier", seeds: []uint64{3}, rule: "15: a target finishes a flush before it says so"},
	{name: "wait-for-acks", seeds: []uint64{3}, rule: "17: an answer waits for every sync member"},
	{name: "wait-for-shrunk-record", rule: "17: the record shrinks durably before an answer without the lost member"},
	{name: "require-early", seeds: []uint64{16}, rule: "17: ... on all members that remain"},
	{name: "promise-not-durable", seeds: []uint64{1}, rule: "20: a term is promised durably before anything is said in it"},
	{name: "fence-not-durable", seeds: []uint64{1}, rule: "22: who is reached promises the new term durably"},
	{name: "serve-before-leaving", seeds: []uint64{1}, rule: "guarantee 9: the in-sync set says first that a failed source is served from a target"},
	{name: "take-back", seeds: []uint64{1}, rule: "21: the giver never takes back"},
	{name: "compare-by-position-only", seeds: []uint64{12}, rule: "22: survivors are compared by their record first"},
	{name: "no-roll-back", seeds: []uint64{1}, rule: "22: who is in mid-resync rolls back before it takes over"},
	{name: "ask", seeds: []uint64{1}, rule: "24: a server that was source opens nothing before it has asked"},
	{name: "discard-forgotten", seeds: []uint64{1}, rule: "25: who was told to give in follows"},
	{name: "save-stream-writes", seeds: []uint64{1}, rule: "26: writes of the stream are saved like copies"},
	{name: "salvage-unknown", seeds: []uint64{1}, rule: "28: what is of unknown version is salvaged"},
	{name: "salvage-by-lineage", seeds: []uint64{2}, rule: "28: ... and what is not in the sender's lineage, whatever its number"},
	{name: "anchor-voids-images", seeds: []uint64{1}, rule: "26: an image of another anchor is void"},
	{name: "hold", seeds: []uint64{14}, tune: func(m *mix) { takeOvers(m); m.hold = 30 }, rule: "a take-over by force of a volume with hold-old-copies leaves the other copies as they were"},
	{name: "zero-reads-as-zero", seeds: []uint64{2}, rule: "30: trimmed and zeroed ranges read as zero"},
}

func mutantNamed(t *testing.T, name string) *mutant {
	if name == "" {
		return nil
	}
	for _, m := range slices.Concat(mutants, elsewhere) {
		if m.name == name {
			return m
		}
	}
	t.Fatalf("no mutant is called %q", name)
	return nil
}

// elsewhere are protections that neither random histories of this length nor a script notice well enough to be a test here; -mutant tries
// them. Those of package mirror, of the undo log and of the intent log are shown to be needed by TestEveryProtectionIsNeeded of packages
// mirror, volume and intentlog, whose histories are made for them; cut-back and writes-during-comparison by TestWhatIsGivenUpIsNotClaimed and
// TestWritesDuringTheComparison of package volume (the second needs a map of more than one page).
var elsewhere = []*mutant{
	{name: "admit-unread", rule: "17: a newcomer has the record before it is in it"},
	{name: "touched-stays-hot", rule: "7: an extent cools only if nothing was written to it since before the checkpoint began"},
	{name: "write-at-open", rule: "10: durable is what a sync that succeeded says"},
	{name: "cool-after-commit", rule: "7: ... and only after the map is durable"},
	{name: "cut-back", tune: takeOvers, rule: "12: a target that gives up writes cuts its history back first"},
	{name: "writes-during-comparison", rule: "13: a write during the comparison puts its regions into the set"},
	{name: "accept-older-term", tune: takeOvers, rule: "14: a target refuses frames of an older term"},
	{name: "admit-early", rule: "17: a newcomer is a member once everything answered without it is durable there"},
	{name: "require-after-admit", rule: "17: answers wait for a newcomer before it is a member"},
	{name: "save-before-token", rule: "21: the commit point is durable before the token leaves"},
	{name: "serving-not-refused", tune: takeOvers, rule: "22: a server that serves, or hears the source, refuses a forced take-over"},
	{name: "save-first", tune: takeOvers, rule: "26: an image is durable before the overwrite is issued"},
	{name: "adopt-first", tune: takeOvers, rule: "27: the undo log is dropped last"},
	{name: "salvage-rollback", tune: takeOvers, rule: "27: what a rollback overwrites is salvaged"},
}
