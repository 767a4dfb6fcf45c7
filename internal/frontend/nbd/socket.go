package nbd

import (
	"bufio"
	"io"
	"net"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
	"unsafe"
)

// socket is how a connection moves bytes. One goroutine reads; one at a time sends.
type socket interface {
	// readv fills first and then second as far as bytes have arrived, and waits for at least one.
	readv(first, second []byte) (int, error)
	// trySend sends what goes without waiting.
	trySend(pieces [][]byte) (int, error)
	// send sends all.
	send(pieces [][]byte) error
}

// rawSocket is a socket of the kernel, used by vectored system calls that never wait in the kernel. It allocates nothing.
type rawSocket struct {
	rc syscall.RawConn

	rv     [2]unix.Iovec
	rn     int
	rerr   error
	readFn func(fd uintptr) bool

	wv     [iovecsMax]unix.Iovec
	wn     int
	werr   error
	wwait  bool // wait until the socket takes at least something
	wcount int
	sendFn func(fd uintptr) bool
}

func newRawSocket(rc syscall.RawConn) *rawSocket {
	s := &rawSocket{rc: rc}
	s.readFn, s.sendFn = s.readOnce, s.sendOnce
	return s
}

func (s *rawSocket) readOnce(fd uintptr) bool {
	n := 1
	if s.rv[1].Len > 0 {
		n = 2
	}
	for {
		got, _, errno := syscall.Syscall(unix.SYS_READV, fd, uintptr(unsafe.Pointer(&s.rv)), uintptr(n))
		switch errno {
		case 0:
			s.rn, s.rerr = int(got), nil
			if got == 0 {
				s.rerr = io.EOF
			}
			return true
		case unix.EAGAIN:
			return false
		case unix.EINTR:
		default:
			s.rn, s.rerr = 0, errno
			return true
		}
	}
}

func (s *rawSocket) readv(first, second []byte) (int, error) {
	if len(first) == 0 {
		first, second = second, nil
	}
	setIovec(&s.rv[0], first)
	setIovec(&s.rv[1], second)
	err := s.rc.Read(s.readFn)
	s.rv = [2]unix.Iovec{}
	runtime.KeepAlive(first)
	runtime.KeepAlive(second)
	if err != nil {
		return 0, err
	}
	return s.rn, s.rerr
}

func setIovec(v *unix.Iovec, b []byte) {
	v.Base = unsafe.SliceData(b)
	v.SetLen(len(b))
}

func (s *rawSocket) sendOnce(fd uintptr) bool {
	hdr := unix.Msghdr{Iov: &s.wv[0]}
	hdr.SetIovlen(s.wcount)
	for {
		got, _, errno := syscall.Syscall(unix.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(&hdr)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		switch errno {
		case 0:
			s.wn, s.werr = int(got), nil
			return true
		case unix.EAGAIN:
			s.wn, s.werr = 0, nil
			return !s.wwait
		case unix.EINTR:
		default:
			s.wn, s.werr = 0, errno
			return true
		}
	}
}

func (s *rawSocket) sendSome(pieces [][]byte, wait bool) (int, error) {
	s.wcount, s.wwait = len(pieces), wait
	for i, p := range pieces {
		setIovec(&s.wv[i], p)
	}
	err := s.rc.Write(s.sendFn)
	clear(s.wv[:s.wcount])
	runtime.KeepAlive(pieces)
	if err != nil {
		return 0, err
	}
	return s.wn, s.werr
}

func (s *rawSocket) trySend(pieces [][]byte) (int, error) { return s.sendSome(pieces, false) }

func (s *rawSocket) send(pieces [][]byte) error {
	for len(pieces) > 0 {
		n, err := s.sendSome(pieces, true)
		if err != nil {
			return err
		}
		pieces = advance(pieces, n)
	}
	return nil
}

// advance drops the first n bytes.
func advance(pieces [][]byte, n int) [][]byte {
	for len(pieces) > 0 && n >= len(pieces[0]) {
		n -= len(pieces[0])
		pieces = pieces[1:]
	}
	if n > 0 {
		pieces[0] = pieces[0][n:]
	}
	return pieces
}

// streamSocket is any other connection (TLS above all): it can't send without waiting, so all is left to the sender.
type streamSocket struct {
	nc net.Conn
	w  *bufio.Writer
}

const streamBytes = 64 << 10 // small pieces are gathered, so that a TLS record holds many replies

func newStreamSocket(nc net.Conn) *streamSocket {
	return &streamSocket{nc, bufio.NewWriterSize(nc, streamBytes)}
}

func (s *streamSocket) readv(first, second []byte) (int, error) {
	if len(first) == 0 {
		first = second
	}
	n, err := s.nc.Read(first)
	if n > 0 {
		err = nil
	}
	return n, err
}

func (s *streamSocket) trySend([][]byte) (int, error) { return 0, nil }

func (s *streamSocket) send(pieces [][]byte) error {
	for _, p := range pieces {
		if _, err := s.w.Write(p); err != nil {
			return err
		}
	}
	return s.w.Flush()
}
