package peer

import (
	"context"
	"net"
	"syscall"
)

// Network is where connections come from. The machine's is TCP; the simulator has one in memory, so that delays, cuts and
// refusals are inputs.
type Network interface {
	// Listen opens a port; what it accepts are Sockets.
	Listen(addr string) (net.Listener, error)
	Dial(ctx context.Context, addr string) (Socket, error)
}

// Socket is what a connection stands on: a *net.TCPConn, or one of a Network's own, which is an Offerer too.
type Socket interface {
	net.Conn
	CloseWrite() error
	SetLinger(seconds int) error
}

// Offerer is a Socket that is not the kernel's: it takes what it has room for, without waiting.
type Offerer interface {
	Socket
	Offer(p []byte) (n int, err error)
}

type tcpNetwork struct{}

func (tcpNetwork) Listen(addr string) (net.Listener, error) {
	config := net.ListenConfig{KeepAlive: -1}
	return config.Listen(context.Background(), "tcp", addr)
}

func (tcpNetwork) Dial(ctx context.Context, addr string) (Socket, error) {
	dialer := net.Dialer{KeepAlive: -1}
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// rawOf is the kernel's end of the socket; nil if it has none.
func rawOf(s Socket) (syscall.RawConn, error) {
	if tcp, ok := s.(*net.TCPConn); ok {
		return tcp.SyscallConn()
	}
	return nil, nil
}

// plain is socketWriter.write for a socket that is not the kernel's.
func (w *socketWriter) plain(pieces [][]byte, wait bool) (n int, err error) {
	s := w.c.tcp.(Offerer)
	for _, p := range pieces {
		var m int
		if m, err = s.Offer(p); m == 0 && n == 0 && wait && err == nil && len(p) > 0 {
			m, err = s.Write(p)
		}
		n += m
		if m < len(p) || err != nil {
			break
		}
	}
	w.c.sent.Add(int64(n))
	return n, err
}

// readPlain is readSocket for a socket that is not the kernel's.
func (c *Conn) readPlain(p []byte) (int, error) {
	c.reading.Store(true)
	n, err := c.tcp.Read(p)
	c.reading.Store(false)
	c.got.Add(int64(n))
	return n, err
}
