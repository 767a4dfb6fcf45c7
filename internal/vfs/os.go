package vfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// OS is the machine's file system.
var OS FS = system{}

type system struct{}

// reopenMax bounds how often Open starts anew because the name was given to another file between open and lock.
const reopenMax = 10

func (system) Open(path string, flags Flag) (File, error) {
	for range reopenMax {
		f, err := openOnce(path, flags)
		if err != nil {
			return nil, err
		}
		if flags&Lock == 0 || f.device || f.named(path) {
			return f, nil
		}
		f.Close()
	}
	return nil, fail("open", path, 0, errors.New("its name was given to another file again and again"))
}

func openOnce(path string, flags Flag) (*osFile, error) {
	mode := unix.O_CLOEXEC | unix.O_NOCTTY | unix.O_RDWR
	if flags&ReadOnly != 0 {
		mode = mode&^unix.O_RDWR | unix.O_RDONLY
	}
	var st unix.Stat_t
	device := unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK
	switch {
	case device && flags&Lock != 0:
		mode |= unix.O_EXCL // without O_CREAT on a block device: nobody else may hold it
	case !device && flags&Create != 0:
		mode |= unix.O_CREAT
		if flags&Exclusive != 0 {
			mode |= unix.O_EXCL
		}
	case device && flags&Exclusive != 0:
		return nil, fail("open", path, 0, fs.ErrExist)
	}
	// O_NONBLOCK only for the open itself: a FIFO in the way must not block it.
	fd, err := retry(func() (int, error) { return unix.Open(path, mode|unix.O_NONBLOCK, 0o600) })
	if err == unix.EBUSY {
		err = ErrInUse
	}
	if err != nil {
		return nil, fail("open", path, 0, err)
	}
	f := &osFile{fd: fd, path: path, memory: inMemory(fd)}
	if err := f.admit(device, flags); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return f, nil
}

// admit checks what was opened, and locks it.
func (f *osFile) admit(device bool, flags Flag) error {
	var st unix.Stat_t
	if err := unix.Fstat(f.fd, &st); err != nil {
		return fail("open", f.path, 0, err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFBLK:
		f.device = true
	default:
		return fail("open", f.path, 0, errors.New("is neither a file nor a block device: name one"))
	}
	if f.device != device && flags&Lock != 0 && (f.device || device) {
		return fail("open", f.path, 0, errors.New("changed its kind while it was opened: try again"))
	}
	if err := unix.SetNonblock(f.fd, false); err != nil {
		return fail("open", f.path, 0, err)
	}
	if f.device && flags&ReadOnly == 0 {
		if ro, err := unix.IoctlGetInt(f.fd, unix.BLKROGET); err == nil && ro != 0 { // Linux opens it all the same
			return fail("open", f.path, 0, unix.EROFS)
		}
	}
	if f.device || flags&Lock == 0 {
		return nil
	}
	_, err := retry(func() (int, error) { return 0, unix.Flock(f.fd, unix.LOCK_EX|unix.LOCK_NB) })
	if err == unix.EWOULDBLOCK {
		err = ErrInUse
	}
	return fail("lock", f.path, 0, err)
}

// named reports whether the path still leads to this file.
func (f *osFile) named(path string) bool {
	var a, b unix.Stat_t
	return unix.Fstat(f.fd, &a) == nil && unix.Stat(path, &b) == nil && a.Dev == b.Dev && a.Ino == b.Ino
}

func (system) Remove(path string) error {
	return fail("remove", path, 0, cause(os.Remove(path)))
}

func (system) Rename(from, to string) error {
	return fail("rename", from, 0, cause(os.Rename(from, to)))
}

func (system) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fail("syncdir", dir, 0, cause(err))
	}
	defer d.Close()
	return fail("syncdir", dir, 0, cause(d.Sync()))
}

func (s system) MkdirAll(dir string) error {
	st, err := os.Stat(dir)
	if err == nil && st.IsDir() {
		return nil
	}
	if err == nil {
		return fail("mkdir", dir, 0, fmt.Errorf("a file is in the way: %w", fs.ErrExist))
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := s.MkdirAll(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fail("mkdir", dir, 0, cause(err))
	}
	return s.SyncDir(parent)
}

func (system) Stat(path string) (Identity, error) {
	f, err := openOnce(path, ReadOnly)
	if err != nil {
		return Identity{}, err
	}
	defer f.Close()
	return f.Identity()
}

func (system) List(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fail("list", dir, 0, cause(err))
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

func (system) RemoveAll(dir string) error {
	return fail("remove", dir, 0, cause(os.RemoveAll(dir)))
}

// cause strips the os package's own wrapping: Error names operation and path itself.
func cause(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	var l *os.LinkError
	if errors.As(err, &l) {
		return l.Err
	}
	return err
}

// retry repeats a system call that a signal interrupted.
func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err != unix.EINTR {
			return n, err
		}
	}
}

// inMemory reports whether the open file is on a tmpfs or ramfs.
func inMemory(fd int) bool {
	var s unix.Statfs_t
	return unix.Fstatfs(fd, &s) == nil && (s.Type == unix.TMPFS_MAGIC || s.Type == unix.RAMFS_MAGIC)
}
