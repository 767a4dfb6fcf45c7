package loop

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"keelson/internal/blockdev"
)

// connectionsDir is where the kernel's control files of FUSE connections are (file system fusectl).
const connectionsDir = "/sys/fs/fuse/connections"

// Abort ends the FUSE connection of the mount: every request that waits, and every later one, ends with an error. It waits
// for nobody and touches nothing that could hang, so that it works whatever became of the process that serves it. A folder
// on which nothing of ours is mounted is an error.
func Abort(mount string) error {
	mounts, err := blockdev.Mounts()
	if err != nil {
		return err
	}
	found := false
	for _, m := range mounts {
		if m.Point != mount || m.Type != "fuse."+typeName {
			continue
		}
		found = true
		// The number of a connection is the minor of its file system's device.
		if err := abortConnection(m.Minor); err != nil {
			if forced := unix.Unmount(mount, unix.MNT_FORCE|unix.UMOUNT_NOFOLLOW); forced != nil && !errors.Is(forced, unix.EBUSY) {
				return errors.Join(err, fmt.Errorf("umount --force %s: %w", mount, forced))
			}
		}
	}
	if !found {
		return fmt.Errorf("nothing of Keelson's is mounted at %s", mount)
	}
	return nil
}

func abortConnection(number uint32) error {
	file := filepath.Join(connectionsDir, strconv.Itoa(int(number)), "abort")
	err := os.WriteFile(file, []byte("1"), 0)
	if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	mounts, listed := blockdev.Mounts()
	if listed != nil || slices.ContainsFunc(mounts, func(m blockdev.Mount) bool { return m.Point == connectionsDir }) {
		return errors.Join(err, listed)
	}
	if mounted := unix.Mount("fusectl", connectionsDir, "fusectl", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); mounted != nil {
		return errors.Join(err, fmt.Errorf("mount fusectl: %w", mounted))
	}
	return os.WriteFile(file, []byte("1"), 0)
}
