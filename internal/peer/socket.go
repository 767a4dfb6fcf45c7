package peer

import (
	"net"

	"golang.org/x/sys/unix"
)

// userTimeouts is after how many DeadAfter the kernel gives up bytes that nobody acknowledges, or that a peer with a full
// buffer does not take. Heartbeats find a dead peer long before; this ends what the kernel keeps of closed connections.
const userTimeouts = 6

// tune sets the options of a stream's socket; Go has set TCP_NODELAY. They are improvements: one that the kernel does not
// take is left alone.
func tune(s Socket, o Options) {
	tcp, ok := s.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeouts*o.DeadAfter.Milliseconds()))
	})
	if o.SocketBytes > 0 {
		_ = tcp.SetReadBuffer(o.SocketBytes)
		_ = tcp.SetWriteBuffer(o.SocketBytes)
	}
}
