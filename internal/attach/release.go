package attach

import (
	"errors"
	"fmt"
	"time"

	"keelson/internal/blockdev"
)

// How a device that is in use is released for a switchover. What the attachment mounted itself is unmounted by each.
const (
	ByItself  = ""        // nothing else may use it
	ByUnmount = "unmount" // its file systems are unmounted, the newest mount first
	ByFreeze  = "freeze"  // its file systems write everything out and hold still; when the device is gone they are unmounted
)

// Limits of what is run for that.
const (
	unmountMax = 60 * time.Second
)

var freezeMax = 30 * time.Second // of a freeze, and of a thaw; a test makes it shorter

// Released is a device that nobody writes to any more.
type Released struct {
	a      *Attachment
	how    string
	mounts []blockdev.Holder
	late   bool // one more file system is thawed when its freeze is done
}

// Mounts are the folders concerned.
func (r *Released) Mounts() (folders []string) {
	for _, m := range r.mounts {
		folders = append(folders, m.Mount)
	}
	return folders
}

// InTheWay are the users of the device that Release would not make let go; nil if there are none. mounts are those that it
// would, in that order.
func (a *Attachment) InTheWay(how string) (mounts []blockdev.Holder, inTheWay *InUseError, err error) {
	users, err := a.Users()
	if err != nil || users == nil {
		return nil, nil, err
	}
	var others []blockdev.Holder
	for _, h := range users.Holders {
		if h.Kind == "mount" && h.PID == 0 && (how != ByItself || a.own(h)) {
			mounts = append(mounts, h)
		} else {
			others = append(others, h)
		}
	}
	if len(others) > 0 {
		inTheWay = &InUseError{users.Device, others}
	}
	return mounts, inTheWay, nil
}

// Release makes the users of the device let it go, as asked, and keeps others from beginning to use it. If that cannot be done
// everything is as it was, and the error says who is in the way. A device without users is only claimed.
func (a *Attachment) Release(how string) (*Released, error) {
	r := &Released{a: a, how: how}
	mounts, inTheWay, err := a.InTheWay(how)
	if err != nil {
		return nil, err
	}
	if inTheWay != nil {
		return nil, inTheWay
	}
	for _, h := range mounts {
		if how == ByFreeze {
			r.late, err = a.freeze(h.Mount)
		} else {
			err = unmountOf(h)
		}
		if err != nil {
			return nil, errors.Join(err, r.Undo())
		}
		r.mounts = append(r.mounts, h)
	}
	device := a.shown.Load().Device
	if device == "" || how == ByFreeze && len(mounts) > 0 { // a frozen file system has the device
		return r, nil
	}
	if err = a.claimDevice(device); err == nil {
		var users *InUseError
		if users, err = a.Users(); users != nil {
			err = users
		}
	}
	if err != nil {
		return nil, errors.Join(err, r.Undo())
	}
	return r, nil
}

// Undo is for a switchover that did not happen: everything is mounted and writable again.
func (r *Released) Undo() (err error) {
	r.a.unclaim()
	for i := len(r.mounts) - 1; i >= 0; i-- {
		m := r.mounts[i]
		if r.how == ByFreeze {
			err = errors.Join(err, thaw(m.Mount))
		} else {
			err = errors.Join(err, command(unmountMax, "mount", "-t", m.Type, "-o", m.Options, r.a.o.Link, m.Mount))
		}
	}
	if r.how == ByFreeze && err == nil && !r.late {
		r.a.noneFrozen()
	}
	if err != nil {
		r.a.o.Note("error", fmt.Sprintf("what was let go for a switchover that did not happen: %v", err), "mount it again")
	}
	return err
}

// Done is for a switchover that happened, when the device is gone: frozen file systems are let go. Errors are expected: they are of
// a device that answers with errors, and nothing was written since the freeze.
func (r *Released) Done() {
	r.a.unclaim() // the device's end has done that, if there was one
	if r.how != ByFreeze {
		return
	}
	for _, m := range r.mounts {
		_ = thaw(m.Mount)
		if err := command(unmountMax, "umount", m.Mount); err != nil {
			err = command(unmountMax, "umount", "--lazy", m.Mount)
			r.a.o.Note("warning", fmt.Sprintf("%s was frozen for the switchover and is in use still; it answers with errors (%v)", m.Mount, err), "end who uses it")
		}
	}
	r.a.noneFrozen()
}
