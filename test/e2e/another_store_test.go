package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
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

// TestCloneOfASource: the machine of a source is cloned while it runs, and the clone is started beside it. It does not open, and
// takes no target away from the source that serves.
func TestCloneOfASource(t *testing.T) {
	c := demo(t, "64MiB")
	c.writeAt("a", 0, mib, 1)
	clone := filepath.Join(t.TempDir(), "a")
	sh(t, "cp", "-a", c.path("a", ""), clone)
	config := filepath.Join(clone, "keelson.toml")
	text := string(must(os.ReadFile(config)))
	for _, old := range regexp.MustCompile(`(?m)^\[(listen|web)\]\n(?:#.*\n)*address = "([^"]+)"`).FindAllStringSubmatch(text, -1) {
		text = strings.Replace(text, old[0], strings.Replace(old[0], old[2], freeAddress(t), 1), 1)
	}
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	sh(t, "sh", "-c", "rm -f "+clone+"/*.sock "+clone+"/agent.pid")
	written := c.writeAt("a", 0, 2*mib, 2)
	twin := exec.Command("unshare", "--mount", "sh", "-c", `mount --bind "$1" "$2" && exec "$3" agent --config "$2/keelson.toml"`, "sh", clone, c.path("a", ""), keelson)
	if err := twin.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = twin.Process.Signal(syscall.SIGTERM)
		_ = twin.Wait()
	}()
	c.wait("the clone says what it is", settleMax, func() error {
		cmd := exec.Command(keelson, "status", "--socket", filepath.Join(clone, "agent.sock"))
		out, err := cmd.CombinedOutput()
		if err == nil && !strings.Contains(string(out), "connected to another process that is a") {
			err = fmt.Errorf("it says %s", out)
		}
		return err
	})
	c.expect("a", 0, written)
	c.writeAt("a", 8*mib, mib, 3)
	if err := c.mirroring("a", "b", "c"); err != nil {
		t.Errorf("the source lost a target to its clone: %v", err)
	}
	c.same("a", "b", "c")
}
