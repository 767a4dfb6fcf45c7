package sim

import (
	"errors"
	"runtime"
	"strings"
	"syscall"
	"time"

	"keelson/internal/block"
	"keelson/internal/vfs"
)

// disk is a server's file system as one life of its agent uses it: every call is a point at which the life may end, and may fail.
// After the life ended no call does anything any more.
type disk struct{ p *process }

// errDisk is what a failed disk says.
var errDisk = syscall.EIO

func (d disk) name(op, path string, do func() error) error {
	if err := d.p.point(op + " " + short(path)); err != nil {
		return err
	}
	d.p.mu.Lock() // a life that ends has done it, or does not
	defer d.p.mu.Unlock()
	if d.p.isDead() {
		return vfs.ErrCrashed
	}
	return do()
}

func (d disk) Open(path string, flags vfs.Flag) (f vfs.File, err error) {
	err = d.name("open", path, func() error {
		f, err = d.p.mem.Open(path, flags)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &file{File: f, p: d.p, path: path, data: isData(path)}, nil
}

func (d disk) Remove(path string) error {
	return d.name("remove", path, func() error { return d.p.mem.Remove(path) })
}

func (d disk) Rename(from, to string) error {
	return d.name("rename", from, func() error { return d.p.mem.Rename(from, to) })
}

func (d disk) SyncDir(dir string) error {
	return d.name("syncdir", dir, func() error { return d.p.mem.SyncDir(dir) })
}

func (d disk) MkdirAll(dir string) error {
	return d.name("mkdir", dir, func() error { return d.p.mem.MkdirAll(dir) })
}

func (d disk) RemoveAll(dir string) error {
	return d.name("remove", dir, func() error { return d.p.mem.RemoveAll(dir) })
}

func (d disk) Stat(path string) (id vfs.Identity, err error) {
	err = d.name("stat", path, func() error {
		id, err = d.p.mem.Stat(path)
		return err
	})
	return id, err
}

func (d disk) List(dir string) (names []string, err error) {
	err = d.name("list", dir, func() error {
		names, err = d.p.mem.List(dir)
		return err
	})
	return names, err
}

// isData tells the copy from what the agent keeps beside it.
func isData(path string) bool { return strings.HasSuffix(path, ".img") }

// short is a path as the story shows it.
func short(path string) string {
	return strings.TrimPrefix(strings.TrimPrefix(path, "/state/volumes/data/"), "/")
}

// file is an open file of a life.
type file struct {
	vfs.File
	p    *process
	path string
	data bool
}

// do is one call: a point, then what the disk is made to do, then the call.
func (f *file) do(op string, write bool, call func() error) error {
	synced := ""
	if op == "sync" && !f.data {
		synced = f.path
	}
	if err := f.p.pointOf(op+" "+short(f.path), synced); err != nil {
		return err
	}
	if f.p.isDead() {
		return vfs.ErrCrashed
	}
	for range f.p.s.lazy.Load() { // others come first
		runtime.Gosched()
	}
	slow := f.p.s.slow.Load()
	if f.data && (slow > 0 && write && f.p.s.w.chance("slow", f.p.s.name, f.p.points.Load())%3 == 0 || slow < 0 && op == "write") {
		f.p.busy.Add(1)
		time.Sleep(time.Duration(max(slow, -slow)))
		f.p.busy.Add(-1)
		if f.p.isDead() {
			return vfs.ErrCrashed
		}
	}
	if err := f.p.s.fails(op, f.data, write); err != nil {
		return &vfs.Error{Op: op, Path: f.path, Err: err}
	}
	if f.data && write {
		f.p.s.moves.Add(1)
	}
	return call()
}

func (f *file) ReadAt(p []byte, off int64) (n int, err error) {
	err = f.do("read", false, func() error { n, err = f.File.ReadAt(p, off); return err })
	return n, err
}

func (f *file) WriteAt(p []byte, off int64) (n int, err error) {
	f.touched(off, int64(len(p)))
	err = f.do("write", true, func() error { n, err = f.File.WriteAt(p, off); return err })
	if errors.Is(err, errLast) {
		f.p.tear(f.path, p, off)
	}
	return n, err
}

func (f *file) Datasync() error {
	err := f.do("sync", true, f.File.Datasync)
	if errors.Is(err, errDisk) { // the driver takes its disk for failed from then on
		f.p.mem.FailSync(f.path)
	}
	return err
}

func (f *file) Zero(off, n int64, punch bool) error {
	f.touched(off, n)
	return f.do("zero", true, func() error { return f.File.Zero(off, n, punch) })
}

func (f *file) Truncate(size int64) error {
	return f.do("truncate", true, func() error { return f.File.Truncate(size) })
}

func (f *file) Extents(off, n int64) (list []block.Extent, err error) { return f.File.Extents(off, n) }

// touched notes what of the copy may be about to change.
func (f *file) touched(off, n int64) {
	if f.data {
		f.p.s.touched(off, n)
	}
}
