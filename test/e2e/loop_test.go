package e2e

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// loopDevice makes a block device of that many bytes.
func loopDevice(t *testing.T, bytes int64) string {
	t.Helper()
	f, err := os.CreateTemp("", "ke-loop-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(f.Name()) })
	if err := f.Truncate(bytes); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	device := strings.TrimSpace(sh(t, "losetup", "--find", "--show", f.Name()))
	t.Cleanup(func() { sh(t, "losetup", "--detach", device) })
	return device
}

// Block devices below source and targets: existing content is kept and copied, and nobody else can open them meanwhile.
func TestLoopDevice(t *testing.T) {
	devices := map[string]string{}
	for _, node := range []string{"a", "b", "c"} {
		devices[node] = loopDevice(t, 64*mib)
	}
	sh(t, "mkfs.ext4", "-q", "-F", "-d", "../../docs", devices["a"]) // content that was there before
	c := byHand(t, []string{"a", "b", "c"})
	c.run("a", "volume", "create", c.name, "--source", "a:"+devices["a"], "--target", "b:"+devices["b"], "--target", "c:"+devices["c"])
	c.waitMirroring("a", "b", "c")
	for node, device := range devices {
		if out, err := exec.Command("mkfs.ext4", "-F", device).CombinedOutput(); err == nil {
			t.Errorf("the device of %s could be opened for a new file system: %s", node, out)
		}
	}
	if files := c.exported("a"); len(files) == 0 {
		t.Error("the file system that was there before has no files")
	}
	c.zero("a", 48*mib, 8*mib)
	f := follow(c, 48*mib, 8*mib, 6)
	for i, to := range []string{"b", "c", "a"} {
		f.waitAnswers(100)
		from := []string{"a", "b", "c"}[i]
		c.waitMirroring(from, to)
		c.run(to, "switchover", c.name, "--to", to, "--yes")
	}
	f.stop()
	c.waitMirroring("a", "b", "c")
	f.verify()
	c.noResyncOfKind("full")
	for _, node := range c.nodes {
		c.stop(node)
	}
	for _, node := range []string{"b", "c"} {
		sh(t, "cmp", devices["a"], devices[node])
	}
}
