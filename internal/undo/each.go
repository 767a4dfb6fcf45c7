package undo

import "errors"

// Each calls fn for every image, in the order in which they were saved, until it returns an error. Data is valid only
// during fn. Every checksum is verified: an image that is not what was saved is a *CorruptError and is not given out.
// fn must not call Begin, Drop or Close.
func (l *Log) Each(fn func(Image) error) error {
	const doing = "read images"
	l.readers.RLock()
	defer l.readers.RUnlock()
	if l.anchor.Load() == nil {
		return l.say(doing, ErrNoAnchor)
	}
	l.mu.Lock()
	if errors.Is(l.failed, errClosed) {
		defer l.mu.Unlock()
		return l.usable(doing)
	}
	end, count := l.tail.Load(), l.ordinal
	l.mu.Unlock()
	w := window{file: l.file, piece: windowBytes}
	at := int64(0)
	for n := range count {
		i, bytes, err := l.readImage(&w, at, n)
		if err != nil {
			return l.say(doing, err)
		}
		if err := fn(i); err != nil {
			return err
		}
		at += bytes
	}
	if at != end {
		return l.say(doing, corrupt(l.path(imagesFile), at, "the images end here, not at %d", end))
	}
	return nil
}

// readImage reads the record at that offset, which must be the n-th one, and whole.
func (l *Log) readImage(w *window, at int64, n uint64) (i Image, bytes int64, err error) {
	b, err := w.get(at, sectorBytes)
	if err != nil {
		return i, 0, err
	}
	h, c := l.decode(b)
	if c != whole || h.ordinal != n || h.length > l.o.RegionBytes {
		return i, 0, corrupt(l.path(imagesFile), at, "image %d is not there", n)
	}
	r, err := readRecord(w, at, h)
	if err != nil {
		return i, 0, err
	}
	if r.condition != whole {
		return i, 0, corrupt(l.path(imagesFile), at+r.at, "the content of region %d is wrong", h.region)
	}
	return h.image(r.data), h.bytes(), nil
}

// Verify reads and checks all images. Call it before a rollback: one that finds damage half-way has no way back.
func (l *Log) Verify() error { return l.Each(func(Image) error { return nil }) }
