package intentlog

import (
	"errors"
	"fmt"
	"io/fs"

	"keelson/internal/vfs"
)

// CorruptError says where a log's file is not what this Keelson wrote: damaged, from elsewhere, or of a newer format.
type CorruptError struct {
	File   string
	Offset int64 // bytes from its start
	Why    string
	Newer  bool // intact, but made by a newer Keelson
}

// Error implements error.
func (e *CorruptError) Error() string {
	if e.Newer {
		return fmt.Sprintf("intent log file %s was made by a newer Keelson (%s): start the newer version here", e.File, e.Why)
	}
	return fmt.Sprintf("intent log file %s is damaged at byte %d: %s: put back a whole copy of the directory as it was at the last stop, or remove this replica and add it again (a compare resync brings it in step)",
		e.File, e.Offset, e.Why)
}

// ErrFailed is in the chain of every error of a log that had a disk error: none of its durable calls works any more.
var ErrFailed = errors.New("the intent log failed")

var errClosed = fmt.Errorf("%w: it is closed", fs.ErrClosed)

// usable returns the log's first failure.
func (l *Log) usable() error {
	if err := l.failed.Load(); err != nil {
		return *err
	}
	return nil
}

func (l *Log) fail(err error) { l.failed.CompareAndSwap(nil, &err) }

// durable judges the outcome of I/O. No room on a write is returned and may be tried again: what was there before is
// still there. Any other error of a file, and whatever a sync says, makes the log failed: the kernel forgets what it could
// not write.
func (l *Log) durable(doing string, err error) error {
	if err == nil {
		return nil
	}
	err = fmt.Errorf("intent log %s: %s: %w", l.dir, doing, err)
	var v *vfs.Error
	if !errors.As(err, &v) || errors.Is(err, vfs.ErrNoSpace) && v.Op != "sync" && v.Op != "syncdir" {
		return err
	}
	l.fail(fmt.Errorf("%w: %w", ErrFailed, err))
	return l.usable()
}
