package peer

import (
	"crypto/tls"
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Limits of sending.
const (
	flushBytesMax  = 4 << 20   // one TryFlush sends at most about so much, then the sender goroutine goes on
	sealBytesMax   = 256 << 10 // encrypted at once
	recordPlainMax = 16 << 10  // plain bytes in a TLS record
	reasonBytesMax = 4 << 10
)

// TryFlush sends what is queued as far as the socket takes it, unless somebody is doing so already, who then goes on with
// it. It never blocks; the sender goroutine sends the rest. In the steady state it allocates nothing.
func (c *Conn) TryFlush() {
	c.mu.Lock()
	if c.sending || c.ended || c.q.bytes+c.sealed == 0 {
		c.mu.Unlock()
		return
	}
	c.sending = true
	paced := c.rate > 0
	c.mu.Unlock()
	if paced {
		c.handOver(0)
		return
	}
	sent := 0
	for budget := flushBytesMax; c.next(sent, gatherBytesMax); {
		n, full, err := c.write(false)
		if err != nil {
			c.fail(err)
			sent = 0
			continue // next cleans up
		}
		sent = n
		if budget -= n; full || budget <= 0 {
			c.handOver(sent)
			return
		}
	}
}

// sender is the goroutine that waits for the socket when it is full.
func (c *Conn) sender() {
	defer c.wg.Done()
	for {
		select {
		case <-c.wake:
			c.sendAll()
		case <-c.done:
			c.mu.Lock()
			select {
			case <-c.wake: // handed over before the end
				c.sending = false
				c.dropQueue()
			default:
			}
			c.mu.Unlock()
			return
		}
	}
}

// sendAll sends until the queue is empty.
func (c *Conn) sendAll() {
	sent := 0
	for {
		bytesMax := c.pace(sent)
		if !c.next(sent, bytesMax) {
			return
		}
		n, _, err := c.write(true)
		if err != nil {
			c.fail(err)
			n = 0
		}
		sent = n
	}
}

// next notes what was sent and gathers what is next. If there is nothing, or the stream has ended, the sending side is
// given up and next returns false. Only for whoever owns the sending side.
func (c *Conn) next(sent, bytesMax int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.account(sent)
	if c.ended {
		c.sending = false
		c.dropQueue()
		return false
	}
	c.pieces = c.q.gather(c.pieces[:0], bytesMax)
	if len(c.pieces) == 0 && c.sealed == 0 {
		c.sending = false
		return false
	}
	return true
}

// handOver gives the sending side to the sender goroutine.
func (c *Conn) handOver(sent int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.account(sent)
	if c.ended {
		c.sending = false
		c.dropQueue()
		return
	}
	c.wake <- struct{}{} // has room: there is one sending side
}

// account takes n bytes of frames off the queue and wakes who waits for room. The mutex is held.
func (c *Conn) account(n int) {
	if n > 0 {
		c.q.advance(n)
	}
	if c.encrypted {
		c.sealed = int64(len(c.rec.pending()))
	}
	queued := c.q.bytes + c.sealed
	c.queued.Store(queued)
	if c.room != nil && queued < c.roomAt {
		close(c.room)
		c.room = nil
	}
}

// write gives the pieces to the socket: n bytes of frames are taken. full: the socket takes no more now. With wait it
// blocks until the socket took something.
func (c *Conn) write(wait bool) (n int, full bool, err error) {
	if !c.encrypted {
		n, err = c.out.write(c.pieces, wait)
		return n, n < total(c.pieces), c.sendError(err)
	}
	if len(c.rec.pending()) == 0 {
		if n, err = c.seal.seal(c.tls, c.pieces); err != nil {
			return 0, false, c.sendError(err)
		}
	}
	p := c.rec.pending()
	c.seal.one[0] = p
	m, err := c.out.write(c.seal.one[:], wait)
	c.rec.gone += m
	return n, m < len(p), c.sendError(err)
}

func total(pieces [][]byte) (n int) {
	for _, p := range pieces {
		n += len(p)
	}
	return n
}

func (c *Conn) sendError(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("stream to %s: send: %w", c.peer, err)
}

// sealer turns pieces into TLS records: small ones are collected, so that a header and a body of 4 KiB are one record; of
// a long body whole records are encrypted from where they are.
type sealer struct {
	stage []byte // plain
	one   [1][]byte
}

// seal encrypts the front of the pieces, about sealBytesMax, and returns how much that was. The records are in the recordConn.
func (s *sealer) seal(t *tls.Conn, pieces [][]byte) (int, error) {
	n := 0
	for _, p := range pieces {
		if n >= sealBytesMax {
			break
		}
		p = p[:min(len(p), sealBytesMax-n)]
		n += len(p)
		if err := s.put(t, p); err != nil {
			return n, err
		}
	}
	if len(s.stage) == 0 {
		return n, nil
	}
	_, err := t.Write(s.stage)
	s.stage = s.stage[:0]
	return n, err
}

func (s *sealer) put(t *tls.Conn, p []byte) error {
	for len(p) > 0 {
		if whole := len(p) / recordPlainMax * recordPlainMax; len(s.stage) == 0 && whole > 0 {
			if _, err := t.Write(p[:whole]); err != nil {
				return err
			}
			p = p[whole:]
			continue
		}
		n := min(len(p), recordPlainMax-len(s.stage))
		s.stage = append(s.stage, p[:n]...)
		p = p[n:]
		if len(s.stage) == recordPlainMax {
			if _, err := t.Write(s.stage); err != nil {
				return err
			}
			s.stage = s.stage[:0]
		}
	}
	return nil
}

// socketWriter is writev on the connection's socket. All memory that it needs is allocated once.
type socketWriter struct {
	c    *Conn
	iov  []unix.Iovec
	try  func(fd uintptr) bool
	wait bool
	n    int
	err  error
}

func (w *socketWriter) init(c *Conn) {
	w.c = c
	w.iov = make([]unix.Iovec, 0, gatherPieces)
	w.try = w.attempt
}

// write returns how much the socket took; 0 is no error, and not with wait.
func (w *socketWriter) write(pieces [][]byte, wait bool) (int, error) {
	w.iov = w.iov[:0]
	for _, p := range pieces {
		if len(p) > 0 {
			w.iov = append(w.iov, unix.Iovec{Base: &p[0], Len: uint64(len(p))})
		}
	}
	if len(w.iov) == 0 {
		return 0, nil
	}
	if w.c.raw == nil {
		return w.plain(pieces, wait)
	}
	w.wait, w.n, w.err = wait, 0, nil
	if err := w.c.raw.Write(w.try); err != nil {
		return w.n, err
	}
	w.c.sent.Add(int64(w.n))
	return w.n, w.err
}

// attempt is one writev. False: wait until the socket takes something.
func (w *socketWriter) attempt(fd uintptr) bool {
	for {
		n, _, errno := syscall.Syscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&w.iov[0])), uintptr(len(w.iov)))
		switch errno {
		case 0:
			w.n = int(n)
			return true
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return !w.wait
		default:
			w.err = errno
			return true
		}
	}
}
