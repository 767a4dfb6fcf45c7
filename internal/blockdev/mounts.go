// Package blockdev asks Linux about block devices: what is mounted from where, and who holds a device. It looks into
// /proc and /sys only and never touches a device or what is mounted on it, so that it does not hang when those do.
package blockdev

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Mount is one line of a mountinfo file.
type Mount struct {
	ID, Parent   int
	Major, Minor uint32 // of the file system; not of its disk where it has several, as btrfs does
	Root         string // the folder of the file system that is mounted
	Point        string
	Options      string // of this mount: rw,relatime
	Type         string
	Source       string // as it was given to mount
}

// Mounts are those that this process sees, in the order in which they were made.
func Mounts() ([]Mount, error) { return mountsOf("self") }

// mountsOf reads the mounts that a process sees.
func mountsOf(pid string) ([]Mount, error) {
	f, err := os.Open(filepath.Join("/proc", pid, "mountinfo"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseMounts(f)
}

// parseMounts reads lines such as "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue".
func parseMounts(r io.Reader) ([]Mount, error) {
	var mounts []Mount
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 4096), 1<<20)
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 6 || len(right) < 2 {
			return nil, fmt.Errorf("mountinfo: %q is no mount", lines.Text())
		}
		m := Mount{Root: unescape(left[3]), Point: unescape(left[4]), Options: left[5], Type: right[0], Source: unescape(right[1])}
		_, err := fmt.Sscanf(left[0]+" "+left[1]+" "+left[2], "%d %d %d:%d", &m.ID, &m.Parent, &m.Major, &m.Minor)
		if err != nil {
			return nil, fmt.Errorf("mountinfo: %q: %w", lines.Text(), err)
		}
		mounts = append(mounts, m)
	}
	return mounts, lines.Err()
}

// unescape undoes the kernel's \040 and the like.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
