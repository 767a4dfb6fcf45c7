package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"keelson/internal/lineage"
)

var errOpen = errors.New("it offers the volume")

// closed waits until the node shows that it was the source and stays closed by that rule, and offers nothing.
func (c *cluster) closed(node string, words ...string) {
	c.t.Helper()
	c.wait(node+" stays closed", settleMax, func() error {
		v, err := c.volume(node)
		switch {
		case err != nil:
			return err
		case len(v.Devices) > 0:
			return errOpen
		case v.Role != "source" || v.State != "Closed":
			return fmt.Errorf("it is %s, %s", v.Role, v.State)
		}
		for _, word := range words {
			if !strings.Contains(v.Reason, word) {
				return fmt.Errorf("its reason does not speak of %q: %s", word, v.Reason)
			}
		}
		return nil
	})
}

// TestStartsAfterPowerCuts: who was source opens only when every member has said that nobody took over. All at once after
// a power cut, while the others are silent, and when its heir died before it returned.
func TestStartsAfterPowerCuts(t *testing.T) {
	c := byHand(t, []string{"a", "b", "c"}, `boot-wait = "1s"`, `retry-max = "500ms"`)
	c.run("a", "volume", "create", "data", "--source", "a:"+c.image("a"), "--target", "b:"+c.image("b"), "--target", "c:"+c.image("c"), "--size", "32MiB")
	c.waitMirroring("a", "b", "c")
	written := c.writeAt("a", 0, 4*mib, 1)

	// The power goes for all of them, and comes back.
	for _, node := range c.nodes {
		c.kill(node)
	}
	for _, node := range c.nodes {
		c.launch(node)
	}
	c.waitMirroring("a", "b", "c")
	if source := c.waitOneSource(); source != "a" {
		t.Fatalf("%s became the source by itself", source)
	}
	c.expect("a", 0, written)
	c.noResyncOfKind("full", "compare")

	// The others are silent: closed, told after boot-wait, until an administrator says that they did not take over.
	for _, node := range c.nodes {
		c.kill(node)
	}
	c.start("a")
	c.closed("a", "b", "c")
	c.event("a", lineage.RuleBootWait)
	c.closed("a", "b", "c")
	c.run("a", "switchover", "data", "--to", "a", "--force", "--yes")
	c.wait("a serves", settleMax, func() error { return c.mirroring("a") })
	alone := c.writeAt("a", 4*mib, mib, 2)
	c.start("b")
	c.start("c")
	c.waitMirroring("a", "b", "c")
	c.expect("a", 4*mib, alone)

	// a dies, b takes over, and dies before a returns: c knows of b, so a stays closed. Then b goes on.
	c.kill("a")
	c.wait("b takes over", settleMax, func() error { return c.execute("c", "switchover", "data", "--to", "b", "--force", "--yes").err() })
	c.waitMirroring("b", "c")
	late := c.writeAt("b", 8*mib, mib, 3)
	c.kill("b")
	c.start("a")
	c.closed("a", "newer term")
	c.event("a", lineage.RuleNewerTerm)
	c.start("b")
	c.waitMirroring("b", "a", "c")
	c.expect("b", 0, written)
	c.expect("b", 4*mib, alone)
	c.expect("b", 8*mib, late)
	c.noResyncOfKind("full", "compare")
	c.same()
}
