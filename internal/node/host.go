package node

import (
	"fmt"

	"keelson/internal/api"
	"keelson/internal/preflight"
	"keelson/internal/systemd"
)

// concerns are what the machine that the agent runs on has to respect now, and a channel that is closed when that may have changed.
func (n *Node) concerns() (systemd.Concerns, <-chan struct{}) {
	n.mu.Lock()
	changed := n.changed // read before the status, so that no change is missed
	n.mu.Unlock()
	s := n.status()
	return systemd.Concerns{Hold: holdReason(s), Usable: usableHere(s)}, changed
}

// holdReason says why this server may not be switched off now, in a line: the first reason of keelson check --reboot, and how many more.
func holdReason(s *api.Status) string {
	against := preflight.Refused(preflight.Reboot(s))
	if len(against) == 0 {
		return ""
	}
	why := fmt.Sprintf("volume %s: %s", against[0].Volume, against[0].Message)
	if more := len(against) - 1; more > 0 {
		why += fmt.Sprintf(" (and %d more: keelson check --reboot)", more)
	}
	return why
}

// usableHere says of each volume that has a copy on this server whether applications can use it here now: it is served, and what is
// wished of it is there.
func usableHere(s *api.Status) map[string]bool {
	usable := map[string]bool{}
	for _, v := range s.Volumes {
		if v.ID != "" && v.Role != "none" || v.State == "HandedOver" {
			usable[v.Name] = v.State == "Serving" && thereAsWished(v.Attach)
		}
	}
	return usable
}

// thereAsWished reports whether the block device and the mount that are wished for are there; nil: nothing is wished.
func thereAsWished(a *api.AttachStatus) bool {
	return a == nil || a.State == "attached" && (a.Mount == nil || a.Mount.State == "mounted")
}
