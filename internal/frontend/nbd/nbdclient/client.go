// Package nbdclient is a small NBD client for tests: many requests in flight on one connection, errors that carry the
// protocol's number, and a plain answer to the question whether a request was answered at all.
package nbdclient

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"keelson/internal/frontend/nbd/nbdproto"
)

// Flag modifies a request.
type Flag = uint16

// Flags of requests.
const (
	FUA    Flag = nbdproto.FlagFUA    // durable before it is answered
	NoHole Flag = nbdproto.FlagNoHole // Zero: keep the storage
	ReqOne Flag = nbdproto.FlagReqOne // BlockStatus: one extent
)

// ErrUnanswered is what a request ends with if the connection ended before its answer: perhaps it was done.
var ErrUnanswered = errors.New("the connection ended before the answer")

// Error is the server's error answer to a request.
type Error struct {
	Cmd     uint16
	Off     uint64
	Len     uint32
	Errno   nbdproto.Errno
	Message string // of the server; "" in simple replies
}

// Error says what failed where.
func (e *Error) Error() string {
	s := fmt.Sprintf("nbd command %d of %d bytes at %d: %v", e.Cmd, e.Len, e.Off, e.Errno)
	if e.Message != "" {
		s += ": " + e.Message
	}
	return s
}

// Unwrap is the error number, for errors.Is.
func (e *Error) Unwrap() error { return e.Errno }

// Extent is one answer of BlockStatus.
type Extent struct {
	Len        int64 // bytes
	Hole, Zero bool
}

// Call is one request. The caller fills the first fields; Done receives the Call when Err is set. Buf is the client's until then.
type Call struct {
	Cmd   uint16 // nbdproto.CmdRead ...
	Flags Flag
	Off   int64
	Len   int64  // for commands without Buf
	Buf   []byte // CmdRead: where the content goes; CmdWrite: the payload
	Done  chan *Call

	Err     error
	Extents []Extent // CmdBlockStatus

	got int64 // bytes of a read that have come
	bad *Error
}

// Client is one connection. All methods may be called concurrently.
type Client struct {
	nc    net.Conn
	size  int64
	flags uint16

	wmu   sync.Mutex // the connection's write side
	w     *bufio.Writer
	ended bool // nobody looks at a payload any more

	mu      sync.Mutex
	calls   map[uint64]*Call // in flight, by cookie
	cookie  uint64
	err     error // set once: no further calls
	writers int   // waiting for or holding wmu: the last one flushes

	gone chan struct{} // the receiver has ended
}

// Size of the export in bytes.
func (c *Client) Size() int64 { return c.size }

// Flags are the export's transmission flags.
func (c *Client) Flags() uint16 { return c.flags }

// Go sends the request and returns. call.Done gets it back when it is answered or the connection ends; the channel must
// have room for it.
func (c *Client) Go(call *Call) {
	if call.Buf != nil {
		call.Len = int64(len(call.Buf))
	}
	c.mu.Lock()
	if c.err != nil || call.Len > 1<<32-1 {
		call.Err = c.err
		if call.Err == nil {
			call.Err = fmt.Errorf("nbd: %d bytes don't fit into a request", call.Len)
		}
		c.mu.Unlock()
		call.Done <- call
		return
	}
	c.cookie++
	h := nbdproto.Request{Flags: call.Flags, Cmd: call.Cmd, Cookie: c.cookie, Off: uint64(call.Off), Len: uint32(call.Len)}
	c.calls[h.Cookie] = call
	c.writers++
	c.mu.Unlock()
	if err := c.write(h, call); err != nil {
		c.nc.Close() // the receiver ends all calls, this one too
	}
}

func (c *Client) write(h nbdproto.Request, call *Call) error {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	if c.ended {
		return net.ErrClosed
	}
	var b [nbdproto.RequestBytes]byte
	h.Encode(b[:])
	_, err := c.w.Write(b[:])
	if call.Cmd == nbdproto.CmdWrite && err == nil {
		_, err = c.w.Write(call.Buf)
	}
	c.mu.Lock()
	c.writers--
	last := c.writers == 0
	c.mu.Unlock()
	if last && err == nil {
		err = c.w.Flush()
	}
	return err
}

func (c *Client) do(call Call) (*Call, error) {
	call.Done = make(chan *Call, 1)
	c.Go(&call)
	<-call.Done
	return &call, call.Err
}

// ReadAt implements io.ReaderAt.
func (c *Client) ReadAt(p []byte, off int64) (int, error) {
	if _, err := c.do(Call{Cmd: nbdproto.CmdRead, Buf: p, Off: off}); err != nil {
		return 0, err
	}
	return len(p), nil
}

// WriteAt writes p at off.
func (c *Client) WriteAt(p []byte, off int64, flags ...Flag) (int, error) {
	if _, err := c.do(Call{Cmd: nbdproto.CmdWrite, Buf: p, Off: off, Flags: union(flags)}); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Flush makes everything answered so far durable.
func (c *Client) Flush() error {
	_, err := c.do(Call{Cmd: nbdproto.CmdFlush})
	return err
}

// Trim gives n bytes at off up.
func (c *Client) Trim(off, n int64, flags ...Flag) error {
	_, err := c.do(Call{Cmd: nbdproto.CmdTrim, Off: off, Len: n, Flags: union(flags)})
	return err
}

// Zero makes n bytes at off zero.
func (c *Client) Zero(off, n int64, flags ...Flag) error {
	_, err := c.do(Call{Cmd: nbdproto.CmdWriteZeroes, Off: off, Len: n, Flags: union(flags)})
	return err
}

// BlockStatus reports base:allocation from off, for at most n bytes, perhaps less.
func (c *Client) BlockStatus(off, n int64, flags ...Flag) ([]Extent, error) {
	call, err := c.do(Call{Cmd: nbdproto.CmdBlockStatus, Off: off, Len: n, Flags: union(flags)})
	return call.Extents, err
}

func union(flags []Flag) (all Flag) {
	for _, f := range flags {
		all |= f
	}
	return all
}

// Close says goodbye and ends the connection. Calls in flight end with ErrUnanswered if the server does not answer them within a second.
func (c *Client) Close() error {
	c.wmu.Lock()
	c.nc.SetDeadline(time.Now().Add(time.Second))
	var b [nbdproto.RequestBytes]byte
	nbdproto.Request{Cmd: nbdproto.CmdDisc}.Encode(b[:])
	_, _ = c.w.Write(b[:])
	_ = c.w.Flush()
	c.wmu.Unlock()
	<-c.gone
	return nil
}

// Cut ends the connection at once, as a crash of the client would.
func (c *Client) Cut() {
	c.nc.Close()
	<-c.gone
}

// Gone is closed when the connection has ended.
func (c *Client) Gone() <-chan struct{} { return c.gone }

// end ends every call in flight and later.
func (c *Client) end(err error) {
	c.nc.Close()
	c.wmu.Lock()
	c.ended = true
	c.wmu.Unlock()
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	c.mu.Lock()
	c.err = fmt.Errorf("nbd: %w: %w", ErrUnanswered, err)
	calls := c.calls
	c.calls = nil
	c.mu.Unlock()
	for _, call := range calls {
		call.Err = c.err
		call.Done <- call
	}
	close(c.gone)
}
