package intentlog

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"io"

	"keelson/internal/vfs"
)

// formatVersion of all files of a log. A higher one is refused.
const formatVersion = 1

// geometry is what never changes in a log, and stands at the start of each of its files.
type geometry struct {
	id                   logID
	volume               [16]byte
	size, region, extent int64 // bytes
}

func (g geometry) regions() int64          { return (g.size + g.region - 1) / g.region }
func (g geometry) extents() int64          { return (g.size + g.extent - 1) / g.extent }
func (g geometry) regionsPerExtent() int64 { return g.extent / g.region }
func (g geometry) pages() int64            { return (g.regions() + pageRegions - 1) / pageRegions }

// regionsOf is how many regions the page has: only the last one may have fewer than pageRegions.
func (g geometry) regionsOf(page int64) int {
	return int(min(pageRegions, g.regions()-page*pageRegions))
}

// check says what is wrong with a geometry.
func (g geometry) check() error {
	switch {
	case g.size <= 0:
		return fmt.Errorf("a volume of %d bytes", g.size)
	case g.region < sectorBytes || g.region%sectorBytes != 0:
		return fmt.Errorf("regions of %d bytes: must be a multiple of %d", g.region, sectorBytes)
	case g.extent < g.region || g.extent%g.region != 0:
		return fmt.Errorf("extents of %d bytes: must be a multiple of the region's %d", g.extent, g.region)
	case g.extents() > hotSectorsMax*hotSectorExtents:
		return fmt.Errorf("%d extents: at most %d; choose larger ones", g.extents(), hotSectorsMax*hotSectorExtents)
	}
	return nil
}

// magics of the files, by name.
var magics = map[string][8]byte{
	headerFile: {'K', 'L', 'O', 'G', 'H', 'E', 'A', 'D'},
	mapFile:    {'K', 'L', 'O', 'G', 'M', 'A', 'P', 0},
	hotFile:    {'K', 'L', 'O', 'G', 'H', 'O', 'T', 0},
	floorFile:  {'K', 'L', 'O', 'G', 'F', 'L', 'O', 'R'},
}

// encodePreamble is the first sector of a file:
//
//	0 magic (8) | 8 version u16 | 10 zero u16 | 12 sector bytes u32 | 16 log id (16) | 32 volume id (16)
//	48 size u64 | 56 region bytes u64 | 64 extent bytes u64 | 72 zero | 508 CRC32C of bytes 0..507
func encodePreamble(file string, g geometry) []byte {
	b := make([]byte, sectorBytes)
	magic := magics[file]
	copy(b, magic[:])
	le := binary.LittleEndian
	le.PutUint16(b[8:], formatVersion)
	le.PutUint32(b[12:], sectorBytes)
	copy(b[16:], g.id[:])
	copy(b[32:], g.volume[:])
	le.PutUint64(b[48:], uint64(g.size))
	le.PutUint64(b[56:], uint64(g.region))
	le.PutUint64(b[64:], uint64(g.extent))
	le.PutUint32(b[508:], crc32.Checksum(b[:508], castagnoli))
	return b
}

// decodePreamble checks a file's first sector. name is for the error.
func decodePreamble(file, name string, b []byte) (geometry, error) {
	var g geometry
	bad := func(at int64, why string, args ...any) (geometry, error) {
		return g, &CorruptError{File: name, Offset: at, Why: fmt.Sprintf(why, args...)}
	}
	le := binary.LittleEndian
	magic := magics[file]
	switch {
	case len(b) < sectorBytes:
		return bad(int64(len(b)), "the file ends after %d bytes", len(b))
	case string(b[:8]) != string(magic[:]):
		return bad(0, "it begins with %q, not %q", b[:8], magic[:])
	case le.Uint32(b[508:]) != crc32.Checksum(b[:508], castagnoli):
		return bad(508, "the preamble's checksum is wrong")
	case le.Uint16(b[8:]) > formatVersion:
		return g, newer(name, le.Uint16(b[8:]))
	case le.Uint16(b[8:]) == 0 || le.Uint16(b[10:]) != 0 || le.Uint32(b[12:]) != sectorBytes || !allZero(b[72:508]):
		return bad(8, "the preamble has a field that format %d has not", formatVersion)
	}
	copy(g.id[:], b[16:])
	copy(g.volume[:], b[32:])
	g.size, g.region, g.extent = int64(le.Uint64(b[48:])), int64(le.Uint64(b[56:])), int64(le.Uint64(b[64:]))
	if err := g.check(); err != nil {
		return bad(48, "the preamble says %v", err)
	}
	return g, nil
}

func newer(name string, version uint16) error {
	return &CorruptError{File: name, Offset: 8, Newer: true,
		Why: fmt.Sprintf("format %d; this one knows formats up to %d", version, formatVersion)}
}

// readPreamble reads and checks the first sector of an open file, and its size.
func readPreamble(file, name string, f vfs.File) (geometry, error) {
	b := make([]byte, sectorBytes)
	n, err := f.ReadAt(b, 0)
	if err != nil && err != io.EOF {
		return geometry{}, err
	}
	g, err := decodePreamble(file, name, b[:n])
	if err != nil {
		return g, err
	}
	size, err := f.Size()
	if err == nil && size != fileBytes(file, g) {
		err = &CorruptError{File: name, Offset: size, Why: fmt.Sprintf("it has %d bytes, not %d", size, fileBytes(file, g))}
	}
	return g, err
}

// fileBytes is the size of a file of a log.
func fileBytes(file string, g geometry) int64 {
	switch file {
	case headerFile:
		return headerSlotAt(2)
	case mapFile:
		return pageSlotAt(g.pages(), 0)
	case hotFile:
		return blockBytes + int64(hotSectors(g))*sectorBytes
	}
	return floorAt(2)
}

// parseVolume reads a volume's id.
func parseVolume(s string) (id [16]byte, err error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(id) {
		return id, fmt.Errorf("the volume's id %q is not 32 hexadecimal digits", s)
	}
	copy(id[:], b)
	return id, nil
}
