package e2e

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keelson/internal/api"
)

// guardAfter is how long a test with a kernel's device may take: then a process of its own ends the device, so that nothing
// on this machine hangs whatever the test found.
const guardAfter = 180 * time.Second

// guard watches over the devices of the cluster's agents until the test ends, and then sees that nothing is left of them.
func (c *cluster) guard() { c.guardFor(guardAfter) }

func (c *cluster) guardFor(limit time.Duration) {
	c.t.Helper()
	// What is unmounted here is unmounted in every copy of this machine's mounts too, such as that of a test that makes servers just now:
	// it would keep the device in use.
	sh(c.t, "mount", "--bind", c.dir, c.dir)
	sh(c.t, "mount", "--make-shared", c.dir)
	var commands strings.Builder
	for _, node := range c.nodes {
		fmt.Fprintf(&commands, "%s volume detach %s --abort --socket %s; ", keelson, c.name, c.path(node, "agent.sock"))
	}
	watch := exec.Command("sh", "-c", fmt.Sprintf("sleep %d; %s", int(limit.Seconds()), commands.String()))
	if err := watch.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { // before the agents' end
		_ = watch.Process.Kill()
		_ = watch.Wait()
		for _, m := range c.mounts() {
			_ = exec.Command("umount", "--lazy", m).Run()
		}
	})
}

// mounts are the folders below the cluster's that something is mounted on, but for the agents' own.
func (c *cluster) mounts() (points []string) {
	text := must(os.ReadFile("/proc/self/mountinfo"))
	for _, line := range strings.Split(string(text), "\n") {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], c.dir+"/") && !strings.Contains(line, "fuse.keelson") {
			points = append(points, f[4])
		}
	}
	return points
}

// attached is the stable name of the node's device.
func (c *cluster) attached(node string) string { return c.path(node, "dev/"+c.name) }

// blockDevice is the kernel's device that status shows at the node.
func (c *cluster) blockDevice(node string) (api.DeviceStatus, error) {
	v, err := c.volume(node)
	if err != nil {
		return api.DeviceStatus{}, err
	}
	for _, d := range v.Devices {
		if d.Kind != "nbd" || strings.HasPrefix(d.Address, "/dev/") {
			return d, nil
		}
	}
	return api.DeviceStatus{}, fmt.Errorf("%s shows no block device: %+v", node, v.Attach)
}

// sums are the SHA-256 sums of files in a folder.
func writeFiles(t *testing.T, dir string, count int) {
	t.Helper()
	for i := range count {
		data := make([]byte, 64<<10+i*1000)
		_, _ = rand.Read(data) // never fails
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("file-%d", i)), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	sh(t, "sync", "--file-system", dir)
}

// fileSystems are those that are tried, with how they are made and checked.
var fileSystems = []struct{ name, mkfs, check, size string }{
	{"ext4", "mkfs.ext4 -q -F", "e2fsck -fn", "64MiB"},
	{"xfs", "mkfs.xfs -q -f", "xfs_repair -n", "320MiB"},
	{"btrfs", "mkfs.btrfs -q -f", "btrfs check --readonly", "128MiB"},
}

// A file system on the attached device: it is made, mounted, written, trimmed, unmounted, switched over, and mounted at the
// other server by the same name; it survives the kill of the agent that serves it.
func TestFileSystemsOnAttachedDevice(t *testing.T) {
	for _, fs := range fileSystems {
		t.Run(fs.name, func(t *testing.T) { fileSystemMoves(t, fs.name, fs.mkfs, fs.check, fs.size) })
	}
}

func fileSystemMoves(t *testing.T, name, mkfs, check, size string) {
	c := demo(t, size)
	c.guard()
	if said := strings.TrimSpace(c.run("a", "volume", "attach", c.name)); said != c.attached("a") {
		t.Fatalf("volume attach prints %q, not %s", said, c.attached("a"))
	}
	on := func(command, node string) {
		t.Helper()
		words := append(strings.Fields(command), c.attached(node))
		sh(t, words[0], words[1:]...)
	}
	dir := filepath.Join(c.dir, "mnt")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	on(mkfs, "a")
	sh(t, "mount", c.attached("a"), dir)
	writeFiles(t, dir, 20)
	want := treeOf(t, dir)
	sh(t, "fstrim", dir)
	c.refused("in-use", "a", "switchover", c.name, "--to", "b", "--yes")
	if r := c.execute("a", "switchover", c.name, "--to", "b", "--yes"); !strings.Contains(r.stderr, dir) || !strings.Contains(r.stderr, "umount "+dir) {
		t.Errorf("the refusal does not say where it is mounted: %s", r.stderr)
	}
	c.refused("in-use", "a", "volume", "detach", c.name)
	c.refused("in-use", "a", "volume", "delete", c.name)
	sh(t, "umount", dir)
	on(check, "a")
	c.waitMirroring("a", "b")
	c.run("a", "switchover", c.name, "--to", "b", "--yes")
	if _, err := os.Lstat(c.attached("a")); !os.IsNotExist(err) {
		t.Errorf("the old source has a device still: %v", err)
	}
	on(check, "b")
	sh(t, "mount", c.attached("b"), dir) // switchover returned: the device is there
	if bad := want.differences(treeOf(t, dir)); len(bad) > 0 {
		t.Fatalf("at b these files differ: %v", bad)
	}
	writeFiles(t, dir, 25)
	want = treeOf(t, dir)

	c.kill("b")
	ended := make(chan error, 1)
	go func() { ended <- os.WriteFile(filepath.Join(dir, "late"), bytes.Repeat([]byte("late"), 1<<20), 0o644) }()
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		t.Error("a write to the device of a killed agent hangs")
	}
	c.start("b")
	path := strings.TrimSpace(c.run("b", "volume", "attach", c.name)) // waits until the volume is open again
	if path != c.attached("b") {
		t.Errorf("after the restart it is %q", path)
	}
	if v := must(c.volume("b")); v.Attach == nil || !strings.Contains(v.Attach.Reason, dir) {
		t.Errorf("status does not say that the dead device is mounted: %+v", v.Attach)
	}
	sh(t, "umount", dir)
	c.wait("the dead device goes", settleMax, func() error {
		if v, err := c.volume("b"); err != nil || v.Attach == nil || v.Attach.Reason != "" {
			return fmt.Errorf("%+v, %v", v, err)
		}
		return nil
	})
	sh(t, "mount", c.attached("b"), dir) // replays its journal
	got := treeOf(t, dir)
	delete(got, "/late")
	if bad := want.differences(got); len(bad) > 0 {
		t.Fatalf("after the kill these files differ: %v", bad)
	}
	sh(t, "umount", dir)
	on(check, "b")
	c.run("b", "volume", "detach", c.name)
	if _, err := os.Lstat(c.attached("b")); !os.IsNotExist(err) {
		t.Errorf("the device is there after detach: %v", err)
	}
	c.waitOneSource()
	c.same()
	c.noResyncOfKind("full", "compare")
	t.Logf("%s: %d files", name, len(want))
}

// The wish is remembered and follows the role: over restarts, at every server of the volume.
func TestAttachmentFollowsTheRole(t *testing.T) {
	c := demo(t, "64MiB")
	c.guard()
	var result api.DeviceResult
	if err := json.Unmarshal([]byte(c.run("c", "volume", "attach", c.name, "--json")), &result); err != nil { // asked at a target
		t.Fatal(err)
	}
	if result.Node != "a" || result.Kind != "loop" || result.Path != c.attached("a") || len(result.Nodes) != 3 || !strings.HasPrefix(result.Address, "/dev/loop") {
		t.Errorf("%+v", result)
	}
	d := must(c.blockDevice("a"))
	if d.Kind != "loop" || d.Address != result.Address || d.Path != result.Path {
		t.Errorf("status shows %+v", d)
	}
	if target, err := os.Readlink(c.attached("a")); err != nil || target != d.Address {
		t.Errorf("the stable name leads to %q: %v", target, err)
	}
	for i, to := range []string{"b", "c", "a"} {
		from := []string{"a", "b", "c"}[i]
		c.waitMirroring(from, to)
		c.run(from, "switchover", c.name, "--to", to, "--yes")
		if _, err := c.blockDevice(to); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(c.attached(from)); !os.IsNotExist(err) {
			t.Errorf("%s has a device still: %v", from, err)
		}
	}
	c.stop("a")
	if _, err := os.Lstat(c.attached("a")); !os.IsNotExist(err) {
		t.Errorf("after a clean stop there is a device still: %v", err)
	}
	c.edit("a", "# lock-memory = false", "lock-memory = true")
	c.start("a")
	if status := string(must(os.ReadFile(fmt.Sprintf("/proc/%d/status", must(c.pid("a")))))); strings.Contains(status, "VmLck:\t       0 kB") || !strings.Contains(status, "VmLck:") {
		t.Error("the agent's memory is not locked")
	}
	c.wait("the device is back after a restart", settleMax, func() error { _, err := c.blockDevice("a"); return err })
	c.run("b", "volume", "detach", c.name) // asked elsewhere
	if d, err := c.blockDevice("a"); err == nil {
		t.Errorf("after detach there is %+v", d)
	}
	c.fails(exitUsage, "a", []string{"volume", "attach", c.name, "--kind", "magic"}, "magic")
	c.refused("not-a-member", "a", "volume", "attach", c.name, "--on", "z")
}

// An agent that hangs: the device is ended without it, by the socket's path alone; by name, and as the unit of systemd does it.
func TestAbortWithoutTheAgent(t *testing.T) {
	c := demo(t, "64MiB")
	c.guard()
	c.abortWithoutTheAgent(c.name, "--abort")
	c.abortWithoutTheAgent("--abort", "--all")
}

func (c *cluster) abortWithoutTheAgent(how ...string) {
	t := c.t
	t.Helper()
	c.run("a", "volume", "attach", c.name)
	device := must(c.blockDevice("a")).Address
	thaw := c.freeze("a")
	ended := make(chan error, 1)
	go func() {
		ended <- exec.Command("dd", "if=/dev/zero", "of="+device, "bs=4k", "count=1", "oflag=direct").Run()
	}()
	begin := time.Now()
	r := c.execute("a", append([]string{"volume", "detach"}, how...)...)
	if r.code != exitDone || time.Since(begin) > 30*time.Second {
		t.Errorf("%v: exit %d after %s: %s", how, r.code, time.Since(begin), r.stderr)
	}
	select {
	case err := <-ended:
		if err == nil {
			t.Error("a write that hung succeeded")
		}
	case <-time.After(30 * time.Second):
		t.Error("a write hangs after the abort")
	}
	thaw()
	c.wait("the agent says that its device was ended", settleMax, func() error {
		if v, err := c.volume("a"); err != nil || v.Attach == nil || v.Attach.State != "failed" {
			return fmt.Errorf("%+v, %v", v, err)
		}
		return nil
	})
	c.run("a", "volume", "attach", c.name)
	sh(t, "dd", "if=/dev/zero", "of="+c.attached("a"), "bs=4k", "count=1", "oflag=direct")
}

// fio, with many requests under way past the page cache, verifies what it wrote.
func TestFioOnAttachedDevice(t *testing.T) {
	c := demo(t, "64MiB")
	c.guard()
	path := strings.TrimSpace(c.run("a", "volume", "attach", c.name))
	for _, job := range [][]string{
		{"--rw=randwrite", "--bs=4k", "--iodepth=32", "--size=16m"},
		{"--rw=randwrite", "--bs=512-256k", "--blockalign=512", "--iodepth=16", "--offset=16m", "--size=16m", "--fsync=32", "--serialize_overlap=1"},
		{"--rw=write", "--bs=1m", "--iodepth=8", "--offset=32m", "--size=32m"},
	} {
		sh(t, "fio", append([]string{"--name=job", "--filename=" + path, "--ioengine=libaio", "--direct=1", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--verify_state_save=0"}, job...)...)
	}
	c.waitMirroring("a", "b", "c")
	c.same()
}
