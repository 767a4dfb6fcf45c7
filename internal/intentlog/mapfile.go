package intentlog

import (
	"encoding/binary"
	"fmt"

	"keelson/internal/lineage"
)

const (
	pageHeadBytes = 32
	pageMagic     = 0x47504d4b // "KMPG"
	pageSectors   = (pageHeadBytes + pageRegions*8 + payloadBytes - 1) / payloadBytes
	pageSlotBytes = pageSectors * sectorBytes
	runBytes      = 10
	formRuns      = 1
	formArray     = 2
)

// pageSlotAt is the place of a page's slot in the map file. Slots that were never written are holes.
func pageSlotAt(page int64, slot int) int64 {
	return blockBytes + (page*2+int64(slot))*pageSlotBytes
}

// encodePage appends a page's slot, as short as it can be:
//
//	0 magic u32 | 4 form u8 | 5 zero u8 | 6 regions u16 | 8 page u64 | 16 checkpoint u64 | 24 body bytes u16 | 26 zero (6) | 32 body
//	form 1, runs: regions u16, version u64 each; form 2, array: version u64 for each region
func encodePage(dst []byte, versions []lineage.Version, page int64, checkpoint, stamp uint64, id *logID) []byte {
	var room [pageHeadBytes + pageRegions*8]byte
	le := binary.LittleEndian
	b := room[:pageHeadBytes]
	b[4] = formRuns
	for i := 0; i < len(versions); {
		j := i + 1
		for j < len(versions) && versions[j] == versions[i] {
			j++
		}
		if len(b)+runBytes > pageHeadBytes+len(versions)*8 {
			b = b[:pageHeadBytes]
			b[4] = formArray
			for _, v := range versions {
				b = le.AppendUint64(b, uint64(v))
			}
			break
		}
		b = le.AppendUint16(b, uint16(j-i))
		b = le.AppendUint64(b, uint64(versions[i]))
		i = j
	}
	le.PutUint32(b, pageMagic)
	le.PutUint16(b[6:], uint16(len(versions)))
	le.PutUint64(b[8:], uint64(page))
	le.PutUint64(b[16:], checkpoint)
	le.PutUint16(b[24:], uint16(len(b)-pageHeadBytes))
	return sealUnit(dst, b, kindMap, stamp, id)
}

func pagePayloadBytes(first []byte) (int, bool) {
	n := int(binary.LittleEndian.Uint16(first[24:]))
	return pageHeadBytes + n, binary.LittleEndian.Uint32(first) == pageMagic && n <= pageRegions*8
}

// slotContent is what a slot of the map file holds.
type slotContent struct {
	condition  condition
	at         int // of the damage, bytes from the slot's start
	checkpoint uint64
	versions   []lineage.Version
	why        string
}

// decodePage reads a slot of pageSlotBytes bytes. room is for the versions.
func decodePage(src []byte, page int64, regions int, id *logID, room []lineage.Version) slotContent {
	var buf [pageHeadBytes + pageRegions*8]byte
	b, c, at := unsealUnit(buf[:], src, kindMap, id, pagePayloadBytes)
	if c != whole {
		return slotContent{condition: c, at: at, why: "a sector's checksum or fields are wrong"}
	}
	le := binary.LittleEndian
	bad := func(why string) slotContent { return slotContent{condition: damaged, why: why} }
	if le.Uint64(b[8:]) != uint64(page) || int(le.Uint16(b[6:])) != regions {
		return bad("it is another page's")
	}
	s := slotContent{condition: whole, checkpoint: le.Uint64(b[16:]), versions: room[:0]}
	body := b[pageHeadBytes:]
	switch {
	case b[4] == formArray && len(body) == regions*8:
		for ; len(body) > 0; body = body[8:] {
			s.versions = append(s.versions, lineage.Version(le.Uint64(body)))
		}
	case b[4] == formRuns && len(body)%runBytes == 0:
		for ; len(body) > 0; body = body[runBytes:] {
			n := int(le.Uint16(body))
			if n == 0 || n > regions-len(s.versions) {
				return bad("its runs are longer than the page")
			}
			for range n {
				s.versions = append(s.versions, lineage.Version(le.Uint64(body[2:])))
			}
		}
	default:
		return bad(fmt.Sprintf("form %d with %d bytes", b[4], len(body)))
	}
	if len(s.versions) != regions {
		return bad("its runs are shorter than the page")
	}
	return s
}

// checkVersions says whether every version's index is one that the table has.
func checkVersions(versions []lineage.Version, table []lineage.GenID) error {
	last := lineage.Unknown
	for _, v := range versions {
		if v == last || v == lineage.Unknown {
			continue
		}
		if int(v.Index()) >= len(table) || table[v.Index()] == (lineage.GenID{}) {
			return fmt.Errorf("a version has generation index %d, which the header's table has not", v.Index())
		}
		last = v
	}
	return nil
}

// pageMark is one committed page's part of the header's MapCheck.
func pageMark(page int64, checkpoint uint64) uint64 {
	if checkpoint == 0 {
		return 0
	}
	x := uint64(page+1)*0x9e3779b97f4a7c15 ^ checkpoint*0xbf58476d1ce4e5b9
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
