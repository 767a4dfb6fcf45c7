package switchover

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"keelson/internal/lineage"
)

// ready are the facts of a switchover from a to b that nothing forbids; change makes them others.
func ready(change func(*Facts)) Facts {
	b := Target{Node: "b", Known: true, Mode: lineage.Sync, Linked: true, InStep: true, Recorded: true}
	c := b
	c.Node = "c"
	f := Facts{Self: "a", To: "b", Source: "a", SelfServes: true, SourceReachable: true, Heir: b, Others: []Target{b, c}}
	change(&f)
	return f
}

func TestEachRefusalNamesItsRuleAndWhatToDo(t *testing.T) {
	for rule, change := range map[string]func(*Facts){
		"":                           func(*Facts) {},
		lineage.RuleAlreadySource:    func(f *Facts) { f.To = "a" },
		lineage.RuleNotAMember:       func(f *Facts) { f.Heir.Known = false },
		lineage.RuleSourceClosed:     func(f *Facts) { f.SelfServes, f.SelfWaits = false, "waiting for c" },
		lineage.RuleNotSource:        func(f *Facts) { f.SelfServes, f.Source = false, "c" },
		lineage.RuleNeedsForce:       func(f *Facts) { f.SelfServes, f.SourceReachable, f.Source = false, false, "c" },
		lineage.RuleSplitBrain:       func(f *Facts) { f.SelfHolds = "met c" },
		lineage.RulePlanInProgress:   func(f *Facts) { f.Running = "p" },
		lineage.RulePaused:           func(f *Facts) { f.Heir.Paused = true },
		lineage.RuleBroken:           func(f *Facts) { f.Heir.Broken, f.Heir.Paused = true, true },
		lineage.RuleUnreachable:      func(f *Facts) { f.Heir.Linked, f.Heir.InStep, f.Heir.Reason = false, false, "no route" },
		lineage.RuleNotMirroring:     func(f *Facts) { f.Heir.InStep = false },
		lineage.RuleNotInSync:        func(f *Facts) { f.Heir.Recorded = false },
		lineage.RuleDiskFailed:       func(f *Facts) { f.Heir.Failed, f.Heir.Linked = true, false },
		lineage.RuleDiskFailed + " ": func(f *Facts) { f.SelfFailed = "write error" },
	} {
		r := Check(ready(change))
		if rule == "" {
			if r != nil {
				t.Errorf("nothing forbids it: %v", r)
			}
			continue
		}
		if r == nil || r.Rule != strings.TrimSpace(rule) || r.Message == "" {
			t.Errorf("%s: %+v", rule, r)
			continue
		}
		if r.Next == "" && r.Rule != lineage.RuleAlreadySource {
			t.Errorf("%s: nothing is said about what to do next", rule)
		}
	}
}

func TestRisksAreShownBeforehand(t *testing.T) {
	p := Planned("p", ready(func(*Facts) {}))
	if len(p.Risks) != 0 || len(p.Steps) != 6 || !strings.Contains(p.Steps[5].Text, "b->a, b->c") {
		t.Errorf("%+v", p)
	}
	for what, change := range map[string]func(*Facts){
		"65536 bytes behind": func(f *Facts) { f.Heir.Mode, f.Heir.LagBytes = lineage.Async, 65536 },
		"c is paused":        func(f *Facts) { f.Others[1].Paused = true },
		"c is broken":        func(f *Facts) { f.Others[1].Broken = true },
		"c is not connected": func(f *Facts) { f.Others[1].Linked = false },
		"c is being brought": func(f *Facts) { f.Others[1].InStep = false },
		"disk of c failed":   func(f *Facts) { f.Others[1].Failed = true },
	} {
		if p := Planned("p", ready(change)); len(p.Risks) != 1 || !strings.Contains(p.Risks[0], what) {
			t.Errorf("%s: %q", what, p.Risks)
		}
	}
}

// TestAPlanIsRefusedBeforeItsCommitPointAndNeverAfterwards, and commits only with both checkpoints at the drained number.
func TestAPlanIsRefusedBeforeItsCommitPointAndNeverAfterwards(t *testing.T) {
	p := Planned("p", ready(func(*Facts) {}))
	rapid.Check(t, func(t *rapid.T) {
		number := rapid.Uint64Range(0, 3)
		s := State{Drained: rapid.Bool().Draw(t, "drained"), Number: number.Draw(t, "number"), HeirInStep: rapid.Bool().Draw(t, "in step"),
			HeirRecorded: rapid.Bool().Draw(t, "recorded"), Late: rapid.Bool().Draw(t, "late"), Committed: rapid.Bool().Draw(t, "committed"), Taken: rapid.Bool().Draw(t, "taken")}
		if rapid.Bool().Draw(t, "failed") {
			s.Failed = "write error"
		}
		if rapid.Bool().Draw(t, "here") {
			s.Here = &lineage.Position{Number: number.Draw(t, "here at")}
		}
		if rapid.Bool().Draw(t, "there") {
			n := number.Draw(t, "there at")
			s.There = &n
		}
		a := Next(p, s)
		if s.Committed && (a.Refused != nil || a.Done != s.Taken) {
			t.Fatalf("after the commit point: %+v", a)
		}
		durable := s.Drained && s.Here != nil && s.Here.Number == s.Number && s.There != nil && *s.There == s.Number
		if !s.Committed && a.Refused == nil && (a.Step == StepCommit) != durable {
			t.Fatalf("%+v commits: %+v", s, a)
		}
		if !s.Committed && a.Refused == nil && (s.Failed != "" || !s.HeirInStep || !s.HeirRecorded) {
			t.Fatalf("goes on without its heir: %+v", a)
		}
		if a.Refused == nil && !a.Done && a.Step != StepCommit && a.Waits == "" {
			t.Fatalf("does not say what it waits for: %+v", a)
		}
		if a.Refused != nil {
			if _, ok := lineage.FindRule(a.Refused.Rule); !ok {
				t.Fatalf("rule %s is not in the table", a.Refused.Rule)
			}
		}
	})
}
