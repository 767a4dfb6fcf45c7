// Package vfs is the one seam to files and disks: OS is the real one, Mem one in memory that can crash (process and
// power apart) and fail at any call. What is kept on a disk goes through it, so that crashes and disk errors are inputs.
//
// Atomicity that callers may rely on, everywhere: a sector of 512 bytes is written whole or not at all. Nothing larger
// is, nothing is durable before Datasync, and no name is durable before SyncDir of its directory.
package vfs

import "keelson/internal/block"

// SectorBytes is the largest unit that is written whole or not at all.
const SectorBytes = 512

// File is an open file or block device. All methods may be called concurrently; Close waits for calls under way.
type File interface {
	// ReadAt fills p; with fewer bytes it returns io.EOF at the end of the file, or an error.
	ReadAt(p []byte, off int64) (int, error)
	// WriteAt writes all of p or returns an error. It grows a file, never a device.
	WriteAt(p []byte, off int64) (int, error)
	// Datasync makes everything written before durable, the file's size included. After an error that is not known of
	// anything written before, and never will be: a later Datasync does not write it again.
	Datasync() error
	// Forget drops what memory holds of a range and the disk is believed to have, so that later reads are of the disk: after a
	// Datasync that failed, memory shows what never reached it. What is not written yet stays. As far as the system does it.
	Forget(off, n int64) error
	// Zero makes a range inside the file read as zero; the size stays. With punch its storage is given back where that is possible.
	Zero(off, n int64, punch bool) error
	// Extents reports allocation from off for at most n bytes, in order, without gaps; it may stop early. A device is all data.
	Extents(off, n int64) ([]block.Extent, error)
	// Truncate sets a file's size; what is new reads as zero. A device refuses.
	Truncate(size int64) error
	// Size in bytes; of a block device its capacity.
	Size() (int64, error)
	// Identity of what is open, as of now.
	Identity() (Identity, error)
	// Close gives up the handle and its lock. Later calls fail with fs.ErrClosed.
	Close() error
}

// Kinds of a File.
const (
	KindFile   = "file"
	KindDevice = "device"
)

// Identity tells whether a backing store is the one that it was, unchanged (rule 9). Comparable.
type Identity struct {
	Kind       string `json:"kind"`        // KindFile or KindDevice
	Dev        uint64 `json:"dev"`         // file: the device it is on; device: its own number
	Inode      uint64 `json:"inode"`       // 0 for devices
	Size       int64  `json:"size"`        // bytes
	ChangeTime int64  `json:"change_time"` // ns since 1970; 0 for devices
	// Disk names the disk, or the file's file system, for longer than Dev does, which a start of the machine may give to another one. "":
	// there is no such name. It is kept beside the rest, by whoever keeps it.
	Disk string `json:"-"`
}

// Flag modifies Open.
type Flag uint

// Flags of Open. Without Create the file must exist; without ReadOnly it is opened for both.
const (
	Create    Flag = 1 << iota // make the file if it is not there
	Exclusive                  // with Create: it must not be there
	ReadOnly
	Lock // nobody else may have it open with Lock: ErrInUse. A block device: nobody else may have it open exclusively, or mounted
)

// FS opens, names and removes files. All methods may be called concurrently.
type FS interface {
	Open(path string, flags Flag) (File, error)
	Remove(path string) error
	// Rename replaces what has the new name, atomically; durable after SyncDir.
	Rename(from, to string) error
	// SyncDir makes names made, changed or removed in the directory durable.
	SyncDir(dir string) error
	// MkdirAll makes the directory and its parents, durably.
	MkdirAll(dir string) error
	Stat(path string) (Identity, error)
	// List gives the names in a directory, ascending.
	List(dir string) ([]string, error)
	// RemoveAll removes a directory with all that is in it, or nothing if there is none; durable after SyncDir of its parent.
	RemoveAll(dir string) error
}

// NowaitReader is what a File may offer besides: a read that is served from memory at once, or not at all.
type NowaitReader interface {
	// ReadNowait fills p without blocking: ok is true only if all of p was filled.
	ReadNowait(p []byte, off int64) (n int, ok bool, err error)
}
