package node

import (
	"maps"
	"strings"
	"testing"

	"keelson/internal/api"
)

func TestUsableHere(t *testing.T) {
	s := &api.Status{Node: "a", Volumes: []api.VolumeStatus{
		{Name: "served", ID: "1", Role: "source", State: "Serving"},
		{Name: "closed", ID: "2", Role: "source", State: "Closed"},
		{Name: "target", ID: "3", Role: "target", State: "Target", Attach: &api.AttachStatus{State: "waiting"}},
		{Name: "attached", ID: "4", Role: "source", State: "Serving", Attach: &api.AttachStatus{State: "attached"}},
		{Name: "waiting", ID: "5", Role: "source", State: "Serving", Attach: &api.AttachStatus{State: "waiting"}},
		{Name: "mounted", ID: "8", Role: "source", State: "Serving", Attach: &api.AttachStatus{State: "attached", Mount: &api.MountStatus{State: "mounted"}}},
		{Name: "mounting", ID: "9", Role: "source", State: "Serving", Attach: &api.AttachStatus{State: "attached", Mount: &api.MountStatus{State: "mounting"}}},
		{Name: "gone", ID: "6", Role: "none", State: "HandedOver"},
		{Name: "elsewhere", ID: "7", Role: "none", State: "Serving"},
		{Name: "broken", Role: "none", State: "Failed"},
	}}
	want := map[string]bool{"served": true, "closed": false, "target": false, "attached": true, "waiting": false, "mounted": true, "mounting": false, "gone": false}
	if got := usableHere(s); !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestHoldReason(t *testing.T) {
	s := &api.Status{Node: "a", Volumes: []api.VolumeStatus{{Name: "x", ID: "1", Role: "source", State: "Serving", Source: "a", InSync: []string{"a", "b"}, Mirrors: []api.MirrorStatus{{Source: "a", Target: "b", State: "Mirroring"}}}},
		Nodes: []api.NodeStatus{{Name: "a", Reachable: true}, {Name: "b", Reachable: true}}}
	if why := holdReason(s); why != "" {
		t.Errorf("a copy at b and no users: %s", why)
	}
	s.Volumes[0].Clients = []api.ClientStatus{{}}
	if why := holdReason(s); !strings.HasPrefix(why, "volume x: ") || !strings.Contains(why, "in use") || strings.Contains(why, "more") {
		t.Errorf("in use: %q", why)
	}
	s.Nodes[1].Reachable = false
	if why := holdReason(s); !strings.HasPrefix(why, "volume x: ") || !strings.Contains(why, "(and 1 more: keelson check --reboot)") {
		t.Errorf("in use, and the only copy: %q", why)
	}
}
