package vfs

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"keelson/internal/block"
)

// Errors that callers tell apart with errors.Is, besides fs.ErrNotExist, fs.ErrExist, fs.ErrPermission and fs.ErrClosed.
var (
	ErrInUse   = errors.New("in use by another process, or twice by this one")
	ErrNoSpace = errors.New("no space left on device")
)

// Error says which operation failed on which file, and why.
type Error struct {
	Op   string // open, lock, read, write, sync, forget, zero, extents, truncate, size, identity, remove, rename, syncdir, mkdir, stat, list
	Path string
	Off  int64 // of read, write and zero
	Err  error
}

// Error implements error: operation, object, cause, and what to do next where that is known.
func (e *Error) Error() string {
	at := ""
	if e.Op == "read" || e.Op == "write" || e.Op == "zero" {
		at = fmt.Sprintf(" at %d", e.Off)
	}
	s := fmt.Sprintf("%s %s%s: %v", e.Op, e.Path, at, e.Err)
	if hint := e.Hint(); hint != "" {
		s += ": " + hint
	}
	return s
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is maps the system's numbers to ErrInUse and ErrNoSpace (also block.ErrNoSpace); a disk quota that is used up counts as no space.
func (e *Error) Is(target error) bool {
	switch target {
	case ErrNoSpace, block.ErrNoSpace:
		return errors.Is(e.Err, ErrNoSpace) || errors.Is(e.Err, syscall.ENOSPC) || errors.Is(e.Err, syscall.EDQUOT)
	}
	return false
}

// Hint is what to do next; "" if nothing general can be said.
func (e *Error) Hint() string {
	switch {
	case errors.Is(e, ErrNoSpace):
		return "free some space on the file system that holds it, then try again"
	case errors.Is(e, ErrInUse):
		return "stop what uses it (lsof or fuser show it), or name another path"
	case errors.Is(e, fs.ErrNotExist):
		return "check the path"
	case errors.Is(e, syscall.EROFS):
		return "mount the file system for writing, or set the device to read-write"
	case errors.Is(e, fs.ErrPermission):
		return "give this user the right to read and write it"
	case errors.Is(e, syscall.EIO), errors.Is(e, syscall.EREMOTEIO), errors.Is(e, syscall.ENODATA), errors.Is(e, syscall.EUCLEAN):
		return "the disk failed: see the kernel's log, replace the disk"
	case errors.Is(e, syscall.ENXIO), errors.Is(e, syscall.ENODEV), errors.Is(e, syscall.ENOMEDIUM):
		return "the device is gone: see the kernel's log"
	}
	return ""
}

func fail(op, path string, off int64, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Op: op, Path: path, Off: off, Err: err}
}

// inside returns nil if the range lies inside size bytes.
func inside(off, n, size int64) error {
	if off < 0 || n < 0 || off > size || n > size-off {
		return fmt.Errorf("%d bytes at %d are outside of its %d bytes: %w", n, off, size, syscall.EINVAL)
	}
	return nil
}
