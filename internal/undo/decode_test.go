package undo

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"slices"
	"testing"

	"keelson/internal/vfs"
)

func putSum(b []byte, sum uint32) { binary.LittleEndian.PutUint32(b, sum) }

var fuzzOwner = ident{1, 2, 3}

// FuzzRecord: whatever a record's sectors have, it is judged; one that is whole is written again as it was.
func FuzzRecord(f *testing.F) {
	for r := range int64(4) {
		f.Add(appendRecord(nil, imageOf(r, 1), fuzzOwner, 7, 5))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < sectorBytes {
			return
		}
		decodeHead(b, fuzzOwner)
		b = slices.Clone(b)
		putSum(b[508:], checksum(b[:508]))
		h, c := decodeHead(b, fuzzOwner)
		if c != whole || h.bytes() != int64(len(b)) {
			return
		}
		table, data := b[sectorBytes:h.dataAt()], b[h.dataAt():]
		if c, _ := h.checkTable(table); c != whole {
			return
		}
		if c, _ := checkData(table, data, 0); c != whole || !allZero(table[len(data)/sectorBytes*4:]) {
			return
		}
		if again := appendRecord(nil, h.image(data), fuzzOwner, h.ordinal, h.batch); !bytes.Equal(again, b) {
			t.Fatal("written again it differs")
		}
		for at := len(b) - 1; at > 0; at -= 97 { // any bit that changes is noticed
			b[at] ^= 4
			h, c := decodeHead(b, fuzzOwner)
			if c == whole {
				if c, _ = h.checkTable(table); c == whole {
					c, _ = checkData(table, data, 0)
				}
			}
			if c == whole {
				t.Fatalf("byte %d changed, and it is whole", at)
			}
			b[at] ^= 4
		}
	})
}

func FuzzAnchor(f *testing.F) {
	b, err := encodeAnchor(anchorDoc{Anchor: anchorOf(anchorID(1)), RegionBytes: 512, rolling: true})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _, _ = decodeAnchor("anchor", b)
		if len(b) < anchorHeadBytes {
			return
		}
		b = slices.Clone(b)
		putSum(b[12:], uint32(len(b)-anchorHeadBytes))
		putSum(b[16:], checksum(b[anchorHeadBytes:]))
		putSum(b[508:], checksum(b[:508]))
		d, _, err := decodeAnchor("anchor", b)
		if err != nil {
			return
		}
		if d.rolling != (b[10] == flagRolling) {
			t.Fatal("the rollback is lost")
		}
		again, err := encodeAnchor(d)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := decodeAnchor("anchor", again); err != nil {
			t.Fatalf("written again it is refused: %v", err)
		}
	})
}

// FuzzSalvage: whatever a salvage's file has, it is read without harm.
func FuzzSalvage(f *testing.F) {
	fsys := vfs.NewMem(1)
	s, err := OpenStore(fsys, testStore, StoreOptions{})
	must(f, err)
	_, err = s.Keep(salvageOf(anchorID(7)), func(yield func(Image) error) error {
		for _, i := range batch(1, 1, 2, 5) {
			must(f, yield(i))
		}
		return nil
	})
	must(f, err)
	f.Add(contents(f, fsys, testStore+"/0000.salvage"))
	f.Fuzz(func(t *testing.T, b []byte) {
		b = slices.Clone(b)
		if n := len(b) - sectorBytes; n >= 0 && n%sectorBytes == 0 { // make its checksums right, so that what is behind them is reached
			foot := b[n:]
			putSum(foot[508:], checksum(foot[:508]))
			if ft, err := decodeFooter("x", foot, int64(len(b))); err == nil {
				putSum(foot[48:], checksum(b[ft.indexAt:ft.metaAt()]))
				putSum(foot[52:], checksum(b[ft.metaAt():ft.metaAt()+ft.metaBytes]))
				putSum(foot[508:], checksum(foot[:508]))
			}
		}
		fsys := vfs.NewMem(1)
		put(t, fsys, testStore+"/0000.salvage", b)
		s, err := OpenStore(fsys, testStore, StoreOptions{})
		must(t, err)
		for _, m := range s.List() {
			if _, err := json.Marshal(m); err != nil {
				t.Fatal(err)
			}
			v, err := s.Open(m.ID)
			if err != nil {
				continue
			}
			for r := range v.Regions() {
				p := make([]byte, min(4096, m.lengthOf(r)))
				_, _ = v.ReadAt(p, r*m.RegionBytes)
			}
			must(t, v.Close())
		}
	})
}
