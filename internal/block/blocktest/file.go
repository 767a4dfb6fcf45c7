package blocktest

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"keelson/internal/block"
)

// File is a block.Device on a sparse file. Every request is carried out inline.
type File struct {
	f    *os.File
	size int64
}

// NewFile makes the file, of that many bytes, and a device on it.
func NewFile(path string, size int64) (*File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(size); err != nil {
		f.Close()
		return nil, err
	}
	return &File{f, size}, nil
}

// Size implements block.Device.
func (d *File) Size() int64 { return d.size }

// Close closes the file.
func (d *File) Close() error { return d.f.Close() }

// Submit implements block.Device.
func (d *File) Submit(batch []*block.Request) {
	for _, r := range batch {
		if r.Err = r.Check(d.size); r.Err == nil {
			r.Err = d.do(r)
		}
		r.By.Complete(r)
	}
}

func (d *File) do(r *block.Request) (err error) {
	switch r.Op {
	case block.Read:
		_, err = d.f.ReadAt(r.Buf.Bytes, r.Off)
	case block.Write:
		_, err = d.f.WriteAt(r.Buf.Bytes, r.Off)
	case block.Zero:
		mode := uint32(unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE)
		if r.Flags&block.NoHole != 0 {
			mode = unix.FALLOC_FL_ZERO_RANGE
		}
		err = d.zero(mode, r.Off, r.Len)
	case block.Trim:
		err = d.zero(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, r.Off, r.Len)
	}
	if err == nil && (r.Op == block.Flush || r.Op != block.Read && r.Flags&block.FUA != 0) {
		err = unix.Fdatasync(int(d.f.Fd()))
	}
	return err
}

func (d *File) zero(mode uint32, off, n int64) error {
	err := unix.Fallocate(int(d.f.Fd()), mode, off, n)
	if !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	for zeroes := make([]byte, min(n, 1<<20)); n > 0; {
		k := min(n, int64(len(zeroes)))
		if _, err := d.f.WriteAt(zeroes[:k], off); err != nil {
			return err
		}
		off, n = off+k, n-k
	}
	return nil
}

// Extents implements block.Device.
func (d *File) Extents(off, length int64) ([]block.Extent, error) {
	var out []block.Extent
	for end := off + length; off < end; {
		data, err := unix.Seek(int(d.f.Fd()), off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			data = end
		} else if err != nil {
			return nil, fmt.Errorf("look for data from %d of %s: %w", off, d.f.Name(), err)
		}
		if data > off {
			n := min(data, end) - off
			out = append(out, block.Extent{Len: n, Hole: true, Zero: true})
			off += n
			continue
		}
		hole, err := unix.Seek(int(d.f.Fd()), off, unix.SEEK_HOLE)
		if err != nil {
			return nil, fmt.Errorf("look for a hole from %d of %s: %w", off, d.f.Name(), err)
		}
		n := min(hole, end) - off
		if n <= 0 {
			return nil, fmt.Errorf("%s at %d: %w", d.f.Name(), off, io.ErrUnexpectedEOF)
		}
		out = append(out, block.Extent{Len: n})
		off += n
	}
	return out, nil
}
