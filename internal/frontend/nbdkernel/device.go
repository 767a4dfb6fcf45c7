// Package nbdkernel gives the kernel a block device by its own NBD client, which is set up over netlink. The kernel speaks NBD
// with the agent's own server over one connection. When that ends because the agent does, requests wait, those included that
// the agent had not answered yet; a new agent gives the same device a new connection (Attach finds it by its backend's name) and
// the kernel sends them again.
//
// There is one connection, and the kernel is given no time limit for answers, for a reason. The kernel sends what was on its
// way on a connection that ended again only when the request's timer runs out. With several connections, or with a time limit,
// that timer also gives up connections that live, and requests that their server still has are sent once more on another:
// an old write could come after a newer one. With one and without a limit the timer only looks whether there is a new
// connection, so it can be short (lookEvery).
//
// Nothing here waits for the device: setting it up, connecting it anew and ending it are answered by the kernel without I/O.
package nbdkernel

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"keelson/internal/blockdev"
)

// lookEvery is how often the kernel looks whether what it waits for has to be sent again. For a request that takes longer it
// writes a line into its log each time.
const lookEvery = 5 * time.Second

// Options of a device; all are needed.
type Options struct {
	// Serve has the agent's NBD server take a connection over. What it returns is closed when the server has closed that
	// connection, and is done with every request that came by it.
	Serve      func(net.Conn) <-chan struct{}
	Export     string        // its name at the server
	Backend    string        // names the device for later agents; no other device of this machine has it
	BlockBytes int           // logical block size
	DeadAfter  time.Duration // how long requests wait for a new connection, in whole seconds
}

// Device is a connected one.
type Device struct {
	o     Options
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

// Attach makes a device, or gives the one that an earlier agent left, with the same backend, a new connection.
func Attach(o Options) (*Device, error) {
	c, err := dial()
	if err != nil {
		return nil, err
	}
	defer c.close()
	if left := Left(o.Backend); len(left) > 0 {
		l, err := reconnect(c, o, left[0])
		if err == nil {
			return watch(o, left[0], l), nil
		}
		if err := disconnect(c, left[0]); err != nil { // nobody can use it any more: another one
			return nil, fmt.Errorf("%s, which an earlier agent left, can neither be connected again nor ended: %w", path(left[0]), err)
		}
	}
	l, f, e, err := connect(o)
	if err != nil {
		return nil, err
	}
	defer f.Close() // the kernel has its own hold on the socket
	index, err := c.do(cmdConnect, request{
		index: -1, size: e.size, blockSize: uint64(o.BlockBytes), serverFlags: uint64(e.flags), deadConn: uint64(o.DeadAfter / time.Second),
		backend: o.Backend, socket: int(f.Fd()), hasSocket: true,
	})
	if err == nil && index < 0 {
		err = errors.New("the kernel does not say which it is")
	}
	if err != nil {
		l.close()
		return nil, fmt.Errorf("connect an NBD device: %w", err)
	}
	setLook(index)
	return watch(o, index, l), nil
}

// reconnect gives the device a new connection. The server is done with everything of the one before it, or its process is gone:
// so nothing that came by that can be done after something that comes by this. If the kernel has not noticed yet that the
// one before ended it says yes and forgets the new one, which then ends.
func reconnect(c *client, o Options, index int) (link, error) {
	l, f, _, err := connect(o)
	if err != nil {
		return link{}, err
	}
	defer f.Close()
	_, err = c.do(cmdReconfigure, request{
		index: index, deadConn: uint64(o.DeadAfter / time.Second), backend: o.Backend, socket: int(f.Fd()), hasSocket: true,
		hasTimeout: true, // none: an agent that left has set one
	})
	if err != nil {
		l.close()
		return link{}, fmt.Errorf("connect %s again: %w", path(index), err)
	}
	setLook(index)
	return l, nil
}

// setLook makes the kernel's timer of requests short. Where it cannot be set it is the kernel's own, 30 seconds.
func setLook(index int) {
	file := fmt.Sprintf("/sys/block/nbd%d/queue/io_timeout", index) // in milliseconds
	_ = os.WriteFile(file, strconv.AppendInt(nil, lookEvery.Milliseconds(), 10), 0)
}

// Left are the connected devices with that backend.
func Left(backend string) (indexes []int) {
	return Find(func(b string) bool { return b == backend })
}

// Find returns the connected devices with such a backend.
func Find(match func(backend string) bool) (indexes []int) {
	files, _ := filepath.Glob("/sys/block/nbd*/backend") // the pattern is a good one
	for _, file := range files {
		text, err := os.ReadFile(file)
		var index int
		if _, bad := fmt.Sscanf(filepath.Base(filepath.Dir(file)), "nbd%d", &index); err == nil && bad == nil && match(strings.TrimSpace(string(text))) && connected(index) {
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

// watchEvery is how often it is looked whether somebody else ended the device, and whether it needs a new connection.
const watchEvery = time.Second

// watch makes the Device of a connected one.
func watch(o Options, index int, l link) *Device {
	d := &Device{o: o, index: index, done: make(chan struct{}), quit: make(chan struct{})}
	go d.keep(l)
	return d
}

// keep gives the device another connection when the one it has ended although the agent lives: the kernel may give one up
// when it is short of memory. It ends with the device, or with Drop, Close or Leave.
func (d *Device) keep(l link) {
	defer close(d.done)
	for {
		select {
		case <-d.quit:
			l.close()
			return
		case <-time.After(watchEvery):
		}
		if !connected(d.index) {
			l.close()
			return
		}
		select {
		case <-l.served:
			if next, err := d.again(); err == nil { // otherwise once more in a moment, as long as the device is wished for
				l = next
			}
		default:
		}
	}
}

func (d *Device) again() (link, error) {
	c, err := dial()
	if err != nil {
		return link{}, err
	}
	defer c.close()
	return reconnect(c, d.o, d.index)
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
	d.hangUp()
	if err := Drop(d.index); err != nil {
		return nil, err
	}
	return blockdev.Holders(d.Path())
}

// Leave forgets the device and lets it be: its connection ends, and requests wait for the next agent, up to the limit. What
// the server answers from now on nobody hears.
func (d *Device) Leave() {
	if c, err := dial(); err == nil { // else requests on their way wait without that limit
		_, _ = c.do(cmdReconfigure, request{index: d.index, backend: d.o.Backend, timeout: leftTimeout, hasTimeout: true})
		c.close()
	}
	d.hangUp()
}

// leftTimeout, in seconds, is the kernel's time limit for an answer on a connection that ended: then the request waits for a
// new one like those that come.
const leftTimeout = 1

// hangUp ends the connection, and the goroutine that keeps it.
func (d *Device) hangUp() {
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
