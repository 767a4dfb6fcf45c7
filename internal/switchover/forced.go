package switchover

import (
	"fmt"
	"strings"
	"time"

	"keelson/internal/lineage"
)

// Risk is what the server that would take over by force knows before anybody is asked to promise anything.
type Risk struct {
	Mine       lineage.Survivor
	Consistent string // "yes" | "rolling" | "no"
	HandedTo   string // the server that it handed the role to, and that has not been seen to serve; "" if none
	Never      bool   // it has never held a whole copy
	Foreign    bool   // what is under its copy is not what it left (rule 9)
	InStep     bool   // it was in step with its source when that session ended, or still is
	Async      bool
	Heard      bool          // the source was heard since this server started
	Silent     time.Duration // how long ago
	LagKnown   bool          // async: what was on its way when the source was last heard; the shell's to fill in
	LagBytes   int64
	LagSeconds float64
	Others     []Seen // members that are not the silent source
	NoCatchUp  bool   // what other survivors have is not taken
}

// Seen is what another member last said of its copy.
type Seen struct {
	Reachable bool
	Survivor  lineage.Survivor
}

// Better are the members that may hold answered writes which this one lacks, in no order.
func (r Risk) Better() (out []lineage.Survivor) {
	for _, o := range r.Others {
		if o.Survivor.Compare(r.Mine) > 0 {
			out = append(out, o.Survivor)
		}
	}
	return out
}

// CatchUp is the survivor that becomes source first, so that nothing that it holds is lost; "" if none does.
func (r *Risk) CatchUp() string {
	if r == nil || r.NoCatchUp {
		return ""
	}
	best := r.Mine
	for _, o := range r.Others {
		if o.Reachable && o.Survivor.Consistent && o.Survivor.Compare(best) > 0 {
			best = o.Survivor
		}
	}
	if best.Node == r.Mine.Node {
		return ""
	}
	return best.Node
}

// Names of the steps that only a forced take-over has.
const (
	StepCatchUp  = "catch-up"
	StepFence    = "fence"
	StepRollBack = "roll-back"
)

// Forced is the plan of a forced take-over by f.To, whether or not it may begin now.
func Forced(id string, f Facts) Plan {
	p := Plan{ID: id, From: f.Source, To: f.To}
	p.Steps = append(p.Steps, Step{StepFence, fmt.Sprintf("every server that is reached promises the new term of %s and hangs up the old source; one that sees a source alive refuses", f.To)})
	if from := f.Risk.CatchUp(); from != "" {
		p.Steps = append(p.Steps, Step{StepCatchUp, fmt.Sprintf("%s may hold answered writes that %s lacks: it becomes the source first, %s takes them from it, and then the role", from, f.To, f.To)})
	}
	if f.Risk != nil && f.Risk.Consistent == "rolling" {
		p.Steps = append(p.Steps, Step{StepRollBack, fmt.Sprintf("%s undoes its interrupted resync, back to number %d", f.To, f.Risk.Mine.Position.Number)})
	}
	p.Steps = append(p.Steps,
		Step{StepServe, fmt.Sprintf("%s begins a new term and offers the volume", f.To)},
		Step{StepMirrors, forcedMirrors(f)})
	if f.Risk != nil {
		p.Risks, p.Assumes = f.Risk.AtRisk(f)
	}
	return p
}

// CheckForced refuses a take-over by force that would have to copy, before the new source is accepted, what the administrator wants kept as
// it is; nil if nothing is in its way here.
func CheckForced(f Facts) *Refusal {
	if from := f.Risk.CatchUp(); f.HoldOld && from != "" {
		return &Refusal{lineage.RuleBehindSurvivor, fmt.Sprintf("%s may hold answered writes that %s lacks, and with hold-old-copies nothing is copied before a new source is accepted", from, f.To), FirstAccept(from, f.To)}
	}
	return nil
}

// FirstAccept is the next step after that refusal.
func FirstAccept(better, to string) string {
	return fmt.Sprintf("make %s the source (keelson switchover VOLUME --to %s --force), look at it, accept it (keelson volume accept VOLUME), then switch over to %s; or take over without what only %s has (--no-catch-up)", better, better, to, better)
}

func forcedMirrors(f Facts) string {
	var to []string
	for _, o := range f.Others {
		if o.Node != f.To {
			to = append(to, f.To+"->"+o.Node)
		}
	}
	if f.HoldOld {
		return fmt.Sprintf("the other copies are kept as they were (hold-old-copies) until %s is accepted (keelson volume accept): then mirrors %s begin", f.To, strings.Join(to, ", "))
	}
	return "new mirrors " + strings.Join(to, ", ") + ": only regions that differ are copied; who cannot be reached follows when it returns"
}

// AtRisk says what a forced take-over may lose, and what it takes for granted where it says nothing.
func (r Risk) AtRisk(f Facts) (risks, assumes []string) {
	add := func(format string, args ...any) { risks = append(risks, fmt.Sprintf(format, args...)) }
	source, heard := orUnknown(f.Source), r.heard()
	taken := r.CatchUp()
	for _, b := range r.Better() {
		if b.Node == taken { // a step of the plan
			continue
		}
		add("%s may hold answered writes that %s lacks: it is at number %d and knows in-sync record %s.%d, %s is at %d and knows %s.%d", b.Node, f.To,
			b.Position.Number, b.Record.Epoch.Term, b.Record.Epoch.N, f.To, r.Mine.Position.Number, r.Mine.Record.Epoch.Term, r.Mine.Record.Epoch.N)
	}
	if r.HandedTo != "" {
		add("%s handed the role to %s, which may have served since: what it answered is missing", f.To, r.HandedTo)
	}
	if r.Foreign {
		add("what is under the copy of %s is not what it left: everything there may be other content", f.To)
	}
	switch {
	case r.Never:
		add("%s has never held a whole copy of the volume", f.To)
	case r.Consistent == "no":
		add("%s is in the middle of a resync that cannot be rolled back", f.To)
	case !r.Mine.Record.Has(f.To):
		add("%s is not in the in-sync set that it knows: everything answered after number %d may be missing (%s)", f.To, r.Mine.Position.Number, heard)
	case r.Consistent == "rolling":
		add("%s is in the middle of a resync and goes back to number %d: what was answered since then is missing", f.To, r.Mine.Position.Number)
	case !r.InStep:
		add("%s has not been in step with %s since it started: what %s answered without it is missing (%s; number %d here)", f.To, source, source, heard, r.Mine.Position.Number)
	case r.Async && r.LagKnown:
		add("%s is an async mirror: %d bytes, %.1f seconds of writes were on their way to it when the source last said so (%s)", f.To, r.LagBytes, r.LagSeconds, heard)
	case r.Async:
		add("%s is an async mirror: writes that were on their way to it are missing (%s)", f.To, heard)
	default:
		assumes = append(assumes, fmt.Sprintf("%s stopped when %s lost it (%s): had it gone on alone, it would have answered writes that are missing here", source, f.To, heard))
	}
	return risks, assumes
}

func (r Risk) heard() string {
	if !r.Heard {
		return "the source was not heard since this server started"
	}
	return fmt.Sprintf("the source was last heard %s ago", r.Silent.Round(time.Second))
}

// Gist is one sentence on what a forced take-over by f.To puts at risk.
func Gist(f Facts) string {
	if f.Risk == nil {
		return ""
	}
	risks, assumes := f.Risk.AtRisk(f)
	text := fmt.Sprintf("%s is at number %d; ", f.To, f.Risk.Mine.Position.Number)
	if from := f.Risk.CatchUp(); from != "" {
		text += fmt.Sprintf("it would first take what it lacks from %s; ", from)
	}
	if len(risks) > 0 {
		return text + "at risk: " + strings.Join(risks, "; ")
	}
	return text + "nothing answered is at risk if " + assumes[0]
}
