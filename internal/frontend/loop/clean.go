package loop

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"keelson/internal/blockdev"
)

// Left is a loop device that an earlier process left and that somebody still holds: it answers with errors, and goes when
// they let it go.
type Left struct {
	Path    string
	Holders []blockdev.Holder
}

// Clean removes what an earlier process that served o.Mount left: its connection, its mount, its loop devices. It returns
// those loop devices that are still held. It ends in any case: what hangs is aborted.
func Clean(ctx context.Context, o Options) (left []Left, err error) {
	if mounted(o.Mount) {
		err = errors.Join(Abort(o.Mount), o.unmount())
	}
	devices, found := o.devices()
	err = errors.Join(err, found)
	for _, path := range devices {
		holders, released := o.release(ctx, path, shared)
		err = errors.Join(err, released)
		if len(holders) > 0 {
			left = append(left, Left{path, holders})
		}
	}
	return left, err
}

// Stale are the loop devices of this mount's file that are not the one at path, with who holds them. It changes nothing.
func Stale(o Options, path string) (left []Left, err error) {
	devices, err := o.devices()
	for _, device := range devices {
		if device == path {
			continue
		}
		holders, looked := blockdev.Holders(device)
		err = errors.Join(err, looked)
		left = append(left, Left{device, holders})
	}
	return left, err
}

// mounted reports whether something of ours is mounted there.
func mounted(point string) bool {
	mounts, _ := blockdev.Mounts() // what cannot be read is not there
	for _, m := range mounts {
		if m.Point == point && m.Type == "fuse."+typeName {
			return true
		}
	}
	return false
}

// devices are the loop devices on this mount's file, by what /sys says of their files: the name stays when the mount goes.
func (o Options) devices() ([]string, error) {
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	var devices []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // released meanwhile
		}
		backing := strings.TrimSuffix(strings.TrimSpace(string(text)), " (deleted)")
		if filepath.Base(backing) == o.fileName() {
			devices = append(devices, "/dev/"+strings.Split(file, "/")[3])
		}
	}
	return devices, nil
}
