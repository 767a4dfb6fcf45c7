package attach

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"keelson/internal/block"
	"keelson/internal/blockdev"
	"keelson/internal/frontend/loop"
	"keelson/internal/frontend/nbdkernel"
)

// kindsInOrder are the kinds of devices, best first.
var kindsInOrder = []struct {
	name      string
	supported func() error
}{
	{NBD, nbdkernel.Supported}, // a restart of the agent fails no request
	{Loop, loop.Supported},
}

// choose picks the kind: the one wished for, or the best that this machine has.
func (a *Attachment) choose() (string, error) {
	if !a.o.Kernel {
		return "", errors.New("this agent has no kernel to give it one")
	}
	wished := a.wish.Attach
	if wished == Auto {
		wished = a.o.Kind
	}
	var why []error
	for _, k := range kindsInOrder {
		if wished != Auto && wished != k.name {
			continue
		}
		err := k.supported()
		if err == nil {
			return k.name, nil
		}
		why = append(why, fmt.Errorf("%s: %w", k.name, err))
	}
	if len(why) == 0 {
		return "", fmt.Errorf("this version has no devices of kind %q", wished)
	}
	return "", fmt.Errorf("this machine cannot have one: %w", errors.Join(why...))
}

// make makes a device of that kind.
func (a *Attachment) make(ctx context.Context, kind string, usable block.Device) (device, error) {
	if kind != NBD {
		a.endLeft() // of an earlier wish
		return loop.Attach(ctx, usable, a.o.Loop)
	}
	return nbdkernel.Attach(a.o.NBD)
}

// endLeft ends the devices of the kernel's NBD client that an earlier agent left, and that wait for the volume.
func (a *Attachment) endLeft() {
	for _, index := range nbdkernel.Left(a.o.NBD.Backend) {
		err := nbdkernel.Drop(index)
		a.letGo(fmt.Sprintf("/dev/nbd%d", index), "the agent that served it ended")
		if err != nil {
			a.o.Note("warning", fmt.Sprintf("/dev/nbd%d, the block device of an agent that ended: %v", index, err), "nbd-client -d ends it")
		}
	}
}

// clean removes what an earlier agent, which was killed, left here.
func (a *Attachment) clean() {
	if !a.o.Kernel {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), cleanMax)
	defer cancel()
	left, err := loop.Clean(ctx, a.o.Loop)
	if err != nil {
		a.o.Note("warning", fmt.Sprintf("what an earlier agent left of its block device: %v", err), "look at it (losetup, mount)")
	}
	for _, l := range left {
		a.letGo(l.Path, "the agent that served "+l.Path+" ended")
	}
	for _, l := range left {
		holders, err := blockdev.Holders(l.Path)
		if err == nil && len(holders) == 0 {
			continue // it was held by our own mount
		}
		if len(a.left) == 0 { // said once
			a.o.Note("warning", fmt.Sprintf("%s, the block device of an agent that ended, answers with errors, and it is %s", l.Path, blockdev.Join(holders)), HowToLetGo(holders))
		}
	}
	a.stale()
	target, err := os.Readlink(a.o.Link)
	if err == nil && (isFree(target) || slices.ContainsFunc(a.left, func(l loop.Left) bool { return l.Path == target })) {
		_ = os.Remove(a.o.Link) // what cannot be removed is in the way of the next device, which says so
	}
}

// cleanMax is how long the remains of an earlier agent may take.
const cleanMax = 60 * time.Second

// stale looks which earlier devices are still held.
func (a *Attachment) stale() {
	path := ""
	if a.dev != nil {
		path = a.dev.Path()
	}
	found, err := loop.Stale(a.o.Loop, path)
	if err != nil {
		a.o.Log.Warn("earlier block devices", "volume", a.o.Volume, "err", err)
	}
	if a.waits() && time.Now().After(a.until) {
		a.endLeft() // the volume is not coming back here in time: who waits for it is told
	}
	a.left, a.look = found, nil
	if len(a.left) > 0 || a.waits() {
		a.look = time.After(staleLook)
	}
}

// waits reports whether a device of an earlier agent waits for the volume.
func (a *Attachment) waits() bool {
	return a.dev == nil && len(nbdkernel.Left(a.o.NBD.Backend)) > 0
}

// checkLink refuses a stable name that somebody else has.
func (a *Attachment) checkLink(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&os.ModeSymlink == 0 {
		return fmt.Errorf("%s exists and is no link; remove it, or give this agent another directory ([device] directory)", path)
	}
	if target, err := os.Readlink(path); err == nil && !isFree(target) && !nbdkernel.Owns(a.o.NBD.Backend, target) {
		return fmt.Errorf("%s leads to %s, which is in use: does another agent use the same directory? give each its own ([device] directory)", path, target)
	}
	return nil
}

// isFree reports whether the device is one that nobody uses: a loop device without a file, or none at all.
func isFree(path string) bool {
	name := filepath.Base(path)
	size, err := os.ReadFile(filepath.Join("/sys/class/block", name, "size"))
	return err != nil || strings.TrimSpace(string(size)) == "0"
}

// link makes the stable name lead to the device.
func link(path, to string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	temporary := path + newSuffix
	_ = os.Remove(temporary) // of an agent that was killed
	if err := os.Symlink(to, temporary); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}

// unlink removes the stable name if it leads to that device.
func unlink(path, to string) error {
	if target, err := os.Readlink(path); err != nil || target != to {
		return nil // it is somebody else's now
	}
	return os.Remove(path)
}
