package vfs

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"

	"keelson/internal/block"
)

const (
	zeroPieceBytes  = 1 << 20   // written at a time where the system can't zero
	zeroStepBytes   = 256 << 20 // zeroed by one system call, which no signal interrupts
	extentsMax      = 1024      // of one Extents call
	ioctlBLKZEROOUT = 0x127f    // _IO(0x12, 127)
)

var zeroPiece [zeroPieceBytes]byte

// Zero never relies on a discard: what a device reads as after one is its own choice.
func (f *osFile) Zero(off, n int64, punch bool) error {
	if err := f.enter(); err != nil {
		return fail("zero", f.path, off, err)
	}
	defer f.mu.RUnlock()
	size, err := f.size()
	if err == nil {
		err = inside(off, n, size)
	}
	if err != nil {
		return fail("zero", f.path, off, err)
	}
	step := f.zeroFile
	if f.device {
		step = f.zeroDevice
	}
	for n > 0 {
		piece := min(n, zeroStepBytes-off%zeroStepBytes)
		if err := step(off, piece, punch); err != nil {
			return fail("zero", f.path, off, err)
		}
		off, n = off+piece, n-piece
	}
	return nil
}

func (f *osFile) zeroFile(off, n int64, punch bool) error {
	mode := uint32(unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE)
	if punch {
		mode = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	}
	err := f.fallocate(mode, off, n)
	if unsupported(err) {
		return f.zeroByWriting(off, n)
	}
	return err
}

// zeroDevice zeroes whole sectors by the system (which writes zeroes itself where the device has no command for it), the rest by writing.
func (f *osFile) zeroDevice(off, n int64, punch bool) error {
	first, last := (off+SectorBytes-1)/SectorBytes*SectorBytes, (off+n)/SectorBytes*SectorBytes
	if first >= last {
		return f.zeroByWriting(off, n)
	}
	err := error(unix.EOPNOTSUPP)
	if punch { // a device answers this one only if what it unmaps is sure to read as zero
		err = f.fallocate(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, first, last-first)
	}
	if unsupported(err) {
		err = f.zeroOut(first, last-first)
	}
	if unsupported(err) {
		return f.zeroByWriting(off, n)
	}
	if err == nil {
		err = f.zeroByWriting(off, first-off)
	}
	if err == nil {
		err = f.zeroByWriting(last, off+n-last)
	}
	return err
}

func (f *osFile) fallocate(mode uint32, off, n int64) error {
	_, err := retry(func() (int, error) { return 0, unix.Fallocate(f.fd, mode, off, n) })
	return err
}

func (f *osFile) zeroOut(off, n int64) error {
	span := [2]uint64{uint64(off), uint64(n)}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(f.fd), ioctlBLKZEROOUT, uintptr(unsafe.Pointer(&span)))
	if errno != 0 {
		return errno
	}
	return nil
}

func (f *osFile) zeroByWriting(off, n int64) error {
	for n > 0 {
		piece := min(n, zeroPieceBytes)
		if _, err := f.write(zeroPiece[:piece], off); err != nil {
			return err
		}
		off, n = off+piece, n-piece
	}
	return nil
}

// unsupported: the file system or device has no such operation, or not for this range (a 4096-byte sector).
func unsupported(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EINVAL)
}

func (f *osFile) Extents(off, n int64) ([]block.Extent, error) {
	if err := f.enter(); err != nil {
		return nil, fail("extents", f.path, off, err)
	}
	defer f.mu.RUnlock()
	size, err := f.size()
	if err == nil {
		err = inside(off, n, size)
	}
	if err != nil {
		return nil, fail("extents", f.path, off, err)
	}
	if f.device {
		return []block.Extent{{Len: n}}, nil
	}
	list, err := f.seek(off, off+n)
	return list, fail("extents", f.path, off, err)
}

// seek walks data and holes. The descriptor's own offset, which it moves, is used by nothing else.
func (f *osFile) seek(off, end int64) ([]block.Extent, error) {
	var list []block.Extent
	for off < end && len(list) < extentsMax {
		data, err := unix.Seek(f.fd, off, unix.SEEK_DATA)
		switch {
		case err == unix.ENXIO:
			data = end // a hole up to the end
		case unsupported(err):
			return append(list, block.Extent{Len: end - off}), nil
		case err != nil:
			return nil, err
		}
		if data = min(data, end); data > off {
			list = append(list, block.Extent{Len: data - off, Hole: true, Zero: true})
			off = data
			continue
		}
		hole, err := unix.Seek(f.fd, off, unix.SEEK_HOLE)
		if err != nil {
			return nil, err
		}
		hole = min(hole, end)
		if hole <= off { // the file changed between the calls: call it data
			hole = end
		}
		list = append(list, block.Extent{Len: hole - off})
		off = hole
	}
	return list, nil
}
