package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// TestFrozenAndTheHeirIsGone: the heir dies when the role is handed over to it, durably. What was frozen for the switchover is let go at
// the old source all the same, and does not wait for the heir's return: whoever writes to a frozen file system cannot even be killed.
func TestFrozenAndTheHeirIsGone(t *testing.T) {
	c := demo(t, "64MiB")
	c.guard()
	c.run("a", "volume", "attach", c.name)
	dir := filepath.Join(c.dir, "mnt")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	sh(t, "mkfs.ext4", "-q", "-F", c.attached("a"))
	sh(t, "mount", c.attached("a"), dir)
	writeFiles(t, dir, 3)
	want := treeOf(t, dir)
	c.stop("b")
	c.start("b", "KEELSON_CRASH_AT=heir-before-save")
	c.waitMirroring("a", "b", "c")
	if r := c.execute("a", "switchover", c.name, "--to", "b", "--yes", "--freeze", "--timeout", "5s"); r.code == exitDone {
		t.Fatal("a switchover to a server that died was done")
	}
	c.wait("the file system is let go", settleMax, func() error {
		if left := c.mounts(); len(left) > 0 {
			return fmt.Errorf("still mounted: %v", left)
		}
		return nil
	})
	c.start("b")
	c.waitMirroring("b", "a", "c")
	sh(t, "mount", c.attached("b"), dir)
	if bad := want.differences(treeOf(t, dir)); len(bad) > 0 {
		t.Errorf("at b these files differ: %v", bad)
	}
	sh(t, "umount", dir)
}
