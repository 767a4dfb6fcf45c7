package attach

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"keelson/internal/blockdev"
)

// Mount is where the file system on the device is mounted, and unmounted again, by the attachment itself. Point "": nowhere.
type Mount struct {
	Point   string // absolute and clean
	Options string // as mount -o takes them
}

// mountMax is how long a mount may take: it replays the file system's journal.
const mountMax = 5 * time.Minute

// MountStatus is what became of it.
type MountStatus struct {
	Point  string // "": it is not asked for
	State  string // MountWaiting | Mounting | Mounted | Unmounted | Failed
	Reason string // of Failed
	Next   string // of Failed and Unmounted: what to do
}

// States of a mount, besides Failed.
const (
	MountWaiting = "waiting" // for the device
	Mounting     = "mounting"
	Mounted      = "mounted"
	Unmounted    = "unmounted" // by somebody else, or for a switchover that is under way
)

// mount mounts the file system of the device, unless it is. A failure is told and kept for the status; it is not tried again
// before an administrator attaches the volume again, or the device is another.
func (a *Attachment) mount() {
	m := a.o.Mount
	if m.Point == "" || a.dev == nil {
		return
	}
	a.mountFailed, a.mounting = nil, true
	a.show()
	found, err := a.mountAt(m.Point)
	switch {
	case err != nil:
	case found != nil && blockdev.Resolves(found.Source, a.dev.Path()): // by hand, or a device that outlived an agent
	case found != nil:
		err = fmt.Errorf("%s has something else mounted on it: %s (%s)", m.Point, found.Source, found.Type)
	default:
		if err = command(mountMax, "mount", "-o", joined(m.Options, "X-mount.mkdir"), a.o.Link, m.Point); err == nil {
			a.o.Note("info", fmt.Sprintf("%s is mounted at %s", a.o.Link, m.Point), "")
		}
	}
	a.mounting = false
	if a.mountFailed = err; err != nil {
		a.o.Note("error", fmt.Sprintf("%s is not mounted at %s: %v", a.o.Link, m.Point, err), a.mountNext())
	}
	a.show()
}

func joined(options ...string) string {
	var out []string
	for _, o := range options {
		if o != "" {
			out = append(out, o)
		}
	}
	return strings.Join(out, ",")
}

// mountNext is what to do about a file system that is not mounted.
func (a *Attachment) mountNext() string {
	return fmt.Sprintf("repair what it says (look with mount %s %s), then keelson volume attach %s, which mounts it", a.o.Link, a.o.Mount.Point, a.o.Volume)
}

// mountAt is what is mounted at that folder, on top; nil if nothing is.
func (a *Attachment) mountAt(point string) (*blockdev.Mount, error) {
	mounts, err := blockdev.Mounts()
	if err != nil {
		return nil, err
	}
	point = realPoint(point)
	for i := len(mounts) - 1; i >= 0; i-- {
		if mounts[i].Point == point {
			return &mounts[i], nil
		}
	}
	return nil, nil
}

// realPoint is the folder as the kernel names it: links on the way to it are followed. The folder itself is not touched, since
// what is mounted on it may not answer.
func realPoint(point string) string {
	parent, err := filepath.EvalSymlinks(filepath.Dir(point))
	if err != nil {
		return point // it is made when something is mounted
	}
	return filepath.Join(parent, filepath.Base(point))
}

// own reports whether the holder is the mount that this attachment made, or would have.
func (a *Attachment) own(h blockdev.Holder) bool {
	return a.o.Mount.Point != "" && h.Kind == "mount" && h.PID == 0 && h.Mount == realPoint(a.o.Mount.Point)
}

// ownMount is what this attachment has mounted of the device; nil if nothing is.
func (a *Attachment) ownMount(device string) (*blockdev.Holder, error) {
	if a.o.Mount.Point == "" {
		return nil, nil
	}
	holders, err := blockdev.Holders(device)
	for _, h := range holders {
		if a.own(h) {
			return &h, nil
		}
	}
	return nil, err
}

// unmount unmounts what this attachment has mounted of the device, while that answers: everything is written. If a process
// keeps it, it stays, and the *InUseError says which.
func (a *Attachment) unmount(device string) error {
	h, err := a.ownMount(device)
	if h == nil {
		return err
	}
	return unmountOf(*h)
}

// unmountOf unmounts in order, or says who is in the way.
func unmountOf(h blockdev.Holder) error {
	err := command(unmountMax, "umount", h.Mount)
	if err != nil {
		if inside, _ := blockdev.Inside(h.Mount); len(inside) > 0 { // who it is helps, and is not needed
			err = &InUseError{h.Mount, inside}
		}
	}
	return err
}

// letGo unmounts what this attachment has mounted of a device that answers with errors. Who is in it keeps a dead file system, which
// nobody finds any more; they are named.
func (a *Attachment) letGo(device, why string) {
	h, _ := a.ownMount(device)
	if h == nil {
		return // what cannot be found out is told with the device
	}
	if a.mayBeFrozen() {
		_ = thaw(h.Mount) // one that is unmounted nobody can thaw any more, and it keeps its device for good
	}
	err := unmountOf(*h)
	if err == nil {
		a.o.Note("warning", fmt.Sprintf("%s: %s was unmounted; what was not written to it is lost", why, h.Mount), "")
		return
	}
	next := "end who uses it"
	var used *InUseError
	if errors.As(err, &used) {
		next = HowToLetGo(used.Holders)
	}
	if lazy := command(unmountMax, "umount", "--lazy", h.Mount); lazy != nil {
		a.o.Note("error", fmt.Sprintf("%s: %s answers with errors and cannot be unmounted: %v", why, h.Mount, lazy), next+", then umount "+h.Mount)
		return
	}
	a.o.Note("warning", fmt.Sprintf("%s: %s was unmounted although it is in use (%v); there it answers with errors, and what was not written to it is lost", why, h.Mount, err), next)
}

// mountStatus is what there is now of the mount. Others may mount and unmount, so it is looked at each time.
func (a *Attachment) mountStatus(s *Status) {
	point := a.o.Mount.Point
	if s.Mount.Point = point; point == "" {
		return
	}
	if s.State != Attached {
		s.Mount.State, s.Mount.Reason, s.Mount.Next = MountWaiting, "", ""
		return
	}
	found, err := a.mountAt(point)
	switch {
	case err == nil && found != nil && blockdev.Resolves(found.Source, s.Device):
		s.Mount.State, s.Mount.Reason, s.Mount.Next = Mounted, "", ""
	case s.Mount.State == "":
		s.Mount.State, s.Mount.Next = Unmounted, a.mountNext()
	}
}
