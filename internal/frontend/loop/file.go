package loop

import (
	"errors"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"keelson/internal/block"
)

// The two inodes of the file system.
const (
	rootInode = 1
	fileInode = 2
)

// forever is how long the kernel may believe names and attributes: they never change.
const forever = 365 * 24 * 3600 // seconds

// files is a FUSE file system with one file, which is the device. The kernel calls its methods concurrently, each in a
// goroutine of package fuse's.
type files struct {
	fuse.RawFileSystem // answers ENOSYS to what a file like this one has not
	dev                block.Device
	name               string // of the file
	made               time.Time
	ops                sync.Pool // of *op
}

func newFiles(dev block.Device, name string) *files {
	return &files{
		RawFileSystem: fuse.NewDefaultRawFileSystem(), dev: dev, name: name, made: time.Now(),
		ops: sync.Pool{New: func() any { return &op{done: make(chan struct{}, 1)} }},
	}
}

// op is one request under way; its memory is used again.
type op struct {
	request block.Request
	batch   [1]*block.Request
	into    block.Buffer // of a read: the reply's own memory
	done    chan struct{}
}

// Complete implements block.Completer.
func (o *op) Complete(*block.Request) { o.done <- struct{}{} }

// Flush implements block.Completer.
func (o *op) Flush() {}

// String names the file system in messages of package fuse.
func (f *files) String() string { return "keelson" }

// do has the device carry out one request and waits for it. An interrupt is not honored: what was begun is finished, since
// the device owns the request until then.
func (f *files) do(o *op, r block.Request) fuse.Status {
	o.request = r
	o.request.By = o
	err := o.request.Check(f.dev.Size())
	if err != nil {
		return fuse.EINVAL
	}
	o.batch[0] = &o.request
	f.dev.Submit(o.batch[:])
	<-o.done
	err = o.request.Err
	o.request = block.Request{}
	return statusOf(err)
}

// statusOf translates errors of devices. The loop driver knows ENOSPC; anything else is an I/O error to it.
func statusOf(err error) fuse.Status {
	switch {
	case err == nil:
		return fuse.OK
	case errors.Is(err, block.ErrNoSpace):
		return fuse.Status(syscall.ENOSPC)
	case errors.Is(err, block.ErrReadOnly):
		return fuse.EROFS
	}
	return fuse.EIO
}

// Lookup implements fuse.RawFileSystem.
func (f *files) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if h.NodeId != rootInode || name != f.name {
		return fuse.ENOENT
	}
	out.NodeId, out.Generation = fileInode, 1
	out.EntryValid, out.AttrValid = forever, forever
	f.attr(fileInode, &out.Attr)
	return fuse.OK
}

// GetAttr implements fuse.RawFileSystem.
func (f *files) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	out.AttrValid = forever
	f.attr(in.NodeId, &out.Attr)
	return fuse.OK
}

func (f *files) attr(inode uint64, a *fuse.Attr) {
	a.Ino, a.Nlink, a.Blksize = inode, 1, blockBytes
	a.SetTimes(&f.made, &f.made, &f.made)
	a.Mode = syscall.S_IFREG | 0o600
	if inode == rootInode {
		a.Mode = syscall.S_IFDIR | 0o700
		return
	}
	a.Size = uint64(f.dev.Size())
	a.Blocks = a.Size / 512
}

// SetAttr refuses: the file's size is the volume's.
func (f *files) SetAttr(<-chan struct{}, *fuse.SetAttrIn, *fuse.AttrOut) fuse.Status {
	return fuse.EPERM
}

// Open makes every reader and writer go past the page cache, writers beside each other, and keeps the kernel from asking
// at each close whether there is something to flush.
func (f *files) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	out.OpenFlags = fuse.FOPEN_DIRECT_IO | fuse.FOPEN_PARALLEL_DIRECT_WRITES | fuse.FOPEN_NOFLUSH
	return fuse.OK
}

// Flush is about closing and not about disks: it says that there is no such thing, and the kernel does not ask again. A
// process that dies with the file open must not have to wait for an answer (see the package comment).
func (f *files) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.ENOSYS }

// Read implements fuse.RawFileSystem.
func (f *files) Read(_ <-chan struct{}, in *fuse.ReadIn, into []byte) (fuse.ReadResult, fuse.Status) {
	n := min(int64(in.Size), int64(len(into)), f.dev.Size()-int64(in.Offset))
	if n <= 0 {
		return fuse.ReadResultData(nil), fuse.OK
	}
	o := f.ops.Get().(*op)
	defer f.ops.Put(o)
	o.into.Wrap(into[:n])
	if status := f.do(o, block.Request{Op: block.Read, Off: int64(in.Offset), Len: n, Buf: &o.into}); status != fuse.OK {
		return nil, status
	}
	return fuse.ReadResultData(into[:n]), fuse.OK
}

// Write implements fuse.RawFileSystem. The payload is copied once: a mirror may hold it longer than the request lasts.
func (f *files) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	if len(data) == 0 {
		return 0, fuse.OK
	}
	if int64(in.Offset) >= f.dev.Size() {
		return 0, fuse.Status(syscall.ENOSPC) // as the end of a disk is
	}
	o := f.ops.Get().(*op)
	defer f.ops.Put(o)
	data = data[:min(int64(len(data)), f.dev.Size()-int64(in.Offset))]
	buf := block.NewBuffer(len(data))
	copy(buf.Bytes, data)
	status := f.do(o, block.Request{Op: block.Write, Off: int64(in.Offset), Len: int64(len(data)), Buf: buf})
	buf.Release()
	return uint32(len(data)), status
}

// Fsync is the device's flush. The default, "not implemented", would make every later one a lie: the kernel then takes all
// of them as done.
func (f *files) Fsync(<-chan struct{}, *fuse.FsyncIn) fuse.Status {
	o := f.ops.Get().(*op)
	defer f.ops.Put(o)
	return f.do(o, block.Request{Op: block.Flush})
}

// FsyncDir has nothing to do: names are not stored.
func (f *files) FsyncDir(<-chan struct{}, *fuse.FsyncIn) fuse.Status { return fuse.OK }

// Fallocate is trim and write-zeroes. It never says "not implemented": the kernel would not ask again.
func (f *files) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	r := block.Request{Off: int64(in.Offset), Len: int64(in.Length)}
	switch in.Mode {
	case unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE:
		r.Op = block.Trim
	case unix.FALLOC_FL_ZERO_RANGE, unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE:
		r.Op, r.Flags = block.Zero, block.NoHole
	default:
		return fuse.Status(syscall.EOPNOTSUPP)
	}
	o := f.ops.Get().(*op)
	defer f.ops.Put(o)
	return f.do(o, r)
}

// StatFs tells the loop driver the granularity of trims.
func (f *files) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	out.Bsize, out.Frsize, out.NameLen = blockBytes, blockBytes, 255
	out.Blocks = uint64(f.dev.Size()) / blockBytes
	return fuse.OK
}

// OpenDir and ReadDir let an administrator look.
func (f *files) OpenDir(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status { return fuse.OK }

// ReadDir implements fuse.RawFileSystem.
func (f *files) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, list *fuse.DirEntryList) fuse.Status {
	if in.Offset == 0 {
		list.AddDirEntry(fuse.DirEntry{Name: f.name, Mode: syscall.S_IFREG, Ino: fileInode})
	}
	return fuse.OK
}

// Ioctl: there are none on a regular file.
func (f *files) Ioctl(<-chan struct{}, *fuse.IoctlIn, []byte, *fuse.IoctlOut, []byte) fuse.Status {
	return fuse.Status(syscall.ENOTTY)
}
