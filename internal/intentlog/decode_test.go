package intentlog

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"keelson/internal/lineage"
)

func resumPreamble(b []byte) {
	binary.LittleEndian.PutUint32(b[508:], crc32.Checksum(b[:508], castagnoli))
}

var fuzzID = logID{1, 2, 3}

// resum makes the checksums of a fuzzed unit right, so that the fields behind them are reached.
func resum(b []byte, k kind) []byte {
	b = slices.Clone(b)
	for i := 0; (i+1)*sectorBytes <= len(b); i++ {
		s := b[i*sectorBytes:][:sectorBytes]
		if !allZero(s) {
			seal(s, k, i, binary.LittleEndian.Uint64(s[496:]), &fuzzID)
		}
	}
	return b
}

// flips are copies of b with one bit changed.
func flips(b []byte) [][]byte {
	r := rand.New(rand.NewPCG(uint64(len(b)), uint64(crc32.ChecksumIEEE(b))))
	var list [][]byte
	for range 3 {
		c := slices.Clone(b)
		c[r.IntN(len(c))] ^= 1 << r.IntN(8)
		list = append(list, c)
	}
	return list
}

func FuzzHeader(f *testing.F) {
	h := headerDoc{Header: testHeader(10)}
	h.Generations = []lineage.GenID{{}, lineage.ZeroGen}
	seed, err := encodeHeader(nil, h, 3, 4, &fuzzID)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add(seed[:sectorBytes])
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < sectorBytes {
			return
		}
		decodeHeader(b, &fuzzID)
		b = resum(b, kindHeader)
		doc, sequence, c, err := decodeHeader(b, &fuzzID)
		if (c == whole) != (err == nil) {
			t.Fatalf("condition %d and %v", c, err)
		}
		if c != whole {
			return
		}
		if _, err := encodeHeader(nil, doc, sequence, 1, &fuzzID); err != nil {
			t.Fatal(err)
		}
		n, _ := headerPayloadBytes(b)
		for _, bad := range flips(b[:sectorsFor(n)*sectorBytes]) {
			if _, _, c, _ := decodeHeader(bad, &fuzzID); c == whole {
				t.Fatal("accepted with a wrong checksum")
			}
		}
	})
}

func FuzzPage(f *testing.F) {
	versions := make([]lineage.Version, pageRegions)
	pad := func(b []byte) []byte { return append(b, make([]byte, pageSlotBytes-len(b))...) }
	f.Add(pad(encodePage(nil, versions, 5, 6, 7, &fuzzID)))
	for i := range versions {
		versions[i] = lineage.MakeVersion(uint16(i%3), uint64(i))
	}
	f.Add(pad(encodePage(nil, versions, 5, 6, 7, &fuzzID)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < sectorBytes || len(b) > pageSlotBytes {
			return
		}
		b = resum(pad(b), kindMap)
		s := decodePage(b, 5, pageRegions, &fuzzID, nil)
		if s.condition != whole {
			return
		}
		again := decodePage(pad(encodePage(nil, s.versions, 5, s.checkpoint, 1, &fuzzID)), 5, pageRegions, &fuzzID, nil)
		if again.condition != whole || again.checkpoint != s.checkpoint || !slices.Equal(again.versions, s.versions) {
			t.Fatal("written again it reads otherwise")
		}
		n, _ := pagePayloadBytes(b)
		for _, bad := range flips(b[:sectorsFor(n)*sectorBytes]) {
			if decodePage(pad(bad), 5, pageRegions, &fuzzID, nil).condition == whole {
				t.Fatal("accepted with a wrong checksum")
			}
		}
	})
}

func FuzzHotSector(f *testing.F) {
	s := make([]byte, sectorBytes)
	s[3] = 9
	seal(s, kindHot, 2, 8, &fuzzID)
	f.Add(s)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < sectorBytes {
			return
		}
		b = slices.Clone(b[:sectorBytes])
		seal(b, kindHot, 2, binary.LittleEndian.Uint64(b[496:]), &fuzzID)
		if _, err := decodeHot(b, 2, 100, &fuzzID); err != nil {
			return
		}
		if !allZero(b[13:payloadBytes]) || b[12]>>4 != 0 {
			t.Fatal("extents are hot that there are not")
		}
		for _, bad := range flips(b) {
			if _, err := decodeHot(bad, 2, 100, &fuzzID); err == nil {
				t.Fatal("accepted with a wrong checksum")
			}
		}
	})
}

func FuzzFloorSector(f *testing.F) {
	s := make([]byte, sectorBytes)
	encodeFloor(s, floorRecord{sequence: 1, position: lineage.Position{Number: 2}, reserved: 3, header: 4}, &fuzzID)
	f.Add(s)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < sectorBytes {
			return
		}
		b = slices.Clone(b[:sectorBytes])
		seal(b, kindFloor, 0, binary.LittleEndian.Uint64(b), &fuzzID)
		r, err := decodeFloor(b, &fuzzID)
		if err != nil {
			return
		}
		again := make([]byte, sectorBytes)
		encodeFloor(again, r, &fuzzID)
		if !bytes.Equal(again, b) {
			t.Fatal("written again it differs")
		}
		for _, bad := range flips(b) {
			if _, err := decodeFloor(bad, &fuzzID); err == nil {
				t.Fatal("accepted with a wrong checksum")
			}
		}
	})
}

func FuzzPreamble(f *testing.F) {
	f.Add(encodePreamble(mapFile, geometry{size: 1 << 20, region: 4096, extent: 8192}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < sectorBytes {
			return
		}
		b = slices.Clone(b[:sectorBytes])
		resumPreamble(b)
		g, err := decodePreamble(mapFile, "map", b)
		if err == nil && !bytes.Equal(encodePreamble(mapFile, g), b) {
			t.Fatal("written again it differs")
		}
	})
}

// TestPageRoundTrip: whatever versions a page has, they are read as they were written, in the fewest sectors of both forms.
func TestPageRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, pageRegions).Draw(t, "regions")
		kinds := rapid.Uint64Range(1, 6).Draw(t, "versions")
		var versions []lineage.Version
		for len(versions) < n {
			v := lineage.MakeVersion(uint16(rapid.Uint64Range(0, kinds).Draw(t, "g")), rapid.Uint64Range(0, kinds).Draw(t, "n"))
			for range min(n-len(versions), rapid.IntRange(1, 80).Draw(t, "run")) {
				versions = append(versions, v)
			}
		}
		b := encodePage(nil, versions, 3, 9, 4, &fuzzID)
		if len(b) > pageSlotBytes || len(b) > sectorsFor(pageHeadBytes+8*n)*sectorBytes {
			t.Fatalf("%d bytes", len(b))
		}
		b = append(b, make([]byte, pageSlotBytes-len(b))...)
		s := decodePage(b, 3, n, &fuzzID, nil)
		if s.condition != whole || s.checkpoint != 9 || !slices.Equal(s.versions, versions) {
			t.Fatalf("read as %+v", s)
		}
		if decodePage(b, 4, n, &fuzzID, nil).condition == whole || decodePage(b, 3, n, &logID{}, nil).condition == whole {
			t.Fatal("another page's or another log's slot is accepted")
		}
	})
}
