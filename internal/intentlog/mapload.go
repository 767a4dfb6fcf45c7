package intentlog

import (
	"errors"
	"fmt"
	"io"

	"keelson/internal/lineage"
)

// mapLoadPages is how many pages are read at a time.
const mapLoadPages = 64

// mapLoader reads the map file at Open.
type mapLoader struct {
	log    *Log
	doc    *headerDoc
	sum    uint64        // of the committed pages found
	damage *CorruptError // the first slot that is not whole; harmless if the sum is right without it
	buf    []byte
	room   [2][pageRegions]lineage.Version
}

// loadMap fills the map with what the header's checkpoint committed. Every committed page must be there: the sum of
// their marks is in the header. Slots beyond that, whole, torn or damaged, are leftovers of checkpoints that were not
// committed; one that is not damaged is written anew by the next checkpoint, so that its number never becomes true later.
func (l *Log) loadMap() error {
	m := &mapLoader{log: l, doc: &l.header.doc, buf: make([]byte, min(mapLoadPages, l.geometry.pages())*2*pageSlotBytes)}
	l.versions.init(l.geometry, m.doc.Base)
	l.committed = make([]uint64, l.geometry.pages())
	next := int64(0) // the first page not read yet
	size := fileBytes(mapFile, l.geometry)
	for off := int64(blockBytes); off < size; {
		extents, err := l.mapFile.Extents(off, size-off)
		if err != nil {
			return err
		}
		for _, x := range extents {
			if !x.Hole {
				first := max(next, (off-blockBytes)/(2*pageSlotBytes))
				next = min(l.geometry.pages(), (off+x.Len-blockBytes+2*pageSlotBytes-1)/(2*pageSlotBytes))
				if err := m.pages(first, next); err != nil {
					return err
				}
			}
			off += x.Len
		}
	}
	if m.sum == m.doc.MapCheck {
		l.mapCheck = m.sum
		return nil
	}
	if m.damage != nil {
		return m.damage
	}
	return &CorruptError{File: l.path(mapFile), Offset: blockBytes,
		Why: fmt.Sprintf("its pages are not the ones that checkpoint %d committed", m.doc.Checkpoint)}
}

func (m *mapLoader) pages(first, end int64) error {
	for first < end {
		n := min(mapLoadPages, end-first)
		b := m.buf[:n*2*pageSlotBytes]
		if _, err := m.log.mapFile.ReadAt(b, pageSlotAt(first, 0)); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		for i := range n {
			if err := m.page(first+i, b[i*2*pageSlotBytes:][:2*pageSlotBytes]); err != nil {
				return err
			}
		}
		first += n
	}
	return nil
}

// page takes the newest committed of a page's two slots.
func (m *mapLoader) page(page int64, b []byte) error {
	l := m.log
	regions := l.geometry.regionsOf(page)
	var best slotContent
	for slot := range 2 {
		s := decodePage(b[slot*pageSlotBytes:][:pageSlotBytes], page, regions, &l.geometry.id, m.room[slot][:])
		at := pageSlotAt(page, slot) + int64(s.at)
		switch {
		case s.condition == damaged && m.damage == nil:
			m.damage = &CorruptError{File: l.path(mapFile), Offset: at, Why: fmt.Sprintf("page %d: %s", page, s.why)}
		case s.condition == torn:
			l.versions.markDirty(page) // an older write of it may be whole on the disk, should it be lost again
		case s.condition != whole || s.checkpoint <= m.doc.BaseCheckpoint:
		case s.checkpoint > m.doc.Checkpoint+1:
			return &CorruptError{File: l.path(mapFile), Offset: at,
				Why: fmt.Sprintf("page %d is of checkpoint %d, and the header's newest is %d: the header is an older copy", page, s.checkpoint, m.doc.Checkpoint)}
		case s.checkpoint > m.doc.Checkpoint:
			l.versions.markDirty(page)
		case s.checkpoint > best.checkpoint:
			if err := checkVersions(s.versions, m.doc.Generations); err != nil {
				return &CorruptError{File: l.path(mapFile), Offset: at, Why: fmt.Sprintf("page %d: %v", page, err)}
			}
			best = s
			l.committed[page] = s.checkpoint<<1 | uint64(slot)
		}
	}
	if best.condition == whole {
		m.sum += pageMark(page, best.checkpoint)
		l.versions.load(page, best.versions)
	}
	return nil
}

// load sets a page at Open; it stays as dirty as it is.
func (m *versionMap) load(page int64, versions []lineage.Version) {
	p := &m.pages[page]
	if p.uniform == lineage.Unknown {
		m.unknown -= int64(len(versions))
	}
	for _, v := range versions {
		if v == lineage.Unknown {
			m.unknown++
		}
	}
	p.uniform = versions[0]
	if !alike(versions) {
		p.each = new([pageRegions]lineage.Version)
		copy(p.each[:], versions)
	}
}
