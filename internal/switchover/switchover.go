// Package switchover has the plans that make another server the source: what each step is, what it waits for, when it is
// refused and by which rule. It is pure: a plan is data, and the mirror machine carries it out.
//
// A planned switchover (rule 21) in steps: hold (new writes wait, those in flight are answered), checkpoint (everything is
// durable at both ends, up to the same number), commit (the source writes down, durably, who is next; from here on it never
// takes back), hand-over (its device is closed and the token is repeated until the heir serves).
package switchover

import (
	"fmt"

	"keelson/internal/lineage"
)

// Facts are what the server that is asked knows about a wish for another source.
type Facts struct {
	Self, To        string
	Source          string // the server believed to be source; "" if none is known
	SelfServes      bool   // this server is the source and its device is open
	SelfWaits       string // why this server, which was source, has not opened yet; "" otherwise
	SelfHolds       string // why this source answers no further write: it met one of a newer term; "" otherwise
	SelfFailed      string // why this server's disk failed; "" otherwise
	SelfVia         string // the target that it serves from since then; "" if it does not
	SourceReachable bool   // and able to hand over
	SourceFailed    bool   // it was heard that its disk failed
	SourceStuck     string // ... that it does not open: the rule
	Running         string // id of the plan under way; "" if none
	HoldOld         bool   // a take-over by force leaves the other copies as they were until the new source is accepted
	Heir            Target
	Others          []Target // the other members that were not removed
	Risk            *Risk    // of a forced take-over by Self; nil if To is another server, or Self serves
}

// Target is one member as the source sees it.
type Target struct {
	Node           string
	Known          bool // a member that was not removed
	Mode           lineage.Mode
	Paused, Broken bool
	Held           bool   // with Paused: a take-over by force left its copy as it was, and the new source is not accepted yet
	Failed         bool   // its disk
	Linked         bool   // a session is up
	InStep         bool   // that session's resync has ended
	Recorded       bool   // a member of the durable in-sync record, and knows it
	Reason         string // why it is not Mirroring
	LagBytes       int64
}

// Refusal is a rule that said no.
type Refusal struct{ Rule, Message, Next string }

// Error makes a refusal an error.
func (r *Refusal) Error() string { return r.Message }

func refuse(rule, format string, args ...any) *Refusal {
	return &Refusal{rule, fmt.Sprintf(format, args...), lineage.NextOf(rule)}
}

// Check says whether a planned switchover may begin: nil, or the first rule that forbids it.
func Check(f Facts) *Refusal {
	h := f.Heir
	switch {
	case f.Running != "":
		return refuse(lineage.RulePlanInProgress, "switchover %s is under way", f.Running)
	case f.To == f.Source && (f.SelfServes || f.Source != f.Self):
		return refuse(lineage.RuleAlreadySource, "%s is the source already", f.To)
	case f.To != f.Self && !h.Known:
		return refuse(lineage.RuleNotAMember, "%s holds no copy of the volume", f.To)
	case !f.SelfServes && f.SelfFailed != "" && f.Source == f.Self && f.To != f.Self:
		return refuse(lineage.RuleNeedsForce, "the disk of the source %s failed, so it cannot hand over: %s", f.Self, f.SelfFailed)
	case f.SelfWaits != "":
		return refuse(lineage.RuleSourceClosed, "%s was the source and has not opened the volume again: %s", f.Self, f.SelfWaits)
	case !f.SelfServes && f.SourceReachable:
		return refuse(lineage.RuleNotSource, "%s is not the source, %s is", f.Self, f.Source)
	case !f.SelfServes:
		return needsForce(f)
	case f.SelfHolds != "":
		return refuse(lineage.RuleSplitBrain, "%s answers no further write: %s", f.Self, f.SelfHolds)
	case f.SelfFailed != "" && f.SelfVia == "":
		return refuse(lineage.RuleDiskFailed, "the disk of the source %s failed: %s", f.Self, f.SelfFailed)
	}
	return checkHeir(h)
}

func needsForce(f Facts) *Refusal {
	gist := Gist(f)
	if gist != "" {
		gist = "; " + gist
	}
	cause := "cannot be reached"
	if f.SourceFailed {
		cause = "has a failed disk and cannot hand over"
	}
	if f.SourceStuck != "" {
		cause = "does not open and cannot hand over (" + f.SourceStuck + ")"
	}
	return refuse(lineage.RuleNeedsForce, "the source %s %s%s", orUnknown(f.Source), cause, gist)
}

func checkHeir(h Target) *Refusal {
	because := ""
	if h.Reason != "" {
		because = ": " + h.Reason
	}
	switch {
	case h.Failed:
		return refuse(lineage.RuleDiskFailed, "the disk of %s failed%s", h.Node, because)
	case h.Broken:
		return refuse(lineage.RuleBroken, "the mirror to %s is broken", h.Node)
	case h.Held:
		return refuse(lineage.RuleHeld, "the copy at %s is kept as it was until the new source is accepted", h.Node)
	case h.Paused:
		return refuse(lineage.RulePaused, "the mirror to %s is paused", h.Node)
	case !h.Linked:
		return refuse(lineage.RuleUnreachable, "%s is not connected%s", h.Node, because)
	case !h.InStep:
		return refuse(lineage.RuleNotMirroring, "%s is being brought up to date%s", h.Node, because)
	case !h.Recorded:
		return refuse(lineage.RuleNotInSync, "%s is not in the in-sync set yet", h.Node)
	}
	return nil
}

func orUnknown(node string) string {
	if node == "" {
		return "(unknown)"
	}
	return node
}

// Plan is what a planned switchover would do.
type Plan struct {
	ID       string
	From, To string
	Steps    []Step
	Risks    []string // what is at risk, or takes longer than usual; empty: nothing
	Assumes  []string // forced: what has to be true for that
}

// Step of a plan.
type Step struct{ Name, Text string }

// Names of the steps, in their order.
const (
	StepHold       = "hold"
	StepCheckpoint = "checkpoint"
	StepCommit     = "commit"
	StepHandOver   = "hand-over"
	StepServe      = "serve"
	StepMirrors    = "mirrors"
)

// Planned is the plan to hand over to f.To, whether or not Check allows it now.
func Planned(id string, f Facts) Plan {
	p := Plan{ID: id, From: f.Self, To: f.To, Steps: []Step{
		{StepHold, fmt.Sprintf("%s holds new writes and answers those in flight", f.Self)},
		{StepCheckpoint, fmt.Sprintf("%s flushes its data and sees that %s has everything on its disk, to the last write", f.Self, f.To)},
		{StepCommit, fmt.Sprintf("%s writes down that %s is the next source (until then any failure leaves %s the source)", f.Self, f.To, f.Self)},
		{StepHandOver, fmt.Sprintf("%s closes its device, ends its mirrors and hands the role to %s", f.Self, f.To)},
		{StepServe, fmt.Sprintf("%s begins a new term and offers the volume", f.To)},
		{StepMirrors, mirrors(f)},
	}}
	p.Risks = risks(f)
	return p
}

func mirrors(f Facts) string {
	text := fmt.Sprintf("new mirror %s->%s", f.To, f.Self)
	for _, o := range f.Others {
		if o.Node != f.To && o.Node != f.Self {
			text += fmt.Sprintf(", %s->%s", f.To, o.Node)
		}
	}
	return text + ": only regions that differ are copied"
}

func risks(f Facts) []string {
	var out []string
	if f.Heir.Mode == lineage.Async {
		out = append(out, fmt.Sprintf("%s is an async mirror, %d bytes behind: writes are held until it has caught up; if that takes too long nothing changes", f.To, f.Heir.LagBytes))
	}
	for _, o := range f.Others {
		if o.Node == f.To || o.Node == f.Self {
			continue
		}
		switch {
		case o.Failed:
			out = append(out, fmt.Sprintf("the disk of %s failed: it holds no usable copy", o.Node))
		case o.Held:
			out = append(out, fmt.Sprintf("the copy at %s is held and stays so, until the source is accepted: it is older", o.Node))
		case o.Paused, o.Broken:
			state := "paused"
			if o.Broken {
				state = "broken"
			}
			out = append(out, fmt.Sprintf("the mirror to %s is %s and stays so: its copy is older", o.Node, state))
		case !o.Linked:
			out = append(out, fmt.Sprintf("%s is not connected: it catches up when it is reachable again", o.Node))
		case !o.InStep:
			out = append(out, fmt.Sprintf("%s is being brought up to date: %s goes on with that", o.Node, f.To))
		}
	}
	return out
}

// State is how far a running plan has come. All of it is about this plan: answers to an older one do not count.
type State struct {
	Drained      bool
	Number       uint64 // of Drained
	Here         *lineage.Position
	There        *uint64
	HeirInStep   bool // the heir's session is the one the plan began with, and in step
	HeirRecorded bool
	Failed       string // this server's disk
	Late         bool   // the limit is over
	Committed    bool   // durably
	Taken        bool   // the heir serves
}

// Action is what comes next.
type Action struct {
	Step    string   // the step that is running, or begins
	Waits   string   // what it waits for; "" if it can be done now
	Refused *Refusal // before the commit point: the plan is given up
	Done    bool
}

// Next says what a running plan does next. After the commit point it never refuses: only the heir ends the plan.
func Next(p Plan, s State) Action {
	if s.Committed {
		if s.Taken {
			return Action{Step: StepServe, Done: true}
		}
		return Action{Step: StepHandOver, Waits: fmt.Sprintf("%s to take over", p.To)}
	}
	a := progress(p, s)
	switch {
	case s.Failed != "":
		a.Refused = refuse(lineage.RuleDiskFailed, "the disk of the source %s failed: %s", p.From, s.Failed)
	case !s.HeirInStep:
		a.Refused = refuse(lineage.RuleHeirLost, "the session with %s ended during the switchover; %s serves on", p.To, p.From)
	case !s.HeirRecorded:
		a.Refused = refuse(lineage.RuleNotInSync, "%s left the in-sync set during the switchover; %s serves on", p.To, p.From)
	case s.Late && a.Waits != "":
		a.Refused = refuse(lineage.RuleSwitchoverTimeout, "waited too long for %s; %s serves on", a.Waits, p.From)
	}
	return a
}

func progress(p Plan, s State) Action {
	switch {
	case !s.Drained:
		return Action{Step: StepHold, Waits: "writes in flight to be answered"}
	case s.Here == nil || s.Here.Number != s.Number:
		return Action{Step: StepCheckpoint, Waits: fmt.Sprintf("the checkpoint at %s", p.From)}
	case s.There == nil || *s.There != s.Number:
		return Action{Step: StepCheckpoint, Waits: fmt.Sprintf("the checkpoint at %s", p.To)}
	}
	return Action{Step: StepCommit}
}
