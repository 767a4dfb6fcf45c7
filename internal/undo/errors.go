package undo

import (
	"errors"
	"fmt"
	"io/fs"

	"keelson/internal/vfs"
)

// Errors that callers tell apart with errors.Is. No room on the disk is vfs.ErrNoSpace besides.
var (
	ErrFull     = errors.New("it is full")           // a limit in bytes, or in salvages, would be exceeded
	ErrFailed   = errors.New("the undo log failed")  // it had a disk error: nothing durable works until it is opened anew
	ErrNoAnchor = errors.New("there is no anchor")   // nothing to save for, nothing to roll back to
	ErrRolling  = errors.New("a rollback has begun") // which is repeated until Drop ends it
	ErrSaved    = errors.New("the region is saved already")
	ErrNotSaved = errors.New("not in the salvage") // a range of which the salvage does not have everything
	ErrUnknown  = errors.New("there is no such salvage")
	ErrInUse    = errors.New("a view of the salvage is open")
)

var errClosed = fmt.Errorf("%w: it is closed", fs.ErrClosed)

// CorruptError says where a file of an undo log or a salvage is not what this Keelson wrote.
type CorruptError struct {
	File   string
	Offset int64 // bytes from its start
	Why    string
	Newer  bool // intact, but made by a newer Keelson
}

// Error implements error.
func (e *CorruptError) Error() string {
	if e.Newer {
		return fmt.Sprintf("%s was made by a newer Keelson (%s): start the newer version here", e.File, e.Why)
	}
	return fmt.Sprintf("%s is damaged at byte %d: %s: check the disk that holds it; what it kept cannot be trusted any more, a resync brings the copy in step", e.File, e.Offset, e.Why)
}

func corrupt(file string, at int64, why string, args ...any) error {
	return &CorruptError{File: file, Offset: at, Why: fmt.Sprintf(why, args...)}
}

func newerFormat(file string, at int64, version uint16) error {
	return &CorruptError{File: file, Offset: at, Newer: true, Why: fmt.Sprintf("format %d; this one knows formats up to %d", version, formatVersion)}
}

// noRoom reports whether an error means that the disk is full, and nothing worse.
func noRoom(err error) bool { return errors.Is(err, vfs.ErrNoSpace) }
