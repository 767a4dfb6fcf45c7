package undo

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
)

// Begin sets the anchor, durably, and voids all images of the one before: after a crash the log has the old anchor with its
// images, or the new one with none. vfs.ErrNoSpace leaves the log as it was.
func (l *Log) Begin(a Anchor) error {
	const doing = "begin"
	l.readers.Lock()
	defer l.readers.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(doing); err != nil {
		return err
	}
	id, err := parseID(a.ID)
	if err != nil {
		return l.say(doing, err)
	}
	if l.Rolling() {
		return l.say(doing, fmt.Errorf("%w: finish it, then drop the log", ErrRolling))
	}
	if old := l.anchor.Load(); old != nil && old.ID == a.ID {
		return l.say(doing, errors.New("the new anchor has the id of the old one"))
	}
	a.History, a.Record.Members = slices.Clone(a.History), slices.Clone(a.Record.Members)
	if err := l.saveAnchor(doing, anchorDoc{Anchor: a, RegionBytes: l.o.RegionBytes}); err != nil {
		return err
	}
	l.owner = id
	return l.empty(doing)
}

// BeginRollback notes, durably, that everything is being restored to the anchor: from here on a crash repeats it (rule 27).
// It takes no room on the disk, and may be called again.
func (l *Log) BeginRollback() error {
	const doing = "begin the rollback"
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(doing); err != nil {
		return err
	}
	d := l.anchor.Load()
	if d == nil {
		return l.say(doing, ErrNoAnchor)
	}
	next := *d
	next.rolling = true
	b, err := encodeAnchor(next)
	if err != nil {
		return l.say(doing, err)
	}
	if err := overwrite(l.fs, l.path(anchorFile), b[:anchorHeadBytes], !l.leftOut(noteSynced)); err != nil {
		if noRoom(err) { // a file system that never overwrites; the note may be there or not, and may be written again
			return l.say(doing, err)
		}
		return l.fail(doing, err)
	}
	l.anchor.Store(&next)
	return nil
}

// saveAnchor replaces the anchor's file. Under mu.
func (l *Log) saveAnchor(doing string, d anchorDoc) error {
	b, err := encodeAnchor(d)
	if err != nil {
		return l.say(doing, err)
	}
	if uncertain, err := l.replace(anchorFile, b); err != nil {
		if noRoom(err) && !uncertain {
			return l.say(doing, err)
		}
		return l.fail(doing, err)
	}
	l.anchor.Store(&d)
	return nil
}

// Drop forgets anchor and images, durably, and gives their space back. Without an anchor it does nothing.
func (l *Log) Drop() error {
	const doing = "drop"
	l.readers.Lock()
	defer l.readers.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(doing); err != nil {
		return err
	}
	if l.anchor.Load() == nil {
		return nil
	}
	err := l.fs.Remove(l.path(anchorFile))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err == nil && !l.leftOut(nameSynced) {
		err = l.fs.SyncDir(l.dir)
	}
	if err != nil {
		return l.fail(doing, err)
	}
	l.anchor.Store(nil)
	return l.empty(doing)
}

// empty gives the space of all images back; the anchor's file voids them already. Under readers and mu.
func (l *Log) empty(doing string) error {
	l.ordinal, l.batch, l.order = 0, nil, nil
	l.saved.reset()
	if err := l.cut(0); err != nil {
		return l.fail(doing, err)
	}
	return nil
}
