package nbd_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"keelson/internal/block"
	"keelson/internal/block/blocktest"
	"keelson/internal/frontend/nbd"
	"keelson/internal/frontend/nbd/nbdclient"
	"keelson/internal/frontend/nbd/nbdproto"
)

// remote is a block.Device behind the server: client, protocol and server have to pass what any device has to.
type remote struct {
	t *testing.T
	c *nbdclient.Client
}

func (d remote) Size() int64  { return d.c.Size() }
func (d remote) Close() error { return d.c.Close() }

func (d remote) Submit(batch []*block.Request) {
	var group sync.WaitGroup
	for _, r := range batch {
		call := &nbdclient.Call{Cmd: commandOf[r.Op], Off: r.Off, Len: r.Len, Done: make(chan *nbdclient.Call, 1)}
		if r.Buf != nil {
			call.Buf = r.Buf.Bytes
		}
		if r.Flags&block.FUA != 0 {
			call.Flags |= nbdclient.FUA
		}
		if r.Flags&block.NoHole != 0 && r.Op == block.Zero {
			call.Flags |= nbdclient.NoHole
		}
		d.c.Go(call)
		group.Go(func() {
			<-call.Done
			r.Err = call.Err
			r.By.Complete(r)
		})
	}
	group.Wait()
}

var commandOf = map[block.Op]uint16{
	block.Read: nbdproto.CmdRead, block.Write: nbdproto.CmdWrite, block.Zero: nbdproto.CmdWriteZeroes,
	block.Trim: nbdproto.CmdTrim, block.Flush: nbdproto.CmdFlush,
}

func (d remote) Extents(off, length int64) ([]block.Extent, error) {
	got, err := d.c.BlockStatus(off, length)
	var out []block.Extent
	for _, e := range got {
		out = append(out, block.Extent(e))
	}
	return out, err
}

func TestDeviceOverNBD(t *testing.T) {
	for _, simple := range []bool{false, true} {
		t.Run(fmt.Sprintf("simple=%v", simple), func(t *testing.T) {
			size := int64(64 * mib)
			if simple {
				size = 4 * mib
			}
			r := start(t, blocktest.NewMem(size), nbd.Options{InFlightBytesMax: mib, RequestsMax: 8})
			blocktest.Run(t, func() block.Device {
				c, err := nbdclient.DialOptions("nbd://"+r.tcp+"/data", nbdclient.Options{Simple: simple})
				if err != nil {
					t.Fatal(err)
				}
				if simple {
					return noStatus{remote{t, c}}
				}
				return remote{t, c}
			})
		})
	}
}

// noStatus is a remote without block status, which needs structured replies.
type noStatus struct{ remote }

func (d noStatus) Extents(off, length int64) ([]block.Extent, error) {
	if _, err := d.remote.Extents(off, length); !errors.Is(err, nbdproto.EINVAL) {
		d.t.Errorf("block status without structured replies: %v", err)
	}
	return []block.Extent{{Len: length}}, nil
}

// errorCase is a request with the answer it must get.
type errorCase struct {
	name string
	call nbdclient.Call
	want error
}

func TestAnswersToBadRequests(t *testing.T) {
	r := start(t, blocktest.NewMem(64*mib), nbd.Options{})
	if err := r.AddExport("ro", blocktest.NewMem(64*mib), nbd.ExportOptions{ReadOnly: true}); err != nil {
		t.Fatal(err)
	}
	const size = 64 * mib
	for _, export := range []string{"data", "ro"} {
		c, err := nbdclient.Dial(r.export(export))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		change := func(want error) error {
			if export == "ro" {
				return nbdproto.EPERM
			}
			return want
		}
		for _, bad := range []errorCase{
			{"read beyond the end", nbdclient.Call{Cmd: nbdproto.CmdRead, Off: size - 1, Buf: make([]byte, 2)}, nbdproto.EINVAL},
			{"read from far beyond", nbdclient.Call{Cmd: nbdproto.CmdRead, Off: -1, Buf: make([]byte, 2)}, nbdproto.EINVAL},
			{"read of nothing", nbdclient.Call{Cmd: nbdproto.CmdRead}, nbdproto.EINVAL},
			{"read of too much", nbdclient.Call{Cmd: nbdproto.CmdRead, Len: 32*mib + 1}, nbdproto.EINVAL},
			{"write beyond the end", nbdclient.Call{Cmd: nbdproto.CmdWrite, Off: size - mib + 1, Buf: make([]byte, mib)}, change(nbdproto.ENOSPC)},
			{"write", nbdclient.Call{Cmd: nbdproto.CmdWrite, Buf: make([]byte, mib)}, change(nil)},
			{"zeroes beyond the end", nbdclient.Call{Cmd: nbdproto.CmdWriteZeroes, Off: size, Len: 1}, change(nbdproto.ENOSPC)},
			{"trim beyond the end", nbdclient.Call{Cmd: nbdproto.CmdTrim, Off: 1, Len: size}, change(nbdproto.EINVAL)},
			{"fast zero", nbdclient.Call{Cmd: nbdproto.CmdWriteZeroes, Len: 1, Flags: nbdproto.FlagFastZero}, nbdproto.EINVAL},
			{"unknown flag", nbdclient.Call{Cmd: nbdproto.CmdRead, Buf: make([]byte, 1), Flags: 1 << 15}, nbdproto.EINVAL},
			{"block status beyond the end", nbdclient.Call{Cmd: nbdproto.CmdBlockStatus, Off: 1, Len: size}, nbdproto.EINVAL},
			{"cache", nbdclient.Call{Cmd: nbdproto.CmdCache, Len: 1}, nbdproto.EINVAL},
			{"unknown command", nbdclient.Call{Cmd: 77, Len: 1}, nbdproto.EINVAL},
			{"flush", nbdclient.Call{Cmd: nbdproto.CmdFlush, Flags: nbdproto.FlagFUA}, nil},
			{"trim of everything", nbdclient.Call{Cmd: nbdproto.CmdTrim, Len: size}, change(nil)},
		} {
			bad.call.Done = make(chan *nbdclient.Call, 1)
			c.Go(&bad.call)
			<-bad.call.Done
			if !errors.Is(bad.call.Err, bad.want) {
				t.Errorf("%s: %s: %v, not %v", export, bad.name, bad.call.Err, bad.want)
			}
		}
	}
}

func TestDeviceErrors(t *testing.T) {
	dev := blocktest.NewMem(mib)
	r := start(t, dev, nbd.Options{})
	c := r.dial(t)
	for err, want := range map[error]nbdproto.Errno{
		block.ErrNoSpace: nbdproto.ENOSPC, block.ErrReadOnly: nbdproto.EPERM,
		errors.New("the disk is gone"): nbdproto.EIO,
	} {
		dev.Fail(err)
		if _, got := c.WriteAt(make([]byte, 4096), 0); !errors.Is(got, want) {
			t.Errorf("%v: %v, not %v", err, got, want)
		}
		_, got := c.ReadAt(make([]byte, 4096), 0)
		if !errors.Is(got, want) || !strings.Contains(got.Error(), err.Error()) {
			t.Errorf("%v: a read does not say so: %v", err, got)
		}
		if _, got := c.BlockStatus(0, 4096); !errors.Is(got, want) {
			t.Errorf("%v: block status: %v", err, got)
		}
	}
}

// TestShutDeviceEndsConnection: what a device that is shut ended gets no reply, since an error would go up to an application
// whose client could do the request again elsewhere; what was done before is answered, and the connection ends.
func TestShutDeviceEndsConnection(t *testing.T) {
	for name, ask := range map[string]func(*nbdclient.Client) error{
		"write":        func(c *nbdclient.Client) error { _, err := c.WriteAt(make([]byte, 4096), 4096); return err },
		"read":         func(c *nbdclient.Client) error { _, err := c.ReadAt(make([]byte, 4096), 0); return err },
		"flush":        func(c *nbdclient.Client) error { return c.Flush() },
		"block status": func(c *nbdclient.Client) error { _, err := c.BlockStatus(0, 4096); return err },
	} {
		dev := blocktest.NewMem(mib)
		r := start(t, dev, nbd.Options{})
		c := r.dial(t)
		if _, err := c.WriteAt([]byte("done"), 0); err != nil {
			t.Fatal(err)
		}
		dev.Fail(block.ErrShutdown)
		if err := ask(c); !errors.Is(err, nbdclient.ErrUnanswered) {
			t.Errorf("a %s ended with %v", name, err)
		}
		<-c.Gone()
		dev.Fail(nil)
		again := r.dial(t)
		got := make([]byte, 4)
		if _, err := again.ReadAt(got, 0); err != nil || string(got) != "done" {
			t.Errorf("another connection reads %q, %v", got, err)
		}
	}
}

func TestConnections(t *testing.T) {
	r := start(t, blocktest.NewMem(mib), nbd.Options{})
	r.dial(t)
	c, err := nbdclient.Dial("nbd://" + r.tcp + "/data")
	if err != nil {
		t.Fatal(err)
	}
	got := r.Connections("data")
	if len(got) != 2 || !strings.HasPrefix(got[0].Remote, "pid ") || !strings.HasPrefix(got[1].Remote, "127.0.0.1:") {
		t.Errorf("connections: %+v", got)
	}
	c.Close()
	waitFor(t, "the connection to go", func() bool { return len(r.Connections("data")) == 1 })
	if err := r.AddExport("data", blocktest.NewMem(mib), nbd.ExportOptions{}); !errors.Is(err, nbd.ErrExists) {
		t.Errorf("a second export of the same name: %v", err)
	}
	if err := r.RemoveExport("nowhere"); !errors.Is(err, nbd.ErrNotThere) {
		t.Errorf("an export that is not there: %v", err)
	}
}

// TestRemoveExport: requests in flight of a device that is shut end with the connection, unanswered, and nothing is left.
func TestRemoveExport(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		t.Run(network, func(t *testing.T) { removeExport(t, network) })
	}
}

func removeExport(t *testing.T, network string) {
	const calls, inFlight = 20, 8
	dev := blocktest.NewMem(8 * mib)
	r := start(t, dev, nbd.Options{RequestsMax: inFlight})
	uri := map[string]string{"unix": r.unix(), "tcp": "nbd://" + r.tcp + "/data"}[network]
	var clients []*nbdclient.Client
	for range 2 { // the first one is idle
		c, err := nbdclient.Dial(uri)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		clients = append(clients, c)
	}
	dev.Hold()
	done := make(chan *nbdclient.Call, calls)
	for i := range calls {
		call := &nbdclient.Call{Cmd: nbdproto.CmdRead, Off: int64(i) * 4096, Buf: make([]byte, 4096), Done: done}
		if i%2 == 0 {
			call.Cmd = nbdproto.CmdWrite
		}
		clients[1].Go(call)
	}
	dev.WaitHeld(inFlight)
	dev.Shutdown()
	if err := r.RemoveExport("data"); err != nil {
		t.Fatal(err)
	}
	for range calls {
		if call := <-done; !errors.Is(call.Err, nbdclient.ErrUnanswered) {
			t.Errorf("command %d ended with %v", call.Cmd, call.Err)
		}
	}
	for _, c := range clients {
		<-c.Gone()
	}
	if got := r.Connections("data"); len(got) != 0 {
		t.Errorf("still there: %+v", got)
	}
	_, err := nbdclient.Dial(uri)
	var no *nbdclient.RefusedError
	if !errors.As(err, &no) || no.Reply != nbdproto.RepErrUnknown || !strings.Contains(no.Message, "look for its source") {
		t.Errorf("a removed export: %v", err)
	}
	if err := r.AddExport("data", blocktest.NewMem(mib), nbd.ExportOptions{}); err != nil {
		t.Fatal(err)
	}
	if c := r.dial(t); c.Size() != mib {
		t.Errorf("the new export has %d bytes", c.Size())
	}
}

// TestRemoveExportCutsDeafClient: a client that reads no replies is cut after DrainTimeout, and its memory was bounded all the time.
func TestRemoveExportCutsDeafClient(t *testing.T) {
	r := start(t, blocktest.NewMem(64*mib), nbd.Options{InFlightBytesMax: 2 * mib, DrainTimeout: 100 * time.Millisecond})
	nc, err := net.Dial("unix", r.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	greet(t, nc)
	var requests []byte
	for i := range 64 {
		b := make([]byte, nbdproto.RequestBytes)
		nbdproto.Request{Cmd: nbdproto.CmdRead, Cookie: uint64(i), Len: mib}.Encode(b)
		requests = append(requests, b...)
	}
	if _, err := nc.Write(requests); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(nc, make([]byte, nbdproto.SimpleBytes)); err != nil { // one reply is on its way, and now the client is deaf
		t.Fatal(err)
	}
	began := time.Now()
	if err := r.RemoveExport("data"); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 100*time.Millisecond || took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}

// TestRemoveExportReportsStuckDevice: a device that keeps a request is reported instead of waited for without end.
func TestRemoveExportReportsStuckDevice(t *testing.T) {
	dev := blocktest.NewMem(mib)
	r := start(t, dev, nbd.Options{DrainTimeout: 50 * time.Millisecond})
	c := r.dial(t)
	dev.Hold()
	call := &nbdclient.Call{Cmd: nbdproto.CmdWrite, Buf: make([]byte, 10), Done: make(chan *nbdclient.Call, 1)}
	c.Go(call)
	dev.WaitHeld(1)
	if err := r.RemoveExport("data"); !errors.Is(err, nbd.ErrStillInUse) {
		t.Errorf("RemoveExport: %v", err)
	}
	<-call.Done
	if !errors.Is(call.Err, nbdclient.ErrUnanswered) {
		t.Errorf("the request ended with %v", call.Err)
	}
	dev.Release()
}

// TestHeldRequests: while the device holds requests, others of the connection go on; a client that leaves meanwhile leaves nothing behind.
func TestHeldRequests(t *testing.T) {
	dev := blocktest.NewMem(8 * mib)
	r := start(t, dev, nbd.Options{RequestsMax: 4})
	c := r.dial(t)
	dev.Hold()
	done := make(chan *nbdclient.Call, 10)
	for i := range 10 {
		c.Go(&nbdclient.Call{Cmd: nbdproto.CmdWrite, Off: int64(i), Buf: []byte{byte(i)}, Done: done})
	}
	dev.WaitHeld(4) // and no more: RequestsMax
	dev.Release()
	for range 10 {
		if call := <-done; call.Err != nil {
			t.Fatal(call.Err)
		}
	}
	dev.Hold()
	c.Go(&nbdclient.Call{Cmd: nbdproto.CmdWrite, Buf: make([]byte, 1), Done: done})
	dev.WaitHeld(1)
	c.Cut()
	if call := <-done; !errors.Is(call.Err, nbdclient.ErrUnanswered) {
		t.Errorf("an unanswered write ended with %v", call.Err)
	}
	dev.Release()
	waitFor(t, "the connection to go", func() bool { return len(r.Connections("data")) == 0 })
}

// What is found by name only is not in the way of clients that give no name.
func TestExportsByNameOnly(t *testing.T) {
	r := start(t, blocktest.NewMem(8*mib), nbd.Options{})
	if err := r.AddExport("data@view", blocktest.NewMem(mib), nbd.ExportOptions{ReadOnly: true, ByNameOnly: true}); err != nil {
		t.Fatal(err)
	}
	for name, size := range map[string]int64{"": 8 * mib, "data": 8 * mib, "data@view": mib} {
		c, err := nbdclient.Dial(r.export(name))
		if err != nil {
			t.Fatal(name, err)
		}
		if c.Size() != size {
			t.Errorf("%q has %d bytes, not %d", name, c.Size(), size)
		}
		c.Close()
	}
	if err := r.RemoveExport("data"); err != nil {
		t.Fatal(err)
	}
	if c, err := nbdclient.Dial(r.export("")); err == nil {
		t.Errorf("without a name a view of %d bytes is found", c.Size())
		c.Close()
	}
}
