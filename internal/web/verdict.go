package web

import (
	"fmt"
	"slices"
	"strings"

	"keelson/internal/api"
)

// verdict is the one sentence about a volume that a person reads first.
type verdict struct {
	Class string // ok | busy | warn | bad
	Word  string
	Text  string
	Next  string // what to do
}

// Classes are told apart by a sign as well as by colour.
var signs = map[string]string{"ok": "✓", "busy": "↻", "warn": "!", "bad": "✕", "idle": "–"}

// Sign is the class without colour.
func (v verdict) Sign() string { return signs[v.Class] }

// judge says how a volume is. Everything it says is in the status.
func judge(st *state, v *api.VolumeStatus) verdict {
	switch {
	case splitBrain(v):
		return verdict{"bad", "split brain", "two servers went on without each other; nothing is overwritten until you choose a side", "compare both sides and keep one"}
	case v.Plan != nil:
		return verdict{"busy", "switching over", "to " + v.Plan.To + ": " + v.Plan.Step + after(", waits for ", v.Plan.Waits), ""}
	case v.Source == "":
		return verdict{"bad", "no source", "nobody is known to be the source" + after(": ", v.Reason), "look at the servers below"}
	case v.Role == "none" && v.State == "Failed":
		return verdict{"bad", "cannot be opened", v.Reason, "repair what it names"}
	case v.Source != st.Node && st.node(v.Source) != nil && !st.reachable(v.Source):
		return verdict{"bad", "source lost", "the source " + v.Source + " can't be reached" + survivors(v), "bring " + v.Source + " back, or take over by force"}
	case v.Role == "source" && v.State == "Failed" && v.Rule == "no-room":
		return verdict{"bad", "no room", "at the source " + v.Source + after(": ", v.Reason), "make room there, and it goes on by itself; or take over by force"}
	case v.Role == "source" && v.State == "Failed":
		return verdict{"bad", "failed", "at the source " + v.Source + after(": ", v.Reason), "repair the disk, or take over by force"}
	case v.Role == "source" && v.State != "Serving":
		return verdict{"bad", "closed", "the source " + v.Source + " offers no device" + after(": ", v.Reason), "bring the servers it names back"}
	}
	return judgeMirrors(v)
}

// judgeMirrors says where the volume could go now.
func judgeMirrors(v *api.VolumeStatus) verdict {
	var ready, behind []string
	busy, worst := false, false
	for _, c := range v.Switchover {
		if c.OK {
			ready = append(ready, c.To)
		}
	}
	for _, m := range v.Mirrors {
		if m.State != "Mirroring" || !slices.Contains(ready, m.Target) && len(v.Switchover) > 0 {
			behind = append(behind, shortfall(m))
			busy = busy || m.State == "Resync"
			worst = worst || m.State == "Failed"
		}
	}
	text := strings.Join(behind, "; ")
	switch {
	case len(v.Mirrors) == 0:
		return verdict{"bad", "not safe", "there is one copy only, at " + v.Source, "add a mirror"}
	case len(ready) > 0 && len(behind) == 0:
		return verdict{"ok", "safe", "can switch over to " + strings.Join(ready, ", "), ""}
	case len(ready) > 0:
		return verdict{"warn", "safe", "can switch over to " + strings.Join(ready, ", ") + "; " + text, ""}
	case busy && !worst:
		return verdict{"busy", "not safe yet", text, "wait for the resync"}
	case len(v.Held) > 0:
		return verdict{"bad", "not safe", text, "look whether the new source " + v.Source + " is good (its file system mounts), then accept it"}
	case text == "":
		return verdict{"bad", "not safe", "no target can take over now" + after(": ", reasons(v)), ""}
	}
	return verdict{"bad", "not safe", text, ""}
}

// shortfall says what keeps one target from taking over.
func shortfall(m api.MirrorStatus) string {
	text := m.Target + " "
	switch m.State {
	case "Mirroring":
		text += "is not ready"
	case "Resync":
		text += "is being resynced"
	case "ResyncPending":
		text += "waits for a resync" + after(" (", closed(m.Reason))
	case "Paused":
		if text += "is paused"; isHeld(m) {
			text = m.Target + " is held as it was"
		}
	case "Broken":
		text += "is broken off"
	case "Failed":
		text += "has failed" + after(" (", closed(m.Reason))
	default:
		text += "is " + m.State
	}
	if m.LagBytes > 0 {
		text += ", " + formatBytes(m.LagBytes) + " behind"
		if m.LagSeconds >= 0.05 {
			text += ", " + formatSeconds(m.LagSeconds)
		}
	}
	return text
}

// isHeld reports whether a take-over by force left the target's copy as it was.
func isHeld(m api.MirrorStatus) bool { return m.State == "Paused" && m.Rule == "held" }

func survivors(v *api.VolumeStatus) string {
	var out []string
	for _, name := range v.InSync {
		if name != v.Source {
			out = append(out, name)
		}
	}
	if len(out) == 0 {
		return "; no other server is known to hold everything answered"
	}
	return "; " + strings.Join(out, ", ") + " held everything answered when it was last heard"
}

func reasons(v *api.VolumeStatus) string {
	var out []string
	for _, c := range v.Switchover {
		if c.Reason != "" {
			out = append(out, c.To+": "+c.Reason)
		}
	}
	return strings.Join(out, "; ")
}

func splitBrain(v *api.VolumeStatus) bool {
	return slices.ContainsFunc(v.Mirrors, func(m api.MirrorStatus) bool { return m.State == "SplitBrain" })
}

func after(prefix, text string) string {
	if text == "" {
		return ""
	}
	return prefix + text
}

func closed(text string) string {
	if text == "" {
		return ""
	}
	return text + ")"
}

const goesOn = "continue takes it up again; only what differs is sent"

// nextStep is what a person does about a mirror in that state.
func nextStep(m api.MirrorStatus) string {
	switch m.State {
	case "Paused":
		if isHeld(m) {
			return "look whether the new source " + m.Source + " is good (its file system mounts), then accept it; if it is no good, stop its agent and take over by force to a server with an old copy"
		}
		return goesOn
	case "SplitBrain":
		return "compare both sides and keep one"
	case "Failed":
		return "replace the disk of " + m.Target + ", remove the mirror and add it again"
	case "Broken":
		return goesOn
	case "ResyncPending":
		return "it is tried again by itself; bring " + m.Target + " back if it is down"
	case "Resync":
		return "nothing: it ends by itself and applications go on meanwhile"
	}
	return ""
}

// classOf a mirror's state.
func classOf(state string) string {
	switch state {
	case "Mirroring":
		return "ok"
	case "Resync":
		return "busy"
	case "ResyncPending":
		return "warn"
	case "Paused", "Broken":
		return "idle"
	}
	return "bad"
}

// whyKind says why a resync moves what it moves.
func whyKind(r *api.ResyncStatus) string {
	switch r.Kind {
	case "none":
		return "nothing differed"
	case "partial":
		return "only regions whose versions differ or are not known are looked at" + rule(r)
	case "compare":
		return "the copies share no history: digests of all regions are compared, and only those that differ are sent" + rule(r)
	case "full":
		return "everything is sent, as was asked for by name" + rule(r)
	}
	return ""
}

func rule(r *api.ResyncStatus) string {
	if r.Rule == "" {
		return ""
	}
	return fmt.Sprintf(" (rule %s)", r.Rule)
}
