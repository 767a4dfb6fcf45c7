package switchover

import (
	"strings"
	"testing"
	"time"

	"keelson/internal/lineage"
)

// lost are the facts at b, in sync until its source a was lost 12 s ago; change makes them others.
func lost(change func(*Risk)) Facts {
	record := lineage.Record{Epoch: lineage.Epoch{Term: lineage.Term{N: 1, Node: "a"}, N: 2}, Members: []string{"a", "b", "c"}}
	at := lineage.Position{Number: 44}
	r := Risk{Consistent: "yes", InStep: true, Heard: true, Silent: 12 * time.Second,
		Mine:   lineage.Survivor{Node: "b", Record: record, Position: at, Floor: at, Consistent: true},
		Others: []Seen{{Reachable: true, Survivor: lineage.Survivor{Node: "c", Record: record, Position: at, Floor: at, Consistent: true}}}}
	change(&r)
	return Facts{Self: "b", To: "b", Source: "a", Risk: &r, Others: []Target{{Node: "a", Known: true}, {Node: "c", Known: true}}}
}

func TestAForcedTakeOverSaysWhatIsAtRisk(t *testing.T) {
	for want, change := range map[string]func(*Risk){
		"":                              func(*Risk) {},
		"c may hold answered writes":    func(r *Risk) { r.Others[0].Survivor.Record.Epoch.N, r.NoCatchUp = 3, true },
		"not in the in-sync set":        func(r *Risk) { r.Mine.Record.Members = []string{"a", "c"} },
		"goes back to number 44":        func(r *Risk) { r.Consistent = "rolling" },
		"cannot be rolled back":         func(r *Risk) { r.Consistent = "no" },
		"never held a whole copy":       func(r *Risk) { r.Never = true },
		"since it started":              func(r *Risk) { r.InStep = false },
		"handed the role to c":          func(r *Risk) { r.HandedTo = "c" },
		"4096 bytes, 1.5 seconds":       func(r *Risk) { r.Async, r.LagKnown, r.LagBytes, r.LagSeconds = true, true, 4096, 1.5 },
		"writes that were on their way": func(r *Risk) { r.Async = true },
	} {
		f := lost(change)
		p := Forced("p", f)
		if want == "" {
			if len(p.Risks) != 0 || len(p.Assumes) != 1 || !strings.Contains(p.Assumes[0], "12s ago") {
				t.Errorf("nothing is at risk: %q, if %q", p.Risks, p.Assumes)
			}
			continue
		}
		if !strings.Contains(strings.Join(p.Risks, "\n"), want) {
			t.Errorf("%s: %q", want, p.Risks)
		}
		if r := Check(f); r == nil || r.Rule != lineage.RuleNeedsForce || !strings.Contains(r.Message, p.Risks[0]) {
			t.Errorf("%s: the refusal does not say so: %v", want, r)
		}
	}
}

func TestAForcedPlanNamesEachNewMirror(t *testing.T) {
	p := Forced("p", lost(func(r *Risk) { r.Consistent = "rolling" }))
	var names []string
	for _, s := range p.Steps {
		names = append(names, s.Name)
	}
	if got := strings.Join(names, " "); got != "fence roll-back serve mirrors" || !strings.Contains(p.Steps[3].Text, "b->a, b->c") {
		t.Errorf("%s: %+v", got, p.Steps)
	}
}

// What another survivor has is a step of the plan, not a risk, if it can be taken.
func TestAForcedPlanTakesWhatSurvivorsHave(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Risk)
		taken  bool
	}{
		"taken":       {func(r *Risk) {}, true},
		"not wanted":  {func(r *Risk) { r.NoCatchUp = true }, false},
		"not reached": {func(r *Risk) { r.Others[0].Reachable = false }, false},
		"unusable":    {func(r *Risk) { r.Others[0].Survivor.Consistent = false }, false},
	} {
		f := lost(func(r *Risk) {
			r.Others[0].Survivor.Record.Epoch.N = 3
			c.change(r)
		})
		p := Forced("p", f)
		first := p.Steps[1].Name == StepCatchUp && strings.Contains(p.Steps[1].Text, "c may hold")
		if first != c.taken || (len(p.Risks) == 0) != c.taken {
			t.Errorf("%s: %+v, risks %q", name, p.Steps, p.Risks)
		}
		if gist := Gist(f); !strings.Contains(gist, "b is at number 44") || strings.Contains(gist, "from c") != c.taken {
			t.Errorf("%s: %s", name, gist)
		}
	}
}
