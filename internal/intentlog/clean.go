package intentlog

import (
	"fmt"

	"keelson/internal/vfs"
)

// MarkClean notes durably that the content is exactly what the map says, as long as the backing store has this identity
// (rule 9). It is for a clean stop, after a checkpoint that left nothing hot and a last sync of the data.
func (l *Log) MarkClean(id vfs.Identity) error {
	l.checkpoint.Lock()
	defer l.checkpoint.Unlock()
	if n := l.HotCount(); n > 0 {
		return fmt.Errorf("intent log %s: not clean: %d extents are hot: a checkpoint comes first", l.dir, n)
	}
	l.hot.flush.Lock()
	err := l.syncCooled()
	l.hot.flush.Unlock()
	if err != nil {
		return err
	}
	return l.saveDoc("mark it clean", func(d *headerDoc) { d.Backing.Identity, d.Backing.Clean = id, true })
}

// syncCooled makes durable that what is cool here is cool on the disk. Under flush.
func (l *Log) syncCooled() error {
	if err := l.durable("cool extents", l.hot.cool(0, false)); err != nil {
		return err
	}
	if l.leftOut(cleanHotIsDurable) {
		return nil
	}
	return l.durable("cool extents", l.hot.file.Datasync())
}

// ClearClean takes the mark of MarkClean back, durably. It comes before anything is served; MarkHot refuses before it.
func (l *Log) ClearClean() error {
	if err := l.usable(); err != nil || !l.clean.Load() {
		return err
	}
	return l.saveDoc("take the clean mark back", func(d *headerDoc) { d.Backing.Clean = false })
}

// WasClean is what MarkClean had noted when this log was opened. Without it the stop was not clean, and what was hot is unknown.
func (l *Log) WasClean() (vfs.Identity, bool) { return l.wasMark, l.was }
