package peer

import (
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"keelson/internal/block"
	"keelson/internal/wire"
)

// Sizes of receiving.
const (
	readBufferBytes = 256 << 10
	largeBodyBytes  = 32 << 10 // from here bodies go straight into their buffers
	readAheadSmall  = 4 << 10  // how much is read behind a large body: the next is probably large too
)

// ByeError is the end of a stream that the peer closed on purpose.
type ByeError struct{ Peer, Reason string }

func (e *ByeError) Error() string { return fmt.Sprintf("stream: %s closed it: %s", e.Peer, e.Reason) }

// RefusedError is a peer's refusal: of a hello, or of a session that had begun.
type RefusedError struct {
	Peer, Rule, Message, Next string
}

// RuleName is the rule that the peer refused by.
func (e *RefusedError) RuleName() string { return e.Rule }

func (e *RefusedError) Error() string {
	text := fmt.Sprintf("%s refuses: %s", e.Peer, e.Message)
	if e.Next != "" {
		text += ": " + e.Next
	}
	return text + " (" + e.Rule + ")"
}

// SilentError is a peer from which nothing came for so long.
type SilentError struct {
	Peer  string
	After time.Duration
}

func (e *SilentError) Error() string {
	return fmt.Sprintf("stream to %s: nothing came for %v: the server or the network is down", e.Peer, e.After)
}

var errDone = errors.New("done")

// reader is the receiving side; only the reading goroutine uses it.
type reader struct {
	c     *Conn
	buf   []byte // buf[r:w] was received and is not yet used
	r, w  int
	ahead int   // how much of buf a read may fill
	late  error // met by Buffered, for the next Read

	iov  [2]unix.Iovec
	iovs int
	try  func(fd uintptr) bool
	n    int
	err  error
}

func (r *reader) init(c *Conn) {
	r.c = c
	r.buf = make([]byte, readBufferBytes)
	r.ahead = len(r.buf)
	r.try = r.attempt
}

// Read returns the next frame, its checksums verified. The body's buffer is the caller's, who releases it; nil if there is
// none. Heartbeats are answered here and never returned. Only one goroutine may Read. Any error has ended the stream.
func (c *Conn) Read() (wire.Header, *block.Buffer, error) {
	for {
		h, body, err := c.in.frame()
		if err == nil {
			switch h.Type {
			case wire.TypePing:
				c.Queue(wire.Header{Type: wire.TypePong, Number: h.Number}, nil, nil)
				c.TryFlush()
				continue
			case wire.TypePong:
				c.rtt.Store(int64(time.Since(c.began)) - int64(h.Number)*int64(time.Microsecond))
				continue
			case wire.TypeBye, wire.TypeRefuse:
				err = c.farewellError(h, body)
				body.Release()
			case wire.TypeHello, wire.TypeHelloReply:
				err = &wire.Error{Rule: wire.RuleOrder, Type: h.Type, Detail: "only the first frame is one"}
				body.Release()
			default:
				return h, body, nil
			}
		}
		c.fail(c.receiveError(err))
		return wire.Header{}, nil, c.Err()
	}
}

func (c *Conn) farewellError(h wire.Header, body *block.Buffer) error {
	if h.Type == wire.TypeBye {
		var bye wire.Bye
		if err := wire.Unmarshal(h.Type, body.Bytes, &bye); err != nil {
			return err
		}
		return &ByeError{c.peer, bye.Reason}
	}
	var no wire.Refusal
	if err := wire.Unmarshal(h.Type, body.Bytes, &no); err != nil {
		return err
	}
	return &RefusedError{c.peer, no.Rule, no.Message, no.Next}
}

func (c *Conn) receiveError(err error) error {
	var bye *ByeError
	var no *RefusedError
	switch {
	case errors.As(err, &bye), errors.As(err, &no):
		return err
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("stream to %s: it was cut: %w", c.peer, io.ErrUnexpectedEOF)
	}
	return fmt.Errorf("stream to %s: receive: %w", c.peer, err)
}

// Buffered reports whether the whole next frame is in memory, and one that Read returns: Read will not wait. Only for the
// reading goroutine; a target that has more to apply can acknowledge later. A heartbeat is no such frame: Read answers it and
// waits for another, which may never come before the acknowledgement.
func (c *Conn) Buffered() bool { return c.in.whole() }

func (r *reader) whole() bool {
	for r.late == nil {
		if r.w-r.r >= wire.HeaderBytes {
			h, err := wire.Decode(r.buf[r.r:r.w])
			if err != nil {
				return true // found without a system call too
			}
			if h.Type == wire.TypePing || h.Type == wire.TypePong {
				return false
			}
			if r.w-r.r >= wire.HeaderBytes+int(h.Body) {
				return true
			}
			if wire.HeaderBytes+int(h.Body) > len(r.buf) {
				return false
			}
		}
		if !r.c.encrypted || !r.c.rec.hasRecord() {
			return false
		}
		r.late = r.fill()
	}
	return true
}

// frame reads one frame.
func (r *reader) frame() (wire.Header, *block.Buffer, error) {
	for r.w-r.r < wire.HeaderBytes {
		if err := r.fill(); err != nil {
			if r.w > r.r && errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return wire.Header{}, nil, err
		}
	}
	h, err := wire.Decode(r.buf[r.r:r.w])
	if err != nil {
		return h, nil, err
	}
	r.r += wire.HeaderBytes
	if h.Body == 0 {
		return h, nil, nil
	}
	body := block.NewBuffer(int(h.Body))
	if err := r.body(&h, body.Bytes); err != nil {
		body.Release()
		return h, nil, err
	}
	return h, body, nil
}

// body fills p from the buffer and then from the socket, straight, and checks it.
func (r *reader) body(h *wire.Header, p []byte) error {
	if len(p) < largeBodyBytes {
		r.ahead = len(r.buf)
	} else {
		r.ahead = readAheadSmall
	}
	n := copy(p, r.buf[r.r:r.w])
	r.r += n
	for n < len(p) {
		m, err := r.direct(p[n:])
		if err != nil {
			return err
		}
		n += m
	}
	return h.CheckBody(p)
}

// direct reads into p, and what comes behind it into the buffer, which is empty. It returns how much of p was filled.
func (r *reader) direct(p []byte) (int, error) {
	if r.late != nil {
		return 0, r.late
	}
	if r.c.encrypted {
		return r.c.tls.Read(p)
	}
	n, err := r.c.readSocket(p, r.buf[:r.ahead])
	r.r, r.w = 0, max(0, n-len(p))
	return min(n, len(p)), err
}

// fill reads more into the buffer.
func (r *reader) fill() error {
	if r.late != nil {
		return r.late
	}
	if r.r > 0 {
		r.w = copy(r.buf, r.buf[r.r:r.w])
		r.r = 0
	}
	if r.c.encrypted {
		n, err := r.c.tls.Read(r.buf[r.w:])
		r.w += n
		return err
	}
	n, err := r.c.readSocket(r.buf[r.w:r.ahead], nil)
	r.w += n
	return err
}

// readSocket waits for bytes and reads them into p, then q. It returns at least one byte or an error.
func (c *Conn) readSocket(p, q []byte) (int, error) {
	r := &c.in
	if c.raw == nil {
		return c.readPlain(p)
	}
	r.iov[0] = unix.Iovec{Base: unsafe.SliceData(p), Len: uint64(len(p))}
	r.iovs = 1
	if len(q) > 0 {
		r.iov[1] = unix.Iovec{Base: unsafe.SliceData(q), Len: uint64(len(q))}
		r.iovs = 2
	}
	r.n, r.err = 0, nil
	c.reading.Store(true)
	err := c.raw.Read(r.try)
	c.reading.Store(false)
	r.iov = [2]unix.Iovec{}
	if err == nil {
		err = r.err
	}
	if err != nil {
		return 0, err
	}
	if r.n == 0 {
		return 0, io.EOF
	}
	c.got.Add(int64(r.n))
	return r.n, nil
}

// attempt is one readv. False: wait until something comes.
func (r *reader) attempt(fd uintptr) bool {
	for {
		n, _, errno := syscall.Syscall(unix.SYS_READV, fd, uintptr(unsafe.Pointer(&r.iov[0])), uintptr(r.iovs))
		switch errno {
		case 0:
			r.n = int(n)
			return true
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return false
		default:
			r.err = errno
			return true
		}
	}
}
