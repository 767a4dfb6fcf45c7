package nbd

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"keelson/internal/block"
	p "keelson/internal/frontend/nbd/nbdproto"
)

// recorded is a connection that delivers fixed bytes in pieces and forgets what it is sent.
type recorded struct {
	r     *bytes.Reader
	piece int
}

func (c *recorded) Read(b []byte) (int, error) {
	return c.r.Read(b[:min(len(b), c.piece)])
}
func (c *recorded) Write(b []byte) (int, error)        { return len(b), nil }
func (c *recorded) Close() error                       { return nil }
func (c *recorded) LocalAddr() net.Addr                { return &net.TCPAddr{} }
func (c *recorded) RemoteAddr() net.Addr               { return &net.TCPAddr{} }
func (c *recorded) SetDeadline(t time.Time) error      { return nil }
func (c *recorded) SetReadDeadline(t time.Time) error  { return nil }
func (c *recorded) SetWriteDeadline(t time.Time) error { return nil }

// strict is a device that checks what the parser lets through.
type strict struct{ t *testing.T }

func (d strict) Size() int64 { return 1 << 20 }

func (d strict) Submit(batch []*block.Request) {
	if len(batch) > batchRequestsMax {
		d.t.Errorf("a batch of %d requests", len(batch))
	}
	for _, r := range batch {
		if err := r.Check(d.Size()); err != nil {
			d.t.Error(err)
		}
		if (r.Op == block.Read || r.Op == block.Write) != (r.Buf != nil) || r.Buf != nil && int64(len(r.Buf.Bytes)) != r.Len {
			d.t.Errorf("%s of %d bytes without a fitting buffer", r.Op, r.Len)
		}
		r.By.Complete(r)
	}
}

func (d strict) Extents(off, length int64) ([]block.Extent, error) {
	if off < 0 || length <= 0 || off+length > d.Size() {
		d.t.Errorf("extents of %d at %d", length, off)
	}
	return []block.Extent{{Len: length}}, nil
}

// FuzzConnection feeds a whole connection with what a stranger can send: it must end, not panic, give back every
// buffer's room, and let nothing through that the device must not see.
func FuzzConnection(f *testing.F) {
	flags := []byte{0, 0, 0, 3}
	name := append([]byte{0, 0, 0, 1}, 'd')
	opt := func(id uint32, data ...byte) []byte {
		b := binary.BigEndian.AppendUint64(nil, p.MagicOption)
		b = binary.BigEndian.AppendUint32(b, id)
		return append(binary.BigEndian.AppendUint32(b, uint32(len(data))), data...)
	}
	var requests []byte
	for cmd := range uint16(9) {
		b := make([]byte, p.RequestBytes)
		p.Request{Cmd: cmd, Cookie: uint64(cmd), Off: 4096, Len: 16}.Encode(b)
		if requests = append(requests, b...); cmd == p.CmdWrite {
			requests = append(requests, make([]byte, 16)...)
		}
	}
	requests = bytes.Replace(requests, requests[p.RequestBytes*2+16:p.RequestBytes*3+16], nil, 1) // without DISC
	context := append(append(append([]byte{}, name...), 0, 0, 0, 1, 0, 0, 0, 15), p.ContextAllocation...)
	go1 := append(append([]byte{}, name...), 0, 1, 0, 3)
	f.Add(bytes.Join([][]byte{flags, opt(p.OptExportName, 'd'), requests}, nil), uint16(1000))
	f.Add(bytes.Join([][]byte{flags, opt(p.OptStructuredReply), opt(p.OptSetMetaContext, context...), opt(p.OptGo, go1...), requests}, nil), uint16(7))
	f.Add(bytes.Join([][]byte{flags, opt(p.OptList), opt(p.OptListMetaContext, context...), opt(p.OptInfo, go1...), opt(p.OptAbort)}, nil), uint16(1))
	f.Add(bytes.Join([][]byte{flags, opt(p.OptStartTLS), opt(99), requests}, nil), uint16(50))
	f.Fuzz(func(t *testing.T, sent []byte, piece uint16) {
		s := NewServer(Options{DrainTimeout: time.Second, RequestsMax: 4, InFlightBytesMax: 1 << 16})
		if err := s.AddExport("d", strict{t}, ExportOptions{}); err != nil {
			t.Fatal(err)
		}
		c := newConn(s, &recorded{bytes.NewReader(sent), int(piece) + 1})
		c.run()
		if c.out.count != 0 || c.out.bytes != 0 || len(c.out.queue) != 0 {
			t.Errorf("left behind: %d requests, %d bytes, %d replies", c.out.count, c.out.bytes, len(c.out.queue))
		}
	})
}

var _ io.ReadWriteCloser = (*recorded)(nil)

// TestNoAllocation: in steady state a request, from the socket to the socket, allocates nothing.
func TestNoAllocation(t *testing.T) {
	var script []byte
	const n = 2000
	for i := range uint64(n) {
		b := make([]byte, p.RequestBytes)
		cmd := uint16(i % 2)
		p.Request{Cmd: cmd, Cookie: i, Off: i % 200 * 4096, Len: 4096}.Encode(b)
		if script = append(script, b...); cmd == p.CmdWrite {
			script = append(script, make([]byte, 4096)...)
		}
	}
	s := NewServer(Options{})
	c := newConn(s, &recorded{bytes.NewReader(nil), 64 << 10})
	c.exp, c.size = &export{name: "d", dev: strict{t}}, 1<<20
	if !c.out.start() {
		t.Fatal("not started")
	}
	defer c.out.stop()
	c.in.grow(readBytes)
	again := func() {
		c.raw.(*recorded).r.Reset(script)
		if err := c.transmit(); err != io.EOF {
			t.Fatal(err)
		}
		c.out.waitIdle()
	}
	again()
	if got := testing.AllocsPerRun(5, again); got > n/100*allocsAllowed {
		t.Errorf("%.0f allocations for %d requests", got, n)
	}
}
