package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"

	"keelson/internal/block"
	"keelson/internal/frontend/nbd/nbdproto"
)

const (
	contextID        = 1       // of base:allocation
	statusBytesMax   = 1 << 31 // one descriptor; longer extents are split
	statusEntryBytes = 8
)

// descriptor is an extent as a block status reply has it.
type descriptor struct{ bytes, flags uint32 }

// blockStatus answers for base:allocation. It may wait for the device's disk, so what is ready goes first.
func (c *conn) blockStatus(h nbdproto.Request) error {
	c.submit()
	q, err := c.admit(h, 0)
	if err != nil {
		return err
	}
	q.status = true
	extents, err := c.exp.dev.Extents(q.Off, q.Len)
	if err == nil && len(extents) == 0 {
		err = fmt.Errorf("nbd: export %q: the device has no extents at %d", c.exp.name, q.Off)
	}
	if errors.Is(err, block.ErrShutdown) {
		c.shut(q)
		return errDone
	}
	if err != nil {
		q.Err, q.errno = err, errnoOf(err)
		c.out.put(q)
		return nil
	}
	limit := extentsMax
	if h.Flags&nbdproto.FlagReqOne != 0 {
		limit = 1
	}
	list := describe(extents, q.Len, limit)
	q.body = block.NewBuffer(4 + statusEntryBytes*len(list))
	binary.BigEndian.PutUint32(q.body.Bytes, contextID)
	for i, d := range list {
		binary.BigEndian.PutUint32(q.body.Bytes[4+statusEntryBytes*i:], d.bytes)
		binary.BigEndian.PutUint32(q.body.Bytes[8+statusEntryBytes*i:], d.flags)
	}
	c.out.put(q)
	return nil
}

// describe turns extents into at most limit descriptors of together at most length bytes. Neighbours that are alike are merged.
func describe(extents []block.Extent, length int64, limit int) []descriptor {
	var out []descriptor
	for _, e := range extents {
		flags := stateOf(e)
		for left := min(e.Len, length); left > 0; {
			k := len(out)
			if k == 0 || out[k-1].flags != flags || out[k-1].bytes == statusBytesMax {
				if k == limit {
					return out
				}
				out = append(out, descriptor{flags: flags})
				k++
			}
			n := min(left, int64(statusBytesMax-out[k-1].bytes))
			out[k-1].bytes += uint32(n)
			left, length = left-n, length-n
		}
	}
	return out
}

func stateOf(e block.Extent) (flags uint32) {
	if e.Hole {
		flags |= nbdproto.StateHole
	}
	if e.Zero {
		flags |= nbdproto.StateZero
	}
	return flags
}
