package undo

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"keelson/internal/lineage"
	"keelson/internal/vfs"
)

// A record is one image in a file, in whole sectors: a header, a table with the checksum of each sector of the data, and
// the data. A zero region has the header alone. Header, little endian:
//
//	0 magic "KIMG" | 4 version u16 | 6 flags u16 | 8 owner (16) | 24 ordinal u64 | 32 batch u64 | 40 region u64
//	48 generation (16) | 64 number u64 | 72 data bytes u32 | 76 CRC32C of the table | 80 zero | 508 CRC32C of bytes 0..507
//
// A sector is written whole or not at all, and what is past the end of a log reads as zero. So a sector that is zero
// where it should not be was not written yet (torn); one that is neither zero nor right is damage.
const (
	sectorBytes   = vfs.SectorBytes
	formatVersion = 1
	recordMagic   = "KIMG"

	flagZero    = 1 // the region reads as zero: no data
	flagUnknown = 2 // its version is unknown: generation and number are zero

	regionBytesMax = 1 << 30
	regionsMax     = 1 << 27 // of a volume: the greatest region number is one less
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(p []byte) uint32 { return crc32.Checksum(p, castagnoli) }

// ident is the random identity that every record of a log (its anchor's) or of a salvage names.
type ident [16]byte

// Image is one region's content and version before a change.
type Image struct {
	Region  int64
	Gen     lineage.GenID // version: generation and number
	Number  uint64
	Unknown bool   // the version is unknown; Gen and Number do not count
	Zero    bool   // the region reads as zero; Data is empty
	Data    []byte // all of the region: whole sectors, fewer than others only at the end of the volume
}

// recordHead is the header of a record.
type recordHead struct {
	ordinal uint64 // since the anchor, from 0
	batch   uint64 // ordinal of the first one of its batch: those before that are durable for sure
	region  int64
	gen     lineage.GenID
	number  uint64
	length  int64 // bytes of data
	table   uint32
	zero    bool
	unknown bool
}

func tableBytes(length int64) int64 {
	return (length/sectorBytes*4 + sectorBytes - 1) / sectorBytes * sectorBytes
}

// recordBytes is how many bytes the record of an image with that many bytes of data takes.
func recordBytes(length int64) int64 { return sectorBytes + tableBytes(length) + length }

func (h *recordHead) bytes() int64 { return recordBytes(h.length) }

// dataAt is where the data begins in the record.
func (h *recordHead) dataAt() int64 { return sectorBytes + tableBytes(h.length) }

func (h *recordHead) image(data []byte) Image {
	return Image{Region: h.region, Gen: h.gen, Number: h.number, Unknown: h.unknown, Zero: h.zero, Data: data}
}

// check says what is wrong with an image whose region has at most that many bytes.
func (i *Image) check(regionBytes int64) error {
	n := int64(len(i.Data))
	switch {
	case i.Region < 0 || i.Region >= regionsMax:
		return fmt.Errorf("region %d: a volume has at most %d", i.Region, int64(regionsMax))
	case i.Zero != (n == 0):
		return fmt.Errorf("region %d: an image has data, or is zero, and not both", i.Region)
	case n > regionBytes || n%sectorBytes != 0:
		return fmt.Errorf("region %d: %d bytes of data: at most %d, in sectors of %d", i.Region, n, regionBytes, sectorBytes)
	case !i.Unknown && i.Number > lineage.NumberMax:
		return fmt.Errorf("region %d: number %d is above the greatest", i.Region, i.Number)
	}
	return nil
}

// appendRecord appends the record of an image.
func appendRecord(dst []byte, i Image, owner ident, ordinal, batch uint64) []byte {
	at, length := len(dst), int64(len(i.Data))
	dst = extend(dst, int(recordBytes(length)))
	head, table := dst[at:at+sectorBytes], dst[at+sectorBytes:][:tableBytes(length)]
	clear(head)
	clear(table)
	copy(dst[int64(at)+recordBytes(length)-length:], i.Data)
	le := binary.LittleEndian
	for s := 0; s*sectorBytes < len(i.Data); s++ {
		le.PutUint32(table[4*s:], checksum(i.Data[s*sectorBytes:][:sectorBytes]))
	}
	flags := uint16(0)
	if i.Zero {
		flags |= flagZero
	}
	if i.Unknown {
		flags |= flagUnknown
	} else {
		copy(head[48:], i.Gen[:])
		le.PutUint64(head[64:], i.Number)
	}
	copy(head, recordMagic)
	le.PutUint16(head[4:], formatVersion)
	le.PutUint16(head[6:], flags)
	copy(head[8:], owner[:])
	le.PutUint64(head[24:], ordinal)
	le.PutUint64(head[32:], batch)
	le.PutUint64(head[40:], uint64(i.Region))
	le.PutUint32(head[72:], uint32(length))
	le.PutUint32(head[76:], checksum(table))
	le.PutUint32(head[508:], checksum(head[:508]))
	return dst
}

// extend makes dst n bytes longer; what is new is undefined.
func extend(dst []byte, n int) []byte {
	if cap(dst)-len(dst) < n {
		dst = append(make([]byte, 0, max(2*cap(dst), len(dst)+n)), dst...)
	}
	return dst[:len(dst)+n]
}

// condition of a record or a part of one.
type condition uint8

const (
	whole   condition = iota // intact, and its owner's
	torn                     // (partly) zero: not written yet
	foreign                  // intact, of another owner: void
	damaged                  // a checksum or a field is wrong
	newer                    // intact, of a newer format
)

// decodeHead reads a header sector.
func decodeHead(b []byte, owner ident) (h recordHead, c condition) {
	le := binary.LittleEndian
	if string(b[:4]) != recordMagic || le.Uint32(b[508:]) != checksum(b[:508]) {
		if allZero(b[:sectorBytes]) {
			return h, torn
		}
		return h, damaged
	}
	if le.Uint16(b[4:]) > formatVersion {
		return h, newer
	}
	flags := le.Uint16(b[6:])
	h = recordHead{ordinal: le.Uint64(b[24:]), batch: le.Uint64(b[32:]), region: int64(le.Uint64(b[40:])), gen: lineage.GenID(b[48:64]),
		number: le.Uint64(b[64:]), length: int64(le.Uint32(b[72:])), table: le.Uint32(b[76:]),
		zero: flags&flagZero != 0, unknown: flags&flagUnknown != 0}
	switch {
	case le.Uint16(b[4:]) == 0, flags&^(flagZero|flagUnknown) != 0, !allZero(b[80:508]),
		h.region < 0, h.region >= regionsMax, h.number > lineage.NumberMax, h.batch > h.ordinal,
		h.length > regionBytesMax, h.length%sectorBytes != 0, h.zero != (h.length == 0),
		h.length == 0 && h.table != 0, h.unknown && (h.gen != lineage.GenID{} || h.number != 0):
		return recordHead{}, damaged
	case ident(b[8:24]) != owner:
		return h, foreign
	}
	return h, whole
}

// checkTable judges a record's table; the offset is that of the damage in it.
func (h *recordHead) checkTable(table []byte) (c condition, at int64) {
	if checksum(table) == h.table {
		return whole, 0
	}
	for s := 0; s < len(table); s += sectorBytes {
		if allZero(table[s : s+sectorBytes]) {
			return torn, int64(s)
		}
	}
	return damaged, 0
}

// checkData judges data, whose first sector is that many of the record's, by its table. The offset is in data. Damage
// anywhere counts before what was not written.
func checkData(table, data []byte, first int64) (c condition, at int64) {
	table = table[4*first:]
	for s := int64(0); s < int64(len(data)); s += sectorBytes {
		sector := data[s : s+sectorBytes]
		if binary.LittleEndian.Uint32(table[s/sectorBytes*4:]) == checksum(sector) {
			continue
		}
		if !allZero(sector) {
			return damaged, s
		}
		if c == whole {
			c, at = torn, s
		}
	}
	return c, at
}

func allZero(p []byte) bool {
	for len(p) >= 8 {
		if binary.LittleEndian.Uint64(p) != 0 {
			return false
		}
		p = p[8:]
	}
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}
