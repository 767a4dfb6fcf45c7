package loop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"keelson/internal/blockdev"
)

// help runs a helper and returns what it says. One that does not end in time waits for the connection: that is aborted,
// and the helper ends.
func (o Options) help(ctx context.Context, args ...string) (string, error) {
	command := append(append([]string(nil), o.Helper...), args...)
	cmd := exec.Command(command[0], command[1:]...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("helper: %w", err)
	}
	ended := make(chan struct{})
	var how error
	go func() { how = cmd.Wait(); close(ended) }() // ends with the process, which the abort below ends at the latest
	limit := time.NewTimer(helperMax)
	defer limit.Stop()
	var late error
	select {
	case <-ended:
		return out.String(), helperError(how, &said)
	case <-limit.C:
		late = fmt.Errorf("helper %s: not done within %s", args[0], helperMax)
	case <-ctx.Done():
		late = fmt.Errorf("helper %s: %w", args[0], ctx.Err())
	}
	_ = cmd.Process.Kill() // it ends when what it waits for is aborted
	late = errors.Join(late, Abort(o.Mount))
	select {
	case <-ended:
	case <-time.After(helperMax):
		late = errors.Join(late, fmt.Errorf("process %d of the helper does not end", cmd.Process.Pid))
	}
	return "", late
}

func helperError(err error, said *bytes.Buffer) error {
	if err != nil && said.Len() > 0 {
		return errors.New(strings.TrimSpace(said.String()))
	}
	return err
}

// A released loop device may be held for a moment more by whoever looks at new devices; so long it is waited for.
const (
	releaseMax  = time.Second
	releaseLook = 10 * time.Millisecond
)

// How a loop device is released: only if it is not mounted or held exclusively otherwise, or in any case.
const (
	exclusive = "exclusive"
	shared    = "shared"
)

// release makes the kernel let the loop device go and returns who still holds it.
func (o Options) release(ctx context.Context, path, how string) ([]blockdev.Holder, error) {
	_, err := o.help(ctx, "release", path, how)
	for end := time.Now().Add(releaseMax); ; {
		if !bound(path) {
			return nil, err
		}
		holders, looked := blockdev.Holders(path)
		mounted := slices.ContainsFunc(holders, func(h blockdev.Holder) bool { return h.Kind != "process" })
		if err != nil || looked != nil || mounted || time.Now().After(end) {
			if len(holders) == 0 {
				holders = []blockdev.Holder{{Kind: "device", Device: "the kernel"}}
			}
			return holders, errors.Join(err, looked)
		}
		select {
		case <-time.After(releaseLook):
		case <-ctx.Done():
			return holders, ctx.Err()
		}
	}
}

// bound reports whether the loop device is on a file.
func bound(path string) bool {
	_, err := os.Stat(filepath.Join("/sys/block", filepath.Base(path), "loop"))
	return err == nil
}

// HelperMain is what a helper does: "configure FILE BLOCKBYTES" prints the loop device that it made, "release DEVICE
// HOW" lets one go. It is a process of its own and not the one that serves the file.
func HelperMain(args []string) (string, error) {
	switch {
	case len(args) == 3 && args[0] == "configure":
		size, err := strconv.ParseUint(args[2], 10, 16)
		if err != nil {
			return "", err
		}
		return configure(args[1], uint32(size))
	case len(args) == 3 && args[0] == "release":
		return "", release(args[1], args[2])
	}
	return "", fmt.Errorf("a helper cannot %q", args)
}

// configureTries is how often another process may take the free loop device first.
const configureTries = 100

// configure makes a loop device on the file. The file is closed when it returns: the loop device has its own hold on it.
func configure(file string, blockSize uint32) (string, error) {
	fd, err := unix.Open(file, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("open %s: %w", file, err)
	}
	defer unix.Close(fd)
	control, err := unix.Open("/dev/loop-control", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("/dev/loop-control: %w", err)
	}
	defer unix.Close(control)
	for range configureTries {
		number, err := unix.IoctlRetInt(control, unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return "", fmt.Errorf("no free loop device: %w", err)
		}
		path, err := node(number)
		if err != nil {
			return "", err
		}
		if err = bind(path, fd, blockSize, filepath.Base(file)); err == nil {
			return path, nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return "", fmt.Errorf("%s: %w", path, err)
		}
	}
	return "", fmt.Errorf("every free loop device was taken by somebody else, %d times", configureTries)
}

// loopMajor is the major number of loop devices.
const loopMajor = 7

// node is the device's name in /dev, which is made where nobody does that.
func node(number int) (string, error) {
	path := fmt.Sprintf("/dev/loop%d", number)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	err := unix.Mknod(path, unix.S_IFBLK|0o600, int(unix.Mkdev(loopMajor, uint32(number))))
	if errors.Is(err, unix.EEXIST) {
		err = nil
	}
	return path, err
}

// bind puts the loop device onto the open file.
func bind(path string, fd int, blockSize uint32, name string) error {
	dev, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dev)
	config := unix.LoopConfig{Fd: uint32(fd), Size: blockSize}
	config.Info.Flags = unix.LO_FLAGS_DIRECT_IO
	copy(config.Info.File_name[:len(config.Info.File_name)-1], name)
	return unix.IoctlLoopConfigure(dev, &config)
}

// release lets the loop device go; while somebody else has it open the kernel does that at the last close.
func release(path, how string) error {
	flags := unix.O_RDWR | unix.O_CLOEXEC
	if how == exclusive {
		flags |= unix.O_EXCL // a mounted file system has it so too
	}
	dev, err := unix.Open(path, flags, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer unix.Close(dev)
	if err := unix.IoctlSetInt(dev, unix.LOOP_CLR_FD, 0); err != nil && !errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("release %s: %w", path, err)
	}
	return nil
}
