package volume

import (
	"fmt"
	"sync/atomic"
	"time"

	"keelson/internal/mirror"
)

// watch notices I/O that the disk does not finish. The keeper is its clock and looks at it with each tick: time in which the
// whole process stood still (stopped, its machine paused) does not count against the disk. It costs a store at the begin and
// the end of I/O that waits for the disk; writes cost nothing: the keeper sees that the oldest one in flight stays the same.
type watch struct {
	tick  atomic.Int64             // counts the keeper's ticks
	slots [watchSlots]atomic.Int64 // the tick at which it began, from 1; 0: nothing
	syncs pairs                    // of the content
	notes pairs                    // in the intent log and the undo log, which may be on another disk

	write, sync, note sign // the keeper's own
	told              string
}

// Slots of the watch: one for each reader, and one for the goroutine of a session.
const (
	watchApply = readersMax
	watchSlots = readersMax + 1
)

func (w *watch) begin(slot int) { w.slots[slot].Store(w.tick.Load() + 1) }
func (w *watch) end(slot int)   { w.slots[slot].Store(0) }

// sign is something that changes as long as the disk works.
type sign struct {
	mark  uint64
	since int64 // the tick at which it was seen first
}

// stuck is for how long the mark has been that one; 0 is no mark.
func (s *sign) stuck(now int64, mark uint64) time.Duration {
	if mark != s.mark {
		s.mark, s.since = mark, now
	}
	if mark == 0 {
		return 0
	}
	return time.Duration(now-s.since) * tick
}

// pairs counts what begins and ends.
type pairs struct{ begun, ended atomic.Uint64 }

// noting counts a durable note that somebody waits for; the function that it returns ends it.
func (w *watch) noting() (end func()) {
	w.notes.begun.Add(1)
	return func() { w.notes.ended.Add(1) }
}

// mark changes with each end while something is under way; 0: nothing is.
func (p *pairs) mark() uint64 {
	if ended := p.ended.Load(); p.begun.Load() > ended {
		return ended + 1
	}
	return 0
}

// datasync makes the content durable.
func (v *Volume) datasync() error {
	v.watch.syncs.begun.Add(1)
	defer v.watch.syncs.ended.Add(1)
	return v.disk.Datasync()
}

// watchDisk tells when something has not been finished for longer than DiskStall, and when everything has been again. The
// keeper calls it.
func (v *Volume) watchDisk() {
	limit := v.o.Limits.DiskStall
	now := v.watch.tick.Add(1)
	if limit <= 0 {
		return
	}
	what := v.hangs(now, limit)
	if what != "" {
		what = fmt.Sprintf("%s is not finished after %s", what, limit)
	}
	if what == v.watch.told || v.Failed() != nil {
		return
	}
	v.watch.told = what
	v.post(mirror.DiskStalled{Why: what})
}

// hangs names what is not finished.
func (v *Volume) hangs(now int64, limit time.Duration) string {
	w := &v.watch
	write, sync, note := w.write.stuck(now, v.oldestWrite()), w.sync.stuck(now, w.syncs.mark()), w.note.stuck(now, w.notes.mark())
	switch {
	case write > limit:
		return "a write"
	case sync > limit:
		return "a flush"
	case note > limit:
		return "a note in the intent log or the undo log"
	}
	for i := range w.slots {
		if at := w.slots[i].Load(); at > 0 && time.Duration(now+1-at)*tick > limit {
			return "a read"
		}
	}
	return ""
}

// oldestWrite marks the oldest write that is with the disk; 0: there is none.
func (v *Volume) oldestWrite() (mark uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.session != nil && v.flight[0]+v.flight[1] > 0 {
		return v.landings + 1 // one at a time
	}
	for _, s := range v.active {
		if s.number != 0 && (mark == 0 || s.number < mark) {
			mark = s.number
		}
	}
	return mark
}
