package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A run that was killed can leave mounts and loop devices whose agent is dead. They answer with errors, and mkfs.btrfs, which looks at every
// loop device of the machine, then fails on a good one. So a run first takes away what an earlier one left, and nothing else: what
// lies in a cluster's folder without a living agent.

// clusterDir matches a path in the folder of a cluster (see demo) and finds the folder.
var clusterDir = regexp.MustCompile(`^` + regexp.QuoteMeta(filepath.Join(os.TempDir(), "ke-")) + `[0-9]+`)

// deviceFile matches what is left of the path of a device's file when its mount is gone.
var deviceFile = regexp.MustCompile(`^/[a-z0-9-]+\.[0-9a-f]{8}$`)

// takeAwayRemains reports what it took away: of all that chosen says yes to, given a cluster's folder, or a device of which it is not known
// whose it was.
func takeAwayRemains(chosen func(dirOrDevice string) bool) (gone []string, err error) {
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return gone, err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has no file any more
		}
		backing := strings.TrimSpace(string(text))
		dir, device := clusterDir.FindString(backing), "/dev/"+strings.Split(file, "/")[3]
		if dir != "" && (lives(dir) || !chosen(dir)) || dir == "" && (!deviceFile.MatchString(backing) || !chosen(device)) {
			continue
		}
		if _, err := os.Stat(backing); dir == "" && !errors.Is(err, fs.ErrNotExist) {
			continue // it is somebody's
		}
		if out, err := exec.Command("losetup", "--detach", device).CombinedOutput(); err != nil {
			return gone, fmt.Errorf("losetup --detach %s (%s): %w: %s", device, backing, err, out)
		}
		gone = append(gone, device)
	}
	mounts, err := exec.Command("findmnt", "--noheadings", "--raw", "--output", "TARGET").Output()
	if err != nil {
		return gone, fmt.Errorf("findmnt: %w", err)
	}
	lines := strings.Fields(string(mounts))
	slices.Reverse(lines) // the newest first
	for _, point := range lines {
		if dir := clusterDir.FindString(point); dir == "" || lives(dir) || !chosen(dir) {
			continue
		}
		if out, err := exec.Command("umount", "--lazy", point).CombinedOutput(); err != nil && isMounted(point) {
			return gone, fmt.Errorf("umount %s: %w: %s", point, err, out)
		}
		gone = append(gone, point)
	}
	return gone, nil
}

// lives reports whether an agent of that cluster runs.
func lives(dir string) bool {
	files, _ := filepath.Glob(filepath.Join(dir, "*", "agent.pid")) // the pattern is good
	return slices.ContainsFunc(files, func(file string) bool {
		text, err := os.ReadFile(file)
		if err != nil {
			return false
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
		return err == nil && alive(pid)
	})
}

func isMounted(point string) bool {
	return exec.Command("mountpoint", "--quiet", point).Run() == nil
}

// A killed run's dead device is taken away, that of a cluster which runs is not.
func TestRemainsAreTakenAway(t *testing.T) {
	c := demo(t, "64MiB")
	c.guard()
	c.run("a", "volume", "attach", c.name)
	device := must(c.blockDevice("a")).Address
	if gone := c.takeAway(device); len(gone) > 0 {
		t.Fatalf("taken away from a cluster that runs: %q", gone)
	}
	for _, node := range c.nodes {
		c.kill(node)
	}
	if gone := c.takeAway(device); len(gone) < 2 || !slices.Contains(gone, device) {
		t.Errorf("%s is not among what was taken away: %q", device, gone)
	}
	for _, node := range c.nodes {
		c.start(node)
	}
	c.run("a", "volume", "attach", c.name)
}

func (c *cluster) takeAway(device string) []string {
	c.t.Helper()
	gone, err := takeAwayRemains(func(whose string) bool { return whose == c.dir || whose == device })
	if err != nil {
		c.t.Fatal(err)
	}
	return gone
}
