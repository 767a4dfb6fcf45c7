package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"keelson/internal/api"
)

// configureVolume gives every server a folder for the volume, and more, in its configuration, and starts the agents anew with it.
func (c *cluster) configureVolume(lines ...string) {
	c.t.Helper()
	for _, node := range c.nodes {
		c.stop(node)
		text := fmt.Sprintf("[[volume]]\nname = %q\nmount = %q\n%s\n", c.name, c.mountPoint(node), strings.Join(lines, "\n"))
		c.edit(node, "[log]", text+"[log]")
	}
	for _, node := range c.nodes {
		c.launch(node)
	}
	c.waitMirroring("a", "b", "c")
}

// mountPoint is where the node mounts the volume.
func (c *cluster) mountPoint(node string) string { return c.path(node, "mnt") }

// mountOf is what the node's status says of its mount.
func (c *cluster) mountOf(node string) api.MountStatus {
	c.t.Helper()
	v, err := c.volume(node)
	if err != nil || v.Attach == nil || v.Attach.Mount == nil {
		c.t.Fatalf("%s shows no mount: %+v, %v", node, v, err)
	}
	return *v.Attach.Mount
}

// mountedAlone checks that the volume is mounted at that server, and at no other.
func (c *cluster) mountedAlone(node string) {
	c.t.Helper()
	if got := c.mounts(); len(got) != 1 || got[0] != c.mountPoint(node) {
		c.t.Errorf("mounted are %v, not only %s", got, c.mountPoint(node))
	}
	if m := c.mountOf(node); m.State != "mounted" {
		c.t.Errorf("%s shows %+v", node, m)
	}
}

// said reports whether the node has an event with all of these words.
func (c *cluster) said(node string, words ...string) error {
	events, err := c.events(node)
	if err != nil {
		return err
	}
	for _, e := range events {
		text, has := e.Level+" "+e.Message+" "+e.Next, true
		for _, w := range words {
			has = has && strings.Contains(text, w)
		}
		if has {
			return nil
		}
	}
	return fmt.Errorf("none of %d events of %s has %q", len(events), node, words)
}

// sitIn starts a process that stands in the folder.
func sitIn(t *testing.T, dir string) (pid string, leave func()) {
	t.Helper()
	busy := exec.Command("sleep", "600")
	busy.Dir = dir
	if err := busy.Start(); err != nil {
		t.Fatal(err)
	}
	return strconv.Itoa(busy.Process.Pid), func() {
		_ = busy.Process.Kill() // it may be gone
		_ = busy.Wait()
	}
}

// The file system that the configuration names follows the source: it is mounted wherever the volume is source, unmounted in
// order when it goes away, and a process that is in it keeps it there. When an agent was killed the dead file system is taken away.
func TestMountFollowsTheSource(t *testing.T) {
	c := demo(t, "64MiB")
	c.guard()
	c.configureVolume(`mount-options = "noatime"`)
	if r := c.execute("a", "volume", "attach", c.name); r.code != exitDone || !strings.Contains(r.stderr, c.mountPoint("a")+" failed: ") {
		t.Errorf("attach without a file system: exit %d: %s", r.code, r.stderr)
	}
	if err := c.said("a", "error", "is not mounted at "+c.mountPoint("a"), "keelson volume attach "+c.name); err != nil {
		t.Error(err)
	}
	sh(t, "mkfs.ext4", "-q", "-F", c.attached("a"))
	c.run("a", "volume", "attach", c.name)
	c.mountedAlone("a")
	if text := string(must(os.ReadFile("/proc/self/mountinfo"))); !strings.Contains(text, " "+c.mountPoint("a")+" rw,noatime") {
		t.Error("it is not mounted with the options of the configuration")
	}
	writeFiles(t, c.mountPoint("a"), 5)

	// Somebody uses it: nothing changes.
	pid, leave := sitIn(t, c.mountPoint("a"))
	for _, more := range [][]string{{}, {"--plan"}} {
		r := c.execute("a", append([]string{"switchover", c.name, "--to", "b", "--yes"}, more...)...)
		if r.code != exitRefused || !strings.Contains(r.stderr, pid) {
			t.Errorf("with a process inside %v: exit %d: %s", more, r.code, r.stderr)
		}
	}
	c.refused("in-use", "a", "volume", "detach", c.name)
	leave()
	other := filepath.Join(c.dir, "other")
	must(0, os.Mkdir(other, 0o755))
	sh(t, "mount", c.attached("a"), other)
	c.refused("in-use", "a", "switchover", c.name, "--to", "b", "--yes")
	sh(t, "umount", other)
	c.mountedAlone("a")

	if err := os.WriteFile(filepath.Join(c.mountPoint("a"), "unsynced"), []byte("in the cache"), 0o644); err != nil {
		t.Fatal(err)
	}
	want := treeOf(t, c.mountPoint("a"))
	if plan := c.run("a", "switchover", c.name, "--to", "b", "--plan"); !strings.Contains(plan, c.mountPoint("a")+" is unmounted") {
		t.Errorf("the plan does not say what is unmounted: %s", plan)
	}
	c.waitMirroring("a", "b")
	if r := c.execute("a", "switchover", c.name, "--to", "b", "--yes"); r.code != exitDone || !strings.Contains(r.stderr, c.mountPoint("b")+" is mounted at b") {
		t.Fatalf("switchover: exit %d: %s", r.code, r.stderr)
	}
	c.mountedAlone("b")
	if bad := want.differences(treeOf(t, c.mountPoint("b"))); len(bad) > 0 {
		t.Errorf("at b these files differ: %v", bad)
	}

	// The agent is killed: the dead file system goes, although a process is in it, and the volume is mounted again.
	pid, leave = sitIn(t, c.mountPoint("b"))
	c.kill("b")
	c.start("b")
	c.wait("b has it mounted again", settleMax, func() error {
		if m := c.mountOf("b"); m.State != "mounted" {
			return fmt.Errorf("%+v", m)
		}
		return nil
	})
	if err := c.said("b", "warning", c.mountPoint("b")+" was unmounted although it is in use", "end process "+pid); err != nil {
		t.Error(err)
	}
	leave()
	c.mountedAlone("b")
	if bad := want.differences(treeOf(t, c.mountPoint("b"))); len(bad) > 0 {
		t.Errorf("at b, killed, these files differ: %v", bad)
	}

	// What cannot be mounted does not stop the switchover.
	c.waitMirroring("b", "c")
	if err := os.WriteFile(c.mountPoint("c"), []byte("in the way"), 0o644); err != nil {
		t.Fatal(err)
	}
	if r := c.execute("b", "switchover", c.name, "--to", "c", "--yes"); r.code != exitDone || !strings.Contains(r.stderr, c.mountPoint("c")+" is not mounted at c") {
		t.Fatalf("switchover to a server that cannot mount: exit %d: %s", r.code, r.stderr)
	}
	if m := c.mountOf("c"); m.State != "failed" || !strings.Contains(m.Next, "keelson volume attach "+c.name) {
		t.Errorf("c shows %+v", m)
	}
	must(0, os.Remove(c.mountPoint("c")))
	c.run("c", "volume", "attach", c.name)
	c.mountedAlone("c")

	c.stop("c")
	if got := c.mounts(); len(got) != 0 {
		t.Errorf("the agent of c has ended, and mounted are %v", got)
	}
}
