package lineage

import (
	"os"
	"regexp"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// gen makes the n-th generation of a test: server, the number it began at and what of the one before was held.
func gen(n int, node string, began, held uint64) Generation {
	return Generation{ID: GenID{byte(n), node[0]}, Term: Term{uint64(n), node}, Began: began, Held: held}
}

func at(g Generation, n uint64) Position { return Position{g.ID, n} }

func record(term Term, n uint64, members ...string) Record {
	return Record{Epoch: Epoch{term, n}, Members: members}
}

func TestHowTwoReplicasStand(t *testing.T) {
	g1 := gen(1, "a", 0, 0)
	g2 := gen(2, "b", 100, 100)
	fork := gen(3, "c", 90, 90)
	t1, t2 := g1.Term, g2.Term
	inherited := g2
	inherited.After = Epoch{t1, 5}
	source := Replica{Node: "b", History: History{g1, g2}, Position: at(g2, 150), Record: record(t2, 0, "a", "b")}
	later := g2
	later.Term.N, later.After = 5, Epoch{Term{4, "a"}, 0}
	before := gen(1, "c", 90, 90)
	before.ID[2] = 'x'
	for _, c := range []struct {
		name           string
		source, target Replica
		rule           string
		follow         bool
		agree          Position
	}{
		{"two empty ones", Replica{Node: "a"}, Replica{Node: "b"}, RuleInOrder, true, Position{}},
		{"a new target", source, Replica{Node: "x", Unsure: true}, RuleNoCommonHistory, true, Position{}},
		{"equal", source, Replica{Node: "a", History: History{g1, g2}, Position: at(g2, 150)}, RuleInOrder, true, at(g2, 150)},
		{"behind in the same generation", source, Replica{Node: "a", History: History{g1, g2}, Position: at(g2, 120)}, RuleBehind, true, at(g2, 120)},
		{"behind by a generation", source, Replica{Node: "c", History: History{g1}, Position: at(g1, 60), Record: record(t1, 3, "a", "c")}, RuleBehind, true, at(g1, 60)},
		{"the old source, which had handed over", source, Replica{Node: "a", History: History{g1}, Position: at(g1, 100), Record: record(t1, 5, "a", "b")}, RuleBehind, true, at(g1, 100)},
		{"the old source with writes that were on their way", source, Replica{Node: "a", History: History{g1}, Position: at(g1, 120), Record: record(t1, 5, "a", "b")}, RuleSurplus, true, at(g1, 100)},
		{"the old source, which went on without b", source, Replica{Node: "a", History: History{g1}, Position: at(g1, 120), Record: record(t1, 6, "a")}, RuleSplitBrain, false, at(g1, 100)},
		{"... and an administrator gave that up", source, Replica{Node: "a", History: History{g1}, Position: at(g1, 120), Record: record(t1, 6, "a"), Discarding: true}, RuleSurplus, true, at(g1, 100)},
		{"a target that followed it", source, Replica{Node: "c", History: History{g1}, Position: at(g1, 120), Record: record(t1, 6, "a", "c")}, RuleSplitBrain, false, at(g1, 100)},
		{"a target that may hold more, without b in its record", source, Replica{Node: "c", History: History{g1}, Position: at(g1, 60), Record: record(t1, 3, "a", "c"), Unsure: true}, RuleSplitBrain, false, at(g1, 60)},
		{"... but b took over from a newer record", Replica{Node: "b", History: History{g1, inherited}, Position: at(g2, 150)},
			Replica{Node: "c", History: History{g1}, Position: at(g1, 60), Record: record(t1, 3, "a", "c"), Unsure: true}, RuleBehind, true, at(g1, 60)},
		{"... or from an older one", Replica{Node: "b", History: History{g1, inherited}, Position: at(g2, 150)},
			Replica{Node: "c", History: History{g1}, Position: at(g1, 60), Record: record(t1, 6, "a", "c"), Unsure: true}, RuleSplitBrain, false, at(g1, 60)},
		{"a fork of a member that b was not of", source, Replica{Node: "c", History: History{g1, fork}, Position: at(fork, 95), Record: record(fork.Term, 1, "c")}, RuleSplitBrain, false, at(g1, 90)},
		{"a fork that had b in its record, and that b took over from", source, Replica{Node: "c", History: History{g1, before}, Position: at(before, 95), Record: record(before.Term, 0, "b", "c")}, RuleSurplus, true, at(g1, 90)},
		{"a fork, and b took over from a newer record of the other line", Replica{Node: "b", History: History{g1, later}, Position: at(g2, 150)},
			Replica{Node: "c", History: History{g1, fork}, Position: at(fork, 95), Record: record(fork.Term, 0, "c")}, RuleSplitBrain, false, at(g1, 90)},
		{"a fork that is newer than what b began", source, Replica{Node: "c", History: History{g1, fork}, Position: at(fork, 95), Record: record(fork.Term, 0, "b", "c")}, RuleSplitBrain, false, at(g1, 90)},
		{"the same generation began elsewhere (a copied disk)", source, Replica{Node: "a", History: History{g1, gen(2, "b", 101, 100)}, Position: at(g2, 120), Record: record(t2, 0, "a", "b")}, RuleSurplus, true, at(g1, 100)},
		{"the source is the older one", Replica{Node: "a", History: History{g1}, Position: at(g1, 100)}, Replica{Node: "b", History: History{g1, g2}, Position: at(g2, 120)}, RuleNewerThanSource, false, at(g1, 100)},
		{"the source was put back", Replica{Node: "b", History: History{g1}, Position: at(g1, 100)}, Replica{Node: "a", History: History{g1, g2}, Position: at(g2, 120)}, RuleReverted, false, at(g1, 100)},
		{"the source was put back within a generation", Replica{Node: "b", History: History{g1, g2}, Position: at(g2, 110), Reserved: 119}, Replica{Node: "a", History: History{g1, g2}, Position: at(g2, 120)}, RuleReverted, false, at(g2, 110)},
		{"the source lost its tail in a power loss", Replica{Node: "b", History: History{g1, g2}, Position: at(g2, 110), Reserved: 130}, Replica{Node: "a", History: History{g1, g2}, Position: at(g2, 120)}, RuleSurplus, true, at(g2, 110)},
	} {
		v := Stand(c.source, c.target)
		if v.Rule != c.rule || v.Follow != c.follow || v.Agree != c.agree {
			t.Errorf("%s: %s follow=%v agree=%v, not %s follow=%v agree=%v", c.name, v.Rule, v.Follow, v.Agree, c.rule, c.follow, c.agree)
		}
		if v.Text == "" {
			t.Errorf("%s: no words for %s", c.name, v.Rule)
		}
	}
}

// TestCutBackAgrees: over random forks of one volume, what both hold up to the point of agreement is the same on both, and
// every generation up to it is in both histories.
func TestCutBackAgrees(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := 0
		grow := func(h History, began uint64) History {
			n++
			held := rapid.Uint64Range(0, began).Draw(t, "held")
			if len(h) > 0 {
				held = max(held, h.Last().Began)
			}
			return append(slices.Clone(h), gen(n, "abc"[n%3:n%3+1], began, min(held, began)))
		}
		var common History
		number := uint64(0)
		for range rapid.IntRange(0, 4).Draw(t, "common") {
			common = grow(common, number)
			number += rapid.Uint64Range(0, 50).Draw(t, "writes")
		}
		branch := func() (History, Position) {
			h, number := common, number
			for range rapid.IntRange(0, 3).Draw(t, "own") {
				h = grow(h, number)
				number += rapid.Uint64Range(0, 50).Draw(t, "writes")
			}
			if len(h) == 0 {
				return nil, Position{}
			}
			return h, at(h.Last(), rapid.Uint64Range(h.Last().Began, max(number, h.Last().Began)).Draw(t, "at"))
		}
		mine, minePos := branch()
		theirs, theirPos := branch()
		agree := CutBack(mine, minePos, theirs, theirPos)
		if back := CutBack(theirs, theirPos, mine, minePos); back != agree {
			t.Fatalf("one side says %v, the other %v", agree, back)
		}
		if len(common) == 0 {
			if agree != (Position{}) {
				t.Fatalf("no common history, agreement at %v", agree)
			}
			return
		}
		kept := CutHistory(mine, agree)
		if kept.Last().ID != agree.Gen || !slices.Equal(kept, theirs[:len(kept)]) {
			t.Fatalf("kept %v, agreement %v", kept, agree)
		}
		for _, side := range []struct {
			h  History
			at Position
		}{{mine, minePos}, {theirs, theirPos}} {
			if !InLineage(agree.Gen, agree.Number, side.h, side.at) {
				t.Fatalf("agreement %v is not in the lineage %v at %v", agree, side.h, side.at)
			}
		}
	})
}

func TestInLineage(t *testing.T) {
	h := History{gen(1, "a", 0, 0), gen(2, "b", 100, 90)}
	pos := at(h[1], 150)
	for _, c := range []struct {
		gen    GenID
		number uint64
		in     bool
	}{
		{h[0].ID, 90, true}, {h[0].ID, 91, false}, {h[1].ID, 150, true}, {h[1].ID, 151, false},
		{GenID{9}, 1, false}, {ZeroGen, 0, true},
	} {
		if InLineage(c.gen, c.number, h, pos) != c.in {
			t.Errorf("%v %d: in lineage is not %v", c.gen, c.number, c.in)
		}
	}
	h[1].Anew = true // what it began on is not surely what came before
	for _, c := range []struct {
		gen    GenID
		number uint64
		in     bool
	}{
		{h[0].ID, 90, false}, {h[1].ID, 150, true}, {ZeroGen, 0, true},
	} {
		if InLineage(c.gen, c.number, h, pos) != c.in {
			t.Errorf("anew: %v %d: in lineage is not %v", c.gen, c.number, c.in)
		}
	}
}

// TestSurvivorsCompareByRecordFirst: rule 22, each criterion before the next.
func TestSurvivorsCompareByRecordFirst(t *testing.T) {
	t1 := Term{1, "a"}
	p := func(n uint64) Position { return Position{GenID{1}, n} }
	order := []Survivor{ // worst first
		{Node: "c", Record: record(Term{2, "c"}, 0, "c"), Floor: p(900), Position: p(900), Foreign: true},
		{Node: "d", Record: record(t1, 2, "a", "b"), Floor: p(900), Position: p(900)},
		{Node: "b", Record: record(t1, 2, "a", "b"), Floor: p(10), Position: p(10)},
		{Node: "d", Record: record(t1, 3, "a", "c"), Floor: p(50), Position: p(60)},
		{Node: "c", Record: record(t1, 3, "a", "c"), Floor: p(40), Position: p(60)},
		{Node: "c", Record: record(t1, 3, "a", "c"), Floor: p(50), Position: p(60)},
		{Node: "c", Record: record(t1, 3, "a", "c"), Floor: p(50), Position: p(61)},
		{Node: "a", Record: record(t1, 3, "a", "c"), Floor: p(1), Position: p(1)},
		{Node: "c", Record: record(Term{2, "c"}, 0, "c"), Floor: p(0), Position: p(0)},
	}
	for i, s := range order {
		for j, u := range order {
			want := 0
			if i != j {
				want = direction(i > j)
			}
			if s.Compare(u) != want {
				t.Errorf("%d to %d: %d, not %d", i, j, s.Compare(u), want)
			}
		}
	}
}

func TestEveryRuleIsInTheTableOnce(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range Rules {
		if seen[r.Name] || r.Name == "" || r.Meaning == "" {
			t.Errorf("rule %q is there twice, or empty", r.Name)
		}
		seen[r.Name] = true
	}
	text, err := os.ReadFile("rules.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range regexp.MustCompile(`Rule\w+ += "([a-z-]+)"`).FindAllStringSubmatch(string(text), -1) {
		if !seen[name[1]] {
			t.Errorf("rule %q is not in the table", name[1])
		}
		delete(seen, name[1])
	}
	for name := range seen {
		t.Errorf("rule %q of the table has no constant", name)
	}
}

func TestRecordsKeepWhatTheyInherited(t *testing.T) {
	r := Record{Epoch: Epoch{Term{2, "b"}, 0}, Members: []string{"a", "b"}, After: Epoch{Term{1, "a"}, 7}}
	more := r.With("c", 5)
	less := more.Without(6, "a", "c")
	if more.Epoch.N != 1 || less.Epoch.N != 2 || more.After != r.After || less.After != r.After {
		t.Errorf("%+v, %+v", more, less)
	}
	if !slices.Equal(more.Members, []string{"a", "b", "c"}) || !slices.Equal(less.Members, []string{"b"}) || len(r.Members) != 2 {
		t.Errorf("%v, %v, %v", more.Members, less.Members, r.Members)
	}
}
