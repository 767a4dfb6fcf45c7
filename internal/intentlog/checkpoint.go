package intentlog

import (
	"fmt"

	"keelson/internal/lineage"
)

// CheckpointOptions are the caller's part of a checkpoint. Nil functions are left out.
type CheckpointOptions struct {
	// Drain returns when all writes that were registered before it was called have ended.
	Drain func()
	// SyncData makes the content durable.
	SyncData func() error
	// Position is called right after the switch, before Drain: what is surely held once those writes have ended. It is
	// saved as Header.Position.
	Position func() lineage.Position
	// Update changes the header in the save that commits the checkpoint.
	Update func(*Header)
	// CoolAll cools all that was not touched since the switch; otherwise what was touched since the checkpoint before stays hot too.
	CoolAll bool
}

// Checkpoint makes content, then map and position durable, and then cools extents (rule 7). The header's save commits it:
// before that a crash leaves the checkpoint before in force. If Drain or SyncData fails, or there is no room, nothing has
// changed and a later checkpoint may succeed. One checkpoint runs at a time; writes go on meanwhile.
func (l *Log) Checkpoint(c CheckpointOptions) error {
	l.checkpoint.Lock()
	defer l.checkpoint.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	now := l.hot.epoch.Add(1)
	var position lineage.Position
	if c.Position != nil {
		position = c.Position()
	}
	if c.Drain != nil {
		c.Drain()
	}
	before := now - 1
	if c.CoolAll {
		before = now
	}
	if l.leftOut(coolAfterCommit) {
		if err := l.coolDown(before); err != nil {
			return err
		}
	}
	if c.SyncData != nil && !l.leftOut(dataBeforeMap) {
		if err := c.SyncData(); err != nil {
			return fmt.Errorf("intent log %s: checkpoint: make the content durable: %w", l.dir, err)
		}
	}
	if err := l.commitMap(func(h *Header) {
		if c.Position != nil {
			h.Position = position
		}
		if c.Update != nil {
			c.Update(h)
		}
	}); err != nil {
		return err
	}
	if l.leftOut(coolAfterCommit) {
		return nil
	}
	return l.coolDown(before)
}

func (l *Log) coolDown(before uint32) error {
	l.hot.flush.Lock()
	defer l.hot.flush.Unlock()
	if err := l.durable("cool extents", l.hot.cool(before, l.leftOut(touchedStayHot))); err != nil && l.usable() != nil {
		return err
	}
	return nil // no room to note it: more is hot on the disk than here, until it is written next
}

// commitMap writes the dirty pages into the slots that are not committed, syncs them, and saves the header that commits
// them. Under checkpoint.
func (l *Log) commitMap(update func(*Header)) error {
	pages := l.versions.takeDirty()
	number := l.checkpointNumber() + 1
	err := l.writePages(pages, number)
	sum := l.mapCheck
	for _, p := range pages {
		sum += pageMark(p, number) - pageMark(p, l.committed[p]>>1)
	}
	if err == nil {
		err = l.saveDoc("commit a checkpoint", func(d *headerDoc) {
			update(&d.Header)
			d.Checkpoint, d.MapCheck = number, sum
		})
	}
	if err != nil {
		l.versions.giveBack(pages)
		return err
	}
	l.mapCheck = sum
	for _, p := range pages {
		l.committed[p] = number<<1 | uint64(l.freeSlot(p))
	}
	return nil
}

func (l *Log) checkpointNumber() uint64 {
	l.header.mu.Lock()
	defer l.header.mu.Unlock()
	return l.header.doc.Checkpoint
}

// freeSlot is the slot of a page that its committed content is not in.
func (l *Log) freeSlot(page int64) int {
	if l.committed[page] == 0 || l.leftOut(twoMapSlots) {
		return 0
	}
	return int(1 - l.committed[page]&1)
}

// writePages writes pages as they are now, and syncs.
func (l *Log) writePages(pages []int64, number uint64) error {
	if len(pages) == 0 {
		return nil
	}
	var room [pageRegions]lineage.Version
	buf := make([]byte, 0, pageSlotBytes)
	for _, p := range pages {
		l.versions.mu.Lock()
		l.versions.shrink(p)
		versions := l.versions.appendPage(p, room[:0])
		l.versions.mu.Unlock()
		buf = encodePage(buf[:0], versions, p, number, l.stamp.Add(1), &l.geometry.id)
		if _, err := l.mapFile.WriteAt(buf, pageSlotAt(p, l.freeSlot(p))); err != nil {
			return l.durable("write the map", err)
		}
	}
	if l.leftOut(mapBeforeHeader) {
		return nil
	}
	return l.durable("write the map", l.mapFile.Datasync())
}

// ForgetAll makes everything unknown, durably: the backing store is not what this log describes (rule 9).
func (l *Log) ForgetAll() error {
	l.checkpoint.Lock()
	defer l.checkpoint.Unlock()
	err := l.saveDoc("forget all versions", func(d *headerDoc) {
		d.Checkpoint++
		d.BaseCheckpoint, d.Base, d.MapCheck = d.Checkpoint, lineage.Unknown, 0
		d.Backing.Clean = false
	})
	if err != nil {
		return err
	}
	l.mapCheck = 0
	clear(l.committed)
	l.versions.mu.Lock()
	defer l.versions.mu.Unlock()
	l.versions.fill(lineage.Unknown)
	clear(l.versions.dirty)
	return nil
}
