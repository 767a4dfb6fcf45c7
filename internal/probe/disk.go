package probe

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"keelson/internal/blockdev"
	"keelson/internal/preflight"
	"keelson/internal/vfs"
)

// Disk looks at the file or block device of a copy, or of one that is meant to be made (mine is false then): state is the state
// directory, device that of the volume's own block device, "" if it has none.
func Disk(path, state, device string, mine, quick bool) preflight.Disk {
	d := preflight.Disk{Path: path, Kind: preflight.KindNone}
	folder := filepath.Dir(path)
	info, err := os.Stat(path)
	switch {
	case err != nil && exists(path):
		d.Err = err.Error()
		return d
	case err != nil && !exists(folder):
		d.Err = folder + " does not exist"
		return d
	}
	if d.RoomBytes, err = Room(folder); err != nil {
		d.Err = err.Error()
		return d
	}
	if info == nil {
		return d
	}
	below := Below(state)
	switch mode := info.Mode(); {
	case mode.IsRegular():
		d.Kind, d.SizeBytes = preflight.KindFile, info.Size()
		d.Holders = loops(path)
		d.StateOnIt = below[fileName(path)]
	case mode&os.ModeDevice != 0 && mode&os.ModeCharDevice == 0:
		d.Kind = preflight.KindDevice
		ask(&d)
		d.StateOnIt = below[deviceName(path)]
	default:
		d.Kind = preflight.KindOther
		return d
	}
	if device != "" && below[deviceName(device)] {
		d.StateOnIt = true
	}
	if mine {
		d.Holders = nil
	} else if d.InUse == "" {
		d.InUse = alone(path)
	}
	if !quick {
		d.Flush = Flush(path)
	}
	return d
}

// alone says why the path cannot be opened for this process alone; "" if it can.
func alone(path string) string {
	f, err := vfs.OS.Open(path, vfs.ReadOnly|vfs.Lock)
	if err == nil {
		err = f.Close()
	}
	var e *vfs.Error
	switch {
	case err == nil:
		return ""
	case errors.Is(err, vfs.ErrInUse):
		return "somebody else has it"
	case errors.As(err, &e):
		return e.Err.Error()
	}
	return err.Error()
}

// ask asks the kernel about a block device, without reading from it.
func ask(d *preflight.Disk) {
	if err := measure(d); err != nil {
		d.Err = err.Error()
		return
	}
	var holders []blockdev.Holder
	device, err := blockdev.Device(d.Path)
	if err == nil {
		holders, err = blockdev.Holders(device)
	}
	if err != nil {
		d.Err = "who uses it is not known: " + err.Error()
	}
	for _, h := range holders {
		d.Holders = append(d.Holders, h.String())
	}
}

// measure fills in sizes. It has the device open only as long as it runs, so that this process is not among its holders.
func measure(d *preflight.Disk) error {
	f, err := os.OpenFile(d.Path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if d.SizeBytes, err = f.Seek(0, io.SeekEnd); err != nil {
		return err
	}
	if n, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET); err == nil {
		d.BlockBytes = int64(n)
	}
	if ro, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKROGET); err == nil && ro != 0 {
		d.InUse = "it is read-only"
	}
	return nil
}

// loops are the loop devices that have the file behind them.
func loops(path string) (holders []string) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil
	}
	found, _ := filepath.Glob("/sys/block/loop*/loop/backing_file") // the pattern is a good one
	for _, name := range found {
		if text, err := os.ReadFile(name); err == nil && strings.TrimSpace(string(text)) == real {
			holders = append(holders, "behind /dev/"+filepath.Base(filepath.Dir(filepath.Dir(name))))
		}
	}
	return holders
}

// deviceName and fileName name what Below may contain; "" if the path leads to none.
func deviceName(path string) string {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return ""
	}
	return number(st.Rdev)
}

func fileName(path string) string {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return ""
	}
	return fmt.Sprintf("file %d %d", st.Dev, st.Ino)
}

func number(dev uint64) string { return fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev)) }
