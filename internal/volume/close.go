package volume

import (
	"errors"
	"fmt"
	"time"

	"keelson/internal/vfs"
)

// closeMax bounds how long Close waits for a disk that works, and dropWait for one that failed: what it does not finish by
// then is as if the machine had stopped at that moment.
const closeMax = time.Minute

// Close ends links, the session and the device, makes everything durable and notes a clean stop. An error that says that
// the disk has not finished leaves the files open: what hangs may still use them.
func (v *Volume) Close() error {
	v.CloseDevice("the agent stops")
	if err := v.DropSession("the agent stops"); err != nil {
		v.o.Log.Error("the disk hangs", "err", err)
	}
	v.endViews()
	v.HangupAll(errors.New("the agent stops"))
	close(v.stop)
	limit := closeMax
	if v.Failed() != nil {
		limit = dropWait
	}
	if err := v.within(limit, func() error { v.done.Wait(); return nil }); err != nil {
		return err
	}
	return v.within(limit, v.end)
}

// end makes everything durable, notes a clean stop and closes the files.
func (v *Volume) end() error {
	var err error
	if v.Failed() == nil {
		if err = v.checkpoint(true, nil); err == nil && v.log.HotCount() == 0 {
			var id vfs.Identity
			if id, err = v.disk.Identity(); err == nil {
				err = v.log.MarkClean(id)
			}
		}
	}
	v.noteAgain()
	return errors.Join(err, v.closeUndo(), v.log.Close(), v.disk.Close())
}

// within waits for f, but only so long.
func (v *Volume) within(limit time.Duration, f func() error) error {
	ended := make(chan error, 1)
	go func() { ended <- f() }()
	late := time.NewTimer(limit)
	defer late.Stop()
	select {
	case err := <-ended:
		return err
	case <-late.C:
		return fmt.Errorf("volume %s: the disk under %s or its log has not finished what was begun, for %s after the end", v.name, v.path, limit)
	}
}
