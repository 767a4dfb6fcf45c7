package nbd_test

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"keelson/internal/block/blocktest"
	"keelson/internal/frontend/nbd"
	p "keelson/internal/frontend/nbd/nbdproto"
)

// TestLeave: before an address is given up its clients are told, those in a handshake too, and nobody is let in by it; clients of other addresses stay.
func TestLeave(t *testing.T) {
	r := start(t, blocktest.NewMem(mib), nbd.Options{})
	local := netip.MustParseAddrPort(r.tcp).Addr()
	dial := func() net.Conn {
		nc, err := net.Dial("tcp", r.tcp)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { nc.Close() })
		nc.SetDeadline(time.Now().Add(20 * time.Second))
		return nc
	}
	hears := func(nc net.Conn, bytes int) {
		t.Helper()
		if _, err := io.ReadFull(nc, make([]byte, bytes)); err != nil {
			t.Fatal(err)
		}
	}
	ended := func(who string, nc net.Conn) {
		t.Helper()
		if n, err := nc.Read(make([]byte, 64)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a client %s is told nothing: %d bytes, %v", who, n, err)
		}
	}
	elsewhere := r.dial(t)
	handshaking, idle := dial(), dial()
	hears(handshaking, 18)
	hears(idle, 18)
	if _, err := idle.Write(join(clientFlags, option(p.OptExportName, []byte("data")))); err != nil {
		t.Fatal(err)
	}
	hears(idle, 10)
	waitFor(t, "the idle client uses the export", func() bool { return len(r.Connections("data")) == 2 })

	r.Leave(local, 10*time.Second)
	ended("in a handshake", handshaking)
	ended("that is idle", idle)
	ended("that comes late", dial())
	if _, err := elsewhere.ReadAt(make([]byte, 512), 0); err != nil {
		t.Errorf("a client by the unix socket: %v", err)
	}
	r.Return(local)
	hears(dial(), 18)
}
