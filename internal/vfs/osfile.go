package vfs

import (
	"errors"
	"io"
	"io/fs"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// osFile is a file or block device of the machine. It keeps the bare descriptor: reads and writes of regular files and
// block devices need no poller.
type osFile struct {
	mu     sync.RWMutex // read-held during every call, write-held by Close
	fd     int          // -1: closed
	path   string
	device bool
	memory bool // on a file system that never waits for a disk
}

// enter keeps the descriptor open until f.mu.RUnlock, if it is open.
func (f *osFile) enter() error {
	f.mu.RLock()
	if f.fd < 0 {
		f.mu.RUnlock()
		return fs.ErrClosed
	}
	return nil
}

func (f *osFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.enter(); err != nil {
		return 0, fail("read", f.path, off, err)
	}
	defer f.mu.RUnlock()
	done := 0
	for done < len(p) {
		n, err := unix.Pread(f.fd, p[done:], off+int64(done))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return done, fail("read", f.path, off, err)
		case n == 0:
			return done, io.EOF
		default:
			done += n
		}
	}
	return done, nil
}

func (f *osFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.enter(); err != nil {
		return 0, fail("write", f.path, off, err)
	}
	defer f.mu.RUnlock()
	n, err := f.write(p, off)
	return n, fail("write", f.path, off, err)
}

func (f *osFile) write(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.Pwrite(f.fd, p[done:], off+int64(done))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return done, err
		case n == 0:
			return done, io.ErrShortWrite
		default:
			done += n
		}
	}
	return done, nil
}

func (f *osFile) ReadNowait(p []byte, off int64) (int, bool, error) {
	if len(p) == 0 {
		return 0, true, nil
	}
	if err := f.enter(); err != nil {
		return 0, false, fail("read", f.path, off, err)
	}
	defer f.mu.RUnlock()
	if f.memory { // it does not know RWF_NOWAIT, and does not need it
		n, err := retry(func() (int, error) { return unix.Pread(f.fd, p, off) })
		return n, n == len(p), fail("read", f.path, off, err)
	}
	iov := unix.Iovec{Base: &p[0]}
	iov.SetLen(len(p))
	// The offset goes in two halves; the system puts them together from the first alone on 64 bits.
	n, _, errno := syscall.Syscall6(unix.SYS_PREADV2, uintptr(f.fd), uintptr(unsafe.Pointer(&iov)), 1,
		uintptr(off), 0, unix.RWF_NOWAIT)
	switch {
	case errno == unix.EAGAIN || errno == unix.EINTR || errno == unix.EOPNOTSUPP || errno == unix.ENOSYS:
		return 0, false, nil
	case errno != 0:
		return 0, false, fail("read", f.path, off, errno)
	}
	return int(n), int(n) == len(p), nil
}

func (f *osFile) Datasync() error {
	if err := f.enter(); err != nil {
		return fail("sync", f.path, 0, err)
	}
	defer f.mu.RUnlock()
	_, err := retry(func() (int, error) { return 0, unix.Fdatasync(f.fd) })
	return fail("sync", f.path, 0, err)
}

func (f *osFile) Forget(off, n int64) error {
	if err := f.enter(); err != nil {
		return fail("forget", f.path, off, err)
	}
	defer f.mu.RUnlock()
	_, err := retry(func() (int, error) { return 0, unix.Fadvise(f.fd, off, n, unix.FADV_DONTNEED) })
	return fail("forget", f.path, off, err)
}

func (f *osFile) Truncate(size int64) error {
	if f.device {
		return fail("truncate", f.path, 0, errors.New("a block device has the size that it has"))
	}
	if err := f.enter(); err != nil {
		return fail("truncate", f.path, 0, err)
	}
	defer f.mu.RUnlock()
	_, err := retry(func() (int, error) { return 0, unix.Ftruncate(f.fd, size) })
	return fail("truncate", f.path, 0, err)
}

func (f *osFile) Size() (int64, error) {
	if err := f.enter(); err != nil {
		return 0, fail("size", f.path, 0, err)
	}
	defer f.mu.RUnlock()
	n, err := f.size()
	return n, fail("size", f.path, 0, err)
}

func (f *osFile) size() (int64, error) {
	if f.device {
		var bytes uint64
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(f.fd), unix.BLKGETSIZE64, uintptr(unsafe.Pointer(&bytes)))
		if errno != 0 {
			return 0, errno
		}
		return int64(bytes), nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(f.fd, &st); err != nil {
		return 0, err
	}
	return st.Size, nil
}

func (f *osFile) Identity() (Identity, error) {
	if err := f.enter(); err != nil {
		return Identity{}, fail("identity", f.path, 0, err)
	}
	defer f.mu.RUnlock()
	var st unix.Stat_t
	if err := unix.Fstat(f.fd, &st); err != nil {
		return Identity{}, fail("identity", f.path, 0, err)
	}
	if !f.device {
		return Identity{KindFile, uint64(st.Dev), st.Ino, st.Size, st.Ctim.Nano(), fileSystemName(f.fd)}, nil
	}
	size, err := f.size()
	return Identity{KindDevice, uint64(st.Rdev), 0, size, 0, diskName(st.Rdev)}, fail("identity", f.path, 0, err)
}

func (f *osFile) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fd < 0 {
		return fail("close", f.path, 0, fs.ErrClosed)
	}
	err := unix.Close(f.fd)
	f.fd = -1
	if err == unix.EINTR {
		err = nil // Linux has closed it all the same
	}
	return fail("close", f.path, 0, err)
}
