package probe

import (
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"keelson/internal/blockdev"
)

const belowMax = 256 // devices and files below one file system

// Below is what the file system of a directory stands on, down to the disks: the numbers of block devices ("8:1"), and files behind
// loop devices, as deviceName and fileName have them. What cannot be found out is not in it.
func Below(dir string) map[string]bool {
	found := map[string]bool{}
	var st unix.Stat_t
	if unix.Stat(dir, &st) == nil {
		descend(number(st.Dev), found)
	}
	if source := mountSource(dir); strings.HasPrefix(source, "/dev/") { // file systems such as btrfs have a number of their own
		descend(deviceName(source), found)
	}
	return found
}

// descend notes a device and all below it.
func descend(dev string, found map[string]bool) {
	if dev == "" || found[dev] || len(found) >= belowMax {
		return
	}
	folder := filepath.Join("/sys/dev/block", dev)
	if !exists(folder) {
		return // of no disk: tmpfs, a network
	}
	found[dev] = true
	slaves, _ := os.ReadDir(filepath.Join(folder, "slaves")) // a partition has none
	for _, s := range slaves {
		descend(readLine(filepath.Join(folder, "slaves", s.Name(), "dev")), found)
	}
	if exists(filepath.Join(folder, "partition")) {
		if real, err := filepath.EvalSymlinks(folder); err == nil {
			descend(readLine(filepath.Join(filepath.Dir(real), "dev")), found)
		}
	}
	if file := readLine(filepath.Join(folder, "loop/backing_file")); file != "" {
		if name := fileName(file); name != "" && !found[name] {
			found[name] = true
			var st unix.Stat_t
			if unix.Stat(file, &st) == nil {
				descend(number(st.Dev), found)
			}
		}
	}
}

func readLine(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// mountSource is what the file system of a directory was mounted from; "" if that is not known.
func mountSource(dir string) (source string) {
	mounts, err := blockdev.Mounts()
	if err != nil {
		return ""
	}
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	longest := -1
	for _, m := range mounts { // of two at one point the later one hides the other
		inside := m.Point == "/" || dir == m.Point || strings.HasPrefix(dir, m.Point+"/")
		if inside && len(m.Point) >= longest {
			longest, source = len(m.Point), m.Source
		}
	}
	return source
}
