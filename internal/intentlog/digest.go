package intentlog

import (
	"encoding/binary"

	"github.com/zeebo/blake3"

	"keelson/internal/lineage"
)

// PageDigest is 128 bits of a strong hash over the page's number and each region's generation id and number: equal
// digests, equal versions (rule 2). An unknown region contributes a nonce of this open log, so that it equals nobody's.
//
// What is hashed is the same for the same versions, whatever the table's order: page u64, form u8, then
// (1: all alike) one generation id and number; (2) for each region a u16 index and 48 bits of number, then the ids that
// the indexes mean, in the order of their first appearance.
func (l *Log) PageDigest(page int64) [16]byte {
	var room [pageRegions]lineage.Version
	versions := l.PageVersions(page, room[:0])
	var buf [9 + pageRegions*(8+16)]byte
	b := binary.LittleEndian.AppendUint64(buf[:0], uint64(page))
	if alike(versions) {
		b = append(b, 1)
		id := l.digestID(versions[0].Index())
		b = append(b, id[:]...)
		b = binary.LittleEndian.AppendUint64(b, versions[0].Number())
	} else {
		b = append(b, 2)
		b = l.appendMixed(b, versions)
	}
	sum := blake3.Sum256(b)
	return [16]byte(sum[:16])
}

func alike(versions []lineage.Version) bool {
	for _, v := range versions {
		if v != versions[0] {
			return false
		}
	}
	return true
}

func (l *Log) digestID(index uint16) lineage.GenID {
	if index == lineage.Unknown.Index() {
		return l.nonce
	}
	return l.GenByIndex(index)
}

// appendMixed renumbers the generations by first appearance.
func (l *Log) appendMixed(b []byte, versions []lineage.Version) []byte {
	var room [pageRegions]uint16
	order := room[:0] // table indexes in the order of appearance
	newest := 0       // neighbours mostly share a generation
	for _, v := range versions {
		if len(order) == 0 || order[newest] != v.Index() {
			newest = -1
			for i, index := range order {
				if index == v.Index() {
					newest = i
					break
				}
			}
			if newest < 0 {
				newest = len(order)
				order = append(order, v.Index())
			}
		}
		b = binary.LittleEndian.AppendUint64(b, uint64(newest)<<48|v.Number())
	}
	for _, index := range order {
		id := l.digestID(index)
		b = append(b, id[:]...)
	}
	return b
}
