package undo

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"keelson/internal/lineage"
	"keelson/internal/vfs"
)

// Salvage says what was given up, and kept: regions of a volume as a replica had them.
type Salvage struct {
	ID     string `json:"id"` // 32 hexadecimal digits
	Volume string `json:"volume"`
	Node   string `json:"node"`   // whose copy it was
	Reason string `json:"reason"` // in words: why it was given up
	From   string `json:"from"`   // generation and position it had, for people

	Time    time.Time `json:"time"`
	Expires time.Time `json:"expires,omitzero"` // zero: never

	Regions     int64 `json:"regions"`
	Bytes       int64 `json:"bytes"` // of the volume that it has, zeroes included
	RegionBytes int64 `json:"region_bytes"`
	SizeBytes   int64 `json:"size_bytes"` // of the volume

	History  lineage.History  `json:"history"`
	Position lineage.Position `json:"position"`

	// Damaged says what is wrong with its file; "" if nothing is known. It can only be deleted.
	Damaged string `json:"damaged,omitempty"`
}

// clone is a copy that shares nothing.
func (s Salvage) clone() Salvage {
	s.History = slices.Clone(s.History)
	return s
}

// check says what is wrong with the geometry.
func (s *Salvage) check() error {
	if err := checkRegionBytes(s.RegionBytes); err != nil {
		return err
	}
	if s.SizeBytes <= 0 || s.SizeBytes%sectorBytes != 0 {
		return fmt.Errorf("a volume of %d bytes: must be a multiple of %d", s.SizeBytes, sectorBytes)
	}
	return nil
}

// lengthOf is how many bytes a region has; <= 0: there is no such region.
func (s *Salvage) lengthOf(region int64) int64 {
	if region < 0 || region > s.SizeBytes/s.RegionBytes {
		return 0
	}
	return min(s.RegionBytes, s.SizeBytes-region*s.RegionBytes)
}

// entry is where a salvage's file has a region: 16 bytes in the file and in memory.
type entry struct {
	region int64
	place  int64 // offset of the record, which is a multiple of sectorBytes; bit 0: the region is zero
}

func (e entry) zero() bool { return e.place&1 != 0 }
func (e entry) at() int64  { return e.place &^ 1 }

const entryBytes = 16

// A salvage's file: records, from offset 0; the index: one entry of 16 bytes for each, by region, ascending (region u64,
// place u64); the JSON of Salvage; zeroes up to a sector; and the footer, the last sector, little endian:
//
//	0 magic (8) | 8 version u16 | 10 zero u16 | 12 bytes of JSON u32 | 16 id (16) | 32 offset of the index u64
//	40 entries u64 | 48 CRC32C of the index | 52 CRC32C of the JSON | 56 zero | 508 CRC32C of bytes 0..507
const (
	footerMagic  = "KSALVAGE"
	metaBytesMax = 16 << 20
)

type footer struct {
	id        ident
	metaBytes int64
	indexAt   int64
	entries   int64
	indexSum  uint32
	metaSum   uint32
}

func (f *footer) metaAt() int64 { return f.indexAt + f.entries*entryBytes }

// footerAt is where the footer is: the file ends a sector later.
func (f *footer) footerAt() int64 {
	return (f.metaAt() + f.metaBytes + sectorBytes - 1) / sectorBytes * sectorBytes
}

func encodeFooter(f footer) []byte {
	b := make([]byte, sectorBytes)
	copy(b, footerMagic)
	le := binary.LittleEndian
	le.PutUint16(b[8:], formatVersion)
	le.PutUint32(b[12:], uint32(f.metaBytes))
	copy(b[16:], f.id[:])
	le.PutUint64(b[32:], uint64(f.indexAt))
	le.PutUint64(b[40:], uint64(f.entries))
	le.PutUint32(b[48:], f.indexSum)
	le.PutUint32(b[52:], f.metaSum)
	le.PutUint32(b[508:], checksum(b[:508]))
	return b
}

// decodeFooter reads the last sector of a file of that size. name is for the error.
func decodeFooter(name string, b []byte, size int64) (footer, error) {
	le := binary.LittleEndian
	at := size - sectorBytes
	switch {
	case size < 2*sectorBytes || size%sectorBytes != 0:
		return footer{}, corrupt(name, size, "a file of %d bytes is not whole", size)
	case string(b[:8]) != footerMagic || le.Uint32(b[508:]) != checksum(b[:508]):
		return footer{}, corrupt(name, at, "the footer is wrong")
	case le.Uint16(b[8:]) > formatVersion:
		return footer{}, newerFormat(name, at+8, le.Uint16(b[8:]))
	}
	f := footer{id: ident(b[16:32]), metaBytes: int64(le.Uint32(b[12:])), indexAt: int64(le.Uint64(b[32:])), entries: int64(le.Uint64(b[40:])),
		indexSum: le.Uint32(b[48:]), metaSum: le.Uint32(b[52:])}
	if le.Uint16(b[8:]) == 0 || le.Uint16(b[10:]) != 0 || !allZero(b[56:508]) || f.metaBytes > metaBytesMax ||
		f.entries < 0 || f.entries > regionsMax || f.indexAt < 0 || f.indexAt > size || f.footerAt() != at {
		return footer{}, corrupt(name, at, "the footer has a field that format %d has not", formatVersion)
	}
	return f, nil
}

// decodeMeta reads the JSON.
func decodeMeta(name string, b []byte, f footer) (s Salvage, err error) {
	if checksum(b) != f.metaSum {
		return s, corrupt(name, f.metaAt(), "the description's checksum is wrong")
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err = dec.Decode(&s); err == nil {
		err = s.check()
	}
	if id, e := parseID(s.ID); err == nil && (e != nil || id != f.id || s.Regions != f.entries) {
		err = fmt.Errorf("it describes another salvage")
	}
	if err != nil {
		return Salvage{}, corrupt(name, f.metaAt(), "%v", err)
	}
	return s, nil
}

// readFooter reads the footer and the description of a salvage.
func readFooter(f vfs.File, name string) (footer, Salvage, error) {
	size, err := f.Size()
	if err != nil {
		return footer{}, Salvage{}, err
	}
	w := window{file: f}
	b, err := w.get(max(0, size-sectorBytes), sectorBytes)
	if err != nil {
		return footer{}, Salvage{}, err
	}
	foot, err := decodeFooter(name, b, size)
	if err != nil {
		return footer{}, Salvage{}, err
	}
	if b, err = w.get(foot.metaAt(), int(foot.metaBytes)); err != nil {
		return footer{}, Salvage{}, err
	}
	meta, err := decodeMeta(name, b, foot)
	return foot, meta, err
}

// readIndex reads and checks the index.
func readIndex(f vfs.File, name string, foot footer, meta *Salvage) ([]entry, error) {
	entries := make([]entry, 0, foot.entries)
	w := window{file: f}
	sum, last := uint32(0), int64(-1)
	for at := foot.indexAt; at < foot.metaAt(); {
		b, err := w.get(at, int(min(windowBytes, foot.metaAt()-at)))
		if err != nil {
			return nil, err
		}
		sum = updateChecksum(sum, b)
		for k := 0; k < len(b); k += entryBytes {
			e := entry{int64(binary.LittleEndian.Uint64(b[k:])), int64(binary.LittleEndian.Uint64(b[k+8:]))}
			if e.region <= last || meta.lengthOf(e.region) <= 0 || e.at() < 0 || e.at() >= foot.indexAt || e.at()%sectorBytes != 0 {
				return nil, corrupt(name, at+int64(k), "the index is wrong")
			}
			last = e.region
			entries = append(entries, e)
		}
		at += int64(len(b))
	}
	if sum != foot.indexSum {
		return nil, corrupt(name, foot.indexAt, "the index's checksum is wrong")
	}
	return entries, nil
}
