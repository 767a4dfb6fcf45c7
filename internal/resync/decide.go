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

// Facts decide the kind of a resync, once the maps have been compared.
type Facts struct {
	Full       bool  // asked for by name
	Common     bool  // the two histories share a generation
	Differ     int64 // regions in the set: their versions differ, or are unknown on one side
	OnlyZeroes bool  // none of these has to be hashed first: what the target lacks it knows to be zero (lineage.ZeroVersion)
}

// Decide returns the kind of the resync and the rule that decided it (a name of lineage.Rules).
func Decide(f Facts) (Kind, string) {
	switch {
	case f.Full:
		return Full, lineage.RuleFullAsked
	case f.Differ == 0:
		return None, lineage.RuleVersionsEqual
	case f.Common:
		return Partial, lineage.RuleVersionsDiffer
	case f.OnlyZeroes:
		return Partial, lineage.RuleOnlyZeroes
	}
	return Compare, lineage.RuleForeignContent
}
