package volume

import "keelson/internal/block"

// readersMax bounds the reads of one volume that wait for the disk at the same time, each in a goroutine of its own.
const readersMax = 64

// read answers from the page cache at once; what has to wait for the disk does so beside the caller.
func (v *Volume) read(r *block.Request) {
	v.stats.reads.Add(1)
	v.stats.readBytes.Add(r.Len)
	v.mu.Lock()
	serving, here := v.serving, v.failed == nil
	v.mu.Unlock()
	if !serving || !here {
		v.readThere(r)
		return
	}
	if v.nowait != nil {
		n, ok, err := v.nowait.ReadNowait(r.Buf.Bytes, r.Off)
		if ok && (err != nil || int64(n) == r.Len) {
			v.finishRead(r, err)
			return
		}
		if slot, ok := v.readSlot(); ok {
			by := r.By
			go func() {
				defer v.done.Done()
				v.watch.begin(slot)
				_, err := v.disk.ReadAt(r.Buf.Bytes, r.Off)
				v.watch.end(slot)
				v.readers <- slot
				v.finishRead(r, err)
				by.Flush()
			}()
			return
		}
	}
	_, err := v.disk.ReadAt(r.Buf.Bytes, r.Off)
	v.finishRead(r, err)
}

// readSlot takes one of the slots for reads beside the caller, if there is one; the reader gives it back and calls done.Done.
func (v *Volume) readSlot() (slot int, ok bool) {
	select {
	case slot = <-v.readers:
		v.done.Add(1)
		return slot, true
	default:
		return 0, false
	}
}

// finishRead: a read that the disk failed is tried at a target, if there is one.
func (v *Volume) finishRead(r *block.Request, err error) {
	if err != nil {
		v.fail(err)
		v.readThere(r)
		return
	}
	r.Err = nil
	v.finish(r)
}

// Extents implements block.Device.
func (v *Volume) Extents(off, length int64) ([]block.Extent, error) {
	if length = min(length, v.size-off); v.Failed() != nil {
		return []block.Extent{{Len: length}}, nil // not known, so it is data
	}
	return v.disk.Extents(off, length)
}
