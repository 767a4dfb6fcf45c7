package nbd

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"keelson/internal/block"
)

// conn is one connection. Its reader goroutine (run) owns it from the first byte to the last: it starts the sender, waits
// for all requests and for the sender, and closes done.
type conn struct {
	s    *Server
	raw  net.Conn // the socket
	nc   net.Conn // raw, or TLS over it
	log  *slog.Logger
	done chan struct{}

	// Server.mu guards these while the connection is in Server.conns.
	exp  *export // nil until the handshake is through; then never changed
	info ConnInfo
	cert *x509.Certificate // what the client showed; nil: nothing

	// The reader's own.
	in         input
	tls        bool
	noZeroes   bool
	structured bool
	context    string // the export that base:allocation was negotiated for
	hasContext bool
	size       int64 // of the device
	batch      []*block.Request
	batchBytes int64

	out replies
}

func newConn(s *Server, nc net.Conn) *conn {
	c := &conn{s: s, raw: nc, nc: nc, done: make(chan struct{})}
	c.info = ConnInfo{Remote: remote(nc), Since: time.Now()}
	c.log = s.opts.Log.With("client", c.info.Remote)
	c.in = input{sock: socketOf(nc), buf: make([]byte, handshakeBytes)}
	c.out.init(c)
	return c
}

// socketOf picks the fastest way to use nc.
func socketOf(nc net.Conn) socket {
	if sc, ok := nc.(syscall.Conn); ok {
		if rc, err := sc.SyscallConn(); err == nil {
			return newRawSocket(rc)
		}
	}
	return newStreamSocket(nc)
}

// remote names the other end: its address, or the process behind a unix socket.
func remote(nc net.Conn) string {
	u, ok := nc.(*net.UnixConn)
	if !ok {
		return nc.RemoteAddr().String()
	}
	var cred *unix.Ucred
	if rc, err := u.SyscallConn(); err == nil {
		_ = rc.Control(func(fd uintptr) { cred, _ = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	}
	if cred == nil {
		return "unix socket"
	}
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", cred.Pid))
	if err != nil || len(name) == 0 {
		return fmt.Sprintf("pid %d", cred.Pid)
	}
	return fmt.Sprintf("pid %d (%s)", cred.Pid, name[:len(name)-1])
}

// errDone ends a connection without complaint: the client said so.
var errDone = errors.New("the client ended the connection")

// noDeadline ends a deadline of a net.Conn.
var noDeadline time.Time

func (c *conn) run() {
	defer close(c.done)
	defer c.s.forget(c)
	c.out.limit(c.s.opts.HandshakeTimeout)
	err := c.handshake()
	if err == nil && c.out.start() {
		c.in.grow(readBytes)
		err = c.transmit()
		c.finish(err)
	}
	c.nc.Close()
	c.note(err)
}

// note logs why a connection ended.
func (c *conn) note(err error) {
	switch {
	case err == nil, errors.Is(err, errDone), errors.Is(err, io.EOF), c.out.isDraining(), errors.Is(err, net.ErrClosed):
		c.log.Debug("nbd: connection ended", "export", c.exportName())
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.log.Warn("nbd: handshake not finished in time", "handshake_timeout", c.s.opts.HandshakeTimeout)
	default:
		c.log.Warn("nbd: connection failed", "export", c.exportName(), "error", err)
	}
}

func (c *conn) exportName() string {
	if c.exp == nil {
		return ""
	}
	return c.exp.name
}

// finish waits until every request is completed by the device and its reply sent (or the client gone), and ends the sender.
func (c *conn) finish(why error) {
	c.raw.SetWriteDeadline(time.Now().Add(c.s.opts.DrainTimeout))
	shut := c.out.waitIdle()
	if errors.Is(why, errTooLong) || shut {
		c.linger()
	}
	c.out.stop()
}

// linger gives the client a moment to read the last replies: a socket that is closed with unread requests in it, or on TCP is sent
// further ones, throws them away. A unix socket can refuse further ones at once.
func (c *conn) linger() {
	if w, ok := c.nc.(interface{ CloseWrite() error }); ok {
		w.CloseWrite()
	}
	if u, ok := c.raw.(*net.UnixConn); ok {
		u.CloseRead()
	}
	c.raw.SetReadDeadline(time.Now().Add(lingerMax))
	for {
		c.in.r, c.in.w = 0, 0
		if _, err := c.in.sock.readv(nil, c.in.buf); err != nil {
			return
		}
	}
}

// drain makes the reader stop reading and finish. It may be called by anyone.
func (c *conn) drain() {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	c.out.draining = true
	c.raw.SetReadDeadline(time.Unix(1, 0))
	c.out.room.Broadcast()
}

// cut gives the client up.
func (c *conn) cut() {
	c.out.fail()
	c.raw.Close()
}
