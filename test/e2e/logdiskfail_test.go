package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"keelson/internal/api"
)

// faultyState gives a node a file system of its own for its state, before its agent is started: ext4 without a journal, on a disk
// that can fail. forget drops what the kernel has cached of it and takes for written.
func (c *cluster) faultyState(node string) (disk *faulty, forget func()) {
	c.t.Helper()
	disk = newFaulty(c.t, "64M")
	dir := filepath.Join(c.dir, "state-"+node)
	if err := os.Mkdir(dir, 0o755); err != nil {
		c.t.Fatal(err)
	}
	loop := strings.TrimSpace(sh(c.t, "losetup", "--find", "--show", disk.path))
	c.t.Cleanup(func() { sh(c.t, "losetup", "--detach", loop) }) // it goes when nothing uses it any more
	sh(c.t, "mkfs.ext4", "-q", "-O", "^has_journal", loop)
	sh(c.t, "mount", loop, dir)
	c.t.Cleanup(func() { sh(c.t, "umount", "--lazy", dir) }) // before the agents' end, so it has to be lazy
	c.edit(node, `state = "."`, fmt.Sprintf("state = %q", dir))
	if err := os.Symlink(filepath.Join(dir, "agent.pid"), c.path(node, "agent.pid")); err != nil {
		c.t.Fatal(err)
	}
	return disk, func() {
		c.t.Helper()
		err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.Type().IsRegular() {
				sh(c.t, "dd", "if="+path, "iflag=nocache", "count=0", "status=none")
			}
			return err
		})
		if err != nil {
			c.t.Fatal(err)
		}
	}
}

// TestIntentLogDiskFails: the disk under the state of the source, its intent log included, fails for real under writes. Writes that
// cannot be noted are not answered, the volume stops there and says so, and everything else of the agent goes on. The disk is well
// again, and the agent is killed and started: what was answered is there, by what the kernel remembers, and also by what is on the disk.
func TestIntentLogDiskFails(t *testing.T) {
	c := &cluster{t: t, dir: folder(t), nodes: []string{"a", "b"}, name: "data"}
	t.Cleanup(c.close)
	c.configure(`retry-max = "500ms"`, `disk-stall = "3s"`)
	disk, forget := c.faultyState("a")
	c.start("a")
	c.start("b")
	c.run("a", "volume", "create", c.name, "--source", "a:"+c.image("a"), "--target", "b:"+c.image("b"), "--size", "64MiB")
	c.run("b", "volume", "create", "other", "--source", "b:"+filepath.Join(c.dir, "other-b.img"), "--target", "a:"+filepath.Join(c.dir, "other-a.img"), "--size", "16MiB")
	c.waitMirroring("a", "b")
	answered := map[int64][]byte{}
	write := func(tag byte) (failed error) {
		d, err := dial(must(c.address("a")))
		if err != nil {
			return err
		}
		defer d.Close()
		for off := int64(0); off < 64*mib && failed == nil; off += mib {
			p := bytes.Repeat([]byte{byte(off / mib), tag}, 2048)
			at := off + int64(tag)*4096
			if _, failed = d.WriteAt(p, at); failed == nil {
				answered[at] = p
			}
		}
		return failed
	}
	serves := func() {
		t.Helper()
		c.wait("a serves", settleMax, func() error {
			if v, err := c.volume("a"); err != nil || len(v.Devices) == 0 {
				return errors.Join(err, fmt.Errorf("%s: %s", v.State, v.Reason))
			}
			return nil
		})
		c.waitMirroring("a", "b")
	}
	if err := write(1); err != nil {
		t.Fatal(err)
	}
	for round := byte(2); round < 4; round++ {
		c.stop("a") // then nothing is hot
		c.start("a")
		serves()
		before := len(answered)
		disk.fail("write")
		if err := write(round); err == nil {
			t.Fatal("64 writes were answered, and none of them could be noted")
		}
		if n := len(answered) - before; n > 0 {
			t.Errorf("round %d: %d writes were answered that could not be noted", round, n)
		}
		c.wait("a says that it stopped", settleMax, func() error {
			v, err := c.volume("a")
			if err == nil && (v.State != "Failed" || len(v.Devices) > 0 || !strings.Contains(v.Reason, "input/output error")) {
				err = fmt.Errorf("state %s, %d devices, reason %q", v.State, len(v.Devices), v.Reason)
			}
			return err
		})
		if !slices.ContainsFunc(must(c.events("a")), func(e api.Event) bool { return e.Level == "error" && strings.Contains(e.Next, "start the agent again") }) {
			t.Error("no event says what to do next")
		}
		if err := os.Remove(disk.trigger("write")); err != nil {
			t.Fatal(err)
		}
		c.kill("a")
		if round == 3 { // what only the memory had is gone
			forget()
		}
		c.start("a")
		serves()
		for off, p := range answered {
			c.expect("a", off, p)
		}
		if err := write(round + 10); err != nil {
			t.Fatal(err)
		}
	}
	c.noResyncOfKind("full")
	c.noResyncOfKind("compare")
	c.same()
}
