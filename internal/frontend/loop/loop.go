// Package loop gives the kernel a block device for a block.Device: one file, served by FUSE with direct I/O, and a loop
// device with direct I/O on that file. Reads and writes arrive past the page cache and beside each other; flush, trim and
// write-zeroes arrive as such; the block layer makes FUA of a write and a flush.
//
// The one rule: a process that serves FUSE must never wait for its own file. If it were killed while it did, it could not
// end: its end waits for an answer that only it could give, and everything that looks at the device waits with it. So
// whatever touches the file, the loop device or the mount (opening, configuring, releasing, unmounting) is done by a
// helper, a process of its own (helper.go), within a time limit, after which the FUSE connection is aborted (abort.go);
// FLUSH, which a dying process sends, is not served; and everybody can abort the connection from outside.
//
// When the serving process dies the kernel ends the connection: requests fail at once, nothing hangs. What it leaves, a
// mount and a loop device that answers with errors, is cleaned by Clean at its next start.
package loop

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"keelson/internal/block"
	"keelson/internal/blockdev"
)

// blockBytes is what the file says of its blocks.
const blockBytes = 4096

// writeBytesMax is the most payload of one request (the kernel's own limit).
const writeBytesMax = 1 << 20

// helperMax is how long a helper may take before the connection is aborted.
const helperMax = 15 * time.Second

// typeName is how mounts show up: type fuse.keelson.
const typeName = "keelson"

// Options of a device; all but Log are needed.
type Options struct {
	Log           *slog.Logger
	Mount         string   // folder in which the file is shown; made if it is not there
	Name          string   // of the volume: part of the file's name
	Owner         string   // who serves it: tells agents of one kernel apart whose mounts are their own, in containers
	Helper        []string // command line of a helper, which calls HelperMain with what follows it
	BlockBytes    int      // logical block size of the loop device: 512 or 4096
	RequestsMax   int      // requests that the kernel has under way
	InFlightBytes int64    // memory of their payload
}

// Device is a loop device that serves a block.Device. It ends with Close, or by an abort from outside (Done).
type Device struct {
	o      Options
	path   string // /dev/loopN
	server *fuse.Server
	done   chan struct{}
}

// Path is that of the loop device.
func (d *Device) Path() string { return d.path }

// Done is closed when the kernel ended the connection: after Close, or after an abort from outside.
func (d *Device) Done() <-chan struct{} { return d.done }

// Supported says why there can be no such device on this machine; nil if there can.
func Supported() error {
	for _, path := range []string{"/dev/fuse", "/dev/loop-control"} {
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("%w; load the kernel's modules fuse and loop", err)
		}
	}
	if os.Geteuid() != 0 {
		return errors.New("a loop device needs an agent that runs as root")
	}
	return nil
}

// fileName is the name of the file: it tells this mount's loop devices from all others, also when the mount is gone.
func (o Options) fileName() string {
	sum := sha256.Sum256([]byte(o.Mount + o.Owner))
	return fmt.Sprintf("%s.%x", o.Name, sum[:4])
}

// Attach serves dev until the device is closed. What an earlier process left has to be cleaned before (Clean).
func Attach(ctx context.Context, dev block.Device, o Options) (*Device, error) {
	if err := Supported(); err != nil {
		return nil, err
	}
	if dev.Size()%int64(o.BlockBytes) != 0 {
		return nil, fmt.Errorf("a volume of %d bytes has no whole blocks of %d: use a block size of 512", dev.Size(), o.BlockBytes)
	}
	if err := os.MkdirAll(o.Mount, 0o700); err != nil {
		return nil, err
	}
	fd, err := mount(o)
	if err != nil {
		return nil, err
	}
	d := &Device{o: o, done: make(chan struct{})}
	// The folder /dev/fd/N stands for "mounted already": package fuse would open /dev/fuse without close-on-exec, and a helper
	// that inherited it would keep the connection alive after this process's death.
	d.server, err = fuse.NewServer(newFiles(dev, o.fileName()), fmt.Sprintf("/dev/fd/%d", fd), &fuse.MountOptions{
		Name: typeName, MaxWrite: writeBytesMax, MaxBackground: o.RequestsMax, MaxInflightRequestBytes: int(o.InFlightBytes),
		DisableSplice: true, DisableXAttrs: true, ExtraCapabilities: fuse.CAP_ASYNC_DIO, DisableReadDirPlus: true,
		Logger: log.New(logWriter{o.Log}, "", 0),
	})
	if err != nil { // it has closed fd, which ends the connection
		return nil, errors.Join(fmt.Errorf("serve %s: %w", o.Mount, err), d.unmount())
	}
	go func() {
		defer close(d.done)
		d.server.Serve() // ends when the connection does
	}()
	file := filepath.Join(o.Mount, o.fileName())
	out, err := o.help(ctx, "configure", file, fmt.Sprint(o.BlockBytes))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("loop device on %s: %w", file, err), d.end())
	}
	d.path = strings.TrimSpace(out)
	return d, nil
}

// mount opens a FUSE connection at o.Mount and returns it. Nothing is asked of it yet.
func mount(o Options) (fd int, err error) {
	fd, err = syscall.Open("/dev/fuse", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("/dev/fuse: %w", err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d,max_read=%d", fd, os.Geteuid(), os.Getegid(), writeBytesMax)
	err = syscall.Mount("keelson:"+o.Name, o.Mount, "fuse."+typeName, syscall.MS_NOSUID|syscall.MS_NODEV|syscall.MS_NOEXEC, options)
	if err != nil {
		_ = syscall.Close(fd) // nothing was done with it
		return -1, fmt.Errorf("mount a FUSE file system at %s: %w", o.Mount, err)
	}
	return fd, nil
}

// ErrInUse is why Close left everything as it was.
var ErrInUse = errors.New("the device is in use")

// Close writes out what the kernel has cached and ends the device, if nobody uses it; otherwise it changes nothing and returns
// who does, with ErrInUse.
func (d *Device) Close() (holders []blockdev.Holder, err error) {
	if holders, err = blockdev.Holders(d.path); err != nil {
		return nil, err
	}
	if len(holders) > 0 {
		return holders, ErrInUse
	}
	ctx, cancel := context.WithTimeout(context.Background(), helperMax)
	defer cancel()
	if holders, err = d.o.release(ctx, d.path, exclusive); err != nil {
		if now, looked := blockdev.Holders(d.path); looked == nil && len(now) > 0 && bound(d.path) {
			return now, ErrInUse // somebody was faster
		}
	}
	return holders, errors.Join(err, d.end())
}

// Drop ends the device whoever uses it. They get errors from now on, and the loop device stays, useless, until they let it
// go: they are returned. The caller has made the block.Device end its requests.
func (d *Device) Drop() (left []blockdev.Holder, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), helperMax)
	defer cancel()
	left, err = d.o.release(ctx, d.path, shared)
	return left, errors.Join(err, d.end())
}

// end ends the connection, whatever state it is in, and removes the mount.
func (d *Device) end() error {
	aborted := Abort(d.o.Mount)
	err := d.unmount()
	if aborted != nil && err != nil {
		return errors.Join(aborted, err)
	}
	select {
	case <-d.done:
	case <-time.After(helperMax):
		return fmt.Errorf("the FUSE connection of %s does not end: %w", d.o.Mount, errors.Join(aborted, err))
	}
	return err
}

func (d *Device) unmount() error { return d.o.unmount() }

// unmount removes the mount from the tree of names, at once, and its folder.
func (o Options) unmount() error {
	if err := unix.Unmount(o.Mount, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", o.Mount, err)
	}
	if err := os.Remove(o.Mount); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

// logWriter passes on what package fuse has to say.
type logWriter struct{ log *slog.Logger }

// Write implements io.Writer.
func (w logWriter) Write(p []byte) (int, error) {
	w.log.Warn("fuse: " + strings.TrimSpace(string(p)))
	return len(p), nil
}
