package e2e

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// shown is a node's NBD device as a file, by nbdfuse.
type shown struct {
	dir, file string
	cmd       *exec.Cmd
	said      strings.Builder
}

func (c *cluster) asFile(node string) *shown {
	c.t.Helper()
	uri, err := c.address(node)
	if err != nil {
		c.t.Fatal(err)
	}
	dir, err := os.MkdirTemp(c.dir, "fuse-")
	if err != nil {
		c.t.Fatal(err)
	}
	s := &shown{dir: dir, file: filepath.Join(dir, "volume")}
	s.cmd = exec.Command("nbdfuse", s.file, uri)
	s.cmd.Stderr = &s.said
	if err := s.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.wait("nbdfuse shows "+uri, 20*time.Second, func() error {
		_, err := os.Stat(s.file)
		return err
	})
	return s
}

// fuse shows the node's device as a file until the returned function is called.
func (c *cluster) fuse(node string) (file string, end func()) {
	c.t.Helper()
	s := c.asFile(node)
	return s.file, func() {
		c.t.Helper()
		sh(c.t, "fusermount3", "-u", s.dir)
		if err := s.cmd.Wait(); err != nil {
			c.t.Errorf("nbdfuse: %v: %s", err, s.said.String())
		}
	}
}

// disk is the volume as the kernel of a server uses it: a loop device with direct I/O, so that nothing is cached between
// its file system and the volume, on the NBD device as a file.
type disk struct {
	c        *cluster
	shown    *shown
	device   string
	mount    string // where its file system is, or will be, mounted
	guard    *exec.Cmd
	word     io.WriteCloser // the guard's input
	detached bool
}

// guardScript takes a disk apart once the test's process is gone without having done it, however that ended: a word on its
// input says that it has. Its arguments are mount, device, folder of the file and process of nbdfuse.
const guardScript = `read word && exit 0
kill -9 $(head -n 1 "$1"/*/postmaster.pid) "$4"
umount -l "$1"; losetup -d "$2"; fusermount3 -uz "$3"`

// attach makes a disk of the volume at the node.
func (c *cluster) attach(node string) *disk {
	c.t.Helper()
	d := &disk{c: c, shown: c.asFile(node)}
	c.t.Cleanup(d.detach)
	var err error
	if d.mount, err = os.MkdirTemp(c.dir, "mnt-"); err != nil {
		c.t.Fatal(err)
	}
	d.device = strings.TrimSpace(sh(c.t, "losetup", "--direct-io=on", "--find", "--show", d.shown.file))
	if dio, err := os.ReadFile("/sys/block/" + filepath.Base(d.device) + "/loop/dio"); err != nil || strings.TrimSpace(string(dio)) != "1" {
		c.t.Fatalf("%s has no direct I/O: %q, %v", d.device, dio, err)
	}
	d.guard = exec.Command("sh", "-c", guardScript, "guard", d.mount, d.device, d.shown.dir, fmt.Sprint(d.shown.cmd.Process.Pid))
	if d.word, err = d.guard.StdinPipe(); err == nil {
		err = d.guard.Start()
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return d
}

// mounted reports whether the file system is mounted.
func (d *disk) mounted() bool {
	mounts, err := os.ReadFile("/proc/mounts")
	return err != nil || strings.Contains(string(mounts), " "+d.mount+" ")
}

func (d *disk) mountIt() {
	d.c.t.Helper()
	sh(d.c.t, "mount", "-t", "ext4", d.device, d.mount)
}

// unmount waits until nobody uses the file system any more. What cannot be written any more is lost to it.
func (d *disk) unmount() {
	d.c.t.Helper()
	if err := d.tryUnmount(); err != nil {
		d.c.t.Fatal(err)
	}
}

func (d *disk) tryUnmount() error {
	if !d.mounted() {
		return nil
	}
	return until(settleMax, func() error {
		if out, err := exec.Command("umount", d.mount).CombinedOutput(); err != nil && d.mounted() {
			return fmt.Errorf("umount: %w: %s", err, out)
		}
		return nil
	})
}

// detach takes the disk apart. The server below it may be dead.
func (d *disk) detach() {
	if d.detached {
		return
	}
	d.detached = true
	var errs []error
	if d.mount != "" {
		errs = append(errs, d.tryUnmount())
	}
	if d.device != "" {
		out, err := exec.Command("losetup", "--detach", d.device).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("losetup --detach %s: %w: %s", d.device, err, out)
		}
		errs = append(errs, err)
	}
	errs = append(errs, until(settleMax, func() error { // the kernel lets go of a loop device's file a moment later
		if out, err := exec.Command("fusermount3", "-u", d.shown.dir).CombinedOutput(); err != nil {
			return fmt.Errorf("fusermount3: %w: %s", err, out)
		}
		return nil
	}))
	if err := errors.Join(errs...); err != nil {
		d.c.t.Errorf("%s is left behind, its guard takes it apart: %v", d.device, err)
		if d.word != nil {
			_ = d.word.Close()
		}
	} else if d.word != nil {
		_, _ = d.word.Write([]byte("done\n"))
	}
	if d.guard != nil {
		_ = d.guard.Wait()
	}
	_ = d.shown.cmd.Wait() // of a dead server it says so, which is no news
}
