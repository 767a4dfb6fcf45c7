package peer

import (
	"crypto/tls"
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"
)

// recordHeaderBytes is the length of a TLS record's header; its last two bytes are the length of the rest.
const recordHeaderBytes = 5

// recordConn is the net.Conn below a tls.Conn. It has two lives.
//
// In the handshake it writes at once and reads exactly: never beyond the record that TLS asked for, so that what follows
// the hellos can be read from the socket by somebody else (`encryption = off`).
//
// In an encrypted stream (after streaming) Write collects records, which the Conn's sender gives to the socket without
// blocking, and Read takes many records in one system call. It still hands them to TLS one by one, so that TLS itself
// never holds more than one and hasRecord tells the truth.
type recordConn struct {
	Socket
	c      *Conn  // set by streaming; counts and does the system calls
	in     []byte // in[r:w] was read and not yet handed to TLS
	r, w   int
	left   int // bytes of the current record that were not yet handed to TLS
	exact  bool
	sent   int64 // bytes written before streaming
	got    int64
	closed func() // called once, at Close
	once   sync.Once
	leave  func() // of the gate; nil: there is none
	stream atomic.Pointer[Conn]

	mu     sync.Mutex // guards out: TLS may write from a reader too (an alert)
	out    []byte     // records for the socket
	flight []byte     // records that the sender is giving to the socket; only the sender's
	gone   int        // bytes of flight that are sent
}

func newRecordConn(s Socket) *recordConn {
	return &recordConn{Socket: s, in: make([]byte, 4<<10), exact: true}
}

// enter puts the connection, whose handshake is done, under the gate.
func (rc *recordConn) enter(id *Identity, t *tls.Conn) error {
	cert := t.ConnectionState().PeerCertificates[0]
	_, node, err := names(cert)
	if err != nil {
		return err
	}
	rc.leave, err = id.Gate.enter(node, cert, func(why error) {
		if c := rc.stream.Load(); c != nil {
			c.fail(why)
			return
		}
		rc.Socket.Close()
	})
	return err
}

// over takes the connection, which is over, from under the gate.
func (rc *recordConn) over() {
	if rc.leave != nil {
		rc.leave()
	}
}

// passThrough ends the record-wise reading: for control connections.
func (rc *recordConn) passThrough() { rc.exact, rc.in = false, nil }

// streaming begins the second life.
func (rc *recordConn) streaming(c *Conn) {
	rest := rc.in[rc.r:rc.w]
	rc.in = make([]byte, readBufferBytes)
	rc.r, rc.w = 0, copy(rc.in, rest)
	rc.out = make([]byte, 0, sealBytesMax+sealBytesMax/8)
	rc.flight = make([]byte, 0, cap(rc.out))
	rc.exact = false
	rc.c = c
}

// Read hands at most the rest of the current record to TLS.
func (rc *recordConn) Read(p []byte) (int, error) {
	if rc.in == nil {
		return rc.Socket.Read(p)
	}
	if rc.left == 0 {
		for rc.w-rc.r < recordHeaderBytes {
			if err := rc.fill(recordHeaderBytes - (rc.w - rc.r)); err != nil {
				return 0, err
			}
		}
		rc.left = recordBytes(rc.in[rc.r:])
	}
	if rc.r == rc.w {
		if err := rc.fill(rc.left); err != nil {
			return 0, err
		}
	}
	n := copy(p[:min(len(p), rc.left)], rc.in[rc.r:rc.w])
	rc.r += n
	rc.left -= n
	return n, nil
}

func recordBytes(header []byte) int {
	return recordHeaderBytes + int(binary.BigEndian.Uint16(header[3:]))
}

// fill reads at least one byte; in the handshake at most want.
func (rc *recordConn) fill(want int) error {
	if rc.r == rc.w {
		rc.r, rc.w = 0, 0
	} else if len(rc.in)-rc.w < recordHeaderBytes {
		rc.w = copy(rc.in, rc.in[rc.r:rc.w])
		rc.r = 0
	}
	space := rc.in[rc.w:]
	var n int
	var err error
	if rc.exact {
		n, err = rc.Socket.Read(space[:min(want, len(space))])
		rc.got += int64(n)
	} else {
		n, err = rc.c.readSocket(space, nil)
	}
	rc.w += n
	return err
}

// hasRecord reports whether the whole next record is in memory: reading it takes no system call.
func (rc *recordConn) hasRecord() bool {
	n := rc.w - rc.r
	return n >= recordHeaderBytes && n >= recordBytes(rc.in[rc.r:])
}

// Write sends at once, or collects.
func (rc *recordConn) Write(p []byte) (int, error) {
	if rc.c == nil {
		n, err := rc.Socket.Write(p)
		rc.sent += int64(n)
		return n, err
	}
	rc.mu.Lock()
	rc.out = append(rc.out, p...)
	rc.mu.Unlock()
	return len(p), nil
}

// pending is what was encrypted and waits for the socket. Only the sender calls it.
func (rc *recordConn) pending() []byte {
	if rc.gone == len(rc.flight) {
		rc.mu.Lock()
		rc.out, rc.flight = rc.flight[:0], rc.out
		rc.mu.Unlock()
		rc.gone = 0
	}
	return rc.flight[rc.gone:]
}

// SetWriteDeadline does nothing in a stream: writes never block there.
func (rc *recordConn) SetWriteDeadline(t time.Time) error {
	if rc.c != nil {
		return nil
	}
	return rc.Socket.SetWriteDeadline(t)
}

// Close closes the socket.
func (rc *recordConn) Close() error {
	rc.over()
	if rc.closed != nil {
		rc.once.Do(rc.closed)
	}
	return rc.Socket.Close()
}
