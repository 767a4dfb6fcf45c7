package preflight

import (
	"slices"
	"strings"
	"testing"
	"time"

	"keelson/internal/api"
	"keelson/internal/lineage"
)

// cluster is what server self sees of servers a, b and c, and of a volume data whose source is a.
func cluster(self string, change ...func(*api.Status, *api.VolumeStatus)) *api.Status {
	s := &api.Status{Node: self, Nodes: []api.NodeStatus{{Name: "a", Reachable: true}, {Name: "b", Reachable: true}, {Name: "c", Reachable: true}}}
	v := api.VolumeStatus{
		Name: "data", Role: "target", State: "Target", Source: "a", InSync: []string{"a", "b", "c"}, Copies: 3, MinCopies: 1,
		Mirrors: []api.MirrorStatus{
			{Source: "a", Target: "b", Mode: "sync", State: "Mirroring"},
			{Source: "a", Target: "c", Mode: "sync", State: "Mirroring"},
		},
		Switchover: []api.Candidate{{To: "b", OK: true}, {To: "c", OK: true}},
	}
	if self == "a" {
		v.Role, v.State = "source", "Serving"
		v.Devices = []api.DeviceStatus{{Kind: "nbd", Address: "nbd+unix:///data?socket=/a"}}
	}
	for _, f := range change {
		f(s, &v)
	}
	s.Volumes = append(s.Volumes, v)
	return s
}

func down(node string) func(*api.Status, *api.VolumeStatus) {
	return func(s *api.Status, _ *api.VolumeStatus) {
		for i := range s.Nodes {
			s.Nodes[i].Reachable = s.Nodes[i].Reachable && s.Nodes[i].Name != node
		}
	}
}

// mirror gives the mirror to that target a state; only one that is Mirroring stays in the in-sync set.
func mirrorIs(target, state string) func(*api.Status, *api.VolumeStatus) {
	return func(_ *api.Status, v *api.VolumeStatus) {
		for i := range v.Mirrors {
			if v.Mirrors[i].Target == target {
				v.Mirrors[i].State = state
			}
		}
		v.InSync = slices.DeleteFunc(slices.Clone(v.InSync), func(n string) bool { return n == target && state != "Mirroring" })
		v.Copies = len(v.InSync)
	}
}

func client(_ *api.Status, v *api.VolumeStatus) {
	v.Clients = append(v.Clients, api.ClientStatus{Remote: "10.0.0.9:1", Since: time.Unix(1, 0)})
}

func attached(_ *api.Status, v *api.VolumeStatus) {
	v.Devices = append(v.Devices, api.DeviceStatus{Kind: "loop", Address: "/dev/loop3"})
	v.Attach = &api.AttachStatus{Wish: "auto", State: "attached"}
}

func wished(_ *api.Status, v *api.VolumeStatus) {
	v.Attach = &api.AttachStatus{Wish: "auto", State: "waiting"}
}

func servedFrom(node string) func(*api.Status, *api.VolumeStatus) {
	return func(_ *api.Status, v *api.VolumeStatus) {
		v.ServedFrom = node
		if v.Role == "source" {
			v.State = "Failed"
		}
		v.InSync = slices.DeleteFunc(slices.Clone(v.InSync), func(n string) bool { return n == "a" })
	}
}

func minCopies(n int) func(*api.Status, *api.VolumeStatus) {
	return func(_ *api.Status, v *api.VolumeStatus) { v.MinCopies = n }
}

func plan(_ *api.Status, v *api.VolumeStatus) { v.Plan = &api.PlanStatus{To: "b"} }

func TestReboot(t *testing.T) {
	type changes = []func(*api.Status, *api.VolumeStatus)
	tests := []struct {
		name    string
		self    string
		changes changes
		rules   string // of the problems; "" if it may
		says    string // part of what is said
	}{
		{"a target among three", "c", nil, "", "each of a, b holds everything"},
		{"a target among three, the source in use", "c", changes{client}, "", "each of a, b"},
		{"a target in mid-resync", "c", changes{mirrorIs("c", "Resync")}, "", ""},
		{"a target that is paused", "b", changes{mirrorIs("b", "Paused")}, "", ""},
		{"a source that nobody uses", "a", nil, "", "nobody uses it here"},
		{"a source with a client", "a", changes{client}, "in-use-here", "1 client is connected"},
		{"a source that is attached", "a", changes{attached}, "in-use-here", "/dev/loop3"},
		{"a source whose device is only wished for", "a", changes{wished}, "", ""},
		{"a source in use is told where to", "a", changes{client}, "in-use-here", "keelson switchover data --to b"},
		{"a source in use that nobody can relieve", "a", changes{client, mirrorIs("b", "Resync"), mirrorIs("c", "Paused"), func(_ *api.Status, v *api.VolumeStatus) { v.Switchover = nil }},
			"in-use-here only-good-copy", "keelson volume detach data"},
		{"a source without good targets", "a", changes{mirrorIs("b", "ResyncPending"), mirrorIs("c", "Resync")}, "only-good-copy", "b is ResyncPending, c is Resync"},
		{"a source with one good target", "a", changes{mirrorIs("b", "ResyncPending")}, "", "c holds everything"},
		{"a source whose target is in sync by record but gone", "a", changes{down("b"), mirrorIs("c", "Paused")}, "only-good-copy", ""},
		{"a source alone", "a", changes{func(_ *api.Status, v *api.VolumeStatus) { v.Mirrors, v.InSync = nil, []string{"a"} }}, "only-good-copy", "keelson mirror add data"},
		{"a source in boot-wait", "a", changes{func(_ *api.Status, v *api.VolumeStatus) { v.State, v.Devices = "Closed", nil }, mirrorIs("b", "ResyncPending"), mirrorIs("c", "ResyncPending")}, "only-good-copy", ""},
		{"the source is lost, another target is good", "c", changes{down("a")}, "", "cannot be reached; of the others b"},
		{"the source and the other target are lost", "c", changes{down("a"), down("b")}, "only-good-copy", "source a cannot be reached"},
		{"the source is lost and this copy is behind", "c", changes{mirrorIs("c", "Paused"), down("a"), down("b")}, "only-good-copy", ""},
		{"the source is lost, this copy is behind, another is good", "c", changes{mirrorIs("c", "Paused"), down("a")}, "", "b holds everything"},
		{"the source serves from this target", "b", changes{servedFrom("b"), mirrorIs("c", "Resync")}, "only-good-copy", "disk of its source a failed"},
		{"the source serves from another target", "c", changes{servedFrom("b"), mirrorIs("c", "Resync")}, "", ""},
		{"the source serves from this target, another is good", "b", changes{servedFrom("b")}, "", "c holds everything"},
		{"a source whose disk failed, in use", "a", changes{servedFrom("b"), client}, "in-use-here", ""},
		{"a copy that failed", "c", changes{mirrorIs("c", "Failed"), func(_ *api.Status, v *api.VolumeStatus) { v.State = "Failed" }, down("a"), down("b")}, "", ""},
		{"min-copies would not be met", "c", changes{minCopies(3)}, "min-copies", "2 copies would be left"},
		{"min-copies would be met", "c", changes{minCopies(2)}, "", ""},
		{"min-copies without this one", "c", changes{mirrorIs("c", "Paused"), minCopies(2)}, "", ""},
		{"a switchover is under way", "b", changes{plan}, "plan-in-progress", ""},
		{"the role was handed over and not taken yet", "a", changes{func(_ *api.Status, v *api.VolumeStatus) { v.Role, v.State = "none", "HandedOver" }}, "plan-in-progress", ""},
		{"a split brain at the source", "a", changes{mirrorIs("b", "SplitBrain")}, "split-brain", ""},
		{"a split brain at its target", "b", changes{mirrorIs("b", "SplitBrain")}, "split-brain", ""},
		{"a split brain of others", "c", changes{mirrorIs("b", "SplitBrain")}, "", ""},
		{"a view in use", "c", changes{func(_ *api.Status, v *api.VolumeStatus) { v.Views = []api.View{{Name: "data@copy", Clients: 2}} }}, "", "data@copy is in use here (2 clients"},
		{"a volume without a copy here", "c", changes{func(_ *api.Status, v *api.VolumeStatus) { v.Role = "none" }, down("b")}, "", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			items := Reboot(cluster(test.self, test.changes...))
			var rules, said []string
			for _, item := range Refused(items) {
				rules = append(rules, item.Rule)
				if _, known := lineage.FindRule(item.Rule); !known || item.Next == "" {
					t.Errorf("rule %q is in no table, or it is not said what to do: %+v", item.Rule, item)
				}
			}
			for _, item := range items {
				said = append(said, item.Message, item.Next)
				if item.Volume != "data" || item.Node != test.self || strings.ContainsAny(item.Message, "\n") || strings.Contains(item.Next, "VOLUME") {
					t.Errorf("%+v", item)
				}
			}
			if got := strings.Join(rules, " "); got != test.rules {
				t.Errorf("refused by %q, want %q; %q", got, test.rules, said)
			}
			if !strings.Contains(strings.Join(said, "\n"), test.says) {
				t.Errorf("%q is not in %q", test.says, said)
			}
		})
	}
}

// Every volume counts, and one is enough to refuse.
func TestRebootOfSeveralVolumes(t *testing.T) {
	s := cluster("a")
	s.Volumes = append(s.Volumes, cluster("a", client).Volumes...)
	s.Volumes[1].Name = "more"
	items := Reboot(s)
	if len(items) != 2 || items[0].Level != api.CheckOK || items[1].Level != api.CheckProblem || items[1].Volume != "more" {
		t.Errorf("%+v", items)
	}
	if r := api.NewCheckReport("a", time.Unix(1, 0), items); r.Verdict != api.CheckProblem || r.Problems != 1 || r.Warnings != 0 {
		t.Errorf("%+v", r)
	}
}
