// Package preflight says what may go wrong before something is done: may this server be rebooted, would a volume or a mirror
// work. It decides by what was seen and measured, which it is given; it looks at nothing itself.
package preflight

import (
	"fmt"
	"slices"
	"strings"

	"keelson/internal/api"
	"keelson/internal/lineage"
)

// Reboot says whether the server whose status that is may be switched off and on now: one item for each of its volumes, and more
// where there is more to say. It may if none of them is a problem (Refused). A server may if it is not the only one with a
// good copy of a volume, and is not the source of one that is in use.
func Reboot(s *api.Status) []api.CheckItem {
	var items []api.CheckItem
	for i := range s.Volumes {
		items = append(items, rebootVolume(s, &s.Volumes[i])...)
	}
	return items
}

// Refused are the items that stand against it.
func Refused(items []api.CheckItem) []api.CheckItem {
	var out []api.CheckItem
	for _, item := range items {
		if item.Level == api.CheckProblem {
			out = append(out, item)
		}
	}
	return out
}

// rebootVolume is what one volume says about it.
func rebootVolume(s *api.Status, v *api.VolumeStatus) []api.CheckItem {
	handed := v.State == "HandedOver"
	if v.Role == "none" && !handed {
		return nil // no copy here, or one that could not be opened: nothing changes for it
	}
	b := rebooting{s: s, v: v}
	if handed || v.Plan != nil {
		b.problem(lineage.RulePlanInProgress, "a switchover is under way", lineage.NextOf(lineage.RulePlanInProgress))
	}
	if b.split() {
		b.problem(lineage.RuleSplitBrain, "each side of its split brain may have writes that no other server has", lineage.NextOf(lineage.RuleSplitBrain))
	}
	if users := b.users(); users != "" {
		b.problem(lineage.RuleInUseHere, fmt.Sprintf("%s is its source, and it is in use here (%s)", s.Node, users), b.freeFirst())
	}
	good := b.goodElsewhere()
	if len(good) == 0 && b.goodHere() {
		b.problem(lineage.RuleOnlyGoodCopy, b.alone(), b.copyFirst())
	}
	if left := v.Copies - 1; v.Role == "target" && v.MinCopies > 1 && b.counts() && left < v.MinCopies {
		b.problem(lineage.RuleMinCopies, fmt.Sprintf("%d copies would be left to hold a write, min-copies is %d: applications would wait, and then get errors", left, v.MinCopies),
			lineage.NextOf(lineage.RuleMinCopies))
	}
	if len(b.items) == 0 {
		b.fine(good)
	}
	return b.items
}

// rebooting is what is known and said of one volume.
type rebooting struct {
	s     *api.Status
	v     *api.VolumeStatus
	items []api.CheckItem
}

func (b *rebooting) add(level, rule, message, next string) {
	next = strings.NewReplacer("VOLUME", b.v.Name, "SOURCE", b.v.Source, "SELF", b.s.Node).Replace(next)
	b.items = append(b.items, api.CheckItem{Check: "reboot", Level: level, Node: b.s.Node, Volume: b.v.Name, Rule: rule, Message: message, Next: next})
}

func (b *rebooting) problem(rule, message, next string) { b.add(api.CheckProblem, rule, message, next) }

// fine says why nothing stands against it, and what comes of it.
func (b *rebooting) fine(good []string) {
	switch {
	case len(good) == 0:
		b.add(api.CheckOK, "", "its copy here is not a good one, and nothing uses it here", "")
	case b.v.Role == "target" && !b.reachable(b.v.Source):
		b.add(api.CheckWarning, "", fmt.Sprintf("its source %s cannot be reached; of the others %s holds everything answered", b.v.Source, and(good)), "")
	case b.v.Role == "source":
		b.add(api.CheckOK, "", fmt.Sprintf("nobody uses it here, and %s holds everything answered too; it cannot be used until this server is back, or another one is the source", and(good)), "")
	default:
		b.add(api.CheckOK, "", fmt.Sprintf("its copy here is not the only good one: %s holds everything answered too", and(good)), "")
	}
	for _, view := range b.v.Views {
		if view.Clients > 0 {
			b.add(api.CheckWarning, "", fmt.Sprintf("its read-only view %s is in use here (%s)", view.Name, clients(view.Clients)), "")
		}
	}
}

// users says who uses the volume here; "" if nobody does.
func (b *rebooting) users() string {
	if b.v.Role != "source" {
		return ""
	}
	var who []string
	for _, d := range b.v.Devices {
		if d.Kind != "nbd" { // a device of the kernel
			who = append(who, "attached as "+d.Address)
		}
	}
	if a := b.v.Attach; a != nil && a.State == "attached" && len(who) == 0 {
		who = append(who, "attached")
	}
	if n := len(b.v.Clients); n > 0 {
		who = append(who, clients(n))
	}
	return strings.Join(who, ", ")
}

func clients(n int) string {
	if n == 1 {
		return "1 client is connected"
	}
	return fmt.Sprintf("%d clients are connected", n)
}

// goodElsewhere are the other servers whose copy holds everything answered, as far as this one knows now.
func (b *rebooting) goodElsewhere() []string {
	v := b.v
	var good []string
	sourceUp := v.Role == "source" || b.reachable(v.Source)
	for _, node := range v.InSync {
		if node == b.s.Node || !b.reachable(node) {
			continue
		}
		m := b.mirror(node)
		switch {
		case node == v.Source && v.ServedFrom != "": // its disk failed
		case node == v.Source, !sourceUp, m != nil && m.State == "Mirroring": // of a lost source: what the last record says
			good = append(good, node)
		}
	}
	return good
}

// goodHere reports whether the copy here holds everything answered, or may be the best there is: its source is lost.
func (b *rebooting) goodHere() bool {
	v := b.v
	switch {
	case v.State == "Failed":
		return false
	case v.ServedFrom == b.s.Node, slices.Contains(v.InSync, b.s.Node):
		return true
	}
	return v.Role == "target" && !b.reachable(v.Source)
}

// counts reports whether writes are held by this copy before they are answered.
func (b *rebooting) counts() bool {
	m := b.mirror(b.s.Node)
	return m != nil && m.Mode == "sync" && m.State == "Mirroring" && b.reachable(b.v.Source)
}

func (b *rebooting) split() bool {
	for _, m := range b.v.Mirrors {
		if m.State == "SplitBrain" && (b.v.Role == "source" || m.Target == b.s.Node || m.Source == b.s.Node) {
			return true
		}
	}
	return false
}

// alone says why no other copy is good.
func (b *rebooting) alone() string {
	v := b.v
	if v.Role == "target" && !b.reachable(v.Source) {
		return fmt.Sprintf("its source %s cannot be reached, and no other server that can be reached is known to hold everything answered", v.Source)
	}
	if v.Role == "target" {
		return fmt.Sprintf("the disk of its source %s failed, and no other target holds everything answered", v.Source)
	}
	why := "no other server has a copy"
	for i, m := range v.Mirrors {
		if i == 0 {
			why = ""
		}
		why += fmt.Sprintf("%s%s is %s", strings.Repeat(", ", min(i, 1)), m.Target, m.State)
	}
	return "the copy here is the only one that holds everything answered: " + why
}

// copyFirst is what to do about that.
func (b *rebooting) copyFirst() string {
	switch {
	case b.v.Role == "target" && !b.reachable(b.v.Source):
		return "bring the source back; or make this server the source (keelson switchover VOLUME --to SELF --plan --force shows what is at risk) and wait until a mirror is Mirroring"
	case b.v.Role == "target":
		return "switch over to this server (keelson switchover VOLUME --to SELF), replace the disk, and wait until a mirror is Mirroring"
	case len(b.v.Mirrors) == 0:
		return "add a target (keelson mirror add VOLUME --target NODE:PATH) and wait until it is Mirroring"
	}
	return "wait until a mirror is Mirroring (keelson status VOLUME says what it waits for)"
}

// freeFirst is what to do about a volume that is in use here.
func (b *rebooting) freeFirst() string {
	for _, c := range b.v.Switchover {
		if c.OK && c.To != b.s.Node {
			return "switch over first: keelson switchover VOLUME --to " + c.To
		}
	}
	return "no other server can become its source now (keelson status VOLUME says why); or stop what uses it, and detach it: keelson volume detach VOLUME"
}

func (b *rebooting) mirror(target string) *api.MirrorStatus {
	for i := range b.v.Mirrors {
		if b.v.Mirrors[i].Target == target {
			return &b.v.Mirrors[i]
		}
	}
	return nil
}

func (b *rebooting) reachable(node string) bool {
	return slices.ContainsFunc(b.s.Nodes, func(n api.NodeStatus) bool { return n.Name == node && n.Reachable })
}

// and joins names for a sentence whose verb is in the singular: "b", "each of b, c".
func and(names []string) string {
	if len(names) == 1 {
		return names[0]
	}
	return "each of " + strings.Join(names, ", ")
}
