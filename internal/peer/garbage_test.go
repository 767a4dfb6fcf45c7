package peer

import (
	"net"
	"testing"

	"keelson/internal/block"
	"keelson/internal/wire"
)

// bare is a plain stream without handshake, and the socket at its other end.
func bare(t testing.TB) (*Conn, *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	far, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	near, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c := newConn(newRecordConn(near.(*net.TCPConn)), nil, "a", Options{}.withDefaults())
	if err := c.start(false); err != nil {
		t.Fatal(err)
	}
	return c, far.(*net.TCPConn)
}

// FuzzConn: whatever comes after the handshake, the stream returns the frames at its front that are right, and then ends
// with an error.
func FuzzConn(f *testing.F) {
	add := func(h wire.Header, body string) []byte {
		h.Body, h.BodyCRC = uint32(len(body)), wire.Checksum([]byte(body))
		var head [wire.HeaderBytes]byte
		h.Encode(&head)
		return append(head[:], body...)
	}
	write := add(wire.Header{Type: wire.TypeWrite, Number: 1}, "content")
	flush := add(wire.Header{Type: wire.TypeFlush, Number: 1}, "")
	ping := add(wire.Header{Type: wire.TypePing, Number: 1}, "")
	bye := add(wire.Header{Type: wire.TypeBye}, `{"reason":"x"}`)
	long := add(wire.Header{Type: wire.TypeCopy}, string(make([]byte, largeBodyBytes)))
	for _, seed := range [][]byte{{}, write, append(append(append(ping, write...), flush...), bye...), append(long, write...), write[:41], []byte("GET / HTTP/1.1\r\n\r\n")} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, far := bare(t)
		defer far.Close()
		defer c.Close(nil)
		go func() {
			_, _ = far.Write(data)
			_ = far.CloseWrite()
		}()
		for at := 0; ; {
			h, body, err := c.Read()
			if err != nil {
				return
			}
			for { // what Read passed over
				want, err := wire.Decode(data[at:])
				if err != nil {
					t.Fatalf("frame %+v came from what is none: %v", h, err)
				}
				at += wire.HeaderBytes + int(want.Body)
				if want.Type != wire.TypePing && want.Type != wire.TypePong {
					if want != h {
						t.Fatalf("frame %+v came, %+v was sent", h, want)
					}
					break
				}
			}
			if body != nil && string(body.Bytes) != string(data[at-int(h.Body):at]) {
				t.Fatal("another body came")
			}
			body.Release()
		}
	})
}

// TestSteadyStateAllocatesNothing: a frame there and its acknowledgement back, plain.
func TestSteadyStateAllocatesNothing(t *testing.T) {
	a, b := pair(t, wire.EncryptionOff, Options{})
	body := block.NewBuffer(4096)
	defer body.Release()
	h := wire.Header{Type: wire.TypeWrite, Number: 1, BodyCRC: wire.Checksum(body.Bytes)}
	turn := func() {
		a.Queue(h, body, nil)
		a.TryFlush()
		receive(t, b, 1)
		b.Queue(wire.Header{Type: wire.TypeAck, Number: 1}, nil, nil)
		b.TryFlush()
		receive(t, a, 1)
	}
	for range 100 {
		turn()
	}
	if n := testing.AllocsPerRun(1000, turn); n >= 1 && !raceEnabled {
		t.Errorf("%v allocations for each turn", n)
	}
}
