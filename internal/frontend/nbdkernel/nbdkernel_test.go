package nbdkernel

import (
	"encoding/hex"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"keelson/internal/block/blocktest"
	"keelson/internal/frontend/nbd"
	"keelson/internal/frontend/nbd/nbdproto"
)

// The bytes that the kernel reads: attributes are 16 bits of length and of kind, in the machine's order, padded to four.
func TestRequestBytes(t *testing.T) {
	data, err := request{index: 3, size: 1 << 20, blockSize: 512, timeout: 1800, serverFlags: 0x16d, deadConn: 60, backend: "x", sockets: []int{7, 9}}.encode()
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Join([]string{
		"0800" + "0100" + "03000000",
		"0c00" + "0200" + "0000100000000000",
		"0c00" + "0300" + "0002000000000000",
		"0c00" + "0400" + "0807000000000000",
		"0c00" + "0500" + "6d01000000000000",
		"0c00" + "0800" + "3c00000000000000",
		"0600" + "0a00" + "7800" + "0000",
		"1c00" + "0780" + "0c000180" + "08000100" + "07000000" + "0c000180" + "08000100" + "09000000",
	}, "")
	if got := hex.EncodeToString(data); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	data, err = request{index: -1}.encode()
	if err != nil || len(data) != 0 {
		t.Errorf("an empty one: %x, %v", data, err)
	}
}

// The handshake with the agent's own server ends where the kernel goes on: with simple replies.
func TestHandshake(t *testing.T) {
	s := nbd.NewServer(nbd.Options{})
	defer s.Close()
	if err := s.AddExport("data", blocktest.NewMem(1<<20), nbd.ExportOptions{}); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = s.Serve(l) }() // ends with the server
	f, e, err := connect(socket, "data")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if e.size != 1<<20 || e.flags&canMultiConn == 0 || e.flags&(1<<2|1<<3|1<<5|1<<6) != 1<<2|1<<3|1<<5|1<<6 {
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
	if _, _, err := connect(socket, "nothing"); err == nil || !strings.Contains(err.Error(), "no such export") {
		t.Errorf("an export that is not there: %v", err)
	}
	if _, _, err := connect(socket+"x", "data"); err == nil {
		t.Error("no server, and no error")
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
