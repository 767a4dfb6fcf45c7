package attach

import (
	"errors"
	"fmt"
	"time"

	"keelson/internal/blockdev"
)

// How a device that is in use is released for a switchover.
const (
	ByUnmount = "unmount" // its file systems are unmounted, the newest mount first
	ByFreeze  = "freeze"  // its file systems write everything out and hold still; when the device is gone they are unmounted
)

// Limits of what is run for that.
const (
	unmountMax = 60 * time.Second
	freezeMax  = 30 * time.Second
)

// Released is a device that nobody writes to any more.
type Released struct {
	a      *Attachment
	how    string
	mounts []blockdev.Holder
}

// Mounts are the folders concerned.
func (r *Released) Mounts() (folders []string) {
	for _, m := range r.mounts {
		folders = append(folders, m.Mount)
	}
	return folders
}

// Release makes the users of the device let it go, as asked. If that cannot be done everything is as it was, and the error says
// who is in the way. A device without users is released already.
func (a *Attachment) Release(how string) (*Released, error) {
	r := &Released{a: a, how: how}
	users, err := a.Users()
	if err != nil || users == nil {
		return r, err
	}
	for _, h := range users.Holders {
		if h.Kind != "mount" || h.PID != 0 {
			return nil, &InUseError{users.Device, []blockdev.Holder{h}}
		}
	}
	for _, h := range users.Holders {
		if how == ByUnmount {
			err = command(unmountMax, "umount", h.Mount)
		} else {
			err = command(freezeMax, "fsfreeze", "--freeze", h.Mount)
		}
		if err != nil {
			inside, _ := blockdev.Inside(h.Mount) // who it is helps, and is not needed
			if len(inside) > 0 {
				err = &InUseError{h.Mount, inside}
			}
			return nil, errors.Join(err, r.Undo())
		}
		r.mounts = append(r.mounts, h)
	}
	if how == ByUnmount {
		if users, err = a.Users(); err != nil || users != nil {
			if users != nil {
				err = users
			}
			return nil, errors.Join(err, r.Undo())
		}
	}
	return r, nil
}

// Undo is for a switchover that did not happen: everything is mounted and writable again.
func (r *Released) Undo() (err error) {
	for i := len(r.mounts) - 1; i >= 0; i-- {
		m := r.mounts[i]
		if r.how == ByFreeze {
			err = errors.Join(err, command(freezeMax, "fsfreeze", "--unfreeze", m.Mount))
		} else {
			err = errors.Join(err, command(unmountMax, "mount", "-t", m.Type, "-o", m.Options, r.a.o.Link, m.Mount))
		}
	}
	if err != nil {
		r.a.o.Note("error", fmt.Sprintf("what was let go for a switchover that did not happen: %v", err), "mount it again")
	}
	return err
}

// Done is for a switchover that happened, when the device is gone: frozen file systems are let go. Errors are expected: they are of
// a device that answers with errors, and nothing was written since the freeze.
func (r *Released) Done() {
	if r.how != ByFreeze {
		return
	}
	for _, m := range r.mounts {
		_ = command(freezeMax, "fsfreeze", "--unfreeze", m.Mount)
		if err := command(unmountMax, "umount", m.Mount); err != nil {
			err = command(unmountMax, "umount", "--lazy", m.Mount)
			r.a.o.Note("warning", fmt.Sprintf("%s was frozen for the switchover and is in use still; it answers with errors (%v)", m.Mount, err), "end who uses it")
		}
	}
}
