package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"keelson/internal/api"
	"keelson/internal/lineage"
)

// jsonOf runs a command and reads its JSON document.
func jsonOf[T any](c *cluster, node string, args ...string) T {
	c.t.Helper()
	var v T
	if err := json.Unmarshal([]byte(c.run(node, append(args, "--json")...)), &v); err != nil {
		c.t.Fatalf("keelson %v: %v", args, err)
	}
	return v
}

// expectAt reads from an NBD address and compares.
func (c *cluster) expectAt(address string, off int64, want []byte) {
	c.t.Helper()
	d, err := dial(address)
	if err != nil {
		c.t.Fatal(err)
	}
	defer d.Close()
	got := make([]byte, len(want))
	if _, err := d.ReadAt(got, off); err != nil {
		c.t.Fatalf("read at %s: %v", address, err)
	}
	if !bytes.Equal(got, want) {
		c.t.Fatalf("content at %d differs at %s", off, address)
	}
}

// TestSplitBrainIsShownAndResolved: a goes on alone and answers; b takes over without it. Nothing is overwritten until an
// administrator chooses, both sides can be looked at, and what he gives up is in a salvage, from which it can be looked at,
// exported and applied, whichever agent is asked.
func TestSplitBrainIsShownAndResolved(t *testing.T) {
	c := demo(t, "64MiB")
	first := c.writeAt("a", 0, 4*mib, 1)
	c.kill("b")
	c.kill("c")
	alone := c.writeAt("a", mib, 128<<10, 2)
	aloneToo := c.writeAt("a", 8*mib, 64<<10, 4)
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
	shown := jsonOf[api.SplitBrain](c, "b", "split-brain", "show", "data")
	if !shown.Split || len(shown.Sides) != 3 || shown.Sides[0].Bytes < 192<<10 || shown.Sides[1].Bytes < 64<<10 || !inRuns(shown.Both, 8*mib, 64<<10) {
		t.Errorf("shown: %+v", shown)
	}
	for side, rule := range []string{lineage.RuleShrink, lineage.RuleForced} { // since when
		if p := shown.Sides[side].Parting; len(p) == 0 || p[0].Rule != rule || p[0].Time.IsZero() {
			t.Errorf("%s parted: %+v", shown.Sides[side].Node, p)
		}
	}

	// Both sides as they are: a's is not served by anybody, b's is in use.
	side := jsonOf[api.View](c, "c", "split-brain", "attach", "data", "--node", "a")
	c.expectAt(side.Addresses[0], mib, alone)
	c.expectAt(side.Addresses[0], 8*mib, aloneToo)
	if d, err := dial(side.Addresses[0]); err != nil {
		t.Error(err)
	} else {
		if _, err := d.WriteAt(kept, 8*mib); err == nil {
			t.Error("a view took a write")
		}
		_ = d.Close()
	}
	other := jsonOf[api.View](c, "a", "split-brain", "attach", "data", "--node", "b")
	c.expectAt(other.Addresses[0], mib, first[mib:][:128<<10])
	c.expectAt(other.Addresses[0], 8*mib, kept)
	c.refused(lineage.RuleCopyChanges, "b", "split-brain", "attach", "data", "--node", "c")
	c.run("c", "split-brain", "detach", "data", "--node", "b")
	if d, err := dial(other.Addresses[0]); err == nil {
		_ = d.Close()
		t.Error("a view that was detached is still there")
	}

	plan := jsonOf[api.ResolvePlan](c, "c", "split-brain", "resolve", "data", "--keep", "b", "--plan")
	if len(plan.GivenUp) != 2 || plan.GivenUp[0].Node != "a" || plan.GivenUp[0].Bytes < 192<<10 || plan.GivenUp[0].RoomBytes <= plan.GivenUp[0].Bytes ||
		!inRuns(plan.GivenUp[0].Runs, mib, 128<<10) || !inRuns(plan.GivenUp[0].Runs, 8*mib, 64<<10) || plan.GivenUp[1].Bytes != 0 {
		t.Errorf("planned: %+v", plan)
	}
	c.waitState("b", "a", "SplitBrain")
	c.run("c", "split-brain", "resolve", "data", "--keep", "b", "--yes")
	c.waitMirroring("b", "a", "c")
	c.expect("b", 8*mib, kept)
	c.same("a", "b", "c")
	if v, err := c.volume("a"); err != nil || len(v.Views) != 0 {
		t.Errorf("views of a copy that changes: %+v, %v", v, err)
	}
	c.refused(lineage.RuleNoSplitBrain, "b", "split-brain", "resolve", "data", "--keep", "b", "--yes")

	salvages := jsonOf[[]api.Salvage](c, "b", "salvage", "list", "data")
	if len(salvages) != 1 || salvages[0].Node != "a" || salvages[0].Bytes != int64(len(alone)+len(aloneToo)) {
		t.Fatalf("salvages: %+v", salvages)
	}
	c.recover(salvages[0].ID, alone, aloneToo, kept)
}

// recover uses the salvage that a keeps: alone was at 1 MiB, aloneToo at 8 MiB, where the volume has kept now.
func (c *cluster) recover(id string, alone, aloneToo, kept []byte) {
	c.t.Helper()
	dir := folder(c.t) + "/out"
	c.run("b", "salvage", "export", "data", id, "--dir", dir)
	if err := exported(dir, map[int64][]byte{mib: alone, 8 * mib: aloneToo}); err != nil {
		c.t.Error(err)
	}

	view := jsonOf[api.View](c, "c", "salvage", "attach", "data", id)
	c.expectAt(view.Addresses[0], mib, alone)
	c.expectAt(view.Addresses[0], 8*mib, aloneToo)
	if mapped := sh(c.t, "nbdinfo", "--map=base:allocation", "--totals", view.Addresses[0]); !strings.Contains(mapped, "196608") {
		c.t.Errorf("extents of the view: %s", mapped)
	}
	image := dir + "/view.img"
	sh(c.t, "nbdcopy", view.Addresses[0], image)
	sh(c.t, "qemu-img", "compare", "-f", "raw", "-F", "raw", view.Addresses[0], image)
	c.refused("in-use", "c", "salvage", "delete", "data", id, "--yes")
	c.refused(lineage.RuleCopyChanges, "c", "salvage", "attach", "data", id, "--over")
	c.run("b", "salvage", "detach", "data", id)

	first := fmt.Sprintf("%d:%d", mib, len(alone))
	asked := jsonOf[api.SalvageResult](c, "c", "salvage", "apply", "data", id, "--plan")
	if asked.Source != "b" || asked.Bytes != int64(len(alone)+len(aloneToo)) || len(asked.Runs) != 2 {
		c.t.Errorf("planned: %+v", asked)
	}
	c.expect("b", 8*mib, kept)
	for _, beyond := range []string{"40MiB:64KiB", "64MiB:64KiB", "63MiB:2MiB"} {
		c.refused(lineage.RuleOutsideRange, "c", "salvage", "apply", "data", id, "--range", beyond, "--yes")
	}
	c.run("c", "salvage", "apply", "data", id, "--range", first, "--yes")
	c.expect("b", mib, alone)
	c.expect("b", 8*mib, kept)
	if asked = jsonOf[api.SalvageResult](c, "a", "salvage", "apply", "data", id, "--plan"); asked.Equal != int64(len(alone)) || asked.Bytes != int64(len(aloneToo)) {
		c.t.Errorf("planned again: %+v", asked)
	}
	c.waitMirroring("b", "a", "c")
	c.same("a", "b", "c")
	c.kill("b")
	c.wait("nothing can be written without a source", 30*time.Second, func() error {
		r := c.execute("c", "salvage", "apply", "data", id, "--yes")
		if r.code != exitRefused || !strings.Contains(r.stderr, lineage.RuleNoSource) {
			return fmt.Errorf("exit %d: %s", r.code, r.stderr)
		}
		return nil
	})
	c.start("b")
	c.waitMirroring("b", "a", "c")
	c.run("b", "salvage", "delete", "data", id, "--yes")
	if left := jsonOf[[]api.Salvage](c, "c", "salvage", "list", "data"); len(left) != 0 {
		c.t.Errorf("left: %+v", left)
	}
}

// inRuns reports whether the ranges have all of that one.
func inRuns(runs []api.Run, off, n int64) bool {
	for _, r := range runs {
		if r.Offset <= off && off+n <= r.Offset+r.Length {
			return true
		}
	}
	return false
}

var errContent = errors.New("the exported content is another")

// TestResolveSettlesFollowers: one resolve for the old side is enough, although two servers are on the new one. Each keeps what it gives
// up in a salvage, and the plan has said so of each.
func TestResolveSettlesFollowers(t *testing.T) {
	c := demo(t, "64MiB")
	c.writeAt("a", 0, 4*mib, 1)
	c.kill("b")
	c.kill("c")
	alone := c.writeAt("a", mib, 128<<10, 2)
	c.kill("a")
	c.start("b")
	c.start("c")
	c.wait("b takes over", 30*time.Second, func() error { return c.execute("c", "switchover", "data", "--to", "b", "--force", "--yes").err() })
	c.waitMirroring("b", "c")
	given := c.writeAt("b", 8*mib, 64<<10, 3)
	c.start("a")
	c.waitState("b", "a", "SplitBrain")
	plan := jsonOf[api.ResolvePlan](c, "b", "split-brain", "resolve", "data", "--keep", "a", "--plan")
	for _, g := range plan.GivenUp {
		if g.Bytes < int64(len(given)) || !inRuns(g.Runs, 8*mib, int64(len(given))) {
			t.Errorf("planned for %s: %+v", g.Node, g)
		}
	}
	if len(plan.GivenUp) != 2 {
		t.Errorf("planned: %+v", plan)
	}
	c.run("c", "split-brain", "resolve", "data", "--keep", "a", "--yes")
	c.waitMirroring("a", "b", "c")
	c.expect("a", mib, alone)
	c.same()
	salvages := jsonOf[[]api.Salvage](c, "a", "salvage", "list", "data")
	if len(salvages) != 2 || salvages[0].Node == salvages[1].Node {
		t.Fatalf("salvages: %+v", salvages)
	}
	for _, s := range salvages {
		dir := folder(t) + "/out"
		c.run(s.Node, "salvage", "export", "data", s.ID, "--dir", dir)
		// What was unknown after the kill and differs may be in it as well, as it was before the parting.
		if got, err := os.ReadFile(fmt.Sprintf("%s/%016d.raw", dir, 8*mib)); err != nil || !bytes.Equal(got, given) {
			t.Errorf("salvage of %s has %d bytes of what was written there: %v", s.Node, len(got), err)
		}
	}
}
