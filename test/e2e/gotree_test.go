package e2e

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// tree is the content of files by their path: SHA-256, or for a symbolic link where it leads.
type tree map[string]string

// treeOf reads a folder, without the files system's own lost+found.
func treeOf(t *testing.T, dir string) tree {
	t.Helper()
	all := tree{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := strings.TrimPrefix(path, dir)
		if d.IsDir() && d.Name() == "lost+found" {
			return filepath.SkipDir
		}
		if d.Type()&fs.ModeSymlink != 0 {
			all[rel], err = os.Readlink(path)
			return err
		}
		if !d.Type().IsRegular() {
			return nil
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		h := sha256.New()
		_, err = io.Copy(h, f)
		all[rel] = fmt.Sprintf("%x", h.Sum(nil))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// differences returns the first few paths at which the trees differ.
func (want tree) differences(got tree) (paths []string) {
	for path, sum := range want {
		if got[path] != sum {
			paths = append(paths, path)
		}
	}
	for path := range got {
		if _, ok := want[path]; !ok {
			paths = append(paths, path+" (extra)")
		}
	}
	return paths[:min(len(paths), 5)]
}

// sh runs a program of the system that has to succeed.
func sh(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandMax)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// mounted mounts the ext4 file system in the node's device, calls use with the folder, and unmounts it.
func (c *cluster) mounted(node string, use func(dir string)) {
	c.t.Helper()
	file, end := c.fuse(node)
	defer end()
	dir, err := os.MkdirTemp(c.dir, "mnt-")
	if err != nil {
		c.t.Fatal(err)
	}
	sh(c.t, "mount", "-o", "loop", "-t", "ext4", file, dir)
	defer sh(c.t, "umount", dir)
	use(dir)
}

// exported copies what the node exports into a file, checks the file system in it, and returns the files in that.
func (c *cluster) exported(node string) tree {
	c.t.Helper()
	uri, err := c.address(node)
	if err != nil {
		c.t.Fatal(err)
	}
	copied, dump := filepath.Join(c.dir, "exported.img"), filepath.Join(c.dir, "dump")
	defer func() { // the next round makes both anew, and fails if it cannot
		_ = os.RemoveAll(dump)
		_ = os.Remove(copied)
	}()
	sh(c.t, "nbdcopy", uri, copied)
	sh(c.t, "e2fsck", "-fn", copied)
	if err := os.Mkdir(dump, 0o755); err != nil {
		c.t.Fatal(err)
	}
	sh(c.t, "debugfs", "-R", "rdump / "+dump, copied)
	return treeOf(c.t, dump)
}

// Real input: an ext4 file system with the Go tree travels from server to server and is changed at each of them by the
// kernel that mounts it. Wherever it is it is clean, whole, and the same on all servers.
func TestGoTree(t *testing.T) {
	goroot := strings.TrimSpace(sh(t, "go", "env", "GOROOT"))
	c := demo(t, "512MiB")
	image := filepath.Join(c.dir, "tree.img")
	sh(t, "truncate", "-s", "512M", image)
	sh(t, "mkfs.ext4", "-q", "-F", "-d", goroot, image)
	uri, err := c.address("a")
	if err != nil {
		t.Fatal(err)
	}
	sh(t, "nbdcopy", "--flush", image, uri)
	if err := os.Remove(image); err != nil {
		t.Fatal(err)
	}
	want := treeOf(t, goroot)
	t.Logf("%d files", len(want))
	if len(want) < 5000 {
		t.Fatalf("GOROOT %s has %d files: no real input", goroot, len(want))
	}

	source := "a"
	for round, to := range []string{"b", "c", "a"} {
		c.mounted(source, func(dir string) {
			added := fmt.Sprintf("/added-%d", round)
			sh(t, "cp", "-r", filepath.Join(goroot, "src/net"), dir+added)
			for path, sum := range treeOf(t, dir+added) {
				want[added+path] = sum
			}
			gone := []string{"/src/cmd/go", "/src/crypto", "/src/runtime"}[round]
			sh(t, "rm", "-r", dir+gone)
			for path := range want {
				if strings.HasPrefix(path, gone+"/") {
					delete(want, path)
				}
			}
		})
		c.waitMirroring(source, to)
		c.run(to, "switchover", c.name, "--to", to, "--yes", "--wait")
		source = to
		c.waitMirroring(source, c.others(source)...)
		if bad := want.differences(c.exported(source)); len(bad) > 0 {
			t.Fatalf("at %s these files differ: %v", source, bad)
		}
		c.same()
	}
	c.noResyncOfKind("full", "compare")
}
