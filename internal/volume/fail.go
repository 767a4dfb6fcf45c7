package volume

import (
	"keelson/internal/intentlog"
	"keelson/internal/mirror"
	"keelson/internal/vfs"
)

// Failed returns the first error of the disk, or nil.
func (v *Volume) Failed() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.failed
}

// fail notes the first error of this copy's disk, durably, and tells (guarantee 9).
//
// If the note finds no room it is tried again. If the log failed as well, the copy is not opened in this life, and the next one
// has to find out: all that can be missing on the disk is in extents that are durably hot, since nothing cools without a
// sync of the data that succeeded; so it is unknown then, and forgetHot lets the disk say what it has.
func (v *Volume) fail(err error) {
	if v.failHere(err) {
		v.noteFailed(err)
		v.o.Post(mirror.DiskFailed{Why: err.Error()})
	}
}

// failHere ends the use of the disk; false: it had ended.
func (v *Volume) failHere(err error) (first bool) {
	v.stats.diskErrors.Add(1)
	v.mu.Lock()
	defer v.mu.Unlock()
	if first = v.failed == nil; first {
		v.failed, v.unnoted = err, true
		v.noLongerHere()
	}
	v.freed.Broadcast()
	return first
}

func (v *Volume) noteFailed(err error) {
	saved := v.log.Save(func(h *intentlog.Header) { h.Failed = err.Error() })
	if saved != nil {
		v.o.Log.Error("could not note the failed disk; the next start of the agent has to find out", "volume", v.name, "err", saved)
		return
	}
	v.mu.Lock()
	v.unnoted = false
	v.mu.Unlock()
}

// noteAgain tries to note a failed disk of which there is no note yet; the checkpointer calls it.
func (v *Volume) noteAgain() {
	v.mu.Lock()
	err, unnoted := v.failed, v.unnoted
	v.mu.Unlock()
	if unnoted {
		v.noteFailed(err)
	}
}

// forgetHot lets the disk itself say what is in the regions that may differ from what the log knows. A sync that failed in an
// earlier life has perhaps left in memory what no disk has and no later sync writes: whoever compares, or goes on from it, would
// call it durable. Everything else was synced by the checkpoint that cooled it. It waits for nothing: what is not written
// yet stays, and its errors come with the next sync.
func forgetHot(disk vfs.File, log *intentlog.Log, h intentlog.Header, same bool) error {
	if !same {
		return disk.Forget(0, h.SizeBytes)
	}
	hot := log.HotExtents()
	for i := 0; i < len(hot); {
		n := 1
		for i+n < len(hot) && hot[i+n] == hot[i]+int64(n) {
			n++
		}
		off := hot[i] * h.ExtentBytes
		if err := disk.Forget(off, min(int64(n)*h.ExtentBytes, h.SizeBytes-off)); err != nil {
			return err
		}
		i += n
	}
	return nil
}
