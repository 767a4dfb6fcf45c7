package e2e

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"keelson/internal/api"
	"keelson/internal/lineage"
)

// holding is a demo whose volume has hold-old-copies.
func holding(t *testing.T) *cluster {
	c := demo(t, "64MiB")
	c.run("c", "volume", "set", c.name, "--hold-old-copies", "on")
	return c
}

// imageSum is what the file of a copy holds, as a number.
func (c *cluster) imageSum(node string) [sha256.Size]byte {
	c.t.Helper()
	return sha256.Sum256(must(os.ReadFile(c.image(node))))
}

// held waits until those servers, asked themselves, say that their copies are kept for the source, and what to do.
func (c *cluster) held(source string, nodes ...string) {
	c.t.Helper()
	reason := "kept as it was until the new source " + source + " is accepted"
	for _, node := range nodes {
		c.wait("the copy of "+node+" is held", settleMax, func() error {
			v, err := c.volume(node)
			if err != nil {
				return err
			}
			m := mirrorTo(v, node)
			if v.Role != "target" || v.Source != source || v.Rule != lineage.RuleHeld || v.Reason != reason || len(v.Held) == 0 ||
				m == nil || m.State != "Paused" || m.Rule != lineage.RuleHeld || m.Reason != reason {
				return fmt.Errorf("%+v", v)
			}
			return nil
		})
		if text := c.run(node, "status"); !strings.Contains(text, "keelson volume accept "+c.name) {
			c.t.Errorf("%s does not say what to do:\n%s", node, text)
		}
		if m := c.waitState(source, node, "Paused"); m.Rule != lineage.RuleHeld || m.Reason != reason {
			c.t.Errorf("the mirror to %s: %+v", node, m)
		}
	}
}

// TestOldCopiesAreHeldUntilAccepted: with hold-old-copies a take-over by force leaves the other copies as they were, byte for byte, also that
// of the old source when it comes back and whoever is restarted, until the new source is accepted, at any agent.
func TestOldCopiesAreHeldUntilAccepted(t *testing.T) {
	c := holding(t)
	c.refused(lineage.RuleBadSetting, "a", "volume", "set", c.name, "--min-copies", "2")
	c.run("a", "volume", "set", c.name, "--hold-old-copies", "off")
	c.run("a", "volume", "set", c.name, "--min-copies", "2")
	c.refused(lineage.RuleBadSetting, "b", "volume", "set", c.name, "--hold-old-copies", "on")
	c.run("a", "volume", "set", c.name, "--min-copies", "1", "--hold-old-copies", "on")
	c.writeAt("a", 0, mib, 1)
	c.kill("a")
	c.takeOver("c", "b")
	c.held("b", "c")
	before := map[string][sha256.Size]byte{"a": c.imageSum("a"), "c": c.imageSum("c")}
	want := c.writeAt("b", 0, mib, 2)
	c.start("a")
	c.held("b", "a", "c")

	for _, node := range []string{"b", "a"} { // who is restarted has not forgotten it
		c.kill(node)
		c.start(node)
		c.wait("b serves", settleMax, func() error {
			if source, err := c.oneSource(); err != nil || source != "b" {
				return fmt.Errorf("%s is the source, %w", source, err)
			}
			return nil
		})
		c.held("b", "a", "c")
	}
	c.expect("b", 0, want)
	for _, asked := range []string{"a", "b", "c"} {
		c.refused(lineage.RuleHeld, asked, "switchover", c.name, "--to", "a", "--yes")
	}
	for node, sum := range before {
		if c.imageSum(node) != sum {
			t.Errorf("the copy of %s is not as it was", node)
		}
	}

	c.run("a", "volume", "accept", c.name)
	c.waitMirroring("b", "a", "c")
	c.expect("b", 0, want)
	c.same()
	if v, err := c.volume("c"); err != nil || len(v.Held) != 0 || v.Reason != "" || !v.HoldOldCopies {
		t.Errorf("accepted: %+v, %v", v, err)
	}
	c.run("c", "volume", "accept", c.name) // once more does nothing
	c.run("a", "switchover", c.name, "--to", "a", "--yes")
	c.waitMirroring("a", "b", "c")
}

// TestWayBackToAHeldCopy: the new source is no good. It is stopped, and the old one takes over again, with what it had when it died. What the
// new source wrote is in a salvage in the end.
func TestWayBackToAHeldCopy(t *testing.T) {
	c := holding(t)
	old := c.writeAt("a", 0, mib, 1)
	c.kill("a")
	sum := c.imageSum("a")
	c.takeOver("b", "b")
	bad := c.writeAt("b", 0, mib, 2)
	c.start("a")
	c.held("b", "a", "c")
	c.refused(lineage.RuleHeld, "a", "switchover", c.name, "--to", "a", "--force", "--yes")
	c.stop("b")
	c.takeOver("a", "a")
	if c.imageSum("a") != sum {
		t.Error("the copy of a is not as it was when it died")
	}
	c.expect("a", 0, old)
	c.held("a", "c")
	late := c.writeAt("a", 8*mib, mib, 3)
	c.start("b")
	c.waitState("a", "b", "SplitBrain")
	c.wait("b shows the split brain", settleMax, func() error {
		v, err := c.volume("b")
		if err == nil && (v.Rule != lineage.RuleSplitBrain || len(v.Devices) != 0) {
			err = fmt.Errorf("%+v", v)
		}
		return err
	})
	c.run("c", "split-brain", "resolve", c.name, "--keep", "a", "--yes")
	c.waitMirroring("a", "b", "c") // to choose a side is to accept it
	c.expect("a", 0, old)
	c.expect("a", 8*mib, late)
	c.same()
	kept, err := c.salvages("b")
	if err != nil || len(kept) != 1 || kept[0].Node != "b" {
		t.Fatalf("salvages: %+v, %v", kept, err)
	}
	view := jsonOf[api.View](c, "c", "salvage", "attach", c.name, kept[0].ID)
	c.expectAt(view.Addresses[0], 0, bad)
}

// TestHeldTakesNothingFromAnother: a take-over that would first have to take from another survivor what it lacks copies nothing before that one is
// accepted: it is refused, and says what to do.
func TestHeldTakesNothingFromAnother(t *testing.T) {
	c := holding(t)
	c.kill("c")
	want := c.writeAt("a", 0, mib, 1) // c lacks it
	c.kill("a")
	c.start("c")
	before := c.imageSum("c")
	c.wait("c hears of b", settleMax, func() error {
		r := c.execute("c", "switchover", c.name, "--to", "c", "--force", "--plan")
		if r.code != exitRefused || !strings.Contains(r.stderr, lineage.RuleBehindSurvivor) || !strings.Contains(r.stderr, "hold-old-copies") {
			return errors.New(r.stdout + r.stderr)
		}
		return nil
	})
	c.refused(lineage.RuleBehindSurvivor, "b", "switchover", c.name, "--to", "c", "--force", "--yes")
	if c.imageSum("c") != before {
		t.Error("the copy of c is not as it was")
	}
	c.takeOver("b", "b") // the way that the refusal names
	c.run("b", "volume", "accept", c.name)
	c.waitState("b", "c", "Mirroring")
	c.run("b", "switchover", c.name, "--to", "c", "--yes")
	c.expect("c", 0, want)
}
