package nbd_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"keelson/internal/block/blocktest"
	"keelson/internal/frontend/nbd"
	p "keelson/internal/frontend/nbd/nbdproto"
)

// option encodes an option of the handshake.
func option(id uint32, data []byte) []byte {
	b := binary.BigEndian.AppendUint64(nil, p.MagicOption)
	b = binary.BigEndian.AppendUint32(b, id)
	return append(binary.BigEndian.AppendUint32(b, uint32(len(data))), data...)
}

func str(s string) []byte { return append(binary.BigEndian.AppendUint32(nil, uint32(len(s))), s...) }

func request(cmd uint16, off uint64, n uint32) []byte {
	b := make([]byte, p.RequestBytes)
	p.Request{Cmd: cmd, Cookie: 7, Off: off, Len: n}.Encode(b)
	return b
}

var clientFlags = []byte{0, 0, 0, p.FixedNewstyle | p.NoZeroes}

// greet does the shortest handshake for "data".
func greet(t *testing.T, nc net.Conn) {
	t.Helper()
	nc.SetDeadline(time.Now().Add(20 * time.Second))
	nc.Write(append(bytes.Clone(clientFlags), option(p.OptExportName, []byte("data"))...))
	if _, err := io.ReadFull(nc, make([]byte, 18+10)); err != nil {
		t.Fatal(err)
	}
}

// say sends bytes on a new connection, and returns all that comes back until the server closes, or, with hangUp, all that comes
// after the client has closed its side.
func say(t *testing.T, r *running, hangUp bool, what []byte) []byte {
	t.Helper()
	nc, err := net.Dial("unix", r.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(20 * time.Second))
	nc.Write(what)
	if hangUp {
		nc.(*net.UnixConn).CloseWrite()
	}
	got, err := io.ReadAll(nc)
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		t.Fatalf("the server did not close the connection after %x", what[:min(len(what), 64)])
	}
	return got
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// TestStrangers: what is not the protocol ends the connection, with a line in the log, and harms nobody else.
func TestStrangers(t *testing.T) {
	r := start(t, blocktest.NewMem(mib), nbd.Options{})
	enter := join(clientFlags, option(p.OptExportName, []byte("data")))
	var many [][]byte
	for range 100 {
		many = append(many, option(p.OptList, nil))
	}
	huge := option(99, nil)
	binary.BigEndian.PutUint32(huge[12:], 1<<31)
	for _, bad := range []struct {
		name, log string
		what      []byte
	}{
		{"web", "unknown flags", []byte("GET / HTTP/1.1\r\n\r\n")},
		{"flags", "unknown flags", []byte{0, 0, 0, 0x80}},
		{"option magic", "an option that begins with", join(clientFlags, bytes.Repeat([]byte{9}, 16))},
		{"option length", "an option of 2147483648 bytes", join(clientFlags, huge)},
		{"options without end", "more than 64 options", join(clientFlags, join(many...))},
		{"long name", "an export name of 5000 bytes", join(clientFlags, option(p.OptExportName, make([]byte, 5000)))},
		{"unknown export", "nowhere", join(clientFlags, option(p.OptExportName, []byte("nowhere")))},
		{"request magic", "a request without the magic number", join(enter, make([]byte, 28))},
		{"long write", "a write is longer than 32 MiB: 33554433 bytes", join(enter, request(p.CmdWrite, 0, 32*mib+1), make([]byte, 1000))},
	} {
		t.Run(bad.name, func(t *testing.T) {
			got := say(t, r, false, bad.what)
			waitFor(t, "the log to say "+bad.log, func() bool { return r.log.has(bad.log) })
			if bad.name == "long write" && (len(got) != 28+16 || p.Errno(binary.BigEndian.Uint32(got[32:])) != p.EINVAL) {
				t.Errorf("the answer is %x, not EINVAL", got)
			}
		})
	}
	c := r.dial(t)
	if _, err := c.WriteAt([]byte("still there"), 0); err != nil {
		t.Error(err)
	}
}

// replies takes the kinds of the replies to options apart.
func replies(t *testing.T, b []byte) (kinds []uint32) {
	t.Helper()
	for b = b[18:]; len(b) >= p.OptReplyBytes && binary.BigEndian.Uint64(b) == p.MagicOptionReply; {
		kinds = append(kinds, binary.BigEndian.Uint32(b[12:]))
		b = b[p.OptReplyBytes+int(binary.BigEndian.Uint32(b[16:])):]
	}
	return kinds
}

// TestBadOptions: an option that can't be done is refused by name, and the handshake goes on.
func TestBadOptions(t *testing.T) {
	r := start(t, blocktest.NewMem(mib), nbd.Options{})
	short := join(str("data"), []byte{0})
	lying := join([]byte{0, 0, 0xff, 0xff}, []byte("data"))
	queries := func(n uint32) []byte { return join(str("data"), binary.BigEndian.AppendUint32(nil, n)) }
	for _, bad := range []struct {
		name string
		what []byte
		want uint32
	}{
		{"unknown", option(99, []byte("anything")), p.RepErrUnsup},
		{"too big", option(p.OptGo, make([]byte, 20000)), p.RepErrTooBig},
		{"list with data", option(p.OptList, []byte{1}), p.RepErrInvalid},
		{"structured with data", option(p.OptStructuredReply, []byte{1}), p.RepErrInvalid},
		{"TLS", option(p.OptStartTLS, nil), p.RepErrPolicy},
		{"TLS with data", option(p.OptStartTLS, []byte{1}), p.RepErrInvalid},
		{"short go", option(p.OptGo, short), p.RepErrInvalid},
		{"lying go", option(p.OptGo, lying), p.RepErrInvalid},
		{"empty go", option(p.OptGo, nil), p.RepErrInvalid},
		{"go with more kinds than data", option(p.OptGo, join(str("data"), []byte{0xff, 0xff})), p.RepErrInvalid},
		{"unknown export", option(p.OptInfo, join(str("nowhere"), []byte{0, 0})), p.RepErrUnknown},
		{"contexts before structured replies", option(p.OptSetMetaContext, queries(0)), p.RepErrInvalid},
		{"contexts of nothing", option(p.OptListMetaContext, queries(1<<31)), p.RepErrInvalid},
		{"contexts of an unknown export", option(p.OptListMetaContext, join(str("no"), make([]byte, 4))), p.RepErrUnknown},
	} {
		t.Run(bad.name, func(t *testing.T) {
			got := replies(t, say(t, r, false, join(clientFlags, bad.what, option(p.OptAbort, nil))))
			if len(got) != 2 || got[0] != bad.want || got[1] != p.RepAck {
				t.Errorf("replies %#x, not %#x and the end", got, bad.want)
			}
		})
	}
}

// TestTruncated: a client that vanishes after any byte leaves no goroutine and no half request behind.
func TestTruncated(t *testing.T) {
	dev := blocktest.NewMem(mib)
	r := start(t, dev, nbd.Options{})
	whole := join(clientFlags, option(p.OptStructuredReply, nil),
		option(p.OptSetMetaContext, join(str("data"), []byte{0, 0, 0, 1}, str(p.ContextAllocation))),
		option(p.OptGo, join(str("data"), []byte{0, 1, 0, p.InfoBlockSize})),
		request(p.CmdBlockStatus, 0, 4096), request(p.CmdWrite, 0, 32), bytes.Repeat([]byte{1}, 32), request(p.CmdFlush, 0, 0))
	for n := range len(whole) + 1 {
		say(t, r, true, whole[:n])
	}
	if got := dev.Flushes(); got != 1 {
		t.Errorf("%d flushes", got)
	}
	waitFor(t, "all connections to go", func() bool { return len(r.Connections("data")) == 0 })
}

func TestSlowHandshakeIsCut(t *testing.T) {
	r := start(t, blocktest.NewMem(mib), nbd.Options{HandshakeTimeout: 50 * time.Millisecond})
	c := r.dial(t)
	say(t, r, false, clientFlags)
	waitFor(t, "the log", func() bool { return r.log.has("handshake not finished in time") })
	// The limit ended with the handshake: this connection is older than the one that was cut.
	if err := c.Flush(); err != nil {
		t.Error(err)
	}
}

func TestTooManyConnections(t *testing.T) {
	r := start(t, blocktest.NewMem(mib), nbd.Options{ConnectionsMax: 2})
	one := r.dial(t)
	r.dial(t)
	if got := say(t, r, false, nil); len(got) != 0 {
		t.Errorf("a third connection got %x", got)
	}
	if !r.log.has("too many already") {
		t.Error("the log does not say so")
	}
	one.Close()
	waitFor(t, "room for another", func() bool { return len(r.Connections("data")) == 1 })
	r.dial(t)
}
