package undo

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"time"

	"keelson/internal/vfs"
)

// Writer makes one salvage. It belongs to one goroutine, which ends it with Commit or Abort.
type Writer struct {
	store   *Store
	n       int // slot
	meta    Salvage
	id      ident
	file    vfs.File
	buf     []byte
	at      int64 // where buf goes
	entries []entry
	seen    regionSet
	err     error // the first: nothing is kept
}

// Writer begins a salvage. meta has what it describes; ID, Time and Expires are filled in where they are empty, Regions
// and Bytes always. ErrFull (also vfs.ErrNoSpace where it was the disk) if there is no room.
func (s *Store) Writer(meta Salvage) (*Writer, error) {
	const doing = "begin a salvage"
	if meta.ID == "" {
		meta.ID = NewID()
	}
	if meta.Time.IsZero() {
		meta.Time = time.Now().UTC()
	}
	if meta.Expires.IsZero() && s.o.Retention > 0 {
		meta.Expires = meta.Time.Add(s.o.Retention)
	}
	meta.Regions, meta.Bytes, meta.Damaged, meta = 0, 0, "", meta.clone()
	id, err := parseID(meta.ID)
	if err == nil {
		err = meta.check()
	}
	if err != nil {
		return nil, s.say(doing, err)
	}
	n, err := s.claim(meta)
	if err != nil {
		return nil, s.say(doing, err)
	}
	w := &Writer{store: s, n: n, meta: meta, id: id}
	if w.file, err = s.fs.Open(w.path(), vfs.Create); err == nil {
		err = w.file.Truncate(0)
	}
	if err != nil {
		_ = w.fail(err)
		_ = w.Abort()
		return nil, s.say(doing, w.err)
	}
	return w, nil
}

// claim finds a free slot.
func (s *Store) claim(meta Salvage) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	free := -1
	for n := range s.slots {
		switch {
		case s.slots[n].state == slotFree && free < 0:
			free = n
		case s.slots[n].state != slotFree && s.slots[n].meta.ID == meta.ID:
			return 0, fmt.Errorf("there is a salvage %s already", meta.ID)
		}
	}
	if free < 0 {
		return 0, fmt.Errorf("%w: there are %d salvages, the most there can be: delete some", ErrFull, salvagesMax)
	}
	s.slots[free] = slot{state: slotWriting, meta: meta}
	return free, nil
}

// take counts bytes that are about to be written.
func (s *Store) take(n int, bytes int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.o.BytesMax > 0 && bytes > s.o.BytesMax-s.bytes {
		return fmt.Errorf("%w: %d bytes more than the %d of all salvages would exceed the limit of %d: export and delete some, or raise the limit", ErrFull, bytes, s.bytes, s.o.BytesMax)
	}
	s.bytes += bytes
	s.slots[n].bytes += bytes
	return nil
}

func (w *Writer) path() string {
	if w.store.leftOut(salvageApart) {
		return w.store.path(w.n, salvageSuffix)
	}
	return w.store.path(w.n, newSuffix)
}

// fail keeps the first error. No room on the disk is ErrFull besides.
func (w *Writer) fail(err error) error {
	if noRoom(err) && !errors.Is(err, ErrFull) {
		err = fmt.Errorf("%w: %w", ErrFull, err)
	}
	if w.err == nil {
		w.err = err
	}
	return w.store.say("write salvage "+w.meta.ID, w.err)
}

// Add keeps a region; its data is the caller's again when it returns. After an error nothing of the salvage is kept.
func (w *Writer) Add(i Image) error {
	if w.err != nil {
		return w.fail(w.err)
	}
	length := w.meta.lengthOf(i.Region)
	err := i.check(w.meta.RegionBytes)
	switch {
	case err != nil:
	case length <= 0:
		err = fmt.Errorf("region %d is outside of the volume of %d bytes", i.Region, w.meta.SizeBytes)
	case !i.Zero && int64(len(i.Data)) != length:
		err = fmt.Errorf("region %d: %d bytes of data, not %d", i.Region, len(i.Data), length)
	case !w.seen.add(i.Region):
		err = fmt.Errorf("region %d: %w", i.Region, ErrSaved)
	}
	if err != nil {
		return w.fail(err)
	}
	e := entry{region: i.Region, place: w.at + int64(len(w.buf))}
	if i.Zero {
		e.place |= 1
	}
	w.buf = appendRecord(w.buf, i, w.id, uint64(len(w.entries)), 0)
	w.entries = append(w.entries, e)
	w.meta.Regions++
	w.meta.Bytes += length
	if len(w.buf) >= windowBytes {
		return w.flush()
	}
	return nil
}

// flush writes what is in the buffer.
func (w *Writer) flush() error {
	if err := w.store.take(w.n, int64(len(w.buf))); err != nil {
		return w.fail(err)
	}
	if _, err := w.file.WriteAt(w.buf, w.at); err != nil {
		return w.fail(err)
	}
	w.at += int64(len(w.buf))
	w.buf = w.buf[:0]
	return nil
}

// Commit makes the salvage durable and lists it. Without any region nothing is kept, and the Salvage is the zero one. With
// an error nothing is kept either, except that after one of its very last step the salvage may be there when the store is
// opened again.
func (w *Writer) Commit() (Salvage, error) {
	if w.err != nil {
		err := w.fail(w.err)
		_ = w.Abort()
		return Salvage{}, err
	}
	if len(w.entries) == 0 {
		return Salvage{}, w.Abort()
	}
	if err := w.finish(); err != nil {
		_ = w.Abort()
		return Salvage{}, err
	}
	s := w.store
	if err := w.name(); err != nil {
		err = w.fail(err)
		_ = s.fs.Remove(s.path(w.n, salvageSuffix))
		_ = w.Abort()
		return Salvage{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slots[w.n].state, s.slots[w.n].meta = slotKept, w.meta
	w.err = errClosed
	return w.meta.clone(), nil
}

// finish writes index, description and footer, and syncs.
func (w *Writer) finish() error {
	slices.SortFunc(w.entries, func(a, b entry) int { return cmp.Compare(a.region, b.region) })
	foot := footer{id: w.id, indexAt: w.at + int64(len(w.buf)), entries: int64(len(w.entries))}
	for first := 0; first < len(w.entries); first += windowBytes / entryBytes {
		part := w.entries[first:min(len(w.entries), first+windowBytes/entryBytes)]
		at := len(w.buf)
		for _, e := range part {
			w.buf = binary.LittleEndian.AppendUint64(w.buf, uint64(e.region))
			w.buf = binary.LittleEndian.AppendUint64(w.buf, uint64(e.place))
		}
		foot.indexSum = updateChecksum(foot.indexSum, w.buf[at:])
		if err := w.flush(); err != nil {
			return err
		}
	}
	text, err := json.Marshal(w.meta)
	if err == nil && len(text) > metaBytesMax {
		err = fmt.Errorf("a description of %d bytes: at most %d", len(text), metaBytesMax)
	}
	if err != nil {
		return w.fail(err)
	}
	foot.metaBytes, foot.metaSum = int64(len(text)), checksum(text)
	w.buf = append(w.buf, text...)
	w.buf = append(w.buf, make([]byte, foot.footerAt()-foot.metaAt()-foot.metaBytes)...)
	w.buf = append(w.buf, encodeFooter(foot)...)
	if err := w.flush(); err != nil {
		return err
	}
	if w.store.leftOut(salvageSynced) {
		return nil
	}
	if err := w.file.Datasync(); err != nil {
		return w.fail(err)
	}
	return nil
}

// name gives the file its name, durably.
func (w *Writer) name() error {
	s := w.store
	err := w.file.Close()
	w.file, w.buf, w.entries = nil, nil, nil
	if err != nil {
		return err
	}
	if !s.leftOut(salvageApart) {
		if err := s.fs.Rename(s.path(w.n, newSuffix), s.path(w.n, salvageSuffix)); err != nil {
			return err
		}
	}
	if s.leftOut(salvageNamed) {
		return nil
	}
	return s.fs.SyncDir(s.dir)
}

// Abort gives the salvage up and its space back. After Commit, or again, it does nothing.
func (w *Writer) Abort() error {
	if errors.Is(w.err, errClosed) || w.n < 0 {
		return nil
	}
	if w.err == nil {
		w.err = errClosed
	}
	if w.file != nil {
		w.file.Close()
		w.file = nil
	}
	s := w.store
	_ = s.fs.Remove(w.path()) // or the next Open does it
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free(w.n)
	w.n, w.buf, w.entries = -1, nil, nil
	return nil
}

// Keep makes a salvage of the images that the function gives to yield, durably before it returns, whole or not at all. With
// no image nothing is kept and the Salvage is the zero one. ErrFull: there is no room, and nothing is kept (rule 28: the
// caller stops the resync). Data is yield's only until it returns.
func (s *Store) Keep(meta Salvage, images func(yield func(Image) error) error) (Salvage, error) {
	w, err := s.Writer(meta)
	if err != nil {
		return Salvage{}, err
	}
	if err := images(w.Add); err != nil {
		_ = w.Abort()
		return Salvage{}, err
	}
	return w.Commit()
}

func updateChecksum(sum uint32, p []byte) uint32 { return crc32.Update(sum, castagnoli, p) }
