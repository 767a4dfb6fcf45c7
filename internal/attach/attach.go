// Package attach keeps a volume's block device at hand: wherever an administrator wishes for one, and for as long as the
// volume can be used on this server, the kernel has a device for it and DIRECTORY/VOLUME leads to it.
//
// The wish is durable and each server's own (wish.go). One goroutine for each volume brings about what is wished; it alone
// makes and ends devices. When the volume cannot be used here any more its device is torn down: requests fail at
// once, the name is removed, and whoever still holds the dead device is named. It never serves anything again: when the
// volume comes back there is another device.
package attach

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"keelson/internal/block"
	"keelson/internal/blockdev"
	"keelson/internal/frontend/loop"
	"keelson/internal/frontend/nbdkernel"
	"keelson/internal/vfs"
)

// Options of an Attachment.
type Options struct {
	Log     *slog.Logger
	Files   vfs.FS
	Kernel  bool // false: this agent stands on no machine (a simulation), and there are no devices
	Volume  string
	File    string // of the wish
	Link    string // the stable name
	Kind    string // what Auto means here: Auto itself, Loop or NBD
	Loop    loop.Options
	NBD     nbdkernel.Options
	Mount   Mount
	Note    func(level, message, next string) // an event for the administrator; must not block
	Changed func()                            // what Status says has changed; must not block
	// Settled says that what is wished is brought about, as far as that is possible, since the volume can be used here, or
	// cannot any more; must not block.
	Settled func(usable bool)
}

// device is what a kind of devices offers.
type device interface {
	Path() string
	Done() <-chan struct{} // closed when the device ended
	// Close ends the device unless somebody uses it; then it returns who, and an error.
	Close() ([]blockdev.Holder, error)
	// Drop ends it in any case and returns who holds what is left of it.
	Drop() ([]blockdev.Holder, error)
}

// Status is what there is now.
type Status struct {
	Wish   Wish
	State  string // Detached | Waiting | Attached | Failed
	Reason string // of Failed; of Attached: what is still held of an earlier device
	Kind   string // of the device
	Device string // such as /dev/loop0
	Link   string // the stable name
	Mount  MountStatus
}

// States of an attachment.
const (
	Detached = "detached" // nothing is wished
	Waiting  = "waiting"  // for the volume to be usable here
	Attached = "attached"
	Failed   = "failed" // Reason says why
)

// Attachment is one volume's. Its life: Open, then Serve and Withdraw in turns with wishes at any time, then Close.
type Attachment struct {
	o     Options
	shown atomic.Pointer[Status]
	kick  chan struct{}
	jobs  chan job
	stop  context.CancelFunc
	done  chan struct{}

	mu     sync.Mutex
	usable block.Device // nil: the volume cannot be used here
	tenure uint64       // counts Serve and Withdraw
	claim  *claim       // nil: the device is not claimed

	thawing sync.Mutex     // while a freeze is begun, or an earlier agent's freeze is ended
	thaws   sync.WaitGroup // of an earlier agent's freeze; run waits for it

	// The goroutine's own.
	wish        Wish
	dev         device // nil: there is none
	kind        string
	of          uint64 // the tenure of dev
	told        uint64 // the tenure that Settled was told of
	failed      error  // why there is none although it is wished
	mounting    bool
	mountFailed error            // why its file system is not mounted
	left        []loop.Left      // earlier devices that are still held
	until       time.Time        // so long a device of an earlier agent waits for the volume
	look        <-chan time.Time // when left is looked at again
}

// job asks the goroutine for something.
type job struct {
	wish *Wish // nil: only that it brings about what is wished
	done chan error
}

// ErrClosed is the answer of an attachment that is being closed.
var ErrClosed = errors.New("the agent stops")

// Open reads the wish and starts; what an earlier agent left is cleaned up. A wish that cannot be read is shown, and the next
// one replaces it.
func Open(o Options) *Attachment {
	a := &Attachment{o: o, kick: make(chan struct{}, 1), jobs: make(chan job), done: make(chan struct{})}
	if a.wish, a.failed = loadWish(o.Files, o.File); a.failed != nil {
		o.Note("error", "no block device: "+a.failed.Error(), "")
	}
	ctx, stop := context.WithCancel(context.Background())
	a.stop = stop
	a.show()
	go a.run(ctx)
	return a
}

// Serve says that the volume can be used here from now on, by that device.
func (a *Attachment) Serve(dev block.Device) { a.use(dev) }

// Withdraw says that it cannot any more: its requests end with an error already.
func (a *Attachment) Withdraw() { a.use(nil) }

func (a *Attachment) use(dev block.Device) {
	a.mu.Lock()
	a.usable = dev
	a.tenure++
	a.mu.Unlock()
	select {
	case a.kick <- struct{}{}:
	default:
	}
}

// Status is what there is now.
func (a *Attachment) Status() Status {
	s := *a.shown.Load()
	a.mountStatus(&s)
	return s
}

// HasDevice reports whether there is a device now.
func (a *Attachment) HasDevice() bool { return a.shown.Load().Device != "" }

// Set makes a wish durable and returns when it is brought about as far as that is possible here now. A device that is in use
// is not ended: *InUseError, and the wish stays what it was.
func (a *Attachment) Set(ctx context.Context, w Wish) error {
	done := make(chan error, 1)
	select {
	case a.jobs <- job{&w, done}:
	case <-a.done:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-done:
		return err
	case <-a.done:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close ends the device, whoever uses it; what the kernel has cached of file systems is written first, within a limit. The
// volume's requests must still be answered meanwhile.
func (a *Attachment) Close() {
	a.stop()
	<-a.done
}

// staleLook is how often devices that are still held by somebody are looked at.
const staleLook = time.Second

func (a *Attachment) run(ctx context.Context) {
	defer close(a.done)
	defer a.thaws.Wait()
	a.until = time.Now().Add(a.o.NBD.DeadAfter)
	a.thawLeft(ctx)
	a.clean()
	a.settle(ctx)
	for {
		var ended <-chan struct{}
		if a.dev != nil {
			ended = a.dev.Done()
		}
		select {
		case <-ctx.Done():
			a.end()
			return
		case <-a.kick:
			a.settle(ctx)
		case <-ended:
			a.cut()
		case <-a.look:
			a.stale()
		case j := <-a.jobs:
			j.done <- a.change(ctx, *j.wish)
		}
		a.show()
	}
}

// change carries out Set.
func (a *Attachment) change(ctx context.Context, w Wish) error {
	old, had := a.wish, a.dev
	a.failed = nil
	if w.Attach == None && a.dev != nil {
		if err := a.detach(); err != nil {
			return err
		}
	}
	if w != old {
		if err := saveWish(a.o.Files, a.o.File, w); err != nil {
			return err
		}
		a.wish = w
	}
	a.settle(ctx)
	if a.dev == had { // or else it was tried
		a.mount()
	}
	return a.failed
}

// settle brings about what is wished and possible.
func (a *Attachment) settle(ctx context.Context) {
	a.mu.Lock()
	usable, tenure := a.usable, a.tenure
	a.mu.Unlock()
	if a.dev != nil && (usable == nil || a.of != tenure) {
		a.drop("the volume cannot be used here any more")
	}
	if usable == nil {
		a.failed = nil
	}
	if usable == nil || a.wish.Attach == None || a.dev != nil || a.failed != nil {
		a.settled(usable != nil, tenure)
		return
	}
	a.clean()
	if a.failed = a.attach(ctx, usable); a.failed != nil {
		a.o.Note("error", "no block device: "+a.failed.Error(), "keelson volume attach "+a.o.Volume+", when that is repaired")
	} else {
		a.of = tenure
		a.o.Note("info", fmt.Sprintf("%s is its block device (%s, %s)", a.o.Link, a.kind, a.dev.Path()), "")
		a.o.Log.Info("block device", "volume", a.o.Volume, "kind", a.kind, "device", a.dev.Path(), "io_flusher", flusher)
		a.mount()
	}
	a.settled(usable != nil, tenure)
}

// settled publishes the status, and says so once for each tenure.
func (a *Attachment) settled(usable bool, tenure uint64) {
	a.show()
	if a.told != tenure {
		a.told = tenure
		a.o.Settled(usable)
	}
}

// attach makes the device and its name.
func (a *Attachment) attach(ctx context.Context, usable block.Device) error {
	kind, err := a.choose()
	if err != nil {
		return err
	}
	if err := a.checkLink(a.o.Link); err != nil {
		return err
	}
	dev, err := a.make(ctx, kind, usable)
	if err != nil {
		return err
	}
	if err := link(a.o.Link, dev.Path()); err != nil {
		_, dropped := dev.Drop()
		return errors.Join(err, dropped)
	}
	a.dev, a.kind = dev, kind
	return nil
}

// detach ends the device if nobody uses it.
func (a *Attachment) detach() error {
	path := a.dev.Path()
	if err := a.unmount(path); err != nil {
		return err
	}
	holders, err := a.dev.Close()
	if len(holders) > 0 {
		return &InUseError{path, holders}
	}
	if err != nil {
		return err
	}
	err = unlink(a.o.Link, path)
	a.dev, a.kind = nil, ""
	a.o.Note("info", path+" is not its block device any more", "")
	return err
}

// drop ends the device whoever uses it.
func (a *Attachment) drop(why string) {
	path := a.dev.Path()
	a.unclaim()
	a.letGo(path, why)
	left, err := a.dev.Drop()
	err = errors.Join(err, unlink(a.o.Link, path))
	a.dev, a.kind = nil, ""
	if err != nil {
		a.o.Note("error", fmt.Sprintf("the end of %s: %v", path, err), "look at it (losetup, mount)")
	}
	if len(left) > 0 {
		a.o.Note("warning", fmt.Sprintf("%s: %s answers with errors, and it is %s; what was not written to it is lost", why, path, blockdev.Join(left)), HowToLetGo(left))
	}
	a.stale()
}

// cut: the device was ended from outside. It stays so until an administrator wishes for one again, or the volume moves.
func (a *Attachment) cut() {
	a.failed = errors.New("its device was ended from outside (aborted)")
	a.drop(a.failed.Error())
	a.o.Note("warning", a.failed.Error(), "keelson volume attach "+a.o.Volume+" makes another one")
}

// end is Close: while the volume still answers.
func (a *Attachment) end() {
	if a.dev == nil {
		return
	}
	if d, ok := a.dev.(interface{ Leave() }); ok { // the next agent goes on with it
		d.Leave()
		a.dev = nil
		return
	}
	a.unclaim()
	if err := a.unmount(a.dev.Path()); err != nil {
		a.o.Log.Warn("the file system on a block device stays mounted", "volume", a.o.Volume, "err", err) // drop tells the administrator
	}
	if holders, err := a.dev.Close(); err == nil {
		_ = unlink(a.o.Link, a.dev.Path()) // a name that leads nowhere is replaced by the next agent
	} else {
		syncMounts(holders)
		a.drop("the agent stops")
	}
	a.dev = nil
}

// show publishes the status.
func (a *Attachment) show() {
	s := Status{Wish: a.wish, State: Detached, Link: a.o.Link, Kind: a.kind}
	switch {
	case a.dev != nil:
		s.State, s.Device = Attached, a.dev.Path()
	case a.failed != nil:
		s.State, s.Reason = Failed, a.failed.Error()
	case a.wish.Attach != None:
		s.State = Waiting
	}
	if a.dev != nil && a.mountFailed != nil {
		s.Mount.State, s.Mount.Reason, s.Mount.Next = Failed, a.mountFailed.Error(), a.mountNext()
	}
	if a.mounting {
		s.Mount.State = Mounting
	}
	if len(a.left) > 0 && a.failed == nil {
		var held []string
		for _, l := range a.left {
			held = append(held, fmt.Sprintf("%s (%s)", l.Path, blockdev.Join(l.Holders)))
		}
		s.Reason = "an earlier device answers with errors and is still held: " + strings.Join(held, ", ")
	}
	if old := a.shown.Swap(&s); old != nil && *old != s {
		a.o.Changed()
	}
}
