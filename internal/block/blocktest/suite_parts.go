package blocktest

import (
	"bytes"
	"testing"

	"keelson/internal/block"
)

// fill writes the same byte over a range, in requests that are not too long.
func (s *submitter) fill(off, n int64, value byte) {
	s.t.Helper()
	for n > 0 {
		k := min(n, 4<<20)
		r := write(off, bytes.Repeat([]byte{value}, int(k)))
		s.do(r)
		r.Buf.Release()
		off, n = off+k, n-k
	}
}

// expect fails the test unless the range has that byte everywhere.
func (s *submitter) expect(off, n int64, value byte) {
	s.t.Helper()
	for n > 0 {
		k := min(n, 4<<20)
		got := s.read(off, k)
		if i := differ(got, bytes.Repeat([]byte{value}, int(k))); i >= 0 {
			s.t.Fatalf("at %d there is %#02x instead of %#02x", off+int64(i), got[i], value)
		}
		off, n = off+k, n-k
	}
}

// checkZeroes: what was trimmed or zeroed reads as zero, and nothing else does.
func checkZeroes(t *testing.T, s *submitter) {
	whole := min(s.size, 2<<20)
	for _, r := range []*block.Request{
		{Op: block.Trim, Off: 4096, Len: 64 << 10},
		{Op: block.Trim, Off: 5000, Len: 100_001},
		{Op: block.Zero, Off: 65536, Len: 65536},
		{Op: block.Zero, Off: 1, Len: 1},
		{Op: block.Zero, Flags: block.NoHole, Off: 511, Len: 200_000},
		{Op: block.Zero, Flags: block.FUA, Off: 0, Len: 4096},
		{Op: block.Trim, Flags: block.FUA, Off: 8192, Len: 512 << 10},
		{Op: block.Trim, Off: 1, Len: whole - 2},
		{Op: block.Zero, Off: 1, Len: whole - 2},
	} {
		s.fill(0, whole, 0x5a)
		s.do(r)
		s.expect(0, r.Off, 0x5a)
		s.expect(r.Off, r.Len, 0)
		s.expect(r.Off+r.Len, whole-r.Off-r.Len, 0x5a)
	}
	for _, op := range []block.Op{block.Trim, block.Zero} { // longer than any read or write
		s.fill(0, 8192, 0x5a)
		s.fill(s.size-8192, 8192, 0x5a)
		s.do(&block.Request{Op: op, Off: 4096, Len: s.size - 8192})
		s.expect(0, 4096, 0x5a)
		s.expect(4096, min(s.size-8192, 8<<20), 0)
		s.expect(s.size-8192, 4096, 0)
		s.expect(s.size-4096, 4096, 0x5a)
	}
}

// checkEdges: first and last bytes, odd offsets and lengths, and the longest requests.
func checkEdges(t *testing.T, s *submitter) {
	cases := [][2]int64{{0, 1}, {s.size - 1, 1}, {0, 512}, {s.size - 4097, 4097}, {4095, 2}, {65535, 65538}}
	if s.size >= 64<<20 {
		cases = append(cases, [2]int64{s.size - block.LenMax, block.LenMax}, [2]int64{12345, block.LenMax})
	}
	for i, c := range cases {
		off, n := c[0], c[1]
		r := write(off, bytes.Repeat([]byte{byte(i + 1)}, int(n)))
		s.do(r)
		r.Buf.Release()
		s.expect(off, n, byte(i+1))
	}
}

// checkFlush: flushes alone and between writes, and writes with FUA, are answered; what was written is there.
func checkFlush(t *testing.T, s *submitter) {
	s.do(&block.Request{Op: block.Flush})
	fua := write(0, []byte("with FUA"))
	fua.Flags = block.FUA
	plain := write(8, []byte("and without"))
	s.do(plain, &block.Request{Op: block.Flush}, fua, &block.Request{Op: block.Flush}, &block.Request{Op: block.Flush})
	if got := string(s.read(0, 19)); got != "with FUAand without" {
		t.Fatalf("after flush and FUA there is %q", got)
	}
	release([]*block.Request{fua, plain})
}

// checkExtents: extents have no gaps, stay in the range, and what is said to be zero is.
func checkExtents(t *testing.T, s *submitter) {
	whole := min(s.size, 2<<20)
	s.fill(0, whole, 0x77)
	s.do(&block.Request{Op: block.Trim, Off: 128 << 10, Len: 256 << 10})
	s.do(&block.Request{Op: block.Zero, Off: 700_001, Len: 100_000})
	for _, c := range [][2]int64{{0, whole}, {1, 1}, {s.size - 1, 1}, {130 << 10, 300 << 10}, {0, s.size}, {100_000, 1}} {
		off, end := c[0], c[0]+c[1]
		for off < end {
			extents, err := s.dev.Extents(off, end-off)
			if err != nil || len(extents) == 0 {
				t.Fatalf("extents from %d for %d: %v, %v", off, end-off, extents, err)
			}
			for _, e := range extents {
				if e.Len <= 0 || e.Len > end-off {
					t.Fatalf("an extent of %d bytes at %d of a range that ends at %d", e.Len, off, end)
				}
				if e.Hole && !e.Zero {
					t.Fatalf("the hole at %d is not said to be zero", off)
				}
				if e.Zero && off < whole {
					s.expect(off, min(e.Len, whole-off), 0)
				}
				off += e.Len
			}
		}
	}
}
