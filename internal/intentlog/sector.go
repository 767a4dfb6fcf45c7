package intentlog

import (
	"encoding/binary"
	"hash/crc32"

	"keelson/internal/vfs"
)

// A sector is the unit of everything in a log's files. Layout, little endian:
//
//	0 payload (496) | 496 stamp u64 | 504 kind u16 | 506 index u16 | 508 CRC32C of bytes 0..507 and the log's id
//
// A unit is one or more sectors written together, with one stamp that no other write has. Since a sector is written
// whole or not at all, a crash leaves sectors of different stamps, each intact: torn. A wrong checksum is damage.
const (
	sectorBytes  = vfs.SectorBytes
	payloadBytes = sectorBytes - 16
	blockBytes   = 4096 // the preamble's place in every file, and the alignment of what follows
)

type kind uint16

const (
	kindHeader kind = 1 + iota
	kindMap
	kindHot
	kindFloor
)

// logID is the random identity of a log, part of every checksum: sectors of another log do not verify.
type logID [16]byte

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func sectorSum(s []byte, id *logID) uint32 {
	return crc32.Update(crc32.Checksum(s[:sectorBytes-4], castagnoli), castagnoli, id[:])
}

// seal writes the trailer of a sector whose payload is there.
func seal(s []byte, k kind, index int, stamp uint64, id *logID) {
	binary.LittleEndian.PutUint64(s[496:], stamp)
	binary.LittleEndian.PutUint16(s[504:], uint16(k))
	binary.LittleEndian.PutUint16(s[506:], uint16(index))
	binary.LittleEndian.PutUint32(s[508:], sectorSum(s, id))
}

// condition of a sector or a unit.
type condition uint8

const (
	empty   condition = iota // all zero: never written
	whole                    // intact
	torn                     // intact sectors of different writes
	damaged                  // a checksum or a field is wrong
)

// unseal checks one sector and returns its stamp.
func unseal(s []byte, k kind, index int, id *logID) (uint64, condition) {
	if allZero(s[:sectorBytes]) {
		return 0, empty
	}
	if binary.LittleEndian.Uint32(s[508:]) != sectorSum(s, id) ||
		binary.LittleEndian.Uint16(s[504:]) != uint16(k) || binary.LittleEndian.Uint16(s[506:]) != uint16(index) {
		return 0, damaged
	}
	return binary.LittleEndian.Uint64(s[496:]), whole
}

func allZero(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}

// sectorsFor is how many sectors a payload takes.
func sectorsFor(payload int) int { return (payload + payloadBytes - 1) / payloadBytes }

// sealUnit appends the sectors of a payload to dst.
func sealUnit(dst, payload []byte, k kind, stamp uint64, id *logID) []byte {
	for i := 0; len(payload) > 0; i++ {
		at := len(dst)
		dst = append(dst, make([]byte, sectorBytes)...)
		n := copy(dst[at:at+payloadBytes], payload)
		seal(dst[at:], k, i, stamp, id)
		payload = payload[n:]
	}
	return dst
}

// unsealUnit checks the sectors of src, of which the first tells by its payload how many payload bytes there are
// (size; ok false: nonsense). The offset is that of the damage. Space of payload is taken from buf.
func unsealUnit(buf, src []byte, k kind, id *logID, size func(first []byte) (int, bool)) (payload []byte, c condition, at int) {
	stamp, c := unseal(src, k, 0, id)
	if c != whole {
		return nil, c, 0
	}
	n, ok := size(src[:payloadBytes])
	if !ok || sectorsFor(n)*sectorBytes > len(src) || n < 1 {
		return nil, damaged, 0
	}
	payload = buf[:0]
	for i := range sectorsFor(n) {
		s := src[i*sectorBytes:][:sectorBytes]
		got, one := unseal(s, k, i, id)
		switch {
		case one == damaged:
			return nil, damaged, i * sectorBytes
		case one == empty || got != stamp:
			c = torn
		}
		payload = append(payload, s[:min(payloadBytes, n-i*payloadBytes)]...)
	}
	if c != whole {
		return nil, c, 0
	}
	return payload, whole, 0
}
