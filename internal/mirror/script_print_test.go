package mirror

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"keelson/internal/lineage"
	"keelson/internal/switchover"
)

// print says an effect in words a storage administrator can read.
func (s *script) print(e Effect) string {
	switch e := e.(type) {
	case Save:
		return "save: " + s.changes(e.Standing)
	case BecomeSource:
		text := "become source with a new generation; save: "
		if e.Lazy {
			text = "become source again, the next write begins a generation; save: "
		}
		if len(s.own.History) == 0 {
			s.own.History = lineage.History{{ID: s.gen, Term: e.Standing.Served}}
			s.own.Position.Gen = s.gen
		}
		return text + s.changes(e.Standing)
	case OpenDevice:
		return "open the device"
	case CloseDevice:
		return "close the device: " + e.Why
	case Dial:
		s.session[e.Target] = e.Session
		if e.Full {
			return fmt.Sprintf("dial %s for a full copy (session %d)", e.Target, e.Session)
		}
		return fmt.Sprintf("dial %s (session %d)", e.Target, e.Session)
	case Hangup:
		return fmt.Sprintf("hang up %s: %s", e.Target, e.Why)
	case Tune:
		return fmt.Sprintf("tune %s: %s, %d bytes/s", e.Member.Node, e.Member.Mode, e.Member.RateBytes)
	case Require:
		if e.Copies > 1 {
			return fmt.Sprintf("answers wait for: %s, and for %d copies", orNobody(e.Members), e.Copies)
		}
		return "answers wait for: " + orNobody(e.Members)
	case ServeFrom:
		return "read from " + e.Target + ", and let go on what was held since the failure"
	case AbandonDisk:
		return "give the disk up: " + e.Why
	case SendRecord:
		return fmt.Sprintf("send %s: in sync are %s", e.Target, recordText(e.Record))
	case SendSettings:
		return fmt.Sprintf("send %s: settings %d", e.Target, e.Settings.Version.N)
	case SendCheckpoint:
		return "send " + e.Target + ": checkpoint"
	case Hold:
		return "hold new writes"
	case Release:
		return "let held writes go on"
	case Checkpoint:
		return "checkpoint here"
	case DeliverToken:
		return fmt.Sprintf("hand over to %s: term %s, last number %d, in sync %s", e.Heir.Node, e.Heir.Term, e.Heir.Last.Number, recordText(e.Heir.Record))
	case AskPeers:
		return "ask " + strings.Join(e.Nodes, ", ")
	}
	return s.printMore(e)
}

func (s *script) printMore(e Effect) string {
	switch e := e.(type) {
	case AcceptSession:
		return "accept the session"
	case RefuseSession:
		return fmt.Sprintf("refuse the session: %s (%s)", e.Message, e.Rule)
	case Fence:
		return fmt.Sprintf("ask %s to promise term %s and to hang up the old source", strings.Join(e.Nodes, ", "), e.Term)
	case RollBack:
		return "roll the interrupted resync back"
	case GiveUp:
		s.asked = e
		return fmt.Sprintf("ask %s to give term %s up in favour of %s", e.Node, e.Term, e.New)
	case DropSession:
		return "drop the incoming session: " + e.Why
	case AckRecord:
		return fmt.Sprintf("acknowledge record %s.%d", e.Epoch.Term, e.Epoch.N)
	case Reply:
		switch {
		case e.Rule == "" && e.Err == "":
			return "reply: done"
		case e.Unfinished:
			return fmt.Sprintf("reply: not finished: %s (%s)\n       next: %s", e.Err, e.Rule, e.Fix)
		}
		text := fmt.Sprintf("reply: refused: %s (%s)", e.Err, e.Rule)
		if e.Better != "" {
			text += ", better is " + e.Better
		}
		if e.Fix != "" {
			text += "\n       next: " + e.Fix
		}
		return text
	case PlanStep:
		return fmt.Sprintf("step %s %s: %s", e.Name, e.State, e.Text)
	case Note:
		text := fmt.Sprintf("%s, %s: %s", e.Level, e.Object, e.Message)
		if e.Rule != "" {
			text += " (" + e.Rule + ")"
		}
		return text
	}
	return fmt.Sprintf("%T%+v", e, e)
}

func orNobody(names []string) string {
	if len(names) == 0 {
		return "nobody else"
	}
	return strings.Join(names, ", ")
}

// changes names what is new in the standing that is saved.
func (s *script) changes(st lineage.Standing) string {
	var out []string
	old := s.saved
	if st.Role != old.Role {
		out = append(out, "role "+string(st.Role))
	}
	if st.Promised != old.Promised {
		out = append(out, "promised term "+st.Promised.String())
	}
	if st.Served != old.Served {
		out = append(out, "serves term "+st.Served.String())
	}
	if !reflect.DeepEqual(st.Record, old.Record) {
		out = append(out, "in sync "+recordText(st.Record))
	}
	if st.Heir != nil && old.Heir == nil {
		out = append(out, "the next source is "+st.Heir.Node)
	}
	if st.Discard != old.Discard {
		out = append(out, map[bool]string{true: "its surplus is given up", false: "nothing is to be given up any more"}[st.Discard])
	}
	if !reflect.DeepEqual(st.Settings, old.Settings) {
		out = append(out, fmt.Sprintf("settings %d%s", st.Settings.Version.N, memberChanges(old.Settings, st.Settings)))
	}
	s.saved = st.Clone()
	if out == nil {
		return "nothing new"
	}
	return strings.Join(out, ", ")
}

func memberChanges(old, now lineage.Settings) string {
	text := ""
	if old.MinCopies != now.MinCopies {
		text += fmt.Sprintf(" (min-copies %d)", max(now.MinCopies, 1))
	}
	if old.HoldCopies != now.HoldCopies {
		text += fmt.Sprintf(" (hold-old-copies %t)", now.HoldCopies)
	}
	for _, m := range now.Members {
		if o := old.Find(m.Node); o != nil && *o == m {
			continue
		}
		text += " (" + m.Node + " " + string(m.Mode)
		for _, f := range []struct {
			on   bool
			name string
		}{{m.Paused && !m.Held, "paused"}, {m.Held, "held"}, {m.Broken, "broken"}, {m.Removed, "removed"}, {m.FullAsked > m.FullDone, "full resync asked"}} {
			if f.on {
				text += ", " + f.name
			}
		}
		text += ")"
	}
	return text
}

func printView(v View, now time.Time) string {
	var out strings.Builder
	state := "closed"
	if v.Open {
		state = "open"
	}
	fmt.Fprintf(&out, "%s, %s; source %s, term %s; in sync: %s\n", v.Role, state, v.Source, v.Term, orNobody(v.Record.Members))
	if v.Reason != "" {
		fmt.Fprintf(&out, "because %s (%s)\n", v.Reason, v.Rule)
	}
	for _, m := range v.Mirrors {
		reason := ""
		if m.Reason != "" {
			reason = ": " + m.Reason
		}
		fmt.Fprintf(&out, "  %s->%s %s %s%s\n", m.Source, m.Target, m.Mode, m.State, reason)
	}
	if p := v.Plan; p != nil {
		fmt.Fprintf(&out, "  switchover %s to %s: %s, waits for %s\n", p.ID, p.To, p.Step, p.Waits)
	}
	for _, c := range v.Candidates {
		if c.OK {
			fmt.Fprintf(&out, "  can switch over to %s\n", c.To)
		} else {
			fmt.Fprintf(&out, "  cannot switch over to %s: %s (%s)\n", c.To, c.Reason, c.Rule)
		}
	}
	return out.String()
}

func printPlan(f switchover.Facts) string {
	var out strings.Builder
	p := switchover.Planned("p1", f)
	if f.Risk != nil {
		p = switchover.Forced("p1", f)
	}
	for i, s := range p.Steps {
		fmt.Fprintf(&out, "%d. %s: %s\n", i+1, s.Name, s.Text)
	}
	risks := slices.Clone(p.Risks)
	if len(risks) == 0 {
		risks = []string{"nothing"}
	}
	for _, r := range risks {
		fmt.Fprintf(&out, "at risk: %s\n", r)
	}
	for _, a := range p.Assumes {
		fmt.Fprintf(&out, "if %s\n", a)
	}
	return out.String()
}
