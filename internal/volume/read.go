package volume

import "keelson/internal/block"

// readersMax bounds the reads of one volume that wait for the disk at the same time, each in a goroutine of its own.
const readersMax = 64

// read answers from the page cache at once; what has to wait for the disk does so beside the caller.
func (v *Volume) read(r *block.Request) {
	v.stats.reads.Add(1)
	v.stats.readBytes.Add(r.Len)
	v.mu.Lock()
	err := v.failed
	if !v.serving {
		err = block.ErrShutdown
	}
	v.mu.Unlock()
	if err != nil {
		r.Err = err
		v.finish(r)
		return
	}
	if v.nowait != nil {
		n, ok, err := v.nowait.ReadNowait(r.Buf.Bytes, r.Off)
		if ok && (err != nil || int64(n) == r.Len) {
			v.finishRead(r, err)
			return
		}
		if v.readSlot() {
			go func() {
				defer v.done.Done()
				_, err := v.disk.ReadAt(r.Buf.Bytes, r.Off)
				<-v.readers
				v.finishRead(r, err)
				r.By.Flush()
			}()
			return
		}
	}
	_, err = v.disk.ReadAt(r.Buf.Bytes, r.Off)
	v.finishRead(r, err)
}

// readSlot takes one of the slots for reads beside the caller, if there is one; the reader gives it back and calls done.Done.
func (v *Volume) readSlot() bool {
	select {
	case v.readers <- struct{}{}:
		v.done.Add(1)
		return true
	default:
		return false
	}
}

func (v *Volume) finishRead(r *block.Request, err error) {
	if err != nil {
		v.fail(err)
	}
	r.Err = err
	v.finish(r)
}

// Extents implements block.Device.
func (v *Volume) Extents(off, length int64) ([]block.Extent, error) {
	return v.disk.Extents(off, min(length, v.size-off))
}
