package main

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"keelson/internal/api"
)

// overview writes the status for people. It only formats; what it says is in the status.
type overview struct {
	strings.Builder
	now time.Time
}

func (o *overview) printf(format string, args ...any) { fmt.Fprintf(o, format, args...) }

// status writes the whole: the agent, the servers, then each volume.
func (o *overview) status(s *api.Status) {
	o.printf("agent %s (%s) of cluster %s\n", s.Node, orNone(s.Version), orNone(s.Cluster))
	if s.Web != "" {
		o.printf("page %s\n", s.Web)
	}
	o.nodes(s)
	if len(s.Volumes) == 0 {
		o.printf("\nno volumes: keelson volume create makes one\n")
	}
	for i := range s.Volumes {
		o.printf("\n")
		o.volume(s.Node, &s.Volumes[i])
	}
}

// nodes lists the servers on one line, and on lines of their own those that can't be reached.
func (o *overview) nodes(s *api.Status) {
	var up []string
	for _, n := range s.Nodes {
		if n.Reachable {
			up = append(up, n.Name)
		}
	}
	o.printf("servers %s reachable\n", orNone(strings.Join(up, " ")))
	for _, n := range s.Nodes {
		if !n.Reachable {
			o.printf("server %s at %s can't be reached; %s\n", n.Name, n.Address, o.heard(n.Heard))
		}
	}
}

func (o *overview) heard(t time.Time) string {
	if t.IsZero() {
		return "it was not heard yet"
	}
	return "last heard " + o.ago(t)
}

func (o *overview) ago(t time.Time) string {
	return fmt.Sprintf("%s ago (%s)", max(0, o.now.Sub(t).Round(time.Second)), t.UTC().Format(time.RFC3339))
}

// volume writes one volume as the server asked sees it.
func (o *overview) volume(self string, v *api.VolumeStatus) {
	generation := v.Generation[:min(8, len(v.Generation))]
	if strings.Trim(v.Generation, "0") == "" { // nothing was written yet
		generation = ""
	}
	o.printf("volume %s  %s  source %s  term %d  generation %s  position %d\n", v.Name, human(v.SizeBytes), orNone(v.Source), v.Term, orNone(generation), v.Position)
	o.printf("  here        %s\n", here(self, v))
	o.printf("  in sync     %s\n", orNone(strings.Join(v.InSync, " ")))
	if v.MinCopies > 1 {
		o.printf("  copies      %d hold a write, min-copies %d\n", v.Copies, v.MinCopies)
	}
	if len(v.Held) > 0 {
		o.printf("  held        the copies at %s, as they were; is the new source good (its file system mounts)? keelson volume accept %s\n", strings.Join(v.Held, " "), v.Name)
	}
	if v.ServedFrom != "" {
		o.printf("  served from %s\n", v.ServedFrom)
	}
	o.printf("  encryption  %s\n", orNone(v.Encryption))
	for _, d := range v.Devices {
		o.printf("  device      %s %s%s\n", d.Kind, d.Address, after(" as ", d.Path))
	}
	if v.Attach != nil && (v.Attach.State == "failed" || v.Attach.Reason != "") {
		o.printf("  device      %s%s\n", v.Attach.State, after(": ", v.Attach.Reason))
	}
	if v.Attach != nil && v.Attach.Mount != nil {
		o.printf("  mount       %s\n", mountLine(v.Attach.Mount))
	}
	if s := v.ServiceAddress; s != nil {
		o.printf("  address     %s on %s %s%s\n", s.Address, s.Interface, s.State, after(": ", s.Reason))
	}
	if s := v.Salvage; s != nil && s.Count > 0 {
		low := ""
		if s.RoomLow {
			low = "; the room runs low"
		}
		o.printf("  salvages    %d here, %s of %s%s (keelson salvage list %s)\n", s.Count, human(s.Bytes), human(s.BytesMax), low, v.Name)
	}
	if u := v.Undo; u != nil && (u.State != "" || u.Reason != "") {
		o.printf("  undo log    %s, %s of %s%s\n", orNone(u.State), human(u.Bytes), human(u.BytesMax), after(": ", u.Reason))
	}
	for _, w := range v.Views {
		o.printf("  view        %s, read-only, %d clients: %s\n", viewOf(&w), w.Clients, strings.Join(w.Addresses, " "))
	}
	if p := v.Plan; p != nil {
		o.printf("  under way   switchover to %s: %s%s\n", p.To, p.Step, after("; waits for ", p.Waits))
	}
	o.mirrors(self, v.Mirrors)
	o.candidates(v.Switchover)
}

// here is what the server asked has to do with the volume, and in which state that is.
func here(self string, v *api.VolumeStatus) string {
	text := self + " has no copy"
	if v.Role != "none" {
		text = self + " is " + v.Role
	}
	if !strings.EqualFold(v.State, v.Role) {
		text += after(", ", v.State)
	}
	return text + after(": ", v.Reason)
}

func after(prefix, text string) string {
	if text == "" {
		return ""
	}
	return prefix + text
}

// mirrors writes the table of mirrors, then what there is to say about each.
func (o *overview) mirrors(self string, mirrors []api.MirrorStatus) {
	if len(mirrors) == 0 {
		return
	}
	w := tabwriter.NewWriter(o, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "  MIRROR\tMODE\tSTATE\tPOSITION\tLAG\tRESYNC") // a Builder does not fail
	for _, m := range mirrors {
		_, _ = fmt.Fprintf(w, "  %s->%s\t%s\t%s\t%d\t%s\t%s\n", orNone(m.Source), m.Target, m.Mode, m.State, m.Position, lag(m), resync(m.Resync))
	}
	_ = w.Flush()
	for _, m := range mirrors {
		name := fmt.Sprintf("  %s->%s", orNone(m.Source), m.Target)
		if m.Reason != "" {
			o.printf("%s: %s\n", name, m.Reason)
		}
		if m.NotPromotable != "" {
			o.printf("%s: cannot become source: %s\n", name, m.NotPromotable)
		}
		if m.Resync != nil && m.Resync.State == "running" && m.Resync.Rule != "" {
			o.printf("%s: %s resync by rule %s\n", name, m.Resync.Kind, m.Resync.Rule)
		}
		if m.Source != self && !m.AsOf.IsZero() && o.now.Sub(m.AsOf) > 3*time.Second {
			o.printf("%s: as it was %s\n", name, o.ago(m.AsOf))
		}
	}
}

func lag(m api.MirrorStatus) string {
	if m.LagBytes == 0 && m.LagSeconds == 0 {
		return "0 B"
	}
	return fmt.Sprintf("%s, %.1f s", human(m.LagBytes), m.LagSeconds)
}

// resync is one resync in short: its kind, how far it is or what it moved, and the rule that decided it.
func resync(r *api.ResyncStatus) string {
	if r == nil {
		return "none yet"
	}
	moved := human(r.BytesSent) + " sent"
	if r.BytesSkipped > 0 {
		moved += ", " + human(r.BytesSkipped) + " equal or empty"
	}
	switch r.State {
	case "running":
		percent := 100.0
		if r.BytesTotal > 0 {
			percent = min(100, 100*float64(r.BytesSent+r.BytesSkipped)/float64(r.BytesTotal))
		}
		text := fmt.Sprintf("%s %.0f%% of %s, %s/s", r.Kind, percent, human(r.BytesTotal), human(r.BytesPerSec))
		if r.SecondsLeft != nil {
			text += fmt.Sprintf(", %s left", max(0, time.Duration(*r.SecondsLeft*float64(time.Second)).Round(time.Second)))
		}
		return text
	case "interrupted":
		return fmt.Sprintf("%s interrupted: %s of %s", r.Kind, moved, human(r.BytesTotal))
	}
	return r.Kind + ": " + moved + after(" (", closed(r.Rule))
}

// candidates says where the volume could be switched over to.
func (o *overview) candidates(candidates []api.Candidate) {
	for _, c := range candidates {
		if c.OK {
			o.printf("  switchover  to %s: possible\n", c.To)
		} else {
			o.printf("  switchover  to %s: not now%s%s\n", c.To, after(": ", c.Reason), after(" (rule ", closed(c.Rule)))
		}
	}
}

func closed(rule string) string {
	if rule == "" {
		return ""
	}
	return rule + ")"
}
