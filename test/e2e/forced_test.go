package e2e

import (
	"fmt"
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
	c.kill("a")
	c.wait("b knows that a is gone", 20*time.Second, func() error {
		if r := c.execute("b", "switchover", "data", "--to", "b", "--yes"); r.code != 3 {
			return fmt.Errorf("exit %d", r.code)
		}
		return nil
	})
	c.refused(lineage.RuleNeedsForce, "c", "switchover", "data", "--to", "b", "--yes")
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
