package nbdclient

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"

	p "keelson/internal/frontend/nbd/nbdproto"
)

// receive is the goroutine that reads answers until the connection ends.
func (c *Client) receive(r *bufio.Reader) {
	for {
		if err := c.receiveOne(r); err != nil {
			c.end(err)
			return
		}
	}
}

func (c *Client) receiveOne(r *bufio.Reader) error {
	var b [p.StructuredBytes]byte
	if _, err := io.ReadFull(r, b[:p.SimpleBytes]); err != nil {
		return err
	}
	cookie := binary.BigEndian.Uint64(b[8:])
	c.mu.Lock()
	call := c.calls[cookie]
	c.mu.Unlock()
	if call == nil {
		return fmt.Errorf("an answer to the request %d, which is not in flight", cookie)
	}
	switch magic := binary.BigEndian.Uint32(b[:]); magic {
	case p.MagicSimple:
		return c.simple(r, call, cookie, p.Errno(binary.BigEndian.Uint32(b[4:])))
	case p.MagicStructured:
		if _, err := io.ReadFull(r, b[p.SimpleBytes:]); err != nil {
			return err
		}
		return c.chunk(r, call, cookie, binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint16(b[6:]), binary.BigEndian.Uint32(b[16:]))
	default:
		return fmt.Errorf("an answer that begins with %#x", magic)
	}
}

func (c *Client) simple(r *bufio.Reader, call *Call, cookie uint64, errno p.Errno) error {
	if errno != 0 {
		call.bad = &Error{Errno: errno}
	} else if call.Cmd == p.CmdRead {
		if _, err := io.ReadFull(r, call.Buf); err != nil {
			return err
		}
		call.got = call.Len
	}
	c.finish(call, cookie)
	return nil
}

// chunk takes one chunk of a structured answer.
func (c *Client) chunk(r *bufio.Reader, call *Call, cookie uint64, flags, kind uint16, n uint32) error {
	if n > p.PayloadBytesMax+p.NameBytesMax {
		return fmt.Errorf("a chunk of %d bytes", n)
	}
	switch {
	case kind == p.ChunkOffsetData:
		if err := call.data(r, n); err != nil {
			return err
		}
	default:
		body := make([]byte, n)
		if _, err := io.ReadFull(r, body); err != nil {
			return err
		}
		if err := call.other(kind, body); err != nil {
			return err
		}
	}
	if flags&p.ChunkDone != 0 {
		c.finish(call, cookie)
	}
	return nil
}

func (call *Call) data(r io.Reader, n uint32) error {
	var b [8]byte
	if n <= 8 {
		return fmt.Errorf("a data chunk of %d bytes", n)
	}
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return err
	}
	at := int64(binary.BigEndian.Uint64(b[:])) - call.Off
	if call.Cmd != p.CmdRead || at < 0 || at+int64(n-8) > call.Len {
		return fmt.Errorf("a data chunk that was not asked for")
	}
	_, err := io.ReadFull(r, call.Buf[at:at+int64(n-8)])
	call.got += int64(n - 8)
	return err
}

func (call *Call) other(kind uint16, body []byte) error {
	switch {
	case kind&(1<<15) != 0 && len(body) >= 6:
		text := body[6:min(len(body), 6+int(binary.BigEndian.Uint16(body[4:])))]
		call.bad = &Error{Errno: p.Errno(binary.BigEndian.Uint32(body)), Message: string(text)}
	case kind == p.ChunkNone && len(body) == 0:
	case kind == p.ChunkOffsetHole && len(body) == 12:
		at, n := int64(binary.BigEndian.Uint64(body))-call.Off, int64(binary.BigEndian.Uint32(body[8:]))
		if call.Cmd != p.CmdRead || at < 0 || at+n > call.Len {
			return fmt.Errorf("a hole that was not asked for")
		}
		clear(call.Buf[at : at+n])
		call.got += n
	case kind == p.ChunkBlockStatus && len(body) >= 12 && len(body)%8 == 4:
		for b := body[4:]; len(b) > 0; b = b[8:] {
			state := binary.BigEndian.Uint32(b[4:])
			call.Extents = append(call.Extents, Extent{int64(binary.BigEndian.Uint32(b)), state&p.StateHole != 0, state&p.StateZero != 0})
		}
	default:
		return fmt.Errorf("a chunk of type %d with %d bytes", kind, len(body))
	}
	return nil
}

// finish ends the call.
func (c *Client) finish(call *Call, cookie uint64) {
	switch {
	case call.bad != nil:
		call.bad.Cmd, call.bad.Off, call.bad.Len = call.Cmd, uint64(call.Off), uint32(call.Len)
		call.Err = call.bad
	case call.Cmd == p.CmdRead && call.got != call.Len:
		call.Err = fmt.Errorf("nbd: read of %d bytes at %d: %d bytes came", call.Len, call.Off, call.got)
	}
	c.mu.Lock()
	delete(c.calls, cookie)
	c.mu.Unlock()
	call.Done <- call
}
