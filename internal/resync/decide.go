package resync

import "keelson/internal/lineage"

// Kind of a resync, as status shows it.
type Kind string

// The kinds.
const (
	None    Kind = "none"    // nothing differs
	Partial Kind = "partial" // only regions whose versions differ or are unknown; where unknown, digests decide what is sent
	Compare Kind = "compare" // no shared history: digests of all regions decide
	Full    Kind = "full"    // asked for by name: every region is sent
)

// Question is what decides the kind of a resync.
type Question struct {
	FullAsked bool
	// Source and Target are their histories as of the comparison.
	Source, Target lineage.History
	// Differing is the size of the set: regions whose versions differ, or are unknown on one side.
	Differing int64
	// Unknown is how many regions of the set are unknown on the source or on the target. Zero means that every
	// version on both sides is known, though perhaps only as zero (lineage.ZeroVersion).
	Unknown int64
}

// Decide returns the kind of the resync and the rule that decided it (a name of lineage.Rules).
func Decide(q Question) (Kind, string) {
	switch {
	case q.FullAsked:
		return Full, lineage.RuleFullAsked
	case q.Differing == 0:
		return None, lineage.RuleVersionsEqual
	case shared(q.Source, q.Target):
		return Partial, lineage.RuleVersionsDiffer
	case q.Unknown == 0:
		return Partial, lineage.RuleOnlyZeroes
	}
	return Compare, lineage.RuleForeignContent
}

// shared reports whether the histories have a generation in common.
func shared(a, b lineage.History) bool {
	for _, g := range a {
		if b.Find(g.ID) >= 0 {
			return true
		}
	}
	return false
}

// Treat is what a resync does with one region of the set.
type Treat int

// The treatments.
const (
	Send  Treat = iota // the content differs, or may as well: send it
	Probe              // compare strong digests of the content first
)

// HowTo says how to treat a region of the set in a resync of that kind. source and target are the versions in one
// common numbering of generations; adopted reports whether the source's version is an adoption number of its
// generation: content that was there before anybody wrote it down (rule 8), so it may equal the target's.
func HowTo(kind Kind, source, target lineage.Version, adopted bool) Treat {
	switch {
	case kind == Full:
		return Send
	case kind == Compare, source == lineage.Unknown, target == lineage.Unknown, adopted:
		return Probe
	}
	return Send
}
