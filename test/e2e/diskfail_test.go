package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"keelson/internal/api"
	"keelson/internal/lineage"
)

// faulty is a file whose reads and writes fail for real while a trigger exists: nbdkit's error filter, as a file through
// nbdfuse.
type faulty struct {
	t    *testing.T
	dir  string
	path string // what an agent uses
	pid  int    // of nbdkit
}

func newFaulty(t *testing.T, size string) *faulty {
	t.Helper()
	f := &faulty{t: t, dir: folder(t)}
	mount, pidFile := filepath.Join(f.dir, "m"), filepath.Join(f.dir, "pid")
	f.path = filepath.Join(mount, "disk.img")
	if err := os.Mkdir(mount, 0o755); err != nil {
		t.Fatal(err)
	}
	sh(t, "truncate", "-s", size, filepath.Join(f.dir, "below.img"))
	cmd := exec.Command("nbdfuse", f.path, "--command", "nbdkit", "-s", "--exit-with-parent", "-P", pidFile, "--filter=error", "file", filepath.Join(f.dir, "below.img"),
		"error-pread=EIO", "error-pread-rate=1", "error-pread-file="+f.trigger("read"), "error-pwrite=EIO", "error-pwrite-rate=1", "error-pwrite-file="+f.trigger("write"))
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }() // how it ends says nothing
	t.Cleanup(func() {                           // before the agents' end: what hangs in it must not keep them
		_ = syscall.Kill(f.pid, syscall.SIGCONT)
		_ = exec.Command("umount", "--lazy", mount).Run()
		_ = syscall.Kill(f.pid, syscall.SIGKILL)
		_ = cmd.Process.Kill()
		<-ended
	})
	if err := until(settleMax, func() error {
		text, err := os.ReadFile(pidFile)
		if err == nil {
			_, err = fmt.Sscan(string(text), &f.pid)
		}
		if _, there := os.Stat(f.path); err == nil {
			err = there
		}
		return err
	}); err != nil || f.pid <= 1 {
		t.Fatalf("nbdfuse: %v: %s", err, said.String())
	}
	return f
}

func (f *faulty) trigger(op string) string { return filepath.Join(f.dir, "fail-"+op) }

// fail makes that operation fail from now on.
func (f *faulty) fail(op string) {
	f.t.Helper()
	if err := os.WriteFile(f.trigger(op), nil, 0o644); err != nil {
		f.t.Fatal(err)
	}
}

// forget drops what the kernel has cached of the file, so that reads reach it.
func (f *faulty) forget() {
	f.t.Helper()
	sh(f.t, "dd", "if="+f.path, "iflag=nocache", "count=0", "status=none")
}

// hang lets nothing be finished until the test ends.
func (f *faulty) hang() {
	f.t.Helper()
	if err := syscall.Kill(f.pid, syscall.SIGSTOP); err != nil {
		f.t.Fatal(err)
	}
}

// onFaultyDisk is a cluster whose volume has its source on such a file at a.
func onFaultyDisk(t *testing.T, nodes ...string) (*cluster, *faulty) {
	t.Helper()
	c := byHand(t, nodes, `disk-stall = "1s"`, `join-wait = "2s"`, `sync-timeout = "3s"`)
	f := newFaulty(t, "32M")
	args := []string{"volume", "create", c.name, "--source", "a:" + f.path}
	for _, n := range c.others("a") {
		args = append(args, "--target", n+":"+c.image(n))
	}
	c.run("a", args...)
	c.waitMirroring("a", c.others("a")...)
	return c, f
}

// servedFrom waits until a says that its disk failed and that it serves from another copy, and is in sync no more.
func (c *cluster) servedFrom(targets ...string) {
	c.t.Helper()
	c.wait("a serves from "+strings.Join(targets, " or "), settleMax, func() error {
		v, err := c.volume("a")
		if err == nil && (v.State != "Failed" || !slices.Contains(targets, v.ServedFrom) || slices.Contains(v.InSync, "a") || v.Reason == "") {
			err = fmt.Errorf("state %s, served from %q, in sync %v, reason %q", v.State, v.ServedFrom, v.InSync, v.Reason)
		}
		return err
	})
}

// TestSourceDiskFails: guarantee 9. The source's disk fails for real; the applications notice nothing, also when the target that
// it is served from dies; a planned switchover follows, and the server comes back with a new disk.
func TestSourceDiskFails(t *testing.T) {
	c, disk := onFaultyDisk(t, "a", "b", "c")
	first := c.writeAt("a", 0, 4*mib, 1)
	disk.fail("write")
	second := c.writeAt("a", mib, 2*mib, 2)
	copy(first[mib:], second)
	c.servedFrom("b", "c")
	c.expect("a", 0, first)
	c.refused(lineage.RuleDiskFailed, "a", "mirror", "resync", c.name, "--target", "c")

	v := must(c.volume("a"))
	via, other := v.ServedFrom, "c"
	if via == "c" {
		other = "b"
	}
	c.kill(via)
	c.servedFrom(other)
	c.expect("a", 0, first)
	third := c.writeAt("a", 8*mib, mib, 3)
	c.refused(lineage.RuleLastCopy, "a", "mirror", "pause", c.name, "--target", other)
	c.run("a", "switchover", c.name, "--to", other, "--yes")
	c.start(via)
	c.waitMirroring(other, via)
	c.expect(other, 0, first)
	c.expect(other, 8*mib, third)
	c.waitState(other, "a", "Failed")

	// Moving house: a gets a new disk.
	c.run(other, "mirror", "remove", c.name, "--target", "a")
	c.wait("a has left", settleMax, func() error {
		if v, err := c.volume("a"); err == nil && v.Role != "none" {
			return errors.New("it still has a copy")
		}
		return nil
	})
	c.run(other, "mirror", "add", c.name, "--target", "a:"+c.image("a"))
	c.waitMirroring(other, "a", via)
	c.run(other, "switchover", c.name, "--to", "a", "--yes", "--wait")
	c.expect("a", 0, first)
	c.same()
}

// TestSourceDiskFailsAlone: with no target connected the application gets the error. After a restart the copy is not opened
// again, and the other server takes over although the old source is there.
func TestSourceDiskFailsAlone(t *testing.T) {
	c, disk := onFaultyDisk(t, "a", "b")
	written := c.writeAt("a", 0, mib, 1)
	c.kill("b")
	c.wait("a knows that b is gone", settleMax, func() error {
		if m, err := c.mirror("a", "b"); err != nil || m.State != "ResyncPending" {
			return fmt.Errorf("%+v %v", m, err)
		}
		return nil
	})
	disk.forget()
	disk.fail("read")
	d := must(dial(must(c.address("a"))))
	defer d.Close()
	if _, err := d.ReadAt(make([]byte, 4096), 16*mib); err == nil {
		t.Error("a read that no copy could do was answered")
	}
	c.stop("a")
	c.start("a")
	c.wait("a says what to do", settleMax, func() error {
		v, err := c.volume("a")
		if err == nil && (v.State != "Failed" || len(v.Devices) > 0 || !strings.Contains(v.Reason, "disk")) {
			err = fmt.Errorf("state %s, %d devices, reason %q", v.State, len(v.Devices), v.Reason)
		}
		return err
	})
	c.refused(lineage.RuleDiskFailed, "a", "switchover", c.name, "--to", "a", "--force", "--yes")
	c.start("b")
	c.wait("b is refused without force", settleMax, func() error {
		if r := c.execute("a", "switchover", c.name, "--to", "b", "--yes"); r.code != exitRefused || !strings.Contains(r.stderr, lineage.RuleNeedsForce) {
			return fmt.Errorf("exit %d: %s", r.code, r.stderr)
		}
		return nil
	})
	c.wait("b takes over, asked at a", settleMax, func() error { return c.execute("a", "switchover", c.name, "--to", "b", "--force", "--yes").err() })
	c.expect("b", 0, written)
	c.waitState("b", "a", "Failed")
}

// TestSourceDiskHangs: a disk that finishes nothing is noticed and given up; whoever connects is served from the target.
func TestSourceDiskHangs(t *testing.T) {
	c, disk := onFaultyDisk(t, "a", "b")
	written := c.writeAt("a", 0, mib, 1)
	hangs := must(dial(must(c.address("a"))))
	disk.hang()
	ended := make(chan error, 1)
	go func() {
		_, err := hangs.WriteAt(make([]byte, 4096), 4*mib)
		ended <- err
	}()
	c.servedFrom("b")
	c.expect("a", 0, written)
	more := c.writeAt("a", 8*mib, mib, 2)
	c.run("a", "switchover", c.name, "--to", "b", "--yes")
	c.expect("b", 8*mib, more)
	events := must(c.events("a"))
	for _, rule := range []string{lineage.RuleDiskStalled, lineage.RuleDiskFailed, lineage.RuleServesFromTarget} {
		if !slices.ContainsFunc(events, func(e api.Event) bool { return e.Rule == rule && e.Next != "" }) {
			t.Errorf("no event by rule %s that says what to do next", rule)
		}
	}
	_ = hangs.Close()
	select {
	case <-ended:
	case <-time.After(settleMax):
		t.Error("the request that hung never ended, though its connection did")
	}
}

// TestMinCopies: rule 18, as users see it.
func TestMinCopies(t *testing.T) {
	c := byHand(t, []string{"a", "b"}, `copies-wait = "1s"`)
	c.fails(exitUsage, "a", []string{"volume", "create", c.name, "--size", "16MiB", "--source", "a:" + c.image("a"), "--target", "b:" + c.image("b"), "--min-copies", "3"}, "min-copies")
	c.run("a", "volume", "create", c.name, "--size", "16MiB", "--source", "a:"+c.image("a"), "--target", "b:"+c.image("b"), "--min-copies", "2")
	c.waitMirroring("a", "b")
	written := c.writeAt("a", 0, mib, 1)
	c.refused(lineage.RuleMinCopies, "a", "mirror", "pause", c.name, "--target", "b")
	c.kill("b")
	d := must(dial(must(c.address("a"))))
	defer d.Close()
	if _, err := d.WriteAt(make([]byte, 4096), 4*mib); err == nil {
		t.Fatal("a write was answered that only one server holds")
	}
	v := must(c.volume("a"))
	if v.MinCopies != 2 || v.Copies != 1 || !strings.Contains(v.Reason, "min-copies") || !slices.Contains(v.InSync, "b") {
		t.Errorf("status: %d copies, min-copies %d, in sync %v, reason %q", v.Copies, v.MinCopies, v.InSync, v.Reason)
	}
	c.start("b")
	c.waitMirroring("a", "b")
	more := c.writeAt("a", 8*mib, mib, 2)
	c.expect("a", 0, written)
	c.run("a", "switchover", c.name, "--to", "b", "--yes", "--wait")
	if v := must(c.volume("b")); v.MinCopies != 2 {
		t.Errorf("after a switchover min-copies is %d", v.MinCopies)
	}
	c.expect("b", 8*mib, more)
	c.run("b", "volume", "set", c.name, "--min-copies", "1")
	c.kill("a")
	c.writeAt("b", 0, 4096, 3)
}
