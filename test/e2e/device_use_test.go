package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A switchover unmounts, or freezes, what is mounted from the device, if asked to: everything written is at the new source,
// also what nobody had synced. One that is refused, or given up, leaves everything mounted and writable.
func TestSwitchoverReleasesTheDevice(t *testing.T) {
	c := demo(t, "64MiB")
	c.guard()
	c.run("a", "volume", "attach", c.name)
	dir := filepath.Join(c.dir, "mnt")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	sh(t, "mkfs.ext4", "-q", "-F", c.attached("a"))
	sh(t, "mount", c.attached("a"), dir)
	file := func(name string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.Repeat(name, 10000)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	file("one")
	busy := exec.Command("sleep", "600")
	busy.Dir = dir
	if err := busy.Start(); err != nil {
		t.Fatal(err)
	}
	r := c.execute("a", "switchover", c.name, "--to", "b", "--yes", "--unmount")
	if r.code != exitRefused || !strings.Contains(r.stderr, strconv.Itoa(busy.Process.Pid)) {
		t.Errorf("with a process inside: exit %d: %s", r.code, r.stderr)
	}
	file("two") // nothing was changed
	_ = busy.Process.Kill()
	_ = busy.Wait()
	if plan := c.run("a", "switchover", c.name, "--to", "b", "--plan", "--unmount"); !strings.Contains(plan, dir+" is unmounted") {
		t.Errorf("the plan does not say what is unmounted: %s", plan)
	}
	c.run("a", "switchover", c.name, "--to", "b", "--yes", "--unmount")
	sh(t, "mount", c.attached("b"), dir)
	want := treeOf(t, dir)
	if len(want) != 2 {
		t.Errorf("at b there are %d files", len(want))
	}
	c.waitMirroring("b", "a", "c")

	thaw := c.freeze("c")
	if r := c.execute("b", "switchover", c.name, "--to", "c", "--yes", "--freeze", "--timeout", "20s"); r.code == exitDone {
		t.Error("a switchover to a server that hangs was done")
	}
	file("three") // it is not frozen any more
	thaw()
	c.wait("b mirrors to c again", settleMax, func() error { return c.mirroring("b", "a", "c") })
	file("four") // in the cache only
	want = treeOf(t, dir)
	c.run("b", "switchover", c.name, "--to", "c", "--yes", "--freeze")
	if left := c.mounts(); len(left) > 0 {
		t.Errorf("still mounted: %v", left)
	}
	sh(t, "e2fsck", "-fn", c.attached("c"))
	sh(t, "mount", c.attached("c"), dir)
	if bad := want.differences(treeOf(t, dir)); len(bad) > 0 {
		t.Errorf("at c these files differ: %v", bad)
	}
	sh(t, "umount", dir)
	c.waitMirroring("c", "a", "b")
	c.same()
}

// A source that was believed dead, and was not, tears its device down when it learns that another took over: what is mounted
// gets errors, an event says so, nothing hangs, and the dead device goes when it is unmounted. What the agent mounted itself it
// takes away, also from under a process.
func TestDeviceIsTornDownWhenTheRoleIsLost(t *testing.T) {
	c := demo(t, "64MiB")
	c.guard()
	c.stop("a")
	c.edit("a", "[log]", fmt.Sprintf("[[volume]]\nname = %q\nmount = %q\n[log]", c.name, c.mountPoint("a")))
	c.start("a")
	c.waitMirroring("a", "b", "c")
	c.run("a", "volume", "attach", c.name)
	device := must(c.blockDevice("a")).Address
	dir := filepath.Join(c.dir, "mnt")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	sh(t, "mkfs.ext4", "-q", "-F", c.attached("a"))
	c.run("a", "volume", "attach", c.name) // mounts it at its own folder
	sh(t, "mount", c.attached("a"), dir)
	pid, leave := sitIn(t, c.mountPoint("a"))
	defer leave()
	writeFiles(t, dir, 5)
	want := treeOf(t, dir)
	thaw := c.freeze("a")
	c.wait("b takes over", settleMax, func() error {
		return c.execute("b", "switchover", c.name, "--to", "b", "--force", "--yes", "--timeout", "6s").err()
	})
	unwritten := make(chan error, 1)
	go func() { // waits for the agent that is frozen
		unwritten <- os.WriteFile(filepath.Join(dir, "unwritten"), []byte("in a's cache only"), 0o644)
	}()
	thaw()
	c.wait("a steps down", settleMax, func() error {
		v, err := c.volume("a")
		if err != nil {
			return err
		}
		if v.Role == "source" {
			_ = c.execute("b", "split-brain", "resolve", c.name, "--keep", "b", "--yes")
			return fmt.Errorf("it is source and %s", v.State)
		}
		return nil
	})
	c.wait("an event says what holds the dead device", settleMax, func() error {
		events, err := c.events("a")
		if err != nil {
			return err
		}
		for _, e := range events {
			if e.Level == "warning" && strings.Contains(e.Message, device) && strings.Contains(e.Message, dir) && strings.Contains(e.Next, "umount "+dir) {
				return nil
			}
		}
		return fmt.Errorf("none of %d", len(events))
	})
	if err := c.said("a", "warning", c.mountPoint("a")+" was unmounted although it is in use", "end process "+pid); err != nil {
		t.Error(err)
	}
	if got := c.mounts(); len(got) != 1 || got[0] != dir {
		t.Errorf("mounted are %v, not only %s", got, dir)
	}
	leave()
	if _, err := os.Lstat(c.attached("a")); !os.IsNotExist(err) {
		t.Errorf("the name is there still: %v", err)
	}
	written := make(chan error, 1)
	go func() {
		written <- exec.Command("dd", "if=/dev/zero", "of="+filepath.Join(dir, "late"), "bs=1M", "count=1", "conv=fsync").Run()
	}()
	select {
	case err := <-written:
		if err == nil {
			t.Error("a write to the dead device was synced")
		}
	case <-time.After(30 * time.Second):
		t.Error("a write to the dead device hangs")
	}
	<-unwritten
	sh(t, "umount", dir)
	c.wait("the dead loop device goes", settleMax, func() error {
		text, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(device), "loop/backing_file"))
		if err == nil && strings.HasPrefix(string(text), c.dir) {
			return fmt.Errorf("it is on %s", text)
		}
		return nil
	})
	sh(t, "mount", c.attached("b"), dir)
	got := treeOf(t, dir)
	delete(got, "/unwritten")
	if bad := want.differences(got); len(bad) > 0 {
		t.Errorf("at b these files differ: %v", bad)
	}
	sh(t, "umount", dir)
	c.waitMirroring("b", "a", "c")
	c.same()
}
