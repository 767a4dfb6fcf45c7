package intentlog

import (
	"errors"
	"io"
	"math/bits"
)

// The hot file is one bit for each extent: sectors of kind hot, each written alone, whole or not at all. The stamp is
// the sector's own sequence. Bit n%8 of payload byte n/8 is extent index*3968 + n.
const (
	hotSectorExtents = payloadBytes * 8
	hotSectorsMax    = 1 << 16
)

func hotSectors(g geometry) int {
	return int((g.extents() + hotSectorExtents - 1) / hotSectorExtents)
}

func hotSectorAt(sector int) int64 { return blockBytes + int64(sector)*sectorBytes }

// decodeHot checks a sector that has bits for that many extents.
func decodeHot(s []byte, sector int, extents int64, id *logID) (sequence uint64, err error) {
	sequence, c := unseal(s, kindHot, sector, id)
	if c != whole {
		return 0, errSector
	}
	for at := extents / 8; at < payloadBytes; at++ {
		b := s[at]
		if at == extents/8 {
			b >>= extents % 8
		}
		if b != 0 {
			return 0, errSector
		}
	}
	return sequence, nil
}

// load reads the file and returns what is hot in it.
func (s *hotSet) load(name string, g geometry) (hot []int64, err error) {
	const readSectors = 256
	buf := make([]byte, readSectors*sectorBytes)
	n := hotSectors(g)
	for sector := range n {
		at := sector % readSectors * sectorBytes
		if at == 0 {
			if _, err := s.file.ReadAt(buf[:min(readSectors, n-sector)*sectorBytes], hotSectorAt(sector)); err != nil && !errors.Is(err, io.EOF) {
				return nil, err
			}
		}
		b := buf[at:][:sectorBytes]
		first := int64(sector) * hotSectorExtents
		s.order[sector], err = decodeHot(b, sector, min(hotSectorExtents, g.extents()-first), &s.id)
		if err != nil {
			return nil, &CorruptError{File: name, Offset: hotSectorAt(sector), Why: err.Error()}
		}
		copy(s.image[sector*payloadBytes:], b[:payloadBytes])
		for i, set := range b[:payloadBytes] {
			for ; set != 0; set &= set - 1 {
				hot = append(hot, first+int64(i*8+bits.TrailingZeros8(set)))
			}
		}
	}
	for _, e := range hot {
		s.states[e].Store(hotBit) // of epoch 0: cooled by the next checkpoint, unless touched
	}
	s.count.Store(int64(len(hot)))
	return hot, nil
}

// prove writes every sector that has something hot once more, as it is, and syncs. That a sector which is all cool may be an
// older one on the disk does no harm.
func (s *hotSet) prove() error {
	wrote := false
	for sector := range s.order {
		if allZero(s.image[sector*payloadBytes:][:payloadBytes]) {
			continue
		}
		if err := s.put(sector); err != nil {
			return err
		}
		wrote = true
	}
	if !wrote {
		return nil
	}
	return s.file.Datasync()
}

// create writes the whole file, all cool.
func (s *hotSet) create(g geometry) error {
	const writeSectors = 256
	buf := make([]byte, 0, writeSectors*sectorBytes)
	for sector := range hotSectors(g) {
		at := len(buf)
		buf = buf[:at+sectorBytes]
		clear(buf[at:])
		seal(buf[at:], kindHot, sector, 0, &s.id)
		if len(buf) == cap(buf) || sector == hotSectors(g)-1 {
			if _, err := s.file.WriteAt(buf, hotSectorAt(sector+1)-int64(len(buf))); err != nil {
				return err
			}
			buf = buf[:0]
		}
	}
	return nil
}
