package systemd

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/godbus/dbus/v5"
)

// Concerns are what of the agent's state the machine has to respect.
type Concerns struct {
	// Hold says why the machine may not be switched off now; "": it may.
	Hold string
	// Usable says of each volume whether applications can use it on this server now.
	Usable map[string]bool
}

// Limits of Follow.
const (
	lookEvery = 5 * time.Second        // without a change that is told
	lookPause = 200 * time.Millisecond // between two looks
	callMax   = 5 * time.Second        // one question to logind or systemd
)

// Follow has the machine respect the agent's concerns until ctx ends, if systemd runs the agent (NOTIFY_SOCKET):
//
//   - While there is a reason to hold, a shutdown or reboot is blocked by an inhibitor lock of logind, which shows the reason
//     (systemd-inhibit --list). It is a block and no delay, since a delay ends by itself after seconds, whatever the reason.
//   - The unit keelson-volume@VOLUME.target is started when the volume becomes usable here and stopped when it ceases to be, so
//     that services can be bound to it. Only changes are told: an administrator who stops the target has it stay stopped.
//     At the first look a volume that is not usable counts as a change: a target may be left from an agent that died.
//
// look says what is the case now, and gives a channel that is closed when that may have changed. What cannot be told is told
// again at the next look; a machine without logind or without the units is one that respects less, and the log says so once.
func Follow(ctx context.Context, look func() (Concerns, <-chan struct{}), log *slog.Logger) {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return
	}
	f := &follower{log: log, told: map[string]bool{}, said: map[string]bool{}}
	defer f.close()
	for {
		now, changed := look()
		f.bring(ctx, now)
		pause := time.After(lookPause)
		select {
		case <-changed:
		case <-time.After(lookEvery):
		case <-ctx.Done():
			return
		}
		select {
		case <-pause:
		case <-ctx.Done():
			return
		}
	}
}

// follower is the state of Follow: what the machine knows.
type follower struct {
	log  *slog.Logger
	bus  *dbus.Conn // nil: none yet
	lock io.Closer  // nil: nothing is held
	why  string     // of lock
	told map[string]bool
	said map[string]bool // complaints that the log has
}

func (f *follower) close() {
	f.release()
	if f.bus != nil {
		_ = f.bus.Close() // it is over in any case
	}
}

// bring tells the machine what it does not know yet.
func (f *follower) bring(ctx context.Context, now Concerns) {
	if now.Hold == "" {
		f.release()
	}
	news := now.Hold != f.why
	for volume, usable := range now.Usable {
		was, known := f.told[volume]
		news = news || !known || was != usable
	}
	for volume, was := range f.told { // a volume that is gone
		if _, there := now.Usable[volume]; !there {
			news = news || was
			if !was {
				delete(f.told, volume)
			}
		}
	}
	if !news || !f.connect(ctx) {
		return
	}
	if now.Hold != f.why {
		f.hold(ctx, now.Hold)
	}
	volumes := maps.Clone(f.told)
	maps.Copy(volumes, now.Usable)
	for _, volume := range slices.Sorted(maps.Keys(volumes)) {
		if was, known := f.told[volume]; !known || was != now.Usable[volume] {
			f.tell(ctx, volume, now.Usable[volume])
		}
	}
}

// connect makes sure that there is a connection to the system's bus.
func (f *follower) connect(ctx context.Context) bool {
	if f.bus != nil && f.bus.Connected() {
		return true
	}
	bus, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		f.complain("the system's bus cannot be reached: no shutdown is held, and no unit learns when a volume can be used", err)
		return false
	}
	f.bus = bus
	return true
}

// hold takes a lock with that reason in place of the one there is: first the new one, so that there is no gap.
func (f *follower) hold(ctx context.Context, why string) {
	ctx, cancel := context.WithTimeout(ctx, callMax)
	defer cancel()
	var fd dbus.UnixFD
	err := f.bus.Object("org.freedesktop.login1", "/org/freedesktop/login1").
		CallWithContext(ctx, "org.freedesktop.login1.Manager.Inhibit", 0, "shutdown", "Keelson", why, "block").Store(&fd)
	if err != nil {
		f.complain("logind does not hold a shutdown while this server is needed", err)
		return
	}
	f.release()
	f.lock, f.why = os.NewFile(uintptr(fd), "inhibitor"), why // logind ends the lock when the last copy of the file is closed
	f.log.Info("a shutdown of this machine is held", "why", why)
}

func (f *follower) release() {
	if f.lock == nil {
		return
	}
	_ = f.lock.Close() // the kernel closes it in any case
	f.lock, f.why = nil, ""
	f.log.Info("a shutdown of this machine is not held any more")
}

// Target is the unit that is active while the volume can be used on this server. Names of volumes need no escaping.
func Target(volume string) string { return "keelson-volume@" + volume + ".target" }

// tell starts or stops the volume's target. Its job is not waited for: what is bound to it may take its time.
func (f *follower) tell(ctx context.Context, volume string, usable bool) {
	ctx, cancel := context.WithTimeout(ctx, callMax)
	defer cancel()
	method := "StopUnit"
	if usable {
		method = "StartUnit"
	}
	var job dbus.ObjectPath
	err := f.bus.Object("org.freedesktop.systemd1", "/org/freedesktop/systemd1").
		CallWithContext(ctx, "org.freedesktop.systemd1.Manager."+method, 0, Target(volume), "replace").Store(&job)
	var refused dbus.Error
	absent := errors.As(err, &refused) && (refused.Name == "org.freedesktop.systemd1.NoSuchUnit" || refused.Name == "org.freedesktop.systemd1.LoadFailed")
	if err != nil && !(absent && !usable) { // what is not there need not be stopped
		f.complain("systemd was not told whether a volume can be used here ("+method+" "+Target(volume)+")", err)
		if !absent {
			return // tried again
		}
	}
	f.told[volume] = usable
	if err == nil {
		f.log.Debug("unit", "method", method, "unit", Target(volume))
	}
}

// complain writes a warning once for each problem, not at each look.
func (f *follower) complain(what string, err error) {
	if !f.said[what] {
		f.said[what] = true
		f.log.Warn(what, "err", err)
	}
}
