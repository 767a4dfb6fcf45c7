package e2e

import (
	"encoding/json"
	"errors"
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

// TestSplitBrainIsShownAndResolved: a goes on alone and answers; b takes over without it. Nothing is overwritten until an
// administrator chooses, and what he gives up is in a salvage.
func TestSplitBrainIsShownAndResolved(t *testing.T) {
	c := demo(t, "64MiB")
	c.writeAt("a", 0, 4*mib, 1)
	c.kill("b")
	c.kill("c")
	alone := c.writeAt("a", mib, 128<<10, 2)
	c.kill("a")
	c.start("b")
	c.start("c")
	c.wait("b takes over", 30*time.Second, func() error { return c.execute("c", "switchover", "data", "--to", "b", "--force", "--yes").err() })
	kept := c.writeAt("b", 8*mib, 64<<10, 3)
	c.waitMirroring("b", "c")
	c.start("a")
	c.waitState("b", "a", "SplitBrain")
	v, err := c.volume("a")
	if err != nil || len(v.Devices) != 0 {
		t.Fatalf("a offers the volume: %v %v", v, err)
	}
	var shown api.SplitBrain
	if err := json.Unmarshal([]byte(c.run("b", "split-brain", "show", "data", "--json")), &shown); err != nil {
		t.Fatal(err)
	}
	if !shown.Split || len(shown.Sides) != 3 || shown.Sides[0].Bytes < 128<<10 || shown.Sides[1].Bytes < 64<<10 {
		t.Errorf("shown: %+v", shown)
	}
	c.run("c", "split-brain", "resolve", "data", "--keep", "b", "--yes")
	c.waitMirroring("b", "a", "c")
	c.expect("b", 8*mib, kept)
	c.same("a", "b", "c")

	var salvages []api.Salvage
	if err := json.Unmarshal([]byte(c.run("b", "salvage", "list", "data", "--json")), &salvages); err != nil {
		t.Fatal(err)
	}
	if len(salvages) != 1 || salvages[0].Node != "a" || salvages[0].Bytes != int64(len(alone)) {
		t.Fatalf("salvages: %+v", salvages)
	}
	dir := folder(t)
	c.run("b", "salvage", "export", "data", salvages[0].ID, "--dir", dir+"/out")
	if err := exported(dir+"/out", mib, alone); err != nil {
		t.Error(err)
	}
	c.refused(lineage.RuleNoSplitBrain, "b", "split-brain", "resolve", "data", "--keep", "b", "--yes")
	c.run("b", "salvage", "delete", "data", salvages[0].ID, "--yes")
}

var errContent = errors.New("the exported content is another")
