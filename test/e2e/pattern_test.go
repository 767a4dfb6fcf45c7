package e2e

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// A follower's content: every sector of a block says which block it belongs to and which write made it (its stamp),
// and the rest follows from these two, so that a sector of another place, of another time or a torn one is found.
//
//	0 u64 stamp | 8 u64 block | 16 u64 sector in the block | 24 pseudo-random from the three
//
// Stamp 0 is a block of zeroes.
const (
	sectorBytes = 512
	blockBytes  = 4096
)

// fillBlock writes the content of that stamp.
func fillBlock(p []byte, block int64, stamp uint64) {
	if stamp == 0 {
		clear(p)
		return
	}
	for s := range len(p) / sectorBytes {
		fillSector(p[s*sectorBytes:][:sectorBytes], block, uint64(s), stamp)
	}
}

func fillSector(p []byte, block int64, sector, stamp uint64) {
	binary.LittleEndian.PutUint64(p, stamp)
	binary.LittleEndian.PutUint64(p[8:], uint64(block))
	binary.LittleEndian.PutUint64(p[16:], sector)
	x := stamp*0x9E3779B97F4A7C15 ^ uint64(block)<<20 ^ sector
	for i := 24; i < len(p); i += 8 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		binary.LittleEndian.PutUint64(p[i:], x)
	}
}

// checkBlock returns an error unless every sector is, whole, of one of the stamps.
func checkBlock(p []byte, block int64, stamps []uint64) error {
	var want [sectorBytes]byte
	for s := range len(p) / sectorBytes {
		sector := p[s*sectorBytes:][:sectorBytes]
		stamp := binary.LittleEndian.Uint64(sector)
		if !slices.Contains(stamps, stamp) {
			return fmt.Errorf("block %d sector %d has stamp %d (of block %d), may have %v", block, s, stamp, binary.LittleEndian.Uint64(sector[8:]), stamps)
		}
		clear(want[:])
		if stamp != 0 {
			fillSector(want[:], block, uint64(s), stamp)
		}
		if !slices.Equal(sector, want[:]) {
			return fmt.Errorf("block %d sector %d has stamp %d but not its content", block, s, stamp)
		}
	}
	return nil
}
