package vfs

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestNamesOfDisks: a disk, a partition, a logical volume, and one that says nothing of itself.
func TestNamesOfDisks(t *testing.T) {
	sys := t.TempDir()
	file := func(path, text string) {
		t.Helper()
		path = filepath.Join(sys, path)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte(text), 0o600))
	}
	device := func(number, dir string) {
		t.Helper()
		must(t, os.MkdirAll(filepath.Join(sys, "dev/block"), 0o755))
		must(t, os.MkdirAll(filepath.Join(sys, dir), 0o755))
		must(t, os.Symlink("../../"+dir, filepath.Join(sys, "dev/block", number)))
	}
	device("8:0", "devices/sda")
	file("devices/sda/device/wwid", "naa.5000c500\n")
	device("8:2", "devices/sda/sda2")
	file("devices/sda/sda2/partition", "2\n")
	file("devices/sda/sda2/start", "4096\n")
	device("252:3", "devices/dm-3")
	file("devices/dm-3/dm/uuid", "LVM-abc\n")
	device("253:0", "devices/vda")
	file("devices/vda/serial", "\n")
	for number, want := range map[[2]uint32]string{
		{8, 0}: "device/wwid naa.5000c500", {8, 2}: "device/wwid naa.5000c500 partition 2 from 4096", {252, 3}: "dm/uuid LVM-abc", {253, 0}: "", {9, 9}: "",
	} {
		if got := nameIn(sys, number[0], number[1]); got != want {
			t.Errorf("%v is %q, not %q", number, got, want)
		}
	}
}

// TestNameOfALoopDevice: the kernel's own files say which file is under it.
func TestNameOfALoopDevice(t *testing.T) {
	device := loopDevice(t, 1<<20)
	id, err := OS.Stat(device)
	if err != nil || !strings.HasPrefix(id.Disk, "loop/backing_file "+os.TempDir()) {
		t.Errorf("%q, %v", id.Disk, err)
	}
}

// TestNameOfAFileSystem: a file's file system has the same name whatever number its disk gets, and another has another.
func TestNameOfAFileSystem(t *testing.T) {
	t.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
	for name, mkfs := range map[string][]string{"ext4": {"mkfs.ext4", "-q", "-F"}, "xfs": {"mkfs.xfs", "-q", "-f"}, "btrfs": {"mkfs.btrfs", "-q", "-f"}} {
		t.Run(name, func(t *testing.T) {
			seen := map[string]int{}
			for range 2 {
				spare := loopDevice(t, 1<<20) // takes a number, so that the next is another one
				image := filepath.Join(t.TempDir(), "image")
				must(t, os.WriteFile(image, nil, 0o600))
				must(t, os.Truncate(image, 320<<20))
				run(t, append(mkfs, image)...)
				first, again := nameMounted(t, loopOn(t, image)), nameMounted(t, loopOn(t, image))
				if first == "" || first != again {
					t.Errorf("it is %q, and then %q (%s in between)", first, again, spare)
				}
				seen[first]++
			}
			if len(seen) != 2 {
				t.Errorf("two file systems have the names %v", seen)
			}
		})
	}
}

func nameMounted(t *testing.T, device string) string {
	t.Helper()
	dir := t.TempDir()
	run(t, "mount", device, dir)
	defer run(t, "umount", dir)
	file := filepath.Join(dir, "file")
	must(t, os.WriteFile(file, nil, 0o600))
	id, err := OS.Stat(file)
	must(t, err)
	return id.Disk
}

func run(t *testing.T, command ...string) {
	t.Helper()
	if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", command, err, out)
	}
}
