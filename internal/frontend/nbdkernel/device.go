// Package nbdkernel gives the kernel a block device by its own NBD client, which is set up over netlink. The kernel speaks NBD
// with the agent's own server over several connections. When these end because the agent does, requests wait, up to a
// limit; a new agent gives the same device new connections (Attach finds it by its backend's name) and they go on.
//
// Nothing here waits for the device: setting it up, connecting it anew and ending it are answered by the kernel without I/O.
package nbdkernel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"keelson/internal/blockdev"
)

// connections of one device. They share its requests; the server flushes across them.
const connections = 4

// requestMax is how long the kernel waits for one answer before it gives that connection up. The volume has limits of its own
// for everything, and its answer, a late one or an error, is better than a connection less: the kernel's own limit is 30 seconds.
const requestMax = 30 * time.Minute

// Options of a device; all are needed.
type Options struct {
	Socket     string        // of the NBD server
	Export     string        // its name there
	Backend    string        // names the device for later agents; no other device of this machine has it
	BlockBytes int           // logical block size
	DeadAfter  time.Duration // how long requests wait for new connections, in whole seconds
}

// Device is a connected one.
type Device struct {
	index int
	done  chan struct{}
	quit  chan struct{}
	once  sync.Once
}

// ErrInUse is why Close left everything as it was.
var ErrInUse = errors.New("the device is in use")

// Supported says why there can be no such device on this machine; nil if there can.
func Supported() error {
	c, err := dial()
	if err != nil {
		return err
	}
	c.close()
	return nil
}

// Path is that of the device.
func (d *Device) Path() string { return path(d.index) }

// Done is closed when the device is not connected any more.
func (d *Device) Done() <-chan struct{} { return d.done }

func path(index int) string { return fmt.Sprintf("/dev/nbd%d", index) }

// Attach makes a device, or gives the one that an earlier agent left, with the same backend, new connections.
func Attach(o Options) (*Device, error) {
	c, err := dial()
	if err != nil {
		return nil, err
	}
	defer c.close()
	r := request{index: -1, blockSize: uint64(o.BlockBytes), timeout: uint64(requestMax / time.Second), deadConn: uint64(o.DeadAfter / time.Second), backend: o.Backend}
	for range connections {
		f, e, err := connect(o.Socket, o.Export)
		if err != nil {
			return nil, err
		}
		defer f.Close() // the kernel has its own hold on the socket
		if r.size != 0 && r.size != e.size {
			return nil, fmt.Errorf("export %s changed its size", o.Export)
		}
		r.size, r.serverFlags = e.size, uint64(e.flags)
		if r.sockets = append(r.sockets, int(f.Fd())); e.flags&canMultiConn == 0 {
			break
		}
	}
	if left := Left(o.Backend); len(left) > 0 {
		r.index = left[0]
		again := r
		again.size, again.blockSize, again.serverFlags = 0, 0, 0 // these stay
		if _, err := c.do(cmdReconfigure, again); err == nil {
			return watch(r.index), nil
		}
		if err := disconnect(c, r.index); err != nil { // nobody can use it any more: another one
			return nil, fmt.Errorf("%s, which an earlier agent left, can neither be connected again nor ended: %w", path(r.index), err)
		}
		r.index = -1
	}
	index, err := c.do(cmdConnect, r)
	if err != nil {
		return nil, fmt.Errorf("connect an NBD device: %w", err)
	}
	if index < 0 {
		return nil, errors.New("connect an NBD device: the kernel does not say which it is")
	}
	return watch(index), nil
}

// Left are the connected devices with that backend.
func Left(backend string) (indexes []int) {
	files, _ := filepath.Glob("/sys/block/nbd*/backend") // the pattern is a good one
	for _, file := range files {
		text, err := os.ReadFile(file)
		var index int
		if _, bad := fmt.Sscanf(filepath.Base(filepath.Dir(file)), "nbd%d", &index); err == nil && bad == nil && strings.TrimSpace(string(text)) == backend && connected(index) {
			indexes = append(indexes, index)
		}
	}
	return indexes
}

// Owns reports whether the device at that path is a connected one with that backend.
func Owns(backend, device string) bool {
	return slices.ContainsFunc(Left(backend), func(index int) bool { return path(index) == device })
}

// connected reports whether the device has a server, or waits for one.
func connected(index int) bool {
	_, err := os.Stat(fmt.Sprintf("/sys/block/nbd%d/pid", index))
	return err == nil
}

// watchEvery is how often it is looked whether somebody else ended the device.
const watchEvery = time.Second

// watch makes the Device of a connected one.
func watch(index int) *Device {
	d := &Device{index: index, done: make(chan struct{}), quit: make(chan struct{})}
	go func() { // ends with the device, or with Drop, Close or Leave
		defer close(d.done)
		for {
			select {
			case <-d.quit:
				return
			case <-time.After(watchEvery):
				if !connected(index) {
					return
				}
			}
		}
	}()
	return d
}

// Close ends the device if nobody uses it; otherwise it changes nothing and returns who does, with ErrInUse.
func (d *Device) Close() ([]blockdev.Holder, error) {
	holders, err := blockdev.Holders(d.Path())
	if err != nil {
		return nil, err
	}
	if len(holders) > 0 {
		return holders, ErrInUse
	}
	_, err = d.Drop()
	return nil, err
}

// Drop ends the device whoever uses it: what waits and what comes gets errors. It returns who holds what is left.
func (d *Device) Drop() ([]blockdev.Holder, error) {
	d.Leave()
	if err := Drop(d.index); err != nil {
		return nil, err
	}
	return blockdev.Holders(d.Path())
}

// Leave forgets the device and lets it be: requests wait for the next agent.
func (d *Device) Leave() {
	d.once.Do(func() { close(d.quit) })
	<-d.done
}

// Drop ends the device of that index.
func Drop(index int) error {
	c, err := dial()
	if err != nil {
		return err
	}
	defer c.close()
	return disconnect(c, index)
}

func disconnect(c *client, index int) error {
	if !connected(index) {
		return nil
	}
	if _, err := c.do(cmdDisconnect, request{index: index}); err != nil {
		return fmt.Errorf("disconnect %s: %w", path(index), err)
	}
	return nil
}
