package nbd

import (
	"errors"
	"fmt"

	"keelson/internal/block"
	"keelson/internal/frontend/nbd/nbdproto"
)

// errTooLong: the rest of the stream can't be understood without reading the payload, which is more than anybody may send.
var errTooLong = errors.New("a write is longer than 32 MiB")

// transmit parses requests until the client ends, a protocol error, or drain.
func (c *conn) transmit() error {
	c.batch = make([]*block.Request, 0, batchRequestsMax)
	for {
		h, err := c.next()
		if err == nil {
			err = c.handle(h)
		}
		if err != nil {
			c.submit()
			return err
		}
		if c.in.buffered() < nbdproto.RequestBytes || len(c.batch) == batchRequestsMax || c.batchBytes >= batchBytesMax {
			c.submit()
		}
	}
}

func (c *conn) next() (nbdproto.Request, error) {
	b, err := c.in.need(nbdproto.RequestBytes)
	if err != nil {
		return nbdproto.Request{}, err
	}
	return nbdproto.Decode(b)
}

// submit gives the batch to the device and sends the replies that are there then.
func (c *conn) submit() {
	if len(c.batch) > 0 {
		c.exp.dev.Submit(c.batch)
		clear(c.batch)
		c.batch = c.batch[:0]
		c.batchBytes = 0
	}
	c.out.flush()
}

// command is what is allowed of one.
type command struct {
	op      block.Op
	flags   uint16 // allowed besides FUA
	change  bool   // refused on a read-only export
	beyond  nbdproto.Errno
	payload bool // counts against the limits of a batch
}

var commands = [...]command{
	nbdproto.CmdRead:        {block.Read, nbdproto.FlagDF, false, nbdproto.EINVAL, true},
	nbdproto.CmdWrite:       {block.Write, 0, true, nbdproto.ENOSPC, true},
	nbdproto.CmdDisc:        {},
	nbdproto.CmdFlush:       {block.Flush, 0, false, 0, false},
	nbdproto.CmdTrim:        {block.Trim, 0, true, nbdproto.EINVAL, false},
	nbdproto.CmdCache:       {},
	nbdproto.CmdWriteZeroes: {block.Zero, nbdproto.FlagNoHole, true, nbdproto.ENOSPC, false},
	nbdproto.CmdBlockStatus: {block.Read, nbdproto.FlagReqOne, false, nbdproto.EINVAL, false},
}

// handle takes one request into the batch, or answers it. Its payload, if it has one, is read in any case.
func (c *conn) handle(h nbdproto.Request) error {
	if h.Cmd == nbdproto.CmdDisc {
		return errDone
	}
	errno := c.check(h)
	if h.Cmd == nbdproto.CmdWrite && h.Len > nbdproto.PayloadBytesMax {
		_ = c.refuse(h, nbdproto.EINVAL)
		return fmt.Errorf("%w: %d bytes", errTooLong, h.Len)
	}
	if errno != 0 {
		if err := c.refuse(h, errno); err != nil {
			return err
		}
		if h.Cmd == nbdproto.CmdWrite {
			return c.skipPayload(int64(h.Len))
		}
		return nil
	}
	switch h.Cmd {
	case nbdproto.CmdBlockStatus:
		return c.blockStatus(h)
	default:
		return c.take(h)
	}
}

// check says what is wrong with a request; 0: nothing.
func (c *conn) check(h nbdproto.Request) nbdproto.Errno {
	if int(h.Cmd) >= len(commands) || h.Cmd == nbdproto.CmdCache {
		return nbdproto.EINVAL
	}
	cmd := &commands[h.Cmd]
	switch {
	case h.Cmd == nbdproto.CmdBlockStatus && !c.hasContext:
		return nbdproto.EINVAL
	case h.Flags&^(cmd.flags|nbdproto.FlagFUA) != 0:
		return nbdproto.EINVAL
	case cmd.change && c.exp.opts.ReadOnly:
		return nbdproto.EPERM
	case h.Cmd == nbdproto.CmdFlush:
		return 0
	case h.Len == 0 || cmd.payload && h.Len > nbdproto.PayloadBytesMax:
		return nbdproto.EINVAL
	case h.Off > uint64(c.size) || uint64(h.Len) > uint64(c.size)-h.Off:
		return cmd.beyond
	}
	return 0
}

// admit is replies.admit; the batch so far is submitted before it waits.
func (c *conn) admit(h nbdproto.Request, payload int64) (*request, error) {
	q := c.out.admit(payload, false)
	if q == nil {
		c.submit()
		if q = c.out.admit(payload, true); q == nil {
			return nil, errDone
		}
	}
	q.Cookie = h.Cookie
	q.Op, q.Off, q.Len = block.Flush, int64(h.Off), int64(h.Len)
	q.By = c
	return q, nil
}

// refuse answers a request with an error.
func (c *conn) refuse(h nbdproto.Request, errno nbdproto.Errno) error {
	q, err := c.admit(h, 0)
	if err != nil {
		return err
	}
	if h.Cmd == nbdproto.CmdRead {
		q.Op = block.Read
	}
	q.status = h.Cmd == nbdproto.CmdBlockStatus
	q.errno = errno
	c.out.put(q)
	return nil
}

// take makes a request of the device's and puts it into the batch.
func (c *conn) take(h nbdproto.Request) error {
	cmd := &commands[h.Cmd]
	var payload int64
	if cmd.payload {
		payload = int64(h.Len)
	}
	q, err := c.admit(h, payload)
	if err != nil {
		return err
	}
	q.Op, q.Flags = cmd.op, 0
	if h.Flags&nbdproto.FlagFUA != 0 && cmd.change {
		q.Flags |= block.FUA
	}
	if h.Flags&nbdproto.FlagNoHole != 0 {
		q.Flags |= block.NoHole
	}
	if cmd.op == block.Flush {
		q.Off, q.Len = 0, 0
	}
	if payload > 0 {
		q.Buf = block.NewBuffer(int(payload))
	}
	if cmd.op == block.Write {
		if err := c.payload(q); err != nil {
			return err
		}
	}
	c.batch = append(c.batch, &q.Request)
	c.batchBytes += payload
	return nil
}

// skipPayload drops what a refused write carries.
func (c *conn) skipPayload(n int64) error {
	if int64(c.in.buffered()) < n {
		c.submit()
	}
	return c.in.skip(n)
}

// payload reads what a write carries. If some of it is still to come the batch so far is submitted first.
func (c *conn) payload(q *request) error {
	if c.in.buffered() < len(q.Buf.Bytes) && len(c.batch) > 0 {
		c.submit()
	}
	err := c.in.fill(q.Buf.Bytes)
	if err != nil {
		q.Buf.Release()
		q.Buf = nil
		c.out.abandon(q)
	}
	return err
}
