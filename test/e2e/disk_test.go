package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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

// folder is where the node mounts the volume's file system.
func (c *cluster) folder(node string) string { return filepath.Join(c.dir, "srv-"+node) } // postgres may not enter the agent's

// mount mounts the file system on the node's attached device, once that is there.
func (c *cluster) mount(node string) (folder string) {
	c.t.Helper()
	c.wait("the block device is at "+node, settleMax, func() error {
		_, err := os.Stat(c.attached(node))
		return err
	})
	folder = c.folder(node)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		c.t.Fatal(err)
	}
	sh(c.t, "mount", c.attached(node), folder)
	return folder
}

// unmount waits until nobody uses the node's file system any more. What cannot be written any more is lost to it.
func (c *cluster) unmount(node string) {
	c.t.Helper()
	folder := c.folder(node)
	c.wait(folder+" is unmounted", settleMax, func() error {
		if !slices.Contains(c.mounts(), folder) {
			return nil
		}
		if out, err := exec.Command("umount", folder).CombinedOutput(); err != nil {
			return fmt.Errorf("umount: %w: %s", err, out)
		}
		return nil
	})
}
