package nbdkernel

import (
	"encoding/hex"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"keelson/internal/block/blocktest"
	"keelson/internal/frontend/nbd"
	"keelson/internal/frontend/nbd/nbdproto"
)

// The bytes that the kernel reads: attributes are 16 bits of length and of kind, in the machine's order, padded to four.
func TestRequestBytes(t *testing.T) {
	for _, test := range []struct {
		request request
		want    []string
	}{
		{request{index: -1}, nil},
		{request{index: 3, size: 1 << 20, blockSize: 512, serverFlags: 0x16d, deadConn: 60, backend: "x", socket: 7, hasSocket: true}, []string{
			"0800" + "0100" + "03000000",
			"0c00" + "0200" + "0000100000000000",
			"0c00" + "0300" + "0002000000000000",
			"0c00" + "0500" + "6d01000000000000",
			"0c00" + "0800" + "3c00000000000000",
			"0600" + "0a00" + "7800" + "0000",
			"1000" + "0780" + "0c000180" + "08000100" + "07000000",
		}},
		{request{index: 3, hasTimeout: true}, []string{"0800" + "0100" + "03000000", "0c00" + "0400" + "0000000000000000"}},
		{request{index: 3, timeout: 1, hasTimeout: true}, []string{"0800" + "0100" + "03000000", "0c00" + "0400" + "0100000000000000"}},
	} {
		data, err := test.request.encode()
		if err != nil {
			t.Fatal(err)
		}
		if got, want := hex.EncodeToString(data), strings.Join(test.want, ""); got != want {
			t.Errorf("%+v\ngot  %s\nwant %s", test.request, got, want)
		}
	}
}

// serve is a server with an export of 1 MiB.
func serve(t *testing.T) Options {
	s := nbd.NewServer(nbd.Options{})
	t.Cleanup(func() { s.Close() })
	if err := s.AddExport("data", blocktest.NewMem(1<<20), nbd.ExportOptions{}); err != nil {
		t.Fatal(err)
	}
	return Options{Serve: s.ServeConn, Export: "data"}
}

// The handshake with the agent's own server ends where the kernel goes on: with simple replies.
func TestHandshake(t *testing.T) {
	o := serve(t)
	l, f, e, err := connect(o)
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	defer f.Close()
	if e.size != 1<<20 || e.flags&(1<<2|1<<3|1<<5|1<<6) != 1<<2|1<<3|1<<5|1<<6 {
		t.Errorf("%d bytes, flags %#x", e.size, e.flags)
	}
	b := make([]byte, nbdproto.RequestBytes)
	nbdproto.Request{Cmd: nbdproto.CmdRead, Cookie: 5, Len: 512}.Encode(b)
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, nbdproto.SimpleBytes+512)
	if _, err := io.ReadFull(f, answer); err != nil || hex.EncodeToString(answer[:8]) != "6744669800000000" {
		t.Errorf("the answer begins with %x: %v", answer[:16], err)
	}
	o.Export = "nothing"
	if _, _, _, err := connect(o); err == nil || !strings.Contains(err.Error(), "no such export") {
		t.Errorf("an export that is not there: %v", err)
	}
	o.Serve = func(c net.Conn) <-chan struct{} { c.Close(); return nil }
	if _, _, _, err := connect(o); err == nil {
		t.Error("no server, and no error")
	}
}

// A connection that the kernel has not taken, or has given up, is seen to end; one that the agent ends is seen by the kernel.
func TestConnectionEnds(t *testing.T) {
	o := serve(t)
	l, f, _, err := connect(o)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-l.served:
		t.Fatal("it ended although somebody holds it")
	default:
	}
	f.Close()
	wait(t, "the server", l.served)
	l.close()

	if l, f, _, err = connect(o); err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l.close()
	wait(t, "the server", l.served)
	if n, err := f.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("the kernel reads %d bytes: %v", n, err)
	}
}

func wait(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(time.Minute):
		t.Fatalf("%s is not done", what)
	}
}

func FuzzHandshake(f *testing.F) {
	f.Add([]byte("NBDMAGICIHAVEOPT\x00\x03\x00\x00\x00\x00\x00\x10\x00\x00\x01\x6d"))
	f.Add([]byte("NBDMAGIC"))
	f.Fuzz(func(t *testing.T, greeting []byte) {
		e, err := handshake(&conversation{in: greeting}, "data")
		if err == nil && len(greeting) < greetingBytes+exportInfoBytes {
			t.Errorf("%+v from %x", e, greeting)
		}
	})
}

// conversation is a server that says the same whatever it hears.
type conversation struct{ in []byte }

func (c *conversation) Write(p []byte) (int, error) { return len(p), nil }

func (c *conversation) Read(p []byte) (int, error) {
	if len(c.in) == 0 {
		return 0, io.EOF
	}
	n := copy(p, c.in)
	c.in = c.in[n:]
	return n, nil
}
