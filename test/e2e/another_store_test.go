package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"keelson/internal/lineage"
)

// TestSourceOnAnotherStore: the file under the source is put back to an older copy while its agent is stopped. The source does not open,
// and overwrites nobody; a target takes over with everything that was answered. If an administrator wants the older content he
// gets it, and what the targets give up for it is in salvages.
func TestSourceOnAnotherStore(t *testing.T) {
	c := demo(t, "64MiB")
	c.writeAt("a", 0, 8*mib, 1)
	putBack := func(source string, then func()) {
		t.Helper()
		c.stop(source)
		older := must(os.ReadFile(c.image(source)))
		c.start(source)
		c.waitOneSource()
		then()
		c.stop(source)
		if err := os.WriteFile(c.image(source), older, 0o600); err != nil { // in place
			t.Fatal(err)
		}
		c.start(source)
		c.wait(source+" says that it is not what it left", settleMax, func() error {
			if said := c.run(source, "events"); strings.Count(said, lineage.RuleForeignStore) == 0 {
				return fmt.Errorf("its events are %s", said)
			}
			return nil
		})
	}
	var written []byte
	putBack("a", func() { written = c.writeAt("a", 0, 8*mib, 2) })
	c.run("b", "switchover", c.name, "--to", "b", "--force", "--yes")
	c.waitMirroring("b", "a", "c")
	c.expect("b", 0, written)
	c.same("a", "b", "c")

	older := written
	putBack("b", func() { c.writeAt("b", 0, 8*mib, 3) })
	c.run("b", "switchover", c.name, "--to", "b", "--force", "--yes")
	c.waitMirroring("b", "a", "c")
	c.expect("b", 0, older)
	c.same("a", "b", "c")
	for _, node := range []string{"a", "c"} {
		if said := c.run(node, "salvage", "list", c.name); !strings.Contains(said, "8.0 MiB") {
			t.Errorf("%s keeps nothing of what it gave up: %s", node, said)
		}
	}

	// All that b has, and remembers, is put back: then its peers know better.
	c.stop("b")
	saved := t.TempDir()
	sh(t, "cp", "-a", c.path("b", "volumes"), c.image("b"), saved)
	c.start("b")
	c.waitOneSource()
	written = c.writeAt("b", 0, 8*mib, 4)
	c.stop("b")
	sh(t, "rm", "-r", c.path("b", "volumes"))
	sh(t, "cp", "-a", saved+"/volumes", saved+"/data.img", c.path("b", ""))
	c.start("b")
	c.wait("b says that it was put back", settleMax, func() error {
		if said := c.run("b", "events"); strings.Count(said, "(rule "+lineage.RuleReverted+")") == 0 {
			return fmt.Errorf("its events are %s", said)
		}
		return nil
	})
	c.run("b", "switchover", c.name, "--to", "a", "--force", "--yes")
	c.waitMirroring("a", "b", "c")
	c.expect("a", 0, written)
	c.same("a", "b", "c")
}
