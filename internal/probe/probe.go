// Package probe looks at this server for a check: what is at a path, how long a small write takes until it is durable, what the
// kernel offers. It writes nothing but one small file in the state directory, which it removes, and never into a copy.
package probe

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"keelson/internal/preflight"
	"keelson/internal/vfs"
)

// Limits of what is measured.
const (
	syncsMax   = 32
	syncBytes  = 4096
	flushesMax = 8
	EachMax    = time.Second // for one measurement, unless a single call takes longer
)

const testFile = "check.tmp"

// Folder measures a directory: its room, and small writes into it that are made durable.
func Folder(fsys vfs.FS, dir string, quick bool) preflight.Folder {
	f := preflight.Folder{Path: dir}
	room, err := Room(dir)
	if err != nil {
		f.Err = err.Error()
	}
	f.FreeBytes = room
	if !quick {
		f.Sync = syncs(fsys, filepath.Join(dir, testFile))
	}
	return f
}

// Room is what this process may still write to the file system of dir, in bytes.
func Room(dir string) (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return int64(s.Bavail) * s.Bsize, nil
}

// syncs writes a small file again and again and makes it durable each time.
func syncs(fsys vfs.FS, path string) preflight.Timing {
	f, err := fsys.Open(path, vfs.Create)
	if err != nil {
		return preflight.Timing{Err: err.Error()}
	}
	data := make([]byte, syncBytes)
	t := timed(syncsMax, func(i int) error {
		data[0] = byte(i)
		if _, err := f.WriteAt(data, 0); err != nil {
			return err
		}
		return f.Datasync()
	})
	if err := errors.Join(f.Close(), fsys.Remove(path)); err != nil && t.Err == "" {
		t.Err = err.Error()
	}
	return t
}

// Flush measures how long it takes until what was written to a file or device before is durable. It writes nothing itself.
func Flush(path string) preflight.Timing {
	f, err := os.Open(path)
	if err != nil {
		return preflight.Timing{Err: err.Error()}
	}
	defer f.Close()
	return timed(flushesMax, func(int) error { return unix.Fdatasync(int(f.Fd())) })
}

// timed does something up to max times, or until EachMax is over.
func timed(most int, do func(i int) error) preflight.Timing {
	var took []time.Duration
	for i, begin := 0, time.Now(); i < most && time.Since(begin) < EachMax; i++ {
		one := time.Now()
		if err := do(i); err != nil {
			return preflight.Timing{Err: err.Error()}
		}
		took = append(took, time.Since(one))
	}
	slices.Sort(took)
	return preflight.Timing{Times: len(took), Median: took[len(took)/2].Seconds(), Worst: took[len(took)-1].Seconds()}
}

// Files is how many files this process may have open.
func Files() uint64 {
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) != nil {
		return 0
	}
	return l.Cur
}

// exists reports whether there is something at the path.
func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
