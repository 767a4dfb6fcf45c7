package blockdev

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Holder is somebody who uses a block device.
type Holder struct {
	Kind    string `json:"kind"`              // mount | process | swap | device
	Mount   string `json:"mount,omitempty"`   // mount: where
	Type    string `json:"type,omitempty"`    // mount: of the file system
	Options string `json:"options,omitempty"` // mount: rw,relatime
	PID     int    `json:"pid,omitempty"`     // process; mount: one that sees it, where this process does not
	Command string `json:"command,omitempty"` // of PID
	Device  string `json:"device,omitempty"`  // device: what is stacked on it
}

// String says it in a sentence's part: "mounted at /srv/data (ext4)".
func (h Holder) String() string {
	switch h.Kind {
	case "mount":
		if h.PID != 0 {
			return fmt.Sprintf("mounted at %s (%s) where process %d (%s) sees it", h.Mount, h.Type, h.PID, h.Command)
		}
		return fmt.Sprintf("mounted at %s (%s)", h.Mount, h.Type)
	case "process":
		return fmt.Sprintf("held open by process %d (%s)", h.PID, h.Command)
	case "swap":
		return "used as swap"
	}
	return "held by " + h.Device
}

// Join writes holders one after the other.
func Join(holders []Holder) string {
	var parts []string
	for _, h := range holders {
		parts = append(parts, h.String())
	}
	return strings.Join(parts, ", ")
}

// Number returns the device's numbers by its name in /dev ("loop0"), from /sys, so that the device is not touched.
func Number(name string) (major, minor uint32, err error) {
	text, err := os.ReadFile(filepath.Join("/sys/class/block", name, "dev"))
	if err != nil {
		return 0, 0, err
	}
	_, err = fmt.Sscanf(string(text), "%d:%d", &major, &minor)
	return major, minor, err
}

// Device is the kernel's name of the block device that a path leads to: "/dev/loop0" for "/dev/vg0/data".
func Device(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || info.Mode().Type() != os.ModeDevice {
		return "", fmt.Errorf("%s is no block device", path)
	}
	link, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)))
	return "/dev/" + filepath.Base(link), err
}

// Holders are all who use the device, such as "/dev/loop0": mounts first. A process that only sees a mount is not listed
// besides it.
func Holders(device string) ([]Holder, error) {
	name := filepath.Base(device)
	major, minor, err := Number(name)
	if err != nil {
		return nil, fmt.Errorf("device %s: %w", device, err)
	}
	mine := func(m Mount) bool {
		return m.Major == major && m.Minor == minor || Resolves(m.Source, device)
	}
	holders, err := mountHolders(mine)
	if err != nil {
		return nil, err
	}
	if len(holders) == 0 && btrfsHolds(name) { // mounted by a name that is gone
		holders = append(holders, Holder{Kind: "device", Device: "a btrfs file system"})
	}
	processes, err := processHolders(device)
	if err != nil {
		return nil, err
	}
	holders = append(holders, processes...)
	stacked, err := os.ReadDir(filepath.Join("/sys/class/block", name, "holders"))
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	for _, e := range stacked {
		holders = append(holders, Holder{Kind: "device", Device: "/dev/" + e.Name()})
	}
	if swaps, err := os.ReadFile("/proc/swaps"); err == nil {
		for _, line := range strings.Split(string(swaps), "\n") {
			if fields := strings.Fields(line); len(fields) > 0 && Resolves(fields[0], device) {
				holders = append(holders, Holder{Kind: "swap"})
			}
		}
	}
	return holders, nil
}

// Resolves reports whether the path is the device, or a link to it.
func Resolves(path, device string) bool {
	if path == device {
		return true
	}
	if !strings.HasPrefix(path, "/") {
		return false
	}
	info, err := os.Lstat(path)
	if err != nil || info.Mode()&os.ModeSymlink == 0 {
		return false // and nothing is looked up that a hanging file system would have to answer
	}
	real, err := os.Readlink(path)
	return err == nil && real == device
}

// mountHolders looks at the mounts of this process, then at those of processes that live in other mount namespaces.
func mountHolders(mine func(Mount) bool) ([]Holder, error) {
	mounts, err := Mounts()
	if err != nil {
		return nil, err
	}
	var holders []Holder
	for _, m := range slices.Backward(mounts) { // the newest first: the order in which they can be unmounted
		if mine(m) {
			holders = append(holders, Holder{Kind: "mount", Mount: m.Point, Type: m.Type, Options: m.Options})
		}
	}
	seen := map[string]bool{namespace("self"): true}
	err = eachProcess(func(pid int) {
		ns := namespace(strconv.Itoa(pid))
		if ns == "" || seen[ns] {
			return
		}
		seen[ns] = true
		theirs, _ := mountsOf(strconv.Itoa(pid)) // it may be gone
		for _, m := range theirs {
			if mine(m) && !slices.ContainsFunc(holders, func(h Holder) bool { return h.Mount == m.Point }) {
				holders = append(holders, Holder{Kind: "mount", Mount: m.Point, Type: m.Type, PID: pid, Command: command(pid)})
			}
		}
	})
	return holders, err
}

func namespace(pid string) string {
	ns, _ := os.Readlink(filepath.Join("/proc", pid, "ns/mnt")) // "": it is gone, or not ours to look at
	return ns
}

// processHolders are the processes that have the device open, by the names of their open files: those are not touched.
func processHolders(device string) ([]Holder, error) {
	var holders []Holder
	err := eachProcess(func(pid int) {
		dir := fmt.Sprintf("/proc/%d/fd", pid)
		fds, _ := os.ReadDir(dir) // it may be gone
		for _, fd := range fds {
			if to, err := os.Readlink(filepath.Join(dir, fd.Name())); err == nil && to == device {
				holders = append(holders, Holder{Kind: "process", PID: pid, Command: command(pid)})
				return
			}
		}
	})
	return holders, err
}

func eachProcess(fn func(pid int)) error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			fn(pid)
		}
	}
	return nil
}

// Inside are the processes that use something below the folder: an open file, or where they stand. They keep it from being
// unmounted. Links are read and not followed, so nothing of the file system is touched.
func Inside(folder string) (holders []Holder, err error) {
	below := func(path string) bool {
		to, err := os.Readlink(path)
		return err == nil && (to == folder || strings.HasPrefix(to, folder+"/"))
	}
	err = eachProcess(func(pid int) {
		dir := fmt.Sprintf("/proc/%d", pid)
		uses := below(dir+"/cwd") || below(dir+"/root") || below(dir+"/exe")
		fds, _ := os.ReadDir(dir + "/fd") // it may be gone
		for i := 0; i < len(fds) && !uses; i++ {
			uses = below(dir + "/fd/" + fds[i].Name())
		}
		if uses {
			holders = append(holders, Holder{Kind: "process", PID: pid, Command: command(pid)})
		}
	})
	return holders, err
}

func command(pid int) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return "gone"
	}
	return strings.TrimSpace(string(text))
}

// btrfsHolds reports whether a mounted btrfs file system has the device.
func btrfsHolds(name string) bool {
	found, _ := filepath.Glob(filepath.Join("/sys/fs/btrfs/*/devices", name)) // the pattern is a good one
	return len(found) > 0
}
