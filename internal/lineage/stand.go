package lineage

import "slices"

// Replica is what decides how one copy stands to another.
type Replica struct {
	Node       string
	History    History
	Position   Position
	Record     Record
	Unsure     bool   // it may hold more than its position says: a region is unknown, or it is in the middle of a resync
	Reserved   uint64 // numbers of its own last generation up to this one may have been used; 0: not known
	Discarding bool   // an administrator decided that its surplus is given up
}

// Verdict says how a target stands to a source.
type Verdict struct {
	Rule   string   // one of RuleInOrder ... RuleReverted
	Agree  Position // the last point at which both hold the same writes; zero if they share no history
	Text   string   // for people
	Follow bool     // the target may follow the source by itself
}

// Stand says how the target stands to the source that wants it to follow (rules 9, 12 and 25).
func Stand(source, target Replica) Verdict {
	agree := CutBack(target.History, target.Position, source.History, source.Position)
	verdict := func(rule string, follow bool) Verdict {
		r, _ := FindRule(rule)
		return Verdict{Rule: rule, Agree: agree, Text: r.Meaning, Follow: follow}
	}
	if len(target.History) == 0 && len(source.History) == 0 {
		return verdict(RuleInOrder, true)
	}
	if len(target.History) == 0 {
		return verdict(RuleNoCommonHistory, true)
	}
	if reverted(source, target) && !target.Discarding || overrun(source, target) {
		return verdict(RuleReverted, false)
	}
	fresh, fork := source.History.beyond(target.History), target.History.beyond(source.History)
	surplus := len(fork) > 0 || target.Unsure
	if len(fresh) > 0 {
		surplus = surplus || target.Position.Number > fresh[0].Began && target.Position.Gen == target.History.Last().ID
	}
	switch {
	case len(fork) > 0 && len(fork) < len(target.History) && len(fresh) == 0:
		return verdict(RuleNewerThanSource, target.Discarding)
	case len(fork) == len(target.History) && !target.Record.Has(source.Node) && len(target.Record.Members) > 0 && !target.Discarding:
		return verdict(RuleSplitBrain, false)
	case len(fork) == len(target.History):
		return verdict(RuleNoCommonHistory, true)
	case surplus && len(fresh) > 0 && !witnessed(fresh[0], fork, target.Record) && !target.Discarding:
		return verdict(RuleSplitBrain, false)
	case len(fresh) == 0 && target.Position.Gen == source.Position.Gen && target.Position.Number > source.Position.Number:
		return verdict(RuleSurplus, true)
	case len(fork) > 0 || len(fresh) > 0 && target.Position.Number > fresh[0].Held && target.Position.Gen == target.History.Last().ID:
		return verdict(RuleSurplus, true)
	case len(fresh) > 0 || target.Position.Number < source.Position.Number:
		return verdict(RuleBehind, true)
	}
	return verdict(RuleInOrder, true)
}

// witnessed reports whether the server of that generation, the first one that the target does not have, took over with
// everything that the target's record promised: it is a member of the record, or it took over as a member of a record
// at least as new as the target's. A source that went on without that server had first to raise the epoch on every
// member that remained (rule 17), so a target that answered without it has a newer record.
//
// A generation older than the record took nothing over from it: there the two lines had parted before. Nor do epochs of
// another line say anything about a record that was written in the target's own fork.
func witnessed(fresh Generation, fork History, record Record) bool {
	if fresh.Term.Less(record.Epoch.Term) {
		return false
	}
	if record.Has(fresh.Term.Node) {
		return true
	}
	inFork := len(fork) > 0 && !record.Epoch.Term.Less(fork[0].Term)
	return fresh.After != Epoch{} && fresh.After.Compare(record.Epoch) >= 0 && !inFork
}

// reverted reports whether the target holds more of the source's own writes than the source can have made.
func reverted(source, target Replica) bool {
	return overrun(source, target) || strange(source, target)
}

// strange reports whether the target holds a generation of the source's server that the source does not know.
func strange(source, target Replica) bool {
	for _, g := range target.History {
		if g.Term.Node == source.Node && source.History.Find(g.ID) < 0 && !newerFork(source.History, g) {
			return true
		}
	}
	return false
}

// overrun reports whether the target holds more of the source's newest generation than the source can have made: its numbers
// would be used again, for other content.
func overrun(source, target Replica) bool {
	last := source.History.Last()
	return source.Reserved > 0 && last.Term.Node == source.Node && target.Position.Gen == last.ID && target.Position.Number > source.Reserved
}

// newerFork reports whether the history goes on with a newer term than the generation's: it lost the fork, and was not put back.
func newerFork(h History, g Generation) bool {
	return len(h) > 0 && g.Term.Less(h.Last().Term)
}

// beyond returns the generations of h that other has not, compared by id and by the number at which they began (rule 12).
func (h History) beyond(other History) History {
	n := h.common(other)
	return h[n:]
}

// common is the length of the longest common beginning.
func (h History) common(other History) int {
	n := 0
	for n < len(h) && n < len(other) && h[n].ID == other[n].ID && h[n].Began == other[n].Began {
		n++
	}
	return n
}

// CutBack returns the last position of mine that lies in the source's history as well: where a replica that follows the
// source cuts its own history and position back to before foreign content enters (rule 12).
func CutBack(mine History, at Position, source History, sourceAt Position) Position {
	n := mine.common(source)
	if n == 0 {
		return Position{}
	}
	return Position{Gen: mine[n-1].ID, Number: min(extent(mine, n-1, at), extent(source, n-1, sourceAt))}
}

// extent is how far a replica with that history surely holds its i-th generation.
func extent(h History, i int, at Position) uint64 {
	if i+1 < len(h) {
		return h[i+1].Held
	}
	if at.Gen == h[i].ID {
		return at.Number
	}
	return h[i].Began
}

// InLineage reports whether a write of that generation and number is surely part of the history at that position:
// content of such a version may be overwritten without a salvage (rule 28).
func InLineage(gen GenID, number uint64, h History, at Position) bool {
	if gen == ZeroGen {
		return true
	}
	i := h.Find(gen)
	return i >= 0 && number <= extent(h, i, at) && !slices.ContainsFunc(h[i+1:], func(g Generation) bool { return g.Anew })
}

// Survivor is what a server reports for a forced switchover, after it promised the new term (rule 22).
type Survivor struct {
	Node       string
	Record     Record // that of the undo anchor while a resync runs
	Floor      Position
	Position   Position
	Consistent bool
	Foreign    bool // what is under the copy is not what it left (rule 9): it holds nothing for sure
}

// Compare orders survivors, the best last: those whose copy is what they left, then by the epoch of their record, then membership in
// it, then the server that its term names (its disk has every flush that it answered), then floor and position. Never by position alone.
func (s Survivor) Compare(t Survivor) int {
	if s.Foreign != t.Foreign {
		return direction(t.Foreign)
	}
	if c := s.Record.Epoch.Compare(t.Record.Epoch); c != 0 {
		return c
	}
	for _, better := range []func(Survivor) bool{
		func(x Survivor) bool { return x.Record.Has(x.Node) },
		func(x Survivor) bool { return x.Record.Epoch.Term.Node == x.Node },
	} {
		if a, b := better(s), better(t); a != b {
			return direction(a)
		}
	}
	if s.Floor.Number != t.Floor.Number {
		return direction(s.Floor.Number > t.Floor.Number)
	}
	if s.Position.Number != t.Position.Number {
		return direction(s.Position.Number > t.Position.Number)
	}
	return 0
}

func direction(greater bool) int {
	if greater {
		return 1
	}
	return -1
}

// CutHistory is the part of mine up to the position that CutBack returned.
func CutHistory(mine History, agreed Position) History {
	return slices.Clone(mine[:mine.Find(agreed.Gen)+1])
}
