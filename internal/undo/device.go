package undo

import (
	"sync"

	"keelson/internal/block"
)

// extentsMax is how many extents a device reports at a time.
const extentsMax = 1024

// Device shows how the volume looked: what the salvage has, over base, or over zeroes where base is nil or ends. It is
// read-only, and as long as the volume was. Submit waits for base and for the salvage's file. It is used before the
// view is closed.
func (v *View) Device(base block.Device) block.Device { return &device{view: v, base: base} }

type device struct {
	view *View
	base block.Device
}

// Size implements block.Device.
func (d *device) Size() int64 { return d.view.meta.SizeBytes }

// Submit implements block.Device.
func (d *device) Submit(batch []*block.Request) {
	for _, r := range batch {
		switch r.Op {
		case block.Read:
			r.Err = d.read(r.Buf.Bytes, r.Off)
		case block.Flush:
			r.Err = nil
		default:
			r.Err = block.ErrReadOnly
		}
		r.By.Complete(r)
	}
}

// read fills p: first what lies between the saved stretches, from the base, then those.
func (d *device) read(p []byte, off int64) error {
	for done := int64(0); done < int64(len(p)); {
		for _, e := range d.view.Extents(off+done, int64(len(p))-done, extentsMax) {
			part := p[e.Off-off:][:e.Len]
			var err error
			if e.Saved {
				_, err = d.view.ReadAt(part, e.Off)
			} else {
				err = d.readBase(part, e.Off)
			}
			if err != nil {
				return err
			}
			done += e.Len
		}
	}
	return nil
}

// readBase reads from the base, in a request of its own.
func (d *device) readBase(p []byte, off int64) error {
	n := int64(0)
	if d.base != nil {
		n = max(0, min(int64(len(p)), d.base.Size()-off))
	}
	clear(p[n:])
	if n == 0 {
		return nil
	}
	w := waiter{}
	w.wait.Add(1)
	r := &block.Request{Op: block.Read, Off: off, Len: n, Buf: block.NewBuffer(int(n)), By: &w}
	defer r.Buf.Release()
	d.base.Submit([]*block.Request{r})
	w.wait.Wait()
	copy(p, r.Buf.Bytes)
	return r.Err
}

// waiter waits for one request.
type waiter struct{ wait sync.WaitGroup }

func (w *waiter) Complete(*block.Request) { w.wait.Done() }
func (w *waiter) Flush()                  {}

// Extents implements block.Device.
func (d *device) Extents(off, length int64) ([]block.Extent, error) {
	var list []block.Extent
	for _, e := range d.view.Extents(off, length, extentsMax) {
		if e.Saved {
			list = append(list, block.Extent{Len: e.Len, Zero: e.Zero})
			continue
		}
		between, whole, err := d.baseExtents(e.Off, e.Len)
		if err != nil {
			return nil, err
		}
		if list = append(list, between...); !whole {
			break
		}
	}
	return list, nil
}

// baseExtents is what the base has there; whole is false if it stopped early.
func (d *device) baseExtents(off, length int64) (list []block.Extent, whole bool, err error) {
	n := int64(0)
	if d.base != nil {
		n = max(0, min(length, d.base.Size()-off))
	}
	for at := int64(0); at < n; {
		part, err := d.base.Extents(off+at, n-at)
		if err != nil {
			return nil, false, err
		}
		for _, e := range part {
			at += e.Len
		}
		if list = append(list, part...); len(list) >= extentsMax || len(part) == 0 {
			return list, at == n && n == length, nil
		}
	}
	if n < length {
		list = append(list, block.Extent{Len: length - n, Hole: true, Zero: true})
	}
	return list, true, nil
}
