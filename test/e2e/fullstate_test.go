package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// smallState gives a node a file system of 8 MiB of its own for its state, before its agent is started. fill leaves no page
// of it; empty gives it back.
func (c *cluster) smallState(node string) (fill, empty func()) {
	c.t.Helper()
	dir := filepath.Join(c.dir, "small-"+node)
	if err := os.Mkdir(dir, 0o755); err != nil {
		c.t.Fatal(err)
	}
	sh(c.t, "mount", "-t", "tmpfs", "-o", "size=8m", "keelson-e2e", dir)
	c.t.Cleanup(func() { sh(c.t, "umount", "--lazy", dir) }) // before the agents' end, so it has to be lazy
	c.edit(node, `state = "."`, fmt.Sprintf("state = %q", dir))
	if err := os.Symlink(filepath.Join(dir, "agent.pid"), c.path(node, "agent.pid")); err != nil {
		c.t.Fatal(err)
	}
	filler := filepath.Join(dir, "filler")
	fill = func() {
		c.t.Helper()
		f, err := os.Create(filler)
		if err != nil {
			c.t.Fatal(err)
		}
		defer f.Close()
		for err == nil {
			_, err = f.Write(make([]byte, 4096))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			c.t.Fatal(err)
		}
	}
	empty = func() {
		c.t.Helper()
		if err := os.Remove(filler); err != nil {
			c.t.Fatal(err)
		}
	}
	return fill, empty
}

// TestStateDiskIsFull: the file system under the state of a server, intent log and undo log included, has no room. A target in
// mid-resync gives its way back up and says why. At a source each write is answered (what it needs of the intent log has its
// room since the volume was made), and then kept though the agent is killed, or refused as without room. With room everything goes on by itself, without a full copy.
func TestStateDiskIsFull(t *testing.T) {
	c := &cluster{t: t, dir: folder(t), nodes: []string{"a", "b"}, name: "data"}
	t.Cleanup(c.close)
	c.configure(`retry-max = "500ms"`)
	fillA, emptyA := c.smallState("a")
	fillB, emptyB := c.smallState("b")
	c.start("a")
	c.start("b")
	c.run("a", "volume", "create", c.name, "--source", "a:"+c.image("a"), "--target", "b:"+c.image("b"), "--size", "64MiB")
	c.waitMirroring("a", "b")
	c.writeAt("a", 0, 16*mib, 1)
	c.run("a", "mirror", "pause", c.name, "--target", "b")
	c.run("a", "mirror", "set", c.name, "--target", "b", "--resync-rate", "1MiB")
	c.writeAt("a", 0, 16*mib, 2)
	fillB()
	c.run("a", "mirror", "continue", c.name, "--target", "b")
	c.wait("b's undo log has no room, and a says so", settleMax, func() error {
		m, err := c.mirror("a", "b")
		if err == nil && (m.Promotable || !strings.Contains(m.NotPromotable, "no space")) {
			err = fmt.Errorf("%s: promotable %t: %s (%s)", m.State, m.Promotable, m.NotPromotable, m.Reason)
		}
		return err
	})
	if v, err := c.volume("b"); err != nil || v.Undo == nil || v.Undo.State != "given-up" || !strings.Contains(v.Undo.Reason, "no space") {
		t.Errorf("undo log of b: %+v, %v", v.Undo, err)
	}
	emptyB()
	c.run("a", "mirror", "set", c.name, "--target", "b", "--resync-rate", "0")
	c.waitMirroring("a", "b")

	fillA()
	d, err := dial(must(c.address("a")))
	if err != nil {
		t.Fatal(err)
	}
	answered := map[int64][]byte{}
	for off := int64(0); off < 64*mib; off += mib {
		p := bytes.Repeat([]byte{byte(off / mib), 77}, 2048)
		switch _, err := d.WriteAt(p, off); {
		case err == nil:
			answered[off] = p
		case !strings.Contains(err.Error(), "ENOSPC"):
			t.Errorf("a write without room: %v", err)
		}
	}
	d.Close()
	t.Logf("%d of 64 writes needed no room", len(answered))
	c.kill("a")
	emptyA()
	c.start("a")
	c.wait("a serves", settleMax, func() error { return c.mirroring("a") })
	for off, p := range answered {
		c.expect("a", off, p)
	}
	c.writeAt("a", 0, mib, 3)
	c.waitMirroring("a", "b")
	c.noResyncOfKind("full")
	c.same()
}
