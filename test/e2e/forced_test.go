package e2e

import (
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"keelson/internal/api"
	"keelson/internal/lineage"
)

// TestForcedTakeOverAndReturn: the specification's second scenario. The source dies, b takes over, the old source comes
// back as a target by itself; nothing answered is lost, and only what differs is copied.
func TestForcedTakeOverAndReturn(t *testing.T) {
	c := demo(t, "128MiB")
	written := c.writeAt("a", 0, 16*mib, 1)
	c.refused(lineage.RuleAlreadySource, "b", "switchover", "data", "--to", "a", "--force", "--yes")
	// b stands still while a dies, so that it is asked before it has noticed: who is asked looks.
	c.signal("b", syscall.SIGSTOP)
	c.kill("a")
	asked := make(chan result, 1)
	go func() { asked <- c.execute("c", "switchover", "data", "--to", "b", "--yes") }()
	c.wait("c knows that a is gone", 20*time.Second, func() error {
		s, err := c.status("c")
		if err == nil && s.Nodes[slices.IndexFunc(s.Nodes, func(n api.NodeStatus) bool { return n.Name == "a" })].Reachable {
			err = errors.New("it does not")
		}
		return err
	})
	c.signal("b", syscall.SIGCONT)
	if r := <-asked; r.code != exitRefused || !strings.Contains(r.stderr, lineage.RuleNeedsForce) {
		t.Errorf("asked at once: exit %d, %s%s", r.code, r.stdout, r.stderr)
	}
	c.refused(lineage.RuleNeedsForce, "c", "switchover", "data", "--to", "b", "--yes")
	c.refused(lineage.RuleNeedsForce, "b", "switchover", "data", "--to", "b", "--yes")
	c.run("c", "switchover", "data", "--to", "b", "--force", "--yes")
	c.waitMirroring("b", "c")
	c.expect("b", 0, written)
	if m := c.waitState("b", "a", "ResyncPending"); m.Reason == "" {
		t.Error("the mirror to the dead server says no reason")
	}
	late := c.writeAt("b", 64*mib, 2*mib, 2)
	c.start("a")
	c.waitMirroring("b", "a", "c")
	if err := wantResync(c.mirrorOf("b", "a"), nil, "partial"); err != nil {
		t.Error(err)
	}
	c.expect("b", 0, written)
	c.expect("b", 64*mib, late)
	c.noResyncOfKind("full", "compare")
	c.same("a", "b", "c")
}

func (c *cluster) mirrorOf(source, target string) *api.MirrorStatus {
	c.t.Helper()
	m, err := c.mirror(source, target)
	if err != nil {
		c.t.Fatal(err)
	}
	return m
}
