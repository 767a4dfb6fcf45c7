package e2e

import (
	"fmt"
	"strings"
	"testing"

	"keelson/internal/api"
	"keelson/internal/lineage"
)

// midResync makes a and b with a volume, and brings b into the middle of a slow resync with nobody else who has everything:
// it has old, and a has written something else over it since.
func midResync(t *testing.T, limits ...string) (c *cluster, old []byte) {
	t.Helper()
	c = byHand(t, []string{"a", "b"}, limits...)
	c.run("a", "volume", "create", "data", "--source", "a:"+c.image("a"), "--target", "b:"+c.image("b"), "--size", "64MiB")
	c.waitMirroring("a", "b")
	old = c.writeAt("a", 0, 16*mib, 1)
	c.run("a", "mirror", "pause", "data", "--target", "b")
	c.run("a", "mirror", "set", "data", "--target", "b", "--resync-rate", "1MiB")
	c.writeAt("a", 0, 16*mib, 2)
	c.run("a", "mirror", "continue", "data", "--target", "b")
	c.wait("b is in the middle of its resync", settleMax, func() error {
		m, err := c.mirror("a", "b")
		if err == nil && (m.State != "Resync" || m.Resync == nil || m.Resync.BytesSent < 2*mib) {
			err = fmt.Errorf("%s, %+v", m.State, m.Resync)
		}
		return err
	})
	return c, old
}

// TestTakeOverInMidResync: the source dies in the middle of a resync. The target goes back to the consistent state that it
// had, says so before, and becomes the source.
func TestTakeOverInMidResync(t *testing.T) {
	c, old := midResync(t)
	c.wait("b can still become source, and says how", settleMax, func() error {
		m, err := c.mirror("a", "b")
		if err == nil && (!m.Promotable || m.State != "Resync") {
			err = fmt.Errorf("%s: %s", m.State, m.NotPromotable)
		}
		v, err2 := c.volume("b")
		if err == nil && err2 == nil && (v.Undo == nil || v.Undo.State != "rolling" || v.Undo.Regions == 0) {
			err = fmt.Errorf("undo log of b: %+v", v.Undo)
		}
		return err
	})
	c.kill("a")
	c.wait("b knows that a is gone", settleMax, func() error {
		if r := c.execute("b", "switchover", "data", "--to", "b", "--yes"); r.code != exitRefused || !strings.Contains(r.stderr, lineage.RuleNeedsForce) {
			return fmt.Errorf("exit %d: %s", r.code, r.stderr)
		}
		return nil
	})
	plan := jsonOf[api.SwitchoverResult](c, "b", "switchover", "data", "--to", "b", "--force", "--plan")
	if plan.Risk == nil || !plan.Risk.AtRisk || plan.Risk.Consistent != "rolling" || plan.Risk.SilentSeconds == nil {
		t.Errorf("plan: %+v, %+v", plan, plan.Risk)
	}
	c.run("b", "switchover", "data", "--to", "b", "--force", "--yes")
	c.expect("b", 0, old)
	c.start("a")
	c.waitState("b", "a", "SplitBrain")
	c.run("b", "split-brain", "resolve", "data", "--keep", "b", "--yes")
	c.waitMirroring("b", "a")
	c.same()
	salvages := jsonOf[[]api.Salvage](c, "b", "salvage", "list", "data")
	var bytes int64
	for _, s := range salvages {
		if s.Node == "a" {
			bytes += s.Bytes
		}
	}
	if bytes != 16*mib {
		t.Errorf("what a answered alone is not all in its salvage: %+v", salvages)
	}
}

// TestUndoLogIsFull: the resync goes on, and the copy says that, and why, it cannot be made the source meanwhile.
func TestUndoLogIsFull(t *testing.T) {
	c, _ := midResync(t, `undo-bytes = "1MiB"`)
	c.wait("b cannot become source, and a says why", settleMax, func() error {
		m, err := c.mirror("a", "b")
		if err == nil && (m.Promotable || !strings.Contains(m.NotPromotable, "cannot be undone: ")) {
			err = fmt.Errorf("promotable %t: %s", m.Promotable, m.NotPromotable)
		}
		return err
	})
	v, err := c.volume("b")
	if err != nil || v.Undo == nil || v.Undo.State != "given-up" || v.Undo.Reason == "" || v.Undo.BytesMax != mib {
		t.Errorf("undo log of b: %+v, %v", v.Undo, err)
	}
	c.event("b", lineage.RuleNoWayBack)
	c.kill("a")
	c.wait("b knows that a is gone, and refuses", settleMax, func() error {
		r := c.execute("b", "switchover", "data", "--to", "b", "--force", "--yes")
		if r.code != exitRefused || !strings.Contains(r.stderr, lineage.RuleNotConsistent) {
			return fmt.Errorf("exit %d: %s", r.code, r.stderr)
		}
		return nil
	})
	c.start("a")
	c.wait("a serves", settleMax, func() error { return c.mirroring("a") })
	c.run("a", "mirror", "set", "data", "--target", "b", "--resync-rate", "0")
	c.waitMirroring("a", "b")
	if m := c.mirrorOf("a", "b"); !m.Promotable {
		t.Errorf("after the resync: %+v", m)
	}
	c.same()
}

// event waits for an event of that rule at the node, with something to do next.
func (c *cluster) event(node, rule string) {
	c.t.Helper()
	c.wait("event "+rule+" at "+node, settleMax, func() error {
		out := c.run(node, "events", "--json")
		for line := range strings.Lines(out) {
			if strings.Contains(line, `"rule":"`+rule+`"`) && strings.Contains(line, `"next":"`) {
				return nil
			}
		}
		return fmt.Errorf("not in %d lines", strings.Count(out, "\n"))
	})
}

// TestSalvagesHaveNoRoom: a resync that would give up more than there is room for stops, loses nothing, says so at both ends,
// and goes on when there is room. When there is little the alarm is raised.
func TestSalvagesHaveNoRoom(t *testing.T) {
	c := byHand(t, []string{"a", "b"}, `salvage-bytes = "2MiB"`, `retry-max = "500ms"`)
	c.run("a", "volume", "create", "data", "--source", "a:"+c.image("a"), "--target", "b:"+c.image("b"), "--size", "64MiB")
	c.waitMirroring("a", "b")
	c.writeAt("a", 0, 4*mib, 1)
	c.kill("b")
	alone := c.writeAt("a", 0, 4*mib, 2)
	c.kill("a")
	c.start("b")
	c.wait("b takes over", settleMax, func() error { return c.execute("b", "switchover", "data", "--to", "b", "--force", "--yes").err() })
	c.writeAt("b", 8*mib, mib, 3)
	c.start("a")
	c.waitState("b", "a", "SplitBrain")
	plan := jsonOf[api.ResolvePlan](c, "b", "split-brain", "resolve", "data", "--keep", "b", "--plan")
	if len(plan.GivenUp) != 1 || plan.GivenUp[0].RoomBytes != 2*mib || plan.GivenUp[0].Bytes < 4*mib {
		t.Errorf("planned: %+v", plan)
	}
	c.run("b", "split-brain", "resolve", "data", "--keep", "b", "--yes")
	c.wait("the mirror says why it stops", settleMax, func() error {
		m, err := c.mirror("b", "a")
		if err == nil && (m.State == "Mirroring" || !strings.Contains(m.Reason, lineage.RuleSalvageFull)) {
			err = fmt.Errorf("%s: %s", m.State, m.Reason)
		}
		return err
	})
	v, err := c.volume("a")
	if err != nil || v.Undo == nil || !strings.Contains(v.Undo.Reason, lineage.RuleSalvageFull) {
		t.Errorf("a: %+v, %v", v.Undo, err)
	}
	c.event("b", lineage.RuleSalvageFull)
	c.stop("a")
	c.edit("a", `salvage-bytes = "2MiB"`, `salvage-bytes = "5MiB"`)
	c.start("a")
	c.waitMirroring("b", "a")
	c.same()
	c.event("a", lineage.RuleSalvageLow)
	if v, err = c.volume("a"); err != nil || v.Salvage == nil || !v.Salvage.RoomLow || v.Salvage.Count != 1 || v.Salvage.BytesMax != 5*mib {
		t.Errorf("a: %+v, %v", v.Salvage, err)
	}
	salvages := jsonOf[[]api.Salvage](c, "b", "salvage", "list", "data")
	if len(salvages) != 1 || salvages[0].Bytes != 4*mib {
		t.Fatalf("salvages: %+v", salvages)
	}
	c.run("b", "salvage", "apply", "data", salvages[0].ID, "--yes")
	c.expect("b", 0, alone)
	c.run("b", "salvage", "delete", "data", salvages[0].ID, "--yes")
	if v, err = c.volume("a"); err != nil || v.Salvage.RoomLow || v.Salvage.Count != 0 {
		t.Errorf("a: %+v, %v", v.Salvage, err)
	}
}
