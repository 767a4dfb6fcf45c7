package peer

import (
	"fmt"
	"testing"

	"keelson/internal/block"
	"keelson/internal/wire"
)

func benchBoth(b *testing.B, bench func(b *testing.B, encryption string)) {
	for _, encryption := range []string{wire.EncryptionOff, wire.EncryptionOn} {
		b.Run("encryption="+encryption, func(b *testing.B) { bench(b, encryption) })
	}
}

// BenchmarkRoundTrip is a sync write of 4 KiB without its disks: a frame there, an acknowledgement back.
func BenchmarkRoundTrip(b *testing.B) {
	benchBoth(b, func(b *testing.B, encryption string) {
		source, target := pair(b, encryption, Options{})
		go answer(target, 1)
		body := block.NewBuffer(4096)
		h := wire.Header{Type: wire.TypeWrite, BodyCRC: wire.Checksum(body.Bytes)}
		b.SetBytes(4096)
		b.ReportAllocs()
		b.ResetTimer()
		for i := range b.N {
			h.Number, h.Offset = uint64(i+1), uint64(i)*4096
			source.Queue(h, body, nil)
			source.TryFlush()
			if _, _, err := source.Read(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// answer acknowledges what comes: at the latest after so many frames.
func answer(c *Conn, every int) {
	for n := 1; ; n++ {
		h, body, err := c.Read()
		if err != nil {
			return
		}
		body.Release()
		if n%every == 0 {
			c.Queue(wire.Header{Type: wire.TypeAck, Number: h.Number}, nil, nil)
			c.TryFlush()
		}
	}
}

// BenchmarkThroughput is one direction with at most 8 MiB unacknowledged.
func BenchmarkThroughput(b *testing.B) {
	for _, size := range []int{4 << 10, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("body=%dKiB", size>>10), func(b *testing.B) {
			benchBoth(b, func(b *testing.B, encryption string) { throughput(b, encryption, size) })
		})
	}
}

func throughput(b *testing.B, encryption string, size int) {
	source, target := pair(b, encryption, Options{})
	window := max(1, 8<<20/size)
	every := max(1, window/8)
	go answer(target, every)
	body := block.NewBuffer(size)
	h := wire.Header{Type: wire.TypeWrite, BodyCRC: wire.Checksum(body.Bytes)}
	acked := 0
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		h.Number = uint64(i + 1)
		source.Queue(h, body, nil)
		if i%8 == 7 || size >= 64<<10 {
			source.TryFlush()
		}
		for i+1-acked >= window {
			source.TryFlush()
			ack, _, err := source.Read()
			if err != nil {
				b.Fatal(err)
			}
			acked = int(ack.Number)
		}
	}
	b.StopTimer()
}
