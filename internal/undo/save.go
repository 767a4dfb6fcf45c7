package undo

import (
	"fmt"
	"slices"
)

// writeBytesMax is how much of a batch is written at a time: a larger one takes several writes, and one sync.
const writeBytesMax = 8 << 20

// Save keeps the images, durably when it returns: all of them, or with an error none. ErrFull (a limit) and
// vfs.ErrNoSpace (the disk) leave the log as it was; after any other error of the disk it is failed.
func (l *Log) Save(images []Image) error {
	const doing = "save images"
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(doing); err != nil {
		return err
	}
	bytes, err := l.admit(images)
	if err != nil {
		return l.say(doing, err)
	}
	if len(images) == 0 {
		return nil
	}
	if err := l.write(images); err != nil {
		return l.retreat(doing, err)
	}
	if !l.leftOut(saveSynced) {
		if err := l.file.Datasync(); err != nil {
			return l.retreat(doing, err)
		}
	}
	l.tail.Add(bytes)
	l.ordinal += uint64(len(images))
	for _, i := range images {
		l.saved.add(i.Region)
	}
	return nil
}

// admit says why a batch cannot be saved, or how many bytes it takes.
func (l *Log) admit(images []Image) (bytes int64, err error) {
	switch d := l.anchor.Load(); {
	case d == nil:
		return 0, ErrNoAnchor
	case d.rolling:
		return 0, ErrRolling
	}
	l.order = l.order[:0]
	for k := range images {
		i := &images[k]
		if err := i.check(l.o.RegionBytes); err != nil {
			return 0, err
		}
		if l.saved.has(i.Region) {
			return 0, fmt.Errorf("region %d: %w", i.Region, ErrSaved)
		}
		l.order = append(l.order, i.Region)
		bytes += recordBytes(int64(len(i.Data)))
	}
	slices.Sort(l.order)
	for k := 1; k < len(l.order); k++ {
		if l.order[k] == l.order[k-1] {
			return 0, fmt.Errorf("region %d twice in one batch: %w", l.order[k], ErrSaved)
		}
	}
	if has := l.tail.Load(); l.o.BytesMax > 0 && bytes > l.o.BytesMax-has {
		return 0, fmt.Errorf("%w: %d bytes more than its %d would exceed the limit of %d: raise the limit, or let the resync end without a way back", ErrFull, bytes, has, l.o.BytesMax)
	}
	return bytes, nil
}

// write puts the records behind the tail.
func (l *Log) write(images []Image) error {
	owner := l.owner
	if l.leftOut(imagesNamed) {
		owner = ident{}
	}
	at := l.tail.Load()
	l.batch = l.batch[:0]
	for k, i := range images {
		l.batch = appendRecord(l.batch, i, owner, l.ordinal+uint64(k), l.ordinal)
		if len(l.batch) < writeBytesMax && k < len(images)-1 {
			continue
		}
		if _, err := l.file.WriteAt(l.batch, at); err != nil {
			return err
		}
		at += int64(len(l.batch))
		l.batch = l.batch[:0]
	}
	return nil
}

// retreat judges an error of a batch. No room is no failure, if what was written of the batch can be cut off: everything
// before it was durable already.
func (l *Log) retreat(doing string, err error) error {
	if !noRoom(err) {
		_ = l.cut(l.tail.Load()) // or a later Open might find in memory what never reached the disk
		return l.fail(doing, err)
	}
	if e := l.cut(l.tail.Load()); e != nil {
		return l.fail(doing, fmt.Errorf("%w, and then: %w", err, e))
	}
	return l.say(doing, err)
}
