package blocktest

import (
	"testing"

	"keelson/internal/block"
)

// Run checks that the devices open makes keep the contract of block.Device. Each part of the suite opens one, of at least
// 1 MiB, whose content may be anything, and closes it at its end if it has a method Close() error. Devices of 64 MiB or more are
// also asked for requests of block.LenMax.
func Run(t *testing.T, open func() block.Device) {
	parts := []struct {
		name string
		run  func(*testing.T, *submitter)
	}{
		{"model", checkModel},
		{"order", checkOrder},
		{"zeroes", checkZeroes},
		{"edges", checkEdges},
		{"flush", checkFlush},
		{"extents", checkExtents},
		{"concurrent", checkConcurrent},
	}
	for _, part := range parts {
		t.Run(part.name, func(t *testing.T) {
			dev := open()
			if c, ok := dev.(interface{ Close() error }); ok {
				defer func() {
					if err := c.Close(); err != nil {
						t.Errorf("close: %v", err)
					}
				}()
			}
			if dev.Size() < 1<<20 {
				t.Fatalf("a device of %d bytes is too small for the suite", dev.Size())
			}
			s := newSubmitter(t, dev)
			part.run(t, s)
			s.checkOnce()
			if dev.Size() != s.size {
				t.Errorf("the size changed from %d to %d bytes", s.size, dev.Size())
			}
		})
	}
}
